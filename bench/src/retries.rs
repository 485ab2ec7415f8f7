//! How often contenders tried a command again.

use std::sync::atomic::{AtomicU64, Ordering};

static RETRIES: AtomicU64 = AtomicU64::new(0);

/// Counts that a command is tried once more, because somebody else wrote first.
pub fn retried() {
    RETRIES.fetch_add(1, Ordering::Relaxed);
}

/// How often [`retried`] was called so far.
pub fn count() -> u64 {
    RETRIES.load(Ordering::Relaxed)
}
