//! Walking through the whole store, to find what contradicts itself.
//!
//! Events and keys are read in pages, and what is held against each other in whole tables is sorted by the
//! server, on its disk if need be. So the memory that it takes does not grow with the log.

use std::collections::BTreeMap;
use std::fmt::Display;

use cqrs_core::error::StoreErrorKind;
use cqrs_core::event::Tag;
use cqrs_core::id::{Partition, Position, StreamId};
use cqrs_core::store::{LogRead, Query};
use cqrs_core::text;
use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use crate::error::Fault;
use crate::guard::number;
use crate::open::{Conn, Sql};
use crate::read;
use crate::schema::Meta;

/// What a store without faults holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verified {
    /// Events in the log.
    pub events: u64,
    /// Streams with at least one event.
    pub streams: u64,
    /// Checkpoints of consumers.
    pub checkpoints: u64,
    /// Documents of all consumers.
    pub documents: u64,
    /// Snapshots of streams.
    pub snapshots: u64,
}

/// So many events or keys are read at once.
const PAGE: usize = 1_000;

// The ways out. The log is the one thing that cannot be made anew.
const LOG: &str = "put the database back from a backup";
const CHECKPOINT: &str = "delete the projection's rows in `checkpoints` and `entries`, and it begins anew";
const SNAPSHOT: &str = "delete its row in `snapshots`: it is only a cache";

/// Walks through one snapshot of the store, on a connection that nobody shares.
pub(crate) async fn verify(conn: &Conn, meta: Meta) -> Result<Verified, Fault> {
    // It takes as long as the log is long.
    let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL statement_timeout = 0";
    conn.client.batch_execute(begin).await?;
    let found = Walk { conn, meta, heads: BTreeMap::new() }.walk().await;
    // Nothing was written. If this fails, the connection has ended, and the transaction with it.
    let _ = conn.client.batch_execute("ROLLBACK").await;
    found
}

struct Walk<'a> {
    conn: &'a Conn,
    meta: Meta,
    heads: BTreeMap<i32, i64>,
}

static STRAY: Sql = Sql::new(
    "SELECT e.partition, e.position FROM {s}.events e
     WHERE e.partition < 0 OR e.partition >= $1 OR e.position < 1 ORDER BY e.partition, e.position LIMIT 1",
    &[Type::INT4],
);
static UNTAGGED: Sql = Sql::new(
    "SELECT w.tag, w.position FROM unnest($2, $3) AS w (tag, position)
     WHERE NOT EXISTS (SELECT FROM {s}.tags t
                       WHERE t.tag = w.tag AND t.partition = $1 AND t.position = w.position)
     ORDER BY w.position, w.tag LIMIT 1",
    &[Type::INT4, Type::TEXT_ARRAY, Type::INT8_ARRAY],
);
static TAGS: Sql = Sql::new("SELECT count(*) FROM {s}.tags", &[]);
static OVERTAGGED: Sql = Sql::new(
    "SELECT t.tag, t.partition, t.position FROM {s}.tags t
     LEFT JOIN {s}.events e ON e.partition = t.partition AND e.position = t.position
     WHERE e.tags IS NULL OR NOT (e.tags::jsonb ? t.tag)
     ORDER BY t.partition, t.position, t.tag LIMIT 1",
    &[],
);
static UNNAMED: Sql = Sql::new(
    "SELECT e.partition, e.position, e.name FROM {s}.events e
     WHERE NOT EXISTS (SELECT FROM {s}.names n
                       WHERE n.name = e.name AND n.partition = e.partition AND n.block = e.position >> 8)
     ORDER BY e.partition, e.position LIMIT 1",
    &[],
);
static VERSIONS: Sql = Sql::new(
    "SELECT f.stream, f.version, f.partition, f.position, f.before
     FROM (SELECT e.stream, e.version, e.partition, e.position,
                  coalesce(lag(e.version) OVER w, 0) AS before, coalesce(lag(e.position) OVER w, 0) AS place
           FROM {s}.events e WINDOW w AS (PARTITION BY e.stream ORDER BY e.version)) f
     WHERE f.version <> f.before + 1 OR f.position <= f.place
     ORDER BY f.partition, f.position LIMIT 1",
    &[],
);
static KEYS: Sql = Sql::new(
    "SELECT k.stream, k.key, k.partition, k.position, k.versions FROM {s}.keys k
     WHERE (k.stream, k.key) > ($1, $2) ORDER BY k.stream, k.key LIMIT $3",
    &[Type::TEXT, Type::TEXT, Type::INT8],
);
static UNWRITTEN: Sql = Sql::new(
    "SELECT w.number FROM unnest($1, $2, $3, $4) WITH ORDINALITY
         AS w (stream, version, partition, position, number)
     WHERE NOT EXISTS (SELECT FROM {s}.events e WHERE e.stream = w.stream AND e.version = w.version
                       AND e.partition = w.partition AND e.position <= w.position)
     ORDER BY w.number LIMIT 1",
    &[Type::TEXT_ARRAY, Type::INT8_ARRAY, Type::INT4_ARRAY, Type::INT8_ARRAY],
);
static CHECKPOINTS: Sql = Sql::new(
    "SELECT c.consumer, c.partition, c.position, c.event, e.partition, e.position
     FROM {s}.checkpoints c LEFT JOIN {s}.events e ON e.id = c.event
     WHERE c.log = $1 ORDER BY c.consumer, c.partition",
    &[Type::UUID],
);
static UNFOUNDED: Sql = Sql::new(
    "SELECT s.stream, s.version, s.position, s.event FROM {s}.snapshots s
     WHERE s.log = $1 AND s.event IS NOT NULL
         AND NOT EXISTS (SELECT FROM {s}.events e WHERE e.stream = s.stream AND e.version = s.version
                         AND e.position = s.position AND e.id = s.event)
     ORDER BY s.stream LIMIT 1",
    &[Type::UUID],
);
static COUNTS: Sql = Sql::new(
    "SELECT (SELECT count(*) FROM {s}.events e WHERE e.version = 1), (SELECT count(*) FROM {s}.checkpoints),
            (SELECT count(*) FROM {s}.entries WHERE collection = ''), (SELECT count(*) FROM {s}.snapshots)",
    &[],
);

