//! One partition: its events, and the indexes that keep guards and filtered reads from scanning
//! them.

use std::borrow::Cow;
use std::convert::Infallible;
use std::sync::Arc;

use foldhash::HashMap;
use uuid::Uuid;

use crate::event::{EventMeta, NewEvent, RecordedEvent, Tag};
use crate::id::{Partition, Position, StreamId, Version};
use crate::store::{
    Appended, CommandKey, Conflict, Direction, Expected, Found, Guard, Head, KeyOwner, LogId, LogRead,
    LogSlice, Query, QueryItem, StreamRead, StreamSlice, recorded,
};

/// Positions, ascending.
type Positions = Vec<u64>;

#[derive(Clone, Default)]
pub(super) struct Log {
    /// The event at position p is number p − 1 here.
    events: Vec<Arc<RecordedEvent>>,
    /// The event with version v is number v − 1 of its stream.
    streams: HashMap<StreamId, Positions>,
    names: HashMap<Cow<'static, str>, Positions>,
    tags: HashMap<Tag, Positions>,
    keys: HashMap<CommandKey, Appended>,
}

impl Log {
    pub(super) fn head(&self) -> Position {
        Position::new(self.events.len() as u64)
    }

    /// The id of the event at a position, if there is one.
    pub(super) fn id_at(&self, position: Position) -> Option<Uuid> {
        self.event(position.get()).map(|event| event.meta.id)
    }

    pub(super) fn find_key(&self, key: &CommandKey) -> Option<&Appended> {
        self.keys.get(key)
    }

    /// Whether the stream's last event is the one that is expected, if one is.
    fn ends_with(&self, stream: &StreamId, expected: Expected) -> bool {
        let Expected::Event(_, id) = expected else { return true };
        let last = self.streams.get(stream).and_then(|positions| positions.last());
        last.and_then(|position| self.event(*position)).is_some_and(|event| event.meta.id == id)
    }

    fn version(&self, stream: &StreamId) -> Version {
        Version::new(self.streams.get(stream).map_or(0, Vec::len) as u64)
    }

    pub(super) fn check(&self, guard: &Guard) -> Result<(), Conflict> {
        let found = match guard {
            Guard::Any => return Ok(()),
            Guard::All(all) => return all.iter().try_for_each(|guard| self.check(guard)),
            Guard::Stream { stream, expected } => {
                let version = self.version(stream);
                let holds = expected.holds(version) && self.ends_with(stream, *expected);
                (!holds).then_some(Found::Version(version))
            }
            Guard::Unchanged { query, after } => match after.agrees(self.id_at(after.position)) {
                true => self.last_match(query, after.position).map(Found::Position),
                false => Some(Found::Position(after.position)),
            },
            Guard::Absent(query) => self.last_match(query, Position::START).map(Found::Position),
        };
        found.map_or(Ok(()), |found| Err(Conflict { clause: guard.clone(), found }))
    }

    /// The events as they are going to be read.
    pub(super) fn record(&self, events: Vec<NewEvent>, partition: Partition) -> Vec<Arc<RecordedEvent>> {
        let version_of = |stream: &StreamId| Ok::<_, Infallible>(self.version(stream));
        let Ok(recorded) = recorded(events, partition, self.head(), version_of);
        recorded
    }

    /// Writes what was checked. Nothing here can fail.
    pub(super) fn write(
        &mut self,
        events: Vec<Arc<RecordedEvent>>,
        (key, owner): (Option<CommandKey>, Option<KeyOwner>),
        id: LogId,
        partition: Partition,
    ) -> Appended {
        let mut versions = match &key {
            Some(key) if events.is_empty() => vec![(key.stream.clone(), self.version(&key.stream))],
            _ => Vec::with_capacity(1),
        };
        for event in events {
            self.write_event(event, &mut versions);
        }
        let (position, event) = (self.head(), self.id_at(self.head()));
        let appended = Appended { log: id, partition, position, event, versions, owner };
        if let Some(key) = key {
            self.keys.insert(key, appended.clone());
        }
        appended
    }

    fn write_event(&mut self, new: Arc<RecordedEvent>, versions: &mut Vec<(StreamId, Version)>) {
        let EventMeta { stream, version, position, .. } = &new.meta;
        add(&mut self.names, &new.name, *position);
        new.tags.iter().for_each(|tag| _ = add(&mut self.tags, tag, *position));
        add(&mut self.streams, stream, *position);
        match versions.iter_mut().rev().find(|(written, _)| written == stream) {
            Some((_, last)) => *last = *version,
            None => versions.push((stream.clone(), *version)),
        }
        self.events.push(new);
    }

    pub(super) fn read_stream(&self, read: &StreamRead) -> StreamSlice {
        let positions = self.streams.get(&read.stream).map_or(&[][..], Vec::as_slice);
        let from = usize::try_from(read.from.get()).unwrap_or(usize::MAX);
        let events = match read.direction {
            Direction::Forward => {
                let wanted = positions.iter().skip(from.saturating_sub(1));
                wanted.take(read.limit).filter_map(|position| self.at(*position)).collect()
            }
            Direction::Backward => {
                let wanted = positions.iter().take(from).rev();
                wanted.take(read.limit).filter_map(|position| self.at(*position)).collect()
            }
        };
        StreamSlice { events, version: Version::new(positions.len() as u64) }
    }

