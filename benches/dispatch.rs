//! What a command costs on the store in memory, against the same domain written by hand, and what
//! reading a stream costs against decoding its bytes.
//!
//! `cargo bench --bench dispatch`

#![allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark prints, and stops at a fault"
)]

#[path = "support/bank.rs"]
mod bank;
mod support;

use std::collections::HashMap;
use std::hint::black_box;
use std::sync::Arc;

use bank::{Account, Deposit, Deposited, Open, Opened, Overdraft, REFERENCE, Withdraw, Withdrawn};
use cqrs::engine::Stores;
use cqrs::memory::MemoryStore;
use cqrs::prelude::*;
use cqrs::store::{Direction, EventStore, StreamRead};
use cqrs::{StreamId, Version};
use support::{compare, contender, timed};

/// The same domain without a framework: fold, check, JSON, push. No guard, no ids, no time.
#[derive(Default)]
struct ByHand {
    log: Vec<(u64, &'static str, Vec<u8>)>,
    accounts: HashMap<u64, Account>,
}

impl ByHand {
    fn open(&mut self, cmd: Open) {
        assert!(!self.accounts.contains_key(&cmd.account));
        let event = Opened { owner: cmd.owner };
        self.log.push((cmd.account, "Opened", serde_json::to_vec(&event).unwrap()));
        self.accounts.insert(cmd.account, Account { balance: 0 });
    }

    fn deposit(&mut self, cmd: Deposit) {
        let account = self.accounts.get_mut(&cmd.account).unwrap();
        let event = Deposited { cents: cmd.cents, reference: cmd.reference };
        self.log.push((cmd.account, "Deposited", serde_json::to_vec(&event).unwrap()));
        account.balance += event.cents;
    }

    fn withdraw(&mut self, cmd: Withdraw) -> Result<(), Overdraft> {
        let account = self.accounts.get_mut(&cmd.account).unwrap();
        if cmd.cents > account.balance {
            return Err(Overdraft { balance: account.balance });
        }
        let event = Withdrawn { cents: cmd.cents, reference: cmd.reference };
        self.log.push((cmd.account, "Withdrawn", serde_json::to_vec(&event).unwrap()));
        account.balance -= event.cents;
        Ok(())
    }
}

/// About 130 bytes of JSON in an event, as in the published figures of peers.
fn by_hand(accounts: u64, commands: u64) -> (std::time::Duration, usize) {
    let mut bank = ByHand::default();
    for account in 0..accounts {
        bank.open(Open { account, owner: "Ada".into() });
    }
    timed((accounts * commands) as usize, || {
        for round in 0..commands {
            for account in 0..accounts {
                let reference = REFERENCE.to_owned();
                if round % 4 == 3 {
                    bank.withdraw(Withdraw { account, cents: 5, reference }).unwrap();
                } else {
                    bank.deposit(Deposit { account, cents: 5, reference });
                }
            }
        }
        black_box(&bank.log);
    })
}

fn with_engine(
    runtime: &tokio::runtime::Runtime,
    accounts: u64,
    commands: u64,
) -> (std::time::Duration, usize) {
    runtime.block_on(async {
        let bank = Engine::builder().without_background().open("memory:").await.unwrap();
        for account in 0..accounts {
            bank.execute(Open { account, owner: "Ada".into() }).await.unwrap();
        }
        let start = std::time::Instant::now();
        for round in 0..commands {
            for account in 0..accounts {
                let reference = REFERENCE.to_owned();
                if round % 4 == 3 {
                    bank.execute(Withdraw { account, cents: 5, reference }).await.unwrap();
                } else {
                    bank.execute(Deposit { account, cents: 5, reference }).await.unwrap();
                }
            }
        }
        (start.elapsed(), (accounts * commands) as usize)
    })
}

/// A stream of this many events, with the engine on it.
async fn long_stream(events: u64) -> (Engine, Arc<MemoryStore>) {
    let store = Arc::new(MemoryStore::new());
    let engine = Engine::builder().without_background().build(Stores::from(store.clone())).await.unwrap();
    engine.execute(Open { account: 1, owner: "Ada".into() }).await.unwrap();
    for _ in 1..events {
        engine.execute(Deposit { account: 1, cents: 5, reference: REFERENCE.into() }).await.unwrap();
    }
    (engine, store)
}

fn fold(runtime: &tokio::runtime::Runtime) {
    const EVENTS: u64 = 10_000;
    let (engine, store) = runtime.block_on(long_stream(EVENTS));
    let read = StreamRead {
        stream: StreamId::new("Account", &1).unwrap(),
        from: Version::new(1),
        direction: Direction::Forward,
        limit: EVENTS as usize,
    };
    let events = runtime.block_on(store.read_stream(read)).unwrap().events;
    assert_eq!(events.len() as u64, EVENTS);
    let decode = || {
        timed(EVENTS as usize, || {
            let mut balance = 0;
            for event in &events[1..] {
                let event: Deposited = serde_json::from_slice(&event.payload).unwrap();
                balance += event.cents;
            }
            assert_eq!(black_box(balance), (EVENTS - 1) * 5);
        })
    };
    let load = || {
        timed(EVENTS as usize, || {
            let loaded = runtime.block_on(engine.load::<Account>(&1)).unwrap();
            assert_eq!(loaded.state.unwrap().balance, (EVENTS - 1) * 5);
        })
    };
    compare(
        "Fold of a stream of 10,000 events",
        20,
        vec![contender("bare serde_json decode and sum", decode), contender("Engine::load", load)],
    );
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    compare(
        "1,000 accounts, 10 commands each, in turn",
        20,
        vec![
            contender("by hand: fold, check, JSON, push", || by_hand(1_000, 10)),
            contender("Engine::execute on memory:", || with_engine(&runtime, 1_000, 10)),
        ],
    );
    compare(
        "One account, 1,000 commands",
        20,
        vec![
            contender("by hand: fold, check, JSON, push", || by_hand(1, 1_000)),
            contender("Engine::execute on memory:", || with_engine(&runtime, 1, 1_000)),
        ],
    );
    compare(
        "One account, 10,000 commands: flat or not",
        10,
        vec![
            contender("by hand: fold, check, JSON, push", || by_hand(1, 10_000)),
            contender("Engine::execute on memory:", || with_engine(&runtime, 1, 10_000)),
        ],
    );
    fold(&runtime);
}
