//! The log's contract: what a store promises, and what the engine builds on.
//!
//! Whoever writes a store implements [`EventStore`] and [`ReadStore`](crate::read_store::ReadStore),
//! and runs the conformance suite of `cqrs-testkit`, which tries to break each clause below. The
//! in-memory store, [`MemoryStore`](crate::memory::MemoryStore), is the contract as a program.
//!
//! # The log
//!
//! A log is a set of streams, laid out in one or more partitions.
//!
//! - **Streams.** A stream is named by a [`StreamId`] and lives in one partition for ever. Its
//!   events have the versions 1, 2, 3, … without gaps or repeats. A stream without events does not
//!   exist; there is no other way to create one, and none to remove one.
//! - **Positions.** Every event has a position in its partition, from 1. Within a partition the
//!   order of positions is the order of commits: *a reader that has seen position p MUST NOT ever
//!   find a new event at or below p.* This holds with many writers, long transactions and killed
//!   processes, and it is the clause that most stores on SQL break: a number taken before the
//!   commit is not in commit order. Positions MUST NOT be reused. They SHOULD be gapless, and a
//!   store whose positions are says so in [`Capabilities::gapless_positions`].
//! - **Events are facts.** What is appended is handed back as it was: id, stream, name, schema
//!   version, payload byte for byte, tags, time (to the microsecond) and metadata. Nothing is
//!   changed or removed afterwards.
//! - **Texts.** No name of an event, stream id, tag, key or metadata has the character U+0000, which not
//!   every database can hold. Payloads may hold any bytes. An append that has it in one of its texts, its
//!   guard included, breaks a limit; a read of what cannot be there finds nothing.
//! - **Identity.** A log has an id of its own, [`LogId`], made at random when it is created and
//!   kept for as long as the log's history is. A log that is restored from a backup or rewound by a
//!   failover MUST get a new one where the store can notice.
//! - **Heads only grow.** A head that one call has shown, no later call on any handle falls short
//!   of. A follower takes a head before its checkpoint for a rewound log and stops, so a store that
//!   reads from replicas waits until the replica has got there.
//! - **A position alone does not identify history.** After a failover to an asynchronous standby, a crash
//!   without a synchronous commit, or a restore, a log continues from an older state under the same id, and new
//!   events reuse its positions and versions. So every position that a store reports comes with the id of
//!   the event there, whether or not the event matches a query: [`Head::event`], [`LogSlice::read_to_event`],
//!   [`LogSlice::after_event`], [`Appended::event`]. Only a position at the start or past the head has none.
//!
//! # Append
//!
//! - **Atomic.** All events of an [`Append`] become visible together, to all readers, or none does.
//!   Their positions follow each other without another append's between them, in the order given;
//!   versions count on per stream in the order given.
//! - **Durable.** When the future gives `Ok`, the events survive whatever the store's documentation
//!   says they survive. They MUST be visible to every read that starts later, on any handle of the
//!   same store.
//! - **Guarded.** The [`Guard`] is checked against the state that the events are then appended to:
//!   no other append may come between. A guard that fails gives [`AppendError::Conflict`] with a
//!   clause that does not hold, and nothing is written. Events of the append itself do not count
//!   against its guard. An empty [`Guard::All`] is [`Guard::Any`].
//! - **One winner.** Of any number of racing appends that expect one version of a stream, exactly
//!   one is accepted.
//! - **By identity.** [`Expected::Event`] and a [`LogPoint`] with an event hold only while that very event is
//!   at its version or position. Another event there is a conflict.
//! - **Refused by name.** A guard or an append that the store cannot check or cannot carry out
//!   atomically MUST be refused with [`StoreErrorKind::Unsupported`] and a message that names it;
//!   it is never ignored or weakened. [`Capabilities`] says so beforehand.
//! - **Idempotent by key.** If the append carries a [`CommandKey`] that the log already has for that
//!   stream, it MUST NOT write, and gives [`AppendError::Duplicate`] with what the first append
//!   gave. This is checked before the guard. A key is recorded in the same commit as the events;
//!   an append that fails records no key. An append may have a key and no events. [`Append::owner`] is recorded
//!   with the key and returned as it was; it is not compared.
//! - **Nothing to do.** An append without events and without a key checks its guard and writes
//!   nothing.
//! - **Where.** An append is about one partition: that of its events' streams, of its key's stream
//!   and of the streams that its guard names. If these lie in several, it is refused by name. An
//!   append that speaks of no stream at all is about [`Partition::ONLY`].
//! - **Ids.** An event whose id the log has already, in any partition, or that comes twice in one
//!   append, gives [`StoreErrorKind::Invalid`]; nothing is written. This is checked last.
//! - **Limits.** An append that breaks one of the [`Limits`] gives [`StoreErrorKind::Invalid`] with
//!   a message that names the limit, and nothing is written. Limits are checked before anything
//!   else.
//!
//! So the order of the checks is: limits, what the store cannot do, the key, the guard, event ids, and
//! then the inline projections.
//!
//! # Reservations
//!
//! Whoever reads a stream, decides and appends, can lose to others for ever, if they are quicker. A store that
//! says so in [`Capabilities::reservations`] gives them a turn: from when [`reserve`](EventStore::reserve)
//! has given a [`Reservation`] until its append has ended or it is dropped,
//!
//! - no other append to the partition is written, by any handle in any process. Those that come meanwhile
//!   wait, and are checked against the log as it is afterwards;
//! - everything that was appended before can be read, so that what is read now is still so when its append is
//!   checked;
//! - whoever asks for one while others append gets it in bounded time, however many they are.
//!
//! Its append is one like any other, and so are its guard and its faults. A store SHOULD take back a
//! reservation that is kept for longer than a read and a decision take, since everybody waits for it; its
//! append then waits its turn among the others, and its guard has the last word.
//!
//! # Inline projections
//!
//! An append may name consumers whose effect is to be part of its commit ([`Append::inline`]), if
//! [`Capabilities::inline`] says so; else it is refused by name. They and their checkpoints are those of
//! the [`ReadStore`](crate::read_store::ReadStore) that is the same object. In the transaction of an
//! append that has events, for each of the consumers in turn:
//!
//! - The revision of its [`Record`](crate::read_store::Record) MUST be the one that the append
//!   [expects](InlineConsumer::revision). If it is not, the append gives [`AppendError::StaleRecord`], and
//!   nothing is written: another program reads other events, and this one has to look at the record first.
//! - Its checkpoint on that partition MUST be of this log and name the event at its position; a consumer without
//!   a checkpoint is at the start. If a program that does not know the consumer has appended events, the
//!   checkpoint is before the partition's head. If [`Append::inline_gap`] allows as many positions, the store MUST
//!   pass the missed events that match the consumer's query to it before those of the append, in the same
//!   transaction. Otherwise, or if the consumer cannot take a missed event, the append returns
//!   [`AppendError::Behind`], and nothing is written: the consumer has to catch up first. A store MAY also return
//!   that if the missed events are more than it reads at once (ours: 10,000 events or 16 MiB).
//! - Those of the events that match its query, as they are going to be read, are routed, and folded into
//!   the entries as the transaction sees them. The [effect](crate::consumer::Effect) is written in the
//!   transaction: entries of any of its collections, and statements of the user's own. If the consumer cannot
//!   take an event, the append returns [`AppendError::Unfit`], and nothing is written.
//! - Its checkpoint moves to the last position of the append, also if no event matched.
//!
//! Its epoch is neither asked for nor changed: the transaction is the fence. An owner that follows the log
//! and commits a batch from the checkpoint before is fenced by the checkpoint that has moved.
//!
//! # Several at once
//!
//! A store MAY commit several appends together. Then
//!
//! - each is checked against the log as those before it in the group leave it, and one that is refused,
//!   for whatever reason, MUST NOT fail, change or reorder the others;
//! - none is told of success before the commit is durable;
//! - of two with one key, the second is told [`AppendError::Duplicate`] once the first is committed;
//! - one that is dropped before its turn MAY be left out;
//! - if the commit fails, all of them are told of that, also those that would have been refused: their
//!   refusal may rest on what was not written;
//! - if the commit's outcome is not known, all of them are told [`StoreErrorKind::Unknown`].
//!
//! After an `Unknown`, a [`find_key`](EventStore::find_key), a
//! [`read_stream`](EventStore::read_stream) or a [`fold_stream`](EventStore::fold_stream) on the same handle MUST NOT answer before the append in
//! question can no longer take place: an answer "it is not there" is final.
//!
//! A handle sees one history. The highest head that any of its calls has reported, by a read or by an
//! append, is a lower bound for every later call on that handle and its clones: if the log ends before it,
//! the call MUST fail with [`StoreErrorKind::Corrupt`], be it an append, a reservation, a read of the log or of
//! a stream, a fold, or a look-up of a key. If the log was replaced by another, every later call MUST
//! fail with [`StoreErrorKind::Corrupt`] or show the new [`LogId`]. A log that was rewound and has grown past
//! that head again is told by the ids of events: in guards, checkpoints, and receipts.
//!
//! A read SHOULD stop early, with fewer events than its limit, rather than hold more than about
//! 16 MiB of payloads in memory.
//!
//! # Snapshots
//!
//! Beside the log a store MAY keep the state of a stream at a version, so that a reader need not begin
//! with the first event: a [`Snapshot`]. It is a cache. The engine compares it with the log before it
//! uses it, so nothing is lost with one, and a store MAY lose or forget any at any time; but it SHOULD
//! have what was saved last for as long as it has room. Snapshots are no part of the log's history:
//! they need not be durable, nor be seen by other handles. A snapshot names its last event
//! ([`Snapshot::event`]). The engine uses it only while the stream has that very event at its version and
//! position, so a snapshot of a lost history is not used.
//!
//! - **As it was.** A snapshot is handed back as it was saved: log, version, position, event, fingerprint,
//!   and the state byte for byte; or not at all.
//! - **For its fingerprint.** It is given only to who asks for the fingerprint that it was saved with.
//!   Another fingerprint means that it was folded by other code.
//! - **One per stream.** A stream has at most one. A save replaces one of another fingerprint or another
//!   log, whatever the versions.
//! - **Never backwards.** Of the same fingerprint and log, a save replaces one of the same or an older
//!   version, and has no effect on one of a newer version: of two that race, the newer one stays.
//! - **No append.** Saving moves no head, makes no stream exist, and wakes nobody.
//! - **Limits.** A snapshot at [`Version::NONE`], or one that breaks a limit, gives
//!   [`StoreErrorKind::Invalid`], and what was there before stays.
//! - **Forgetting** takes a stream's snapshot away, whatever its fingerprint; that there was none is no
//!   fault. It is what the engine does to one that contradicts the log.
//! - **Refused by name.** A store that keeps no snapshots says so in [`Capabilities::snapshots`], gives
//!   none, and refuses to save one with [`StoreErrorKind::Unsupported`].
//!
//! # Close
//!
//! [`close`](EventStore::close) writes back what a store keeps outside of its main file or in memory, and
//! releases its files and connections. The engine calls it at the end of a shutdown.
//!
//! - **Complete.** When it returns `Ok`, a copy of what the store's documentation names, such as one file, has
//!   every append that was acknowledged before, unless another process still uses it.
//! - **Not the end.** A later call opens again what it needs. Closing twice is no fault.
//! - **Bounded.** It waits for the calls that were made before it, and as long as the store waits for other
//!   processes, but not for a future that is not polled.
//!
//! # Faults
//!
//! | what happened | what is given |
//! |---|---|
//! | the guard does not hold | [`AppendError::Conflict`] |
//! | the command's key is there already | [`AppendError::Duplicate`] |
//! | a limit is broken, a text has U+0000, an event id is used twice, a partition does not exist | [`StoreErrorKind::Invalid`] |
//! | the store cannot do this at all | [`StoreErrorKind::Unsupported`] |
//! | not reachable, busy, timed out *before* the commit was sent | [`StoreErrorKind::Unavailable`] |
//! | the connection was lost *while* committing | [`StoreErrorKind::Unknown`] |
//! | what is stored contradicts itself | [`StoreErrorKind::Corrupt`] |
//! | anything else | [`StoreErrorKind::Failed`] |
//!
//! A store MUST give `Unknown` if and only if it cannot tell whether the append was committed; the
//! engine resolves it by the command's key. A store SHOULD NOT retry a conflict by itself: the
//! decision has to be taken again. A serialization failure or deadlock of the database below is the
//! store's own matter and SHOULD be retried inside.
//!
//! # Cancellation
//!
//! Any future may be dropped at any point. Dropping a read has no effect. A dropped append either
//! took place as a whole or not at all; later calls see one of the two and MUST NOT hang. The same goes
//! for a snapshot that is saved or forgotten.
//!
//! No future may hold what another call needs while it is not polled: no connection, no lock, no thread, and no
//! place in a queue. A program begins many calls, as with `buffer_unordered`, and works on the result of one of them
//! for as long as it likes; the others are not polled meanwhile. So a store completes each read in pieces of bounded
//! size, or in a task of its own, before it hands anything out. A [`Reservation`] is the one exception: it exists to
//! keep others waiting, and a store takes it back.

