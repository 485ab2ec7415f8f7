//! Allocations and bytes, on all threads of this process. What SQLite's own code allocates is not in it.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test stops at a fault")]

use std::alloc::System;

use counts::bank::{Account, Deposit};
use counts::engine;
use counts::expected::Sheet;
use counts::wasteful::Wasteful;
use cqrs::Engine;
use cqrs::engine::Stores;
use cqrs::memory::MemoryStore;
use cqrs_sqlite::SqliteStore;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, Stats, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const MANY: u64 = 1_000;

// One test alone, because the allocator counts for the whole process.
#[tokio::test]
async fn allocations() {
    let mut sheet = Sheet::new("allocations", 10);
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| SqliteStore::open(dir.path().join(name));
    all(&mut sheet, "memory", MemoryStore::new().into()).await;
    all(&mut sheet, "sqlite", file("bank").await.unwrap().into()).await;

    let wasteful = deposits(Wasteful::of(MemoryStore::new())).await;
    sheet.catches(DEPOSITS.allocations("memory").as_str(), allocations_of(&wasteful));
    let wasteful = deposits(Wasteful::of(file("wasteful").await.unwrap())).await;
    sheet.catches(DEPOSITS.allocations("sqlite").as_str(), allocations_of(&wasteful));
    sheet.settle();
}

struct Measure(&'static str);

const DEPOSITS: Measure = Measure("1,000 deposits");

impl Measure {
    fn allocations(&self, store: &str) -> String {
        format!("{store}, {}: allocations", self.0)
    }

    fn add(&self, sheet: &mut Sheet, store: &str, stats: &Stats) {
        sheet.add(self.allocations(store), allocations_of(stats));
        sheet.add(format!("{store}, {}: bytes", self.0), stats.bytes_allocated as u64);
    }
}

/// A block that grows is one more.
fn allocations_of(stats: &Stats) -> u64 {
    (stats.allocations + stats.reallocations) as u64
}

async fn all(sheet: &mut Sheet, store: &str, stores: Stores) {
    DEPOSITS.add(sheet, store, &deposits(stores.clone()).await);

    // Another engine, which remembers nothing.
    let fresh = engine(stores).await;
    let region = Region::new(ALLOCATOR);
    let loaded = fresh.load::<Account>(&1).await.unwrap();
    let load = region.change();
    // One was for the warmth.
    assert_eq!(loaded.version.get(), MANY + WARM);
    Measure("a load of 1,000 events").add(sheet, store, &load);

    let region = Region::new(ALLOCATOR);
    fresh.catch_up().await.unwrap();
    Measure("a catch-up over 1,000 events").add(sheet, store, &region.change());
    let balance = fresh.get::<counts::bank::Balance>(&1).await.unwrap().unwrap();
    assert_eq!(balance.cents, 500 * (MANY + WARM));
}

const WARM: u64 = 10;

/// What these take, one after the other, when the account is remembered and all is prepared.
async fn deposits(stores: Stores) -> Stats {
    let engine = engine(stores).await;
    deposit(&engine, WARM).await;
    let region = Region::new(ALLOCATOR);
    deposit(&engine, MANY).await;
    region.change()
}

async fn deposit(engine: &Engine, times: u64) {
    for _ in 0..times {
        engine.execute(Deposit::to(1)).await.unwrap();
    }
}
