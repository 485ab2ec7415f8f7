//! The write path of the log: what a group of appends comes to, decided in the process.
//!
//! The facts that the decision rests on are read under the lock; or they are assumed, where each append
//! of the group says itself which version its streams have, and the server finds out while it writes.
//! The decision is the same.

use std::collections::hash_map::Entry;

use cqrs_core::error::{StoreError, StoreErrorKind};
use cqrs_core::event::NewEvent;
use cqrs_core::id::{Partition, Position, StreamId, Version};
use cqrs_core::store::{
    Append, AppendError, Appended, CommandKey, Conflict, Expected, Found, Guard, Head, LogId, Query,
};
use cqrs_core::text;
use foldhash::{HashMap, HashMapExt as _, HashSet, HashSetExt as _};
use futures_util::future;
use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use crate::error::Fault;
use crate::guard;
use crate::inline::Effects;
use crate::known::Known;
use crate::news::{self, Floor, rewound};
use crate::open::{Conn, Param, Sql};
use crate::plain;

/// What came of one append of a group.
pub(crate) type Outcome = Result<Appended, AppendError>;

/// What is known of the log, or assumed, and what the group adds to it.
#[derive(Clone, Debug)]
pub(crate) struct Facts<'a> {
    log: LogId,
    partition: Partition,
    /// The last position; if it is not known, positions count from the group's start.
    head: i64,
    /// The id of the event there, as far as it is known.
    last: Option<Uuid>,
    streams: HashMap<&'a StreamId, End>,
    keys: HashMap<&'a CommandKey, Appended>,
    ids: HashSet<Uuid>,
    /// The last match of each query behind a position.
    matches: Vec<(&'a Query, Position, Option<i64>)>,
    /// The ids of the events at positions that guards name.
    points: HashMap<i64, Uuid>,
    /// What the group writes.
    added: Vec<(i64, &'a NewEvent)>,
    /// The log's last event, on which all that is sure rests.
    end: Option<(i64, Uuid)>,
}

/// Where a stream ends.
#[derive(Clone, Copy, Debug, Default)]
struct End {
    version: i64,
    /// The id of its last event, as far as it is asked for or written.
    last: Option<Uuid>,
    /// Whether that is sure as long as the log ends as is known.
    sure: bool,
}

impl<'a> Facts<'a> {
    fn new(log: LogId, partition: Partition, head: i64) -> Self {
        Self {
            log,
            partition,
            head,
            last: None,
            streams: HashMap::default(),
            keys: HashMap::default(),
            ids: HashSet::default(),
            matches: Vec::new(),
            points: HashMap::default(),
            added: Vec::new(),
            end: None,
        }
    }

    /// The facts that a group takes for granted, if it says of each stream which version it has, and
    /// asks for nothing else.
    pub(crate) fn assumed(group: &[&'a Append], to: &Target, known: &Known) -> Option<Self> {
        let events = group.iter().map(|append| append.events.len()).sum();
        let mut facts = Self {
            end: known.end(),
            streams: HashMap::with_capacity(group.len()),
            ids: HashSet::with_capacity(events),
            added: Vec::with_capacity(events),
            ..Self::new(to.log, to.partition, 0)
        };
        for append in group {
            facts.assume(&append.guard, known)?;
            let known = append.events.iter().all(|event| facts.streams.contains_key(&event.stream));
            let only_key = append.events.is_empty() && append.key.is_some();
            if !known || only_key || !append.inline.is_empty() {
                return None;
            }
        }
        Some(facts)
    }

    /// Of a stream that two appends speak of, the first one's word is taken.
    fn assume(&mut self, guard: &'a Guard, known: &Known) -> Option<()> {
        match guard {
            Guard::All(all) => all.iter().try_for_each(|guard| self.assume(guard, known)),
            Guard::Stream { stream, expected } => {
                let vacant = match self.streams.entry(stream) {
                    Entry::Vacant(vacant) => vacant,
                    Entry::Occupied(mut there) => {
                        // The same version, and more: it is looked up for both.
                        if let (Expected::Event(version, id), End { last: None, .. }) =
                            (expected, there.get())
                            && version.get().cast_signed() == there.get().version
                        {
                            let sure = known.of(stream).is_some_and(|known| known.is_sure && known.id == *id);
                            let there = there.get_mut();
                            (there.last, there.sure) = (Some(*id), there.sure && sure);
                        }
                        return Some(());
                    }
                };
                let (version, last) = match expected {
                    Expected::NoStream => (0, None),
                    Expected::Event(version, id) => (i64::try_from(version.get()).ok()?, Some(*id)),
                    Expected::Version(version) => (i64::try_from(version.get()).ok()?, None),
                    Expected::Exists | Expected::Any => return None,
                };
                // If a stream that should be new is there, its version 1 is taken. An event that this task has not
                // written is looked up by the statement that appends.
                let is_last = |id| last.is_none_or(|last| last == id);
                let sure = known.of(stream).map_or(version == 0, |known| {
                    known.is_sure && known.version == version && is_last(known.id)
                });
                vacant.insert(End { version, last, sure });
                Some(())
            }
            Guard::Any | Guard::Unchanged { .. } | Guard::Absent(_) => None,
        }
    }

    /// Sees whether all that is taken for granted of streams is so, where there is nothing to write. Needs no
    /// lock: it is so at the moment in which the server looks. `None` if it is not.
    pub(crate) async fn check(&self, conn: &Conn, to: &Target, floor: i64) -> Result<Option<Start>, Fault> {
        let partition = i32::from(to.partition.get());
        let (mut names, mut bases, mut lasts) = (Vec::new(), Vec::new(), Vec::new());
        for (stream, end) in &self.streams {
            names.push(stream.as_str());
            bases.push(end.version);
            lasts.push(end.last);
        }
        let (end, last) = self.end.unzip();
        let row = conn.row(&CHECK, &[&partition, &end, &last, &names, &bases, &lasts]).await?;
        let start = Start { position: row.try_get(0)?, last: row.try_get(3)?, as_known: row.try_get(1)? };
        news::not_rewound(to.partition, floor, start.position)?;
        Ok(row.try_get::<_, bool>(2)?.then_some(start))
    }

    pub(crate) fn version_of(&self, stream: &StreamId) -> i64 {
        self.streams.get(stream).map_or(0, |end| end.version)
    }

    /// Whether the stream's last event is the one that is expected, if one is.
    pub(crate) fn ends_with(&self, stream: &StreamId, expected: Expected) -> bool {
        match expected {
            Expected::Event(_, id) => self.streams.get(stream).and_then(|end| end.last) == Some(id),
            _ => true,
        }
    }

    /// The id of the event at a position, if there is one.
    pub(crate) fn id_at(&self, position: Position) -> Option<Uuid> {
        let position = guard::number(position);
        let added = self.added.iter().find(|(at, _)| *at == position).map(|(_, event)| event.id);
        added.or_else(|| self.points.get(&position).copied())
    }

    /// The log's last event, on which all this rests; `None` if it is not known.
    pub(crate) fn end(&self) -> Option<(i64, Uuid)> {
        self.end
    }

    /// Leaves out what was not written because its streams have moved, and has that forgotten.
    pub(crate) fn leave_out(&mut self, moved: &HashMap<&str, i64>, known: &mut Known) {
        self.added.retain(|(_, event)| {
            let is_moved = moved.contains_key(event.stream.as_str());
            if is_moved {
                known.forget(&event.stream);
            }
            !is_moved
        });
        self.added.iter_mut().zip(1..).for_each(|((position, _), number)| *position = number);
        self.head = self.added.len() as i64;
    }

    /// Has it forgotten what was to be written and was not.
    pub(crate) fn forget(&self, known: &mut Known) {
        self.added.iter().for_each(|(_, event)| known.forget(&event.stream));
    }

    /// Has it remembered what was committed behind `start`, from which positions are counted.
    pub(crate) fn remember(&self, known: &mut Known, start: i64) {
        for (position, event) in &self.added {
            // Of a stream's events, the last one counts.
            let end = self.streams.get(&event.stream);
            if let Some(End { version, .. }) = end.filter(|end| end.last == Some(event.id)) {
                known.remember(&event.stream, (*version, event.id));
            }
            known.remember_name(start + position, &event.name);
        }
        if let Some((position, last)) = self.added.last() {
            known.remember_end(start + position, last.id);
        }
    }

    pub(crate) fn head(&self) -> i64 {
        self.head
    }

    pub(crate) fn log(&self) -> LogId {
        self.log
    }

    /// Where the log ends.
    pub(crate) fn log_end(&self) -> Head {
        Head { log: self.log, position: Position::new(self.head.cast_unsigned()), event: self.last }
    }

    pub(crate) fn partition(&self) -> Partition {
        self.partition
    }

    /// The position of the last event that matches and lies behind `after`.
    pub(crate) fn last_match(&self, query: &Query, after: Position) -> Option<Position> {
        let behind = |(position, event): &&(i64, &NewEvent)| {
            *position > guard::number(after) && query.matches(&event.name, &event.tags)
        };
        let added = self.added.iter().rev().find(behind).map(|(position, _)| *position);
        let stored = || {
            let asked = self.matches.iter().find(|(asked, from, _)| *asked == query && *from == after);
            asked.and_then(|(_, _, found)| *found)
        };
        added.or_else(stored).map(|position| Position::new(position.cast_unsigned()))
    }

    fn appended(&self, versions: Vec<(StreamId, Version)>) -> Appended {
        let Head { log, position, event } = self.log_end();
        Appended { log, partition: self.partition, position, event, versions, owner: None }
    }
}

/// Decides a group, in the order of the contract and of the group. Who loses is left out, and the others
/// are not touched by it.
pub(crate) fn decide<'a>(
    facts: &mut Facts<'a>,
    effects: &mut Effects<'_>,
    group: &[&'a Append],
) -> (Vec<Outcome>, Rows<'a>) {
    let mut rows = Rows::new(facts, group.iter().map(|append| append.events.len()).sum());
    let outcomes = group.iter().map(|append| decide_one(facts, effects, &mut rows, append)).collect();
    (outcomes, rows)
}

fn decide_one<'a>(
    facts: &mut Facts<'a>,
    effects: &mut Effects<'_>,
    rows: &mut Rows<'a>,
    append: &'a Append,
) -> Outcome {
    if let Some(key) = &append.key
        && let Some(first) = facts.keys.get(key)
    {
        return Err(AppendError::Duplicate(first.clone()));
    }
    guard::check(facts, &append.guard)?;
    if let Some(id) = used_twice(facts, &append.events) {
        let message = format!("the event id {id} is used twice");
        return Err(StoreError::new(StoreErrorKind::Invalid, message).into());
    }
    effects.take(facts, append)?;
    let mut appended = write(facts, rows, append);
    if let Some(key) = &append.key {
        appended.owner.clone_from(&append.owner);
        rows.key(key, &appended);
        facts.keys.insert(key, appended.clone());
    }
    Ok(appended)
}

fn used_twice(facts: &Facts<'_>, events: &[NewEvent]) -> Option<Uuid> {
    if let [event] = events {
        return facts.ids.contains(&event.id).then_some(event.id);
    }
    let mut seen = HashSet::with_capacity(events.len());
    events.iter().map(|event| event.id).find(|id| !seen.insert(*id) || facts.ids.contains(id))
}

fn write<'a>(facts: &mut Facts<'a>, rows: &mut Rows<'a>, append: &'a Append) -> Appended {
    let mut versions = match &append.key {
        Some(key) if append.events.is_empty() => {
            vec![(key.stream.clone(), Version::new(facts.version_of(&key.stream).cast_unsigned()))]
        }
        _ => Vec::with_capacity(1),
    };
    for event in &append.events {
        (facts.head, facts.last) = (facts.head + 1, Some(event.id));
        let end = facts.streams.entry(&event.stream).or_default();
        let version = end.version + 1;
        (end.version, end.last) = (version, Some(event.id));
        facts.ids.insert(event.id);
        facts.added.push((facts.head, event));
        rows.event(event, version);
        let version = Version::new(version.cast_unsigned());
        // The last one is looked at first: most appends write to one stream.
        match versions.iter_mut().rev().find(|(stream, _)| *stream == event.stream) {
            Some((_, last)) => *last = version,
            None => versions.push((event.stream.clone(), version)),
        }
    }
    facts.appended(versions)
}

