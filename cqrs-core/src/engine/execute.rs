//! The write side: route → queue → load → decide → fold → append → receipt.
//!
//! The path is written once, over [`Attempt`], and knows no user type; [`Typed`] is the thin part
//! that does.

use std::any::TypeId;
use std::borrow::Cow;
use std::future::IntoFuture;
use std::sync::Arc;
use std::time::Duration;

use tracing::Instrument as _;

use super::error::{ExecuteError, Failure};
use super::slots::Known;
use super::{Engine, Inner};
use crate::aggregate::{Aggregate, Current, Decided, Decision, Handle, Refusal};
use crate::command::Command;
use crate::context::{Context, Surroundings};
use crate::error::{FoldError, FoldFault, StoreError, StoreErrorKind};
use crate::event::{EventSet, Metadata, NewEvent, RecordedEvent, Timestamp, decode};
use crate::id::{Id as _, Position, StreamId, Version};
use crate::receipt::Receipt;
use crate::store::{
    Append, AppendError, Appended, BoxFuture, CommandKey, Conflict, Detail, Direction, Expected, Found,
    Guard, StreamRead,
};

/// Events that are read from a stream at a time.
const PAGE: usize = 5_000;

impl Engine {
    /// Carries out a command: finds its aggregate, lets the `#[handle]` method decide, appends the
    /// events.
    ///
    /// Commands for one stream wait for each other in this process; a race that is lost against
    /// another process is decided again, a bounded number of times. What the handler returns is
    /// folded into the state before it is written, so no event gets into the log that its own
    /// `#[apply]` cannot take.
    ///
    /// Dropping the future gives the command up: it took place as a whole or not at all.
    ///
    /// # Errors
    /// [`ExecuteError`], which keeps apart that the domain said no, that somebody else wrote
    /// first, and that something failed.
    ///
    /// ```ignore
    /// let receipt = bank.execute(Deposit { account, cents: 500 }).await?;
    /// ```
    pub fn execute<C: Command>(&self, command: C) -> Execute<'_, C> {
        Execute { engine: self, command, key: None, metadata: None, expected: None }
    }
}

/// A command on its way; await it.
#[derive(Debug)]
#[must_use = "a command is carried out when it is awaited"]
pub struct Execute<'e, C> {
    engine: &'e Engine,
    command: C,
    key: Option<String>,
    metadata: Option<Arc<Metadata>>,
    expected: Option<Version>,
}

impl<C: Command> Execute<'_, C> {
    /// Names this command, so that delivering it again answers with the first receipt and does
    /// nothing. Stands in for the field marked `#[idempotency_key]`.
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Why and for whom: goes into the context and onto every event.
    pub fn metadata(mut self, metadata: Metadata) -> Self {
        self.metadata = Some(Arc::new(metadata));
        self
    }

    /// Accepts the command only if the stream has this version. Stands in for the field marked
    /// `#[expected_version]`.
    pub fn expect(mut self, version: Version) -> Self {
        self.expected = Some(version);
        self
    }
}

impl<'e, C: Command> IntoFuture for Execute<'e, C> {
    type Output = Result<Receipt, ExecuteError<<C::Aggregate as Aggregate>::Error>>;
    type IntoFuture = BoxFuture<'e, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let Self { engine, command, key, metadata, expected } = self;
        let inner: &Inner = &engine.0.inner;
        Box::pin(async move {
            let stream = StreamId::new(C::Aggregate::NAME, command.id().as_text()).map_err(Failure::from)?;
            let key = key.map(Cow::Owned).or_else(|| command.idempotency_key());
            let request = Request {
                command: C::NAME,
                aggregate: (TypeId::of::<C::Aggregate>(), C::Aggregate::NAME),
                key: key.map(|key| CommandKey { stream: stream.clone(), key: key.into_owned() }),
                metadata: metadata.unwrap_or_else(|| inner.no_metadata.clone()),
                expected: expected.or_else(|| command.expected_version()),
                reaches_out: <C::Aggregate as Handle<C>>::REACHES_OUT,
                stream,
            };
            let mut attempt = Typed::<C::Aggregate, C> { state: None, command, decided: None };
            let span = tracing::debug_span!("execute", command = C::NAME, stream = %request.stream);
            let end = inner.execute(&request, &mut attempt).instrument(span).await;
            match end {
                Ok(receipt) => Ok(receipt),
                Err(Stop::Refused) => Err(attempt.refusal(&request)),
                Err(Stop::Conflict(conflict)) => Err(ExecuteError::Conflict(conflict)),
                Err(Stop::Failed(failure)) => Err(ExecuteError::Failed(failure)),
            }
        })
    }
}

