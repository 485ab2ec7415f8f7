//! Reads, spoilt.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use cqrs_core::error::StoreError;
use cqrs_core::event::{Metadata, RecordedEvent, Tags, Timestamp};
use cqrs_core::store::{
    Appended, CommandKey, Direction, Head, LogRead, LogSlice, Query, StreamEvent, StreamRead, StreamSlice,
    TakeEvent,
};
use cqrs_core::{Partition, Position, StreamId, Version};
use uuid::Uuid;

use super::{Flaw, Wrong, linger, lock};

type Event = Arc<RecordedEvent>;

/// A read that never lets go if it is dropped on its way.
struct BlocksIfDropped<'w>(&'w AtomicBool);

impl Drop for BlocksIfDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Wrong {
    /// All events of the first partition as they are.
    pub(super) async fn everything(&self) -> Vec<Event> {
        let read = all_of(Partition::ONLY);
        self.inner.read_log(read).await.map(|slice| slice.events).unwrap_or_default()
    }

    pub(super) async fn everything_everywhere(&self) -> Vec<Event> {
        let mut events = Vec::new();
        for partition in (0..self.inner.capabilities().partitions).map(Partition::new) {
            let slice = self.inner.read_log(all_of(partition)).await;
            events.extend(slice.map(|slice| slice.events).unwrap_or_default());
        }
        events
    }

    pub(super) async fn find_key_wrongly(&self, key: CommandKey) -> Result<Option<Appended>, StoreError> {
        if lock(&self.state.hidden_keys).contains(&key) {
            return Ok(None);
        }
        let mut found = self.inner.find_key(&key).await?;
        if let Some(remembered) = self.remembered_key(&key) {
            return Ok(Some(remembered));
        }
        if let Some(appended) = &mut found
            && self.has(Flaw::FindsKeysWithoutPosition)
        {
            appended.position = Position::START;
        }
        Ok(found.map(|appended| self.tell(appended)))
    }

    pub(super) fn version(&self, version: Version) -> Version {
        let skips = self.has(Flaw::SkipsAVersion) && version.get() > 7;
        if skips { version.next() } else { version }
    }

    pub(super) async fn read_stream_wrongly(&self, mut read: StreamRead) -> Result<StreamSlice, StoreError> {
        if self.has(Flaw::ReadsStreamsOfAnyLength) {
            return self.read_whatever_is_there(read).await;
        }
        let _connection = self.connection().await;
        if self.has(Flaw::DroppedReadsBlock) {
            self.unblocked().await;
            let reading = BlocksIfDropped(&self.state.busy);
            tokio::task::yield_now().await;
            std::mem::forget(reading);
        }
        read.stream = self.stream(&read.stream);
        if self.has(Flaw::EndsTextsAtNul)
            && let Some((start, _)) = read.stream.as_str().split_once('\0')
        {
            read.stream = start.parse().unwrap_or(read.stream);
        }
        let length = self.inner.read_stream(read.clone()).await?.version;
        let (stream, wanted) = (read.stream.clone(), read.clone());
        match self.flaw {
            Flaw::SkipsAVersion if read.from.get() > 8 => read.from = Version::new(read.from.get() - 1),
            Flaw::ReadsOneTooMany if read.limit < 1_000 => read.limit += 1,
            Flaw::RepeatsTheLastEvent if length > Version::NONE && read.from > length.next() => {
                read.from = length;
            }
            _ => {}
        }
        let mut slice = self.inner.read_stream(read).await?;
        let backward = wanted.direction == Direction::Backward;
        match self.flaw {
            Flaw::NothingFromVersionNone if wanted.from == Version::NONE => slice.events.clear(),
            Flaw::NothingFromBehindTheEnd if backward && wanted.from > length => slice.events.clear(),
            Flaw::FindsStreamsByPrefix if length == Version::NONE => {
                slice.events = self.everything_everywhere().await;
                slice.events.retain(|event| event.meta.stream.as_str().starts_with(stream.as_str()));
            }
            Flaw::ReadsTheVersionLater => {
                linger().await;
                slice.version = self.inner.read_stream(wanted.clone()).await?.version;
            }
            Flaw::TellsTheVersionOfTheSlice if !slice.events.is_empty() => {
                let versions = slice.events.iter().map(|event| event.meta.version);
                slice.version = versions.max().unwrap_or_default();
            }
            Flaw::OtherHandlesLag if self.second => _ = slice.events.pop(),
            _ => {}
        }
        slice.version = self.version(slice.version);
        self.remembered_slice(&mut slice);
        self.spoil(&mut slice.events, |event| self.spoil_of_stream(event));
        Ok(slice)
    }