use std::borrow::Cow;
use std::fmt;
use std::future::Future;
use std::ops::{ControlFlow, Deref};
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use uuid::Uuid;

use crate::consumer::Consumer;
use crate::error::{FoldError, StoreError, StoreErrorKind};
use crate::event::{Metadata, NewEvent, RecordedEvent, Stored, Tag, Tags};
use crate::id::{Partition, Position, StreamId, Version};

pub use crate::pace::Pace;

/// A boxed future, so that a store can be used as a trait object.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A log. The contract is in the [module's documentation](self).
///
/// Handles are cheap to share behind an `Arc`; every method may be called from many tasks at once.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an event store",
    label = "not an event store",
    note = "the contract is in the documentation of `cqrs::store`"
)]
pub trait EventStore: fmt::Debug + Send + Sync + 'static {
    /// The optional parts of the contract that the store implements (default: none); the same for as long as it is
    /// open.
    fn capabilities(&self) -> Capabilities {
        Capabilities::none()
    }

    /// How large things may be; the same for as long as it is open.
    fn limits(&self) -> Limits;

    /// The partition that a stream lives in: a pure function of the stream, the same in every
    /// process that has opened the log.
    fn partition_of(&self, stream: &StreamId) -> Partition;

    /// Appends atomically if the guard holds, as the module's section "Append" says.
    ///
    /// # Errors
    /// [`AppendError`], by the module's table of faults. Nothing was written, except that with
    /// [`StoreErrorKind::Unknown`] all of it may have been.
    fn append(&self, append: Append) -> BoxFuture<'_, Result<Appended, AppendError>>;

    /// Keeps everybody else from appending to the partition of a stream, until one append was made with what
    /// this gives, as the module's section "Reservations" says. A store that has none gives `None`, and
    /// leaves this as it is.
    ///
    /// # Errors
    /// [`StoreErrorKind::Unavailable`] if others did not let go in time, else any [`StoreError`].
    fn reserve(&self, stream: &StreamId) -> BoxFuture<'_, Result<Option<Reservation>, StoreError>> {
        let _ = stream;
        Box::pin(async { Ok(None) })
    }

    /// What the append with this key gave, if there was one.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot answer.
    fn find_key(&self, key: &CommandKey) -> BoxFuture<'_, Result<Option<Appended>, StoreError>>;

    /// Reads a slice of one stream, and the stream's version in the same snapshot.
    ///
    /// Events MUST come by version, ascending or descending as asked, and without gaps; at most
    /// `limit` of them. A store MAY give fewer than `limit`, but at least one if there is one.
    /// Reading a stream that does not exist gives no events and [`Version::NONE`].
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot answer.
    fn read_stream(&self, read: StreamRead) -> BoxFuture<'_, Result<StreamSlice, StoreError>>;

    /// Hands the events of one stream to `take`, from a version on: by version, ascending, without gaps,
    /// each as it comes, to the stream's end or until `take` breaks off.
    ///
    /// This is the read behind every fold, and an event is lent with no more than a fold needs, so that a
    /// store can hand it over without copying it. The events MUST be all that the stream had when this was
    /// called, and MAY be more. A store SHOULD let other tasks run between two of them about every millisecond, for
    /// which there is [`Pace`]. A store that leaves this as it is has its slices read, one after
    /// the other.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot answer; some events may have been handed over.
    fn fold_stream<'a>(
        &'a self,
        stream: &'a StreamId,
        from: Version,
        take: &'a mut TakeEvent<'a>,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(fold_slices(self, stream, from, take))
    }

    /// Reads a slice of one partition by position, and the partition's head in the same snapshot.
    ///
    /// Events MUST be those that match the query, by position, ascending, without omissions
    /// between the first and the last given; at most `limit` of them. A store MAY give fewer than
    /// `limit`; [`LogSlice::read_to`] says how far it has looked, and MUST move forward unless
    /// there is nothing left.
    ///
    /// This is also the read for decisions over tags: the state is folded from the events up to
    /// [`LogSlice::head`], and the guard is [`Guard::Unchanged`] after that head's [point](Head::point).
    ///
    /// A query [without items](Query::none) matches nothing. It is the way to look up the events at two positions
    /// and the head: [`LogSlice::after_event`] and [`LogSlice::read_to_event`]. It SHOULD cost no more than that.
    ///
    /// # Errors
    /// [`StoreErrorKind::Invalid`] if there is no such partition, [`StoreErrorKind::Unsupported`]
    /// if the store has no tags and the query asks for one, else any [`StoreError`].
    fn read_log(&self, read: LogRead) -> BoxFuture<'_, Result<LogSlice, StoreError>>;

    /// The log's identity and the position of the last event in a partition.
    ///
    /// # Errors
    /// [`StoreErrorKind::Invalid`] if there is no such partition, else any [`StoreError`].
    fn head(&self, partition: Partition) -> BoxFuture<'_, Result<Head, StoreError>>;

    /// Waits until the partition's head lies behind `after`.
    ///
    /// MUST return at once if it does already, and in bounded time once it does. MAY return early
    /// or late: a caller looks at the log afterwards, and polls beside it.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot wait; the caller polls instead.
    fn wait(&self, partition: Partition, after: Position) -> BoxFuture<'_, Result<(), StoreError>>;

    /// The stream's snapshot, if there is one with this fingerprint, as the module's section
    /// "Snapshots" says. A store that keeps none leaves this as it is.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot answer; the caller reads the stream from its beginning.
    fn snapshot(
        &self,
        stream: &StreamId,
        fingerprint: u64,
    ) -> BoxFuture<'_, Result<Option<Snapshot>, StoreError>> {
        let _ = (stream, fingerprint);
        Box::pin(async { Ok(None) })
    }

    /// Keeps a snapshot, unless there is a newer one of the same fingerprint and log. A store that
    /// keeps none leaves this as it is.
    ///
    /// # Errors
    /// [`StoreErrorKind::Invalid`] if it breaks a limit, [`StoreErrorKind::Unsupported`] if the store
    /// keeps none, else any [`StoreError`].
    fn save_snapshot(&self, snapshot: Snapshot) -> BoxFuture<'_, Result<(), StoreError>> {
        let _ = snapshot;
        Box::pin(async { Err(unsupported("keep snapshots")) })
    }

    /// Takes the stream's snapshot away, if there is one. A store that keeps none leaves this as it
    /// is.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot do that now.
    fn forget_snapshot(&self, stream: &StreamId) -> BoxFuture<'_, Result<(), StoreError>> {
        let _ = stream;
        Box::pin(async { Ok(()) })
    }

    /// Writes back what is kept elsewhere, and releases files and connections, as the module's section "Close"
    /// says. A store that has nothing to do leaves this as it is.
    ///
    /// # Errors
    /// [`StoreError`] if not everything could be written back; what was acknowledged is still durable.
    fn close(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async { Ok(()) })
    }
}

