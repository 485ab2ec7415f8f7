//! Statements and round trips on PostgreSQL, by a proxy in between.

#![allow(missing_docs, reason = "a test")]
#![allow(clippy::unwrap_used, reason = "a test stops at a fault")]

use std::sync::Arc;

use bytes::Bytes;
use counts::bank::{Account, Deposit};
use counts::engine;
use counts::expected::Sheet;
use counts::wasteful::Wasteful;
use cqrs::Engine;
use cqrs_core::event::{Metadata, NewEvent, Tag, Timestamp};
use cqrs_core::id::Position;
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

    fn add(&mut self, measure: &str, before: Counts) {
        for (measure, count) in named(measure, self.proxy.counts().since(before)) {
            self.sheet.add(measure, count);
        }
    }
}

fn named(measure: &str, counts: Counts) -> [(String, u64); 2] {
    [
        (format!("{measure}: statements"), counts.statements),
        (format!("{measure}: round trips"), counts.round_trips),
    ]
}

const ONE_BY_ONE: &str = "100 deposits, one after the other";

async fn commands(wire: &mut Wire) {
    let store = wire.store("commands").await;
    let bank = engine(store).await;
    // All accounts are remembered, and all is prepared.
    join_all((1..=64).map(|account| deposit(&bank, account))).await;
    join_all((1..=64).map(|account| deposit(&bank, account))).await;
    deposits(&bank, 10).await;

    let before = wire.proxy.counts();
    deposits(&bank, 100).await;
    wire.add(ONE_BY_ONE, before);

    let before = wire.proxy.counts();
    bank.execute(Deposit::to(1)).key("first").await.unwrap();
    wire.add("a deposit with the first key", before);
    let before = wire.proxy.counts();
    for key in 0..100 {
        bank.execute(Deposit::to(1)).key(format!("key-{key}")).await.unwrap();
    }
    wire.add("100 deposits with keys, one after the other", before);
    let before = wire.proxy.counts();
    bank.execute(Deposit::to(1)).key("key-7").await.unwrap();
    wire.add("a deposit that is delivered twice", before);

    let before = wire.proxy.counts();
    join_all((1..=8).map(|account| deposit(&bank, account))).await;
    wire.add("8 deposits at once", before);
    let before = wire.proxy.counts();
    join_all((1..=64).map(|account| deposit(&bank, account))).await;
    wire.add("64 deposits at once", before);
    let before = wire.proxy.counts();
    join_all((0..64).map(|_| deposit(&bank, 1))).await;
    wire.add("64 deposits at once to one account", before);

    // Somebody else writes to the stream, so that what is remembered is stale.
    let other = engine(wire.store("commands").await).await;
    deposit(&other, 1).await;
    let before = wire.proxy.counts();
    deposit(&bank, 1).await;
    wire.add("a deposit after somebody else's", before);
    bank.shutdown().await;
    other.shutdown().await;
}

async fn guards(wire: &mut Wire) {
    let store = wire.store("guards").await;
    let tag = |name: &u64| Tag::new("seat", name);
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
    let unchanged = |seat: u64, after: Position| {
        Append::new(vec![booked(seat)], Guard::Unchanged { query: Query::tags([tag(&seat)]), after })
    };
    let mut last = Position::START;
    for seat in 0..10 {
        last = store.append(absent(seat)).await.unwrap().position;
        last = store.append(unchanged(seat, last)).await.unwrap().position;
    }
    let before = wire.proxy.counts();
    store.append(absent(100)).await.unwrap();
    wire.add("an append if a tag is absent", before);
    let before = wire.proxy.counts();
    store.append(unchanged(101, last)).await.unwrap();
    wire.add("an append if a tag is unchanged", before);
    let before = wire.proxy.counts();
    assert!(store.append(absent(100)).await.is_err());
    wire.add("an append that a tag refuses", before);
}

/// Reads many pages, so that a page too many shows.
async fn pages(wire: &mut Wire) {
    let store = wire.store("pages").await;
    let bank = engine(store.clone()).await;
    for _ in 0..10 {
        bank.execute(Deposit { account: 1, times: 1_000 }).await.unwrap();
    }
    bank.catch_up().await.unwrap();
    for _ in 0..10 {
        bank.execute(Deposit { account: 1, times: 1_000 }).await.unwrap();
    }
    let before = wire.proxy.counts();
    bank.catch_up().await.unwrap();
    wire.add("a catch-up over 10,000 events", before);

    let fresh = engine(store).await;
    let before = wire.proxy.counts();
    let loaded = fresh.load::<Account>(&1).await.unwrap();
    wire.add("a load of 20,000 events", before);
    assert_eq!(loaded.version.get(), 20_000);
}

async fn wasteful(wire: &Wire) -> [(String, u64); 2] {
    let bank = engine(Wasteful::of(wire.store("wasteful").await)).await;
    deposits(&bank, 10).await;
    let before = wire.proxy.counts();
    deposits(&bank, 100).await;
    named(ONE_BY_ONE, wire.proxy.counts().since(before))
}

async fn deposits(bank: &Engine, times: u64) {
    for _ in 0..times {
        deposit(bank, 1).await;
    }
}

async fn deposit(bank: &Engine, account: u64) {
    bank.execute(Deposit::to(account)).await.unwrap();
}
