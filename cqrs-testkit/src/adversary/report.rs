//! What came of a run.

use std::fmt;
use std::time::Duration;

/// What came of a run. It prints as a table with the seed.
#[derive(Clone, Debug)]
#[non_exhaustive]
#[must_use]
pub struct Report {
    /// The seed of the run.
    pub seed: u64,
    /// Appends that were acknowledged.
    pub acknowledged: u64,
    /// Appends that were refused: a guard did not hold, or the store could not take them.
    pub refused: u64,
    /// Appends whose writer did not wait for the answer, or had no way to learn it.
    pub open: u64,
    /// Events in the log in the end, those of other parts included.
    pub committed: u64,
    /// Events of acknowledged appends that are not in the log in the end.
    pub vanished: u64,
    /// What each reader was given.
    pub readers: Vec<ReaderReport>,
    /// Calls that the store answered with `Unavailable`, which it may.
    pub unavailable: u64,
    /// Appends that the store answered with `Unknown`, which it may; those that could be resolved count as
    /// acknowledged or refused, the others as open.
    pub unknown: u64,
    /// How often something else happened that must not: a refused append is in the log, an append is torn,
    /// a head went back, a version is missing, a call was not answered, and so on.
    pub fault_count: u64,
    /// The first of these in words.
    pub faults: Vec<String>,
}

/// What one reader was given, over all partitions.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ReaderReport {
    /// The handle and how the reader went about it.
    pub name: String,
    /// Events that are in the log and were given to it.
    pub delivered: u64,
    /// Events that are in the log and were never given to it, though it has gone past them.
    pub lost: u64,
    /// Times that an event was given to it once more.
    pub duplicates: u64,
    /// Events that came behind a later position, or behind a later version of their stream.
    pub inversions: u64,
    /// Events that were given to it and are not in the log.
    pub phantoms: u64,
    /// The longest time that it stood still, though something that it had not seen was known to be there.
    pub stall: Duration,
}

impl ReaderReport {
    pub(super) fn add(&mut self, other: &Self) {
        self.delivered += other.delivered;
        self.lost += other.lost;
        self.duplicates += other.duplicates;
        self.inversions += other.inversions;
        self.phantoms += other.phantoms;
        self.stall = self.stall.max(other.stall);
    }
}

impl Report {
    pub(super) fn fault(seed: u64, words: &str) -> Self {
        Self {
            seed,
            acknowledged: 0,
            refused: 0,
            open: 0,
            committed: 0,
            vanished: 0,
            readers: Vec::new(),
            unavailable: 0,
            unknown: 0,
            fault_count: 1,
            faults: vec![words.to_owned()],
        }
    }

    /// Events that are lost: to some reader, counted for each, or to all of them.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.vanished + self.sum(|reader| reader.lost)
    }

    /// Events that came out of order, counted for each reader.
    #[must_use]
    pub fn inversions(&self) -> u64 {
        self.sum(|reader| reader.inversions)
    }

    /// Times that an event was given to a reader once more, counted for each.
    #[must_use]
    pub fn duplicates(&self) -> u64 {
        self.sum(|reader| reader.duplicates)
    }

    /// Events that are not in the log, counted for each reader that was given them.
    #[must_use]
    pub fn phantoms(&self) -> u64 {
        self.sum(|reader| reader.phantoms)
    }

    /// The longest time that a reader stood still; see [`ReaderReport::stall`].
    #[must_use]
    pub fn stall(&self) -> Duration {
        self.readers.iter().map(|reader| reader.stall).max().unwrap_or_default()
    }

    /// Whether all agrees.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.lost() + self.inversions() + self.duplicates() + self.phantoms() + self.fault_count == 0
    }

    /// Fails the test unless all agrees and something was acknowledged.
    ///
    /// # Panics
    /// With the whole report.
    #[allow(clippy::panic, reason = "this is how a test fails")]
    pub fn assert_clean(&self) {
        if !self.is_clean() {
            panic!("the store does not keep its contract:\n{self}");
        }
        if self.acknowledged == 0 {
            panic!("the store has acknowledged nothing:\n{self}");
        }
    }

    fn sum(&self, of: fn(&ReaderReport) -> u64) -> u64 {
        self.readers.iter().map(of).sum()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, acknowledged, refused, open, committed, vanished, unavailable, unknown, .. } = self;
        let appends = acknowledged + refused + open;
        writeln!(f, "adversary, CQRS_ADVERSARY_SEED={seed}")?;
        writeln!(f, "{appends} appends: {acknowledged} acknowledged, {refused} refused, {open} open")?;
        writeln!(f, "{unknown} appends were answered with Unknown, {unavailable} calls with Unavailable")?;
        writeln!(f, "{committed} events committed, {vanished} vanished")?;
        let width = self.readers.iter().map(|reader| reader.name.chars().count()).max().unwrap_or_default();
        let head = ["delivered", "lost", "inversions", "duplicates", "phantoms", "stall"];
        let [delivered, lost, inversions, duplicates, phantoms, stall] = head;
        writeln!(
            f,
            "{:width$}  {delivered:>10} {lost:>6} {inversions:>10} {duplicates:>10} {phantoms:>8} {stall:>9}",
            "reader"
        )?;
        for ReaderReport { name, delivered, lost, inversions, duplicates, phantoms, stall } in &self.readers {
            let stall = format!("{} ms", stall.as_millis());
            writeln!(
                f,
                "{name:width$}  {delivered:>10} {lost:>6} {inversions:>10} {duplicates:>10} {phantoms:>8} {stall:>9}"
            )?;
        }
        writeln!(f, "{} faults{}", self.fault_count, if self.faults.is_empty() { "" } else { ", such as:" })?;
        self.faults.iter().try_for_each(|fault| writeln!(f, "  {fault}"))
    }
}
