//! Reads that were begun and are not polled, as those of a list of futures are while one of them is looked at,
//! hold nobody up; nor does a runtime that has ended.

#![allow(missing_docs, reason = "a test")]
#![allow(clippy::unwrap_used, reason = "a test stops at a fault")]

mod support;

use std::ops::ControlFlow;
use std::time::Duration;

use cqrs_core::id::Version;
use cqrs_core::store::{Append, EventStore as _, Guard, StreamEvent};
use cqrs_postgres::PostgresStore;
use futures_util::future::{join_all, poll_immediate};
use support::{event, read_stream, schema, stream, with};

const EVENTS: usize = 50;

/// More than there are connections.
const HELD: usize = 12;

async fn folded(store: &PostgresStore) -> usize {
    let mut count = 0;
    let take = &mut |_: StreamEvent<'_>| {
        count += 1;
        ControlFlow::Continue(())
    };
    store.fold_stream(&stream("A/1"), Version::new(1), take).await.unwrap();
    count
}

/// Begins many folds and leaves them alone; then somebody else reads, and then they are looked at again. Gives
/// how many were left alone: one that is answered quickly is none of them.
async fn held_and_passed(store: &PostgresStore) -> usize {
    let mut held = Vec::new();
    for _ in 0..HELD {
        let mut fold = Box::pin(folded(store));
        match poll_immediate(&mut fold).await {
            Some(count) => assert_eq!(count, EVENTS),
            None => held.push(fold),
        }
    }
    let alone = held.len();
    for _ in 0..3 {
        let reading = tokio::time::timeout(Duration::from_secs(20), read_stream(store, "A/1"));
        assert_eq!(reading.await.unwrap().len(), EVENTS);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Some are dropped on their way, and their connections go on to serve others.
    held.truncate(alone / 2);
    assert_eq!(join_all(held).await, vec![EVENTS; alone / 2]);
    assert_eq!(join_all((0..HELD).map(|_| folded(store))).await, [EVENTS; HELD]);
    alone
}

async fn filled(url: &str) -> PostgresStore {
    let store = PostgresStore::open(url).await.unwrap();
    let events = (0..EVENTS).map(|number| event("A/1", number.to_string())).collect();
    store.append(Append::new(events, Guard::Any)).await.unwrap();
    store
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_that_are_not_polled_hold_nobody_up() {
    let Some(cluster) = pg_cluster::shared() else { return };
    let url = with(cluster.url(), &format!("schema={}", schema()));
    drop(filled(&url).await);
    for readers in [1, 2, 4] {
        let store = PostgresStore::builder(&url).readers(readers).open().await.unwrap();
        // No connection is open yet, and all of them wait for one.
        assert_eq!(held_and_passed(&store).await, HELD);
        for _ in 0..20 {
            held_and_passed(&store).await;
        }
    }
}

/// As a store that tests share, each of which has a runtime of its own.
#[test]
fn reading_goes_on_in_another_runtime() {
    let Some(cluster) = pg_cluster::shared() else { return };
    let url = with(cluster.url(), &format!("schema={}", schema()));
    let runtime = || tokio::runtime::Runtime::new().unwrap();
    let first = runtime();
    let store = first.block_on(filled(&url));
    let all = || async { join_all((0..HELD).map(|_| folded(&store))).await };
    assert_eq!(first.block_on(all()), [EVENTS; HELD]);
    drop(first);
    for _ in 0..2 {
        let reading = async { tokio::time::timeout(Duration::from_secs(20), all()).await };
        assert_eq!(runtime().block_on(reading).unwrap(), [EVENTS; HELD]);
    }
}
