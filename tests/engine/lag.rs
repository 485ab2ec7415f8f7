//! How far projections are, and how old what is read may be.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cqrs::engine::{ConsumerFault, ConsumerState, ConsumerStatus, Lag, Stores};
use cqrs::memory::MemoryStore;
use cqrs::prelude::*;
use cqrs::store::EventStore as _;
use cqrs::{Clock, Position, Timestamp};

use crate::bank::*;

const SECOND: u64 = 1_000_000;

/// A clock that stands where it was set, or goes on by a step each time somebody looks.
#[derive(Clone, Debug)]
struct Manual {
    now: Arc<AtomicU64>,
    step: u64,
}

impl Manual {
    fn new(seconds: u64, step: u64) -> Self {
        Self { now: Arc::new(AtomicU64::new(seconds * SECOND)), step }
    }
    fn set(&self, seconds: u64) {
        self.now.store(seconds * SECOND, Ordering::SeqCst);
    }
}

impl Clock for Manual {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.now.fetch_add(self.step, Ordering::SeqCst))
    }
}

async fn at(clock: &Manual, stores: impl Into<Stores>) -> Engine {
    let builder = Engine::builder().registry(registry()).clock(clock.clone()).without_background();
    builder.build(stores).await.unwrap()
}

async fn status(bank: &Engine, name: &str) -> ConsumerStatus {
    bank.status().await.unwrap().into_iter().find(|status| status.name == name).unwrap()
}

#[tokio::test]
async fn lag_is_told_in_positions_and_in_time() {
    let (clock, store) = (Manual::new(100, 0), MemoryStore::new());
    let bank = at(&clock, store.clone()).await;
    assert_eq!(status(&bank, "summary").await.lag, Lag::default(), "an empty log has no lag");
    open(&bank, 1, 5).await;
    bank.catch_up().await.unwrap();
    clock.set(130);
    assert_eq!(status(&bank, "summary").await.lag, Lag::default(), "nothing has happened since");
    open(&bank, 2, 5).await;
    clock.set(135);
    open(&bank, 3, 5).await;
    clock.set(142);
    let behind = status(&bank, "summary").await;
    assert_eq!((behind.position, behind.head), (Position::new(2), Position::new(6)));
    assert_eq!((behind.lag.positions, behind.lag.time), (4, Duration::from_secs(12)));
    assert_eq!(behind.lag.to_string(), "4 positions, 12.0 s");
    // What another engine has folded is in effect here too.
    let other = at(&clock, store).await;
    other.catch_up().await.unwrap();
    let caught_up = status(&bank, "summary").await;
    assert_eq!((caught_up.position, caught_up.lag), (Position::new(6), Lag::default()));
}

/// A clock that is behind that of the one who decided makes no lag of it, and no time to come.
#[tokio::test]
async fn a_clock_that_is_late_makes_no_negative_lag() {
    let (clock, store) = (Manual::new(100, 0), MemoryStore::new());
    let bank = at(&clock, store).await;
    open(&bank, 1, 5).await;
    clock.set(90);
    let behind = status(&bank, "summary").await;
    assert_eq!((behind.lag.positions, behind.lag.time), (2, Duration::ZERO));
    let read = bank.get::<Summary>(&1).dated().await.unwrap();
    assert_eq!(read.as_of.as_micros(), 90 * SECOND);
}

#[tokio::test]
async fn a_projection_of_another_log_is_behind_all_of_this_one() {
    let documents = Arc::new(MemoryStore::new());
    let on = |log: MemoryStore| Stores { log: Arc::new(log), documents: documents.clone() };
    let clock = Manual::new(100, 0);
    let before = at(&clock, on(MemoryStore::new())).await;
    open(&before, 1, 5).await;
    before.catch_up().await.unwrap();
    let bank = at(&clock, on(MemoryStore::new())).await;
    clock.set(150);
    for account in 1..4 {
        open(&bank, account, 5).await;
    }
    clock.set(160);
    let status = status(&bank, "summary").await;
    assert!(matches!(status.state, ConsumerState::Stopped(ConsumerFault::OtherLog)), "{status:?}");
    assert_eq!((status.lag.positions, status.lag.time), (6, Duration::from_secs(10)));
    let read = bank.get::<Summary>(&1).dated().await.unwrap_err();
    let is_told = matches!(read, ReadError::Stopped { fault: ConsumerFault::OtherLog, .. });
    assert!(is_told, "nothing of this log is known to be in it: {read:?}");
}

