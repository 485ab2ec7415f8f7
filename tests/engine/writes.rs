//! Commands: accepted, refused, raced, repeated, cancelled, and what is left behind.

use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, Waker};
use std::time::Duration;

use cqrs::engine::{Failure, Stores};
use cqrs::error::StoreErrorKind;
use cqrs::memory::MemoryStore;
use cqrs::prelude::*;
use cqrs::store::{Direction, EventStore, Found, StreamRead};
use cqrs::{Partition, Position, StreamId, Version};
use cqrs_testkit::faults::{Call, Fault};

use crate::bank::*;

async fn stream_version(store: &MemoryStore, account: u64) -> u64 {
    let read = StreamRead {
        stream: StreamId::new("Account", &account).unwrap(),
        from: Version::new(1),
        direction: Direction::Forward,
        limit: 1,
    };
    store.read_stream(read).await.unwrap().version.get()
}

async fn head(store: &MemoryStore) -> Position {
    store.head(Partition::ONLY).await.unwrap().position
}

#[tokio::test]
async fn the_receiver_says_what_must_exist() {
    let store = MemoryStore::new();
    let bank = quiet(store.clone()).await;
    let missing = bank.execute(Deposit { account: 1, cents: 1 }).await.unwrap_err();
    assert!(matches!(missing, ExecuteError::Missing { command: "Deposit", .. }));
    assert_eq!(missing.to_string(), "`Deposit` needs Account/1, which does not exist");
    open(&bank, 1, 5).await;
    let exists = bank.execute(Open { account: 1, owner: "Bob".into() }).await.unwrap_err();
    assert_eq!(exists.to_string(), "`Open` creates Account/1, which exists already");
    assert_eq!(stream_version(&store, 1).await, 2, "a refused command leaves nothing behind");
}

#[tokio::test]
async fn the_domain_refuses_with_its_own_type() {
    let bank = quiet(MemoryStore::new()).await;
    open(&bank, 1, 5).await;
    let refused = bank.execute(Withdraw { account: 1, cents: 6 }).await.unwrap_err();
    assert!(matches!(&refused, ExecuteError::Refused(AccountError::Overdraft { balance: 5 })));
    assert_eq!(refused.to_string(), "the balance is 5");
}

#[tokio::test]
async fn the_context_reaches_an_async_handler() {
    let bank = quiet(MemoryStore::new()).await;
    open(&bank, 7, 5).await;
    let metadata = Metadata::new().actor("ada");
    let refused = bank.execute(Confess { account: 7 }).metadata(metadata).await.unwrap_err();
    assert!(refused.to_string().starts_with("Account/7 at 2 by ada, 20"), "{refused}");
}

#[tokio::test]
async fn metadata_is_stored_with_every_event() {
    let store = MemoryStore::new();
    let bank = quiet(store.clone()).await;
    open(&bank, 1, 5).await;
    let metadata = Metadata::new().actor("ada").correlation("c-1").causation("r-1").entry("ip", "::1");
    bank.execute(Exchange { account: 1, cents: 5 }).metadata(metadata.clone()).await.unwrap();
    let read = StreamRead {
        stream: StreamId::new("Account", &1).unwrap(),
        from: Version::new(3),
        direction: Direction::Forward,
        limit: 10,
    };
    let events = store.read_stream(read).await.unwrap().events;
    assert_eq!(events.len(), 2);
    assert!(events.iter().all(|event| *event.meta.metadata == metadata));
    assert_ne!(events[0].meta.id, events[1].meta.id);
    assert!(events[0].meta.id < events[1].meta.id, "ids grow in the order of the events");
    assert_eq!(events[0].meta.id.get_version_num(), 7);
}

