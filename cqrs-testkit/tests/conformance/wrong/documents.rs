//! Read stores, spoilt.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use cqrs_core::error::StoreError;
use cqrs_core::read_store::{
    Batch, Checkpoint, Claim, CommitError, MAX_KEY_BYTES, ReadStore, Record, RecordContent,
};
use cqrs_core::store::{BoxFuture, LogId};
use cqrs_core::{Partition, Position};
use uuid::Uuid;

use super::{Flaw, Wrong, linger, lock};

/// Where a batch starts on its own partition.
pub(super) fn start(batch: &Batch) -> Option<Checkpoint> {
    batch.from.get(&batch.partition).copied()
}

pub(super) fn start_from(batch: &mut Batch, from: Option<Checkpoint>) {
    batch.from.remove(&batch.partition);
    batch.from.extend(from.map(|from| (batch.partition, from)));
}

type Write = (String, Option<Bytes>);

impl Wrong {
    fn consumer(&self, consumer: &str) -> String {
        let lower = self.has(Flaw::ConsumersWithoutCase);
        if lower { consumer.to_lowercase() } else { consumer.to_owned() }
    }

    fn collection(&self, collection: &str) -> String {
        let lower = self.has(Flaw::CollectionsWithoutCase);
        if lower { collection.to_lowercase() } else { collection.to_owned() }
    }

    fn document(&self, key: &str) -> String {
        match self.flaw {
            Flaw::TrimsDocumentKeys => key.trim().to_owned(),
            Flaw::LeavesNulOutOfKeys => key.replace('\0', ""),
            Flaw::CutsDocumentKeys => key.chars().take(MAX_KEY_BYTES).collect(),
            _ => key.to_owned(),
        }
    }

    fn epoch(&self, epoch: u64) -> u64 {
        if self.has(Flaw::EpochsFall) { u64::MAX - epoch } else { epoch }
    }

    async fn claim_wrongly(&self, consumer: String) -> Result<Claim, StoreError> {
        let mut claim = self.documents.claim(&consumer).await?;
        lock(&self.state.epochs).insert(consumer.clone(), claim.epoch);
        match self.flaw {
            Flaw::StartsWithACheckpoint if claim.epoch == 1 => {
                let (log, position) = (LogId(Uuid::from_u128(0)), Position::START);
                claim.checkpoints.insert(Partition::ONLY, Checkpoint { log, position, event: None });
            }
            Flaw::RacersShareAnEpoch => {
                linger().await;
                claim.epoch = lock(&self.state.epochs).get(&consumer).copied().unwrap_or_default();
            }
            Flaw::ClaimsWithoutRevision => claim.revision = 0,
            Flaw::RecordsFenceNobody | Flaw::ResetsFenceNobody => {
                _ = lock(&self.state.unfenced).remove(&consumer);
            }
            Flaw::ClaimsOnePartition => {
                claim.checkpoints.retain(|partition, _| *partition == Partition::ONLY);
            }
            _ => {}
        }
        Ok(Claim { epoch: self.epoch(claim.epoch), ..claim })
    }

    async fn checkpoint_wrongly(
        &self,
        consumer: String,
        partition: Partition,
    ) -> Result<Option<Checkpoint>, StoreError> {
        let mut checkpoint = self.documents.checkpoint(&consumer, partition).await?;
        match (self.flaw, &mut checkpoint) {
            (Flaw::SmallCheckpoints, Some(checkpoint)) => {
                let small = checkpoint.position.get().min(u64::from(u32::MAX));
                checkpoint.position = Position::new(small);
            }
            (Flaw::OneCheckpointForAll, None) => {
                checkpoint = self.documents.checkpoint(&consumer, Partition::ONLY).await?;
            }
            _ => {}
        }
        Ok(self.inline_checkpoint(&consumer, checkpoint))
    }

