//! Reading the log by names where few events have them: the store walks at first, and then leaps.

#![allow(missing_docs, reason = "a test")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at a fault")]

mod support;

use cqrs_core::event::Tag;
use cqrs_core::id::{Partition, Position, Version};
use cqrs_core::store::{
    Append, AppendError, Conflict, EventStore as _, Expected, Found, Guard, LogRead, Query, QueryItem,
};
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

/// Where events with a name lie, in a log of three blocks of the index and a bit.
const PLACES: [(&str, &[u64]); 3] = [
    ("Rare", &[1, 2, 254, 255, 256, 257, 511, 768]),
    ("Seldom", &[250, 512, 513, 767, 769]),
    ("Last", &[800]),
];

/// Writes 800 events in appends of these sizes. If there are two stores, they take turns now and then: what
/// one of them knows of the index of names, the other may have moved. Single events and groups, tagged and
/// not, take different ways into the log: every `tagged`th event has a tag.
async fn blocks(stores: usize, counts: &[u64], tagged: u64) -> Option<PostgresStore> {
    let cluster = pg_cluster::shared()?;
    let url = with(cluster.url(), &format!("schema={}", schema()));
    let mut all = Vec::new();
    for _ in 0..stores {
        all.push(PostgresStore::open(&url).await.unwrap());
    }
    let mut position = 0;
    while position < 800 {
        let count = counts[position as usize % counts.len()].min(800 - position);
        let events = (position + 1..=position + count).map(|position| {
            let named = PLACES.iter().find(|(_, places)| places.contains(&position));
            let mut event = event("A/1", position.to_string());
            event.name = named.map_or("Common", |(name, _)| name).into();
            let tag = (position % tagged == 0).then(|| Tag::new("tagged", &(position % 2)));
            event.tags = tag.into_iter().collect();
            event
        });
        let expected = Expected::Version(Version::new(position));
        let guard = Guard::stream(support::stream("A/1"), expected);
        let store = &all[usize::from(position % 97 > 80) % stores];
        store.append(Append::new(events.collect(), guard)).await.unwrap();
        position += count;
    }
    all.pop()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_index_of_names_has_every_event() {
    // The last ones write across the ends of blocks what they have written within the block before.
    for (stores, counts) in
        [(2, &[1, 1, 1, 7, 1, 2, 30, 1][..]), (1, &[1]), (1, &[7]), (1, &[20]), (1, &[300])]
    {
        // Most appends are without a tag in the second: only those are written with a plain statement. Both
        // have the one event that `check` asks for by tag, at 768.
        for tagged in [3, 192] {
            let Some(store) = blocks(stores, counts, tagged).await else { return };
            check(&store).await;
        }
    }
}

async fn check(store: &PostgresStore) {
    store.verify().await.unwrap();
    for (name, places) in PLACES {
        for limit in [1, 2, 3, 5, 100] {
            assert_eq!(positions(store, name, limit).await, places, "{name}, with the limit {limit}");
        }
        // A guard finds the last one, from wherever it looks.
        for after in (0..=801).step_by(7).chain([254, 255, 256, 257, 511, 512, 767, 768, 800]) {
            let (query, after) = (Query::names([name]), Position::new(after));
            let guard = Guard::Unchanged { query, after: after.into() };
            let found = match store.append(Append::new(vec![event("B/1", "{}")], guard)).await {
                Err(AppendError::Conflict(Conflict { found: Found::Position(found), .. })) => {
                    Some(found.get())
                }
                Ok(_) => None,
                Err(error) => panic!("{error}"),
            };
            let last = places.last().copied().filter(|last| *last > after.get());
            assert_eq!(found, last, "{name} behind {after:?}");
        }
    }
    // With a tag, an intersection of two lists that leap.
    let names = vec!["Rare".into(), "Seldom".into()];
    let query = Query::any_of([QueryItem { names, tags: [Tag::new("tagged", &0)].into_iter().collect() }]);
    let read = LogRead { partition: Partition::ONLY, after: Position::START, up_to: None, query, limit: 100 };
    let found = store.read_log(read).await.unwrap();
    let found: Vec<_> = found.events.iter().map(|event| event.meta.position.get()).collect();
    let expected: Vec<u64> = (1..=800)
        .filter(|at| at % 6 == 0 && PLACES[..2].iter().any(|(_, places)| places.contains(at)))
        .collect();
    assert_eq!(found, expected);
}
