//! One slot per hot stream: the queue of its commands in this process, and its last state.
//!
//! Neither is trusted for correctness: the guard of each append is. A slot that is dropped to make
//! room costs a reload, or at worst a lost race.
//!
//! A state may be ahead of the log: it holds what an append that is on its [flight](Flight) is about to
//! write. So the commands of one stream share a commit as those of different streams do. An acceptance
//! that rests on a flight expects the very event that the flight is about to write, so its guard fails with
//! it. A refusal waits until the flight has landed.

use std::any::Any;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use quick_cache::sync::Cache;
use tokio::sync::{Mutex, MutexGuard, Notify};
use uuid::Uuid;

use crate::id::{Position, StreamId, Version};

/// The state of one stream as this process last saw it.
pub(super) struct Known {
    /// A `Box<Folded<A>>` of the stream's aggregate.
    pub(super) state: Box<dyn Any + Send>,
    pub(super) version: Version,
    pub(super) position: Position,
    /// The version of the last snapshot that is known.
    pub(super) snapshot: Version,
    /// The append that the state and its version rest on, if it was not committed yet.
    pub(super) flight: Option<Flight>,
}

/// An append on its way, as those see it who decide on what it is about to write.
#[derive(Clone)]
pub(super) struct Flight {
    /// The last event that it is about to write.
    last: Uuid,
    end: Arc<End>,
    /// The end of the first of those that rest on each other.
    line: Arc<End>,
}

/// How a flight has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Landed {
    /// It has not.
    NotYet,
    /// It was written, the last event at this position.
    At(Position),
    /// It was not written, or nobody knows.
    Lost,
}

/// Where it is told how a flight has ended. There is one for each command, and mostly nobody waits, so it
/// is small: a position, or one of two numbers that no event has.
#[derive(Default)]
struct End {
    landed: AtomicU64,
    told: Notify,
    /// Whether this flight is lost or one that rests on it, if it is the first of a line. Then all behind
    /// will be lost, which whoever comes next need not wait to hear.
    line_lost: AtomicBool,
}

const NOT_YET: u64 = Position::START.get();
const LOST: u64 = u64::MAX;

impl End {
    fn now(&self) -> Landed {
        match self.landed.load(Ordering::Acquire) {
            NOT_YET => Landed::NotYet,
            LOST => Landed::Lost,
            position => Landed::At(Position::new(position)),
        }
    }

    fn tell(&self, landed: u64) {
        self.landed.store(landed, Ordering::Release);
        self.told.notify_waiters();
    }

    async fn wait(&self) -> Landed {
        let mut told = pin!(self.told.notified());
        // From here on nothing that is told is missed.
        told.as_mut().enable();
        if self.now() == Landed::NotYet {
            told.await;
        }
        self.now()
    }
}

/// Whoever flies. Dropped without a word, the flight is lost.
pub(super) struct Pilot {
    end: Arc<End>,
    line: Arc<End>,
}

/// A flight that begins, with the last event that it is about to write, and the flight that it rests on.
pub(super) fn take_off(last: Uuid, ground: Option<&Flight>) -> (Pilot, Flight) {
    let end = Arc::new(End::default());
    let line = ground.map_or_else(|| end.clone(), |ground| ground.line.clone());
    (Pilot { end: end.clone(), line: line.clone() }, Flight { last, end, line })
}

impl Pilot {
    pub(super) fn land(self, at: Position) {
        self.end.tell(at.get());
    }
}

impl Drop for Pilot {
    fn drop(&mut self) {
        if self.end.now() == Landed::NotYet {
            self.line.line_lost.store(true, Ordering::Release);
            self.end.tell(LOST);
        }
    }
}

impl Flight {
    /// The last event that it is about to write.
    pub(super) fn last(&self) -> Uuid {
        self.last
    }

    /// How it is now, as far as is known.
    pub(super) fn now(&self) -> Landed {
        match self.end.now() {
            Landed::NotYet if self.line.line_lost.load(Ordering::Acquire) => Landed::Lost,
            landed => landed,
        }
    }

    /// Waits until it has landed; `None` if it is lost.
    pub(super) async fn landed(self) -> Option<Position> {
        match self.end.wait().await {
            Landed::At(position) => Some(position),
            Landed::Lost | Landed::NotYet => None,
        }
    }
}

/// Whoever holds the lock has the turn. Empty while somebody decides, and after a failure, so that
/// a cancelled or panicked command leaves nothing half-folded behind.
pub(super) type Slot = Mutex<Option<Known>>;

/// One command's turn, which it may let go before it is through.
pub(super) struct Turn<'s> {
    slot: &'s Slot,
    held: Option<MutexGuard<'s, Option<Known>>>,
}

impl<'s> Turn<'s> {
    pub(super) fn new(slot: &'s Slot) -> Self {
        Self { slot, held: None }
    }

    async fn known(&mut self) -> &mut Option<Known> {
        let held = match self.held.take() {
            Some(held) => held,
            None => match self.slot.try_lock() {
                Ok(held) => held,
                Err(_) => Box::pin(self.slot.lock()).await,
            },
        };
        self.held.insert(held)
    }

    /// Takes what is remembered, when the turn has come.
    pub(super) async fn take(&mut self) -> Option<Known> {
        self.known().await.take()
    }

    /// Leaves what is to be remembered, while the turn lasts.
    pub(super) fn keep(&mut self, known: Option<Known>) {
        if let Some(held) = &mut self.held {
            **held = known;
        }
    }

    /// Lets the next one go.
    pub(super) fn let_go(&mut self) {
        self.held = None;
    }

    /// Waits until nothing flies that the remembered state rests on.
    pub(super) async fn landed(&mut self) {
        let flight = self.known().await.as_ref().and_then(|known| known.flight.clone());
        if let Some(flight) = flight {
            // How it landed, whoever takes the state over will ask.
            let _ = flight.landed().await;
        }
    }
}

/// A bounded number of slots.
pub(super) struct Slots(Cache<StreamId, Arc<Slot>>);

impl Slots {
    pub(super) fn new(capacity: usize) -> Self {
        Self(Cache::new(capacity.max(1)))
    }

    pub(super) fn of(&self, stream: &StreamId) -> Arc<Slot> {
        let empty = || Ok::<_, std::convert::Infallible>(Arc::default());
        let Ok(slot) = self.0.get_or_insert_with(stream, empty);
        slot
    }
}