/// The one stream that an append is about; `None` if there is none or more.
pub(crate) fn only_stream(append: &Append) -> Option<&StreamId> {
    fn guarded<'a>(guard: &'a Guard, one: &mut Option<&'a StreamId>) -> Option<()> {
        match guard {
            Guard::Any | Guard::Unchanged { .. } | Guard::Absent(_) => Some(()),
            Guard::All(all) => all.iter().try_for_each(|guard| guarded(guard, one)),
            Guard::Stream { stream, .. } => (*one.get_or_insert(stream) == stream).then_some(()),
        }
    }
    let mut one = None;
    guarded(&append.guard, &mut one)?;
    let others =
        append.events.iter().map(|event| &event.stream).chain(append.key.as_ref().map(|key| &key.stream));
    for stream in others {
        if *one.get_or_insert(stream) != stream {
            return None;
        }
    }
    one
}

/// What came of each append of a group of which something was left out. `None` for one that is to be decided
/// under the lock: its stream has moved, and nobody can say here that it has lost.
pub(crate) fn left_out(
    group: &[&Append],
    outcomes: Vec<Outcome>,
    written: &Written<'_>,
) -> Vec<Option<Outcome>> {
    let (mut head, mut last) = (written.start.position, written.start.last);
    let one = |(append, outcome): (&&Append, Outcome)| {
        let stream = only_stream(append)?;
        if let Some(version) = written.moved.get(stream.as_str()) {
            return lost(&append.guard, *version).map(|conflict| Err(conflict.into()));
        }
        match outcome {
            Ok(mut appended) => {
                head += append.events.len() as i64;
                last = append.events.last().map(|event| event.id).or(last);
                (appended.position, appended.event) = (Position::new(head.cast_unsigned()), last);
                Some(Ok(appended))
            }
            Err(AppendError::Conflict(conflict)) => Some(Err(conflict.into())),
            // It may rest on what was left out.
            Err(_) => None,
        }
    };
    group.iter().zip(outcomes).map(one).collect()
}

