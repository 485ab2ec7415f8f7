//! Followers: a consumer on its way along the log.
//!
//! A consumer has one follower for all partitions, because events of several may change one
//! document. It works in batches: read, route, fetch the documents, fold, and commit documents and
//! checkpoint as one. While a batch is committed the page behind it is read, and documents that it has
//! written itself are not fetched again (`held.rs`). Who runs it does not matter: the background task, `catch_up`, or a reader
//! that waits in an engine without background tasks. The lock on its place sees to it that it is
//! one at a time, and the store's fence sees to it over processes.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, watch};
use tracing::Instrument as _;
use uuid::Uuid;

use super::entries::BatchEntries;
use super::held::{Ahead, Held, Written};
use super::lag::{Lag, Place};
use super::record::{Agreement, Read, Searched, UnsharedEvent};
use super::{Inner, Runs};
use crate::consumer::{Consumer, Effect, Unfit};
use crate::error::{FoldError, StoreError, StoreErrorKind, chain};
use crate::event::RecordedEvent;
use crate::id::{Partition, Position};
use crate::projection::Mode;
use crate::read_store::{Batch, Checkpoint, Claim, CommitError, EntryKey, EntryWrite};
use crate::store::{Head, LogPoint, LogRead, LogSlice, Query};
use crate::timer;

/// Between two tries after a fault of a store: from the first to the last, doubling.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(10));

/// For how long the one that was fenced leaves the consumer to its new owner while that one does not
/// move: from the first time to the last, doubling.
const STANDBY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));
/// For how long one that is on standby before an event leaves the consumer alone, between two looks.
const PAUSE: Duration = Duration::from_millis(500);
/// The pause between two looks at the checkpoint of a consumer that has stopped because the log is another, or was
/// rewound: an operator may reset it from another program.
const UNRESET: Duration = Duration::from_secs(2);
/// For how long one that is new looks whether another moves the consumer, before it takes it over.
/// Longer than a store needs to tell another process of an append.
const GLANCE: Duration = Duration::from_millis(150);

/// The time for which reads without a receipt trust the last check that documents in the log's own store are of its
/// history.
const CHECKED: Duration = Duration::from_secs(1);

/// Waits that double from one fault to the next. They have to outgrow a batch: of two owners that
/// take a consumer from each other, one gets through only while the other waits.
pub(super) struct Backoff {
    next: Duration,
    last: Duration,
}

impl Backoff {
    pub(super) fn new((next, last): (Duration, Duration)) -> Self {
        Self { next, last }
    }

    pub(super) fn next(&mut self) -> Duration {
        let now = self.next;
        self.next = (now * 2).min(self.last);
        now
    }
}

/// One consumer.
pub(super) struct Follower {
    consumer: Arc<dyn Consumer>,
    mode: Mode,
    partitions: u16,
    /// What is recorded for the consumer, as far as it was read.
    agreement: RwLock<Arc<Agreement>>,
    searched: Mutex<Searched>,
    place: Mutex<Option<Held>>,
    progress: watch::Sender<Progress>,
    /// When a read made sure last that the checkpoints are of this log's history.
    checked: std::sync::Mutex<Option<Instant>>,
}

/// How far a follower is, as others see it.
#[derive(Clone, Debug)]
pub(super) struct Progress {
    /// By the number of the partition.
    points: Vec<LogPoint>,
    pub(super) state: ConsumerState,
    /// Whether its task has ended.
    pub(super) gone: bool,
}

impl Progress {
    /// What the follower does now.
    fn now(&self) -> ConsumerState {
        match &self.state {
            ConsumerState::Following | ConsumerState::Standby | ConsumerState::Retrying(_) if self.gone => {
                ConsumerState::Ended
            }
            state => state.clone(),
        }
    }

    /// How far it is on a partition.
    pub(super) fn on(&self, partition: Partition) -> Position {
        self.point(partition).position
    }

    /// The same, with the event there.
    pub(super) fn point(&self, partition: Partition) -> LogPoint {
        self.points.get(usize::from(partition.get())).copied().unwrap_or_default()
    }
}

/// How far a consumer is.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ConsumerStatus {
    /// The consumer's name: that of the projection.
    pub name: &'static str,
    /// The partition that it follows.
    pub partition: Partition,
    /// The stored checkpoint: everything up to here has taken effect, whoever moved it.
    pub position: Position,
    /// Where the partition ends.
    pub head: Position,
    /// How far it is behind. If the checkpoint is not of this log's history, all of the log.
    pub lag: Lag,
    /// What this engine's follower is doing.
    pub state: ConsumerState,
    /// Whether this program folds the recorded events in another way than the code that made the documents.
    /// [`Engine::accept_fold`](super::Engine::accept_fold) ends that.
    pub fold_changed: bool,
}

/// What a consumer is doing.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ConsumerState {
    /// It reads, or waits for news.
    Following,
    /// Another engine moves it, and this one watches how that one gets on.
    Standby,
    /// The projection has come to an event that only another release of this program reads. It continues by
    /// itself in a program that reads it; nothing was skipped.
    StandbyBefore(Arc<UnsharedEvent>),
    /// A store failed; it tries again by itself.
    Retrying(String),
    /// It cannot go on, and does not by itself.
    Stopped(ConsumerFault),
    /// Its task here has ended: the engine was shut down, or the runtime that it was opened in has ended. Nothing in
    /// this engine moves it any more, except a [`catch_up`](super::Engine::catch_up).
    Ended,
}

