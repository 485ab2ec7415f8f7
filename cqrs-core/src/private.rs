//! What generated code calls, and nothing else does. Not part of the public interface: it changes
//! without notice, together with the macros.

pub use inventory;

pub use crate::aggregate::{
    Aggregate, Begins, Current, Decided, Decision, ErrorOf, Handle, IntoDecision, IntoEvents, Misfit, Refusal,
};
pub use crate::codec::{Codec, CodecError, Json};
pub use crate::command::{Command, HandledBy, IdOf};
pub use crate::context::{Param, ServiceType, Surroundings};
pub use crate::error::DecodeError;
pub use crate::event::{Encoded, Event, EventMeta, EventSet, EventType, Shape, Stored, Tags};
pub use crate::id::Version;
pub use crate::projection::{IntoKeys, Keys, NotAKey, Projection};
pub use crate::registry::{Location, Register, Registration};

use std::future::Future;

/// `#[derive(Event)]`, in an enum of events: the event's bytes with its name and tags.
pub fn encode<E: Event>(event: &E) -> Result<Encoded, CodecError> {
    let mut tags = Tags::default();
    event.tags(&mut tags);
    Ok(Encoded { name: E::NAME, version: E::VERSION, payload: E::Codec::encode(event)?, tags })
}

/// Decodes a stored event into `E` if it is one of its shapes, today's or a former one; answers
/// whether it was.
pub fn decode<E: Event>(stored: &Stored<'_>, out: &mut dyn FnMut(E)) -> Result<bool, DecodeError> {
    if stored.name == E::NAME && stored.version == E::VERSION {
        let event = E::Codec::decode(stored.payload);
        out(event.map_err(|error| DecodeError::payload(stored, error))?);
        return Ok(true);
    }
    E::upcast(stored, out)
}

/// `#[event(from = Old)]`: reads all that `Old` reads, and turns each into `E`.
pub fn upcast_from<Old: Event, E: Event + From<Old>>(
    stored: &Stored<'_>,
    out: &mut dyn FnMut(E),
) -> Result<bool, DecodeError> {
    decode::<Old>(stored, &mut |old| out(E::from(old)))
}

/// `#[event(replaces = Old)]`: reads all that `Old` reads, and turns each into several `E` or none.
pub fn upcast_each<Old: Event, E: Event>(
    stored: &Stored<'_>,
    out: &mut dyn FnMut(E),
) -> Result<bool, DecodeError>
where
    Vec<E>: From<Old>,
{
    decode::<Old>(stored, &mut |old| Vec::<E>::from(old).into_iter().for_each(&mut *out))
}

/// One step of `#[event(upcast(…))]`: from the raw JSON of a version to that of the next.
pub type RawStep = fn(serde_json::Value) -> serde_json::Value;

/// `#[event(upcast(…))]`: `steps[n]` leads from version n + 1 to version n + 2.
pub fn upcast_raw<E: Event>(
    stored: &Stored<'_>,
    steps: &[RawStep],
    out: &mut dyn FnMut(E),
) -> Result<bool, DecodeError> {
    if stored.name != E::NAME || stored.version == 0 || stored.version >= E::VERSION {
        return Ok(false);
    }
    let Some(steps) = steps.get(stored.version as usize - 1..) else { return Ok(false) };
    let fault = |error: serde_json::Error| DecodeError::payload(stored, CodecError::new(error));
    let mut json: serde_json::Value = serde_json::from_slice(stored.payload).map_err(fault)?;
    for step in steps {
        json = step(json);
    }
    let bytes = serde_json::to_vec(&json).map_err(fault)?;
    out(E::Codec::decode(&bytes).map_err(|error| DecodeError::payload(stored, error))?);
    Ok(true)
}

/// The shapes that `Old` reads, as former shapes of another type.
pub fn former<Old: Event>(shapes: &mut Vec<Shape>) {
    shapes.push(Shape { name: Old::NAME, version: Old::VERSION });
    Old::former(shapes);
}

/// Whether `Old` is stored under the same name as `New`, in the version right before.
#[must_use]
pub const fn is_version_before<Old: Event, New: Event>() -> bool {
    same_text(Old::NAME, New::NAME) && Old::VERSION + 1 == New::VERSION
}

/// Compares two texts in a constant.
#[must_use]
pub const fn same_text(a: &str, b: &str) -> bool {
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

/// Notes the service that a handler's parameter needs.
pub fn needs<'a, P: Param<'a>>(needed: &mut Vec<ServiceType>) {
    needed.extend(P::NEEDS.map(|service| service()));
}
