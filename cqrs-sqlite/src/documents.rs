//! Read models and the checkpoints behind them, in the same file as the log.

use std::collections::BTreeMap;

use bytes::Bytes;
use cqrs_core::error::StoreError;
use cqrs_core::id::{Partition, Position};
use cqrs_core::read_store::{Batch, Checkpoint, Claim, CommitError};
use cqrs_core::store::LogId;
use rusqlite::{Connection, OptionalExtension as _, Row};
use uuid::Uuid;

use crate::append::Tx;
use crate::error::Fault;
use crate::read;
use crate::writer::Write;

impl Write for Batch {
    type Done = ();
    type Error = CommitError;

    const DOING: &'static str = "commit read models";

    fn weight(&self) -> usize {
        self.writes.iter().map(|(_, content)| content.as_ref().map_or(0, Bytes::len) + 100).sum()
    }

    fn write(&self, tx: &mut Tx<'_>) -> Result<Result<(), CommitError>, Fault> {
        if epoch(tx.conn, &self.consumer)? != Some(self.epoch)
            || checkpoint(tx.conn, &self.consumer, self.partition)? != self.from
        {
            return Ok(Err(CommitError::Fenced));
        }
        write_checkpoint(tx.conn, self)?;
        write_documents(tx.conn, self)?;
        Ok(Ok(()))
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
             ON CONFLICT (consumer) DO UPDATE SET epoch = epoch + 1 RETURNING epoch",
        )?;
        let epoch: i64 = raise.query_row((&self.0,), |row| row.get(0))?;
        let checkpoints = checkpoints(tx.conn, &self.0)?;
        Ok(Ok(Claim { epoch: epoch.cast_unsigned(), checkpoints }))
    }
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

fn write_checkpoint(conn: &Connection, batch: &Batch) -> Result<(), Fault> {
    let mut write = conn.prepare_cached(
        "INSERT INTO cqrs_checkpoints (consumer, partition, log, position, event)
         VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (consumer, partition) DO UPDATE
         SET log = excluded.log, position = excluded.position, event = excluded.event",
    )?;
    let Checkpoint { log, position, event } = &batch.to;
    write.execute((
        &batch.consumer,
        batch.partition.get(),
        log.0.as_bytes(),
        position.get().cast_signed(),
        event.as_ref().map(Uuid::as_bytes),
    ))?;
    Ok(())
}

fn write_documents(conn: &Connection, batch: &Batch) -> Result<(), Fault> {
    let mut put = conn.prepare_cached(
        "INSERT INTO cqrs_documents (collection, key, content) VALUES (?1, ?2, ?3)
         ON CONFLICT (collection, key) DO UPDATE SET content = excluded.content",
    )?;
    let mut remove = conn.prepare_cached("DELETE FROM cqrs_documents WHERE collection = ?1 AND key = ?2")?;
    for (key, content) in &batch.writes {
        match content {
            Some(content) => put.execute((&batch.collection, key, &**content))?,
            None => remove.execute((&batch.collection, key))?,
        };
    }
    Ok(())
}

pub(crate) fn get(conn: &Connection, collection: &str, keys: &[String]) -> Result<Vec<Option<Bytes>>, Fault> {
    read::snapshot(conn, |conn| {
        let mut select =
            conn.prepare_cached("SELECT content FROM cqrs_documents WHERE collection = ?1 AND key = ?2")?;
        let mut found = Vec::with_capacity(keys.len());
        for key in keys {
            let content = select.query_row((collection, key), |row| row.get::<_, Vec<u8>>(0)).optional()?;
            found.push(content.map(Bytes::from));
        }
        Ok(found)
    })
}

pub(crate) fn list(
    conn: &Connection,
    collection: &str,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<(String, Bytes)>, Fault> {
    let mut select = conn.prepare_cached(match after {
        None => {
            "SELECT key, content FROM cqrs_documents WHERE collection = ?1 AND ?2 IS NULL
                 ORDER BY key LIMIT ?3"
        }
        Some(_) => {
            "SELECT key, content FROM cqrs_documents WHERE collection = ?1 AND key > ?2
                    ORDER BY key LIMIT ?3"
        }
    })?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = select.query_map((collection, after, limit), |row| {
        Ok((row.get(0)?, Bytes::from(row.get::<_, Vec<u8>>(1)?)))
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}
