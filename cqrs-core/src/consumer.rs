//! What follows the log, as a store sees it: code that turns events into an effect, and does not know
//! where the effect is kept.
//!
//! A consumer [routes](Consumer::route) events to the entries that it has to read, and [folds](Work::fold) the
//! events into them. The result is an [`Effect`]: changed entries of its collections, [`Handlers`], or both. A
//! projection that keeps *documents* changes entries. One with its own SQL has handlers, which run inside a
//! transaction of the [`Database`] that they are written for. The store commits the effect together with the
//! checkpoint after it: in a [`Batch`](crate::read_store::Batch) after the append, or with the append itself
//! ([`Append::inline`](crate::store::Append::inline)).

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::error::{BoxError, FoldError, StoreError, StoreErrorKind};
use crate::event::RecordedEvent;
use crate::id::{Partition, Position};
use crate::read_store::{Checkpoint, EntryKey, EntryWrite};
use crate::store::{AppendError, Head, InlineConsumer, InlineGap, LogPoint, LogRead, LogSlice, Query};

/// What follows the log and has an effect.
///
/// A store asks it in the midst of a transaction, so neither it nor its [`Work`] may panic: what it cannot
/// take it says with [`Unfit`]. It may be asked again about events whose transaction was not committed.
pub trait Consumer: fmt::Debug + Send + Sync + 'static {
    /// Its name, which is that of its checkpoint and the owner of its collections.
    fn name(&self) -> &'static str;

    /// Exactly the events it wants.
    fn query(&self) -> Query;

    /// Each stored event name that it reads, with the highest schema version of it. The engine records them
    /// with the checkpoint, so that a release that reads fewer does not pass such an event. A consumer
    /// without any (the default) has no record.
    fn reads(&self) -> BTreeMap<&'static str, u32> {
        BTreeMap::new()
    }

    /// A fingerprint of the code that folds, independent of compiler and formatting (default: unknown).
    fn fold(&self) -> Option<u64> {
        None
    }

    /// The [name](Database::NAME) of the database that its handlers are written for; `None` if it keeps
    /// documents.
    fn database(&self) -> Option<&'static str> {
        None
    }

    /// Whether it folds the events of a batch without storing a document between them, so that a document may depend
    /// on how its events are batched.
    fn folds_in_memory(&self) -> bool {
        false
    }

    /// Decodes events that match its query, in their order, and says what they are going to change.
    ///
    /// # Errors
    /// [`Unfit`] with the first event that it cannot take.
    fn route(&self, events: &[Arc<RecordedEvent>]) -> Result<Routed, Unfit>;
}

/// An event that a consumer cannot take; those before it are good.
#[derive(Debug)]
pub struct Unfit {
    /// How many of the given events come before it.
    pub good: usize,
    /// What is wrong with it.
    pub error: FoldError,
}

/// Decoded events, and the entries that they need.
#[non_exhaustive]
pub struct Routed {
    /// The entries of the consumer that the work reads, each once.
    pub reads: Vec<EntryKey>,
    /// The work on them.
    pub work: Box<dyn Work>,
}

impl Routed {
    /// Creates one that reads these entries.
    #[must_use]
    pub fn new(reads: Vec<EntryKey>, work: Box<dyn Work>) -> Self {
        Self { reads, work }
    }
}

impl fmt::Debug for Routed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Routed").field("reads", &self.reads).finish_non_exhaustive()
    }
}

/// Decoded events, ready to be folded into what is stored.
pub trait Work: Send {
    /// Folds the events into the entries that it reads, given in the order of [`Routed::reads`].
    ///
    /// # Errors
    /// [`Unfit`] with the first event that does not fold.
    fn fold(self: Box<Self>, entries: Vec<Option<Bytes>>) -> Result<Effect, Unfit>;
}

/// The changes that events make to a consumer's stored state.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Effect {
    /// The changed entries, each once. Not all of them need to be among those that the work reads.
    pub writes: Vec<EntryWrite>,
    /// The user's own statements, which run in the same transaction.
    pub handlers: Option<Handlers>,
}

impl Effect {
    /// Creates one that changes entries.
    #[must_use]
    pub fn of_writes(writes: Vec<EntryWrite>) -> Self {
        Self { writes, handlers: None }
    }

