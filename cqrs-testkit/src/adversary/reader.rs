//! A reader: follows one partition by position, and keeps what it was given.

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

use super::ground::{Ground, Random, Serial, whole};
use super::writer::{NAMES, TAG};

/// How a reader goes about it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind {
    name: &'static str,
    pub(super) query: fn() -> Query,
    /// Whether it waits for news, or looks again after a pause.
    waits: bool,
    /// Whether it goes on behind the last event that it was given, or from where the store says that it
    /// has looked.
    plain: bool,
    /// Whether it asks for tags.
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

/// How far a reader is, for whoever watches it.
#[derive(Debug)]
pub(super) struct Progress {
    partition: Partition,
    after: AtomicU64,
    done: AtomicBool,
    /// In microseconds.
    stall: AtomicU64,
}

/// What a reader was given.
#[derive(Debug)]
pub(super) struct Got {
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
    ground: Arc<Ground>,
    kind: Kind,
    replica: bool,
    pub(super) progress: Arc<Progress>,
    random: Random,
    /// Behind which it reads on.
    after: Position,
    head: Position,
    versions: HashMap<StreamId, Version>,
    got: Got,
}

impl Reader {
    pub(super) fn new(
        handle: &str,
        log: Arc<dyn EventStore>,
        replica: bool,
        kind: Kind,
        partition: Partition,
        ground: &Arc<Ground>,
        random: Random,
    ) -> Self {
        let progress = Progress {
            partition,
            after: AtomicU64::new(0),
            done: AtomicBool::new(false),
            stall: AtomicU64::new(0),
        };
        let got = Got {
            name: format!("{handle}: {}", kind.name),
            query: (kind.query)(),
            partition,
            delivered: Vec::new(),
            inversions: 0,
            stall: Duration::ZERO,
        };
        Self {
            log,
            ground: Arc::clone(ground),
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

    /// Reads until the end that the ground will have, or for as long behind that as there is patience.
    pub(super) async fn run(mut self) -> Got {
        let mut deadline = None;
        loop {
            if let Some(end) = self.ground.ends(self.got.partition) {
                let deadline = *deadline.get_or_insert_with(|| Instant::now() + self.ground.patience);
                if self.after >= end {
                    break;
                }
                if Instant::now() > deadline {
                    self.fault(format_args!("stands at {}, and the log ends at {end}", self.after));
                    break;
                }
            }
            let before = self.after;
            self.step().await;
            if self.after == before {
                self.rest().await;
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
        let floor = if self.replica { self.head } else { self.ground.floor(self.got.partition) };
        match timeout(self.ground.patience, self.log.read_log(read)).await {
            Ok(Ok(slice)) => self.take(&slice, floor),
            Ok(Err(error)) if self.ground.tolerates(&error) => {}
            Ok(Err(error)) => self.fault(format_args!("{} ({:?})", whole(&error), error.kind())),
            Err(_) => self.fault(format_args!("read the log, and had no answer")),
        }
    }

    fn take(&mut self, slice: &LogSlice, floor: Position) {
        self.ground.shown(&self.got.name, slice.head, floor);
        self.head = self.head.max(slice.head.position);
        if !self.replica {
            self.ground.reached(self.got.partition, slice.head.position);
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

    /// Until there may be news.
    async fn rest(&mut self) {
        let ended = self.ground.ends(self.got.partition).is_some();
        if ended || !self.kind.waits {
            return sleep(Duration::from_micros(self.random.below(4_000))).await;
        }
        // A wait may return late. If it never does, the stall shows it.
        let mut waiting =
            pin!(timeout(Duration::from_secs(5), self.log.wait(self.got.partition, self.after)));
        let mut ended = pin!(self.ground.ended());
        // Nobody appends any more once the end is known.
        let waited = poll_fn(|context| match ended.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Ok(Ok(()))),
            Poll::Pending => waiting.as_mut().poll(context),
        });
        if let Ok(Err(error)) = waited.await {
            if !self.ground.tolerates(&error) {
                self.fault(format_args!("waited: {} ({:?})", whole(&error), error.kind()));
            }
            sleep(Duration::from_millis(5)).await;
        }
    }

    fn fault(&self, words: std::fmt::Arguments<'_>) {
        self.ground.fault(format!("{} {words}", self.got.name));
    }
}

/// Notes for how long each reader stands still at most while it is behind what is known to be there.
pub(super) async fn watch(ground: Arc<Ground>, readers: Vec<Arc<Progress>>) {
    let mut since: Vec<(u64, Option<Instant>)> = vec![(0, None); readers.len()];
    loop {
        for (reader, (at, behind)) in readers.iter().zip(&mut since) {
            let after = reader.after.load(Ordering::SeqCst);
            let known = ground.floor(reader.partition).get();
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
