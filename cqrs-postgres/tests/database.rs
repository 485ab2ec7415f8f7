//! What administrators do to a database: settings, triggers, restores, servers that stop writing. The store goes on,
//! or says what is wrong, and never says that something is written which is not.

#![allow(missing_docs, reason = "a test")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at a fault")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cqrs_core::consumer::{Consumer, Effect, Routed, Unfit, Work};
use cqrs_core::error::StoreErrorKind;
use cqrs_core::event::{NewEvent, RecordedEvent};
use cqrs_core::id::{Partition, Position, Version};
use cqrs_core::read_store::{Batch, Checkpoint, Collection, EntryKey, EntryWrite, ReadStore as _};
use cqrs_core::store::{Append, AppendError, CommandKey, EventStore as _, Expected, Guard, Query, Snapshot};
use cqrs_postgres::PostgresStore;
use futures_util::future::join_all;
use support::{connect, event, read_stream, schema, stream, with};

/// Without a tag and a key, so that it may be written with a plain statement.
fn plain(name: &str, text: &str, version: u64) -> Append {
    let event = NewEvent { tags: [].into_iter().collect(), ..event(name, text) };
    Append::new(vec![event], Guard::stream(stream(name), Expected::Version(Version::new(version))))
}

fn kind(error: &AppendError) -> Option<StoreErrorKind> {
    match error {
        AppendError::Store(error) => Some(error.kind()),
        _ => None,
    }
}

async fn opened(cluster: &pg_cluster::Cluster) -> (PostgresStore, tokio_postgres::Client, String) {
    let schema = schema();
    let store = PostgresStore::open(&with(cluster.url(), &format!("schema={schema}"))).await.unwrap();
    (store, connect(cluster.url()).await, schema)
}