/// What a store can do. What it cannot, it refuses by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// How many partitions the log has, at least 1.
    pub partitions: u16,
    /// Whether positions have no gaps, so that a hole is a fault.
    pub gapless_positions: bool,
    /// Whether one append may write to several streams of one partition, or guard streams that it
    /// does not write to.
    pub multi_stream_append: bool,
    /// Whether tags are indexed: queries with tags can be read and be guards.
    pub tags: bool,
    /// Whether an append may bring inline projections.
    pub inline: bool,
    /// Whether [`Expected::Event`] can be asked for. If it can, and the store takes appends up in the order
    /// in which their futures are first polled, commands for one stream share its commits.
    pub event_guards: bool,
    /// Whether snapshots are kept.
    pub snapshots: bool,
    /// Whether a partition can be [reserved](EventStore::reserve) for an append.
    pub reservations: bool,
}

impl Capabilities {
    /// Returns those of a store with one partition that implements none of the optional parts. A store sets the
    /// fields that it knows, so it never claims a part that was added after it was written.
    ///
    /// ```
    /// use cqrs_core::store::Capabilities;
    ///
    /// let mut capabilities = Capabilities::none();
    /// capabilities.tags = true;
    /// ```
    #[must_use]
    pub const fn none() -> Self {
        Self {
            partitions: 1,
            gapless_positions: false,
            multi_stream_append: false,
            tags: false,
            inline: false,
            event_guards: false,
            snapshots: false,
            reservations: false,
        }
    }
}