/// For what follows, the planner may walk through tables, sort and hash, as it likes.
const WHOLE_TABLES: &str = "SET LOCAL enable_seqscan = on; SET LOCAL enable_bitmapscan = on;
    SET LOCAL enable_hashjoin = on; SET LOCAL enable_mergejoin = on";

impl Walk<'_> {
    async fn walk(mut self) -> Result<Verified, Fault> {
        let (mut events, mut tags) = (0, 0);
        for number in 0..self.meta.partitions {
            let partition = Partition::new(number);
            let seen = self.events(partition).await;
            let seen = seen.map_err(|fault| match fault.kind() {
                StoreErrorKind::Corrupt => fault.within(self.within(partition.get())),
                _ => fault,
            })?;
            events += seen.0;
            tags += seen.1;
        }
        self.strays().await?;
        self.keys().await?;
        self.conn.client.batch_execute(WHOLE_TABLES).await?;
        self.versions().await?;
        self.names().await?;
        self.tags(tags).await?;
        self.checkpoints().await?;
        self.snapshots().await?;
        let counts = self.conn.row(&COUNTS, &[]).await?;
        let count = |at: usize| Ok::<_, Fault>(counts.try_get::<_, i64>(at)?.cast_unsigned());
        let (streams, checkpoints) = (count(0)?, count(1)?);
        Ok(Verified { events, streams, checkpoints, documents: count(2)?, snapshots: count(3)? })
    }

    /// Positions count from 1, each event can be read, lies where its stream belongs, and is found by its
    /// tags. Gives how many events and tags there are.
    async fn events(&mut self, partition: Partition) -> Result<(u64, u64), Fault> {
        let (mut after, mut tags) = (Position::START, 0);
        loop {
            let read = LogRead { partition, after, up_to: None, query: Query::all(), limit: PAGE };
            let slice = read::log(self.conn, &read, self.meta.log).await?;
            let (mut names, mut places) = (Vec::new(), Vec::new());
            for event in &slice.events {
                let (stream, position) = (&event.meta.stream, number(event.meta.position));
                self.belongs(stream, partition).map_err(|fault| fault.at(position))?;
                names.extend(event.tags.iter().map(Tag::as_str));
                places.resize(names.len(), position);
            }
            if !names.is_empty() {
                let missing =
                    self.conn.rows(&UNTAGGED, &[&i32::from(partition.get()), &names, &places]).await?;
                if let Some(row) = missing.first() {
                    let (tag, position): (&str, i64) = (row.try_get(0)?, row.try_get(1)?);
                    let way = "insert it into `tags`";
                    return Err(
                        fault(format!("its tag `{tag}` is not in the table of tags"), way).at(position)
                    );
                }
                tags += names.len() as u64;
            }
            after = slice.read_to;
            if after >= slice.head.position {
                self.heads.insert(i32::from(partition.get()), number(after));
                // Position by position, none was missing.
                return Ok((after.get(), tags));
            }
        }
    }

    fn belongs(&self, stream: &StreamId, partition: Partition) -> Result<(), Fault> {
        let home = self.meta.partition_of(stream);
        match home == partition {
            true => Ok(()),
            false => {
                Err(fault(format!("{stream} belongs to partition {home}, and lies in {partition}"), LOG))
            }
        }
    }

    /// No event lies where no reader looks.
    async fn strays(&self) -> Result<(), Fault> {
        match self.conn.rows(&STRAY, &[&i32::from(self.meta.partitions)]).await?.first() {
            None => Ok(()),
            Some(row) => {
                let (partition, position): (i32, i64) = (row.try_get(0)?, row.try_get(1)?);
                let words = format!("there is an event at position {position} of partition {partition}");
                Err(fault(words + ", which cannot be", LOG))
            }
        }
    }

    /// Versions count from 1 in the order of positions.
    async fn versions(&self) -> Result<(), Fault> {
        let rows = self.conn.rows(&VERSIONS, &[]).await?;
        let Some(row) = rows.first() else { return Ok(()) };
        let (stream, version, before): (&str, i64, i64) = (row.try_get(0)?, row.try_get(1)?, row.try_get(4)?);
        let found = match version == before + 1 {
            false => fault(format!("{stream} has no version {}", before + 1), LOG),
            true => {
                let words = format!("version {version} of {stream} lies before the version that it follows");
                fault(words, LOG)
            }
        };
        Err(found.at(row.try_get(3)?).within(self.within(row.try_get::<_, i32>(2)?)))
    }

    /// Each event is found by its name. A block that has a name too many is looked through in vain.
    async fn names(&self) -> Result<(), Fault> {
        let rows = self.conn.rows(&UNNAMED, &[]).await?;
        let Some(row) = rows.first() else { return Ok(()) };
        let (partition, position, name): (i32, i64, &str) =
            (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        let words = format!("its name `{name}` is not in the table of names");
        let way = format!("insert it into `names`, with the block {}", position >> 8);
        Err(fault(words, &way).at(position).within(self.within(partition)))
    }

    /// Each tag of an event was found, so the table agrees if it has no more than those.
    async fn tags(&self, expected: u64) -> Result<(), Fault> {
        let there: i64 = self.conn.row(&TAGS, &[]).await?.try_get(0)?;
        if there.cast_unsigned() == expected {
            return Ok(());
        }
        let row = self.conn.row(&OVERTAGGED, &[]).await?;
        let words =
            format!("the table of tags has `{}`, which the event has not", row.try_get::<_, &str>(0)?);
        let way = "delete that row of `tags`";
        Err(fault(words, way).at(row.try_get(2)?).within(self.within(row.try_get::<_, i32>(1)?)))
    }

    /// Each key stands for events that are there.
    async fn keys(&self) -> Result<(), Fault> {
        let mut last = (String::new(), String::new());
        loop {
            let rows = self.conn.rows(&KEYS, &[&last.0, &last.1, &(PAGE as i64)]).await?;
            let Some(row) = rows.last() else { return Ok(()) };
            last = (row.try_get(0)?, row.try_get(1)?);
            let (mut streams, mut versions) = (Vec::new(), Vec::new());
            let (mut partitions, mut positions) = (Vec::<i32>::new(), Vec::<i64>::new());
            let mut of = Vec::new();
            for (number, row) in rows.iter().enumerate() {
                let written = self.key(row)?;
                for (stream, version) in written.iter().filter(|(_, version)| version.get() > 0) {
                    streams.push(stream.as_str().to_owned());
                    versions.push(version.get().cast_signed());
                    partitions.push(row.try_get(2)?);
                    positions.push(row.try_get(3)?);
                    of.push(number);
                }
            }
            let missing = self.conn.rows(&UNWRITTEN, &[&streams, &versions, &partitions, &positions]).await?;
            if let Some(row) = missing.first() {
                let at = usize::try_from(row.try_get::<_, i64>(0)? - 1).unwrap_or_default();
                let stands = streams.get(at).zip(versions.get(at)).map(|(stream, version)| {
                    format!("version {version} of {stream}, which is not in the log there")
                });
                if let Some((row, stands)) = of.get(at).and_then(|of| rows.get(*of)).zip(stands) {
                    return Err(of_key(row, stands)?);
                }
            }
        }
    }

    /// What a key stands for, if it can.
    fn key(&self, row: &Row) -> Result<Vec<(StreamId, cqrs_core::id::Version)>, Fault> {
        let (stream, partition, position): (&str, i32, i64) =
            (row.try_get(0)?, row.try_get(2)?, row.try_get(3)?);
        let Some((versions, _)) = text::key(row.try_get(4)?) else {
            return Err(of_key(row, "what cannot be read")?);
        };
        let home = stream.parse::<StreamId>().map(|stream| self.meta.partition_of(&stream));
        if home.map_or(true, |home| i32::from(home.get()) != partition) {
            return Err(of_key(row, format!("events of partition {partition}, where its stream is not"))?);
        }
        match self.heads.get(&partition) {
            Some(head) if (0..=*head).contains(&position) => Ok(versions),
            _ => Err(of_key(row, format!("position {position}, which the log does not have"))?),
        }
    }

    /// Checkpoints may be of another log, whose read models live here; those say nothing about this one.
    async fn checkpoints(&self) -> Result<(), Fault> {
        for row in &self.conn.rows(&CHECKPOINTS, &[&self.meta.log.0]).await? {
            let (consumer, partition, position): (&str, i32, i64) =
                (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
            let wrong = |words: String| {
                let words = format!("the checkpoint of `{consumer}` {words}");
                Err(fault(words, CHECKPOINT).within(self.within(partition)))
            };
            let Some(head) = self.heads.get(&partition) else {
                return wrong(format!("is of partition {partition}, which is not there"));
            };
            // As the number that was stored bit by bit.
            if position.cast_unsigned() > head.cast_unsigned() {
                let position = position.cast_unsigned();
                return wrong(format!("is at {position}, behind the log's end at {head}"));
            }
            let Some(event) = row.try_get::<_, Option<Uuid>>(3)? else { continue };
            // The last event that took effect lies at or before the checkpoint.
            let seen: (Option<i32>, Option<i64>) = (row.try_get(4)?, row.try_get(5)?);
            if !matches!(seen, (Some(of), Some(at)) if of == partition && at <= position) {
                return wrong(format!("at {position} names the event {event}, which it cannot have seen"));
            }
        }
        Ok(())
    }

    /// The log has the event of each snapshot where it says. Those of another log say nothing about this one, and
    /// those without an event are never used.
    async fn snapshots(&self) -> Result<(), Fault> {
        let rows = self.conn.rows(&UNFOUNDED, &[&self.meta.log.0]).await?;
        let Some(row) = rows.first() else { return Ok(()) };
        let (stream, version, position): (&str, i64, i64) =
            (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        let event: Uuid = row.try_get(3)?;
        let words = format!(
            "the snapshot of {stream} is at version {version}, where the log does not have the event {event} at position {position}"
        );
        Err(fault(words, SNAPSHOT))
    }

    /// Names the partition, where there are several.
    fn within(&self, partition: impl Display) -> Option<String> {
        (self.meta.partitions > 1).then(|| format!("partition {partition}"))
    }
}

fn fault(words: impl Display, way: &str) -> Fault {
    Fault::corrupt(format!("{words}; {way}"))
}

fn of_key(row: &Row, stands: impl Display) -> Result<Fault, Fault> {
    let (stream, key): (&str, &str) = (row.try_get(0)?, row.try_get(1)?);
    Ok(fault(format!("the key {key:?} of {stream} stands for {stands}"), LOG))
}
