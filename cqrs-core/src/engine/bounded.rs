//! A limit on each call of a store, so that one that does not answer keeps nobody waiting without end.
//!
//! Stores have limits of their own, which know more. This one is for what they miss, and for stores of others.

use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;

use super::build::Stores;
use crate::error::{StoreError, StoreErrorKind};
use crate::id::{Partition, Position, StreamId, Version};
use crate::read_store::{
    Batch, Checkpoint, Claim, CommitError, Entry, EntryKey, RangeRead, ReadCapabilities, ReadStore, Record,
    RecordContent,
};
use crate::store::{
    Append, AppendError, Appended, BoxFuture, Capabilities, CommandKey, EventStore, Head, Limits, LogRead,
    LogSlice, Reservation, Snapshot, StreamEvent, StreamRead, StreamSlice, TakeEvent,
};
use crate::timer;

/// The same stores, whose calls end in time.
pub(super) fn bounded(stores: Stores, limit: Duration) -> Stores {
    let Stores { log, documents } = stores;
    Stores {
        log: Arc::new(Bounded { store: log, limit }),
        documents: Arc::new(Bounded { store: documents, limit }),
    }
}

struct Bounded<S: ?Sized> {
    store: Arc<S>,
    limit: Duration,
}

impl<S: fmt::Debug + ?Sized> fmt::Debug for Bounded<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.store.fmt(f)
    }
}

/// What a store did not do in time.
fn late(kind: StoreErrorKind, limit: Duration, what: impl fmt::Display) -> StoreError {
    let advice = "check the store, or raise `Timeouts::store`";
    StoreError::new(kind, format!("the store did not answer within {limit:?} {what}; {advice}"))
}

/// What a store has not said about an append.
pub(super) fn late_append(limit: Duration, stream: &StreamId) -> StoreError {
    late(StoreErrorKind::Unknown, limit, format_args!("while appending to {stream}"))
}

async fn within<T, E: From<StoreError>>(
    limit: Duration,
    call: BoxFuture<'_, Result<T, E>>,
    late: impl FnOnce() -> StoreError,
) -> Result<T, E> {
    match timer::timeout(limit, call).await {
        Some(end) => end,
        None => Err(late().into()),
    }
}

impl<S: ?Sized> Bounded<S> {
    /// A call that changes nothing, or nothing that matters.
    fn call<'a, T: 'a, E: From<StoreError> + 'a>(
        &self,
        call: BoxFuture<'a, Result<T, E>>,
        what: impl fmt::Display + Send + 'a,
    ) -> BoxFuture<'a, Result<T, E>> {
        let limit = self.limit;
        Box::pin(within(limit, call, move || late(StoreErrorKind::Unavailable, limit, what)))
    }
}

impl EventStore for Bounded<dyn EventStore> {
    fn capabilities(&self) -> Capabilities {
        self.store.capabilities()
    }

    fn limits(&self) -> Limits {
        self.store.limits()
    }

    fn partition_of(&self, stream: &StreamId) -> Partition {
        self.store.partition_of(stream)
    }