/// A command without its type.
struct Request {
    command: &'static str,
    aggregate: (TypeId, &'static str),
    stream: StreamId,
    key: Option<CommandKey>,
    metadata: Arc<Metadata>,
    expected: Option<Version>,
    reaches_out: bool,
}

/// Why there is no receipt.
enum Stop {
    /// The attempt holds the refusal, whose type this path does not know.
    Refused,
    Conflict(Conflict),
    Failed(Failure),
}

impl<F: Into<Failure>> From<F> for Stop {
    fn from(failure: F) -> Self {
        Self::Failed(failure.into())
    }
}

/// The state that an attempt has, without its type.
#[derive(Clone, Copy)]
struct At {
    version: Version,
    position: Position,
    /// Whether it came from this process's memory, and the log may have moved on since.
    remembered: bool,
}

impl At {
    const NOTHING: Self = Self { version: Version::NONE, position: Position::START, remembered: false };
}

/// Takes the events of one page.
type FoldPage<'a> = dyn FnMut(&[Arc<RecordedEvent>]) -> Result<(), FoldError> + Send + 'a;

impl Inner {
    async fn execute(&self, request: &Request, attempt: &mut dyn Attempt) -> Result<Receipt, Stop> {
        let _inside = self.gate.enter().ok_or(Failure::ShutDown)?;
        if !self.aggregates.contains(&request.aggregate.0) {
            return Err(Failure::NotRegistered(request.aggregate.1).into());
        }
        // A slot is kept for a while, also if the command is refused: ids of any size would fill memory.
        self.log.limits().check_stream(&request.stream)?;
        let slot = self.slots.of(&request.stream);
        let mut turn = slot.lock().await;
        // A handler that reaches outside must not run twice; a pure one may, and saves the look-up.
        if request.reaches_out
            && let Some(first) = self.first_receipt(request).await?
        {
            return Ok(first);
        }
        let mut at = self.begin(request, attempt, turn.take()).await?;
        let mut tries = 1;
        loop {
            let end = self.attempt(request, attempt, &mut at).await;
            let lost = match end {
                Ok(End::Receipt(receipt)) => {
                    *turn = attempt.remember(at);
                    return Ok(receipt);
                }
                Ok(End::Forgotten(receipt)) => return Ok(receipt),
                Ok(End::Moved) => continue,
                Ok(End::Lost(conflict)) => conflict,
                Err(stop) => {
                    if let Stop::Refused | Stop::Conflict(_) = stop {
                        *turn = attempt.remember(at);
                    }
                    return Err(stop);
                }
            };
            if tries >= self.attempts {
                return Err(Stop::Conflict(lost));
            }
            tracing::debug!(tries, conflict = %lost, "lost a race, deciding again");
            pause(tries).await;
            tries += 1;
            at = self.begin(request, attempt, None).await?;
        }
    }

    /// Takes over what the process remembers of the stream, or reads it.
    async fn begin(
        &self,
        request: &Request,
        attempt: &mut dyn Attempt,
        known: Option<Known>,
    ) -> Result<At, Stop> {
        if let Some(at) = known.and_then(|known| attempt.recall(known)) {
            return Ok(at);
        }
        attempt.reset();
        let mut at = At::NOTHING;
        self.read_on(request, attempt, &mut at).await?;
        Ok(at)
    }

    /// Reads what the stream has behind `at`; answers whether there was anything.
    async fn read_on(
        &self,
        request: &Request,
        attempt: &mut dyn Attempt,
        at: &mut At,
    ) -> Result<bool, Failure> {
        let fold = &mut |events: &[Arc<RecordedEvent>]| attempt.fold(events);
        let last = self.read_behind::<Failure>(&request.stream, at.version, fold).await?;
        at.remembered = false;
        if let Some((version, position)) = last {
            (at.version, at.position) = (version, position);
        }
        Ok(last.is_some())
    }

    /// Reads a stream from behind a version to its end, a page at a time; gives the place of the last
    /// event, if there was any.
    pub(super) async fn read_behind<E: From<StoreError> + From<FoldError>>(
        &self,
        stream: &StreamId,
        version: Version,
        fold: &mut FoldPage<'_>,
    ) -> Result<Option<(Version, Position)>, E> {
        let (mut behind, mut last) = (version, None);
        loop {
            let read = StreamRead {
                stream: stream.clone(),
                from: behind.next(),
                direction: Direction::Forward,
                limit: PAGE,
                detail: Detail::Fold,
            };
            let slice = self.log.read_stream(read).await?;
            fold(&slice.events)?;
            let Some(event) = slice.events.last() else { return Ok(last) };
            behind = event.meta.version;
            last = Some((behind, event.meta.position));
            if behind >= slice.version {
                return Ok(last);
            }
        }
    }

