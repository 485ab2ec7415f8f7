//! Behind a PgBouncer in transaction mode, with fewer connections than the store has.

#![allow(missing_docs, reason = "a test")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at a fault")]

mod support;

use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Stdio};
use std::sync::Arc;

use cqrs_core::error::StoreErrorKind;
use cqrs_core::store::{Append, BoxFuture, EventStore as _, Guard};
use cqrs_postgres::PostgresStore;
use cqrs_testkit::conformance::{Fault, Setup, Stores, Suite};
use support::{event, schema};

/// Ends with the test.
struct Bouncer {
    process: Child,
    port: u16,
}

impl Drop for Bouncer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Bouncer {
    fn start() -> Option<Self> {
        let server = pg_cluster::made()?.server();
        let place = ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer", "/usr/local/bin/pgbouncer"];
        let Some(program) = place.iter().find(|path| std::path::Path::new(path).is_file()) else {
            pg_cluster::skip("no PgBouncer is installed here");
            return None;
        };
        let port = pg_cluster::free_port().unwrap();
        let dir = server.dir().join(format!("bouncer-{port}"));
        std::fs::create_dir(&dir).unwrap();
        // The server's user removes it in the end.
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o777)).unwrap();
        std::fs::write(dir.join("users"), "\"postgres\" \"secret\"\n").unwrap();
        let settings = format!(
            "[databases]\n* = host=127.0.0.1 port={}\n[pgbouncer]\n\
             listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = plain\n\
             auth_file = {}/users\npool_mode = transaction\ndefault_pool_size = 3\nmax_client_conn = 500\n",
            server.port(),
            dir.display(),
        );
        let file = dir.join("settings");
        std::fs::write(&file, settings).unwrap();
        // It refuses to run as root, as the server does.
        let mut command = server.as_its_user(program);
        command.arg(&file);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Some(Self { process: command.spawn().unwrap(), port })
    }

    fn url(&self, options: &str) -> String {
        self.url_of("postgres", options)
    }

    fn url_of(&self, database: &str, options: &str) -> String {
        format!("postgres://postgres:secret@127.0.0.1:{}/{database}?schema={}{options}", self.port, schema())
    }

    /// Waits until it answers.
    fn ready(&self) {
        let begun = std::time::Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(begun.elapsed().as_secs() < 120, "PgBouncer does not answer");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

struct Behind(Arc<Bouncer>, &'static str);

impl Setup for Behind {
    fn fresh(&self) -> BoxFuture<'_, Result<Stores, Fault>> {
        handle(self.0.url_of(self.1, "&pgbouncer=true"))
    }
}

/// A database whose transactions are not read committed unless they say so: PgBouncer keeps no setting of a session,
/// so each transaction of the store has to say it.
#[test]
fn the_store_keeps_its_contract_whatever_the_default_isolation_is() {
    let Some(bouncer) = Bouncer::start() else { return };
    bouncer.ready();
    let bouncer = Arc::new(bouncer);
    let server = pg_cluster::made().unwrap().server();
    for (database, isolation) in [("serial", "serializable"), ("repeatable", "repeatable read")] {
        server.psql("postgres", &format!("CREATE DATABASE {database}")).unwrap();
        let alter = format!("ALTER DATABASE {database} SET default_transaction_isolation = '{isolation}'");
        server.psql("postgres", &alter).unwrap();
        let topics = ["documents", "collections", "snapshots", "keys", "races", "cancel"];
        let suite =
            Suite::new(Behind(Arc::clone(&bouncer), database)).patience(std::time::Duration::from_secs(60));
        suite.only(|rule| topics.contains(&rule.topic)).run();
    }
}

fn handle(url: String) -> BoxFuture<'static, Result<Stores, Fault>> {
    Box::pin(async move {
        let store = Arc::new(PostgresStore::open(&url).await?);
        let again = move || handle(url.clone());
        Ok(Stores::new(store.clone()).documents(store).again(again))
    })
}

#[test]
fn the_store_keeps_its_contract() {
    let Some(bouncer) = Bouncer::start() else { return };
    bouncer.ready();
    let topics = ["append", "documents", "keys", "reads", "wait", "races"];
    let suite =
        Suite::new(Behind(Arc::new(bouncer), "postgres")).patience(std::time::Duration::from_secs(60));
    suite.only(|rule| topics.contains(&rule.topic)).run();
}

/// Who forgets to say so is told.
#[tokio::test]
async fn what_does_not_work_is_told() {
    let Some(bouncer) = Bouncer::start() else { return };
    bouncer.ready();
    let error = match PostgresStore::open(&bouncer.url("")).await {
        Err(error) => error,
        Ok(store) => panic!("{:?}", store.append(Append::new(vec![event("A/1", "x")], Guard::Any)).await),
    };
    assert_eq!(error.kind(), StoreErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains("write `pgbouncer=true` into the URL"), "{error}");
}
