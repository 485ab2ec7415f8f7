//! The recorded event names of a projection: what keeps two releases of a program from passing each other's
//! events.
//!
//! Programs that share a projection may read different events. So each records what its projection reads,
//! before its first command. A program may pass an event only if all that is recorded of its name is known
//! to the program, and all that the program reads of it is recorded.
//!
//! Names are added in two steps, because a checkpoint moves while the log is searched. The first step
//! announces them: from then on no other program passes such an event. The second step searches the log up
//! to the checkpoint, and then confirms the names or withdraws them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::follow::position;
use super::{Engine, Inner};
use crate::consumer::Consumer;
use crate::error::{StoreError, StoreErrorKind};
use crate::event::RecordedEvent;
use crate::id::{Partition, Position};
use crate::read_store::{ReadStore, Record, RecordContent};
use crate::store::{EventStore, LogRead, Query};

/// Changes of one record by other programs that are followed before the record is said to be unavailable.
const TRIES: u32 = 100;
/// Events that are searched at once for one of a newer version.
const PAGE: usize = 1_000;

/// An event that this program must not pass, and that a projection therefore stands by before.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct UnsharedEvent {
    /// The event's stored name.
    pub name: String,
    /// Its schema version.
    pub version: u32,
    /// The partition that it lies in.
    pub partition: Partition,
    /// Its position there.
    pub position: Position,
    /// Whether it is recorded for the projection, and this program does not read it. Otherwise this program
    /// reads it, and it is not recorded because the program lacks another recorded name.
    pub is_recorded: bool,
}

impl fmt::Display for UnsharedEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, version, position, .. } = self;
        write!(f, "the event `{name}` (version {version}) at position {position} is ")?;
        f.write_str(if self.is_recorded {
            "read by another release of this projection and not by this program; a program that reads it continues"
        } else {
            "read by this program, which cannot record it because it lacks another recorded event; give this projection another `name`"
        })
    }
}

/// What keeps a program from recording a projection.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RecordFault {
    /// The projection reads an event that its documents have missed: the log has one at or before the
    /// checkpoint, which was made by programs that did not read it.
    Missed {
        /// The projection.
        projection: &'static str,
        /// The event's stored name.
        event: String,
        /// The partition that the event lies in.
        partition: Partition,
        /// The event's position.
        position: Position,
        /// The checkpoint.
        checkpoint: Position,
    },
    /// The projection folds the same events in another way than the code that made its documents.
    FoldChanged {
        /// The projection.
        projection: &'static str,
    },
}

impl fmt::Display for RecordFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missed { projection, event, position, checkpoint, .. } => write!(
                f,
                "the projection `{projection}` now reads the event `{event}`, and its documents (up to position {checkpoint}) have missed the one at position {position}; give it another `name`, so that it is built from the start of the log"
            ),
            Self::FoldChanged { projection } => write!(
                f,
                "the projection `{projection}` folds the same events in another way than the code that made its documents; call `reset` to build its documents again, or `accept_fold` if they do not change; or give it another `name`"
            ),
        }
    }
}

/// Why an operator's change of a projection's record was rejected.
#[derive(Debug)]
#[non_exhaustive]
pub enum RecordError {
    /// The projection is not in the engine's registry.
    NotRegistered(String),
    /// The event is not recorded for the projection.
    NotRecorded {
        /// The projection.
        projection: &'static str,
        /// The event's stored name.
        event: String,
    },
    /// The log has such an event.
    Exists {
        /// The event's stored name.
        event: String,
        /// The partition that it lies in.
        partition: Partition,
        /// Its position.
        position: Position,
    },
    /// This program does not read the recorded events, so its fold cannot be accepted for them.
    OtherEvents {
        /// The projection.
        projection: &'static str,
    },
    /// The store failed.
    Store(StoreError),
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRegistered(projection) => {
                write!(
                    f,
                    "the projection `{projection}` is not registered with this engine, or it keeps nothing"
                )
            }
            Self::NotRecorded { projection, event } => {
                write!(f, "the event `{event}` is not recorded for the projection `{projection}`")
            }
            Self::Exists { event, position, .. } => write!(
                f,
                "the log has an event `{event}` at position {position}, so its name stays recorded; give the projection another `name`"
            ),
            Self::OtherEvents { projection } => write!(
                f,
                "this program does not read the events that are recorded for the projection `{projection}`"
            ),
            Self::Store(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for RecordError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Store(error) => error.source(),
            Self::NotRegistered(_)
            | Self::NotRecorded { .. }
            | Self::Exists { .. }
            | Self::OtherEvents { .. } => None,
        }
    }
}

