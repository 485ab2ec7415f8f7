//! Consumers: their batches, claims, checkpoints, and records, in the same file as the log.

use std::collections::BTreeMap;

use cqrs_core::error::StoreError;
use cqrs_core::id::{Partition, Position};
use cqrs_core::read_store::{Batch, Checkpoint, Claim, CommitError, Record, RecordContent};
use cqrs_core::store::LogId;
use cqrs_core::text;
use rusqlite::{Connection, OptionalExtension as _, Row};
use uuid::Uuid;

use crate::append::Tx;
use crate::entries;
use crate::error::Fault;
use crate::read;
use crate::statements::{self, Refused};
use crate::writer::Write;

impl Write for Batch {
    type Done = ();
    type Error = CommitError;

    const DOING: &'static str = "commit read models";

    fn weight(&self) -> usize {
        self.writes.iter().map(|write| write.size() + 100).sum()
    }

    fn write(&self, tx: &mut Tx<'_>) -> Result<Result<(), CommitError>, Fault> {
        if epoch(tx.conn, &self.consumer)? != Some(self.epoch)
            || checkpoints(tx.conn, &self.consumer)? != self.from
        {
            return Ok(Err(CommitError::Fenced));
        }
        let Some(handlers) = &self.handlers else {
            write_checkpoint(tx.conn, &self.consumer, self.partition, &self.to)?;
            entries::write(tx.conn, &self.consumer, &self.writes)?;
            return Ok(Ok(()));
        };
        let first = !has_committed(tx.conn, &self.consumer)?;
        let before = tx.mark()?;
        write_checkpoint(tx.conn, &self.consumer, self.partition, &self.to)?;
        entries::write(tx.conn, &self.consumer, &self.writes)?;
        match statements::run(tx.conn, handlers, first)? {
            Ok(()) => tx.keep().map(Ok),
            Err(refused) => {
                tx.back_to(before)?;
                Ok(Err(match refused {
                    Refused::Unfit(unfit) => CommitError::Unfit(unfit),
                    Refused::Store(error) => CommitError::Store(error),
                }))
            }
        }
    }
}

/// A consumer that is to be taken over.
#[derive(Debug)]
pub(crate) struct Claiming(pub(crate) String);

impl Write for Claiming {
    type Done = Claim;
    type Error = StoreError;

    const DOING: &'static str = "claim a consumer";

    fn weight(&self) -> usize {
        100
    }

    fn write(&self, tx: &mut Tx<'_>) -> Result<Result<Claim, StoreError>, Fault> {
        let mut raise = tx.conn.prepare_cached(
            "INSERT INTO cqrs_consumers (consumer, epoch) VALUES (?1, 1)
             ON CONFLICT (consumer) DO UPDATE SET epoch = epoch + 1 RETURNING epoch, revision",
        )?;
        let (epoch, revision): (i64, i64) =
            raise.query_row((&self.0,), |row| Ok((row.get(0)?, row.get(1)?)))?;
        let checkpoints = checkpoints(tx.conn, &self.0)?;
        let (epoch, revision) = (epoch.cast_unsigned(), revision.cast_unsigned());
        Ok(Ok(Claim { epoch, checkpoints, revision }))
    }
}

/// A consumer's record that is to replace the one of the expected revision.
#[derive(Debug)]
pub(crate) struct Recording {
    pub(crate) consumer: String,
    pub(crate) expected: u64,
    pub(crate) content: RecordContent,
}

impl Write for Recording {
    type Done = bool;
    type Error = StoreError;

    const DOING: &'static str = "record what a consumer reads";

    fn weight(&self) -> usize {
        1_000
    }

    fn write(&self, tx: &mut Tx<'_>) -> Result<Result<bool, StoreError>, Fault> {
        if revision(tx.conn, &self.consumer)? != self.expected {
            return Ok(Ok(false));
        }
        let mut write = tx.conn.prepare_cached(
            "INSERT INTO cqrs_consumers (consumer, epoch, revision, record) VALUES (?1, 1, 1, ?2)
             ON CONFLICT (consumer) DO UPDATE
             SET epoch = epoch + 1, revision = revision + 1, record = excluded.record",
        )?;
        write.execute((&self.consumer, text::of_record(&self.content)))?;
        Ok(Ok(true))
    }
}

/// A consumer that is to begin at the start of the log again.
#[derive(Debug)]
pub(crate) struct Resetting(pub(crate) String);

impl Write for Resetting {
    type Done = ();
    type Error = StoreError;

    const DOING: &'static str = "reset a consumer";

    fn weight(&self) -> usize {
        1_000
    }

