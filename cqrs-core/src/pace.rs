//! Long work in pieces, so that other tasks of the runtime get their turn.

use std::time::{Duration, Instant};

/// For how long a task works without letting others run.
pub(crate) const PIECE: Duration = Duration::from_millis(1);

/// Counts the steps of long work, and says when it is time to let other tasks run: after about a millisecond. A store
/// that hands over events one by one uses it between two of them.
///
/// ```
/// use cqrs_core::store::Pace;
///
/// # async fn hand_over(events: Vec<u64>) {
/// let mut pace = Pace::new();
/// for event in events {
///     // … hand it over …
///     if pace.is_due() {
///         pace.pause().await;
///     }
/// }
/// # }
/// ```
#[derive(Debug)]
pub struct Pace {
    since: Instant,
    /// How many steps are made until the clock is looked at, and how many of them are left.
    steps: u32,
    left: u32,
}

/// At most so many steps are made without a look at the clock.
const STEPS: u32 = 64;

impl Default for Pace {
    fn default() -> Self {
        Self::new()
    }
}

impl Pace {
    /// Begins now.
    #[must_use]
    pub fn new() -> Self {
        Self { since: Instant::now(), steps: 1, left: 1 }
    }

    /// Counts a step, and returns whether it is time to [`pause`](Self::pause).
    pub fn is_due(&mut self) -> bool {
        self.left -= 1;
        if self.left > 0 {
            return false;
        }
        let due = self.since.elapsed() >= PIECE;
        // A look costs as much as a small part of a quick step.
        self.steps = if due { (self.steps / 2).max(1) } else { (self.steps * 2).min(STEPS) };
        self.left = self.steps;
        due
    }

    /// Lets other tasks run.
    pub async fn pause(&mut self) {
        tokio::task::yield_now().await;
        self.since = Instant::now();
    }
}

/// The sizes of the pieces in which events are folded: as many as take about a millisecond.
#[derive(Debug)]
pub(crate) struct Pieces {
    size: usize,
    /// How long it has worked since others could run.
    worked: Duration,
}

impl Default for Pieces {
    fn default() -> Self {
        Self { size: FIRST, worked: Duration::ZERO }
    }
}

/// Events in the first piece, of which it is not known how long they take.
const FIRST: usize = 32;
/// Events in a piece, at least and at most.
const SIZES: (usize, usize) = (8, 4_096);

impl Pieces {
    /// How many events the next piece has.
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// Works on so many events, and learns how long that takes.
    pub(crate) fn work<T>(&mut self, events: usize, work: impl FnOnce() -> T) -> T {
        let since = Instant::now();
        let done = work();
        let took = since.elapsed();
        self.worked += took;
        if events > 0 {
            let (least, most) = SIZES;
            // No piece has as many events as would not fit.
            let fitting =
                (events as u128 * PIECE.as_nanos() / took.as_nanos().max(1)).min(most as u128) as usize;
            self.size = fitting.clamp(least, (self.size * 2).clamp(least, most));
        }
        done
    }

    /// Lets other tasks run, if it is time to.
    pub(crate) async fn pause(&mut self) {
        if self.worked >= PIECE {
            self.worked = Duration::ZERO;
            tokio::task::yield_now().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_is_due_in_time() {
        let mut pace = Pace::new();
        let steps = (0..1_000).take_while(|_| !pace.is_due()).count();
        let mut slow = Pace::new();
        let slowly = (0..1_000).take_while(|_| {
            std::thread::sleep(Duration::from_micros(300));
            !slow.is_due()
        });
        assert!(slowly.count() < 8, "the clock is looked at often at first");
        assert!(steps > 8);
    }

    #[test]
    fn pieces_grow_while_they_are_quick_and_shrink_at_once() {
        let mut pieces = Pieces::default();
        for _ in 0..10 {
            pieces.work(pieces.size(), || ());
        }
        assert!(pieces.size() > 1_000, "{}", pieces.size());
        pieces.work(pieces.size(), || std::thread::sleep(Duration::from_millis(400)));
        assert!(pieces.size() < 64, "{}", pieces.size());
    }
}