impl From<StoreError> for RecordError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// A consumer's record, as this program sees it.
#[derive(Clone, Debug)]
pub(super) struct Agreement {
    pub(super) revision: u64,
    /// All events that this program reads or that are recorded.
    pub(super) query: Query,
    /// The names that are not read and recorded in the same versions.
    unshared: BTreeMap<String, Unshared>,
    /// Whether the same events are folded in another way than the recorded one.
    pub(super) fold_changed: bool,
}

/// A name of which this program must not pass every version.
#[derive(Clone, Copy, Debug)]
struct Unshared {
    /// The last version that is both read and recorded; 0 if there is none.
    shared: u32,
    /// The last version that this program reads; 0 if it reads none.
    read: u32,
    /// Whether it is only being added, so that events at or before the checkpoint do not count.
    is_being_added: bool,
}

impl Default for Agreement {
    fn default() -> Self {
        Self { revision: 0, query: Query::all(), unshared: BTreeMap::new(), fold_changed: false }
    }
}

impl Agreement {
    /// Of a store that keeps no records.
    pub(super) fn without_record(consumer: &dyn Consumer) -> Self {
        Self { query: consumer.query(), ..Self::default() }
    }

    fn of(consumer: &dyn Consumer, record: &Record) -> Self {
        let Record { revision, content: RecordContent { reads, adding, fold } } = record;
        let own = consumer.reads();
        let mut unshared = BTreeMap::new();
        let names = own.keys().copied().chain(reads.keys().chain(adding.keys()).map(String::as_str));
        for name in names {
            let read = own.get(name).copied().unwrap_or_default();
            let recorded = reads.get(name).copied().unwrap_or_default();
            let is_added = adding.get(name).is_some_and(|added| *added > recorded);
            if read != recorded || is_added {
                let (shared, is_being_added) = (read.min(recorded), is_added && read >= recorded);
                unshared.insert(name.to_owned(), Unshared { shared, read, is_being_added });
            }
        }
        let query = if unshared.is_empty() {
            consumer.query()
        } else {
            let names = unshared.keys().cloned().map(Into::into);
            Query::names::<std::borrow::Cow<'static, str>>(own.keys().map(|name| (*name).into()).chain(names))
        };
        let differs = fold.zip(consumer.fold()).is_some_and(|(recorded, own)| recorded != own);
        Self { revision: *revision, query, fold_changed: differs && unshared.is_empty(), unshared }
    }

    /// Whether this program reads exactly what is recorded.
    pub(super) fn is_whole(&self) -> bool {
        self.unshared.is_empty()
    }

    /// Whether this program must not pass such an event.
    pub(super) fn blocks(&self, name: &str, version: u32) -> bool {
        self.unshared.get(name).is_some_and(|unshared| version > unshared.shared)
    }

    /// The first of these events that this program must not pass.
    pub(super) fn first_blocked(&self, events: &[Arc<RecordedEvent>]) -> Option<usize> {
        if self.is_whole() {
            return None;
        }
        events.iter().position(|event| self.blocks(&event.name, event.schema_version))
    }

    /// All events that this program may have to stop before.
    pub(super) fn unshared(&self) -> Query {
        Query::names(self.unshared.keys().cloned())
    }

    /// Those that count at or before the checkpoint, too.
    fn settled(&self) -> Query {
        let settled = self.unshared.iter().filter(|(_, unshared)| !unshared.is_being_added);
        Query::names(settled.map(|(name, _)| name.clone()))
    }

