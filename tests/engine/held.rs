//! What a follower has in memory: documents that it has written, and the page behind the one that it
//! commits. Both are right, or they are gone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cqrs::engine::{CatchUpError, ConsumerFault, Stores};
use cqrs::error::StoreErrorKind;
use cqrs::memory::MemoryStore;
use cqrs::prelude::*;
use cqrs::read_store::ReadStore;
use cqrs::store::{Append, EventStore, Guard, LogRead, Query};
use cqrs::{Partition, Position, Registry};
use cqrs_testkit::faults::{Call, Fault, Faulty};

use crate::bank::{Account, Deposit, Deposited, Opened, Summary, Total, Withdrawn, faulty, open};
use crate::flawed::{Flaw, Flawed};

const ACCOUNTS: u64 = 7;
/// Three pages, each of which changes all accounts.
const EVENTS: u64 = 2_600;

/// With one projection, so that calls can be counted.
async fn engine(stores: impl Into<Stores>) -> Engine {
    with(Registry::new().with::<Account>().with::<Summary>(), stores).await
}

async fn with(registry: Registry, stores: impl Into<Stores>) -> Engine {
    Engine::builder().registry(registry).without_background().build(stores).await.unwrap()
}

/// Fills a log; gives the receipt of the event in the midst of the second page.
async fn fill(stores: &Stores) -> Receipt {
    let bank = engine(stores.clone()).await;
    for account in 0..ACCOUNTS {
        open(&bank, account, 1).await;
    }
    let mut second = None;
    for number in 2 * ACCOUNTS..EVENTS {
        let receipt = bank.execute(Deposit { account: number % ACCOUNTS, cents: number }).await.unwrap();
        if number == 1_500 {
            second = Some(receipt);
        }
    }
    second.unwrap()
}

type Summaries = BTreeMap<u64, Summary>;

async fn shown(bank: &Engine) -> Summaries {
    bank.list::<Summary>().limit(100).await.unwrap().documents.into_iter().collect()
}

async fn fresh_fold(stores: &Stores) -> Summaries {
    let fresh = engine(Stores { log: stores.log.clone(), documents: Arc::new(MemoryStore::new()) }).await;
    fresh.catch_up().await.unwrap();
    shown(&fresh).await
}

#[tokio::test]
async fn documents_are_fetched_once_and_nothing_is_read_in_vain() {
    let (store, stores) = faulty();
    fill(&stores).await;
    let before = [Call::ReadLog, Call::Get, Call::Commit].map(|call| store.count(call));
    let bank = engine(stores.clone()).await;
    bank.catch_up().await.unwrap();
    let after = [Call::ReadLog, Call::Get, Call::Commit].map(|call| store.count(call));
    let counts: Vec<_> = after.iter().zip(before).map(|(after, before)| after - before).collect();
    assert_eq!(counts, [3, 1, 3], "pages read, documents fetched, batches committed");
    assert_eq!(shown(&bank).await, fresh_fold(&stores).await);
    // What came in since is folded onto what is remembered.
    bank.execute(Deposit { account: 1, cents: 5 }).await.unwrap();
    let before = store.count(Call::Get);
    bank.catch_up().await.unwrap();
    assert_eq!(store.count(Call::Get), before);
    assert_eq!(shown(&bank).await, fresh_fold(&stores).await);
}

/// `old` has committed a page, remembers its documents and has read the next page ahead, when `new` takes
/// over and goes to the end. What they show when `old` has got to where it wanted, and what is right.
async fn overtaken(flaw: Option<Flaw>) -> (Summaries, Summaries) {
    let store = MemoryStore::new();
    let documents: Arc<dyn ReadStore> = match flaw {
        Some(flaw) => Arc::new(Flawed(store.clone(), flaw)),
        None => Arc::new(store.clone()),
    };
    let log = Faulty::new(store.clone());
    let stores = Stores { log: Arc::new(store), documents };
    let second = fill(&stores).await;
    let old = engine(Stores { log: Arc::new(log.clone()), ..stores.clone() }).await;
    let new = engine(stores.clone()).await;
    log.skip(Call::ReadLog, 1);
    log.meanwhile(Call::ReadLog, async move { new.catch_up().await.unwrap() });
    old.get::<Summary>(&1).after(&second).await.unwrap();
    assert_eq!(log.pending_faults(), 0, "it was overtaken");
    (shown(&old).await, fresh_fold(&stores).await)
}

