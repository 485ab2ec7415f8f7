//! What the rules are written with.

use std::borrow::Cow;
use std::fmt::{Debug, Display};
use std::future::Future;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use cqrs_core::context::{IdSource as _, TimeOrderedIds};
use cqrs_core::error::{StoreError, StoreErrorKind};
use cqrs_core::event::{Metadata, NewEvent, RecordedEvent, Tag, Tags, Timestamp};
use cqrs_core::id::{Partition, Position, StreamId, Version};
use cqrs_core::read_store::{CommitError, ReadStore};
use cqrs_core::store::{
    Append, AppendError, Appended, Capabilities, CommandKey, Conflict, Direction, EventStore, Expected,
    Guard, LogRead, LogSlice, Query, QueryItem, StreamEvent, StreamRead, StreamSlice,
};
use tokio::sync::Barrier;
use uuid::Uuid;

use super::{Backup, Setup, Stores};

pub(crate) type Check = Result<(), Failure>;
pub(crate) type Got<T> = Result<T, Failure>;
pub(crate) type Event = Arc<RecordedEvent>;

/// Why a rule did not pass.
#[derive(Debug)]
pub(crate) enum Failure {
    Fail(String),
    Skip(String),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Fail(format!("the store failed ({:?}): {error}", error.kind()))
    }
}

impl From<AppendError> for Failure {
    fn from(error: AppendError) -> Self {
        Self::Fail(format!("an append that should have been accepted was not: {error}"))
    }
}

impl From<CommitError> for Failure {
    fn from(error: CommitError) -> Self {
        Self::Fail(format!("a commit that should have been accepted was not: {error}"))
    }
}

impl From<super::Fault> for Failure {
    fn from(error: super::Fault) -> Self {
        Self::Fail(format!("the setup gave no store: {error}"))
    }
}

pub(crate) fn fail<T>(how: impl Into<String>) -> Got<T> {
    Err(Failure::Fail(how.into()))
}

/// Fails the rule with a message unless the condition holds.
macro_rules! ensure {
    ($holds:expr, $($message:tt)+) => {
        if !$holds {
            return $crate::conformance::kit::fail(format!($($message)+));
        }
    };
}
pub(crate) use ensure;

/// Fails the rule unless the two are the same.
pub(crate) fn same<T: PartialEq + Debug>(what: impl Display, actual: &T, expected: &T) -> Check {
    ensure!(actual == expected, "{what}: expected {expected:?}, got {actual:?}");
    Ok(())
}

/// What a rule asks of a store before the store can be held to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// A read store.
    Documents,
    /// A log that takes inline projections, and a read store that is the same object.
    Inline,
    /// That appends cannot bring inline projections.
    NoInline,
    /// A way to open the store again.
    SecondHandle,
    /// A way to back the store up and to restore it.
    Backup,
    /// Guards that name a stream's last event.
    EventGuards,
    /// Indexed tags.
    Tags,
    /// That tags are not indexed.
    NoTags,
    /// Appends to several streams.
    SeveralStreams,
    /// That appends to several streams cannot be had.
    OneStream,
    /// More than one partition.
    Partitions,
    /// Positions without gaps.
    Gapless,
    /// Snapshots.
    Snapshots,
    /// That snapshots are not kept.
    NoSnapshots,
    /// Partitions that can be reserved.
    Reservations,
    /// That nothing can be reserved.
    NoReservations,
    /// Records of what consumers read.
    Records,
    /// That no records are kept.
    NoRecords,
    Collections,
    NoCollections,
}

