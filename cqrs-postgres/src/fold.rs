//! Reading a stream to fold it, in pieces of bounded size. Its events are lent from the rows, and nothing is
//! made of what a fold does not need.

use std::sync::Arc;

use cqrs_core::error::StoreErrorKind;
use cqrs_core::event::Stored;
use cqrs_core::id::{Position, StreamId, Version};
use cqrs_core::store::{Pace, StreamEvent, TakeEvent};
use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use crate::error::Fault;
use crate::news::{Floor, rewound};
use crate::open::{Conn, Param, Sql};
use crate::readers::{Lanes, Running};

// Each number that is sent costs the server as much as a short text. Most schema versions are the first, which
// goes without saying.
static FOLD: Sql = Sql::new(
    concat!(
        "SELECT v.rewound, b.version, b.position, nullif(b.schema_version, 1), b.name, b.payload, b.id FROM (SELECT ",
        rewound!("$5", "$6"),
        " AS rewound) v LEFT JOIN LATERAL (
         SELECT w.* FROM (SELECT f.*, sum(octet_length(f.payload)) OVER (ORDER BY f.version ROWS UNBOUNDED PRECEDING)
                               - octet_length(f.payload) AS before
               FROM (SELECT e.version, e.position, e.schema_version, e.name, e.payload, e.id FROM {s}.events e
                     WHERE e.stream = $1 AND e.version >= $2 ORDER BY e.version LIMIT $3) f) w
         WHERE w.before < $4 ORDER BY w.version) b ON true"
    ),
    &[Type::TEXT, Type::INT8, Type::INT8, Type::INT8, Type::INT4, Type::INT8],
);

/// A piece of a stream has at most so many events, and ends with the one that reaches so many bytes.
const EVENTS: usize = 1_000;
const BYTES: usize = 1 << 20;

/// Some events of a stream, read to the end before any of them is handed over.
struct Piece {
    rows: Vec<Row>,
    /// The version that the next piece begins with, unless the stream ends with this one.
    next: Option<Version>,
}

/// Hands over what a stream has from a version on. The next piece is read while one is handed over.
pub(crate) async fn stream(
    lanes: &Arc<Lanes>,
    stream: &StreamId,
    from: Version,
    floor: Floor,
    take: &mut TakeEvent<'_>,
) -> Result<(), Fault> {
    if stream.as_str().contains('\0') {
        // No text in the database has one.
        return Ok(());
    }
    let mut pace = Pace::new();
    let mut reading = Some(read(lanes, stream, from, floor));
    while let Some(next) = reading.take() {
        let piece = next.await?;
        reading = piece.next.map(|from| read(lanes, stream, from, floor));
        for row in &piece.rows {
            if take(event(row)?).is_break() {
                return Ok(());
            }
            if pace.is_due() {
                pace.pause().await;
            }
        }
    }
    Ok(())
}

fn read(lanes: &Arc<Lanes>, stream: &StreamId, from: Version, floor: Floor) -> Running<Piece> {
    let stream = stream.clone();
    lanes.read("read a stream", move |conn| {
        let stream = stream.clone();
        async move { piece(&conn, &stream, from, floor).await }
    })
}

async fn piece(conn: &Conn, stream: &StreamId, from: Version, floor: Floor) -> Result<Piece, Fault> {
    let from = i64::try_from(from.get()).unwrap_or(i64::MAX);
    let (partition, position) = floor.numbers();
    let (events, most) = (EVENTS as i64, BYTES as i64);
    let params: [Param<'_>; 6] = [&stream.as_str(), &from, &events, &most, &partition, &position];
    let mut rows = conn.rows(&FOLD, &params).await?;
    if let Some(first) = rows.first() {
        floor.hold(first, 0)?;
        if first.try_get::<_, Option<i64>>(1)?.is_none() {
            // It stands for no event.
            rows.clear();
        }
    }
    let mut bytes = 0;
    for row in &rows {
        bytes += row.try_get::<_, &[u8]>(5)?.len();
    }
    let next = match rows.last() {
        Some(last) if rows.len() >= EVENTS || bytes >= BYTES => {
            Some(Version::new(last.try_get::<_, i64>(1)?.cast_unsigned()).next())
        }
        _ => None,
    };
    Ok(Piece { rows, next })
}

fn event(row: &Row) -> Result<StreamEvent<'_>, Fault> {
    let (version, position, id): (i64, i64, Uuid) = (row.try_get(1)?, row.try_get(2)?, row.try_get(6)?);
    let stored = stored(row).map_err(|fault| match fault.kind() {
        StoreErrorKind::Corrupt => fault.at(position),
        _ => fault,
    })?;
    let (version, position) =
        (Version::new(version.cast_unsigned()), Position::new(position.cast_unsigned()));
    Ok(StreamEvent { id, version, position, stored })
}

fn stored(row: &Row) -> Result<Stored<'_>, Fault> {
    let version: Option<i64> = row.try_get(3)?;
    let version =
        u32::try_from(version.unwrap_or(1)).map_err(|_| Fault::corrupt("its schema version is too large"))?;
    Ok(Stored { name: row.try_get(4)?, version, payload: row.try_get(5)? })
}
