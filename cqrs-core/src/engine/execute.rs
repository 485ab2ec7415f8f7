//! The write side: route → queue → load → decide → fold → append → receipt.
//!
//! The path is written once, over [`Attempt`], and knows no user type; [`Typed`] is the thin part
//! that does.
//!
//! A future is as large as all that it may become. So what few commands come to, such as reading the stream or
//! losing a race, is boxed: what is left has less than a thousand bytes, which allocators hand out quickly.

use std::any::TypeId;
use std::borrow::Cow;
use std::fmt;
use std::future::{self, Future};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{self, Poll};
use std::time::{Duration, Instant};

use tracing::Instrument as _;

use super::bounded::late_append;
use super::error::{ExecuteError, Failure, KeyReused, Rejection};
use super::fold::End;
use super::follow::CatchUpError;
use super::nested::{self, Deadlock, Deciding, Nesting};
use super::slots::{Flight, Known, Landed, NoTurn, Pilot, Turn, take_off};
use super::snapshots::{Folded, Folding, Place, Plan};
use super::{Engine, Inner};
use crate::aggregate::{Aggregate, Current, Decided, Decision, Handle, Refusal};
use crate::begun::Begun;
use crate::command::{Command, SharedCommand as _};
use crate::context::{Context, Surroundings};
use crate::error::{EncodeError, FoldError, StoreError, StoreErrorKind};
use crate::event::{Encoded, EventSet, Metadata, NewEvent, RecordedEvent, Stored, Timestamp, decode};
use crate::id::{Id as _, Partition, Position, StreamId, Version};
use crate::pace::Pieces;
use crate::receipt::{ExpectedVersion, Receipt};
use crate::store::{
    Append, AppendError, Appended, BoxFuture, CommandKey, Conflict, Direction, Expected, Found, Guard,
    Inline, InlineGap, KeyOwner, LogPoint, LogRead, Query, Reservation, StreamRead,
};
use crate::timer;

/// Events that are read from the log at a time.
const LOG_PAGE: usize = 1_000;

impl Engine {
    /// Carries out a command: finds its aggregate, lets the `#[handle]` method decide, appends the
    /// events.
    ///
    /// Commands for one stream wait for each other in this process; a race that is lost against
    /// another process is decided again, a bounded number of times. What the handler returns is
    /// folded into the state before it is written, so no event gets into the log that its own
    /// `#[apply]` cannot take.
    ///
    /// Dropping the future gives the command up: it took place as a whole or not at all. A future that is kept
    /// without being polled, as under `select!`, keeps its turn in the stream's queue for at most
    /// [`Timeouts::turn`](super::Timeouts::turn); when it is polled again, it continues, and is decided again if others
    /// wrote meanwhile.
    ///
    /// # Errors
    /// [`ExecuteError`], which keeps apart that the domain said no, that somebody else wrote
    /// first, and that something failed.
    ///
    /// ```ignore
    /// let receipt = bank.execute(Deposit { account, cents: 500 }).await?;
    /// ```
    pub fn execute<C: Command>(&self, command: C) -> Execute<'_, C> {
        let (key, of_request, metadata, expected) = (None, false, None, None);
        Execute { engine: self, command: Some(command), key, of_request, metadata, expected, running: None }
    }

    /// Begins a request of several commands that share one idempotency key, such as a withdrawal, and the record
    /// of its rejection if it is rejected.
    ///
    /// On each stream, the first accepted command answers for the request: when the request is delivered again,
    /// each of its commands on that stream returns this command's receipt and does nothing. So execute the
    /// commands in the same order each time. For two commands on one stream that must both take effect, use two
    /// keys.
    ///
    /// ```ignore
    /// let request = bank.request("posting-17");
    /// match request.execute(Withdraw { account, cents }).await {
    ///     Err(ExecuteError::Refused(AccountError::Overdraft { .. })) => {
    ///         request.execute(Decline { account, cents }).await
    ///     }
    ///     answer => answer,
    /// }
    /// ```
    pub fn request(&self, key: impl Into<String>) -> Request<'_> {
        Request { engine: self, key: key.into() }
    }
}

/// A request of several commands with one idempotency key. See [`Engine::request`].
#[derive(Clone, Debug)]
pub struct Request<'e> {
    engine: &'e Engine,
    key: String,
}

impl<'e> Request<'e> {
    /// Carries out a command of the request, as [`Engine::execute`] does.
    pub fn execute<C: Command>(&self, command: C) -> Execute<'e, C> {
        let mut execute = self.engine.execute(command).key(self.key.as_str());
        execute.of_request = true;
        execute
    }
}

/// A command on its way: a future that does nothing until it is polled.
#[must_use = "a command is carried out when it is awaited"]
pub struct Execute<'e, C: Command> {
    engine: &'e Engine,
    /// Until it is polled.
    command: Option<C>,
    key: Option<String>,
    /// Whether the key is that of a request of several commands.
    of_request: bool,
    metadata: Option<Arc<Metadata>>,
    expected: Option<ExpectedVersion>,
    /// From then on.
    running: Option<BoxFuture<'e, Executed<C>>>,
}

/// The result of a command.
type Executed<C> = Result<Receipt, ExecuteError<<<C as Command>::Aggregate as Aggregate>::Error>>;

impl<C: Command> fmt::Debug for Execute<'_, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, metadata, expected, running, .. } = self;
        f.debug_struct("Execute")
            .field("command", &C::NAME)
            .field("key", key)
            .field("metadata", metadata)
            .field("expected", expected)
            .field("is_running", &running.is_some())
            .finish_non_exhaustive()
    }
}

