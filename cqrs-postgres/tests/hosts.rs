//! Several hosts in one URL: the writer finds the primary itself, whichever host it is by then.

#![allow(missing_docs, reason = "a test")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at a fault")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cqrs_core::error::StoreErrorKind;
use cqrs_core::store::{Append, AppendError, EventStore as _, Guard};
use cqrs_postgres::PostgresStore;
use pg_cluster::Server;
use support::{event, read_stream, schema};

/// One of two servers, each of which is the primary or the standby of the other.
struct Node<'s> {
    server: &'s Server,
    data: PathBuf,
    port: u16,
}

impl Node<'_> {
    fn run(command: &mut Command) {
        // The server that `pg_ctl` starts keeps the pipes open, so nothing is read from them.
        let done = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
        assert!(done.success(), "{command:?}");
    }

    fn control(&self, how: &[&str]) {
        let mut control = self.server.program("pg_ctl");
        Self::run(
            control.arg("-D").arg(&self.data).args(["-w", "-t", "180", "-l"]).arg(self.log()).args(how),
        );
    }

    fn log(&self) -> PathBuf {
        self.server.dir().join(format!("log-{}", self.port))
    }

    fn sql(&self, sql: &str) -> String {
        let mut psql = self.server.program("psql");
        psql.args(["-X", "-A", "-t", "-q", "-h"]).arg(self.server.dir());
        psql.args(["-p", &self.port.to_string(), "-U", "postgres", "-c", sql]);
        String::from_utf8(psql.output().unwrap().stdout).unwrap().trim().to_owned()
    }

    /// Starts it as the standby of another, and waits until it receives what that one commits.
    fn follow(&self, primary: &Node<'_>) {
        let socket = self.server.dir().display();
        let settings = format!(
            "port = {}\nprimary_conninfo = 'host=''{socket}'' port={} user=postgres'\n",
            self.port, primary.port
        );
        append_to(&self.data.join("postgresql.conf"), &settings);
        let mut touch = self.server.as_its_user("touch");
        Self::run(touch.arg(self.data.join("standby.signal")));
        self.control(&["start"]);
        let begun = Instant::now();
        while primary.sql("SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'") != "1" {
            assert!(begun.elapsed() < Duration::from_secs(120), "the standby does not follow");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn append_to(file: &Path, text: &str) {
    let before = fs::read_to_string(file).unwrap();
    fs::write(file, before + text).unwrap();
}

/// Stops the second server, also if the test has failed; the first one goes with its cluster.
struct Second<'s>(Node<'s>);

impl Drop for Second<'_> {
    fn drop(&mut self) {
        let mut stop = self.0.server.program("pg_ctl");
        let _ = stop.arg("-D").arg(&self.0.data).args(["-m", "immediate", "stop"]).output();
    }
}

/// Appends until it works; what fails until then says that no server can be written to.
async fn write(store: &PostgresStore, text: &str) {
    let begun = Instant::now();
    loop {
        match store.append(Append::new(vec![event("A/1", text)], Guard::Any)).await {
            Ok(_) => return,
            Err(AppendError::Store(error)) => {
                assert_eq!(error.kind(), StoreErrorKind::Unavailable, "{text}: {error}");
                assert!(begun.elapsed() < Duration::from_secs(120), "{text}: it finds no primary: {error}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(other) => panic!("{text}: {other}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_writer_finds_the_primary_after_each_switch_of_roles() {
    let Some(cluster) = pg_cluster::own(&[]) else { return };
    let server = cluster.server();
    let one = Node { server, data: server.data(), port: server.port() };
    let data = server.dir().join("standby");
    let mut copy = server.program("pg_basebackup");
    copy.arg("-D").arg(&data).arg("-h").arg(server.dir()).args([
        "-p",
        &one.port.to_string(),
        "-U",
        "postgres",
    ]);
    Node::run(copy.args(["-c", "fast", "-X", "stream", "--no-sync"]));
    let other = Second(Node { server, data, port: pg_cluster::free_port().unwrap() });
    other.0.follow(&one);

    // The first host is a standby, and stays up; the second one writes.
    let schema = schema();
    let url = |hosts: [u16; 2]| {
        let [first, second] = hosts.map(|port| format!("127.0.0.1:{port}"));
        format!("postgres://postgres:secret@{first},{second}/postgres?schema={schema}")
    };
    let stores = [
        PostgresStore::open(&url([other.0.port, one.port])).await.unwrap(),
        PostgresStore::open(&url([one.port, other.0.port])).await.unwrap(),
    ];
    let mut written = 0;
    let mut all_write = async |what: &str| {
        for store in &stores {
            write(store, what).await;
            written += 1;
        }
        // A read may have been answered by either server before; all see what was written.
        for store in &stores {
            assert_eq!(read_stream(store, "A/1").await.len(), written, "{what}");
        }
    };
    all_write("the first host reads, or writes").await;
    // Twice, so that each server was the primary, the standby, and dead.
    for round in 0..2 {
        let (primary, standby) = if round == 0 { (&one, &other.0) } else { (&other.0, &one) };
        // It sends all that was committed before it ends.
        primary.control(&["-m", "fast", "stop"]);
        standby.control(&["promote"]);
        all_write("the former primary is dead").await;
        primary.follow(standby);
        all_write("the former primary is the standby").await;
    }
    for store in &stores {
        store.close().await.unwrap();
    }
}