/// The right to be the next that appends to a partition. Whoever drops it gives it back.
#[must_use = "everybody else waits as long as it is kept"]
pub struct Reservation(Box<AppendReserved>);

type AppendReserved = dyn FnOnce(Append) -> BoxFuture<'static, Result<Appended, AppendError>> + Send;

impl Reservation {
    /// Of a store that appends this way. What the closure holds is dropped with it.
    pub fn new(
        append: impl FnOnce(Append) -> BoxFuture<'static, Result<Appended, AppendError>> + Send + 'static,
    ) -> Self {
        Self(Box::new(append))
    }

    /// Appends as [`EventStore::append`] does, before everybody else.
    ///
    /// # Errors
    /// As [`EventStore::append`].
    pub fn append(self, append: Append) -> BoxFuture<'static, Result<Appended, AppendError>> {
        (self.0)(append)
    }
}

impl fmt::Debug for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reservation")
    }
}

/// How large things may be. Lengths are in bytes of UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Events in one append.
    pub batch_events: usize,
    /// All payloads and metadata of one append together. A larger append would hold the log's lock for
    /// longer than other writers wait for it.
    pub append_bytes: usize,
    /// One event's payload.
    pub payload_bytes: usize,
    /// One event's metadata, as [`Metadata::size`](crate::event::Metadata::size) counts it.
    pub metadata_bytes: usize,
    /// An event's stored name.
    pub name_bytes: usize,
    /// A whole stream id, `category/id`.
    pub stream_bytes: usize,
    /// Tags on one event.
    pub tags: usize,
    /// One tag, `key:value`.
    pub tag_bytes: usize,
    /// An idempotency key, which has at least one.
    pub key_bytes: usize,
    /// The state in a snapshot.
    pub snapshot_bytes: usize,
}

impl Limits {
    /// The limits that every store SHOULD have, so that a domain can move between stores.
    #[must_use]
    pub const fn standard() -> Self {
        Self {
            batch_events: 1_000,
            append_bytes: 16 << 20,
            payload_bytes: 1 << 20,
            metadata_bytes: 16 << 10,
            name_bytes: 200,
            stream_bytes: 400,
            tags: 50,
            tag_bytes: 400,
            key_bytes: 200,
            snapshot_bytes: 4 << 20,
        }
    }

    /// Refuses a stream that cannot be there, before anything is done with it.
    pub(crate) fn check_stream(&self, stream: &StreamId) -> Result<(), StoreError> {
        without_nul("the stream id", stream.as_str())?;
        check_size("the stream id", "bytes", stream.as_str().len(), self.stream_bytes)
    }

    /// Refuses a snapshot that breaks a limit or is of no version. Every store that keeps snapshots
    /// calls this first.
    ///
    /// # Errors
    /// [`StoreErrorKind::Invalid`] with a message that names the limit, what breaks it and by how
    /// much.
    pub fn check_snapshot(&self, snapshot: &Snapshot) -> Result<(), StoreError> {
        let Snapshot { stream, version, state, .. } = snapshot;
        self.check_stream(stream)?;
        if *version == Version::NONE {
            return Err(StoreError::invalid(format!(
                "a snapshot of {stream} at version 0 is one of nothing"
            )));
        }
        check_size(format_args!("the snapshot of {stream}"), "bytes", state.len(), self.snapshot_bytes)
    }

    /// Rejects an append that breaks a limit, has U+0000 in one of its texts or has an empty idempotency
    /// key. Every store calls this first.
    ///
    /// # Errors
    /// [`StoreErrorKind::Invalid`] with a message that names the limit, what breaks it and by how
    /// much.
    pub fn check(&self, append: &Append) -> Result<(), StoreError> {
        self.check_count(append.events.len())?;
        if let Some(key) = &append.key {
            self.check_key(key)?;
        }
        let mut bytes = 0;
        for event in &append.events {
            self.check_event(event)?;
            bytes += event.payload.len() + event.metadata.size();
        }
        self.check_bytes(bytes)?;
        check_guard(&append.guard)
    }