    /// The engine limits its appends itself, because most of them are to be polled once before they are waited for.
    fn append(&self, append: Append) -> BoxFuture<'_, Result<Appended, AppendError>> {
        self.store.append(append)
    }

    fn reserve(&self, stream: &StreamId) -> BoxFuture<'_, Result<Option<Reservation>, StoreError>> {
        let what = format!("while reserving the next append to {stream}");
        self.call(self.store.reserve(stream), what)
    }

    fn find_key(&self, key: &CommandKey) -> BoxFuture<'_, Result<Option<Appended>, StoreError>> {
        let what = format!("while looking up an idempotency key of {}", key.stream);
        self.call(self.store.find_key(key), what)
    }

    fn read_stream(&self, read: StreamRead) -> BoxFuture<'_, Result<StreamSlice, StoreError>> {
        let what = format!("while reading {}", read.stream);
        self.call(self.store.read_stream(read), what)
    }

    fn fold_stream<'a>(
        &'a self,
        stream: &'a StreamId,
        from: Version,
        take: &'a mut TakeEvent<'a>,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let taken = AtomicU64::new(0);
            let mut counting = |event: StreamEvent<'_>| -> ControlFlow<()> {
                // Nobody else counts, so this need not be one step.
                taken.store(taken.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
                take(event)
            };
            let mut fold = self.store.fold_stream(stream, from, &mut counting);
            let mut before = 0;
            loop {
                if let Some(end) = timer::timeout(self.limit, fold.as_mut()).await {
                    return end;
                }
                // A long stream may take longer as a whole.
                let now = taken.load(Ordering::Relaxed);
                if now == before {
                    let what = format_args!("while reading {stream}");
                    return Err(late(StoreErrorKind::Unavailable, self.limit, what));
                }
                before = now;
            }
        })
    }

    fn read_log(&self, read: LogRead) -> BoxFuture<'_, Result<LogSlice, StoreError>> {
        let what = format!("while reading partition {} after position {}", read.partition, read.after);
        self.call(self.store.read_log(read), what)
    }

    fn head(&self, partition: Partition) -> BoxFuture<'_, Result<Head, StoreError>> {
        self.call(self.store.head(partition), "while reading the head of the log")
    }

    /// It ends when the log grows, which may be never.
    fn wait(&self, partition: Partition, after: Position) -> BoxFuture<'_, Result<(), StoreError>> {
        self.store.wait(partition, after)
    }

    fn snapshot(
        &self,
        stream: &StreamId,
        fingerprint: u64,
    ) -> BoxFuture<'_, Result<Option<Snapshot>, StoreError>> {
        let what = format!("while reading the snapshot of {stream}");
        self.call(self.store.snapshot(stream, fingerprint), what)
    }

    fn save_snapshot(&self, snapshot: Snapshot) -> BoxFuture<'_, Result<(), StoreError>> {
        let what = format!("while saving a snapshot of {}", snapshot.stream);
        self.call(self.store.save_snapshot(snapshot), what)
    }

    fn forget_snapshot(&self, stream: &StreamId) -> BoxFuture<'_, Result<(), StoreError>> {
        let what = format!("while removing the snapshot of {stream}");
        self.call(self.store.forget_snapshot(stream), what)
    }

    fn close(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        self.call(self.store.close(), "while closing the log".to_owned())
    }
}

impl ReadStore for Bounded<dyn ReadStore> {
    fn claim(&self, consumer: &str) -> BoxFuture<'_, Result<Claim, StoreError>> {
        let what = format!("while claiming the consumer `{consumer}`");
        self.call(self.store.claim(consumer), what)
    }

    fn checkpoint(
        &self,
        consumer: &str,
        partition: Partition,
    ) -> BoxFuture<'_, Result<Option<Checkpoint>, StoreError>> {
        let what = format!("while reading the checkpoint of `{consumer}`");
        self.call(self.store.checkpoint(consumer, partition), what)
    }

    fn commit(&self, batch: Batch) -> BoxFuture<'_, Result<(), CommitError>> {
        let (limit, what) = (self.limit, format!("while committing a batch of `{}`", batch.consumer));
        Box::pin(within(limit, self.store.commit(batch), move || late(StoreErrorKind::Unknown, limit, what)))
    }

    fn read_capabilities(&self) -> ReadCapabilities {
        self.store.read_capabilities()
    }

    fn close(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        self.call(self.store.close(), "while closing the read models".to_owned())
    }

    fn record(&self, consumer: &str) -> BoxFuture<'_, Result<Record, StoreError>> {
        let what = format!("while reading the record of `{consumer}`");
        self.call(self.store.record(consumer), what)
    }

    fn set_record(
        &self,
        consumer: &str,
        expected: u64,
        content: RecordContent,
    ) -> BoxFuture<'_, Result<bool, StoreError>> {
        let (limit, what) = (self.limit, format!("while recording what `{consumer}` reads"));
        let setting = self.store.set_record(consumer, expected, content);
        Box::pin(within(limit, setting, move || late(StoreErrorKind::Unknown, limit, what)))
    }

    fn reset(&self, consumer: &str) -> BoxFuture<'_, Result<(), StoreError>> {
        let (limit, what) = (self.limit, format!("while resetting the consumer `{consumer}`"));
        Box::pin(within(limit, self.store.reset(consumer), move || {
            late(StoreErrorKind::Unknown, limit, what)
        }))
    }

    fn get(
        &self,
        consumer: &str,
        entries: Vec<EntryKey>,
    ) -> BoxFuture<'_, Result<Vec<Option<Bytes>>, StoreError>> {
        let what = format!("while reading documents of `{consumer}`");
        self.call(self.store.get(consumer, entries), what)
    }

    fn range(&self, range: RangeRead) -> BoxFuture<'_, Result<Vec<Entry>, StoreError>> {
        let what = format!("while reading the {} of `{}`", range.collection, range.consumer);
        self.call(self.store.range(range), what)
    }

    fn count(&self, range: RangeRead) -> BoxFuture<'_, Result<u64, StoreError>> {
        let what = format!("while counting the {} of `{}`", range.collection, range.consumer);
        self.call(self.store.count(range), what)
    }
}