    async fn commit_wrongly(&self, mut batch: Batch) -> Result<(), CommitError> {
        batch.consumer = self.consumer(&batch.consumer);
        batch.collection = self.collection(&batch.collection);
        batch.epoch = self.epoch(batch.epoch);
        batch.writes.iter_mut().for_each(|(key, _)| *key = self.document(key));
        self.spoil_batch(&mut batch).await?;
        let count = batch.writes.len();
        match self.flaw {
            Flaw::RecordsFenceNobody | Flaw::ResetsFenceNobody => {
                self.unfence(&mut batch).await?;
                self.documents.commit(batch).await
            }
            Flaw::WritesWhatIsFenced => {
                let (writes, collection) = (batch.writes.clone(), batch.collection.clone());
                let outcome = self.documents.commit(batch).await;
                if outcome.is_err() {
                    self.write_anyhow(collection, writes).await?;
                }
                outcome
            }
            Flaw::CommitsOneByOne if count == 3 => self.one_write_first(batch).await,
            Flaw::DroppedCommitsTear if count == 2 => self.one_write_first(batch).await,
            Flaw::ChecksTheFenceBeforehand => {
                let stored = self.documents.checkpoint(&batch.consumer, batch.partition).await?;
                if stored == start(&batch) {
                    linger().await;
                    let stored = self.documents.checkpoint(&batch.consumer, batch.partition).await?;
                    start_from(&mut batch, stored);
                }
                self.documents.commit(batch).await
            }
            Flaw::DroppedCommitsBlock => {
                self.unblocked().await;
                let blocks = batch.writes.is_empty();
                self.state.busy.store(blocks, Ordering::SeqCst);
                if blocks {
                    tokio::task::yield_now().await;
                }
                let outcome = self.documents.commit(batch).await;
                self.state.busy.store(false, Ordering::SeqCst);
                outcome
            }
            _ => self.documents.commit(batch).await,
        }
    }

    async fn spoil_batch(&self, batch: &mut Batch) -> Result<(), StoreError> {
        let epoch = lock(&self.state.epochs).get(&batch.consumer).copied();
        let stored = self.documents.checkpoint(&batch.consumer, batch.partition).await?;
        match (self.flaw, epoch) {
            (Flaw::BelievesHigherEpochs, Some(epoch)) if batch.epoch > epoch => batch.epoch = epoch,
            (Flaw::EpochOfTheFirstPartition, Some(epoch)) if batch.partition != Partition::ONLY => {
                batch.epoch = epoch;
            }
            (Flaw::ClaimsByCommit, None) => batch.epoch = self.documents.claim(&batch.consumer).await?.epoch,
            (Flaw::FencesByPositionAlone, _) => {
                if let (Some(from), Some(there)) = (start(batch), stored)
                    && from.position == there.position
                {
                    start_from(batch, stored);
                }
            }
            (Flaw::CommitsAfterItsOwnByPosition, _) => self.believed_batch(batch, stored),
            (Flaw::FencesByOnePartition, _) => self.forget_others(batch).await?,
            (Flaw::NeverRemoves, _) => batch.writes.retain(|(_, content)| content.is_some()),
            (Flaw::OverwritesInPlace, _) => self.overwrite(batch).await?,
            (Flaw::IgnoresHandlers, _) => batch.handlers = None,
            _ => self.spoil_inline_batch(batch, stored).await?,
        }
        Ok(())
    }

    /// Has a batch start from what is stored on the partitions that it is not of.
    pub(super) async fn forget_others(&self, batch: &mut Batch) -> Result<(), StoreError> {
        let of = batch.partition;
        batch.from.retain(|partition, _| *partition == of);
        for partition in (0..=u16::MAX).map(Partition::new).filter(|partition| *partition != of) {
            let stored = self.documents.checkpoint(&batch.consumer, partition).await?;
            batch.from.extend(stored.map(|stored| (partition, stored)));
        }
        Ok(())
    }

    /// What is shorter than the old content leaves the end of it standing.
    async fn overwrite(&self, batch: &mut Batch) -> Result<(), StoreError> {
        for (key, content) in &mut batch.writes {
            let old = self.documents.get(&batch.collection, vec![key.clone()]).await?.pop().flatten();
            if let (Some(old), Some(new)) = (old, content)
                && old.len() > new.len()
            {
                *new = [&**new, &old[new.len()..]].concat().into();
            }
        }
        Ok(())
    }

