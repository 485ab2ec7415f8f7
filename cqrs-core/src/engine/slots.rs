//! One slot per hot stream: the queue of its commands in this process, and its last state.
//!
//! Neither is trusted for correctness: the guard of each append is. It expects the very event that is the last
//! in the state, so a state of a history that the log has lost is never decided on. A store that cannot check that
//! has its streams read before each decision. A slot that is dropped to make room costs a reload, or at worst a
//! lost race.
//!
//! A state may be ahead of the log: it holds what an append that is on its [flight](Flight) is about to
//! write. So the commands of one stream share a commit as those of different streams do. An acceptance
//! that rests on a flight expects the very event that the flight is about to write, so its guard fails with
//! it. A refusal waits until the flight has landed.
//!
//! A future may be kept without being polled, and the others must not wait for it. So a command that waits for
//! its turn, or for an append, wakes the task that has it. If that task does not poll it within
//! [`Timeouts::turn`], the turn passes on: what the former holder leaves behind has no effect, and its append
//! has its guard.

use std::any::Any;
use std::collections::VecDeque;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use quick_cache::sync::Cache;
use tokio::sync::Notify;

use super::budget::Budget;
use super::fold::End;
use super::nested::{Deadlock, Deciding, Nesting};
use super::timeouts::Timeouts;
use crate::id::{Position, StreamId, Version};
use crate::timer;

/// The state of one stream as this process last saw it.
pub(super) struct Known {
    /// A `Box<Folded<A>>` of the stream's aggregate.
    pub(super) state: Box<dyn Any + Send>,
    /// Its size in memory in bytes, as far as that is known.
    pub(super) size: usize,
    /// The last event in it. An append that is decided on the state expects that very event.
    pub(super) end: End,
    /// The version of the last snapshot that is known.
    pub(super) snapshot: Version,
    /// The append that the state and its version rest on, if it was not committed yet.
    pub(super) flight: Option<Flight>,
}

/// An append on its way, as those see it who decide on what it is about to write.
#[derive(Clone)]
pub(super) struct Flight {
    end: Arc<Landing>,
    /// The end of the first of those that rest on each other.
    line: Arc<Landing>,
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
struct Landing {
    landed: AtomicU64,
    told: Notify,
    pulse: Pulse,
    /// Whether this flight is lost or one that rests on it, if it is the first of a line. Then all behind
    /// will be lost, which whoever comes next need not wait to hear.
    line_lost: AtomicBool,
}

/// Shows whether a future that others wait for is polled.
#[derive(Default)]
struct Pulse {
    beats: AtomicU64,
    waker: Mutex<Option<Waker>>,
}

impl Pulse {
    /// Says that it was polled, and how to have it polled again.
    fn beat(&self, waker: &Waker) {
        self.beats.fetch_add(1, Ordering::AcqRel);
        let mut known = lock(&self.waker);
        if !known.as_ref().is_some_and(|known| known.will_wake(waker)) {
            let before = known.replace(waker.clone());
            drop(known);
            drop(before);
        }
    }

    fn beats(&self) -> u64 {
        self.beats.load(Ordering::Acquire)
    }

    /// Has it polled, if its task polls it at all.
    fn ask(&self) {
        let waker = lock(&self.waker).clone();
        waker.into_iter().for_each(Waker::wake);
    }
}

/// A lock is taken all the same after a panic: nothing below it panics half-way.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

const NOT_YET: u64 = Position::START.get();
const LOST: u64 = u64::MAX;

impl Landing {
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

    /// Waits for the end for as long as whoever flies is polled; [`Landed::NotYet`] if it is not.
    async fn wait(&self, bound: Duration) -> Landed {
        let mut told = pin!(self.told.notified());
        // From here on nothing that is told is missed.
        told.as_mut().enable();
        while self.now() == Landed::NotYet {
            if timer::timeout(bound / 2, told.as_mut()).await.is_some() {
                break;
            }
            let beats = self.pulse.beats();
            self.pulse.ask();
            if timer::timeout(bound / 2, told.as_mut()).await.is_some() || self.pulse.beats() == beats {
                break;
            }
        }
        self.now()
    }
}

/// Whoever flies. Dropped without a word, the flight is lost.
pub(super) struct Pilot {
    end: Arc<Landing>,
    line: Arc<Landing>,
}

/// A flight that begins, and the flight that it rests on.
pub(super) fn take_off(ground: Option<&Flight>) -> (Pilot, Flight) {
    let end = Arc::new(Landing::default());
    let line = ground.map_or_else(|| end.clone(), |ground| ground.line.clone());
    (Pilot { end: end.clone(), line: line.clone() }, Flight { end, line })
}

impl Pilot {
    /// Says that the append is polled.
    pub(super) fn beat(&self, waker: &Waker) {
        self.end.pulse.beat(waker);
    }

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
    /// How it is now, as far as is known.
    pub(super) fn now(&self) -> Landed {
        match self.end.now() {
            Landed::NotYet if self.line.line_lost.load(Ordering::Acquire) => Landed::Lost,
            landed => landed,
        }
    }