#[tokio::test]
async fn who_is_overtaken_between_two_pages_writes_nothing_from_memory() {
    let (shown, right) = overtaken(None).await;
    assert_eq!(shown, right);
}

/// The negative control: it does write, if it may.
#[tokio::test]
async fn without_a_fence_the_memory_of_who_was_overtaken_is_written() {
    let (shown, right) = overtaken(Some(Flaw::NoFence)).await;
    assert_ne!(shown, right);
}

/// Each commit fails once, with and without having taken place.
#[tokio::test]
async fn a_commit_of_unknown_outcome_leaves_nothing_in_memory() {
    for kind in [StoreErrorKind::Unknown, StoreErrorKind::Failed] {
        for fault in [Fault::Before(kind), Fault::After(kind)] {
            for turn in 0..3 {
                let (store, stores) = faulty();
                fill(&stores).await;
                let bank = engine(stores.clone()).await;
                store.skip(Call::Commit, turn);
                store.fail_next(Call::Commit, fault);
                bank.catch_up().await.unwrap_err();
                assert_eq!(store.pending_faults(), 0);
                bank.execute(Deposit { account: 1, cents: 5 }).await.unwrap();
                bank.catch_up().await.unwrap();
                assert_eq!(shown(&bank).await, fresh_fold(&stores).await, "{fault:?} at {turn}");
            }
        }
    }
}

/// A page that cannot be read ahead is no fault of the one that was committed.
#[tokio::test]
async fn a_page_ahead_that_fails_or_hangs_keeps_nothing_back() {
    let (store, stores) = faulty();
    fill(&stores).await;
    let bank = engine(stores.clone()).await;
    store.skip(Call::ReadLog, 1);
    store.fail_next(Call::ReadLog, Fault::Before(StoreErrorKind::Unavailable));
    store.fail_next(Call::ReadLog, Fault::Hang);
    // The second page is read ahead in vain, then read, and that hangs.
    let cut = tokio::time::timeout(Duration::from_millis(100), bank.catch_up()).await;
    assert!(cut.is_err(), "the fault hangs");
    assert_eq!(bank.status().await.unwrap()[0].position.get(), 1_000);
    bank.catch_up().await.unwrap();
    assert_eq!(shown(&bank).await, fresh_fold(&stores).await);

    let (store, stores) = faulty();
    fill(&stores).await;
    let bank = engine(stores.clone()).await;
    store.skip(Call::ReadLog, 1);
    store.fail_next(Call::ReadLog, Fault::Hang);
    let cut = tokio::time::timeout(Duration::from_millis(100), bank.catch_up()).await;
    assert!(cut.is_err(), "the fault hangs");
    assert_eq!(bank.status().await.unwrap()[0].position.get(), 1_000, "its commit has taken effect");
    bank.catch_up().await.unwrap();
    assert_eq!(shown(&bank).await, fresh_fold(&stores).await);
}

/// The same read model as another program keeps it: part of its appends.
mod inline {
    use super::*;

    #[derive(Serialize, Deserialize, Default)]
    pub struct Total {
        accounts: u64,
        balance: i64,
        postings: u64,
    }

    #[projection(name = "total", key = String, mode = inline)]
    impl Total {
        #[on(key = String::from("bank"))]
        fn opened(&mut self, _: &Opened) {
            self.accounts += 1;
        }
        #[on(key = String::from("bank"))]
        fn deposited(&mut self, event: &Deposited) {
            self.balance += event.cents as i64;
            self.postings += 1;
        }
        #[on(key = String::from("bank"))]
        fn withdrawn(&mut self, event: &Withdrawn) {
            self.balance -= event.cents as i64;
            self.postings += 1;
        }
    }
}

/// The first account in a partition.
fn account_in(store: &MemoryStore, partition: u16) -> u64 {
    let in_it = |account: &u64| {
        let stream = format!("Account/{account}").parse().unwrap();
        store.partition_of(&stream) == Partition::new(partition)
    };
    (0_u64..).find(in_it).unwrap()
}

