//! Two programs and one stream: the one that is slower gets its turn, on every store.
//!
//! The programs are engines with handles of their own, which share nothing but the database.

#![allow(missing_docs, missing_debug_implementations, clippy::unwrap_used, reason = "a test")]
#![cfg(any(feature = "sqlite", feature = "postgres"))]

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cqrs::engine::Stores;
use cqrs::error::StoreError;
use cqrs::event::{NewEvent, Timestamp};
use cqrs::prelude::*;
use cqrs::store::{
    Append, AppendError, Appended, BoxFuture, Capabilities, CommandKey, EventStore, Expected, Guard, Head,
    Limits, LogRead, LogSlice, StreamRead, StreamSlice,
};
use cqrs::{Partition, Position, StreamId, Version};
use uuid::Uuid;

#[derive(Event, Serialize, Deserialize)]
pub struct Counted {}

#[derive(Command)]
pub struct Count {
    #[id]
    pub counter: u64,
}

#[derive(Default)]
pub struct Counter {
    pub total: u64,
}

#[aggregate(id = u64, error = Infallible)]
impl Counter {
    #[handle]
    fn count(&self, _cmd: Count) -> Counted {
        Counted {}
    }

    #[apply]
    fn counted(&mut self, _event: &Counted) {
        self.total += 1;
    }
}

/// A store as it was without reservations.
#[derive(Debug)]
struct Unreserved(Arc<dyn EventStore>);

impl EventStore for Unreserved {
    fn capabilities(&self) -> Capabilities {
        let mut capabilities = self.0.capabilities();
        (capabilities.reservations, capabilities.inline) = (false, false);
        capabilities
    }
    fn limits(&self) -> Limits {
        self.0.limits()
    }
    fn partition_of(&self, stream: &StreamId) -> Partition {
        self.0.partition_of(stream)
    }
    fn append(&self, append: Append) -> BoxFuture<'_, Result<Appended, AppendError>> {
        self.0.append(append)
    }
    fn find_key(&self, key: &CommandKey) -> BoxFuture<'_, Result<Option<Appended>, StoreError>> {
        self.0.find_key(key)
    }
    fn read_stream(&self, read: StreamRead) -> BoxFuture<'_, Result<StreamSlice, StoreError>> {
        self.0.read_stream(read)
    }
    fn read_log(&self, read: LogRead) -> BoxFuture<'_, Result<LogSlice, StoreError>> {
        self.0.read_log(read)
    }
    fn head(&self, partition: Partition) -> BoxFuture<'_, Result<Head, StoreError>> {
        self.0.head(partition)
    }
    fn wait(&self, partition: Partition, after: Position) -> BoxFuture<'_, Result<(), StoreError>> {
        self.0.wait(partition, after)
    }
}

async fn engine(stores: Stores) -> Engine {
    Engine::builder().without_background().build(stores).await.unwrap()
}

/// How many of these commands are given up by a program that sends them one after the other, while another one
/// keeps the stream hot.
async fn given_up(hot: Stores, slow: Stores, counter: u64, commands: u64) -> u64 {
    const TASKS: u64 = 4;
    let (hot, slow) = (engine(hot).await, engine(slow).await);
    let over = Arc::new(AtomicBool::new(false));
    let tasks: Vec<_> = (0..TASKS)
        .map(|_| {
            let (hot, over) = (hot.clone(), Arc::clone(&over));
            tokio::spawn(async move {
                let mut written = 0;
                while !over.load(Ordering::Relaxed) {
                    hot.execute(Count { counter }).await.unwrap();
                    written += 1;
                }
                written
            })
        })
        .collect();
    while hot.load::<Counter>(&counter).await.unwrap().version.get() < 10 * TASKS {
        tokio::task::yield_now().await;
    }
    let mut lost = 0;
    for _ in 0..commands {
        match slow.execute(Count { counter }).await {
            Ok(_) => {}
            Err(ExecuteError::Conflict(_)) => lost += 1,
            Err(error) => unreachable!("{error}"),
        }
    }
    over.store(true, Ordering::Relaxed);
    let mut written = commands - lost;
    for task in tasks {
        written += task.await.unwrap();
    }
    assert_eq!(slow.load::<Counter>(&counter).await.unwrap().state.unwrap().total, written);
    lost
}

async fn the_slower_one_gets_its_turn(open: impl AsyncFn() -> Stores) {
    assert_eq!(given_up(open().await, open().await, 0, 20).await, 0);
    // The control: so often it comes too late that sooner or later it gives up.
    let mut seen = false;
    for counter in 1..40 {
        let Stores { log, documents } = open().await;
        let unreserved = Stores { log: Arc::new(Unreserved(log)), documents };
        seen = given_up(open().await, unreserved, counter, 1).await > 0;
        if seen {
            break;
        }
    }
    assert!(seen, "without reservations nothing was given up, so this shows nothing of them");
}

/// Appends one event to the stream that has so many.
fn next(stream: &StreamId, version: u64) -> Append {
    let event = NewEvent {
        id: Uuid::new_v4(),
        stream: stream.clone(),
        name: "Counted".into(),
        schema_version: 1,
        payload: "{}".into(),
        tags: [].into_iter().collect(),
        time: Timestamp::from_micros(0),
        metadata: Arc::default(),
    };
    Append::new(vec![event], Guard::stream(stream.clone(), Expected::Version(Version::new(version))))
}

/// Somebody keeps a turn for ever, and does something with it when it is long over.
async fn a_turn_that_is_kept_is_taken_back(open: impl AsyncFn() -> Stores) {
    let (one, other) = (open().await.log, open().await.log);
    let stream: StreamId = "Counter/kept".parse().unwrap();
    let kept = one.reserve(&stream).await.unwrap().unwrap();
    other.append(next(&stream, 0)).await.unwrap();
    assert!(matches!(kept.append(next(&stream, 0)).await, Err(AppendError::Conflict(_))));
    let late = other.reserve(&stream).await.unwrap().unwrap();
    one.append(next(&stream, 1)).await.unwrap();
    late.append(next(&stream, 2)).await.unwrap();
    // And at the very moment at which it is taken back.
    for (version, millis) in (3..).zip(495..505) {
        let turn = one.reserve(&stream).await.unwrap().unwrap();
        tokio::time::sleep(Duration::from_millis(millis)).await;
        turn.append(next(&stream, version)).await.unwrap();
    }
}

#[cfg(feature = "sqlite")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_one_sqlite_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("counters.db");
    the_slower_one_gets_its_turn(async || cqrs::sqlite::SqliteStore::open(&path).await.unwrap().into()).await;
}

#[cfg(feature = "sqlite")]
#[tokio::test]
async fn a_turn_is_taken_back_on_sqlite() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("counters.db");
    a_turn_that_is_kept_is_taken_back(async || cqrs::sqlite::SqliteStore::open(&path).await.unwrap().into())
        .await;
}

#[cfg(feature = "postgres")]
#[tokio::test]
async fn a_turn_is_taken_back_on_postgres() {
    let Some(cluster) = pg_cluster::shared() else { return };
    let url = format!("{}?schema=kept_{}", cluster.url(), std::process::id());
    let open = async || cqrs::postgres::PostgresStore::open(&url).await.unwrap().into();
    a_turn_that_is_kept_is_taken_back(open).await;
}

#[cfg(feature = "postgres")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_postgres() {
    let Some(cluster) = pg_cluster::shared() else { return };
    let url = format!("{}?schema=racing_{}", cluster.url(), std::process::id());
    the_slower_one_gets_its_turn(async || cqrs::postgres::PostgresStore::open(&url).await.unwrap().into())
        .await;
}