    /// Waits until it has landed; `None` if it is lost, or if nobody polls whoever flies. Then no other
    /// command is decided on it.
    pub(super) async fn landed(self, bound: Duration) -> Option<Position> {
        match self.end.wait(bound).await {
            Landed::At(position) => Some(position),
            Landed::Lost => None,
            Landed::NotYet => {
                self.line.line_lost.store(true, Ordering::Release);
                None
            }
        }
    }
}

/// The queue of one stream's commands, and what is remembered of the stream.
pub(super) struct Slot {
    queue: Mutex<Queue>,
    budget: Arc<Budget>,
}

#[derive(Default)]
struct Queue {
    /// Empty while a command decides, and after a failure, so that a cancelled or panicked command leaves
    /// nothing half-folded behind.
    known: Option<Known>,
    /// The size that the [`Budget`] counts for it, also while a command decides on it.
    counted: usize,
    /// The last use of the state, and whether the slot is listed in the budget.
    used: u64,
    is_listed: bool,
    /// How many turns there were; the number of the last one.
    turns: u64,
    /// Whether the last turn still lasts.
    is_taken: bool,
    /// How often whoever has the turn was polled, and how to have it polled again.
    beats: u64,
    waker: Option<Waker>,
    /// Those who wait, in their order.
    waiting: VecDeque<(u64, Waker)>,
    tickets: u64,
}

impl Queue {
    /// Begins the next turn; gives its number, and what is to be dropped when the lock is.
    fn begin(&mut self) -> (u64, Option<Waker>) {
        self.turns += 1;
        self.is_taken = true;
        self.beats = 0;
        (self.turns, self.waker.take())
    }

    fn is_turn(&self, turn: u64) -> bool {
        self.is_taken && self.turns == turn
    }

    /// Where a ticket is in the queue.
    fn place(&self, ticket: u64) -> Option<usize> {
        self.waiting.iter().position(|(waiting, _)| *waiting == ticket)
    }

    /// The one that is next, to be woken when the lock is dropped.
    fn next(&self) -> Option<Waker> {
        self.waiting.front().filter(|_| !self.is_taken).map(|(_, waker)| waker.clone())
    }
}

/// What a waiting command has seen of the queue.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Seen {
    turns: u64,
    is_taken: bool,
    beats: u64,
}

/// The result of an attempt to drop a slot's state.
pub(super) enum Dropped {
    /// A state, which is not remembered any more.
    State(Known),
    /// It was used later, at this use.
    UsedSince(u64),
    /// A command decides on it, or an append that it rests on is pending.
    InUse,
    /// It has none. It is listed again with the next one.
    Empty,
}

impl Slot {
    /// Takes the state away, unless it was used after a use.
    pub(super) fn drop_state(&self, used: u64) -> Dropped {
        let mut queue = lock(&self.queue);
        if queue.counted == 0 {
            queue.is_listed = false;
            return Dropped::Empty;
        }
        if queue.used > used {
            return Dropped::UsedSince(queue.used);
        }
        let is_settled =
            |known: &mut Known| known.flight.as_ref().is_none_or(|flight| flight.now() != Landed::NotYet);
        match queue.known.take_if(is_settled) {
            Some(known) => {
                self.budget.change(std::mem::take(&mut queue.counted), 0);
                queue.is_listed = false;
                Dropped::State(known)
            }
            None => Dropped::InUse,
        }
    }

    /// Asks whoever has the turn to show that it is polled.
    fn ask(&self) -> Seen {
        let queue = lock(&self.queue);
        let seen = Seen { turns: queue.turns, is_taken: queue.is_taken, beats: queue.beats };
        let waker = queue.waker.clone();
        drop(queue);
        waker.into_iter().for_each(Waker::wake);
        seen
    }

    /// Says that whoever has this turn is polled.
    pub(super) fn beat(&self, turn: u64, waker: &Waker) {
        let mut queue = lock(&self.queue);
        if !queue.is_turn(turn) {
            return;
        }
        queue.beats += 1;
        if !queue.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            let before = queue.waker.replace(waker.clone());
            drop(queue);
            drop(before);
        }
    }
}

