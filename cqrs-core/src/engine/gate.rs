//! Counts what is under way, so that a shutdown can wait for it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use foldhash::HashMap;
use tokio::sync::Notify;

use crate::id::StreamId;

/// Open until it is closed. The highest bit says that it is closed, the next one that those inside were
/// abandoned, and the others count who is inside.
#[derive(Debug, Default)]
pub(super) struct Gate {
    state: AtomicU64,
    empty: Notify,
    used: AtomicBool,
    numbers: AtomicU64,
    listed: [Mutex<Listed>; SHARDS],
}

type Listed = HashMap<u64, (&'static str, StreamId)>;

const CLOSED: u64 = 1 << 63;
const ABANDONED: u64 = 1 << 62;
const COUNT: u64 = ABANDONED - 1;
/// Commands of different cores seldom meet in one.
const SHARDS: usize = 8;

impl Gate {
    /// Goes in, unless it is closed.
    pub(super) fn enter(&self) -> Option<Inside<'_>> {
        // A closed gate is not counted at, so that `abandon` counts only what was let in.
        if self.state.load(Ordering::Relaxed) & CLOSED != 0 {
            return None;
        }
        // Counting first and looking then leaves no moment in which `close` could miss somebody.
        let before = self.state.fetch_add(1, Ordering::AcqRel);
        let inside = Inside { gate: self, number: AtomicU64::new(0) };
        // Looked at first, so that the line stays shared between cores.
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
        (before & CLOSED == 0).then_some(inside)
    }

    /// Whether anybody has ever gone in.
    pub(super) fn was_used(&self) -> bool {
        self.used.load(Ordering::Relaxed)
    }

    /// Closes it and waits until nobody is inside.
    pub(super) async fn close(&self) {
        self.state.fetch_or(CLOSED, Ordering::AcqRel);
        loop {
            let emptied = self.empty.notified();
            if self.state.load(Ordering::Acquire) & COUNT == 0 {
                return;
            }
            emptied.await;
        }
    }

    /// Gives up the commands that are inside. Returns those that are listed, by stream, and the number of the others:
    /// they are in their first poll on another thread.
    pub(super) fn abandon(&self) -> (Vec<(&'static str, StreamId)>, usize) {
        let before = self.state.fetch_or(ABANDONED, Ordering::AcqRel);
        let count = usize::try_from(before & COUNT).unwrap_or(usize::MAX);
        let shards = self.listed.iter();
        // A command that lists itself meanwhile has a name.
        let mut inside: Vec<_> =
            shards.flat_map(|shard| lock(shard).values().cloned().collect::<Vec<_>>()).collect();
        inside.sort_by(|one, other| (&one.1, one.0).cmp(&(&other.1, other.0)));
        let unlisted = count.saturating_sub(inside.len());
        (inside, unlisted)
    }

    /// Whether those inside were given up.
    pub(super) fn is_abandoned(&self) -> bool {
        self.state.load(Ordering::Acquire) & ABANDONED != 0
    }

    fn shard(&self, number: u64) -> &Mutex<Listed> {
        // A remainder by eight fits.
        &self.listed[(number % SHARDS as u64) as usize]
    }
}

fn lock(listed: &Mutex<Listed>) -> MutexGuard<'_, Listed> {
    listed.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Somebody inside; leaves when dropped.
pub(super) struct Inside<'a> {
    gate: &'a Gate,
    /// Under which it is listed; 0 if it is not.
    number: AtomicU64,
}

impl Inside<'_> {
    /// Lists a command by name. Only commands that have to wait are listed. A command that is still in its first poll
    /// is abandoned without a name.
    pub(super) fn list(&self, command: &'static str, stream: &StreamId) {
        if self.number.load(Ordering::Relaxed) == 0 {
            let number = self.gate.numbers.fetch_add(1, Ordering::Relaxed) + 1;
            lock(self.gate.shard(number)).insert(number, (command, stream.clone()));
            self.number.store(number, Ordering::Relaxed);
        }
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        let number = self.number.load(Ordering::Relaxed);
        if number != 0 {
            lock(self.gate.shard(number)).remove(&number);
        }
        let before = self.gate.state.fetch_sub(1, Ordering::AcqRel);
        if before & CLOSED != 0 && before & COUNT == 1 {
            self.gate.empty.notify_waiters();
        }
    }
}