    fn spoil_of_stream(&self, event: &mut RecordedEvent) {
        self.spoil_event(event);
        if self.has(Flaw::TagsAreOnlyAnIndex) {
            event.tags = Tags::default();
        }
    }

    pub(super) async fn fold_stream_wrongly(
        &self,
        stream: &StreamId,
        from: Version,
        take: &mut TakeEvent<'_>,
    ) -> Result<(), StoreError> {
        let _connection = self.connection().await;
        let stream = self.stream(stream);
        let mut from = match self.flaw {
            Flaw::FoldsFromTheBeginning => Version::new(1),
            Flaw::SkipsAVersion if from.get() > 8 => Version::new(from.get() - 1),
            _ => from,
        };
        loop {
            let (stream, direction) = (stream.clone(), Direction::Forward);
            let read = StreamRead { stream, from, direction, limit: 1_000 };
            let mut slice = self.inner.read_stream(read).await?;
            let Some(last) = slice.events.last() else { return Ok(()) };
            from = last.meta.version.next();
            self.spoil(&mut slice.events, |event| self.spoil_event(event));
            for event in &slice.events {
                let (version, mut position) = (event.meta.version, event.meta.position);
                if self.has(Flaw::FoldsWithoutPosition) {
                    position = Position::START;
                }
                let event = StreamEvent { id: event.meta.id, version, position, stored: event.stored() };
                if take(event).is_break() && !self.has(Flaw::FoldsOn) {
                    return Ok(());
                }
            }
            if self.has(Flaw::FoldsOneSlice) {
                return Ok(());
            }
        }
    }

    fn spoil(&self, events: &mut [Event], how: impl Fn(&mut RecordedEvent)) {
        for event in events {
            let mut spoilt = RecordedEvent::clone(event);
            how(&mut spoilt);
            *event = Arc::new(spoilt);
        }
    }

    fn spoil_event(&self, event: &mut RecordedEvent) {
        event.meta.version = self.version(event.meta.version);
        event.meta.position = self.position(event.meta.position);
        match self.flaw {
            Flaw::SmallSchemaVersions => event.schema_version = event.schema_version.min(32_767),
            Flaw::PayloadsAreText => {
                let text = String::from_utf8_lossy(&event.payload).into_owned();
                event.payload = Bytes::from(text);
            }
            Flaw::TimesInMilliseconds => {
                event.meta.time = Timestamp::from_micros(event.meta.time.as_micros() / 1_000 * 1_000);
            }
            Flaw::DropsEmptyMetadata => {
                let mut metadata = Metadata::clone(&event.meta.metadata);
                metadata.entries.retain(|_, value| !value.is_empty());
                event.meta.metadata = Arc::new(metadata);
            }
            Flaw::MetadataWithoutPercents => {
                let mut metadata = Metadata::clone(&event.meta.metadata);
                let clean = |(name, value): (String, String)| (name, value.replace('%', ""));
                metadata.entries = metadata.entries.into_iter().map(clean).collect();
                event.meta.metadata = Arc::new(metadata);
            }
            _ => {}
        }
    }

