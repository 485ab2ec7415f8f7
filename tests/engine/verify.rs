//! `verify`: what is stored against a fresh fold, also while it moves.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cqrs::engine::{Compared, ConsumerFault, Stores, Verification, Verified};
use cqrs::error::{StoreError, StoreErrorKind};
use cqrs::memory::MemoryStore;
use cqrs::prelude::*;
use cqrs::read_store::{
    Batch, Checkpoint, Claim, CommitError, Entry, EntryKey, EntryWrite, RangeRead, ReadStore,
};
use cqrs::store::BoxFuture;
use cqrs::{Partition, Registry};
use cqrs_testkit::faults::{Call, Fault, Faulty};

use crate::bank::*;
use crate::flawed::{Flaw, Flawed};

fn of<'v>(verification: &'v Verification, name: &str) -> &'v Verified {
    verification.projections.iter().find(|projection| projection.name == name).unwrap()
}

async fn some_work(bank: &Engine, accounts: std::ops::Range<u64>) {
    for account in accounts {
        open(bank, account, 10 + account).await;
        bank.execute(Withdraw { account, cents: 3 }).await.unwrap();
    }
}

#[tokio::test]
async fn what_followers_made_is_the_fold() {
    for partitions in [1, 4] {
        let store = MemoryStore::builder().partitions(partitions).build();
        let bank = quiet(store.clone()).await;
        let verified = bank.verify().await.unwrap();
        assert!(verified.is_sound(), "nothing equals nothing: {verified}");
        some_work(&bank, 0..1_200).await;
        bank.catch_up().await.unwrap();
        // What lies behind the checkpoints is not missing.
        some_work(&bank, 1_200..1_210).await;
        let before = store.checkpoint("summary", Partition::ONLY).await.unwrap();
        let verified = bank.verify().await.unwrap();
        assert!(verified.is_sound(), "{verified}");
        assert!(matches!(of(&verified, "summary").compared, Compared::Same { documents: 1_200 }));
        let up_to: u64 = of(&verified, "summary").up_to.values().map(|position| position.get()).sum();
        assert_eq!(up_to, 3 * 1_200);
        assert_eq!(store.checkpoint("summary", Partition::ONLY).await.unwrap(), before);
        // Nobody was fenced by it.
        bank.catch_up().await.unwrap();
        assert_eq!(bank.list::<Summary>().limit(2_000).await.unwrap().documents.len(), 1_210);
    }
}

