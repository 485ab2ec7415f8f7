//! Fault injection: a store in which chosen calls fail once each.
//!
//! ```
//! use cqrs_core::error::StoreErrorKind;
//! use cqrs_core::memory::MemoryStore;
//! use cqrs_testkit::faults::{Call, Fault, Faulty};
//!
//! let store = Faulty::new(MemoryStore::new());
//! // The next append succeeds, but its caller gets an error.
//! store.fail_next(Call::Append, Fault::After(StoreErrorKind::Unknown));
//! ```

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use cqrs_core::error::{StoreError, StoreErrorKind};
use cqrs_core::read_store::{
    Batch, Checkpoint, Claim, CommitError, Entry, EntryKey, RangeRead, ReadCapabilities, ReadStore, Record,
    RecordContent,
};
use cqrs_core::store::{
    Append, AppendError, Appended, BoxFuture, Capabilities, CommandKey, EventStore, Head, Limits, LogRead,
    LogSlice, Query, Reservation, Snapshot, StreamRead, StreamSlice,
};
use cqrs_core::{Partition, Position, StreamId};

/// A call that can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Call {
    /// [`EventStore::append`].
    Append,
    /// [`EventStore::reserve`]. The append through the reservation counts as [`Append`](Self::Append).
    Reserve,
    /// [`EventStore::find_key`].
    FindKey,
    /// [`EventStore::read_stream`].
    ReadStream,
    /// [`EventStore::read_log`].
    ReadLog,
    /// [`EventStore::head`].
    Head,
    /// [`EventStore::snapshot`].
    Snapshot,
    /// [`EventStore::save_snapshot`].
    SaveSnapshot,
    /// [`EventStore::forget_snapshot`].
    ForgetSnapshot,
    /// [`ReadStore::claim`].
    Claim,
    /// [`ReadStore::commit`].
    Commit,
    /// [`ReadStore::get`].
    Get,
}

/// The way in which a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// Fails without doing its work.
    Before(StoreErrorKind),
    /// Does its work, then returns an error, as after a crash between the commit and the response.
    After(StoreErrorKind),
    /// Never returns, and does not do its work.
    Hang,
    /// Does its work, then never returns.
    HangAfter,
    /// Yields to other tasks several times, then works.
    Slow,
    /// Aborts the process before the call does its work, as if it were killed.
    AbortBefore,
    /// Aborts the process after the call has finished, before its caller sees the result.
    AbortAfter,
}

/// A log and read store in which chosen calls fail. Clones share the same store and the same faults.
#[derive(Clone)]
pub struct Faulty<S> {
    inner: S,
    faults: Arc<Faults>,
}

#[derive(Default)]
struct Faults {
    /// Plans for the next calls. A call without a plan works normally.
    plans: Mutex<HashMap<Call, VecDeque<Plan>>>,
    counts: Mutex<HashMap<Call, usize>>,
    pending: AtomicUsize,
}

/// The plan for one call.
enum Plan {
    /// It works normally.
    Work,
    Fail(Fault),
    /// It works, and this future runs before the call returns.
    Meanwhile(BoxFuture<'static, ()>),
}

impl<S> Faulty<S> {
    /// Wraps a store. No call fails until you request a fault.
    pub fn new(inner: S) -> Self {
        Self { inner, faults: Arc::default() }
    }

    /// Makes the next such call fail, after the faults that were already requested for it.
    pub fn fail_next(&self, call: Call, fault: Fault) {
        self.faults.pending.fetch_add(1, Ordering::SeqCst);
        self.faults.queue(call, [Plan::Fail(fault)]);
    }

    /// Runs `what` after the next such call has done its work and before it returns. Another owner can take over in the
    /// middle of a batch, for example. It counts as a pending fault.
    pub fn meanwhile(&self, call: Call, what: impl Future<Output = ()> + Send + 'static) {
        self.faults.pending.fetch_add(1, Ordering::SeqCst);
        self.faults.queue(call, [Plan::Meanwhile(Box::pin(what))]);
    }

    /// Lets this many such calls work before the next requested fault.
    pub fn skip(&self, call: Call, calls: usize) {
        self.faults.queue(call, std::iter::repeat_with(|| Plan::Work).take(calls));
    }

    /// Returns the number of requested faults that have not happened yet. A fault that comes after the work of a call
    /// counts as happened once the work is done.
    #[must_use]
    pub fn pending_faults(&self) -> usize {
        self.faults.pending.load(Ordering::SeqCst)
    }

    /// Returns how often this call was made.
    #[must_use]
    pub fn count(&self, call: Call) -> usize {
        let counts = self.faults.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.get(&call).copied().unwrap_or_default()
    }

    /// Returns the wrapped store.
    #[must_use]
    pub fn inner(&self) -> &S {
        &self.inner
    }

    async fn through<T, E: From<StoreError>>(
        &self,
        call: Call,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        self.faults.through(call, work).await
    }
}

impl Faults {
    fn queue(&self, call: Call, plans: impl IntoIterator<Item = Plan>) {
        let mut queued = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        queued.entry(call).or_default().extend(plans);
    }

    fn fault_happened(&self) {
        self.pending.fetch_sub(1, Ordering::SeqCst);
    }

