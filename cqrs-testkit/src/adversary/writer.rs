//! A writer: appends of all kinds, one after the other, and what it was told of each.

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

use super::ground::{Ground, Random, Serial, whole};

/// The names and the tag that readers ask for.
pub(super) const NAMES: [&str; 2] = ["Even", "Odd"];
pub(super) const TAG: &str = "third:1";

/// How many streams all writers of a partition share.
const SHARED: usize = 3;

/// What a writer was told of one append.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told {
    pub(super) writer: u32,
    pub(super) number: u32,
    pub(super) events: u16,
    pub(super) fate: Fate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is in the log, and its last event is here.
    Written(Partition, Position),
    /// It is not in the log, and never will be.
    Refused,
    /// Nobody waited for the answer, or there was none: it is there as a whole or not at all.
    Open,
}

#[derive(Debug)]
pub(super) struct Writer {
    id: u32,
    log: Arc<dyn EventStore>,
    ground: Arc<Ground>,
    random: Random,
    own: StreamId,
    /// The version of its own stream, as far as it knows.
    version: Version,
    shared: Vec<StreamId>,
    told: Vec<Told>,
}

/// What was asked of the store, and is needed to judge its answer.
struct Asked {
    number: u32,
    streams: Vec<StreamId>,
    key: Option<CommandKey>,
    /// Without a guard.
    free: bool,
    hopeless: bool,
}

/// One append, ready to be made.
struct Attempt {
    number: u32,
    append: Append,
    /// A guard that cannot hold.
    hopeless: bool,
}

impl Writer {
    pub(super) fn new(id: u32, log: Arc<dyn EventStore>, ground: Arc<Ground>, random: Random) -> Self {
        let own = stream(&format!("Writer/{id}"));
        let partition = log.partition_of(&own);
        let near = |stream: &StreamId| log.partition_of(stream) == partition;
        let shared = (0..1_000).map(|at| stream(&format!("Shared/{at}"))).filter(near).take(SHARED).collect();
        Self { id, log, ground, random, own, version: Version::NONE, shared, told: Vec::new() }
    }

    pub(super) async fn run(mut self, appends: u64) -> Vec<Told> {
        for number in 0..appends {
            self.pause().await;
            let attempt = self.prepare(number as u32).await;
            self.attempt(attempt).await;
        }
        self.told
    }