    /// Rejects a number of events that is too large for one append. The engine calls this before it folds
    /// a decision, which may take long.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub(crate) fn check_count(&self, events: usize) -> Result<(), StoreError> {
        let limit = self.batch_events;
        if events <= limit {
            return Ok(());
        }
        Err(StoreError::invalid(format!(
            "the batch of this append has {events} events; the limit is {limit}: split the work into several commands"
        )))
    }

    /// Rejects a total of payloads and metadata that is too large for one append.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub(crate) fn check_bytes(&self, bytes: usize) -> Result<(), StoreError> {
        let limit = self.append_bytes;
        if bytes <= limit {
            return Ok(());
        }
        Err(StoreError::invalid(format!(
            "the events of this append have {bytes} bytes in total; the limit is {limit}: split the work into several commands"
        )))
    }

    /// Rejects an idempotency key that no append may carry. The engine calls this before a handler runs.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub(crate) fn check_key(&self, key: &CommandKey) -> Result<(), StoreError> {
        let CommandKey { stream, key } = key;
        if key.is_empty() {
            // Forgotten rather than meant: the second such command would be taken for the first.
            return Err(StoreError::invalid(format!("the idempotency key of {stream} is empty")));
        }
        check_size(format_args!("the idempotency key of {stream}"), "bytes", key.len(), self.key_bytes)?;
        without_nul("the idempotency key", key)?;
        self.check_stream(stream)
    }

    /// Rejects metadata that no event may carry. The engine calls this before a handler runs.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub(crate) fn check_metadata(
        &self,
        of: &dyn fmt::Display,
        metadata: &Metadata,
    ) -> Result<(), StoreError> {
        check_size(format_args!("the metadata of {of}"), "bytes", metadata.size(), self.metadata_bytes)?;
        metadata.texts().try_for_each(|text| without_nul("the metadata", text))
    }

    fn check_event(&self, event: &NewEvent) -> Result<(), StoreError> {
        let (stream, name) = (&event.stream, &event.name);
        if name.is_empty() || event.schema_version == 0 {
            let message = format!("an event of {stream} has no name or the schema version 0");
            return Err(StoreError::invalid(message));
        }
        self.check_stream(stream)?;
        check_size(format_args!("the event name of {stream}"), "bytes", name.len(), self.name_bytes)?;
        without_nul("the event name", name)?;
        check_size(format_args!("the payload of {name}"), "bytes", event.payload.len(), self.payload_bytes)?;
        self.check_metadata(name, &event.metadata)?;
        check_size(format_args!("the tag list of {name}"), "tags", event.tags.len(), self.tags)?;
        for tag in &event.tags {
            check_size(format_args!("a tag of {name}"), "bytes", tag.as_str().len(), self.tag_bytes)?;
            without_nul("the tag", tag.as_str())?;
        }
        Ok(())
    }
}

/// Rejects a size past its limit; `what` is what has the size.
pub(crate) fn check_size(
    what: impl fmt::Display,
    unit: &str,
    size: usize,
    limit: usize,
) -> Result<(), StoreError> {
    if size <= limit {
        return Ok(());
    }
    Err(StoreError::invalid(format!("{what} has {size} {unit}; the limit is {limit}")))
}

/// Refuses a text that has the character U+0000.
///
/// # Errors
/// [`StoreErrorKind::Invalid`] with a message that names the text.
pub fn without_nul(what: impl fmt::Display, text: &str) -> Result<(), StoreError> {
    // Bytes, since in UTF-8 no other character has this one among its own.
    if memchr::memchr(0, text.as_bytes()).is_none() {
        return Ok(());
    }
    // Enough of it to be found; nothing says how long it is.
    let shown: String = text.chars().take(100).collect();
    let message = format!("{what} {shown:?} has the character U+0000, which no text of a log has");
    Err(StoreError::invalid(message))
}

fn check_guard(guard: &Guard) -> Result<(), StoreError> {
    match guard {
        Guard::Any => Ok(()),
        Guard::Stream { stream, .. } => without_nul("the stream id", stream.as_str()),
        Guard::Unchanged { query, .. } | Guard::Absent(query) => {
            let mut items = query.items().unwrap_or_default().iter();
            items.try_for_each(|item| {
                item.names.iter().try_for_each(|name| without_nul("the event name", name))?;
                item.tags.iter().try_for_each(|tag| without_nul("the tag", tag.as_str()))
            })
        }
        Guard::All(all) => all.iter().try_for_each(check_guard),
    }
}

/// The identity of a log, made at random when the log is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LogId(pub Uuid);

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where a partition ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The log's identity.
    pub log: LogId,
    /// The position of the last event, or [`Position::START`].
    pub position: Position,
    /// The id of the last event; `None` if the partition is empty.
    pub event: Option<Uuid>,
}

impl Head {
    /// Its position with the event there.
    #[must_use]
    pub const fn point(&self) -> LogPoint {
        LogPoint { position: self.position, event: self.event }
    }
}

/// A position of a partition with the id of the event there, by which a rewound log is detected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct LogPoint {
    /// The position.
    pub position: Position,
    /// The id of the event at this position; `None` at the start of the log. Elsewhere, `None` means that the
    /// event is not known: then only the position counts.
    pub event: Option<Uuid>,
}

impl LogPoint {
    /// Before the first event.
    pub const START: Self = Self { position: Position::START, event: None };

    /// Whether a log that has this event at the position, or none, can be the log that the point was taken from.
    #[must_use]
    pub fn agrees(&self, there: Option<Uuid>) -> bool {
        self.position == Position::START || self.event.is_none() || self.event == there
    }
}

impl From<Position> for LogPoint {
    /// A position whose event is not known.
    fn from(position: Position) -> Self {
        Self { position, event: None }
    }
}

impl fmt::Display for LogPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.event {
            Some(event) => write!(f, "{} with the event {event}", self.position),
            None => self.position.fmt(f),
        }
    }
}

/// What is to be appended, atomically, under one guard.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Append {
    /// The events, of one or more streams of one partition.
    pub events: Vec<NewEvent>,
    /// What must hold.
    pub guard: Guard,
    /// The command behind it, if it may be delivered twice.
    pub key: Option<CommandKey>,
    /// What the key is used for; recorded with it.
    pub owner: Option<KeyOwner>,
    /// The projections whose effect is part of the commit, in this order.
    pub inline: Inline,
    /// The number of positions that an inline projection may be behind for the append to apply the missed events
    /// (default: none).
    pub inline_gap: InlineGap,
}

/// The largest number of positions that an inline projection may be behind the log for an append to apply the missed
/// events itself. All other writers wait for an append meanwhile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(clippy::exhaustive_structs, reason = "it is written out")]
pub struct InlineGap {
    /// For a projection that keeps documents.
    pub documents: u32,
    /// For a projection with handlers of its own, such as SQL statements.
    pub handlers: u32,
}

impl InlineGap {
    /// Returns the number for a consumer.
    #[must_use]
    pub fn of(&self, consumer: &dyn Consumer) -> u32 {
        match consumer.database() {
            Some(_) => self.handlers,
            None => self.documents,
        }
    }
}

/// Consumers whose effect is part of an append's commit. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Inline(Option<Arc<[InlineConsumer]>>);

/// A consumer whose effect is part of an append's commit. It derefs to the [`Consumer`].
#[derive(Clone, Debug)]
pub struct InlineConsumer {
    consumer: Arc<dyn Consumer>,
    revision: u64,
}

impl InlineConsumer {
    /// Creates one that expects this revision of the consumer's [`Record`](crate::read_store::Record).
    #[must_use]
    pub fn new(consumer: Arc<dyn Consumer>, revision: u64) -> Self {
        Self { consumer, revision }
    }

