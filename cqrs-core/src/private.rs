//! What generated code calls, and nothing else does. Not part of the public interface: it changes
//! without notice, together with the macros.

pub use inventory;

pub use crate::aggregate::{
    Aggregate, Begins, Current, Decided, Decision, ErrorOf, Handle, IntoDecision, IntoEvents, Kept, Misfit,
    Refusal, Snapshots,
};
pub use crate::codec::{Codec, CodecError, Json, Storable};
pub use crate::command::{Command, HandledByOneAggregate, IdOf, Sent};
pub use crate::consumer::Database;
pub use crate::context::{Param, ServiceType, Surroundings};
pub use crate::engine::Rejection;
pub use crate::error::DecodeError;
pub use crate::event::{Encoded, Event, EventMeta, EventSet, EventType, Shape, Stored, Tags};
pub use crate::id::{Id, Version};
pub use crate::projection::{
    IntoKeys, Keys, Mode, NotAKey, Projection, RunningOf, SqlProjection, TransactionOf,
};
pub use crate::receipt::ExpectedVersion;
pub use crate::registry::{Location, Register, Registration};
pub use crate::store::Content;

use std::borrow::Cow;
use std::fmt::{self, Display};
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::Poll;

use crate::consumer::AsyncDatabase;
use crate::error::{BoxError, EncodeError, Panicked};
use crate::hash::Fnv;
use crate::numbers;

// Short names for the signatures that generated code repeats.
/// What [`EventSet::encode`] gives.
pub type EncodeResult = Result<Encoded, EncodeError>;
/// Where a decoded event goes.
pub type Out<'a, E> = &'a mut (dyn FnMut(E) + 'a);
/// Whether a stored event was known.
pub type Known = Result<bool, DecodeError>;
/// What [`Event::former`] fills.
pub type Shapes = Vec<Shape>;
/// What [`Aggregate::services`] fills.
pub type Needed = Vec<ServiceType>;
/// What [`IntoEvents::into_events`] fills.
pub type Events<A> = Vec<<A as Aggregate>::Event>;
/// What a fold gives.
pub type Fits = Result<(), Misfit>;
/// What [`Projection::route`] gives.
pub type Routed = Result<(), NotAKey>;
/// What [`Command::idempotency_key`] gives.
pub type Text<'a> = Cow<'a, str>;

/// `#[derive(Event)]`, in an enum of events: the event's bytes with its name and tags.
pub fn encode<E: Event>(event: &E) -> EncodeResult {
    let (name, version) = (E::NAME, E::VERSION);
    let payload = event.to_event_bytes::<E::Codec>();
    let payload = payload.map_err(|error| EncodeError::unwritten(name, version, error))?;
    let mut tags = Tags::default();
    event.tags(&mut tags);
    Ok(Encoded { name, version, payload, tags })
}

/// Decodes a stored event into `E` if it is one of its shapes, today's or a former one; answers
/// whether it was.
pub fn decode<E: Event>(stored: &Stored<'_>, out: &mut dyn FnMut(E)) -> Result<bool, DecodeError> {
    let end = if stored.name == E::NAME && stored.version == E::VERSION {
        let event = E::from_bytes::<E::Codec>(stored.payload);
        event.map(&mut *out).map(|()| true).map_err(|error| DecodeError::payload(stored, error))
    } else {
        E::upcast(stored, out)
    };
    if matches!(end, Ok(true)) || stored.name != E::NAME || stored.version > E::VERSION {
        return end;
    }
    let Some(bytes) = E::upcast_bytes(stored.version, stored.payload) else { return end };
    let event = E::from_bytes::<E::Codec>(&bytes);
    out(event.map_err(|error| {
        let words = format!("what its `upcast_bytes` returned cannot be read: {error}");
        DecodeError::payload(stored, CodecError::new(words))
    })?);
    Ok(true)
}

/// One kind of event of the set `S`, with all that the set needs to know of it.
///
/// What generated code asks of an event in several places, it asks through this one trait and at
/// the same token, so that the compiler reports a type that is not an event once.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an event",
    label = "not an event",
    note = "an event is a struct that derives `Event`, `Serialize` and `Deserialize`; the enum of an aggregate's events is not one"
)]
pub trait InSet<S>: Sized {
    /// The entry in [`EventSet::TYPES`].
    const TYPE: EventType<S>;

