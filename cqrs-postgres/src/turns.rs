//! Whether those who wait are committed together, or take turns in two halves.
//!
//! While the server writes one half, this process tells those of the other and decides what they send next, so
//! that neither waits for the other. The price is a second commit. Which of the two is dearer, only the server's
//! disk can tell: where it is ready at once, sixteen are a sixth faster in halves; where it takes a millisecond, sixty
//! are faster together. So both are tried, and again from time to time, one against the other.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Halves are not smaller than this.
const HALF: usize = 8;

/// A way is looked at for so many groups, behind some that still are of the way before.
const WINDOW: usize = 24;
const SKIPPED: usize = 3;

/// How one is tried against the other. Of the windows of each the quickest counts, since much can come between that
/// has nothing to do with the way.
const TRIAL: [Way; 8] = {
    use Way::{Halves, Together};
    [Halves, Together, Together, Halves, Halves, Together, Together, Halves]
};

/// A trial ends as soon as each way was looked at equally often, at least twice, and one takes longer by more than
/// this part of the other: the slower one costs as much as it is slower.
const CLEARLY: u32 = 8;

/// For so many groups the better one is kept, until both are tried again: for few at first, and for twice as many
/// each time that it was found again.
const KEPT: usize = 512;
const KEPT_LONGEST: usize = 8_192;

/// If nothing has landed for so long, it says nothing of the way.
const PAUSE: Duration = Duration::from_millis(100);

/// What was found for so many different loads is remembered.
const LOADS: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Halves,
    Together,
}

#[derive(Debug)]
pub(crate) struct Turns {
    way: Way,
    /// Where the trial is; `None` if there is none.
    trial: Option<usize>,
    /// The least time that an append has taken in a window of each way.
    least: [Duration; 2],
    /// Groups to go, to the end of the window or to the next trial.
    left: usize,
    /// When the window has begun, and the appends since.
    window: Option<(Instant, usize)>,
    last: Option<Instant>,
    /// So many were under way when this trial began, or the one whose result is kept.
    load: usize,
    /// What was found, the latest first.
    found: VecDeque<Found>,
}

/// The better way for so many under way, and for how many groups it is kept.
#[derive(Clone, Copy, Debug)]
struct Found {
    load: usize,
    way: Way,
    kept: usize,
}

/// Whether what was found for one load says nothing of another, which is many times larger or smaller.
fn differ(one: usize, other: usize) -> bool {
    one > 2 * other || 2 * one < other
}

impl Turns {
    pub(crate) fn new() -> Self {
        Self {
            way: Way::Halves,
            trial: Some(0),
            least: [Duration::MAX; 2],
            left: SKIPPED + WINDOW,
            window: None,
            last: None,
            load: 0,
            found: VecDeque::with_capacity(LOADS),
        }
    }

    /// How many are committed together at most, of so many that are under way; `None` if all are.
    pub(crate) fn share(&self, under_way: usize) -> Option<usize> {
        let half = under_way.div_ceil(2);
        (self.way == Way::Halves && half >= HALF).then_some(half)
    }

    /// A group of so many has landed; before it did, so many were under way.
    pub(crate) fn landed(&mut self, size: usize, under_way: usize, now: Instant) {
        let paused = self.last.replace(now).is_none_or(|last| now - last > PAUSE);
        let is_other = differ(under_way, self.load);
        let few = under_way.div_ceil(2) < HALF;
        if paused || (is_other && few) {
            // It says nothing of the way.
            if let Some(at) = self.trial {
                self.enter(at);
            }
            return;
        }
        if is_other {
            return self.meet(under_way);
        }
        self.left -= 1;
        let Some(at) = self.trial else {
            if self.left == 0 {
                self.begin(under_way);
            }
            return;
        };
        match &mut self.window {
            None if self.left <= WINDOW => self.window = Some((now, 0)),
            None => {}
            Some((since, done)) => {
                *done += size;
                if self.left == 0 {
                    let each = (now - *since) / u32::try_from(*done).unwrap_or(u32::MAX).max(1);
                    let least = &mut self.least[usize::from(self.way == Way::Together)];
                    *least = each.min(*least);
                    self.enter(at + 1);
                }
            }
        }
    }

    /// There are many more or fewer than before, for whom the other way may be better: what was found when there
    /// were as many holds, or else both are tried.
    fn meet(&mut self, under_way: usize) {
        let known = self.found.iter().find(|found| !differ(under_way, found.load));
        match known.copied() {
            Some(Found { load, way, kept }) => {
                (self.trial, self.window) = (None, None);
                (self.load, self.way, self.left) = (load, way, kept);
            }
            None => self.begin(under_way),
        }
    }

    /// Begins a trial.
    fn begin(&mut self, under_way: usize) {
        self.load = under_way;
        self.least = [Duration::MAX; 2];
        self.enter(0);
    }

