//! The content of one commit, and the reasons for which a store rejects it.

use std::collections::BTreeMap;
use std::fmt;

use super::checkpoint::{Checkpoint, Claim};
use super::collection::EntryWrite;
use super::limits::check_name;
use crate::consumer::{Handlers, Unfit};
use crate::error::StoreError;
use crate::id::Partition;

/// The effect of some events on a read model, and the checkpoint after them.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Batch {
    /// The consumer whose batch it is, such as a projection's name.
    pub consumer: String,
    /// The partition that its events come from (default: the first one).
    pub partition: Partition,
    /// The epoch of the claim that it relies on.
    pub epoch: u64,
    /// The checkpoints that it starts from, those of the other partitions too: what the claim returned and the
    /// owner has committed since.
    pub from: BTreeMap<Partition, Checkpoint>,
    /// The checkpoint after it, on its partition.
    pub to: Checkpoint,
    /// The changed entries of the consumer's collections, each once.
    pub writes: Vec<EntryWrite>,
    /// The statements of the user's own, if the consumer has any. They run in the same transaction.
    pub handlers: Option<Handlers>,
}

impl Batch {
    /// Creates a batch without effect, of the first partition.
    #[must_use]
    pub fn new(consumer: impl Into<String>, claim: &Claim, to: Checkpoint) -> Self {
        Self {
            consumer: consumer.into(),
            partition: Partition::ONLY,
            epoch: claim.epoch,
            from: claim.checkpoints.clone(),
            to,
            writes: Vec::new(),
            handlers: None,
        }
    }

    /// Sets the partition that its events come from.
    #[must_use]
    pub fn with_partition(mut self, partition: Partition) -> Self {
        self.partition = partition;
        self
    }

    /// Sets the changed entries.
    #[must_use]
    pub fn with_writes(mut self, writes: Vec<EntryWrite>) -> Self {
        self.writes = writes;
        self
    }

    /// Sets the statements of the user's own.
    #[must_use]
    pub fn with_handlers(mut self, handlers: Option<Handlers>) -> Self {
        self.handlers = handlers;
        self
    }

    /// Rejects a batch past a limit or with an invalid name or key. Every store calls this first.
    ///
    /// # Errors
    /// [`Invalid`](crate::error::StoreErrorKind::Invalid) with a message that names the text and the limit.
    pub fn check(&self) -> Result<(), StoreError> {
        check_name("consumer", &self.consumer)?;
        self.writes.iter().try_for_each(EntryWrite::check)
    }
}

/// Why a batch was not committed.
#[derive(Debug)]
#[non_exhaustive]
pub enum CommitError {
    /// Another owner has claimed the consumer, its record has changed, or one of its checkpoints has moved.
    Fenced,
    /// A handler cannot take an event.
    Unfit(Unfit),
    /// The store failed.
    Store(StoreError),
}

impl fmt::Display for CommitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fenced => f.write_str("another owner has taken this consumer over"),
            Self::Unfit(unfit) => unfit.error.fmt(f),
            Self::Store(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for CommitError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Fenced => None,
            Self::Unfit(unfit) => unfit.error.source(),
            Self::Store(error) => error.source(),
        }
    }
}

impl From<StoreError> for CommitError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}
