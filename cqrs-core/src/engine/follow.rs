//! Followers: a consumer on its way along one partition of the log.
//!
//! A follower works in batches: read, route, fetch the documents, fold, and commit documents and
//! checkpoint as one. Who runs it does not matter: the background task, `catch_up`, or a reader
//! that waits in an engine without background tasks. The lock on its place sees to it that it is
//! one at a time, and the store's fence sees to it over processes.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, watch};
use tracing::Instrument as _;

use super::Inner;
use super::consumer::{Consumer, Fault};
use crate::error::{FoldError, StoreError, chain};
use crate::event::RecordedEvent;
use crate::id::{Partition, Position};
use crate::read_store::{Batch, Checkpoint, Claim, CommitError, ConsumerId};
use crate::store::{Head, LogRead, Query};

/// Events in one batch.
const BATCH: usize = 1_000;
/// How long a follower trusts that `wait` will wake it before it looks by itself.
const POLL: Duration = Duration::from_millis(500);
/// Between two tries after a fault of a store: from the first to the last, doubling.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(10));

/// One consumer on one partition.
pub(super) struct Follower {
    consumer: Arc<dyn Consumer>,
    id: ConsumerId,
    query: Query,
    place: Mutex<Option<Claim>>,
    progress: watch::Sender<Progress>,
}

/// How far a follower is, as others see it.
#[derive(Clone, Debug)]
pub(super) struct Progress {
    pub(super) position: Position,
    pub(super) head: Position,
    pub(super) state: ConsumerState,
}

/// How far a consumer is.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ConsumerStatus {
    /// The consumer's name: that of the projection.
    pub name: &'static str,
    /// The partition that it follows.
    pub partition: Partition,
    /// Everything up to here has taken effect.
    pub position: Position,
    /// Where the partition ended when the consumer last looked.
    pub head: Position,
    /// What it is doing.
    pub state: ConsumerState,
}

/// What a consumer is doing.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ConsumerState {
    /// It reads, or waits for news.
    Following,
    /// A store failed; it tries again by itself.
    Retrying(String),
    /// It cannot go on, and does not by itself.
    Stopped(ConsumerFault),
}

/// Why a consumer cannot go on.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ConsumerFault {
    /// An event cannot be folded into the read model. Nothing was skipped: everything before it
    /// has taken effect, and nothing behind it.
    Event(Arc<FoldError>),
    /// The checkpoint is of another log than the one that is followed.
    OtherLog,
    /// The checkpoint lies behind the end of the log, or at another event than it was made at: the
    /// log has been rewound.
    Rewound {
        /// The checkpoint's position.
        checkpoint: Position,
        /// The end of the log.
        head: Position,
    },
}

impl fmt::Display for ConsumerFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Event(error) => error.fmt(f),
            Self::OtherLog => f.write_str("its checkpoint is of another log"),
            Self::Rewound { checkpoint, head } => write!(
                f,
                "the log was rewound: the checkpoint was made at position {checkpoint} of another history, the log ends at {head}"
            ),
        }
    }
}

impl std::error::Error for ConsumerFault {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Event(error) => error.source(),
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
        let (Self::Stopped { projection, .. } | Self::Store { projection, .. }) = self;
        write!(f, "the projection `{projection}` could not catch up")
    }
}

impl std::error::Error for CatchUpError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(match self {
            Self::Stopped { fault, .. } => fault,
            Self::Store { source, .. } => source,
        })
    }
}

/// What one step came to.
enum Step {
    /// It moved; there may be more.
    Moved,
    /// It is at the end.
    AtHead,
}

/// Why one step did not work.
enum Trouble {
    /// A store failed: try again.
    Store(StoreError),
    /// Somebody else has taken the consumer over: take it back, later.
    Fenced,
    /// It cannot go on.
    Fault(ConsumerFault),
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Follower {
    pub(super) fn new(consumer: Arc<dyn Consumer>, partition: Partition) -> Self {
        let start =
            Progress { position: Position::START, head: Position::START, state: ConsumerState::Following };
        Self {
            id: ConsumerId { name: consumer.name().to_owned(), partition },
            query: consumer.query(),
            consumer,
            place: Mutex::new(None),
            progress: watch::Sender::new(start),
        }
    }

    pub(super) fn name(&self) -> &'static str {
        self.consumer.name()
    }

    pub(super) fn id(&self) -> &ConsumerId {
        &self.id
    }

