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

use crate::error::Fault;
use crate::file::Content;
use crate::snapshots;

/// Marks a file as ours, in the place that SQLite has for it: `cqrs` in ASCII.
pub(crate) const APPLICATION_ID: i32 = 0x6371_7273;

/// The version of the tables that this program writes. It stands in the file as `user_version`.
pub(crate) const VERSION: i32 = 3;

const TABLES: [&str; 8] = [
    "cqrs_meta",
    "cqrs_events",
    "cqrs_tags",
    "cqrs_keys",
    "cqrs_consumers",
    "cqrs_checkpoints",
    "cqrs_entries",
    "cqrs_snapshots",
];

/// The statements that lead from one version to the next, starting with none.
const STEPS: [&str; VERSION as usize] = [FIRST, snapshots::CREATE, THIRD];

/// Version 3.
///
/// From this version on, a file states which version a program has to know to read it and to write to it.
/// `wal` says whether commits follow that are not in the main file, and `generation` counts how often it said
/// so: see `checkpoint`. `record` is what the programs that know a consumer have recorded about it, and
/// `revision` counts its changes. A snapshot names its last event. Those of version 2 do not, and are removed:
/// they are a cache.
///
/// A consumer owns several collections of entries, with bytes for keys. Those of version 2 were documents, in the
/// collection without a name.
const THIRD: &str = "
    ALTER TABLE cqrs_meta ADD COLUMN min_reader INTEGER NOT NULL DEFAULT 3;
    ALTER TABLE cqrs_meta ADD COLUMN min_writer INTEGER NOT NULL DEFAULT 3;
    ALTER TABLE cqrs_meta ADD COLUMN wal INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE cqrs_meta ADD COLUMN generation INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE cqrs_consumers ADD COLUMN revision INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE cqrs_consumers ADD COLUMN record TEXT;
    DROP TABLE cqrs_snapshots;
    CREATE TABLE cqrs_snapshots (
        stream TEXT NOT NULL PRIMARY KEY,
        log BLOB NOT NULL,
        version INTEGER NOT NULL,
        position INTEGER NOT NULL,
        event BLOB NOT NULL,
        fingerprint INTEGER NOT NULL,
        checksum INTEGER NOT NULL,
        state BLOB NOT NULL
    ) STRICT;
    CREATE TABLE cqrs_entries (
        consumer TEXT NOT NULL,
        collection TEXT NOT NULL,
        key BLOB NOT NULL,
        content BLOB NOT NULL,
        PRIMARY KEY (consumer, collection, key)
    ) STRICT, WITHOUT ROWID;
    INSERT INTO cqrs_entries (consumer, collection, key, content)
        SELECT collection, '', CAST(key AS BLOB), content FROM cqrs_documents;
    DROP TABLE cqrs_documents;
";

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

/// The version of a file's tables, and the versions that a program has to know to use them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Versions {
    tables: i32,
    min_reader: i32,
    min_writer: i32,
}

impl Versions {
    /// Refuses a file that this program does not know how to read.
    pub(crate) fn readable(self) -> Result<(), Fault> {
        self.known("read", self.min_reader)
    }

    /// Refuses a file that this program does not know how to write to.
    pub(crate) fn writable(self) -> Result<(), Fault> {
        self.known("write to", self.min_writer.max(self.min_reader))
    }

    fn known(self, doing: &str, needed: i32) -> Result<(), Fault> {
        if needed <= VERSION {
            return Ok(());
        }
        Err(Fault::new(
            StoreErrorKind::Unsupported,
            format!(
                "its tables have version {}; a program that knows version {needed} can {doing} them, and this \
                 program knows version {VERSION}: deploy a newer release",
                self.tables
            ),
        ))
    }
}

/// What a file turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Nothing is in it yet.
    Empty,
    /// A store whose tables have an older version and have to be migrated.
    Older(i32),
    /// A store that this program can at least read.
    Ready(Versions),
}

/// Finds out what a database is. Nothing is written.
pub(crate) fn inspect(conn: &Connection) -> Result<Found, Fault> {
    // In one snapshot: else another process may make the tables between two looks.
    let _snapshot = conn.is_autocommit().then(|| conn.unchecked_transaction()).transpose()?;
    let pragma = |name: &str| conn.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
    let (application, version) = (pragma("application_id")?, pragma("user_version")?);
    if application == APPLICATION_ID {
        return ours(conn, version);
    }
    let tables = tables(conn)?;
    match tables.first() {
        None if application == 0 && version == 0 => Ok(Found::Empty),
        table => Err(foreign(application, table)),
    }
}

/// The first version of the tables that states what a program has to know.
const STATED: i32 = 3;