    /// Decides once, and appends what comes of it.
    async fn attempt(&self, request: &Request, attempt: &mut dyn Attempt, at: &mut At) -> Result<End, Stop> {
        if let Some(conflict) = unexpected(request, at) {
            // What is remembered may be old; only what is read now may refuse.
            if at.remembered && self.read_on(request, attempt, at).await? {
                return Ok(End::Moved);
            }
            return self.repeated_or(request, Stop::Conflict(conflict)).await;
        }
        let context = Context::new(
            request.stream.clone(),
            at.version,
            self.clock.now(),
            request.metadata.clone(),
            self.ids.clone(),
        );
        let around = Surroundings { context: &context, services: &self.services };
        if let Some(later) = attempt.decide(at.version, &around) {
            later.await;
        }
        if attempt.is_refused() || attempt.is_empty() {
            if at.remembered && self.read_on(request, attempt, at).await? {
                return Ok(End::Moved);
            }
            if attempt.is_refused() {
                return self.repeated_or(request, Stop::Refused).await;
            }
            if request.key.is_none() {
                let partition = self.log.partition_of(&request.stream);
                let head = self.log.head(partition).await?;
                return Ok(End::Receipt(Receipt::new(head.log, partition, at.position, at.version)));
            }
        }
        let events = attempt.encode(&|| NewEventParts {
            id: self.ids.next(context.now),
            stream: request.stream.clone(),
            time: context.now,
            metadata: request.metadata.clone(),
        })?;
        attempt.absorb()?;
        self.append(request, events, at).await
    }

    async fn append(&self, request: &Request, events: Vec<NewEvent>, at: &mut At) -> Result<End, Stop> {
        // Of an append all is there or nothing, so the last event tells.
        let last = events.last().map(|event| event.id);
        let behind = Version::new(at.version.get() + events.len() as u64);
        let guard = Guard::stream(request.stream.clone(), Expected::Version(at.version));
        let span = tracing::debug_span!("append", events = events.len());
        let append = Append::new(events, guard).with_key(request.key.clone());
        match self.log.append(append).instrument(span).await {
            Ok(done) => {
                let version = done.version_of(&request.stream).unwrap_or(at.version);
                if version != at.version {
                    at.position = done.position;
                }
                *at = At { version, position: at.position, remembered: true };
                Ok(End::Receipt(Receipt::new(done.log, done.partition, done.position, version)))
            }
            Err(AppendError::Conflict(conflict)) => Ok(End::Lost(conflict)),
            Err(AppendError::Duplicate(done)) => Ok(End::Forgotten(repeated(request, &done))),
            Err(AppendError::Store(error)) if error.kind() == StoreErrorKind::Unknown => {
                match self.was_written(request, behind, last).await {
                    Ok(Some(receipt)) => Ok(End::Forgotten(receipt)),
                    // Still not known, or not there yet: the caller hears the original fault.
                    Ok(None) | Err(_) => Err(error.into()),
                }
            }
            Err(AppendError::Store(error)) => Err(error.into()),
        }
    }

    /// Resolves an append of which the store cannot say whether it was committed: the event at the
    /// version that our last one would have is ours, or not. What others wrote behind it is none of
    /// the receipt's business.
    async fn was_written(
        &self,
        request: &Request,
        version: Version,
        last: Option<uuid::Uuid>,
    ) -> Result<Option<Receipt>, Failure> {
        let Some(last) = last else { return self.first_receipt(request).await };
        let read = StreamRead {
            stream: request.stream.clone(),
            from: version,
            direction: Direction::Forward,
            limit: 1,
            detail: Detail::Full,
        };
        let events = self.log.read_stream(read).await?.events;
        let Some(ours) = events.first().filter(|event| event.meta.id == last) else {
            return self.first_receipt(request).await;
        };
        let partition = self.log.partition_of(&request.stream);
        let head = self.log.head(partition).await?;
        Ok(Some(Receipt::new(head.log, partition, ours.meta.position, version)))
    }

    /// The receipt of an earlier delivery, else the stop: what was accepted once is not refused
    /// when it comes again.
    async fn repeated_or(&self, request: &Request, stop: Stop) -> Result<End, Stop> {
        match self.first_receipt(request).await? {
            // Nothing was changed since the state was read, so it stays good.
            Some(receipt) => Ok(End::Receipt(receipt)),
            None => Err(stop),
        }
    }

