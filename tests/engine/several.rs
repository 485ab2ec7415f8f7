//! Several engines on one store: who moves the projections, and who waits for whom.

use std::sync::Arc;
use std::time::Duration;

use cqrs::Registry;
use cqrs::engine::{ConsumerState, ReadError, Stores};
use cqrs::memory::MemoryStore;
use cqrs::prelude::*;
use cqrs_testkit::faults::{Call, Fault, Faulty};

use crate::bank::*;

/// A handle of its own on the store, which counts.
fn counted(store: &MemoryStore) -> (Faulty<MemoryStore>, Stores) {
    let counted = Faulty::new(store.clone());
    (counted.clone(), Stores::from(Arc::new(counted)))
}

/// Any length of time in which a follower looks at the log by itself.
async fn a_while() {
    tokio::time::sleep(Duration::from_millis(700)).await;
}

async fn elsewhere(stores: impl Into<Stores>) -> Engine {
    Engine::builder().registry(registry()).projections_elsewhere().build(stores).await.unwrap()
}

#[tokio::test]
async fn who_only_reads_leaves_the_projections_to_their_owner() {
    let store = MemoryStore::new();
    let (owners, stores) = counted(&store);
    let owner = running(stores).await;
    let receipt = open(&owner, 0, 5).await;
    owner.get::<Summary>(&0).after(&receipt).await.unwrap();
    let (readers, stores) = counted(&store);
    let reader = running(stores).await;
    for account in 1..30 {
        let receipt = open(&owner, account, 5).await;
        let token: Receipt = receipt.to_string().parse().unwrap();
        assert_eq!(reader.get::<Summary>(&account).after(&token).await.unwrap().unwrap().balance, 5);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    a_while().await;
    assert_eq!((readers.count(Call::Claim), readers.count(Call::Commit)), (0, 0));
    assert_eq!(owners.count(Call::Claim), 3, "one for each projection");
    // The negative control: without an owner it takes them over.
    owner.shutdown().await;
    let receipt = open(&elsewhere(store).await, 99, 5).await;
    reader.get::<Summary>(&99).after(&receipt).await.unwrap().unwrap();
    assert!(readers.count(Call::Claim) > 0);
}

#[tokio::test]
async fn at_the_end_of_the_log_there_is_nothing_to_take_over() {
    let store = MemoryStore::new();
    let (own, stores) = counted(&store);
    let bank = quiet(stores).await;
    open(&bank, 1, 5).await;
    bank.catch_up().await.unwrap();
    for (account, background) in [(2, true), (3, false)] {
        let (claims, stores) = counted(&store);
        let reader = if background { running(stores).await } else { quiet(stores).await };
        reader.catch_up().await.unwrap();
        a_while().await;
        assert_eq!(claims.count(Call::Claim), 0);
        // So the first one has not lost it.
        reader.shutdown().await;
        let receipt = open(&bank, account, 5).await;
        bank.get::<Summary>(&account).after(&receipt).await.unwrap().unwrap();
        bank.catch_up().await.unwrap();
        assert_eq!(own.count(Call::Claim), 3, "it was taken from the one that had it");
    }
}

/// The owner is far behind and gets on, a batch at a time.
#[tokio::test]
async fn who_comes_while_the_owner_catches_up_waits_for_it() {
    let store = MemoryStore::new();
    let writer = elsewhere(store.clone()).await;
    open(&writer, 1, 1).await;
    let mut receipt = None;
    for _ in 0..4_500 {
        receipt = Some(writer.execute(Deposit { account: 1, cents: 1 }).await.unwrap());
    }
    let only = || Engine::builder().registry(Registry::new().with::<Summary>());
    let (slow, stores) = counted(&store);
    // Each batch lets many turns of others pass.
    (0..5).for_each(|_| slow.fail_next(Call::Get, Fault::Slow));
    let _owner = only().build(stores).await.unwrap();
    while slow.count(Call::Commit) == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let (readers, stores) = counted(&store);
    let reader = only().build(stores).await.unwrap();
    let summary = reader.get::<Summary>(&1).after(&receipt.unwrap()).await.unwrap().unwrap();
    assert_eq!(summary.balance, 4_501);
    assert_eq!(readers.count(Call::Claim), 0);
}

#[tokio::test]
async fn a_new_engine_that_is_behind_takes_over_what_nobody_moves() {
    let store = MemoryStore::new();
    let receipt = open(&elsewhere(store.clone()).await, 1, 5).await;
    // It never executes a command itself.
    let reader = running(store).await;
    assert_eq!(reader.get::<Summary>(&1).after(&receipt).await.unwrap().unwrap().balance, 5);
}

#[tokio::test]
async fn projections_elsewhere_are_waited_for_and_never_taken() {
    let store = MemoryStore::new();
    let (counts, stores) = counted(&store);
    let web = elsewhere(stores).await;
    let receipt = open(&web, 1, 5).await;
    let read = web.get::<Summary>(&1).after(&receipt).timeout(Duration::from_millis(300));
    let behind = read.await.unwrap_err();
    assert_eq!(behind.to_string(), "the projection `summary` is at position 0 and did not reach 2 in time");
    assert!(matches!(web.status().await.unwrap()[0].state, ConsumerState::Standby));
    let waiting = {
        let web = web.clone();
        tokio::spawn(async move { web.get::<Summary>(&1).after(&receipt).await })
    };
    let worker = running(store).await;
    assert_eq!(waiting.await.unwrap().unwrap().unwrap().balance, 5);
    worker.shutdown().await;
    assert_eq!(counts.count(Call::Claim), 0);
    // Who asks for it by name gets it.
    let receipt = open(&web, 2, 5).await;
    web.catch_up().await.unwrap();
    web.get::<Summary>(&2).after(&receipt).await.unwrap().unwrap();
    assert_eq!(counts.count(Call::Claim), 3);
}

#[tokio::test]
async fn after_a_shutdown_a_read_waits_only_for_others() {
    let store = MemoryStore::new();
    let (bank, writer) = (running(store.clone()).await, elsewhere(store.clone()).await);
    let receipt = open(&bank, 1, 5).await;
    bank.get::<Summary>(&1).after(&receipt).await.unwrap();
    bank.shutdown().await;
    let receipt = open(&writer, 2, 5).await;
    // An hour is not waited for.
    let read = bank.get::<Summary>(&2).after(&receipt).timeout(Duration::from_secs(3_600));
    let read = tokio::time::timeout(Duration::from_secs(60), read).await;
    let behind = read.expect("it waits for nobody").unwrap_err();
    let ReadError::Behind { trouble: Some(trouble), .. } = &behind else { panic!("{behind:?}") };
    assert_eq!(trouble, "its follower here has ended, and no other moves it");
    // What another one moves is waited for.
    let other = running(store).await;
    assert_eq!(bank.get::<Summary>(&2).after(&receipt).await.unwrap().unwrap().balance, 5);
    other.shutdown().await;
}

/// Read models that are of another log, and further along it than this one is, show nothing of it.
#[tokio::test]
async fn a_checkpoint_of_another_log_is_not_taken_for_having_got_there() {
    let documents = Arc::new(MemoryStore::new());
    let on = |log: MemoryStore| Stores { log: Arc::new(log), documents: documents.clone() };
    let before = quiet(on(MemoryStore::new())).await;
    open(&before, 1, 5).await;
    open(&before, 2, 5).await;
    before.catch_up().await.unwrap();
    let log = MemoryStore::new();
    let engines = [running(on(log.clone())).await, quiet(on(log.clone())).await, elsewhere(on(log)).await];
    // Positions that the other log has too.
    let receipt = open(&engines[0], 1, 7).await;
    for bank in &engines {
        let read = bank.get::<Summary>(&1).after(&receipt).timeout(Duration::from_millis(500)).await;
        let error = read.unwrap_err();
        assert!(matches!(error, ReadError::Stopped { .. } | ReadError::Behind { .. }), "{error:?}");
    }
}

#[derive(Serialize, Deserialize, Default)]
struct AtOnce {}

#[projection(name = "at-once", key = u64, mode = inline)]
impl AtOnce {
    #[on]
    fn opened(&mut self, _: &Opened) {}
}

/// What has to be one commit cannot be in two databases.
#[tokio::test]
async fn inline_projections_are_refused_apart_from_the_log() {
    let registry = || Registry::new().with::<Account>().with::<AtOnce>();
    let apart = Engine::builder().registry(registry()).read_models("memory:").open("memory:").await;
    let refused = apart.unwrap_err().to_string();
    assert!(refused.contains("`at-once`") && refused.contains("keep both in one database"), "{refused}");
    Engine::builder().registry(registry()).open("memory:").await.unwrap();
    Engine::builder().registry(crate::bank::registry()).read_models("memory:").open("memory:").await.unwrap();
    let unknown = Engine::builder().registry(crate::bank::registry()).read_models("nosuch:secret");
    let unknown = unknown.open("memory:").await.unwrap_err().to_string();
    assert!(unknown.contains("no store here opens `nosuch:…`"), "{unknown}");
    let builder = Engine::builder().read_models("nosuch:secret");
    assert!(!format!("{builder:?}").contains("secret"), "a URL may carry a password");
}
