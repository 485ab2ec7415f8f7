//! Reading slices of a stream or of the log, each from one snapshot.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use cqrs_core::error::StoreErrorKind;
use cqrs_core::event::{EventMeta, Metadata, RecordedEvent, Tags, Timestamp};
use cqrs_core::id::{Partition, Position, StreamId, Version};
use cqrs_core::store::{Direction, Head, LogId, LogRead, LogSlice, Query, StreamRead, StreamSlice};
use cqrs_core::text;
use rusqlite::{CachedStatement, Connection, Row, Rows};
use uuid::Uuid;

use crate::error::Fault;
use crate::guard::{Matches, number};

/// A slice ends after this many bytes of payload, so that a large limit does not exhaust the memory.
const SLICE_BYTES: usize = 16 << 20;

/// Small payloads share allocations of this size.
const PAYLOAD_CHUNK: usize = 16 << 10;

type Events = Vec<Arc<RecordedEvent>>;

/// Runs several statements on one snapshot.
pub(crate) fn snapshot<T>(
    conn: &Connection,
    read: impl FnOnce(&Connection) -> Result<T, Fault>,
) -> Result<T, Fault> {
    conn.prepare_cached("BEGIN")?.execute(())?;
    let done = read(conn);
    // The transaction wrote nothing, so it does not matter how it ends.
    conn.prepare_cached("ROLLBACK")?.execute(())?;
    done
}

/// The last event of the log or of a stream: its position or version (0 if there is none), and its id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LastEvent {
    pub(crate) number: i64,
    pub(crate) id: Option<Uuid>,
}

impl LastEvent {
    fn from_row(row: &Row<'_>) -> Result<Self, Fault> {
        Ok(Self { number: row.get(0)?, id: Some(uuid(row.get_ref(1)?.as_blob()?)?) })
    }
}

/// Returns the last event of the log.
pub(crate) fn last(conn: &Connection) -> Result<LastEvent, Fault> {
    let mut select =
        conn.prepare_cached("SELECT position, id FROM cqrs_events ORDER BY position DESC LIMIT 1")?;
    let mut rows = select.query(())?;
    rows.next()?.map_or(Ok(LastEvent::default()), LastEvent::from_row)
}

/// Returns the last event of a stream.
pub(crate) fn last_of(conn: &Connection, stream: &StreamId) -> Result<LastEvent, Fault> {
    let mut select = conn.prepare_cached(
        "SELECT version, id FROM cqrs_events WHERE stream = ?1 ORDER BY version DESC LIMIT 1",
    )?;
    let mut rows = select.query((stream.as_str(),))?;
    rows.next()?.map_or(Ok(LastEvent::default()), LastEvent::from_row)
}

/// Returns the id of the event at a position, if there is one.
pub(crate) fn id_at(conn: &Connection, position: i64) -> Result<Option<Uuid>, Fault> {
    let mut select = conn.prepare_cached("SELECT id FROM cqrs_events WHERE position = ?1")?;
    let mut rows = select.query((position,))?;
    rows.next()?.map(|row| uuid(row.get_ref(0)?.as_blob()?)).transpose()
}

/// Returns the id of the event at a position, after comparing the event with its checksum.
pub(crate) fn checked_id_at(conn: &Connection, position: i64) -> Result<Option<Uuid>, Fault> {
    let mut slice = Slice::new(None);
    slice.add(conn.prepare_cached(BY_RANGE)?.query((position, position, 1))?, |_| true)?;
    Ok(slice.events.first().map(|event| event.meta.id))
}

/// Fails if the log ends before `floor`, a position that this handle has already reported as its end.
pub(crate) fn not_rewound(floor: i64, head: i64) -> Result<(), Fault> {
    if head >= floor {
        return Ok(());
    }
    Err(Fault::corrupt(format!(
        "the log was rewound: it ends at position {head}, but this store has already reported position {floor}"
    )))
}

/// Does the same for a read that does not read the log's end itself.
pub(crate) fn check_not_rewound(conn: &Connection, floor: i64) -> Result<(), Fault> {
    if floor == 0 || id_at(conn, floor)?.is_some() {
        return Ok(());
    }
    not_rewound(floor, last(conn)?.number)
}

pub(crate) fn head(conn: &Connection, log: LogId) -> Result<Head, Fault> {
    let LastEvent { number, id } = last(conn)?;
    Ok(Head { log, position: Position::new(number.cast_unsigned()), event: id })
}

