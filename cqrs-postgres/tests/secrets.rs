//! No password, and no piece of one, is in a message, in a `Debug` output or in a log line, wherever a URL or a
//! connection string is handed over and whatever is wrong with it.

#![allow(missing_docs, reason = "a test")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at a fault")]

mod support;

use std::error::Error;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use cqrs::prelude::Engine;
use cqrs_core::error::StoreErrorKind;
use cqrs_core::id::Partition;
use cqrs_core::memory::MemoryStore;
use cqrs_core::registry::Registry;
use cqrs_core::store::EventStore as _;
use cqrs_postgres::{Credentials, PostgresStore};
use support::{connect, schema, with};

/// What a message must not have a piece of.
const PIECE: usize = 4;

/// Passwords as a user would type them, each with something that has a meaning in a URL.
const SECRETS: [&str; 11] = [
    "Zq7xXv9wKw3y",
    "Zq7x?Xv9wKw3y",
    "Zq7x/Xv9wKw3y",
    "Zq7x@Xv9wKw3y",
    "Zq7x#Xv9wKw3y",
    "Zq7x%Xv9wKw3y",
    "Zq7x&Xv9w=Kw3y",
    "Zq7x:Xv9w;Kw3y",
    "Zq7x Xv9w'Kw3y",
    "@Zq7x?Xv9w/Kw3y#",
    "7391?7392/7393@7394=7395&7396",
];

/// Texts with a password in them, at a server that does not answer.
fn texts(secret: &str, port: u16) -> Vec<String> {
    let place = format!("127.0.0.1:{port}");
    vec![
        format!("postgres://ada:{secret}@{place}/bank"),
        format!("postgresql://ada:{secret}@{place}"),
        format!("postgres://ada:{secret}@{place}/bank?schema=ledger&shema=x"),
        format!("postgres://ada:{secret}@{place},db.example/bank?sslmode=require"),
        format!("postgres://ada:{secret}@db.example/bank?connect_timeout=x"),
        format!("postgres://ada:{secret}@db.example:port/bank"),
        format!("postgres://:{secret}@/bank"),
        format!("postgres://{place}/bank?user=ada&password={secret}"),
        format!("postgres://{place}/bank?user=ada&password={secret}&more=1"),
        format!("postgres:ada:{secret}@{place}/bank"),
        format!("postgres:/ada:{secret}@{place}/bank"),
        format!("Postgres://ada:{secret}@{place}/bank"),
        format!("mysql://ada:{secret}@{place}/bank"),
        format!("memory:ada:{secret}@{place}"),
        format!("host=127.0.0.1 port={port} user=ada password={secret} dbname=bank"),
        format!("host=127.0.0.1 port={port} user=ada password='{secret}' dbname=bank shema=x"),
        format!("user=ada password = {secret}"),
        format!("password={secret}"),
        format!("password={secret} host=db.example:x"),
        format!("host:127.0.0.1 password:{secret}"),
        format!("password '{secret}"),
    ]
}

/// Log lines of this thread.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Lines {
    fn listen(&self) -> tracing::subscriber::DefaultGuard {
        let lines = self.clone();
        let all = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE);
        tracing::subscriber::set_default(all.with_writer(move || lines.clone()).finish())
    }

    fn take(&self) -> String {
        String::from_utf8(std::mem::take(&mut *self.0.lock().unwrap())).unwrap()
    }
}

/// All that an error says, in each form.
fn told(error: &(dyn Error + 'static)) -> String {
    let mut all = format!("{error:?} {error:#?}");
    let mut next = Some(error);
    while let Some(error) = next {
        all += &format!(" {error} {error:?}");
        next = error.source();
    }
    all
}

/// The first piece of a secret that is in a text.
fn piece<'a>(text: &str, secret: &'a str) -> Option<&'a str> {
    let ends = |from| secret.get(from..from + PIECE);
    (0..secret.len()).filter_map(ends).find(|piece| text.contains(piece))
}