/// The clause that does not hold of a stream that has this version. Of one that expects an event at that very
/// version, it is not known.
fn lost(guard: &Guard, version: i64) -> Option<Conflict> {
    let found = Version::new(version.cast_unsigned());
    guard::clauses(guard).into_iter().find_map(|clause| match clause {
        Guard::Stream { expected, .. } => (!expected.holds(found))
            .then(|| Conflict { clause: clause.clone(), found: Found::Version(found) }),
        _ => None,
    })
}

/// Moves what was counted from the group's start to where the group came to lie.
pub(crate) fn shift(outcomes: &mut [Outcome], start: Start) {
    for outcome in outcomes {
        if let Ok(appended) | Err(AppendError::Duplicate(appended)) = outcome {
            if appended.position == Position::START {
                // Nothing of the group comes before it.
                appended.event = start.last;
            }
            appended.position = Position::new(appended.position.get() + start.position.cast_unsigned());
        }
    }
}

/// What the statement that appends is given, column by column.
#[derive(Debug, Default)]
pub(crate) struct Rows<'a> {
    pub(crate) end: Option<(i64, Uuid)>,
    pub(crate) sure: Vec<&'a str>,
    pub(crate) sure_bases: Vec<i64>,
    pub(crate) sure_lasts: Vec<Option<Uuid>>,
    pub(crate) heads: Vec<&'a str>,
    pub(crate) bases: Vec<i64>,
    pub(crate) lasts: Vec<Option<Uuid>>,
    pub(crate) key_streams: Vec<&'a str>,
    pub(crate) key_names: Vec<&'a str>,
    pub(crate) key_ends: Vec<i64>,
    pub(crate) key_versions: Vec<String>,
    pub(crate) streams: Vec<&'a str>,
    pub(crate) versions: Vec<i64>,
    pub(crate) ids: Vec<Uuid>,
    pub(crate) names: Vec<&'a str>,
    pub(crate) schema_versions: Vec<i64>,
    pub(crate) times: Vec<i64>,
    /// Up to the last event that has some, as the next list.
    pub(crate) tags: Vec<Option<String>>,
    pub(crate) metadata: Vec<Option<String>>,
    pub(crate) payloads: Vec<&'a [u8]>,
    pub(crate) tag_ends: Vec<i64>,
    pub(crate) tag_names: Vec<&'a str>,
}

