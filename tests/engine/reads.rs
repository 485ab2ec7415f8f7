//! Read models: equal to a fold of the log, whatever fails where and whoever else writes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cqrs::engine::{ConsumerFault, ConsumerState, Cursor, ReadError, Stores};
use cqrs::error::{FoldFault, StoreErrorKind};
use cqrs::memory::MemoryStore;
use cqrs::prelude::*;
use cqrs::store::{Append, EventStore, Guard};
use cqrs::{Partition, StreamId};
use cqrs_testkit::faults::{Call, Fault};

use crate::bank::*;
use crate::flawed::{Flaw, Flawed};

/// What the read models show.
#[derive(Debug, PartialEq)]
struct Shown {
    summaries: BTreeMap<u64, Summary>,
    total: Option<Total>,
}

async fn shown(engine: &Engine) -> Shown {
    let mut summaries = BTreeMap::new();
    let mut page = engine.list::<Summary>().limit(7).await.unwrap();
    loop {
        summaries.extend(page.documents);
        let Some(next) = page.next else { break };
        page = engine.list::<Summary>().limit(7).from(next).await.unwrap();
    }
    Shown { summaries, total: engine.get::<Total>(&"bank".to_owned()).await.unwrap() }
}

/// The same from a fresh fold: a new read store on the same log.
async fn fresh_fold(stores: &Stores) -> Shown {
    let fresh = Stores { log: stores.log.clone(), documents: Arc::new(MemoryStore::new()) };
    let engine = quiet(fresh).await;
    engine.catch_up().await.unwrap();
    shown(&engine).await
}

async fn some_work(bank: &Engine, accounts: std::ops::Range<u64>) {
    for account in accounts {
        open(bank, account, 10 + account).await;
        bank.execute(Withdraw { account, cents: 3 }).await.unwrap();
    }
}

#[tokio::test]
async fn a_read_after_a_receipt_sees_the_command() {
    for bank in [quiet(MemoryStore::new()).await, running(MemoryStore::new()).await] {
        for account in 0..20 {
            let receipt = open(&bank, account, 5).await;
            // The token is all that a browser carries.
            let receipt: Receipt = receipt.to_string().parse().unwrap();
            let summary = bank.get::<Summary>(&account).after(&receipt).await.unwrap().unwrap();
            assert_eq!(summary, Summary { owner: "Ada".into(), balance: 5, postings: 1 });
            let total = bank.get::<Total>(&"bank".into()).after(&receipt).await.unwrap().unwrap();
            assert_eq!(total.accounts, account + 1);
        }
        assert!(bank.get::<Summary>(&99).await.unwrap().is_none());
        bank.shutdown().await;
        // Reading goes on to work.
        assert!(bank.get::<Summary>(&1).await.unwrap().is_some());
    }
}

#[tokio::test]
async fn pages_come_in_the_order_of_the_keys_text_and_end() {
    let bank = quiet(MemoryStore::new()).await;
    some_work(&bank, 0..12).await;
    bank.catch_up().await.unwrap();
    let first = bank.list::<Summary>().limit(5).await.unwrap();
    let keys: Vec<_> = first.documents.iter().map(|(key, _)| *key).collect();
    assert_eq!(keys, [0, 1, 10, 11, 2]);
    let cursor: Cursor = first.next.unwrap().to_string().parse().unwrap();
    let second = bank.list::<Summary>().limit(7).from(cursor).await.unwrap();
    assert_eq!(second.documents.len(), 7);
    assert_eq!(second.next, None, "a page that ends with the last document has no next");
}

#[tokio::test]
async fn catching_up_is_the_fold_of_the_log_over_partitions() {
    let stores = Stores::from(Arc::new(MemoryStore::builder().partitions(4).build()));
    let bank = quiet(stores.clone()).await;
    some_work(&bank, 0..40).await;
    bank.catch_up().await.unwrap();
    let shown = shown(&bank).await;
    assert_eq!(shown.summaries.len(), 40);
    assert_eq!(shown.total.as_ref().unwrap().postings, 80);
    assert_eq!(shown, fresh_fold(&stores).await);
    let status = bank.status().await.unwrap();
    assert_eq!(status.len(), 3 * 4);
    assert!(status.iter().all(|status| status.position == status.head));
}

#[tokio::test]
async fn more_than_a_batch_is_folded_batch_by_batch() {
    let stores = Stores::from(Arc::new(MemoryStore::new()));
    let bank = quiet(stores.clone()).await;
    open(&bank, 1, 1).await;
    for _ in 0..2_500 {
        bank.execute(Deposit { account: 1, cents: 1 }).await.unwrap();
    }
    bank.catch_up().await.unwrap();
    assert_eq!(shown(&bank).await.summaries[&1].balance, 2_501);
    assert_eq!(shown(&bank).await, fresh_fold(&stores).await);
}

