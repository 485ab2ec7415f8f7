//! What an append costs as the log grows, with and without a guard on tags, and beside somebody who holds
//! an old snapshot.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cqrs_core::context::{IdSource as _, TimeOrderedIds};
use cqrs_core::event::{Metadata, NewEvent, Tag, Timestamp};
use cqrs_core::id::{Partition, StreamId};
use cqrs_core::store::{Append, EventStore as _, Expected, Guard, Query};
use cqrs_postgres::PostgresStore;
use pg_cluster::Cluster;

use crate::{hand, median, runtime, url};

const COUNT: u64 = 400;

/// With `CQRS_BENCH_EVENTS` the last size, 1,000,000 unless set.
pub fn run(cluster: &Cluster) {
    let runtime = runtime();
    let most = std::env::var("CQRS_BENCH_EVENTS").ok().and_then(|text| text.parse().ok());
    let most: u64 = most.unwrap_or(1_000_000);
    runtime.block_on(async {
        let store = PostgresStore::open(&url(cluster, "growing")).await.unwrap();
        let ids = TimeOrderedIds::default();
        println!(
            "{:<36} {:>10} {:>10} {:>10}",
            "one append, p50, in a log of", "version", "new tag", "two tags"
        );
        let mut size = 10_000;
        while size <= most {
            fill(&store, &ids, size).await;
            let [version, tag, tags] = measure(&store, &ids, size).await;
            println!("{size:<36} {version:>10.1?} {tag:>10.1?} {tags:>10.1?}");
            size *= 10;
        }
        let holder = hand::connect(cluster.url()).await;
        holder
            .batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class")
            .await
            .unwrap();
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(15) {
            let _ = measure(&store, &ids, begun.elapsed().as_nanos() as u64).await;
        }
        let [version, tag, tags] = measure(&store, &ids, 3).await;
        println!("{:<36} {version:>10.1?} {tag:>10.1?} {tags:>10.1?}", "the same, beside an old snapshot");
    });
}

fn event(ids: &TimeOrderedIds, stream: &str, tags: [Tag; 2]) -> NewEvent {
    let time = Timestamp::now();
    NewEvent {
        id: ids.next(time),
        stream: stream.parse::<StreamId>().unwrap(),
        name: "Enrolled".into(),
        schema_version: 1,
        payload: Bytes::from_static(hand::PAYLOAD),
        tags: tags.into_iter().collect(),
        time,
        metadata: Arc::new(Metadata::new()),
    }
}

/// A common tag on every event, and one of a thousand.
fn tags(number: u64) -> [Tag; 2] {
    [Tag::from("all:1"), Tag::new("some", &(number % 1_000))]
}

async fn fill(store: &PostgresStore, ids: &TimeOrderedIds, size: u64) {
    loop {
        let head = store.head(Partition::ONLY).await.unwrap().position.get();
        if head >= size {
            return;
        }
        let events = (head..size.min(head + 1_000))
            .map(|number| event(ids, &format!("Course/{}", number % 50_000), tags(number)));
        store.append(Append::new(events.collect(), Guard::Any)).await.unwrap();
    }
}

async fn measure(store: &PostgresStore, ids: &TimeOrderedIds, run: u64) -> [Duration; 3] {
    let mut times = [Vec::new(), Vec::new(), Vec::new()];
    for number in 0..COUNT {
        let new = || Tag::new("new", &format!("{run}-{number}"));
        let stream = format!("New/{run}-{number}");
        let guards = [
            Guard::stream(stream.parse().unwrap(), Expected::NoStream),
            Guard::Absent(Query::tags([new()])),
            Guard::Absent(Query::tags([Tag::from("all:1"), new()])),
        ];
        for (kind, guard) in guards.into_iter().enumerate() {
            let append = Append::new(
                vec![event(ids, &format!("{stream}{}", ["", "b", "c"][kind]), tags(number))],
                guard,
            );
            let start = Instant::now();
            store.append(append).await.unwrap();
            times[kind].push(start.elapsed());
        }
    }
    times.map(|mut times| median(&mut times))
}
