//! An engine on the store: commands, read models, and a new process that goes on.

#![allow(missing_docs, missing_debug_implementations, unreachable_pub, reason = "a test")]
#![allow(clippy::unwrap_used, reason = "a test stops at a fault")]

mod support;

use std::convert::Infallible;

use cqrs::prelude::*;
use cqrs_sqlite::SqliteStore;
use support::dir;

#[derive(Event, Serialize, Deserialize)]
pub struct Opened {
    pub owner: String,
}
#[derive(Event, Serialize, Deserialize)]
pub struct Deposited {
    pub cents: u64,
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
}

pub struct Account {
    pub balance: u64,
}

#[aggregate(id = u64, error = Infallible)]
impl Account {
    #[handle]
    fn open(cmd: Open) -> Opened {
        Opened { owner: cmd.owner }
    }
    #[handle]
    fn deposit(&self, cmd: Deposit) -> Deposited {
        Deposited { cents: cmd.cents }
    }
    #[apply]
    fn opened(_: &Opened) -> Self {
        Self { balance: 0 }
    }
    #[apply]
    fn deposited(&mut self, event: &Deposited) {
        self.balance += event.cents;
    }
}

#[derive(Serialize, Deserialize)]
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
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_and_read_models_survive_a_restart() {
    let dir = dir();
    let path = dir.path().join("bank.db");
    for round in 1..=3 {
        let store = SqliteStore::open(&path).await.unwrap();
        let bank = Engine::builder().build(store).await.unwrap();
        if round == 1 {
            for account in 1..=20 {
                bank.execute(Open { account, owner: format!("owner {account}") }).await.unwrap();
            }
        }
        let deposits = (1..=20).map(|account| {
            let bank = bank.clone();
            tokio::spawn(async move { deposit(&bank, account).await })
        });
        for deposit in deposits.collect::<Vec<_>>() {
            let receipt = deposit.await.unwrap();
            let account = 7;
            // Whatever this one read sees, it sees the deposit behind the receipt.
            bank.get::<Summary>(&account).after(&receipt).await.unwrap().unwrap();
        }
        bank.catch_up().await.unwrap();
        for account in 1..=20 {
            let summary = bank.get::<Summary>(&account).await.unwrap().unwrap();
            assert_eq!((summary.balance, summary.postings), (50 * round, 5 * round as u32));
            assert_eq!(summary.owner, format!("owner {account}"));
            assert_eq!(bank.load::<Account>(&account).await.unwrap().state.unwrap().balance, 50 * round);
        }
        bank.shutdown().await;
    }
    let store = SqliteStore::open(&path).await.unwrap();
    let seen = store.verify().await.unwrap();
    assert_eq!((seen.events, seen.streams, seen.checkpoints, seen.documents), (320, 20, 1, 20));
}

async fn deposit(bank: &Engine, account: u64) -> Receipt {
    for _ in 0..4 {
        bank.execute(Deposit { account, cents: 10 }).await.unwrap();
    }
    bank.execute(Deposit { account, cents: 10 }).await.unwrap()
}

/// The store's work runs on threads, which do not stop with the clock of a test.
#[tokio::test(start_paused = true)]
async fn a_stopped_clock_times_nothing_out() {
    let dir = dir();
    let bank = Engine::open(&format!("sqlite:{}", dir.path().join("bank.db").display())).await.unwrap();
    for account in 0..10 {
        bank.execute(Open { account, owner: "ada".into() }).await.unwrap();
        let receipt = bank.execute(Deposit { account, cents: 5 }).await.unwrap();
        let summary = bank.get::<Summary>(&account).after(&receipt).await.unwrap().unwrap();
        assert_eq!(summary.balance, 5);
    }
    bank.catch_up().await.unwrap();
    bank.shutdown().await;
}

/// Without a time driver, and without a runtime at all.
#[test]
fn commands_need_no_time_driver_and_no_runtime() {
    let dir = dir();
    let path = dir.path().join("bank.db");
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let bank = Engine::builder().build(SqliteStore::open(&path).await.unwrap()).await.unwrap();
        bank.execute(Open { account: 1, owner: "ada".into() }).await.unwrap();
        let receipt = bank.execute(Deposit { account: 1, cents: 5 }).await.unwrap();
        assert_eq!(bank.get::<Summary>(&1).after(&receipt).await.unwrap().unwrap().balance, 5);
        bank.shutdown().await;
    });
    drop(runtime);
    let bank = block_on(async {
        // In the background is where a runtime would be needed, which is named.
        let store = SqliteStore::open(&path).await.unwrap();
        let refused = Engine::builder().build(store.clone()).await.unwrap_err();
        assert!(refused.to_string().contains("needs a tokio runtime"), "{refused}");
        Engine::builder().without_background().build(store).await.unwrap()
    });
    block_on(async {
        let receipt = bank.execute(Deposit { account: 1, cents: 5 }).await.unwrap();
        assert_eq!(bank.get::<Summary>(&1).after(&receipt).await.unwrap().unwrap().balance, 10);
        bank.shutdown().await;
    });
}

/// Polls a future on this thread, which has no runtime.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = std::sync::Arc::new(Unpark(std::thread::current())).into();
    let (mut future, mut cx) = (std::pin::pin!(future), std::task::Context::from_waker(&waker));
    loop {
        match future.as_mut().poll(&mut cx) {
            std::task::Poll::Ready(done) => return done,
            std::task::Poll::Pending => std::thread::park(),
        }
    }
}