impl<'a> Rows<'a> {
    /// What has to hold when they are written: the versions as they are before the group. So many events
    /// will come at most.
    fn new(facts: &Facts<'a>, events: usize) -> Self {
        let mut rows = Self { end: facts.end, ..Self::default() };
        for (stream, End { version, last, sure }) in &facts.streams {
            let (streams, bases, lasts) = match sure {
                true => (&mut rows.sure, &mut rows.sure_bases, &mut rows.sure_lasts),
                false => (&mut rows.heads, &mut rows.bases, &mut rows.lasts),
            };
            streams.push(stream.as_str());
            bases.push(*version);
            lasts.push(*last);
        }
        rows.streams.reserve_exact(events);
        rows.versions.reserve_exact(events);
        rows.ids.reserve_exact(events);
        rows.names.reserve_exact(events);
        rows.schema_versions.reserve_exact(events);
        rows.times.reserve_exact(events);
        rows.payloads.reserve_exact(events);
        rows
    }

    fn event(&mut self, event: &'a NewEvent, version: i64) {
        let before = self.streams.len();
        self.streams.push(event.stream.as_str());
        self.versions.push(version);
        self.ids.push(event.id);
        self.names.push(&event.name);
        self.schema_versions.push(i64::from(event.schema_version));
        self.times.push(event.time.as_micros().cast_signed());
        put(&mut self.tags, before, text::of_tags(&event.tags));
        put(&mut self.metadata, before, text::of_metadata(&event.metadata));
        self.payloads.push(&event.payload);
        for tag in &event.tags {
            self.tag_ends.push(self.streams.len() as i64);
            self.tag_names.push(tag.as_str());
        }
    }

