//! Reading a stream to fold it: a thread reads ahead and packs, and whoever folds is lent event by event, of
//! which nothing was made that a fold does not need.

use std::sync::Arc;

use cqrs_core::error::StoreErrorKind;
use cqrs_core::event::Stored;
use cqrs_core::id::{Position, StreamId, Version};
use cqrs_core::store::{StreamEvent, TakeEvent};
use rusqlite::{Connection, Row};
use tokio::sync::mpsc;

use crate::error::Fault;
use crate::readers::Readers;

/// A pack is handed over with so many events, or so many bytes.
const EVENTS: usize = 500;
const BYTES: usize = 1 << 20;

/// So many packs wait at most.
const AHEAD: usize = 2;

/// Hands over what a stream has from a version on.
pub(crate) async fn stream(
    readers: &Arc<Readers>,
    stream: &StreamId,
    from: Version,
    take: &mut TakeEvent<'_>,
) -> Result<(), Fault> {
    let (way, mut packs) = mpsc::channel(AHEAD);
    let stream = stream.clone();
    readers.submit(Box::new(move |conn| {
        let last = conn.and_then(|conn| read(conn, &stream, from, &way));
        // Nobody listens if the future was dropped meanwhile, or has had enough.
        let _ = way.blocking_send(last);
    }))?;
    while let Some(pack) = packs.recv().await {
        let pack = pack?;
        if !pack.hand_over(take) || pack.is_last {
            return Ok(());
        }
    }
    Err(Fault::new(StoreErrorKind::Failed, "the reading thread has stopped"))
}

/// Reads and sends pack after pack, until nobody takes them; gives the last one.
fn read(
    conn: &Connection,
    stream: &StreamId,
    from: Version,
    way: &mpsc::Sender<Result<Pack, Fault>>,
) -> Result<Pack, Fault> {
    let from = i64::try_from(from.get()).unwrap_or(i64::MAX);
    let mut select = conn.prepare_cached(
        "SELECT version, position, schema_version, name, payload FROM cqrs_events
         WHERE stream = ?1 AND version >= ?2 ORDER BY version",
    )?;
    let mut rows = select.query((stream.as_str(), from))?;
    let mut pack = Pack::default();
    while let Some(row) = rows.next()? {
        pack.add(row)?;
        if pack.is_full() && way.blocking_send(Ok(std::mem::take(&mut pack))).is_err() {
            break;
        }
    }
    Ok(Pack { is_last: true, ..pack })
}

/// Some events, one behind the other.
#[derive(Debug, Default)]
struct Pack {
    names: String,
    payloads: Vec<u8>,
    events: Vec<Packed>,
    is_last: bool,
}

#[derive(Debug)]
struct Packed {
    version: i64,
    position: i64,
    schema_version: u32,
    name_end: usize,
    payload_end: usize,
}

impl Pack {
    fn add(&mut self, row: &Row<'_>) -> Result<(), Fault> {
        let (version, position) = (row.get_ref(0)?.as_i64()?, row.get_ref(1)?.as_i64()?);
        self.add_at(row, version, position).map_err(|fault| match fault.kind() {
            StoreErrorKind::Corrupt => fault.at(position),
            _ => fault,
        })
    }

    fn add_at(&mut self, row: &Row<'_>, version: i64, position: i64) -> Result<(), Fault> {
        let schema_version = u32::try_from(row.get_ref(2)?.as_i64()?)
            .map_err(|_| Fault::corrupt("its schema version is too large"))?;
        self.names.push_str(row.get_ref(3)?.as_str()?);
        self.payloads.extend_from_slice(row.get_ref(4)?.as_blob()?);
        let (name_end, payload_end) = (self.names.len(), self.payloads.len());
        self.events.push(Packed { version, position, schema_version, name_end, payload_end });
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.events.len() >= EVENTS || self.payloads.len() >= BYTES
    }

    /// Whether all were taken.
    fn hand_over(&self, take: &mut TakeEvent<'_>) -> bool {
        let (mut name_from, mut payload_from) = (0, 0);
        self.events.iter().all(|event| {
            let name = self.names.get(name_from..event.name_end).unwrap_or_default();
            let payload = self.payloads.get(payload_from..event.payload_end).unwrap_or_default();
            (name_from, payload_from) = (event.name_end, event.payload_end);
            let event = StreamEvent {
                version: Version::new(event.version.cast_unsigned()),
                position: Position::new(event.position.cast_unsigned()),
                stored: Stored { name, version: event.schema_version, payload },
            };
            take(event).is_continue()
        })
    }
}