/// During a rolling release one program keeps a read model inline that another follows. Appends move its
/// checkpoint on one partition and leave the epoch alone.
#[tokio::test]
async fn a_document_that_an_append_changes_is_not_overwritten_from_memory() {
    for partitions in [1, 2] {
        let store = MemoryStore::builder().partitions(partitions).build();
        let stores = Stores::from(Arc::new(store.clone()));
        let following = with(Registry::new().with::<Account>().with::<Total>(), stores.clone()).await;
        let inlining = with(Registry::new().with::<Account>().with::<inline::Total>(), stores.clone()).await;
        let writing = with(Registry::new().with::<Account>(), stores.clone()).await;
        let (first, last) = (account_in(&store, 0), account_in(&store, partitions - 1));
        for account in [first, last].into_iter().take(usize::from(partitions)) {
            open(&writing, account, 1).await;
        }
        following.catch_up().await.unwrap();
        inlining.execute(Deposit { account: last, cents: 10 }).await.unwrap();
        writing.execute(Deposit { account: first, cents: 100 }).await.unwrap();
        following.catch_up().await.unwrap();
        let total = following.get::<Total>(&"bank".into()).await.unwrap().unwrap();
        assert_eq!(total.balance, 110 + i64::from(partitions), "over {partitions} partitions");
        assert_eq!(total.postings, 2 + u64::from(partitions));
    }
}

/// A follower has read a document for what lies in the last partition, when an append of another program
/// changes that document with what it writes to the first. What the last partition's batch would write is
/// the document without it. The document, and how often the follower's batches were refused.
async fn changed_under_a_follower(follower: Registry) -> (Total, usize) {
    let store = MemoryStore::builder().partitions(2).build();
    let (first, last) = (account_in(&store, 0), account_in(&store, 1));
    let documents = Faulty::new(store.clone());
    let ours = Stores::from(Arc::new(documents.clone()));
    let stores = Stores::from(Arc::new(store));
    let inlining = with(Registry::new().with::<Account>().with::<inline::Total>(), stores.clone()).await;
    let writing = with(Registry::new().with::<Account>(), stores.clone()).await;
    for account in [first, last] {
        open(&inlining, account, 1).await;
    }
    writing.execute(Deposit { account: last, cents: 10 }).await.unwrap();
    documents.meanwhile(Call::Get, async move {
        inlining.execute(Deposit { account: first, cents: 100 }).await.unwrap();
    });
    with(follower, ours).await.catch_up().await.unwrap();
    assert_eq!(documents.pending_faults(), 0, "it was changed");
    let reading = with(Registry::new().with::<Total>(), stores).await;
    let total = reading.get::<Total>(&"bank".into()).await.unwrap().unwrap();
    (total, documents.count(Call::Claim) - 1)
}

#[tokio::test]
async fn what_an_append_to_another_partition_changes_under_a_follower_is_kept() {
    let total = Total { accounts: 2, balance: 112, postings: 4 };
    assert_eq!(changed_under_a_follower(Registry::new().with::<Total>()).await, (total.clone(), 1));
    assert_eq!(changed_under_a_follower(Registry::new().with::<inline::Total>()).await, (total, 1));
}

/// What one partition's batch has written is what the next one folds onto.
#[tokio::test]
async fn documents_of_several_partitions_are_fetched_once() {
    let store = Faulty::new(MemoryStore::builder().partitions(3).build());
    let stores = Stores::from(Arc::new(store.clone()));
    fill(&stores).await;
    let total = || Registry::new().with::<Account>().with::<Total>();
    let bank = with(total(), stores.clone()).await;
    let counts = || [Call::ReadLog, Call::Get, Call::Commit].map(|call| store.count(call));
    let before = counts();
    bank.catch_up().await.unwrap();
    let after = counts();
    let [pages, fetched, committed] = [0, 1, 2].map(|of| after[of] - before[of]);
    assert_eq!(fetched, 1, "documents fetched");
    assert!(committed >= 3 && pages <= committed + 3, "{pages} pages read for {committed} batches");
    let right = Total { accounts: ACCOUNTS, balance: 0, postings: EVENTS - ACCOUNTS };
    let shown = async |bank: &Engine| bank.get::<Total>(&"bank".into()).await.unwrap().unwrap();
    let first = shown(&bank).await;
    assert_eq!((first.accounts, first.postings), (right.accounts, right.postings));
    let before = counts()[1];
    for account in 0..ACCOUNTS {
        bank.execute(Deposit { account, cents: 5 }).await.unwrap();
        bank.catch_up().await.unwrap();
    }
    assert_eq!(counts()[1], before, "documents fetched");
    let balance = first.balance + 5 * ACCOUNTS as i64;
    assert_eq!(shown(&bank).await, Total { balance, postings: right.postings + ACCOUNTS, ..right });
}

