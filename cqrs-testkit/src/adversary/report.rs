//! The result of a run.

use std::fmt;
use std::time::Duration;

/// The result of a run. It prints as a table with the seed.
#[derive(Clone, Debug)]
#[non_exhaustive]
#[must_use]
pub struct Report {
    /// The seed of the run.
    pub seed: u64,
    /// Acknowledged appends.
    pub acknowledged: u64,
    /// Refused appends: a guard did not hold, or the store was unavailable.
    pub refused: u64,
    /// Appends with unknown outcome: the writer did not wait for it, or could not look it up.
    pub open: u64,
    /// Events in the log at the end, including those of other parts.
    pub committed: u64,
    /// Events of acknowledged appends that are missing from the log at the end.
    pub vanished: u64,
    /// The results of each reader.
    pub readers: Vec<ReaderReport>,
    /// Calls that failed with `Unavailable`, which is allowed.
    pub unavailable: u64,
    /// Appends that failed with `Unknown`, which is allowed. They count as acknowledged or refused if the writer
    /// could look up the outcome, and as open otherwise.
    pub unknown: u64,
    /// Number of other violations: a refused append in the log, a torn append, a head that went back, a missing
    /// version, a call without a response, and so on.
    pub fault_count: u64,
    /// Descriptions of the first violations.
    pub faults: Vec<String>,
}

/// The results of one reader, over all partitions.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ReaderReport {
    /// The handle, and the strategy of the reader.
    pub name: String,
    /// Events of the log that it received.
    pub delivered: u64,
    /// Events of the log that it passed without receiving them.
    pub lost: u64,
    /// Repeated deliveries of an event.
    pub duplicates: u64,
    /// Events that came after a later position, or after a later version of their stream.
    pub inversions: u64,
    /// Events that it received and that are not in the log.
    pub phantoms: u64,
    /// The longest time without progress while the log was known to have more events.
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
    pub(super) fn fault(seed: u64, description: &str) -> Self {
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
            faults: vec![description.to_owned()],
        }
    }

    /// Returns the number of lost events, counted for each reader.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.vanished + self.sum(|reader| reader.lost)
    }

    /// Returns the number of events out of order, counted for each reader.
    #[must_use]
    pub fn inversions(&self) -> u64 {
        self.sum(|reader| reader.inversions)
    }

    /// Returns the number of repeated deliveries, counted for each reader.
    #[must_use]
    pub fn duplicates(&self) -> u64 {
        self.sum(|reader| reader.duplicates)
    }

    /// Returns the number of received events that are not in the log, counted for each reader.
    #[must_use]
    pub fn phantoms(&self) -> u64 {
        self.sum(|reader| reader.phantoms)
    }

    /// Returns the longest time without progress of any reader; see [`ReaderReport::stall`].
    #[must_use]
    pub fn stall(&self) -> Duration {
        self.readers.iter().map(|reader| reader.stall).max().unwrap_or_default()
    }

    /// Returns whether the run found no violation.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.lost() + self.inversions() + self.duplicates() + self.phantoms() + self.fault_count == 0
    }

    /// Fails the test if the run found a violation, or if no append was acknowledged.
    ///
    /// # Panics
    /// Panics with the whole report.
    #[allow(clippy::panic, reason = "this is how a test fails")]
    pub fn assert_clean(&self) {
        if !self.is_clean() {
            panic!("the store violates its contract:\n{self}");
        }
        if self.acknowledged == 0 {
            panic!("the store acknowledged no append:\n{self}");
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
        writeln!(f, "{unknown} appends failed with Unknown, {unavailable} calls with Unavailable")?;
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
