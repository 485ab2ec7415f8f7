//! What it costs to bring an aggregate back, against reading and decoding its events by hand in the same
//! run: with a snapshot and without, in an engine that has nothing in memory.
//!
//! `cargo bench -p cqrs-sqlite --bench rehydrate`

#![allow(missing_docs, missing_debug_implementations, unreachable_pub, reason = "a benchmark")]
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a benchmark prints, and stops at a fault")]

use std::path::Path;
use std::time::{Duration, Instant};

use cqrs::prelude::*;
use cqrs::{Aggregate, Registry};
use cqrs_sqlite::SqliteStore;
use rusqlite::Connection;

const EVENTS: u64 = 10_000;
/// As far as the snapshot may be behind, about.
const TAIL: u64 = 250;
const ROUNDS: usize = 31;

#[derive(Event, Serialize, Deserialize)]
pub struct Deposited {
    pub cents: u64,
    pub reference: String,
}

/// The same account, never kept and kept.
macro_rules! account {
    ($module:ident, $($snapshot:tt)*) => {
        pub mod $module {
            use super::*;

            #[derive(Command)]
            pub struct Deposit {
                #[id]
                pub account: u64,
                pub times: u64,
            }

            #[derive(Default, Serialize, Deserialize)]
            pub struct Account {
                pub balance: u64,
                pub last: String,
            }

            #[aggregate(id = u64, name = "Account" $($snapshot)*)]
            impl Account {
                #[handle]
                fn deposit(&self, cmd: Deposit) -> Vec<Deposited> {
                    let reference = || "a deposit with a text that makes an event of some 130 bytes, at branch 17".to_owned();
                    (0..cmd.times).map(|cents| Deposited { cents, reference: reference() }).collect()
                }
                #[apply]
                fn deposited(&mut self, event: &Deposited) {
                    self.balance += event.cents;
                    self.last.clone_from(&event.reference);
                }
            }
        }
    };
}

account!(plain,);
account!(kept, , snapshot = every(500));

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(run());
}

async fn engine<A: Aggregate + cqrs::registry::Register>(store: &SqliteStore) -> Engine {
    let registry = Registry::new().with::<A>();
    Engine::builder().registry(registry).without_background().build(store.clone()).await.unwrap()
}

async fn run() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bench.db");
    let store = SqliteStore::open(&path).await.unwrap();
    let bank = engine::<kept::Account>(&store).await;
    for _ in 0..EVENTS / TAIL {
        bank.execute(kept::Deposit { account: 1, times: TAIL }).await.unwrap();
    }
    // A tail of its usual length behind the last snapshot.
    bank.execute(kept::Deposit { account: 1, times: TAIL }).await.unwrap();

    let (plain, kept) = (engine::<plain::Account>(&store).await, engine::<kept::Account>(&store).await);
    let by_hand = Connection::open(&path).unwrap();
    let mut times: [Vec<Duration>; 3] = Default::default();
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        let expected = read_by_hand(&by_hand);
        times[0].push(begun.elapsed());
        let begun = Instant::now();
        let whole = plain.load::<plain::Account>(&1).await.unwrap().state.unwrap();
        times[1].push(begun.elapsed());
        let begun = Instant::now();
        let part = kept.load::<kept::Account>(&1).await.unwrap().state.unwrap();
        times[2].push(begun.elapsed());
        assert_eq!([whole.balance, part.balance], [expected; 2]);
    }
    let medians = times.map(|mut times| {
        times.sort_unstable();
        times[ROUNDS / 2]
    });
    println!("{:<40} {:>12} {:>10}", format!("{} events", EVENTS + TAIL), "median", "to by hand");
    let names = ["by hand: query and decode", "engine, whole stream", "engine, snapshot and a tail of 250"];
    for (name, median) in names.iter().zip(medians) {
        let ratio = median.as_secs_f64() / medians[0].as_secs_f64();
        println!("{name:<40} {median:>12.1?} {ratio:>10.3}");
    }
    time_commands(dir.path()).await;
}

fn read_by_hand(conn: &Connection) -> u64 {
    let sql = "SELECT payload FROM cqrs_events WHERE stream = 'Account/1' ORDER BY version";
    let mut select = conn.prepare_cached(sql).unwrap();
    let mut rows = select.query(()).unwrap();
    let mut balance = 0;
    while let Some(row) = rows.next().unwrap() {
        let event: Deposited = serde_json::from_slice(row.get_ref(0).unwrap().as_blob().unwrap()).unwrap();
        balance += event.cents;
    }
    balance
}

/// What keeping snapshots beside them costs commands on one hot account.
async fn time_commands(dir: &Path) {
    const COMMANDS: u32 = 5_000;
    println!("{:<40} {:>12} {:>10}", "commands, one after the other", "each", "to without");
    let mut without = None;
    for (name, keeps) in [("without snapshots", false), ("with one every 500", true)] {
        let store = SqliteStore::open(dir.join(format!("{keeps}.db"))).await.unwrap();
        let registry = Registry::new();
        let registry =
            if keeps { registry.with::<kept::Account>() } else { registry.with::<plain::Account>() };
        let bank = Engine::builder().registry(registry).build(store).await.unwrap();
        let begun = Instant::now();
        for _ in 0..COMMANDS {
            if keeps {
                bank.execute(kept::Deposit { account: 1, times: 1 }).await.unwrap();
            } else {
                bank.execute(plain::Deposit { account: 1, times: 1 }).await.unwrap();
            }
        }
        let each = begun.elapsed() / COMMANDS;
        bank.shutdown().await;
        let ratio = each.as_secs_f64() / without.get_or_insert(each).as_secs_f64();
        println!("{name:<40} {each:>12.1?} {ratio:>10.3}");
    }
}
