//! The store in memory: the contract as a program, and the partner of tests.
//!
//! It checks what every other store has to check, in the order that the contract gives, and keeps
//! nothing when the process ends. Use it for tests and for programs that need no more.
//!
//! ```
//! use cqrs_core::memory::MemoryStore;
//! use cqrs_core::store::EventStore;
//!
//! let store = MemoryStore::new();
//! let same = store.clone();
//! assert_eq!(store.capabilities(), same.capabilities());
//! ```

mod documents;
mod log;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use foldhash::{HashMap, HashSet};
use tokio::sync::Notify;
use uuid::Uuid;

use self::documents::Documents;
use self::log::Log;
use crate::error::{StoreError, StoreErrorKind};
use crate::event::RecordedEvent;
use crate::hash::Fnv;
use crate::id::{Partition, Position, StreamId};
use crate::read_store::{
    Batch, Checkpoint, Claim, CommitError, Entry, EntryKey, RangeRead, ReadCapabilities, ReadStore, Record,
    RecordContent, check_name,
};
use crate::store::{
    Append, AppendError, Appended, BoxFuture, Capabilities, CommandKey, EventStore, Guard, Head, Inline,
    InlineGap, Limits, LogId, LogRead, LogSlice, Reservation, Snapshot, StreamRead, StreamSlice, unsupported,
};
use crate::timer;

/// A log and its read models in memory. A clone is the same handle once more; [`reopen`](Self::reopen) returns
/// another handle of the same store.
#[derive(Clone)]
pub struct MemoryStore {
    shared: Arc<Shared>,
    reported: Arc<Reported>,
}

/// The highest heads that a handle has reported, by partition: its log must not end before them.
struct Reported(Vec<AtomicU64>);

impl Reported {
    fn new(partitions: usize) -> Arc<Self> {
        Arc::new(Self((0..partitions).map(|_| AtomicU64::new(0)).collect()))
    }

    /// Reports a head, unless it falls short of one that was reported before.
    fn report(&self, partition: Partition, head: Position) -> Result<(), StoreError> {
        let Some(reported) = self.0.get(usize::from(partition.get())) else { return Ok(()) };
        let before = reported.fetch_max(head.get(), Ordering::AcqRel);
        if head.get() >= before {
            return Ok(());
        }
        let words = format!(
            "the log was rewound: partition {partition} ends at position {head}, and {before} was reported before"
        );
        Err(StoreError::new(StoreErrorKind::Corrupt, words))
    }
}

/// What a [`MemoryStore`] had at some time; see [`MemoryStore::backup`].
#[derive(Clone)]
pub struct MemoryBackup {
    id: LogId,
    logs: Vec<Log>,
    events: HashSet<Uuid>,
    documents: Documents,
    snapshots: HashMap<StreamId, Snapshot>,
}

impl fmt::Debug for MemoryBackup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let heads: Vec<_> = self.logs.iter().map(|log| log.head().get()).collect();
        write!(f, "MemoryBackup({}, at {heads:?})", self.id)
    }
}

struct Shared {
    id: LogId,
    limits: Limits,
    partitions: Vec<Cell>,
    /// The ids of all events. Of the whole log and not of one partition, so it has a lock of its
    /// own, which is only ever taken inside a partition's.
    events: Mutex<HashSet<Uuid>>,
    documents: RwLock<Documents>,
    snapshots: RwLock<HashMap<StreamId, Snapshot>>,
}

/// One partition, and who waits for its news.
#[derive(Default)]
struct Cell {
    log: RwLock<Log>,
    /// The head once more, so that a waiting task does not take the lock.
    head: AtomicU64,
    news: Notify,
    reserved: Mutex<Reserved>,
    /// Told when a reservation ends.
    free: Notify,
}

/// Who may append to a partition.
#[derive(Default)]
struct Reserved {
    /// The reservation that keeps others from appending, and since when.
    holder: Option<(u64, Instant)>,
    /// How many reservations there were.
    given: u64,
}

/// A reservation that is kept for longer is taken back, because everybody waits for it.
const RESERVED: Duration = Duration::from_millis(500);

impl Reserved {
    /// For how long others have to wait; `None` if they need not.
    fn left(&self) -> Option<Duration> {
        let (_, since) = self.holder?;
        RESERVED.checked_sub(since.elapsed()).filter(|left| !left.is_zero())
    }
}

