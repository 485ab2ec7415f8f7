//! Everything at once, on a cluster of its own: writers and readers in two processes and on a hot standby,
//! beside strangers who hold transactions open, prepare them, end connections and kill server processes.
//!
//! In the same run three protocols that are known to lose events must lose some.
//!
//! `CQRS_ADVERSARY_APPENDS` says how many appends each process makes.

#![allow(missing_docs, reason = "a test")]
#![allow(clippy::unwrap_used, reason = "a test stops at a fault")]
#![allow(clippy::print_stdout, reason = "the figures are for whoever runs it")]

mod commits;
mod failover;
mod naive;
mod standby;
#[path = "../support/mod.rs"]
mod support;
mod trouble;
mod wire;

use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use cqrs_core::id::Partition;
use cqrs_core::store::EventStore;
use cqrs_postgres::PostgresStore;
use cqrs_testkit::adversary::{Adversary, Report, appends};
use pg_cluster::Server;

use crate::naive::{Naive, Protocol};
use crate::standby::{Prefix, Standby};
use crate::support::{connect, schema, with};
use crate::trouble::over_and_over;

/// This test binary once more, as a process of its own that runs one test as another part of it.
fn child(test: &str, url: &str) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([test, "--exact", "--nocapture", "--test-threads=1"]).env("CQRS_ADVERSARY_CHILD", url);
    command.stdin(Stdio::null()).spawn().unwrap()
}

/// Where the store is, in a child.
fn role() -> Option<String> {
    std::env::var("CQRS_ADVERSARY_CHILD").ok()
}

/// Two handles of the store, as one part of the run.
async fn part(number: u16, url: &str, appends: u64) -> Adversary {
    let open = async || Arc::new(PostgresStore::open(url).await.unwrap());
    let name = |which: &str| format!("part {number}, {which} handle");
    // In a long run many at once, so that groups are large.
    let writers = if appends < 10_000 { 8 } else { 32 };
    Adversary::new(appends)
        .writers(writers)
        .part(number)
        .on(name("first"), open().await)
        .on(name("second"), open().await)
}

async fn in_child(url: &str, appends: u64) {
    let report = part(1, url, appends).await.run().await;
    println!("{report}");
    report.assert_clean();
}

fn whole(report: &Report) {
    println!("{report}");
    report.assert_clean();
    assert!(report.acknowledged > report.refused + report.open, "{report}");
}

async fn naive(url: &str, protocol: Protocol) -> Report {
    let store = Naive::create(url, &schema(), protocol).await;
    let report = Adversary::new(600).writers(12).on(format!("{protocol:?}"), store).run().await;
    println!("{report}");
    report
}

/// How many deadlocks the server has found: as it wrote them down, and as it counts them.
fn deadlocks(server: &Server) -> (usize, u64) {
    let log = std::fs::read_to_string(server.dir().join("log")).unwrap();
    let counted = server.psql("postgres", "SELECT sum(deadlocks) FROM pg_stat_database").unwrap();
    (log.matches("deadlock detected").count(), counted.parse().unwrap())
}

async fn provoke_a_deadlock(url: &str) {
    let (one, other) = (connect(url).await, connect(url).await);
    one.batch_execute("CREATE TABLE a (); CREATE TABLE b ()").await.unwrap();
    one.batch_execute("BEGIN; LOCK TABLE a").await.unwrap();
    other.batch_execute("BEGIN; LOCK TABLE b").await.unwrap();
    let (first, second) =
        tokio::join!(one.batch_execute("LOCK TABLE b"), other.batch_execute("LOCK TABLE a"));
    assert!(first.is_err() != second.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_lost_where_naive_protocols_lose() {
    let appends = appends(1_500);
    if let Some(url) = role() {
        return in_child(&url, appends).await;
    }
    let Some(cluster) = pg_cluster::own(&[]) else { return };
    let server = cluster.server();
    let (name, plain) = (schema(), cluster.url());
    let url = with(plain, &format!("schema={name}"));
    let store = PostgresStore::open(&url).await.unwrap();
    connect(plain).await.batch_execute(&trouble::pauses(&name)).await.unwrap();
    let standby = Standby::start(server, "standby");
    server.psql("postgres", "CREATE DATABASE elsewhere").unwrap();
    let elsewhere = server.url(pg_cluster::USER, pg_cluster::PASSWORD, "elsewhere");
    let log = store.head(Partition::ONLY).await.unwrap().log;

    let mut other = child("nothing_is_lost_where_naive_protocols_lose", &url);
    let report = part(0, &url, appends)
        .await
        .replica("hot standby", Prefix::new(&standby.url(), &name, log))
        .trouble(over_and_over(plain.to_owned(), trouble::old_snapshot()))
        .trouble(over_and_over(plain.to_owned(), trouble::prepared()))
        .trouble(over_and_over(plain.to_owned(), trouble::writes()))
        .trouble(over_and_over(elsewhere.clone(), trouble::writes()))
        .trouble(over_and_over(elsewhere, trouble::old_snapshot()))
        .trouble(over_and_over(plain.to_owned(), trouble::locks(&name)))
        .trouble(over_and_over(plain.to_owned(), trouble::terminates()))
        .run()
        .await;
    whole(&report);
    assert!(other.wait().unwrap().success(), "the other process has found a fault");
    // What was left prepared would hold the last of the protocols below back for ever.
    let _ = server.psql("postgres", "ROLLBACK PREPARED 'trouble'");
    println!("deadlocks: {:?}", deadlocks(server));
    assert_eq!(deadlocks(server), (0, 0), "the server has found a deadlock");
    provoke_a_deadlock(plain).await;
    // What a session counts shows when it has ended, or some time later.
    let begun = std::time::Instant::now();
    while deadlocks(server) != (1, 1) {
        assert!(begun.elapsed().as_secs() < 120, "the server does not say that it has found a deadlock");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }

    for protocol in [Protocol::Position, Protocol::GapAndTimeout, Protocol::XminHorizon] {
        let mut lost = 0;
        // Whether a reader comes by at the wrong moment is chance, and on a busy machine a small one.
        for _ in 0..10 {
            let report = naive(plain, protocol).await;
            assert!(
                report.committed > 0 && report.vanished == 0,
                "{protocol:?} has not done its work: {report}"
            );
            lost += report.readers.iter().map(|reader| reader.lost).sum::<u64>();
            if lost > 0 {
                break;
            }
        }
        assert!(lost > 0, "{protocol:?} has lost nothing, so nothing is proven");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_lost_when_a_server_process_is_killed() {
    let appends = appends(1_500);
    if let Some(url) = role() {
        return in_child(&url, appends).await;
    }
    let Some(cluster) = pg_cluster::own(&[]) else { return };
    let server = cluster.server();
    let (name, plain) = (schema(), cluster.url());
    let url = with(plain, &format!("schema={name}&partitions=3"));
    let store = PostgresStore::open(&url).await.unwrap();
    connect(plain).await.batch_execute(&trouble::pauses(&name)).await.unwrap();
    let standby = Standby::start(server, "standby");
    let log = store.head(Partition::ONLY).await.unwrap().log;
    let mut other = child("nothing_is_lost_when_a_server_process_is_killed", &url);
    let report = part(0, &url, appends)
        .await
        .replica("hot standby", Prefix::new(&standby.url(), &name, log))
        .trouble(trouble::kills_a_process(plain.to_owned()))
        .run()
        .await;
    whole(&report);
    assert!(other.wait().unwrap().success(), "the other process has found a fault");
}