/// Writes documents without events, as a wrong program or hand would.
async fn forge(documents: &dyn ReadStore, consumer: &str, writes: &[(&str, Option<&'static str>)]) {
    let claim = documents.claim(consumer).await.unwrap();
    let to = claim.checkpoints[&Partition::ONLY];
    let write = |(key, text): &(&str, Option<&'static str>)| {
        EntryWrite::new(EntryKey::document((*key).to_owned()), text.map(Bytes::from))
    };
    let batch = Batch::new(consumer, &claim, to).with_writes(writes.iter().map(write).collect());
    documents.commit(batch).await.unwrap();
}

#[tokio::test]
async fn what_is_missing_extra_or_different_is_told() {
    let store = MemoryStore::new();
    let bank = quiet(store.clone()).await;
    some_work(&bank, 1..4).await;
    bank.catch_up().await.unwrap();
    let summary = r#"{"postings":2,"balance":8,"owner":"Ada"}"#;
    forge(&store, "summary", &[("1", Some(summary))]).await;
    assert!(bank.verify().await.unwrap().is_sound(), "the order of an object's fields is nothing");
    let wrong = r#"{"owner":"Ada","balance":999,"postings":2}"#;
    forge(&store, "summary", &[("1", Some(wrong)), ("2", None), ("7", Some("[]"))]).await;
    let verified = bank.verify().await.unwrap();
    assert!(!verified.is_sound());
    let expected = r#"events: 9 can be read
since: 0 documents are as a fresh fold makes them, up to position 9
summary: 3 of 4 documents are not as a fresh fold makes them, up to position 9
  "1" is {"owner":"Ada","balance":999,"postings":2} but the fold makes it {"owner":"Ada","balance":8,"postings":2}
  "2" is missing, the fold makes it {"owner":"Ada","balance":9,"postings":2}
  "7" is [] but the fold has no such document
total: 1 documents are as a fresh fold makes them, up to position 9"#;
    assert_eq!(verified.to_string(), expected);
}

#[tokio::test]
async fn of_many_differences_the_first_are_shown_and_all_are_counted() {
    let store = MemoryStore::new();
    let bank = quiet(store.clone()).await;
    some_work(&bank, 0..1).await;
    bank.catch_up().await.unwrap();
    let keys: Vec<String> = (1_000..1_300).map(|key| key.to_string()).collect();
    let writes: Vec<_> = keys.iter().map(|key| (key.as_str(), Some("{}"))).collect();
    forge(&store, "summary", &writes).await;
    let verified = bank.verify().await.unwrap();
    let Compared::Different { documents: 301, count: 300, differences } = &of(&verified, "summary").compared
    else {
        panic!("{verified}")
    };
    assert_eq!((differences.len(), differences[99].key.as_str()), (100, "1099"));
    assert!(verified.to_string().contains("and 200 more"));
}

/// The negative control of the engine's fence is one here too: what two owners made is found.
#[tokio::test]
async fn what_two_owners_doubled_is_found() {
    for flaw in [Flaw::NoFence, Flaw::CheckpointApart] {
        let store = MemoryStore::builder().partitions(2).build();
        let log = Faulty::new(store.clone());
        let documents: Arc<dyn ReadStore> = Arc::new(Flawed(store.clone(), flaw));
        let stores = Stores { log: Arc::new(store), documents };
        let new = quiet(stores.clone()).await;
        some_work(&new, 0..3).await;
        // It has read events, when the other takes over, and folds them onto that one's documents.
        log.meanwhile(Call::ReadLog, async move { new.catch_up().await.unwrap() });
        let old = Engine::builder().registry(Registry::new().with::<Total>()).without_background();
        let old = old.build(Stores { log: Arc::new(log.clone()), ..stores.clone() }).await.unwrap();
        let _ = old.catch_up().await;
        assert_eq!(log.pending_faults(), 0);
        let verified = quiet(stores).await.verify().await.unwrap();
        let Compared::Different { .. } = of(&verified, "total").compared else {
            panic!("{flaw:?}: {verified}")
        };
    }
}

#[tokio::test]
async fn a_checkpoint_of_another_log_is_told() {
    let documents = Arc::new(MemoryStore::new());
    let on = |log: MemoryStore| Stores { log: Arc::new(log), documents: documents.clone() };
    let bank = quiet(on(MemoryStore::new())).await;
    some_work(&bank, 0..2).await;
    bank.catch_up().await.unwrap();
    let verified = quiet(on(MemoryStore::new())).await.verify().await.unwrap();
    let Compared::Failed(ConsumerFault::OtherLog) = of(&verified, "summary").compared else {
        panic!("{verified}")
    };
    assert!(!verified.is_sound());
    assert!(verified.to_string().contains("summary: not compared: its checkpoint is of another log"));
}

mod next_release {
    use super::*;

    #[derive(Serialize, Deserialize, Debug)]
    pub struct Summary {
        pub owner: String,
    }

    #[projection(name = "summary", key = u64)]
    impl Summary {
        #[on]
        fn opened(event: &Opened) -> Self {
            Self { owner: event.owner.to_uppercase() }
        }
        #[on]
        fn deposited(&mut self, event: &Deposited) {
            assert!(event.cents != 13, "an unlucky number");
        }
        #[on]
        fn withdrawn(&mut self, _: &Withdrawn) {}
    }
}

#[tokio::test]
async fn what_this_program_folds_otherwise_is_told() {
    let store = MemoryStore::new();
    let registry = || Registry::new().with::<Account>().with::<next_release::Summary>();
    let next = Engine::builder().registry(registry()).without_background().build(store.clone());
    let (bank, next) = (quiet(store).await, next.await.unwrap());
    some_work(&bank, 0..1).await;
    bank.catch_up().await.unwrap();
    let verified = next.verify().await.unwrap();
    assert!(matches!(of(&verified, "summary").compared, Compared::Different { count: 1, .. }), "{verified}");
    open(&bank, 2, 13).await;
    bank.catch_up().await.unwrap();
    let verified = next.verify().await.unwrap();
    let Compared::Failed(ConsumerFault::Event(_)) = of(&verified, "summary").compared else {
        panic!("{verified}")
    };
    let expected = "(position 5) cannot be folded: the code that folds it panicked: an unlucky number";
    assert!(verified.to_string().contains(expected), "{verified}");
}

#[tokio::test]
async fn a_store_that_fails_is_an_error() {
    let (store, stores) = faulty();
    let bank = quiet(stores).await;
    some_work(&bank, 0..1).await;
    bank.catch_up().await.unwrap();
    store.fail_next(Call::ReadLog, Fault::Before(StoreErrorKind::Unavailable));
    assert_eq!(bank.verify().await.unwrap_err().kind(), StoreErrorKind::Unavailable);
    assert!(bank.verify().await.unwrap().is_sound());
}

/// A read store whose documents take long to list, and in which somebody else commits meanwhile.
#[derive(Debug)]
struct Lively {
    store: MemoryStore,
    commits: AtomicUsize,
}

impl ReadStore for Lively {
    fn claim(&self, consumer: &str) -> BoxFuture<'_, Result<Claim, StoreError>> {
        self.store.claim(consumer)
    }
    fn checkpoint(
        &self,
        consumer: &str,
        partition: Partition,
    ) -> BoxFuture<'_, Result<Option<Checkpoint>, StoreError>> {
        self.store.checkpoint(consumer, partition)
    }
    fn commit(&self, batch: Batch) -> BoxFuture<'_, Result<(), CommitError>> {
        self.store.commit(batch)
    }
    fn get(
        &self,
        consumer: &str,
        entries: Vec<EntryKey>,
    ) -> BoxFuture<'_, Result<Vec<Option<Bytes>>, StoreError>> {
        self.store.get(consumer, entries)
    }
    fn range(&self, range: RangeRead) -> BoxFuture<'_, Result<Vec<Entry>, StoreError>> {
        Box::pin(async move {
            let found = self.store.range(range).await?;
            let left = |commits: usize| commits.checked_sub(1);
            if self.commits.fetch_update(Ordering::SeqCst, Ordering::SeqCst, left).is_ok() {
                // Another process has a catch-up of its own to do.
                let rival = quiet(self.store.clone()).await;
                let account = 100_000 + self.commits.load(Ordering::SeqCst) as u64;
                open(&rival, account, 1).await;
                rival.catch_up().await.unwrap();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
            Ok(found)
        })
    }
}