    pub(super) fn event(&self, event: &RecordedEvent) -> Arc<UnsharedEvent> {
        let read = self.unshared.get(&*event.name).map_or(0, |unshared| unshared.read);
        let (partition, position) = (event.meta.partition, event.meta.position);
        let (name, version) = (event.name.to_string(), event.schema_version);
        Arc::new(UnsharedEvent { name, version, partition, position, is_recorded: version > read })
    }
}

/// How far the log was searched for events that this program must not pass.
#[derive(Debug, Default)]
pub(super) struct Searched {
    revision: u64,
    to: BTreeMap<Partition, Position>,
    found: Option<Arc<UnsharedEvent>>,
}

/// The stores, as far as records need them.
#[derive(Clone, Copy)]
pub(super) struct Records<'a> {
    pub(super) log: &'a dyn EventStore,
    pub(super) documents: &'a dyn ReadStore,
}

/// What reading a record came to.
pub(super) enum Read {
    /// This program has nothing to record.
    Settled(Agreement),
    /// This program has to record something.
    ToRecord,
    /// This program must not record what it reads.
    Refused(RecordFault),
}

/// What is to be done with a record.
enum Next {
    Settled,
    Write(RecordContent),
    /// Withdraws what another program that ended has announced, if it did.
    Refuse(RecordFault, Option<RecordContent>),
}