    /// Rejects a write past a limit or with an invalid key. Every store calls this for the effect of an inline
    /// projection; [`Inlined::fold`] does so.
    ///
    /// # Errors
    /// [`Invalid`](StoreErrorKind::Invalid) with a message that names the text and the limit.
    pub fn check(&self) -> Result<(), StoreError> {
        self.writes.iter().try_for_each(EntryWrite::check)
    }

    /// Creates one that runs statements.
    #[must_use]
    pub fn of_handlers(handlers: Handlers) -> Self {
        Self { writes: Vec::new(), handlers: Some(handlers) }
    }
}

/// An inline projection that is asked to take an append, with the events that it has missed before it. A store uses it
/// as the section "Inline projections" of the [contract](crate::store) says.
#[derive(Debug)]
pub struct Inlined {
    consumer: InlineConsumer,
    position: Position,
    point: LogPoint,
    head: Position,
    missed: Vec<Arc<RecordedEvent>>,
}

impl Inlined {
    /// Takes the revision of the projection's stored record, its stored checkpoint on the partition, the end of the
    /// partition before the append, and how many positions it may be [behind](crate::store::Append::inline_gap).
    ///
    /// # Errors
    /// [`AppendError::StaleRecord`] if the append expects another record. [`AppendError::Behind`] if the projection is
    /// further behind than allowed, or if its checkpoint is of another log or was made at another event.
    pub fn new(
        consumer: &InlineConsumer,
        revision: u64,
        stored: Option<Checkpoint>,
        head: Head,
        gap: InlineGap,
    ) -> Result<Self, AppendError> {
        if revision != consumer.revision() {
            return Err(AppendError::StaleRecord { consumer: consumer.name() });
        }
        let position = stored.map_or(Position::START, |stored| stored.position);
        let point = stored.map_or(LogPoint::START, |stored| stored.point());
        let allowed = u64::from(gap.of(&**consumer.consumer()));
        let consumer = consumer.clone();
        let inlined = Self { consumer, position, point, head: head.position, missed: Vec::new() };
        let missed = head.position.get().checked_sub(position.get());
        let is_of_log = |stored: Checkpoint| {
            // If it is behind, the read of the missed events compares the event there.
            stored.log == head.log && (missed != Some(0) || stored.point().agrees(head.event))
        };
        if missed.is_none_or(|missed| missed > allowed) || !stored.is_none_or(is_of_log) {
            return Err(inlined.behind());
        }
        Ok(inlined)
    }

    /// Returns what to read of the partition before the append is routed, if the projection is behind.
    #[must_use]
    pub fn missing(&self, partition: Partition) -> Option<LogRead> {
        let missing = self.head.get().saturating_sub(self.position.get());
        (missing > 0).then(|| LogRead {
            partition,
            after: self.position,
            up_to: Some(self.head),
            query: self.consumer.query(),
            // More than there can be, so that the limit ends no read.
            limit: usize::try_from(missing).unwrap_or(usize::MAX).saturating_add(1),
        })
    }

    /// Takes what was read.
    ///
    /// # Errors
    /// [`AppendError::Behind`] if that is not all, or if the checkpoint was made at another event.
    pub fn with_missed(mut self, missed: LogSlice) -> Result<Self, AppendError> {
        if missed.read_to < self.head || !self.point.agrees(missed.after_event) {
            return Err(self.behind());
        }
        self.missed = missed.events;
        Ok(self)
    }

    /// Routes the missed events and the events of the append, as they are going to be read.
    ///
    /// # Errors
    /// Those of [`refused`](Self::refused).
    pub fn route(&self, events: &[Arc<RecordedEvent>]) -> Result<Routed, AppendError> {
        let query = self.consumer.query();
        let wanted = events.iter().filter(|event| query.matches(&event.name, &event.tags));
        let events: Vec<_> = self.missed.iter().chain(wanted).cloned().collect();
        self.consumer.route(&events).map_err(|unfit| self.refused(unfit))
    }

    /// Folds what was routed into entries, given in the order of [`Routed::reads`].
    ///
    /// # Errors
    /// Those of [`refused`](Self::refused), and [`AppendError::Store`] if a write is invalid.
    pub fn fold(&self, work: Box<dyn Work>, entries: Vec<Option<Bytes>>) -> Result<Effect, AppendError> {
        let effect = work.fold(entries).map_err(|unfit| self.refused(unfit))?;
        effect.check()?;
        Ok(effect)
    }