async fn lively(commits: usize) -> Stores {
    let store = MemoryStore::new();
    let bank = quiet(store.clone()).await;
    some_work(&bank, 0..20).await;
    bank.catch_up().await.unwrap();
    Stores {
        log: Arc::new(store.clone()),
        documents: Arc::new(Lively { store, commits: AtomicUsize::new(commits) }),
    }
}

#[tokio::test]
async fn what_moves_elsewhere_is_read_again_and_at_last_said_to_be_busy() {
    let verified = quiet(lively(2).await).await.verify().await.unwrap();
    assert!(verified.is_sound(), "{verified}");
    let verified = quiet(lively(1_000).await).await.verify().await.unwrap();
    assert!(matches!(of(&verified, "summary").compared, Compared::Busy), "{verified}");
    assert!(!verified.is_sound());
    assert!(verified.to_string().contains("summary: not compared, for it moved each time"));
}

/// This engine's own follower never keeps it from an answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_moves_here_waits() {
    let bank = running(lively(0).await).await;
    let writer = {
        let bank = bank.clone();
        tokio::spawn(async move {
            for account in 1_000.. {
                some_work(&bank, account..account + 1).await;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
    };
    let first = bank.verify().await.unwrap();
    let second = bank.verify().await.unwrap();
    writer.abort();
    assert!(first.is_sound() && second.is_sound(), "{first}\n{second}");
    let up_to = |verified: &Verification| of(verified, "summary").up_to[&Partition::ONLY];
    assert!(up_to(&first) < up_to(&second), "nothing moved");
}

#[tokio::test]
async fn an_event_that_cannot_be_read_is_named() {
    let store = MemoryStore::new();
    let bank = quiet(store.clone()).await;
    open(&bank, 1, 5).await;
    let raw = |id: u128, name: &'static str, payload: &'static str| cqrs::event::NewEvent {
        id: uuid::Uuid::from_u128(id),
        stream: "Other/1".parse().unwrap(),
        name: name.into(),
        schema_version: 1,
        payload: Bytes::from_static(payload.as_bytes()),
        tags: cqrs::event::Tags::default(),
        time: cqrs::Timestamp::from_micros(1),
        metadata: Arc::new(Metadata::new()),
    };
    let append = |event| cqrs::store::Append::new(vec![event], cqrs::store::Guard::Any);
    cqrs::store::EventStore::append(&store, append(raw(1, "Strange", "{}"))).await.unwrap();
    let found = bank.verify().await.unwrap();
    assert_eq!((found.events.known, found.events.unknown), (2, 1));
    assert!(
        found
            .to_string()
            .starts_with("events: 2 can be read, 1 are of names that this program does not know")
    );
    assert!(found.is_sound(), "other programs may write to the same log");

    cqrs::store::EventStore::append(&store, append(raw(2, "Deposited", "{\"cents\":-1}"))).await.unwrap();
    let found = bank.verify().await.unwrap();
    let fault = found.events.fault.as_ref().unwrap();
    assert_eq!((fault.position().get(), fault.event()), (4, "Deposited"));
    assert!(!found.is_sound());
    assert!(found.to_string().contains("does not fit its type"), "{found}");
}
