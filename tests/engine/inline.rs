//! Inline projections: the read model is part of the commit of the command, or there is no commit.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use cqrs::Registry;
use cqrs::engine::{ConsumerState, Stores};
use cqrs::error::{StoreError, StoreErrorKind};
use cqrs::memory::MemoryStore;
use cqrs::prelude::*;
use cqrs::read_store::{Batch, Checkpoint, CommitError, Entry, RangeRead, ReadStore};
use cqrs::store::{
    Append, AppendError, Appended, BoxFuture, Capabilities, CommandKey, EventStore, Head, Inline, Limits,
    LogRead, LogSlice, StreamRead, StreamSlice,
};
use cqrs::{Partition, Position, StreamId};
use cqrs_testkit::faults::{Call, Fault, Faulty};

use crate::bank::{Account, Deposit, Deposited, Open, Opened, Since, Withdraw, Withdrawn, faulty};

/// What all accounts hold together, in one document that every command changes.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
pub struct Vault {
    pub cents: u64,
    pub postings: u64,
}

#[projection(name = "vault", key = String, mode = inline)]
impl Vault {
    #[on(key = String::from("all"))]
    fn deposited(&mut self, event: &Deposited) {
        self.cents += event.cents;
        self.postings += 1;
    }
    #[on(key = String::from("all"))]
    fn withdrawn(&mut self, event: &Withdrawn) {
        self.cents -= event.cents;
        self.postings += 1;
    }
}

/// An owner has one account: who opens a second is refused by the read model.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Owner {
    pub account: String,
}

#[projection(name = "owner", key = String, mode = inline)]
impl Owner {
    #[on(key = &event.owner)]
    fn opened(event: &Opened, meta: &EventMeta) -> Self {
        Self { account: meta.stream.id().to_owned() }
    }
}

fn registry() -> Registry {
    Registry::new().with::<Account>().with::<Vault>().with::<Since>()
}

async fn engine(stores: impl Into<Stores>, registry: Registry) -> Engine {
    Engine::builder().registry(registry).without_background().build(stores).await.unwrap()
}

async fn open(bank: &Engine, account: u64, owner: &str) -> Result<Receipt, String> {
    let open = bank.execute(Open { account, owner: owner.into() });
    open.await.map_err(|error| format!("{error}"))
}

async fn vault(bank: &Engine) -> Vault {
    bank.get::<Vault>(&"all".into()).await.unwrap().unwrap_or_default()
}

#[tokio::test]
async fn the_read_model_is_there_with_the_receipt() {
    let bank = engine(MemoryStore::new(), registry()).await;
    open(&bank, 1, "Ada").await.unwrap();
    for postings in 1..=5 {
        let receipt = bank.execute(Deposit { account: 1, cents: 10 }).await.unwrap();
        assert_eq!(vault(&bank).await, Vault { cents: 10 * postings, postings });
        bank.get::<Vault>(&"all".into()).after(&receipt).await.unwrap();
    }
    // The one beside it is behind, as it is in the background.
    assert!(bank.get::<Since>(&1).await.unwrap().is_none());
}

#[tokio::test]
async fn what_the_read_model_refuses_is_not_written() {
    let store = MemoryStore::new();
    let bank = engine(store.clone(), registry().with::<Owner>()).await;
    open(&bank, 1, "Ada").await.unwrap();
    let key = "open-2";
    let refused = bank.execute(Open { account: 2, owner: "Ada".into() }).key(key).await.unwrap_err();
    assert!(refused.is_refusal());
    let ExecuteError::Rejected(rejection) = &refused else { panic!("{refused:?}") };
    assert_eq!((rejection.projection(), rejection.event()), ("owner", "Opened"));
    assert_eq!((rejection.constraint(), rejection.value()), (Some("key"), Some("Ada")));
    assert_eq!(
        refused.to_string(),
        "the inline projection `owner` rejects `Opened`: constraint `key`, value \"Ada\""
    );
    assert_eq!(store.head(Partition::ONLY).await.unwrap().position, Position::new(1));
    assert!(bank.load::<Account>(&2).await.unwrap().state.is_none());
    // Neither is its key used up.
    bank.execute(Open { account: 2, owner: "Bob".into() }).key(key).await.unwrap();
    assert_eq!(bank.get::<Owner>(&"Bob".into()).await.unwrap().unwrap().account, "2");
}

