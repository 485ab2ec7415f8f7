//! Futures that were begun and are not polled, as those of a list of futures are while one of them is looked at,
//! hold nobody up: neither a thread, nor a transaction, nor a place in a queue.

#![allow(missing_docs, missing_debug_implementations, unreachable_pub, reason = "a test")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at a fault")]

mod support;

use std::ops::ControlFlow;
use std::pin::Pin;
use std::time::{Duration, Instant};

use cqrs::prelude::*;
use cqrs_core::id::{Partition, Position, Version};
use cqrs_core::read_store::{EntryKey, RangeRead, ReadStore as _};
use cqrs_core::store::{
    Append, CommandKey, Direction, EventStore as _, Guard, LogRead, Query, StreamEvent, StreamRead,
};
use cqrs_sqlite::SqliteStore;
use futures_util::future::{join_all, poll_immediate};
use futures_util::{StreamExt as _, stream};
use rusqlite::Connection;
use support::{dir, event, stream as stream_id};

#[derive(Event, Serialize, Deserialize)]
pub struct Deposited {
    pub cents: u64,
    pub note: String,
}

#[derive(Command)]
pub struct Deposit {
    #[id]
    pub account: u64,
    pub cents: u64,
}

#[derive(Default)]
pub struct Account {
    pub cents: u64,
}

#[aggregate(id = u64)]
impl Account {
    #[handle]
    fn deposit(&self, cmd: Deposit) -> Deposited {
        Deposited { cents: cmd.cents, note: String::new() }
    }
    #[apply]
    fn deposited(&mut self, event: &Deposited) {
        self.cents += event.cents;
    }
}

/// Streams `Account/0` and so on, each of so many events of about so many bytes.
async fn filled(store: &SqliteStore, streams: u64, events: usize, bytes: usize) {
    let at_a_time = (4_000_000 / bytes).clamp(1, 1_000);
    for account in 0..streams {
        let mut left = events;
        while left > 0 {
            let now = left.min(at_a_time);
            left -= now;
            let event = || {
                let payload =
                    format!("{{\"cents\":1,\"note\":\"{}\"}}", "x".repeat(bytes.saturating_sub(22)));
                let mut event = event(&format!("Account/{account}"), payload);
                event.name = "Deposited".into();
                event
            };
            let events = (0..now).map(|_| event()).collect();
            store.append(Append::new(events, Guard::Any)).await.unwrap();
        }
    }
}

const LIMIT: Duration = Duration::from_secs(60);

/// Loads side by side, and a command for each that has ended.
#[tokio::test]
async fn commands_between_loads_that_wait_are_executed() {
    let cases = [(8, 20, 100), (8, 1_000, 100), (4, 5_000, 100), (6, 100, 10_000), (4, 20, 1_000_000)];
    for (streams, events, bytes) in cases {
        let dir = dir();
        let path = dir.path().join("bank.db");
        let store = SqliteStore::builder(&path).readers(2).open().await.unwrap();
        filled(&store, streams, events, bytes).await;
        let registry = cqrs::Registry::new().with::<Account>();
        let bank = Engine::builder().registry(registry).without_background().build(store).await.unwrap();
        let work = async {
            let mut loads = stream::iter(0..streams)
                .map(|account| {
                    let bank = bank.clone();
                    async move { (account, bank.load::<Account>(&account).await.unwrap().version.get()) }
                })
                .buffer_unordered(8);
            let mut done = 0;
            while let Some((account, version)) = loads.next().await {
                assert_eq!(version, events as u64);
                bank.execute(Deposit { account: 1_000_000 + account, cents: 1 }).await.unwrap();
                done += 1;
            }
            done
        };
        let done = tokio::time::timeout(LIMIT, work).await;
        assert_eq!(done, Ok(streams), "{events} events of {bytes} bytes");
    }
}

type Read<'a> = Pin<Box<dyn Future<Output = usize> + Send + 'a>>;

/// One future of each kind of read, none of which has begun; each gives how much it has read.
fn reads(store: &SqliteStore) -> Vec<(&'static str, Read<'_>)> {
    let log = |query: Query| {
        let (partition, after) = (Partition::ONLY, Position::START);
        store.read_log(LogRead { partition, after, up_to: None, query, limit: 100_000 })
    };
    let slice = |direction, from| {
        store.read_stream(StreamRead { stream: stream_id("Account/0"), from, direction, limit: 100_000 })
    };
    let fold = async move {
        let (mut count, stream) = (0, stream_id("Account/0"));
        let take = &mut |_: StreamEvent<'_>| {
            count += 1;
            ControlFlow::Continue(())
        };
        store.fold_stream(&stream, Version::new(1), take).await.unwrap();
        count
    };
    let key = CommandKey { stream: stream_id("Account/0"), key: "none".to_owned() };
    let find_key = async move { store.find_key(&key).await.unwrap().map_or(1, |_| 0) };
    let tag = Query::tags([cqrs_core::Tag::from("stream:Account/1")]);
    let keys = (0..500).map(|key: u32| EntryKey::document(key.to_string())).collect();
    vec![
        ("fold_stream", Box::pin(fold)),
        ("read_stream", {
            let read = slice(Direction::Forward, Version::new(1));
            Box::pin(async { read.await.unwrap().events.len() })
        }),
        ("read_stream backward", {
            let read = slice(Direction::Backward, Version::new(1_000_000));
            Box::pin(async { read.await.unwrap().events.len() })
        }),
        ("read_log", {
            let read = log(Query::all());
            Box::pin(async { read.await.unwrap().events.len() })
        }),
        ("read_log by tag", {
            let read = log(tag);
            Box::pin(async { read.await.unwrap().events.len() })
        }),
        ("head", Box::pin(async { store.head(Partition::ONLY).await.map(|_| 1).unwrap() })),
        ("find_key", Box::pin(find_key)),
        ("snapshot", {
            let read = store.snapshot(&stream_id("Account/0"), 1);
            Box::pin(async { read.await.map(|_| 1).unwrap() })
        }),
        ("checkpoint", Box::pin(async { store.checkpoint("c", Partition::ONLY).await.map(|_| 1).unwrap() })),
        ("get", {
            let read = store.get("c", keys);
            Box::pin(async { read.await.unwrap().len() })
        }),
        ("range", {
            let read = store.range(RangeRead::documents("c", 1_000));
            Box::pin(async { read.await.map(|_| 1).unwrap() })
        }),
        ("count", {
            let read = store.count(RangeRead::documents("c", 1_000));
            Box::pin(async { read.await.map(|_| 1).unwrap() })
        }),
        ("verify", Box::pin(async { store.verify().await.map(|_| 1).unwrap() })),
    ]
}