/// Why a command did not get its turn.
#[derive(Debug)]
pub(super) enum NoTurn {
    /// It has waited for as long as it may.
    TooLong(Duration),
    /// It would wait for itself.
    Deadlock(Deadlock),
}

/// One command's turn, which it may let go before it is through.
pub(super) struct Turn<'s> {
    slot: &'s Arc<Slot>,
    stream: &'s StreamId,
    timeouts: &'s Timeouts,
    /// Set if a handler executes the command.
    nesting: Option<Nesting>,
    /// The number of the turn; 0 if there is none. It may be over.
    number: &'s AtomicU64,
}

impl<'s> Turn<'s> {
    pub(super) fn new(
        slot: &'s Arc<Slot>,
        stream: &'s StreamId,
        timeouts: &'s Timeouts,
        nesting: Option<Nesting>,
        number: &'s AtomicU64,
    ) -> Self {
        Self { slot, stream, timeouts, nesting, number }
    }

    /// The command whose handler executes this one.
    pub(super) fn outer(&self) -> Option<Arc<Deciding>> {
        self.nesting.as_ref().map(Nesting::deciding)
    }

    /// The queue, if it is this one's turn.
    fn mine(&self) -> Option<MutexGuard<'s, Queue>> {
        let queue = lock(&self.slot.queue);
        queue.is_turn(self.number.load(Ordering::Relaxed)).then_some(queue)
    }

    /// Begins the turn if nobody else has it or waits for it.
    fn begin_at_once(&self) -> bool {
        let mut queue = lock(&self.slot.queue);
        if queue.is_turn(self.number.load(Ordering::Relaxed)) {
            return true;
        }
        if queue.is_taken || !queue.waiting.is_empty() {
            return false;
        }
        let (number, waker) = queue.begin();
        drop(queue);
        drop(waker);
        self.number.store(number, Ordering::Relaxed);
        true
    }

    async fn begin(&mut self) -> Result<(), NoTurn> {
        if self.begin_at_once() { Ok(()) } else { Box::pin(self.wait()).await }
    }

    async fn wait(&mut self) -> Result<(), NoTurn> {
        let Timeouts { turn, queue: limit, .. } = *self.timeouts;
        let waits = self.nesting.as_ref().map(|nesting| nesting.wait_for(self.stream));
        let _waits = waits.transpose().map_err(NoTurn::Deadlock)?;
        let (since, ticket) = (Instant::now(), Ticket::new(self.slot));
        loop {
            let mut seen = None;
            for _ in 0..2 {
                let left = limit.saturating_sub(since.elapsed());
                if left.is_zero() {
                    return Err(NoTurn::TooLong(limit));
                }
                if let Some(number) = timer::timeout(left.min(turn / 2), ticket.next()).await {
                    self.number.store(number, Ordering::Relaxed);
                    return Ok(());
                }
                seen = seen.or_else(|| Some(self.slot.ask()));
            }
            if let Some(number) = seen.and_then(|seen| ticket.take_over(seen)) {
                tracing::debug!(stream = %self.stream, "took over the turn of a command that is not polled");
                self.number.store(number, Ordering::Relaxed);
                return Ok(());
            }
        }
    }

    /// Takes what is remembered, when the turn has come.
    pub(super) async fn take(&mut self) -> Result<Option<Known>, NoTurn> {
        self.begin().await?;
        Ok(self.mine().and_then(|mut queue| queue.known.take()))
    }

    /// Returns whether a state may be remembered: it is not past the limit on its own.
    pub(super) fn fits(&self, known: &Known) -> bool {
        let fits = self.slot.budget.fits(known.size);
        if !fits {
            self.slot.budget.warn(self.stream, known.size);
        }
        fits
    }

    /// Leaves what is to be remembered, while the turn lasts.
    pub(super) fn keep(&mut self, known: Option<Known>) {
        let budget = &self.slot.budget;
        let known = known.filter(|known| self.fits(known));
        let Some(mut queue) = self.mine() else { return };
        // One that is empty counts too, so that it is in the order of uses.
        let counted = known.as_ref().map_or(0, |known| known.size.max(1));
        budget.change(queue.counted, counted);
        queue.counted = counted;
        let mut listed = None;
        if known.is_some() {
            queue.used = budget.next_use();
            listed = (!std::mem::replace(&mut queue.is_listed, true)).then_some(queue.used);
        }
        let before = std::mem::replace(&mut queue.known, known);
        drop(queue);
        drop(before);
        if let Some(used) = listed {
            budget.list(Arc::downgrade(self.slot), used);
        }
        budget.enforce();
    }

    /// Lets the next one go.
    pub(super) fn let_go(&mut self) {
        let Some(mut queue) = self.mine() else { return };
        queue.is_taken = false;
        if queue.known.is_none() {
            // The state that was taken is gone.
            self.slot.budget.change(std::mem::take(&mut queue.counted), 0);
        }
        let (waker, next) = (queue.waker.take(), queue.next());
        drop(queue);
        drop(waker);
        next.into_iter().for_each(Waker::wake);
        self.number.store(0, Ordering::Relaxed);
    }

    /// Waits until nothing flies that the remembered state rests on.
    pub(super) async fn landed(&mut self) -> Result<(), NoTurn> {
        self.begin().await?;
        let known = self.mine();
        let flight = known.and_then(|queue| queue.known.as_ref().and_then(|known| known.flight.clone()));
        if let Some(flight) = flight {
            // How it landed, whoever takes the state over will ask.
            let _ = flight.landed(self.timeouts.turn).await;
        }
        Ok(())
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.let_go();
    }
}