/// What each entry point that takes a text says about it.
async fn all_entries(text: &str) -> Vec<(&'static str, String)> {
    let engine = || Engine::builder().registry(Registry::new()).without_background();
    let builder = PostgresStore::builder(text).schema("ledger").pgbouncer(true);
    let read_models = engine().read_models(text);
    let mut all = vec![
        ("PostgresBuilder as Debug", format!("{builder:?} {builder:#?}")),
        ("EngineBuilder as Debug", format!("{read_models:?} {read_models:#?}")),
    ];
    let errors: [(_, Result<(), Box<dyn Error>>); 8] = [
        ("Engine::open", Engine::open(text).await.map(drop).map_err(Into::into)),
        ("EngineBuilder::open", engine().open(text).await.map(drop).map_err(Into::into)),
        ("read_models", read_models.build(MemoryStore::new()).await.map(drop).map_err(Into::into)),
        ("PostgresStore::open", PostgresStore::open(text).await.map(drop).map_err(Into::into)),
        ("PostgresStore::migrate", PostgresStore::migrate(text).await.map_err(Into::into)),
        ("migration_sql", PostgresStore::migration_sql(text).await.map(drop).map_err(Into::into)),
        ("PostgresBuilder::open", builder.clone().open().await.map(drop).map_err(Into::into)),
        ("PostgresBuilder::migrate", builder.migrate().await.map_err(Into::into)),
    ];
    for (entry, result) in errors {
        match result {
            Err(error) => all.push((entry, told(&*error))),
            Ok(()) => panic!("{entry} works"),
        }
    }
    all
}

#[tokio::test]
async fn no_piece_of_a_password_is_shown() {
    let lines = Lines::default();
    let _listening = lines.listen();
    let port = pg_cluster::free_port().unwrap();
    for secret in SECRETS {
        let encoded: String = secret.bytes().map(|byte| format!("%{byte:02X}")).collect();
        for text in texts(secret, port).into_iter().chain(texts(&encoded, port)) {
            let mut all = all_entries(&text).await;
            all.push(("a log line", lines.take()));
            for (entry, shown) in all {
                assert_eq!(piece(&shown, secret), None, "{entry}, {text}: {shown}");
                assert_eq!(piece(&shown, &encoded), None, "{entry}, {text}: {shown}");
            }
        }
    }
}

/// The control: the search finds what is there, and half of it.
#[test]
fn a_piece_that_is_shown_is_found() {
    assert_eq!(piece("cannot open postgres://ada:Zq7x", "Zq7x?Xv9w"), Some("Zq7x"));
    assert_eq!(piece("unknown option `v9wKw`", "Zq7x&Xv9w=Kw3y"), None);
    assert_eq!(piece("unknown option `Xv9w`", "Zq7x&Xv9w=Kw3y"), Some("Xv9w"));
}

/// What is not understood says what to do, and what is shows where it leads.
#[tokio::test]
async fn a_password_that_is_not_encoded_is_told_how() {
    for secret in ["Zq7x?Xv9wKw3y", "Zq7x/Xv9wKw3y", "Zq7x@Xv9wKw3y", "Zq7x%Xv9wKw3y"] {
        let error = PostgresStore::open(&format!("postgres://ada:{secret}@db/bank")).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Invalid, "{error}");
        assert!(error.to_string().contains("percent-encode"), "{error}");
    }
    let port = pg_cluster::free_port().unwrap();
    let url = format!("postgres://ada:Zq7x%3F@127.0.0.1:{port}/bank");
    let error = PostgresStore::open(&url).await.unwrap_err().to_string();
    assert!(error.contains(&format!("cannot open postgres://ada@127.0.0.1:{port}/bank: ")), "{error}");
    let builder = format!("{:?}", PostgresStore::builder(&url));
    assert_eq!(builder, format!("PostgresBuilder(postgres://ada@127.0.0.1:{port}/bank)"));
}

/// A server that does not let the user in, and one that does, and all that is done there.
#[tokio::test]
async fn a_server_is_told_the_password_and_nobody_else() {
    let Some(cluster) = pg_cluster::made() else { return };
    let lines = Lines::default();
    let _listening = lines.listen();
    let server = cluster.server();
    let secret = "Zq7x?Xv9w@Kw3y";
    let encoded: String = secret.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let wrong = with(&server.url("postgres", &encoded, "postgres"), &format!("schema={}", schema()));
    let mut all = vec![told(&PostgresStore::open(&wrong).await.unwrap_err())];
    let role = format!("r{}", schema());
    let client = connect(cluster.url()).await;
    let make = format!("CREATE ROLE {role} LOGIN SUPERUSER PASSWORD '{secret}'");
    client.batch_execute(&make).await.unwrap();
    let url = with(&server.url(&role, &encoded, "postgres"), &format!("schema={}", schema()));
    let store = PostgresStore::open(&url).await.unwrap();
    all.push(format!("{store:?} {store:#?}"));
    client.batch_execute(&format!("ALTER ROLE {role} PASSWORD 'other'")).await.unwrap();
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1";
    client.execute(end, &[&role]).await.unwrap();
    all.push(told(&store.head(Partition::ONLY).await.unwrap_err()));
    all.push(lines.take());
    for shown in all {
        assert_eq!(piece(&shown, secret), None, "{shown}");
    }
}

