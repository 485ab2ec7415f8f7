//! Reading the log: slices of streams and of the whole, each of one snapshot.

use std::pin::pin;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use cqrs_core::error::StoreErrorKind;
use cqrs_core::event::{EventMeta, Metadata, RecordedEvent, Tags, Timestamp};
use cqrs_core::id::{Partition, Position, StreamId, Version};
use cqrs_core::store::{Direction, Head, LogId, LogRead, LogSlice, Query, StreamRead, StreamSlice};
use cqrs_core::text;
use futures_util::{TryStreamExt as _, future};
use tokio_postgres::types::{FromSql, Type};
use tokio_postgres::{Row, RowStream};
use uuid::Uuid;

use crate::append::HEAD;
use crate::error::Fault;
use crate::guard::{self, number};
use crate::news::{Floor, rewound};
use crate::open::{Conn, Param, Sql};

/// After this many bytes of payload a slice ends, so that a large limit does not fill the memory.
const SLICE_BYTES: usize = 16 << 20;

/// A slice has no more events than this, so that what is asked for in vain when it ends early is little.
const SLICE_EVENTS: usize = 10_000;

/// Payloads are copied into pieces of this size and shared from there, so that a slice of small events
/// is not as many small allocations.
const PIECE: usize = 16 << 10;

type Events = Vec<Arc<RecordedEvent>>;

pub(crate) async fn head(conn: &Conn, log: LogId, partition: Partition) -> Result<Head, Fault> {
    let row = conn.row(&HEAD, &[&i32::from(partition.get())]).await?;
    Ok(Head { log, position: position(row.try_get(0)?), event: row.try_get(1)? })
}

// Where a partition ends, and the events at two positions.
static POINTS: Sql = Sql::new(
    "SELECT coalesce(l.position, 0), l.id,
            (SELECT e.id FROM {s}.events e WHERE e.partition = $1 AND e.position = $2),
            (SELECT e.id FROM {s}.events e WHERE e.partition = $1 AND e.position = $3)
     FROM (VALUES (1)) AS one LEFT JOIN LATERAL
         (SELECT e.position, e.id FROM {s}.events e WHERE e.partition = $1
          ORDER BY e.position DESC LIMIT 1) l ON true",
    &[Type::INT4, Type::INT8, Type::INT8],
);

/// The ids of the events at some positions: the head and two others.
struct Points {
    head: i64,
    ids: [(i64, Option<Uuid>); 3],
}

impl Points {
    async fn read(conn: &Conn, partition: Partition, one: i64, other: i64) -> Result<Self, Fault> {
        let row = conn.row(&POINTS, &[&i32::from(partition.get()), &one, &other]).await?;
        let head = row.try_get(0)?;
        let ids = [(head, row.try_get(1)?), (one, row.try_get(2)?), (other, row.try_get(3)?)];
        Ok(Self { head, ids })
    }

    /// The event at a position: from these, from a slice that was read beside them, or from the log.
    async fn id_at(
        &self,
        conn: &Conn,
        partition: Partition,
        at: i64,
        slice: &Slice<'_>,
        head: i64,
    ) -> Result<Option<Uuid>, Fault> {
        if at <= 0 || at > head {
            return Ok(None);
        }
        if let Some((_, id)) = self.ids.iter().find(|(position, id)| *position == at && id.is_some()) {
            return Ok(*id);
        }
        if let Some(last) = slice.events.last().filter(|last| number(last.meta.position) == at) {
            return Ok(Some(last.meta.id));
        }
        Ok(Self::read(conn, partition, at, at).await?.ids[1].1)
    }
}

fn position(number: i64) -> Position {
    Position::new(number.cast_unsigned())
}

macro_rules! columns {
    () => {
        "e.position, e.version, e.schema_version, e.name, e.payload, e.stream, e.id, e.time, e.tags, e.metadata"
    };
}

// Of some events in an order, those before which there are fewer bytes of payload than a slice may have. How long a
// payload is, the server knows without reading it.
macro_rules! bounded {
    ($events:expr, $order:expr, $bytes:literal) => {
        concat!(
            "SELECT b.* FROM (SELECT f.*, sum(coalesce(octet_length(f.payload), 0)) OVER (ORDER BY f.",
            $order,
            " ROWS UNBOUNDED PRECEDING) - coalesce(octet_length(f.payload), 0) AS before FROM (",
            $events,
            ") f) b WHERE b.before < ",
            $bytes,
            " ORDER BY b.",
            $order
        )
    };
}

