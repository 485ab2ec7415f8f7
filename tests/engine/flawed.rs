//! Deliberately wrong stores: the negative controls of the engine's tests.

use bytes::Bytes;
use cqrs::error::StoreError;
use cqrs::memory::MemoryStore;
use cqrs::read_store::{Batch, Checkpoint, Claim, CommitError, Entry, EntryKey, RangeRead, ReadStore};
use cqrs::store::{
    Append, AppendError, Appended, BoxFuture, Capabilities, CommandKey, EventStore, Guard, Head, Limits,
    LogRead, LogSlice, StreamRead, StreamSlice,
};
use cqrs::{Partition, Position, StreamId};

/// A log that checks no guard.
#[derive(Debug)]
pub struct Unguarded(pub MemoryStore);

impl EventStore for Unguarded {
    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }
    fn limits(&self) -> Limits {
        self.0.limits()
    }
    fn partition_of(&self, stream: &StreamId) -> Partition {
        self.0.partition_of(stream)
    }
    fn append(&self, mut append: Append) -> BoxFuture<'_, Result<Appended, AppendError>> {
        append.guard = Guard::Any;
        self.0.append(append)
    }
    fn find_key(&self, key: &CommandKey) -> BoxFuture<'_, Result<Option<Appended>, StoreError>> {
        self.0.find_key(key)
    }
    fn read_stream(&self, read: StreamRead) -> BoxFuture<'_, Result<StreamSlice, StoreError>> {
        self.0.read_stream(read)
    }
    fn read_log(&self, read: LogRead) -> BoxFuture<'_, Result<LogSlice, StoreError>> {
        self.0.read_log(read)
    }
    fn head(&self, partition: Partition) -> BoxFuture<'_, Result<Head, StoreError>> {
        self.0.head(partition)
    }
    fn wait(&self, partition: Partition, after: Position) -> BoxFuture<'_, Result<(), StoreError>> {
        self.0.wait(partition, after)
    }
}

/// How a read store can be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// Any owner may write.
    NoFence,
    /// Documents are written, then the checkpoint, in a commit of its own that comes too late.
    CheckpointApart,
}

/// The consumer that owns the documents of another one.
fn apart(consumer: &str) -> String {
    format!("{consumer} apart")
}

/// A read store with a flaw, above one without.
#[derive(Debug)]
pub struct Flawed(pub MemoryStore, pub Flaw);

impl ReadStore for Flawed {
    fn claim(&self, consumer: &str) -> BoxFuture<'_, Result<Claim, StoreError>> {
        self.0.claim(consumer)
    }
    fn checkpoint(
        &self,
        consumer: &str,
        partition: Partition,
    ) -> BoxFuture<'_, Result<Option<Checkpoint>, StoreError>> {
        self.0.checkpoint(consumer, partition)
    }
    fn commit(&self, batch: Batch) -> BoxFuture<'_, Result<(), CommitError>> {
        Box::pin(async move {
            // The documents have a consumer of their own, with a fence of its own.
            let apart = apart(&batch.consumer);
            let claim = self.0.claim(&apart).await?;
            self.0.commit(Batch::new(apart, &claim, batch.to).with_writes(batch.writes.clone())).await?;
            let mut bare = batch.with_writes(Vec::new());
            if self.1 == Flaw::NoFence {
                let claim = self.0.claim(&bare.consumer).await?;
                (bare.epoch, bare.from) = (claim.epoch, claim.checkpoints);
            }
            self.0.commit(bare).await
        })
    }
    fn get(
        &self,
        consumer: &str,
        entries: Vec<EntryKey>,
    ) -> BoxFuture<'_, Result<Vec<Option<Bytes>>, StoreError>> {
        self.0.get(&apart(consumer), entries)
    }
    fn range(&self, mut range: RangeRead) -> BoxFuture<'_, Result<Vec<Entry>, StoreError>> {
        range.consumer = apart(&range.consumer);
        self.0.range(range)
    }
}
