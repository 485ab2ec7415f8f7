//! Decides, encodes and decodes without an engine.

use std::sync::Arc;

use cqrs::aggregate::{Current, Decision, Refusal};
use cqrs::context::{Services, Surroundings, SystemClock, TimeOrderedIds};
use cqrs::event::{EventSet, Stored};
use cqrs::{
    Aggregate, Clock as _, Command, Context, EventMeta, Handle, Id as _, Metadata, Partition, Position,
};
use cqrs::{StreamId, Version};
use uuid::Uuid;

/// The state after these events.
pub fn fold<A: Aggregate>(events: impl IntoIterator<Item = A::Event>) -> Option<A> {
    let mut state = A::initial();
    for event in events {
        A::apply(&mut state, &event).expect("the event fits");
    }
    state
}

/// What the handler says to a command after these events.
pub fn decide<A, C>(given: Vec<A::Event>, command: C) -> Result<Vec<A::Event>, Refusal<A::Error>>
where
    A: Handle<C>,
    C: Command<Aggregate = A>,
{
    decide_with(&Services::new(), given, command)
}

/// As [`decide`], with services.
pub fn decide_with<A, C>(
    services: &Services,
    given: Vec<A::Event>,
    command: C,
) -> Result<Vec<A::Event>, Refusal<A::Error>>
where
    A: Handle<C>,
    C: Command<Aggregate = A>,
{
    let version = Version::new(given.len() as u64);
    let state = fold::<A>(given);
    let stream = StreamId::new(A::NAME, command.id().as_text()).expect("a valid id");
    let context = Context::new(
        stream,
        version,
        SystemClock.now(),
        Arc::new(Metadata::new()),
        Arc::new(TimeOrderedIds::default()),
    );
    let around = Surroundings { context: &context, services };
    match A::handle(Current::new(state.as_ref(), version), command, &around) {
        Decision::Ready(decided) => decided,
        Decision::Later(future) => wait(future),
    }
}

/// Polls a future that never waits for anything outside.
fn wait<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    loop {
        if let std::task::Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return value;
        }
    }
}

/// The events as the log would hold them: name, version and JSON.
pub fn stored<S: EventSet>(events: &[S]) -> Vec<(String, u32, String)> {
    let one = |event: &S| {
        let encoded = event.encode().expect("it encodes");
        let json = String::from_utf8(encoded.payload.to_vec()).expect("JSON is text");
        (encoded.name.to_owned(), encoded.version, json)
    };
    events.iter().map(one).collect()
}

/// What a stored event becomes.
pub fn read<S: EventSet>(name: &str, version: u32, json: &str) -> Result<Vec<S>, String> {
    let mut events = Vec::new();
    let stored = Stored { name, version, payload: json.as_bytes() };
    cqrs::event::decode(&stored, &mut |event| events.push(event)).map_err(|error| error.to_string())?;
    Ok(events)
}

/// The envelope of an event in this stream.
pub fn meta(stream: &str) -> EventMeta {
    EventMeta {
        id: uuid(),
        stream: stream.parse().expect("a valid stream"),
        version: Version::new(1),
        partition: Partition::ONLY,
        position: Position::new(1),
        time: SystemClock.now(),
        metadata: Arc::new(Metadata::new().actor("ada")),
    }
}

fn uuid() -> Uuid {
    cqrs::context::IdSource::next(&TimeOrderedIds::default(), SystemClock.now())
}