    /// Begins a window of the trial, or ends it.
    fn enter(&mut self, at: usize) {
        self.window = None;
        let [halves, together] = self.least;
        let (less, more) = (halves.min(together), halves.max(together));
        let is_clear = at > 2 && at.is_multiple_of(2) && more > less + less / CLEARLY;
        if let Some(way) = TRIAL.get(at).filter(|_| !is_clear) {
            (self.trial, self.way, self.left) = (Some(at), *way, SKIPPED + WINDOW);
            return;
        }
        self.way = if together < halves { Way::Together } else { Way::Halves };
        let before = self.found.iter().position(|found| !differ(self.load, found.load));
        self.left = match before.and_then(|at| self.found.remove(at)) {
            Some(before) if before.way == self.way => (before.kept * 2).min(KEPT_LONGEST),
            _ => KEPT,
        };
        self.found.truncate(LOADS - 1);
        self.found.push_front(Found { load: self.load, way: self.way, kept: self.left });
        self.trial = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server and a disk, and what they take, in microseconds.
    struct World {
        commit: u64,
        each: u64,
        /// For this process to tell one and decide the next.
        here: u64,
    }

    /// For how many of `groups` each way was taken, with so many tasks.
    fn run(turns: &mut Turns, now: &mut Instant, world: &World, tasks: usize, groups: usize) -> [usize; 2] {
        let mut taken = [0, 0];
        for _ in 0..groups {
            let size = turns.share(tasks).unwrap_or(tasks);
            let (together, rows) = (size == tasks, size as u64);
            let (served, decided) = (world.commit + rows * world.each, rows * world.here);
            let time = if together { served + decided } else { served.max(decided) };
            *now += Duration::from_micros(time);
            turns.landed(size, tasks, *now);
            taken[usize::from(together)] += 1;
        }
        taken
    }

    #[test]
    fn the_faster_way_is_found_and_kept() {
        let mut now = Instant::now();
        let quick = World { commit: 60, each: 5, here: 6 };
        let slow = World { commit: 1_000, ..quick };
        for (world, tasks, is_halves) in [(&quick, 16, true), (&slow, 16, false), (&slow, 64, false)] {
            let mut turns = Turns::new();
            let [halves, together] = run(&mut turns, &mut now, world, tasks, 40_000);
            let (better, worse) = if is_halves { (halves, together) } else { (together, halves) };
            assert!(worse * 60 < better, "{halves} in halves, {together} together with {tasks} tasks");
        }
    }

    /// The negative control: who never tries keeps the slower way.
    #[test]
    fn what_is_not_tried_is_not_found() {
        let mut turns = Turns { trial: None, left: usize::MAX, load: 16, ..Turns::new() };
        let mut now = Instant::now();
        turns.last = Some(now);
        let slow = World { commit: 1_000, each: 5, here: 6 };
        let [halves, together] = run(&mut turns, &mut now, &slow, 16, 1_000);
        assert_eq!([halves, together], [1_000, 0]);
    }

    #[test]
    fn it_is_found_anew_when_the_disk_or_the_load_changes() {
        let (mut turns, mut now) = (Turns::new(), Instant::now());
        let quick = World { commit: 60, each: 5, here: 6 };
        let middling = World { commit: 150, ..quick };
        run(&mut turns, &mut now, &middling, 16, 1_000);
        assert_eq!(turns.way, Way::Together);
        // More tasks are better off in halves, and that is tried at once.
        run(&mut turns, &mut now, &middling, 64, 400);
        assert_eq!(turns.way, Way::Halves);
        run(&mut turns, &mut now, &World { commit: 2_000, ..quick }, 64, KEPT_LONGEST + 400);
        assert_eq!(turns.way, Way::Together);
        run(&mut turns, &mut now, &quick, 64, KEPT_LONGEST + 400);
        assert_eq!(turns.way, Way::Halves);
    }

    #[test]
    fn what_was_found_for_a_load_holds_when_it_comes_again() {
        let (mut turns, mut now) = (Turns::new(), Instant::now());
        let middling = World { commit: 150, each: 5, here: 6 };
        run(&mut turns, &mut now, &middling, 16, 400);
        run(&mut turns, &mut now, &middling, 64, 400);
        for _ in 0..20 {
            assert_eq!(run(&mut turns, &mut now, &middling, 16, 100), [1, 99]);
            assert_eq!(run(&mut turns, &mut now, &middling, 64, 100), [99, 1]);
        }
        // Not for ever: then both are tried again.
        let both = run(&mut turns, &mut now, &middling, 16, KEPT_LONGEST + 400);
        assert!(both[0] > 1 && both[0] * 25 < both[1], "{both:?}");
    }

    #[test]
    fn loads_that_are_remembered_are_bounded() {
        let (mut turns, mut now) = (Turns::new(), Instant::now());
        let quick = World { commit: 60, each: 5, here: 6 };
        for load in (3..9).map(|power| 3_usize.pow(power)) {
            run(&mut turns, &mut now, &quick, load, 400);
        }
        assert_eq!(turns.found.len(), LOADS);
    }

    /// Sixteen that are sometimes fewer, since now and then one has something else to do.
    #[test]
    fn a_group_that_is_smaller_now_and_then_does_not_keep_a_trial_from_its_end() {
        let (mut turns, mut now) = (Turns::new(), Instant::now());
        let slow = World { commit: 1_000, each: 5, here: 6 };
        for round in 0..400 {
            run(&mut turns, &mut now, &slow, 16 - round % 4, 1);
        }
        assert_eq!((turns.trial, turns.way), (None, Way::Together));
    }

    #[test]
    fn few_are_together_and_a_pause_says_nothing() {
        let (mut turns, mut now) = (Turns::new(), Instant::now());
        let quick = World { commit: 60, each: 5, here: 6 };
        assert_eq!(run(&mut turns, &mut now, &quick, 14, 1_000), [0, 1_000]);
        for _ in 0..1_000 {
            now += 2 * PAUSE;
            turns.landed(8, 16, now);
        }
        assert_eq!((turns.trial, turns.least), (Some(0), [Duration::MAX; 2]));
    }
}