/// A place in the queue of a slot.
struct Ticket<'s> {
    slot: &'s Slot,
    number: u64,
}

impl<'s> Ticket<'s> {
    fn new(slot: &'s Slot) -> Self {
        let mut queue = lock(&slot.queue);
        queue.tickets += 1;
        Self { slot, number: queue.tickets }
    }

    /// Waits until it is first and the turn is free; gives the number of the turn.
    async fn next(&self) -> u64 {
        std::future::poll_fn(|cx| {
            let mut queue = lock(&self.slot.queue);
            let place = queue.place(self.number);
            if !queue.is_taken && place.map_or(queue.waiting.is_empty(), |place| place == 0) {
                let (entry, (number, waker)) = (queue.waiting.pop_front(), queue.begin());
                drop(queue);
                drop((entry, waker));
                return Poll::Ready(number);
            }
            let waker = cx.waker();
            let before = match place.and_then(|place| queue.waiting.get_mut(place)) {
                Some((_, known)) if known.will_wake(waker) => None,
                Some((_, known)) => Some(std::mem::replace(known, waker.clone())),
                // It is new, or was passed over while nobody polled it.
                None => {
                    queue.waiting.push_back((self.number, waker.clone()));
                    None
                }
            };
            drop(queue);
            drop(before);
            Poll::Pending
        })
        .await
    }

    /// Takes the turn over from a holder that was not polled since it was asked, or past others in the queue that
    /// did not take it while it was free.
    fn take_over(&self, seen: Seen) -> Option<u64> {
        let mut queue = lock(&self.slot.queue);
        let now = Seen { turns: queue.turns, is_taken: queue.is_taken, beats: queue.beats };
        if now != seen {
            return None;
        }
        let ahead = queue.place(self.number).map_or(0, |place| if now.is_taken { 0 } else { place });
        let mut passed: Vec<_> = queue.waiting.drain(..ahead).collect();
        passed.extend(queue.place(self.number).and_then(|place| queue.waiting.remove(place)));
        let (number, waker) = queue.begin();
        drop(queue);
        drop((passed, waker));
        Some(number)
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let mut queue = lock(&self.slot.queue);
        let gone = queue.place(self.number).and_then(|place| queue.waiting.remove(place));
        // It may have been woken for a turn that it does not take.
        let next = if gone.is_some() { queue.next() } else { None };
        drop(queue);
        drop(gone);
        next.into_iter().for_each(Waker::wake);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let queue = self.queue.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.budget.change(queue.counted, 0);
    }
}

/// A bounded number of slots, whose states have a bounded size together.
pub(super) struct Slots {
    slots: Cache<StreamId, Arc<Slot>>,
    budget: Arc<Budget>,
}

impl Slots {
    /// At most so many, and so many bytes.
    pub(super) fn new(capacity: usize, bytes: usize) -> Self {
        let capacity = capacity.max(1);
        Self { slots: Cache::new(capacity), budget: Arc::new(Budget::new(bytes, capacity)) }
    }

    /// Makes room when an append has ended, during which its state was in use.
    pub(super) fn enforce_limit(&self) {
        self.budget.enforce();
    }

    pub(super) fn of(&self, stream: &StreamId) -> Arc<Slot> {
        let empty = || {
            let slot = Slot { queue: Mutex::default(), budget: Arc::clone(&self.budget) };
            Ok::<_, std::convert::Infallible>(Arc::new(slot))
        };
        let Ok(slot) = self.slots.get_or_insert_with(stream, empty);
        slot
    }
}