    async fn through<T, E: From<StoreError>>(
        &self,
        call: Call,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let error =
            |kind, when| E::from(StoreError::new(kind, format!("injected fault {when} this {call:?} call")));
        let fault = match self.take(call) {
            None | Some(Plan::Work) => return work.await,
            Some(Plan::Meanwhile(what)) => {
                let done = work.await;
                what.await;
                self.fault_happened();
                return done;
            }
            Some(Plan::Fail(fault)) => fault,
        };
        match fault {
            Fault::Before(kind) => {
                self.fault_happened();
                Err(error(kind, "before"))
            }
            Fault::After(kind) => {
                let done = work.await;
                self.fault_happened();
                done?;
                Err(error(kind, "after"))
            }
            Fault::Hang => {
                self.fault_happened();
                std::future::pending().await
            }
            Fault::HangAfter => {
                let done = work.await;
                self.fault_happened();
                done?;
                std::future::pending().await
            }
            Fault::Slow => {
                self.fault_happened();
                for _ in 0..20 {
                    tokio::task::yield_now().await;
                }
                work.await
            }
            Fault::AbortBefore => std::process::abort(),
            Fault::AbortAfter => {
                let _ = work.await;
                std::process::abort()
            }
        }
    }

    fn take(&self, call: Call) -> Option<Plan> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(call).or_default() += 1;
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        plans.get_mut(&call)?.pop_front()
    }
}

impl<S: fmt::Debug> fmt::Debug for Faulty<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Faulty").field(&self.inner).finish()
    }
}

impl<S: EventStore> EventStore for Faulty<S> {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn limits(&self) -> Limits {
        self.inner.limits()
    }

    fn partition_of(&self, stream: &StreamId) -> Partition {
        self.inner.partition_of(stream)
    }

    fn append(&self, append: Append) -> BoxFuture<'_, Result<Appended, AppendError>> {
        Box::pin(self.through(Call::Append, self.inner.append(append)))
    }

    fn reserve(&self, stream: &StreamId) -> BoxFuture<'_, Result<Option<Reservation>, StoreError>> {
        let reserving = self.through(Call::Reserve, self.inner.reserve(stream));
        Box::pin(async move {
            let faults = Arc::clone(&self.faults);
            let faulty = |reservation: Reservation| {
                Reservation::new(move |append| {
                    Box::pin(async move { faults.through(Call::Append, reservation.append(append)).await })
                })
            };
            Ok(reserving.await?.map(faulty))
        })
    }

    fn find_key(&self, key: &CommandKey) -> BoxFuture<'_, Result<Option<Appended>, StoreError>> {
        Box::pin(self.through(Call::FindKey, self.inner.find_key(key)))
    }

    fn read_stream(&self, read: StreamRead) -> BoxFuture<'_, Result<StreamSlice, StoreError>> {
        Box::pin(self.through(Call::ReadStream, self.inner.read_stream(read)))
    }

    fn read_log(&self, read: LogRead) -> BoxFuture<'_, Result<LogSlice, StoreError>> {
        // Such a read returns no events, only the head and two positions.
        let call = if read.query == Query::none() { Call::Head } else { Call::ReadLog };
        Box::pin(self.through(call, self.inner.read_log(read)))
    }

    fn head(&self, partition: Partition) -> BoxFuture<'_, Result<Head, StoreError>> {
        Box::pin(self.through(Call::Head, self.inner.head(partition)))
    }

    fn wait(&self, partition: Partition, after: Position) -> BoxFuture<'_, Result<(), StoreError>> {
        self.inner.wait(partition, after)
    }

    fn snapshot(
        &self,
        stream: &StreamId,
        fingerprint: u64,
    ) -> BoxFuture<'_, Result<Option<Snapshot>, StoreError>> {
        Box::pin(self.through(Call::Snapshot, self.inner.snapshot(stream, fingerprint)))
    }

    fn save_snapshot(&self, snapshot: Snapshot) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(self.through(Call::SaveSnapshot, self.inner.save_snapshot(snapshot)))
    }

    fn forget_snapshot(&self, stream: &StreamId) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(self.through(Call::ForgetSnapshot, self.inner.forget_snapshot(stream)))
    }
}

impl<S: ReadStore> ReadStore for Faulty<S> {
    fn claim(&self, consumer: &str) -> BoxFuture<'_, Result<Claim, StoreError>> {
        Box::pin(self.through(Call::Claim, self.inner.claim(consumer)))
    }

    fn checkpoint(
        &self,
        consumer: &str,
        partition: Partition,
    ) -> BoxFuture<'_, Result<Option<Checkpoint>, StoreError>> {
        self.inner.checkpoint(consumer, partition)
    }

    fn commit(&self, batch: Batch) -> BoxFuture<'_, Result<(), CommitError>> {
        Box::pin(self.through(Call::Commit, self.inner.commit(batch)))
    }

    fn read_capabilities(&self) -> ReadCapabilities {
        self.inner.read_capabilities()
    }

    fn record(&self, consumer: &str) -> BoxFuture<'_, Result<Record, StoreError>> {
        self.inner.record(consumer)
    }

    fn set_record(
        &self,
        consumer: &str,
        expected: u64,
        content: RecordContent,
    ) -> BoxFuture<'_, Result<bool, StoreError>> {
        self.inner.set_record(consumer, expected, content)
    }

    fn get(
        &self,
        consumer: &str,
        entries: Vec<EntryKey>,
    ) -> BoxFuture<'_, Result<Vec<Option<Bytes>>, StoreError>> {
        Box::pin(self.through(Call::Get, self.inner.get(consumer, entries)))
    }

    fn range(&self, range: RangeRead) -> BoxFuture<'_, Result<Vec<Entry>, StoreError>> {
        self.inner.range(range)
    }

    fn count(&self, range: RangeRead) -> BoxFuture<'_, Result<u64, StoreError>> {
        self.inner.count(range)
    }
}
