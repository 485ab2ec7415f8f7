//! The audit at the end of a run: compares the log with what writers and readers saw.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::Ordering;

use cqrs_core::event::RecordedEvent;
use cqrs_core::id::{Partition, Position, StreamId, Version};
use cqrs_core::store::{EventStore, LogRead, Query};

use super::reader::{Delivered, KINDS};
use super::report::{ReaderReport, Report};
use super::run::{RunState, Serial};
use super::writer::{AppendOutcome, Outcome};

/// The log up to the end that was fixed for the readers.
#[derive(Debug, Default)]
pub(super) struct Audit {
    entries: Vec<Entry>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    partition: Partition,
    position: Position,
    serial: Serial,
    /// For each kind of reader, whether its query matches the event.
    matches: [bool; KINDS.len()],
}

impl Audit {
    pub(super) async fn read(log: &dyn EventStore, run: &RunState) -> Self {
        let mut audit = Self::default();
        for partition in run.partitions() {
            let end = run.ends(partition).unwrap_or_default();
            let mut order = Order { gapless: run.gapless, ..Order::default() };
            let mut after = Position::START;
            while after < end {
                let read = LogRead { partition, after, up_to: Some(end), query: Query::all(), limit: 1_000 };
                let slice = run.retried("read the whole log", || log.read_log(read.clone())).await;
                let Some(slice) = slice else { break };
                if slice.read_to <= after {
                    run.fault(format!("the log ends at {end}, but can only be read to {after}"));
                    break;
                }
                for event in &slice.events {
                    order.check(event, run);
                    audit.keep(event, partition, run);
                }
                after = slice.read_to;
            }
        }
        audit
    }

    fn keep(&mut self, event: &RecordedEvent, partition: Partition, run: &RunState) {
        let position = event.meta.position;
        let Some(serial) = Serial::of(event) else {
            return run.fault(format!("the event at {position} was not written by the adversary"));
        };
        let matches = KINDS.map(|kind| (kind.query)().matches(&event.name, &event.tags));
        self.entries.push(Entry { partition, position, serial, matches });
    }

    pub(super) fn report(
        self,
        seed: u64,
        run: &RunState,
        outcomes: &[AppendOutcome],
        read: Vec<Delivered>,
    ) -> Report {
        self.check_appends(run);
        let vanished = self.check_outcomes(outcomes, run);
        let mut readers: BTreeMap<String, ReaderReport> = BTreeMap::new();
        for got in read {
            let report = self.compare(&got, run.ends(got.partition).unwrap_or_default());
            readers.entry(got.name).or_default().add(&report);
        }
        let readers = readers.into_iter().map(|(name, report)| ReaderReport { name, ..report });
        let count = |wanted: fn(&Outcome) -> bool| {
            outcomes.iter().filter(|append| wanted(&append.outcome)).count() as u64
        };
        let (fault_count, faults) = run.faults();
        Report {
            seed,
            acknowledged: count(|outcome| matches!(outcome, Outcome::Written(..))),
            refused: count(|outcome| *outcome == Outcome::Refused),
            open: count(|outcome| *outcome == Outcome::Open),
            committed: self.entries.len() as u64,
            vanished,
            readers: readers.collect(),
            unavailable: run.unavailable.load(Ordering::Relaxed),
            unknown: run.unknown.load(Ordering::Relaxed),
            fault_count: fault_count as u64,
            faults,
        }
    }

    /// Checks that the events of each append are complete, consecutive, and in order.
    fn check_appends(&self, run: &RunState) {
        let (mut at, mut torn) = (0, HashSet::new());
        while let Some(first) = self.entries.get(at) {
            let of = usize::from(first.serial.of).max(1);
            let part = self.entries.get(at..at + of).unwrap_or(&[]);
            let follows = |(index, entry): (u16, &Entry)| {
                entry.serial == Serial { index, ..first.serial } && entry.partition == first.partition
            };
            if !part.is_empty() && (0..).zip(part).all(follows) {
                at += of;
                continue;
            }
            at += 1;
            let Serial { writer, number, .. } = first.serial;
            if torn.insert((writer, number)) {
                let place = first.position;
                run.fault(format!("append {writer}/{number} is torn or interleaved at {place}"));
            }
        }
    }

    /// Checks the outcomes that writers saw, and returns the number of missing events of acknowledged appends.
    fn check_outcomes(&self, outcomes: &[AppendOutcome], run: &RunState) -> u64 {
        let mut there: HashMap<(u32, u32), (u16, Partition, Position)> = HashMap::new();
        for Entry { partition, position, serial, .. } in &self.entries {
            let append = there.entry((serial.writer, serial.number)).or_insert((0, *partition, *position));
            *append = (append.0 + 1, *partition, *position);
        }
        let mut vanished = 0;
        for AppendOutcome { writer, number, events, outcome } in outcomes {
            let found = there.get(&(*writer, *number)).copied();
            let count = found.map_or(0, |(count, ..)| count);
            vanished += match outcome {
                Outcome::Written(..) => u64::from(events.saturating_sub(count)),
                Outcome::Refused | Outcome::Open => 0,
            };
            let name = format_args!("append {writer}/{number}").to_string();
            match (outcome, found) {
                (Outcome::Written(partition, position), Some((_, there, last)))
                    if (*partition, *position) != (there, last) =>
                {
                    run.fault(format!(
                        "{name} was acknowledged with the position {position}, but ends at {last}"
                    ));
                }
                (Outcome::Written(_, position), None) => {
                    run.fault(format!("{name} was acknowledged at {position}, but is not in the log"));
                }
                (Outcome::Refused, Some((_, _, last))) => {
                    run.fault(format!("{name} was refused, but is in the log at {last}"));
                }
                _ if count > *events => run.fault(format!("{name} is in the log more than once")),
                _ => {}
            }
        }
        vanished
    }

    /// Compares what a reader received with the log, up to its end. The reader may have read further.
    fn compare(&self, got: &Delivered, end: Position) -> ReaderReport {
        let kind = KINDS.iter().position(|kind| (kind.query)() == got.query).unwrap_or_default();
        let wanted = |entry: &&Entry| entry.partition == got.partition && entry.matches[kind];
        let expected: Vec<_> =
            self.entries.iter().filter(wanted).map(|entry| (entry.position, entry.serial)).collect();
        let mut delivered: Vec<_> =
            got.delivered.iter().filter(|(position, _)| *position <= end).copied().collect();
        delivered.sort_unstable();
        let given = delivered.len();
        delivered.dedup();
        let found = delivered.iter().filter(|event| expected.binary_search(event).is_ok()).count();
        ReaderReport {
            name: String::new(),
            delivered: found as u64,
            lost: (expected.len() - found) as u64,
            duplicates: (given - delivered.len()) as u64,
            inversions: got.inversions,
            phantoms: (delivered.len() - found) as u64,
            stall: got.stall,
        }
    }
}

/// Checks the order of one partition while it is read from the start.
#[derive(Debug, Default)]
struct Order {
    gapless: bool,
    last: Position,
    versions: HashMap<StreamId, Version>,
}

impl Order {
    fn check(&mut self, event: &RecordedEvent, run: &RunState) {
        let meta = &event.meta;
        let next = self.last.next();
        if meta.position < next || (self.gapless && meta.position != next) {
            run.fault(format!("in the log, position {} is followed by {}", self.last, meta.position));
        }
        self.last = meta.position;
        let version = self.versions.entry(meta.stream.clone()).or_default();
        if meta.version != version.next() {
            run.fault(format!("in {}, version {version} is followed by {}", meta.stream, meta.version));
        }
        *version = meta.version;
    }
}
