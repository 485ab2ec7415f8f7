//! Read stores, spoilt.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use cqrs_core::error::StoreError;
use cqrs_core::read_store::{
    Batch, Checkpoint, Claim, Collection, CommitError, Entry, EntryKey, EntryWrite, MAX_ENTRY_KEY_BYTES,
    MAX_KEY_BYTES, RangeRead, ReadCapabilities, ReadStore, Record, RecordContent,
};
use cqrs_core::store::{BoxFuture, Direction, LogId};
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

impl Wrong {
    fn consumer(&self, consumer: &str) -> String {
        let lower = self.has(Flaw::ConsumersWithoutCase);
        if lower { consumer.to_lowercase() } else { consumer.to_owned() }
    }

    /// The consumer whose entries are read.
    fn owner(&self, consumer: &str) -> String {
        let trimmed = self.has(Flaw::ReadsOfTrimmedConsumers);
        if trimmed { consumer.trim().to_owned() } else { consumer.to_owned() }
    }

    fn entry(&self, mut entry: EntryKey) -> EntryKey {
        entry.collection = self.collection(entry.collection);
        let Ok(text) = std::str::from_utf8(&entry.key) else { return self.bytes_entry(entry) };
        let text = match self.flaw {
            _ if !entry.collection.is_documents() => return self.bytes_entry(entry),
            Flaw::TrimsDocumentKeys => text.trim().to_owned(),
            Flaw::LeavesNulOutOfKeys => text.replace('\0', ""),
            Flaw::CutsDocumentKeys => text.chars().take(MAX_KEY_BYTES).collect(),
            _ => return entry,
        };
        EntryKey { key: text.into(), ..entry }
    }

    /// The key of an entry of a collection other than documents.
    fn bytes_entry(&self, mut entry: EntryKey) -> EntryKey {
        match self.flaw {
            Flaw::EndsEntryKeysAtNul => {
                let end = entry.key.iter().position(|byte| *byte == 0);
                entry.key.truncate(end.unwrap_or(entry.key.len()));
            }
            Flaw::CutsEntryKeys => entry.key.truncate(MAX_ENTRY_KEY_BYTES),
            _ => {}
        }
        entry
    }

