//! Consumers: their batches, claims, checkpoints, and records, in the same schema as the log.

use std::collections::BTreeMap;

use cqrs_core::consumer::Handlers;
use cqrs_core::id::{Partition, Position};
use cqrs_core::read_store::{Batch, Checkpoint, Claim, CommitError, Record, RecordContent};
use cqrs_core::store::LogId;
use cqrs_core::text;
use futures_util::future;
use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use crate::entries::Writes;
use crate::error::Fault;
use crate::limit::again;
use crate::open::{Conn, Param, Sql};
use crate::statements::{self, Refused};

static COMMIT: Sql = Sql::new(
    "SELECT {s}.commit_v3($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)",
    &[
        Type::TEXT,
        Type::INT4,
        Type::INT8,
        Type::INT4_ARRAY,
        Type::UUID_ARRAY,
        Type::INT8_ARRAY,
        Type::UUID_ARRAY,
        Type::UUID,
        Type::INT8,
        Type::UUID,
        Type::TEXT_ARRAY,
        Type::BYTEA_ARRAY,
        Type::BYTEA_ARRAY,
        Type::TEXT_ARRAY,
        Type::BYTEA_ARRAY,
    ],
);

static HOLD: Sql =
    Sql::new("SELECT c.epoch FROM {s}.consumers c WHERE c.consumer = $1 FOR NO KEY UPDATE", &[Type::TEXT]);

/// Commits a batch with statements of the user's own, on a connection that nobody shares. Unless it is
/// committed, the transaction is left for the caller to end.
pub(crate) async fn commit_statements(
    conn: &Conn,
    batch: &Batch,
    handlers: &Handlers,
) -> Result<Result<(), CommitError>, Fault> {
    let commit = || async {
        let done = statements_once(conn, batch, handlers).await;
        if matches!(&done, Err(fault) if fault.passes()) {
            conn.client.batch_execute("ROLLBACK").await?;
        }
        done
    };
    again("commit read models", commit).await
}

async fn statements_once(
    conn: &Conn,
    batch: &Batch,
    handlers: &Handlers,
) -> Result<Result<(), CommitError>, Fault> {
    conn.ready(&[&HOLD, &CHECKPOINTS, &COMMIT]).await?;
    let begin = conn.begin_writing();
    // Each is sent when it is first polled, which is in this order.
    let (begun, owner, there) = future::join3(
        conn.client.batch_execute(&begin),
        conn.rows(&HOLD, &[&batch.consumer]),
        conn.rows(&CHECKPOINTS, &[&batch.consumer]),
    )
    .await;
    begun?;
    let epoch = owner?.first().map(|row| row.try_get::<_, i64>(0)).transpose()?;
    let there = there?;
    if epoch != Some(batch.epoch.cast_signed()) || by_partition(&there)? != batch.from {
        return Ok(Err(CommitError::Fenced));
    }
    match statements::run(conn, &batch.consumer, handlers, there.is_empty()).await? {
        Err(Refused::Unfit(unfit)) => return Ok(Err(CommitError::Unfit(unfit))),
        Err(Refused::Store(error)) => return Ok(Err(CommitError::Store(error))),
        Ok(()) => {}
    }
    let (moved, committed) =
        future::join(commit_once(conn, batch), conn.client.batch_execute("COMMIT")).await;
    let moved = moved.map_err(Fault::while_committing)?;
    committed.map_err(|error| Fault::from(error).while_committing())?;
    Ok(moved)
}

/// Commits a batch in one statement, which is its transaction.
pub(crate) async fn commit(conn: &Conn, batch: &Batch) -> Result<Result<(), CommitError>, Fault> {
    conn.ready(&[&COMMIT]).await?;
    let commit = || conn.transaction(commit_once(conn, batch));
    again("commit read models", commit).await.map_err(Fault::while_committing)
}

