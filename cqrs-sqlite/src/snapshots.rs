//! Snapshots: the state of a stream at a version, in the same file as the log.
//!
//! Saved with the next group, so that one costs no commit of its own.

use bytes::Bytes;
use cqrs_core::error::StoreError;
use cqrs_core::id::{Position, StreamId, Version};
use cqrs_core::store::{LogId, Snapshot};
use rusqlite::{Connection, OptionalExtension as _, Row};

use crate::append::Tx;
use crate::error::Fault;
use crate::guard::number;
use crate::read;
use crate::writer::Write;

/// Version 2 of the tables.
pub(crate) const CREATE: &str = "
    CREATE TABLE cqrs_snapshots (
        stream TEXT NOT NULL PRIMARY KEY,
        log BLOB NOT NULL,
        version INTEGER NOT NULL,
        position INTEGER NOT NULL,
        fingerprint INTEGER NOT NULL,
        checksum INTEGER NOT NULL,
        state BLOB NOT NULL
    ) STRICT;
";

impl Write for Snapshot {
    type Done = ();
    type Error = StoreError;

    const DOING: &'static str = "save a snapshot";

    fn weight(&self) -> usize {
        self.state.len() + 200
    }

    fn write(&self, tx: &mut Tx<'_>) -> Result<Result<(), StoreError>, Fault> {
        let mut put = tx.conn.prepare_cached(
            "INSERT INTO cqrs_snapshots (stream, log, version, position, event, fingerprint, checksum, state)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
             ON CONFLICT (stream) DO UPDATE
             SET log = excluded.log, version = excluded.version, position = excluded.position,
                 event = excluded.event, fingerprint = excluded.fingerprint,
                 checksum = excluded.checksum, state = excluded.state
             WHERE version <= excluded.version OR fingerprint <> excluded.fingerprint OR log <> excluded.log",
        )?;
        put.execute((
            self.stream.as_str(),
            self.log.0.as_bytes(),
            self.version.get().cast_signed(),
            number(self.position),
            self.event.as_bytes(),
            self.fingerprint.cast_signed(),
            sum(self),
            &*self.state,
        ))?;
        Ok(Ok(()))
    }
}

/// A stream whose snapshot is to be taken away.
#[derive(Debug)]
pub(crate) struct Forgetting(pub(crate) StreamId);

impl Write for Forgetting {
    type Done = ();
    type Error = StoreError;

    const DOING: &'static str = "forget a snapshot";

    fn weight(&self) -> usize {
        100
    }

    fn write(&self, tx: &mut Tx<'_>) -> Result<Result<(), StoreError>, Fault> {
        let mut remove = tx.conn.prepare_cached("DELETE FROM cqrs_snapshots WHERE stream = ?1")?;
        remove.execute((self.0.as_str(),))?;
        Ok(Ok(()))
    }
}

pub(crate) fn find(
    conn: &Connection,
    stream: &StreamId,
    fingerprint: u64,
) -> Result<Option<Snapshot>, Fault> {
    let mut select = conn.prepare_cached(
        "SELECT stream, log, version, position, event, fingerprint, checksum, state
         FROM cqrs_snapshots WHERE stream = ?1 AND fingerprint = ?2",
    )?;
    let mut rows = select.query((stream.as_str(), fingerprint.cast_signed()))?;
    rows.next()?.map(decode).transpose()
}

fn decode(row: &Row<'_>) -> Result<Snapshot, Fault> {
    let stream = row.get_ref(0)?.as_str()?;
    let stream: StreamId = stream.parse().map_err(|_| Fault::corrupt("a snapshot is of no stream"))?;
    let snapshot = Snapshot {
        stream,
        log: LogId(read::uuid(row.get_ref(1)?.as_blob()?)?),
        version: Version::new(row.get_ref(2)?.as_i64()?.cast_unsigned()),
        position: Position::new(row.get_ref(3)?.as_i64()?.cast_unsigned()),
        event: read::uuid(row.get_ref(4)?.as_blob()?)?,
        fingerprint: row.get_ref(5)?.as_i64()?.cast_unsigned(),
        state: Bytes::copy_from_slice(row.get_ref(7)?.as_blob()?),
    };
    if i64::from(sum(&snapshot)) != row.get_ref(6)?.as_i64()? {
        let stream = &snapshot.stream;
        return Err(Fault::corrupt(format!(
            "the snapshot of {stream} is not what was written: its checksum differs"
        )));
    }
    Ok(snapshot)
}

/// Makes snapshots of one log those of another, which has the same events. One that cannot be read is
/// removed: it is a cache.
pub(crate) fn assign(conn: &Connection, old: LogId, new: LogId) -> Result<(), Fault> {
    let mut select = conn.prepare(
        "SELECT stream, log, version, position, event, fingerprint, checksum, state FROM cqrs_snapshots
         WHERE log = ?1 AND stream > ?2 ORDER BY stream LIMIT 1",
    )?;
    let mut update = conn.prepare("UPDATE cqrs_snapshots SET log = ?2, checksum = ?3 WHERE stream = ?1")?;
    let mut remove = conn.prepare("DELETE FROM cqrs_snapshots WHERE stream = ?1")?;
    let mut last = String::new();
    loop {
        let mut rows = select.query((old.0.as_bytes(), &last))?;
        let Some(row) = rows.next()? else { return Ok(()) };
        row.get_ref(0)?.as_str()?.clone_into(&mut last);
        let snapshot = decode(row);
        drop(rows);
        match snapshot {
            Ok(snapshot) => {
                let sum = sum(&Snapshot { log: new, ..snapshot });
                update.execute((&last, new.0.as_bytes(), sum))?;
            }
            Err(_) => _ = remove.execute((&last,))?,
        }
    }
}

/// A CRC-32 of all of it.
fn sum(snapshot: &Snapshot) -> u32 {
    let Snapshot { stream, log, version, position, event, fingerprint, state } = snapshot;
    let mut sum = crc32fast::Hasher::new();
    for number in [version.get(), position.get(), *fingerprint, stream.as_str().len() as u64] {
        sum.update(&number.to_le_bytes());
    }
    sum.update(log.0.as_bytes());
    sum.update(event.as_bytes());
    sum.update(stream.as_str().as_bytes());
    sum.update(state);
    sum.finalize()
}

/// Each snapshot is what was written, and the log has its event where it says. Gives how many there are.
///
/// Those of another log say nothing about this one.
pub(crate) fn verify(conn: &Connection, log: LogId) -> Result<u64, Fault> {
    let mut select = conn.prepare(
        "SELECT stream, log, version, position, event, fingerprint, checksum, state FROM cqrs_snapshots",
    )?;
    let mut find = conn.prepare("SELECT position, id FROM cqrs_events WHERE stream = ?1 AND version = ?2")?;
    let mut rows = select.query(())?;
    let mut snapshots = 0;
    while let Some(row) = rows.next()? {
        snapshots += 1;
        let snapshot = decode(row)?;
        let Snapshot { stream, version, position, event, .. } = &snapshot;
        let at = (stream.as_str(), version.get().cast_signed());
        let found: Option<(i64, Vec<u8>)> =
            find.query_row(at, |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
        let named = (number(*position), event.as_bytes().to_vec());
        if snapshot.log == log && found != Some(named) {
            let words = format!(
                "the snapshot of {stream} is at version {version}, where the log does not have the event {event} at position {position}"
            );
            return Err(Fault::corrupt(words));
        }
    }
    Ok(snapshots)
}
