//! Reads that were polled once and are then left alone, as those of a list of futures are while the program works on
//! the result of one of them, keep nobody waiting; nor does a runtime that has ended.

#![allow(missing_docs, reason = "a test")]
#![allow(clippy::unwrap_used, reason = "a test stops at a fault")]

mod support;

use std::ops::ControlFlow;
use std::time::Duration;

use cqrs_core::event::NewEvent;
use cqrs_core::id::{Partition, Position, Version};
use cqrs_core::read_store::{Batch, Checkpoint, Collection, EntryKey, EntryWrite, RangeRead, ReadStore as _};
use cqrs_core::store::{
    Append, BoxFuture, CommandKey, Direction, EventStore as _, Guard, LogRead, Query, StreamEvent, StreamRead,
};
use cqrs_postgres::PostgresStore;
use futures_util::future::{join_all, poll_immediate};
use futures_util::{StreamExt as _, stream};
use support::{event, read_stream, schema, with};

/// More than there are connections.
const LEFT: usize = 12;
const STREAMS: usize = 20;

/// Everything else has to be through by then, also on a busy machine.
const SOON: Duration = Duration::from_secs(60);

async fn soon<T>(doing: &str, work: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(SOON, work).await;
    done.unwrap_or_else(|_| unreachable!("{doing} waits for reads that nobody polls"))
}

/// How many events a stream has, and how many bytes each.
type Size = (usize, usize);

/// The answer to one read: from what fits into one packet to what no buffer of a connection takes.
const SIZES: [Size; 5] = [(20, 100), (5_000, 100), (1_000, 2_000), (300, 64 << 10), (20, 1 << 20)];

async fn fill(store: &PostgresStore, name: &str, (events, bytes): Size) {
    // A name is rare, so that a read of names asks the index, too.
    let one = |_| NewEvent { tags: [].into_iter().collect(), ..event(name, "x".repeat(bytes)) };
    let mut left = events;
    while left > 0 {
        let some = left.min(1_000).min((8 << 20) / bytes).max(1);
        store.append(Append::new((0..some).map(one).collect(), Guard::Any)).await.unwrap();
        left -= some;
    }
}

/// How many documents there are, of as many bytes in all as a stream has.
async fn fill_documents(store: &PostgresStore, (events, bytes): Size) -> usize {
    let count = events.min(200);
    let claim = store.claim("documents").await.unwrap();
    let head = store.head(Partition::ONLY).await.unwrap();
    let from = Checkpoint { log: head.log, position: Position::START, event: None };
    let to = Checkpoint { position: Position::new(1), ..from };
    let content = bytes::Bytes::from("x".repeat(bytes));
    let write = |number: usize| EntryWrite::put(Collection::DOCUMENTS, number.to_string(), content.clone());
    let batch = Batch::new("documents", &claim, to).with_writes((0..count).map(write).collect());
    store.commit(batch).await.unwrap();
    count
}

async fn folded(store: &PostgresStore, name: &str) -> usize {
    let mut count = 0;
    let take = &mut |_: StreamEvent<'_>| {
        count += 1;
        ControlFlow::Continue(())
    };
    store.fold_stream(&support::stream(name), Version::new(1), take).await.unwrap();
    count
}

/// Every kind of read, each as a future that gives how much it has read.
fn reads<'a>(store: &'a PostgresStore, name: &'a str) -> Vec<(&'static str, BoxFuture<'a, usize>)> {
    let stream = support::stream(name);
    let of_stream =
        |direction, from| StreamRead { stream: stream.clone(), from, limit: usize::MAX, direction };
    let of_log = |query| LogRead {
        partition: Partition::ONLY,
        after: Position::START,
        up_to: None,
        query,
        limit: usize::MAX,
    };
    let keys = (0..200).map(|number: usize| EntryKey::document(number.to_string())).collect();
    let key = CommandKey { stream: stream.clone(), key: "none".to_owned() };
    let forward = of_stream(Direction::Forward, Version::new(1));
    let backward = of_stream(Direction::Backward, Version::new(u64::MAX));
    let (all, named) = (of_log(Query::all()), of_log(Query::names(["Happened"])));
    vec![
        ("fold_stream", Box::pin(folded(store, name))),
        ("read_stream", Box::pin(async { store.read_stream(forward).await.unwrap().events.len() })),
        ("read_stream", Box::pin(async { store.read_stream(backward).await.unwrap().events.len() })),
        ("read_log", Box::pin(async { store.read_log(all).await.unwrap().events.len() })),
        ("read_log", Box::pin(async { store.read_log(named).await.unwrap().events.len() })),
        ("get", Box::pin(async { store.get("documents", keys).await.unwrap().len() })),
        (
            "range",
            Box::pin(async { store.range(RangeRead::documents("documents", 1_000)).await.unwrap().len() }),
        ),
        ("head", Box::pin(async { store.head(Partition::ONLY).await.map(|_| 1).unwrap() })),
        ("find_key", Box::pin(async move { store.find_key(&key).await.map(|_| 1).unwrap() })),
        ("verify", Box::pin(async { store.verify().await.map(|_| 1).unwrap() })),
    ]
}

