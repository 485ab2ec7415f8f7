//! `verify` passes what is sound, and names the first thing that is wrong.

#![allow(missing_docs, reason = "a test")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at a fault")]

mod support;

use bytes::Bytes;
use cqrs_core::error::StoreErrorKind;
use cqrs_core::id::{Partition, Position, Version};
use cqrs_core::read_store::{Batch, Checkpoint, Claim, Collection, EntryWrite, ReadStore as _};
use cqrs_core::store::{Append, CommandKey, EventStore, Guard, LogRead, Query, Snapshot};
use cqrs_postgres::{PostgresStore, Verified};
use support::{connect, event, schema, stream, with};

/// What lies in each partition.
const EVENTS: u64 = 60;

/// Three streams of a partition.
fn streams(store: &PostgresStore, partition: Partition) -> Vec<String> {
    let names = (1..).map(|number| format!("A/{number}"));
    names.filter(|name| store.partition_of(&stream(name)) == partition).take(3).collect()
}

/// Sixty events in each partition, twenty of each of three streams, two keys, a checkpoint at the end; two
/// documents; and a snapshot.
async fn fill(store: &PostgresStore) {
    let Claim { epoch, checkpoints: mut from, .. } = store.claim("summary").await.unwrap();
    for partition in (0..store.capabilities().partitions).map(Partition::new) {
        let streams = streams(store, partition);
        for half in 0..2 {
            let names = streams.iter().cycle().take(EVENTS as usize / 2);
            let events = names.map(|name| event(name, "{}")).collect();
            let key = CommandKey { stream: stream(&streams[0]), key: format!("k{half}") };
            store.append(Append::new(events, Guard::Any).with_key(Some(key))).await.unwrap();
        }
        let read =
            LogRead { partition, after: Position::START, up_to: None, query: Query::all(), limit: 100 };
        let slice = store.read_log(read).await.unwrap();
        let last = &slice.events.last().unwrap().meta;
        let to = Checkpoint { log: slice.head.log, position: last.position, event: Some(last.id) };
        let writes = ["a", "b"].map(|key| EntryWrite::put(Collection::DOCUMENTS, key, "{}")).to_vec();
        let claim = Claim { epoch, checkpoints: from.clone(), revision: 0 };
        let batch = Batch::new("summary", &claim, to).with_partition(partition).with_writes(writes);
        store.commit(batch).await.unwrap();
        from.insert(partition, to);
    }
    let stream = stream(&streams(store, Partition::ONLY)[0]);
    let log = store.head(Partition::ONLY).await.unwrap().log;
    let at_58 = LogRead {
        partition: Partition::ONLY,
        after: Position::new(58),
        up_to: None,
        query: Query::none(),
        limit: 1,
    };
    let event = store.read_log(at_58).await.unwrap().after_event.unwrap();
    let (version, position) = (Version::new(20), Position::new(58));
    let state = Bytes::from_static(b"{}");
    store
        .save_snapshot(Snapshot { stream, log, version, position, event, fingerprint: 7, state })
        .await
        .unwrap();
}

fn counts(seen: Verified) -> [u64; 5] {
    let Verified { events, streams, checkpoints, documents, snapshots, .. } = seen;
    [events, streams, checkpoints, documents, snapshots]
}

#[tokio::test]
async fn what_is_sound_passes() {
    let Some(cluster) = pg_cluster::shared() else { return };
    for options in ["partitions=1", "partitions=1&pgbouncer=true"] {
        let url = with(cluster.url(), &format!("schema={}&{options}", schema()));
        let store = PostgresStore::open(&url).await.unwrap();
        assert_eq!(counts(store.verify().await.unwrap()), [0; 5]);
        fill(&store).await;
        assert_eq!(counts(store.verify().await.unwrap()), [60, 3, 1, 2, 1], "{options}");
        // The read models of another log may lie here, and what they were folded from is not.
        let client = connect(cluster.url()).await;
        let schema = url.split_once("schema=").and_then(|(_, rest)| rest.split('&').next()).unwrap();
        let other = "INSERT INTO {s}.checkpoints VALUES ('x', 9, gen_random_uuid(), 999, gen_random_uuid());
            INSERT INTO {s}.snapshots VALUES ('B/1', gen_random_uuid(), 9, 999, 1, '', gen_random_uuid())";
        client.batch_execute(&other.replace("{s}", schema)).await.unwrap();
        assert_eq!(counts(store.verify().await.unwrap()), [60, 3, 2, 2, 2]);
    }
    let url = with(cluster.url(), &format!("schema={}&partitions=3", schema()));
    let store = PostgresStore::open(&url).await.unwrap();
    fill(&store).await;
    assert_eq!(counts(store.verify().await.unwrap()), [180, 9, 3, 2, 1]);
}