    async fn first_receipt(&self, request: &Request) -> Result<Option<Receipt>, Failure> {
        let Some(key) = &request.key else { return Ok(None) };
        Ok(self.log.find_key(key).await?.map(|first| repeated(request, &first)))
    }
}

/// How one attempt ended.
enum End {
    /// Accepted, and the state is that behind the receipt.
    Receipt(Receipt),
    /// Accepted, and the state is no longer known.
    Forgotten(Receipt),
    /// The log had moved on behind what was remembered: decide again.
    Moved,
    /// Somebody else wrote first: load and decide again.
    Lost(Conflict),
}

fn repeated(request: &Request, first: &Appended) -> Receipt {
    let version = first.version_of(&request.stream).unwrap_or_default();
    Receipt::repeated_from(first, version)
}

fn unexpected(request: &Request, at: &At) -> Option<Conflict> {
    let expected = request.expected.filter(|expected| *expected != at.version)?;
    let clause = Guard::stream(request.stream.clone(), Expected::Version(expected));
    Some(Conflict { clause, found: Found::Version(at.version) })
}

/// A short wait that grows with each lost race: the other writers are in other processes, where no
/// queue of ours reaches.
async fn pause(tries: u32) {
    let micros = 100_u64 << tries.min(7);
    tokio::time::sleep(Duration::from_micros(micros)).await;
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
    /// Forgets the state.
    fn reset(&mut self);
    /// Folds events of the stream into the state.
    fn fold(&mut self, events: &[Arc<RecordedEvent>]) -> Result<(), FoldError>;
    /// Decides, at once or in the future it gives.
    fn decide<'s>(&'s mut self, version: Version, around: &Surroundings<'s>) -> Option<BoxFuture<'s, ()>>;
    /// Whether the decision is a refusal.
    fn is_refused(&self) -> bool;
    /// Whether the decision has no events.
    fn is_empty(&self) -> bool;
    /// The decision's events, to be appended.
    fn encode(&self, parts: &dyn Fn() -> NewEventParts) -> Result<Vec<NewEvent>, Failure>;
    /// Folds the decision into the state.
    fn absorb(&mut self) -> Result<(), Failure>;
}

/// A command with its type.
struct Typed<A: Aggregate, C> {
    /// Boxed so that it goes in and out of its slot without being moved.
    state: Option<Box<Option<A>>>,
    command: C,
    decided: Option<Decided<A>>,
}

impl<A: Aggregate, C> Typed<A, C> {
    fn state(&mut self) -> &mut Option<A> {
        self.state.get_or_insert_with(|| Box::new(A::initial()))
    }

    fn refusal(self, request: &Request) -> ExecuteError<A::Error> {
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
        Some(At { version: known.version, position: known.position, remembered: true })
    }

    fn remember(&mut self, at: At) -> Option<Known> {
        let state = self.state.take()?;
        Some(Known { state, version: at.version, position: at.position })
    }

    fn reset(&mut self) {
        self.state = None;
    }

    fn fold(&mut self, events: &[Arc<RecordedEvent>]) -> Result<(), FoldError> {
        fold::<A>(self.state(), events)
    }

    fn decide<'s>(&'s mut self, version: Version, around: &Surroundings<'s>) -> Option<BoxFuture<'s, ()>> {
        let command = self.command.duplicate();
        let Self { state, decided, .. } = self;
        let state: &'s Option<A> = state.get_or_insert_with(|| Box::new(A::initial()));
        match A::handle(Current::new(state.as_ref(), version), command, around) {
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

    fn is_empty(&self) -> bool {
        matches!(&self.decided, Some(Ok(events)) if events.is_empty())
    }

    fn encode(&self, parts: &dyn Fn() -> NewEventParts) -> Result<Vec<NewEvent>, Failure> {
        let Some(Ok(events)) = &self.decided else { return Ok(Vec::new()) };
        events.iter().map(|event| Ok(new_event(event.encode()?, parts()))).collect()
    }

    fn absorb(&mut self) -> Result<(), Failure> {
        let Self { state, decided, .. } = self;
        let state = state.get_or_insert_with(|| Box::new(A::initial()));
        let Some(Ok(events)) = decided else { return Ok(()) };
        for event in events {
            if let Err(misfit) = A::apply(state, event) {
                return Err(Failure::Undecidable { event: event.encode()?.name, misfit });
            }
        }
        Ok(())
    }
}

fn new_event(encoded: crate::event::Encoded, parts: NewEventParts) -> NewEvent {
    let NewEventParts { id, stream, time, metadata } = parts;
    let crate::event::Encoded { name, version, payload, tags } = encoded;
    NewEvent { id, stream, name: Cow::Borrowed(name), schema_version: version, payload, tags, time, metadata }
}

/// Folds recorded events into a state.
pub(super) fn fold<A: Aggregate>(
    state: &mut Option<A>,
    events: &[Arc<RecordedEvent>],
) -> Result<(), FoldError> {
    for recorded in events {
        let mut misfit = Ok(());
        let decoded = decode::<A::Event>(&recorded.stored(), &mut |event| {
            if misfit.is_ok() {
                misfit = A::apply(state, &event);
            }
        });
        let fault = |fault: FoldFault| FoldError::new(&recorded.name, &recorded.meta, fault);
        decoded.map_err(|error| fault(error.into()))?;
        misfit.map_err(|error| fault(error.into()))?;
    }
    Ok(())
}
