//! Reading the log by names where few events have them: the store walks at first, and then leaps.

#![allow(missing_docs, reason = "a test")]
#![allow(clippy::unwrap_used, reason = "a test stops at a fault")]

mod support;

use cqrs_core::id::{Partition, Position};
use cqrs_core::store::{Append, EventStore as _, Guard, LogRead, Query};
use cqrs_postgres::PostgresStore;
use support::{event, schema, with};

/// The positions that a reader by this name is given, one slice after the other.
async fn positions(store: &PostgresStore, name: &'static str, limit: usize) -> Vec<u64> {
    let (mut all, mut after) = (Vec::new(), Position::START);
    loop {
        let read =
            LogRead { partition: Partition::ONLY, after, up_to: None, query: Query::names([name]), limit };
        let slice = store.read_log(read).await.unwrap();
        all.extend(slice.events.iter().map(|event| event.meta.position.get()));
        if slice.read_to >= slice.head.position {
            return all;
        }
        assert!(slice.read_to > after);
        after = slice.read_to;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rare_names_are_found_where_the_walk_ends() {
    let Some(cluster) = pg_cluster::shared() else { return };
    let store = PostgresStore::open(&with(cluster.url(), &format!("schema={}", schema()))).await.unwrap();
    // Behind the last of them there is room for a walk that ends early, and nothing to be found.
    let rare = [1, 2, 30];
    let events = (1..=60).map(|position| {
        let mut event = event("A/1", position.to_string());
        event.name = if rare.contains(&position) { "Rare" } else { "Common" }.into();
        event
    });
    store.append(Append::new(events.collect(), Guard::Any)).await.unwrap();
    for limit in 1..=70 {
        assert_eq!(positions(&store, "Rare", limit).await, rare, "with the limit {limit}");
        assert_eq!(positions(&store, "None", limit).await, [0; 0], "with the limit {limit}");
    }
}
