//! An account with 10,000 events, and a log of 200,000 in pages, against the same rows by hand.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use cqrs::prelude::Engine;
use cqrs_core::context::{IdSource as _, TimeOrderedIds};
use cqrs_core::event::{Metadata, NewEvent, Timestamp};
use cqrs_core::id::{Partition, Position, StreamId};
use cqrs_core::store::{Append, EventStore as _, Guard, LogRead, Query};
use cqrs_sqlite::SqliteStore;
use rusqlite::Connection;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::bank::{self, Account, Deposited};
use crate::{compare, hand, multi_thread, timed};

const ROUNDS: usize = 15;
const PAGES: u64 = 200;
const PAGE: usize = 1_000;

pub fn event(ids: &TimeOrderedIds, account: u64, name: &'static str) -> NewEvent {
    let time = Timestamp::now();
    NewEvent {
        id: ids.next(time),
        stream: StreamId::new("Account", &account).unwrap(),
        name: name.into(),
        schema_version: 1,
        payload: Bytes::from_static(if name == "Opened" { br#"{"owner":"Ada"}"# } else { hand::PAYLOAD }),
        tags: [].into_iter().collect(),
        time,
        metadata: Arc::new(Metadata::new()),
    }
}

/// Every twentieth page of the log is of account 1.
fn account(page: u64) -> u64 {
    if page.is_multiple_of(20) { 1 } else { page + 2 }
}

pub fn rehydrating() {
    let files = Files::new();
    let engine =
        files.runtime.block_on(async { bank::engine(SqliteStore::open(&files.ours).await.unwrap()).await });
    let load = || timed(|| files.runtime.block_on(rehydrate(&engine)));
    let by_hand = || timed(|| rehydrate_by_hand(&files.hand));
    compare("rehydrate 10,000 events", 4 * ROUNDS, by_hand, load);
}

pub fn paging() {
    let files = Files::new();
    let store = files.runtime.block_on(SqliteStore::open(&files.ours)).unwrap();
    let ours = |query: &Query, count| {
        timed(|| assert_eq!(files.runtime.block_on(pages(&store, query.clone())), count))
    };
    let hand = |condition| timed(|| pages_by_hand(&files.hand, condition));
    let all = Query::all();
    compare("the log of 200,000 in pages of 1,000", ROUNDS, || hand(""), || ours(&all, 200_000));
    let half = Query::names(["Withdrawn"]);
    let by_name = || hand("AND name = 'Withdrawn'");
    compare("half of it, by name", ROUNDS, by_name, || ours(&half, 95_000));
}

struct Files {
    runtime: Runtime,
    ours: PathBuf,
    hand: Connection,
    _dir: TempDir,
}

impl Files {
    fn new() -> Self {
        let (dir, runtime) = (tempfile::tempdir().unwrap(), multi_thread());
        let ours = dir.path().join("store.db");
        runtime.block_on(fill(&ours));
        Self { runtime, ours, hand: fill_by_hand(&dir.path().join("hand.db")), _dir: dir }
    }
}

async fn fill(path: &Path) {
    let store = SqliteStore::open(path).await.unwrap();
    let ids = TimeOrderedIds::default();
    for page in 0..PAGES {
        let mut events: Vec<_> = (0..PAGE).map(|_| event(&ids, account(page), "Deposited")).collect();
        if page == 0 {
            events[0] = event(&ids, 1, "Opened");
        }
        if account(page) != 1 {
            events.iter_mut().skip(1).step_by(2).for_each(|event| event.name = "Withdrawn".into());
        }
        store.append(Append::new(events, Guard::Any)).await.unwrap();
    }
}

fn fill_by_hand(path: &Path) -> Connection {
    let conn = hand::open(path);
    let mut own = 0;
    for page in 0..PAGES {
        let stream = format!("Account/{}", account(page));
        let rows = (0..PAGE as i64).map(|row| {
            let version = if account(page) == 1 { own + row + 1 } else { row + 1 };
            (page as i64 * PAGE as i64 + row + 1, &*stream, version)
        });
        hand::insert(&conn, rows);
        own += if account(page) == 1 { PAGE as i64 } else { 0 };
    }
    conn.execute("UPDATE events SET name = 'Withdrawn' WHERE position % 2 = 0 AND stream <> 'Account/1'", ())
        .unwrap();
    conn
}

async fn rehydrate(engine: &Engine) {
    let loaded = engine.load::<Account>(&1).await.unwrap();
    assert_eq!((loaded.version.get(), loaded.state.unwrap().balance), (10_000, 9_999 * 12_345));
}

/// Query, decode, fold.
fn rehydrate_by_hand(conn: &Connection) {
    let mut select = conn
        .prepare_cached("SELECT version, name, payload FROM events WHERE stream = ?1 ORDER BY version")
        .unwrap();
    let mut rows = select.query(("Account/1",)).unwrap();
    let (mut balance, mut last) = (0, 0);
    while let Some(row) = rows.next().unwrap() {
        last = row.get::<_, i64>(0).unwrap();
        match row.get_ref(1).unwrap().as_str().unwrap() {
            "Deposited" => {
                let event: Deposited =
                    serde_json::from_slice(row.get_ref(2).unwrap().as_blob().unwrap()).unwrap();
                balance += event.cents;
            }
            other => panic!("{other}"),
        }
    }
    assert_eq!((last, balance), (10_000, 10_000 * 12_345));
}

async fn pages(store: &SqliteStore, query: Query) -> usize {
    let (mut after, mut count) = (Position::START, 0);
    loop {
        let read =
            LogRead { partition: Partition::ONLY, after, up_to: None, query: query.clone(), limit: PAGE };
        let slice = store.read_log(read).await.unwrap();
        count += slice.events.len();
        after = slice.read_to;
        if after >= slice.head.position {
            return count;
        }
    }
}

/// Page after page, with each row as a value of its own.
fn pages_by_hand(conn: &Connection, condition: &str) {
    let sql = format!(
        "SELECT position, stream, version, name, payload FROM events WHERE position > ?1 {condition}
         ORDER BY position LIMIT {PAGE}"
    );
    let mut select = conn.prepare_cached(&sql).unwrap();
    let mut after = 0;
    loop {
        type Row = (i64, String, i64, String, Vec<u8>);
        let rows = select.query_map((after,), |row| Row::try_from(row)).unwrap();
        let page: Vec<Row> = rows.collect::<Result<_, _>>().unwrap();
        let Some(last) = page.last() else { return };
        after = last.0;
    }
}