/// Why a consumer cannot go on.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ConsumerFault {
    /// An event cannot be folded into the read model. Nothing was skipped: everything before it
    /// has taken effect, and nothing behind it.
    Event(Arc<FoldError>),
    /// A store refuses for good: a document breaks a limit, or what is stored is damaged.
    Store(Arc<StoreError>),
    /// The checkpoint is of another log than the one that is followed.
    /// [`Engine::reset`](super::Engine::reset) rebuilds the projection.
    OtherLog,
    /// The checkpoint is past the end of the log, or the log has another event there than the checkpoint was made
    /// at: the log was rewound. [`Engine::reset`](super::Engine::reset) rebuilds the projection.
    Rewound {
        /// The checkpoint's position.
        checkpoint: Position,
        /// The end of the log.
        head: Position,
    },
}

impl ConsumerFault {
    /// Returns whether the log is not the one that the consumer has followed.
    fn is_of_history(&self) -> bool {
        match self {
            Self::OtherLog | Self::Rewound { .. } => true,
            Self::Store(error) => error.kind() == StoreErrorKind::Corrupt,
            Self::Event(_) => false,
        }
    }
}

impl fmt::Display for ConsumerFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Event(error) => error.fmt(f),
            Self::Store(error) => error.fmt(f),
            Self::OtherLog => {
                f.write_str("its checkpoint is of another log; rebuild the projection with `Engine::reset`")
            }
            Self::Rewound { checkpoint, head } => write!(
                f,
                "the log was rewound: the checkpoint was made at position {checkpoint} of another history, the log ends at {head}; rebuild the projection with `Engine::reset`"
            ),
        }
    }
}

impl std::error::Error for ConsumerFault {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Event(error) => error.source(),
            Self::Store(error) => error.source(),
            Self::OtherLog | Self::Rewound { .. } => None,
        }
    }
}

/// A projection that could not catch up.
#[derive(Debug)]
#[non_exhaustive]
pub enum CatchUpError {
    /// It has stopped.
    Stopped {
        /// The projection.
        projection: &'static str,
        /// Why.
        fault: ConsumerFault,
    },
    /// It is on standby before an event that only another release of this program reads.
    Standby {
        /// The projection.
        projection: &'static str,
        /// The event.
        event: Arc<UnsharedEvent>,
    },
    /// A store failed.
    Store {
        /// The projection.
        projection: &'static str,
        /// What failed.
        source: StoreError,
    },
}

impl fmt::Display for CatchUpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Standby { projection, event } => {
                write!(f, "the projection `{projection}` is on standby: {event}")
            }
            Self::Stopped { projection, .. } | Self::Store { projection, .. } => {
                write!(f, "the projection `{projection}` could not catch up")
            }
        }
    }
}

impl std::error::Error for CatchUpError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Stopped { fault, .. } => Some(fault),
            Self::Store { source, .. } => Some(source),
            Self::Standby { .. } => None,
        }
    }
}

/// How far somebody wants a partition to come.
type Goal = (Partition, Position);

/// What one step came to.
enum Step {
    /// It moved on some partition; there may be more.
    Moved,
    /// It is at the end of all.
    AtHead,
    /// There is more, which is left to another engine for as long as that one gets on.
    Left(Duration),
}

/// What a follower does between two steps.
enum Rest {
    /// There may be more.
    None,
    /// At the end of the log, which was disturbed so often until it was read last.
    UntilNews(u64),
    /// After what may pass.
    For(Duration),
    /// After what does not pass by itself.
    UntilRevived,
    /// After what a reset in another program ends.
    UntilReset,
}

/// What ended a rest.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Woken {
    ToStop,
    ByNews,
    ByTime,
}

/// A follower that does not own its consumer, and watches whether another one moves it. Without
/// this, two engines at rest would take the consumer from each other at every event.
struct Guest {
    /// For how long the checkpoint has to stand still, with something behind it, until this one takes
    /// the consumer over.
    patience: Duration,
    /// Whether it has not owned it yet.
    is_new: bool,
    /// Where the checkpoints were, with something behind them, when it last looked.
    seen: Option<Vec<Position>>,
}

impl Guest {
    fn new(is_new: bool, patience: Duration) -> Self {
        Self { patience, is_new, seen: None }
    }
}

/// Why one step did not work.
pub(super) enum Trouble {
    /// A store failed: try again.
    Store(StoreError),
    /// Somebody else has taken the consumer over: take it back, later.
    Fenced,
    /// It has come to an event that only another release reads.
    Standby(Arc<UnsharedEvent>),
    /// It cannot go on.
    Fault(ConsumerFault),
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        match error.kind() {
            // Trying again gives the same answer, for ever.
            StoreErrorKind::Invalid | StoreErrorKind::Unsupported | StoreErrorKind::Corrupt => {
                Self::Fault(ConsumerFault::Store(Arc::new(error)))
            }
            StoreErrorKind::Unavailable | StoreErrorKind::Unknown | StoreErrorKind::Failed => {
                Self::Store(error)
            }
        }
    }
}

impl From<CommitError> for Trouble {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Fenced => Self::Fenced,
            CommitError::Unfit(unfit) => Self::Fault(ConsumerFault::Event(Arc::new(unfit.error))),
            CommitError::Store(error) => error.into(),
        }
    }
}

impl Follower {
    pub(super) fn new(
        consumer: Arc<dyn Consumer>,
        agreement: Agreement,
        mode: Mode,
        partitions: u16,
        runs: Runs,
    ) -> Self {
        let points = vec![LogPoint::START; usize::from(partitions)];
        let state = match runs {
            Runs::Background | Runs::OnDemand => ConsumerState::Following,
            Runs::Elsewhere => ConsumerState::Standby,
        };
        Self {
            partitions,
            agreement: RwLock::new(Arc::new(agreement)),
            searched: Mutex::default(),
            consumer,
            mode,
            place: Mutex::new(None),
            checked: std::sync::Mutex::default(),
            progress: watch::Sender::new(Progress { points, state, gone: false }),
        }
    }

