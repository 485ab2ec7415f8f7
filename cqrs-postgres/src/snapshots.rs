//! Snapshots: the state of a stream at a version, beside the log.
//!
//! They are a cache, so nobody waits for them to reach the disk.

use bytes::Bytes;
use cqrs_core::id::{Position, StreamId, Version};
use cqrs_core::store::{LogId, Snapshot};
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use crate::error::Fault;
use crate::limit::again;
use crate::open::{Conn, Param, Sql};

static SAVE: Sql = Sql::new(
    "WITH unhurried AS (SELECT set_config('synchronous_commit', 'off', true))
     INSERT INTO {s}.snapshots AS s (stream, log, version, position, event, fingerprint, state)
     SELECT $1, $2, $3, $4, $5, $6, $7 FROM unhurried
     ON CONFLICT (stream) DO UPDATE
     SET log = excluded.log, version = excluded.version, position = excluded.position,
         event = excluded.event, fingerprint = excluded.fingerprint, state = excluded.state
     WHERE s.version <= excluded.version OR s.fingerprint <> excluded.fingerprint OR s.log <> excluded.log
         OR s.event IS NULL",
    &[Type::TEXT, Type::UUID, Type::INT8, Type::INT8, Type::UUID, Type::INT8, Type::BYTEA],
);
static FORGET: Sql = Sql::new("DELETE FROM {s}.snapshots s WHERE s.stream = $1", &[Type::TEXT]);
static FIND: Sql = Sql::new(
    "SELECT s.log, s.version, s.position, s.event, s.state FROM {s}.snapshots s
     WHERE s.stream = $1 AND s.fingerprint = $2 AND s.event IS NOT NULL",
    &[Type::TEXT, Type::INT8],
);

pub(crate) async fn save(conn: &Conn, snapshot: &Snapshot) -> Result<(), Fault> {
    let Snapshot { stream, log, version, position, event, fingerprint, state } = snapshot;
    let (version, position) = (version.get().cast_signed(), position.get().cast_signed());
    let fingerprint = fingerprint.cast_signed();
    conn.ready(&[&SAVE]).await?;
    let (stream, state) = (stream.as_str(), &**state);
    let save = || async {
        let params: [Param<'_>; 7] = [&stream, &log.0, &version, &position, event, &fingerprint, &state];
        conn.transaction(conn.rows(&SAVE, &params)).await.map(drop)
    };
    again("save a snapshot", save).await
}

pub(crate) async fn forget(conn: &Conn, stream: &StreamId) -> Result<(), Fault> {
    conn.ready(&[&FORGET]).await?;
    let stream = stream.as_str();
    let forget = || async { conn.transaction(conn.rows(&FORGET, &[&stream])).await.map(drop) };
    again("forget a snapshot", forget).await
}

pub(crate) async fn find(
    conn: &Conn,
    stream: &StreamId,
    fingerprint: u64,
) -> Result<Option<Snapshot>, Fault> {
    let rows = conn.rows(&FIND, &[&stream.as_str(), &fingerprint.cast_signed()]).await?;
    rows.first().map(|row| decode(row, stream, fingerprint)).transpose()
}

/// Numbers are kept bit by bit, as they were saved.
fn decode(row: &Row, stream: &StreamId, fingerprint: u64) -> Result<Snapshot, Fault> {
    let (version, position): (i64, i64) = (row.try_get(1)?, row.try_get(2)?);
    Ok(Snapshot {
        stream: stream.clone(),
        log: LogId(row.try_get(0)?),
        version: Version::new(version.cast_unsigned()),
        position: Position::new(position.cast_unsigned()),
        event: row.try_get(3)?,
        fingerprint,
        state: Bytes::copy_from_slice(row.try_get(4)?),
    })
}