    fn key(&mut self, key: &'a CommandKey, appended: &Appended) {
        self.key_streams.push(key.stream.as_str());
        self.key_names.push(&key.key);
        self.key_ends.push(self.streams.len() as i64);
        self.key_versions.push(text::of_key(&appended.versions, appended.owner.as_ref()));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.streams.is_empty() && self.key_names.is_empty()
    }

    /// Writes them, all or those whose streams are as is assumed if they are written `partly`; `None` if nothing
    /// was written, because what was assumed does not hold.
    pub(crate) async fn write(
        &self,
        conn: &Conn,
        to: &Target,
        ground: Ground,
        block: Option<i64>,
        floor: i64,
    ) -> Result<Option<Written<'a>>, Fault> {
        let partition = i32::from(to.partition.get());
        let (end, last) = self.end.unzip();
        let (certain, partly) = (ground == Ground::Certain, ground == Ground::EachForItself);
        let params: [Param<'_>; 31] = [
            &to.log.0,
            &conn.id,
            &to.lock,
            &partition,
            &certain,
            &partly,
            &end,
            &last,
            &block,
            &self.sure,
            &self.sure_bases,
            &self.sure_lasts,
            &self.heads,
            &self.bases,
            &self.lasts,
            &self.key_streams,
            &self.key_names,
            &self.key_ends,
            &self.key_versions,
            &self.streams,
            &self.versions,
            &self.ids,
            &self.names,
            &self.schema_versions,
            &self.times,
            &self.tags,
            &self.metadata,
            &self.payloads,
            &self.tag_ends,
            &self.tag_names,
            &floor,
        ];
        let row = conn.row(&APPEND, &params).await?;
        let (answer, last): (Option<Vec<i64>>, Option<Uuid>) = (row.try_get(0)?, row.try_get(1)?);
        answer.map(|answer| self.understand(&answer, last)).transpose()
    }

    fn understand(&self, answer: &[i64], last: Option<Uuid>) -> Result<Written<'a>, Fault> {
        let unclear = || Fault::corrupt("the server's answer to an append is not understood");
        let (start, moved) = answer.split_first().ok_or_else(unclear)?;
        let start = match *start < 0 {
            true => Start { position: -1 - start, last, as_known: false },
            false => Start { position: *start, last, as_known: true },
        };
        if moved.is_empty() {
            return Ok(start.into());
        }
        let (numbers, versions) = moved.split_at(moved.len() / 2);
        let asked: Vec<&str> = self.heads.iter().chain(&self.sure).copied().collect();
        let moved =
            numbers.iter().zip(versions).map(|(number, version)| Ok((*nth(&asked, *number)?, *version)));
        Ok(Written { start, moved: moved.collect::<Result<_, Fault>>()? })
    }
}

/// Puts what there is at a place. Mostly there is nothing, and then the list stays empty.
fn put(list: &mut Vec<Option<String>>, at: usize, text: Option<String>) {
    if text.is_some() {
        list.resize(at, None);
        list.push(text);
    }
}

/// What a group was decided on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ground {
    /// What was read under the lock that this transaction still has.
    Certain,
    /// What is assumed of each stream and key.
    Assumed,
    /// The same, where each append is about one stream, and holds or not whatever becomes of the others.
    EachForItself,
}

/// What came of a group.
#[derive(Clone, Debug)]
pub(crate) struct Written<'a> {
    pub(crate) start: Start,
    /// The streams that are not as was assumed, with their versions. Of them nothing was written.
    pub(crate) moved: HashMap<&'a str, i64>,
}