    /// Returns the consumer.
    #[must_use]
    pub fn consumer(&self) -> &Arc<dyn Consumer> {
        &self.consumer
    }

    /// Returns the revision of the consumer's record that the append rests on.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }
}

impl Deref for InlineConsumer {
    type Target = dyn Consumer;

    fn deref(&self) -> &Self::Target {
        &*self.consumer
    }
}

impl Inline {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// The consumers.
    pub fn iter(&self) -> std::slice::Iter<'_, InlineConsumer> {
        self.0.as_deref().unwrap_or_default().iter()
    }
}

impl FromIterator<InlineConsumer> for Inline {
    fn from_iter<I: IntoIterator<Item = InlineConsumer>>(consumers: I) -> Self {
        let consumers: Arc<[_]> = consumers.into_iter().collect();
        Self((!consumers.is_empty()).then_some(consumers))
    }
}

/// Consumers without a record.
impl FromIterator<Arc<dyn Consumer>> for Inline {
    fn from_iter<I: IntoIterator<Item = Arc<dyn Consumer>>>(consumers: I) -> Self {
        consumers.into_iter().map(|consumer| InlineConsumer::new(consumer, 0)).collect()
    }
}

impl<'a> IntoIterator for &'a Inline {
    type Item = &'a InlineConsumer;
    type IntoIter = std::slice::Iter<'a, InlineConsumer>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl Append {
    /// Events under a guard.
    #[must_use]
    pub fn new(events: Vec<NewEvent>, guard: Guard) -> Self {
        Self {
            events,
            guard,
            key: None,
            owner: None,
            inline: Inline::default(),
            inline_gap: InlineGap::default(),
        }
    }

    /// With the key of the command behind it.
    #[must_use]
    pub fn with_key(mut self, key: Option<CommandKey>) -> Self {
        self.key = key;
        self
    }

    /// Lets the store apply events that an inline projection has missed.
    #[must_use]
    pub fn with_inline_gap(mut self, gap: InlineGap) -> Self {
        self.inline_gap = gap;
        self
    }

    /// With what the key is used for.
    #[must_use]
    pub fn with_owner(mut self, owner: Option<KeyOwner>) -> Self {
        self.owner = owner;
        self
    }

    /// With the projections whose effect is part of the commit.
    #[must_use]
    pub fn with_inline(mut self, inline: Inline) -> Self {
        self.inline = inline;
        self
    }
}

/// Names one request to a stream, so that its second delivery can be told from another request.
///
/// Which command carries it is not part of the key. It is recorded beside it as the [`KeyOwner`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CommandKey {
    /// The stream that the command is for; keys of different streams are different.
    pub stream: StreamId,
    /// The caller's key.
    pub key: String,
}

/// What an idempotency key is used for, so that a key that another command uses by mistake is told from a second
/// delivery. A store records it with the key and returns it as it was; it does not compare it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyOwner {
    /// A command.
    Command {
        /// Its name.
        name: Cow<'static, str>,
        /// Its content, if that can be compared.
        content: Option<Content>,
    },
    /// A request of several commands, the first accepted of which answers for all.
    Request,
}

/// The content of a command as two numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    /// The shape of the command's type. Contents of different shapes are not compared: a newer release may have
    /// added a field.
    pub shape: u64,
    /// The values of its fields.
    pub value: u64,
}

impl KeyOwner {
    pub(crate) fn is_same_command(&self, other: &Self) -> bool {
        matches!((self, other), (Self::Command { name, .. }, Self::Command { name: other, .. }) if name == other)
    }

    /// Whether a key of the one may be a second delivery of the other, as far as can be compared.
    #[must_use]
    pub fn may_be(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Request, Self::Request) => true,
            (Self::Command { name, content }, Self::Command { name: other, content: others }) => {
                let same = |(one, other): (&Content, &Content)| one.shape != other.shape || one == other;
                name == other && content.as_ref().zip(others.as_ref()).is_none_or(same)
            }
            (Self::Request, Self::Command { .. }) | (Self::Command { .. }, Self::Request) => false,
        }
    }
}

impl fmt::Display for KeyOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Command { name, .. } => write!(f, "the command `{name}`"),
            Self::Request => f.write_str("a request of several commands"),
        }
    }
}

/// What an append did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The log's identity.
    pub log: LogId,
    /// The partition that was written to.
    pub partition: Partition,
    /// The position of the last event appended; without events, the partition's head.
    pub position: Position,
    /// The id of the event at that position; `None` if the partition is empty.
    pub event: Option<Uuid>,
    /// The version that each stream written to has now, by first appearance; without events, that
    /// of the key's stream.
    pub versions: Vec<(StreamId, Version)>,
    /// What the append's key is used for, if it was recorded.
    pub owner: Option<KeyOwner>,
}

impl Appended {
    /// Its position with the event there.
    #[must_use]
    pub const fn point(&self) -> LogPoint {
        LogPoint { position: self.position, event: self.event }
    }

    /// The version that a stream has after the append, if it was written to.
    #[must_use]
    pub fn version_of(&self, stream: &StreamId) -> Option<Version> {
        self.versions.iter().find(|(written, _)| written == stream).map(|(_, version)| *version)
    }
}

/// What must hold for an append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Guard {
    /// Nothing.
    Any,
    /// The stream is as expected.
    Stream {
        /// The stream.
        stream: StreamId,
        /// How it must be.
        expected: Expected,
    },
    /// No event that matches the query comes after the position, in the partition of the append, and the event
    /// at the position, whether or not it matches, is the one that was there.
    Unchanged {
        /// Which events count.
        query: Query,
        /// The head of the snapshot that the decision was made on.
        after: LogPoint,
    },
    /// No event matches the query at all, in the partition of the append.
    Absent(Query),
    /// All of them hold. An empty list always holds.
    All(Vec<Guard>),
}

impl Guard {
    /// The stream must be as expected.
    #[must_use]
    pub fn stream(stream: StreamId, expected: Expected) -> Self {
        Self::Stream { stream, expected }
    }

    /// Whether any part of it asks for tags.
    #[must_use]
    pub fn asks_for_tags(&self) -> bool {
        match self {
            Self::Any | Self::Stream { .. } => false,
            Self::Unchanged { query, .. } | Self::Absent(query) => query.asks_for_tags(),
            Self::All(all) => all.iter().any(Self::asks_for_tags),
        }
    }
}

