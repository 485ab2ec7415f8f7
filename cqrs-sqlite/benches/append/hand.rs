//! SQLite by hand.

use std::path::Path;

use rusqlite::Connection;

pub const PAYLOAD: &[u8] = br#"{"cents":12345,"reference":"invoice 2026-11-0042 of the northern branch, paid in cash at the counter, thank you very much"}"#;

/// A file as durable as the store's, with the one table.
pub fn open(path: &Path) -> Connection {
    let conn = Connection::open(path).unwrap();
    conn.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA cache_size = -16384;
         PRAGMA wal_autocheckpoint = 8192;
         CREATE TABLE IF NOT EXISTS events (position INTEGER PRIMARY KEY, stream TEXT NOT NULL,
             version INTEGER NOT NULL, name TEXT NOT NULL, payload BLOB NOT NULL, UNIQUE (stream, version));",
    )
    .unwrap();
    conn
}

/// Writes events in one transaction.
pub fn insert<'a>(conn: &Connection, events: impl Iterator<Item = (i64, &'a str, i64)>) {
    conn.prepare_cached("BEGIN IMMEDIATE").unwrap().execute(()).unwrap();
    let mut insert = conn.prepare_cached("INSERT INTO events VALUES (?1, ?2, ?3, 'Deposited', ?4)").unwrap();
    for (position, stream, version) in events {
        insert.execute((position, stream, version, PAYLOAD)).unwrap();
    }
    conn.prepare_cached("COMMIT").unwrap().execute(()).unwrap();
}