/// The server was demoted, or the name leads to a standby; later there is a primary again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_writer_leaves_a_server_that_only_reads() {
    let Some(cluster) = pg_cluster::own(&[]) else { return };
    let server = cluster.server();
    // One that closes its connections, and one that does not.
    for ends in [true, false] {
        let url = with(cluster.url(), &format!("schema={}&application_name=subject", schema()));
        let store = PostgresStore::open(&url).await.unwrap();
        store.append(plain("A/1", "one", 0)).await.unwrap();
        assert_eq!(read_stream(&store, "A/1").await.len(), 1);
        server.psql("postgres", "ALTER SYSTEM SET default_transaction_read_only = on").unwrap();
        server.reload().unwrap();
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'subject'";
        if ends {
            server.psql("postgres", end).unwrap();
            // What is sent on a connection in the very moment in which it ends is in doubt.
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        let begun = std::time::Instant::now();
        let mut version = 1;
        loop {
            match store.append(plain("A/1", "more", version)).await {
                // A setting takes some time to reach all processes of the server.
                Ok(_) => version += 1,
                Err(error) => {
                    assert_eq!(kind(&error), Some(StoreErrorKind::Unavailable), "{error}");
                    assert!(error.to_string().contains("only reads"), "{error}");
                    break;
                }
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "it goes on writing");
        }
        assert_eq!(read_stream(&store, "A/1").await.len() as u64, version, "reads go on");
        server.psql("postgres", "ALTER SYSTEM RESET default_transaction_read_only").unwrap();
        server.reload().unwrap();
        let begun = std::time::Instant::now();
        while let Err(error) = store.append(plain("A/1", "again", version)).await {
            assert_eq!(kind(&error), Some(StoreErrorKind::Unavailable), "{error}");
            assert!(begun.elapsed() < Duration::from_secs(60), "it never writes again: {error}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Of several hosts the one that writes is taken, without an option that says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_several_hosts_the_primary_is_found() {
    let Some(reading) = pg_cluster::own(&[("default_transaction_read_only", "on")]) else { return };
    let writing = pg_cluster::made().unwrap();
    let (one, other) = (reading.server().port(), writing.server().port());
    let url =
        format!("postgres://postgres:secret@127.0.0.1:{one},127.0.0.1:{other}/postgres?schema={}", schema());
    let store = PostgresStore::open(&url).await.unwrap();
    store.append(plain("A/1", "one", 0)).await.unwrap();
    assert_eq!(read_stream(&store, "A/1").await.len(), 1);
}

/// A dump of the schema, or a replica of it, leaves the sequence of fences without a value.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sequence_without_a_value_is_given_one() {
    let Some(cluster) = pg_cluster::shared() else { return };
    let (store, client, schema) = opened(cluster).await;
    client.batch_execute(&format!("SELECT setval('{schema}.fenced', 1, false)")).await.unwrap();
    for version in 0..5 {
        store.append(plain("A/1", "x", version)).await.unwrap();
    }
    let called = format!("SELECT is_called FROM {schema}.fenced");
    assert!(client.query_one(&called, &[]).await.unwrap().get::<_, bool>(0), "the fast path stays off");
}

/// What a trigger does to an insert, in the words of PL/pgSQL.
async fn trigger(client: &tokio_postgres::Client, schema: &str, table: &str, is_before: bool, body: &str) {
    let (when, each) = if is_before { ("BEFORE", "ROW") } else { ("AFTER", "STATEMENT") };
    let sql = format!(
        "CREATE SEQUENCE IF NOT EXISTS {schema}.seen;
         CREATE FUNCTION {schema}.on_{table}() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN {body} END $f$;
         CREATE TRIGGER on_{table} {when} INSERT ON {schema}.{table} FOR EACH {each}
         EXECUTE FUNCTION {schema}.on_{table}()"
    );
    client.batch_execute(&sql.replace("{s}", schema)).await.unwrap();
}

/// A warning that has nothing to do with a commit leaves no doubt about it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_warning_is_no_doubt() {
    let Some(cluster) = pg_cluster::shared() else { return };
    let (store, client, schema) = opened(cluster).await;
    let warn = "RAISE WARNING 'database must be vacuumed'; RETURN NULL;";
    trigger(&client, &schema, "events", false, warn).await;
    for version in 0..5 {
        let append = match version % 2 {
            0 => plain("A/1", "x", version),
            _ => Append::new(vec![event("A/1", "x")], Guard::Any),
        };
        store.append(append).await.unwrap();
    }
    assert_eq!(read_stream(&store, "A/1").await.len(), 5);
}

/// A trigger that skips rows without a word: an append that lacks some of its events is told to be corrupt, however it
/// was written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_a_trigger_skips_are_told() {
    let Some(cluster) = pg_cluster::shared() else { return };
    for is_plain in [true, false] {
        for count in [1, 3] {
            let (store, client, schema) = opened(cluster).await;
            for version in 0..3 {
                store.append(plain("A/1", "x", version)).await.unwrap();
            }
            let skip = "IF convert_from(NEW.payload, 'UTF8') = 'skip' THEN RETURN NULL; END IF; RETURN NEW;";
            trigger(&client, &schema, "events", true, skip).await;
            let mut append = plain("A/1", "skip", 3);
            append.events.extend((1..count).flat_map(|_| plain("A/1", "keep", 3).events));
            if !is_plain {
                append.guard = Guard::Any;
            }
            let error = store.append(append).await.unwrap_err();
            assert_eq!(kind(&error), Some(StoreErrorKind::Corrupt), "{error}");
            assert!(error.to_string().contains("trigger"), "{error}");
        }
    }
}

/// Keeps the last event in one document.
#[derive(Debug)]
struct Last;

impl Consumer for Last {
    fn name(&self) -> &'static str {
        "last"
    }

    fn query(&self) -> Query {
        Query::all()
    }

    fn route(&self, _: &[Arc<RecordedEvent>]) -> Result<Routed, Unfit> {
        Ok(Routed::new(vec![EntryKey::document("last")], Box::new(Self)))
    }
}

impl Work for Last {
    fn fold(self: Box<Self>, _: Vec<Option<Bytes>>) -> Result<Effect, Unfit> {
        Ok(Effect::of_writes(vec![EntryWrite::put(Collection::DOCUMENTS, "last", "x")]))
    }
}