impl fmt::Display for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("anything"),
            Self::Stream { stream, expected } => write!(f, "{stream} {expected}"),
            Self::Unchanged { query, after } => write!(f, "no event with {query} after position {after}"),
            Self::Absent(query) => write!(f, "no event with {query}"),
            Self::All(all) => {
                for (at, guard) in all.iter().enumerate() {
                    write!(f, "{}{guard}", if at == 0 { "" } else { ", and " })?;
                }
                Ok(())
            }
        }
    }
}

/// The events of an append as they are going to be read: behind the head, each stream's versions counted
/// on from the one that `version_of` gives.
///
/// # Errors
/// Those of `version_of`.
pub fn recorded<E>(
    events: impl IntoIterator<Item = NewEvent>,
    partition: Partition,
    head: Position,
    mut version_of: impl FnMut(&StreamId) -> Result<Version, E>,
) -> Result<Vec<Arc<RecordedEvent>>, E> {
    let mut position = head;
    let mut versions: Vec<(StreamId, Version)> = Vec::with_capacity(1);
    let record = |new: NewEvent| {
        position = position.next();
        // The last one is looked at first: most appends write to one stream.
        let version = match versions.iter_mut().rev().find(|(stream, _)| *stream == new.stream) {
            Some((_, last)) => {
                *last = last.next();
                *last
            }
            None => {
                let first = version_of(&new.stream)?.next();
                versions.push((new.stream.clone(), first));
                first
            }
        };
        Ok(Arc::new(new.recorded(version, partition, position)))
    };
    events.into_iter().map(record).collect()
}

/// How a stream must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// It has no events.
    NoStream,
    /// Its last event has this version; [`Version::NONE`] means the same as
    /// [`NoStream`](Self::NoStream).
    Version(Version),
    /// Its last event has this version and this id. That is more than the version: after the log was rewound,
    /// another event may have the same version. A decision that rests on events expects the last of them.
    Event(Version, Uuid),
    /// It has at least one event.
    Exists,
    /// Nothing is expected.
    Any,
}

impl Expected {
    /// Whether a stream of this version is as expected, as far as versions tell: [`Event`](Self::Event)
    /// also asks for the id of its last event.
    #[must_use]
    pub fn holds(self, actual: Version) -> bool {
        match self {
            Self::NoStream => actual == Version::NONE,
            Self::Version(expected) | Self::Event(expected, _) => actual == expected,
            Self::Exists => actual != Version::NONE,
            Self::Any => true,
        }
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoStream => f.write_str("without events"),
            Self::Version(version) => write!(f, "at version {version}"),
            Self::Event(version, id) => write!(f, "at version {version} with the event {id}"),
            Self::Exists => f.write_str("with events"),
            Self::Any => f.write_str("as it is"),
        }
    }
}

/// Which events of the log: those that match at least one item. [`Query::all`] matches every one;
/// a query without items matches none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    items: Option<Vec<QueryItem>>,
}

/// One of these names, and all of these tags.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueryItem {
    /// The event has one of these stored names; any name if empty.
    pub names: Vec<Cow<'static, str>>,
    /// The event has all of these tags.
    pub tags: Tags,
}

impl Query {
    /// Every event.
    #[must_use]
    pub const fn all() -> Self {
        Self { items: None }
    }

    /// No event.
    #[must_use]
    pub const fn none() -> Self {
        Self { items: Some(Vec::new()) }
    }

    /// The events that match at least one of the items.
    #[must_use]
    pub fn any_of(items: impl IntoIterator<Item = QueryItem>) -> Self {
        Self { items: Some(items.into_iter().collect()) }
    }

    /// The events with one of these stored names.
    #[must_use]
    pub fn names<N: Into<Cow<'static, str>>>(names: impl IntoIterator<Item = N>) -> Self {
        let names: Vec<_> = names.into_iter().map(Into::into).collect();
        let none = names.is_empty();
        let item = QueryItem { names, tags: Tags::default() };
        Self::any_of((!none).then_some(item))
    }

    /// The events with all of these tags.
    #[must_use]
    pub fn tags(tags: impl IntoIterator<Item = Tag>) -> Self {
        Self::any_of([QueryItem { names: Vec::new(), tags: tags.into_iter().collect() }])
    }

    /// Its items; `None` if it matches every event.
    #[must_use]
    pub fn items(&self) -> Option<&[QueryItem]> {
        self.items.as_deref()
    }

    /// Whether an event with this stored name and these tags matches.
    #[must_use]
    pub fn matches(&self, name: &str, tags: &Tags) -> bool {
        self.items.as_ref().is_none_or(|items| items.iter().any(|item| item.matches(name, tags)))
    }

    /// Whether any item asks for tags.
    #[must_use]
    pub fn asks_for_tags(&self) -> bool {
        self.items.iter().flatten().any(|item| !item.tags.is_empty())
    }
}

impl QueryItem {
    /// Whether an event with this stored name and these tags matches.
    #[must_use]
    pub fn matches(&self, name: &str, tags: &Tags) -> bool {
        (self.names.is_empty() || self.names.iter().any(|wanted| wanted == name))
            && self.tags.iter().all(|wanted| tags.contains(wanted))
    }
}

impl fmt::Display for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(items) = &self.items else { return f.write_str("any name") };
        if items.is_empty() {
            return f.write_str("no name at all");
        }
        for (at, item) in items.iter().enumerate() {
            let tags = item.tags.iter().map(|tag| format!("`{tag}`")).collect::<Vec<_>>().join(" and ");
            let names = item.names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(" or ");
            f.write_str(if at == 0 { "" } else { ", or with " })?;
            match (names.as_str(), tags.as_str()) {
                ("", "") => f.write_str("any name")?,
                ("", tags) => write!(f, "tag {tags}")?,
                (names, "") => write!(f, "name {names}")?,
                (names, tags) => write!(f, "name {names} and tag {tags}")?,
            }
        }
        Ok(())
    }
}

/// A slice of one stream that is to be read.
#[derive(Clone, Debug)]
pub struct StreamRead {
    /// The stream.
    pub stream: StreamId,
    /// The version of the first event wanted. Descending reads start from the last event if this
    /// lies behind it.
    pub from: Version,
    /// Which way.
    pub direction: Direction,
    /// How many events at most, at least 1.
    pub limit: usize,
}

/// Which way a stream is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From older to newer events.
    Forward,
    /// From newer to older events.
    Backward,
}

/// An event of a stream, lent to whoever folds it.
#[derive(Clone, Copy, Debug)]
pub struct StreamEvent<'a> {
    /// Its id.
    pub id: Uuid,
    /// Its version in the stream.
    pub version: Version,
    /// Its position in the stream's partition.
    pub position: Position,
    /// Name, schema version and payload.
    pub stored: Stored<'a>,
}