/// A shop whose customers have one e-mail address each; the domain has an error of its own for that.
mod shop {
    use cqrs::engine::Rejection;
    use cqrs::prelude::*;

    #[derive(Event, Serialize, Deserialize)]
    pub struct SignedUp {
        pub email: String,
    }

    #[derive(Command)]
    pub struct SignUp {
        #[id]
        pub customer: u64,
        pub email: String,
    }

    #[derive(Debug, PartialEq, thiserror::Error)]
    pub enum CustomerError {
        #[error("the address {0} is taken")]
        Taken(String),
    }

    impl CustomerError {
        fn of_rejection(rejection: &Rejection) -> Option<Self> {
            let is_taken = rejection.projection() == "emails" && rejection.constraint() == Some("key");
            is_taken.then(|| Self::Taken(rejection.value().unwrap_or_default().to_owned()))
        }
    }

    pub struct Customer;

    #[aggregate(id = u64, error = CustomerError, rejection = CustomerError::of_rejection)]
    impl Customer {
        #[handle]
        fn sign_up(cmd: SignUp) -> SignedUp {
            SignedUp { email: cmd.email }
        }
        #[apply]
        fn signed_up(_: &SignedUp) -> Self {
            Self
        }
    }

    #[derive(Serialize, Deserialize)]
    pub struct Email {
        pub customer: String,
    }

    #[projection(name = "emails", key = String, mode = inline)]
    impl Email {
        #[on(key = event.email.to_lowercase())]
        fn signed_up(event: &SignedUp, meta: &EventMeta) -> Self {
            let _ = &event.email;
            Self { customer: meta.stream.id().to_owned() }
        }
    }
}

#[tokio::test]
async fn the_domain_turns_a_rejection_into_its_own_error() {
    use shop::{Customer, CustomerError, Email, SignUp};
    let shop = engine(MemoryStore::new(), Registry::new().with::<Customer>().with::<Email>()).await;
    let sign_up = |customer, email: &str| shop.execute(SignUp { customer, email: email.into() });
    sign_up(1, "Ada@example.org").await.unwrap();
    let refused = sign_up(2, "ada@example.org").await.unwrap_err();
    let ExecuteError::Refused(error) = &refused else { panic!("{refused:?}") };
    assert_eq!(*error, CustomerError::Taken("ada@example.org".into()));
    // One winner among many.
    let mut racing = tokio::task::JoinSet::new();
    for customer in 10..74 {
        let shop = shop.clone();
        racing.spawn(async move { shop.execute(SignUp { customer, email: "bob@example.org".into() }).await });
    }
    let ends = racing.join_all().await;
    assert_eq!(ends.iter().filter(|end| end.is_ok()).count(), 1);
    let refused = |end: &&Result<_, ExecuteError<_>>| matches!(end, Err(ExecuteError::Refused(_)));
    assert_eq!(ends.iter().filter(refused).count(), 63);
}

