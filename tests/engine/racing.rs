//! Commands against somebody who is always quicker.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cqrs::engine::Stores;
use cqrs::error::StoreError;
use cqrs::memory::MemoryStore;
use cqrs::prelude::*;
use cqrs::store::{
    Append, AppendError, Appended, BoxFuture, Capabilities, CommandKey, EventStore, Head, Limits, LogRead,
    LogSlice, Reservation, StreamRead, StreamSlice,
};
use cqrs::{Partition, Position, StreamId};

use crate::bank::*;

/// A store in which somebody else puts a cent on account 1 before events are appended that were not reserved.
#[derive(Debug)]
struct Raced {
    inner: MemoryStore,
    rival: Engine,
    reserves: bool,
    cents: AtomicU64,
    reserved: AtomicU64,
}

impl Raced {
    async fn new(reserves: bool) -> Arc<Self> {
        let inner = MemoryStore::new();
        let rival = quiet(inner.clone()).await;
        open(&rival, 1, 0).await;
        let (cents, reserved) = (AtomicU64::new(0), AtomicU64::new(0));
        Arc::new(Self { inner, rival, reserves, cents, reserved })
    }

    /// An engine that always comes second.
    async fn slow(self: &Arc<Self>) -> Engine {
        quiet(Stores { log: self.clone(), documents: Arc::new(self.inner.clone()) }).await
    }

    fn counts(&self) -> (u64, u64) {
        (self.cents.load(Ordering::SeqCst), self.reserved.load(Ordering::SeqCst))
    }
}

impl EventStore for Raced {
    fn capabilities(&self) -> Capabilities {
        let mut capabilities = self.inner.capabilities();
        capabilities.inline = false;
        capabilities.reservations = self.reserves;
        capabilities
    }
    fn limits(&self) -> Limits {
        self.inner.limits()
    }
    fn partition_of(&self, stream: &StreamId) -> Partition {
        self.inner.partition_of(stream)
    }
    fn append(&self, append: Append) -> BoxFuture<'_, Result<Appended, AppendError>> {
        Box::pin(async move {
            if !append.events.is_empty() {
                self.rival.execute(Deposit { account: 1, cents: 1 }).await.unwrap();
                self.cents.fetch_add(1, Ordering::SeqCst);
            }
            self.inner.append(append).await
        })
    }
    fn reserve(&self, stream: &StreamId) -> BoxFuture<'_, Result<Option<Reservation>, StoreError>> {
        if !self.reserves {
            return Box::pin(async { Ok(None) });
        }
        self.reserved.fetch_add(1, Ordering::SeqCst);
        self.inner.reserve(stream)
    }
    fn find_key(&self, key: &CommandKey) -> BoxFuture<'_, Result<Option<Appended>, StoreError>> {
        self.inner.find_key(key)
    }
    fn read_stream(&self, read: StreamRead) -> BoxFuture<'_, Result<StreamSlice, StoreError>> {
        self.inner.read_stream(read)
    }
    fn read_log(&self, read: LogRead) -> BoxFuture<'_, Result<LogSlice, StoreError>> {
        self.inner.read_log(read)
    }
    fn head(&self, partition: Partition) -> BoxFuture<'_, Result<Head, StoreError>> {
        self.inner.head(partition)
    }
    fn wait(&self, partition: Partition, after: Position) -> BoxFuture<'_, Result<(), StoreError>> {
        self.inner.wait(partition, after)
    }
}

#[tokio::test]
async fn who_has_lost_often_gets_a_turn() {
    let store = Raced::new(true).await;
    let bank = store.slow().await;
    bank.execute(Deposit { account: 1, cents: 100 }).await.unwrap();
    assert_eq!(store.counts(), (4, 1));
    // It is decided on what was read in that turn.
    let refused = bank.execute(Withdraw { account: 1, cents: 105 }).await.unwrap_err();
    assert!(matches!(refused, ExecuteError::Refused(AccountError::Overdraft { balance: 104 })), "{refused}");
    bank.execute(Withdraw { account: 1, cents: 106 }).await.unwrap_err();
    assert_eq!(balance(&bank, 1).await, 104);
    // What is refused in a turn lets the others go on.
    let conflict = bank.execute(Deposit { account: 1, cents: 7 }).expect(cqrs::Version::new(4)).await;
    assert!(matches!(conflict, Err(ExecuteError::Conflict(_))), "{conflict:?}");
    open(&store.rival, 2, 1).await;
}

#[tokio::test]
async fn without_reservations_it_loses_as_often_as_it_tries() {
    let store = Raced::new(false).await;
    let bank = store.slow().await;
    let lost = bank.execute(Deposit { account: 1, cents: 100 }).await;
    assert!(matches!(lost, Err(ExecuteError::Conflict(_))), "{lost:?}");
    assert_eq!(store.counts(), (10, 0));
    assert_eq!(balance(&bank, 1).await, 10);
}

/// A handler that reaches outside gets its turn too, if it is quick: the store takes a reservation back from one that is
/// not, so for that one everybody would wait in vain.
#[tokio::test]
async fn a_handler_that_reaches_outside_gets_a_turn_if_it_is_quick() {
    let store = Raced::new(true).await;
    let bank = store.slow().await;
    bank.execute(Collect { account: 1, cents: 100 }).await.unwrap();
    assert_eq!(store.counts(), (4, 1));
    let lost = bank.execute(Appraise { account: 1, millis: 320 }).await;
    assert!(matches!(lost, Err(ExecuteError::Conflict(_))), "{lost:?}");
    assert_eq!(store.counts(), (14, 1));
}

#[tokio::test]
async fn many_that_always_lose_get_their_turns() {
    let store = Raced::new(true).await;
    let bank = store.slow().await;
    let tasks: Vec<_> = (0..50)
        .map(|_| {
            let bank = bank.clone();
            tokio::spawn(async move { bank.execute(Deposit { account: 1, cents: 100 }).await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    let (cents, _) = store.counts();
    assert_eq!(balance(&bank, 1).await, 50 * 100 + cents);
}
