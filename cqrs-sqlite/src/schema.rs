//! The tables of the file, and how a file of an older version is brought forward.
//!
//! All names begin with `cqrs_`, so that a program can keep tables of its own in the same file.
//!
//! Streams and names stand in each row as text. Numbers in their place would save some bytes, and
//! cost a lookup in each append and each read; and a person who looks into the file sees what is
//! there.

use cqrs_core::error::StoreErrorKind;
use cqrs_core::store::LogId;
use rusqlite::{Connection, OptionalExtension as _};
use uuid::Uuid;

use crate::error::Fault;
use crate::snapshots;

/// Marks a file as ours, in the place that SQLite has for it: `cqrs` in ASCII.
pub(crate) const APPLICATION_ID: i32 = 0x6371_7273;

/// The version of the tables that this program writes. It stands in the file as `user_version`.
pub(crate) const VERSION: i32 = 2;

const TABLES: [&str; 8] = [
    "cqrs_meta",
    "cqrs_events",
    "cqrs_tags",
    "cqrs_keys",
    "cqrs_consumers",
    "cqrs_checkpoints",
    "cqrs_documents",
    "cqrs_snapshots",
];

/// What leads from one version to the next, from nothing on.
const STEPS: [&str; VERSION as usize] = [FIRST, snapshots::CREATE];

/// Version 1. A column that is often long stands last, so that the others are found before it.
const FIRST: &str = "
    CREATE TABLE cqrs_meta (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        log BLOB NOT NULL
    ) STRICT;
    CREATE TABLE cqrs_events (
        position INTEGER PRIMARY KEY,
        version INTEGER NOT NULL,
        schema_version INTEGER NOT NULL,
        time INTEGER NOT NULL,
        checksum INTEGER NOT NULL,
        id BLOB NOT NULL,
        stream TEXT NOT NULL,
        name TEXT NOT NULL,
        tags TEXT,
        metadata TEXT,
        payload BLOB NOT NULL
    ) STRICT;
    CREATE UNIQUE INDEX cqrs_events_by_stream ON cqrs_events (stream, version);
    CREATE UNIQUE INDEX cqrs_events_by_id ON cqrs_events (id);
    CREATE INDEX cqrs_events_by_name ON cqrs_events (name);
    CREATE TABLE cqrs_tags (
        tag TEXT NOT NULL,
        position INTEGER NOT NULL,
        PRIMARY KEY (tag, position)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE cqrs_keys (
        stream TEXT NOT NULL,
        key TEXT NOT NULL,
        position INTEGER NOT NULL,
        versions TEXT NOT NULL,
        PRIMARY KEY (stream, key)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE cqrs_consumers (
        consumer TEXT NOT NULL PRIMARY KEY,
        epoch INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE cqrs_checkpoints (
        consumer TEXT NOT NULL,
        partition INTEGER NOT NULL,
        log BLOB NOT NULL,
        position INTEGER NOT NULL,
        event BLOB,
        PRIMARY KEY (consumer, partition)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE cqrs_documents (
        collection TEXT NOT NULL,
        key TEXT NOT NULL,
        content BLOB NOT NULL,
        PRIMARY KEY (collection, key)
    ) STRICT, WITHOUT ROWID;
";

/// What a file turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Nothing is in it yet.
    Empty,
    /// A store, with tables of this version.
    Store(i32),
}

/// Tells what a database is. Nothing is written.
pub(crate) fn inspect(conn: &Connection) -> Result<Found, Fault> {
    // In one snapshot: else another process may make the tables between two looks.
    let _snapshot = conn.is_autocommit().then(|| conn.unchecked_transaction()).transpose()?;
    let pragma = |name: &str| conn.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
    let (application, version) = (pragma("application_id")?, pragma("user_version")?);
    if application == APPLICATION_ID {
        return ours(version);
    }
    let tables = tables(conn)?;
    match tables.first() {
        None if application == 0 && version == 0 => Ok(Found::Empty),
        table => Err(foreign(application, table)),
    }
}

fn ours(version: i32) -> Result<Found, Fault> {
    match version {
        1..=VERSION => Ok(Found::Store(version)),
        newer if newer > VERSION => Err(Fault::new(
            StoreErrorKind::Unsupported,
            format!(
                "its tables have version {newer}, and this program knows them up to {VERSION}: a newer program wrote it"
            ),
        )),
        other => Err(Fault::corrupt(format!("its tables have the impossible version {other}"))),
    }
}

fn foreign(application: i32, table: Option<&String>) -> Fault {
    let table = table.map_or_else(String::new, |table| format!(" and has the table `{table}`"));
    Fault::new(
        StoreErrorKind::Invalid,
        format!(
            "it is the database of another application: its application id is {application:#010x}{table}. Name another file"
        ),
    )
}

fn tables(conn: &Connection) -> Result<Vec<String>, Fault> {
    let mut names = conn.prepare("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")?;
    let names = names.query_map((), |row| row.get(0))?;
    Ok(names.collect::<Result<_, _>>()?)
}

/// Creates the tables, or brings them to the version of this program. Stands in a transaction that
/// holds the lock for writing, so that of two processes that open a new file one creates them.
pub(crate) fn prepare(conn: &Connection) -> Result<(), Fault> {
    let version = match inspect(conn)? {
        Found::Empty => 0,
        Found::Store(version) => version,
    };
    for step in STEPS.iter().skip(usize::try_from(version).unwrap_or(STEPS.len())) {
        conn.execute_batch(step)?;
    }
    if version == 0 {
        conn.execute("INSERT INTO cqrs_meta (one, log) VALUES (1, ?1)", (Uuid::new_v4().as_bytes(),))?;
        conn.pragma_update(None, "application_id", APPLICATION_ID)?;
    }
    if version < VERSION {
        conn.pragma_update(None, "user_version", VERSION)?;
    }
    Ok(())
}

/// The log's id, from a file whose tables are all there.
pub(crate) fn log_id(conn: &Connection) -> Result<LogId, Fault> {
    let there = tables(conn)?;
    if let Some(missing) = TABLES.iter().find(|table| !there.iter().any(|name| name == *table)) {
        return Err(Fault::corrupt(format!("the table `{missing}` is missing")));
    }
    let id = conn.query_row("SELECT log FROM cqrs_meta", (), |row| row.get::<_, Vec<u8>>(0));
    let id = id.optional()?.ok_or_else(|| Fault::corrupt("the log has no id"))?;
    Ok(LogId(crate::read::uuid(&id)?))
}