    pub(super) async fn read_log_wrongly(&self, mut read: LogRead) -> Result<LogSlice, StoreError> {
        let asked = read.clone();
        read.after = self.position_inside(read.after);
        read.up_to = read.up_to.map(|up_to| self.position_inside(up_to));
        match self.flaw {
            Flaw::ReadsTheLogOneTooFar if read.limit < 1_000 => read.limit += 1,
            Flaw::MissingPartitionsAreEmpty => {
                let there = read.partition.get() < self.inner.capabilities().partitions;
                if !there {
                    let head = self.inner.head(Partition::ONLY).await?;
                    return Ok(LogSlice {
                        events: Vec::new(),
                        read_to: head.position,
                        read_to_event: head.event,
                        after_event: None,
                        head,
                    });
                }
            }
            // What it does in pages is for the rule of that.
            Flaw::FiltersByFirstName if read.limit < 1_000 => {}
            Flaw::FiltersByFirstName
            | Flaw::NamesWithoutCase
            | Flaw::TagsWithoutCase
            | Flaw::FiltersByAnyTag => {
                return self.filtered(read).await;
            }
            Flaw::LimitsEachName if of_several_names(&read.query) => {
                return self.limited_each(read).await;
            }
            _ => {}
        }
        let mut slice = self.inner.read_log(read).await?;
        self.spoil_slice(&mut slice, &asked).await?;
        slice.read_to_event = self.id_at(asked.partition, slice.read_to).await?;
        slice.head.log = match self.flaw {
            Flaw::ReadsTellAnotherLog => cqrs_core::store::LogId(Uuid::from_u128(3)),
            _ => self.log(slice.head.log),
        };
        slice.head.position = self.position(slice.head.position);
        slice.read_to = self.position(slice.read_to);
        self.spoil(&mut slice.events, |event| {
            self.spoil_event(event);
            if self.has(Flaw::EventsLieInTheFirst) {
                event.meta.partition = Partition::ONLY;
            }
        });
        Ok(slice)
    }

    /// The event at a position, as it is inside.
    pub(super) async fn id_at(&self, partition: Partition, at: Position) -> Result<Option<Uuid>, StoreError> {
        let (query, up_to) = (Query::none(), Some(at));
        let read = LogRead { partition, after: Position::START, up_to, query, limit: 1 };
        let slice = self.inner.read_log(read).await?;
        Ok(slice.read_to_event.filter(|_| slice.read_to == at))
    }

    async fn spoil_slice(&self, slice: &mut LogSlice, asked: &LogRead) -> Result<(), StoreError> {
        let LogSlice { events, read_to, head, .. } = slice;
        match self.flaw {
            Flaw::OrdersByTime => order_by_time(events),
            Flaw::OtherHandlesLag if self.second => {
                events.retain(|event| event.meta.position < head.position);
            }
            Flaw::CommitsLate => {
                let hidden = lock(&self.state.hidden);
                let first = events.iter().find(|event| hidden.contains(&event.meta.id));
                if let Some(first) = first {
                    *read_to = Position::new(first.meta.position.get() - 1);
                }
                events.retain(|event| !hidden.contains(&event.meta.id));
            }
            Flaw::ReadsTheHeadLater if *read_to == head.position => {
                linger().await;
                *head = self.inner.head(asked.partition).await?;
                *read_to = head.position;
            }
            Flaw::LeavesUpToOut => {
                events.retain(|event| asked.up_to.is_none_or(|up_to| event.meta.position < up_to));
            }
            Flaw::SaysItReadToTheHead if asked.limit < 1_000 && !of_several_names(&asked.query) => {
                *read_to = head.position;
            }
            Flaw::SaysItReadBeyondUpTo if asked.up_to.is_some() => *read_to = head.position,
            Flaw::GivesEventsForEachItem => {
                let items = asked.query.items().unwrap_or_default();
                let times = |event: &Event| {
                    items.iter().filter(|item| item.matches(&event.name, &event.tags)).count().max(1)
                };
                *events = events.iter().flat_map(|event| vec![event.clone(); times(event)]).collect();
            }
            _ => {}
        }
        Ok(())
    }

    /// Asks for each name by itself, and takes the furthest of them for how far all were looked at.
    async fn limited_each(&self, read: LogRead) -> Result<LogSlice, StoreError> {
        let item = read.query.items().and_then(|items| items.first().cloned());
        let names = item.filter(|item| item.tags.is_empty()).map(|item| item.names).unwrap_or_default();
        let mut slice = self.inner.read_log(LogRead { limit: 100_000, ..read.clone() }).await?;
        let mut cut = Position::START;
        for name in &names {
            let alone = LogRead { query: Query::names([name.clone()]), ..read.clone() };
            let alone = self.inner.read_log(alone).await?.events;
            let last = alone.last().filter(|_| alone.len() == read.limit);
            cut = cut.max(last.map_or(Position::START, |last| last.meta.position));
        }
        if slice.events.len() > read.limit {
            slice.events.truncate(read.limit);
            let last = slice.events.last().map_or(cut, |last| last.meta.position);
            slice.read_to = cut.max(last);
        }
        Ok(slice)
    }