/// Reads a slice of a stream, and its version in the same snapshot.
pub(crate) fn stream(conn: &Connection, read: &StreamRead) -> Result<StreamSlice, Fault> {
    snapshot(conn, |conn| {
        let version = Version::new(last_of(conn, &read.stream)?.number.cast_unsigned());
        // A caller that already has the latest event, usually from a cache, costs one lookup.
        let none = read.direction == Direction::Forward && read.from > version;
        let events = if none { Vec::new() } else { stream_events(conn, read)? };
        Ok(StreamSlice { events, version })
    })
}

fn stream_events(conn: &Connection, read: &StreamRead) -> Result<Events, Fault> {
    let from = i64::try_from(read.from.get()).unwrap_or(i64::MAX);
    let limit = i64::try_from(read.limit.max(1)).unwrap_or(i64::MAX);
    let mut select = conn.prepare_cached(stream_sql(read))?;
    let rows = select.query((read.stream.as_str(), from, limit))?;
    let events = Slice::new(Some(&read.stream)).fill(rows)?;
    check_versions(&events)?;
    Ok(events)
}

macro_rules! columns {
    () => {
        "position, version, schema_version, name, payload, stream, id, time, tags, metadata, checksum"
    };
}

fn stream_sql(read: &StreamRead) -> &'static str {
    macro_rules! select {
        ($rest:literal) => {
            concat!(
                "SELECT ",
                columns!(),
                " FROM cqrs_events WHERE stream = ?1 AND version ",
                $rest,
                " LIMIT ?3"
            )
        };
    }
    match read.direction {
        Direction::Forward => select!(">= ?2 ORDER BY version"),
        Direction::Backward => select!("<= ?2 ORDER BY version DESC"),
    }
}

/// Fails if versions are missing: folding such a stream would produce a state that never existed.
fn check_versions(events: &Events) -> Result<(), Fault> {
    let gap = events.windows(2).find_map(|pair| match pair {
        [one, next] if one.meta.version.get().abs_diff(next.meta.version.get()) != 1 => Some(next),
        _ => None,
    });
    match gap {
        None => Ok(()),
        Some(event) => {
            let (stream, version) = (&event.meta.stream, event.meta.version);
            Err(Fault::corrupt(format!("{stream} has a gap before or after version {version}")))
        }
    }
}

/// Reads a slice of the log, and its head in the same snapshot.
pub(crate) fn log(conn: &Connection, read: &LogRead, log: LogId) -> Result<LogSlice, Fault> {
    snapshot(conn, |conn| log_in(conn, read, log))
}

/// Reads a slice of the log within the current transaction.
pub(crate) fn log_in(conn: &Connection, read: &LogRead, log: LogId) -> Result<LogSlice, Fault> {
    let head = head(conn, log)?;
    let end = read.up_to.map_or(head.position, |up_to| up_to.min(head.position));
    let (events, more) = log_events(conn, read, number(end))?;
    let last = events.last().filter(|_| more).map(|last| last.meta.position);
    let read_to = last.unwrap_or_else(|| end.max(read.after));
    let id_of = |position: Position| match position == head.position {
        true => Ok(head.event),
        false => id_at(conn, number(position)),
    };
    let (read_to_event, after_event) = (id_of(read_to)?, id_of(read.after)?);
    Ok(LogSlice { events, read_to, read_to_event, after_event, head })
}

/// Returns the matching events up to `end`, and whether more may follow.
fn log_events(conn: &Connection, read: &LogRead, end: i64) -> Result<(Events, bool), Fault> {
    let after = number(read.after);
    let limit = read.limit.max(1);
    if after >= end {
        return Ok((Vec::new(), false));
    }
    let mut slice = Slice::new(None);
    if read.query == Query::all() {
        slice.fill_range(conn, after + 1, end, limit)?;
        slice.check_no_gaps(after + 1)?;
    } else {
        let positions = positions(conn, &read.query, after, end, limit)?;
        slice.fill_positions(conn, &positions)?;
    }
    let more = slice.events.len() >= limit || slice.is_full();
    Ok((slice.events, more))
}

fn positions(
    conn: &Connection,
    query: &Query,
    after: i64,
    end: i64,
    limit: usize,
) -> Result<Vec<i64>, Fault> {
    let mut matches = Matches::forward(query, after, end);
    let mut positions = Vec::new();
    while positions.len() < limit
        && let Some(position) = matches.next(conn)?
    {
        positions.push(position);
    }
    Ok(positions)
}

const BY_RANGE: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM cqrs_events WHERE position BETWEEN ?1 AND ?2 ORDER BY position LIMIT ?3"
);

