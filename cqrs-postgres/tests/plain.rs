//! What is written with a plain statement, because nobody else writes, is written as if it were not.

#![allow(missing_docs, reason = "a test")]
#![allow(clippy::unwrap_used, reason = "a test stops at a fault")]

mod support;

use std::sync::Arc;

use cqrs_core::event::{Metadata, NewEvent, Tag};
use cqrs_core::store::{Append, AppendError, EventStore as _, Expected, Guard};
use cqrs_postgres::PostgresStore;
use futures_util::future::join_all;
use support::{connect, event, payload, read_all, read_stream, schema, stream, with};
use uuid::Uuid;

/// A store that knows how its log ends and that nobody else writes, and the schema that it is in.
async fn undisturbed() -> Option<(PostgresStore, String)> {
    pg_cluster::shared()?;
    let schema = schema();
    let store = open(&schema).await;
    calm(&store).await;
    Some((store, schema))
}

async fn open(schema: &str) -> PostgresStore {
    let cluster = pg_cluster::shared().unwrap();
    PostgresStore::open(&with(cluster.url(), &format!("schema={schema}"))).await.unwrap()
}

async fn calm(store: &PostgresStore) {
    for _ in 0..3 {
        store.append(new(&format!("Calm/{}", Uuid::new_v4()), "")).await.unwrap();
    }
}

fn bare(name: &str, text: &str) -> NewEvent {
    NewEvent { tags: [].into_iter().collect(), metadata: Arc::default(), ..event(name, text) }
}

fn new(name: &str, text: &str) -> Append {
    Append::new(vec![bare(name, text)], Guard::stream(stream(name), Expected::NoStream))
}

/// Only some events of a group have tags, and only some metadata, and each keeps its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_event_of_a_group_has_its_own_tags_and_metadata() {
    let Some((store, _)) = undisturbed().await else { return };
    let before = read_all(&store).await.len();
    for tagged in [false, true] {
        let name = format!("A/{tagged}");
        let of = |number: usize| {
            let metadata = match number % 3 {
                1 => Arc::new(Metadata::new().actor(format!("{name} {number}"))),
                _ => Arc::default(),
            };
            let tags = (tagged && number % 4 == 2).then(|| Tag::new("number", &number));
            NewEvent { metadata, tags: tags.into_iter().collect(), ..bare(&name, &number.to_string()) }
        };
        let events: Vec<NewEvent> = (0..14).map(of).collect();
        let guard = Guard::stream(stream(&name), Expected::NoStream);
        store.append(Append::new(events.clone(), guard)).await.unwrap();
        let read = read_stream(&store, &name).await;
        assert_eq!(read.len(), events.len());
        for (read, event) in read.iter().zip(&events) {
            assert_eq!((&read.payload, &read.tags), (&event.payload, &event.tags));
            assert_eq!(read.meta.metadata, event.metadata);
        }
    }
    assert_eq!(read_all(&store).await.len(), before + 28);
    store.verify().await.unwrap();
}

/// That a new stream is not there is not looked up, because its first version would be taken.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_another_program_has_begun_is_not_begun_again() {
    let Some((store, schema)) = undisturbed().await else { return };
    let other = open(&schema).await;
    for name in ["A/1", "A/2"] {
        other.append(new(name, "theirs")).await.unwrap();
    }
    // It hears of that, but not of which streams they were.
    calm(&store).await;
    let alone = store.append(new("A/1", "ours")).await;
    assert!(matches!(alone, Err(AppendError::Conflict(_))), "{alone:?}");
    calm(&store).await;
    let names: Vec<String> = (1..40).map(|number| format!("A/{number}")).collect();
    let all = join_all(names.iter().map(|name| store.append(new(name, "ours")))).await;
    for (name, outcome) in names.iter().zip(all) {
        match name.as_str() {
            "A/1" | "A/2" => assert!(matches!(outcome, Err(AppendError::Conflict(_))), "{name}: {outcome:?}"),
            _ => drop(outcome.unwrap()),
        }
        let texts: Vec<String> = read_stream(&store, name).await.iter().map(|event| payload(event)).collect();
        let expected = if ["A/1", "A/2"].contains(&name.as_str()) { "theirs" } else { "ours" };
        assert_eq!(texts, [expected], "{name}");
    }
    store.verify().await.unwrap();
}

/// A plain append does not ask which log it is written to, but which event is its last one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_in_the_place_of_ours_is_not_written_to() {
    let Some((store, schema)) = undisturbed().await else { return };
    let drop_it = format!("DROP SCHEMA {schema} CASCADE");
    connect(pg_cluster::shared().unwrap().url()).await.batch_execute(&drop_it).await.unwrap();
    // It has as many events, and as many fences.
    let other = open(&schema).await;
    calm(&other).await;
    let before = read_all(&other).await.len();
    for number in 0..3 {
        let refused = store.append(new(&format!("A/{number}"), "ours")).await;
        assert!(matches!(refused, Err(AppendError::Store(_))), "{refused:?}");
        let group = join_all((0..5).map(|task| store.append(new(&format!("B/{task}"), "ours")))).await;
        assert!(group.iter().all(|one| matches!(one, Err(AppendError::Store(_)))), "{group:?}");
    }
    assert_eq!(read_all(&other).await.len(), before);
    other.verify().await.unwrap();
}

/// More than there is room for wait to be let in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_than_may_wait_are_all_written() {
    let Some((store, _)) = undisturbed().await else { return };
    let before = read_all(&store).await.len();
    let names: Vec<String> = (0..3_000).map(|number| format!("A/{number}")).collect();
    for outcome in join_all(names.iter().map(|name| store.append(new(name, "")))).await {
        outcome.unwrap();
    }
    assert_eq!(read_all(&store).await.len(), before + names.len());
    store.verify().await.unwrap();
}

/// The negative control: it is the first version that keeps a stream from being begun twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn were_versions_not_unique_it_would_be_begun_again() {
    let Some((store, schema)) = undisturbed().await else { return };
    open(&schema).await.append(new("A/1", "theirs")).await.unwrap();
    calm(&store).await;
    let drop_it = format!("ALTER TABLE {schema}.events DROP CONSTRAINT events_by_stream");
    connect(pg_cluster::shared().unwrap().url()).await.batch_execute(&drop_it).await.unwrap();
    store.append(new("A/1", "ours")).await.unwrap();
    // Which is found, at least.
    assert!(store.verify().await.is_err());
}