impl<C: Command> Execute<'_, C> {
    /// Names this command, so that delivering it again answers with the first receipt and does
    /// nothing. Replaces the field marked `#[idempotency_key]`.
    ///
    /// A key that another command has used on this stream is reported as
    /// [`Failure::KeyReused`], and so is one that this command has used with other content. The content is
    /// compared if the command derives `Serialize` and has no type parameters. For several commands under one
    /// key, see [`Engine::request`].
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Why and for whom: goes into the context and onto every event.
    pub fn metadata(mut self, metadata: Metadata) -> Self {
        self.metadata = Some(Arc::new(metadata));
        self
    }

    /// Accepts the command only if the stream is still as it was seen. Replaces the field marked
    /// `#[expected_version]`.
    ///
    /// Pass a receipt, what [`load`](Engine::load) returned, or an [`ExpectedVersion`]: then the event at that
    /// version has to be the same, too. A plain [`Version`] is compared by its number.
    pub fn expect(mut self, version: impl Into<ExpectedVersion>) -> Self {
        self.expected = Some(version.into());
        self
    }
}

/// The command is moved out before anything is polled.
impl<C: Command> Unpin for Execute<'_, C> {}

impl<C: Command> Future for Execute<'_, C> {
    type Output = Executed<C>;

    fn poll(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        if let Some(command) = this.command.take() {
            this.running = Some(this.begin(command));
        }
        match &mut this.running {
            Some(running) => running.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }
}

impl<'e, C: Command> Execute<'e, C> {
    fn begin(&mut self, command: C) -> BoxFuture<'e, Executed<C>> {
        let Self { engine, of_request, expected, .. } = *self;
        let (key, metadata) = (self.key.take(), self.metadata.take());
        let inner = &engine.0.inner;
        let stream = match StreamId::new(C::Aggregate::NAME, command.id().as_text()) {
            Ok(stream) => stream,
            Err(invalid) => return Box::pin(future::ready(Err(Failure::from(invalid).into()))),
        };
        let key = key.map(Cow::Owned).or_else(|| command.idempotency_key());
        let owner = key.is_some().then(|| match of_request {
            true => KeyOwner::Request,
            false => KeyOwner::Command { name: Cow::Borrowed(C::NAME), content: command.content() },
        });
        let request = Call {
            command: C::NAME,
            aggregate: (TypeId::of::<C::Aggregate>(), C::Aggregate::NAME),
            key: key.map(|key| CommandKey { stream: stream.clone(), key: key.into_owned() }),
            owner,
            metadata: metadata.unwrap_or_else(|| inner.no_metadata.clone()),
            expected: expected.or_else(|| command.expected_version()),
            reaches_out: <C::Aggregate as Handle<C>>::REACHES_OUT,
            stream,
        };
        let mut attempt =
            Typed::<C::Aggregate, C> { state: None, command: C::Shared::new(command), decided: None };
        Box::pin(async move {
            let span = tracing::debug_span!("execute", command = C::NAME, stream = %request.stream);
            let end = inner.execute(&request, &mut attempt).instrument(span).await;
            match end {
                Ok(receipt) => Ok(receipt),
                Err(Stop::Refused) => Err(attempt.refusal(&request)),
                Err(Stop::Rejected(rejection)) => Err(match C::Aggregate::rejected(&rejection) {
                    Some(error) => ExecuteError::Refused(error),
                    None => ExecuteError::Rejected(rejection),
                }),
                Err(Stop::Conflict(conflict)) => Err(ExecuteError::Conflict(conflict)),
                Err(Stop::Failed(failure)) => Err(ExecuteError::Failed(failure)),
            }
        })
    }
}

/// A command without its type.
struct Call {
    command: &'static str,
    aggregate: (TypeId, &'static str),
    stream: StreamId,
    key: Option<CommandKey>,
    owner: Option<KeyOwner>,
    metadata: Arc<Metadata>,
    expected: Option<ExpectedVersion>,
    reaches_out: bool,
}

impl Call {
    /// What a turn has brought.
    fn taken<T>(&self, turn: Result<T, NoTurn>) -> Result<T, Failure> {
        turn.map_err(|why| match why {
            NoTurn::TooLong(limit) => {
                Failure::QueueTimeout { command: self.command, stream: self.stream.clone(), limit }
            }
            NoTurn::Deadlock(cycle) => self.deadlock(&cycle),
        })
    }

    fn deadlock(&self, Deadlock(waiting): &Deadlock) -> Failure {
        Failure::Deadlock { command: self.command, stream: self.stream.clone(), waiting: waiting.clone() }
    }
}

/// Why there is no receipt.
enum Stop {
    /// The attempt holds the refusal, whose type this path does not know.
    Refused,
    Rejected(Rejection),
    Conflict(Conflict),
    Failed(Failure),
}

impl<F: Into<Failure>> From<F> for Stop {
    fn from(failure: F) -> Self {
        Self::Failed(failure.into())
    }
}

/// The state that an attempt has, without its type.
#[derive(Clone)]
struct At {
    /// The last event in it.
    end: End,
    /// The version of the last snapshot that is known.
    snapshot: Version,
    /// Whether it came from this process's memory, and the log may have moved on since.
    remembered: bool,
    /// The append that it rests on, if that has not landed yet.
    flight: Option<Flight>,
}

impl At {
    fn place(&self) -> Place {
        Place { end: self.end, snapshot: self.snapshot }
    }

    /// Waits until what it rests on is written; `false` if that is lost.
    async fn landed(&mut self, bound: Duration) -> bool {
        let Some(flight) = self.flight.take() else { return true };
        let landed = flight.landed(bound).await;
        self.end.position = landed.unwrap_or(self.end.position);
        landed.is_some()
    }
}

/// Takes the events of one page.
type FoldPage<'a, E = FoldError> = dyn FnMut(&[Arc<RecordedEvent>]) -> Result<(), E> + Send + 'a;

impl Inner {
    async fn execute(self: &Arc<Self>, request: &Call, attempt: &mut dyn Attempt) -> Result<Receipt, Stop> {
        let inside = self.gate.enter().ok_or(Failure::ShutDown)?;
        let plan = self.aggregates.get(&request.aggregate.0);
        let plan = *plan.ok_or(Failure::NotRegistered(request.aggregate.1))?;
        self.check_limits(request)?;
        let nesting = match nested::current() {
            Some(outer) => Some(self.nesting(request, outer)?),
            None => None,
        };
        let slot = self.slots.of(&request.stream);
        let number = AtomicU64::new(0);
        let turn = Turn::new(&slot, &request.stream, &self.timeouts, nesting, &number);
        let mut work = pin!(self.carry_out(request, plan, attempt, turn));
        future::poll_fn(|cx| {
            inside.polls();
            let end = work.as_mut().poll(cx);
            if end.is_pending() {
                // A shutdown names it, and commands that wait for its turn see that it is polled.
                inside.waits(request.command, &request.stream, cx.waker());
                match number.load(Ordering::Relaxed) {
                    0 => {}
                    turn => slot.beat(turn, cx.waker()),
                }
            }
            end
        })
        .await
    }

