//! A reader: follows one partition by position, and records what it receives.

use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use cqrs_core::id::{Partition, Position, StreamId, Version};
use cqrs_core::store::{EventStore, LogRead, LogSlice, Query};
use tokio::time::{Instant, sleep, timeout};

use super::run::{Random, RunState, Serial, error_chain};
use super::writer::{NAMES, TAG};

/// The strategy of a reader.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind {
    name: &'static str,
    pub(super) query: fn() -> Query,
    /// Set if it waits for new events. Otherwise it polls.
    waits: bool,
    /// Set if it continues after the last event that it received. Otherwise it continues from the position up to
    /// which the store has searched.
    plain: bool,
    /// Set if its query uses tags.
    pub(super) tags: bool,
}

pub(super) const KINDS: [Kind; 4] = [
    Kind { name: "all, polling", query: Query::all, waits: false, plain: true, tags: false },
    Kind { name: "all, waiting", query: Query::all, waits: true, plain: true, tags: false },
    Kind { name: "by name, waiting", query: by_name, waits: true, plain: false, tags: false },
    Kind { name: "by tag, polling", query: by_tag, waits: false, plain: false, tags: true },
];

fn by_name() -> Query {
    Query::names([NAMES[0]])
}

fn by_tag() -> Query {
    Query::tags([TAG.into()])
}

/// The progress of a reader, as seen by the watchdog.
#[derive(Debug)]
pub(super) struct Progress {
    partition: Partition,
    after: AtomicU64,
    done: AtomicBool,
    /// The longest stall in microseconds.
    stall: AtomicU64,
}

/// The events that a reader received.
#[derive(Debug)]
pub(super) struct Delivered {
    pub(super) name: String,
    pub(super) query: Query,
    pub(super) partition: Partition,
    pub(super) delivered: Vec<(Position, Serial)>,
    pub(super) inversions: u64,
    pub(super) stall: Duration,
}

#[derive(Debug)]
pub(super) struct Reader {
    log: Arc<dyn EventStore>,
    run: Arc<RunState>,
    kind: Kind,
    replica: bool,
    pub(super) progress: Arc<Progress>,
    random: Random,
    /// The position after which it continues.
    after: Position,
    head: Position,
    versions: HashMap<StreamId, Version>,
    got: Delivered,
}

impl Reader {
    pub(super) fn new(
        handle: &str,
        log: Arc<dyn EventStore>,
        replica: bool,
        kind: Kind,
        partition: Partition,
        run: &Arc<RunState>,
        random: Random,
    ) -> Self {
        let progress = Progress {
            partition,
            after: AtomicU64::new(0),
            done: AtomicBool::new(false),
            stall: AtomicU64::new(0),
        };
        let got = Delivered {
            name: format!("{handle}: {}", kind.name),
            query: (kind.query)(),
            partition,
            delivered: Vec::new(),
            inversions: 0,
            stall: Duration::ZERO,
        };
        Self {
            log,
            run: Arc::clone(run),
            kind,
            replica,
            progress: Arc::new(progress),
            random,
            after: Position::START,
            head: Position::START,
            versions: HashMap::new(),
            got,
        }
    }

    /// Reads until the end of the log, or until the time limit after the writers are done.
    pub(super) async fn run(mut self) -> Delivered {
        let mut deadline = None;
        loop {
            if let Some(end) = self.run.ends(self.got.partition) {
                let deadline = *deadline.get_or_insert_with(|| Instant::now() + self.run.patience);
                if self.after >= end {
                    break;
                }
                if Instant::now() > deadline {
                    self.fault(format_args!("stopped at {}, but the log ends at {end}", self.after));
                    break;
                }
            }
            let before = self.after;
            self.step().await;
            if self.after == before {
                self.wait_for_events().await;
            }
        }
        self.progress.done.store(true, Ordering::SeqCst);
        self.got.stall = Duration::from_micros(self.progress.stall.load(Ordering::SeqCst));
        self.got
    }

    async fn step(&mut self) {
        let limit = 1 + self.random.below(300) as usize;
        let read = LogRead {
            partition: self.got.partition,
            after: self.after,
            up_to: None,
            query: self.got.query.clone(),
            limit,
        };
        let floor = if self.replica { self.head } else { self.run.floor(self.got.partition) };
        match timeout(self.run.patience, self.log.read_log(read)).await {
            Ok(Ok(slice)) => self.take(&slice, floor),
            Ok(Err(error)) if self.run.tolerates(&error) => {}
            Ok(Err(error)) => self.fault(format_args!("{} ({:?})", error_chain(&error), error.kind())),
            Err(_) => self.fault(format_args!("read the log and got no response")),
        }
    }

    fn take(&mut self, slice: &LogSlice, floor: Position) {
        self.run.check_head(&self.got.name, slice.head, floor);
        self.head = self.head.max(slice.head.position);
        if !self.replica {
            self.run.raise_floor(self.got.partition, slice.head.position);
        }
        let mut last = self.got.delivered.last().map_or(Position::START, |(position, _)| *position);
        for event in &slice.events {
            let version = self.versions.entry(event.meta.stream.clone()).or_default();
            self.got.inversions += u64::from(event.meta.position < last || event.meta.version < *version);
            (*version, last) = (event.meta.version, event.meta.position);
            if let Some(serial) = Serial::of(event) {
                self.got.delivered.push((last, serial));
            }
        }
        let to = match self.kind.plain {
            true => slice.events.last().map_or(self.after, |event| event.meta.position),
            false => slice.read_to,
        };
        self.after = self.after.max(to);
        self.progress.after.store(self.after.get(), Ordering::SeqCst);
    }

    /// Waits until there may be new events.
    async fn wait_for_events(&mut self) {
        let ended = self.run.ends(self.got.partition).is_some();
        if ended || !self.kind.waits {
            return sleep(Duration::from_micros(self.random.below(4_000))).await;
        }
        // A wait may return late. If it never returns, the stall shows it.
        let mut waiting =
            pin!(timeout(Duration::from_secs(5), self.log.wait(self.got.partition, self.after)));
        let mut ended = pin!(self.run.ended());
        // After the end is known, no writer appends.
        let waited = poll_fn(|context| match ended.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Ok(Ok(()))),
            Poll::Pending => waiting.as_mut().poll(context),
        });
        if let Ok(Err(error)) = waited.await {
            if !self.run.tolerates(&error) {
                self.fault(format_args!("failed to wait: {} ({:?})", error_chain(&error), error.kind()));
            }
            sleep(Duration::from_millis(5)).await;
        }
    }

    fn fault(&self, description: std::fmt::Arguments<'_>) {
        self.run.fault(format!("{} {description}", self.got.name));
    }
}

/// Records for each reader the longest time without progress while the log was known to have more events.
pub(super) async fn watch(run: Arc<RunState>, readers: Vec<Arc<Progress>>) {
    let mut since: Vec<(u64, Option<Instant>)> = vec![(0, None); readers.len()];
    loop {
        for (reader, (at, behind)) in readers.iter().zip(&mut since) {
            let after = reader.after.load(Ordering::SeqCst);
            let known = run.floor(reader.partition).get();
            if after != *at || after >= known || reader.done.load(Ordering::SeqCst) {
                (*at, *behind) = (after, None);
                continue;
            }
            let stall = behind.get_or_insert_with(Instant::now).elapsed().as_micros();
            reader.stall.fetch_max(u64::try_from(stall).unwrap_or(u64::MAX), Ordering::SeqCst);
        }
        sleep(Duration::from_millis(2)).await;
    }
}
