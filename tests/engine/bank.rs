//! The domain of the tests: accounts, with some commands that only a test would want.

use std::sync::Arc;

use cqrs::Registry;
use cqrs::engine::Stores;
use cqrs::memory::MemoryStore;
use cqrs::prelude::*;
use cqrs_testkit::faults::Faulty;

#[derive(Event, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Opened {
    #[tag]
    pub owner: String,
}
#[derive(Event, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Deposited {
    pub cents: u64,
}
#[derive(Event, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Withdrawn {
    pub cents: u64,
}
/// Its `#[apply]` panics.
#[derive(Event, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Exploded {}

#[derive(Command)]
pub struct Open {
    #[id]
    pub account: u64,
    pub owner: String,
}
#[derive(Command)]
pub struct Deposit {
    #[id]
    pub account: u64,
    pub cents: u64,
}
#[derive(Command)]
pub struct Withdraw {
    #[id]
    pub account: u64,
    pub cents: u64,
}
/// Decides on an event that does not fold: an account that exists is opened again.
#[derive(Command)]
pub struct Reopen {
    #[id]
    pub account: u64,
}
#[derive(Command)]
pub struct Explode {
    #[id]
    pub account: u64,
}
/// Accepted without an event.
#[derive(Command)]
pub struct Nod {
    #[id]
    pub account: u64,
    #[idempotency_key]
    pub key: Option<String>,
}
/// Decided by somebody outside.
#[derive(Command)]
pub struct Collect {
    #[id]
    pub account: u64,
    pub cents: u64,
}
/// Decided by somebody outside who takes his time.
#[derive(Command)]
pub struct Appraise {
    #[id]
    pub account: u64,
    pub millis: u64,
}
/// Several events at once.
#[derive(Command)]
pub struct Exchange {
    #[id]
    pub account: u64,
    pub cents: u64,
}
/// Tells the context.
#[derive(Command)]
pub struct Confess {
    #[id]
    pub account: u64,
}

#[derive(Debug, PartialEq, thiserror::Error)]
pub enum AccountError {
    #[error("the balance is {balance}")]
    Overdraft { balance: u64 },
    #[error("{0}")]
    Confession(String),
}

#[derive(Debug)]
pub struct Account {
    pub balance: u64,
}

#[aggregate(id = u64, error = AccountError)]
impl Account {
    #[handle]
    fn open(cmd: Open) -> Opened {
        Opened { owner: cmd.owner }
    }
    #[handle]
    fn deposit(&self, cmd: Deposit) -> Deposited {
        Deposited { cents: cmd.cents }
    }
    #[handle]
    fn withdraw(&self, cmd: Withdraw) -> Result<Withdrawn, AccountError> {
        if cmd.cents > self.balance {
            return Err(AccountError::Overdraft { balance: self.balance });
        }
        Ok(Withdrawn { cents: cmd.cents })
    }
    #[handle]
    fn reopen(&self, _: Reopen) -> (Deposited, Opened) {
        (Deposited { cents: 1 }, Opened { owner: "again".into() })
    }
    #[handle]
    fn explode(&self, _: Explode) -> Exploded {
        Exploded {}
    }
    #[handle]
    fn nod(&self, _: Nod) {}
    #[handle]
    fn exchange(&self, cmd: Exchange) -> (Withdrawn, Deposited) {
        (Withdrawn { cents: cmd.cents }, Deposited { cents: cmd.cents })
    }
    #[handle]
    async fn collect(&self, cmd: Collect) -> Deposited {
        tokio::task::yield_now().await;
        Deposited { cents: cmd.cents }
    }
    #[handle]
    async fn appraise(&self, cmd: Appraise) -> Deposited {
        tokio::time::sleep(std::time::Duration::from_millis(cmd.millis)).await;
        Deposited { cents: 1 }
    }
    #[handle]
    async fn confess(&self, _: Confess, context: &Context) -> Result<(), AccountError> {
        tokio::task::yield_now().await;
        let actor = context.metadata.actor.clone().unwrap_or_default();
        let what = format!("{} at {} by {actor}, {}", context.stream, context.version, context.now);
        Err(AccountError::Confession(what))
    }

    #[apply]
    fn opened(_: &Opened) -> Self {
        Self { balance: 0 }
    }
    #[apply]
    fn deposited(&mut self, event: &Deposited) {
        self.balance += event.cents;
    }
    #[apply]
    fn withdrawn(&mut self, event: &Withdrawn) {
        self.balance -= event.cents;
    }
    #[apply]
    fn exploded(&mut self, _: &Exploded) {
        panic!("this event cannot be applied");
    }
}

#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Summary {
    pub owner: String,
    pub balance: u64,
    pub postings: u32,
}

#[projection(name = "summary", key = u64)]
impl Summary {
    #[on]
    fn opened(event: &Opened) -> Self {
        Self { owner: event.owner.clone(), balance: 0, postings: 0 }
    }
    #[on]
    fn deposited(&mut self, event: &Deposited) {
        self.balance += event.cents;
        self.postings += 1;
    }
    #[on]
    fn withdrawn(&mut self, event: &Withdrawn) {
        self.balance -= event.cents;
        self.postings += 1;
    }
}

/// All accounts in one document: events of every stream, and partition, meet here.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
pub struct Total {
    pub accounts: u64,
    pub balance: i64,
    pub postings: u64,
}

#[projection(name = "total", key = String)]
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

/// What came in since the last withdrawal, which removes the document.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
pub struct Since {
    pub cents: u64,
}

#[projection(name = "since", key = u64)]
impl Since {
    #[on]
    fn deposited(&mut self, event: &Deposited) {
        self.cents += event.cents;
    }
    #[on]
    fn withdrawn(self, _: &Withdrawn) -> Option<Self> {
        None
    }
}

pub fn registry() -> Registry {
    Registry::new().with::<Account>().with::<Summary>().with::<Total>().with::<Since>()
}

/// An engine whose projections move only when asked to.
pub async fn quiet(stores: impl Into<Stores>) -> Engine {
    Engine::builder().registry(registry()).without_background().build(stores).await.unwrap()
}

/// An engine whose projections run.
pub async fn running(stores: impl Into<Stores>) -> Engine {
    Engine::builder().registry(registry()).build(stores).await.unwrap()
}

pub fn faulty() -> (Faulty<MemoryStore>, Stores) {
    let store = Faulty::new(MemoryStore::new());
    let stores = Stores::from(Arc::new(store.clone()));
    (store, stores)
}

pub async fn open(engine: &Engine, account: u64, cents: u64) -> Receipt {
    engine.execute(Open { account, owner: "Ada".into() }).await.unwrap();
    engine.execute(Deposit { account, cents }).await.unwrap()
}

pub async fn balance(engine: &Engine, account: u64) -> u64 {
    engine.load::<Account>(&account).await.unwrap().state.unwrap().balance
}