    /// As bytes.
    fn encode(&self) -> EncodeResult;
}

#[diagnostic::do_not_recommend]
impl<E: Event, S: From<E>> InSet<S> for E {
    const TYPE: EventType<S> =
        EventType::of::<E>(|stored, out| decode::<E>(stored, &mut |event| out(event.into())));

    fn encode(&self) -> EncodeResult {
        encode(self)
    }
}

/// Stands for an event that cannot be read back, while the compiler reports it.
#[must_use]
pub const fn unreadable<S>(name: &'static str, version: u32) -> EventType<S> {
    EventType {
        name,
        version,
        type_id: std::any::TypeId::of::<Unknown>,
        type_name: std::any::type_name::<Unknown>,
        former: |_| {},
        decode: |_, _| Ok(false),
    }
}

/// `Debug` of a generated enum, which asks nothing of its events: the stored name and payload.
pub fn debug<S: EventSet>(event: &S, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match event.encode() {
        Ok(Encoded { name, payload, .. }) => write!(f, "{name} {}", String::from_utf8_lossy(&payload)),
        Err(error) => write!(f, "({error})"),
    }
}

/// What a method of a projection with its own SQL may give: nothing, or a `Result` whose error becomes
/// a boxed one.
#[diagnostic::on_unimplemented(
    message = "a method of a projection with its own SQL cannot give a `{Self}`",
    label = "neither nothing nor a `Result`",
    note = "let it return `Result<(), E>` with an error type `E`; what is in `Ok` is left alone"
)]
pub trait Outcome {
    /// Whether it went well.
    fn outcome(self) -> Result<(), BoxError>;
}

impl Outcome for () {
    fn outcome(self) -> Result<(), BoxError> {
        Ok(())
    }
}

impl<T, E: Into<BoxError>> Outcome for Result<T, E> {
    fn outcome(self) -> Result<(), BoxError> {
        self.map(drop).map_err(Into::into)
    }
}

/// The statements of a method that is not `async`.
pub fn ready<'a, D: Database>(outcome: impl Outcome) -> D::Running<'a> {
    D::ready(outcome.outcome())
}

/// The statements of an `async` method.
pub fn later<'a, D: AsyncDatabase<'a, Caught<F>>, F>(handler: F) -> D::Running<'a> {
    D::later(Caught(Box::pin(handler)))
}

/// A handler on its way, whose panic becomes its error.
#[derive(Debug)]
pub struct Caught<F>(Pin<Box<F>>);

impl<F: Future<Output: Outcome>> Future for Caught<F> {
    type Output = Result<(), BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> Poll<Self::Output> {
        match catch_unwind(AssertUnwindSafe(|| self.0.as_mut().poll(cx))) {
            Ok(poll) => poll.map(Outcome::outcome),
            Err(panic) => Poll::Ready(Err(Panicked::new(&*panic).into())),
        }
    }
}

/// The content of a command, if its type can be serialized. `#[derive(Command)]` calls `content` on a reference to
/// this, and method resolution prefers [`Serialized`] where it applies.
#[derive(Debug)]
pub struct Compared<'a, C>(pub &'a C);

/// A command that derives `Serialize`.
pub trait Serialized {
    /// Its content.
    fn content(&self, shape: u64) -> Option<Content>;
}

/// Any other command.
pub trait NotSerialized {
    /// Nothing to compare.
    fn content(&self, _shape: u64) -> Option<Content> {
        None
    }
}

impl<C: serde::Serialize> Serialized for Compared<'_, C> {
    fn content(&self, shape: u64) -> Option<Content> {
        // A value that JSON does not have, such as an integer past 64 bits, is not compared.
        let value = serde_json::to_value(self.0).ok()?;
        Some(Content { shape, value: digest(&value) })
    }
}

impl<C> NotSerialized for &Compared<'_, C> {}

