//! Snapshots: whatever lies in the store, a state is the fold of the log.

#![allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "tests stop at what they did not expect"
)]

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use cqrs::engine::{Stores, Timeouts};
use cqrs::error::{StoreError, StoreErrorKind};
use cqrs::memory::MemoryStore;
use cqrs::prelude::*;
use cqrs::store::{
    Append, AppendError, Appended, BoxFuture, Capabilities, CommandKey, EventStore, Head, Limits, LogId,
    LogRead, LogSlice, Snapshot, StreamRead, StreamSlice,
};
use cqrs::{Aggregate, Partition, Position, Registry, StreamId, Version};
use cqrs_testkit::faults::{Call, Fault, Faulty};

#[derive(Event, Serialize, Deserialize)]
pub struct Opened {
    pub by: String,
}
#[derive(Event, Serialize, Deserialize)]
pub struct Added {
    pub cents: i64,
}
#[derive(Event, Serialize, Deserialize)]
pub struct Noted {
    pub text: String,
    pub times: u32,
}

#[derive(Clone, Serialize, Deserialize, Debug, PartialEq)]
pub enum Last {
    Nothing,
    Amount(i64),
    Note { text: String },
}

/// The same aggregate in several modules, which differ in how it is kept.
macro_rules! book {
    ($module:ident, [$($snapshot:tt)*] $(, $extra:item)?) => {
        pub mod $module {
            use super::*;

            #[derive(Command)]
            pub struct Open {
                #[id]
                pub book: u64,
            }
            #[derive(Command)]
            pub struct Add {
                #[id]
                pub book: u64,
                pub cents: Vec<i64>,
            }
            #[derive(Command)]
            pub struct Note {
                #[id]
                pub book: u64,
                pub text: String,
            }

            #[derive(Clone, Serialize, Deserialize, Debug, PartialEq)]
            pub struct Book {
                pub by: String,
                pub sum: i64,
                pub notes: BTreeMap<String, u32>,
                pub last: Last,
                pub every: Vec<Option<i64>>,
            }

            #[aggregate(id = u64, name = "Book" $($snapshot)*)]
            impl Book {
                #[handle]
                fn open(_: Open) -> Opened {
                    Opened { by: "somebody".into() }
                }
                #[handle]
                fn add(&self, cmd: Add) -> Vec<Added> {
                    cmd.cents.into_iter().map(|cents| Added { cents }).collect()
                }
                #[handle]
                fn note(&self, cmd: Note) -> Option<Noted> {
                    let times = self.notes.get(&cmd.text).copied().unwrap_or_default() + 1;
                    (times < 9).then_some(Noted { text: cmd.text, times })
                }
                #[apply]
                fn opened(e: &Opened) -> Self {
                    let (notes, last, every) = (BTreeMap::new(), Last::Nothing, Vec::new());
                    Self { by: e.by.clone(), sum: 0, notes, last, every }
                }
                #[apply]
                fn added(&mut self, e: &Added) {
                    self.sum = self.sum.wrapping_mul(3).wrapping_add(e.cents);
                    self.last = Last::Amount(e.cents);
                    self.every.push((e.cents % 2 == 0).then_some(e.cents));
                }
                #[apply]
                fn noted(&mut self, e: &Noted) {
                    self.notes.insert(e.text.clone(), e.times);
                    self.last = Last::Note { text: e.text.clone() };
                }
                $($extra)?
            }
        }
    };
}

