//! Connections over TLS: the server's certificate is checked, and its name, and what is not right is
//! refused by name.

#![allow(missing_docs, reason = "a test")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at a fault")]

mod support;

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use cqrs_core::error::{StoreError, StoreErrorKind};
use cqrs_core::id::{Partition, Position};
use cqrs_core::store::{Append, EventStore as _, Guard};
use cqrs_postgres::PostgresStore;
use pg_cluster::Server;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use support::{connect, event, schema, with};

type Authority = CertifiedIssuer<'static, KeyPair>;

/// An address of this machine that is not its loopback, if it has one.
fn address() -> Option<std::net::IpAddr> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    // Nothing is sent; the system only chooses a way.
    socket.connect("192.0.2.1:9").ok()?;
    socket
        .local_addr()
        .ok()
        .map(|address| address.ip())
        .filter(|ip| !ip.is_loopback() && !ip.is_unspecified())
}

/// A server, or someone on the way to it, that says it has no TLS. Gives what it is sent after that.
async fn without_tls(listener: tokio::net::TcpListener) -> Vec<u8> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let (mut socket, _) = listener.accept().await.unwrap();
    let (mut request, mut rest) = ([0; 8], Vec::new());
    socket.read_exact(&mut request).await.unwrap();
    socket.write_all(b"N").await.unwrap();
    let _ = socket.read_to_end(&mut rest).await;
    rest
}