    fn collection(&self, collection: Collection) -> Collection {
        let letters = |name: &str| name.chars().filter(char::is_ascii_alphanumeric).collect::<String>();
        if self.has(Flaw::CollectionsWithoutPunctuation) && collection.is_valid() {
            return letters(collection.name()).into();
        }
        collection
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
        batch.epoch = self.epoch(batch.epoch);
        batch.writes.iter_mut().for_each(|write| write.entry = self.entry(write.entry.clone()));
        if !self.has(Flaw::CollectionsMoreThanItSays) {
            batch.check()?;
            self.read_capabilities().check(&batch)?;
        }
        self.spoil_batch(&mut batch).await?;
        let count = batch.writes.len();
        let others = batch.writes.iter().any(|write| !write.entry.collection.is_documents());
        match self.flaw {
            Flaw::RecordsFenceNobody | Flaw::ResetsFenceNobody => {
                self.unfence(&mut batch).await?;
                self.documents.commit(batch).await
            }
            Flaw::WritesWhatIsFenced | Flaw::WritesCollectionsOfFenced => {
                let of_documents = self.has(Flaw::WritesWhatIsFenced);
                let (mut writes, consumer) = (batch.writes.clone(), batch.consumer.clone());
                writes.retain(|write| write.entry.collection.is_documents() == of_documents);
                let outcome = self.documents.commit(batch).await;
                if matches!(outcome, Err(CommitError::Fenced)) {
                    self.write_anyhow(&consumer, writes);
                }
                outcome
            }
            Flaw::CommitsOneByOne if count == 3 && !others => self.one_write_first(batch).await,
            Flaw::CommitsCollectionsOneByOne if count == 3 && others => self.one_write_first(batch).await,
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
            (Flaw::NeverRemoves, _) => {
                batch
                    .writes
                    .retain(|write| write.content.is_some() || !write.entry.collection.is_documents());
            }
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
        for write in batch.writes.iter_mut().filter(|write| write.entry.collection.is_documents()) {
            let old = self.documents.get(&batch.consumer, vec![write.entry.clone()]).await?.pop().flatten();
            if let (Some(old), Some(new)) = (old, &mut write.content)
                && old.len() > new.len()
            {
                *new = [&**new, &old[new.len()..]].concat().into();
            }
        }
        Ok(())
    }

    /// Shows entries as if they had been written, until they are written again.
    pub(super) fn write_anyhow(&self, consumer: &str, writes: Vec<EntryWrite>) {
        let mut shown = lock(&self.state.shown);
        let shown = shown.entry(consumer.to_owned()).or_default();
        shown.extend(writes.into_iter().map(|write| (write.entry, write.content)));
    }

    fn shown(&self, consumer: &str) -> BTreeMap<EntryKey, Option<Bytes>> {
        lock(&self.state.shown).get(consumer).cloned().unwrap_or_default()
    }

    async fn one_write_first(&self, mut batch: Batch) -> Result<(), CommitError> {
        let rest = batch.writes.split_off(1);
        let mut second = batch.clone().with_writes(rest);
        start_from(&mut second, Some(batch.to));
        self.documents.commit(batch).await?;
        linger().await;
        self.documents.commit(second).await
    }

    async fn get_wrongly(
        &self,
        consumer: String,
        entries: Vec<EntryKey>,
    ) -> Result<Vec<Option<Bytes>>, StoreError> {
        let mut entries: Vec<EntryKey> = entries.into_iter().map(|entry| self.entry(entry)).collect();
        if self.has(Flaw::SortsWhatItGets) {
            entries.sort();
        }
        let mut found = self.documents.get(&consumer, entries.clone()).await?;
        let shown = self.shown(&consumer);
        for (entry, content) in entries.iter().zip(&mut found) {
            if let Some(shown) = shown.get(entry) {
                content.clone_from(shown);
            }
            let cached = self.has(Flaw::OtherHandlesHaveACache) && self.second;
            let empty = self.has(Flaw::EmptyMeansMissing) && content.as_deref() == Some(&[]);
            if cached || empty || self.hides_inline(&consumer) {
                *content = None;
            }
        }
        Ok(found)
    }

    async fn range_wrongly(&self, mut range: RangeRead) -> Result<Vec<Entry>, StoreError> {
        range.consumer = self.owner(&range.consumer);
        range.collection = self.collection(range.collection);
        let of_documents = range.collection.is_documents();
        let short = self.has(Flaw::ListsShortPages) && of_documents && (2..10).contains(&range.limit);
        range.limit -= usize::from(short);
        let forward = range.direction == Direction::Forward;
        if self.has(Flaw::RangesIncludeTheirEnd)
            && forward
            && let Bound::Excluded(end) = range.upper
        {
            range.upper = Bound::Included(end);
        }
        let from_the_start = self.has(Flaw::PagesBackwardFromTheStart) && !forward;
        if from_the_start {
            range.direction = Direction::Forward;
        }
        let mut found = self.documents.range(range.clone()).await?;
        if from_the_start {
            found.reverse();
        }
        for (entry, content) in self.shown(&range.consumer) {
            if entry.collection == range.collection {
                found.retain(|other| other.key != entry.key);
                found.extend(content.map(|content| Entry { key: entry.key, content }));
            }
        }
        if self.has(Flaw::ListsWithoutCase) && of_documents {
            found.sort_by_key(|entry| entry.key.to_ascii_lowercase());
        }
        if self.has(Flaw::OrdersBytesAsSigned) && !of_documents {
            let signed = |entry: &Entry| entry.key.iter().map(|byte| byte.cast_signed()).collect::<Vec<_>>();
            found.sort_by_key(signed);
            if !forward {
                found.reverse();
            }
        }
        Ok(found)
    }

    async fn count_wrongly(&self, mut range: RangeRead) -> Result<u64, StoreError> {
        range.collection = self.collection(range.collection);
        if self.has(Flaw::CountsPastTheLimit) {
            range.limit = usize::MAX;
        }
        self.documents.count(range).await
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

    fn read_capabilities(&self) -> ReadCapabilities {
        let mut capabilities = self.documents.read_capabilities();
        capabilities.records = self.has_records();
        capabilities.collections = self.has_collections();
        capabilities
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
        consumer: &str,
        entries: Vec<EntryKey>,
    ) -> BoxFuture<'_, Result<Vec<Option<Bytes>>, StoreError>> {
        Box::pin(self.get_wrongly(self.owner(consumer), entries))
    }

    fn range(&self, range: RangeRead) -> BoxFuture<'_, Result<Vec<Entry>, StoreError>> {
        Box::pin(self.range_wrongly(range))
    }

    fn count(&self, range: RangeRead) -> BoxFuture<'_, Result<u64, StoreError>> {
        Box::pin(self.count_wrongly(range))
    }
}