    pub(super) async fn write_anyhow(
        &self,
        collection: String,
        writes: Vec<Write>,
    ) -> Result<(), CommitError> {
        let consumer = Uuid::new_v4().to_string();
        let epoch = self.documents.claim(&consumer).await?.epoch;
        let to = Checkpoint { log: LogId(Uuid::from_u128(0)), position: Position::START, event: None };
        let partition = Partition::ONLY;
        let from = BTreeMap::new();
        let batch = Batch { consumer, partition, epoch, from, to, collection, writes, handlers: None };
        self.documents.commit(batch).await
    }

    async fn one_write_first(&self, mut batch: Batch) -> Result<(), CommitError> {
        let rest = batch.writes.split_off(1);
        let mut second = Batch { writes: rest, ..batch.clone() };
        start_from(&mut second, Some(batch.to));
        self.documents.commit(batch).await?;
        linger().await;
        self.documents.commit(second).await
    }

    async fn get_wrongly(
        &self,
        collection: String,
        mut keys: Vec<String>,
    ) -> Result<Vec<Option<Bytes>>, StoreError> {
        keys.iter_mut().for_each(|key| *key = self.document(key));
        if self.has(Flaw::SortsWhatItGets) {
            keys.sort();
        }
        let mut found = self.documents.get(&collection, keys).await?;
        for document in &mut found {
            let cached = self.has(Flaw::OtherHandlesHaveACache) && self.second;
            let empty = self.has(Flaw::EmptyMeansMissing) && document.as_deref() == Some(&[]);
            if cached || empty || self.hides_inline(&collection) {
                *document = None;
            }
        }
        Ok(found)
    }

    async fn list_wrongly(
        &self,
        collection: String,
        after: Option<String>,
        limit: usize,
    ) -> Result<Vec<(String, Bytes)>, StoreError> {
        let short = self.has(Flaw::ListsShortPages) && (2..10).contains(&limit);
        let limit = if short { limit - 1 } else { limit };
        let mut listed = self.documents.list(&collection, after, limit).await?;
        if self.has(Flaw::ListsWithoutCase) {
            listed.sort_by_key(|(key, _)| key.to_lowercase());
        }
        Ok(listed)
    }
}

impl ReadStore for Wrong {
    fn claim(&self, consumer: &str) -> BoxFuture<'_, Result<Claim, StoreError>> {
        Box::pin(self.claim_wrongly(self.consumer(consumer)))
    }

    fn checkpoint(
        &self,
        consumer: &str,
        partition: Partition,
    ) -> BoxFuture<'_, Result<Option<Checkpoint>, StoreError>> {
        Box::pin(self.checkpoint_wrongly(self.consumer(consumer), partition))
    }

    fn commit(&self, batch: Batch) -> BoxFuture<'_, Result<(), CommitError>> {
        Box::pin(self.commit_wrongly(batch))
    }

    fn keeps_records(&self) -> bool {
        self.has_records()
    }

    fn record(&self, consumer: &str) -> BoxFuture<'_, Result<Record, StoreError>> {
        Box::pin(self.record_wrongly(consumer.to_owned()))
    }

    fn set_record(
        &self,
        consumer: &str,
        expected: u64,
        content: RecordContent,
    ) -> BoxFuture<'_, Result<bool, StoreError>> {
        Box::pin(self.set_record_wrongly(consumer.to_owned(), expected, content))
    }

    fn reset(&self, consumer: &str) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(self.reset_wrongly(consumer.to_owned()))
    }

    fn get(
        &self,
        collection: &str,
        keys: Vec<String>,
    ) -> BoxFuture<'_, Result<Vec<Option<Bytes>>, StoreError>> {
        Box::pin(self.get_wrongly(self.collection(collection), keys))
    }

    fn list(
        &self,
        collection: &str,
        after: Option<String>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<(String, Bytes)>, StoreError>> {
        Box::pin(self.list_wrongly(self.collection(collection), after, limit))
    }
}
