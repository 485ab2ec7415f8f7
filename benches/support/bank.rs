//! The domain of the benchmarks: an account that refuses to be overdrawn, and its summary.
//!
//! The stores' benchmarks take this file too, so that their figures are of the same commands.

#![allow(dead_code, reason = "each benchmark takes what it needs")]

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cqrs::engine::Stores;
use cqrs::prelude::*;

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
    pub balance: u64,
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
pub async fn engine(stores: impl Into<Stores>) -> Engine {
    Engine::builder().hot_streams(20_000).without_background().build(stores).await.unwrap()
}

/// Opens so many accounts and puts money into each.
pub async fn open(engine: &Engine, accounts: u64) {
    let next = Arc::new(AtomicU64::new(0));
    let open = |_| {
        let (engine, next) = (engine.clone(), next.clone());
        tokio::spawn(async move {
            loop {
                let account = next.fetch_add(1, Ordering::Relaxed);
                if account >= accounts {
                    return;
                }
                engine.execute(Open { account, owner: "Ada".to_owned() }).await.unwrap();
                post(&engine, account, 0).await;
            }
        })
    };
    for task in (0..256).map(open).collect::<Vec<_>>() {
        task.await.unwrap();
    }
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