/// Metadata as a newer release may write it, with a field and an entry that this one does not know.
#[tokio::test]
async fn what_a_newer_release_adds_to_metadata_is_ignored() {
    let Some(cluster) = pg_cluster::shared() else { return };
    let schema = schema();
    let store = PostgresStore::open(&with(cluster.url(), &format!("schema={schema}"))).await.unwrap();
    fill(&store).await;
    let metadata = r#"{"actor":"ada","tenant":{"id":[7]},"entries":{"at":"the desk","weight":1.5}}"#;
    let update = format!("UPDATE {schema}.events SET metadata = '{metadata}' WHERE position = 7");
    connect(cluster.url()).await.batch_execute(&update).await.unwrap();
    store.verify().await.unwrap();
    let all = support::read_all(&store).await;
    let read = &all.iter().find(|event| event.meta.position.get() == 7).unwrap().meta.metadata;
    assert_eq!((read.actor.as_deref(), &*read.entries["at"]), (Some("ada"), "the desk"));
    assert_eq!(read.entries.len(), 1);
}

/// Spoils a log that is sound, and gives what `verify` says.
async fn spoilt(options: &str, damage: &str) -> Option<String> {
    let cluster = pg_cluster::shared()?;
    let schema = schema();
    let store =
        PostgresStore::open(&with(cluster.url(), &format!("schema={schema}{options}"))).await.unwrap();
    fill(&store).await;
    store.verify().await.unwrap();
    let client = connect(cluster.url()).await;
    client.batch_execute(&damage.replace("{s}", &schema)).await.unwrap();
    let error = match store.verify().await {
        Ok(seen) => panic!("{damage}: it passes, as {seen:?}"),
        Err(error) => error,
    };
    assert_eq!(error.kind(), StoreErrorKind::Corrupt, "{damage}: {error}");
    client.batch_execute(&format!("DROP SCHEMA {schema} CASCADE")).await.unwrap();
    Some(error.to_string())
}

const BACKUP: &str = "; put the database back from a backup";

