//! The state that writers and readers of a run share.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use cqrs_core::event::RecordedEvent;
use cqrs_core::id::{Partition, Position};
use cqrs_core::store::{EventStore, Head, LogId};
use tokio::sync::watch;

/// Maximum number of faults that are described. All are counted.
const MAX_DESCRIPTIONS: usize = 20;

#[derive(Debug)]
pub(super) struct RunState {
    pub(super) patience: Duration,
    pub(super) gapless: bool,
    /// For each partition, the highest position that any task has seen.
    heads: Vec<AtomicU64>,
    /// For each partition, the end of the log for the readers. Set when the writers are done.
    ends: Vec<AtomicU64>,
    ended: watch::Sender<bool>,
    id: OnceLock<LogId>,
    faults: Mutex<(usize, Vec<String>)>,
    /// Calls that failed with `Unavailable`.
    pub(super) unavailable: AtomicU64,
    /// Appends that failed with `Unknown`.
    pub(super) unknown: AtomicU64,
}

impl RunState {
    pub(super) fn new(log: &dyn EventStore, patience: Duration) -> Self {
        let capabilities = log.capabilities();
        let zeros = || (0..capabilities.partitions).map(|_| AtomicU64::new(0)).collect();
        Self {
            patience,
            gapless: capabilities.gapless_positions,
            heads: zeros(),
            ends: zeros(),
            ended: watch::Sender::new(false),
            id: OnceLock::new(),
            faults: Mutex::default(),
            unavailable: AtomicU64::new(0),
            unknown: AtomicU64::new(0),
        }
    }

    pub(super) fn partitions(&self) -> impl Iterator<Item = Partition> + use<> {
        (0..self.heads.len() as u16).map(Partition::new)
    }

    /// Records a violation of the contract.
    pub(super) fn fault(&self, description: String) {
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        faults.0 += 1;
        if faults.1.len() < MAX_DESCRIPTIONS {
            faults.1.push(description);
        }
    }

    /// Returns the number of faults, and descriptions of the first ones.
    pub(super) fn faults(&self) -> (usize, Vec<String>) {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns a position that the log has already reached. A call that starts now must not report less.
    pub(super) fn floor(&self, partition: Partition) -> Position {
        let head = self.heads.get(usize::from(partition.get()));
        Position::new(head.map_or(0, |head| head.load(Ordering::SeqCst)))
    }

    /// Records that a task has seen this position.
    pub(super) fn raise_floor(&self, partition: Partition, position: Position) {
        if let Some(head) = self.heads.get(usize::from(partition.get())) {
            head.fetch_max(position.get(), Ordering::SeqCst);
        }
    }

    /// Checks that the log keeps its id. It changes only when a log is rewound.
    pub(super) fn check_log_id(&self, id: LogId) {
        let first = *self.id.get_or_init(|| id);
        if first != id {
            self.fault(format!("the log id changed from {first} to {id}"));
        }
    }

    /// Checks the head that a call returned. When the call started, the log had reached `floor`.
    pub(super) fn check_head(&self, who: &str, head: Head, floor: Position) {
        self.check_log_id(head.log);
        if head.position < floor {
            self.fault(format!(
                "{who} was shown the head {}, below the known position {floor}",
                head.position
            ));
        }
    }

    /// Fixes the end of the log for the readers.
    pub(super) async fn end(&self, log: &dyn EventStore) {
        for (partition, end) in self.partitions().zip(&self.ends) {
            let head = self.retried("read the log's head", || log.head(partition)).await;
            let position = head.map_or(Position::START, |head| head.position);
            self.raise_floor(partition, position);
            end.store(self.floor(partition).get(), Ordering::SeqCst);
        }
        self.ended.send_replace(true);
    }

    /// Returns the end of the log for the readers, once the writers are done.
    pub(super) fn ends(&self, partition: Partition) -> Option<Position> {
        let end = self.ends.get(usize::from(partition.get()))?;
        self.ended.borrow().then(|| Position::new(end.load(Ordering::SeqCst)))
    }

    /// Waits until the end of the log is fixed.
    pub(super) async fn ended(&self) {
        // The sender lives as long as `self`.
        let _ = self.ended.subscribe().wait_for(|ended| *ended).await;
    }

    /// Calls the store, and retries while it is unavailable. Returns `None` and records a fault if that takes too
    /// long or fails in another way.
    pub(super) async fn retried<T, F>(&self, what: &str, call: impl Fn() -> F) -> Option<T>
    where
        F: Future<Output = Result<T, cqrs_core::error::StoreError>>,
    {
        let begun = tokio::time::Instant::now();
        loop {
            let error = match tokio::time::timeout(self.patience, call()).await {
                Ok(Ok(done)) => return Some(done),
                Ok(Err(error)) => error,
                Err(_) => {
                    self.fault(format!("{what}: no response within {:?}", self.patience));
                    return None;
                }
            };
            if !self.tolerates(&error) || begun.elapsed() > self.patience {
                self.fault(format!("{what}: {} ({:?})", error_chain(&error), error.kind()));
                return None;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Returns whether a store may return this error under load, and counts it.
    pub(super) fn tolerates(&self, error: &cqrs_core::error::StoreError) -> bool {
        let tolerable = error.kind() == cqrs_core::error::StoreErrorKind::Unavailable;
        self.unavailable.fetch_add(u64::from(tolerable), Ordering::Relaxed);
        tolerable
    }
}

/// Formats an error with its causes.
pub(super) fn error_chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Identifies an event of a run. It is the event's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Serial {
    pub(super) writer: u32,
    /// The append of the writer, counted from 0.
    pub(super) number: u32,
    /// The event of the append, counted from 0, and the number of events in that append.
    pub(super) index: u16,
    pub(super) of: u16,
}

impl Serial {
    pub(super) fn of(event: &RecordedEvent) -> Option<Self> {
        let text = std::str::from_utf8(&event.payload).ok()?;
        let mut parts = text.split('/');
        let serial = Self {
            writer: parts.next()?.parse().ok()?,
            number: parts.next()?.parse().ok()?,
            index: parts.next()?.parse().ok()?,
            of: parts.next()?.parse().ok()?,
        };
        parts.next().is_none().then_some(serial)
    }
}

impl std::fmt::Display for Serial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}/{}", self.writer, self.number, self.index, self.of)
    }
}

/// A deterministic random number generator (SplitMix64).
#[derive(Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number below `end`, which must be at least 1.
    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// Returns `true` with this probability in percent.
    pub(super) fn percent(&mut self, often: u64) -> bool {
        self.below(100) < often
    }
}

pub(super) fn any_seed() -> u64 {
    // The upper half of a UUID contains the fixed bits of its version.
    uuid::Uuid::new_v4().as_u128() as u64 & 0xffff_ffff
}