impl Records<'_> {
    /// Looks at the record without changing it.
    pub(super) async fn read(self, consumer: &dyn Consumer) -> Result<Read, StoreError> {
        if !self.documents.read_capabilities().records {
            return Ok(Read::Settled(Agreement::without_record(consumer)));
        }
        let record = self.documents.record(consumer.name()).await?;
        Ok(match self.next(consumer, &record).await? {
            Next::Settled => Read::Settled(Agreement::of(consumer, &record)),
            Next::Write(_) => Read::ToRecord,
            Next::Refuse(fault, _) => Read::Refused(fault),
        })
    }

    /// Records what this program reads, if it may.
    pub(super) async fn agree(
        self,
        consumer: &dyn Consumer,
    ) -> Result<Result<Agreement, (RecordFault, Agreement)>, StoreError> {
        if !self.documents.read_capabilities().records {
            return Ok(Ok(Agreement::without_record(consumer)));
        }
        let name = consumer.name();
        for _ in 0..TRIES {
            let record = self.documents.record(name).await?;
            let content = match self.next(consumer, &record).await? {
                Next::Settled => return Ok(Ok(Agreement::of(consumer, &record))),
                Next::Refuse(fault, None) => {
                    return Ok(Err((fault, Agreement::of(consumer, &record))));
                }
                Next::Write(content) | Next::Refuse(_, Some(content)) => content,
            };
            // Whether or not it was written, the next look tells what is to be done.
            self.documents.set_record(name, record.revision, content).await?;
        }
        Err(busy(name))
    }

    async fn next(&self, consumer: &dyn Consumer, record: &Record) -> Result<Next, StoreError> {
        let (own, fold) = (consumer.reads(), consumer.fold());
        let RecordContent { reads, adding, .. } = &record.content;
        let owned = || own.iter().map(|(name, version)| ((*name).to_owned(), *version));
        if reads.is_empty() && adding.is_empty() {
            if own.is_empty() {
                return Ok(Next::Settled);
            }
            let content = RecordContent { reads: owned().collect(), adding: BTreeMap::new(), fold };
            return Ok(Next::Write(content));
        }
        let recorded = |name: &str| reads.get(name).copied().unwrap_or_default();
        let added: BTreeMap<String, u32> =
            owned().filter(|(name, version)| *version > recorded(name)).collect();
        if added.is_empty() {
            return Ok(Next::Settled);
        }
        // Of a name that is recorded, an event of a newer version does not decode: nobody has passed one.
        let new = added.keys().filter(|name| !reads.contains_key(*name)).cloned();
        if let Some(fault) = self.missed(consumer.name(), Query::names(new)).await? {
            let mut left = record.content.clone();
            left.adding.retain(|name, _| !added.contains_key(name));
            let withdrawn = (left != record.content).then_some(left);
            return Ok(Next::Refuse(fault, withdrawn));
        }
        let has = |(name, version): (&String, &u32)| own.get(name.as_str()).is_some_and(|own| own >= version);
        if !reads.iter().all(has) {
            return Ok(Next::Settled);
        }
        let mut content = record.content.clone();
        let is_announced =
            |(name, version): (&String, &u32)| adding.get(name).is_some_and(|adding| adding >= version);
        if added.iter().all(is_announced) {
            content.adding.retain(|name, version| added.get(name).is_none_or(|added| *version > *added));
            content.reads.extend(added);
            content.fold = fold;
        } else {
            for (name, version) in added {
                let announced = content.adding.entry(name).or_default();
                *announced = version.max(*announced);
            }
        }
        Ok(Next::Write(content))
    }

    /// An event of the query at or before a checkpoint.
    async fn missed(
        &self,
        projection: &'static str,
        query: Query,
    ) -> Result<Option<RecordFault>, StoreError> {
        if query.items().is_some_and(<[_]>::is_empty) {
            return Ok(None);
        }
        for partition in self.partitions() {
            let checkpoint = position(self.documents.checkpoint(projection, partition).await?);
            if checkpoint == Position::START {
                continue;
            }
            let mut after = Position::START;
            while after < checkpoint {
                let read =
                    LogRead { partition, after, up_to: Some(checkpoint), query: query.clone(), limit: 1 };
                let slice = self.log.read_log(read).await?;
                if let Some(event) = slice.events.first() {
                    let (event, position) = (event.name.to_string(), event.meta.position);
                    return Ok(Some(RecordFault::Missed {
                        projection,
                        event,
                        partition,
                        position,
                        checkpoint,
                    }));
                }
                if slice.read_to <= after {
                    break;
                }
                after = slice.read_to;
            }
        }
        Ok(None)
    }

    fn partitions(&self) -> impl Iterator<Item = Partition> + use<> {
        (0..self.log.capabilities().partitions).map(Partition::new)
    }

    /// The first event behind a position and up to another that this program must not pass.
    async fn search(
        &self,
        agreement: &Agreement,
        query: Query,
        partition: Partition,
        (mut after, to): (Position, Position),
    ) -> Result<Option<Arc<UnsharedEvent>>, StoreError> {
        if query.items().is_some_and(<[_]>::is_empty) {
            return Ok(None);
        }
        while after < to {
            let read = LogRead { partition, after, up_to: Some(to), query: query.clone(), limit: PAGE };
            let slice = self.log.read_log(read).await?;
            if let Some(at) = agreement.first_blocked(&slice.events) {
                return Ok(Some(agreement.event(&slice.events[at])));
            }
            if slice.read_to <= after {
                break;
            }
            after = slice.read_to;
        }
        Ok(None)
    }

    /// The first event at or before these positions that this program must not pass: with one there, its code
    /// does not fit the documents any more.
    pub(super) async fn passed(
        &self,
        agreement: &Agreement,
        searched: &mut Searched,
        to: &BTreeMap<Partition, Position>,
    ) -> Result<Option<Arc<UnsharedEvent>>, StoreError> {
        if searched.revision != agreement.revision {
            *searched = Searched { revision: agreement.revision, ..Searched::default() };
        }
        for (partition, to) in to {
            if let Some(found) = &searched.found {
                return Ok(Some(found.clone()));
            }
            let from = searched.to.get(partition).copied().unwrap_or_default();
            searched.found = self.search(agreement, agreement.settled(), *partition, (from, *to)).await?;
            searched.to.insert(*partition, from.max(*to));
        }
        Ok(searched.found.clone())
    }

    /// Whether the next event of the projection behind a checkpoint is one that this program must not pass.
    pub(super) async fn next_blocked(
        &self,
        agreement: &Agreement,
        partition: Partition,
        after: Position,
    ) -> Result<Option<Arc<UnsharedEvent>>, StoreError> {
        let read = LogRead { partition, after, up_to: None, query: agreement.query.clone(), limit: 1 };
        let slice = self.log.read_log(read).await?;
        Ok(agreement.first_blocked(&slice.events).map(|at| agreement.event(&slice.events[at])))
    }

    /// The first event behind a position and up to another that this program must not pass, of names that are
    /// only being added, too.
    pub(super) async fn blocked_between(
        &self,
        agreement: &Agreement,
        partition: Partition,
        range: (Position, Position),
    ) -> Result<Option<Arc<UnsharedEvent>>, StoreError> {
        self.search(agreement, agreement.unshared(), partition, range).await
    }
}

