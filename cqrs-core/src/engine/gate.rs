//! Counts what is under way, so that a shutdown can wait for it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::Notify;

/// Open until it is closed. The highest bit says that it is closed, the others count who is inside.
#[derive(Debug, Default)]
pub(super) struct Gate {
    state: AtomicU64,
    empty: Notify,
    used: AtomicBool,
}

const CLOSED: u64 = 1 << 63;

impl Gate {
    /// Goes in, unless it is closed.
    pub(super) fn enter(&self) -> Option<Inside<'_>> {
        // Counting first and looking then leaves no moment in which `close` could miss somebody.
        let before = self.state.fetch_add(1, Ordering::AcqRel);
        let inside = Inside(self);
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
            if self.state.load(Ordering::Acquire) == CLOSED {
                return;
            }
            emptied.await;
        }
    }
}

/// Somebody inside; leaves when dropped.
pub(super) struct Inside<'a>(&'a Gate);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        if self.0.state.fetch_sub(1, Ordering::AcqRel) == CLOSED + 1 {
            self.0.empty.notify_waiters();
        }
    }
}
