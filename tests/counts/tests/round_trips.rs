//! Statements and round trips on PostgreSQL, by a proxy in between.

#![allow(missing_docs, reason = "a test")]
#![allow(clippy::unwrap_used, reason = "a test stops at a fault")]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use counts::bank::{Account, Deposit};
use counts::engine;
use counts::expected::Sheet;
use counts::wasteful::Wasteful;
use cqrs::Engine;
use cqrs_core::event::{Metadata, NewEvent, Tag, Timestamp};
use cqrs_core::id::Partition;
use cqrs_core::store::{Append, EventStore as _, Guard, Query};
use cqrs_postgres::PostgresStore;
use futures_util::future::join_all;
use pg_cluster::{Counts, Proxy};
use uuid::Uuid;

/// Everything runs on one thread, so that what is sent at once is always grouped in the same way.
#[tokio::test]
async fn round_trips() {
    let Some(cluster) = pg_cluster::made() else { return };
    let proxy = Proxy::start(cluster.server().port()).await.unwrap();
    let at = |port: u16| format!("127.0.0.1:{port}/");
    let url = cluster.url().replace(&at(cluster.server().port()), &at(proxy.port()));
    let mut wire = Wire { sheet: Sheet::new("round_trips", 0), proxy, url: url + "?sslmode=disable&schema=" };
    commands(&mut wire).await;
    guards(&mut wire).await;
    pages(&mut wire).await;
    wasteful(&wire).await.into_iter().for_each(|(measure, count)| wire.sheet.catches(&measure, count));
    wire.sheet.settle();
}

struct Wire {
    sheet: Sheet,
    proxy: Proxy,
    url: String,
}

impl Wire {
    async fn store(&self, schema: &str) -> PostgresStore {
        PostgresStore::open(&format!("{}{schema}", self.url)).await.unwrap()
    }

    /// Puts down what is usual for `measure`: the store tells other processes of its commits at times of its
    /// own, and what it does behind an answer may count for the next one.
    fn add(&mut self, measure: &str, all: &[Counts]) {
        usual(measure, all).into_iter().for_each(|(measure, count)| self.sheet.add(measure, count));
    }

    /// The same of 64 deposits. They are written together, or in two halves behind the first one, whichever is
    /// faster on this machine: less than the latter counts as the latter.
    fn add_halved(&mut self, measure: &str, all: &[Counts]) {
        let halved = |(measure, count): (String, u64)| self.sheet.add(measure, count.max(3));
        usual(measure, all).into_iter().for_each(halved);
    }

    /// Does something so often, and counts each time.
    async fn each(&self, times: u64, mut doing: impl AsyncFnMut(u64)) -> Vec<Counts> {
        let mut all = Vec::new();
        for time in 0..times {
            let before = self.proxy.counts();
            doing(time).await;
            all.push(self.proxy.counts().since(before));
        }
        all
    }
}

fn usual(measure: &str, all: &[Counts]) -> [(String, u64); 2] {
    let median = |count: fn(&Counts) -> u64| {
        let mut counts: Vec<u64> = all.iter().map(count).collect();
        counts.sort_unstable();
        counts[counts.len() / 2]
    };
    [
        (format!("{measure}: statements"), median(|counts| counts.statements)),
        (format!("{measure}: round trips"), median(|counts| counts.round_trips)),
    ]
}

const TIMES: u64 = 41;
const DEPOSIT: &str = "a deposit";