#[tokio::test]
async fn the_first_fault_is_named() {
    let faults = [
        ("DELETE FROM {s}.events WHERE position = 30", "there is no event at position 30", ""),
        ("UPDATE {s}.events SET position = 0 WHERE position = 1", "there is no event at position 1", ""),
        (
            "DELETE FROM {s}.events WHERE position = 60",
            "the key \"k1\" of A/1 stands for position 60, which the log does not have",
            BACKUP,
        ),
        (
            "INSERT INTO {s}.events SELECT partition, 0, 21, 1, time, gen_random_uuid(), stream, name, NULL,
                 NULL, payload FROM {s}.events WHERE position = 60",
            "there is an event at position 0 of partition 0, which cannot be",
            BACKUP,
        ),
        (
            "UPDATE {s}.events SET partition = 1 WHERE position = 60; DELETE FROM {s}.keys",
            "there is an event at position 60 of partition 1, which cannot be",
            BACKUP,
        ),
        (
            "UPDATE {s}.events SET version = 21 WHERE position = 60; DELETE FROM {s}.keys",
            "the event at position 60: A/3 has no version 20",
            BACKUP,
        ),
        (
            "UPDATE {s}.events SET version = -version WHERE stream = 'A/1';
             UPDATE {s}.events SET version = 21 + version WHERE stream = 'A/1'; DELETE FROM {s}.keys",
            "the event at position 1: version 20 of A/1 lies before the version that it follows",
            BACKUP,
        ),
        (
            "UPDATE {s}.events SET metadata = '{' WHERE position = 7",
            "the event at position 7: its metadata cannot be read",
            "",
        ),
        (
            "UPDATE {s}.events SET tags = '[1]' WHERE position = 7",
            "the event at position 7: its tags cannot be read",
            "",
        ),
        (
            "UPDATE {s}.events SET stream = 'A', version = 1 WHERE position = 60",
            "the event at position 60: its stream has no name that can be",
            "",
        ),
        (
            "DELETE FROM {s}.names",
            "the event at position 1: its name `Happened` is not in the table of names",
            "; insert it into `names`, with the block 0",
        ),
        (
            "DELETE FROM {s}.tags WHERE tag = 'all:1' AND position = 9",
            "the event at position 9: its tag `all:1` is not in the table of tags",
            "; insert it into `tags`",
        ),
        (
            "INSERT INTO {s}.tags VALUES ('all:2', 0, 9)",
            "the event at position 9: the table of tags has `all:2`, which the event has not",
            "; delete that row of `tags`",
        ),
        (
            "INSERT INTO {s}.tags VALUES ('all:1', 0, 61)",
            "the event at position 61: the table of tags has `all:1`, which the event has not",
            "; delete that row of `tags`",
        ),
        (
            "UPDATE {s}.events SET tags = NULL WHERE position = 9",
            "the event at position 9: the table of tags has `all:1`, which the event has not",
            "; delete that row of `tags`",
        ),
        (
            "UPDATE {s}.keys SET position = 61 WHERE key = 'k1'",
            "the key \"k1\" of A/1 stands for position 61, which the log does not have",
            BACKUP,
        ),
        (
            "UPDATE {s}.keys SET position = -1 WHERE key = 'k1'",
            "the key \"k1\" of A/1 stands for position -1, which the log does not have",
            BACKUP,
        ),
        (
            "UPDATE {s}.keys SET position = 57 WHERE key = 'k1'",
            "the key \"k1\" of A/1 stands for version 20 of A/1, which is not in the log there",
            BACKUP,
        ),
        (
            "UPDATE {s}.keys SET versions = '[[\"A/3\",21]]' WHERE key = 'k0'",
            "the key \"k0\" of A/1 stands for version 21 of A/3, which is not in the log there",
            BACKUP,
        ),
        (
            "UPDATE {s}.keys SET versions = '[[' WHERE key = 'k0'",
            "the key \"k0\" of A/1 stands for what cannot be read",
            BACKUP,
        ),
        (
            "UPDATE {s}.keys SET partition = 1 WHERE key = 'k0'",
            "the key \"k0\" of A/1 stands for events of partition 1",
            BACKUP,
        ),
        (
            "UPDATE {s}.checkpoints SET position = 61",
            "the checkpoint of `summary` is at 61, behind the log's end at 60",
            "; delete the projection's rows in `checkpoints` and `entries`, and it begins anew",
        ),
        ("UPDATE {s}.checkpoints SET position = -1", "is at 18446744073709551615, behind the log's end", ""),
        ("UPDATE {s}.checkpoints SET position = 59", "which it cannot have seen", ""),
        ("UPDATE {s}.checkpoints SET event = gen_random_uuid()", "which it cannot have seen", ""),
        ("UPDATE {s}.checkpoints SET partition = 1", "is of partition 1, which is not there", ""),
        (
            "UPDATE {s}.snapshots SET version = 21",
            "the snapshot of A/1 is at version 21, where the log does not have the event",
            "; delete its row in `snapshots`: it is only a cache",
        ),
        ("UPDATE {s}.snapshots SET event = gen_random_uuid()", "where the log does not have the event", ""),
        ("UPDATE {s}.snapshots SET position = 57", "at position 57", ""),
    ];
    for (damage, words, way) in faults {
        let Some(told) = spoilt("", damage).await else { return };
        assert!(told.contains(words) && told.contains(way), "{damage}: {told}");
    }
}