/// A password that is changed while the store is open is asked for with the next connection.
#[tokio::test]
async fn credentials_are_asked_for_with_each_connection() {
    let Some(cluster) = pg_cluster::made() else { return };
    let server = cluster.server();
    let role = format!("r{}", schema());
    let client = connect(cluster.url()).await;
    client.batch_execute(&format!("CREATE ROLE {role} LOGIN SUPERUSER PASSWORD 'first'")).await.unwrap();
    let now = Arc::new(Mutex::new((role.clone(), "first")));
    let url = with(&server.url("nobody", "wrong", "postgres"), &format!("schema={}", schema()));
    let asked = Arc::clone(&now);
    let source = move || {
        let (user, password) = asked.lock().unwrap().clone();
        async move {
            tokio::task::yield_now().await;
            if password.is_empty() {
                return Err("the vault is closed".into());
            }
            Ok(Credentials::password(password).user(user))
        }
    };
    let store = PostgresStore::builder(&url).credentials(source).open().await.unwrap();
    let cut = || async {
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1";
        client.execute(end, &[&role]).await.unwrap();
    };
    for (password, works) in [("second", true), ("", false), ("wrong", false), ("third", true)] {
        now.lock().unwrap().1 = password;
        if works {
            client.batch_execute(&format!("ALTER ROLE {role} PASSWORD '{password}'")).await.unwrap();
        }
        cut().await;
        let head = store.head(Partition::ONLY).await;
        assert_eq!(head.is_ok(), works, "{password}: {head:?}");
        if password.is_empty() {
            let error = head.unwrap_err();
            assert_eq!(error.kind(), StoreErrorKind::Unavailable);
            assert!(error.to_string().contains("the vault is closed"), "{error}");
        }
    }
}

/// In this binary once more, with another environment: what to open.
const CHILD: &str = "CQRS_PASSWORD_CHILD";

#[tokio::test]
async fn a_password_comes_from_the_environment_or_a_file() {
    if let Ok(url) = std::env::var(CHILD) {
        PostgresStore::open(&url).await.unwrap();
        return;
    }
    let Some(cluster) = pg_cluster::made() else { return };
    let server = cluster.server();
    let url =
        with(&server.url("postgres", "", "postgres").replace(":@", "@"), &format!("schema={}", schema()));
    PostgresStore::open(cluster.url()).await.unwrap();
    let home = server.dir().join(schema());
    std::fs::create_dir(&home).unwrap();
    let file = |name: &str, text: &str, mode| {
        use std::os::unix::fs::PermissionsExt as _;
        let path = home.join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path.display().to_string()
    };
    let right = file("right", &format!("127.0.0.1:{}:*:postgres:secret\n", server.port()), 0o600);
    let open = file("open", "*:*:*:*:secret\n", 0o644);
    let wrong = file("wrong", "*:*:*:*:wrong\n", 0o600);
    let at_home = home.display().to_string();
    let named = |path: &str| with(&url, &format!("passfile={path}"));
    type Variables<'a> = &'a [(&'a str, &'a str)];
    let cases: [(&str, Variables<'_>, bool, &str); 8] = [
        (&url, &[], false, "`PostgresBuilder::credentials`"),
        (&url, &[("PGPASSWORD", "secret")], true, ""),
        (&url, &[("PGPASSWORD", "wrong"), ("PGPASSFILE", &right)], false, "does not let this user in"),
        (&url, &[("PGPASSFILE", &right)], true, ""),
        (&url, &[("PGPASSFILE", &open)], false, "0600"),
        (&named(&right), &[("PGPASSFILE", &wrong)], true, ""),
        (&named("/nowhere"), &[], false, "/nowhere was not used: it does not exist"),
        (&url, &[("HOME", &at_home)], true, ""),
    ];
    for (url, environment, works, words) in cases {
        file(".pgpass", "*:*:*:postgres:secret", 0o600);
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["a_password_comes_from_the_environment_or_a_file", "--exact", "--nocapture"]);
        child.env(CHILD, url).env("HOME", "/nowhere").env_remove("PGPASSWORD").env_remove("PGPASSFILE");
        child.envs(environment.iter().copied()).stdin(Stdio::null());
        let done = child.output().unwrap();
        let told = String::from_utf8_lossy(&done.stderr) + String::from_utf8_lossy(&done.stdout);
        assert_eq!(done.status.success(), works, "{url} {environment:?}: {told}");
        assert!(told.contains(words), "{url} {environment:?}: {told}");
    }
}