async fn commands(wire: &mut Wire) {
    let bank = engine(wire.store("commands").await).await;
    // All accounts are remembered, and all is prepared.
    at_once(&bank, 1..=64).await;
    at_once(&bank, 1..=64).await;

    let counts = wire.each(TIMES, async |_| deposit(&bank, 1).await).await;
    wire.add(DEPOSIT, &counts);
    let keyed = async |key| {
        bank.execute(Deposit::to(1)).key(format!("key-{key}")).await.unwrap();
    };
    let counts = wire.each(TIMES, keyed).await;
    wire.add("a deposit with a key", &counts);
    let counts = wire.each(TIMES, keyed).await;
    wire.add("a deposit that is delivered twice", &counts);
    let counts = wire.each(TIMES, async |_| at_once(&bank, 1..=8).await).await;
    wire.add("8 deposits at once", &counts);
    let counts = wire.each(TIMES, async |_| at_once(&bank, 1..=64).await).await;
    wire.add_halved("64 deposits at once", &counts);
    let counts = wire.each(TIMES, async |_| at_once(&bank, [1; 64]).await).await;
    wire.add_halved("64 deposits at once to one account", &counts);

    // Somebody else writes to the stream, so that what is remembered is stale.
    let other = engine(wire.store("commands").await).await;
    let mut counts = Vec::new();
    for _ in 0..TIMES {
        deposit(&other, 1).await;
        // Both tell other processes of their commits, which is counted for the one that is looked at.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let and_tells = async |_| {
            deposit(&bank, 1).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        counts.extend(wire.each(1, and_tells).await);
    }
    wire.add("a deposit after somebody else's", &counts);
    bank.shutdown().await;
    other.shutdown().await;
}

async fn guards(wire: &mut Wire) {
    let store = wire.store("guards").await;
    let tag = |seat: &u64| Tag::new("seat", seat);
    let booked = |seat: u64| NewEvent {
        id: Uuid::new_v4(),
        stream: format!("Seat/{seat}").parse().unwrap(),
        name: "Booked".into(),
        schema_version: 1,
        payload: Bytes::from_static(b"{}"),
        tags: [tag(&seat)].into_iter().collect(),
        time: Timestamp::from_micros(1_700_000_000_123_456),
        metadata: Arc::new(Metadata::new()),
    };
    let absent = |seat: u64| Append::new(vec![booked(seat)], Guard::Absent(Query::tags([tag(&seat)])));
    let free = async |seat| drop(store.append(absent(seat)).await.unwrap());
    let counts = wire.each(TIMES, free).await;
    wire.add("an append if a tag is absent", &counts);
    let taken = async |seat| assert!(store.append(absent(seat)).await.is_err());
    let counts = wire.each(TIMES, taken).await;
    wire.add("an append that a tag refuses", &counts);
    let after = store.head(Partition::ONLY).await.unwrap().point();
    let unchanged = |seat: u64| {
        let guard = Guard::Unchanged { query: Query::tags([tag(&seat)]), after };
        Append::new(vec![booked(seat)], guard)
    };
    let counts = wire.each(TIMES, async |seat| drop(store.append(unchanged(seat)).await.unwrap())).await;
    wire.add("an append if a tag is unchanged", &counts);
}

/// Reads several pages, so that a page too many shows.
async fn pages(wire: &mut Wire) {
    let store = wire.store("pages").await;
    let bank = engine(store.clone()).await;
    bank.catch_up().await.unwrap();
    let mut counts = Vec::new();
    for _ in 0..7 {
        for _ in 0..3 {
            bank.execute(Deposit { account: 1, times: 1_000 }).await.unwrap();
        }
        // Other processes have been told of these by then.
        tokio::time::sleep(Duration::from_millis(100)).await;
        counts.extend(wire.each(1, async |_| bank.catch_up().await.unwrap()).await);
    }
    wire.add("a catch-up over 3,000 events", &counts);

    let mut counts = Vec::new();
    for _ in 0..7 {
        let fresh = engine(store.clone()).await;
        let load = async |_| assert_eq!(fresh.load::<Account>(&1).await.unwrap().version.get(), 21_000);
        counts.extend(wire.each(1, load).await);
    }
    wire.add("a load of 21,000 events", &counts);
}

async fn wasteful(wire: &Wire) -> [(String, u64); 2] {
    let bank = engine(Wasteful::of(wire.store("wasteful").await)).await;
    usual(DEPOSIT, &wire.each(TIMES, async |_| deposit(&bank, 1).await).await)
}

async fn at_once(bank: &Engine, accounts: impl IntoIterator<Item = u64>) {
    join_all(accounts.into_iter().map(|account| deposit(bank, account))).await;
}

async fn deposit(bank: &Engine, account: u64) {
    bank.execute(Deposit::to(account)).await.unwrap();
}
