//! Copies that become logs of their own, and bytes that are not what was written.

#![allow(missing_docs, missing_debug_implementations, unreachable_pub, reason = "a test")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at a fault")]

#[path = "support/bank.rs"]
mod bank;
mod support;

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bank::{Account, Deposit, Deposited, FOLDED};
use cqrs::engine::{CatchUpError, ConsumerFault, Stores};
use cqrs::prelude::*;
use cqrs::{ReadError, Registry};
use cqrs_core::error::{StoreError, StoreErrorKind};
use cqrs_core::id::{Partition, Position, StreamId, Version};
use cqrs_core::store::{
    CommandKey, Direction, EventStore as _, LogId, LogRead, Query, StreamEvent, StreamRead,
};
use cqrs_sqlite::SqliteStore;
use rusqlite::Connection;
use support::dir;

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Total {
    pub cents: u64,
}

#[projection(name = "total", key = u64)]
impl Total {
    #[on]
    fn deposited(&mut self, event: &Deposited) {
        self.cents += event.cents;
    }
}

fn registry() -> Registry {
    Registry::new().with::<Account>().with::<Total>()
}

async fn engine(stores: impl Into<Stores>) -> Engine {
    Engine::builder().registry(registry()).without_background().build(stores).await.unwrap()
}

/// A closed file with 35 deposits to one account, their read model, and a snapshot; and the last receipt.
async fn filled(path: &Path) -> (LogId, Receipt) {
    let store = SqliteStore::open(path).await.unwrap();
    let bank = engine(store.clone()).await;
    let mut receipt = None;
    for number in 1..=35 {
        let deposit = bank.execute(Deposit { account: 1, cents: 1 });
        receipt = Some(deposit.key(format!("deposit-{number}")).await.unwrap());
    }
    bank.catch_up().await.unwrap();
    bank.shutdown().await;
    let log = store.head(Partition::ONLY).await.unwrap().log;
    store.close().await.unwrap();
    (log, receipt.unwrap())
}

#[tokio::test]
async fn a_copy_becomes_a_log_of_its_own() {
    let dir = dir();
    let [original, copy, reads] = ["original.db", "copy.db", "reads.db"].map(|name| dir.path().join(name));
    let (log, receipt) = filled(&original).await;
    // Read models of the original in a file of their own.
    let of_original = SqliteStore::open(&original).await.unwrap();
    let elsewhere = || async { Arc::new(SqliteStore::open(&reads).await.unwrap()) };
    let bank = engine(Stores { log: Arc::new(of_original.clone()), documents: elsewhere().await }).await;
    bank.catch_up().await.unwrap();
    bank.shutdown().await;
    of_original.close().await.unwrap();

    std::fs::copy(&original, &copy).unwrap();
    // Nobody may have it open meanwhile, not even this program.
    let open = SqliteStore::open(&copy).await.unwrap();
    let assign = SqliteStore::builder(&copy).patience(std::time::Duration::from_millis(50));
    let refused = assign.clone().assign_new_log_id().await.unwrap_err();
    assert_eq!(refused.kind(), StoreErrorKind::Unavailable);
    assert!(refused.to_string().contains("has the file open"), "{refused}");
    open.close().await.unwrap();
    let new = assign.assign_new_log_id().await.unwrap();
    assert!(new != log);
    // A handle that knew it under the former id is told.
    let told = open.claim_once().await.unwrap_err();
    assert_eq!(told.kind(), StoreErrorKind::Corrupt, "{told}");
    drop(open);

    // What lies in the same file goes on: the read model, its checkpoint, the snapshot.
    let store = SqliteStore::open(&copy).await.unwrap();
    assert_eq!(store.head(Partition::ONLY).await.unwrap().log, new);
    let seen = store.verify().await.unwrap();
    assert_eq!((seen.events, seen.checkpoints, seen.snapshots), (35, 1, 1));
    let bank = engine(store.clone()).await;
    let before = FOLDED.load(Ordering::SeqCst);
    assert_eq!(bank.load::<Account>(&1).await.unwrap().state.unwrap().balance, 35);
    assert!(FOLDED.load(Ordering::SeqCst) - before < 10, "the snapshot was not used");
    let next = bank.execute(Deposit { account: 1, cents: 5 }).await.unwrap();
    assert_eq!(bank.get::<Total>(&1).after(&next).await.unwrap(), Some(Total { cents: 40 }));
    assert!(bank.verify().await.unwrap().is_sound());
    // Receipts of the original say nothing here, and those of the copy nothing there.
    let foreign = bank.get::<Total>(&1).after(&receipt).await.unwrap_err();
    assert!(matches!(foreign, ReadError::ForeignReceipt), "{foreign:?}");
    bank.shutdown().await;
    let bank = engine(SqliteStore::open(&original).await.unwrap()).await;
    let foreign = bank.get::<Total>(&1).after(&next).await.unwrap_err();
    assert!(matches!(foreign, ReadError::ForeignReceipt), "{foreign:?}");
    assert_eq!(bank.get::<Total>(&1).after(&receipt).await.unwrap(), Some(Total { cents: 35 }));
    // Nor do read models of the original in another file.
    let bank = engine(Stores { log: Arc::new(store), documents: elsewhere().await }).await;
    let fault = bank.catch_up().await.unwrap_err();
    let CatchUpError::Stopped { fault: ConsumerFault::OtherLog, .. } = fault else { panic!("{fault:?}") };
}

