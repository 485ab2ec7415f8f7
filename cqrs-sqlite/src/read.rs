//! Reading the log: slices of streams and of the whole, each of one snapshot.

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

/// After this many bytes of payload a slice ends, so that a large limit does not fill the memory.
const SLICE_BYTES: usize = 16 << 20;

/// Payloads are copied into pieces of this size and shared from there, so that a slice of small events
/// is not as many small allocations.
const PIECE: usize = 16 << 10;

type Events = Vec<Arc<RecordedEvent>>;

/// Runs a read of several statements on one snapshot.
pub(crate) fn snapshot<T>(
    conn: &Connection,
    read: impl FnOnce(&Connection) -> Result<T, Fault>,
) -> Result<T, Fault> {
    conn.prepare_cached("BEGIN")?.execute(())?;
    let done = read(conn);
    // Nothing was written, so there is nothing to lose either way.
    conn.prepare_cached("ROLLBACK")?.execute(())?;
    done
}

/// The last event of the log or of a stream: its position or version, which is 0 if there is none, and its id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Last {
    pub(crate) number: i64,
    pub(crate) id: Option<Uuid>,
}

impl Last {
    fn of(row: &Row<'_>) -> Result<Self, Fault> {
        Ok(Self { number: row.get(0)?, id: Some(uuid(row.get_ref(1)?.as_blob()?)?) })
    }
}

/// The last event of the log.
pub(crate) fn last(conn: &Connection) -> Result<Last, Fault> {
    let mut select =
        conn.prepare_cached("SELECT position, id FROM cqrs_events ORDER BY position DESC LIMIT 1")?;
    let mut rows = select.query(())?;
    rows.next()?.map_or(Ok(Last::default()), Last::of)
}

/// The last event of a stream.
pub(crate) fn last_of(conn: &Connection, stream: &StreamId) -> Result<Last, Fault> {
    let mut select = conn.prepare_cached(
        "SELECT version, id FROM cqrs_events WHERE stream = ?1 ORDER BY version DESC LIMIT 1",
    )?;
    let mut rows = select.query((stream.as_str(),))?;
    rows.next()?.map_or(Ok(Last::default()), Last::of)
}

/// The id of the event at a position, if there is one.
pub(crate) fn id_at(conn: &Connection, position: i64) -> Result<Option<Uuid>, Fault> {
    let mut select = conn.prepare_cached("SELECT id FROM cqrs_events WHERE position = ?1")?;
    let mut rows = select.query((position,))?;
    rows.next()?.map(|row| uuid(row.get_ref(0)?.as_blob()?)).transpose()
}

/// Refuses a log that ends before a position that this handle has reported as its end.
pub(crate) fn not_rewound(floor: i64, head: i64) -> Result<(), Fault> {
    if head >= floor {
        return Ok(());
    }
    Err(Fault::corrupt(format!(
        "the log was rewound: it ends at position {head}, and {floor} was reported before"
    )))
}

/// The same for a read that does not look at the log's end itself.
pub(crate) fn check_not_rewound(conn: &Connection, floor: i64) -> Result<(), Fault> {
    if floor == 0 || id_at(conn, floor)?.is_some() {
        return Ok(());
    }
    not_rewound(floor, last(conn)?.number)
}

pub(crate) fn head(conn: &Connection, log: LogId) -> Result<Head, Fault> {
    let Last { number, id } = last(conn)?;
    Ok(Head { log, position: Position::new(number.cast_unsigned()), event: id })
}