/// A deadlock is the database's own matter: each write is tried again, and in the end it is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deadlocks_are_tried_again() {
    let Some(cluster) = pg_cluster::shared() else { return };
    for (code, times, passes) in [("40P01", 3, true), ("40001", 3, true), ("40P01", 1_000, false)] {
        let by_append = ["events", "keys", "inline consumers", "inline checkpoints", "inline entries"];
        for place in by_append.into_iter().chain(["consumers", "checkpoints", "entries", "snapshots"]) {
            let (store, client, schema) = opened(cluster).await;
            let table = place.trim_start_matches("inline ");
            let raise = format!(
                "IF nextval('{{s}}.seen') < {times} THEN RAISE 'not now' USING ERRCODE = '{code}'; END IF;
                 RETURN NULL;"
            );
            trigger(&client, &schema, table, false, &raise).await;
            let done = match place {
                _ if place.starts_with("inline ") => {
                    let inline = std::iter::once(Arc::new(Last) as Arc<dyn Consumer>).collect();
                    let append = plain("A/1", "x", 0).with_inline(inline);
                    store.append(append).await.map(drop).map_err(|error| kind(&error))
                }
                "events" => store.append(plain("A/1", "x", 0)).await.map(drop).map_err(|error| kind(&error)),
                "keys" => {
                    let key = CommandKey { stream: stream("A/1"), key: "k".to_owned() };
                    let append = plain("A/1", "x", 0).with_key(Some(key));
                    store.append(append).await.map(drop).map_err(|error| kind(&error))
                }
                "snapshots" => {
                    let log = store.head(Partition::ONLY).await.unwrap().log;
                    let snapshot = Snapshot {
                        stream: stream("A/1"),
                        log,
                        version: Version::new(1),
                        position: Position::new(1),
                        event: uuid::Uuid::from_u128(1),
                        fingerprint: 1,
                        state: "x".into(),
                    };
                    store.save_snapshot(snapshot).await.map_err(|error| Some(error.kind()))
                }
                _ => commit(&store).await,
            };
            let expected = if passes { Ok(()) } else { Err(Some(StoreErrorKind::Unavailable)) };
            assert_eq!(done, expected, "{place} {code} {times}");
        }
    }
}

async fn commit(store: &PostgresStore) -> Result<(), Option<StoreErrorKind>> {
    let claim = store.claim("consumer").await.map_err(|error| Some(error.kind()))?;
    let log = store.head(Partition::ONLY).await.unwrap().log;
    let to = Checkpoint { log, position: Position::new(1), event: None };
    let writes = vec![EntryWrite::put(Collection::DOCUMENTS, "1", "x")];
    let batch = Batch::new("consumer", &claim, to).with_writes(writes);
    store.commit(batch).await.map_err(|error| match error {
        cqrs_core::read_store::CommitError::Store(error) => Some(error.kind()),
        _ => None,
    })
}

/// What concerns the server and not one append is not tried for each of a group; what concerns one is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_does_not_have_each_of_a_group_sent_again() {
    const MANY: usize = 100;
    let Some(cluster) = pg_cluster::shared() else { return };
    for (code, alone) in [("53100", false), ("23514", true)] {
        let (store, client, schema) = opened(cluster).await;
        store.append(plain("A/1", "x", 0)).await.unwrap();
        let raise = format!("PERFORM nextval('{{s}}.seen'); RAISE 'no' USING ERRCODE = '{code}';");
        trigger(&client, &schema, "events", false, &raise).await;
        let all = (0..MANY).map(|number| store.append(plain(&format!("B/{number}"), "x", 0)));
        for outcome in join_all(all).await {
            assert_eq!(kind(&outcome.unwrap_err()), Some(StoreErrorKind::Failed));
        }
        let seen = format!("SELECT last_value FROM {schema}.seen");
        let seen: i64 = client.query_one(&seen, &[]).await.unwrap().get(0);
        assert_eq!(seen >= MANY as i64, alone, "{code}: {seen} times");
    }
}

/// A database that is being restored, or renamed for a moment, is an outage as any other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_not_there_for_a_while_is_waited_for() {
    let Some(server) = pg_cluster::made().map(pg_cluster::Cluster::server) else { return };
    let name = schema();
    server.psql("postgres", &format!("CREATE DATABASE {name}")).unwrap();
    let store = PostgresStore::open(&server.url("postgres", "secret", &name)).await.unwrap();
    store.append(plain("A/1", "one", 0)).await.unwrap();
    let end = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'");
    let begun = std::time::Instant::now();
    while server.psql("postgres", &end).is_err()
        || server.psql("postgres", &format!("ALTER DATABASE {name} RENAME TO {name}_away")).is_err()
    {
        assert!(begun.elapsed() < Duration::from_secs(60), "it is in use all the time");
    }
    let error = store.append(plain("A/1", "two", 1)).await.unwrap_err();
    assert_eq!(kind(&error), Some(StoreErrorKind::Unavailable), "{error}");
    assert!(error.to_string().contains("3D000"), "{error}");
    let error = store.head(Partition::ONLY).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable, "{error}");
    server.psql("postgres", &format!("ALTER DATABASE {name}_away RENAME TO {name}")).unwrap();
    store.append(plain("A/1", "two", 1)).await.unwrap();
    assert_eq!(read_stream(&store, "A/1").await.len(), 2);
}
