//! The domain: an account that refuses to be overdrawn, and its summary.

use std::fmt;
use std::path::Path;

use cqrs::prelude::*;
use cqrs_sqlite::SqliteStore;

/// With it, an event has about 130 bytes of JSON, as in the figures that are published of peers.
pub const REFERENCE: &str =
    "invoice 2026-11-0042 of the northern branch, paid in cash at the counter, thank you very much";

#[derive(Event, Serialize, Deserialize)]
pub struct Opened {
    pub owner: String,
}
#[derive(Event, Serialize, Deserialize)]
pub struct Deposited {
    pub cents: u64,
    pub reference: String,
}
#[derive(Event, Serialize, Deserialize)]
pub struct Withdrawn {
    pub cents: u64,
    pub reference: String,
}

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
    pub reference: String,
}
#[derive(Command)]
pub struct Withdraw {
    #[id]
    pub account: u64,
    pub cents: u64,
    pub reference: String,
}

pub struct Account {
    pub balance: u64,
}

#[derive(Debug)]
pub struct Overdraft {
    balance: u64,
}

impl fmt::Display for Overdraft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the balance is {}", self.balance)
    }
}

impl std::error::Error for Overdraft {}

#[aggregate(id = u64, error = Overdraft)]
impl Account {
    #[handle]
    fn open(cmd: Open) -> Opened {
        Opened { owner: cmd.owner }
    }
    #[handle]
    fn deposit(&self, cmd: Deposit) -> Deposited {
        Deposited { cents: cmd.cents, reference: cmd.reference }
    }
    #[handle]
    fn withdraw(&self, cmd: Withdraw) -> Result<Withdrawn, Overdraft> {
        if cmd.cents > self.balance {
            return Err(Overdraft { balance: self.balance });
        }
        Ok(Withdrawn { cents: cmd.cents, reference: cmd.reference })
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
}

#[derive(Serialize, Deserialize)]
pub struct Summary {
    pub balance: u64,
    pub postings: u64,
}

#[projection(name = "summary", key = u64)]
impl Summary {
    #[on]
    fn opened(_: &Opened) -> Self {
        Self { balance: 0, postings: 0 }
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

/// An engine that moves projections only when asked, and remembers all accounts of the benchmark.
pub async fn engine(path: &Path) -> Engine {
    let store = SqliteStore::open(path).await.unwrap();
    Engine::builder().hot_streams(20_000).without_background().build(store).await.unwrap()
}

/// Three deposits, then a withdrawal that they cover.
pub async fn post(engine: &Engine, account: u64, number: u64) {
    let reference = REFERENCE.to_owned();
    let done = if number % 4 == 3 {
        engine.execute(Withdraw { account, cents: 1, reference }).await
    } else {
        engine.execute(Deposit { account, cents: 12_345, reference }).await
    };
    done.unwrap();
}
