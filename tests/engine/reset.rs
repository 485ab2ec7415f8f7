//! A projection is built again from the start of the log, while programs that know it are running.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cqrs::engine::{ConsumerFault, ConsumerState, ResetError, Stores};
use cqrs::memory::MemoryStore;
use cqrs::prelude::*;
use cqrs::read_store::ReadStore as _;
use cqrs::{Partition, ReadError, Registry};

use crate::bank::*;
use crate::rewound::{account, regrow};

/// The limit for something that certainly happens.
const LIMIT: Duration = Duration::from_secs(120);

async fn state(engine: &Engine, projection: &str) -> ConsumerState {
    let status = engine.status().await.unwrap();
    status.into_iter().find(|status| status.name == projection).unwrap().state
}

/// The documents are in a store of their own, which was not rewound. One program resets the projection, and another
/// one that is running continues, too.
#[tokio::test]
async fn a_projection_that_a_rewound_log_has_stopped_continues_after_a_reset() {
    for regrown in [1, 2, 5] {
        let (store, documents) = (MemoryStore::new(), Arc::new(MemoryStore::new()));
        let stores = |log: MemoryStore| Stores { log: Arc::new(log), documents: documents.clone() };
        let bank = running(stores(store.clone())).await;
        let other = running(stores(store.reopen())).await;
        let before = account(&store, &bank).await;
        let lost = bank.execute(Deposit { account: 1, cents: 1_000_000 }).await.unwrap();
        for engine in [&bank, &other] {
            engine.get::<Summary>(&1).after(&lost).await.unwrap();
        }
        store.restore(&before).unwrap();
        regrow(&store, regrown).await;
        let receipt = quiet(store.reopen()).await.execute(Deposit { account: 1, cents: 1 }).await.unwrap();
        for engine in [&bank, &other] {
            let read = engine.get::<Summary>(&1).after(&receipt).await;
            let stopped =
                matches!(read, Err(ReadError::Stopped { fault: ConsumerFault::Rewound { .. }, .. }));
            assert!(stopped, "regrown by {regrown}: {read:?}");
        }
        bank.reset("summary").await.unwrap();
        let expected =
            Summary { owner: "Ada".into(), balance: 6 + regrown as u64, postings: 2 + regrown as u32 };
        let found = bank.get::<Summary>(&1).after(&receipt).await.unwrap();
        assert_eq!(found.as_ref(), Some(&expected), "regrown by {regrown}");
        let begun = Instant::now();
        loop {
            match other.get::<Summary>(&1).after(&receipt).await {
                Ok(found) => break assert_eq!(found.as_ref(), Some(&expected), "regrown by {regrown}"),
                Err(ReadError::Stopped { .. }) if begun.elapsed() < LIMIT => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(error) => panic!("the other program does not continue: {error:?}"),
            }
        }
        // The control: what was not reset is still stopped.
        assert!(matches!(state(&bank, "summary").await, ConsumerState::Following | ConsumerState::Standby));
        let total = state(&bank, "total").await;
        assert!(matches!(total, ConsumerState::Stopped(ConsumerFault::Rewound { .. })), "{total:?}");
        let verified = bank.verify().await.unwrap();
        assert!(verified.projections.iter().find(|one| one.name == "summary").unwrap().is_sound());
    }
}