impl Need {
    /// What is missing, in words.
    fn missing(self) -> &'static str {
        match self {
            Self::Documents => "the setup has no read store",
            Self::Inline => "the store takes no inline projections, or keeps documents in another object",
            Self::NoInline => "the store takes inline projections",
            Self::SecondHandle => "the setup cannot open the store again",
            Self::Backup => "the setup cannot back the store up and restore it",
            Self::Tags => "the store has no tags",
            Self::EventGuards => "the store has no guards on a stream's last event",
            Self::NoTags => "the store has tags",
            Self::SeveralStreams => "the store appends to one stream at a time",
            Self::OneStream => "the store appends to several streams at once",
            Self::Partitions => "the log has one partition",
            Self::Gapless => "the store's positions may have gaps",
            Self::Snapshots => "the store keeps no snapshots",
            Self::NoSnapshots => "the store keeps snapshots",
            Self::Reservations => "the store has no reservations",
            Self::NoReservations => "the store has reservations",
            Self::Records => "the read store keeps no records",
            Self::NoRecords => "the read store keeps records",
            Self::Collections => "the read store has no collections other than documents",
            Self::NoCollections => "the read store has collections other than documents",
        }
    }
}

/// One fresh store, with the verbs that rules are written in.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) log: Arc<dyn EventStore>,
    pub(crate) capabilities: Capabilities,
    pub(crate) home: Partition,
    pub(crate) patience: Duration,
    stores: Stores,
    setup: Arc<dyn Setup>,
    ids: Arc<TimeOrderedIds>,
}

impl World {
    pub(crate) async fn new(setup: Arc<dyn Setup>, patience: Duration) -> Got<Self> {
        let stores = setup.fresh().await?;
        Ok(Self::of(stores, setup, patience))
    }

    fn of(stores: Stores, setup: Arc<dyn Setup>, patience: Duration) -> Self {
        let log = Arc::clone(&stores.log);
        // The one that an append is about which speaks of no stream.
        let home = Partition::ONLY;
        Self { capabilities: log.capabilities(), home, patience, stores, setup, log, ids: Arc::default() }
    }

    /// Another store, as fresh as this one was.
    pub(crate) async fn fresh(&self) -> Got<Self> {
        Self::new(Arc::clone(&self.setup), self.patience).await
    }

    /// Another handle of the same store.
    pub(crate) async fn again(&self) -> Got<Self> {
        let Some(open) = &self.stores.again else { return skip(Need::SecondHandle.missing()) };
        Ok(Self::of(open().await?, Arc::clone(&self.setup), self.patience))
    }

    /// A copy of all that the store has.
    pub(crate) async fn back_up(&self) -> Got<Backup> {
        let Some(back_up) = &self.stores.back_up else { return skip(Need::Backup.missing()) };
        Ok(back_up().await?)
    }

    pub(crate) fn documents(&self) -> Got<Arc<dyn ReadStore>> {
        self.stores.documents.clone().ok_or_else(|| Failure::Skip(Need::Documents.missing().to_owned()))
    }

    /// Leaves the rule out if the store lacks what it needs.
    pub(crate) fn grants(&self, needs: &[Need]) -> Check {
        let Capabilities { partitions, gapless_positions, multi_stream_append, tags, snapshots, .. } =
            self.capabilities;
        let read = self.stores.documents.as_ref().map(|documents| documents.read_capabilities());
        let has = |need: Need| match need {
            Need::Documents => self.stores.documents.is_some(),
            Need::Inline => self.capabilities.inline && self.stores.are_one(),
            Need::NoInline => !self.capabilities.inline,
            Need::SecondHandle => self.stores.again.is_some(),
            Need::Backup => self.stores.back_up.is_some(),
            Need::Tags => tags,
            Need::EventGuards => self.capabilities.event_guards,
            Need::NoTags => !tags,
            Need::SeveralStreams => multi_stream_append,
            Need::OneStream => !multi_stream_append,
            Need::Partitions => partitions > 1,
            Need::Gapless => gapless_positions,
            Need::Snapshots => snapshots,
            Need::NoSnapshots => !snapshots,
            Need::Reservations => self.capabilities.reservations,
            Need::NoReservations => !self.capabilities.reservations,
            Need::Records => read.is_some_and(|read| read.records),
            Need::NoRecords => read.is_some_and(|read| !read.records),
            Need::Collections => read.is_some_and(|read| read.collections),
            Need::NoCollections => read.is_some_and(|read| !read.collections),
        };
        needs.iter().find(|need| !has(**need)).map_or(Ok(()), |need| skip(need.missing()))
    }

