//! A read model that catches up over a million events, against the same by hand: pages of 1,000, one
//! batched upsert and the checkpoint in one transaction each.

use std::collections::HashMap;
use std::path::Path;

use cqrs::prelude::Engine;
use cqrs_core::context::TimeOrderedIds;
use cqrs_core::store::{Append, EventStore as _, Guard};
use cqrs_sqlite::SqliteStore;
use rusqlite::Connection;

use crate::bank::{self, Deposited, Summary};
use crate::reading::event;
use crate::{compare, hand, multi_thread, scattered, timed};

const ROUNDS: usize = 3;
const PAGE: u64 = 1_000;
const ACCOUNTS: u64 = 10_000;

/// With `CQRS_BENCH_EVENTS` another number than 1,000,000.
fn events() -> u64 {
    let events = std::env::var("CQRS_BENCH_EVENTS").ok().and_then(|text| text.parse().ok());
    events.unwrap_or(1_000_000)
}

/// The account of the event at a position: each is opened, then events are scattered over them.
fn account(position: u64) -> u64 {
    if position <= ACCOUNTS { position - 1 } else { scattered(position) % ACCOUNTS }
}

pub fn run() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, hand) = (dir.path().join("store.db"), dir.path().join("hand.db"));
    let runtime = multi_thread();
    runtime.block_on(fill(&ours));
    let mut by_hand = fill_by_hand(&hand);
    let engine = || {
        forget(&ours);
        let engine = runtime.block_on(async { bank::engine(SqliteStore::open(&ours).await.unwrap()).await });
        let time = timed(|| runtime.block_on(engine.catch_up()).unwrap());
        runtime.block_on(check(&engine));
        time
    };
    let limit = || {
        by_hand.execute_batch("DELETE FROM accounts; UPDATE checkpoint SET position = 0").unwrap();
        timed(|| catch_up_by_hand(&mut by_hand))
    };
    compare(&format!("{} events into a read model", events()), ROUNDS, limit, engine);
}

async fn fill(path: &Path) {
    let store = SqliteStore::open(path).await.unwrap();
    let ids = TimeOrderedIds::default();
    for first in (1..=events()).step_by(PAGE as usize) {
        let name = |position| if position <= ACCOUNTS { "Opened" } else { "Deposited" };
        let events = (first..first + PAGE).map(|position| event(&ids, account(position), name(position)));
        store.append(Append::new(events.collect(), Guard::Any)).await.unwrap();
    }
}

fn forget(path: &Path) {
    let conn = Connection::open(path).unwrap();
    conn.execute_batch(
        "DELETE FROM cqrs_entries; DELETE FROM cqrs_checkpoints; DELETE FROM cqrs_consumers;
         PRAGMA wal_checkpoint(TRUNCATE)",
    )
    .unwrap();
}

async fn check(engine: &Engine) {
    let mut sum = 0;
    for account in 0..ACCOUNTS {
        sum += engine.get::<Summary>(&account).await.unwrap().unwrap().postings;
    }
    assert_eq!(sum, events() - ACCOUNTS);
}

fn fill_by_hand(path: &Path) -> Connection {
    let conn = hand::open(path);
    let mut versions = vec![0; ACCOUNTS as usize];
    for first in (1..=events()).step_by(PAGE as usize) {
        let rows = (first..first + PAGE).map(|position| {
            let account = account(position);
            let version = &mut versions[account as usize];
            *version += 1;
            (position as i64, format!("Account/{account}"), *version)
        });
        let rows: Vec<_> = rows.collect();
        hand::insert(&conn, rows.iter().map(|(position, stream, version)| (*position, &**stream, *version)));
    }
    conn.execute_batch(
        "CREATE TABLE accounts (account TEXT PRIMARY KEY, balance INTEGER NOT NULL, postings INTEGER NOT NULL);
         CREATE TABLE checkpoint (position INTEGER NOT NULL);
         INSERT INTO checkpoint VALUES (0);",
    )
    .unwrap();
    conn
}

fn catch_up_by_hand(conn: &mut Connection) {
    let mut after = 0_i64;
    loop {
        let mut changed: HashMap<String, (i64, i64)> = HashMap::new();
        let before = after;
        {
            let mut select = conn
                .prepare_cached(
                    "SELECT position, stream, name, payload FROM events WHERE position > ?1
                     ORDER BY position LIMIT 1000",
                )
                .unwrap();
            let mut rows = select.query((after,)).unwrap();
            while let Some(row) = rows.next().unwrap() {
                after = row.get(0).unwrap();
                let event: Deposited =
                    serde_json::from_slice(row.get_ref(3).unwrap().as_blob().unwrap()).unwrap();
                let account = row.get_ref(1).unwrap().as_str().unwrap();
                let sum = match changed.get_mut(account) {
                    Some(sum) => sum,
                    None => changed.entry(account.to_owned()).or_default(),
                };
                *sum = (sum.0 + event.cents as i64, sum.1 + 1);
            }
        }
        if after == before {
            return;
        }
        let transaction = conn.transaction().unwrap();
        let mut upsert = transaction
            .prepare_cached(
                "INSERT INTO accounts VALUES (?1, ?2, ?3) ON CONFLICT (account) DO UPDATE
                 SET balance = balance + excluded.balance, postings = postings + excluded.postings",
            )
            .unwrap();
        for (account, (balance, postings)) in &changed {
            upsert.execute((account, balance, postings)).unwrap();
        }
        drop(upsert);
        transaction.execute("UPDATE checkpoint SET position = ?1", (after,)).unwrap();
        transaction.commit().unwrap();
    }
}
