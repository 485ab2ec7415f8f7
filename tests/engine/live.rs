//! Projections that are folded when they are read.

use std::sync::Arc;

use cqrs::engine::{Compared, ReadError, Stores};
use cqrs::error::FoldFault;
use cqrs::event::NewEvent;
use cqrs::memory::MemoryStore;
use cqrs::prelude::*;
use cqrs::read_store::{RangeRead, ReadStore as _};
use cqrs::store::{Append, EventStore as _, Guard};
use cqrs::{Partition, Registry, StreamId};
use cqrs_testkit::faults::{Call, Fault, Faulty};
use cqrs_testkit::prelude::*;

use crate::bank::{Account, Deposit, Deposited, Opened, Summary, Withdraw, Withdrawn, faulty, open};

#[derive(Event, Serialize, Deserialize)]
struct Charged {
    cents: u64,
}
#[derive(Command)]
struct Charge {
    #[id]
    card: u64,
    cents: u64,
}
#[derive(Default)]
struct Card;

/// Its ids are those of accounts.
#[aggregate(id = u64)]
impl Card {
    #[handle]
    fn charge(&self, cmd: Charge) -> Charged {
        Charged { cents: cmd.cents }
    }
    #[apply]
    fn charged(&mut self, _: &Charged) {}
}

/// The same as the summary.
#[derive(Serialize, Deserialize, Debug, PartialEq)]
struct Now {
    owner: String,
    balance: u64,
    postings: u32,
}

#[projection(name = "now", key = u64, mode = live)]
impl Now {
    #[on]
    fn opened(event: &Opened) -> Self {
        Self { owner: event.owner.clone(), balance: 0, postings: 0 }
    }
    #[on]
    fn deposited(&mut self, event: &Deposited) {
        assert!(event.cents != 13, "an unlucky number");
        self.balance += event.cents;
        self.postings += 1;
    }
    #[on]
    fn withdrawn(&mut self, event: &Withdrawn) {
        self.balance -= event.cents;
        self.postings += 1;
    }
}

/// Two streams in one document.
#[derive(Serialize, Deserialize, Debug, PartialEq, Default)]
struct Statement {
    lines: Vec<String>,
}

#[projection(name = "statement", key = u64, mode = live)]
impl Statement {
    #[on]
    fn deposited(&mut self, event: &Deposited, meta: &EventMeta) {
        // The envelope is all there.
        assert_ne!(meta.id, uuid::Uuid::nil());
        self.lines.push(format!("+{}", event.cents));
    }
    #[on]
    fn charged(&mut self, event: &Charged) {
        self.lines.push(format!("-{}", event.cents));
    }
}

/// One document from all streams.
#[derive(Serialize, Deserialize, Debug, PartialEq, Default)]
struct Sum {
    cents: u64,
}

#[projection(name = "sum", key = String, mode = live)]
impl Sum {
    #[on(key = ["all".to_owned(), format!("{}", event.cents % 2)])]
    fn deposited(&mut self, event: &Deposited) {
        self.cents += event.cents;
    }
}

fn registry() -> Registry {
    let aggregates = Registry::new().with::<Account>().with::<Card>();
    aggregates.with::<Summary>().with::<Now>().with::<Statement>().with::<Sum>()
}

async fn bank(stores: impl Into<Stores>) -> Engine {
    Engine::builder().registry(registry()).without_background().build(stores).await.unwrap()
}