/// A reservation of a partition.
struct Turn {
    shared: Arc<Shared>,
    partition: Partition,
    number: u64,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Ok(cell) = self.shared.cell(self.partition) else { return };
        let mut reserved = lock(&cell.reserved);
        if reserved.holder.is_some_and(|(holder, _)| holder == self.number) {
            reserved.holder = None;
        }
        drop(reserved);
        cell.free.notify_waiters();
    }
}

impl Cell {
    /// Gives the right to append, if nobody else has it.
    fn enter(&self, number: Option<u64>) -> Result<MutexGuard<'_, Reserved>, Duration> {
        let reserved = lock(&self.reserved);
        let ours = number.is_some() && reserved.holder.map(|(holder, _)| holder) == number;
        match reserved.left() {
            Some(left) if !ours => Err(left),
            _ => Ok(reserved),
        }
    }

    /// Waits until a reservation has ended, or may be taken back.
    async fn wait_free(&self, left: Duration) {
        let mut free = std::pin::pin!(self.free.notified());
        free.as_mut().enable();
        // It may have ended before it could tell.
        if lock(&self.reserved).left().is_some() {
            let _ = timer::timeout(left, free).await;
        }
    }
}

impl MemoryStore {
    /// An empty store with one partition and the standard limits.
    #[must_use]
    pub fn new() -> Self {
        Self::builder().build()
    }

    /// Sets up a store that differs from [`new`](Self::new).
    #[must_use]
    pub fn builder() -> MemoryStoreBuilder {
        MemoryStoreBuilder { partitions: 1, limits: Limits::standard() }
    }

    /// Returns another handle of the same store, which has not reported anything yet.
    #[must_use]
    pub fn reopen(&self) -> Self {
        let shared = Arc::clone(&self.shared);
        Self { reported: Reported::new(shared.partitions.len()), shared }
    }

    /// The partition's log, whose head this call reports.
    fn log(&self, partition: Partition) -> Result<RwLockReadGuard<'_, Log>, StoreError> {
        let log = read(&self.shared.cell(partition)?.log);
        self.reported.report(partition, log.head())?;
        Ok(log)
    }

    fn log_of(&self, stream: &StreamId) -> Result<RwLockReadGuard<'_, Log>, StoreError> {
        self.log(self.shared.partition_of(stream))
    }

    /// Copies all that the store has. With [`restore`](Self::restore), a test can rewind a store, as a failover to a
    /// standby that lagged does.
    #[must_use]
    pub fn backup(&self) -> MemoryBackup {
        let Shared { id, partitions, events, documents, snapshots, .. } = &*self.shared;
        let logs: Vec<_> = partitions.iter().map(|cell| read(&cell.log)).collect();
        MemoryBackup {
            id: *id,
            events: events.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            documents: read(documents).clone(),
            snapshots: read(snapshots).clone(),
            logs: logs.iter().map(|log| Log::clone(log)).collect(),
        }
    }

    /// Puts a backup of this store back, under all of its handles. Those that have reported a head past the end of
    /// the backup fail with [`StoreErrorKind::Corrupt`] until the log has grown past it again.
    ///
    /// # Errors
    /// [`StoreErrorKind::Invalid`] if the backup is of another store.
    pub fn restore(&self, backup: &MemoryBackup) -> Result<(), StoreError> {
        let Shared { id, partitions, events, documents, snapshots, .. } = &*self.shared;
        if (*id, partitions.len()) != (backup.id, backup.logs.len()) {
            return Err(StoreError::invalid("the backup is of another store"));
        }
        let mut logs: Vec<_> = partitions.iter().map(|cell| write(&cell.log)).collect();
        let mut there = write(documents);
        events.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&backup.events);
        there.clone_from(&backup.documents);
        write(snapshots).clone_from(&backup.snapshots);
        for ((cell, log), restored) in partitions.iter().zip(&mut logs).zip(&backup.logs) {
            (**log).clone_from(restored);
            cell.head.store(restored.head().get(), Ordering::Release);
        }
        Ok(())
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let heads = self.shared.partitions.iter().map(|cell| cell.head.load(Ordering::Relaxed));
        write!(f, "MemoryStore({}, at {:?})", self.shared.id, heads.collect::<Vec<_>>())
    }
}

