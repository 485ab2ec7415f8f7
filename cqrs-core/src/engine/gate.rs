//! Counts what is under way, so that a shutdown can wait for it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

use foldhash::HashMap;
use tokio::sync::Notify;

use crate::id::StreamId;
use crate::timer;

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

type Listed = HashMap<u64, Listing>;

/// A command that has to wait.
#[derive(Debug)]
struct Listing {
    command: &'static str,
    stream: StreamId,
    /// The number of its polls, whether it is being polled, and the waker that has it polled again.
    beats: u64,
    is_polled: bool,
    waker: Waker,
}

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

    /// Closes it and waits until no command is inside, for at most `limit`. It stops waiting earlier if the commands
    /// inside are not polled: if all were woken twice and none was polled within `turn`. Returns whether no command is
    /// inside.
    pub(super) async fn close(&self, limit: Duration, turn: Duration) -> bool {
        self.state.fetch_or(CLOSED, Ordering::AcqRel);
        let since = Instant::now();
        let (mut before, mut silent) = (None, 0);
        while silent < 2 {
            let left = limit.saturating_sub(since.elapsed());
            if timer::timeout(left.min(turn / 2), self.emptied()).await.is_some() {
                return true;
            }
            if since.elapsed() >= limit {
                return false;
            }
            let beats = self.beats();
            silent = if beats.is_some() && beats == before { silent + 1 } else { 0 };
            before = beats;
            self.ask();
        }
        false
    }

    async fn emptied(&self) {
        loop {
            let emptied = self.empty.notified();
            if self.count() == 0 {
                return;
            }
            emptied.await;
        }
    }

    /// Returns how many are inside.
    fn count(&self) -> u64 {
        self.state.load(Ordering::Acquire) & COUNT
    }

    /// Returns how often each of those inside was polled, by number; `None` if one is polled at the moment.
    fn beats(&self) -> Option<Vec<(u64, u64)>> {
        let mut beats = Vec::new();
        for shard in &self.listed {
            for (number, listing) in &*lock(shard) {
                if listing.is_polled {
                    return None;
                }
                beats.push((*number, listing.beats));
            }
        }
        beats.sort_unstable();
        // One that is not listed is polled for the first time.
        (beats.len() as u64 == self.count()).then_some(beats)
    }

    /// Has those inside polled, if their tasks poll them at all.
    fn ask(&self) {
        for shard in &self.listed {
            let wakers: Vec<_> = lock(shard).values().map(|listing| listing.waker.clone()).collect();
            wakers.into_iter().for_each(Waker::wake);
        }
    }

    /// Gives up the commands that are inside. Returns those that are listed, by stream, and the number of the others:
    /// they are in their first poll on another thread.
    pub(super) fn abandon(&self) -> (Vec<(&'static str, StreamId)>, usize) {
        let before = self.state.fetch_or(ABANDONED, Ordering::AcqRel);
        let count = usize::try_from(before & COUNT).unwrap_or(usize::MAX);
        let shards = self.listed.iter();
        // A command that lists itself meanwhile has a name.
        let named = |listing: &Listing| (listing.command, listing.stream.clone());
        let mut inside: Vec<_> =
            shards.flat_map(|shard| lock(shard).values().map(named).collect::<Vec<_>>()).collect();
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
    /// The listing, if there is one.
    fn listed<R>(&self, change: impl FnOnce(&mut Listing) -> R) -> Option<R> {
        match self.number.load(Ordering::Relaxed) {
            0 => None,
            number => lock(self.gate.shard(number)).get_mut(&number).map(change),
        }
    }

    /// Says that it is about to be polled.
    pub(super) fn polls(&self) {
        self.listed(|listing| listing.is_polled = true);
    }

    /// Says that it was polled and has to wait. Lists a command by name the first time. A command that is still in
    /// its first poll is abandoned without a name.
    pub(super) fn waits(&self, command: &'static str, stream: &StreamId, waker: &Waker) {
        let known = self.listed(|listing| {
            listing.is_polled = false;
            listing.beats += 1;
            let is_same = listing.waker.will_wake(waker);
            (!is_same).then(|| std::mem::replace(&mut listing.waker, waker.clone()))
        });
        // A waker that was replaced is dropped here: it may be the last that holds a task.
        if known.is_none() {
            let number = self.gate.numbers.fetch_add(1, Ordering::Relaxed) + 1;
            let (stream, waker) = (stream.clone(), waker.clone());
            let listing = Listing { command, stream, beats: 0, is_polled: false, waker };
            lock(self.gate.shard(number)).insert(number, listing);
            self.number.store(number, Ordering::Relaxed);
        }
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        let number = self.number.load(Ordering::Relaxed);
        if number != 0 {
            let listing = lock(self.gate.shard(number)).remove(&number);
            drop(listing);
        }
        let before = self.gate.state.fetch_sub(1, Ordering::AcqRel);
        if before & CLOSED != 0 && before & COUNT == 1 {
            self.gate.empty.notify_waiters();
        }
    }
}
