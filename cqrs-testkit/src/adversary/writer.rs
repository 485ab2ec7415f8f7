//! A writer: makes one append of any kind after another, and records the outcomes.

use std::sync::atomic::Ordering;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use cqrs_core::context::{IdSource as _, TimeOrderedIds};
use cqrs_core::error::StoreErrorKind;
use cqrs_core::event::{Metadata, NewEvent, RecordedEvent, Tag, Timestamp};
use cqrs_core::id::{Partition, Position, StreamId, Version};
use cqrs_core::store::{
    Append, AppendError, Appended, CommandKey, Direction, EventStore, Expected, Guard, Reservation,
    StreamRead,
};

use tokio::time::timeout;

use super::run::{Random, RunState, Serial, error_chain};

/// The event names and the tag that readers query.
pub(super) const NAMES: [&str; 2] = ["Even", "Odd"];
pub(super) const TAG: &str = "third:1";

/// Number of streams that all writers of a partition share.
const SHARED: usize = 3;

/// The outcome of one append, as the writer saw it.
#[derive(Clone, Copy, Debug)]
pub(super) struct AppendOutcome {
    pub(super) writer: u32,
    pub(super) number: u32,
    pub(super) events: u16,
    pub(super) outcome: Outcome,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is in the log, and its last event is at this position.
    Written(Partition, Position),
    /// It is not in the log, and never will be.
    Refused,
    /// Unknown: the writer dropped the future, or got no response. The append is complete or absent.
    Open,
}

#[derive(Debug)]
pub(super) struct Writer {
    id: u32,
    log: Arc<dyn EventStore>,
    run: Arc<RunState>,
    random: Random,
    own: StreamId,
    /// The last known version of its own stream.
    version: Version,
    shared: Vec<StreamId>,
    outcomes: Vec<AppendOutcome>,
}

/// The properties of an append that are needed to classify its outcome.
struct AppendInfo {
    number: u32,
    streams: Vec<StreamId>,
    key: Option<CommandKey>,
    /// It has no guard.
    unguarded: bool,
    must_conflict: bool,
}

/// A prepared append.
struct Attempt {
    number: u32,
    append: Append,
    /// Its guard cannot hold.
    must_conflict: bool,
}

impl Writer {
    pub(super) fn new(id: u32, log: Arc<dyn EventStore>, run: Arc<RunState>, random: Random) -> Self {
        let own = stream(&format!("Writer/{id}"));
        let partition = log.partition_of(&own);
        let near = |stream: &StreamId| log.partition_of(stream) == partition;
        let shared = (0..1_000).map(|at| stream(&format!("Shared/{at}"))).filter(near).take(SHARED).collect();
        Self { id, log, run, random, own, version: Version::NONE, shared, outcomes: Vec::new() }
    }

    pub(super) async fn run(mut self, appends: u64) -> Vec<AppendOutcome> {
        for number in 0..appends {
            self.pause().await;
            let attempt = self.prepare(number as u32).await;
            self.attempt(attempt).await;
        }
        self.outcomes
    }

    /// Pauses between appends: mostly not at all, so that appends race; sometimes longer than most commits.
    async fn pause(&mut self) {
        match self.random.below(20) {
            0 => tokio::time::sleep(Duration::from_millis(self.random.below(20))).await,
            1..5 => tokio::time::sleep(Duration::from_micros(self.random.below(2_000))).await,
            5..10 => tokio::task::yield_now().await,
            _ => {}
        }
    }