    /// Returns why the append is refused if the projection cannot take an event of those that were routed:
    /// [`AppendError::Unfit`] for an event of the append, [`AppendError::Behind`] for a missed one, at which its
    /// follower stops and says why.
    #[must_use]
    pub fn refused(&self, unfit: Unfit) -> AppendError {
        if unfit.good < self.missed.len() {
            return self.behind();
        }
        AppendError::Unfit { consumer: self.consumer.name(), error: unfit.error }
    }

    fn behind(&self) -> AppendError {
        AppendError::Behind { consumer: self.consumer.name(), position: self.position, head: self.head }
    }
}

/// A database whose transactions a projection can write with.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a database that a projection can write to",
    label = "not a database",
    note = "`sql = …` names one that a store brings, such as `cqrs::sqlite::Sqlite`"
)]
pub trait Database: 'static {
    /// Its name, for messages.
    const NAME: &'static str;
    /// What a handler gets.
    type Transaction<'t>;
    /// What running a handler gives: its outcome, or a future of it.
    type Running<'a>;

    /// The outcome of a handler that is not `async`.
    fn ready<'a>(outcome: Result<(), BoxError>) -> Self::Running<'a>;

    /// Tells a violated constraint from a failed statement and from an error of the handler's own. A
    /// database that leaves this as it is takes every error for the handler's own.
    fn origin(error: &(dyn std::error::Error + 'static)) -> ErrorOrigin {
        let _ = error;
        ErrorOrigin::Handler
    }
}

/// Where the error of a projection's handler comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorOrigin {
    /// The handler itself.
    Handler,
    /// A statement failed for another reason than a constraint, such as a missing table.
    Statement,
    /// A statement violates a constraint.
    Constraint {
        /// The constraint as the database names it, such as an index or `table.column`.
        name: String,
        /// The value that violates it, if the database reports it.
        value: Option<String>,
    },
}

/// The first error in a chain of causes that is an `E`.
#[must_use]
pub fn find_cause<'e, E: std::error::Error + 'static>(
    error: &'e (dyn std::error::Error + 'static),
) -> Option<&'e E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// A database whose handlers may be `async`, with a future like this.
#[diagnostic::on_unimplemented(
    message = "the handlers of a projection on `{Self}` cannot be `async`",
    label = "its handlers are not `async`",
    note = "take `async` off the method"
)]
pub trait AsyncDatabase<'a, F>: Database {
    /// A handler on its way.
    fn later(handler: F) -> Self::Running<'a>;
}

/// Decoded events with the handlers that write their effect, for one kind of database.
#[derive(Clone)]
pub struct Handlers {
    database: &'static str,
    /// An `Arc<dyn RunIn<D>>` of that database.
    run: Arc<dyn Any + Send + Sync>,
}

/// What [`Handlers`] are for a database.
pub trait RunIn<D: Database>: Send + Sync {
    /// Prepares the tables, before the first event ever.
    fn set_up<'a, 't>(&'a self, transaction: &'a D::Transaction<'t>) -> D::Running<'a>
    where
        't: 'a;

    /// How many steps there are: one per event, or several for one that was split since it was stored.
    fn steps(&self) -> usize;

    /// Writes the effect of one step, by its number from 0.
    fn run<'a, 't>(&'a self, step: usize, transaction: &'a D::Transaction<'t>) -> D::Running<'a>
    where
        't: 'a;

    /// What a step that failed makes of its event; `None` if there is no such step.
    ///
    /// A store asks only if the failure is not its own, such as a full disk.
    fn unfit(&self, step: usize, error: BoxError) -> Option<Unfit>;
}

impl Handlers {
    /// Of a database.
    #[must_use]
    pub fn new<D: Database>(run: Arc<dyn RunIn<D>>) -> Self {
        Self { database: D::NAME, run: Arc::new(run) }
    }

    /// The name of the database that they are written for.
    #[must_use]
    pub fn database(&self) -> &'static str {
        self.database
    }

    /// The handlers, if they are written for this database.
    ///
    /// # Errors
    /// [`StoreErrorKind::Unsupported`] if they are not.
    pub fn of<D: Database>(&self) -> Result<Arc<dyn RunIn<D>>, StoreError> {
        self.run.downcast_ref::<Arc<dyn RunIn<D>>>().cloned().ok_or_else(|| {
            let message = format!("a projection on {} cannot write to {}", self.database, D::NAME);
            StoreError::new(StoreErrorKind::Unsupported, message)
        })
    }
}

impl fmt::Debug for Handlers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Handlers({})", self.database)
    }
}