    /// What is known of the handler that executes the command.
    fn nesting(&self, request: &Call, outer: Arc<Deciding>) -> Result<Nesting, Failure> {
        Nesting::new(&self.mark, outer, self.log_id, &request.stream)
            .map_err(|cycle| request.deadlock(&cycle))
    }

    async fn carry_out(
        self: &Arc<Self>,
        request: &Call,
        plan: Option<Plan>,
        attempt: &mut dyn Attempt,
        mut turn: Turn<'_>,
    ) -> Result<Receipt, Stop> {
        // A handler that reaches outside must not run twice; a pure one may, and saves the look-up.
        if request.reaches_out
            && let Some(first) = Box::pin(self.done_before(request, &mut turn)).await?
        {
            return Ok(first);
        }
        let mut remembered = self.recall(attempt, request.taken(turn.take().await)?);
        let mut reserved = None;
        let mut course = Course::default();
        let end = loop {
            let mut at = match remembered.take() {
                Some(at) => at,
                None => Box::pin(self.begin(request, plan, attempt)).await?,
            };
            // The append is sent here, so that this future has no field for it in addition to the store's future.
            let (proof, appending) =
                match self.attempt(request, attempt, &mut turn, &mut at, &mut course).await? {
                    Next::Append(_) if self.gate.is_abandoned() => return Err(Failure::ShutDown.into()),
                    Next::Append(intent) => self.send(intent, reserved.take()),
                    Next::Receipt(receipt) => return Ok(receipt),
                    Next::Moved => {
                        remembered = Some(at);
                        continue;
                    }
                    Next::Unfounded => continue,
                };
            // What the stream will end with if it is written.
            let end = End { version: proof.behind, event: proof.last.or(at.end.event), ..at.end };
            let mut ahead = At { end, remembered: true, ..at.clone() };
            let is_due = plan.is_some_and(|plan| self.is_snapshot_due(&request.stream, &plan, ahead.place()));
            if is_due {
                ahead.snapshot = ahead.end.version;
            }
            let mut pilot = None;
            let (end, is_late) = match Begun::begin(appending).await {
                Begun::Done(end) => (end, false),
                // Whoever comes next decides on what this is about to write.
                Begun::Running(appending) => {
                    if proof.last.is_some()
                        && self.guards_events
                        && let Some(known) = attempt.remember(ahead.clone()).filter(|known| turn.fits(known))
                    {
                        let (this, flight) = take_off(at.flight.as_ref());
                        pilot = Some(this);
                        turn.keep(Some(Known { flight: Some(flight), ..known }));
                        turn.let_go();
                    }
                    self.appended(request, appending, pilot.as_ref()).await
                }
            };
            let written = match end {
                Ok(done) if proof.last.is_some() => {
                    Written::Here(proof.receipt(request, &done, done.point()))
                }
                end => Box::pin(self.written(request, &proof, &mut at, end)).await?,
            };
            let lost = match written {
                Written::Here(receipt) => {
                    let position = receipt.position();
                    match pilot {
                        Some(pilot) => {
                            pilot.land(position);
                            self.slots.enforce_limit();
                        }
                        None => {
                            ahead.end.position = position;
                            turn.keep(attempt.remember(At { flight: None, ..ahead }));
                        }
                    }
                    turn.let_go();
                    break Ok((receipt, plan.filter(|_| is_due)));
                }
                Written::Elsewhere(receipt) => return Ok(receipt),
                Written::Perhaps(error) => break Err((proof, error, is_late)),
                Written::Not(lost) => (lost, at.flight.take()),
            };
            drop(pilot);
            let again =
                Box::pin(self.begin_again(request, plan, attempt, &mut turn, lost, &mut course)).await?;
            (remembered, reserved) = (Some(again.0), again.1);
        };
        match end {
            Ok((receipt, None)) => Ok(receipt),
            Ok((receipt, Some(plan))) => {
                // Not before: an append whose command nobody polls would keep others from making snapshots.
                if let Some(making) = self.renewal(&request.stream, plan) {
                    Box::pin(self.saves.run(making)).await;
                }
                Ok(receipt)
            }
            Err((proof, error, is_late)) => Ok(Box::pin(self.resolve(request, proof, error, is_late)).await?),
        }
    }

    /// Waits for an append that was begun, and says whether the store did not answer in time.
    async fn appended(
        &self,
        request: &Call,
        mut appending: BoxFuture<'_, Result<Appended, AppendError>>,
        pilot: Option<&Pilot>,
    ) -> (Result<Appended, AppendError>, bool) {
        let limit = self.timeouts.store;
        let appending = future::poll_fn(|cx| {
            let end = appending.as_mut().poll(cx);
            if let (true, Some(pilot)) = (end.is_pending(), pilot) {
                pilot.beat(cx.waker());
            }
            end
        });
        match timer::timeout(limit, appending).await {
            Some(end) => (end, false),
            None => (Err(late_append(limit, &request.stream).into()), true),
        }
    }

