//! A log that was rewound under an open engine, and has grown again: another event is where one was acknowledged.

use std::sync::Arc;

use cqrs::engine::{Compared, ConsumerFault, ConsumerState, Stores};
use cqrs::memory::{MemoryBackup, MemoryStore};
use cqrs::prelude::*;
use cqrs::store::{BoxFuture, Capabilities};
use cqrs::{ExpectedVersion, Version};

use crate::bank::*;

/// An account with 5 in it, and what the store had then.
pub async fn account(store: &MemoryStore, bank: &Engine) -> MemoryBackup {
    bank.execute(Open { account: 1, owner: "Ada".into() }).await.unwrap();
    bank.execute(Deposit { account: 1, cents: 5 }).await.unwrap();
    store.backup()
}

/// Another program deposits so often.
pub async fn regrow(store: &MemoryStore, times: usize) {
    let other = quiet(store.reopen()).await;
    for _ in 0..times {
        other.execute(Deposit { account: 1, cents: 1 }).await.unwrap();
    }
}

/// The events of the log, folded by hand: an overdraft shows as a negative balance.
async fn balance(store: &MemoryStore) -> i64 {
    let other = quiet(store.reopen()).await;
    other.catch_up().await.unwrap();
    other.get::<Total>(&"bank".into()).await.unwrap().unwrap().balance
}

/// The engine that acknowledged a deposit decides on after it was lost. For each `regrown`, the log has grown so far
/// again: not at all, to the old version, or past it.
async fn decides_on_what_is_there(stores: impl Fn(MemoryStore) -> Stores) {
    for regrown in 0..4 {
        let store = MemoryStore::new();
        let bank = quiet(stores(store.clone())).await;
        let before = account(&store, &bank).await;
        bank.execute(Deposit { account: 1, cents: 1_000_000 }).await.unwrap();
        store.restore(&before).unwrap();
        regrow(&store, regrown).await;
        for cents in [900_000, 50_000, 1_000] {
            let withdrawn = bank.execute(Withdraw { account: 1, cents }).await;
            assert!(withdrawn.is_err(), "regrown by {regrown}: {withdrawn:?}");
        }
        assert_eq!(balance(&store).await, 5 + regrown as i64, "regrown by {regrown}");
        // Once the log has reached the head that this engine knows, it goes on with what is there.
        if regrown > 0 {
            bank.execute(Withdraw { account: 1, cents: 5 }).await.unwrap();
            assert_eq!(balance(&store).await, regrown as i64);
        }
    }
}

#[tokio::test]
async fn a_decision_rests_on_the_events_that_are_there() {
    decides_on_what_is_there(|store| Arc::new(store).into()).await;
}

/// A log that cannot expect an event; the documents are those of the store.
#[derive(Debug)]
struct VersionsAlone(MemoryStore);

impl cqrs::store::EventStore for VersionsAlone {
    fn capabilities(&self) -> Capabilities {
        let mut capabilities = self.0.capabilities();
        (capabilities.event_guards, capabilities.inline) = (false, false);
        capabilities
    }
    fn limits(&self) -> cqrs::store::Limits {
        self.0.limits()
    }
    fn partition_of(&self, stream: &cqrs::StreamId) -> cqrs::Partition {
        self.0.partition_of(stream)
    }
    fn append(
        &self,
        append: cqrs::store::Append,
    ) -> BoxFuture<'_, Result<cqrs::store::Appended, cqrs::store::AppendError>> {
        self.0.append(append)
    }
    fn find_key(
        &self,
        key: &cqrs::store::CommandKey,
    ) -> BoxFuture<'_, Result<Option<cqrs::store::Appended>, cqrs::error::StoreError>> {
        self.0.find_key(key)
    }
    fn read_stream(
        &self,
        read: cqrs::store::StreamRead,
    ) -> BoxFuture<'_, Result<cqrs::store::StreamSlice, cqrs::error::StoreError>> {
        self.0.read_stream(read)
    }
    fn read_log(
        &self,
        read: cqrs::store::LogRead,
    ) -> BoxFuture<'_, Result<cqrs::store::LogSlice, cqrs::error::StoreError>> {
        self.0.read_log(read)
    }
    fn head(
        &self,
        partition: cqrs::Partition,
    ) -> BoxFuture<'_, Result<cqrs::store::Head, cqrs::error::StoreError>> {
        self.0.head(partition)
    }
    fn wait(
        &self,
        partition: cqrs::Partition,
        after: cqrs::Position,
    ) -> BoxFuture<'_, Result<(), cqrs::error::StoreError>> {
        self.0.wait(partition, after)
    }
}

#[tokio::test]
async fn a_store_without_event_guards_is_read_before_each_decision() {
    decides_on_what_is_there(|store| {
        let documents = Arc::new(store.clone());
        Stores { log: Arc::new(VersionsAlone(store)), documents }
    })
    .await;
}