/// Nobody reads, and the program that resets the projection does not run it.
#[tokio::test]
async fn a_program_that_is_stopped_moves_a_projection_that_another_one_has_reset() {
    let (store, documents) = (MemoryStore::new(), Arc::new(MemoryStore::new()));
    let stores = |log: MemoryStore| Stores { log: Arc::new(log), documents: documents.clone() };
    let bank = running(stores(store.clone())).await;
    let before = account(&store, &bank).await;
    let lost = bank.execute(Deposit { account: 1, cents: 1_000_000 }).await.unwrap();
    bank.get::<Summary>(&1).after(&lost).await.unwrap();
    store.restore(&before).unwrap();
    regrow(&store, 3).await;
    let receipt = quiet(store.reopen()).await.execute(Deposit { account: 1, cents: 1 }).await.unwrap();
    assert!(matches!(bank.get::<Summary>(&1).after(&receipt).await, Err(ReadError::Stopped { .. })));
    quiet(stores(store.reopen())).await.reset("summary").await.unwrap();
    let begun = Instant::now();
    let stored = || documents.checkpoint("summary", Partition::ONLY);
    while stored().await.unwrap().is_none_or(|stored| stored.position < receipt.position()) {
        assert!(begun.elapsed() < LIMIT, "the program that was stopped does not continue");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(bank.get::<Summary>(&1).after(&receipt).await.unwrap().unwrap().balance, 9);
}

/// The owner has documents in memory and a checkpoint at the end of the log.
#[tokio::test]
async fn an_owner_starts_again_after_another_program_has_reset_its_projection() {
    let store = MemoryStore::new();
    let (owner, other) = (quiet(store.clone()).await, quiet(store.clone()).await);
    open(&owner, 1, 5).await;
    owner.catch_up().await.unwrap();
    other.reset("total").await.unwrap();
    assert_eq!(other.list::<Total>().await.unwrap().documents.len(), 0);
    let receipt = owner.execute(Deposit { account: 1, cents: 2 }).await.unwrap();
    let total = owner.get::<Total>(&"bank".into()).after(&receipt).await.unwrap().unwrap();
    assert_eq!((total.accounts, total.balance, total.postings), (1, 7, 2));
    owner.catch_up().await.unwrap();
    assert!(owner.verify().await.unwrap().is_sound());
}

/// There is no news in the log that would wake the follower.
#[tokio::test]
async fn a_running_projection_starts_again_without_a_new_event() {
    let store = MemoryStore::new();
    let bank = running(store.clone()).await;
    let receipt = open(&bank, 1, 5).await;
    for _ in 0..3 {
        bank.get::<Summary>(&1).after(&receipt).await.unwrap();
        bank.reset("summary").await.unwrap();
        let begun = Instant::now();
        while bank.get::<Summary>(&1).await.unwrap().is_none_or(|found| found.balance != 5) {
            assert!(begun.elapsed() < LIMIT, "the projection does not start again");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    assert!(bank.verify().await.unwrap().is_sound());
}

macro_rules! sums {
    ($module:ident, $times:literal $(, $mode:ident)?) => {
        mod $module {
            use super::*;

            #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
            pub struct Sum {
                pub cents: u64,
            }
            #[projection(name = "sum", key = u64 $(, mode = $mode)?)]
            impl Sum {
                #[on]
                fn deposited(&mut self, event: &Deposited) {
                    self.cents += $times * event.cents;
                }
            }
        }
    };
}

sums!(former, 1);
sums!(changed, 2);
sums!(former_inline, 1, inline);
sums!(changed_inline, 2, inline);

macro_rules! changes_its_fold {
    ($former:ident, $changed:ident) => {{
        let store = MemoryStore::new();
        let build = |registry| Engine::builder().registry(registry).without_background().build(store.clone());
        let former = build(Registry::new().with::<Account>().with::<$former::Sum>()).await.unwrap();
        let receipt = open(&former, 1, 5).await;
        assert_eq!(former.get::<$former::Sum>(&1).after(&receipt).await.unwrap().unwrap().cents, 5);
        let changed = build(Registry::new().with::<Account>().with::<$changed::Sum>()).await.unwrap();
        assert!(changed.status().await.unwrap()[0].fold_changed);
        changed.reset("sum").await.unwrap();
        changed.catch_up().await.unwrap();
        assert_eq!(changed.get::<$changed::Sum>(&1).after(&receipt).await.unwrap().unwrap().cents, 10);
        assert!(!changed.status().await.unwrap()[0].fold_changed);
        let receipt = changed.execute(Deposit { account: 1, cents: 1 }).await.unwrap();
        assert_eq!(changed.get::<$changed::Sum>(&1).after(&receipt).await.unwrap().unwrap().cents, 12);
        assert!(changed.verify().await.unwrap().is_sound());
        // The next start finds nothing to report.
        let again = build(Registry::new().with::<Account>().with::<$changed::Sum>()).await.unwrap();
        assert!(!again.status().await.unwrap()[0].fold_changed);
    }};
}

#[tokio::test]
async fn a_changed_fold_makes_all_documents_after_a_reset() {
    changes_its_fold!(former, changed);
}

#[tokio::test]
async fn a_changed_inline_fold_makes_all_documents_after_a_reset() {
    changes_its_fold!(former_inline, changed_inline);
}

/// Between the reset and the next catch-up, an append finds the projection at the start of the log.
#[tokio::test]
async fn commands_go_on_beside_an_inline_projection_that_was_reset() {
    let store = MemoryStore::new();
    let registry = || Registry::new().with::<Account>().with::<former_inline::Sum>();
    let build = || Engine::builder().registry(registry()).without_background().build(store.clone());
    let (one, other) = (build().await.unwrap(), build().await.unwrap());
    open(&one, 1, 5).await;
    for _ in 0..3 {
        one.reset("sum").await.unwrap();
        for engine in [&other, &one] {
            engine.execute(Deposit { account: 1, cents: 1 }).await.unwrap();
        }
    }
    assert_eq!(one.get::<former_inline::Sum>(&1).await.unwrap().unwrap().cents, 11);
    assert!(one.verify().await.unwrap().is_sound());
}

#[tokio::test]
async fn a_name_that_the_engine_does_not_keep_is_rejected() {
    let bank = quiet(MemoryStore::new()).await;
    let error = bank.reset("Summary").await.unwrap_err();
    assert!(matches!(&error, ResetError::Unknown { known, .. } if *known == ["since", "summary", "total"]));
    let text = error.to_string();
    assert!(text.contains("`Summary`") && text.contains("`since`, `summary`, `total`"), "{text}");
}