    /// Rejects what no append may carry before a handler calls a service for it. A slot is kept for a while,
    /// also if the command is rejected: ids of any size would fill memory.
    fn check_limits(&self, request: &Call) -> Result<(), StoreError> {
        let limits = self.log.limits();
        limits.check_stream(&request.stream)?;
        limits.check_metadata(&request.command, &request.metadata)?;
        request.key.as_ref().map_or(Ok(()), |key| limits.check_key(key))
    }

    /// Begins anew behind an append that was not written, with a reservation if that has happened too often.
    async fn begin_again(
        &self,
        request: &Call,
        plan: Option<Plan>,
        attempt: &mut dyn Attempt,
        turn: &mut Turn<'_>,
        (lost, flight): (Lost, Option<Flight>),
        course: &mut Course,
    ) -> Result<(At, Option<Reservation>), Stop> {
        match lost {
            Lost::Race(conflict) => {
                if !is_dragged_along(flight, self.timeouts.turn).await {
                    if course.tries >= self.attempts {
                        return Err(Stop::Conflict(conflict));
                    }
                    tracing::debug!(tries = course.tries, %conflict, "lost a race, deciding again");
                    pause(course.tries).await;
                    course.tries += 1;
                }
            }
            // Nobody wrote first, so this is no attempt.
            Lost::Behind { projection, missed } => {
                course.behind += 1;
                if course.is_to_catch_up(missed) {
                    self.hold_until_complete(projection, course).await?;
                }
            }
            Lost::Record => self.follow_records(course).await?,
        }
        let mut at = match self.recall(attempt, request.taken(turn.take().await)?) {
            Some(at) => at,
            None => self.begin(request, plan, attempt).await?,
        };
        // Nothing is caught up under the reservation: a store with one writer would wait for its end.
        let reserved = match course.is_due(request.reaches_out) {
            true => self.reserve(request, plan, attempt, &mut at).await?,
            false => None,
        };
        Ok((at, reserved))
    }

    /// The receipt of an earlier delivery, when nothing of the stream is on its way any more.
    async fn done_before(&self, request: &Call, turn: &mut Turn<'_>) -> Result<Option<Receipt>, Failure> {
        request.taken(turn.landed().await)?;
        self.first_receipt(request).await
    }

    /// Reserves the next append, and reads what was written until then.
    async fn reserve(
        &self,
        request: &Call,
        plan: Option<Plan>,
        attempt: &mut dyn Attempt,
        at: &mut At,
    ) -> Result<Option<Reservation>, Stop> {
        // What flies would wait for the reservation.
        if !at.landed(self.timeouts.turn).await {
            *at = self.begin(request, plan, attempt).await?;
        }
        let reservation = self.log.reserve(&request.stream).await?;
        if reservation.is_some() && !self.read_on(request, attempt, at).await? {
            *at = self.begin(request, plan, attempt).await?;
        }
        Ok(reservation)
    }

    /// Reads the stream, of which the process remembers nothing that could be taken over.
    async fn begin(&self, request: &Call, plan: Option<Plan>, attempt: &mut dyn Attempt) -> Result<At, Stop> {
        let (stream, state) = (&request.stream, attempt.state());
        let mut place = self.read_whole::<Failure>(stream, plan, state).await?;
        self.keep(stream, plan, &mut place, state).await;
        let Place { end, snapshot } = place;
        Ok(At { end, snapshot, remembered: false, flight: None })
    }

    /// Reads what the stream has after `at`. Returns `false` if the log no longer has the event that `at` ends with:
    /// it was rewound, and nothing of the state can be used.
    async fn read_on(&self, request: &Call, attempt: &mut dyn Attempt, at: &mut At) -> Result<bool, Failure> {
        let Some(end) = self.fold_after::<Failure>(&request.stream, at.end, attempt.state()).await? else {
            return Ok(false);
        };
        (at.end, at.remembered) = (end, false);
        Ok(true)
    }

    /// That the stream still ends with this event, as far as the store can check that.
    fn guard(&self, stream: &StreamId, end: End) -> Guard {
        let expected = match end.event {
            Some(event) if self.guards_events => Expected::Event(end.version, event),
            _ => Expected::Version(end.version),
        };
        Guard::stream(stream.clone(), expected)
    }

    /// Takes over what the process remembers of the stream. With a store that cannot check the event that it ends
    /// with, the log may have been rewound and have another one at that version: then the stream is read.
    fn recall(&self, attempt: &mut dyn Attempt, known: Option<Known>) -> Option<At> {
        let at = attempt.recall(known.filter(|_| self.guards_events)?)?;
        match at.flight.as_ref().map(Flight::now) {
            None | Some(Landed::NotYet) => Some(at),
            Some(Landed::At(position)) => Some(At { end: End { position, ..at.end }, flight: None, ..at }),
            // It says what never was.
            Some(Landed::Lost) => None,
        }
    }

    /// All partitions of the log.
    pub(super) fn partitions(&self) -> impl Iterator<Item = Partition> + use<> {
        (0..self.log.capabilities().partitions).map(Partition::new)
    }

    /// Reads what a partition has of a query up to a position, a page at a time.
    pub(super) async fn read_log_to<E: From<StoreError>>(
        &self,
        partition: Partition,
        to: Position,
        query: &Query,
        fold: &mut FoldPage<'_, E>,
    ) -> Result<(), E> {
        let (mut after, mut pieces) = (Position::START, Pieces::default());
        while after < to {
            let (query, up_to) = (query.clone(), Some(to));
            let read = LogRead { partition, after, up_to, query, limit: LOG_PAGE };
            let slice = self.log.read_log(read).await?;
            let mut left = slice.events.as_slice();
            while !left.is_empty() {
                let (piece, others) = left.split_at(pieces.size().min(left.len()));
                pieces.work(piece.len(), || fold(piece))?;
                pieces.pause().await;
                left = others;
            }
            if slice.read_to <= after {
                break;
            }
            after = slice.read_to;
        }
        Ok(())
    }

