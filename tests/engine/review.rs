//! What a reviewer with fresh eyes tried to break.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use cqrs::engine::{ConsumerFault, ConsumerState, Failure, ReadError, Stores};
use cqrs::error::{StoreError, StoreErrorKind};
use cqrs::memory::MemoryStore;
use cqrs::prelude::*;
use cqrs::read_store::{Batch, Checkpoint, Claim, CommitError, Entry, EntryKey, RangeRead, ReadStore};
use cqrs::store::{
    Append, AppendError, Appended, BoxFuture, Capabilities, CommandKey, EventStore, Head, Limits, LogRead,
    LogSlice, StreamRead, StreamSlice,
};
use cqrs::{Partition, Position, Registry, StreamId, Version};
use cqrs_testkit::faults::{Call, Fault};

use crate::bank::*;

/// A store that keeps the contract, or most of it, in the most awkward way.
#[derive(Clone, Debug)]
pub struct Odd(Arc<OddInner>);

#[derive(Debug)]
pub struct OddInner {
    log: Mutex<MemoryStore>,
    /// The id that the log shows, whichever it is.
    id: cqrs::store::LogId,
    documents: MemoryStore,
    /// Every `get` of documents takes this long.
    slow: Duration,
    /// The next append is carried out, a rival writes behind it, and the outcome is not known.
    rival: AtomicBool,
    /// `wait` comes back at once, as it may.
    restless: AtomicBool,
    reads: AtomicUsize,
}

impl Odd {
    async fn new(slow: Duration) -> Self {
        Self::slow(MemoryStore::new(), slow).await
    }
    pub async fn over(log: MemoryStore) -> Self {
        Self::slow(log, Duration::ZERO).await
    }
    async fn slow(log: MemoryStore, slow: Duration) -> Self {
        let id = log.head(Partition::ONLY).await.unwrap().log;
        Self(Arc::new(OddInner {
            log: Mutex::new(log),
            id,
            documents: MemoryStore::new(),
            slow,
            rival: AtomicBool::new(false),
            restless: AtomicBool::new(false),
            reads: AtomicUsize::new(0),
        }))
    }
    pub fn log(&self) -> MemoryStore {
        self.0.log.lock().unwrap().clone()
    }
    /// Shows another log from now on, under the same id.
    pub fn replace(&self, log: MemoryStore) {
        *self.0.log.lock().unwrap() = log;
    }
    fn stores(&self) -> Stores {
        Stores::from(Arc::new(self.clone()))
    }
}

impl EventStore for Odd {
    fn capabilities(&self) -> Capabilities {
        self.log().capabilities()
    }
    fn limits(&self) -> Limits {
        self.log().limits()
    }
    fn partition_of(&self, stream: &StreamId) -> Partition {
        self.log().partition_of(stream)
    }
    fn append(&self, append: Append) -> BoxFuture<'_, Result<Appended, AppendError>> {
        Box::pin(async move {
            let done = self.log().append(append).await?;
            if self.0.rival.swap(false, Ordering::SeqCst) {
                let rival = quiet(self.log()).await;
                rival.execute(Deposit { account: 1, cents: 100 }).await.unwrap();
                return Err(StoreError::new(StoreErrorKind::Unknown, "the connection broke").into());
            }
            Ok(Appended { log: self.0.id, ..done })
        })
    }
    fn find_key(&self, key: &CommandKey) -> BoxFuture<'_, Result<Option<Appended>, StoreError>> {
        let key = key.clone();
        Box::pin(async move { self.log().find_key(&key).await })
    }
    fn read_stream(&self, read: StreamRead) -> BoxFuture<'_, Result<StreamSlice, StoreError>> {
        Box::pin(async move { self.log().read_stream(read).await })
    }
    fn read_log(&self, read: LogRead) -> BoxFuture<'_, Result<LogSlice, StoreError>> {
        self.0.reads.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move {
            let mut slice = self.log().read_log(read).await?;
            slice.head.log = self.0.id;
            Ok(slice)
        })
    }
    fn head(&self, partition: Partition) -> BoxFuture<'_, Result<Head, StoreError>> {
        Box::pin(async move { Ok(Head { log: self.0.id, ..self.log().head(partition).await? }) })
    }
    fn wait(&self, partition: Partition, after: Position) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            if self.0.restless.load(Ordering::SeqCst) {
                return Ok(());
            }
            self.log().wait(partition, after).await
        })
    }
}