/// Takes events of a stream, one after the other, until it breaks off.
pub type TakeEvent<'a> = dyn FnMut(StreamEvent<'_>) -> ControlFlow<()> + Send + 'a;

/// Events that are read from a stream at a time, where they are read to be folded.
const FOLD_SLICE: usize = 2_000;

async fn fold_slices<S: EventStore + ?Sized>(
    store: &S,
    stream: &StreamId,
    from: Version,
    take: &mut TakeEvent<'_>,
) -> Result<(), StoreError> {
    let slice = |from: Version| {
        let (stream, direction) = (stream.clone(), Direction::Forward);
        store.read_stream(StreamRead { stream, from, direction, limit: FOLD_SLICE })
    };
    let mut pace = Pace::new();
    let mut next = Some(from);
    while let Some(from) = next.take() {
        // Read to its end, so that nothing is open while it is handed over.
        let slice_read = slice(from).await?;
        let Some(last) = slice_read.events.last() else { break };
        next = (last.meta.version < slice_read.version).then(|| last.meta.version.next());
        for event in &slice_read.events {
            let (id, version, position) = (event.meta.id, event.meta.version, event.meta.position);
            if take(StreamEvent { id, version, position, stored: event.stored() }).is_break() {
                return Ok(());
            }
            if pace.is_due() {
                pace.pause().await;
            }
        }
    }
    Ok(())
}

/// Events of one stream, and where the stream ended when they were read.
#[derive(Clone, Debug)]
pub struct StreamSlice {
    /// The events.
    pub events: Vec<Arc<RecordedEvent>>,
    /// The stream's version in the same snapshot.
    pub version: Version,
}

/// A slice of one partition that is to be read, forward.
#[derive(Clone, Debug)]
pub struct LogRead {
    /// The partition.
    pub partition: Partition,
    /// Events behind this position.
    pub after: Position,
    /// Events up to and with this position; to the end if `None`.
    pub up_to: Option<Position>,
    /// Which events.
    pub query: Query,
    /// How many at most, at least 1.
    pub limit: usize,
}

/// Events of one partition, and where the partition ended when they were read.
#[derive(Clone, Debug)]
pub struct LogSlice {
    /// The events.
    pub events: Vec<Arc<RecordedEvent>>,
    /// Up to where the log was searched: no further event that matches lies at or below it, now or
    /// later. It is `up_to` or the head, whichever comes first, if all of it was searched; it never
    /// lies before `after`, and behind the head only if `after` does.
    pub read_to: Position,
    /// The id of the event at `read_to`, whether or not it matches; `None` at the start and past the head.
    pub read_to_event: Option<Uuid>,
    /// The id of the event at the position that was read from, [`LogRead::after`], in the same snapshot; `None`
    /// at the start and past the head. A reader that goes on compares it with the event that it has read there.
    pub after_event: Option<Uuid>,
    /// The log's identity and the partition's last position in the same snapshot.
    pub head: Head,
}

/// The state of a stream at a version, to begin a fold with. See the module's section "Snapshots".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The stream.
    pub stream: StreamId,
    /// The log that it was folded from.
    pub log: LogId,
    /// The version of the last event in it.
    pub version: Version,
    /// That event's position.
    pub position: Position,
    /// The id of that event. After the log was rewound, another event may have the same version and position.
    pub event: Uuid,
    /// What the state looks like and how it is folded, as one number. All of its 64 bits count.
    pub fingerprint: u64,
    /// The state.
    pub state: Bytes,
}

/// Why an append did not take place.
#[derive(Debug)]
#[non_exhaustive]
pub enum AppendError {
    /// Somebody else wrote first: the guard does not hold.
    Conflict(Conflict),
    /// The command's key was there already: what its first append gave.
    Duplicate(Appended),
    /// An inline projection has not caught up with the log.
    Behind {
        /// The consumer's name.
        consumer: &'static str,
        /// Where its checkpoint lies.
        position: Position,
        /// Where the partition ends.
        head: Position,
    },
    /// The record of an inline projection is not the one that the append expects.
    StaleRecord {
        /// The consumer's name.
        consumer: &'static str,
    },
    /// An inline projection cannot take an event of the append.
    Unfit {
        /// The consumer's name.
        consumer: &'static str,
        /// What is wrong with the event.
        error: FoldError,
    },
    /// The store failed.
    Store(StoreError),
}

/// The clause of a guard that did not hold, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The clause, never an [`Guard::All`].
    pub clause: Guard,
    /// What stands in the way.
    pub found: Found,
}

/// What stood in the way of a guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// The version that the stream has. If that is the expected one, another event is there.
    Version(Version),
    /// The position of the last event that matches the query; or the position in [`Guard::Unchanged`], if
    /// another event is there.
    Position(Position),
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "somebody else wrote first: expected {}, found ", self.clause)?;
        match (self.found, &self.clause) {
            (Found::Version(version), Guard::Stream { expected, .. }) if expected.holds(version) => {
                write!(f, "another event at version {version}: the log was rewound")
            }
            (Found::Version(version), _) => write!(f, "version {version}"),
            (Found::Position(position), Guard::Unchanged { after, .. }) if position <= after.position => {
                write!(f, "another event at position {position}: the log was rewound")
            }
            (Found::Position(position), _) => write!(f, "one at position {position}"),
        }
    }
}

impl std::error::Error for Conflict {}

impl fmt::Display for AppendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Conflict(conflict) => conflict.fmt(f),
            Self::Duplicate(first) => {
                write!(f, "the command's key was used already, at position {}", first.position)
            }
            Self::Behind { consumer, position, head } => write!(
                f,
                "the inline projection `{consumer}` is at position {position}, and the log at {head}"
            ),
            Self::StaleRecord { consumer } => write!(
                f,
                "the record of the inline projection `{consumer}` has changed since this program read it"
            ),
            Self::Unfit { consumer, error } => {
                write!(f, "the inline projection `{consumer}` cannot take this: {error}")
            }
            Self::Store(error) => error.fmt(f),
        }
    }
}

// Each variant prints as what it holds, so its source is that one's source.
impl std::error::Error for AppendError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Conflict(_) | Self::Duplicate(_) | Self::Behind { .. } | Self::StaleRecord { .. } => None,
            Self::Unfit { error, .. } => error.source(),
            Self::Store(error) => error.source(),
        }
    }
}

impl From<StoreError> for AppendError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<Conflict> for AppendError {
    fn from(conflict: Conflict) -> Self {
        Self::Conflict(conflict)
    }
}

/// The refusal of a guard or an append that a store cannot carry out.
#[must_use]
pub fn unsupported(what: impl fmt::Display) -> StoreError {
    StoreError::new(StoreErrorKind::Unsupported, format!("this store cannot {what}"))
}