#[tokio::test]
async fn an_expected_version_is_a_conflict_if_it_is_not_there() {
    let bank = quiet(MemoryStore::new()).await;
    let receipt = open(&bank, 1, 5).await;
    assert_eq!(receipt.version(), Version::new(2));
    bank.execute(Deposit { account: 1, cents: 1 }).expect(receipt.version()).await.unwrap();
    let late = bank.execute(Deposit { account: 1, cents: 1 }).expect(receipt.version()).await.unwrap_err();
    let ExecuteError::Conflict(conflict) = late else { panic!("{late:?}") };
    assert_eq!(conflict.found, Found::Version(Version::new(3)));
    assert_eq!(
        conflict.to_string(),
        "somebody else wrote first: expected Account/1 at version 2, found version 3"
    );
    assert_eq!(balance(&bank, 1).await, 6);
}

#[tokio::test]
async fn a_command_without_events_leaves_the_log_as_it_is() {
    let store = MemoryStore::new();
    let bank = quiet(store.clone()).await;
    let last = open(&bank, 1, 5).await;
    let receipt = bank.execute(Nod { account: 1, key: None }).await.unwrap();
    assert_eq!((receipt.position(), receipt.version()), (last.position(), last.version()));
    assert_eq!(head(&store).await, last.position());
}

#[tokio::test]
async fn a_decision_that_does_not_fold_is_never_written() {
    let store = MemoryStore::new();
    let bank = quiet(store.clone()).await;
    open(&bank, 1, 5).await;
    let failed = bank.execute(Reopen { account: 1 }).await.unwrap_err();
    assert!(matches!(failed, ExecuteError::Failed(Failure::Undecidable { event: "Opened", .. })));
    assert_eq!(stream_version(&store, 1).await, 2);
    // Its first event had been folded; that must not be remembered.
    assert_eq!(
        bank.execute(Withdraw { account: 1, cents: 6 }).await.unwrap_err().to_string(),
        "the balance is 5"
    );
}

#[tokio::test]
async fn an_apply_that_panics_leaves_nothing_behind() {
    let store = MemoryStore::new();
    let bank = quiet(store.clone()).await;
    open(&bank, 1, 5).await;
    let other = bank.clone();
    let end = tokio::spawn(async move { other.execute(Explode { account: 1 }).await.map(drop) }).await;
    assert!(end.unwrap_err().is_panic());
    assert_eq!(stream_version(&store, 1).await, 2);
    bank.execute(Deposit { account: 1, cents: 1 }).await.unwrap();
    assert_eq!(balance(&bank, 1).await, 6);
    bank.shutdown().await;
}

#[tokio::test]
async fn a_key_makes_a_repeated_command_answer_with_the_first_receipt() {
    let store = MemoryStore::new();
    let bank = quiet(store.clone()).await;
    open(&bank, 1, 5).await;
    let first = bank.execute(Withdraw { account: 1, cents: 5 }).key("w-1").await.unwrap();
    // By now the domain would refuse; the command happened, so it is not asked.
    let again = bank.execute(Withdraw { account: 1, cents: 5 }).key("w-1").await.unwrap();
    assert!(again.is_repeated() && !first.is_repeated());
    assert_eq!(again.to_string(), first.to_string());
    bank.execute(Withdraw { account: 1, cents: 5 }).key("w-2").await.unwrap_err();
    // A repetition that would still be accepted does nothing either.
    bank.execute(Deposit { account: 1, cents: 9 }).key("d-1").await.unwrap();
    assert!(bank.execute(Deposit { account: 1, cents: 9 }).key("d-1").await.unwrap().is_repeated());
    assert_eq!(balance(&bank, 1).await, 9);
    // Another process, which remembers nothing, says the same.
    let other = quiet(store.clone()).await;
    assert!(other.execute(Deposit { account: 1, cents: 9 }).key("d-1").await.unwrap().is_repeated());
    // Also for a command that creates, and one without events.
    let open = |owner: &str| Open { account: 2, owner: owner.into() };
    let first = bank.execute(open("Bob")).key("o").await.unwrap();
    assert_eq!(other.execute(open("Bob")).key("o").await.unwrap().to_string(), first.to_string());
    let nod = || Nod { account: 2, key: Some("n".into()) };
    let before = head(&store).await;
    assert!(!bank.execute(nod()).await.unwrap().is_repeated());
    assert!(bank.execute(nod()).await.unwrap().is_repeated());
    assert_eq!(head(&store).await, before);
}