impl From<Start> for Written<'_> {
    fn from(start: Start) -> Self {
        Self { start, moved: HashMap::default() }
    }
}

/// Where a group came to lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Start {
    /// The position before the first event.
    pub(crate) position: i64,
    /// The id of the event there.
    pub(crate) last: Option<Uuid>,
    /// Whether the log ended as the writing task knew.
    pub(crate) as_known: bool,
}

/// Which partition is written to, and what has to be held for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    pub(crate) log: LogId,
    pub(crate) partition: Partition,
    /// The number of the advisory lock.
    pub(crate) lock: i64,
}

impl Target {
    /// Locks are numbered by the log's id, which is random, and the partition behind it.
    pub(crate) fn new(log: LogId, partition: Partition) -> Self {
        let (high, low) = log.0.as_u64_pair();
        let lock = (high ^ low).wrapping_add(u64::from(partition.get())).cast_signed();
        Self { log, partition, lock }
    }
}

pub(crate) static APPEND: Sql = Sql::new(
    "SELECT a.o_answer, a.o_last FROM {s}.append_group_v3($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14,
        $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25, $26, $27, $28, $29, $30, $31) a",
    &[
        Type::UUID,
        Type::UUID,
        Type::INT8,
        Type::INT4,
        Type::BOOL,
        Type::BOOL,
        Type::INT8,
        Type::UUID,
        Type::INT8,
        Type::TEXT_ARRAY,
        Type::INT8_ARRAY,
        Type::UUID_ARRAY,
        Type::TEXT_ARRAY,
        Type::INT8_ARRAY,
        Type::UUID_ARRAY,
        Type::TEXT_ARRAY,
        Type::TEXT_ARRAY,
        Type::INT8_ARRAY,
        Type::TEXT_ARRAY,
        Type::TEXT_ARRAY,
        Type::INT8_ARRAY,
        Type::UUID_ARRAY,
        Type::TEXT_ARRAY,
        Type::INT8_ARRAY,
        Type::INT8_ARRAY,
        Type::TEXT_ARRAY,
        Type::TEXT_ARRAY,
        Type::BYTEA_ARRAY,
        Type::INT8_ARRAY,
        Type::TEXT_ARRAY,
        Type::INT8,
    ],
);

// What is read under the lock, each as a statement of its own; they travel together.
pub(crate) static HEAD: Sql = Sql::new(
    "SELECT coalesce(l.position, 0), l.id FROM (VALUES (1)) AS one LEFT JOIN LATERAL
         (SELECT e.position, e.id FROM {s}.events e WHERE e.partition = $1
          ORDER BY e.position DESC LIMIT 1) l ON true",
    &[Type::INT4],
);
static POINTS: Sql = Sql::new(
    "SELECT e.position, e.id FROM {s}.events e WHERE e.partition = $1 AND e.position = ANY ($2)",
    &[Type::INT4, Type::INT8_ARRAY],
);
static VERSIONS: Sql = Sql::new(
    "SELECT n.number, e.version, e.id FROM unnest($1) WITH ORDINALITY AS n (stream, number)
     JOIN LATERAL (SELECT e.version, e.id FROM {s}.events e WHERE e.stream = n.stream
                   ORDER BY e.version DESC LIMIT 1) e ON true",
    &[Type::TEXT_ARRAY],
);
static KEYS: Sql = Sql::new(
    "SELECT n.number, k.position, k.versions, k.partition, e.id
     FROM unnest($1, $2) WITH ORDINALITY AS n (stream, key, number)
     JOIN {s}.keys k ON k.stream = n.stream AND k.key = n.key
     LEFT JOIN {s}.events e ON e.partition = k.partition AND e.position = k.position",
    &[Type::TEXT_ARRAY, Type::TEXT_ARRAY],
);
static IDS: Sql = Sql::new("SELECT e.id FROM {s}.events e WHERE e.id = ANY ($1)", &[Type::UUID_ARRAY]);
static MATCHES: Sql = Sql::new(
    "SELECT (SELECT max({s}.last_match_v3($1, ARRAY(SELECT json_array_elements_text(i -> 'names')),
                ARRAY(SELECT json_array_elements_text(i -> 'tags')), n.after, {s}.last_position_v3($1)))
             FROM json_array_elements(n.items::json) i)
     FROM unnest($2, $3) WITH ORDINALITY AS n (items, after, number) ORDER BY n.number",
    &[Type::INT4, Type::TEXT_ARRAY, Type::INT8_ARRAY],
);

