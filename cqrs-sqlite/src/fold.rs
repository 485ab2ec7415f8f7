//! Reading a stream to fold it, in pieces: while one is folded, a thread reads the next. Events are lent one
//! by one, and nothing is made of them that a fold does not need.
//!
//! Each piece is read to its end, in a transaction of its own. So a fold that is not polled holds neither a
//! thread nor a transaction, and at most two pieces in memory.

use std::sync::Arc;

use cqrs_core::error::{StoreError, StoreErrorKind};
use cqrs_core::event::Stored;
use cqrs_core::id::{Position, StreamId, Version};
use cqrs_core::store::{Pace, StreamEvent, TakeEvent};
use rusqlite::{Connection, Row};
use uuid::Uuid;

use crate::error::Fault;
use crate::read::{Checked, check_not_rewound, uuid};
use crate::readers::{Readers, Reading};

/// A piece ends with so many events, or when its payloads have so many bytes.
const EVENTS: usize = 500;
const BYTES: usize = 256 << 10;

/// Hands over what a stream has from a version on.
pub(crate) async fn stream(
    readers: &Arc<Readers>,
    stream: &StreamId,
    from: Version,
    floor: i64,
    take: &mut TakeEvent<'_>,
) -> Result<(), StoreError> {
    let mut pace = Pace::new();
    let mut next = Some(begin(readers, stream, from, floor)?);
    while let Some(reading) = next.take() {
        let piece = reading.end().await?;
        if let Some(version) = piece.next {
            next = Some(begin(readers, stream, version, floor)?);
        }
        for event in piece.events() {
            if take(event).is_break() {
                return Ok(());
            }
            if pace.is_due() {
                pace.pause().await;
            }
        }
    }
    Ok(())
}

fn begin(
    readers: &Arc<Readers>,
    stream: &StreamId,
    from: Version,
    floor: i64,
) -> Result<Reading<Piece>, StoreError> {
    let stream = stream.clone();
    readers.begin("read a stream", move |conn| {
        check_not_rewound(conn, floor)?;
        read(conn, &stream, from)
    })
}

fn read(conn: &Connection, stream: &StreamId, from: Version) -> Result<Piece, Fault> {
    let from = i64::try_from(from.get()).unwrap_or(i64::MAX);
    let mut select = conn.prepare_cached(
        "SELECT version, position, schema_version, name, payload, id, time, tags, metadata, checksum
         FROM cqrs_events WHERE stream = ?1 AND version >= ?2 ORDER BY version",
    )?;
    let mut rows = select.query((stream.as_str(), from))?;
    let mut piece = Piece::default();
    while let Some(row) = rows.next()? {
        if piece.is_full() {
            piece.next = Some(Version::new(row.get_ref(0)?.as_i64()?.cast_unsigned()));
            break;
        }
        piece.add(stream, row)?;
    }
    Ok(piece)
}

/// Some events, one behind the other.
#[derive(Debug, Default)]
struct Piece {
    names: String,
    payloads: Vec<u8>,
    events: Vec<Packed>,
    /// Where the next piece begins, if there is one.
    next: Option<Version>,
}

#[derive(Debug)]
struct Packed {
    id: Uuid,
    version: i64,
    position: i64,
    schema_version: u32,
    name_end: usize,
    payload_end: usize,
}

impl Piece {
    fn add(&mut self, stream: &StreamId, row: &Row<'_>) -> Result<(), Fault> {
        let (version, position) = (row.get_ref(0)?.as_i64()?, row.get_ref(1)?.as_i64()?);
        self.add_at(stream, row, version, position).map_err(|fault| match fault.kind() {
            StoreErrorKind::Corrupt => fault.at(position),
            _ => fault,
        })
    }

    fn add_at(&mut self, stream: &StreamId, row: &Row<'_>, version: i64, position: i64) -> Result<(), Fault> {
        let schema_version = row.get_ref(2)?.as_i64()?;
        let (name, payload) = (row.get_ref(3)?.as_str()?, row.get_ref(4)?.as_blob()?);
        let checked = Checked {
            numbers: [position, version, schema_version, row.get_ref(6)?.as_i64()?],
            id: row.get_ref(5)?.as_blob()?,
            stream: stream.as_str(),
            name,
            tags: row.get_ref(7)?.as_str_or_null()?,
            metadata: row.get_ref(8)?.as_str_or_null()?,
            payload,
        };
        checked.agree(row.get_ref(9)?.as_i64()?)?;
        let schema_version =
            u32::try_from(schema_version).map_err(|_| Fault::corrupt("its schema version is too large"))?;
        let id = uuid(checked.id)?;
        self.names.push_str(name);
        self.payloads.extend_from_slice(payload);
        let (name_end, payload_end) = (self.names.len(), self.payloads.len());
        self.events.push(Packed { id, version, position, schema_version, name_end, payload_end });
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.events.len() >= EVENTS || self.payloads.len() >= BYTES
    }

    /// The events, in their order.
    fn events(&self) -> impl Iterator<Item = StreamEvent<'_>> {
        let (mut name_from, mut payload_from) = (0, 0);
        self.events.iter().map(move |event| {
            let name = self.names.get(name_from..event.name_end).unwrap_or_default();
            let payload = self.payloads.get(payload_from..event.payload_end).unwrap_or_default();
            (name_from, payload_from) = (event.name_end, event.payload_end);
            StreamEvent {
                id: event.id,
                version: Version::new(event.version.cast_unsigned()),
                position: Position::new(event.position.cast_unsigned()),
                stored: Stored { name, version: event.schema_version, payload },
            }
        })
    }
}