/// A remote host that offers no TLS is sent nothing, whether the URL is silent or says `prefer`.
#[tokio::test]
async fn a_remote_host_is_not_spoken_to_in_the_clear() {
    let Some(address) = address() else { return };
    for options in ["", "?sslmode=prefer", "?sslmode=disable"] {
        let listener = tokio::net::TcpListener::bind((address, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let url = format!("postgres://ada:pw@{address}:{port}/bank{options}");
        if options == "?sslmode=disable" {
            // The control: what is disabled is not asked for, and the first eight bytes are the user's.
            let (mut socket, begun) = tokio::join!(async { listener.accept().await.unwrap().0 }, async {
                tokio::time::timeout(std::time::Duration::from_secs(2), PostgresStore::open(&url)).await
            });
            assert!(begun.is_err());
            let mut sent = [0; 8];
            tokio::io::AsyncReadExt::read_exact(&mut socket, &mut sent).await.unwrap();
            assert_eq!(sent[4..], [0, 3, 0, 0], "{sent:?}");
            continue;
        }
        let (sent, opened) = tokio::join!(without_tls(listener), PostgresStore::open(&url));
        let error = opened.unwrap_err();
        assert!(sent.is_empty(), "{options}: {sent:?}");
        assert!(error.to_string().contains("server does not support TLS"), "{options}: {error}");
    }
}

/// A client shows its certificate to a server that wants one.
#[tokio::test]
async fn a_client_has_a_certificate_of_its_own() {
    let Some(cluster) = pg_cluster::own(&[]) else { return };
    let server = cluster.server();
    let (ours, authority) = offer_as(server);
    let trust = "ALTER SYSTEM SET ssl_ca_file = 'authority.pem'";
    server.psql("postgres", trust).unwrap();
    server.psql("postgres", "CREATE ROLE ada LOGIN SUPERUSER").unwrap();
    let rules = std::fs::read_to_string(server.data().join("pg_hba.conf")).unwrap();
    write(server, "pg_hba.conf", &format!("hostssl all ada all cert\n{rules}"));
    server.stop("fast").unwrap();
    server.go().unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "ada");
    let certificate = write(server, "ada.crt", &params.signed_by(&key, &authority).unwrap().pem());
    let key = write(server, "ada.key", &key.serialize_pem());
    let url = |options: &str| {
        let url = server.url("ada", "", "postgres").replacen("127.0.0.1", "localhost", 1);
        with(&url, &format!("schema={}{}{options}", schema(), trusting(&ours)))
    };
    let mine = format!("&sslcert={}&sslkey={}", certificate.display(), key.display());
    PostgresStore::open(&url(&mine)).await.unwrap();
    let error = refused(&url("")).await;
    assert_eq!(error.kind(), StoreErrorKind::Failed, "{error}");
    let broken = format!("&sslcert={}&sslkey={}", certificate.display(), certificate.display());
    assert!(refused(&url(&broken)).await.to_string().contains("ada.crt holds no private key"));
}

fn authority(name: &str) -> Authority {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// Writes a file that only the server's user may read.
fn write(server: &Server, name: &str, text: &str) -> PathBuf {
    let path = server.data().join(name);
    let owner = std::fs::metadata(server.data()).unwrap();
    std::fs::write(&path, text).unwrap();
    chown(&path, Some(owner.uid()), Some(owner.gid())).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path
}

/// Has a server offer TLS with a certificate for `localhost`, and gives the file of its authority.
fn offer(server: &Server) -> PathBuf {
    offer_as(server).0
}

/// The same, with the authority itself.
fn offer_as(server: &Server) -> (PathBuf, Authority) {
    let authority = authority("ours");
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &authority).unwrap();
    write(server, "server.crt", &certificate.pem());
    write(server, "server.key", &key.serialize_pem());
    server.psql("postgres", "ALTER SYSTEM SET ssl = on").unwrap();
    server.stop("fast").unwrap();
    server.go().unwrap();
    (write(server, "authority.pem", &authority.pem()), authority)
}

fn url(server: &Server, host: &str, options: &str) -> String {
    let url = server.url(pg_cluster::USER, pg_cluster::PASSWORD, "postgres");
    let url = url.replacen("127.0.0.1", host, 1);
    with(&url, &format!("schema={}{options}", schema()))
}

fn trusting(path: &Path) -> String {
    format!("&sslrootcert={}", path.display())
}

/// Works over a URL, and gives how many of its connections are there, and how many of them are secured.
async fn work(server: &Server, url: &str) -> (i64, i64) {
    let name = schema();
    let store = PostgresStore::open(&with(url, &format!("application_name={name}"))).await.unwrap();
    store.append(Append::new(vec![event("A/1", "x")], Guard::Any)).await.unwrap();
    assert_eq!(store.head(Partition::ONLY).await.unwrap().position, Position::new(1));
    let plain = server.url(pg_cluster::USER, pg_cluster::PASSWORD, "postgres") + "?sslmode=disable";
    let secured = "SELECT count(*), count(*) FILTER (WHERE s.ssl AND s.version LIKE 'TLSv1._')
        FROM pg_stat_activity a JOIN pg_stat_ssl s USING (pid) WHERE a.application_name = $1";
    let row = connect(&plain).await.query_one(secured, &[&name]).await.unwrap();
    (row.get(0), row.get(1))
}

async fn refused(url: &str) -> StoreError {
    match PostgresStore::open(url).await {
        Err(error) => error,
        Ok(_) => panic!("{url} is opened"),
    }
}

/// Whoever asks for TLS, or names an authority, is not given a connection without.
async fn a_server_without_tls_is_refused(server: &Server) {
    let file = trusting(&write(server, "ours.pem", &authority("ours").pem()));
    for options in ["&sslmode=require".to_owned(), "&sslmode=verify-full".to_owned(), file] {
        let error = refused(&url(server, "localhost", &options)).await;
        assert_eq!(error.kind(), StoreErrorKind::Failed, "{options}: {error}");
        assert!(error.to_string().contains("server does not support TLS"), "{options}: {error}");
    }
    let (all, secured) = work(server, &url(server, "localhost", "")).await;
    assert!(all >= 2 && secured == 0, "{secured} of {all}");
}

#[tokio::test]
async fn a_connection_is_secured_and_the_server_is_who_it_should_be() {
    let Some(cluster) = pg_cluster::own(&[]) else { return };
    let server = cluster.server();
    a_server_without_tls_is_refused(server).await;
    let ours = trusting(&offer(server));
    for options in ["&sslmode=require", "&sslmode=verify-ca", "&sslmode=verify-full", ""] {
        let (all, secured) = work(server, &url(server, "localhost", &format!("{ours}{options}"))).await;
        assert!(all >= 2 && secured == all, "{options:?}: {secured} of {all}");
    }
    // The control: what is counted above is not so by itself.
    let (all, secured) = work(server, &url(server, "localhost", "&sslmode=disable")).await;
    assert!(all >= 2 && secured == 0, "{secured} of {all}");

    let theirs = trusting(&write(server, "theirs.pem", &authority("theirs").pem()));
    let none = trusting(&write(server, "none.pem", "no certificate"));
    let broken = trusting(&write(
        server,
        "broken.pem",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    ));
    let cases = [
        ("localhost", theirs.clone() + "&sslmode=require", "UnknownIssuer", "`sslrootcert=FILE` names"),
        ("localhost", theirs + "&sslmode=verify-full", "UnknownIssuer", "`sslrootcert=FILE` names"),
        // Those that the machine trusts are not the one of this server.
        ("localhost", "&sslmode=require".to_owned(), "UnknownIssuer", "`sslrootcert=FILE` names"),
        ("localhost", String::new(), "UnknownIssuer", "`sslrootcert=FILE` names"),
        ("127.0.0.1", ours + "&sslmode=require", "not valid for name", "localhost"),
        ("localhost", none, "none.pem holds no certificates", ""),
        ("localhost", broken, "broken.pem holds no certificates", ""),
        ("localhost", "&sslrootcert=/nowhere.pem".to_owned(), "/nowhere.pem holds no certificates", ""),
    ];
    for (host, options, words, more) in cases {
        let error = refused(&url(server, host, &options)).await;
        let text = error.to_string();
        assert_eq!(error.kind(), StoreErrorKind::Failed, "{options}: {text}");
        assert!(text.contains(words) && text.contains(more), "{options}: {text}");
    }
}