/// The column behind those of an event.
const REWOUND: usize = 11;

// Where the slice's end stands in each row, and alone in the only one if there are no events.
macro_rules! of_stream {
    ($name:ident, $from:literal, $order:literal) => {
        static $name: Sql = Sql::new(
            concat!(
                "SELECT v.version, ",
                columns!(),
                ", v.rewound FROM (SELECT coalesce((SELECT l.version FROM {s}.events l WHERE l.stream = $1
                        ORDER BY l.version DESC LIMIT 1), 0) AS version, ",
                rewound!("$5", "$6"),
                " AS rewound) v
                  LEFT JOIN LATERAL (",
                bounded!(
                    concat!(
                        "SELECT * FROM {s}.events f WHERE f.stream = $1 AND f.version ",
                        $from,
                        " ORDER BY f.version ",
                        $order,
                        " LIMIT $3"
                    ),
                    concat!("version ", $order),
                    "$4"
                ),
                ") e ON true"
            ),
            &[Type::TEXT, Type::INT8, Type::INT8, Type::INT8, Type::INT4, Type::INT8],
        );
    };
}
of_stream!(FORWARD, ">= $2", "ASC");
of_stream!(BACKWARD, "<= $2", "DESC");

/// Reads a slice of a stream, and its version in the same snapshot.
pub(crate) async fn stream(
    conn: &Conn,
    read: &StreamRead,
    partition: Partition,
    floor: Floor,
) -> Result<StreamSlice, Fault> {
    if read.stream.as_str().contains('\0') {
        // No text in the database has one.
        return Ok(StreamSlice { events: Vec::new(), version: Version::NONE });
    }
    let sql = match read.direction {
        Direction::Forward => &FORWARD,
        Direction::Backward => &BACKWARD,
    };
    let from = i64::try_from(read.from.get()).unwrap_or(i64::MAX);
    let (of, position) = floor.numbers();
    let (limit, bytes) = (limit(read.limit), SLICE_BYTES as i64);
    let params: [Param<'_>; 6] = [&read.stream.as_str(), &from, &limit, &bytes, &of, &position];
    let rows = conn.stream(sql, &params).await?;
    let mut slice = Slice::new(Some(&read.stream), partition);
    let end = slice.fill(rows, Some(floor)).await?;
    whole(&slice.events)?;
    Ok(StreamSlice { events: slice.events, version: Version::new(end.cast_unsigned()) })
}

fn limit(asked: usize) -> i64 {
    asked.clamp(1, SLICE_EVENTS) as i64
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

// The head is a query of its own inside, which the server runs once; a function in its place would be called
// for each row.
macro_rules! of_log {
    ($name:ident, [$($more:expr),*], $rest:literal) => {
        static $name: Sql = Sql::new(
            concat!(
                "SELECT h.position, ",
                columns!(),
                " FROM (SELECT coalesce((SELECT l.position FROM {s}.events l WHERE l.partition = $1
                        ORDER BY l.position DESC LIMIT 1), 0) AS position) h LEFT JOIN LATERAL (",
                bounded!($rest, "position", "$5"),
                ") e ON true"
            ),
            &[Type::INT4, Type::INT8, Type::INT8, Type::INT8, Type::INT8 $(, $more)*],
        );
    };
}
of_log!(
    BY_POSITION,
    [],
    "SELECT * FROM {s}.events f WHERE f.partition = $1 AND f.position > $2 AND f.position <= $3
     ORDER BY f.position LIMIT $4"
);
of_log!(
    BY_NAMES,
    [Type::TEXT_ARRAY],
    "SELECT * FROM {s}.events f WHERE f.partition = $1 AND f.position > $2 AND f.position <= $3
     AND f.name = ANY ($6) ORDER BY f.position LIMIT $4"
);
of_log!(
    BY_ITEMS,
    [Type::TEXT],
    "SELECT f.* FROM (SELECT DISTINCT m.position FROM json_array_elements($6::json) i,
         LATERAL {s}.matches_v3($1, ARRAY(SELECT json_array_elements_text(i -> 'names')),
             ARRAY(SELECT json_array_elements_text(i -> 'tags')), $2, least($3, h.position), $4)
             AS m (position)
         ORDER BY m.position LIMIT $4) p
     LEFT JOIN {s}.events f ON f.partition = $1 AND f.position = p.position ORDER BY p.position"
);

