//! Folding a stream in chunks: a thread reads the next chunk while the caller folds the current one.
//!
//! The caller borrows one event at a time, and only what a fold needs is decoded. Each chunk is read completely, in
//! its own transaction. A fold that is not polled therefore holds no thread, no transaction, and at most two chunks
//! in memory.

use std::sync::Arc;

use cqrs_core::error::{StoreError, StoreErrorKind};
use cqrs_core::event::Stored;
use cqrs_core::id::{Position, StreamId, Version};
use cqrs_core::store::{Pace, StreamEvent, TakeEvent};
use rusqlite::{Connection, Row};
use uuid::Uuid;

use crate::error::Fault;
use crate::read::{ChecksumInput, check_not_rewound, uuid};
use crate::readers::{PendingRead, Readers};

/// Limits of a chunk: a number of events, and the bytes of their payloads.
const EVENTS: usize = 500;
const BYTES: usize = 256 << 10;

/// Passes the events of a stream to `take`, starting with the version `from`.
pub(crate) async fn stream(
    readers: &Arc<Readers>,
    stream: &StreamId,
    from: Version,
    floor: i64,
    take: &mut TakeEvent<'_>,
) -> Result<(), StoreError> {
    let mut pace = Pace::new();
    let mut next = Some(start_read(readers, stream, from, floor)?);
    while let Some(reading) = next.take() {
        let chunk = reading.finish().await?;
        if let Some(version) = chunk.next {
            next = Some(start_read(readers, stream, version, floor)?);
        }
        for event in chunk.events() {
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

fn start_read(
    readers: &Arc<Readers>,
    stream: &StreamId,
    from: Version,
    floor: i64,
) -> Result<PendingRead<Chunk>, StoreError> {
    let stream = stream.clone();
    readers.start("read a stream", move |conn| {
        check_not_rewound(conn, floor)?;
        read(conn, &stream, from)
    })
}

fn read(conn: &Connection, stream: &StreamId, from: Version) -> Result<Chunk, Fault> {
    let from = i64::try_from(from.get()).unwrap_or(i64::MAX);
    let mut select = conn.prepare_cached(
        "SELECT version, position, schema_version, name, payload, id, time, tags, metadata, checksum
         FROM cqrs_events WHERE stream = ?1 AND version >= ?2 ORDER BY version",
    )?;
    let mut rows = select.query((stream.as_str(), from))?;
    let mut chunk = Chunk::default();
    while let Some(row) = rows.next()? {
        if chunk.is_full() {
            chunk.next = Some(Version::new(row.get_ref(0)?.as_i64()?.cast_unsigned()));
            break;
        }
        chunk.add(stream, row)?;
    }
    Ok(chunk)
}

/// Consecutive events of a stream, packed into three allocations.
#[derive(Debug, Default)]
struct Chunk {
    names: String,
    payloads: Vec<u8>,
    events: Vec<PackedEvent>,
    /// The version that the next chunk starts with, if there is one.
    next: Option<Version>,
}

#[derive(Debug)]
struct PackedEvent {
    id: Uuid,
    version: i64,
    position: i64,
    schema_version: u32,
    name_end: usize,
    payload_end: usize,
}

impl Chunk {
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
        let checksummed = ChecksumInput {
            numbers: [position, version, schema_version, row.get_ref(6)?.as_i64()?],
            id: row.get_ref(5)?.as_blob()?,
            stream: stream.as_str(),
            name,
            tags: row.get_ref(7)?.as_str_or_null()?,
            metadata: row.get_ref(8)?.as_str_or_null()?,
            payload,
        };
        checksummed.verify(row.get_ref(9)?.as_i64()?)?;
        let schema_version =
            u32::try_from(schema_version).map_err(|_| Fault::corrupt("its schema version is too large"))?;
        let id = uuid(checksummed.id)?;
        self.names.push_str(name);
        self.payloads.extend_from_slice(payload);
        let (name_end, payload_end) = (self.names.len(), self.payloads.len());
        self.events.push(PackedEvent { id, version, position, schema_version, name_end, payload_end });
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.events.len() >= EVENTS || self.payloads.len() >= BYTES
    }

    /// Returns the events in order.
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