fn ours(conn: &Connection, version: i32) -> Result<Found, Fault> {
    match version {
        1..STATED => Ok(Found::Older(version)),
        STATED.. => {
            let versions = versions(conn, version)?;
            versions.readable()?;
            Ok(if version < VERSION { Found::Older(version) } else { Found::Ready(versions) })
        }
        other => Err(Fault::corrupt(format!("its tables have the impossible version {other}"))),
    }
}

/// What a program has to know to use the file as it is now.
pub(crate) fn current(conn: &Connection) -> Result<Versions, Fault> {
    let tables = conn.prepare_cached("PRAGMA user_version")?.query_row((), |row| row.get(0))?;
    versions(conn, tables)
}

fn versions(conn: &Connection, tables: i32) -> Result<Versions, Fault> {
    let numbers = conn.query_row("SELECT min_reader, min_writer FROM cqrs_meta", (), |row| {
        Ok(Versions { tables, min_reader: row.get(0)?, min_writer: row.get(1)? })
    });
    numbers.map_err(|error| match tables > VERSION {
        // A version that states its needs elsewhere is one that this program does not know.
        true => Versions { tables, min_reader: tables, min_writer: tables }
            .readable()
            .err()
            .unwrap_or_else(|| error.into()),
        false => error.into(),
    })
}

/// The refusal of a file that has to be migrated first.
pub(crate) fn outdated(version: i32) -> Fault {
    Fault::new(
        StoreErrorKind::Unsupported,
        format!(
            "its tables have version {version}, and this program needs version {VERSION}: stop the programs that \
             use the file, copy it, and call `SqliteStore::migrate`"
        ),
    )
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

/// Creates the tables of an empty file, and refuses one that has to be migrated. Runs in a transaction that
/// holds the lock for writing, so that of two processes that open a new file one creates them.
pub(crate) fn prepare(conn: &Connection) -> Result<(), Fault> {
    match inspect(conn)? {
        Found::Empty => Ok(conn.execute_batch(&statements(0))?),
        Found::Older(version) => Err(outdated(version)),
        Found::Ready(_) => Ok(()),
    }
}

/// Creates the tables, or brings them to this program's version. Runs in a transaction as [`prepare`] does.
pub(crate) fn migrate(conn: &Connection) -> Result<(), Fault> {
    Ok(conn.execute_batch(&statements(version(conn)?))?)
}

/// The statements that [`migrate`] runs, with its transaction around them; empty if there is nothing to do.
pub(crate) fn migration_sql(conn: &Connection) -> Result<String, Fault> {
    let statements = statements(version(conn)?);
    Ok(match statements.is_empty() {
        true => statements,
        false => format!("BEGIN EXCLUSIVE;\n{statements}COMMIT;\n"),
    })
}

/// The version that a migration starts from.
fn version(conn: &Connection) -> Result<i32, Fault> {
    Ok(match inspect(conn)? {
        Found::Empty => 0,
        Found::Older(version) => version,
        Found::Ready(_) => VERSION,
    })
}

/// All statements that lead from a version to this program's.
fn statements(version: i32) -> String {
    let steps = STEPS.iter().zip(1..).filter(|(_, to)| *to > version);
    let mut sql: String =
        steps.map(|(step, to)| format!("-- to version {to}{}\n", step.trim_end())).collect();
    if version == 0 {
        sql += "INSERT INTO cqrs_meta (one, log) VALUES (1, randomblob(16));\n";
        sql += &format!("PRAGMA application_id = {APPLICATION_ID};\n");
    }
    if version < VERSION {
        sql += &format!("PRAGMA user_version = {VERSION};\n");
    }
    sql
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

/// Whether the file says that commits follow that are in its WAL only. Tables of an older version do not say.
pub(crate) fn expects_wal(conn: &Connection) -> Result<bool, Fault> {
    let version: i32 = conn.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if version < STATED {
        return Ok(false);
    }
    Ok(conn.query_row("SELECT wal = 1 FROM cqrs_meta", (), |row| row.get(0))?)
}

/// What the file says of itself; nothing before it has tables of a version that does.
pub(crate) fn content(conn: &Connection) -> Result<Option<Content>, Fault> {
    let version: i32 = conn.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if version < STATED {
        return Ok(None);
    }
    let row = conn.query_row("SELECT log, generation FROM cqrs_meta", (), |row| {
        Ok((row.get::<_, Vec<u8>>(0)?, row.get(1)?))
    });
    let (log, generation) = row.optional()?.ok_or_else(|| Fault::corrupt("the log has no id"))?;
    Ok(Some(Content { log: LogId(crate::read::uuid(&log)?), generation }))
}