#[tokio::test]
async fn many_tasks_change_one_document() {
    let bank = Engine::builder().registry(registry()).build(MemoryStore::new()).await.unwrap();
    let tasks: Vec<_> = (0..16)
        .map(|account| {
            let bank = bank.clone();
            tokio::spawn(async move {
                open(&bank, account, "Ada").await.unwrap();
                for _ in 0..50 {
                    bank.execute(Deposit { account, cents: 3 }).await.unwrap();
                    bank.execute(Withdraw { account, cents: 1 }).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(vault(&bank).await, Vault { cents: 16 * 50 * 2, postings: 16 * 100 });
    assert!(bank.verify().await.unwrap().is_sound());
}

#[tokio::test]
async fn who_does_not_know_it_makes_it_catch_up() {
    let store = MemoryStore::new();
    let old = engine(store.clone(), Registry::new().with::<Account>()).await;
    open(&old, 1, "Ada").await.unwrap();
    old.execute(Deposit { account: 1, cents: 5 }).await.unwrap();

    let new = engine(store, registry()).await;
    new.execute(Deposit { account: 1, cents: 7 }).await.unwrap();
    assert_eq!(vault(&new).await, Vault { cents: 12, postings: 2 });
    for _ in 0..3 {
        old.execute(Deposit { account: 1, cents: 1 }).await.unwrap();
        let receipt = old.execute(Deposit { account: 1, cents: 1 }).await.unwrap();
        // A reader that was told of it waits for it.
        let seen = new.get::<Vault>(&"all".into()).after(&receipt).await.unwrap().unwrap();
        new.execute(Deposit { account: 1, cents: 1 }).await.unwrap();
        assert_eq!(vault(&new).await.postings, seen.postings + 1);
    }
    assert!(new.verify().await.unwrap().is_sound());
}

#[tokio::test]
async fn an_event_it_cannot_get_over_holds_all_commands_and_says_why() {
    let store = MemoryStore::new();
    let old = engine(store.clone(), Registry::new().with::<Account>()).await;
    for account in [1, 2] {
        open(&old, account, "Ada").await.unwrap();
    }
    let new = engine(store.clone(), registry().with::<Owner>()).await;
    let held = new.execute(Deposit { account: 1, cents: 1 }).await.unwrap_err();
    let causes: Vec<String> =
        std::iter::successors(Some(&held as &dyn std::error::Error), |error| error.source())
            .map(ToString::to_string)
            .collect();
    assert!(causes[0].contains("`owner`, which is kept inline, is behind the log"), "{causes:?}");
    assert!(causes.iter().any(|cause| cause.contains("`Opened` at version 1 of Account/2")), "{causes:?}");
    assert_eq!(store.head(Partition::ONLY).await.unwrap().position, Position::new(2));
}

#[tokio::test]
async fn stores_that_cannot_are_refused_at_the_start() {
    let (log, documents) = (Arc::new(MemoryStore::new()), Arc::new(MemoryStore::new()));
    let refused = Engine::builder().registry(registry()).build(Stores { log, documents }).await.unwrap_err();
    let refused = refused.to_string();
    assert!(refused.contains("`vault`") && refused.contains("mode = inline"), "{refused}");
    assert!(!refused.contains("`since`"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_beside_it_does_not_get_in_the_way() {
    let bank = Engine::builder().registry(registry()).build(MemoryStore::new()).await.unwrap();
    open(&bank, 1, "Ada").await.unwrap();
    for _ in 0..500 {
        bank.execute(Deposit { account: 1, cents: 1 }).await.unwrap();
    }
    assert_eq!(vault(&bank).await.postings, 500);
    let status = bank.status().await.unwrap();
    let vault = status.iter().find(|status| status.name == "vault").unwrap();
    assert_eq!((vault.position, vault.head), (Position::new(501), Position::new(501)));
    assert!(matches!(vault.state, ConsumerState::Following), "{:?}", vault.state);
    bank.shutdown().await;
}

/// Carries out commands of which some meet a fault, and compares after each.
async fn survives<S: EventStore + ReadStore>(store: Arc<S>, mut strike: impl FnMut()) -> Result<(), String> {
    let bank = engine(store.clone(), registry()).await;
    open(&bank, 1, "Ada").await?;
    for _ in 0..20 {
        strike();
        // Whether it was carried out or not, the read model agrees with the log.
        let _ = bank.execute(Deposit { account: 1, cents: 1 }).await;
        let found = bank.verify().await.map_err(|error| error.to_string())?;
        let read = store.range(RangeRead::documents("vault", 10)).await.map_err(|error| error.to_string())?;
        let balance = bank.load::<Account>(&1).await.map_err(|error| error.to_string())?;
        let balance = balance.state.map_or(0, |account| account.balance);
        let cents = match read.as_slice() {
            [] => 0,
            [Entry { content: vault, .. }, ..] => {
                serde_json::from_slice::<Vault>(vault).map_err(|error| error.to_string())?.cents
            }
        };
        if !found.is_sound() || cents != balance {
            return Err(format!("the account has {balance}, the vault {cents}; {found}"));
        }
    }
    Ok(())
}

#[tokio::test]
async fn whatever_fails_it_agrees_with_the_log() {
    for kind in [StoreErrorKind::Unavailable, StoreErrorKind::Unknown, StoreErrorKind::Failed] {
        for fault in [Fault::Before(kind), Fault::After(kind)] {
            for call in [Call::Append, Call::Commit] {
                let (store, _) = faulty();
                let mut round = 0;
                let strikes = store.clone();
                let strike = move || {
                    round += 1;
                    if round % 3 == 0 {
                        strikes.fail_next(call, fault);
                    }
                };
                survives(Arc::new(store), strike)
                    .await
                    .unwrap_or_else(|why| panic!("{call:?} {fault:?}: {why}"));
            }
        }
    }
}

/// Negative control: a store that commits the events first and the read models after, where it may fail.
#[derive(Debug)]
struct Apart {
    inner: Faulty<MemoryStore>,
    appends: AtomicU32,
}

impl Apart {
    async fn second(&self, inline: &Inline, appended: &Appended) -> Result<(), AppendError> {
        if self.appends.fetch_add(1, Ordering::Relaxed) % 5 == 4 {
            return Err(StoreError::new(StoreErrorKind::Failed, "it ended between the two").into());
        }
        for consumer in inline {
            let claim = self.inner.claim(consumer.name()).await?;
            let from = claim.checkpoints.get(&appended.partition);
            let read = LogRead {
                partition: appended.partition,
                after: from.map_or(Position::START, |from| from.position),
                up_to: None,
                query: consumer.query(),
                limit: 1_000,
            };
            let events = self.inner.read_log(read).await?.events;
            let Ok(cqrs::consumer::Routed { reads, work, .. }) = consumer.route(&events) else {
                continue;
            };
            let stored = self.inner.get(consumer.name(), reads).await?;
            let Ok(effect) = work.fold(stored) else { continue };
            let to = Checkpoint { log: appended.log, position: appended.position, event: None };
            let batch = Batch::new(consumer.name(), &claim, to).with_partition(appended.partition);
            let batch = batch.with_writes(effect.writes);
            let _ = self.inner.commit(batch).await;
        }
        Ok(())
    }
}

impl EventStore for Apart {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }
    fn limits(&self) -> Limits {
        self.inner.limits()
    }
    fn partition_of(&self, stream: &StreamId) -> Partition {
        self.inner.partition_of(stream)
    }
    fn append(&self, mut append: Append) -> BoxFuture<'_, Result<Appended, AppendError>> {
        Box::pin(async move {
            let inline = std::mem::take(&mut append.inline);
            let appended = self.inner.append(append).await?;
            self.second(&inline, &appended).await?;
            Ok(appended)
        })
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
}

impl ReadStore for Apart {
    forward_reads!(inner);
    fn commit(&self, batch: Batch) -> BoxFuture<'_, Result<(), CommitError>> {
        self.inner.commit(batch)
    }
}

#[tokio::test]
async fn a_store_that_commits_in_two_steps_is_caught() {
    let store = Apart { inner: Faulty::new(MemoryStore::new()), appends: AtomicU32::new(0) };
    let caught = survives(Arc::new(store), || {}).await;
    assert!(caught.is_err_and(|why| why.contains("the vault")));
}