/// A hash that does not depend on the order of lists and fields, because a set is written in any order.
fn digest(value: &serde_json::Value) -> u64 {
    use serde_json::Value;
    let mut hash = Fnv::new();
    match value {
        Value::Array(all) => {
            hash.text("list");
            hash.number(all.iter().fold(0, |sum: u64, item| sum.wrapping_add(digest(item))));
        }
        Value::Object(fields) => {
            hash.text("fields");
            let field = |(name, value): (&String, &Value)| {
                let mut hash = Fnv::new();
                hash.text(name);
                hash.number(digest(value));
                hash.finish()
            };
            hash.number(fields.iter().map(field).fold(0, u64::wrapping_add));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => hash.text(&value.to_string()),
    }
    hash.finish()
}

/// Stops the compiler with this text, at the place that calls.
#[track_caller]
#[expect(clippy::panic, reason = "in a constant, a panic is an error of the compiler")]
pub const fn ensure(holds: bool, text: &str) {
    if !holds {
        panic!("{}", text);
    }
}

/// Whether the kind at this place of the set has a stored name that none before it has.
#[must_use]
pub const fn is_new<S>(types: &[EventType<S>], index: usize) -> bool {
    let mut at = 0;
    while at < index {
        if same_text(types[at].name, types[index].name) {
            return false;
        }
        at += 1;
    }
    true
}

/// An older type of the event `New`, as `from = …` or `replaces = …` names it.
#[derive(Debug)]
pub struct Former<New> {
    before: bool,
    read: fn(&Stored<'_>, Out<'_, New>) -> Known,
    shapes: fn(&mut Shapes),
}

impl<New> Former<New> {
    /// Whether it is stored under the same name, in the version right before.
    #[must_use]
    pub const fn is_version_before(&self) -> bool {
        self.before
    }
}

/// Whether one of them is the version right before.
#[must_use]
pub const fn has_version_before<New>(former: &[Former<New>]) -> bool {
    let mut at = 0;
    while at < former.len() {
        if former[at].before {
            return true;
        }
        at += 1;
    }
    false
}

/// `#[event(from = Old)]`: reads all that `Old` reads, and turns each into a `New`.
#[must_use]
pub const fn from<Old: Event + Hop<New>, New: Event>() -> Former<New> {
    Former {
        before: is_version_before::<Old, New>(),
        read: |stored, out| decode::<Old>(stored, &mut |old| out(old.hop())),
        shapes: former_shapes::<Old>,
    }
}

/// `#[event(replaces = Old)]`: reads all that `Old` reads, and turns each into several `New` or
/// none.
#[must_use]
pub const fn replaces<Old: Event + Split<New>, New: Event>() -> Former<New> {
    Former {
        before: is_version_before::<Old, New>(),
        read: |stored, out| decode::<Old>(stored, &mut |old| old.split().into_iter().for_each(&mut *out)),
        shapes: former_shapes::<Old>,
    }
}

/// The user's `From` between two versions.
#[diagnostic::on_unimplemented(
    message = "there is no way from `{Self}` to `{New}`",
    label = "`{New}` comes from this",
    note = "write `impl From<{Self}> for {New}`"
)]
pub trait Hop<New> {
    /// The next version.
    fn hop(self) -> New;
}

#[diagnostic::do_not_recommend]
impl<Old, New: From<Old>> Hop<New> for Old {
    fn hop(self) -> New {
        self.into()
    }
}

/// The user's `From` to what replaces an event.
#[diagnostic::on_unimplemented(
    message = "there is no way from `{Self}` to the `{New}`s that replace it",
    label = "`{New}` replaces this",
    note = "write `impl From<{Self}> for Vec<{New}>`; an empty `Vec` drops the old event"
)]
pub trait Split<New> {
    /// What replaces it.
    fn split(self) -> Vec<New>;
}

#[diagnostic::do_not_recommend]
impl<Old, New> Split<New> for Old
where
    Vec<New>: From<Old>,
{
    fn split(self) -> Vec<New> {
        self.into()
    }
}