async fn commit_once(conn: &Conn, batch: &Batch) -> Result<Result<(), CommitError>, Fault> {
    let partitions: Vec<i32> = batch.from.keys().map(|partition| i32::from(partition.get())).collect();
    let from = batch.from.values();
    let logs: Vec<Uuid> = from.clone().map(|from| from.log.0).collect();
    let positions: Vec<i64> = from.clone().map(|from| from.position.get().cast_signed()).collect();
    let events: Vec<Option<Uuid>> = from.map(|from| from.event).collect();
    let Writes { put, removed } = Writes::of(&batch.writes);
    let row = conn
        .row(
            &COMMIT,
            &[
                &batch.consumer,
                &i32::from(batch.partition.get()),
                &batch.epoch.cast_signed(),
                &partitions,
                &logs,
                &positions,
                &events,
                &batch.to.log.0,
                &batch.to.position.get().cast_signed(),
                &batch.to.event,
                &put.collections,
                &put.keys,
                &put.contents,
                &removed.collections,
                &removed.keys,
            ],
        )
        .await?;
    Ok(if row.try_get(0)? { Ok(()) } else { Err(CommitError::Fenced) })
}

static CLAIM: Sql = Sql::new(
    "INSERT INTO {s}.consumers AS c (consumer, epoch) VALUES ($1, 1)
     ON CONFLICT (consumer) DO UPDATE SET epoch = c.epoch + 1 RETURNING c.epoch, c.revision",
    &[Type::TEXT],
);
static CHECKPOINTS: Sql = Sql::new(
    "SELECT c.log, c.position, c.event, c.partition FROM {s}.checkpoints c WHERE c.consumer = $1",
    &[Type::TEXT],
);
static CHECKPOINT: Sql = Sql::new(
    "SELECT c.log, c.position, c.event FROM {s}.checkpoints c WHERE c.consumer = $1 AND c.partition = $2",
    &[Type::TEXT, Type::INT4],
);