#[tokio::test]
async fn a_live_document_is_what_a_stored_one_would_be() {
    for partitions in [1, 4] {
        let store = MemoryStore::builder().partitions(partitions).build();
        let bank = bank(store.clone()).await;
        for account in 0..20 {
            let receipt = open(&bank, account, 10 * account + 5).await;
            let now = bank.get::<Now>(&account).after(&receipt).await.unwrap().unwrap();
            assert_eq!(now.balance, 10 * account + 5, "at once");
            bank.execute(Withdraw { account, cents: 1 }).await.unwrap();
        }
        bank.catch_up().await.unwrap();
        for account in 0..21 {
            let stored = bank.get::<Summary>(&account).await.unwrap();
            let stored = stored.map(|Summary { owner, balance, postings }| Now { owner, balance, postings });
            assert_eq!(bank.get::<Now>(&account).await.unwrap(), stored);
        }
        let cents: u64 = (0..20).map(|account| 10 * account + 5).sum();
        assert_eq!(bank.get::<Sum>(&"all".into()).await.unwrap(), Some(Sum { cents }));
        assert_eq!(bank.get::<Sum>(&"1".into()).await.unwrap(), Some(Sum { cents }));
        assert_eq!(bank.get::<Sum>(&"0".into()).await.unwrap(), None);
        // Nothing is kept of it.
        for name in ["now", "sum"] {
            assert_eq!(store.checkpoint(name, Partition::ONLY).await.unwrap(), None);
            assert_eq!(store.range(RangeRead::documents(name, 10)).await.unwrap(), []);
        }
        assert!(bank.status().await.unwrap().iter().all(|status| status.name == "summary"));
        let verified = bank.verify().await.unwrap();
        assert!(verified.is_sound());
        let compared: Vec<_> =
            verified.projections.iter().map(|of| (of.name, matches!(of.compared, Compared::Live))).collect();
        assert_eq!(compared, [("now", true), ("statement", true), ("sum", true), ("summary", false)]);
        assert!(verified.to_string().contains("now: nothing to compare, for it is folded when it is read"));
    }
}

#[tokio::test]
async fn pages_of_live_documents_are_those_of_stored_ones() {
    let bank = bank(MemoryStore::new()).await;
    for account in 0..12 {
        open(&bank, account, 5).await;
    }
    let first = bank.list::<Now>().limit(5).dated().await.unwrap();
    assert!(first.age.is_zero());
    let keys: Vec<_> = first.value.documents.iter().map(|(key, _)| *key).collect();
    assert_eq!(keys, [0, 1, 10, 11, 2]);
    let second = bank.list::<Now>().limit(7).from(first.value.next.unwrap()).await.unwrap();
    assert_eq!((second.documents.len(), second.next), (7, None));
}

/// A document by its stream costs the stream, whatever else is in the log.
#[tokio::test]
async fn only_the_streams_of_a_document_are_read() {
    let (store, stores) = faulty();
    let bank = bank(stores).await;
    for account in 1..4 {
        open(&bank, account, 5).await;
    }
    let before = store.count(Call::ReadStream);
    bank.get::<Now>(&2).await.unwrap().unwrap();
    assert_eq!((store.count(Call::ReadStream) - before, store.count(Call::ReadLog)), (1, 0));
    bank.get::<Statement>(&2).await.unwrap().unwrap();
    assert_eq!((store.count(Call::ReadStream) - before, store.count(Call::ReadLog)), (3, 0));
    bank.get::<Sum>(&"all".into()).await.unwrap().unwrap();
    assert!(store.count(Call::ReadLog) > 0);
}

#[tokio::test]
async fn events_of_several_streams_come_in_the_order_of_the_log() {
    let store = MemoryStore::new();
    let bank = bank(store.clone()).await;
    open(&bank, 1, 1).await;
    open(&bank, 2, 1).await;
    let mut right = vec!["+1".to_owned()];
    for cents in 2..1_300 {
        if cents % 3 == 0 {
            bank.execute(Charge { card: 1, cents }).await.unwrap();
            right.push(format!("-{cents}"));
        } else {
            bank.execute(Deposit { account: 1, cents }).await.unwrap();
            right.push(format!("+{cents}"));
        }
    }
    assert_eq!(bank.get::<Statement>(&1).await.unwrap().unwrap().lines, right);
    // Without the aggregates the streams are not known, and the log is read.
    let alone = Engine::builder().registry(Registry::new().with::<Statement>()).build(store).await.unwrap();
    assert_eq!(alone.get::<Statement>(&1).await.unwrap().unwrap().lines, right);
    assert_eq!(alone.list::<Statement>().await.unwrap().documents.len(), 2);
}