#[tokio::test]
async fn batches_of_any_size_give_the_same_documents() {
    let one_by_one = quiet(MemoryStore::new()).await;
    let at_once = quiet(MemoryStore::new()).await;
    for bank in [&one_by_one, &at_once] {
        open(bank, 1, 5).await;
        one_by_one.catch_up().await.unwrap();
        for cents in [1, 2, 3] {
            bank.execute(Withdraw { account: 1, cents: 1 }).await.unwrap();
            one_by_one.catch_up().await.unwrap();
            bank.execute(Deposit { account: 1, cents }).await.unwrap();
            one_by_one.catch_up().await.unwrap();
        }
    }
    at_once.catch_up().await.unwrap();
    for bank in [&one_by_one, &at_once] {
        // Removed and begun anew within one batch, or over several.
        assert_eq!(bank.get::<Since>(&1).await.unwrap(), Some(Since { cents: 3 }));
        let last = bank.execute(Withdraw { account: 1, cents: 1 }).await.unwrap();
        assert_eq!(bank.get::<Since>(&1).after(&last).await.unwrap(), None);
    }
}

/// Every step of a batch fails once, before and after it takes effect, and the process "crashes":
/// another engine takes over.
#[tokio::test]
async fn a_crash_at_any_step_neither_misses_nor_doubles() {
    let (store, stores) = faulty();
    let mut bank = quiet(stores.clone()).await;
    let mut account = 0;
    for call in [Call::Claim, Call::Head, Call::ReadLog, Call::Get, Call::Commit] {
        for fault in [Fault::Before(StoreErrorKind::Failed), Fault::After(StoreErrorKind::Unknown)] {
            for crash in [true, false] {
                some_work(&bank, account..account + 3).await;
                account += 3;
                let next = quiet(stores.clone()).await;
                store.fail_next(call, fault);
                // Without a crash the one that met the fault goes on itself.
                let _ = if crash { bank.catch_up().await } else { next.catch_up().await };
                bank = next;
                // Or the one that takes over meets it.
                let _ = bank.catch_up().await;
                bank.catch_up().await.unwrap();
                assert_eq!(shown(&bank).await, fresh_fold(&stores).await, "{call:?} {fault:?}");
            }
        }
    }
    assert_eq!(shown(&bank).await.total.unwrap().accounts, account);
}

/// A batch that was cut off anywhere by cancellation leaves the follower able to go on.
#[tokio::test]
async fn a_cancelled_catch_up_neither_misses_nor_doubles() {
    let (store, stores) = faulty();
    for round in 0..8_u64 {
        // A new one each time, so that it begins with a claim.
        let bank = quiet(stores.clone()).await;
        some_work(&bank, round * 3..round * 3 + 3).await;
        let call = [Call::Claim, Call::ReadLog, Call::Get, Call::Commit][round as usize % 4];
        let fault = if round < 4 { Fault::Hang } else { Fault::HangAfter };
        store.fail_next(call, fault);
        let cut = tokio::time::timeout(Duration::from_millis(20), bank.catch_up()).await;
        assert!(cut.is_err(), "the fault hangs");
        bank.catch_up().await.unwrap();
        assert_eq!(shown(&bank).await, fresh_fold(&stores).await, "{call:?} {fault:?}");
    }
}

