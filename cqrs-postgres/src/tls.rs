//! TLS by rustls, with the certificates that the machine trusts or those of a file; or none.

pub(crate) use self::with::{Connector, connector};

#[cfg(feature = "tls")]
mod with {
    use std::path::Path;
    use std::sync::Arc;

    use cqrs_core::error::StoreErrorKind;
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use rustls::{ClientConfig, RootCertStore};
    use tokio_postgres_rustls::MakeRustlsConnect;

    use crate::error::Fault;
    use crate::url::Files;

    pub(crate) type Connector = MakeRustlsConnect;

    /// Makes connections that check the server's certificate and its name, always. `unused` is said where no
    /// host is reached with TLS.
    pub(crate) fn connector(files: &Files, _: Option<&str>, unused: bool) -> Result<Connector, Fault> {
        let failed = |words: String| Fault::new(StoreErrorKind::Failed, words);
        let mut store = RootCertStore::empty();
        match &files.roots {
            None if unused => {}
            None => {
                // One that cannot be read is left out, as browsers do; without any, no server is trusted.
                store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            }
            Some(path) => {
                for one in certificates(path)? {
                    store.add(one).map_err(|error| unreadable(path, &error))?;
                }
            }
        }
        // The provider is named, because a program may have several and then has no default one.
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| failed(format!("TLS cannot be set up ({error})")))?
            .with_root_certificates(store);
        let config = match (&files.certificate, &files.key) {
            (Some(certificate), Some(key)) => {
                let private = PrivateKeyDer::from_pem_file(key).map_err(|error| {
                    failed(format!("{} holds no private key that can be read ({error})", key.display()))
                })?;
                config.with_client_auth_cert(certificates(certificate)?, private).map_err(|error| {
                    let (certificate, key) = (certificate.display(), key.display());
                    failed(format!("{certificate} and {key} cannot be used together ({error})"))
                })?
            }
            _ => config.with_no_client_auth(),
        };
        Ok(MakeRustlsConnect::new(config))
    }

    /// The certificates of a file, of which there is at least one.
    fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Fault> {
        let all = CertificateDer::pem_file_iter(path).map_err(|error| unreadable(path, &error))?;
        let all = all.collect::<Result<Vec<_>, _>>().map_err(|error| unreadable(path, &error))?;
        if all.is_empty() { Err(unreadable(path, &"there is none in it")) } else { Ok(all) }
    }

    fn unreadable(path: &Path, error: &dyn std::fmt::Display) -> Fault {
        let words = format!("{} holds no certificates that can be read ({error})", path.display());
        Fault::new(StoreErrorKind::Failed, words)
    }
}

#[cfg(not(feature = "tls"))]
mod with {
    use cqrs_core::error::StoreErrorKind;
    use tokio_postgres::NoTls;

    use crate::error::Fault;
    use crate::url::Files;

    pub(crate) type Connector = NoTls;

    /// Refuses a host that has to be reached with TLS.
    pub(crate) fn connector(_: &Files, required: Option<&str>, _: bool) -> Result<Connector, Fault> {
        let Some(host) = required else { return Ok(NoTls) };
        Err(Fault::new(
            StoreErrorKind::Unsupported,
            format!(
                "{host} is to be reached with TLS, and this program was built without it: add the feature `postgres-tls` of the crate `cqrs`, or write `sslmode=disable` into the URL to send passwords and data unencrypted"
            ),
        ))
    }
}