/// Takes a consumer over. The checkpoints are read after the epoch was raised: from then on nobody else
/// moves them.
pub(crate) async fn claim(conn: &Conn, consumer: &str) -> Result<Claim, Fault> {
    conn.ready(&[&CLAIM, &CHECKPOINTS]).await?;
    // Each is sent when it is first polled, which is in this order.
    let claim = || async {
        let params: [Param<'_>; 1] = [&consumer];
        let claim = future::try_join(conn.row(&CLAIM, &params), conn.rows(&CHECKPOINTS, &params));
        conn.transaction(claim).await
    };
    let (raised, there) = again("claim a consumer", claim).await.map_err(Fault::while_committing)?;
    let (epoch, revision): (i64, i64) = (raised.try_get(0)?, raised.try_get(1)?);
    let (epoch, revision) = (epoch.cast_unsigned(), revision.cast_unsigned());
    Ok(Claim { epoch, checkpoints: by_partition(&there)?, revision })
}

static RECORD: Sql =
    Sql::new("SELECT c.revision, c.record FROM {s}.consumers c WHERE c.consumer = $1", &[Type::TEXT]);
static FIRST_RECORD: Sql = Sql::new(
    "INSERT INTO {s}.consumers AS c (consumer, epoch, revision, record) VALUES ($1, 1, 1, $2)
     ON CONFLICT (consumer) DO UPDATE SET epoch = c.epoch + 1, revision = 1, record = excluded.record
     WHERE c.revision = 0 RETURNING c.revision",
    &[Type::TEXT, Type::TEXT],
);
static NEXT_RECORD: Sql = Sql::new(
    "UPDATE {s}.consumers c SET epoch = c.epoch + 1, revision = c.revision + 1, record = $2
     WHERE c.consumer = $1 AND c.revision = $3 RETURNING c.revision",
    &[Type::TEXT, Type::TEXT, Type::INT8],
);

pub(crate) async fn record(conn: &Conn, consumer: &str) -> Result<Record, Fault> {
    if consumer.contains('\0') {
        return Ok(Record::default());
    }
    let rows = conn.rows(&RECORD, &[&consumer]).await?;
    let Some(row) = rows.first() else { return Ok(Record::default()) };
    let (revision, content): (i64, Option<&str>) = (row.try_get(0)?, row.try_get(1)?);
    let read = |content| {
        text::record(content)
            .ok_or_else(|| Fault::corrupt(format!("the record of the consumer {consumer:?} cannot be read")))
    };
    let content = content.map(read).transpose()?.unwrap_or_default();
    Ok(Record { revision: revision.cast_unsigned(), content })
}

/// Replaces a record of the expected revision. Who holds the consumer's row is waited for, and whoever comes
/// next finds the new epoch and the new revision.
pub(crate) async fn set_record(
    conn: &Conn,
    consumer: &str,
    expected: u64,
    content: &RecordContent,
) -> Result<bool, Fault> {
    let content = text::of_record(content);
    conn.ready(&[&FIRST_RECORD, &NEXT_RECORD]).await?;
    let set = || async {
        match expected {
            0 => conn.transaction(conn.rows(&FIRST_RECORD, &[&consumer, &content])).await,
            expected => {
                let expected = expected.cast_signed();
                conn.transaction(conn.rows(&NEXT_RECORD, &[&consumer, &content, &expected])).await
            }
        }
    };
    let done = again("record what a consumer reads", set).await.map_err(Fault::while_committing)?;
    Ok(!done.is_empty())
}

static RESET: Sql = Sql::new(
    "INSERT INTO {s}.consumers AS c (consumer, epoch, revision) VALUES ($1, 1, 1)
     ON CONFLICT (consumer) DO UPDATE SET epoch = c.epoch + 1, revision = c.revision + 1, record = NULL",
    &[Type::TEXT],
);
static REMOVE_CHECKPOINTS: Sql =
    Sql::new("DELETE FROM {s}.checkpoints c WHERE c.consumer = $1", &[Type::TEXT]);
static REMOVE_ENTRIES: Sql = Sql::new("DELETE FROM {s}.entries e WHERE e.consumer = $1", &[Type::TEXT]);

/// Has a consumer begin at the start of the log again. The first statement takes the consumer's row, which batches and
/// inline appends hold until they are committed, so the others see all that those have written.
pub(crate) async fn reset(conn: &Conn, consumer: &str) -> Result<(), Fault> {
    conn.ready(&[&RESET, &REMOVE_CHECKPOINTS, &REMOVE_ENTRIES]).await?;
    // Each is sent when it is first polled, which is in this order.
    let reset = || async {
        let params: [Param<'_>; 1] = [&consumer];
        let reset = future::try_join3(
            conn.rows(&RESET, &params),
            conn.rows(&REMOVE_CHECKPOINTS, &params),
            conn.rows(&REMOVE_ENTRIES, &params),
        );
        conn.transaction(reset).await.map(drop)
    };
    again("reset a consumer", reset).await.map_err(Fault::while_committing)
}

fn by_partition(rows: &[Row]) -> Result<BTreeMap<Partition, Checkpoint>, Fault> {
    let mut checkpoints = BTreeMap::new();
    for row in rows {
        let partition: i32 = row.try_get(3)?;
        let partition =
            u16::try_from(partition).map_err(|_| Fault::corrupt("a checkpoint's partition cannot be"))?;
        checkpoints.insert(Partition::new(partition), decode(row)?);
    }
    Ok(checkpoints)
}

pub(crate) async fn checkpoint(
    conn: &Conn,
    consumer: &str,
    partition: Partition,
) -> Result<Option<Checkpoint>, Fault> {
    let rows = conn.rows(&CHECKPOINT, &[&consumer, &i32::from(partition.get())]).await?;
    rows.first().map(decode).transpose()
}

/// Positions of a checkpoint are only compared, so they are kept bit by bit: the log that they are
/// of may lie elsewhere and count as it likes.
fn decode(row: &Row) -> Result<Checkpoint, Fault> {
    let position: i64 = row.try_get(1)?;
    Ok(Checkpoint {
        log: LogId(row.try_get(0)?),
        position: Position::new(position.cast_unsigned()),
        event: row.try_get::<_, Option<Uuid>>(2)?,
    })
}