/// A slice under construction.
struct Slice<'a> {
    events: Events,
    bytes: usize,
    /// The stream of all events, when the read is limited to one.
    stream: Option<&'a StreamId>,
    /// Shared by events without metadata, which are most.
    empty_metadata: Arc<Metadata>,
    chunk: BytesMut,
}

impl<'a> Slice<'a> {
    fn new(stream: Option<&'a StreamId>) -> Self {
        Self {
            events: Vec::new(),
            bytes: 0,
            stream,
            empty_metadata: Arc::new(Metadata::new()),
            chunk: BytesMut::new(),
        }
    }

    fn is_full(&self) -> bool {
        self.bytes >= SLICE_BYTES
    }

    fn fill(mut self, rows: Rows<'_>) -> Result<Events, Fault> {
        self.add(rows, |_| true)?;
        Ok(self.events)
    }

    fn add(&mut self, mut rows: Rows<'_>, mut wanted: impl FnMut(i64) -> bool) -> Result<(), Fault> {
        while !self.is_full()
            && let Some(row) = rows.next()?
        {
            let position = row.get_ref(0)?.as_i64()?;
            if wanted(position) {
                let event = self.event(row, position)?;
                self.bytes += event.payload.len();
                self.events.push(Arc::new(event));
            }
        }
        Ok(())
    }

    fn fill_range(&mut self, conn: &Connection, first: i64, last: i64, limit: usize) -> Result<(), Fault> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let mut select = conn.prepare_cached(BY_RANGE)?;
        let rows = select.query((first, last, limit))?;
        self.add(rows, |_| true)
    }

    /// Reads dense positions with one range scan, and sparse ones one by one.
    fn fill_positions(&mut self, conn: &Connection, positions: &[i64]) -> Result<(), Fault> {
        let (Some(first), Some(last)) = (positions.first(), positions.last()) else { return Ok(()) };
        let mut select = conn.prepare_cached(BY_RANGE)?;
        let span = last.abs_diff(*first);
        if span < 3 * positions.len() as u64 {
            let mut left = positions.iter().copied().peekable();
            let rows = select.query((first, last, i64::MAX))?;
            self.add(rows, |position| left.next_if_eq(&position).is_some())?;
        } else {
            self.fill_each(&mut select, positions)?;
        }
        match self.events.len() < positions.len() && !self.is_full() {
            true => Err(Fault::corrupt("an index refers to an event that does not exist")),
            false => Ok(()),
        }
    }

    fn fill_each(&mut self, select: &mut CachedStatement<'_>, positions: &[i64]) -> Result<(), Fault> {
        for position in positions {
            self.add(select.query((position, position, 1))?, |_| true)?;
        }
        Ok(())
    }

    /// Fails if a position is missing: an event was lost there.
    fn check_no_gaps(&self, first: i64) -> Result<(), Fault> {
        let expected = first.cast_unsigned()..;
        let gap = expected.zip(&self.events).find(|(position, event)| event.meta.position.get() != *position);
        gap.map_or(Ok(()), |(position, _)| {
            Err(Fault::corrupt(format!("there is no event at position {position}")))
        })
    }

    fn event(&mut self, row: &Row<'_>, position: i64) -> Result<RecordedEvent, Fault> {
        self.decode(row, position).map_err(|fault| match fault.kind() {
            StoreErrorKind::Corrupt => fault.at(position),
            _ => fault,
        })
    }

    fn decode(&mut self, row: &Row<'_>, position: i64) -> Result<RecordedEvent, Fault> {
        let version = row.get_ref(1)?.as_i64()?;
        let schema_version = row.get_ref(2)?.as_i64()?;
        let name = row.get_ref(3)?.as_str()?;
        let payload = row.get_ref(4)?.as_blob()?;
        let time = row.get_ref(7)?.as_i64()?;
        let checksummed = ChecksumInput {
            numbers: [position, version, schema_version, time],
            id: row.get_ref(6)?.as_blob()?,
            stream: row.get_ref(5)?.as_str()?,
            name,
            tags: row.get_ref(8)?.as_str_or_null()?,
            metadata: row.get_ref(9)?.as_str_or_null()?,
            payload,
        };
        checksummed.verify(row.get_ref(10)?.as_i64()?)?;
        let meta = EventMeta {
            id: uuid(checksummed.id)?,
            stream: self.stream_of(checksummed.stream)?,
            version: Version::new(version.cast_unsigned()),
            partition: Partition::ONLY,
            position: Position::new(position.cast_unsigned()),
            time: Timestamp::from_micros(time.cast_unsigned()),
            metadata: match checksummed.metadata {
                Some(text) => Arc::new(metadata(text)?),
                None => Arc::clone(&self.empty_metadata),
            },
        };
        Ok(RecordedEvent {
            meta,
            name: name.to_owned().into(),
            schema_version: u32::try_from(schema_version)
                .map_err(|_| Fault::corrupt("its schema version does not fit into 32 bits"))?,
            payload: self.share(payload),
            tags: checksummed.tags.map(tags).transpose()?.unwrap_or_default(),
        })
    }

    fn share(&mut self, payload: &[u8]) -> Bytes {
        if payload.len() > PAYLOAD_CHUNK / 4 {
            return Bytes::copy_from_slice(payload);
        }
        if self.chunk.capacity() < payload.len() {
            self.chunk = BytesMut::with_capacity(PAYLOAD_CHUNK);
        }
        self.chunk.extend_from_slice(payload);
        self.chunk.split().freeze()
    }

    /// Returns the stream id, shared with the previous event if that is of the same stream.
    fn stream_of(&self, name: &str) -> Result<StreamId, Fault> {
        let last = self.events.last().map(|last| &last.meta.stream);
        match self.stream.or(last).filter(|known| known.as_str() == name) {
            Some(known) => Ok(known.clone()),
            None => stream_id(name),
        }
    }
}