    fn write(&self, tx: &mut Tx<'_>) -> Result<Result<(), StoreError>, Fault> {
        let mut raise = tx.conn.prepare_cached(
            "INSERT INTO cqrs_consumers (consumer, epoch, revision) VALUES (?1, 1, 1)
             ON CONFLICT (consumer) DO UPDATE
             SET epoch = epoch + 1, revision = revision + 1, record = NULL",
        )?;
        raise.execute((&self.0,))?;
        tx.conn.execute("DELETE FROM cqrs_checkpoints WHERE consumer = ?1", (&self.0,))?;
        tx.conn.execute("DELETE FROM cqrs_entries WHERE consumer = ?1", (&self.0,))?;
        Ok(Ok(()))
    }
}

/// The revision of a consumer's record; 0 if nothing was ever recorded.
pub(crate) fn revision(conn: &Connection, consumer: &str) -> Result<u64, Fault> {
    let mut select = conn.prepare_cached("SELECT revision FROM cqrs_consumers WHERE consumer = ?1")?;
    let revision: Option<i64> = select.query_row((consumer,), |row| row.get(0)).optional()?;
    Ok(revision.map_or(0, i64::cast_unsigned))
}

pub(crate) fn record(conn: &Connection, consumer: &str) -> Result<Record, Fault> {
    let mut select =
        conn.prepare_cached("SELECT revision, record FROM cqrs_consumers WHERE consumer = ?1")?;
    let found = select.query_row((consumer,), |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    let Some((revision, content)) = found else { return Ok(Record::default()) };
    let (revision, content): (i64, Option<String>) = (revision, content);
    let read = |content: String| {
        text::record(&content)
            .ok_or_else(|| Fault::corrupt(format!("the record of the consumer {consumer:?} cannot be read")))
    };
    let content = content.map(read).transpose()?.unwrap_or_default();
    Ok(Record { revision: revision.cast_unsigned(), content })
}

fn epoch(conn: &Connection, consumer: &str) -> Result<Option<u64>, Fault> {
    let mut select = conn.prepare_cached("SELECT epoch FROM cqrs_consumers WHERE consumer = ?1")?;
    let epoch = select.query_row((consumer,), |row| row.get(0)).optional()?;
    Ok(epoch.map(i64::cast_unsigned))
}

pub(crate) fn checkpoint(
    conn: &Connection,
    consumer: &str,
    partition: Partition,
) -> Result<Option<Checkpoint>, Fault> {
    let mut select = conn.prepare_cached(
        "SELECT log, position, event FROM cqrs_checkpoints WHERE consumer = ?1 AND partition = ?2",
    )?;
    let mut rows = select.query((consumer, partition.get()))?;
    rows.next()?.map(decode).transpose()
}

/// Whether a consumer has committed anything, in any partition.
pub(crate) fn has_committed(conn: &Connection, consumer: &str) -> Result<bool, Fault> {
    let mut select = conn.prepare_cached("SELECT 1 FROM cqrs_checkpoints WHERE consumer = ?1")?;
    Ok(select.exists((consumer,))?)
}

fn checkpoints(conn: &Connection, consumer: &str) -> Result<BTreeMap<Partition, Checkpoint>, Fault> {
    let mut select = conn
        .prepare_cached("SELECT log, position, event, partition FROM cqrs_checkpoints WHERE consumer = ?1")?;
    let mut rows = select.query((consumer,))?;
    let mut checkpoints = BTreeMap::new();
    while let Some(row) = rows.next()? {
        checkpoints.insert(Partition::new(row.get(3)?), decode(row)?);
    }
    Ok(checkpoints)
}

/// Positions of a checkpoint are only compared, so they are kept bit by bit: the log that they are
/// of may lie elsewhere and count as it likes.
fn decode(row: &Row<'_>) -> Result<Checkpoint, Fault> {
    Ok(Checkpoint {
        log: LogId(read::uuid(row.get_ref(0)?.as_blob()?)?),
        position: Position::new(row.get_ref(1)?.as_i64()?.cast_unsigned()),
        event: row.get_ref(2)?.as_blob_or_null()?.map(read::uuid).transpose()?,
    })
}

pub(crate) fn write_checkpoint(
    conn: &Connection,
    consumer: &str,
    partition: Partition,
    to: &Checkpoint,
) -> Result<(), Fault> {
    let mut write = conn.prepare_cached(
        "INSERT INTO cqrs_checkpoints (consumer, partition, log, position, event)
         VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (consumer, partition) DO UPDATE
         SET log = excluded.log, position = excluded.position, event = excluded.event",
    )?;
    let Checkpoint { log, position, event } = to;
    write.execute((
        consumer,
        partition.get(),
        log.0.as_bytes(),
        position.get().cast_signed(),
        event.as_ref().map(Uuid::as_bytes),
    ))?;
    Ok(())
}