#[tokio::test]
async fn a_file_without_a_log_gets_no_id() {
    let dir = dir();
    for (name, content) in [("missing.db", None), ("empty.db", Some(""))] {
        let path = dir.path().join(name);
        if let Some(content) = content {
            std::fs::write(&path, content).unwrap();
        }
        let refused = SqliteStore::assign_new_log_id(&path).await.unwrap_err();
        assert_eq!(refused.kind(), StoreErrorKind::Invalid, "{refused}");
        assert_eq!(path.exists(), content.is_some());
    }
}

trait ClaimOnce {
    async fn claim_once(&self) -> Result<(), StoreError>;
}

impl ClaimOnce for SqliteStore {
    async fn claim_once(&self) -> Result<(), StoreError> {
        cqrs_core::read_store::ReadStore::claim(self, "c").await.map(drop)
    }
}

fn account() -> StreamId {
    "Account/1".parse().unwrap()
}

async fn read_log(store: &SqliteStore, query: Query, after: u64, limit: usize) -> Result<(), StoreError> {
    let (partition, after) = (Partition::ONLY, Position::new(after));
    store.read_log(LogRead { partition, after, up_to: None, query, limit }).await.map(drop)
}

async fn read_stream(store: &SqliteStore, direction: Direction, from: u64) -> Result<(), StoreError> {
    let read = StreamRead { stream: account(), from: Version::new(from), direction, limit: 100 };
    store.read_stream(read).await.map(drop)
}

async fn find_key(store: &SqliteStore, deposit: u64) -> Result<(), StoreError> {
    let key = CommandKey { stream: account(), key: format!("deposit-{deposit}") };
    store.find_key(&key).await.map(|found| assert!(found.is_some()))
}

async fn fold(store: &SqliteStore, from: u64) -> Result<(), StoreError> {
    let take = &mut |_: StreamEvent<'_>| ControlFlow::Continue(());
    store.fold_stream(&account(), Version::new(from), take).await
}

/// A byte of an event is another than the one that was written, and what reads it says so; what does not read
/// it works.
#[tokio::test]
async fn every_read_of_an_event_compares_it_with_its_checksum() {
    let changes = [
        "payload = CAST('{\"cents\":2}' AS BLOB)",
        "payload = x'00'",
        "name = 'Withdrawn'",
        "schema_version = 2",
        "time = time + 1",
        "id = randomblob(16)",
        "metadata = '{}'",
        "tags = '[\"a:1\"]'",
        "checksum = checksum + 1",
    ];
    for change in changes {
        let dir = dir();
        let path = dir.path().join("bank.db");
        filled(&path).await;
        Connection::open(&path)
            .unwrap()
            .execute(&format!("UPDATE cqrs_events SET {change} WHERE position = 33"), ())
            .unwrap();
        let store = SqliteStore::open(&path).await.unwrap();
        let told = |path: &str, read: Result<(), StoreError>| {
            let Err(error) = read else { panic!("{change}: {path} did not notice") };
            assert_eq!(error.kind(), StoreErrorKind::Corrupt, "{change}: {path}: {error}");
            let text = error.to_string();
            assert!(text.contains("position 33: the checksum does not match"), "{change}: {path}: {text}");
        };
        told("a fold", fold(&store, 1).await);
        told("a fold of the tail", fold(&store, 31).await);
        told("a stream", read_stream(&store, Direction::Forward, 1).await);
        told("a stream backward", read_stream(&store, Direction::Backward, 100).await);
        told("the log", read_log(&store, Query::all(), 0, 100).await);
        if !change.starts_with("name") {
            told("the log by name", read_log(&store, Query::names(["Deposited"]), 0, 100).await);
        }
        told("the key of its command", find_key(&store, 33).await);
        assert_eq!(store.verify().await.unwrap_err().kind(), StoreErrorKind::Corrupt, "{change}");
        // The control: the events around it are as they were.
        find_key(&store, 32).await.unwrap();
        fold(&store, 34).await.unwrap();
        read_stream(&store, Direction::Backward, 32).await.unwrap();
        read_log(&store, Query::all(), 0, 32).await.unwrap();
        read_log(&store, Query::all(), 33, 100).await.unwrap();

        // The engine: a load that begins with a snapshot, a command, a read model that is made anew.
        let bank = engine(store.clone()).await;
        let load = bank.load::<Account>(&1).await.map(drop).unwrap_err();
        assert!(
            format!("{load:?}").contains("position 33: the checksum does not match"),
            "{change}: {load:?}"
        );
        let command = bank.execute(Deposit { account: 1, cents: 1 }).await.map(drop).unwrap_err();
        assert!(
            format!("{command:?}").contains("position 33: the checksum does not match"),
            "{change}: {command:?}"
        );
        let conn = Connection::open(&path).unwrap();
        conn.execute_batch("DELETE FROM cqrs_checkpoints; DELETE FROM cqrs_entries").unwrap();
        if !change.starts_with("name") {
            let caught_up = bank.catch_up().await.unwrap_err();
            assert!(
                format!("{caught_up:?}").contains("position 33: the checksum does not match"),
                "{change}: {caught_up:?}"
            );
        }
    }
}