/// Reads a stored event with the first of the former types that knows it.
pub fn upcast<New>(former: &[Former<New>], stored: &Stored<'_>, out: Out<'_, New>) -> Known {
    for old in former {
        if (old.read)(stored, out)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Tries a second way if the first does not know the stored event.
pub fn either(first: Known, second: impl FnOnce() -> Known) -> Known {
    if first? { Ok(true) } else { second() }
}

/// The shapes that the former types read.
pub fn former<New>(former: &[Former<New>], shapes: &mut Shapes) {
    former.iter().for_each(|old| (old.shapes)(shapes));
}

/// The older versions that `#[event(upcast(…))]` and `#[event(upcast_bytes = …)]` read.
pub fn former_raw<E: Event>(shapes: &mut Shapes) {
    shapes.extend((1..E::VERSION).map(|version| Shape { name: E::NAME, version }));
}

fn former_shapes<Old: Event>(shapes: &mut Shapes) {
    shapes.push(Shape { name: Old::NAME, version: Old::VERSION });
    Old::former(shapes);
}

/// The function of `#[event(upcast_bytes = …)]`: from a version and a payload to a payload of the current version.
pub type RepairBytes = fn(u32, &[u8]) -> Option<Vec<u8>>;

/// `#[event(upcast_bytes = …)]`.
pub fn upcast_bytes(repair: RepairBytes, version: u32, payload: &[u8]) -> Option<Vec<u8>> {
    repair(version, payload)
}

/// One step of `#[event(upcast(…))]`: from the raw JSON of a version to that of the next.
pub type RawStep = fn(serde_json::Value) -> serde_json::Value;

/// `#[event(upcast(…))]`: `steps[n]` leads from version n + 1 to version n + 2.
pub fn upcast_raw<E: Event>(
    steps: &[RawStep],
    stored: &Stored<'_>,
    out: &mut dyn FnMut(E),
) -> Result<bool, DecodeError> {
    if stored.name != E::NAME || stored.version == 0 || stored.version >= E::VERSION {
        return Ok(false);
    }
    let Some(steps) = steps.get(stored.version as usize - 1..) else { return Ok(false) };
    let fault = |error: CodecError| DecodeError::payload(stored, error);
    let (mut json, numbers) = numbers::open(stored.payload).map_err(fault)?;
    for step in steps {
        json = step(json);
    }
    let bytes = numbers.close(&json).map_err(fault)?;
    out(E::from_bytes::<E::Codec>(&bytes).map_err(fault)?);
    Ok(true)
}

/// Whether `Old` is stored under the same name as `New`, in the version right before.
const fn is_version_before<Old: Event, New: Event>() -> bool {
    same_text(Old::NAME, New::NAME) && Old::VERSION + 1 == New::VERSION
}

/// Compares two texts in a constant.
const fn same_text(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    if a.len() != b.len() {
        return false;
    }
    let mut at = 0;
    while at < a.len() {
        if a[at] != b[at] {
            return false;
        }
        at += 1;
    }
    true
}

/// `#[apply]` or `#[on]` without `self`.
pub fn creates<S>(state: &mut Option<S>, create: impl FnOnce() -> S) -> Result<(), Misfit> {
    if state.is_some() {
        return Err(Misfit::Exists);
    }
    *state = Some(create());
    Ok(())
}

/// `#[apply]` or `#[on]` with `&mut self`.
pub fn changes<S>(state: &mut Option<S>, change: impl FnOnce(&mut S)) -> Result<(), Misfit> {
    change(state.as_mut().ok_or(Misfit::Missing)?);
    Ok(())
}

/// `#[on]` with `self`: consumes the document and gives what it becomes.
pub fn consumes<S>(state: &mut Option<S>, consume: impl FnOnce(S) -> Option<S>) -> Result<(), Misfit> {
    *state = consume(state.take().ok_or(Misfit::Missing)?);
    Ok(())
}

/// `#[apply]` or `#[on]` with `Option<&Self>` or `Option<Self>`: says what becomes of what may be
/// there.
pub fn becomes<S, R: Into<Option<S>>>(
    state: &mut Option<S>,
    fold: impl FnOnce(&mut Option<S>) -> R,
) -> Result<(), Misfit> {
    *state = fold(state).into();
    Ok(())
}

/// A plain handler's answer. `answer` is not called if the receiver or a service refuses first.
pub fn decide<'a, A: Aggregate, R: IntoDecision<A>>(
    answer: impl FnOnce() -> Result<R, Refusal<A::Error>>,
) -> Decision<'a, A> {
    Decision::Ready(answer().and_then(R::into_decision))
}