    /// Decides once.
    async fn attempt(
        &self,
        request: &Call,
        attempt: &mut dyn Attempt,
        turn: &mut Turn<'_>,
        at: &mut At,
        course: &mut Course,
    ) -> Result<Next, Stop> {
        let is_other = |expected: &ExpectedVersion| !expected.holds(at.end.version, at.end.event);
        if let Some(expected) = request.expected.filter(is_other) {
            return Box::pin(self.answer(request, attempt, turn, at, Answer::Conflict(expected))).await;
        }
        let now = self.clock.now();
        if !self.decide(request, attempt, at.end.version, now) {
            let since = Instant::now();
            Box::pin(self.decide_outside(request, attempt, turn.outer(), at.end.version, now)).await?;
            course.took = since.elapsed();
        }
        if attempt.is_refused() {
            return Box::pin(self.answer(request, attempt, turn, at, Answer::Refused)).await;
        }
        if attempt.count() == 0 && request.key.is_none() {
            return Box::pin(self.answer(request, attempt, turn, at, Answer::Accepted)).await;
        }
        self.log.limits().check_count(attempt.count())?;
        let events = attempt.store(&|| NewEventParts {
            id: self.ids.next(now),
            stream: request.stream.clone(),
            time: now,
            metadata: request.metadata.clone(),
        })?;
        let behind = Version::new(at.end.version.get() + events.len() as u64);
        let guard = self.guard(&request.stream, at.end);
        let (guard, inline) = if self.inline.is_empty() {
            (guard, Inline::default())
        } else {
            if self.inline.is_outdated() {
                Box::pin(self.plan_inline()).await?;
            }
            self.inline.plan().of(guard, &events, course.records <= PATIENCE)
        };
        let append = Append::new(events, guard)
            .with_key(request.key.clone())
            .with_owner(request.owner.clone())
            .with_inline(inline)
            .with_inline_gap(course.gap());
        Ok(Next::Append(Intent { append, behind }))
    }

    /// Lets the handler decide, unless it is one that reaches outside.
    fn decide(&self, request: &Call, attempt: &mut dyn Attempt, version: Version, now: Timestamp) -> bool {
        if request.reaches_out {
            return false;
        }
        let context = self.context(request, version, now);
        attempt.decide(version, &Surroundings { context: &context, services: &self.services }).is_none()
    }

    /// Lets a handler decide that reaches outside, and gives it up after a while.
    async fn decide_outside(
        &self,
        request: &Call,
        attempt: &mut dyn Attempt,
        outer: Option<Arc<Deciding>>,
        version: Version,
        now: Timestamp,
    ) -> Result<(), Failure> {
        let context = self.context(request, version, now);
        let around = Surroundings { context: &context, services: &self.services };
        let (log, command, stream) = (self.log_id, request.command, request.stream.clone());
        let engine = self.mark.clone();
        let deciding = Arc::new(Deciding { engine, log, command, stream, outer });
        let later = nested::within(&deciding, || attempt.decide(version, &around));
        let Some(mut later) = later else { return Ok(()) };
        let decide = future::poll_fn(|cx| nested::within(&deciding, || later.as_mut().poll(cx)));
        let limit = self.timeouts.service;
        let late = || Failure::ServiceTimeout { command, stream: request.stream.clone(), limit };
        timer::timeout(limit, decide).await.ok_or_else(late)
    }

    fn context(&self, request: &Call, version: Version, now: Timestamp) -> Context {
        Context::new(request.stream.clone(), version, now, request.metadata.clone(), self.ids.clone())
    }

    /// Answers a command that has nothing to write, if what it was decided on is what is written.
    async fn answer(
        &self,
        request: &Call,
        attempt: &mut dyn Attempt,
        turn: &mut Turn<'_>,
        at: &mut At,
        answer: Answer,
    ) -> Result<Next, Stop> {
        let end = match self.confirm(request, attempt, turn, at).await? {
            Confirmed::Stands(end) => end,
            Confirmed::Moved => return Ok(Next::Moved),
            Confirmed::Unfounded => return Ok(Next::Unfounded),
        };
        if let Answer::Accepted = answer {
            let partition = self.log.partition_of(&request.stream);
            let head = self.log.head(partition).await?;
            let receipt = Receipt::new(head.log, partition, end.point(), end.version);
            return Ok(Next::Receipt(receipt));
        }
        // What was accepted once is not refused when it comes again.
        if let Some(receipt) = self.first_receipt(request).await? {
            return Ok(Next::Receipt(receipt));
        }
        let Answer::Conflict(expected) = answer else { return Err(Stop::Refused) };
        let clause = Guard::stream(request.stream.clone(), Expected::Version(expected.version()));
        Err(Stop::Conflict(Conflict { clause, found: Found::Version(end.version) }))
    }

    /// Makes sure that what is decided without anything to write rests on what is written: what is remembered
    /// may be old, or not written yet. Whoever comes next decides on the same state meanwhile.
    async fn confirm(
        &self,
        request: &Call,
        attempt: &mut dyn Attempt,
        turn: &mut Turn<'_>,
        at: &mut At,
    ) -> Result<Confirmed, Failure> {
        turn.keep(attempt.remember(at.clone()));
        if !at.remembered {
            return Ok(Confirmed::Stands(at.end));
        }
        // It goes to the log like an append, so that it is checked with those that are on their way, and behind
        // the one that it rests on.
        let nothing = self.log.append(Append::new(Vec::new(), self.guard(&request.stream, at.end)));
        let checked = match Begun::begin(nothing).await {
            Begun::Done(end) => end,
            Begun::Running(checking) => {
                if self.guards_events {
                    turn.let_go();
                }
                self.appended(request, checking, None).await.0
            }
        };
        if let Ok(checked) = checked {
            let position = match &at.flight {
                // Whoever flew may have been dropped, and what it rests on is there all the same.
                Some(flight) => flight.clone().landed(self.timeouts.turn).await.unwrap_or(checked.position),
                None => at.end.position,
            };
            return Ok(Confirmed::Stands(End { position, ..at.end }));
        }
        // It does not hold, or the store cannot tell. What can be read is sure.
        let Some(now) = self.recall(attempt, request.taken(turn.take().await)?) else {
            return Ok(Confirmed::Unfounded);
        };
        *at = now;
        if !at.landed(self.timeouts.turn).await {
            return Ok(Confirmed::Unfounded);
        }
        match self.read_on(request, attempt, at).await? {
            true => Ok(Confirmed::Moved),
            false => Ok(Confirmed::Unfounded),
        }
    }