book!(plain, []);
book!(every1, [, snapshot = every(1)]);
book!(every2, [, snapshot = every(2)]);
book!(every3, [, snapshot = every(3)]);
book!(every4, [, snapshot = every(4)]);
book!(every5, [, snapshot = every(5)]);
book!(also3, [, snapshot = every(3)]);
book!(version2, [, snapshot = every(3, version = 2)]);
book!(helped, [, snapshot = every(3)], #[allow(dead_code)] pub fn helper() -> u8 { 1 });
book!(helped_otherwise, [, snapshot = every(3)], #[allow(dead_code)] pub fn helper() -> u8 { 2 });

fn print<A: Aggregate>() -> u64 {
    A::SNAPSHOTS.unwrap().fingerprint()
}

fn stream(book: u64) -> StreamId {
    format!("Book/{book}").parse().unwrap()
}

async fn engine<A: Aggregate + cqrs::registry::Register>(stores: impl Into<Stores>) -> Engine {
    let registry = Registry::new().with::<A>();
    Engine::builder().registry(registry).hot_streams(1).without_background().build(stores).await.unwrap()
}

/// What the log says, by an aggregate of the same streams that is never kept.
async fn fresh(log: Arc<dyn EventStore>, book: u64) -> (Option<plain::Book>, Version) {
    let stores = Stores { log, documents: Arc::new(MemoryStore::new()) };
    let loaded = engine::<plain::Book>(stores).await.load::<plain::Book>(&book).await.unwrap();
    (loaded.state, loaded.version)
}

/// Numbers that look random and are the same each time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// Random commands to a few books, in engines that come and go; says where a state is not the fold of
/// the log.
macro_rules! play {
    ($module:ident, $log:expr, $seed:expr) => {
        async {
            let log: Arc<dyn EventStore> = $log;
            let stores = || Stores { log: log.clone(), documents: Arc::new(MemoryStore::new()) };
            let mut dice = Dice($seed);
            let mut bank = engine::<$module::Book>(stores()).await;
            for step in 0..120 {
                let book = dice.below(3);
                match dice.below(8) {
                    0 => _ = bank.execute($module::Open { book }).await,
                    1..4 => {
                        let cents = (0..dice.below(4)).map(|_| dice.below(99) as i64 - 50).collect();
                        _ = bank.execute($module::Add { book, cents }).await;
                    }
                    4..6 => {
                        let text = format!("note {}", dice.below(4));
                        _ = bank.execute($module::Note { book, text }).await;
                    }
                    6 => bank = engine::<$module::Book>(stores()).await,
                    _ => {
                        let kept = bank.load::<$module::Book>(&book).await.unwrap();
                        let (state, version) = fresh(log.clone(), book).await;
                        let (kept_state, state) = [
                            serde_json::to_string(&kept.state).unwrap(),
                            serde_json::to_string(&state).unwrap(),
                        ]
                        .into();
                        if (&kept_state, kept.version) != (&state, version) {
                            return Err(format!(
                                "step {step}, book {book}: {kept_state} at {}, but {state} at {version}",
                                kept.version
                            ));
                        }
                    }
                }
            }
            Ok(())
        }
    };
}

#[tokio::test]
async fn a_state_is_the_fold_of_the_log_whatever_is_kept() {
    for seed in 1..=12 {
        macro_rules! all {
            ($($module:ident)*) => {$(
                let store = Faulty::new(MemoryStore::new());
                let played: Result<(), String> = play!($module, Arc::new(store.clone()), seed * 7_919).await;
                assert_eq!(played, Ok(()), "{} with seed {seed}", stringify!($module));
                assert!(store.count(Call::SaveSnapshot) > 2, "{} keeps nothing", stringify!($module));
                assert_eq!(store.count(Call::ForgetSnapshot), 0, "{} trusts nothing", stringify!($module));
            )*};
        }
        all!(every1 every2 every3 every4 every5);
    }
}

/// The control: if a state that is behind its version is handed out, that is noticed.
#[tokio::test]
async fn a_store_that_gives_old_states_for_new_is_caught() {
    let mut caught = 0;
    for seed in 1..=12 {
        let store = Odd::new(Way::Stale);
        let played: Result<(), String> = play!(every2, Arc::new(store), seed * 7_919).await;
        caught += usize::from(played.is_err());
    }
    assert!(caught > 6, "only {caught} of 12");
}

/// A log beside which snapshots are kept in another way than they should.
#[derive(Debug)]
struct Odd {
    inner: MemoryStore,
    way: Way,
    first: Mutex<BTreeMap<StreamId, Bytes>>,
    calls: AtomicUsize,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    /// Every snapshot of a stream has the state of the first.
    Stale,
    /// None are kept, as it says.
    None,
}

impl Odd {
    fn new(way: Way) -> Self {
        Self { inner: MemoryStore::new(), way, first: Mutex::default(), calls: AtomicUsize::new(0) }
    }
}

impl EventStore for Odd {
    fn capabilities(&self) -> Capabilities {
        let mut capabilities = self.inner.capabilities();
        capabilities.snapshots = self.way != Way::None;
        capabilities
    }
    fn limits(&self) -> Limits {
        self.inner.limits()
    }
    fn partition_of(&self, stream: &StreamId) -> Partition {
        self.inner.partition_of(stream)
    }
    fn append(&self, append: Append) -> BoxFuture<'_, Result<Appended, AppendError>> {
        self.inner.append(append)
    }
    fn find_key(&self, key: &CommandKey) -> BoxFuture<'_, Result<Option<Appended>, StoreError>> {
        self.inner.find_key(key)
    }
    fn read_stream(&self, read: StreamRead) -> BoxFuture<'_, Result<StreamSlice, StoreError>> {
        self.inner.read_stream(read)
    }
    fn read_log(&self, read: LogRead) -> BoxFuture<'_, Result<LogSlice, StoreError>> {
        self.inner.read_log(read)
    }
    fn head(&self, partition: Partition) -> BoxFuture<'_, Result<Head, StoreError>> {
        self.inner.head(partition)
    }
    fn wait(&self, partition: Partition, after: Position) -> BoxFuture<'_, Result<(), StoreError>> {
        self.inner.wait(partition, after)
    }
    fn snapshot(&self, stream: &StreamId, print: u64) -> BoxFuture<'_, Result<Option<Snapshot>, StoreError>> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        self.inner.snapshot(stream, print)
    }
    fn save_snapshot(&self, mut snapshot: Snapshot) -> BoxFuture<'_, Result<(), StoreError>> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let mut first = self.first.lock().unwrap();
        snapshot.state = first.entry(snapshot.stream.clone()).or_insert(snapshot.state).clone();
        self.inner.save_snapshot(snapshot)
    }
    fn forget_snapshot(&self, stream: &StreamId) -> BoxFuture<'_, Result<(), StoreError>> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        self.inner.forget_snapshot(stream)
    }
}