    /// Mostly none, so that appends meet; sometimes one that is longer than most commits.
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
        Attempt { number, append: Append::new(events, guard).with_key(key), hopeless: kind >= 95 }
    }

    /// Goes on from the version that a shared stream has, as others do.
    async fn race(&mut self) -> (Vec<StreamId>, Guard) {
        let shared = self.one_shared();
        let version = self.version_of(&shared).await;
        self.pause().await;
        (vec![shared.clone()], Guard::stream(shared, Expected::Version(version)))
    }

    /// Its own stream and shared ones, if one append may write to several.
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

    async fn attempt(&mut self, Attempt { number, append, hopeless }: Attempt) {
        let events = append.events.len() as u16;
        let impatient = self.random.percent(3).then(|| Duration::from_micros(self.random.below(3_000)));
        let again = (append.key.is_some() && self.random.percent(10)).then(|| append.clone());
        let asked = Asked {
            number,
            streams: append.events.iter().map(|event| event.stream.clone()).collect(),
            key: append.key.clone(),
            free: append.guard == Guard::Any,
            hopeless,
        };
        let patience = impatient.unwrap_or(self.ground.patience);
        let turn = self.turn().await;
        let appending = match turn {
            Some(turn) => turn.append(append),
            None => self.log.append(append),
        };
        let fate = match timeout(patience, appending).await {
            Ok(answer) => self.judge(&asked, answer).await,
            Err(_) if impatient.is_some() => Fate::Open,
            Err(_) => {
                self.fault(number, format_args!("had no answer in {patience:?}"));
                Fate::Open
            }
        };
        if !matches!(fate, Fate::Written(..)) {
            self.version = self.version_of(&self.own).await;
        }
        self.told.push(Told { writer: self.id, number, events, fate });
        if let (Some(again), Fate::Written(_, position)) = (again, fate) {
            self.repeat(again, number, position).await;
        }
    }

    /// Sometimes a turn of its own, which it may also keep for a while or not use at all.
    async fn turn(&mut self) -> Option<Reservation> {
        if !self.log.capabilities().reservations || !self.random.percent(4) {
            return None;
        }
        let reserve = || self.log.reserve(&self.own);
        let turn = self.ground.retried("a turn", reserve).await.flatten();
        self.pause().await;
        turn.filter(|_| self.random.percent(80))
    }

    /// What the answer says about the append, and whether it may be given.
    async fn judge(&mut self, asked: &Asked, answer: Result<Appended, AppendError>) -> Fate {
        let error = match answer {
            Ok(appended) => {
                if asked.hopeless {
                    self.fault(asked.number, format_args!("has a guard that cannot hold, and was accepted"));
                }
                return self.written(&appended);
            }
            Err(AppendError::Store(error)) => error,
            Err(AppendError::Conflict(_)) if !asked.free => return Fate::Refused,
            Err(other) => {
                self.fault(asked.number, format_args!("was given an answer that cannot be: {other}"));
                return Fate::Refused;
            }
        };
        if error.kind() == StoreErrorKind::Unknown {
            return self.settle(asked).await;
        }
        if !self.ground.tolerates(&error) {
            self.fault(asked.number, format_args!("{} ({:?})", whole(&error), error.kind()));
        }
        Fate::Refused
    }

    fn written(&mut self, appended: &Appended) -> Fate {
        self.ground.same_log(appended.log);
        self.ground.reached(appended.partition, appended.position);
        self.version = appended.version_of(&self.own).unwrap_or(self.version);
        Fate::Written(appended.partition, appended.position)
    }

    /// A command that is delivered twice is told what came of it the first time.
    async fn repeat(&self, append: Append, number: u32, position: Position) {
        match timeout(self.ground.patience, self.log.append(append)).await {
            Ok(Err(AppendError::Duplicate(first))) if first.position == position => {}
            Ok(Err(AppendError::Store(error)))
                if error.kind() == StoreErrorKind::Unknown || self.ground.tolerates(&error) => {}
            other => {
                self.fault(number, format_args!("stands at {position}, was repeated, and got {other:?}"));
            }
        }
    }

    /// What became of an append whose outcome the store did not know. Its key or its stream tells; one
    /// that has neither stays open.
    async fn settle(&mut self, asked: &Asked) -> Fate {
        self.ground.unknown.fetch_add(1, Ordering::Relaxed);
        if let Some(key) = &asked.key {
            let found =
                self.ground.retried("a key after an unknown outcome", || self.log.find_key(key)).await;
            return match found {
                Some(Some(first)) => self.written(&first),
                Some(None) => Fate::Refused,
                None => Fate::Open,
            };
        }
        if !asked.streams.contains(&self.own) {
            return Fate::Open;
        }
        let read = || self.log.read_stream(self.last(&self.own, 20));
        let slice = self.ground.retried("a stream after an unknown outcome", read).await;
        let Some(slice) = slice else { return Fate::Open };
        let mine = |event: &&Arc<RecordedEvent>| {
            Serial::of(event).is_some_and(|serial| (serial.writer, serial.number) == (self.id, asked.number))
        };
        match slice.events.iter().find(mine) {
            // Where the last event of the append lies is not known from its own stream.
            Some(_) if asked.streams.iter().any(|stream| *stream != self.own) => Fate::Open,
            Some(event) => Fate::Written(event.meta.partition, event.meta.position),
            None => Fate::Refused,
        }
    }

    fn fault(&self, number: u32, words: std::fmt::Arguments<'_>) {
        self.ground.fault(format!("append {}/{number} {words}", self.id));
    }

    async fn version_of(&self, stream: &StreamId) -> Version {
        let read = || self.log.read_stream(self.last(stream, 1));
        let slice = self.ground.retried("a stream's version", read).await;
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