    /// Sends an append on its way when it is polled. A store takes it up at once, so that those which are
    /// decided on it come behind it; if one does not, its guard has the last word.
    fn send(
        &self,
        intent: Intent,
        reserved: Option<Reservation>,
    ) -> (Proof, BoxFuture<'_, Result<Appended, AppendError>>) {
        let Intent { append, behind } = intent;
        // Of an append all is there or nothing, so the last event tells.
        let proof = Proof { last: append.events.last().map(|event| event.id), behind };
        let span = tracing::debug_span!("append", events = append.events.len());
        let appending = match reserved {
            Some(reservation) => reservation.append(append),
            None => self.log.append(append),
        };
        // Nobody looks, mostly, and then it need not be wrapped.
        let appending = if span.is_disabled() { appending } else { Box::pin(appending.instrument(span)) };
        (proof, appending)
    }

    /// Looks what other releases have recorded, and whether they have written what this program does not read.
    /// That is no attempt, since nobody wrote first. In the end, what has to be guarded is left out.
    async fn follow_records(&self, course: &mut Course) -> Result<(), Failure> {
        course.records += 1;
        if course.records > RECORDS {
            let message = "the records of inline projections keep changing, or this read store does not show them; nothing was written";
            return Err(StoreError::new(StoreErrorKind::Unavailable, message).into());
        }
        Ok(self.plan_inline().await?)
    }

    /// Brings an inline projection to the end of the log. Whoever moves it meanwhile, be it another
    /// command, helps.
    async fn hold_until_complete(
        &self,
        projection: &'static str,
        course: &mut Course,
    ) -> Result<(), Failure> {
        tracing::debug!(projection, rounds = course.behind, "an inline projection is behind, catching up");
        let late = Failure::InlineBehind { projection, source: None };
        let Some(follower) = self.followers.get(projection) else { return Err(late) };
        let since = *course.behind_since.get_or_insert_with(Instant::now);
        let left = self.timeouts.inline.saturating_sub(since.elapsed());
        match timer::timeout(left, follower.catch_up(self)).await {
            Some(Ok(())) => Ok(()),
            // This program reads less than another release: the projection is left out of the next try.
            Some(Err(CatchUpError::Standby { .. })) => self.follow_records(course).await,
            Some(Err(source)) => Err(Failure::InlineBehind { projection, source: Some(Box::new(source)) }),
            None => Err(late),
        }
    }

    /// What became of an append of which the store cannot say whether it was committed.
    ///
    /// If the store has answered so, that an event is not there is final. If it did not answer at all, its append
    /// may still be under way.
    async fn resolve(
        &self,
        request: &Call,
        proof: Proof,
        error: StoreError,
        is_late: bool,
    ) -> Result<Receipt, Failure> {
        match self.was_written(request, &proof).await {
            Ok(Some(receipt)) => Ok(receipt),
            Ok(None) if !is_late => {
                let stream = &request.stream;
                let words = format!("the append to {stream} was not written; the command can be sent again");
                Err(StoreError::new(StoreErrorKind::Unavailable, words).because(error).into())
            }
            // Still not known: the caller hears the original fault.
            Ok(None) | Err(_) => Err(error.into()),
        }
    }

    /// Whether such an append is there: the event at the version that our last one would have is ours, or
    /// not. What others wrote behind it is none of the receipt's business.
    async fn was_written(&self, request: &Call, proof: &Proof) -> Result<Option<Receipt>, Failure> {
        let Some(last) = proof.last else { return self.first_receipt(request).await };
        let there = self.event_at(&request.stream, proof.behind).await?;
        let Some(ours) = there.filter(|end| end.event == Some(last)) else {
            return self.first_receipt(request).await;
        };
        let partition = self.log.partition_of(&request.stream);
        let head = self.log.head(partition).await?;
        Ok(Some(Receipt::new(head.log, partition, ours.point(), proof.behind)))
    }

    /// The event of a stream at a version, if there is one.
    async fn event_at(&self, stream: &StreamId, version: Version) -> Result<Option<End>, StoreError> {
        let direction = Direction::Forward;
        let read = StreamRead { stream: stream.clone(), from: version, direction, limit: 1 };
        let events = self.log.read_stream(read).await?.events;
        let there = events.first().filter(|event| event.meta.version == version);
        Ok(there.map(|event| End { version, position: event.meta.position, event: Some(event.meta.id) }))
    }

    /// The receipt of an append that was made before, under the same key.
    async fn repeated(&self, request: &Call, first: &Appended) -> Result<Receipt, Failure> {
        if let (Some(first), Some(second), Some(key)) = (&first.owner, &request.owner, &request.key)
            && !first.may_be(second)
        {
            let (key, first, second) = (key.clone(), first.clone(), second.clone());
            return Err(Failure::KeyReused(Box::new(KeyReused { key, first, second })));
        }
        let version = first.version_of(&request.stream).unwrap_or_default();
        let receipt = |point| Receipt::new(first.log, first.partition, point, version).repeated();
        if version == Version::NONE {
            return Ok(receipt(LogPoint::START));
        }
        // An append without events has the partition's head, where another stream's event may be. Its receipt has the
        // last event that it was decided on.
        let end = self.event_at(&request.stream, version).await?.filter(|end| end.position <= first.position);
        Ok(receipt(end.map_or(first.point(), |end| end.point())))
    }

