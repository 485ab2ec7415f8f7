//! Limits are checked where a value enters: before a handler calls a service, before a decision is folded,
//! before a document is written, at startup.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cqrs::engine::{CatchUpError, ConsumerFault, Failure, OpenError};
use cqrs::error::{FoldFault, StoreErrorKind};
use cqrs::event::Metadata;
use cqrs::memory::MemoryStore;
use cqrs::prelude::*;
use cqrs::registry::{Location, Register, Registration};
use cqrs::store::EventStore as _;
use cqrs::{Partition, Position, Registry};

/// Counts how often a handler asks it.
pub trait Scale: Service {
    fn weigh(&self);
}

#[derive(Default)]
struct Counting(AtomicU64);

impl Service for Counting {}
impl Scale for Counting {
    fn weigh(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// Its `#[apply]` counts, which shows whether a decision was folded.
#[derive(Event, Serialize, Deserialize)]
pub struct Weighed {
    pub label: String,
}

#[derive(Command)]
pub struct Weigh {
    #[id]
    pub id: u64,
    pub events: usize,
    pub label: String,
}

#[derive(Default)]
pub struct Parcel;

static FOLDED: AtomicU64 = AtomicU64::new(0);

#[aggregate(id = u64)]
impl Parcel {
    #[handle]
    async fn weigh(&self, cmd: Weigh, scale: &dyn Scale) -> Vec<Weighed> {
        scale.weigh();
        (0..cmd.events).map(|_| Weighed { label: cmd.label.clone() }).collect()
    }
    #[apply]
    fn weighed(&mut self, _: &Weighed) {
        FOLDED.fetch_add(1, Ordering::SeqCst);
    }
}

/// The label is the key, of any length.
#[derive(Default, Serialize, Deserialize)]
pub struct Labels {
    pub count: u64,
}

#[projection(name = "labels", key = String)]
impl Labels {
    #[on(key = event.label.clone())]
    fn weighed(&mut self, event: &Weighed) {
        let _ = &event.label;
        self.count += 1;
    }
}

async fn parcels(store: &MemoryStore) -> (Engine, Arc<Counting>) {
    let scale = Arc::new(Counting::default());
    let registry = Registry::new().with::<Parcel>().with::<Labels>();
    let builder = Engine::builder().registry(registry).service::<dyn Scale>(scale.clone());
    (builder.without_background().build(store.clone()).await.unwrap(), scale)
}

fn weigh(events: usize, label: &str) -> Weigh {
    Weigh { id: 1, events, label: label.into() }
}

fn invalid<E: std::fmt::Debug>(error: &ExecuteError<E>) -> String {
    match error {
        ExecuteError::Failed(Failure::Store(error)) if error.kind() == StoreErrorKind::Invalid => {
            error.to_string()
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn key_and_metadata_are_checked_before_a_service_is_called() {
    let store = MemoryStore::new();
    let (engine, scale) = parcels(&store).await;
    let long = "k".repeat(201);
    let fat = Metadata::new().actor("x".repeat(16 << 10));
    let cases = [
        (engine.execute(weigh(1, "a")).key(""), "is empty"),
        (engine.execute(weigh(1, "a")).key(long), "the limit is 200"),
        (engine.execute(weigh(1, "a")).key("a\0"), "U+0000"),
        (engine.execute(weigh(1, "a")).metadata(fat.entry("a", "b")), "the limit is 16384"),
        (engine.execute(weigh(1, "a")).metadata(Metadata::new().actor("\0")), "U+0000"),
    ];
    for (execute, words) in cases {
        let message = invalid(&execute.await.unwrap_err());
        assert!(message.contains(words), "{message}");
    }
    assert_eq!(scale.0.load(Ordering::SeqCst), 0, "a service was called for a command that breaks a limit");
    assert_eq!(store.head(Partition::ONLY).await.unwrap().position, Position::START);
}

#[tokio::test]
async fn too_many_events_are_reported_before_they_are_folded() {
    let store = MemoryStore::new();
    let (engine, _) = parcels(&store).await;
    let before = FOLDED.load(Ordering::SeqCst);
    let message = invalid(&engine.execute(weigh(1_000_000, "a")).await.unwrap_err());
    assert_eq!(
        message,
        "the batch of this append has 1000000 events; the limit is 1000: split the work into several commands"
    );
    assert_eq!(FOLDED.load(Ordering::SeqCst), before);
    let large = "x".repeat(1 << 19);
    let message = invalid(&engine.execute(weigh(100, &large)).await.unwrap_err());
    assert!(message.contains("the limit is 16777216: split the work"), "{message}");
    assert_eq!(store.head(Partition::ONLY).await.unwrap().position, Position::START);
}

#[tokio::test]
async fn a_document_key_past_the_limit_names_its_event() {
    let (engine, _) = parcels(&MemoryStore::new()).await;
    engine.execute(weigh(1, &"é".repeat(512))).await.unwrap();
    engine.catch_up().await.unwrap();
    engine.execute(weigh(1, &"é".repeat(513))).await.unwrap();
    let stopped = engine.catch_up().await.unwrap_err();
    let CatchUpError::Stopped { fault: ConsumerFault::Event(error), .. } = &stopped else {
        panic!("{stopped:?}")
    };
    assert_eq!(error.position(), Position::new(2));
    assert!(matches!(error.fault(), FoldFault::Limit(_)), "{error:?}");
}

/// Registered by hand under a name that no store takes.
struct Unnamed;

impl Register for Unnamed {
    const REGISTRATION: Registration =
        Registration::projection::<LongName>(Location { file: "here", line: 1 });
}

#[derive(Default, Serialize, Deserialize)]
pub struct LongName;

impl cqrs::Projection for LongName {
    type Key = u64;
    type Event = <Labels as cqrs::Projection>::Event;
    const NAME: &'static str = concat!(
        "long-long-long-long-long-long-long-long-long-long-long-long-long-long-long-long-long-long-long-long-",
        "long-long-long-long-long-long-long-long-long-long-long-long-long-long-long-long-long-long-long-long-",
        "x"
    );
    const MODE: cqrs::projection::Mode = cqrs::projection::Mode::Async;
    const BY_STREAM: bool = true;
    fn initial() -> Option<Self> {
        Some(Self)
    }
    fn route(
        _: &Self::Event,
        meta: &EventMeta,
        keys: &mut cqrs::projection::Keys<u64>,
    ) -> Result<(), cqrs::projection::NotAKey> {
        keys.add_stream(meta)
    }
    fn apply(_: &mut Option<Self>, _: &Self::Event, _: &EventMeta) -> Result<(), cqrs::aggregate::Misfit> {
        Ok(())
    }
}

#[tokio::test]
async fn a_name_past_the_limit_is_reported_at_startup() {
    let registry = Registry::new().with::<Unnamed>();
    let error = Engine::builder().registry(registry).build(MemoryStore::new()).await.unwrap_err();
    let OpenError::Registry(error) = error else { panic!("{error:?}") };
    assert_eq!(error.faults().len(), 1, "{error}");
    assert!(error.to_string().ends_with("the projection's name has 201 bytes; the limit is 200"), "{error}");
}