/// Decodes every event of the log in order, and passes it to `check`.
pub(crate) fn for_each_event(
    conn: &Connection,
    mut check: impl FnMut(&RecordedEvent) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let mut select = conn.prepare(concat!("SELECT ", columns!(), " FROM cqrs_events ORDER BY position"))?;
    let mut rows = select.query(())?;
    let mut slice = Slice::new(None);
    while let Some(row) = rows.next()? {
        let position = row.get_ref(0)?.as_i64()?;
        check(&slice.event(row, position)?)?;
    }
    Ok(())
}

/// Everything that the checksum of an event covers.
pub(crate) struct ChecksumInput<'a> {
    /// Position, version, schema version, and time.
    pub(crate) numbers: [i64; 4],
    pub(crate) id: &'a [u8],
    pub(crate) stream: &'a str,
    pub(crate) name: &'a str,
    pub(crate) tags: Option<&'a str>,
    pub(crate) metadata: Option<&'a str>,
    pub(crate) payload: &'a [u8],
}

impl ChecksumInput<'_> {
    /// Computes a CRC-32. The lengths of the texts come first, so that no byte can move from one text to the next.
    /// Numbers and lengths are hashed in one piece, because many small updates are slower.
    pub(crate) fn checksum(&self) -> u32 {
        let [tags, metadata] = [self.tags, self.metadata].map(Option::unwrap_or_default);
        let texts = [self.stream, self.name, tags, metadata];
        let mut numbers_and_lengths = [0; 64];
        let lengths = texts.map(|text| text.len() as i64);
        let numbers = self.numbers.into_iter().chain(lengths);
        for (bytes, number) in numbers_and_lengths.chunks_exact_mut(8).zip(numbers) {
            bytes.copy_from_slice(&number.to_le_bytes());
        }
        let mut sum = crc32fast::Hasher::new();
        sum.update(&numbers_and_lengths);
        texts.iter().filter(|text| !text.is_empty()).for_each(|text| sum.update(text.as_bytes()));
        sum.update(self.id);
        sum.update(self.payload);
        sum.finalize()
    }

    /// Fails if the event differs from the one that was written.
    pub(crate) fn verify(&self, sum: i64) -> Result<(), Fault> {
        if i64::from(self.checksum()) == sum {
            return Ok(());
        }
        Err(Fault::corrupt("the checksum does not match: the event changed since it was written"))
    }
}

fn stream_id(text: &str) -> Result<StreamId, Fault> {
    text.parse().map_err(|_| Fault::corrupt("its stream id is invalid"))
}

pub(crate) fn uuid(bytes: &[u8]) -> Result<Uuid, Fault> {
    Uuid::from_slice(bytes).map_err(|_| Fault::corrupt(format!("an id has {} bytes", bytes.len())))
}

fn tags(text: &str) -> Result<Tags, Fault> {
    text::tags(text).ok_or_else(|| Fault::corrupt("its tags cannot be decoded"))
}

fn metadata(text: &str) -> Result<Metadata, Fault> {
    text::metadata(text).ok_or_else(|| Fault::corrupt("its metadata cannot be decoded"))
}
