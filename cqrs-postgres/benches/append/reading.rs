//! Rehydration and catching up, against the same by hand.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cqrs_core::context::{IdSource as _, TimeOrderedIds};
use cqrs_core::event::{Metadata, NewEvent, Timestamp};
use cqrs_core::id::StreamId;
use cqrs_core::store::{Append, EventStore as _, Guard};
use cqrs_postgres::PostgresStore;
use futures_util::TryStreamExt as _;
use pg_cluster::Cluster;
use serde::Deserialize;

use crate::{bank, hand, median, runtime, scattered, seconds, url};

const ROUNDS: usize = 7;

#[derive(Deserialize)]
struct Posted {
    cents: u64,
}

fn event(ids: &TimeOrderedIds, stream: &StreamId, name: &'static str, payload: &'static [u8]) -> NewEvent {
    let time = Timestamp::now();
    NewEvent {
        id: ids.next(time),
        stream: stream.clone(),
        name: name.into(),
        schema_version: 1,
        payload: Bytes::from_static(payload),
        tags: [].into_iter().collect(),
        time,
        metadata: std::sync::Arc::new(Metadata::new()),
    }
}

/// A store with so many accounts, whose events come in turn.
async fn filled(url: &str, accounts: u64, events: u64) -> PostgresStore {
    let (store, ids) = (PostgresStore::open(url).await.unwrap(), TimeOrderedIds::default());
    let stream = |account: u64| -> StreamId { format!("Account/{account}").parse().unwrap() };
    let opened = |account| event(&ids, &stream(account), "Opened", br#"{"owner":"Ada"}"#);
    let mut all: Vec<NewEvent> = (0..accounts).map(opened).collect();
    for number in accounts..events {
        let account = scattered(number) % accounts;
        all.push(event(&ids, &stream(account), "Deposited", hand::PAYLOAD));
    }
    for page in all.chunks(1_000) {
        store.append(Append::new(page.to_vec(), Guard::Any)).await.unwrap();
    }
    store
}

fn print(name: &str, mut hand: Vec<Duration>, mut ours: Vec<Duration>, count: u64) {
    let (hand_best, ours_best) = (hand.iter().min().copied(), ours.iter().min().copied());
    let (hand, ours) = (median(&mut hand), median(&mut ours));
    let best = seconds(ours_best.unwrap_or_default()) / seconds(hand_best.unwrap_or_default());
    println!(
        "{name:<36} by hand {hand:>9.1?}, engine {ours:>9.1?}: {:.2} times the time ({best:.2} of the best), {:.0} events per s",
        seconds(ours) / seconds(hand),
        count as f64 / seconds(ours)
    );
}

pub fn rehydrating(cluster: &Cluster) {
    let runtime = runtime();
    let url = url(cluster, "rehydrating");
    runtime.block_on(async {
        drop(filled(&url, 1, 10_000).await);
        let client = hand::connect(cluster.url()).await;
        let select =
            "SELECT version, name, payload FROM rehydrating.events WHERE stream = $1 AND version >= $2
            ORDER BY version LIMIT $3";
        let select = client.prepare(select).await.unwrap();
        let (mut hand, mut ours) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let start = Instant::now();
            let (mut balance, mut from) = (0_u64, 1_i64);
            loop {
                let params: [&(dyn tokio_postgres::types::ToSql + Sync); 3] =
                    [&"Account/0", &from, &5_000_i64];
                let rows = client.query_raw(&select, params).await.unwrap();
                let mut rows = std::pin::pin!(rows);
                let mut count = 0;
                while let Some(row) = rows.try_next().await.unwrap() {
                    (from, count) = (row.get::<_, i64>(0) + 1, count + 1);
                    if row.get::<_, &str>(1) == "Deposited" {
                        balance += serde_json::from_slice::<Posted>(row.get(2)).unwrap().cents;
                    }
                }
                if count < 5_000 {
                    break;
                }
            }
            hand.push(start.elapsed());
            let engine = bank::engine(PostgresStore::open(&url).await.unwrap()).await;
            // One connection is there, as it is by hand.
            assert!(engine.load::<bank::Account>(&7).await.unwrap().state.is_none());
            let start = Instant::now();
            let account = engine.load::<bank::Account>(&0).await.unwrap();
            ours.push(start.elapsed());
            assert_eq!(account.state.unwrap().balance, balance);
        }
        print("rehydrating 10,000 events", hand, ours, 10_000);
    });
}

