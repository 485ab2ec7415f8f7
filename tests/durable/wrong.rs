//! Deliberately wrong stores: each has to be caught by the test that guards against it.

use cqrs::error::StoreError;
use cqrs::read_store::{Batch, Checkpoint, CommitError, ReadStore};
use cqrs::store::{
    Append, AppendError, Appended, BoxFuture, Capabilities, CommandKey, EventStore, Head, Limits, LogRead,
    LogSlice, Snapshot, StreamRead, StreamSlice,
};
use cqrs::{Partition, Position, StreamId};

/// How a read store can be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// Documents are written in one commit, the checkpoint in the next.
    CheckpointApart,
    /// Whoever comes may write, whatever was written since.
    NoFence,
    /// What cannot be written is left out, and the checkpoint moves on.
    SkipOnError,
}

/// A store with a flaw on its read side, above one without.
#[derive(Debug)]
pub struct Flawed<S>(pub S, pub Flaw);

impl<S: EventStore> EventStore for Flawed<S> {
    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }
    fn limits(&self) -> Limits {
        self.0.limits()
    }
    fn partition_of(&self, stream: &StreamId) -> Partition {
        self.0.partition_of(stream)
    }
    fn append(&self, append: Append) -> BoxFuture<'_, Result<Appended, AppendError>> {
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
    fn snapshot(
        &self,
        stream: &StreamId,
        fingerprint: u64,
    ) -> BoxFuture<'_, Result<Option<Snapshot>, StoreError>> {
        self.0.snapshot(stream, fingerprint)
    }
    fn save_snapshot(&self, snapshot: Snapshot) -> BoxFuture<'_, Result<(), StoreError>> {
        self.0.save_snapshot(snapshot)
    }
    fn forget_snapshot(&self, stream: &StreamId) -> BoxFuture<'_, Result<(), StoreError>> {
        self.0.forget_snapshot(stream)
    }
}

impl<S: ReadStore> ReadStore for Flawed<S> {
    forward_reads!(0);
    fn commit(&self, batch: Batch) -> BoxFuture<'_, Result<(), CommitError>> {
        let mut bare = batch.clone().with_writes(Vec::new());
        Box::pin(async move {
            match self.1 {
                Flaw::CheckpointApart => {
                    let start = Checkpoint { position: Position::START, event: None, ..batch.to };
                    let (mut documents, partition) = (batch.clone(), batch.partition);
                    documents.to = batch.from.get(&partition).copied().unwrap_or(start);
                    bare.from.insert(partition, documents.to);
                    self.0.commit(documents).await?;
                    self.0.commit(bare).await
                }
                Flaw::NoFence => loop {
                    let mut anyhow = batch.clone();
                    let claim = self.0.claim(&batch.consumer).await?;
                    (anyhow.epoch, anyhow.from) = (claim.epoch, claim.checkpoints);
                    match self.0.commit(anyhow).await {
                        Err(CommitError::Fenced) => {}
                        done => return done,
                    }
                },
                Flaw::SkipOnError => match self.0.commit(batch).await {
                    Err(CommitError::Store(_)) => self.0.commit(bare).await,
                    done => done,
                },
            }
        })
    }
}