/// While the first partition's batch is committed the page of the second is read; if that cannot be, it is
/// read again when it is its turn.
#[tokio::test]
async fn the_next_partitions_page_is_read_ahead() {
    let store = Faulty::new(MemoryStore::builder().partitions(2).build());
    let stores = Stores::from(Arc::new(store.clone()));
    let bank = engine(stores.clone()).await;
    for partition in 0..2 {
        open(&bank, account_in(store.inner(), partition), 1).await;
    }
    store.skip(Call::ReadLog, 1);
    store.fail_next(Call::ReadLog, Fault::Before(StoreErrorKind::Unavailable));
    bank.catch_up().await.unwrap();
    assert_eq!(store.pending_faults(), 0);
    assert_eq!(shown(&bank).await, fresh_fold(&stores).await);
    // A page that was empty when it was read is not taken for the end of the log later.
    for partition in [1, 0, 1, 0, 0] {
        let account = account_in(store.inner(), partition);
        let receipt = bank.execute(Deposit { account, cents: 1 }).await.unwrap();
        bank.get::<Summary>(&account).after(&receipt).await.unwrap();
        assert_eq!(shown(&bank).await, fresh_fold(&stores).await);
    }
}

/// The log is replaced by an older state of itself while a page of what is lost is read ahead.
#[tokio::test]
async fn a_log_that_is_rewound_behind_a_page_ahead_stops_the_projection() {
    let store = MemoryStore::new();
    let log = Faulty::new(crate::review::Odd::over(store.clone()).await);
    let documents: Arc<dyn ReadStore> = Arc::new(MemoryStore::new());
    fill(&Stores::from(Arc::new(store.clone()))).await;
    let older = MemoryStore::new();
    copy(&store, &older, 1_400).await;
    let bank = engine(Stores { log: Arc::new(log.clone()), documents: documents.clone() }).await;
    let odd = log.inner().clone();
    log.skip(Call::ReadLog, 1);
    log.meanwhile(Call::ReadLog, async move { odd.replace(older) });
    let end = bank.catch_up().await;
    assert_eq!(log.pending_faults(), 0);
    let rewound = |end: &Result<(), CatchUpError>| {
        let Err(CatchUpError::Stopped { fault: ConsumerFault::Rewound { checkpoint, head }, .. }) = end
        else {
            panic!("{end:?}")
        };
        (checkpoint.get(), head.get())
    };
    assert_eq!(rewound(&end), (2_000, 1_400));
    // Nor does one that comes later go on, also when the log has grown past the place.
    let more = engine(Stores::from(Arc::new(log.inner().log()))).await;
    for _ in 0..1_000 {
        more.execute(Deposit { account: 1, cents: 1 }).await.unwrap();
    }
    let later = engine(Stores { log: Arc::new(log), documents }).await;
    assert_eq!(rewound(&later.catch_up().await), (2_000, 2_400));
}

/// The first events of a log, with their ids, as a standby has them.
async fn copy(from: &MemoryStore, to: &MemoryStore, events: u64) {
    let read = LogRead {
        partition: Partition::ONLY,
        after: Position::START,
        up_to: Some(Position::new(events)),
        query: Query::all(),
        limit: events as usize,
    };
    let slice = from.read_log(read).await.unwrap();
    assert_eq!(slice.events.len() as u64, events);
    for event in slice.events {
        let event = (*event).clone();
        let new = cqrs::event::NewEvent {
            id: event.meta.id,
            stream: event.meta.stream,
            name: event.name,
            schema_version: event.schema_version,
            payload: event.payload,
            tags: event.tags,
            time: event.meta.time,
            metadata: event.meta.metadata,
        };
        to.append(Append::new(vec![new], Guard::Any)).await.unwrap();
    }
}

/// What does not fold lies in the second page: all before it takes effect, on remembered documents too.
#[tokio::test]
async fn poison_in_a_later_page_stops_right_before_it() {
    let stores = Stores::from(Arc::new(MemoryStore::new()));
    let bank = engine(stores.clone()).await;
    open(&bank, 1, 1).await;
    for _ in 0..1_498 {
        bank.execute(Deposit { account: 1, cents: 1 }).await.unwrap();
    }
    crate::reads::poison(&stores, 1, "Deposited", br#"{"cents":"many"}"#).await;
    for _ in 0..3 {
        let end = bank.catch_up().await;
        assert!(matches!(&end, Err(CatchUpError::Stopped { fault: ConsumerFault::Event(_), .. })), "{end:?}");
        assert_eq!(shown(&bank).await[&1].postings, 1_499);
        assert_eq!(bank.status().await.unwrap()[0].position.get(), 1_500);
    }
}
