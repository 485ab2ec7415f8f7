//! The limit on the memory of the states that an engine remembers.
//!
//! A slot counts the size of its state as long as it has one, also while a command decides on it. When all together are
//! past the limit, the least recently used are dropped, but none that a command uses or that rests on a pending append.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, Weak};

use super::slots::{Dropped, Slot};

/// The total size of the states of an engine, and their order of use.
pub(super) struct Budget {
    limit: usize,
    /// The most slots at a time.
    slots: usize,
    total: AtomicUsize,
    /// Counts uses, so that the order of two is known.
    uses: AtomicU64,
    /// The slots that have had a state, by the use at which they were last looked at.
    order: Mutex<BinaryHeap<Reverse<Listed>>>,
    warned: AtomicBool,
}

/// States in use that one call passes over. Each counts as used then, so the next call looks at others.
const PASSED: u32 = 16;

struct Listed {
    used: u64,
    slot: Weak<Slot>,
}

impl PartialEq for Listed {
    fn eq(&self, other: &Self) -> bool {
        self.used == other.used
    }
}

impl Eq for Listed {}

impl PartialOrd for Listed {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Listed {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.used.cmp(&other.used)
    }
}

impl Budget {
    pub(super) fn new(limit: usize, slots: usize) -> Self {
        let (total, uses) = (AtomicUsize::new(0), AtomicU64::new(0));
        Self { limit, slots, total, uses, order: Mutex::default(), warned: AtomicBool::new(false) }
    }

    /// Returns whether the engine remembers a state of this size at all.
    pub(super) fn fits(&self, size: usize) -> bool {
        size <= self.limit
    }

    /// Reports a state that does not fit, the first time.
    pub(super) fn warn(&self, stream: &crate::id::StreamId, size: usize) {
        if !self.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                %stream,
                size,
                limit = self.limit,
                "this state is past the limit on remembered states, so each command reads the stream; raise `EngineBuilder::hot_state_bytes`, or correct the estimate with `#[aggregate(state_size = …)]`"
            );
        }
    }

    /// The number of the next use.
    pub(super) fn next_use(&self) -> u64 {
        self.uses.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Counts a slot's state with another size. The slot is locked meanwhile, so the total never has less than what
    /// a slot takes off.
    pub(super) fn change(&self, before: usize, after: usize) {
        match after.cmp(&before) {
            std::cmp::Ordering::Greater => _ = self.total.fetch_add(after - before, Ordering::Relaxed),
            std::cmp::Ordering::Less => _ = self.total.fetch_sub(before - after, Ordering::Relaxed),
            std::cmp::Ordering::Equal => {}
        }
    }

    fn order(&self) -> MutexGuard<'_, BinaryHeap<Reverse<Listed>>> {
        self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a slot that has its first state.
    pub(super) fn list(&self, slot: Weak<Slot>, used: u64) {
        let mut order = self.order();
        // Slots that were dropped because there were too many streams leave their entries.
        if order.len() >= self.slots.saturating_mul(2).max(64) {
            order.retain(|Reverse(listed)| listed.slot.strong_count() > 0);
        }
        order.push(Reverse(Listed { used, slot }));
    }

    fn is_exceeded(&self) -> bool {
        self.total.load(Ordering::Relaxed) > self.limit
    }

    /// Drops the least recently used states until the others are within the limit.
    pub(super) fn enforce(&self) {
        if self.is_exceeded() {
            self.drop_oldest();
        }
    }

    #[cold]
    fn drop_oldest(&self) {
        // Dropped after the lock: a state's `drop` is the user's code, and a slot may be the last of its kind.
        let (mut dropped, mut slots, mut passed) = (Vec::new(), Vec::new(), 0);
        let mut order = self.order();
        while self.is_exceeded() && passed < PASSED {
            let Some(Reverse(listed)) = order.pop() else { break };
            let Some(slot) = listed.slot.upgrade() else { continue };
            match slot.drop_state(listed.used) {
                Dropped::State(known) => dropped.push(known),
                Dropped::UsedSince(used) => order.push(Reverse(Listed { used, ..listed })),
                Dropped::InUse => {
                    passed += 1;
                    order.push(Reverse(Listed { used: self.next_use(), ..listed }));
                }
                Dropped::Empty => {}
            }
            slots.push(slot);
        }
        drop(order);
        drop((dropped, slots));
    }
}
