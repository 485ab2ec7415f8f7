//! The states that an engine remembers are limited by their bytes.

use std::future::IntoFuture;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Waker};

use cqrs::Registry;
use cqrs::engine::Stores;
use cqrs::error::StoreErrorKind;
use cqrs::memory::MemoryStore;
use cqrs::prelude::*;
use cqrs::registry::Register;
use cqrs_testkit::faults::{Call, Fault, Faulty};

const KIB: usize = 1_024;

#[derive(Event, Serialize, Deserialize)]
pub struct Added {
    text: String,
}

#[derive(Event, Serialize, Deserialize)]
pub struct Grew {
    bytes: usize,
}

#[derive(Debug, thiserror::Error)]
#[error("it is full")]
pub struct Full;

/// The bytes that the states of one test have in memory now, and the most that they had.
pub struct Counter {
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Counter {
    const fn new() -> Self {
        Self { now: AtomicUsize::new(0), most: AtomicUsize::new(0) }
    }

    fn grow(&self, bytes: usize) {
        let now = self.now.fetch_add(bytes, Ordering::SeqCst) + bytes;
        self.most.fetch_max(now, Ordering::SeqCst);
    }

    fn shrink(&self, bytes: usize) {
        self.now.fetch_sub(bytes, Ordering::SeqCst);
    }
}

/// An aggregate of one text: its name, more arguments, and whether a new text is added to the old one.
macro_rules! shelf {
    ($module:ident, $name:literal, [$($argument:tt)*], $keeps:expr) => {
        mod $module {
            use super::*;

            pub static LIVE: Counter = Counter::new();

            #[derive(Command)]
            pub struct Add {
                #[id]
                pub shelf: u64,
                pub text: String,
            }

            #[derive(Command)]
            pub struct Grow {
                #[id]
                pub shelf: u64,
                pub bytes: usize,
            }

            #[derive(Command)]
            pub struct Refuse {
                #[id]
                pub shelf: u64,
            }

            #[derive(Default, Serialize, Deserialize)]
            pub struct Shelf {
                text: String,
            }

            impl Drop for Shelf {
                fn drop(&mut self) {
                    LIVE.shrink(self.text.len());
                }
            }

            impl Shelf {
                #[allow(dead_code, reason = "one of the shelves names it")]
                fn bytes(&self) -> usize {
                    self.text.capacity()
                }
                fn put(&mut self, text: &str) {
                    if !$keeps {
                        LIVE.shrink(self.text.len());
                        self.text = String::new();
                    }
                    LIVE.grow(text.len());
                    self.text.reserve_exact(text.len());
                    self.text.push_str(text);
                }
            }

            #[aggregate(id = u64, error = Full, name = $name $($argument)*)]
            impl Shelf {
                #[handle]
                fn add(&self, cmd: Add) -> Added {
                    Added { text: cmd.text }
                }
                #[handle]
                fn grow(&self, cmd: Grow) -> Grew {
                    Grew { bytes: cmd.bytes }
                }
                #[handle]
                fn refuse(&self, _: Refuse) -> Result<Grew, Full> {
                    Err(Full)
                }
                #[apply]
                fn added(&mut self, e: &Added) {
                    self.put(&e.text);
                }
                #[apply]
                fn grew(&mut self, e: &Grew) {
                    self.put(&"x".repeat(e.bytes));
                }
            }
        }
    };
}

shelf!(collects, "Collects", [], true);
shelf!(measured, "Measured", [, state_size = Shelf::bytes], true);
shelf!(ordered, "Ordered", [, state_size = Shelf::bytes], true);
shelf!(replaces, "Replaces", [], false);
shelf!(kept, "Kept", [, snapshot = every(1_000)], false);
shelf!(large, "Large", [], true);

async fn engine<A: cqrs::Aggregate + Register>(stores: impl Into<Stores>, bytes: usize) -> Engine {
    let builder = Engine::builder().registry(Registry::new().with::<A>()).hot_state_bytes(bytes);
    builder.without_background().build(stores).await.unwrap()
}

fn faulty() -> (Faulty<MemoryStore>, Stores) {
    let store = Faulty::new(MemoryStore::new());
    (store.clone(), Arc::new(store).into())
}

/// Counts the reads of streams during some work.
async fn reads<T>(store: &Faulty<MemoryStore>, work: impl IntoFuture<Output = T>) -> (usize, T) {
    let before = store.count(Call::ReadStream);
    let end = work.await;
    (store.count(Call::ReadStream) - before, end)
}

/// The state of a command and the one that is dropped for it are past the limit for a moment.
const SLACK: usize = 2 * 64 * KIB;

#[tokio::test]
async fn states_made_of_large_events_stay_within_the_limit() {
    let engine = engine::<collects::Shelf>(MemoryStore::new(), 1_024 * KIB).await;
    for round in 1..=2 {
        for shelf in 0..100 {
            engine.execute(collects::Add { shelf, text: "x".repeat(32 * KIB) }).await.unwrap();
        }
        let (now, most) = (&collects::LIVE.now, &collects::LIVE.most);
        let (now, most) = (now.load(Ordering::SeqCst), most.load(Ordering::SeqCst));
        assert!(most <= 1_024 * KIB + SLACK, "{most} bytes in round {round}");
        // It is used, too.
        assert!(now > 900 * KIB, "{now} bytes in round {round}");
    }
}

#[tokio::test]
async fn states_that_say_their_size_stay_within_the_limit() {
    let engine = engine::<measured::Shelf>(MemoryStore::new(), 1_024 * KIB).await;
    for round in 1..=2 {
        for shelf in 0..100 {
            engine.execute(measured::Grow { shelf, bytes: 32 * KIB }).await.unwrap();
        }
        let (now, most) = (&measured::LIVE.now, &measured::LIVE.most);
        let (now, most) = (now.load(Ordering::SeqCst), most.load(Ordering::SeqCst));
        assert!(most <= 1_024 * KIB + SLACK, "{most} bytes in round {round}");
        assert!(now > 900 * KIB, "{now} bytes in round {round}");
    }
}

#[tokio::test]
async fn the_least_recently_used_state_is_dropped() {
    let (store, stores) = faulty();
    // Four of them fit.
    let engine = engine::<ordered::Shelf>(stores, 45 * KIB).await;
    let grow = |shelf, bytes| engine.execute(ordered::Grow { shelf, bytes });
    for shelf in 1..=4 {
        grow(shelf, 10 * KIB).await.unwrap();
    }
    // 1 is used again, so 2 goes first, then 3.
    assert_eq!(reads(&store, grow(1, 0)).await.0, 0);
    grow(5, 10 * KIB).await.unwrap();
    assert_eq!(reads(&store, grow(1, 0)).await.0, 0);
    grow(6, 10 * KIB).await.unwrap();
    for (shelf, expected) in [(1, 0), (4, 0), (5, 0), (6, 0), (2, 1)] {
        let (count, end) = reads(&store, grow(shelf, 0)).await;
        end.unwrap();
        assert_eq!(count, expected, "shelf {shelf}");
    }
    // Now the one that was used longest ago is 1.
    assert_eq!(reads(&store, grow(4, 0)).await.0, 0);
    assert_eq!(reads(&store, grow(1, 0)).await.0, 1);
}

#[tokio::test]
async fn a_snapshot_shows_that_a_state_is_small() {
    // 200 KiB of events, of which each state has 1 KiB.
    let text = || "x".repeat(KIB);
    let (store, stores) = faulty();
    let bank = engine::<kept::Shelf>(stores, 256 * KIB).await;
    for _ in 0..200 {
        for shelf in 0..10 {
            bank.execute(kept::Add { shelf, text: text() }).await.unwrap();
        }
    }
    for shelf in 0..10 {
        let (count, end) = reads(&store, bank.execute(kept::Add { shelf, text: text() })).await;
        end.unwrap();
        assert_eq!(count, 0, "shelf {shelf}");
    }
    // The negative control: without one, all events count.
    let (store, stores) = faulty();
    let bank = engine::<replaces::Shelf>(stores, 256 * KIB).await;
    for _ in 0..200 {
        for shelf in 0..10 {
            bank.execute(replaces::Add { shelf, text: text() }).await.unwrap();
        }
    }
    assert!(store.count(Call::ReadStream) > 1_000);
}

/// Each reads the stream, and none builds on the append before it.
#[tokio::test]
async fn a_state_past_the_limit_is_not_kept_and_its_commands_succeed() {
    let directory = tempfile::tempdir().unwrap();
    let sqlite = cqrs::sqlite::SqliteStore::open(directory.path().join("shelf.db")).await.unwrap();
    let (store, memory) = faulty();
    for (name, stores) in [("memory", memory), ("sqlite", Arc::new(sqlite).into())] {
        let bank = engine::<large::Shelf>(stores, 8 * KIB).await;
        bank.execute(large::Add { shelf: 1, text: "x".repeat(16 * KIB) }).await.unwrap();
        let commands = (0..40).map(|_| {
            store.fail_next(Call::Append, Fault::Slow);
            let bank = bank.clone();
            tokio::spawn(async move { bank.execute(large::Grow { shelf: 1, bytes: 1 }).await })
        });
        for command in commands.collect::<Vec<_>>() {
            command.await.unwrap().expect(name);
        }
        assert_eq!(bank.load::<large::Shelf>(&1).await.unwrap().version.get(), 41, "{name}");
        // No append lost a race.
        assert_eq!(store.count(Call::Append), 41);
        assert!(store.count(Call::ReadStream) >= 40);
    }
}

/// The count of a state goes with the state, however its command ends.
#[tokio::test]
async fn commands_that_fail_leave_nothing_counted() {
    // With room for all streams, and with less, where any but the last one may have gone.
    for (streams, fit) in [(10_000, 20), (64, 1)] {
        let (store, stores) = faulty();
        let builder = Engine::builder().registry(Registry::new().with::<replaces::Shelf>());
        let builder = builder.hot_streams(streams).hot_state_bytes(100 * KIB);
        let bank = builder.without_background().build(stores).await.unwrap();
        let add = |shelf, kib| bank.execute(replaces::Add { shelf, text: "x".repeat(kib * KIB) });
        for shelf in 0..200 {
            add(shelf, 20).await.unwrap();
            assert!(bank.execute(replaces::Refuse { shelf }).await.unwrap_err().is_refusal());
            store.fail_next(Call::Append, Fault::Before(StoreErrorKind::Failed));
            add(shelf, 20).await.unwrap_err();
            add(shelf, 20).await.unwrap();
            // Dropped while it appends, and while it reads.
            for call in [Call::Append, Call::ReadStream] {
                store.fail_next(call, Fault::Hang);
                let mut dropped = Box::pin(bank.execute(replaces::Grow { shelf, bytes: 1 }));
                assert!(dropped.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            }
        }
        // So many fit, whatever became of the others.
        for round in 0..3 {
            for shelf in 1_000..1_000 + fit {
                let (count, end) = reads(&store, add(shelf, 1)).await;
                end.unwrap();
                assert_eq!(count, usize::from(round == 0), "shelf {shelf} of {streams} in round {round}");
            }
        }
    }
}
