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
use crate::read_store::{Batch, Checkpoint, Claim, CommitError, Record, RecordContent};
use crate::store::{AppendError, Head, InlineConsumer, InlineGap, unsupported};

/// Changed documents by key; `None` removes one.
type Writes = Vec<(String, Option<Bytes>)>;

#[derive(Clone, Default)]
pub(super) struct Documents {
    consumers: HashMap<String, Claim>,
    /// The content of each consumer's record; its revision is in the claim.
    records: HashMap<String, RecordContent>,
    collections: HashMap<String, BTreeMap<String, Bytes>>,
}

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
        self.collections.remove(consumer);
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
        self.write(batch.collection, batch.writes);
        Ok(())
    }

    fn write(&mut self, collection: String, writes: Writes) {
        let documents = self.collections.entry(collection).or_default();
        for (key, content) in writes {
            match content {
                Some(content) => documents.insert(key, content),
                None => documents.remove(&key),
            };
        }
    }

    /// What an inline projection makes of an append that is about to be written behind the head of a log.
    pub(super) fn effect(
        &self,
        consumer: &InlineConsumer,
        append: (&[Arc<RecordedEvent>], InlineGap),
        log: (&Log, Head, Partition),
    ) -> Result<Writes, AppendError> {
        let (name, (events, gap), (log, head, partition)) = (consumer.name(), append, log);
        let stored = self.checkpoint(name, partition);
        let mut inlined = Inlined::new(consumer, self.revision(name), stored, head, gap)?;
        if let Some(missing) = inlined.missing(partition) {
            inlined = inlined.with_missed(log.read_log(&missing, head.log))?;
        }
        match inlined.route(events)? {
            Routed::Documents { keys, work } => {
                let folded = inlined.fold(work, self.get(name, &keys))?;
                Ok(keys.into_iter().zip(folded).collect())
            }
            Routed::Handlers(handlers) => {
                refuse(Some(&handlers)).map(|()| Vec::new()).map_err(AppendError::Store)
            }
        }
    }

    /// Writes the effect of an inline projection, and moves its checkpoint.
    pub(super) fn write_inline(
        &mut self,
        consumer: &str,
        partition: Partition,
        to: Checkpoint,
        writes: Writes,
    ) {
        self.consumer(consumer.to_owned()).checkpoints.insert(partition, to);
        self.write(consumer.to_owned(), writes);
    }

    pub(super) fn get(&self, collection: &str, keys: &[String]) -> Vec<Option<Bytes>> {
        let documents = self.collections.get(collection);
        keys.iter().map(|key| documents?.get(key).cloned()).collect()
    }

    pub(super) fn list(&self, collection: &str, after: Option<String>, limit: usize) -> Vec<(String, Bytes)> {
        let Some(documents) = self.collections.get(collection) else { return Vec::new() };
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let behind = documents.range((from, Bound::Unbounded)).take(limit);
        behind.map(|(key, content)| (key.clone(), content.clone())).collect()
    }
}

/// Statements are for a database, which this is not.
fn refuse(handlers: Option<&Handlers>) -> Result<(), StoreError> {
    let refused = |handlers: &Handlers| {
        unsupported(format_args!("run the statements of a projection on {}", handlers.database()))
    };
    handlers.map_or(Ok(()), |handlers| Err(refused(handlers)))
}