#[tokio::test]
async fn a_read_tells_from_when_it_is() {
    let (clock, store) = (Manual::new(100, 0), MemoryStore::new());
    let bank = at(&clock, store).await;
    open(&bank, 1, 5).await;
    clock.set(101);
    let receipt = bank.execute(Deposit { account: 1, cents: 2 }).await.unwrap();
    clock.set(103);
    // Nothing is folded yet: all that happened before the first event is in it.
    let read = bank.get::<Summary>(&1).dated().await.unwrap();
    assert_eq!((read.value, read.as_of.as_micros(), read.age), (None, 100 * SECOND, Duration::from_secs(3)));
    let read = bank.get::<Summary>(&1).after(&receipt).dated().await.unwrap();
    assert_eq!(read.value.unwrap().balance, 7);
    assert_eq!((read.as_of.as_micros(), read.age), (103 * SECOND, Duration::ZERO), "it has all there is");
    clock.set(110);
    bank.execute(Deposit { account: 1, cents: 2 }).await.unwrap();
    clock.set(114);
    let page = bank.list::<Summary>().limit(3).dated().await.unwrap();
    assert_eq!(page.value.documents.len(), 1);
    assert_eq!((page.as_of.as_micros(), page.age), (110 * SECOND, Duration::from_secs(4)));
}

#[tokio::test]
async fn the_oldest_partition_counts() {
    let store = MemoryStore::builder().partitions(4).build();
    let clock = Manual::new(100, 0);
    let bank = at(&clock, store.clone()).await;
    for account in 0..8 {
        open(&bank, account, 5).await;
    }
    bank.catch_up().await.unwrap();
    let second = open_in(&bank, &store, &clock, 1, 120).await;
    open_in(&bank, &store, &clock, 2, 110).await;
    clock.set(130);
    let as_of = bank.list::<Summary>().dated().await.unwrap().as_of;
    assert_eq!(as_of.as_micros(), 110 * SECOND);
    let lags: Vec<_> = bank.status().await.unwrap();
    let lag = |partition| {
        let of = |status: &&ConsumerStatus| status.name == "summary" && status.partition.get() == partition;
        lags.iter().find(of).unwrap().lag.time.as_secs()
    };
    assert_eq!((lag(0), lag(1), lag(2)), (0, 10, 20), "{second}");
}

/// Opens an account whose stream lies in the partition, at a time.
async fn open_in(
    bank: &Engine,
    store: &MemoryStore,
    clock: &Manual,
    partition: u16,
    seconds: u64,
) -> Receipt {
    clock.set(seconds);
    let lies = |account: &u64| {
        let stream = cqrs::StreamId::new("Account", account).unwrap();
        store.partition_of(&stream).get() == partition
    };
    let account = (1_000..).find(lies).unwrap();
    open(bank, account, 5).await
}

/// Reads race with a writer and a follower: what was accepted before `as_of` is always in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_accepted_before_is_always_in() {
    let (clock, store) = (Manual::new(100, 1), MemoryStore::new());
    let builder = Engine::builder().registry(registry()).clock(clock.clone());
    let bank = builder.build(store.clone()).await.unwrap();
    let writer = bank.clone();
    let writing = tokio::spawn(async move {
        let mut accepted = Vec::new();
        for account in 0..400 {
            let receipt = open(&writer, account, 1).await;
            accepted.push((receipt.position().get(), clock.now()));
            tokio::task::yield_now().await;
        }
        accepted
    });
    let mut reads = Vec::new();
    while !writing.is_finished() {
        reads.push(bank.get::<Total>(&"bank".into()).dated().await.unwrap());
        tokio::task::yield_now().await;
    }
    let accepted = writing.await.unwrap();
    let mut behind = 0;
    for read in reads {
        // Each event counts once, so this is the position up to which it is folded.
        let folded = read.value.map_or(0, |total| total.accounts + total.postings);
        behind += u32::from(folded < 800);
        let first_not_in = accepted.iter().find(|(position, _)| *position > folded);
        assert!(first_not_in.is_none_or(|(_, time)| *time >= read.as_of), "{first_not_in:?} {}", read.as_of);
    }
    assert!(behind > 0, "nothing raced");
}
