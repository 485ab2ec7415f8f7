//! TLS by rustls, with the certificates that the machine trusts or those of a file; or none.

pub(crate) use self::with::{Connector, connector};

#[cfg(feature = "tls")]
mod with {
    use std::path::Path;
    use std::sync::Arc;

    use cqrs_core::error::StoreErrorKind;
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;
    use rustls::{ClientConfig, RootCertStore};
    use tokio_postgres::config::SslMode;
    use tokio_postgres_rustls::MakeRustlsConnect;

    use crate::error::Fault;

    pub(crate) type Connector = MakeRustlsConnect;

    /// Makes connections that check the server's certificate and its name, always.
    pub(crate) fn connector(_: SslMode, roots: Option<&Path>) -> Result<Connector, Fault> {
        let failed = |words: String| Fault::new(StoreErrorKind::Failed, words);
        let mut store = RootCertStore::empty();
        match roots {
            None => {
                // One that cannot be read is left out, as browsers do; without any, no server is trusted.
                store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            }
            Some(path) => {
                let unreadable = |error: &dyn std::fmt::Display| {
                    failed(format!("{} holds no certificates that can be read ({error})", path.display()))
                };
                for one in CertificateDer::pem_file_iter(path).map_err(|error| unreadable(&error))? {
                    store
                        .add(one.map_err(|error| unreadable(&error))?)
                        .map_err(|error| unreadable(&error))?;
                }
                if store.is_empty() {
                    return Err(unreadable(&"there is none in it"));
                }
            }
        }
        // The provider is named, because a program may have several and then has no default one.
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| failed(format!("TLS cannot be set up ({error})")))?
            .with_root_certificates(store)
            .with_no_client_auth();
        Ok(MakeRustlsConnect::new(config))
    }
}

#[cfg(not(feature = "tls"))]
mod with {
    use std::path::Path;

    use cqrs_core::error::StoreErrorKind;
    use tokio_postgres::NoTls;
    use tokio_postgres::config::SslMode;

    use crate::error::Fault;

    pub(crate) type Connector = NoTls;

    /// Refuses what asks for more.
    pub(crate) fn connector(mode: SslMode, roots: Option<&Path>) -> Result<Connector, Fault> {
        if mode != SslMode::Require && roots.is_none() {
            return Ok(NoTls);
        }
        Err(Fault::new(
            StoreErrorKind::Unsupported,
            "the URL asks for TLS, and this program was built without it: add the feature `postgres-tls` of the crate `cqrs`",
        ))
    }
}
