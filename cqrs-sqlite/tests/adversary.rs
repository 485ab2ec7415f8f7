//! Everything at once, on one file: writers and readers in three processes, one of which is killed, while a
//! stranger holds transactions open.

#![allow(missing_docs, reason = "a test")]
#![allow(clippy::unwrap_used, reason = "a test stops at a fault")]
#![allow(clippy::print_stdout, reason = "the figures are for whoever runs it")]

mod support;

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::Duration;

use cqrs_core::id::Partition;
use cqrs_core::store::EventStore;
use cqrs_sqlite::SqliteStore;
use cqrs_testkit::adversary::{Adversary, appends};
use support::{child, dir, role};
use tokio::time::sleep;

const TEST: &str = "nothing_is_lost_among_processes";

/// Two handles of the file, as one part of the run.
async fn part(number: u16, file: &Path, appends: u64) -> Adversary {
    let open = async || Arc::new(SqliteStore::open(file).await.unwrap());
    let name = |which: &str| format!("part {number}, {which} handle");
    Adversary::new(appends).part(number).on(name("first"), open().await).on(name("second"), open().await)
}

/// Another program, which begins transactions that write or read, and lets them be for a while.
async fn stranger(file: PathBuf) {
    loop {
        for begin in ["BEGIN IMMEDIATE", "BEGIN; SELECT count(*) FROM sqlite_schema"] {
            let conn = rusqlite::Connection::open(&file).unwrap();
            conn.busy_timeout(Duration::from_millis(20)).unwrap();
            // It may be busy; then there is a next time.
            let _ = conn.execute_batch(begin);
            sleep(Duration::from_millis(60)).await;
            drop(conn);
            sleep(Duration::from_millis(60)).await;
        }
    }
}

fn kill(mut child: Child) {
    std::thread::sleep(Duration::from_millis(900));
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_lost_among_processes() {
    let appends = appends(1_500);
    if let Some((role, file)) = role() {
        let report = part(role.parse().unwrap(), &file, appends).await.run().await;
        println!("{report}");
        report.assert_clean();
        return;
    }
    let dir = dir();
    let file = dir.path().join("adversary.db");
    let log = SqliteStore::open(&file).await.unwrap();
    let start = |part: &str| child(TEST, &file, part).stdout(Stdio::inherit()).spawn().unwrap();
    let (mut other, killed) = (start("1"), start("2"));
    // They write before this one begins.
    log.wait(Partition::ONLY, log.head(Partition::ONLY).await.unwrap().position).await.unwrap();
    let killer = std::thread::spawn(|| kill(killed));
    let report = part(0, &file, appends).await.trouble(stranger(file.clone())).run().await;
    killer.join().unwrap();
    println!("{report}");
    report.assert_clean();
    assert!(report.acknowledged > report.refused + report.open);
    assert!(other.wait().unwrap().success(), "the other process has found a fault");
    log.verify().await.unwrap();
}
