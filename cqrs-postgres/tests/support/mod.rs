//! What several tests of this crate need.

#![allow(dead_code, unreachable_pub, reason = "each test uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test stops at a fault")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use cqrs_core::event::{Metadata, NewEvent, RecordedEvent, Tag, Timestamp};
use cqrs_core::id::{Partition, Position, StreamId, Version};
use cqrs_core::store::{Direction, EventStore, LogRead, Query, StreamRead};
use cqrs_postgres::PostgresStore;
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

/// A schema's name that nobody has had yet.
pub fn schema() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
    format!("t{}_{}_{time:x}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// A URL with one more option.
pub fn with(url: &str, option: &str) -> String {
    let sign = if url.contains('?') { '&' } else { '?' };
    format!("{url}{sign}{option}")
}

/// A connection beside the store.
pub async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

pub fn stream(name: &str) -> StreamId {
    name.parse().unwrap()
}

/// An event with an id of its own.
pub fn event(stream_name: &str, payload: impl Into<String>) -> NewEvent {
    NewEvent {
        id: Uuid::new_v4(),
        stream: stream(stream_name),
        name: "Happened".into(),
        schema_version: 1,
        payload: Bytes::from(payload.into()),
        tags: [Tag::from("all:1"), Tag::new("stream", &stream_name)].into_iter().collect(),
        time: Timestamp::from_micros(1_700_000_000_123_456),
        metadata: Arc::new(Metadata::new().actor("ada").entry("at", "the desk")),
    }
}

pub async fn read_all(store: &PostgresStore) -> Vec<Arc<RecordedEvent>> {
    let (mut all, mut after) = (Vec::new(), Position::START);
    loop {
        let read =
            LogRead { partition: Partition::ONLY, after, up_to: None, query: Query::all(), limit: 1_000 };
        let slice = store.read_log(read).await.unwrap();
        all.extend(slice.events);
        after = slice.read_to;
        if after >= slice.head.position {
            return all;
        }
    }
}

pub async fn read_stream(store: &PostgresStore, name: &str) -> Vec<Arc<RecordedEvent>> {
    let (from, limit) = (Version::new(1), usize::MAX);
    let read = StreamRead { stream: stream(name), from, limit, direction: Direction::Forward };
    store.read_stream(read).await.unwrap().events
}

pub fn payload(event: &RecordedEvent) -> String {
    String::from_utf8(event.payload.to_vec()).unwrap()
}

const CONTENT: [&str; 8] =
    ["events", "names", "tags", "keys", "consumers", "checkpoints", "entries", "snapshots"];

/// Copies all that a store has into another schema, in place of what was copied before.
pub async fn back_up(client: &Client, schema: &str) {
    let mut sql = format!("DROP SCHEMA IF EXISTS {schema}_copy CASCADE; CREATE SCHEMA {schema}_copy;");
    for table in CONTENT {
        sql += &format!("CREATE TABLE {schema}_copy.{table} AS TABLE {schema}.{table};");
    }
    client.batch_execute(&format!("BEGIN; {sql} COMMIT")).await.unwrap();
}

/// Puts back what [`back_up`] has copied, in one transaction and under all handles that are open.
pub async fn restore(client: &Client, schema: &str) {
    let mut sql = String::new();
    for table in CONTENT {
        sql += &format!("DELETE FROM {schema}.{table};");
        sql += &format!("INSERT INTO {schema}.{table} SELECT * FROM {schema}_copy.{table};");
    }
    client.batch_execute(&format!("BEGIN; {sql} COMMIT")).await.unwrap();
}