/// Two engines keep the same read models at once; answers what they show, and what is right.
async fn two_owners(stores: Stores) -> (Shown, Shown) {
    let engines = [running(stores.clone()).await, running(stores.clone()).await];
    for account in 0..60 {
        open(&engines[account as usize % 2], account, 10).await;
        for _ in 0..5 {
            tokio::task::yield_now().await;
        }
    }
    for bank in &engines {
        bank.shutdown().await;
    }
    let last = quiet(stores.clone()).await;
    last.catch_up().await.unwrap();
    (shown(&last).await, fresh_fold(&stores).await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_owners_of_one_projection_fence_each_other() {
    for partitions in [1, 4] {
        let (shown, right) =
            two_owners(Stores::from(Arc::new(MemoryStore::builder().partitions(partitions).build()))).await;
        assert_eq!(shown, right);
    }
}

/// A zombie: an engine that read a batch, was held up while another took over, and wakes. The first one
/// remembers the documents, the second folds onto those of the other.
async fn zombie(partitions: u16, flaw: Option<Flaw>) -> (Shown, Shown) {
    let store = MemoryStore::builder().partitions(partitions).build();
    let documents: Arc<dyn cqrs::read_store::ReadStore> = match flaw {
        Some(flaw) => Arc::new(Flawed(store.clone(), flaw)),
        None => Arc::new(store.clone()),
    };
    let held = cqrs_testkit::faults::Faulty::new(store.clone());
    let stores = Stores { log: Arc::new(store), documents };
    let (old, new) =
        (quiet(Stores { log: Arc::new(held.clone()), ..stores.clone() }).await, quiet(stores.clone()).await);
    some_work(&new, 0..3).await;
    old.catch_up().await.unwrap();
    some_work(&new, 3..6).await;
    // `old` has its claim and its place. It now folds the second batch, late: `new` comes first.
    new.catch_up().await.unwrap();
    let _ = old.catch_up().await;
    some_work(&new, 6..9).await;
    let taking_over = new.clone();
    held.meanwhile(Call::ReadLog, async move { _ = taking_over.catch_up().await });
    let late = Engine::builder().registry(cqrs::Registry::new().with::<Total>()).without_background();
    let late = late.build(Stores { log: Arc::new(held.clone()), ..stores.clone() }).await.unwrap();
    let _ = late.catch_up().await;
    assert_eq!(held.pending_faults(), 0);
    // On a wrong store its own events may misfit by now.
    let end = new.catch_up().await;
    assert!(flaw.is_some() || end.is_ok(), "{end:?}");
    (shown(&new).await, fresh_fold(&stores).await)
}

#[tokio::test]
async fn a_zombie_that_wakes_up_writes_nothing() {
    for partitions in [1, 2] {
        let (shown, right) = zombie(partitions, None).await;
        assert_eq!(shown, right);
    }
}

/// The negative control of the fence.
#[tokio::test]
async fn without_a_fence_the_zombie_doubles() {
    for partitions in [1, 2] {
        let (shown, right) = zombie(partitions, Some(Flaw::NoFence)).await;
        assert_ne!(shown, right);
    }
}

/// The negative control of the commit: a checkpoint that moves in a commit of its own.
#[tokio::test]
async fn a_checkpoint_apart_from_its_documents_doubles() {
    for partitions in [1, 2] {
        let (shown, right) = zombie(partitions, Some(Flaw::CheckpointApart)).await;
        assert_ne!(shown, right);
    }
}

/// Puts an event into the log that does not fold.
pub async fn poison(stores: &Stores, account: u64, name: &'static str, payload: &'static [u8]) {
    let event = cqrs::event::NewEvent {
        id: uuid::Uuid::new_v4(),
        stream: StreamId::new("Account", &account).unwrap(),
        name: name.into(),
        schema_version: 1,
        payload: payload.into(),
        tags: cqrs::event::Tags::default(),
        time: cqrs::Timestamp::now(),
        metadata: Arc::default(),
    };
    stores.log.append(Append::new(vec![event], Guard::Any)).await.unwrap();
}

#[tokio::test]
async fn an_event_that_does_not_fold_stops_its_projection_and_says_so() {
    let stores = Stores::from(Arc::new(MemoryStore::new()));
    let bank = running(stores.clone()).await;
    some_work(&bank, 0..3).await;
    // A deposit on an account that was never opened: nothing for the total, a fault for the summary.
    poison(&stores, 77, "Deposited", br#"{"cents":5}"#).await;
    let receipt = open(&bank, 3, 10).await;
    let total = bank.get::<Total>(&"bank".into()).after(&receipt).await.unwrap().unwrap();
    assert_eq!(total.accounts, 4, "the other projection goes on");
    let stopped = bank.get::<Summary>(&3).after(&receipt).await.unwrap_err();
    assert_eq!(stopped.to_string(), "the projection `summary` has stopped at position 9");
    let ReadError::Stopped { fault: ConsumerFault::Event(error), .. } = stopped else {
        panic!("{stopped:?}")
    };
    assert_eq!(
        error.to_string(),
        "the event `Deposited` at version 1 of Account/77 (position 10) cannot be folded"
    );
    assert!(matches!(error.fault(), FoldFault::Misfit(_)));
    // Everything before it has taken effect, and nothing behind it.
    assert_eq!(bank.list::<Summary>().await.unwrap().documents.len(), 3);
    let status = bank.status().await.unwrap().into_iter().find(|status| status.name == "summary").unwrap();
    assert!(matches!(status.state, ConsumerState::Stopped(_)));
    assert_eq!(status.position.get(), 9);
    let error = bank.catch_up().await.unwrap_err();
    assert_eq!(error.to_string(), "the projection `summary` could not catch up");
}

#[tokio::test]
async fn an_event_that_does_not_decode_is_an_error_on_both_sides() {
    let stores = Stores::from(Arc::new(MemoryStore::new()));
    let bank = quiet(stores.clone()).await;
    open(&bank, 1, 5).await;
    poison(&stores, 1, "Deposited", b"{\"cents\":").await;
    bank.catch_up().await.unwrap_err();
    let error = bank.load::<Account>(&1).await.unwrap_err();
    let cause = std::error::Error::source(&error).unwrap();
    assert_eq!(cause.to_string(), "the payload of `Deposited` version 1 does not fit its type");
    assert!(cause.source().unwrap().to_string().contains("EOF while parsing"));
    // A name that nobody knows concerns no projection, but the account's stream cannot be trusted.
    let other = quiet(stores.clone()).await;
    poison(&stores, 2, "Renamed", b"{}").await;
    let error = other.execute(Nod { account: 2, key: None }).await.unwrap_err();
    assert_eq!(
        std::error::Error::source(&error).unwrap().to_string(),
        "no event type here is stored as `Renamed`"
    );
}

#[tokio::test]
async fn a_projection_that_is_behind_is_named_with_its_place() {
    let (store, stores) = faulty();
    let bank = running(stores).await;
    let receipt = open(&bank, 1, 5).await;
    bank.get::<Summary>(&1).after(&receipt).await.unwrap();
    bank.get::<Total>(&"bank".into()).after(&receipt).await.unwrap();
    // All followers hang at their next batch.
    store.fail_next(Call::ReadLog, Fault::Hang);
    store.fail_next(Call::ReadLog, Fault::Hang);
    store.fail_next(Call::ReadLog, Fault::Hang);
    let receipt = bank.execute(Deposit { account: 1, cents: 5 }).await.unwrap();
    let behind =
        bank.get::<Summary>(&1).after(&receipt).timeout(Duration::from_millis(50)).await.unwrap_err();
    assert_eq!(behind.to_string(), "the projection `summary` is at position 2 and did not reach 3 in time");
}

#[tokio::test]
async fn a_store_that_fails_for_a_while_is_tried_again() {
    let (store, stores) = faulty();
    for _ in 0..3 {
        store.fail_next(Call::Commit, Fault::Before(StoreErrorKind::Unavailable));
        store.fail_next(Call::Claim, Fault::Before(StoreErrorKind::Unavailable));
    }
    let bank = running(stores).await;
    let receipt = open(&bank, 1, 5).await;
    let summary = bank.get::<Summary>(&1).after(&receipt).await.unwrap().unwrap();
    assert_eq!(summary.balance, 5);
}

#[tokio::test]
async fn a_receipt_of_another_log_is_told() {
    let (here, there) = (quiet(MemoryStore::new()).await, quiet(MemoryStore::new()).await);
    let receipt = open(&there, 1, 5).await;
    open(&here, 1, 5).await;
    let error = here.get::<Summary>(&1).after(&receipt).await.unwrap_err();
    assert_eq!(error.to_string(), "the receipt is of another log");
}

#[tokio::test]
async fn a_checkpoint_of_another_log_or_history_stops_the_projection() {
    let documents = Arc::new(MemoryStore::new());
    let on = |log: &MemoryStore| Stores { log: Arc::new(log.clone()), documents: documents.clone() };
    let (log, other) = (MemoryStore::new(), MemoryStore::new());
    let bank = quiet(on(&log)).await;
    open(&bank, 1, 5).await;
    bank.catch_up().await.unwrap();
    let replaced = quiet(on(&other)).await;
    let error = replaced.catch_up().await.unwrap_err();
    assert_eq!(
        std::error::Error::source(&error).unwrap().to_string(),
        "its checkpoint is of another log; rebuild the projection with `Engine::reset`"
    );

    // The same log id, but the log ends before the checkpoint.
    use cqrs::read_store::{Batch, Checkpoint, ReadStore as _};
    let head = log.head(Partition::ONLY).await.unwrap();
    let claim = documents.claim("summary").await.unwrap();
    let to = Checkpoint { log: head.log, position: cqrs::Position::new(99), event: None };
    let batch = Batch::new("summary", &claim, to);
    documents.commit(batch).await.unwrap();
    let rewound = quiet(on(&log)).await.catch_up().await.unwrap_err();
    assert!(std::error::Error::source(&rewound).unwrap().to_string().starts_with("the log was rewound"));

    // The position is there, but another event stands at it.
    let to = Checkpoint { event: Some(uuid::Uuid::new_v4()), position: head.position, ..to };
    let claim = documents.claim("summary").await.unwrap();
    documents.commit(Batch::new("summary", &claim, to)).await.unwrap();
    let rewound = quiet(on(&log)).await.catch_up().await.unwrap_err();
    assert!(std::error::Error::source(&rewound).unwrap().to_string().starts_with("the log was rewound"));
}