#[tokio::test]
async fn a_refused_command_may_come_again_under_its_key() {
    let bank = quiet(MemoryStore::new()).await;
    open(&bank, 1, 5).await;
    bank.execute(Withdraw { account: 1, cents: 6 }).key("w").await.unwrap_err();
    bank.execute(Deposit { account: 1, cents: 1 }).await.unwrap();
    assert!(!bank.execute(Withdraw { account: 1, cents: 6 }).key("w").await.unwrap().is_repeated());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn deliveries_of_one_key_race_and_one_happens() {
    let store = MemoryStore::new();
    let engines = [quiet(store.clone()).await, quiet(store.clone()).await];
    open(&engines[0], 1, 0).await;
    for round in 0..50 {
        let deliver = |number: usize| {
            let bank = engines[number % 2].clone();
            tokio::spawn(async move {
                bank.execute(Deposit { account: 1, cents: 1 }).key(format!("d-{round}")).await.unwrap()
            })
        };
        let tasks: Vec<_> = (0..8).map(deliver).collect();
        let mut first = 0;
        for task in tasks {
            first += usize::from(!task.await.unwrap().is_repeated());
        }
        assert_eq!(first, 1);
    }
    assert_eq!(balance(&engines[0], 1).await, 50);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn tasks_on_one_account_queue_and_never_fight() {
    let (store, stores) = faulty();
    let bank = quiet(stores).await;
    open(&bank, 1, 0).await;
    let before = store.count(Call::Append);
    let deposit = |_| {
        let bank = bank.clone();
        tokio::spawn(async move {
            for _ in 0..50 {
                bank.execute(Deposit { account: 1, cents: 1 }).await.unwrap();
            }
        })
    };
    for task in (0..64).map(deposit).collect::<Vec<_>>() {
        task.await.unwrap();
    }
    assert_eq!(balance(&bank, 1).await, 64 * 50);
    assert_eq!(store.count(Call::Append) - before, 64 * 50, "no attempt was lost to another task");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn engines_race_on_one_account_and_nothing_is_lost_or_doubled() {
    let store = MemoryStore::new();
    let mut engines = Vec::new();
    for _ in 0..4 {
        engines.push(quiet(store.clone()).await);
    }
    open(&engines[0], 1, 0).await;
    let tasks: Vec<_> = (0..16)
        .map(|number| {
            let bank = engines[number % 4].clone();
            tokio::spawn(async move {
                for _ in 0..25 {
                    bank.execute(Deposit { account: 1, cents: 2 }).await.unwrap();
                    bank.execute(Withdraw { account: 1, cents: 1 }).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(balance(&engines[3], 1).await, 16 * 25);
    assert_eq!(stream_version(&store, 1).await, 2 + 2 * 16 * 25);
}

#[tokio::test]
async fn a_refusal_on_remembered_state_is_confirmed_first() {
    let store = MemoryStore::new();
    let (here, there) = (quiet(store.clone()).await, quiet(store.clone()).await);
    open(&here, 1, 5).await;
    there.execute(Deposit { account: 1, cents: 5 }).await.unwrap();
    // `here` remembers a balance of 5.
    here.execute(Withdraw { account: 1, cents: 10 }).await.unwrap();
    // The same for what must exist, and must not.
    here.execute(Deposit { account: 2, cents: 5 }).await.unwrap_err();
    there.execute(Open { account: 2, owner: "Bob".into() }).await.unwrap();
    let receipt = here.execute(Deposit { account: 2, cents: 5 }).await.unwrap();
    // And for an expected version.
    let receipt = there.execute(Deposit { account: 2, cents: 5 }).expect(receipt.version()).await.unwrap();
    here.execute(Deposit { account: 2, cents: 5 }).expect(receipt.version()).await.unwrap();
}

#[tokio::test]
async fn a_race_that_is_always_lost_is_given_up() {
    let store = MemoryStore::new();
    let other = quiet(store.clone()).await;
    let here = Engine::builder().registry(registry()).without_background().attempts(1);
    let here = here.build(store.clone()).await.unwrap();
    open(&here, 1, 5).await;
    other.execute(Deposit { account: 1, cents: 5 }).await.unwrap();
    let lost = here.execute(Deposit { account: 1, cents: 5 }).await.unwrap_err();
    assert!(matches!(lost, ExecuteError::Conflict(_)), "{lost:?}");
    here.execute(Deposit { account: 1, cents: 5 }).await.unwrap();
    assert_eq!(balance(&here, 1).await, 15);
}

#[tokio::test]
async fn an_append_of_unknown_outcome_is_looked_up() {
    let (store, stores) = faulty();
    let bank = quiet(stores).await;
    open(&bank, 1, 5).await;
    // It was written, though the store could not say so: with a key and without.
    store.fail_next(Call::Append, Fault::After(StoreErrorKind::Unknown));
    let receipt = bank.execute(Exchange { account: 1, cents: 5 }).await.unwrap();
    assert_eq!(receipt.version(), Version::new(4));
    store.fail_next(Call::Append, Fault::After(StoreErrorKind::Unknown));
    bank.execute(Deposit { account: 1, cents: 1 }).key("d").await.unwrap();
    assert_eq!(balance(&bank, 1).await, 6);
    // It was not written, which is final: the caller hears so, and may repeat it.
    store.fail_next(Call::Append, Fault::Before(StoreErrorKind::Unknown));
    let failed = bank.execute(Deposit { account: 1, cents: 1 }).key("e").await.unwrap_err();
    let ExecuteError::Failed(Failure::Store(error)) = failed else { panic!("{failed:?}") };
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    bank.execute(Deposit { account: 1, cents: 1 }).key("e").await.unwrap();
    assert_eq!(balance(&bank, 1).await, 7);
}

#[tokio::test]
async fn a_fault_at_each_step_changes_nothing() {
    let (store, stores) = faulty();
    let bank = quiet(stores).await;
    open(&bank, 1, 5).await;
    for kind in [StoreErrorKind::Unavailable, StoreErrorKind::Failed, StoreErrorKind::Corrupt] {
        store.fail_next(Call::Append, Fault::Before(kind));
        bank.execute(Deposit { account: 1, cents: 1 }).await.unwrap_err();
        // What the process remembered went with the fault, so now it reads.
        store.fail_next(Call::ReadStream, Fault::Before(kind));
        bank.execute(Deposit { account: 1, cents: 1 }).await.unwrap_err();
        store.fail_next(Call::FindKey, Fault::Before(kind));
        bank.execute(Withdraw { account: 1, cents: 9 }).key("w").await.unwrap_err();
    }
    assert_eq!(stream_version(store.inner(), 1).await, 2);
    assert_eq!(balance(&bank, 1).await, 5);
}

/// Drops a command's future after each number of polls, with a store that takes its time.
#[tokio::test]
async fn a_cancelled_command_took_place_as_a_whole_or_not_at_all() {
    let (store, stores) = faulty();
    let bank = quiet(stores).await;
    open(&bank, 1, 0).await;
    let mut expected = 0;
    let (mut gave_up, mut done) = (0, 0);
    for polls in 0..90 {
        let fault = [Fault::Slow, Fault::HangAfter, Fault::Hang][polls % 3];
        store.fail_next(Call::Append, fault);
        let mut future = Box::pin(bank.execute(Exchange { account: 1, cents: 0 }));
        let mut cx = TaskContext::from_waker(Waker::noop());
        let end = (0..=polls / 2).find_map(|_| match future.as_mut().poll(&mut cx) {
            Poll::Ready(end) => Some(end),
            Poll::Pending => None,
        });
        drop(future);
        let version = stream_version(store.inner(), 1).await - 2;
        match end {
            Some(end) => {
                end.unwrap();
                done += 1;
                expected += 2;
            }
            None => {
                gave_up += 1;
                // Two events or none.
                assert!(version == expected || version == expected + 2);
                expected = version;
            }
        }
        assert_eq!(version, expected);
        bank.execute(Deposit { account: 1, cents: 1 }).await.unwrap();
        expected += 1;
    }
    assert!(gave_up > 20 && done > 5, "{gave_up} {done}");
    // The gate has counted every one of them out again.
    tokio::time::timeout(Duration::from_secs(5), bank.shutdown()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_finishes_what_was_accepted_and_takes_nothing_new() {
    let (store, stores) = faulty();
    let bank = running(stores).await;
    open(&bank, 1, 0).await;
    store.fail_next(Call::Append, Fault::Slow);
    let other = bank.clone();
    let under_way = tokio::spawn(async move { other.execute(Deposit { account: 1, cents: 5 }).await });
    while store.count(Call::Append) < 3 {
        tokio::task::yield_now().await;
    }
    tokio::time::timeout(Duration::from_secs(5), bank.shutdown()).await.unwrap();
    assert!(under_way.is_finished() || tokio::time::timeout(Duration::from_secs(1), under_way).await.is_ok());
    let refused = bank.execute(Deposit { account: 1, cents: 5 }).await.unwrap_err();
    assert_eq!(refused.to_string(), "the engine has been shut down");
    assert_eq!(balance(&bank, 1).await, 5);
}

#[tokio::test]
async fn bad_input_is_named_and_changes_nothing() {
    let store = MemoryStore::new();
    let bank = quiet(store.clone()).await;
    let huge = "x".repeat(store.limits().payload_bytes);
    let failed = bank.execute(Open { account: 1, owner: huge }).await.unwrap_err();
    let ExecuteError::Failed(Failure::Store(error)) = failed else { panic!("{failed:?}") };
    assert_eq!(error.kind(), StoreErrorKind::Invalid);
    assert!(error.to_string().contains("the payload of Opened has"), "{error}");
    assert_eq!(head(&store).await, Position::START);
    let key = "k".repeat(store.limits().key_bytes + 1);
    bank.execute(Open { account: 1, owner: "Ada".into() }).key(key).await.unwrap_err();
    assert_eq!(head(&store).await, Position::START);
}

/// Two engines that both remember a balance of 1 let everybody withdraw it; answers how many could.
async fn withdrawals_of_one_coin(stores: Stores, rounds: u64) -> usize {
    let engines = [quiet(stores.clone()).await, quiet(stores).await];
    let mut accepted = 0;
    for account in 0..rounds {
        open(&engines[0], account, 1).await;
        for bank in &engines {
            bank.execute(Nod { account, key: None }).await.unwrap();
        }
        let withdraw = |number: usize| {
            let bank = engines[number % 2].clone();
            tokio::spawn(async move { bank.execute(Withdraw { account, cents: 1 }).await.is_ok() })
        };
        for task in (0..6).map(withdraw).collect::<Vec<_>>() {
            // Where money was given away twice, a balance below nothing panics.
            accepted += usize::from(task.await.unwrap_or(false));
        }
    }
    accepted
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_racing_withdrawals_exactly_one_is_accepted() {
    let stores = MemoryStore::new().into();
    assert_eq!(withdrawals_of_one_coin(stores, 50).await, 50);
}

/// The negative control: with a log that checks no guard, the same race gives money away twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn without_guards_the_race_is_lost() {
    let store = MemoryStore::new();
    let log = Arc::new(crate::flawed::Unguarded(store.clone()));
    let stores = Stores { log, documents: Arc::new(store) };
    assert!(withdrawals_of_one_coin(stores, 50).await > 50);
}