    async fn prepare(&mut self, number: u32) -> Attempt {
        let own = self.own.clone();
        let at = |version: Version| Guard::stream(own.clone(), Expected::Version(version));
        let kind = self.random.below(100);
        let (streams, guard) = match kind {
            0..35 => (vec![own.clone(); 1 + self.random.below(3) as usize], Guard::Any),
            35..65 => (vec![own.clone()], at(self.version)),
            65..80 => (self.several(), at(self.version)),
            80..95 => self.race().await,
            _ => (vec![own.clone()], at(Version::new(self.version.get() + 1_000_000))),
        };
        let of = streams.len() as u16;
        let serial = |index| Serial { writer: self.id, number, index, of };
        let events = (0..).zip(streams).map(|(index, stream)| event(serial(index), stream)).collect();
        let key = CommandKey { stream: self.own.clone(), key: format!("{}-{number}", self.id) };
        let key = self.random.percent(50).then_some(key);
        Attempt { number, append: Append::new(events, guard).with_key(key), must_conflict: kind >= 95 }
    }

    /// Appends to the current version of a shared stream, in a race with other writers.
    async fn race(&mut self) -> (Vec<StreamId>, Guard) {
        let shared = self.one_shared();
        let version = self.version_of(&shared).await;
        self.pause().await;
        (vec![shared.clone()], Guard::stream(shared, Expected::Version(version)))
    }

    /// Returns its own stream and shared ones, if one append may write to several.
    fn several(&mut self) -> Vec<StreamId> {
        if !self.log.capabilities().multi_stream_append {
            return vec![self.own.clone()];
        }
        let (first, second) = (self.one_shared(), self.one_shared());
        vec![first, self.own.clone(), second]
    }

    fn one_shared(&mut self) -> StreamId {
        let at = self.random.below(self.shared.len().max(1) as u64) as usize;
        self.shared.get(at).unwrap_or(&self.own).clone()
    }

    async fn attempt(&mut self, Attempt { number, append, must_conflict }: Attempt) {
        let events = append.events.len() as u16;
        let impatient = self.random.percent(3).then(|| Duration::from_micros(self.random.below(3_000)));
        let again = (append.key.is_some() && self.random.percent(10)).then(|| append.clone());
        let info = AppendInfo {
            number,
            streams: append.events.iter().map(|event| event.stream.clone()).collect(),
            key: append.key.clone(),
            unguarded: append.guard == Guard::Any,
            must_conflict,
        };
        let patience = impatient.unwrap_or(self.run.patience);
        let turn = self.turn().await;
        let appending = match turn {
            Some(turn) => turn.append(append),
            None => self.log.append(append),
        };
        let outcome = match timeout(patience, appending).await {
            Ok(answer) => self.classify(&info, answer).await,
            Err(_) if impatient.is_some() => Outcome::Open,
            Err(_) => {
                self.fault(number, format_args!("got no response within {patience:?}"));
                Outcome::Open
            }
        };
        if !matches!(outcome, Outcome::Written(..)) {
            self.version = self.version_of(&self.own).await;
        }
        self.outcomes.push(AppendOutcome { writer: self.id, number, events, outcome });
        if let (Some(again), Outcome::Written(_, position)) = (again, outcome) {
            self.repeat(again, number, position).await;
        }
    }

    /// Sometimes reserves a turn, and holds it for a while or does not use it.
    async fn turn(&mut self) -> Option<Reservation> {
        if !self.log.capabilities().reservations || !self.random.percent(4) {
            return None;
        }
        let reserve = || self.log.reserve(&self.own);
        let turn = self.run.retried("a turn", reserve).await.flatten();
        self.pause().await;
        turn.filter(|_| self.random.percent(80))
    }

    /// Converts a response to an outcome, and records a fault if the response is not allowed.
    async fn classify(&mut self, info: &AppendInfo, answer: Result<Appended, AppendError>) -> Outcome {
        let error = match answer {
            Ok(appended) => {
                if info.must_conflict {
                    self.fault(info.number, format_args!("has a guard that cannot hold, but was accepted"));
                }
                return self.written(&appended);
            }
            Err(AppendError::Store(error)) => error,
            Err(AppendError::Conflict(_)) if !info.unguarded => return Outcome::Refused,
            Err(other) => {
                self.fault(info.number, format_args!("got a response that is not allowed: {other}"));
                return Outcome::Refused;
            }
        };
        if error.kind() == StoreErrorKind::Unknown {
            return self.resolve_unknown(info).await;
        }
        if !self.run.tolerates(&error) {
            self.fault(info.number, format_args!("{} ({:?})", error_chain(&error), error.kind()));
        }
        Outcome::Refused
    }