impl Inner {
    pub(super) fn records(&self) -> Records<'_> {
        Records { log: &*self.log, documents: &*self.documents }
    }
}

impl Engine {
    /// Removes a recorded event name from a projection, so that programs without an `#[on]` for it are no
    /// longer on standby. The log must have no such event, and no running program may write one: stop
    /// those first. A name that another program has only announced is removed in any case.
    ///
    /// # Errors
    /// [`RecordError`] if the log has such an event, the name is not recorded, the projection is not
    /// registered, or a store fails.
    pub async fn forget_event(&self, projection: &str, event: &str) -> Result<(), RecordError> {
        let inner = &self.0.inner;
        let not_registered = || RecordError::NotRegistered(projection.to_owned());
        let name = inner.followers.get(projection).ok_or_else(not_registered)?.name();
        for _ in 0..TRIES {
            let record = inner.documents.record(name).await?;
            let mut content = record.content;
            let announced = content.adding.remove(event).is_some();
            if content.reads.remove(event).is_some() {
                if let Some((partition, position)) = inner.first_named(event).await? {
                    return Err(RecordError::Exists { event: event.to_owned(), partition, position });
                }
            } else if !announced {
                return Err(RecordError::NotRecorded { projection: name, event: event.to_owned() });
            }
            if inner.documents.set_record(name, record.revision, content).await? {
                return Ok(());
            }
        }
        Err(RecordError::Store(busy(name)))
    }

    /// Accepts this program's fold for the documents that a projection has: call it if the changed code makes the same
    /// documents. Otherwise [reset](Self::reset) the projection. Until then each start of this program reports
    /// the change; programs with the former code report it from then on.
    ///
    /// # Errors
    /// [`RecordError`] if this program does not read exactly the recorded events, the projection is not
    /// registered, or a store fails.
    pub async fn accept_fold(&self, projection: &str) -> Result<(), RecordError> {
        let inner = &self.0.inner;
        let not_registered = || RecordError::NotRegistered(projection.to_owned());
        let follower = inner.followers.get(projection).ok_or_else(not_registered)?;
        let name = follower.name();
        for _ in 0..TRIES {
            let record = inner.documents.record(name).await?;
            let fold = follower.consumer().fold();
            if !Agreement::of(follower.consumer(), &record).is_whole() {
                return Err(RecordError::OtherEvents { projection: name });
            }
            if record.content.fold == fold {
                return Ok(());
            }
            let content = RecordContent { fold, ..record.content };
            if inner.documents.set_record(name, record.revision, content).await? {
                return Ok(());
            }
        }
        Err(RecordError::Store(busy(name)))
    }
}

fn busy(name: &str) -> StoreError {
    let message =
        format!("the record of the projection `{name}` is being changed by other programs; try again");
    StoreError::new(StoreErrorKind::Unavailable, message)
}

impl Inner {
    /// The first event with a name, in any partition.
    async fn first_named(&self, name: &str) -> Result<Option<(Partition, Position)>, StoreError> {
        for partition in self.partitions() {
            let mut after = Position::START;
            loop {
                let query = Query::names([name.to_owned()]);
                let read = LogRead { partition, after, up_to: None, query, limit: 1 };
                let slice = self.log.read_log(read).await?;
                if let Some(event) = slice.events.first() {
                    return Ok(Some((partition, event.meta.position)));
                }
                if slice.read_to <= after || slice.read_to >= slice.head.position {
                    break;
                }
                after = slice.read_to;
            }
        }
        Ok(None)
    }
}
