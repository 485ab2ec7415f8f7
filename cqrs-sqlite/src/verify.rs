//! Verification of the whole file: finds contradictions in its content.

use cqrs_core::store::LogId;
use rusqlite::{Connection, OptionalExtension as _};

use crate::error::Fault;
use crate::guard::number;
use crate::{read, snapshots};

/// The content of a file in which [`verify`](crate::SqliteStore::verify) found no faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verified {
    /// Events in the log.
    pub events: u64,
    /// Streams with at least one event.
    pub streams: u64,
    /// Checkpoints of consumers.
    pub checkpoints: u64,
    /// Documents of all consumers.
    pub documents: u64,
    /// Snapshots of streams.
    pub snapshots: u64,
}

pub(crate) fn verify(conn: &Connection, log: LogId) -> Result<Verified, Fault> {
    read::snapshot(conn, |conn| {
        check_pages(conn)?;
        let events = check_positions(conn)?;
        let streams = check_streams(conn)?;
        let tags = check_contents(conn)?;
        check_tag_index(conn, tags)?;
        check_keys(conn, events)?;
        let checkpoints = check_checkpoints(conn, log, events)?;
        let documents = count(conn, "SELECT count(*) FROM cqrs_entries WHERE collection = ''")?;
        let snapshots = snapshots::verify(conn, log)?;
        Ok(Verified { events, streams, checkpoints, documents, snapshots })
    })
}

fn count(conn: &Connection, sql: &str) -> Result<u64, Fault> {
    Ok(conn.query_row(sql, (), |row| row.get::<_, i64>(0))?.cast_unsigned())
}

/// Runs SQLite's own check of pages, indexes, and column constraints.
fn check_pages(conn: &Connection) -> Result<(), Fault> {
    let found: String = conn.query_row("PRAGMA integrity_check(1)", (), |row| row.get(0))?;
    if found == "ok" { Ok(()) } else { Err(Fault::corrupt(format!("the file is damaged: {found}"))) }
}

/// Checks that positions count from 1 without gaps, and returns the number of events.
fn check_positions(conn: &Connection) -> Result<u64, Fault> {
    let mut select = conn.prepare("SELECT position FROM cqrs_events ORDER BY position")?;
    let mut rows = select.query(())?;
    let mut last: i64 = 0;
    while let Some(row) = rows.next()? {
        if row.get::<_, i64>(0)? != last + 1 {
            return Err(Fault::corrupt(format!("there is no event at position {}", last + 1)));
        }
        last += 1;
    }
    Ok(last.cast_unsigned())
}

/// Checks that each event can be decoded and matches its checksum, and returns the total number of tags.
fn check_contents(conn: &Connection) -> Result<u64, Fault> {
    let mut indexed = conn.prepare("SELECT 1 FROM cqrs_tags WHERE tag = ?1 AND position = ?2")?;
    let mut tags = 0;
    read::for_each_event(conn, |event| {
        let position = number(event.meta.position);
        for tag in &event.tags {
            if !indexed.exists((tag.as_str(), position))? {
                let message = format!("its tag `{tag}` is missing from the index of tags");
                return Err(Fault::corrupt(message).at(position));
            }
        }
        tags += event.tags.len() as u64;
        Ok(())
    })?;
    Ok(tags)
}

/// Checks that the index has no entries besides the tags of the events, all of which were found in it.
fn check_tag_index(conn: &Connection, expected: u64) -> Result<(), Fault> {
    let found = count(conn, "SELECT count(*) FROM cqrs_tags")?;
    if found == expected {
        return Ok(());
    }
    let message = format!("the index of tags has {found} entries, and the events have {expected} tags");
    Err(Fault::corrupt(message))
}

/// Checks that the versions of each stream count from 1 in the order of positions, and returns the number of
/// streams.
fn check_streams(conn: &Connection) -> Result<u64, Fault> {
    let mut select =
        conn.prepare("SELECT stream, version, position FROM cqrs_events ORDER BY stream, version")?;
    let mut rows = select.query(())?;
    let (mut stream, mut last, mut streams) = (String::new(), (0, 0), 0);
    while let Some(row) = rows.next()? {
        let name = row.get_ref(0)?.as_str()?;
        if name != stream {
            name.clone_into(&mut stream);
            (last, streams) = ((0, 0), streams + 1);
        }
        let (version, position): (i64, i64) = (row.get(1)?, row.get(2)?);
        if version != last.0 + 1 {
            return Err(Fault::corrupt(format!("{stream} has no version {}", last.0 + 1)));
        }
        if position <= last.1 {
            let message =
                format!("version {version} of {stream} has a lower position than the version before it");
            return Err(Fault::corrupt(message).at(position));
        }
        last = (version, position);
    }
    Ok(streams)
}

fn check_keys(conn: &Connection, events: u64) -> Result<(), Fault> {
    let mut select = conn.prepare("SELECT stream, key, position, versions FROM cqrs_keys")?;
    let mut rows = select.query(())?;
    while let Some(row) = rows.next()? {
        let (stream, key) = (row.get_ref(0)?.as_str()?, row.get_ref(1)?.as_str()?);
        let position = row.get::<_, i64>(2)?.cast_unsigned();
        let readable = cqrs_core::text::key(row.get_ref(3)?.as_str()?).is_some();
        if position > events || !readable {
            let message =
                format!("the key {key:?} of {stream} refers to a position or versions that do not exist");
            return Err(Fault::corrupt(message));
        }
    }
    Ok(())
}

/// Checks checkpoints of this log, and counts all. Checkpoints of another log, whose read models are in this file,
/// cannot be checked.
fn check_checkpoints(conn: &Connection, log: LogId, events: u64) -> Result<u64, Fault> {
    let mut select = conn.prepare("SELECT consumer, log, position, event FROM cqrs_checkpoints")?;
    let mut rows = select.query(())?;
    let mut checkpoints = 0;
    while let Some(row) = rows.next()? {
        checkpoints += 1;
        if read::uuid(row.get_ref(1)?.as_blob()?)? != log.0 {
            continue;
        }
        let consumer = row.get_ref(0)?.as_str()?;
        let position = row.get::<_, i64>(2)?;
        if position.cast_unsigned() > events {
            let message =
                format!("the checkpoint of `{consumer}` is at {position}, past the log's end at {events}");
            return Err(Fault::corrupt(message));
        }
        if let Some(event) = row.get_ref(3)?.as_blob_or_null()? {
            check_last_event(conn, consumer, event, position)?;
        }
    }
    Ok(checkpoints)
}

/// Checks that the last event that took effect is at or before the checkpoint.
fn check_last_event(conn: &Connection, consumer: &str, event: &[u8], position: i64) -> Result<(), Fault> {
    let mut select = conn.prepare_cached("SELECT position FROM cqrs_events WHERE id = ?1")?;
    let found: Option<i64> = select.query_row((event,), |row| row.get(0)).optional()?;
    match found {
        Some(found) if found <= position => Ok(()),
        _ => Err(Fault::corrupt(format!(
            "the checkpoint of `{consumer}` names an event that is not in the log at or before its position"
        ))),
    }
}
