//! The read models and the checkpoints behind them.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

use bytes::Bytes;

use crate::read_store::{Batch, Checkpoint, Claim, CommitError, ConsumerId};

#[derive(Default)]
pub(super) struct Documents {
    consumers: HashMap<ConsumerId, Claim>,
    collections: HashMap<String, BTreeMap<String, Bytes>>,
}

impl Documents {
    pub(super) fn claim(&mut self, consumer: ConsumerId) -> Claim {
        let claim = self.consumers.entry(consumer).or_insert(Claim { epoch: 0, checkpoint: None });
        claim.epoch += 1;
        *claim
    }

    pub(super) fn checkpoint(&self, consumer: &ConsumerId) -> Option<Checkpoint> {
        self.consumers.get(consumer).and_then(|claim| claim.checkpoint)
    }

    pub(super) fn commit(&mut self, batch: Batch) -> Result<(), CommitError> {
        let expected = Claim { epoch: batch.epoch, checkpoint: batch.from };
        let stored = self.consumers.get_mut(&batch.consumer).filter(|stored| **stored == expected);
        stored.ok_or(CommitError::Fenced)?.checkpoint = Some(batch.to);
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
