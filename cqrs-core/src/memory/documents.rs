//! The read models and the checkpoints behind them.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use foldhash::HashMap;

use super::log::Log;
use crate::consumer::{Handlers, Inlined, Routed};
use crate::error::StoreError;
use crate::event::RecordedEvent;
use crate::id::Partition;
use crate::read_store::{
    Batch, Checkpoint, Claim, Collection, CommitError, Entry, EntryKey, EntryWrite, RangeRead, Record,
    RecordContent,
};
use crate::store::{AppendError, Direction, Head, InlineConsumer, InlineGap, unsupported};

#[derive(Clone, Default)]
pub(super) struct Documents {
    consumers: HashMap<String, Claim>,
    /// The content of each consumer's record; its revision is in the claim.
    records: HashMap<String, RecordContent>,
    /// The entries of each consumer's collections.
    entries: HashMap<String, HashMap<Collection, Entries>>,
}

/// The entries of a collection, by key.
type Entries = BTreeMap<Bytes, Bytes>;

impl Documents {
    pub(super) fn claim(&mut self, consumer: String) -> Claim {
        let claim = self.consumer(consumer);
        claim.epoch += 1;
        claim.clone()
    }

    fn consumer(&mut self, name: String) -> &mut Claim {
        let unclaimed = Claim { epoch: 0, checkpoints: BTreeMap::new(), revision: 0 };
        self.consumers.entry(name).or_insert(unclaimed)
    }

    pub(super) fn record(&self, consumer: &str) -> Record {
        let content = self.records.get(consumer).cloned().unwrap_or_default();
        Record { revision: self.revision(consumer), content }
    }

    fn revision(&self, consumer: &str) -> u64 {
        self.consumers.get(consumer).map_or(0, |claim| claim.revision)
    }

    pub(super) fn set_record(&mut self, consumer: String, expected: u64, content: RecordContent) -> bool {
        let claim = self.consumer(consumer.clone());
        if claim.revision != expected {
            return false;
        }
        claim.revision += 1;
        claim.epoch += 1;
        self.records.insert(consumer, content);
        true
    }

    pub(super) fn reset(&mut self, consumer: &str) {
        let claim = self.consumer(consumer.to_owned());
        claim.epoch += 1;
        claim.revision += 1;
        claim.checkpoints.clear();
        self.records.remove(consumer);
        self.entries.remove(consumer);
    }

    pub(super) fn checkpoint(&self, consumer: &str, partition: Partition) -> Option<Checkpoint> {
        self.consumers.get(consumer)?.checkpoints.get(&partition).copied()
    }

    pub(super) fn commit(&mut self, batch: Batch) -> Result<(), CommitError> {
        refuse(batch.handlers.as_ref())?;
        let owner = self.consumers.get_mut(&batch.consumer);
        // An inline projection that nobody has claimed has no owner.
        let owner = owner.filter(|owner| owner.epoch > 0 && owner.epoch == batch.epoch);
        let owner = owner.ok_or(CommitError::Fenced)?;
        if owner.checkpoints != batch.from {
            return Err(CommitError::Fenced);
        }
        owner.checkpoints.insert(batch.partition, batch.to);
        self.write(batch.consumer, batch.writes);
        Ok(())
    }

    fn write(&mut self, consumer: String, writes: Vec<EntryWrite>) {
        let collections = self.entries.entry(consumer).or_default();
        for EntryWrite { entry, content } in writes {
            let entries = collections.entry(entry.collection).or_default();
            match content {
                Some(content) => entries.insert(entry.key, content),
                None => entries.remove(&entry.key),
            };
        }
    }

    fn collection(&self, consumer: &str, collection: &Collection) -> Option<&Entries> {
        self.entries.get(consumer)?.get(collection)
    }

    /// What an inline projection makes of an append that is about to be written behind the head of a log.
    pub(super) fn effect(
        &self,
        consumer: &InlineConsumer,
        append: (&[Arc<RecordedEvent>], InlineGap),
        log: (&Log, Head, Partition),
    ) -> Result<Vec<EntryWrite>, AppendError> {
        let (name, (events, gap), (log, head, partition)) = (consumer.name(), append, log);
        let stored = self.checkpoint(name, partition);
        let mut inlined = Inlined::new(consumer, self.revision(name), stored, head, gap)?;
        if let Some(missing) = inlined.missing(partition) {
            inlined = inlined.with_missed(log.read_log(&missing, head.log))?;
        }
        let Routed { reads, work } = inlined.route(events)?;
        let effect = inlined.fold(work, self.get(name, &reads))?;
        refuse(effect.handlers.as_ref())?;
        Ok(effect.writes)
    }

    /// Writes the effect of an inline projection, and moves its checkpoint.
    pub(super) fn write_inline(
        &mut self,
        consumer: &str,
        partition: Partition,
        to: Checkpoint,
        writes: Vec<EntryWrite>,
    ) {
        self.consumer(consumer.to_owned()).checkpoints.insert(partition, to);
        self.write(consumer.to_owned(), writes);
    }

    pub(super) fn get(&self, consumer: &str, entries: &[EntryKey]) -> Vec<Option<Bytes>> {
        let content =
            |entry: &EntryKey| self.collection(consumer, &entry.collection)?.get(&entry.key).cloned();
        entries.iter().map(content).collect()
    }

    pub(super) fn range(&self, range: &RangeRead) -> Vec<Entry> {
        let entry = |(key, content): (&Bytes, &Bytes)| Entry { key: key.clone(), content: content.clone() };
        self.entries_of(range).take(range.limit).map(entry).collect()
    }

    pub(super) fn count(&self, range: &RangeRead) -> u64 {
        self.entries_of(range).take(range.limit).count() as u64
    }

    fn entries_of(&self, range: &RangeRead) -> Box<dyn Iterator<Item = (&Bytes, &Bytes)> + '_> {
        let (lower, upper) = range.half_open();
        let Some(entries) = self.collection(&range.consumer, &range.collection) else {
            return Box::new(std::iter::empty());
        };
        // A map does not accept a range that ends before it begins.
        if upper.as_ref().is_some_and(|upper| *upper <= lower) {
            return Box::new(std::iter::empty());
        }
        let upper = upper.map_or(Bound::Unbounded, Bound::Excluded);
        let within = entries.range((Bound::Included(lower), upper));
        match range.direction {
            Direction::Forward => Box::new(within),
            Direction::Backward => Box::new(within.rev()),
        }
    }
}

/// Statements are for a database, which this is not.
fn refuse(handlers: Option<&Handlers>) -> Result<(), StoreError> {
    let refused = |handlers: &Handlers| {
        unsupported(format_args!("run the statements of a projection on {}", handlers.database()))
    };
    handlers.map_or(Ok(()), |handlers| Err(refused(handlers)))
}