#[tokio::test]
async fn the_partition_is_named_where_there_are_several() {
    // Both have sixty events, so nothing is missing where somebody counts.
    let swap = "UPDATE {s}.events SET partition = partition + 2;
        UPDATE {s}.events SET partition = 3 - partition";
    let faults = [
        ("DELETE FROM {s}.events WHERE partition = 1 AND position = 30", "partition 1: there is no event"),
        (swap, "belongs to partition"),
        (
            "DELETE FROM {s}.tags WHERE tag = 'all:1' AND partition = 1 AND position = 9",
            "partition 1: the event at position 9: its tag `all:1`",
        ),
        ("INSERT INTO {s}.tags VALUES ('all:2', 1, 9)", "partition 1: the event at position 9: the table"),
        (
            "UPDATE {s}.events SET version = 21 WHERE partition = 1 AND position = 60; DELETE FROM {s}.keys",
            "partition 1: the event at position 60: ",
        ),
        (
            "UPDATE {s}.keys SET partition = 1 - partition WHERE key = 'k0' AND partition = 1",
            "stands for events of partition 0, where its stream is not",
        ),
        (
            "UPDATE {s}.checkpoints SET position = 61 WHERE partition = 1",
            "partition 1: the checkpoint of `summary` is at 61",
        ),
        (
            "UPDATE {s}.checkpoints SET event = (SELECT event FROM {s}.checkpoints WHERE partition = 0)",
            "partition 1: the checkpoint of `summary` at 60 names the event",
        ),
    ];
    for (damage, words) in faults {
        let Some(told) = spoilt("&partitions=2", damage).await else { return };
        assert!(told.contains(words), "{damage}: {told}");
    }
}

/// Reading goes page by page; what is wrong behind the first one is found all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_pages_are_looked_at() {
    const COUNT: u64 = 2_300;
    let Some(cluster) = pg_cluster::shared() else { return };
    let schema = schema();
    let store = PostgresStore::open(&with(cluster.url(), &format!("schema={schema}"))).await.unwrap();
    let append = |number: u64| {
        let key = CommandKey { stream: stream("A/1"), key: format!("{number:05}") };
        let store = store.clone();
        let append = Append::new(vec![event("A/1", "{}")], Guard::Any).with_key(Some(key));
        tokio::spawn(async move { store.append(append).await.unwrap() })
    };
    for appended in (0..COUNT).map(append).collect::<Vec<_>>() {
        appended.await.unwrap();
    }
    assert_eq!(counts(store.verify().await.unwrap()), [COUNT, 1, 0, 0, 0]);
    let client = connect(cluster.url()).await;
    let faults = [
        (
            "UPDATE {s}.keys SET position = 9999 WHERE key = '02250'",
            "the key \"02250\" of A/1 stands for position",
        ),
        (
            "UPDATE {s}.keys SET versions = '[[\"A/1\",9999]]' WHERE key = '01007'",
            "the key \"01007\" of A/1 stands for version 9999 of A/1",
        ),
        ("DELETE FROM {s}.tags WHERE position = 1001", "the event at position 1001: its tag"),
        ("DELETE FROM {s}.events WHERE position = 1000", "there is no event at position 1000"),
        ("DELETE FROM {s}.events WHERE position < 1000", "there is no event at position 1"),
    ];
    // Each is found before the one that was there already.
    for (damage, words) in faults {
        client.batch_execute(&damage.replace("{s}", &schema)).await.unwrap();
        let told = store.verify().await.unwrap_err().to_string();
        assert!(told.contains(words), "{damage}: {told}");
    }
}

/// It reads one snapshot, so what is appended meanwhile is not half of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_grows_meanwhile_passes() {
    let Some(cluster) = pg_cluster::shared() else { return };
    let store = PostgresStore::open(&with(cluster.url(), &format!("schema={}&partitions=2", schema())))
        .await
        .unwrap();
    let appending: Vec<_> = (0..4)
        .map(|task| {
            let store = store.clone();
            tokio::spawn(async move {
                for number in 0_u64.. {
                    let name = format!("A/{task}");
                    let key = CommandKey { stream: stream(&name), key: number.to_string() };
                    let append = Append::new(vec![event(&name, "{}"); 1], Guard::Any).with_key(Some(key));
                    store.append(append).await.unwrap();
                }
            })
        })
        .collect();
    let mut seen = Vec::new();
    while seen.len() < 20 || seen.last() < Some(&200) {
        seen.push(store.verify().await.unwrap().events);
    }
    appending.iter().for_each(tokio::task::JoinHandle::abort);
    assert!(seen.first() < seen.last(), "{seen:?}");
}