#[tokio::test]
async fn on_a_store_that_keeps_none_all_goes_on_without() {
    let store = Arc::new(Odd::new(Way::None));
    let played: Result<(), String> = play!(every2, store.clone(), 5).await;
    assert_eq!(played, Ok(()));
    assert_eq!(store.calls.load(Ordering::SeqCst), 0);
}

/// A book with 11 events, and its snapshot.
async fn filled(store: &Faulty<MemoryStore>) -> Snapshot {
    let bank = engine::<every3::Book>(Arc::new(store.clone())).await;
    bank.execute(every3::Open { book: 1 }).await.unwrap();
    for cents in 1..=10 {
        bank.execute(every3::Add { book: 1, cents: vec![cents] }).await.unwrap();
    }
    let kept = store.snapshot(&stream(1), print::<every3::Book>()).await.unwrap().unwrap();
    assert_eq!((kept.version, kept.position), (Version::new(9), Position::new(9)));
    kept
}

async fn check_loaded(store: &Faulty<MemoryStore>, what: &str) {
    let bank = engine::<every3::Book>(Arc::new(store.clone())).await;
    let loaded = bank.load::<every3::Book>(&1).await.unwrap();
    let (state, version) = fresh(Arc::new(store.clone()), 1).await;
    let texts = [serde_json::to_string(&loaded.state).unwrap(), serde_json::to_string(&state).unwrap()];
    assert_eq!((&texts[0], loaded.version), (&texts[1], version), "{what}");
}

