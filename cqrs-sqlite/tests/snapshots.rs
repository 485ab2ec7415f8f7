//! Snapshots in the file: they outlive the process, are used, and what is wrong with them is noticed.

#![allow(missing_docs, missing_debug_implementations, unreachable_pub, reason = "a test")]
#![allow(clippy::unwrap_used, reason = "a test stops at a fault")]

#[path = "support/bank.rs"]
mod bank;
mod support;

use std::path::Path;
use std::sync::atomic::Ordering;

use bank::{Account, Deposit, FOLDED};
use cqrs::prelude::*;
use cqrs::{Aggregate as _, StreamId, Version};
use cqrs_core::error::StoreErrorKind;
use cqrs_core::id::Position;
use cqrs_core::store::{EventStore as _, Snapshot};
use cqrs_sqlite::SqliteStore;
use rusqlite::Connection;
use support::{at_rest, dir};

fn stream() -> StreamId {
    "Account/7".parse().unwrap()
}

fn print() -> u64 {
    Account::SNAPSHOTS.unwrap().fingerprint()
}

async fn open(path: &Path) -> (SqliteStore, Engine) {
    let store = SqliteStore::open(path).await.unwrap();
    let bank = Engine::builder().build(store.clone()).await.unwrap();
    (store, bank)
}

async fn balance(bank: &Engine) -> u64 {
    bank.load::<Account>(&7).await.unwrap().state.unwrap().balance
}

async fn verify_fails(store: &SqliteStore, words: &str) {
    let error = store.verify().await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Corrupt);
    assert!(error.to_string().contains(words), "{error}");
}

/// All in one test, since what was folded is counted for the whole program.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_goes_on_from_the_snapshot() {
    let dir = dir();
    let path = dir.path().join("bank.db");
    let (_, bank) = open(&path).await;
    for _ in 0..25 {
        bank.execute(Deposit { account: 7, cents: 10 }).await.unwrap();
    }
    bank.shutdown().await;
    drop(bank);
    at_rest(&path);

    let before = FOLDED.load(Ordering::SeqCst);
    let (store, bank) = open(&path).await;
    assert_eq!(balance(&bank).await, 250);
    // The snapshot is made beside the commands, of what the stream holds by then.
    assert!(FOLDED.load(Ordering::SeqCst) - before <= 50);
    assert_eq!(store.verify().await.unwrap().snapshots, 1);
    bank.execute(Deposit { account: 7, cents: 60 }).await.unwrap();
    bank.shutdown().await;
    let kept = store.snapshot(&stream(), print()).await.unwrap().unwrap();
    assert_eq!((kept.version, kept.position), (Version::new(310), Position::new(310)));

    // One byte of the state is another: a state that decodes, and that never was.
    let raw = Connection::open(&path).unwrap();
    let changed = raw
        .execute("UPDATE cqrs_snapshots SET state = CAST(replace(state, '310', '910') AS BLOB)", ())
        .unwrap();
    assert_eq!(changed, 1);
    verify_fails(&store, "the snapshot of Account/7 is not what was written").await;
    let (_, bank) = open(&path).await;
    assert_eq!(balance(&bank).await, 310);
    bank.shutdown().await;
    assert_eq!(store.verify().await.unwrap().snapshots, 1);

    // One that is whole, and says what the log does not.
    let ahead = Snapshot { version: Version::new(999), ..kept.clone() };
    let elsewhere = Snapshot { position: Position::new(309), ..kept.clone() };
    let another = Snapshot { event: uuid::Uuid::from_u128(1), ..kept };
    for spoilt in [ahead, elsewhere, another] {
        store.forget_snapshot(&stream()).await.unwrap();
        store.save_snapshot(spoilt).await.unwrap();
        verify_fails(&store, "the snapshot of Account/7 is at version").await;
        let (_, bank) = open(&path).await;
        assert_eq!(balance(&bank).await, 310);
        bank.shutdown().await;
        assert_eq!(store.verify().await.unwrap().snapshots, 1);
    }
}