    /// A stream of this name in the home partition, where all rules play that do not say otherwise.
    pub(crate) fn stream(&self, name: &str) -> StreamId {
        self.stream_where(name, |partition| partition == self.home)
    }

    /// A stream of this name in another partition.
    pub(crate) fn elsewhere(&self, name: &str) -> StreamId {
        self.stream_where(name, |partition| partition != self.home)
    }

    fn stream_where(&self, name: &str, wanted: impl Fn(Partition) -> bool) -> StreamId {
        let plain = stream(&format!("Probe/{name}"));
        let variants = (1..100_000).map(|variant| stream(&format!("Probe/{name}-{variant}")));
        let mut all = std::iter::once(plain.clone()).chain(variants);
        all.find(|stream| wanted(self.log.partition_of(stream))).unwrap_or(plain)
    }

    /// An event called `Probed`, with a payload of its own.
    pub(crate) fn event(&self, stream: &StreamId) -> NewEvent {
        let time = Timestamp::from_micros(1_700_000_000_123_456);
        let id = self.ids.next(time);
        NewEvent {
            id,
            stream: stream.clone(),
            name: Cow::Borrowed("Probed"),
            schema_version: 1,
            payload: Bytes::from(format!("{{\"probe\":\"{id}\"}}")),
            tags: Tags::default(),
            time,
            metadata: Arc::new(Metadata::new()),
        }
    }

    pub(crate) fn events(&self, stream: &StreamId, count: usize) -> Vec<NewEvent> {
        (0..count).map(|_| self.event(stream)).collect()
    }

    pub(crate) async fn append(&self, events: Vec<NewEvent>, guard: Guard) -> Result<Appended, AppendError> {
        self.log.append(Append::new(events, guard)).await
    }

    /// Appends events without a guard, which has to work.
    pub(crate) async fn put(&self, events: Vec<NewEvent>) -> Got<Appended> {
        Ok(self.append(events, Guard::Any).await?)
    }

    /// Appends so many events to a stream, one after the other.
    pub(crate) async fn fill(&self, stream: &StreamId, count: usize) -> Got<Vec<Appended>> {
        let mut appended = Vec::new();
        for _ in 0..count {
            appended.push(self.put(vec![self.event(stream)]).await?);
        }
        Ok(appended)
    }

    pub(crate) async fn append_with(
        &self,
        key: &CommandKey,
        append: Append,
    ) -> Result<Appended, AppendError> {
        self.log.append(append.with_key(Some(key.clone()))).await
    }

    /// An append that the guard has to stop, for which the head may not move.
    pub(crate) async fn conflict(&self, events: Vec<NewEvent>, guard: Guard) -> Got<Conflict> {
        let before = self.head().await?;
        let text = guard.to_string();
        let conflict = match self.append(events, guard).await {
            Err(AppendError::Conflict(conflict)) => conflict,
            other => return fail(format!("expected a conflict with the guard [{text}], got {other:?}")),
        };
        same("the head after a conflict", &self.head().await?, &before)?;
        Ok(conflict)
    }

    /// An append that the store has to refuse with this kind, for which the head may not move.
    pub(crate) async fn refused(&self, append: Append, kind: StoreErrorKind) -> Got<String> {
        let before = self.head().await?;
        let message = match self.log.append(append).await {
            Err(AppendError::Store(error)) if error.kind() == kind => error.to_string(),
            other => return fail(format!("expected a refusal as {kind:?}, got {other:?}")),
        };
        same("the head after a refusal", &self.head().await?, &before)?;
        Ok(message)
    }

    pub(crate) async fn head(&self) -> Got<Position> {
        Ok(self.log.head(self.home).await?.position)
    }

    pub(crate) async fn slice(&self, read: StreamRead) -> Got<StreamSlice> {
        Ok(self.log.read_stream(read).await?)
    }