    pub(super) fn watch(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    pub(super) fn status(&self) -> ConsumerStatus {
        let Progress { position, head, state } = self.progress.borrow().clone();
        let (name, partition) = (self.consumer.name(), self.id.partition);
        ConsumerStatus { name, partition, position, head, state }
    }

    /// Follows the log until told to stop.
    pub(super) async fn run(self: Arc<Self>, inner: Arc<Inner>, mut stop: watch::Receiver<bool>) {
        let mut wait = BACKOFF.0;
        loop {
            // A step is not cut short: what has begun is finished, then the follower stops.
            let rest = match self.step(&inner).await {
                Ok(Step::Moved) => Duration::ZERO,
                Ok(Step::AtHead) => POLL,
                Err(Trouble::Fault(_)) => Duration::MAX,
                Err(Trouble::Store(_) | Trouble::Fenced) => {
                    wait = (wait * 2).min(BACKOFF.1);
                    wait
                }
            };
            if rest <= POLL {
                wait = BACKOFF.0;
            }
            if self.rest(&inner, &mut stop, rest).await {
                return;
            }
        }
    }

    /// Rests until there is news or the time is over; answers whether to stop.
    async fn rest(&self, inner: &Inner, stop: &mut watch::Receiver<bool>, time: Duration) -> bool {
        if *stop.borrow() || stop.has_changed().is_err() {
            return true;
        }
        if time.is_zero() {
            return false;
        }
        let at_head = time == POLL;
        let position = self.progress.borrow().position;
        let news = async {
            // If the store cannot wait, or waits without an end, the poll is there.
            if !at_head || inner.log.wait(self.id.partition, position).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let stopped = async {
            // An error means that the last handle of the engine is gone.
            let _ = stop.wait_for(|stop| *stop).await;
        };
        race(stopped, race(news, tokio::time::sleep(time))).await == Side::First
    }

    /// Goes on until everything that is in the log now has taken effect.
    pub(super) async fn catch_up(&self, inner: &Inner) -> Result<(), CatchUpError> {
        let projection = self.consumer.name();
        let failed = |source| CatchUpError::Store { projection, source };
        let target = inner.log.head(self.id.partition).await.map_err(failed)?.position;
        self.reach(inner, target).await
    }

    /// Goes on until the position has taken effect.
    pub(super) async fn reach(&self, inner: &Inner, target: Position) -> Result<(), CatchUpError> {
        let projection = self.consumer.name();
        while self.progress.borrow().position < target {
            match self.step(inner).await {
                // The end of the log may lie before the target if the log was rewound meanwhile.
                Ok(Step::AtHead) => return Ok(()),
                Ok(Step::Moved) => {}
                Err(Trouble::Fenced) => tokio::time::sleep(BACKOFF.0).await,
                Err(Trouble::Store(source)) => return Err(CatchUpError::Store { projection, source }),
                Err(Trouble::Fault(fault)) => return Err(CatchUpError::Stopped { projection, fault }),
            }
        }
        Ok(())
    }

    /// One batch, and what it means for those who watch.
    async fn step(&self, inner: &Inner) -> Result<Step, Trouble> {
        let mut place = self.place.lock().await;
        let span = tracing::debug_span!("project", consumer = %self.id);
        let end = self.batch(inner, &mut place).instrument(span).await;
        if let Err(trouble) = &end {
            // Whoever goes on starts from what is stored.
            *place = None;
            self.report(trouble);
        }
        end
    }

    fn report(&self, trouble: &Trouble) {
        let state = match trouble {
            Trouble::Store(error) => ConsumerState::Retrying(chain(error)),
            Trouble::Fenced => ConsumerState::Retrying(CommitError::Fenced.to_string()),
            Trouble::Fault(fault) => ConsumerState::Stopped(fault.clone()),
        };
        match &state {
            ConsumerState::Stopped(fault) => {
                tracing::error!(consumer = %self.id, fault = chain(fault), "a projection has stopped");
            }
            ConsumerState::Retrying(why) => {
                tracing::warn!(consumer = %self.id, why, "a projection could not go on, trying again");
            }
            ConsumerState::Following => {}
        }
        self.progress.send_modify(|progress| progress.state = state);
    }

    async fn batch(&self, inner: &Inner, place: &mut Option<Claim>) -> Result<Step, Trouble> {
        let claim = match *place {
            Some(claim) => claim,
            None => *place.insert(self.claim(inner).await?),
        };
        let after = position(claim.checkpoint);
        let read = LogRead {
            partition: self.id.partition,
            after,
            up_to: None,
            query: self.query.clone(),
            limit: BATCH,
        };
        let slice = inner.log.read_log(read).await?;
        if slice.read_to <= after {
            self.moved(after, slice.head);
            return Ok(Step::AtHead);
        }
        let folded = self.fold(inner, &slice.events, slice.read_to).await?;
        let to = checkpoint(slice.head, folded.to, &slice.events);
        let batch = Batch {
            consumer: self.id.clone(),
            epoch: claim.epoch,
            from: claim.checkpoint,
            to,
            collection: self.consumer.name().to_owned(),
            writes: folded.writes,
        };
        // With a fault at its very first event, a batch has no effect and leaves no trace.
        if to.position > after {
            self.commit(inner, batch, place).await?;
            self.moved(to.position, slice.head);
        }
        match folded.fault {
            Some(error) => Err(Trouble::Fault(ConsumerFault::Event(Arc::new(error)))),
            None => Ok(Step::Moved),
        }
    }

    async fn commit(&self, inner: &Inner, batch: Batch, place: &mut Option<Claim>) -> Result<(), Trouble> {
        let (epoch, to) = (batch.epoch, batch.to);
        tracing::trace!(consumer = %self.id, documents = batch.writes.len(), position = %to.position, "commit");
        inner.documents.commit(batch).await.map_err(|error| match error {
            CommitError::Fenced => Trouble::Fenced,
            CommitError::Store(error) => Trouble::Store(error),
        })?;
        *place = Some(Claim { epoch, checkpoint: Some(to) });
        Ok(())
    }

    /// Takes the consumer over, and makes sure that its checkpoint is of this log's history.
    async fn claim(&self, inner: &Inner) -> Result<Claim, Trouble> {
        let head = inner.log.head(self.id.partition).await?;
        let claim = inner.documents.claim(&self.id).await?;
        if let Some(checkpoint) = claim.checkpoint {
            self.check(inner, checkpoint, head).await?;
        }
        self.moved(position(claim.checkpoint), head);
        Ok(claim)
    }

    async fn check(&self, inner: &Inner, checkpoint: Checkpoint, head: Head) -> Result<(), Trouble> {
        if checkpoint.log != head.log {
            return Err(Trouble::Fault(ConsumerFault::OtherLog));
        }
        let rewound = ConsumerFault::Rewound { checkpoint: checkpoint.position, head: head.position };
        if checkpoint.position > head.position {
            return Err(Trouble::Fault(rewound));
        }
        let Some(event) = checkpoint.event else { return Ok(()) };
        let read = LogRead {
            partition: self.id.partition,
            after: Position::new(checkpoint.position.get().saturating_sub(1)),
            up_to: Some(checkpoint.position),
            query: Query::all(),
            limit: 1,
        };
        let there = inner.log.read_log(read).await?.events;
        if there.first().is_some_and(|there| there.meta.id == event) {
            return Ok(());
        }
        Err(Trouble::Fault(rewound))
    }

    /// Folds events into the documents they change. If one of them cannot be folded, folds those
    /// before it.
    async fn fold(
        &self,
        inner: &Inner,
        events: &[Arc<RecordedEvent>],
        read_to: Position,
    ) -> Result<Folded, StoreError> {
        let mut folded = Folded { writes: Vec::new(), to: read_to, fault: None };
        let mut events = events;
        while !events.is_empty() {
            match self.try_fold(inner, events).await? {
                Ok(writes) => {
                    folded.writes = writes;
                    break;
                }
                Err(Fault { good, error }) => {
                    folded.to = Position::new(error.position().get().saturating_sub(1));
                    folded.fault = Some(error);
                    // A fault always lies within the batch, so this gets shorter each time.
                    events = &events[..good.min(events.len() - 1)];
                }
            }
        }
        Ok(folded)
    }

    async fn try_fold(
        &self,
        inner: &Inner,
        events: &[Arc<RecordedEvent>],
    ) -> Result<Result<Vec<(String, Option<bytes::Bytes>)>, Fault>, StoreError> {
        let routed = match self.consumer.route(events) {
            Ok(routed) => routed,
            Err(fault) => return Ok(Err(fault)),
        };
        let stored = inner.documents.get(self.consumer.name(), routed.keys.clone()).await?;
        Ok(routed.work.fold(stored).map(|folded| routed.keys.into_iter().zip(folded).collect()))
    }

    fn moved(&self, position: Position, head: Head) {
        self.progress.send_modify(|progress| {
            *progress = Progress { position, head: head.position, state: ConsumerState::Following };
        });
    }
}

/// What a batch does, and how far it got.
struct Folded {
    writes: Vec<(String, Option<bytes::Bytes>)>,
    to: Position,
    fault: Option<FoldError>,
}

fn position(checkpoint: Option<Checkpoint>) -> Position {
    checkpoint.map_or(Position::START, |checkpoint| checkpoint.position)
}

/// The checkpoint at a position, with the event there if the consumer has read it.
fn checkpoint(head: Head, to: Position, events: &[Arc<RecordedEvent>]) -> Checkpoint {
    let there = events.iter().rev().find(|event| event.meta.position <= to);
    let event = there.filter(|event| event.meta.position == to).map(|event| event.meta.id);
    Checkpoint { log: head.log, position: to, event }
}

/// Which of two futures was first.
#[derive(PartialEq, Eq)]
enum Side {
    First,
    Second,
}

/// Runs both until one is done, looking at the first one first.
async fn race(first: impl Future<Output = ()>, second: impl Future) -> Side {
    let mut first = std::pin::pin!(first);
    let mut second = std::pin::pin!(second);
    std::future::poll_fn(|cx| {
        use std::task::Poll::{Pending, Ready};
        if first.as_mut().poll(cx).is_ready() {
            return Ready(Side::First);
        }
        if second.as_mut().poll(cx).is_ready() { Ready(Side::Second) } else { Pending }
    })
    .await
}
