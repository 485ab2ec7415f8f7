//! Reading a stream to fold it: its events are lent as they come, and nothing is made of what a fold does not
//! need.

use std::pin::pin;

use cqrs_core::error::StoreErrorKind;
use cqrs_core::event::Stored;
use cqrs_core::id::{Position, StreamId, Version};
use cqrs_core::store::{StreamEvent, TakeEvent};
use futures_util::TryStreamExt as _;
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use crate::error::Fault;
use crate::open::{Conn, Sql};
use crate::readers::Lanes;

// Each number that is sent costs the server as much as a short text. Most schema versions are the first, which
// goes without saying.
static FOLD: Sql = Sql::new(
    "SELECT e.version, e.position, nullif(e.schema_version, 1), e.name, e.payload FROM {s}.events e
     WHERE e.stream = $1 AND e.version >= $2 ORDER BY e.version",
    &[Type::TEXT, Type::INT8],
);

/// Hands over what a stream has from a version on. If the connection is lost, it goes on where it was, for
/// what was handed over never changes.
pub(crate) async fn stream(
    lanes: &Lanes,
    stream: &StreamId,
    from: Version,
    take: &mut TakeEvent<'_>,
) -> Result<(), Fault> {
    if stream.as_str().contains('\0') {
        // No text in the database has one.
        return Ok(());
    }
    let mut next = from;
    let mut left = lanes.count();
    loop {
        let (conn, mut lent) = lanes.lend().await?;
        match lent.along(rows(&conn, stream, &mut next, take)).await {
            Err(fault) if fault.ends_connection() && left > 0 => left -= 1,
            done => return done,
        }
    }
}

async fn rows(
    conn: &Conn,
    stream: &StreamId,
    next: &mut Version,
    take: &mut TakeEvent<'_>,
) -> Result<(), Fault> {
    let from = i64::try_from(next.get()).unwrap_or(i64::MAX);
    let mut rows = pin!(conn.stream(&FOLD, &[&stream.as_str(), &from]).await?);
    while let Some(row) = rows.try_next().await? {
        let event = event(&row)?;
        *next = event.version.next();
        if take(event).is_break() {
            break;
        }
    }
    Ok(())
}

fn event(row: &Row) -> Result<StreamEvent<'_>, Fault> {
    let (version, position): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
    let stored = stored(row).map_err(|fault| match fault.kind() {
        StoreErrorKind::Corrupt => fault.at(position),
        _ => fault,
    })?;
    let (version, position) =
        (Version::new(version.cast_unsigned()), Position::new(position.cast_unsigned()));
    Ok(StreamEvent { version, position, stored })
}

fn stored(row: &Row) -> Result<Stored<'_>, Fault> {
    let version: Option<i64> = row.try_get(2)?;
    let version =
        u32::try_from(version.unwrap_or(1)).map_err(|_| Fault::corrupt("its schema version is too large"))?;
    Ok(Stored { name: row.try_get(3)?, version, payload: row.try_get(4)? })
}
