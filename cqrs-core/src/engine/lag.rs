//! How far consumers are, by what is stored and not by what this process remembers.

use std::fmt;
use std::time::Duration;

use super::Inner;
use super::follow::{ConsumerFault, compare, position};
use crate::error::StoreError;
use crate::event::Timestamp;
use crate::id::{Partition, Position};
use crate::store::{LogRead, Query};

/// How far a consumer is behind the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct Lag {
    /// How long ago the first event behind the checkpoint was decided, by the engine's clock; zero at
    /// the end of the log.
    pub time: Duration,
    /// Positions between the checkpoint and the end of the log.
    pub positions: u64,
}

impl fmt::Display for Lag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} positions, {:.1} s", self.positions, self.time.as_secs_f64())
    }
}

/// A consumer's stored checkpoint on one partition, beside the log as it was then.
pub(super) struct Place {
    /// The checkpoint's.
    pub(super) position: Position,
    pub(super) head: Position,
    pub(super) lag: Lag,
    /// Every command that was accepted before is in effect: those behind the checkpoint were decided
    /// at this instant or later.
    pub(super) as_of: Timestamp,
    /// Why nothing can be said of the checkpoint: it is not of this log's history.
    pub(super) fault: Option<ConsumerFault>,
}

impl Inner {
    /// Where a consumer is on a partition. Two round trips: one to the read store, one to the log.
    pub(super) async fn place(&self, consumer: &str, partition: Partition) -> Result<Place, StoreError> {
        // In this order each is a lower bound: a checkpoint moves on while the log is looked at, and
        // an event may be appended after the clock was read.
        let checkpoint = self.documents.checkpoint(consumer, partition).await?;
        let now = self.clock.now();
        let behind = |after| LogRead { partition, after, up_to: None, query: Query::all(), limit: 1 };
        let position = position(checkpoint);
        let mut slice = self.log.read_log(behind(position)).await?;
        let there = slice.after_event;
        let fault = checkpoint.and_then(|checkpoint| compare(checkpoint, slice.head, there).err());
        let mut from = position;
        if fault.is_some() {
            // Of this history, nothing is known to have taken effect.
            from = Position::START;
            slice = self.log.read_log(behind(from)).await?;
        }
        let head = slice.head.position;
        let as_of = slice.events.first().map_or(now, |event| event.meta.time.min(now));
        let positions = head.get().saturating_sub(from.get());
        let lag = Lag { time: now.since(as_of), positions };
        Ok(Place { position, head, lag, as_of, fault })
    }

    /// Every command that was accepted before this instant is in the documents that are read from now
    /// on; and how long ago it is.
    pub(super) async fn as_of(&self, consumer: &str) -> Result<(Timestamp, Duration), StoreError> {
        let now = self.clock.now();
        let mut as_of = now;
        for partition in self.partitions() {
            as_of = as_of.min(self.place(consumer, partition).await?.as_of);
        }
        Ok((as_of, now.since(as_of)))
    }
}
