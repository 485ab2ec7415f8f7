//! The negative control: a store that does more than it has to.

use std::sync::Arc;

use cqrs::engine::Stores;
use cqrs_core::error::StoreError;
use cqrs_core::id::{Partition, Position, StreamId, Version};
use cqrs_core::store::{
    Append, AppendError, Appended, BoxFuture, Capabilities, CommandKey, Direction, EventStore, Head, Limits,
    LogRead, LogSlice, Snapshot, StreamRead, StreamSlice,
};

/// Reads the last event of the stream before each append and behind it, for nothing.
#[derive(Debug)]
pub struct Wasteful(Arc<dyn EventStore>);

impl Wasteful {
    /// The same stores, with waste.
    pub fn of(stores: impl Into<Stores>) -> Stores {
        let stores = stores.into();
        Stores { log: Arc::new(Self(stores.log)), documents: stores.documents }
    }
}

impl Wasteful {
    async fn read_last(&self, stream: Option<&StreamId>) -> Result<(), StoreError> {
        let Some(stream) = stream.cloned() else { return Ok(()) };
        let (from, direction) = (Version::new(u64::MAX >> 1), Direction::Backward);
        let read = StreamRead { stream, from, limit: 1, direction };
        self.0.read_stream(read).await.map(drop)
    }
}

impl EventStore for Wasteful {
    fn append(&self, append: Append) -> BoxFuture<'_, Result<Appended, AppendError>> {
        Box::pin(async move {
            let stream = append.events.first().map(|event| event.stream.clone());
            self.read_last(stream.as_ref()).await?;
            let appended = self.0.append(append).await?;
            self.read_last(stream.as_ref()).await?;
            Ok(appended)
        })
    }

    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }

    fn limits(&self) -> Limits {
        self.0.limits()
    }

    fn partition_of(&self, stream: &StreamId) -> Partition {
        self.0.partition_of(stream)
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
