//! A log that was rewound and has grown again: what was kept of the lost history is not used. The store under test comes
//! from the test that includes this file.

use std::sync::Arc;

use cqrs::engine::Stores;
use cqrs::memory::MemoryStore;
use cqrs::prelude::*;
use cqrs::{Aggregate as _, ReadError};
use cqrs_core::error::{StoreError, StoreErrorKind};
use cqrs_core::id::{Position, StreamId, Version};
use cqrs_core::store::{EventStore, Snapshot};

/// A store that can be put back to an earlier state.
pub trait Rewind {
    type Store: EventStore + Clone + Into<Stores>;

    async fn open(&self) -> Self::Store;

    async fn back_up(&self);

    /// Puts the last backup back.
    async fn restore(&self);

    async fn verify(store: &Self::Store) -> Result<(), StoreError>;
}

#[derive(Event, Serialize, Deserialize)]
pub struct Deposited {
    pub cents: u64,
}

#[derive(Command)]
pub struct Deposit {
    #[id]
    pub account: u64,
    pub cents: u64,
}

#[derive(Default, Serialize, Deserialize)]
pub struct Account {
    pub balance: u64,
}

#[aggregate(id = u64, snapshot = every(10))]
impl Account {
    #[handle]
    fn deposit(&self, cmd: Deposit) -> Deposited {
        Deposited { cents: cmd.cents }
    }
    #[apply]
    fn deposited(&mut self, event: &Deposited) {
        self.balance += event.cents;
    }
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Total {
    pub cents: u64,
}

#[projection(name = "total", key = u64)]
impl Total {
    #[on]
    fn deposited(&mut self, event: &Deposited) {
        self.cents += event.cents;
    }
}

/// Deposits so often, by a new engine.
async fn deposit(store: impl Into<Stores>, times: u32, cents: u64) {
    let bank = Engine::builder().build(store).await.unwrap();
    for _ in 0..times {
        bank.execute(Deposit { account: 7, cents }).await.unwrap();
    }
    bank.shutdown().await;
}

async fn balance(store: impl Into<Stores>) -> u64 {
    let bank = Engine::builder().build(store).await.unwrap();
    let balance = bank.load::<Account>(&7).await.unwrap().state.unwrap().balance;
    bank.shutdown().await;
    balance
}

async fn kept(store: &impl EventStore) -> Snapshot {
    let stream: StreamId = "Account/7".parse().unwrap();
    store.snapshot(&stream, Account::SNAPSHOTS.unwrap().fingerprint()).await.unwrap().unwrap()
}

/// Other events have the versions and positions of those that the snapshot was folded from.
pub async fn a_snapshot_of_a_lost_history_is_not_used<R: Rewind>(log: R) {
    let store = log.open().await;
    deposit(store.clone(), 5, 1).await;
    log.back_up().await;
    deposit(store.clone(), 15, 1_000).await;
    let lost = kept(&store).await;
    assert_eq!((lost.version, lost.position), (Version::new(20), Position::new(20)));
    log.restore().await;
    let store = log.open().await;
    deposit(store.clone(), 15, 1).await;
    // A save that was on its way while the log was rewound.
    store.save_snapshot(lost.clone()).await.unwrap();
    assert_eq!(kept(&store).await, lost);
    let error = R::verify(&store).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Corrupt);
    assert!(error.to_string().contains("where the log does not have the event"), "{error}");
    assert_eq!(balance(store.clone()).await, 20);
    R::verify(&store).await.unwrap();
    // A command is decided on what is there, too.
    store.save_snapshot(lost).await.unwrap();
    deposit(store.clone(), 1, 1).await;
    assert_eq!(balance(store).await, 21);
}

/// The documents are in a memory store, which is not rewound.
pub async fn a_projection_in_another_store_continues_after_a_reset<R: Rewind>(log: R) {
    let documents = Arc::new(MemoryStore::new());
    let stores = Stores { log: Arc::new(log.open().await), documents: documents.clone() };
    let bank = Engine::builder().build(stores).await.unwrap();
    bank.execute(Deposit { account: 7, cents: 1 }).await.unwrap();
    log.back_up().await;
    let lost = bank.execute(Deposit { account: 7, cents: 1_000 }).await.unwrap();
    assert_eq!(bank.get::<Total>(&7).after(&lost).await.unwrap(), Some(Total { cents: 1_001 }));
    log.restore().await;
    let new = log.open().await;
    deposit(new.clone(), 2, 1).await;
    let receipt = bank.execute(Deposit { account: 7, cents: 1 }).await.unwrap();
    let read = bank.get::<Total>(&7).after(&receipt).await;
    assert!(matches!(read, Err(ReadError::Stopped { .. })), "{read:?}");
    bank.reset("total").await.unwrap();
    assert_eq!(bank.get::<Total>(&7).after(&receipt).await.unwrap(), Some(Total { cents: 4 }));
    assert!(bank.verify().await.unwrap().is_sound());
    bank.shutdown().await;
    // In the store itself, and by a program that has documents in memory.
    let (one, other) = (engine(&new).await, engine(&new).await);
    one.catch_up().await.unwrap();
    other.reset("total").await.unwrap();
    let receipt = one.execute(Deposit { account: 7, cents: 1 }).await.unwrap();
    assert_eq!(one.get::<Total>(&7).after(&receipt).await.unwrap(), Some(Total { cents: 5 }));
    assert!(one.verify().await.unwrap().is_sound());
    R::verify(&new).await.unwrap();
}

async fn engine(store: &(impl Clone + Into<Stores>)) -> Engine {
    Engine::builder().without_background().build(store.clone()).await.unwrap()
}