    /// Returns what became of an append, as the store has answered. The caller handles the ordinary case itself: an
    /// append with events that was written.
    async fn written(
        &self,
        request: &Call,
        proof: &Proof,
        at: &mut At,
        end: Result<Appended, AppendError>,
    ) -> Result<Written, Stop> {
        match end {
            // An append without events. Those that it rests on were written before it.
            Ok(done) => {
                at.landed(self.timeouts.turn).await;
                Ok(Written::Here(proof.receipt(request, &done, at.end.point())))
            }
            // Of other guards than those of streams, appends bring only what watches inline projections.
            Err(
                AppendError::Conflict(Conflict { clause: Guard::Unchanged { .. }, .. })
                | AppendError::StaleRecord { .. },
            ) => Ok(Written::Not(Lost::Record)),
            Err(AppendError::Conflict(conflict)) => Ok(Written::Not(Lost::Race(conflict))),
            Err(AppendError::Behind { consumer, position, head }) => {
                let missed = head.get().saturating_sub(position.get());
                Ok(Written::Not(Lost::Behind { projection: consumer, missed }))
            }
            Err(AppendError::Unfit { consumer: projection, error }) => {
                Err(match Rejection::of(projection, error) {
                    Ok(rejection) => Stop::Rejected(rejection),
                    Err(error) => Stop::Failed(Failure::Inline { projection, error }),
                })
            }
            Err(AppendError::Duplicate(done)) => Ok(Written::Elsewhere(self.repeated(request, &done).await?)),
            Err(AppendError::Store(error)) if error.kind() == StoreErrorKind::Unknown => {
                Ok(Written::Perhaps(error))
            }
            Err(AppendError::Store(error)) => Err(error.into()),
        }
    }

    /// The receipt of an earlier delivery, if the command has a key and there was one.
    async fn first_receipt(&self, request: &Call) -> Result<Option<Receipt>, Failure> {
        let Some(key) = &request.key else { return Ok(None) };
        match self.log.find_key(key).await? {
            Some(first) => Ok(Some(self.repeated(request, &first).await?)),
            None => Ok(None),
        }
    }
}

/// What follows from one attempt.
enum Next {
    /// The decision is to be written.
    Append(Intent),
    /// Accepted without anything to write.
    Receipt(Receipt),
    /// The log had moved on behind what was remembered, and the state with it: decide again.
    Moved,
    /// What it was decided on was not written: load and decide again.
    Unfounded,
}

/// What is decided without anything to write.
enum Answer {
    /// Accepted, without events.
    Accepted,
    /// The handler has refused.
    Refused,
    /// The command expects this version of the stream, which has another.
    Conflict(ExpectedVersion),
}

/// Whether a state is what is written.
enum Confirmed {
    Stands(End),
    /// It was not, and is now.
    Moved,
    /// It was not, and is not there any more.
    Unfounded,
}

/// A decision, to be written.
struct Intent {
    append: Append,
    /// The stream's version behind it.
    behind: Version,
}

/// What shows whether an append was written.
struct Proof {
    last: Option<uuid::Uuid>,
    behind: Version,
}

impl Proof {
    /// The receipt of an append that was written, with the last event that it rests on or consists of.
    fn receipt(&self, request: &Call, done: &Appended, point: LogPoint) -> Receipt {
        let version = done.version_of(&request.stream).unwrap_or(self.behind);
        Receipt::new(done.log, done.partition, point, version)
    }
}

/// What became of an append.
enum Written {
    /// It was written, and the stream is as it was decided to be.
    Here(Receipt),
    /// The command was carried out, and what the stream is like is no longer known.
    Elsewhere(Receipt),
    /// Something was in its way: load and decide again.
    Not(Lost),
    /// The store cannot tell.
    Perhaps(StoreError),
}

/// What an append found in its way.
enum Lost {
    /// Somebody else wrote first.
    Race(Conflict),
    /// This inline projection is not at the end of the log, by so many positions: a program that does not know it
    /// wrote to it.
    Behind { projection: &'static str, missed: u64 },
    /// What is recorded for an inline projection has changed, or an event that this program does not read has
    /// come.
    Record,
}

/// Whether a race was lost only because the append before it was, on which it rested: then nobody has won
/// against it.
async fn is_dragged_along(flight: Option<Flight>, bound: Duration) -> bool {
    match flight {
        Some(flight) => flight.landed(bound).await.is_none(),
        None => false,
    }
}

/// After so many lost races, what a command is decided on is read while nobody else may append.
const PATIENCE: u32 = 4;
/// A handler that reaches outside decides under a reservation only if its last decision took less than this. The stores
/// take a reservation back after 500 ms, so a slower one would keep everybody waiting for nothing.
const QUICK: Duration = Duration::from_millis(300);
/// So many events that an inline projection has missed are applied by the append itself. More are not, nor does an
/// append run the statements of a projection for them: all writers wait for an append.
const GAP: InlineGap = InlineGap { documents: 100, handlers: 0 };
/// So many are applied by an append with a reservation, which is made if the projection was behind again after it had
/// caught up. The stores read as many at once.
const RESERVED_GAP: InlineGap = InlineGap { documents: 10_000, handlers: 10_000 };

/// Changes of records that a command follows before it fails.
const RECORDS: u32 = 20;

/// How a command has fared so far.
struct Course {
    /// How often it was decided, not counting what no other writer has won.
    tries: u32,
    /// How long its last decision took, if it reaches outside.
    took: Duration,
    /// How often an inline projection was behind, and since when.
    behind: u32,
    behind_since: Option<Instant>,
    /// How often what other releases have recorded or written was in the way.
    records: u32,
}

impl Default for Course {
    fn default() -> Self {
        Self { tries: 1, took: Duration::ZERO, behind: 0, behind_since: None, records: 0 }
    }
}

impl Course {
    /// Whether it is time to reserve the next append.
    fn is_due(&self, reaches_out: bool) -> bool {
        (self.tries > PATIENCE || self.is_behind_again()) && (!reaches_out || self.took < QUICK)
    }

    /// Returns whether an inline projection was behind again after it had caught up.
    fn is_behind_again(&self) -> bool {
        self.behind > 1
    }