/// What others do meanwhile.
async fn others(store: &PostgresStore, what: &str) {
    let name = format!("Other/{}", uuid::Uuid::new_v4());
    soon(&format!("an append beside {what}"), fill(store, &name, (2, 10))).await;
    assert_eq!(soon(&format!("a read beside {what}"), read_stream(store, &name)).await.len(), 2);
    assert_eq!(soon(&format!("a fold beside {what}"), folded(store, &name)).await, 2);
    soon(&format!("a claim beside {what}"), store.claim("another")).await.unwrap();
    soon(&format!("a look at documents beside {what}"), store.range(RangeRead::documents("documents", 1)))
        .await
        .unwrap();
}

/// Reads of one kind or of all kinds are begun and left alone; others go on. Of those that were left, some are
/// dropped, and the others are complete.
async fn left_alone(store: &PostgresStore, name: &str, expected: &[usize], kinds: &[usize]) {
    let mut left = Vec::new();
    for number in 0..LEFT {
        let kind = kinds[number % kinds.len()];
        let (what, mut read) = reads(store, name).swap_remove(kind);
        // Some are polled again when their first piece is there.
        for _ in 0..=number % 3 {
            if let Some(count) = poll_immediate(&mut read).await {
                assert_eq!(count, expected[kind], "{what}");
                read = Box::pin(async move { count });
                break;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        left.push((what, kind, read));
    }
    for _ in 0..2 {
        others(store, left[0].0).await;
    }
    left.truncate(LEFT / 2);
    for (what, kind, read) in left {
        assert_eq!(soon(what, read).await, expected[kind], "{what}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_that_are_left_alone_keep_nobody_waiting() {
    let Some(cluster) = pg_cluster::shared() else { return };
    for size in SIZES {
        let url = with(cluster.url(), &format!("schema={}", schema()));
        let store = PostgresStore::open(&url).await.unwrap();
        fill(&store, "A/1", size).await;
        fill_documents(&store, size).await;
        let mut expected = Vec::new();
        for (_, read) in reads(&store, "A/1") {
            expected.push(read.await);
        }
        assert_eq!(expected[0], size.0, "a fold gives all");
        for readers in [1, 4] {
            let store = PostgresStore::builder(&url).readers(readers).open().await.unwrap();
            // What others add to the log is no part of what is expected of a stream or of documents.
            let kinds: Vec<usize> = (0..expected.len()).filter(|kind| ![3, 4].contains(kind)).collect();
            left_alone(&store, "A/1", &expected, &kinds).await;
            for kind in [0, 1, 6] {
                left_alone(&store, "A/1", &expected, &[kind]).await;
            }
        }
    }
}

/// The program that everybody writes: load some at a time, and do something for each.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn buffered_reads_with_work_in_the_loop_come_to_their_end() {
    let Some(cluster) = pg_cluster::shared() else { return };
    for size in [(20, 100), (1_000, 100), (5_000, 100), (20, 256 << 10)] {
        let url = with(cluster.url(), &format!("schema={}", schema()));
        let store = PostgresStore::open(&url).await.unwrap();
        let names: Vec<String> = (0..STREAMS).map(|number| format!("A/{number}")).collect();
        for name in &names {
            fill(&store, name, size).await;
        }
        for width in [4, 8, 16] {
            let mut loads = stream::iter(&names).map(|name| folded(&store, name)).buffer_unordered(width);
            let what = format!("{width} folds of {size:?}");
            while let Some(count) = soon(&what, loads.next()).await {
                assert_eq!(count, size.0);
                others(&store, &what).await;
            }
        }
    }
}

/// Appends and reservations that were begun and left are written or taken back; nobody waits for their callers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_and_reservations_that_are_left_alone_keep_nobody_waiting() {
    let Some(cluster) = pg_cluster::shared() else { return };
    let url = with(cluster.url(), &format!("schema={}", schema()));
    let store = PostgresStore::open(&url).await.unwrap();
    let mut left: Vec<BoxFuture<'_, bool>> = Vec::new();
    for number in 0..3_000 {
        let append = Append::new(vec![event("A/1", number.to_string())], Guard::Any);
        left.push(Box::pin(async { store.append(append).await.is_ok() }));
    }
    for _ in 0..2 {
        let reserve = async { store.reserve(&support::stream("A/1")).await.unwrap().is_some() };
        left.push(Box::pin(reserve));
    }
    for future in &mut left {
        let _ = poll_immediate(future).await;
    }
    others(&store, "appends").await;
    assert!(soon("appends", join_all(left)).await.into_iter().all(|is_done| is_done));
    assert_eq!(folded(&store, "A/1").await, 3_000);
}

/// As a store that tests share, each of which has a runtime of its own.
#[test]
fn reading_goes_on_in_another_runtime() {
    let Some(cluster) = pg_cluster::shared() else { return };
    let url = with(cluster.url(), &format!("schema={}", schema()));
    let runtime = || tokio::runtime::Runtime::new().unwrap();
    let first = runtime();
    let size = (50, 100);
    let store = first.block_on(async {
        let store = PostgresStore::open(&url).await.unwrap();
        fill(&store, "A/1", size).await;
        store
    });
    let all = || async { join_all((0..LEFT).map(|_| folded(&store, "A/1"))).await };
    assert_eq!(first.block_on(all()), [size.0; LEFT]);
    drop(first);
    for _ in 0..2 {
        assert_eq!(runtime().block_on(soon("reads", all())), [size.0; LEFT]);
    }
}