/// One writes to two streams in turn while another reads them slowly: it never sees the later event
/// without the earlier.
#[tokio::test]
async fn a_live_document_is_of_one_place_in_the_log() {
    let store = MemoryStore::new();
    let (writer, slow) = (bank(store.clone()).await, Faulty::new(store));
    let reader = bank(Stores::from(Arc::new(slow.clone()))).await;
    open(&writer, 1, 1).await;
    let writing = tokio::spawn(async move {
        for cents in 1.. {
            // Streams are read in the order of the registry: the account, then the card.
            writer.execute(Deposit { account: 1, cents }).await.unwrap();
            writer.execute(Charge { card: 1, cents }).await.unwrap();
            tokio::task::yield_now().await;
        }
    });
    let mut last = 0;
    for _ in 0..6 {
        (0..2).for_each(|_| slow.fail_next(Call::ReadStream, Fault::Slow));
        let lines = reader.get::<Statement>(&1).await.unwrap().unwrap().lines;
        let charges = lines.iter().filter(|line| line.starts_with('-')).count();
        let deposits = lines.len() - charges - 1;
        assert!(deposits == charges || deposits == charges + 1, "{deposits} {charges}");
        assert!(lines.len() > last, "nothing raced");
        last = lines.len();
    }
    writing.abort();
}

#[tokio::test]
async fn a_receipt_is_still_looked_at() {
    let (here, there) = (bank(MemoryStore::new()).await, bank(MemoryStore::new()).await);
    let receipt = open(&here, 1, 5).await;
    let foreign = there.get::<Now>(&1).after(&receipt).await.unwrap_err();
    assert!(matches!(foreign, ReadError::ForeignReceipt), "{foreign:?}");
    let beyond: Receipt = receipt.to_string().replacen("-2-", "-99-", 1).parse().unwrap();
    let lost = here.get::<Now>(&1).after(&beyond).await.unwrap_err();
    assert_eq!(
        lost.to_string(),
        "the receipt is of an event at position 99 that the log no longer has: the log was rewound, and ends at 2"
    );
    let missing = Engine::builder().registry(Registry::new().with::<Account>()).build(MemoryStore::new());
    let missing = missing.await.unwrap().get::<Now>(&1).await.unwrap_err();
    assert!(matches!(missing, ReadError::NotRegistered("now")), "{missing:?}");
}

#[tokio::test]
async fn an_event_that_does_not_fold_is_an_error_of_the_reads_that_meet_it() {
    let store = MemoryStore::new();
    let bank = bank(store.clone()).await;
    open(&bank, 1, 13).await;
    open(&bank, 2, 5).await;
    let failed = bank.get::<Now>(&1).await.unwrap_err();
    let ReadError::Fold(error) = &failed else { panic!("{failed:?}") };
    assert!(matches!(error.fault(), FoldFault::Panicked(_)), "{error:?}");
    assert_eq!(error.position().get(), 2);
    assert_eq!(bank.get::<Now>(&2).await.unwrap().unwrap().balance, 5, "another document is no worse");
    bank.list::<Now>().await.unwrap_err();
    // An event that no document can take.
    let event = NewEvent {
        id: uuid::Uuid::new_v4(),
        stream: StreamId::new("Account", &77).unwrap(),
        name: "Deposited".into(),
        schema_version: 1,
        payload: br#"{"cents":5}"#.as_slice().into(),
        tags: cqrs::event::Tags::default(),
        time: cqrs::Timestamp::now(),
        metadata: Arc::default(),
    };
    store.append(Append::new(vec![event], Guard::Any)).await.unwrap();
    let failed = bank.get::<Now>(&77).await.unwrap_err();
    let ReadError::Fold(error) = &failed else { panic!("{failed:?}") };
    assert!(matches!(error.fault(), FoldFault::Misfit(_)), "{error:?}");
}

#[test]
fn a_live_projection_is_tested_like_any_other() {
    let opened = Opened { owner: "Ada".into() };
    Now::given(Account::history(1, (opened, Deposited { cents: 5 })))
        .then_document(1, Now { owner: "Ada".into(), balance: 5, postings: 1 });
}

/// What a store refuses on reading is told.
#[tokio::test]
async fn a_store_that_fails_is_an_error() {
    use cqrs::error::StoreErrorKind;
    let store = Faulty::new(MemoryStore::new());
    let bank = bank(Stores::from(Arc::new(store.clone()))).await;
    open(&bank, 1, 5).await;
    store.fail_next(Call::ReadStream, Fault::Before(StoreErrorKind::Unavailable));
    assert!(matches!(bank.get::<Now>(&1).await.unwrap_err(), ReadError::Store(_)));
    assert_eq!(bank.get::<Now>(&1).await.unwrap().unwrap().balance, 5);
}