    /// Returns whether an inline projection that has missed so many events has to catch up before the next append. The second
    /// time, what was written since the first goes into the append. Later times, the append could not apply it.
    fn is_to_catch_up(&self, missed: u64) -> bool {
        self.behind != 2 || missed > u64::from(RESERVED_GAP.documents.min(RESERVED_GAP.handlers))
    }

    /// Returns how many missed events of inline projections the next append applies.
    fn gap(&self) -> InlineGap {
        if self.is_behind_again() { RESERVED_GAP } else { GAP }
    }
}

/// A short wait that grows with each lost race: the other writers are in other processes, where no
/// queue of ours reaches.
async fn pause(tries: u32) {
    let micros = 100_u64 << tries.min(7);
    timer::sleep(Duration::from_micros(micros)).await;
}

/// What every event of a decision shares.
struct NewEventParts {
    id: uuid::Uuid,
    stream: StreamId,
    time: Timestamp,
    metadata: Arc<Metadata>,
}

/// What the path needs of a command and its aggregate.
trait Attempt: Send {
    /// Takes over a remembered state, if it is of this aggregate.
    fn recall(&mut self, known: Known) -> Option<At>;
    /// Gives the state away to be remembered.
    fn remember(&mut self, at: At) -> Option<Known>;
    /// The state.
    fn state(&mut self) -> &mut dyn Folding;
    /// Decides, at once or in the future it gives.
    fn decide<'s>(&'s mut self, version: Version, around: &Surroundings<'s>) -> Option<BoxFuture<'s, ()>>;
    /// Whether the decision is a refusal.
    fn is_refused(&self) -> bool;
    /// The number of events in the decision.
    fn count(&self) -> usize;
    /// Encodes the decision's events for the append, and folds each as it reads back.
    fn store(&mut self, parts: &dyn Fn() -> NewEventParts) -> Result<Vec<NewEvent>, Failure>;
}

/// A command with its type.
struct Typed<A: Aggregate, C: Command> {
    /// Boxed so that it goes in and out of its slot without being moved.
    state: Option<Box<Folded<A>>>,
    command: C::Shared,
    decided: Option<Decided<A>>,
}

impl<A: Aggregate, C: Command> Typed<A, C> {
    fn refusal(self, request: &Call) -> ExecuteError<A::Error> {
        let (command, stream) = (request.command, request.stream.clone());
        match self.decided {
            Some(Err(Refusal::Domain(error))) => ExecuteError::Refused(error),
            Some(Err(Refusal::Exists)) => ExecuteError::Exists { command, stream },
            Some(Err(Refusal::NoService(missing))) => ExecuteError::Failed(Failure::NoService(missing)),
            // `Stop::Refused` is given only for a decision that is a refusal.
            Some(Err(Refusal::Missing) | Ok(_)) | None => ExecuteError::Missing { command, stream },
        }
    }
}

impl<A: Handle<C>, C: Command> Attempt for Typed<A, C> {
    fn recall(&mut self, known: Known) -> Option<At> {
        self.state = Some(known.state.downcast().ok()?);
        let Known { end, snapshot, flight, .. } = known;
        Some(At { end, snapshot, remembered: true, flight })
    }

    fn remember(&mut self, at: At) -> Option<Known> {
        let mut state = self.state.take()?;
        let At { end, snapshot, flight, .. } = at;
        let size = state.size(end.version);
        Some(Known { state, size, end, snapshot, flight })
    }

    fn state(&mut self) -> &mut dyn Folding {
        &mut **self.state.get_or_insert_with(|| Box::new(Folded::new()))
    }

    fn decide<'s>(&'s mut self, version: Version, around: &Surroundings<'s>) -> Option<BoxFuture<'s, ()>> {
        let command = self.command.get().duplicate();
        let Self { state, decided, .. } = self;
        let state: &'s Folded<A> = state.get_or_insert_with(|| Box::new(Folded::new()));
        match A::handle(Current::new(state.get(), version), command, around) {
            Decision::Ready(ready) => {
                *decided = Some(ready);
                None
            }
            Decision::Later(later) => Some(Box::pin(async move { *decided = Some(later.await) })),
        }
    }

    fn is_refused(&self) -> bool {
        matches!(self.decided, Some(Err(_)) | None)
    }

    fn count(&self) -> usize {
        self.decided.as_ref().map_or(0, |decided| decided.as_ref().map_or(0, Vec::len))
    }

    fn store(&mut self, parts: &dyn Fn() -> NewEventParts) -> Result<Vec<NewEvent>, Failure> {
        let Self { state, decided, .. } = self;
        let state = state.get_or_insert_with(|| Box::new(Folded::new()));
        let Some(Ok(events)) = decided else { return Ok(Vec::new()) };
        let mut all = Vec::with_capacity(events.len());
        for event in events {
            let encoded = event.encode()?;
            // A load finds what was stored, not what was returned, and must arrive at the same state.
            absorb(state.get_mut(), &encoded)?;
            state.grown(encoded.payload.len());
            all.push(new_event(encoded, parts()));
        }
        Ok(all)
    }
}

/// Folds an event as a load would after the append.
fn absorb<A: Aggregate>(state: &mut Option<A>, encoded: &Encoded) -> Result<(), Failure> {
    let Encoded { name, version, ref payload, .. } = *encoded;
    let mut misfit = Ok(());
    decode::<A::Event>(&Stored { name, version, payload }, &mut |event| {
        if misfit.is_ok() {
            misfit = A::apply(state, &event);
        }
    })
    .map_err(|error| EncodeError::unread(name, version, error))?;
    misfit.map_err(|misfit| Failure::Undecidable { event: name, misfit })
}

fn new_event(encoded: Encoded, parts: NewEventParts) -> NewEvent {
    let NewEventParts { id, stream, time, metadata } = parts;
    let Encoded { name, version, payload, tags } = encoded;
    NewEvent { id, stream, name: Cow::Borrowed(name), schema_version: version, payload, tags, time, metadata }
}