/// Sets up a [`MemoryStore`].
#[derive(Clone, Debug)]
pub struct MemoryStoreBuilder {
    partitions: u16,
    limits: Limits,
}

impl MemoryStoreBuilder {
    /// How many partitions the log has; 0 counts as 1.
    #[must_use]
    pub fn partitions(mut self, partitions: u16) -> Self {
        self.partitions = partitions.max(1);
        self
    }

    /// How large things may be.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// An empty store.
    #[must_use]
    pub fn build(self) -> MemoryStore {
        let shared = Shared {
            id: LogId(Uuid::new_v4()),
            limits: self.limits,
            partitions: (0..self.partitions).map(|_| Cell::default()).collect(),
            events: Mutex::default(),
            documents: RwLock::default(),
            snapshots: RwLock::default(),
        };
        MemoryStore { reported: Reported::new(shared.partitions.len()), shared: Arc::new(shared) }
    }
}

// A poisoned lock is taken all the same: every change below is checked first and then made by code
// that does not panic, so nothing is ever left half-changed.
fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn cell(&self, partition: Partition) -> Result<&Cell, StoreError> {
        self.partitions.get(usize::from(partition.get())).ok_or_else(|| {
            let there = self.partitions.len();
            StoreError::invalid(format!("there is no partition {partition}; this log has {there}"))
        })
    }

    fn partition_of(&self, stream: &StreamId) -> Partition {
        match self.partitions.len() as u64 {
            1 => Partition::ONLY,
            // There are at most `u16::MAX` partitions, as the builder counts in `u16`.
            partitions => Partition::new((partition_hash(stream) % partitions) as u16),
        }
    }

    /// The one partition that the append is about, as the contract's "Where" has it.
    fn partition_for(&self, append: &Append) -> Result<Partition, StoreError> {
        if self.partitions.len() == 1 {
            return Ok(Partition::ONLY);
        }
        let mut streams: Vec<&StreamId> = append.events.iter().map(|event| &event.stream).collect();
        streams.extend(append.key.iter().map(|key| &key.stream));
        guarded(&append.guard, &mut streams);
        let Some(first) = streams.first() else { return Ok(Partition::ONLY) };
        let partition = self.partition_of(first);
        match streams.iter().find(|stream| self.partition_of(stream) != partition) {
            None => Ok(partition),
            Some(other) => Err(unsupported(format_args!(
                "append across partitions: {first} lies in partition {partition}, {other} in {}",
                self.partition_of(other)
            ))),
        }
    }

    /// Appends, with the turn of whoever has reserved that partition.
    async fn append(
        &self,
        append: Append,
        turn: Option<Turn>,
        reported: &Reported,
    ) -> Result<Appended, AppendError> {
        self.limits.check(&append)?;
        let partition = self.partition_for(&append)?;
        let cell = self.cell(partition)?;
        let turn = turn.filter(|turn| turn.partition == partition);
        let number = turn.as_ref().map(|turn| turn.number);
        loop {
            let left = match cell.enter(number) {
                // While it has the right, nobody reserves the partition.
                Ok(_right) => return self.write(append, partition, cell, reported),
                Err(left) => left,
            };
            cell.wait_free(left).await;
        }
    }

    fn write(
        &self,
        append: Append,
        partition: Partition,
        cell: &Cell,
        reported: &Reported,
    ) -> Result<Appended, AppendError> {
        let mut log = write(&cell.log);
        reported.report(partition, log.head())?;
        if let Some(first) = append.key.as_ref().and_then(|key| log.find_key(key)) {
            return Err(AppendError::Duplicate(first.clone()));
        }
        log.check(&append.guard)?;
        self.reserve_ids(&append)?;
        let recorded = log.record(append.events, partition);
        if let Err(refused) = self.write_inline(&append.inline, append.inline_gap, &recorded, &log, partition)
        {
            self.release_ids(&recorded);
            return Err(refused);
        }
        let appended = log.write(recorded, (append.key, append.owner), self.id, partition);
        cell.head.store(log.head().get(), Ordering::Release);
        reported.report(partition, log.head())?;
        drop(log);
        cell.news.notify_waiters();
        Ok(appended)
    }

    /// Takes the ids of all events, or of none.
    fn reserve_ids(&self, append: &Append) -> Result<(), StoreError> {
        let mut taken = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        for (at, event) in append.events.iter().enumerate() {
            if !taken.insert(event.id) {
                append.events.iter().take(at).for_each(|event| _ = taken.remove(&event.id));
                let message = format!("the event id {} is used twice", event.id);
                return Err(StoreError::invalid(message));
            }
        }
        Ok(())
    }

    fn release_ids(&self, events: &[Arc<RecordedEvent>]) {
        let mut taken = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        events.iter().for_each(|event| _ = taken.remove(&event.meta.id));
    }

    /// Writes what inline projections make of the events, or nothing. It is the last that can fail.
    fn write_inline(
        &self,
        inline: &Inline,
        gap: InlineGap,
        events: &[Arc<RecordedEvent>],
        log: &Log,
        partition: Partition,
    ) -> Result<(), AppendError> {
        let Some(last) = events.last().filter(|_| !inline.is_empty()) else { return Ok(()) };
        let to = Checkpoint { log: self.id, position: last.meta.position, event: Some(last.meta.id) };
        let mut documents = write(&self.documents);
        let mut effects = Vec::new();
        for consumer in inline {
            let head = Head { log: self.id, position: log.head(), event: log.id_at(log.head()) };
            effects.push(documents.effect(consumer, (events, gap), (log, head, partition))?);
        }
        for (consumer, writes) in inline.iter().zip(effects) {
            documents.write_inline(consumer.name(), partition, to, writes);
        }
        Ok(())
    }

    fn save_snapshot(&self, snapshot: Snapshot) -> Result<(), StoreError> {
        self.limits.check_snapshot(&snapshot)?;
        let mut snapshots = write(&self.snapshots);
        let newer = |there: &Snapshot| {
            (there.log, there.fingerprint) == (snapshot.log, snapshot.fingerprint)
                && there.version > snapshot.version
        };
        if !snapshots.get(&snapshot.stream).is_some_and(newer) {
            snapshots.insert(snapshot.stream.clone(), snapshot);
        }
        Ok(())
    }

    async fn wait(&self, partition: Partition, after: Position) -> Result<(), StoreError> {
        let cell = self.cell(partition)?;
        loop {
            // Registered before the head is looked at, so that no news falls between the two.
            let mut news = std::pin::pin!(cell.news.notified());
            news.as_mut().enable();
            if cell.head.load(Ordering::Acquire) > after.get() {
                return Ok(());
            }
            news.await;
        }
    }
}

