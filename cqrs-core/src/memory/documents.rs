//! The read models and the checkpoints behind them.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

use bytes::Bytes;

use crate::id::Partition;
use crate::read_store::{Batch, Checkpoint, Claim, CommitError};

#[derive(Default)]
pub(super) struct Documents {
    consumers: HashMap<String, Claim>,
    collections: HashMap<String, BTreeMap<String, Bytes>>,
}

impl Documents {
    pub(super) fn claim(&mut self, consumer: String) -> Claim {
        let unclaimed = Claim { epoch: 0, checkpoints: BTreeMap::new() };
        let claim = self.consumers.entry(consumer).or_insert(unclaimed);
        claim.epoch += 1;
        claim.clone()
    }

    pub(super) fn checkpoint(&self, consumer: &str, partition: Partition) -> Option<Checkpoint> {
        self.consumers.get(consumer)?.checkpoints.get(&partition).copied()
    }

    pub(super) fn commit(&mut self, batch: Batch) -> Result<(), CommitError> {
        let owner = self.consumers.get_mut(&batch.consumer).filter(|owner| owner.epoch == batch.epoch);
        let owner = owner.ok_or(CommitError::Fenced)?;
        if owner.checkpoints.get(&batch.partition).copied() != batch.from {
            return Err(CommitError::Fenced);
        }
        owner.checkpoints.insert(batch.partition, batch.to);
        let documents = self.collections.entry(batch.collection).or_default();
        for (key, content) in batch.writes {
            match content {
                Some(content) => documents.insert(key, content),
                None => documents.remove(&key),
            };
        }
        Ok(())
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