/// An `async` handler's answer.
pub fn decide_later<'a, A: Aggregate, R: IntoDecision<A>, F: Future<Output = R> + Send + 'a>(
    answer: impl FnOnce() -> Result<F, Refusal<A::Error>>,
) -> Decision<'a, A> {
    match answer() {
        Ok(future) => Decision::Later(Box::pin(async move { future.await.into_decision() })),
        Err(refusal) => Decision::Ready(Err(refusal)),
    }
}

/// As [`decide`], for a handler that creates.
pub fn decide_first<'a, A: Aggregate, R: IntoDecision<A, First: Begins<A>>>(
    answer: impl FnOnce() -> Result<R, Refusal<A::Error>>,
) -> Decision<'a, A> {
    decide(answer)
}

/// As [`decide_later`], for a handler that creates.
pub fn decide_first_later<
    'a,
    A: Aggregate,
    R: IntoDecision<A, First: Begins<A>>,
    F: Future<Output = R> + Send + 'a,
>(
    answer: impl FnOnce() -> Result<F, Refusal<A::Error>>,
) -> Decision<'a, A> {
    decide_later(answer)
}

/// One event, as a decision.
pub fn one<A: Aggregate>(event: impl Into<A::Event>) -> Decided<A> {
    Ok(vec![event.into()])
}

/// Notes the service that a handler's parameter needs.
pub fn need(needed: &mut Needed, service: Option<fn() -> ServiceType>) {
    needed.extend(service.map(|service| service()));
}

/// The state of an aggregate that nothing creates.
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no way to begin",
    label = "no `#[apply]` creates it, and it has no `Default`",
    note = "let the `#[apply]` of its first event create it, `fn …(event: &…) -> Self`, or derive `Default` for `{Self}`"
)]
pub trait InitialState {
    /// The state before the first event.
    fn initial() -> Self;
}

#[diagnostic::do_not_recommend]
impl<S: Default> InitialState for S {
    fn initial() -> Self {
        Self::default()
    }
}

/// A document that nothing creates.
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no way to begin",
    label = "no `#[on]` creates it, and it has no `Default`",
    note = "let the `#[on]` of its first event create it, `fn …(event: &…) -> Self`, or derive `Default` for `{Self}`"
)]
pub trait InitialDocument {
    /// The document before its first event.
    fn initial() -> Self;
}

#[diagnostic::do_not_recommend]
impl<S: Default> InitialDocument for S {
    fn initial() -> Self {
        Self::default()
    }
}

/// Asks whether the `#[id]` of a command has the type that its aggregate names, but only of what is
/// a command: anything else is another mistake, and is reported elsewhere.
#[derive(Debug)]
pub struct Route<C>(std::marker::PhantomData<C>);

impl<C> Route<C> {
    /// Of this command.
    pub const OF: Self = Self(std::marker::PhantomData);
}

impl<C: Command> Route<C> {
    /// Leads to this aggregate.
    pub const fn to<A>(&self)
    where
        C::Id: IdOf<A>,
    {
    }
}

/// What the compiler finds when the method of that name does not apply.
pub trait Nowhere {
    /// Leads nowhere.
    fn to<A>(&self) {}
}

impl<C> Nowhere for Route<C> {}

/// The key of a document is the id of the event's stream.
pub fn stream_key<P: Projection>(keys: &mut Keys<P::Key>, meta: &EventMeta) -> Routed {
    keys.add_stream(meta)
}

/// A field of a command.
#[diagnostic::on_unimplemented(
    message = "`{Self}` in a command is not `Clone`",
    label = "cannot be copied for another attempt",
    note = "a command that lost a race is decided again, so it is copied before: derive `Clone` for `{Self}`, or put it into an `Arc`"
)]
pub trait Duplicate {
    /// A copy.
    fn duplicate(&self) -> Self;
}

#[diagnostic::do_not_recommend]
impl<T: Clone> Duplicate for T {
    fn duplicate(&self) -> Self {
        self.clone()
    }
}