/// Adds the streams that a guard speaks of.
fn guarded<'a>(guard: &'a Guard, streams: &mut Vec<&'a StreamId>) {
    match guard {
        Guard::Stream { stream, .. } => streams.push(stream),
        Guard::All(all) => all.iter().for_each(|guard| guarded(guard, streams)),
        Guard::Any | Guard::Unchanged { .. } | Guard::Absent(_) => {}
    }
}

fn partition_hash(stream: &StreamId) -> u64 {
    let mut hash = Fnv::new();
    hash.bytes(stream.as_str().as_bytes());
    hash.finish()
}

impl EventStore for MemoryStore {
    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::none();
        // As in `partition_of`, the number fits.
        capabilities.partitions = self.shared.partitions.len() as u16;
        capabilities.gapless_positions = true;
        capabilities.multi_stream_append = true;
        capabilities.tags = true;
        capabilities.inline = true;
        capabilities.event_guards = true;
        capabilities.snapshots = true;
        capabilities.reservations = true;
        capabilities
    }

    fn limits(&self) -> Limits {
        self.shared.limits
    }

    fn partition_of(&self, stream: &StreamId) -> Partition {
        self.shared.partition_of(stream)
    }

    fn append(&self, append: Append) -> BoxFuture<'_, Result<Appended, AppendError>> {
        Box::pin(self.shared.append(append, None, &self.reported))
    }

    fn reserve(&self, stream: &StreamId) -> BoxFuture<'_, Result<Option<Reservation>, StoreError>> {
        let partition = self.shared.partition_of(stream);
        Box::pin(async move {
            let cell = self.shared.cell(partition)?;
            let number = loop {
                let left = match cell.enter(None) {
                    Ok(mut reserved) => {
                        reserved.given += 1;
                        reserved.holder = Some((reserved.given, Instant::now()));
                        break reserved.given;
                    }
                    Err(left) => left,
                };
                cell.wait_free(left).await;
            };
            let Self { shared, reported } = self.clone();
            let turn = Turn { shared: Arc::clone(&shared), partition, number };
            self.reported.report(partition, read(&cell.log).head())?;
            Ok(Some(Reservation::new(move |append| {
                Box::pin(async move { shared.append(append, Some(turn), &reported).await })
            })))
        })
    }

    fn find_key(&self, key: &CommandKey) -> BoxFuture<'_, Result<Option<Appended>, StoreError>> {
        let key = key.clone();
        Box::pin(async move {
            let log = self.log_of(&key.stream)?;
            Ok(log.find_key(&key).cloned())
        })
    }

    fn read_stream(&self, wanted: StreamRead) -> BoxFuture<'_, Result<StreamSlice, StoreError>> {
        Box::pin(async move {
            let log = self.log_of(&wanted.stream)?;
            Ok(log.read_stream(&wanted))
        })
    }

    fn read_log(&self, wanted: LogRead) -> BoxFuture<'_, Result<LogSlice, StoreError>> {
        Box::pin(async move {
            let log = self.log(wanted.partition)?;
            Ok(log.read_log(&wanted, self.shared.id))
        })
    }

    fn head(&self, partition: Partition) -> BoxFuture<'_, Result<Head, StoreError>> {
        Box::pin(async move {
            let log = self.log(partition)?;
            Ok(Head { log: self.shared.id, position: log.head(), event: log.id_at(log.head()) })
        })
    }

    fn wait(&self, partition: Partition, after: Position) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(self.shared.wait(partition, after))
    }

    fn snapshot(
        &self,
        stream: &StreamId,
        fingerprint: u64,
    ) -> BoxFuture<'_, Result<Option<Snapshot>, StoreError>> {
        let stream = stream.clone();
        Box::pin(async move {
            let there = read(&self.shared.snapshots).get(&stream).cloned();
            Ok(there.filter(|snapshot| snapshot.fingerprint == fingerprint))
        })
    }

    fn save_snapshot(&self, snapshot: Snapshot) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move { self.shared.save_snapshot(snapshot) })
    }

    fn forget_snapshot(&self, stream: &StreamId) -> BoxFuture<'_, Result<(), StoreError>> {
        let stream = stream.clone();
        Box::pin(async move {
            write(&self.shared.snapshots).remove(&stream);
            Ok(())
        })
    }
}