    pub(super) fn name(&self) -> &'static str {
        self.consumer.name()
    }

    pub(super) fn is_inline(&self) -> bool {
        self.mode == Mode::Inline
    }

    pub(super) fn watch(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    pub(super) async fn status(&self, inner: &Inner) -> Result<Vec<ConsumerStatus>, StoreError> {
        let (name, mut all) = (self.name(), Vec::new());
        // Nobody may follow here, and what this engine knows of the record may be old.
        let fold_changed = self.renew(inner).await?.fold_changed;
        let standby = self.standby(inner).await?.map(ConsumerState::StandbyBefore);
        for partition in self.partitions() {
            let Place { position, head, lag, fault, .. } = inner.place(name, partition).await?;
            // Here it may not have been noticed yet, if nobody follows.
            let state = fault.map(ConsumerState::Stopped).or_else(|| standby.clone());
            let state = state.unwrap_or_else(|| self.progress.borrow().now());
            all.push(ConsumerStatus { name, partition, position, head, lag, state, fold_changed });
        }
        Ok(all)
    }

    pub(super) fn consumer(&self) -> &dyn Consumer {
        &*self.consumer
    }

    pub(super) fn shared(&self) -> Arc<dyn Consumer> {
        Arc::clone(&self.consumer)
    }

    /// The record as it was read last.
    fn agreement(&self) -> Arc<Agreement> {
        Arc::clone(&self.agreement.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The record as it is now. If it no longer has what this program reads, records that again if it may.
    pub(super) async fn renew(&self, inner: &Inner) -> Result<Arc<Agreement>, StoreError> {
        let known = self.agreement();
        if !inner.documents.read_capabilities().records {
            return Ok(known);
        }
        let agreed = match inner.records().read(self.consumer()).await? {
            Read::Settled(agreement) => agreement,
            Read::ToRecord | Read::Refused(_) => {
                inner.records().agree(self.consumer()).await?.unwrap_or_else(|(_, agreement)| agreement)
            }
        };
        if agreed.revision == known.revision {
            return Ok(known);
        }
        let agreed = Arc::new(agreed);
        *self.agreement.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&agreed);
        if self.is_inline() {
            inner.inline.outdate();
        }
        Ok(agreed)
    }

    /// The event that keeps this program from moving the consumer, if there is one: at or before a checkpoint,
    /// or next behind one.
    pub(super) async fn standby(&self, inner: &Inner) -> Result<Option<Arc<UnsharedEvent>>, StoreError> {
        if self.agreement().is_whole() {
            return Ok(None);
        }
        let agreement = self.renew(inner).await?;
        if agreement.is_whole() {
            return Ok(None);
        }
        let mut stored = BTreeMap::new();
        for partition in self.partitions() {
            stored.insert(partition, position(inner.documents.checkpoint(self.name(), partition).await?));
        }
        if let Some(passed) = self.passed(inner, &agreement, &stored).await? {
            return Ok(Some(passed));
        }
        for (partition, after) in stored {
            if let Some(next) = inner.records().next_blocked(&agreement, partition, after).await? {
                return Ok(Some(next));
            }
        }
        Ok(None)
    }

    /// An event at or before these positions that keeps this program from moving the consumer.
    pub(super) async fn passed(
        &self,
        inner: &Inner,
        agreement: &Agreement,
        to: &BTreeMap<Partition, Position>,
    ) -> Result<Option<Arc<UnsharedEvent>>, StoreError> {
        if agreement.is_whole() {
            return Ok(None);
        }
        inner.records().passed(agreement, &mut *self.searched.lock().await, to).await
    }

    /// Has the consumer begin at the start of the log again: in its store, and here.
    pub(super) async fn reset(&self, inner: &Inner) -> Result<(), StoreError> {
        let mut place = self.place.lock().await;
        // Whatever comes of it, the claim is void.
        *place = None;
        inner.documents.reset(self.name()).await?;
        *self.searched.lock().await = Searched::default();
        for partition in self.partitions() {
            self.seen(partition, LogPoint::START);
        }
        // The names of this program are recorded before anything moves.
        self.renew(inner).await?;
        self.recovered();
        drop(place);
        inner.heads.disturb();
        Ok(())
    }

    /// Keeps this engine from moving it, for as long as what this gives is kept.
    pub(super) async fn hold(&self) -> impl Send {
        self.place.lock().await
    }

    pub(super) fn partitions(&self) -> impl Iterator<Item = Partition> + use<> {
        (0..self.partitions).map(Partition::new)
    }

    /// Follows the log until told to stop.
    pub(super) fn run(
        self: Arc<Self>,
        inner: Arc<Inner>,
        stop: watch::Receiver<bool>,
    ) -> impl Future<Output = ()> {
        // Outside of the future, which a runtime that ends may never have polled.
        let gone = Gone(Arc::clone(&self));
        async move {
            gone.0.follow(&inner, stop).await;
        }
    }

    async fn follow(&self, inner: &Inner, mut stop: watch::Receiver<bool>) {
        let (mut backoff, mut standby) = (Backoff::new(BACKOFF), Backoff::new(STANDBY));
        // An inline projection is moved by appends, and its follower is there for the case that they
        // cannot: a guest for ever.
        let mut guest = Some(Guest::new(self.mode != Mode::Inline, GLANCE));
        let mut woken = Woken::ByTime;
        loop {
            let disturbances = inner.heads.disturbances();
            // A step is not cut short: what has begun is finished, then the follower stops.
            let step = self.turn(inner, &mut guest).await;
            if let Ok(step) = &step {
                backoff = Backoff::new(BACKOFF);
                if let Step::Moved = step {
                    standby = Backoff::new(STANDBY);
                }
            }
            let rest = match step {
                Ok(Step::Moved) => Rest::None,
                Ok(Step::Left(patience)) => Rest::For(patience),
                // Woken for nothing that it could find: it does not look again at once.
                Ok(Step::AtHead) if woken == Woken::ByNews => {
                    Rest::For(guest.as_ref().map_or_else(|| backoff.next(), |guest| guest.patience))
                }
                Ok(Step::AtHead) => Rest::UntilNews(disturbances),
                Err(Trouble::Fault(fault)) => {
                    guest = Some(Guest::new(false, GLANCE));
                    if fault.is_of_history() { Rest::UntilReset } else { Rest::UntilRevived }
                }
                Err(Trouble::Store(_)) => Rest::For(backoff.next()),
                Err(Trouble::Standby(_)) => {
                    guest = Some(Guest::new(false, GLANCE));
                    Rest::For(PAUSE)
                }
                Err(Trouble::Fenced) => {
                    guest = Some(Guest::new(false, standby.next()));
                    Rest::None
                }
            };
            woken = self.rest(inner, &mut stop, rest).await;
            if woken == Woken::ToStop {
                return;
            }
        }
    }

    async fn rest(&self, inner: &Inner, stop: &mut watch::Receiver<bool>, rest: Rest) -> Woken {
        if *stop.borrow() || stop.has_changed().is_err() {
            return Woken::ToStop;
        }
        let mut woken = Woken::ByTime;
        let over = async {
            match rest {
                Rest::None => {}
                Rest::For(time) => timer::sleep(time).await,
                Rest::UntilNews(disturbances) => {
                    let reached: Vec<Position> =
                        self.progress.borrow().points.iter().map(|point| point.position).collect();
                    inner.heads.news(&*inner.log, &reached, disturbances).await;
                    woken = Woken::ByNews;
                }
                Rest::UntilRevived => self.revived().await,
                Rest::UntilReset => _ = race(self.revived(), timer::sleep(UNRESET)).await,
            }
        };
        let stopped = async {
            // An error means that the last handle of the engine is gone.
            let _ = stop.wait_for(|stop| *stop).await;
        };
        if race(stopped, over).await == Side::First { Woken::ToStop } else { woken }
    }

    /// Waits until it is no longer stopped: a `catch_up` may get over what stopped it.
    async fn revived(&self) {
        let stopped = |progress: &Progress| matches!(progress.state, ConsumerState::Stopped(_));
        // It gives no error, for the sender is here.
        let _ = self.watch().wait_for(|progress| !stopped(progress)).await;
    }

    /// A step, unless the consumer is not ours and there is nothing to do, or somebody else does it.
    async fn turn(&self, inner: &Inner, guest: &mut Option<Guest>) -> Result<Step, Trouble> {
        if let Some(waiting) = guest {
            match self.visit(inner, waiting).await {
                Ok(Some(step)) => return Ok(step),
                Ok(None) => *guest = None,
                Err(trouble) => {
                    self.report(&trouble);
                    return Err(trouble);
                }
            }
        }
        let step = self.step(inner, None).await;
        if self.mode == Mode::Inline && matches!(step, Ok(Step::AtHead)) {
            *guest = Some(Guest::new(false, GLANCE));
        }
        step
    }

    /// Looks how the consumer gets on without this follower. `None` if it does not: there is something
    /// behind its checkpoint, which has stood still for as long as the guest is patient.
    async fn visit(&self, inner: &Inner, guest: &mut Guest) -> Result<Option<Step>, Trouble> {
        if self.place.lock().await.is_some() {
            // A `catch_up` in this engine has taken it over.
            return Ok(None);
        }
        let now = self.look(inner).await?;
        // Not taken over, since a program that reads the event may be about to move it.
        let standby = self.standby(inner).await?;
        self.stands_by(standby.as_ref());
        let Some(now) = now else {
            guest.seen = None;
            return Ok(Some(Step::AtHead));
        };
        if standby.is_some() {
            guest.seen = None;
            return Ok(Some(Step::Left(PAUSE)));
        }
        // Who writes is taken for the program that this consumer belongs to, and need not wait.
        if guest.is_new && inner.gate.was_used() {
            return Ok(None);
        }
        let before = guest.seen.replace(now.clone());
        if before.as_ref() == Some(&now) {
            return Ok(None);
        }
        if before.is_some() && self.mode != Mode::Inline {
            self.progress.send_modify(|progress| progress.state = ConsumerState::Standby);
        }
        Ok(Some(Step::Left(guest.patience)))
    }

    /// Where the stored checkpoints are, if there are events after them, and `None` at the end of the log. Makes
    /// sure that they are of this log's history.
    async fn look(&self, inner: &Inner) -> Result<Option<Vec<Position>>, Trouble> {
        let (mut positions, mut behind) = (Vec::new(), false);
        let mut is_set_up = self.consumer.database().is_none();
        for partition in self.partitions() {
            let stored = inner.documents.checkpoint(self.name(), partition).await?;
            is_set_up |= stored.is_some();
            let slice = inner.points(partition, position(stored), position(stored)).await?;
            if let Some(checkpoint) = stored {
                compare(checkpoint, slice.head, slice.after_event).map_err(Trouble::Fault)?;
            }
            let stored = point(stored);
            // Whoever moves it in this engine may have got further meanwhile.
            let reached = self.progress.borrow().point(partition);
            self.seen(partition, if reached.position > stored.position { reached } else { stored });
            behind |= stored.position < slice.head.position;
            positions.push(stored.position);
        }
        if behind || !is_set_up {
            return Ok(Some(positions));
        }
        self.recovered();
        Ok(None)
    }

    /// Goes on until everything that is in the log now has taken effect.
    pub(super) async fn catch_up(&self, inner: &Inner) -> Result<(), CatchUpError> {
        let projection = self.name();
        let mut targets = Vec::new();
        for partition in self.partitions() {
            let head = inner.log.head(partition).await;
            targets.push(head.map_err(|source| CatchUpError::Store { projection, source })?.position);
        }
        let goals: Vec<Goal> = self.partitions().zip(targets).collect();
        // At least one step, so that a checkpoint of another log is noticed even if this one is empty.
        self.forward(inner, goals.first().copied()).await?;
        for (partition, target) in goals {
            self.reach(inner, partition, target).await?;
        }
        Ok(())
    }

    /// Goes on until the position has taken effect.
    pub(super) async fn reach(
        &self,
        inner: &Inner,
        partition: Partition,
        target: Position,
    ) -> Result<(), CatchUpError> {
        while self.progress.borrow().on(partition) < target {
            // The end of the log may lie before the target if the log was rewound meanwhile.
            match self.forward(inner, Some((partition, target))).await {
                Ok(Step::AtHead) => break,
                Ok(Step::Moved | Step::Left(_)) => {}
                // Another program may have moved it far enough.
                Err(CatchUpError::Standby { .. }) if self.progress.borrow().on(partition) >= target => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// One step that counts; after losing the consumer to another owner, the one that takes it back.
    async fn forward(&self, inner: &Inner, goal: Option<Goal>) -> Result<Step, CatchUpError> {
        let projection = self.name();
        let mut backoff = Backoff::new(BACKOFF);
        loop {
            match self.lazy_step(inner, goal).await {
                Ok(step) => return Ok(step),
                Err(Trouble::Fenced) => timer::sleep(backoff.next()).await,
                Err(Trouble::Store(source)) => return Err(CatchUpError::Store { projection, source }),
                Err(Trouble::Standby(event)) => return Err(CatchUpError::Standby { projection, event }),
                Err(Trouble::Fault(fault)) => return Err(CatchUpError::Stopped { projection, fault }),
            }
        }
    }

    /// A step, unless the consumer is not ours and at the end of the log: then there is nothing to
    /// take it over for.
    async fn lazy_step(&self, inner: &Inner, goal: Option<Goal>) -> Result<Step, Trouble> {
        if self.place.lock().await.is_none() {
            let looked = async {
                let Some(_) = self.look(inner).await? else { return Ok(true) };
                match self.standby(inner).await? {
                    Some(event) => Err(Trouble::Standby(event)),
                    None => Ok(false),
                }
            };
            match looked.await {
                Ok(true) => return Ok(Step::AtHead),
                Ok(false) => {}
                Err(trouble) => {
                    self.report(&trouble);
                    return Err(trouble);
                }
            }
        }
        self.step(inner, goal).await
    }

    /// One batch of each partition, and what it means for those who watch. With a goal, nothing is read
    /// ahead that lies behind it.
    async fn step(&self, inner: &Inner, goal: Option<Goal>) -> Result<Step, Trouble> {
        let mut place = self.place.lock().await;
        // Until the step is done the place is nobody's: whoever comes after a cancelled step starts
        // from what is stored.
        let mut held = match place.take() {
            Some(held) => Ok(held),
            None => self.claim(inner).await,
        };
        let mut moved = false;
        for partition in self.partitions() {
            let Ok(ours) = &mut held else { break };
            let span = tracing::debug_span!("project", consumer = self.name(), %partition);
            match self.batch(inner, ours, partition, goal).instrument(span).await {
                Ok(end) => moved |= end,
                Err(trouble) => held = Err(trouble),
            }
        }
        match held {
            Ok(held) => *place = Some(held).filter(|_| self.keeps_place()),
            Err(trouble) => {
                self.report(&trouble);
                return Err(trouble);
            }
        }
        // A store whose calls end at once would have a long way gone in one go.
        tokio::task::yield_now().await;
        Ok(if moved { Step::Moved } else { Step::AtHead })
    }

    fn report(&self, trouble: &Trouble) {
        let consumer = self.name();
        let state = match trouble {
            Trouble::Store(error) => ConsumerState::Retrying(chain(error)),
            Trouble::Fenced => ConsumerState::Standby,
            Trouble::Standby(event) => {
                self.stands_by(Some(event));
                return;
            }
            Trouble::Fault(fault) => ConsumerState::Stopped(fault.clone()),
        };
        match &state {
            ConsumerState::Stopped(fault) if self.is_stopped_by(fault) => {}
            ConsumerState::Stopped(fault) => {
                tracing::error!(consumer, fault = chain(fault), "a projection has stopped");
            }
            ConsumerState::Retrying(why) => {
                tracing::warn!(consumer, why, "a projection could not go on, trying again");
            }
            ConsumerState::Standby => {
                tracing::info!(consumer, "another engine has taken a projection over");
            }
            ConsumerState::Following | ConsumerState::StandbyBefore(_) | ConsumerState::Ended => {}
        }
        self.progress.send_modify(|progress| progress.state = state);
    }

    /// Returns whether it has stopped for this already.
    fn is_stopped_by(&self, fault: &ConsumerFault) -> bool {
        let progress = self.progress.borrow();
        matches!(&progress.state, ConsumerState::Stopped(known) if known.to_string() == fault.to_string())
    }

    /// Says that it is on standby before an event, or no longer.
    fn stands_by(&self, event: Option<&Arc<UnsharedEvent>>) {
        let news = self.progress.send_if_modified(|progress| match (&progress.state, event) {
            (ConsumerState::StandbyBefore(known), Some(event)) if known == event => false,
            (_, Some(event)) => {
                progress.state = ConsumerState::StandbyBefore(Arc::clone(event));
                true
            }
            (ConsumerState::StandbyBefore(_), None) => {
                progress.state = ConsumerState::Following;
                false
            }
            (_, None) => false,
        });
        if let Some(event) = event.filter(|_| news) {
            tracing::warn!(consumer = self.name(), %event, "a projection is on standby");
        }
    }

    /// Of an inline projection, each append moves the checkpoint: what is kept would be old.
    fn keeps_place(&self) -> bool {
        self.mode != Mode::Inline
    }

    /// Where the page lies that is read next, behind the one that is committed now: with one partition behind
    /// the batch, if there is more of it and somebody wants that; with several on the next one of this step.
    /// A page for a later step might have been empty and be so no more, and nobody would look again.
    fn next_page(
        &self,
        claim: &Claim,
        partition: Partition,
        to: Checkpoint,
        more: bool,
        goal: Option<Goal>,
    ) -> Option<(Partition, Position)> {
        if self.partitions == 1 {
            return (more && is_short(goal, partition, to)).then_some((partition, to.position));
        }
        let next = Partition::new(partition.get() + 1);
        let there = (next.get() < self.partitions).then(|| claim.checkpoints.get(&next).copied())?;
        Some((next, position(there)))
    }

    /// One batch of one partition; answers whether it moved.
    async fn batch(
        &self,
        inner: &Inner,
        held: &mut Held,
        partition: Partition,
        goal: Option<Goal>,
    ) -> Result<bool, Trouble> {
        let from = held.claim.checkpoints.get(&partition).copied();
        let after = position(from);
        let slice = match held.pages.take(partition, after) {
            Some(slice) => slice,
            None => self.page(inner, &held.agreement, partition, after, held.pages.size()).await?,
        };
        // A log that was rewound under a living follower may have grown past its place again.
        if let Some(from) = from {
            compare(from, slice.head, slice.after_event).map_err(Trouble::Fault)?;
        }
        let blocked = held.agreement.first_blocked(&slice.events);
        let events = &slice.events[..blocked.unwrap_or(slice.events.len())];
        let blocked = blocked.map(|at| held.agreement.event(&slice.events[at]));
        let read_to = blocked.as_ref().map_or(slice.read_to, |event| event.position.before());
        if read_to <= after {
            // It is for a program that reads this event to move it.
            if let Some(event) = blocked {
                return Err(Trouble::Standby(event));
            }
            self.moved(partition, point(from));
            return Ok(false);
        }
        let more = read_to < slice.head.position;
        let mut reach = Reach { events, to: read_to, fault: None };
        // An unfit event is left out with all behind it, so this gets shorter each time. With one at
        // its very beginning, a batch has no effect and leaves no trace.
        while reach.to > after {
            let to = inner.checkpoint(partition, &slice, reach.to, reach.events).await?;
            let batch = match self.fold(inner, held, partition, to, reach.events).await? {
                Ok(batch) => batch,
                Err(unfit) => {
                    reach.stop_before(unfit);
                    continue;
                }
            };
            let writes = batch.writes.clone();
            let weight = batch.writes.iter().map(EntryWrite::size).sum();
            let next = self.next_page(&held.claim, partition, to, more, goal);
            let next = next.filter(|_| reach.fault.is_none() && self.keeps_place());
            let ahead = async {
                let (partition, after) = next?;
                self.ahead(inner, &held.agreement, partition, after, held.pages.size()).await
            };
            let (committed, ahead) = beside(self.commit(inner, batch), ahead).await;
            match committed? {
                Ok(()) => {
                    held.claim.checkpoints.insert(partition, to);
                    held.written.committed(writes);
                    held.pages.keep(ahead.flatten());
                    held.pages.learn(weight, more && self.consumer.database().is_none());
                    break;
                }
                Err(unfit) => reach.stop_before(unfit),
            }
        }
        if reach.to <= after && self.is_moved(inner, held).await? {
            // Another owner has folded these events already: on its documents they come twice, and
            // that is all that is wrong with them. Or another release has recorded that it reads them, and
            // this one does not. A commit would have told.
            return Err(Trouble::Fenced);
        }
        match reach.fault {
            Some(error) => {
                if reach.to <= after {
                    self.seen(partition, point(from));
                }
                Err(Trouble::Fault(ConsumerFault::Event(Arc::new(error))))
            }
            None => Ok(true),
        }
    }

    /// The events behind a position.
    async fn page(
        &self,
        inner: &Inner,
        agreement: &Agreement,
        partition: Partition,
        after: Position,
        limit: usize,
    ) -> Result<LogSlice, StoreError> {
        let read = LogRead { partition, after, up_to: None, query: agreement.query.clone(), limit };
        inner.log.read_log(read).await
    }

    /// The page behind one that is not committed yet. If it cannot be read, the next step will, and tells.
    async fn ahead(
        &self,
        inner: &Inner,
        agreement: &Agreement,
        partition: Partition,
        after: Position,
        limit: usize,
    ) -> Option<Ahead> {
        let read = Instant::now();
        let slice = self.page(inner, agreement, partition, after, limit).await.ok()?;
        Some(Ahead { partition, after, read, slice })
    }

    /// What events make of the documents, as a batch with the checkpoint behind them.
    async fn fold(
        &self,
        inner: &Inner,
        held: &mut Held,
        partition: Partition,
        to: Checkpoint,
        events: &[Arc<RecordedEvent>],
    ) -> Result<Result<Batch, Unfit>, Trouble> {
        let effect = match self.effect(inner, held, events).await? {
            Ok(effect) => effect,
            Err(unfit) => return Ok(Err(unfit)),
        };
        tracing::trace!(events = events.len(), position = %to.position, "commit");
        let batch = Batch::new(self.name(), &held.claim, to).with_partition(partition);
        Ok(Ok(batch.with_writes(effect.writes).with_handlers(effect.handlers)))
    }

    /// What events make of the documents, or the handlers that are to run.
    ///
    /// All of the user's code that runs here is run in pieces, so that the other tasks of the runtime need not wait for
    /// a projection that is slow.
    async fn effect(
        &self,
        inner: &Inner,
        held: &mut Held,
        events: &[Arc<RecordedEvent>],
    ) -> Result<Result<Effect, Unfit>, Trouble> {
        let (mut routed, mut at) = (Vec::new(), 0);
        while at < events.len() || routed.is_empty() {
            let size = if self.consumer.database().is_some() { events.len() } else { held.pieces.size() };
            let end = events.len().min(at + size);
            let piece = events.get(at..end).unwrap_or_default();
            match held.pieces.work(0, || self.consumer.route(piece)) {
                Err(unfit) => return Ok(Err(Unfit { good: at + unfit.good, ..unfit })),
                Ok(piece) => routed.push((at, end - at, piece)),
            }
            held.pieces.pause().await;
            at = end;
        }
        // One read for all pieces; what one has made of an entry, the next one is given.
        let reads = routed.iter().flat_map(|(_, _, routed)| &routed.reads).cloned().collect();
        let mut entries = self.entries(inner, &held.written, reads).await?;
        let mut handlers = None;
        for (at, events, routed) in routed {
            let before = routed.reads.iter().map(|entry| entries.content(entry)).collect();
            match held.pieces.work(events, || routed.work.fold(before)) {
                Err(unfit) => return Ok(Err(Unfit { good: at + unfit.good, ..unfit })),
                Ok(effect) => {
                    effect.writes.into_iter().for_each(|write| entries.write(write));
                    handlers = effect.handlers;
                }
            }
            held.pieces.pause().await;
        }
        let mut effect = Effect::of_writes(entries.into_writes());
        effect.handlers = handlers;
        Ok(Ok(effect))
    }

    /// Reads entries: from memory what this follower has written, the rest from the store.
    async fn entries(
        &self,
        inner: &Inner,
        written: &Written,
        reads: Vec<EntryKey>,
    ) -> Result<BatchEntries, StoreError> {
        let (mut entries, mut missing) = (BatchEntries::default(), Vec::new());
        for entry in reads {
            if entries.contains(&entry) {
                continue;
            }
            let known = written.get(&entry);
            if known.is_none() {
                missing.push(entry.clone());
            }
            let known = known.cloned().flatten();
            entries.read(entry, known);
        }
        if !missing.is_empty() {
            let stored = inner.documents.get(self.name(), missing.clone()).await?;
            missing.into_iter().zip(stored).for_each(|(entry, content)| entries.read(entry, content));
        }
        Ok(entries)
    }

    /// Commits a batch, and says how far it is now.
    async fn commit(&self, inner: &Inner, batch: Batch) -> Result<Result<(), Unfit>, Trouble> {
        let (partition, to) = (batch.partition, batch.to.point());
        match inner.documents.commit(batch).await {
            Err(CommitError::Unfit(unfit)) => Ok(Err(unfit)),
            Err(error) => Err(error.into()),
            Ok(()) => {
                self.moved(partition, to);
                Ok(Ok(()))
            }
        }
    }

    /// Whether another program has moved a checkpoint or changed the record since the claim.
    async fn is_moved(&self, inner: &Inner, held: &Held) -> Result<bool, StoreError> {
        let Held { claim, agreement, .. } = held;
        let keeps_records = inner.documents.read_capabilities().records;
        if keeps_records && inner.documents.record(self.name()).await?.revision != agreement.revision {
            return Ok(true);
        }
        for partition in self.partitions() {
            let stored = inner.documents.checkpoint(self.name(), partition).await?;
            if stored.as_ref() != claim.checkpoints.get(&partition) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Makes sure that the stored checkpoints are of this log's history.
    pub(super) async fn check_all(&self, inner: &Inner) -> Result<(), Trouble> {
        for partition in self.partitions() {
            if let Some(checkpoint) = inner.documents.checkpoint(self.name(), partition).await? {
                check(inner, partition, checkpoint).await?;
            }
        }
        Ok(())
    }

    /// Returns whether a read found not long ago that the checkpoints are of this log's history.
    pub(super) fn was_checked(&self) -> bool {
        let last = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        last.is_some_and(|last| last.elapsed() < CHECKED)
    }

    /// Notes that a read has found it.
    pub(super) fn note_checked(&self) {
        *self.checked.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Takes the consumer over, and makes sure that its checkpoints are of this log's history, and that this
    /// program reads what is recorded.
    async fn claim(&self, inner: &Inner) -> Result<Held, Trouble> {
        let claim = inner.documents.claim(self.name()).await?;
        let mut agreement = self.agreement();
        // A store may hand over claims of another one that keeps records.
        if inner.documents.read_capabilities().records && claim.revision != agreement.revision {
            agreement = self.renew(inner).await?;
            if claim.revision != agreement.revision {
                // It has changed once more, which ended this claim.
                return Err(Trouble::Fenced);
            }
        }
        let mut positions = BTreeMap::new();
        for partition in self.partitions() {
            let stored = claim.checkpoints.get(&partition).copied();
            if let Some(checkpoint) = stored {
                check(inner, partition, checkpoint).await?;
            }
            self.moved(partition, point(stored));
            positions.insert(partition, position(stored));
        }
        if let Some(event) = self.passed(inner, &agreement, &positions).await? {
            return Err(Trouble::Standby(event));
        }
        let claim = self.set_up(inner, claim, &agreement).await?;
        Ok(Held::new(claim, agreement))
    }

    /// A projection with its own SQL has its tables from the first claim on, also on an empty log.
    async fn set_up(
        &self,
        inner: &Inner,
        mut claim: Claim,
        agreement: &Arc<Agreement>,
    ) -> Result<Claim, Trouble> {
        if self.consumer.database().is_none() || !claim.checkpoints.is_empty() {
            return Ok(claim);
        }
        let head = inner.log.head(Partition::ONLY).await?;
        let start = Checkpoint { log: head.log, position: Position::START, event: None };
        let mut held = Held::new(claim, Arc::clone(agreement));
        let done = match self.fold(inner, &mut held, Partition::ONLY, start, &[]).await? {
            Ok(batch) => self.commit(inner, batch).await?,
            Err(unfit) => Err(unfit),
        };
        done.map_err(CommitError::Unfit)?;
        claim = held.claim;
        claim.checkpoints.insert(Partition::ONLY, start);
        Ok(claim)
    }

    fn moved(&self, partition: Partition, point: LogPoint) {
        self.seen(partition, point);
        self.progress.send_modify(|progress| progress.state = ConsumerState::Following);
    }

    /// What kept it from going on is over; another engine may have got over it.
    fn recovered(&self) {
        self.progress.send_if_modified(|progress| {
            let trouble = matches!(progress.state, ConsumerState::Retrying(_) | ConsumerState::Stopped(_));
            if trouble {
                progress.state = ConsumerState::Following;
            }
            trouble
        });
    }

    fn seen(&self, partition: Partition, point: LogPoint) {
        self.progress.send_modify(|progress| {
            if let Some(reached) = progress.points.get_mut(usize::from(partition.get())) {
                *reached = point;
            }
        });
    }
}

/// Makes sure that a checkpoint is of the history that the log has now.
pub(super) async fn check(
    inner: &Inner,
    partition: Partition,
    checkpoint: Checkpoint,
) -> Result<(), Trouble> {
    let slice = inner.points(partition, checkpoint.position, checkpoint.position).await?;
    compare(checkpoint, slice.head, slice.after_event).map_err(Trouble::Fault)
}

/// Makes sure that a checkpoint is of the history that the log has, with this head and this event at the checkpoint's
/// position.
pub(super) fn compare(checkpoint: Checkpoint, head: Head, there: Option<Uuid>) -> Result<(), ConsumerFault> {
    if checkpoint.log != head.log {
        return Err(ConsumerFault::OtherLog);
    }
    if checkpoint.position > head.position || !checkpoint.point().agrees(there) {
        return Err(rewound(checkpoint, head));
    }
    Ok(())
}

impl Inner {
    /// Looks up the events at two positions, in ascending order, and the head: [`LogSlice::after_event`], and
    /// [`LogSlice::read_to_event`] if the log reaches to the second one.
    pub(super) async fn points(
        &self,
        partition: Partition,
        after: Position,
        to: Position,
    ) -> Result<LogSlice, StoreError> {
        let read = LogRead { partition, after, up_to: Some(to), query: Query::none(), limit: 1 };
        self.log.read_log(read).await
    }

    /// The checkpoint at a position that a slice has been read to, or at one before it.
    async fn checkpoint(
        &self,
        partition: Partition,
        slice: &LogSlice,
        to: Position,
        events: &[Arc<RecordedEvent>],
    ) -> Result<Checkpoint, StoreError> {
        let there = events.iter().rev().find(|event| event.meta.position == to);
        let event = match there {
            _ if to == slice.read_to => slice.read_to_event,
            Some(there) => Some(there.meta.id),
            None => self.points(partition, to, to).await?.after_event,
        };
        Ok(Checkpoint { log: slice.head.log, position: to, event })
    }
}

fn rewound(checkpoint: Checkpoint, head: Head) -> ConsumerFault {
    ConsumerFault::Rewound { checkpoint: checkpoint.position, head: head.position }
}

/// How far a batch can go.
struct Reach<'e> {
    events: &'e [Arc<RecordedEvent>],
    to: Position,
    fault: Option<FoldError>,
}

impl Reach<'_> {
    fn stop_before(&mut self, Unfit { good, error }: Unfit) {
        // A fault always lies within the batch, whatever a store says of it.
        self.events = &self.events[..good.min(self.events.len().saturating_sub(1))];
        self.to = self.to.min(error.position()).before();
        self.fault = Some(error);
    }
}

/// Whether whoever has this goal wants more than what a checkpoint has.
fn is_short(goal: Option<Goal>, of: Partition, to: Checkpoint) -> bool {
    goal.is_none_or(|(partition, target)| partition != of || to.position < target)
}

pub(super) fn position(checkpoint: Option<Checkpoint>) -> Position {
    checkpoint.map_or(Position::START, |checkpoint| checkpoint.position)
}

pub(super) fn point(checkpoint: Option<Checkpoint>) -> LogPoint {
    checkpoint.map_or(LogPoint::START, |checkpoint| checkpoint.point())
}

/// Says that a follower's task has ended, however it did.
struct Gone(Arc<Follower>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.progress.send_modify(|progress| progress.gone = true);
    }
}

/// Runs both until they are done, or the first one has failed.
async fn beside<T, E, U>(
    first: impl Future<Output = Result<T, E>>,
    second: impl Future<Output = U>,
) -> (Result<T, E>, Option<U>) {
    let mut first = std::pin::pin!(first);
    let mut second = std::pin::pin!(second);
    let (mut done, mut also) = (None, None);
    std::future::poll_fn(|cx| {
        if done.is_none()
            && let Poll::Ready(end) = first.as_mut().poll(cx)
        {
            done = Some(end);
        }
        if also.is_none()
            && let Poll::Ready(end) = second.as_mut().poll(cx)
        {
            also = Some(end);
        }
        match done.take() {
            Some(end) if also.is_some() || end.is_err() => Poll::Ready((end, also.take())),
            end => {
                done = end;
                Poll::Pending
            }
        }
    })
    .await
}

/// Which of two futures was first.
#[derive(PartialEq, Eq)]
pub(super) enum Side {
    First,
    Second,
}

impl Side {
    pub(super) fn is_first(&self) -> bool {
        *self == Self::First
    }
}

/// Runs both until one is done, looking at the first one first.
pub(super) async fn race(first: impl Future<Output = ()>, second: impl Future) -> Side {
    let mut first = std::pin::pin!(first);
    let mut second = std::pin::pin!(second);
    std::future::poll_fn(|cx| {
        if first.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Side::First);
        }
        if second.as_mut().poll(cx).is_ready() { Poll::Ready(Side::Second) } else { Poll::Pending }
    })
    .await
}
