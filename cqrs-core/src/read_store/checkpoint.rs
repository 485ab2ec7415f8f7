//! The progress of a consumer, and the right to move it.

use std::collections::BTreeMap;

use uuid::Uuid;

use crate::id::{Partition, Position};
use crate::store::{LogId, LogPoint};

/// The progress of a consumer on a partition: everything up to the position has taken effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The log that was followed. Another one at this place means the log was replaced.
    pub log: LogId,
    /// The last position that has taken effect or did not concern the consumer.
    pub position: Position,
    /// The id of the event at that position, whether or not it concerned the consumer, by which a rewound log is
    /// detected; `None` at the start of the log.
    pub event: Option<Uuid>,
}

impl Checkpoint {
    /// Its position with the event there.
    #[must_use]
    pub const fn point(&self) -> LogPoint {
        LogPoint { position: self.position, event: self.event }
    }
}

/// A consumer that was taken over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The epoch that a batch needs from now on. It grows with each claim.
    pub epoch: u64,
    /// The checkpoint of each partition. The consumer is at the start of those that are not named.
    pub checkpoints: BTreeMap<Partition, Checkpoint>,
    /// The revision of the consumer's [`Record`](super::Record); 0 in a store that keeps none.
    pub revision: u64,
}