/// More than there are threads that read.
const LEFT: usize = 5;

/// Of each kind some are begun and left alone. Then all else works: other reads, appends, and writing the whole
/// WAL back, which a read transaction would prevent.
#[tokio::test]
async fn reads_that_are_left_alone_hold_nobody_up() {
    let dir = dir();
    let path = dir.path().join("bank.db");
    let store = SqliteStore::builder(&path).readers(2).open().await.unwrap();
    filled(&store, 2, 1_200, 500).await;
    let kinds = reads(&store).len();
    for kind in 0..kinds {
        let mut left = Vec::new();
        let name = reads(&store)[kind].0;
        for _ in 0..LEFT {
            let (_, mut read) = reads(&store).swap_remove(kind);
            match poll_immediate(&mut read).await {
                Some(count) => assert!(count > 0, "{name}"),
                None => left.push(read),
            }
        }
        // A quick one may be answered before it is looked at.
        let is_long = ["fold_stream", "read_stream", "read_log", "verify"].contains(&name);
        assert!(!is_long || !left.is_empty(), "{name} is never left alone");
        let others = async {
            for (_, read) in reads(&store) {
                assert!(read.await > 0);
            }
            store.append(Append::new(vec![event("B/1", "x")], Guard::Any)).await.unwrap();
        };
        let passed = tokio::time::timeout(LIMIT, others).await;
        assert!(passed.is_ok(), "{name}: {LEFT} that are not polled hold the others up");
        // What was begun is read to its end, polled or not.
        let (other, begun) = (Connection::open(&path).unwrap(), Instant::now());
        other.busy_timeout(Duration::ZERO).unwrap();
        while other.query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |row| row.get(0)) != Ok(0) {
            assert!(begun.elapsed() < LIMIT, "{name}: a transaction is left open");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        store.append(Append::new(vec![event("B/1", "x")], Guard::Any)).await.unwrap();
        // Some are dropped, and the others go on as if nothing had been.
        left.truncate(left.len().div_ceil(2));
        assert!(join_all(left).await.into_iter().all(|count| count > 0), "{name}");
    }
}

/// Appends, batches and claims that are begun and left alone take place, and take no place in the queue.
#[tokio::test]
async fn writes_that_are_left_alone_hold_nobody_up() {
    let dir = dir();
    let store = SqliteStore::open(dir.path().join("bank.db")).await.unwrap();
    let mut left = Vec::new();
    for _ in 0..3_000 {
        let mut append = store.append(Append::new(vec![event("A/1", "x")], Guard::Any));
        if poll_immediate(&mut append).await.is_none() {
            left.push(append);
        }
    }
    let last = store.append(Append::new(vec![event("A/1", "x")], Guard::Any));
    let last = tokio::time::timeout(LIMIT, last).await.unwrap().unwrap();
    assert_eq!(last.position, Position::new(3_001));
    tokio::time::timeout(LIMIT, store.claim("c")).await.unwrap().unwrap();
    assert!(join_all(left).await.into_iter().all(|appended| appended.is_ok()));
}

/// A fold that is not polled has read ahead no more than two pieces: most of a long stream is never touched.
#[tokio::test]
async fn a_fold_that_is_left_alone_reads_a_bounded_piece_ahead() {
    let dir = dir();
    let path = dir.path().join("bank.db");
    let store = SqliteStore::open(&path).await.unwrap();
    filled(&store, 1, 5_000, 2_000).await;
    let seen = std::sync::atomic::AtomicUsize::new(0);
    let (stream, mut take) = (stream_id("Account/0"), |_: StreamEvent<'_>| {
        seen.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        ControlFlow::Continue(())
    });
    let mut fold = store.fold_stream(&stream, Version::new(1), &mut take);
    assert!(poll_immediate(&mut fold).await.is_none());
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(poll_immediate(&mut fold).await.is_none());
    let first = seen.load(std::sync::atomic::Ordering::Relaxed);
    assert!((1..=500).contains(&first), "{first} events in a piece");
    // What is damaged only now is found, so it was not read before.
    let other = Connection::open(&path).unwrap();
    other.execute("UPDATE cqrs_events SET payload = x'00' WHERE version = 1001", ()).unwrap();
    let error = fold.await.unwrap_err();
    assert!(error.to_string().contains("position 1001"), "{error}");
}
