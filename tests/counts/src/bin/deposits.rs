//! `deposits STORE TIMES` makes so many deposits, one after the other, on one account. STORE is `memory` or
//! the path of a file that SQLite makes; with `wasteful` behind, the store reads for nothing.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test's program stops at a fault")]

use counts::bank::Deposit;
use counts::engine;
use counts::wasteful::Wasteful;
use cqrs::engine::Stores;
use cqrs::memory::MemoryStore;
use cqrs_sqlite::SqliteStore;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [store, times, rest @ ..] = &*arguments else { panic!("deposits STORE TIMES [wasteful]") };
    let stores: Stores = match &**store {
        "memory" => MemoryStore::new().into(),
        path => SqliteStore::open(path).await.unwrap().into(),
    };
    let stores = if rest == ["wasteful"] { Wasteful::of(stores) } else { stores };
    let engine = engine(stores).await;
    for _ in 0..times.parse::<u64>().unwrap() {
        engine.execute(Deposit::to(1)).await.unwrap();
    }
    engine.shutdown().await;
}