impl ReadStore for Odd {
    fn claim(&self, consumer: &str) -> BoxFuture<'_, Result<Claim, StoreError>> {
        self.0.documents.claim(consumer)
    }
    fn checkpoint(
        &self,
        consumer: &str,
        partition: Partition,
    ) -> BoxFuture<'_, Result<Option<Checkpoint>, StoreError>> {
        self.0.documents.checkpoint(consumer, partition)
    }
    fn commit(&self, batch: Batch) -> BoxFuture<'_, Result<(), CommitError>> {
        self.0.documents.commit(batch)
    }
    fn get(
        &self,
        consumer: &str,
        entries: Vec<EntryKey>,
    ) -> BoxFuture<'_, Result<Vec<Option<Bytes>>, StoreError>> {
        let consumer = consumer.to_owned();
        Box::pin(async move {
            tokio::time::sleep(self.0.slow).await;
            self.0.documents.get(&consumer, entries).await
        })
    }
    fn range(&self, range: RangeRead) -> BoxFuture<'_, Result<Vec<Entry>, StoreError>> {
        self.0.documents.range(range)
    }
}

/// A read model with a mistake.
#[derive(Serialize, Deserialize, Default, Debug)]
struct Fragile {
    deposits: u64,
}

#[projection(name = "fragile", key = u64)]
impl Fragile {
    #[on]
    fn deposited(&mut self, event: &Deposited) {
        self.deposits += 1;
        assert_ne!(event.cents, 13, "an unlucky number");
    }
}