/// So many positions are walked through for each event that is asked for, looking for names; then the
/// index of names is asked where to go on.
const WALK: i64 = 4;

/// Reads a slice of the log, and its head in the same snapshot.
pub(crate) async fn log(conn: &Conn, read: &LogRead, log: LogId) -> Result<LogSlice, Fault> {
    let (after, limit) = (number(read.after), limit(read.limit));
    let up_to = read.up_to.map_or(i64::MAX, number);
    let mut slice = Slice::new(None, read.partition);
    let names = read.query.items().and_then(names_alone);
    let points = Points::read(conn, read.partition, after, up_to);
    let events = async {
        match (&names, &read.query) {
            (_, query) if *query == Query::all() => {
                let head = slice.fill_log(conn, &BY_POSITION, (after, up_to, limit), None).await?;
                slice.gapless(after)?;
                Ok(Some(head))
            }
            (_, query) if *query == Query::none() => Ok(None),
            (Some(names), query) => {
                by_names(&mut slice, conn, (after, up_to, limit), names, query).await.map(Some)
            }
            (None, query) => by_items(&mut slice, conn, (after, up_to, limit), query).await.map(Some),
        }
    };
    // They are sent together. The head in the rows is the newer one.
    let (points, head) = future::try_join(points, events).await?;
    let head = head.unwrap_or(points.head);
    let end = up_to.min(head);
    let more = slice.events.len() as i64 >= limit || slice.full();
    let last = slice.events.last().filter(|_| more).map(|last| last.meta.position);
    let read_to = last.unwrap_or_else(|| position(end).max(read.after));
    let id_at = |at| points.id_at(conn, read.partition, at, &slice, head);
    let (read_to_event, after_event) = (id_at(number(read_to)).await?, id_at(after).await?);
    let head = Head { log, position: position(head), event: id_at(head).await? };
    Ok(LogSlice { events: slice.events, read_to, read_to_event, after_event, head })
}

/// The names that a query asks for, if it asks for nothing else.
fn names_alone(items: &[cqrs_core::store::QueryItem]) -> Option<Vec<&str>> {
    let alone = items.iter().all(|item| item.tags.is_empty() && !item.names.is_empty());
    let names = items.iter().flat_map(|item| &item.names).map(|name| &**name);
    alone.then(|| names.filter(|name| !name.contains('\0')).collect())
}

/// Where the names are common, as those of most read models are, walking through the log is cheapest.
/// Where the walk finds few of them, the index of names leaps over the rest.
async fn by_names(
    slice: &mut Slice<'_>,
    conn: &Conn,
    (after, up_to, limit): (i64, i64, i64),
    names: &[&str],
    query: &Query,
) -> Result<i64, Fault> {
    let walked = up_to.min(after.saturating_add(limit.saturating_mul(WALK)));
    let head = slice.fill_log(conn, &BY_NAMES, (after, walked, limit), Some(&names)).await?;
    let left = limit - slice.events.len() as i64;
    if left > 0 && walked < up_to.min(head) && !slice.full() {
        // What lies at or below a head never changes, so this is the same snapshot.
        by_items(slice, conn, (walked, up_to.min(head), left), query).await?;
    }
    Ok(head)
}

async fn by_items(
    slice: &mut Slice<'_>,
    conn: &Conn,
    bounds: (i64, i64, i64),
    query: &Query,
) -> Result<i64, Fault> {
    let items = guard::items(query);
    slice.fill_log(conn, &BY_ITEMS, bounds, Some(&items)).await
}

/// Events on their way from rows into a slice.
pub(crate) struct Slice<'a> {
    events: Events,
    bytes: usize,
    /// The stream that all of them are of, if there is one.
    stream: Option<&'a StreamId>,
    partition: Partition,
    /// Most events have no metadata, and share this.
    blank: Arc<Metadata>,
    piece: BytesMut,
}