    /// Reads by a filter that is wrong.
    async fn filtered(&self, read: LogRead) -> Result<LogSlice, StoreError> {
        let (query, limit) = (read.query.clone(), read.limit);
        let mut slice = self.inner.read_log(LogRead { query: Query::all(), limit: 100_000, ..read }).await?;
        slice.events.retain(|event| self.passes(event, &query));
        if slice.events.len() > limit {
            slice.events.truncate(limit);
            slice.read_to = slice.events.last().map_or(slice.read_to, |last| last.meta.position);
        }
        Ok(slice)
    }

    fn passes(&self, event: &RecordedEvent, query: &Query) -> bool {
        let right = query.matches(&event.name, &event.tags);
        let Some([item]) = query.items() else { return right };
        let same = |one: &str, other: &str| one.eq_ignore_ascii_case(other);
        match self.flaw {
            Flaw::FiltersByFirstName if item.tags.is_empty() => {
                item.names.first().is_none_or(|name| *name == event.name)
            }
            Flaw::NamesWithoutCase if item.tags.is_empty() => {
                item.names.is_empty() || item.names.iter().any(|name| same(name, &event.name))
            }
            Flaw::TagsWithoutCase if item.names.is_empty() => item
                .tags
                .iter()
                .all(|wanted| event.tags.iter().any(|tag| same(tag.as_str(), wanted.as_str()))),
            Flaw::FiltersByAnyTag if item.names.is_empty() && !item.tags.is_empty() => {
                item.tags.iter().any(|wanted| event.tags.contains(wanted))
            }
            _ => right,
        }
    }

    pub(super) async fn head_wrongly(&self, partition: Partition) -> Result<Head, StoreError> {
        let mut head = self.remembered_head(partition, self.inner.head(partition).await?);
        match self.flaw {
            Flaw::EmptyLogsEndAtOne if head.position == Position::START => head.position = Position::new(1),
            Flaw::HeadsWithoutEvent => head.event = None,
            Flaw::OneHeadForAll => {
                head.position = Position::new(self.everything_everywhere().await.len() as u64);
            }
            _ => {}
        }
        Ok(Head { log: self.log(head.log), position: self.position(head.position), ..head })
    }

    pub(super) async fn wait_wrongly(&self, partition: Partition, after: Position) -> Result<(), StoreError> {
        let after = self.position_inside(after);
        let partition = if self.has(Flaw::WaitsForTheFirst) { Partition::ONLY } else { partition };
        let there = self.inner.head(partition).await?.position > after;
        let (waiting, busy) = (&self.state.waiting, &self.state.busy);
        match self.flaw {
            Flaw::WaitsForTheNextAppend if there => std::future::pending().await,
            Flaw::WakesOnce if !there => {
                if busy.load(Ordering::SeqCst) {
                    std::future::pending::<()>().await;
                }
                let outcome = self.inner.wait(partition, after).await;
                busy.store(true, Ordering::SeqCst);
                outcome
            }
            Flaw::WakesOne if !there => {
                if waiting.fetch_add(1, Ordering::SeqCst) > 0 {
                    std::future::pending::<()>().await;
                }
                let outcome = self.inner.wait(partition, after).await;
                waiting.fetch_sub(1, Ordering::SeqCst);
                outcome
            }
            Flaw::DroppedWaitsBlock => {
                let mut blocks = Blocks(self, true);
                let outcome = self.inner.wait(partition, after).await;
                blocks.1 = false;
                outcome
            }
            _ => self.inner.wait(partition, after).await,
        }
    }
}

/// Blocks the store when it is dropped too early.
struct Blocks<'a>(&'a Wrong, bool);

impl Drop for Blocks<'_> {
    fn drop(&mut self) {
        self.0.state.busy.fetch_or(self.1, Ordering::SeqCst);
    }
}

fn all_of(partition: Partition) -> LogRead {
    LogRead { partition, after: Position::START, up_to: None, query: Query::all(), limit: 100_000 }
}

fn of_several_names(query: &Query) -> bool {
    query.items().is_some_and(|items| items.iter().any(|item| item.names.len() > 1))
}

/// The positions stay where they are, the events take their places by the time that they tell.
fn order_by_time(events: &mut [Event]) {
    let positions: Vec<Position> = events.iter().map(|event| event.meta.position).collect();
    events.sort_by_key(|event| event.meta.time);
    for (event, position) in events.iter_mut().zip(positions) {
        let mut moved = RecordedEvent::clone(event);
        moved.meta.position = position;
        *event = Arc::new(moved);
    }
}