fn fragile() -> Registry {
    Registry::new().with::<Account>().with::<Fragile>()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_projection_that_panics_stops_and_says_so() {
    for background in [true, false] {
        let builder = Engine::builder().registry(fragile());
        let builder = if background { builder } else { builder.without_background() };
        let bank = builder.build(MemoryStore::new()).await.unwrap();
        open(&bank, 1, 5).await;
        open(&bank, 2, 13).await;
        let receipt = open(&bank, 3, 5).await;
        let stopped = bank.get::<Fragile>(&3).after(&receipt).await.unwrap_err();
        let ReadError::Stopped { fault: ConsumerFault::Event(error), .. } = stopped else {
            panic!("{stopped:?}")
        };
        assert_eq!((error.event(), error.position().get()), ("Deposited", 4));
        let cause = std::error::Error::source(&*error).unwrap().to_string();
        assert!(cause.contains("an unlucky number"), "{cause}");
        let status = bank.status().await.unwrap().remove(0);
        assert!(matches!(status.state, ConsumerState::Stopped(_)), "{status:?}");
        assert_eq!(status.position.get(), 3, "everything before it has taken effect");
        assert_eq!(bank.get::<Fragile>(&1).await.unwrap().unwrap().deposits, 1);
        assert!(bank.get::<Fragile>(&2).await.unwrap().is_none());
        bank.shutdown().await;
    }
}

#[tokio::test]
async fn a_store_that_is_down_is_tried_less_and_less_often() {
    let (store, stores) = faulty();
    for _ in 0..1_000 {
        store.fail_next(Call::Claim, Fault::Before(StoreErrorKind::Unavailable));
    }
    // At the end of the log there is nothing to claim.
    open(&quiet(store.inner().clone()).await, 1, 5).await;
    let builder = Engine::builder().registry(Registry::new().with::<Summary>());
    let _bank = builder.build(stores).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let tries = store.count(Call::Claim);
    assert!((3..=8).contains(&tries), "{tries} tries in 1.5 s");
}

/// Each needs longer for a batch than the other waits before it takes the consumer back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_owners_with_slow_batches_get_somewhere() {
    let store = Odd::new(Duration::from_millis(120)).await;
    let writer = Engine::builder().registry(Registry::new().with::<Account>()).without_background();
    let writer = writer.build(store.stores()).await.unwrap();
    let receipt = open(&writer, 1, 5).await;
    let one = || Engine::builder().registry(Registry::new().with::<Summary>());
    let first = one().build(store.stores()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(60)).await;
    let second = one().build(store.stores()).await.unwrap();
    for bank in [&first, &second] {
        bank.get::<Summary>(&1).after(&receipt).await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_that_catch_up_with_slow_batches_get_somewhere() {
    let store = Odd::new(Duration::from_millis(120)).await;
    let writer = quiet(store.stores()).await;
    open(&writer, 1, 5).await;
    let one = || Engine::builder().registry(Registry::new().with::<Summary>()).without_background();
    let (first, second) =
        (one().build(store.stores()).await.unwrap(), one().build(store.stores()).await.unwrap());
    let task = tokio::spawn(async move { first.catch_up().await });
    tokio::time::sleep(Duration::from_millis(60)).await;
    let both = async {
        second.catch_up().await.unwrap();
        task.await.unwrap().unwrap();
    };
    tokio::time::timeout(Duration::from_secs(5), both).await.expect("they hold each other up for ever");
}

#[tokio::test]
async fn a_receipt_of_an_unknown_outcome_is_that_of_the_command_alone() {
    let store = Odd::new(Duration::ZERO).await;
    let bank = quiet(store.stores()).await;
    open(&bank, 1, 5).await;
    store.0.rival.store(true, Ordering::SeqCst);
    let receipt = bank.execute(Exchange { account: 1, cents: 5 }).await.unwrap();
    assert_eq!((receipt.version().get(), receipt.position().get()), (4, 4));
    // So whoever expects what the receipt says hears of the rival.
    let late = bank.execute(Deposit { account: 1, cents: 1 }).expect(receipt.version()).await.unwrap_err();
    assert!(matches!(late, ExecuteError::Conflict(_)), "{late:?}");
    // With a key it is no repetition either: it happened now.
    store.0.rival.store(true, Ordering::SeqCst);
    let receipt = bank.execute(Deposit { account: 1, cents: 5 }).key("k").await.unwrap();
    assert_eq!((receipt.version().get(), receipt.is_repeated()), (6, false));
    assert!(bank.execute(Deposit { account: 1, cents: 5 }).key("k").await.unwrap().is_repeated());
}

#[tokio::test]
async fn a_receipt_from_beyond_the_log_is_not_said_to_be_reached() {
    for bank in [quiet(MemoryStore::new()).await, running(MemoryStore::new()).await] {
        let receipt = open(&bank, 1, 5).await.to_string().replacen("-2-", "-99-", 1);
        let receipt: Receipt = receipt.parse().unwrap();
        assert_eq!(receipt.position().get(), 99);
        let read = bank.get::<Summary>(&1).after(&receipt).timeout(Duration::from_millis(300));
        let lost = read.await.unwrap_err();
        assert!(matches!(lost, ReadError::LostReceipt { .. }), "{lost:?}");
    }
}

#[tokio::test]
async fn a_shutdown_that_was_given_up_can_be_waited_for_again() {
    let (store, stores) = faulty();
    let bank = Engine::builder().registry(Registry::new().with::<Account>().with::<Summary>());
    let bank = bank.build(stores).await.unwrap();
    let receipt = open(&bank, 1, 5).await;
    bank.get::<Summary>(&1).after(&receipt).await.unwrap();
    store.fail_next(Call::ReadLog, Fault::Hang);
    let before = store.count(Call::ReadLog);
    bank.execute(Deposit { account: 1, cents: 5 }).await.unwrap();
    while store.count(Call::ReadLog) == before {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for _ in 0..2 {
        let end = tokio::time::timeout(Duration::from_millis(50), bank.shutdown()).await;
        assert!(end.is_err(), "a follower is under way");
    }
}

/// Moves the stored checkpoint as another owner would.
async fn move_on(stores: &Stores, consumer: &str, to: u64) {
    let head = stores.log.head(Partition::ONLY).await.unwrap();
    let claim = stores.documents.claim(consumer).await.unwrap();
    let to = Checkpoint { log: head.log, position: Position::new(to), event: None };
    let batch = Batch::new(consumer, &claim, to);
    stores.documents.commit(batch).await.unwrap();
}

async fn stopped(bank: &Engine) {
    let start = Instant::now();
    while !matches!(bank.status().await.unwrap()[0].state, ConsumerState::Stopped(_)) {
        assert!(start.elapsed() < Duration::from_secs(2), "it goes on, or is silent");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// During a rolling release the old program stops at an event that the new one can read.
#[tokio::test]
async fn a_projection_that_stopped_here_may_have_gone_on_elsewhere() {
    let stores = Stores::from(Arc::new(MemoryStore::new()));
    let bank = Engine::builder().registry(fragile()).build(stores.clone()).await.unwrap();
    let receipt = open(&bank, 1, 13).await;
    stopped(&bank).await;
    bank.get::<Fragile>(&1).after(&receipt).await.unwrap_err();
    move_on(&stores, "fragile", 2).await;
    bank.get::<Fragile>(&1).after(&receipt).await.unwrap();
}

#[tokio::test]
async fn a_stopped_projection_that_catches_up_is_followed_again() {
    let stores = Stores::from(Arc::new(MemoryStore::new()));
    let bank = Engine::builder().registry(fragile()).build(stores.clone()).await.unwrap();
    open(&bank, 1, 13).await;
    stopped(&bank).await;
    move_on(&stores, "fragile", 2).await;
    bank.catch_up().await.unwrap();
    let receipt = open(&bank, 2, 5).await;
    bank.get::<Fragile>(&2).after(&receipt).timeout(Duration::from_secs(2)).await.unwrap().unwrap();
}

/// After a failover to a standby that had not got everything, the log goes on below the place of a
/// follower that lives on.
#[tokio::test]
async fn a_log_that_is_rewound_under_a_follower_stops_it() {
    for background in [true, false] {
        let store = Odd::new(Duration::ZERO).await;
        let builder = Engine::builder().registry(fragile());
        let builder = if background { builder } else { builder.without_background() };
        let bank = builder.build(store.stores()).await.unwrap();
        open(&bank, 1, 5).await;
        let receipt = open(&bank, 2, 5).await;
        bank.get::<Fragile>(&2).after(&receipt).await.unwrap();
        let standby = MemoryStore::new();
        open(&quiet(standby.clone()).await, 1, 5).await;
        store.replace(standby);
        let end = match background {
            true => {
                stopped(&bank).await;
                bank.status().await.unwrap().remove(0).state
            }
            false => {
                bank.catch_up().await.unwrap_err();
                bank.status().await.unwrap().remove(0).state
            }
        };
        assert!(matches!(end, ConsumerState::Stopped(ConsumerFault::Rewound { .. })), "{end:?}");
    }
}

/// Or else the second command with a forgotten key is taken for a repetition of the first.
#[tokio::test]
async fn an_empty_key_is_refused() {
    let bank = quiet(MemoryStore::new()).await;
    open(&bank, 1, 5).await;
    let failed = bank.execute(Deposit { account: 1, cents: 1 }).key("").await.unwrap_err();
    assert!(failed.to_string().contains("key of Account/1 is empty"), "{failed}");
    assert_eq!(balance(&bank, 1).await, 5);
}

#[derive(Event, Serialize, Deserialize)]
struct Named {}

#[derive(Command)]
struct Name {
    #[id]
    person: String,
    new: bool,
}

struct Person {}

#[aggregate(id = String)]
impl Person {
    #[handle]
    fn name(this: Option<&Self>, cmd: Name) -> Option<Named> {
        (this.is_none() && cmd.new).then_some(Named {})
    }
    #[apply]
    fn named(_: Option<&Self>, _: &Named) -> Self {
        Self {}
    }
}

/// It would be read, and remembered, before the store has a chance to refuse it.
#[tokio::test]
async fn a_huge_id_is_refused_before_anything_is_done_with_it() {
    let bank = Engine::builder().registry(Registry::new().with::<Person>()).without_background();
    let bank = bank.build(MemoryStore::new()).await.unwrap();
    for new in [true, false] {
        let failed = bank.execute(Name { person: "x".repeat(1 << 20), new }).await.unwrap_err();
        let ExecuteError::Failed(Failure::Store(error)) = failed else { panic!("{failed:?}") };
        assert_eq!(error.kind(), StoreErrorKind::Invalid);
        assert!(error.to_string().contains("the limit is 400"), "{error}");
        assert!(error.to_string().len() < 1_000, "a message that can be read");
    }
}

#[tokio::test]
async fn ids_of_any_text_come_back() {
    let bank = Engine::builder().registry(Registry::new().with::<Person>()).without_background();
    let bank = bank.build(MemoryStore::new()).await.unwrap();
    for person in ["a/b", "/", "a\nb", "\u{1}", " ", "☃", "'; drop table"] {
        bank.execute(Name { person: person.into(), new: true }).await.unwrap();
        assert!(bank.load::<Person>(&person.into()).await.unwrap().state.is_some());
    }
    // But for the one character that not every database can hold.
    let failed = bank.execute(Name { person: "a\0b".into(), new: true }).await.unwrap_err();
    let ExecuteError::Failed(Failure::Store(error)) = failed else { panic!("{failed:?}") };
    assert_eq!(error.kind(), StoreErrorKind::Invalid);
    assert!(error.to_string().contains("U+0000"), "{error}");
}

#[derive(Event, Serialize, Deserialize, Clone)]
struct Measured {
    celsius: f64,
}

#[derive(Command)]
struct Measure {
    #[id]
    place: u64,
    celsius: f64,
}

#[derive(Default)]
struct Gauge {
    last: f64,
}

#[aggregate(id = u64)]
impl Gauge {
    #[handle]
    fn measure(&self, cmd: Measure) -> Measured {
        Measured { celsius: cmd.celsius }
    }
    #[apply]
    fn measured(&mut self, event: &Measured) {
        self.last = event.celsius;
    }
}

/// JSON writes a number that is none as `null`, which does not come back.
#[tokio::test]
async fn an_event_that_would_not_come_back_is_never_written() {
    let bank = Engine::builder().registry(Registry::new().with::<Gauge>()).without_background();
    let bank = bank.build(MemoryStore::new()).await.unwrap();
    for celsius in [f64::NAN, f64::INFINITY] {
        let failed = bank.execute(Measure { place: 1, celsius }).await;
        assert!(matches!(failed, Err(ExecuteError::Failed(Failure::Encode(_)))), "{failed:?}");
    }
    bank.execute(Measure { place: 1, celsius: 21.5 }).await.unwrap();
    assert_eq!(bank.load::<Gauge>(&1).await.unwrap().state.unwrap().last, 21.5);
}

#[tokio::test]
async fn a_float_comes_back_as_it_was() {
    let bank = Engine::builder().registry(Registry::new().with::<Gauge>()).without_background();
    let bank = bank.build(MemoryStore::new()).await.unwrap();
    let mut seed = 1_u64;
    let mut wrong = 0;
    for place in 0..5_000 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let celsius = f64::from_bits(seed);
        if !celsius.is_finite() {
            continue;
        }
        bank.execute(Measure { place, celsius }).await.unwrap();
        let back = bank.load::<Gauge>(&place).await.unwrap().state.unwrap().last;
        wrong += usize::from(back.to_bits() != celsius.to_bits());
    }
    assert_eq!(wrong, 0);
}

#[derive(Event, Serialize, Deserialize)]
#[event(replaces = Deposited)]
struct Credited {
    cents: u64,
}

impl From<Deposited> for Vec<Credited> {
    fn from(old: Deposited) -> Self {
        vec![Credited { cents: old.cents }]
    }
}

/// Somebody left the old `#[on]` beside the new one.
#[derive(Serialize, Deserialize, Default, Debug)]
struct Twice {
    cents: u64,
}

#[projection(name = "twice", key = u64)]
impl Twice {
    #[on]
    fn deposited(&mut self, event: &Deposited) {
        self.cents += event.cents;
    }
    #[on]
    fn credited(&mut self, event: &Credited) {
        self.cents += event.cents;
    }
}

#[tokio::test]
async fn an_event_and_its_successor_in_one_place_are_refused() {
    let registry = Registry::new().with::<Account>().with::<Twice>();
    let built = Engine::builder().registry(registry).without_background().build(MemoryStore::new()).await;
    let Err(error) = built else { panic!("each deposit would count twice") };
    assert!(error.to_string().contains("`Credited` replaces `Deposited`"), "{error}");
}

#[tokio::test]
async fn a_stream_of_many_pages_is_read_to_its_end() {
    let store = MemoryStore::new();
    let bank = quiet(store.clone()).await;
    open(&bank, 1, 0).await;
    for _ in 0..10_100 {
        bank.execute(Deposit { account: 1, cents: 1 }).await.unwrap();
    }
    assert_eq!(balance(&bank, 1).await, 10_100);
    let other = quiet(store).await;
    let receipt = other.execute(Withdraw { account: 1, cents: 10_100 }).await.unwrap();
    assert_eq!(receipt.version(), Version::new(10_103));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn few_slots_for_many_streams_cost_time_and_no_commands() {
    let bank = Engine::builder().registry(registry()).without_background().hot_streams(1);
    let bank = bank.build(MemoryStore::new()).await.unwrap();
    for account in 0..8 {
        open(&bank, account, 0).await;
    }
    let tasks: Vec<_> = (0..32_u64)
        .map(|number| {
            let bank = bank.clone();
            tokio::spawn(async move {
                for turn in 0..50 {
                    bank.execute(Deposit { account: (number + turn) % 8, cents: 1 }).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

#[tokio::test]
async fn a_wait_that_comes_back_early_does_not_make_a_follower_spin() {
    let store = Odd::new(Duration::ZERO).await;
    store.0.restless.store(true, Ordering::SeqCst);
    let builder = Engine::builder().registry(Registry::new().with::<Account>().with::<Summary>());
    let bank = builder.build(store.stores()).await.unwrap();
    let receipt = open(&bank, 1, 5).await;
    bank.get::<Summary>(&1).after(&receipt).await.unwrap().unwrap();
    let before = store.0.reads.load(Ordering::SeqCst);
    let start = Instant::now();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let reads = store.0.reads.load(Ordering::SeqCst) - before;
    assert!(reads < 100, "{reads} reads of a log without news in {:?}", start.elapsed());
}

/// At the end of the 48 bits that a UUIDv7 has for milliseconds.
#[test]
fn ids_do_not_run_over_the_end_of_time() {
    use cqrs::context::{IdSource as _, TimeOrderedIds};
    let ids = TimeOrderedIds::default();
    let end = cqrs::Timestamp::from_micros(((1 << 48) - 1) * 1_000);
    let mut seen = std::collections::HashSet::new();
    for _ in 0..(1 << 16) + 10 {
        let id = ids.next(end);
        assert_eq!((id.get_version_num(), id.as_u128() >> 80), (7, (1 << 48) - 1));
        assert!(seen.insert(id));
    }
}

/// Between reading the log and reading the documents, another owner folds the same events.
#[tokio::test]
async fn what_another_owner_has_folded_is_no_fault() {
    let slow = Odd::new(Duration::from_millis(100)).await;
    let (log, documents) = (Arc::new(slow.clone()), Arc::new(slow.0.documents.clone()));
    let late = quiet(slow.stores()).await;
    let other = quiet(Stores { log, documents }).await;
    open(&other, 1, 5).await;
    let meanwhile = async {
        tokio::time::sleep(Duration::from_millis(30)).await;
        other.catch_up().await.unwrap();
    };
    let (end, ()) = tokio::join!(late.catch_up(), meanwhile);
    end.unwrap();
    assert_eq!(late.get::<Summary>(&1).await.unwrap().unwrap().postings, 1);
}

/// Two engines on one store, with nothing wrong anywhere: each batch of one fences the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_owners_at_rest_do_not_fight() {
    let (store, stores) = faulty();
    let one = || Engine::builder().registry(Registry::new().with::<Account>().with::<Summary>());
    let (first, second) =
        (one().build(stores.clone()).await.unwrap(), one().build(stores.clone()).await.unwrap());
    for account in 0..50 {
        let receipt = open(&first, account, 5).await;
        for bank in [&first, &second] {
            bank.get::<Summary>(&account).after(&receipt).await.unwrap().unwrap();
        }
    }
    assert!(store.count(Call::Claim) < 10, "{} claims for 100 events", store.count(Call::Claim));
}

/// A request of several commands has one key: what is decided differently the second time (a withdrawal, then the
/// record that it was declined) happens once.
#[tokio::test]
async fn a_request_answers_once_whichever_command_is_accepted() {
    let bank = quiet(MemoryStore::new()).await;
    open(&bank, 1, 5).await;
    let request = bank.request("request-7");
    let first = request.execute(Deposit { account: 1, cents: 5 }).await.unwrap();
    let second = request.execute(Withdraw { account: 1, cents: 1 }).await.unwrap();
    assert!(second.is_repeated());
    assert_eq!(second.to_string(), first.to_string());
    assert_eq!(balance(&bank, 1).await, 10);
}

/// A document that the read store refuses for good is no reason to try for ever.
#[tokio::test]
async fn a_document_that_the_store_refuses_for_good_stops_its_projection() {
    let (store, stores) = faulty();
    for _ in 0..100 {
        store.fail_next(Call::Commit, Fault::Before(StoreErrorKind::Invalid));
    }
    let bank = Engine::builder().registry(Registry::new().with::<Account>().with::<Summary>());
    let bank = bank.build(stores).await.unwrap();
    open(&bank, 1, 5).await;
    stopped(&bank).await;
}