// Whether streams end as they are said to, and the log as is known, in one snapshot.
static CHECK: Sql = Sql::new(
    "SELECT coalesce(l.position, 0), coalesce(l.position = $2 AND l.id = $3, false),
            NOT EXISTS (SELECT FROM unnest($4, $5, $6) AS h (stream, base, last)
                        LEFT JOIN LATERAL (SELECT e.version, e.id FROM {s}.events e WHERE e.stream = h.stream
                                           ORDER BY e.version DESC LIMIT 1) e ON true
                        WHERE coalesce(e.version, 0) <> h.base OR e.id <> h.last), l.id
     FROM (VALUES (1)) AS one LEFT JOIN LATERAL
         (SELECT e.position, e.id FROM {s}.events e WHERE e.partition = $1
          ORDER BY e.position DESC LIMIT 1) l ON true",
    &[Type::INT4, Type::INT8, Type::UUID, Type::TEXT_ARRAY, Type::INT8_ARRAY, Type::UUID_ARRAY],
);

/// All statements of a transaction that finds out before it writes.
pub(crate) static ALL: [&Sql; 11] = [
    &APPEND,
    &CHECK,
    &plain::APPEND_ONE,
    &plain::APPEND_ALL,
    &plain::APPEND_ALL_UNKNOWN,
    &HEAD,
    &VERSIONS,
    &KEYS,
    &IDS,
    &MATCHES,
    &POINTS,
];

impl<'a> Facts<'a> {
    /// Reads the facts that a group asks for, in a transaction that has the lock.
    pub(crate) async fn read(
        conn: &Conn,
        to: &Target,
        group: &[&'a Append],
        floor: i64,
    ) -> Result<Self, Fault> {
        let wanted = Wanted::of(group);
        let partition = i32::from(to.partition.get());
        let ((head, last), versions, keys, ids, (matches, points)) = future::try_join5(
            async {
                let row = conn.row(&HEAD, &[&partition]).await?;
                Ok((row.try_get::<_, i64>(0)?, row.try_get::<_, Option<Uuid>>(1)?))
            },
            wanted.versions(conn),
            wanted.keys(conn, to.log),
            wanted.ids(conn),
            future::try_join(wanted.matches(conn, partition), wanted.points(conn, partition)),
        )
        .await?;
        news::not_rewound(to.partition, floor, head)?;
        let mut facts = Self { last, keys, ids, matches, points, ..Self::new(to.log, to.partition, head) };
        // A stream that is not found has no events, which is as good a fact.
        facts.streams.extend(wanted.streams.iter().map(|stream| (*stream, End::default())));
        for (stream, version, id) in versions {
            facts.streams.insert(stream, End { version, last: Some(id), sure: false });
        }
        Ok(facts)
    }
}

/// What a group asks of the log.
#[derive(Default)]
struct Wanted<'a> {
    streams: Vec<&'a StreamId>,
    keys: Vec<&'a CommandKey>,
    ids: Vec<Uuid>,
    queries: Vec<(&'a Query, Position)>,
    points: Vec<i64>,
}

impl<'a> Wanted<'a> {
    fn of(group: &[&'a Append]) -> Self {
        let mut wanted = Self::default();
        let mut streams = HashSet::default();
        for append in group {
            for clause in guard::clauses(&append.guard) {
                match clause {
                    Guard::Stream { stream, .. } => _ = streams.insert(stream),
                    Guard::Unchanged { query, after } => {
                        wanted.queries.push((query, after.position));
                        wanted.points.extend(after.event.map(|_| guard::number(after.position)));
                    }
                    Guard::Absent(query) => wanted.queries.push((query, Position::START)),
                    Guard::Any | Guard::All(_) => {}
                }
            }
            streams.extend(append.events.iter().map(|event| &event.stream));
            streams.extend(append.key.iter().map(|key| &key.stream));
            wanted.keys.extend(&append.key);
            wanted.ids.extend(append.events.iter().map(|event| event.id));
        }
        wanted.streams = streams.into_iter().collect();
        wanted
    }

    async fn versions(&self, conn: &Conn) -> Result<Vec<(&'a StreamId, i64, Uuid)>, Fault> {
        if self.streams.is_empty() {
            return Ok(Vec::new());
        }
        let names: Vec<&str> = self.streams.iter().map(|stream| stream.as_str()).collect();
        let rows = conn.rows(&VERSIONS, &[&names]).await?;
        let one = |row: &Row| Ok((*nth(&self.streams, row.try_get(0)?)?, row.try_get(1)?, row.try_get(2)?));
        rows.iter().map(one).collect()
    }

    async fn keys(&self, conn: &Conn, log: LogId) -> Result<HashMap<&'a CommandKey, Appended>, Fault> {
        if self.keys.is_empty() {
            return Ok(HashMap::default());
        }
        let (streams, names): (Vec<&str>, Vec<&str>) =
            self.keys.iter().map(|key| (key.stream.as_str(), key.key.as_str())).unzip();
        let rows = conn.rows(&KEYS, &[&streams, &names]).await?;
        let one = |row: &Row| {
            let key = *nth(&self.keys, row.try_get(0)?)?;
            Ok((key, first_of(log, key, row, 1)?))
        };
        rows.iter().map(one).collect()
    }