    /// What a fold is lent of a stream from a version on, up to so many events.
    pub(crate) async fn folded(&self, stream: &StreamId, from: u64, most: usize) -> Got<Vec<Lent>> {
        let mut all = Vec::new();
        let take = &mut |event: StreamEvent<'_>| {
            all.push(Lent {
                id: event.id,
                version: event.version,
                position: event.position,
                name: event.stored.name.to_owned(),
                schema_version: event.stored.version,
                payload: event.stored.payload.to_vec(),
            });
            if all.len() < most { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        self.log.fold_stream(stream, Version::new(from), take).await?;
        Ok(all)
    }

    /// All events of a stream, page by page.
    pub(crate) async fn stream_events(&self, stream: &StreamId) -> Got<Vec<Event>> {
        let mut events = Vec::new();
        let mut from = Version::new(1);
        loop {
            let page = self.slice(forward(stream, from)).await?.events;
            let Some(last) = page.last() else { return Ok(events) };
            ensure!(last.meta.version >= from, "{stream} goes back from {from} to {}", last.meta.version);
            from = last.meta.version.next();
            events.extend(page);
        }
    }

    /// All events of the home partition that match, page by page.
    pub(crate) async fn log_events(&self, query: &Query) -> Got<Vec<Event>> {
        self.log_events_of(self.home, query).await
    }

    pub(crate) async fn log_events_of(&self, partition: Partition, query: &Query) -> Got<Vec<Event>> {
        let mut events = Vec::new();
        let mut read = LogRead { partition, ..self.log_read(Position::START, query.clone()) };
        loop {
            let LogSlice { events: page, read_to, head, .. } = self.log.read_log(read.clone()).await?;
            events.extend(page);
            if read_to >= head.position {
                return Ok(events);
            }
            ensure!(read_to > read.after, "reading the log does not move forward from {}", read.after);
            read.after = read_to;
        }
    }

    pub(crate) fn log_read(&self, after: Position, query: Query) -> LogRead {
        LogRead { partition: self.home, after, up_to: None, query, limit: 1_000 }
    }

    pub(crate) async fn read_log(&self, after: Position, query: Query) -> Got<LogSlice> {
        Ok(self.log.read_log(self.log_read(after, query)).await?)
    }

    /// Gives up on what takes too long.
    pub(crate) async fn soon<T>(&self, what: &str, future: impl Future<Output = T>) -> Got<T> {
        match tokio::time::timeout(self.patience, future).await {
            Ok(value) => Ok(value),
            Err(_) => fail(format!("{what} hangs: nothing came in {:?}", self.patience)),
        }
    }
}

/// What a fold was lent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lent {
    pub(crate) id: Uuid,
    pub(crate) version: Version,
    pub(crate) position: Position,
    pub(crate) name: String,
    pub(crate) schema_version: u32,
    pub(crate) payload: Vec<u8>,
}

pub(crate) fn skip<T>(why: impl Into<String>) -> Got<T> {
    Err(Failure::Skip(why.into()))
}

/// The stream of this name, which is one that the suite wrote itself.
#[allow(clippy::panic, reason = "a mistake in the suite, not in the store")]
pub(crate) fn stream(name: &str) -> StreamId {
    match name.parse() {
        Ok(stream) => stream,
        Err(wrong) => panic!("{wrong}"),
    }
}

pub(crate) fn key(stream: &StreamId, key: &str) -> CommandKey {
    CommandKey { stream: stream.clone(), key: key.to_owned() }
}

pub(crate) fn forward(stream: &StreamId, from: Version) -> StreamRead {
    let stream = stream.clone();
    StreamRead { stream, from, direction: Direction::Forward, limit: 1_000 }
}

pub(crate) fn backward(stream: &StreamId, from: Version) -> StreamRead {
    StreamRead { direction: Direction::Backward, ..forward(stream, from) }
}

pub(crate) fn expect(stream: &StreamId, expected: Expected) -> Guard {
    Guard::stream(stream.clone(), expected)
}

pub(crate) fn at_version(stream: &StreamId, version: u64) -> Guard {
    expect(stream, Expected::Version(Version::new(version)))
}