const ACCOUNTS: u64 = 10_000;

/// With `CQRS_BENCH_EVENTS` over another number of events than 1,000,000.
pub fn catching_up(cluster: &Cluster) {
    let events = std::env::var("CQRS_BENCH_EVENTS").ok().and_then(|text| text.parse().ok());
    let events: u64 = events.unwrap_or(1_000_000);
    let runtime = runtime();
    runtime.block_on(async {
        let (mut hand, mut ours) = (Vec::new(), Vec::new());
        let url = url(cluster, "catching_up");
        drop(filled(&url, ACCOUNTS, events).await);
        let client = hand::connect(cluster.url()).await;
        // What the server would do by itself within a minute, and then in the midst of a round.
        client.batch_execute("VACUUM ANALYZE catching_up.events").await.unwrap();
        for _ in 0..3 {
            hand.push(by_hand(&client, events).await);
            let forget = "TRUNCATE catching_up.entries, catching_up.checkpoints, catching_up.consumers";
            client.batch_execute(forget).await.unwrap();
            let engine = bank::engine(PostgresStore::open(&url).await.unwrap()).await;
            let start = Instant::now();
            engine.catch_up().await.unwrap();
            ours.push(start.elapsed());
            check(
                &client,
                "convert_from(content, 'UTF8')::json ->> 'postings'",
                "catching_up.entries",
                events,
            )
            .await;
            engine.shutdown().await;
        }
        print(&format!("catching up over {events} events"), hand, ours, events);
    });
}

/// No event was missed, and none came twice.
async fn check(client: &tokio_postgres::Client, postings: &str, table: &str, events: u64) {
    let sum = format!("SELECT sum(({postings})::bigint)::bigint FROM {table}");
    let sum: i64 = client.query_one(&sum, &[]).await.unwrap().get(0);
    assert_eq!(sum.cast_unsigned(), events - ACCOUNTS);
}

/// Pages of 1,000, summed up by account, and then one statement that adds the sums to what is there and
/// moves the checkpoint.
async fn by_hand(client: &tokio_postgres::Client, events: u64) -> Duration {
    client
        .batch_execute(
            "DROP TABLE IF EXISTS summary, place; CREATE TABLE place (position bigint);
             CREATE TABLE summary (account text COLLATE \"C\" PRIMARY KEY, balance bigint NOT NULL,
                                   postings bigint NOT NULL) WITH (fillfactor = 80);
             INSERT INTO place VALUES (0);",
        )
        .await
        .unwrap();
    let page = client
        .prepare(
            "SELECT position, stream, name, payload FROM catching_up.events
             WHERE partition = 0 AND position > $1 ORDER BY position LIMIT 1000",
        )
        .await
        .unwrap();
    let put = client
        .prepare(
            "WITH moved AS (UPDATE place SET position = $4)
             INSERT INTO summary AS s SELECT * FROM UNNEST ($1::text[], $2::bigint[], $3::bigint[])
             ON CONFLICT (account) DO UPDATE
             SET balance = s.balance + excluded.balance, postings = s.postings + excluded.postings",
        )
        .await
        .unwrap();
    let start = Instant::now();
    let mut at = 0_i64;
    loop {
        let rows = client.query(&page, &[&at]).await.unwrap();
        let Some(last) = rows.last() else { break };
        at = last.get(0);
        let mut sums: BTreeMap<&str, (i64, i64)> = BTreeMap::new();
        for row in &rows {
            let sum = sums.entry(row.get(1)).or_default();
            if row.get::<_, &str>(2) == "Deposited" {
                sum.0 += serde_json::from_slice::<Posted>(row.get(3)).unwrap().cents.cast_signed();
                sum.1 += 1;
            }
        }
        let accounts: Vec<&str> = sums.keys().copied().collect();
        let (balances, postings): (Vec<i64>, Vec<i64>) = sums.into_values().unzip();
        client.execute(&put, &[&accounts, &balances, &postings, &at]).await.unwrap();
    }
    let time = start.elapsed();
    check(client, "postings", "summary", events).await;
    time
}