impl<'a> Slice<'a> {
    pub(crate) fn new(stream: Option<&'a StreamId>, partition: Partition) -> Self {
        Self {
            events: Vec::new(),
            bytes: 0,
            stream,
            partition,
            blank: Arc::new(Metadata::new()),
            piece: BytesMut::new(),
        }
    }

    fn full(&self) -> bool {
        self.bytes >= SLICE_BYTES
    }

    async fn fill_log(
        &mut self,
        conn: &Conn,
        sql: &'static Sql,
        (after, up_to, limit): (i64, i64, i64),
        more: Option<Param<'_>>,
    ) -> Result<i64, Fault> {
        let partition = i32::from(self.partition.get());
        let bytes = (SLICE_BYTES - self.bytes.min(SLICE_BYTES)) as i64;
        let params: [Param<'_>; 5] = [&partition, &after, &up_to, &limit, &bytes];
        let params: Vec<Param<'_>> = params.into_iter().chain(more).collect();
        self.fill(conn.stream(sql, &params).await?, None).await
    }

    /// Takes the events of the rows, and gives the end that stands beside them.
    async fn fill(&mut self, rows: RowStream, floor: Option<Floor>) -> Result<i64, Fault> {
        let mut rows = pin!(rows);
        let mut end = None;
        let before = self.events.len();
        while let Some(row) = rows.try_next().await? {
            end = Some(row.try_get(0)?);
            if let Some(floor) = floor {
                floor.hold(&row, REWOUND)?;
            }
            match row.try_get(1)? {
                Some(position) => {
                    let event = self.event(&row, position)?;
                    self.bytes += event.payload.len();
                    self.events.push(Arc::new(event));
                }
                // The only row, where there are no events; of an earlier read there may be some.
                None if self.events.len() == before => break,
                None => return Err(Fault::corrupt("an index names an event that is not there")),
            }
        }
        end.ok_or_else(|| Fault::corrupt("a read gave no row"))
    }

    /// A hole among positions is not passed over: what stood there is lost.
    fn gapless(&self, after: i64) -> Result<(), Fault> {
        let expected = after.cast_unsigned().saturating_add(1)..;
        let hole =
            expected.zip(&self.events).find(|(position, event)| event.meta.position.get() != *position);
        hole.map_or(Ok(()), |(position, _)| {
            Err(Fault::corrupt(format!("there is no event at position {position}")))
        })
    }

    pub(crate) fn event(&mut self, row: &Row, position: i64) -> Result<RecordedEvent, Fault> {
        self.decode(row, position).map_err(|fault| match fault.kind() {
            StoreErrorKind::Corrupt => fault.at(position),
            _ => fault,
        })
    }

    fn decode(&mut self, row: &Row, at: i64) -> Result<RecordedEvent, Fault> {
        let version: i64 = row.try_get(2)?;
        let schema_version: i64 = row.try_get(3)?;
        let name: &str = row.try_get(4)?;
        let payload: &[u8] = row.try_get(5)?;
        let time: i64 = row.try_get(8)?;
        let meta = EventMeta {
            id: row.try_get(7)?,
            stream: self.stream_of(row.try_get(6)?)?,
            version: Version::new(version.cast_unsigned()),
            partition: self.partition,
            position: position(at),
            time: Timestamp::from_micros(time.cast_unsigned()),
            metadata: match text(row, 10)? {
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
            tags: text(row, 9)?.map(tags).transpose()?.unwrap_or_default(),
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

fn text(row: &Row, at: usize) -> Result<Option<&str>, Fault> {
    fn get<'a, T: FromSql<'a>>(row: &'a Row, at: usize) -> Result<T, Fault> {
        Ok(row.try_get(at)?)
    }
    get(row, at)
}

fn stream_id(text: &str) -> Result<StreamId, Fault> {
    text.parse().map_err(|_| Fault::corrupt("its stream has no name that can be"))
}

fn tags(text: &str) -> Result<Tags, Fault> {
    text::tags(text).ok_or_else(|| Fault::corrupt("its tags cannot be read"))
}

fn metadata(text: &str) -> Result<Metadata, Fault> {
    text::metadata(text).ok_or_else(|| Fault::corrupt("its metadata cannot be read"))
}