pub(crate) fn unchanged(query: &Query, after: Position) -> Guard {
    Guard::Unchanged { query: query.clone(), after: after.into() }
}

pub(crate) fn tags(tags: &[&str]) -> Tags {
    tags.iter().map(|tag| Tag::from(*tag)).collect()
}

pub(crate) fn by_tags(wanted: &[&str]) -> Query {
    Query::any_of([item(&[], wanted)])
}

pub(crate) fn by_names(wanted: &[&'static str]) -> Query {
    Query::names(wanted.iter().copied())
}

pub(crate) fn item(names: &[&'static str], wanted: &[&str]) -> QueryItem {
    QueryItem { names: names.iter().map(|name| Cow::Borrowed(*name)).collect(), tags: tags(wanted) }
}

/// Changes to an event that a rule writes.
pub(crate) trait Sketch: Sized {
    fn named(self, name: impl Into<Cow<'static, str>>) -> Self;
    fn tagged(self, tags: &[&str]) -> Self;
    fn saying(self, payload: impl Into<Bytes>) -> Self;
    fn about(self, metadata: Metadata) -> Self;
}

impl Sketch for NewEvent {
    fn named(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.name = name.into();
        self
    }

    fn tagged(mut self, wanted: &[&str]) -> Self {
        self.tags = tags(wanted);
        self
    }

    fn saying(mut self, payload: impl Into<Bytes>) -> Self {
        self.payload = payload.into();
        self
    }

    fn about(mut self, metadata: Metadata) -> Self {
        self.metadata = Arc::new(metadata);
        self
    }
}

pub(crate) fn versions(events: &[Event]) -> Vec<u64> {
    events.iter().map(|event| event.meta.version.get()).collect()
}

/// The ids of events, by which the suite knows them again.
pub(crate) fn ids(events: &[Event]) -> Vec<String> {
    events.iter().map(|event| event.meta.id.to_string()).collect()
}

pub(crate) fn new_ids(events: &[NewEvent]) -> Vec<String> {
    events.iter().map(|event| event.id.to_string()).collect()
}

/// Runs all of them at once, each as a task, none of which starts before the last is there.
pub(crate) async fn together<T, F>(futures: impl IntoIterator<Item = F>) -> Got<Vec<T>>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let futures: Vec<F> = futures.into_iter().collect();
    let barrier = Arc::new(Barrier::new(futures.len()));
    let tasks = futures.into_iter().map(|future| {
        let barrier = Arc::clone(&barrier);
        tokio::spawn(async move {
            barrier.wait().await;
            future.await
        })
    });
    join(tasks.collect()).await
}

pub(crate) async fn join<T>(tasks: Vec<tokio::task::JoinHandle<T>>) -> Got<Vec<T>> {
    let mut values = Vec::new();
    for task in tasks {
        match task.await {
            Ok(value) => values.push(value),
            Err(error) => return fail(format!("the store panicked: {error}")),
        }
    }
    Ok(values)
}

/// When a future is dropped that is not ready by then.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Abandon {
    Polls(u32),
    After(Duration),
}

impl Abandon {
    /// Before anything, between the first steps, and while a real store is at work.
    pub(crate) fn points() -> impl Iterator<Item = Self> {
        let times = [50, 200, 1_000, 5_000].map(|micros| Self::After(Duration::from_micros(micros)));
        (0..6).map(Self::Polls).chain(times)
    }

    /// Drops the future at this point; its value, if it was ready before.
    pub(crate) async fn drop<T>(self, mut future: Pin<Box<dyn Future<Output = T> + Send + '_>>) -> Option<T> {
        match self {
            Self::After(time) => tokio::time::timeout(time, future).await.ok(),
            Self::Polls(polls) => {
                for _ in 0..polls {
                    let poll = std::future::poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await;
                    if let Poll::Ready(value) = poll {
                        return Some(value);
                    }
                    tokio::task::yield_now().await;
                }
                None
            }
        }
    }
}