    fn written(&mut self, appended: &Appended) -> Outcome {
        self.run.check_log_id(appended.log);
        self.run.raise_floor(appended.partition, appended.position);
        self.version = appended.version_of(&self.own).unwrap_or(self.version);
        Outcome::Written(appended.partition, appended.position)
    }

    /// Repeats an append with its key, which must return the first result.
    async fn repeat(&self, append: Append, number: u32, position: Position) {
        match timeout(self.run.patience, self.log.append(append)).await {
            Ok(Err(AppendError::Duplicate(first))) if first.position == position => {}
            Ok(Err(AppendError::Store(error)))
                if error.kind() == StoreErrorKind::Unknown || self.run.tolerates(&error) => {}
            other => {
                self.fault(number, format_args!("is at {position}, was repeated, and got {other:?}"));
            }
        }
    }

    /// Looks up the outcome of an append after `Unknown`, by its key or in its stream. Without either, it stays open.
    async fn resolve_unknown(&mut self, info: &AppendInfo) -> Outcome {
        self.run.unknown.fetch_add(1, Ordering::Relaxed);
        if let Some(key) = &info.key {
            let found =
                self.run.retried("look up a key after an unknown outcome", || self.log.find_key(key)).await;
            return match found {
                Some(Some(first)) => self.written(&first),
                Some(None) => Outcome::Refused,
                None => Outcome::Open,
            };
        }
        if !info.streams.contains(&self.own) {
            return Outcome::Open;
        }
        let read = || self.log.read_stream(self.last(&self.own, 20));
        let slice = self.run.retried("read a stream after an unknown outcome", read).await;
        let Some(slice) = slice else { return Outcome::Open };
        let mine = |event: &&Arc<RecordedEvent>| {
            Serial::of(event).is_some_and(|serial| (serial.writer, serial.number) == (self.id, info.number))
        };
        match slice.events.iter().find(mine) {
            // Its own stream does not show where the last event of the append is.
            Some(_) if info.streams.iter().any(|stream| *stream != self.own) => Outcome::Open,
            Some(event) => Outcome::Written(event.meta.partition, event.meta.position),
            None => Outcome::Refused,
        }
    }

    fn fault(&self, number: u32, description: std::fmt::Arguments<'_>) {
        self.run.fault(format!("append {}/{number} {description}", self.id));
    }

    async fn version_of(&self, stream: &StreamId) -> Version {
        let read = || self.log.read_stream(self.last(stream, 1));
        let slice = self.run.retried("read a stream's version", read).await;
        slice.map_or(Version::NONE, |slice| slice.version)
    }

    fn last(&self, stream: &StreamId, limit: usize) -> StreamRead {
        let (from, direction) = (Version::new(u64::MAX), Direction::Backward);
        StreamRead { stream: stream.clone(), from, direction, limit }
    }
}

fn event(serial: Serial, stream: StreamId) -> NewEvent {
    static IDS: LazyLock<TimeOrderedIds> = LazyLock::new(TimeOrderedIds::default);
    let time = Timestamp::now();
    let name = NAMES[(serial.number + u32::from(serial.index)) as usize % NAMES.len()];
    NewEvent {
        id: IDS.next(time),
        stream,
        name: name.into(),
        schema_version: 1,
        payload: Bytes::from(serial.to_string()),
        tags: [Tag::new("third", &(serial.number % 3))].into_iter().collect(),
        time,
        metadata: Arc::new(Metadata::new()),
    }
}

#[allow(clippy::expect_used, reason = "the names above are good ones")]
fn stream(name: &str) -> StreamId {
    name.parse().expect("a category and an id")
}
