//! What several tests of this crate need.

#![allow(dead_code, unreachable_pub, reason = "each test uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test stops at a fault")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use bytes::Bytes;
use cqrs_core::event::{Metadata, NewEvent, RecordedEvent, Tag, Timestamp};
use cqrs_core::id::{Partition, Position, StreamId, Version};
use cqrs_core::store::{Direction, EventStore, LogRead, Query, StreamRead};
use cqrs_sqlite::SqliteStore;
use tempfile::TempDir;
use uuid::Uuid;

pub fn dir() -> TempDir {
    TempDir::new().unwrap()
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

pub async fn read_all(store: &SqliteStore) -> Vec<Arc<RecordedEvent>> {
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

pub async fn read_stream(store: &SqliteStore, name: &str) -> Vec<Arc<RecordedEvent>> {
    let (from, limit) = (Version::new(1), usize::MAX);
    let read = StreamRead { stream: stream(name), from, limit, direction: Direction::Forward };
    store.read_stream(read).await.unwrap().events
}

pub fn payload(event: &RecordedEvent) -> String {
    String::from_utf8(event.payload.to_vec()).unwrap()
}

/// This test binary once more, as a process of its own that runs one test in the role of a child.
pub fn child(test: &str, file: &Path, role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([test, "--exact", "--nocapture", "--test-threads=1"]);
    command.env("CQRS_SQLITE_CHILD", role).env("CQRS_SQLITE_FILE", file);
    command.stdout(Stdio::piped()).stderr(Stdio::inherit());
    command
}

/// The role and the file of a child; `None` in the test run itself.
pub fn role() -> Option<(String, PathBuf)> {
    let role = std::env::var("CQRS_SQLITE_CHILD").ok()?;
    Some((role, std::env::var_os("CQRS_SQLITE_FILE").unwrap().into()))
}

/// Closes a store for good: its threads end some time after the last handle is dropped.
pub fn at_rest(file: &Path) {
    let conn = rusqlite::Connection::open(file).unwrap();
    let begun = std::time::Instant::now();
    while conn.pragma_update_and_check(None, "journal_mode", "DELETE", |row| row.get::<_, String>(0)).is_err()
    {
        assert!(begun.elapsed().as_secs() < 10, "the store was not closed");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// Copies all that a store has into another file.
pub fn back_up(file: &Path, copy: &Path) {
    let conn = rusqlite::Connection::open(file).unwrap();
    conn.busy_timeout(std::time::Duration::from_secs(60)).unwrap();
    conn.execute("VACUUM INTO ?1", (copy.to_str().unwrap(),)).unwrap();
}

/// Puts back what [`back_up`] has copied, in one transaction and under all handles that are open. What the file
/// says of itself stays.
pub fn restore(file: &Path, copy: &Path) {
    let conn = rusqlite::Connection::open(file).unwrap();
    conn.busy_timeout(std::time::Duration::from_secs(60)).unwrap();
    conn.execute("ATTACH ?1 AS copy", (copy.to_str().unwrap(),)).unwrap();
    let mut sql = "BEGIN IMMEDIATE;".to_owned();
    for table in ["events", "tags", "keys", "consumers", "checkpoints", "entries", "snapshots"] {
        sql += &format!(
            "DELETE FROM main.cqrs_{table}; INSERT INTO main.cqrs_{table} SELECT * FROM copy.cqrs_{table};"
        );
    }
    conn.execute_batch(&(sql + "COMMIT")).unwrap();
}
