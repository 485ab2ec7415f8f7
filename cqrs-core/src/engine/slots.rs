//! One slot per hot stream: the queue of its commands in this process, and its last state.
//!
//! Neither is trusted for correctness: the guard of each append is. A slot that is dropped to make
//! room costs a reload, or at worst a lost race.

use std::any::Any;
use std::sync::Arc;

use quick_cache::sync::Cache;
use tokio::sync::Mutex;

use crate::id::{Position, StreamId, Version};

/// The state of one stream as this process last saw it.
pub(super) struct Known {
    /// A `Box<Option<A>>` of the stream's aggregate.
    pub(super) state: Box<dyn Any + Send>,
    pub(super) version: Version,
    pub(super) position: Position,
}

/// Whoever holds the lock has the turn. Empty while somebody decides, and after a failure, so that
/// a cancelled or panicked command leaves nothing half-folded behind.
pub(super) type Slot = Mutex<Option<Known>>;

/// A bounded number of slots.
pub(super) struct Slots(Cache<StreamId, Arc<Slot>>);

impl Slots {
    pub(super) fn new(capacity: usize) -> Self {
        Self(Cache::new(capacity.max(1)))
    }

    pub(super) fn of(&self, stream: &StreamId) -> Arc<Slot> {
        let empty = || Ok::<_, std::convert::Infallible>(Arc::default());
        let Ok(slot) = self.0.get_or_insert_with(stream, empty);
        slot
    }
}
