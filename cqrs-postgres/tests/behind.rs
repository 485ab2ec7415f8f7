//! Groups that are sent behind each other: who was decided on what a group in front was to write is written
//! only if that was.

#![allow(missing_docs, reason = "a test")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at a fault")]

mod support;

use std::time::Duration;

use cqrs_core::event::NewEvent;
use cqrs_core::id::Version;
use cqrs_core::store::{Append, AppendError, Appended, CommandKey, EventStore as _, Expected, Guard};
use cqrs_postgres::PostgresStore;
use futures_util::future::join_all;
use support::{connect, event, payload, read_all, read_stream, schema, stream, with};
use uuid::Uuid;

/// So many wait at once that half of them is a group.
const TASKS: usize = 80;

type Outcome = Result<Appended, AppendError>;

fn append(name: &str, text: &str, expected: Expected, key: Option<&str>) -> (Uuid, Append) {
    let event = NewEvent { tags: [].into_iter().collect(), ..event(name, text) };
    let key = key.map(|key| CommandKey { stream: stream(name), key: key.to_owned() });
    (event.id, Append::new(vec![event], Guard::stream(stream(name), expected)).with_key(key))
}

fn after(version: usize) -> Expected {
    Expected::Version(Version::new(version as u64))
}

/// Appends one event to each of the streams, in their order.
async fn wave(store: &PostgresStore, round: usize) {
    let all = (0..TASKS).map(|task| store.append(append(&format!("B/{task}"), "", after(round), None).1));
    for outcome in join_all(all).await {
        outcome.unwrap();
    }
}

/// What comes of an append to `A/1`, and of those that were decided on what it was to write. All are sent
/// while the table is locked, and `meanwhile` is done. The log is whole afterwards.
async fn sent_behind(meanwhile: &str, keyed: bool) -> Option<(PostgresStore, Outcome, Vec<Outcome>)> {
    sent_behind_with(meanwhile, keyed, |function| function).await
}

/// The same, with another function `append_group` in the database.
async fn sent_behind_with(
    meanwhile: &str,
    keyed: bool,
    change: impl FnOnce(String) -> String,
) -> Option<(PostgresStore, Outcome, Vec<Outcome>)> {
    let (cluster, schema) = (pg_cluster::shared()?, schema());
    let url = with(cluster.url(), &format!("schema={schema}"));
    let store = PostgresStore::open(&url).await.unwrap();
    // Now the store knows how the log ends, and that nobody else is writing.
    for round in 0..4 {
        wave(&store, round).await;
    }
    let other = connect(cluster.url()).await;
    let function = format!("SELECT pg_get_functiondef('{schema}.append_group_v3'::regproc)");
    let function: String = other.query_one(&function, &[]).await.unwrap().get(0);
    other.batch_execute(&change(function)).await.unwrap();
    let lock = format!("BEGIN; LOCK TABLE {schema}.events IN SHARE ROW EXCLUSIVE MODE");
    other.batch_execute(&lock).await.unwrap();
    let send = |append| {
        let store = store.clone();
        tokio::spawn(async move { store.append(append).await })
    };
    let (first, one) = append("A/1", "one", Expected::NoStream, None);
    let one = send(one);
    let waits = format!("SELECT FROM pg_locks WHERE relation = '{schema}.events'::regclass AND NOT granted");
    while other.query(&waits, &[]).await.unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let two = |task: usize| {
        let key = keyed.then(|| task.to_string());
        send(append("A/1", "two", Expected::Event(Version::new(1), first), key.as_deref()).1)
    };
    let twos: Vec<_> = (0..TASKS).map(two).collect();
    // Long enough for them to be sent; if they are not, this shows less, but nothing wrong.
    tokio::time::sleep(Duration::from_millis(100)).await;
    other.batch_execute(&meanwhile.replace("{s}", &schema)).await.unwrap();
    other.batch_execute("COMMIT").await.unwrap();
    let (one, mut told) = (one.await.unwrap(), Vec::new());
    for two in twos {
        told.push(two.await.unwrap());
    }
    store.verify().await.unwrap();
    Some((store, one, told))
}

/// Somebody else's event, as an append in another process would leave it.
const ANOTHER: &str =
    "INSERT INTO {s}.events (partition, position, version, schema_version, time, id, stream, name, payload)
    SELECT 0, max(position) + 1, 1, 1, 1, '00000000-0000-4000-8000-000000000001', 'A/1', 'Happened', 'another'
    FROM {s}.events;
    INSERT INTO {s}.names (name, partition, block) SELECT 'Happened', 0, max(position) >> 8 FROM {s}.events
    ON CONFLICT DO NOTHING";

async fn texts(store: &PostgresStore) -> Vec<String> {
    read_stream(store, "A/1").await.iter().map(|event| payload(event)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_rests_on_what_is_written_is_written() {
    for keyed in [false, true] {
        let Some((store, one, twos)) = sent_behind("SELECT", keyed).await else { return };
        assert_eq!(one.unwrap().version_of(&stream("A/1")), Some(Version::new(1)));
        let written: Vec<_> = twos.into_iter().filter_map(Result::ok).collect();
        let [two] = &written[..] else { panic!("{written:?}") };
        assert_eq!(two.version_of(&stream("A/1")), Some(Version::new(2)));
        assert_eq!(texts(&store).await, ["one", "two"]);
        assert_eq!(read_all(&store).await.len(), 4 * TASKS + 2);
    }
}

/// Those behind are at the version that they expect, and would be written if that were all that is looked at.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_rests_on_what_was_not_written_is_not_written() {
    for keyed in [false, true] {
        let Some((store, one, twos)) = sent_behind(ANOTHER, keyed).await else { return };
        assert!(matches!(one, Err(AppendError::Conflict(_))), "{one:?}");
        for two in twos {
            assert!(matches!(two, Err(AppendError::Conflict(_))), "{two:?}");
        }
        assert_eq!(texts(&store).await, ["another"]);
        assert_eq!(read_all(&store).await.len(), 4 * TASKS + 1);
        // What was taken to be written is forgotten.
        let (_, three) = append("A/1", "three", after(1), None);
        store.append(three).await.unwrap();
    }
}

/// The negative control: a server that looks at versions alone writes what was decided on an event that never
/// was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn were_events_not_looked_at_it_would_be_written() {
    let lax = |function: String| {
        let lax = function.replace(" OR l.id <> h.last", "");
        assert_ne!(lax, function);
        lax
    };
    let Some((store, one, twos)) = sent_behind_with(ANOTHER, true, lax).await else { return };
    assert!(matches!(one, Err(AppendError::Conflict(_))), "{one:?}");
    assert_eq!(twos.iter().filter(|two| two.is_ok()).count(), 1);
    assert_eq!(texts(&store).await, ["another", "two"]);
}

/// What a plain statement needs to know is asked behind an append, which is written whatever the answer is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_that_is_written_is_not_told_to_have_failed() {
    let Some(cluster) = pg_cluster::shared() else { return };
    let schema = schema();
    let store = PostgresStore::open(&with(cluster.url(), &format!("schema={schema}"))).await.unwrap();
    store.append(append("A/1", "one", Expected::NoStream, None).1).await.unwrap();
    let other = connect(cluster.url()).await;
    other.batch_execute(&format!("DROP SEQUENCE {schema}.fenced CASCADE")).await.unwrap();
    store.append(append("A/1", "two", after(1), None).1).await.unwrap();
    assert_eq!(texts(&store).await, ["one", "two"]);
}