    pub(super) fn read_log(&self, read: &LogRead, id: LogId) -> LogSlice {
        let head = self.head();
        let end = read.up_to.map_or(head, |up_to| up_to.min(head));
        let limit = read.limit.max(1);
        let events = self.matches(&read.query, read.after, end, limit);
        let full = events.last().filter(|_| events.len() == limit);
        let read_to = full.map_or(end.max(read.after), |last| last.meta.position);
        let (read_to_event, after_event) = (self.id_at(read_to), self.id_at(read.after));
        let head = Head { log: id, position: head, event: self.id_at(head) };
        LogSlice { events, read_to, read_to_event, after_event, head }
    }

    fn at(&self, position: u64) -> Option<Arc<RecordedEvent>> {
        self.event(position).cloned()
    }

    fn event(&self, position: u64) -> Option<&Arc<RecordedEvent>> {
        self.events.get(usize::try_from(position).ok()?.checked_sub(1)?)
    }

    /// The first events that match and lie behind `after`, up to and with `end`.
    fn matches(
        &self,
        query: &Query,
        after: Position,
        end: Position,
        limit: usize,
    ) -> Vec<Arc<RecordedEvent>> {
        let Some(lists) = self.candidates(query, after) else {
            let from = usize::try_from(after.get()).unwrap_or(usize::MAX);
            let to = usize::try_from(end.get()).unwrap_or(usize::MAX);
            let all = self.events.get(from..to).unwrap_or_default().iter();
            return all
                .filter(|event| query.matches(&event.name, &event.tags))
                .take(limit)
                .cloned()
                .collect();
        };
        let ascending = Merge(lists).take_while(|position| *position <= end.get());
        let events = ascending.filter_map(|position| self.event(position));
        events.filter(|event| query.matches(&event.name, &event.tags)).take(limit).cloned().collect()
    }

    /// Lists of positions that hold every match behind `after`, or `None` if only all events do.
    fn candidates(&self, query: &Query, after: Position) -> Option<Vec<&[u64]>> {
        let mut lists = Vec::new();
        for item in query.items()? {
            lists.extend(self.candidates_of(item, after)?);
        }
        Some(lists)
    }

    /// The same for one item: the lists of its names, or that of its rarest tag if it is shorter.
    fn candidates_of(&self, item: &QueryItem, after: Position) -> Option<Vec<&[u64]>> {
        let rarest =
            item.tags.iter().map(|tag| tail(self.tags.get(tag), after)).min_by_key(|list| list.len());
        if item.names.is_empty() {
            return rarest.map(|list| vec![list]);
        }
        let names: Vec<&[u64]> = item.names.iter().map(|name| tail(self.names.get(name), after)).collect();
        let total: usize = names.iter().map(|list| list.len()).sum();
        Some(rarest.filter(|list| list.len() < total).map_or(names, |list| vec![list]))
    }

    /// The position of the last event that matches and lies behind `after`.
    fn last_match(&self, query: &Query, after: Position) -> Option<Position> {
        let Some(items) = query.items() else { return Some(self.head()).filter(|head| *head > after) };
        items.iter().filter_map(|item| self.last_match_of(item, after)).max()
    }

    fn last_match_of(&self, item: &QueryItem, after: Position) -> Option<Position> {
        let Some(lists) = self.candidates_of(item, after) else {
            return Some(self.head()).filter(|head| *head > after);
        };
        let matches = |position: &u64| {
            self.event(*position).is_some_and(|event| item.matches(&event.name, &event.tags))
        };
        let last = lists.iter().filter_map(|list| list.iter().rev().copied().find(matches)).max();
        last.map(Position::new)
    }
}

/// Adds a position to the list of its key, and gives the list's length.
fn add<K: Clone + Eq + std::hash::Hash>(lists: &mut HashMap<K, Positions>, key: &K, at: Position) -> u64 {
    // Looked up twice when it is new, so that the usual case clones no key.
    if let Some(list) = lists.get_mut(key) {
        list.push(at.get());
        return list.len() as u64;
    }
    lists.insert(key.clone(), vec![at.get()]);
    1
}

/// The part of a list that lies behind a position.
fn tail(list: Option<&Positions>, after: Position) -> &[u64] {
    match list.map_or(&[][..], Vec::as_slice) {
        // Most of the time all of it is old news, which the last entry tells.
        [.., last] if *last <= after.get() => &[],
        list => list.get(list.partition_point(|position| *position <= after.get())..).unwrap_or_default(),
    }
}

/// Several ascending lists as one, without repeats.
struct Merge<'a>(Vec<&'a [u64]>);

impl Iterator for Merge<'_> {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        let least = self.0.iter().filter_map(|list| list.first().copied()).min()?;
        for list in &mut self.0 {
            if let [first, rest @ ..] = list
                && *first == least
            {
                *list = rest;
            }
        }
        Some(least)
    }
}