#[tokio::test]
async fn a_receipt_and_an_expected_version_of_a_lost_history_are_rejected() {
    for regrown in 0..4 {
        let store = MemoryStore::new();
        let bank = quiet(store.clone()).await;
        let before = account(&store, &bank).await;
        let lost = bank.execute(Deposit { account: 1, cents: 1_000_000 }).await.unwrap();
        let seen = bank.load::<Account>(&1).await.unwrap().expected();
        assert_eq!(seen, ExpectedVersion::from(lost));
        store.restore(&before).unwrap();
        regrow(&store, regrown).await;
        let bank = quiet(store.reopen()).await;
        let lost: Receipt = lost.to_string().parse().unwrap();
        for read in [
            bank.get::<Summary>(&1).after(&lost).await.map(drop),
            bank.list::<Summary>().after(&lost).await.map(drop),
        ] {
            assert!(matches!(read, Err(ReadError::LostReceipt { .. })), "regrown by {regrown}: {read:?}");
        }
        let seen: ExpectedVersion = seen.to_string().parse().unwrap();
        let expecting = bank.execute(Deposit { account: 1, cents: 1 }).expect(seen).await;
        assert!(matches!(expecting, Err(ExecuteError::Conflict(_))), "regrown by {regrown}: {expecting:?}");
        // The number alone matches by chance, which is why it is not enough.
        let by_number = bank.execute(Deposit { account: 1, cents: 1 }).expect(Version::new(3)).await;
        assert_eq!(by_number.is_ok(), regrown == 1);
        // What is there is accepted, and so is a receipt of it.
        let now = bank.load::<Account>(&1).await.unwrap();
        let receipt = bank.execute(Deposit { account: 1, cents: 1 }).expect(&now).await.unwrap();
        bank.get::<Summary>(&1).after(&receipt).await.unwrap();
    }
}

/// The engine has read a document right before, and reads each of them more than once.
#[tokio::test]
async fn each_read_notices_documents_of_a_lost_history() {
    for regrown in 0..5 {
        let (store, documents) = (MemoryStore::new(), Arc::new(MemoryStore::new()));
        let bank = quiet(Stores { log: Arc::new(store.clone()), documents }).await;
        let before = account(&store, &bank).await;
        bank.execute(Deposit { account: 1, cents: 1_000_000 }).await.unwrap();
        bank.catch_up().await.unwrap();
        bank.get::<Summary>(&1).await.unwrap();
        store.restore(&before).unwrap();
        regrow(&store, regrown).await;
        for read in [
            bank.get::<Summary>(&1).await.map(drop),
            bank.list::<Summary>().await.map(drop),
            bank.get::<Summary>(&1).dated().await.map(drop),
            bank.get::<Summary>(&1).await.map(drop),
        ] {
            assert!(matches!(read, Err(ReadError::Stopped { .. })), "regrown by {regrown}: {read:?}");
        }
    }
}

/// The documents are in a store of their own, which was not rewound.
#[tokio::test]
async fn documents_of_a_lost_history_are_not_shown() {
    for regrown in 0..5 {
        for in_the_background in [false, true] {
            let (store, documents) = (MemoryStore::new(), Arc::new(MemoryStore::new()));
            let stores = |log: MemoryStore| Stores { log: Arc::new(log), documents: documents.clone() };
            let bank = quiet(stores(store.clone())).await;
            let before = account(&store, &bank).await;
            bank.execute(Deposit { account: 1, cents: 1_000_000 }).await.unwrap();
            bank.catch_up().await.unwrap();
            store.restore(&before).unwrap();
            regrow(&store, regrown).await;
            let log = store.reopen();
            let other = quiet(log.clone()).await;
            let receipt = other.execute(Deposit { account: 1, cents: 1 }).await.unwrap();
            let bank = match in_the_background {
                true => running(stores(store.reopen())).await,
                false => quiet(stores(store.reopen())).await,
            };
            let what = format!("regrown by {regrown}, in the background: {in_the_background}");
            for read in [
                bank.get::<Summary>(&1).await.map(drop),
                bank.get::<Summary>(&1).after(&receipt).await.map(drop),
                bank.list::<Summary>().after(&receipt).await.map(drop),
            ] {
                let Err(ReadError::Stopped {
                    fault: ConsumerFault::Rewound { checkpoint, .. },
                    position,
                    ..
                }) = read
                else {
                    panic!("{what}: {read:?}");
                };
                assert_eq!(position, checkpoint, "{what}");
            }
            let status = bank.status().await.unwrap();
            let summary = status.iter().find(|status| status.name == "summary").unwrap();
            let stopped = matches!(summary.state, ConsumerState::Stopped(ConsumerFault::Rewound { .. }));
            assert!(stopped, "{what}: {:?}", summary.state);
            let verified = bank.verify().await.unwrap();
            let summary = verified.projections.iter().find(|one| one.name == "summary").unwrap();
            let failed = matches!(summary.compared, Compared::Failed(ConsumerFault::Rewound { .. }));
            assert!(failed, "{what}: {:?}", summary.compared);
            let error = bank.catch_up().await.unwrap_err();
            let source = std::error::Error::source(&error).unwrap().to_string();
            assert!(source.starts_with("the log was rewound"), "{what}: {source}");
        }
    }
}

/// The engine is open while its log is rewound and has grown past all that its followers have seen.
#[tokio::test]
async fn a_follower_that_is_open_stops() {
    for regrown in [1, 2, 5] {
        let (store, documents) = (MemoryStore::new(), Arc::new(MemoryStore::new()));
        let bank = running(Stores { log: Arc::new(store.clone()), documents }).await;
        let before = account(&store, &bank).await;
        let lost = bank.execute(Deposit { account: 1, cents: 1_000_000 }).await.unwrap();
        bank.get::<Summary>(&1).after(&lost).await.unwrap();
        store.restore(&before).unwrap();
        regrow(&store, regrown).await;
        let receipt = quiet(store.reopen()).await.execute(Deposit { account: 1, cents: 1 }).await.unwrap();
        let read = bank.get::<Summary>(&1).after(&receipt).await;
        let Err(ReadError::Stopped { fault: ConsumerFault::Rewound { .. }, .. }) = read else {
            panic!("regrown by {regrown}: {read:?}");
        };
    }
}