impl ReadStore for MemoryStore {
    fn claim(&self, consumer: &str) -> BoxFuture<'_, Result<Claim, StoreError>> {
        let consumer = consumer.to_owned();
        Box::pin(async move {
            check_name("consumer", &consumer)?;
            Ok(write(&self.shared.documents).claim(consumer))
        })
    }

    fn checkpoint(
        &self,
        consumer: &str,
        partition: Partition,
    ) -> BoxFuture<'_, Result<Option<Checkpoint>, StoreError>> {
        let consumer = consumer.to_owned();
        Box::pin(async move { Ok(read(&self.shared.documents).checkpoint(&consumer, partition)) })
    }

    fn commit(&self, batch: Batch) -> BoxFuture<'_, Result<(), CommitError>> {
        Box::pin(async move {
            batch.check()?;
            write(&self.shared.documents).commit(batch)
        })
    }

    fn read_capabilities(&self) -> ReadCapabilities {
        let mut capabilities = ReadCapabilities::none();
        capabilities.records = true;
        capabilities.collections = true;
        capabilities
    }

    fn record(&self, consumer: &str) -> BoxFuture<'_, Result<Record, StoreError>> {
        let consumer = consumer.to_owned();
        Box::pin(async move { Ok(read(&self.shared.documents).record(&consumer)) })
    }

    fn set_record(
        &self,
        consumer: &str,
        expected: u64,
        content: RecordContent,
    ) -> BoxFuture<'_, Result<bool, StoreError>> {
        let consumer = consumer.to_owned();
        Box::pin(async move {
            check_name("consumer", &consumer)?;
            Ok(write(&self.shared.documents).set_record(consumer, expected, content))
        })
    }

    fn reset(&self, consumer: &str) -> BoxFuture<'_, Result<(), StoreError>> {
        let consumer = consumer.to_owned();
        Box::pin(async move {
            check_name("consumer", &consumer)?;
            write(&self.shared.documents).reset(&consumer);
            Ok(())
        })
    }

    fn get(
        &self,
        consumer: &str,
        entries: Vec<EntryKey>,
    ) -> BoxFuture<'_, Result<Vec<Option<Bytes>>, StoreError>> {
        let consumer = consumer.to_owned();
        Box::pin(async move { Ok(read(&self.shared.documents).get(&consumer, &entries)) })
    }

    fn range(&self, range: RangeRead) -> BoxFuture<'_, Result<Vec<Entry>, StoreError>> {
        Box::pin(async move { Ok(read(&self.shared.documents).range(&range)) })
    }

    fn count(&self, range: RangeRead) -> BoxFuture<'_, Result<u64, StoreError>> {
        Box::pin(async move { Ok(read(&self.shared.documents).count(&range)) })
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use super::*;
    use crate::event::{Metadata, NewEvent, Tag, Timestamp};
    use crate::store::{Conflict, Expected, Found, Query};

    /// The conformance suite does the rest; here only what it cannot see from outside.
    fn event(id: u128, stream: &str, tags: &[&str]) -> NewEvent {
        NewEvent {
            id: Uuid::from_u128(id),
            stream: stream.parse().unwrap_or_else(|wrong| unreachable!("{wrong}")),
            name: "Happened".into(),
            schema_version: 1,
            payload: Bytes::from_static(b"{}"),
            tags: tags.iter().map(|tag| Tag::from(*tag)).collect(),
            time: Timestamp::from_micros(1),
            metadata: Arc::new(Metadata::new()),
        }
    }

    /// Every future of this store but `wait` is ready at once.
    fn now<T>(future: BoxFuture<'_, T>) -> Option<T> {
        match { future }.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(value) => Some(value),
            Poll::Pending => None,
        }
    }

    #[test]
    fn tag_guards_look_behind_the_position() {
        let store = MemoryStore::new();
        let append = |id, guard| now(store.append(Append::new(vec![event(id, "A/1", &["x:1"])], guard)));
        let query = Query::tags([Tag::from("x:1")]);
        assert!(matches!(append(1, Guard::Absent(query.clone())), Some(Ok(_))));
        let unchanged = |after| Guard::Unchanged { query: query.clone(), after: Position::new(after).into() };
        assert!(matches!(append(2, unchanged(1)), Some(Ok(_))));
        let Some(Err(AppendError::Conflict(Conflict { found, clause }))) = append(3, unchanged(1)) else {
            unreachable!("the guard holds no more");
        };
        assert_eq!((found, clause), (Found::Position(Position::new(2)), unchanged(1)));
    }

    #[test]
    fn an_id_of_a_refused_batch_is_free_again() {
        let store = MemoryStore::new();
        let append = |ids: &[u128]| {
            let events = ids.iter().map(|id| event(*id, "A/1", &[])).collect();
            now(store.append(Append::new(events, Guard::Any)))
        };
        assert!(matches!(append(&[1, 2, 1]), Some(Err(AppendError::Store(_)))));
        assert!(matches!(append(&[2, 1]), Some(Ok(_))));
    }

    #[test]
    fn partitions_are_stable_over_releases() {
        let store = MemoryStore::builder().partitions(4).build();
        let partition = |stream: &str| store.partition_of(&event(1, stream, &[]).stream).get();
        assert_eq!(["A/1", "A/2", "A/3", "Account/42"].map(partition), [0, 1, 2, 3]);
    }

    #[test]
    fn a_guard_on_a_stream_elsewhere_is_refused() {
        let store = MemoryStore::builder().partitions(4).build();
        let here = event(1, "A/1", &[]);
        let there = (2..).map(|id: u8| event(1, &format!("A/{id}"), &[]).stream);
        let there = { there }.find(|other| store.partition_of(other) != store.partition_of(&here.stream));
        let guard = there.map_or(Guard::Any, |stream| Guard::stream(stream, Expected::NoStream));
        let refused = now(store.append(Append::new(vec![here], guard)));
        let Some(Err(AppendError::Store(error))) = refused else { unreachable!("not across partitions") };
        assert!(error.to_string().contains("across partitions"), "{error}");
    }
}