#[tokio::test]
async fn what_does_not_fit_the_log_is_ignored_and_healed() {
    let store = Faulty::new(MemoryStore::new());
    let good = filled(&store).await;
    let version = |version: u64| (Version::new(version), Position::new(version));
    let other =
        |state: &'static str| Snapshot { state: Bytes::from_static(state.as_bytes()), ..good.clone() };
    let at = |(version, position)| Snapshot { version, position, ..good.clone() };
    let spoilt = [
        ("no state", other("")),
        ("garbage", other("\u{0}\u{1}garbage")),
        ("a state of another type", other(r#"{"by":7}"#)),
        ("a state cut off", other(r#"{"by":"somebody","sum":29"#)),
        ("a version ahead of the log", at(version(12))),
        ("a version far ahead", at((Version::new(u64::MAX), Position::new(9)))),
        ("another position", at((Version::new(9), Position::new(8)))),
        ("another event", Snapshot { event: uuid::Uuid::from_u128(3), ..good.clone() }),
        ("another log", Snapshot { log: LogId(uuid::Uuid::from_u128(3)), ..good.clone() }),
    ];
    for (count, (what, spoilt)) in (1..).zip(spoilt) {
        store.inner().forget_snapshot(&stream(1)).await.unwrap();
        store.inner().save_snapshot(spoilt).await.unwrap();
        check_loaded(&store, what).await;
        assert_eq!(store.count(Call::ForgetSnapshot), count, "{what} was trusted");
        let healed = store.inner().snapshot(&stream(1), good.fingerprint).await.unwrap().unwrap();
        assert_eq!((healed.version, healed.log), (Version::new(11), good.log), "{what} was not healed");
        check_loaded(&store, what).await;
        assert_eq!(store.count(Call::ForgetSnapshot), count, "{what}: what was healed is not trusted");
    }
}

/// The log loses what a snapshot was folded from, and has other events at the same versions and positions by now.
#[tokio::test]
async fn a_snapshot_of_a_lost_history_is_not_used() {
    let store = MemoryStore::new();
    let bank = engine::<every3::Book>(Arc::new(store.clone())).await;
    bank.execute(every3::Open { book: 1 }).await.unwrap();
    let add = |cents| every3::Add { book: 1, cents: vec![cents] };
    let before = store.backup();
    for _ in 0..8 {
        bank.execute(add(1_000)).await.unwrap();
    }
    let lost = store.snapshot(&stream(1), print::<every3::Book>()).await.unwrap().unwrap();
    store.restore(&before).unwrap();
    let store = store.reopen();
    let bank = engine::<every3::Book>(Arc::new(store.clone())).await;
    for _ in 0..8 {
        bank.execute(add(1)).await.unwrap();
    }
    let there = store.snapshot(&stream(1), print::<every3::Book>()).await.unwrap().unwrap();
    let place = |snapshot: &Snapshot| (snapshot.log, snapshot.version, snapshot.position);
    assert_eq!(place(&there), place(&lost));
    // A save that was on its way while the log was rewound.
    store.save_snapshot(lost).await.unwrap();
    let bank = engine::<every3::Book>(Arc::new(store.clone())).await;
    bank.execute(add(1)).await.unwrap();
    check_loaded(&Faulty::new(store), "a snapshot of a lost history").await;
}

/// A snapshot is looked for by its fingerprint, so one of other code is not even seen.
#[tokio::test]
async fn what_other_code_has_kept_is_not_used() {
    let store = Faulty::new(MemoryStore::new());
    let mut old = filled(&store).await;
    old.fingerprint = print::<version2::Book>();
    old.state = Bytes::from_static(b"never read");
    store.inner().save_snapshot(old.clone()).await.unwrap();
    check_loaded(&store, "a snapshot of other code").await;
    assert_eq!(store.count(Call::ForgetSnapshot), 0);
    // What is kept now is of this code.
    assert_eq!(store.inner().snapshot(&stream(1), old.fingerprint).await.unwrap(), None);
}

mod shapes {
    use super::*;

    macro_rules! state {
        ($module:ident { $($field:ident: $ty:ty = $value:expr),* } $event:ident $fold:expr) => {
            pub mod $module {
                use super::*;
                #[derive(Command)]
                pub struct Go {
                    #[id]
                    pub id: u64,
                }
                #[derive(Serialize, Deserialize)]
                pub struct State { $($field: $ty),* }
                impl Default for State {
                    fn default() -> Self {
                        Self { $($field: $value),* }
                    }
                }
                #[aggregate(id = u64, name = "State", snapshot = every(2))]
                impl State {
                    #[handle]
                    fn go(&self, _: Go) {}
                    #[apply]
                    fn added(&mut self, e: &$event) {
                        let fold: fn(&mut Self, &$event) = $fold;
                        fold(self, e);
                    }
                }
            }
        };
    }

    #[derive(Event, Serialize, Deserialize)]
    #[event(name = "Added", version = 2, from = super::Added)]
    pub struct Added2 {
        pub cents: i64,
    }
    impl From<Added> for Added2 {
        fn from(old: Added) -> Self {
            Self { cents: old.cents }
        }
    }

    state!(one { sum: i64 = 0 } Added |_, _| {});
    state!(same { sum: i64 = 0 } Added |_, _| {});
    state!(folds { sum: i64 = 0 } Added |this, e| this.sum += e.cents);
    state!(begins { sum: i64 = 1 } Added |_, _| {});
    state!(unsigned { sum: u64 = 0 } Added |_, _| {});
    state!(named { total: i64 = 0 } Added |_, _| {});
    state!(wider { sum: i64 = 0, more: Option<u8> = None } Added |_, _| {});
    state!(upcast { sum: i64 = 0 } Added2 |_, _| {});

    #[test]
    fn whatever_counts_changes_the_fingerprint() {
        let one = print::<one::State>();
        assert_eq!(one, print::<same::State>());
        let others = [
            print::<folds::State>(),
            print::<begins::State>(),
            print::<unsigned::State>(),
            print::<named::State>(),
            print::<wider::State>(),
            print::<upcast::State>(),
        ];
        for (at, other) in others.iter().enumerate() {
            assert_ne!(one, *other, "number {at}");
            assert!(!others[..at].contains(other), "number {at}");
        }
    }
}

#[test]
fn the_same_code_has_the_same_fingerprint_and_a_helper_counts() {
    assert_eq!(print::<every3::Book>(), print::<also3::Book>());
    // How often is no matter of what is kept.
    assert_eq!(print::<every3::Book>(), print::<every5::Book>());
    assert_ne!(print::<every3::Book>(), print::<version2::Book>());
    assert_ne!(print::<every3::Book>(), print::<helped::Book>());
    assert_ne!(print::<helped_otherwise::Book>(), print::<helped::Book>());
}

/// What a store or its lack of room does to a snapshot is no concern of a command.
#[tokio::test]
async fn faults_around_snapshots_fail_no_command() {
    let store = Faulty::new(MemoryStore::new());
    let bank = engine::<every3::Book>(Arc::new(store.clone())).await;
    bank.execute(every3::Open { book: 1 }).await.unwrap();
    for kind in [StoreErrorKind::Unavailable, StoreErrorKind::Unknown, StoreErrorKind::Failed] {
        for call in [Call::Snapshot, Call::SaveSnapshot, Call::ForgetSnapshot] {
            store.fail_next(call, Fault::Before(kind));
            store.fail_next(call, Fault::After(kind));
        }
        for cents in 1..=9 {
            bank.execute(every3::Add { book: 1, cents: vec![cents] }).await.unwrap();
            check_loaded(&store, "with faults").await;
        }
    }
    let kept = store.inner().snapshot(&stream(1), print::<every3::Book>()).await.unwrap().unwrap();
    assert_eq!(kept.version, Version::new(27));
}

#[tokio::test]
async fn a_snapshot_that_the_store_finds_corrupt_is_forgotten() {
    let store = Faulty::new(MemoryStore::new());
    filled(&store).await;
    store.fail_next(Call::Snapshot, Fault::Before(StoreErrorKind::Corrupt));
    check_loaded(&store, "a corrupt snapshot").await;
    assert_eq!(store.count(Call::ForgetSnapshot), 1);
    let healed = store.inner().snapshot(&stream(1), print::<every3::Book>()).await.unwrap().unwrap();
    assert_eq!(healed.version, Version::new(11));
}

/// In the background, a store that does not answer keeps no receipt back; and a shutdown waits for the
/// snapshots that are being made.
#[tokio::test]
async fn nobody_waits_for_a_snapshot_but_the_shutdown() {
    let store = Faulty::new(MemoryStore::new());
    let registry = Registry::new().with::<every2::Book>();
    let bank = Engine::builder().registry(registry).build(Arc::new(store.clone())).await.unwrap();
    store.fail_next(Call::SaveSnapshot, Fault::Slow);
    bank.execute(every2::Open { book: 1 }).await.unwrap();
    bank.execute(every2::Add { book: 1, cents: vec![1, 2, 3] }).await.unwrap();
    assert_eq!(store.inner().snapshot(&stream(1), print::<every2::Book>()).await.unwrap(), None);
    bank.shutdown().await;
    let kept = store.inner().snapshot(&stream(1), print::<every2::Book>()).await.unwrap().unwrap();
    assert_eq!(kept.version, Version::new(4));

    let registry = Registry::new().with::<every2::Book>();
    let bank = Engine::builder().registry(registry).build(Arc::new(store.clone())).await.unwrap();
    for book in 2..22 {
        store.fail_next(Call::SaveSnapshot, Fault::Hang);
        bank.execute(every2::Open { book }).await.unwrap();
        bank.execute(every2::Add { book, cents: vec![1, 2, 3] }).await.unwrap();
    }
    tokio::task::yield_now().await;
    assert!(store.count(Call::SaveSnapshot) < 10, "as many at a time as there are");
}

/// Without a background, the future that makes a snapshot may be kept without being polled.
#[tokio::test]
async fn a_snapshot_that_is_not_polled_keeps_nobody_waiting() {
    let poll_once = |future: Pin<&mut dyn Future<Output = ()>>| {
        future.poll(&mut std::task::Context::from_waker(std::task::Waker::noop()))
    };
    let store = Faulty::new(MemoryStore::new());
    let bank = engine::<every2::Book>(Arc::new(store.clone())).await;
    let snapshot = async |book| store.inner().snapshot(&stream(book), print::<every2::Book>()).await.unwrap();
    let mut kept = Vec::new();
    for book in 1..=8 {
        bank.execute(every2::Open { book }).await.unwrap();
        store.fail_next(Call::SaveSnapshot, Fault::Hang);
        let add = bank.execute(every2::Add { book, cents: vec![1, 2, 3] });
        let mut add = Box::pin(async move { drop(add.await) });
        assert!(poll_once(add.as_mut()).is_pending());
        assert_eq!(snapshot(book).await, None);
        kept.push(add);
    }
    assert_eq!(store.count(Call::SaveSnapshot), 8);
    bank.execute(every2::Open { book: 9 }).await.unwrap();
    bank.execute(every2::Add { book: 9, cents: vec![1, 2, 3] }).await.unwrap();
    assert_eq!(snapshot(9).await.map(|kept| kept.version), Some(Version::new(4)));

    // A load that saves what it has read, and a shutdown that does not know of it.
    let shutdown = Duration::from_millis(300);
    let other = Engine::builder().registry(Registry::new().with::<every2::Book>()).without_background();
    let timeouts = Timeouts { shutdown, ..Timeouts::default() };
    let other = other.timeouts(timeouts).build(Arc::new(store.clone())).await.unwrap();
    store.fail_next(Call::SaveSnapshot, Fault::Hang);
    let mut load = Box::pin(async { drop(other.load::<every2::Book>(&1).await) });
    assert!(poll_once(load.as_mut()).is_pending());
    assert_eq!(store.count(Call::SaveSnapshot), 10);
    assert!(other.shutdown().await.is_complete());
}

/// A command that is dropped at any point leaves the fold of the log, and a snapshot that fits it.
#[tokio::test]
async fn a_dropped_command_leaves_what_fits() {
    let store = Faulty::new(MemoryStore::new());
    filled(&store).await;
    let bank = engine::<every3::Book>(Arc::new(store.clone())).await;
    for turns in 0..80 {
        for call in [Call::Snapshot, Call::ReadStream, Call::SaveSnapshot] {
            store.fail_next(call, Fault::Slow);
        }
        let command = every3::Add { book: 1, cents: vec![turns; 2] };
        tokio::select! {
            biased;
            _ = bank.execute(command) => {}
            () = async { for _ in 0..turns { tokio::task::yield_now().await } } => {}
        }
        check_loaded(&store, "after a dropped command").await;
        let loaded = bank.load::<every3::Book>(&1).await.unwrap();
        assert_eq!(loaded.version, fresh(Arc::new(store.clone()), 1).await.1);
    }
    assert_eq!(store.count(Call::ForgetSnapshot), 0);
}

/// Several engines on one store, with snapshots of one another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn engines_that_race_agree_with_the_log() {
    let store = Faulty::new(MemoryStore::new());
    let mut banks = Vec::new();
    for _ in 0..3 {
        let registry = Registry::new().with::<every4::Book>();
        let builder = Engine::builder().registry(registry).hot_streams(1).attempts(1_000);
        banks.push(builder.build(Arc::new(store.clone())).await.unwrap());
    }
    for book in 0..2 {
        banks[0].execute(every4::Open { book }).await.unwrap();
    }
    let work = banks.iter().cloned().map(|bank| {
        tokio::spawn(async move {
            for cents in 0..60 {
                let book = cents as u64 % 2;
                bank.execute(every4::Add { book, cents: vec![cents] }).await.unwrap();
            }
        })
    });
    for work in work.collect::<Vec<_>>() {
        work.await.unwrap();
    }
    for bank in &banks {
        for book in 0..2 {
            let loaded = bank.load::<every4::Book>(&book).await.unwrap();
            let (state, version) = fresh(Arc::new(store.clone()), book).await;
            assert_eq!((loaded.state.unwrap().sum, loaded.version), (state.unwrap().sum, version));
        }
        bank.shutdown().await;
    }
    assert!(store.count(Call::SaveSnapshot) > 5);
    assert_eq!(store.count(Call::ForgetSnapshot), 0);
}

static FOLDED: AtomicUsize = AtomicUsize::new(0);

#[derive(Event, Serialize, Deserialize)]
pub struct Counted {
    pub cents: u64,
    /// Not stored, so it is not there when the event is read.
    #[serde(skip)]
    pub aside: u64,
}

#[derive(Command)]
pub struct Count {
    #[id]
    pub tally: u64,
}

#[derive(Default, Serialize, Deserialize)]
pub struct Tally {
    sum: u64,
}

#[aggregate(id = u64, snapshot = every(4))]
impl Tally {
    #[handle]
    fn count(&self, _: Count) -> Counted {
        Counted { cents: 1, aside: 100 }
    }
    #[apply]
    fn counted(&mut self, e: &Counted) {
        FOLDED.fetch_add(1, Ordering::SeqCst);
        self.sum += e.cents + e.aside;
    }
}

/// Only what lies behind the snapshot is folded. And a snapshot is of what is stored, also where an event
/// does not come back as it was.
#[tokio::test]
async fn a_snapshot_is_made_of_what_is_stored() {
    let store = MemoryStore::new();
    let bank = engine::<Tally>(store.clone()).await;
    for _ in 0..10 {
        bank.execute(Count { tally: 1 }).await.unwrap();
    }
    let stream: StreamId = "Tally/1".parse().unwrap();
    let kept = store.snapshot(&stream, print::<Tally>()).await.unwrap().unwrap();
    assert_eq!((kept.version, &*kept.state), (Version::new(8), &br#"{"sum":8}"#[..]));
    let before = FOLDED.load(Ordering::SeqCst);
    let loaded = engine::<Tally>(store.clone()).await.load::<Tally>(&1).await.unwrap();
    assert_eq!((loaded.state.unwrap().sum, loaded.version), (10, Version::new(10)));
    assert_eq!(FOLDED.load(Ordering::SeqCst) - before, 2);
}

#[derive(Event, Serialize, Deserialize)]
pub struct Measured;

#[derive(Command)]
pub struct Measure {
    #[id]
    pub gauge: u64,
}

/// A float that is not a number has no word in JSON.
#[derive(Default, Serialize, Deserialize)]
pub struct Gauge {
    mean: f64,
}

#[aggregate(id = u64, snapshot = every(1))]
impl Gauge {
    #[handle]
    fn measure(&self, _: Measure) -> Measured {
        Measured
    }
    #[apply]
    fn measured(&mut self, _: &Measured) {
        self.mean = f64::NAN;
    }
}

#[tokio::test]
async fn a_state_that_would_not_come_back_is_not_kept() {
    let store = Faulty::new(MemoryStore::new());
    let bank = engine::<Gauge>(Arc::new(store.clone())).await;
    for _ in 0..3 {
        bank.execute(Measure { gauge: 1 }).await.unwrap();
    }
    assert_eq!(store.count(Call::SaveSnapshot), 0);
    let loaded = engine::<Gauge>(Arc::new(store)).await.load::<Gauge>(&1).await.unwrap();
    assert!(loaded.state.unwrap().mean.is_nan());
}