/// A field with `#[expected_version]`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an expected version",
    label = "not a version",
    note = "the field with `#[expected_version]` is a `cqrs::ExpectedVersion` or a `cqrs::Version`, or an `Option` of one of them to leave the check out at times"
)]
pub trait Expects {
    /// The version, if one is expected.
    fn version(&self) -> Option<ExpectedVersion>;
}

impl Expects for Version {
    fn version(&self) -> Option<ExpectedVersion> {
        Some((*self).into())
    }
}

impl Expects for ExpectedVersion {
    fn version(&self) -> Option<ExpectedVersion> {
        Some(*self)
    }
}

impl Expects for Option<Version> {
    fn version(&self) -> Option<ExpectedVersion> {
        self.map(Into::into)
    }
}

impl Expects for Option<ExpectedVersion> {
    fn version(&self) -> Option<ExpectedVersion> {
        *self
    }
}

/// Which of several blanket impls is meant: a value itself.
#[derive(Debug)]
pub enum Plain {}
/// An `Option` of values.
#[derive(Debug)]
pub enum Optional {}
/// An array or a `Vec` of values.
#[derive(Debug)]
pub enum Many {}

/// A field with `#[idempotency_key]`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an idempotency key",
    label = "not a text",
    note = "the field with `#[idempotency_key]` is kept as text: it needs `Display`; an `Option` of that may leave the key out"
)]
pub trait KeyText<Kind> {
    /// The key, if there is one.
    fn text(&self) -> Option<Text<'_>>;
}

#[diagnostic::do_not_recommend]
impl<T: Display> KeyText<Plain> for T {
    fn text(&self) -> Option<Text<'_>> {
        Some(self.to_string().into())
    }
}

#[diagnostic::do_not_recommend]
impl<T: Display> KeyText<Optional> for Option<T> {
    fn text(&self) -> Option<Text<'_>> {
        self.as_ref()?.text()
    }
}

/// A field with `#[tag]`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a tag",
    label = "not a text",
    note = "a tag is kept as text: it needs `Display`; an `Option`, array or `Vec` of that tags each"
)]
pub trait TagValue<Kind> {
    /// Adds the tags.
    fn tag(&self, key: &str, tags: &mut Tags);
}

#[diagnostic::do_not_recommend]
impl<T: Display> TagValue<Plain> for T {
    fn tag(&self, key: &str, tags: &mut Tags) {
        tags.add(key, self);
    }
}

#[diagnostic::do_not_recommend]
impl<T: Display> TagValue<Optional> for Option<T> {
    fn tag(&self, key: &str, tags: &mut Tags) {
        self.iter().for_each(|one| tags.add(key, one));
    }
}

#[diagnostic::do_not_recommend]
impl<T: Display> TagValue<Many> for Vec<T> {
    fn tag(&self, key: &str, tags: &mut Tags) {
        self.iter().for_each(|one| tags.add(key, one));
    }
}

#[diagnostic::do_not_recommend]
impl<T: Display, const N: usize> TagValue<Many> for [T; N] {
    fn tag(&self, key: &str, tags: &mut Tags) {
        self.iter().for_each(|one| tags.add(key, one));
    }
}

/// Stands for the aggregate of a command while the real one has a mistake that leaves it without
/// any, so that its commands are not reported too.
#[derive(Debug)]
pub enum Unknown {}

impl EventSet for Unknown {
    const TYPES: &'static [EventType<Self>] = &[];

    fn encode(&self) -> EncodeResult {
        match *self {}
    }
}

impl Aggregate for Unknown {
    type State = Option<Self>;
    type Id = String;
    type Event = Self;
    type Error = std::convert::Infallible;
    const NAME: &'static str = "Unknown";
    const ALWAYS_EXISTS: bool = false;

    fn initial() -> Option<Self> {
        None
    }

    fn apply(_: &mut Option<Self>, event: &Self) -> Fits {
        match *event {}
    }
}

#[diagnostic::do_not_recommend]
impl<T> IdOf<Unknown> for T {}

#[diagnostic::do_not_recommend]
impl<C: Command> Handle<C> for Unknown {
    const REACHES_OUT: bool = false;

    fn handle<'a>(_: Current<'a, Self>, _: C, _: &Surroundings<'a>) -> Decision<'a, Self> {
        Decision::Ready(Err(Refusal::Missing))
    }
}
