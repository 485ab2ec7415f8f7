//! What the log holds in the end, and what does not agree with it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::Ordering;

use cqrs_core::event::RecordedEvent;
use cqrs_core::id::{Partition, Position, StreamId, Version};
use cqrs_core::store::{EventStore, LogRead, Query};

use super::ground::{Ground, Serial};
use super::reader::{Got, KINDS};
use super::report::{ReaderReport, Report};
use super::writer::{Fate, Told};

/// The log up to where it ended for the readers.
#[derive(Debug, Default)]
pub(super) struct Audit {
    entries: Vec<Entry>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    partition: Partition,
    position: Position,
    serial: Serial,
    /// Which of the readers' queries it matches.
    matches: [bool; KINDS.len()],
}

impl Audit {
    pub(super) async fn read(log: &dyn EventStore, ground: &Ground) -> Self {
        let mut audit = Self::default();
        for partition in ground.partitions() {
            let end = ground.ends(partition).unwrap_or_default();
            let mut order = Order { gapless: ground.gapless, ..Order::default() };
            let mut after = Position::START;
            while after < end {
                let read = LogRead { partition, after, up_to: Some(end), query: Query::all(), limit: 1_000 };
                let slice = ground.retried("the whole log", || log.read_log(read.clone())).await;
                let Some(slice) = slice else { break };
                if slice.read_to <= after {
                    ground.fault(format!("the log ends at {end}, but is read to {after} only"));
                    break;
                }
                for event in &slice.events {
                    order.check(event, ground);
                    audit.keep(event, partition, ground);
                }
                after = slice.read_to;
            }
        }
        audit
    }

    fn keep(&mut self, event: &RecordedEvent, partition: Partition, ground: &Ground) {
        let position = event.meta.position;
        let Some(serial) = Serial::of(event) else {
            return ground.fault(format!("the event at {position} is none of the adversary's"));
        };
        let matches = KINDS.map(|kind| (kind.query)().matches(&event.name, &event.tags));
        self.entries.push(Entry { partition, position, serial, matches });
    }

    pub(super) fn report(self, seed: u64, ground: &Ground, told: &[Told], read: Vec<Got>) -> Report {
        self.whole(ground);
        let vanished = self.hold(told, ground);
        let mut readers: BTreeMap<String, ReaderReport> = BTreeMap::new();
        for got in read {
            let report = self.compare(&got, ground.ends(got.partition).unwrap_or_default());
            readers.entry(got.name).or_default().add(&report);
        }
        let readers = readers.into_iter().map(|(name, report)| ReaderReport { name, ..report });
        let count = |wanted: fn(&Fate) -> bool| told.iter().filter(|told| wanted(&told.fate)).count() as u64;
        let (fault_count, faults) = ground.faults();
        Report {
            seed,
            acknowledged: count(|fate| matches!(fate, Fate::Written(..))),
            refused: count(|fate| *fate == Fate::Refused),
            open: count(|fate| *fate == Fate::Open),
            committed: self.entries.len() as u64,
            vanished,
            readers: readers.collect(),
            unavailable: ground.unavailable.load(Ordering::Relaxed),
            unknown: ground.unknown.load(Ordering::Relaxed),
            fault_count: fault_count as u64,
            faults,
        }
    }

    /// The events of each append are all there, beside each other in their order.
    fn whole(&self, ground: &Ground) {
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
                ground.fault(format!("append {writer}/{number} is torn, or others are in it, at {place}"));
            }
        }
    }

    /// Holds what writers were told against the log, and counts the events of acknowledged appends that
    /// are not there.
    fn hold(&self, told: &[Told], ground: &Ground) -> u64 {
        let mut there: HashMap<(u32, u32), (u16, Partition, Position)> = HashMap::new();
        for Entry { partition, position, serial, .. } in &self.entries {
            let append = there.entry((serial.writer, serial.number)).or_insert((0, *partition, *position));
            *append = (append.0 + 1, *partition, *position);
        }
        let mut vanished = 0;
        for Told { writer, number, events, fate } in told {
            let found = there.get(&(*writer, *number)).copied();
            let count = found.map_or(0, |(count, ..)| count);
            vanished += match fate {
                Fate::Written(..) => u64::from(events.saturating_sub(count)),
                Fate::Refused | Fate::Open => 0,
            };
            let name = format_args!("append {writer}/{number}").to_string();
            match (fate, found) {
                (Fate::Written(partition, position), Some((_, there, last)))
                    if (*partition, *position) != (there, last) =>
                {
                    ground.fault(format!("{name} was said to end at {position}, and ends at {last}"));
                }
                (Fate::Written(_, position), None) => {
                    ground.fault(format!("{name} was acknowledged at {position}, and is not in the log"));
                }
                (Fate::Refused, Some((_, _, last))) => {
                    ground.fault(format!("{name} was refused, and is in the log at {last}"));
                }
                _ if count > *events => ground.fault(format!("{name} is in the log more than once")),
                _ => {}
            }
        }
        vanished
    }

    /// Up to where the log ended; a reader may have gone on behind that.
    fn compare(&self, got: &Got, end: Position) -> ReaderReport {
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

/// The order of one partition as it is read from the beginning.
#[derive(Debug, Default)]
struct Order {
    gapless: bool,
    last: Position,
    versions: HashMap<StreamId, Version>,
}

impl Order {
    fn check(&mut self, event: &RecordedEvent, ground: &Ground) {
        let meta = &event.meta;
        let next = self.last.next();
        if meta.position < next || (self.gapless && meta.position != next) {
            ground.fault(format!("behind position {} of the log comes {}", self.last, meta.position));
        }
        self.last = meta.position;
        let version = self.versions.entry(meta.stream.clone()).or_default();
        if meta.version != version.next() {
            ground.fault(format!("{} goes on from version {version} with {}", meta.stream, meta.version));
        }
        *version = meta.version;
    }
}