/// Reads a slice of a stream, and its version in the same snapshot.
pub(crate) fn stream(conn: &Connection, read: &StreamRead) -> Result<StreamSlice, Fault> {
    snapshot(conn, |conn| {
        let version = Version::new(last_of(conn, &read.stream)?.number.cast_unsigned());
        // A stream that is at its end, as a reader finds it who has it in memory, costs one look.
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
    whole(&events)?;
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

/// A stream with a hole is not handed out: folding it would give a state that never was.
fn whole(events: &Events) -> Result<(), Fault> {
    let hole = events.windows(2).find_map(|pair| match pair {
        [one, next] if one.meta.version.get().abs_diff(next.meta.version.get()) != 1 => Some(next),
        _ => None,
    });
    match hole {
        None => Ok(()),
        Some(event) => {
            let (stream, version) = (&event.meta.stream, event.meta.version);
            Err(Fault::corrupt(format!("{stream} has a hole beside its version {version}")))
        }
    }
}

/// Reads a slice of the log, and its head in the same snapshot.
pub(crate) fn log(conn: &Connection, read: &LogRead, log: LogId) -> Result<LogSlice, Fault> {
    snapshot(conn, |conn| log_in(conn, read, log))
}

/// The same in the midst of a transaction.
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

/// The events that match up to `end`, and whether some may be left behind the last of them.
fn log_events(conn: &Connection, read: &LogRead, end: i64) -> Result<(Events, bool), Fault> {
    let after = number(read.after);
    let limit = read.limit.max(1);
    if after >= end {
        return Ok((Vec::new(), false));
    }
    let mut slice = Slice::new(None);
    if read.query == Query::all() {
        slice.fill_range(conn, after + 1, end, limit)?;
        slice.gapless(after + 1)?;
    } else {
        let positions = positions(conn, &read.query, after, end, limit)?;
        slice.fill_positions(conn, &positions)?;
    }
    let more = slice.events.len() >= limit || slice.full();
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

/// Events on their way from rows into a slice.
struct Slice<'a> {
    events: Events,
    bytes: usize,
    /// The stream that all of them are of, if there is one.
    stream: Option<&'a StreamId>,
    /// Most events have no metadata, and share this.
    blank: Arc<Metadata>,
    piece: BytesMut,
}

impl<'a> Slice<'a> {
    fn new(stream: Option<&'a StreamId>) -> Self {
        Self {
            events: Vec::new(),
            bytes: 0,
            stream,
            blank: Arc::new(Metadata::new()),
            piece: BytesMut::new(),
        }
    }

    fn full(&self) -> bool {
        self.bytes >= SLICE_BYTES
    }

    fn fill(mut self, rows: Rows<'_>) -> Result<Events, Fault> {
        self.add(rows, |_| true)?;
        Ok(self.events)
    }

    fn add(&mut self, mut rows: Rows<'_>, mut wanted: impl FnMut(i64) -> bool) -> Result<(), Fault> {
        while !self.full()
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

    /// Positions that lie close together are read in one walk, others one by one.
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
        match self.events.len() < positions.len() && !self.full() {
            true => Err(Fault::corrupt("an index names an event that is not there")),
            false => Ok(()),
        }
    }

    fn fill_each(&mut self, select: &mut CachedStatement<'_>, positions: &[i64]) -> Result<(), Fault> {
        for position in positions {
            self.add(select.query((position, position, 1))?, |_| true)?;
        }
        Ok(())
    }

    /// A hole among positions is not passed over: what stood there is lost.
    fn gapless(&self, first: i64) -> Result<(), Fault> {
        let expected = first.cast_unsigned()..;
        let hole =
            expected.zip(&self.events).find(|(position, event)| event.meta.position.get() != *position);
        hole.map_or(Ok(()), |(position, _)| {
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
        let checked = Checked {
            numbers: [position, version, schema_version, time],
            id: row.get_ref(6)?.as_blob()?,
            stream: row.get_ref(5)?.as_str()?,
            name,
            tags: row.get_ref(8)?.as_str_or_null()?,
            metadata: row.get_ref(9)?.as_str_or_null()?,
            payload,
        };
        checked.agree(row.get_ref(10)?.as_i64()?)?;
        let meta = EventMeta {
            id: uuid(checked.id)?,
            stream: self.stream_of(checked.stream)?,
            version: Version::new(version.cast_unsigned()),
            partition: Partition::ONLY,
            position: Position::new(position.cast_unsigned()),
            time: Timestamp::from_micros(time.cast_unsigned()),
            metadata: match checked.metadata {
                Some(text) => Arc::new(metadata(text)?),
                None => Arc::clone(&self.blank),
            },
        };
        Ok(RecordedEvent {
            meta,
            name: name.to_owned().into(),
            schema_version: u32::try_from(schema_version)
                .map_err(|_| Fault::corrupt("its schema version is too large"))?,
            payload: self.share(payload),
            tags: checked.tags.map(tags).transpose()?.unwrap_or_default(),
        })
    }

    fn share(&mut self, payload: &[u8]) -> Bytes {
        if payload.len() > PIECE / 4 {
            return Bytes::copy_from_slice(payload);
        }
        if self.piece.capacity() < payload.len() {
            self.piece = BytesMut::with_capacity(PIECE);
        }
        self.piece.extend_from_slice(payload);
        self.piece.split().freeze()
    }

    /// Events of one stream often follow each other, and then share its name.
    fn stream_of(&self, name: &str) -> Result<StreamId, Fault> {
        let last = self.events.last().map(|last| &last.meta.stream);
        match self.stream.or(last).filter(|known| known.as_str() == name) {
            Some(known) => Ok(known.clone()),
            None => stream_id(name),
        }
    }
}

/// Decodes every event of the log, one after the other, and keeps none.
pub(crate) fn each(
    conn: &Connection,
    mut look: impl FnMut(&RecordedEvent) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let mut select = conn.prepare(concat!("SELECT ", columns!(), " FROM cqrs_events ORDER BY position"))?;
    let mut rows = select.query(())?;
    let mut slice = Slice::new(None);
    while let Some(row) = rows.next()? {
        let position = row.get_ref(0)?.as_i64()?;
        look(&slice.event(row, position)?)?;
    }
    Ok(())
}

/// All of an event that its checksum is about.
pub(crate) struct Checked<'a> {
    /// Position, version, schema version and time.
    pub(crate) numbers: [i64; 4],
    pub(crate) id: &'a [u8],
    pub(crate) stream: &'a str,
    pub(crate) name: &'a str,
    pub(crate) tags: Option<&'a str>,
    pub(crate) metadata: Option<&'a str>,
    pub(crate) payload: &'a [u8],
}

impl Checked<'_> {
    /// A CRC-32. The lengths of the texts come first, so that none can lend a byte to the next; with
    /// the numbers they are one piece, since many small ones cost more than their bytes.
    pub(crate) fn sum(&self) -> u32 {
        let [tags, metadata] = [self.tags, self.metadata].map(Option::unwrap_or_default);
        let texts = [self.stream, self.name, tags, metadata];
        let mut fixed = [0; 64];
        let lengths = texts.map(|text| text.len() as i64);
        let numbers = self.numbers.into_iter().chain(lengths);
        for (place, number) in fixed.chunks_exact_mut(8).zip(numbers) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        let mut sum = crc32fast::Hasher::new();
        sum.update(&fixed);
        texts.iter().filter(|text| !text.is_empty()).for_each(|text| sum.update(text.as_bytes()));
        sum.update(self.id);
        sum.update(self.payload);
        sum.finalize()
    }

    /// Refuses what is not what was written.
    pub(crate) fn agree(&self, sum: i64) -> Result<(), Fault> {
        if i64::from(self.sum()) == sum {
            return Ok(());
        }
        Err(Fault::corrupt("it is not what was written: its checksum differs"))
    }
}

fn stream_id(text: &str) -> Result<StreamId, Fault> {
    text.parse().map_err(|_| Fault::corrupt("its stream has no name that can be"))
}

pub(crate) fn uuid(bytes: &[u8]) -> Result<Uuid, Fault> {
    Uuid::from_slice(bytes).map_err(|_| Fault::corrupt(format!("an id has {} bytes", bytes.len())))
}

fn tags(text: &str) -> Result<Tags, Fault> {
    text::tags(text).ok_or_else(|| Fault::corrupt("its tags cannot be read"))
}

fn metadata(text: &str) -> Result<Metadata, Fault> {
    text::metadata(text).ok_or_else(|| Fault::corrupt("its metadata cannot be read"))
}