    async fn points(&self, conn: &Conn, partition: i32) -> Result<HashMap<i64, Uuid>, Fault> {
        if self.points.is_empty() {
            return Ok(HashMap::default());
        }
        let rows = conn.rows(&POINTS, &[&partition, &self.points]).await?;
        rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
    }

    async fn ids(&self, conn: &Conn) -> Result<HashSet<Uuid>, Fault> {
        if self.ids.is_empty() {
            return Ok(HashSet::default());
        }
        let rows = conn.rows(&IDS, &[&self.ids]).await?;
        rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }

    async fn matches(
        &self,
        conn: &Conn,
        partition: i32,
    ) -> Result<Vec<(&'a Query, Position, Option<i64>)>, Fault> {
        if self.queries.is_empty() {
            return Ok(Vec::new());
        }
        let (items, afters): (Vec<String>, Vec<i64>) =
            self.queries.iter().map(|(query, after)| (guard::items(query), guard::number(*after))).unzip();
        let rows = conn.rows(&MATCHES, &[&partition, &items, &afters]).await?;
        let one =
            |((query, after), row): (&(&'a Query, Position), &Row)| Ok((*query, *after, row.try_get(0)?));
        self.queries.iter().zip(&rows).map(one).collect()
    }
}

/// What stands at a place that the server counts from 1.
fn nth<T>(all: &[T], number: i64) -> Result<&T, Fault> {
    let place = usize::try_from(number - 1).ok().and_then(|at| all.get(at));
    place.ok_or_else(|| Fault::corrupt("the server counts otherwise"))
}

// Whether the log was rewound stands beside what is found, or alone.
static FIND_KEY: Sql = Sql::new(
    concat!(
        "SELECT v.rewound, k.position, k.versions, k.partition, e.id FROM (SELECT ",
        rewound!("$3", "$4"),
        " AS rewound) v LEFT JOIN {s}.keys k ON k.stream = $1 AND k.key = $2
         LEFT JOIN {s}.events e ON e.partition = k.partition AND e.position = k.position"
    ),
    &[Type::TEXT, Type::TEXT, Type::INT4, Type::INT8],
);

/// What the append with this key gave, if there was one.
pub(crate) async fn find_key(
    conn: &Conn,
    log: LogId,
    key: &CommandKey,
    floor: Floor,
) -> Result<Option<Appended>, Fault> {
    let (partition, position) = floor.numbers();
    let row = conn.row(&FIND_KEY, &[&key.stream.as_str(), &key.key, &partition, &position]).await?;
    floor.hold(&row, 0)?;
    match row.try_get::<_, Option<i64>>(1)? {
        Some(_) => first_of(log, key, &row, 1).map(Some),
        None => Ok(None),
    }
}

/// What is stored for a key, in the columns of a row from a place on.
fn first_of(log: LogId, key: &CommandKey, row: &Row, at: usize) -> Result<Appended, Fault> {
    let (position, versions, partition): (i64, &str, i32) =
        (row.try_get(at)?, row.try_get(at + 1)?, row.try_get(at + 2)?);
    let event = row.try_get(at + 3)?;
    let unreadable = || Fault::corrupt(format!("what is stored for the key {:?} cannot be read", key.key));
    let (versions, owner) = text::key(versions).ok_or_else(unreadable)?;
    let partition = Partition::new(u16::try_from(partition).map_err(|_| unreadable())?);
    let position = Position::new(position.cast_unsigned());
    Ok(Appended { log, partition, position, event, versions, owner })
}
