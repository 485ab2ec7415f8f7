//! Projections with their own SQL: tables of the user's in the store's file.

#![allow(missing_docs, missing_debug_implementations, unreachable_pub, reason = "a test")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at a fault")]

mod support;

use std::path::Path;

use cqrs::Registry;
use cqrs::engine::{CatchUpError, ConsumerFault, ConsumerState};
use cqrs::prelude::*;
use cqrs_sqlite::rusqlite::{self, Connection, OptionalExtension as _};
use cqrs_sqlite::{Sqlite, SqliteStore, Transaction};
use support::dir;

#[derive(Event, Serialize, Deserialize)]
pub struct Opened;
#[derive(Event, Serialize, Deserialize)]
pub struct Deposited {
    pub cents: i64,
}

#[derive(Command)]
pub struct Deposit {
    #[id]
    pub account: u64,
    pub cents: i64,
}

#[derive(Default)]
pub struct Account;

#[aggregate(id = u64)]
impl Account {
    #[handle]
    fn deposit(account: Option<&Self>, cmd: Deposit) -> (Option<Opened>, Deposited) {
        (account.is_none().then_some(Opened), Deposited { cents: cmd.cents })
    }
    #[apply]
    fn opened(_: &Opened) -> Self {
        Self
    }
    #[apply]
    fn deposited(&mut self, _: &Deposited) {}
}

pub struct Ledger;

#[projection(name = "ledger", sql = Sqlite)]
impl Ledger {
    #[setup]
    fn tables(tx: &Transaction<'_>) -> rusqlite::Result<()> {
        tx.execute_batch(
            "CREATE TABLE ledger (position INTEGER PRIMARY KEY, account TEXT, cents INTEGER) STRICT",
        )
    }

    #[on]
    fn deposited(tx: &Connection, e: &Deposited, meta: &EventMeta) -> rusqlite::Result<usize> {
        let mut insert = tx.prepare_cached("INSERT INTO ledger VALUES (?1, ?2, ?3)")?;
        insert.execute((meta.position.get(), meta.stream.id(), e.cents))
    }
}

/// The same, in the commit of the command.
pub mod inline {
    use super::*;

    pub struct Balances;

    #[projection(name = "balances", sql = Sqlite, mode = inline)]
    impl Balances {
        #[setup]
        fn tables(tx: &Transaction<'_>) -> rusqlite::Result<()> {
            tx.execute_batch(
                "CREATE TABLE balances (account TEXT PRIMARY KEY, cents INTEGER CHECK (cents >= 0)) STRICT",
            )
        }

        #[on]
        fn opened(tx: &Transaction<'_>, _: &Opened, meta: &EventMeta) -> rusqlite::Result<()> {
            tx.execute("INSERT INTO balances VALUES (?1, 0)", [meta.stream.id()]).map(drop)
        }

        #[on]
        fn deposited(tx: &Transaction<'_>, e: &Deposited, meta: &EventMeta) -> rusqlite::Result<()> {
            let mut update =
                tx.prepare_cached("UPDATE balances SET cents = cents + ?2 WHERE account = ?1")?;
            update.execute((meta.stream.id(), e.cents)).map(drop)
        }
    }
}

/// Statements that do what they must not.
pub mod unruly {
    use super::*;

    pub struct Unruly;

    #[projection(name = "unruly", sql = Sqlite)]
    impl Unruly {
        #[on]
        fn deposited(tx: &Transaction<'_>, e: &Deposited) -> rusqlite::Result<()> {
            tx.execute_batch(match e.cents {
                1 => "COMMIT",
                2 => "ROLLBACK",
                3 => "SAVEPOINT mine",
                4 => "DELETE FROM cqrs_events",
                5 => "DROP TABLE cqrs_entries",
                6 => "PRAGMA synchronous = OFF",
                7 => "ATTACH ':memory:' AS other",
                8 => "CREATE TRIGGER mine AFTER INSERT ON cqrs_events BEGIN SELECT 1; END",
                9 => panic!("nine is too many"),
                _ => "SELECT count(*) FROM cqrs_events",
            })
        }
    }
}

async fn open(path: &Path, registry: Registry) -> Engine {
    let store = SqliteStore::open(path).await.unwrap();
    Engine::builder().registry(registry).without_background().build(store).await.unwrap()
}

fn ask<T: rusqlite::types::FromSql>(path: &Path, sql: &str) -> Option<T> {
    let conn = Connection::open(path).unwrap();
    conn.query_row(sql, (), |row| row.get(0)).optional().unwrap()
}

fn deposit(account: u64, cents: i64) -> Deposit {
    Deposit { account, cents }
}

#[tokio::test]
async fn tables_of_the_users_are_kept_with_the_checkpoint() {
    let dir = dir();
    let path = dir.path().join("bank.db");
    let registry = || Registry::new().with::<Account>().with::<Ledger>();
    let bank = open(&path, registry()).await;
    bank.catch_up().await.unwrap();
    assert_eq!(ask(&path, "SELECT count(*) FROM ledger"), Some(0), "the tables are there from the start");
    for cents in [5, 7] {
        bank.execute(deposit(1, cents)).await.unwrap();
    }
    bank.catch_up().await.unwrap();
    assert_eq!(ask(&path, "SELECT sum(cents) FROM ledger WHERE account = '1'"), Some(12));

    drop(bank);
    let bank = open(&path, registry()).await;
    bank.execute(deposit(2, 1)).await.unwrap();
    bank.catch_up().await.unwrap();
    assert_eq!(ask(&path, "SELECT group_concat(position) FROM ledger"), Some("2,3,5".to_owned()));
}

#[tokio::test]
async fn inline_tables_are_part_of_the_commit() {
    let dir = dir();
    let path = dir.path().join("bank.db");
    let bank = open(&path, Registry::new().with::<Account>().with::<inline::Balances>()).await;
    bank.execute(deposit(1, 5)).await.unwrap();
    assert_eq!(ask(&path, "SELECT cents FROM balances"), Some(5), "without waiting for anything");

    let refused = bank.execute(deposit(1, -6)).await.unwrap_err();
    assert!(refused.is_refusal());
    let ExecuteError::Rejected(rejection) = &refused else { panic!("{refused}") };
    assert_eq!((rejection.projection(), rejection.event()), ("balances", "Deposited"));
    assert_eq!(rejection.constraint(), Some("cents >= 0"));
    let cause = rejection.cause().unwrap().to_string();
    assert!(cause.contains("CHECK constraint failed"), "{cause}");
    assert_eq!(ask(&path, "SELECT cents FROM balances"), Some(5));
    assert_eq!(ask(&path, "SELECT max(position) FROM cqrs_events"), Some(2));
    // Nothing of it is remembered either.
    bank.execute(deposit(1, 1)).await.unwrap();
    assert_eq!(ask(&path, "SELECT cents FROM balances"), Some(6));
}

#[tokio::test]
async fn an_inline_projection_that_is_new_catches_up_before_the_first_commit() {
    let dir = dir();
    let path = dir.path().join("bank.db");
    let old = open(&path, Registry::new().with::<Account>()).await;
    for account in 1..=3 {
        old.execute(deposit(account, 5)).await.unwrap();
    }
    let new = open(&path, Registry::new().with::<Account>().with::<inline::Balances>()).await;
    new.execute(deposit(3, 2)).await.unwrap();
    assert_eq!(ask(&path, "SELECT sum(cents) FROM balances"), Some(17));
    // The old program knows nothing of it and writes on; the new one's next commit waits for that too.
    old.execute(deposit(1, 10)).await.unwrap();
    new.execute(deposit(2, 1)).await.unwrap();
    assert_eq!(ask(&path, "SELECT sum(cents) FROM balances"), Some(28));
}

#[tokio::test]
async fn statements_cannot_harm_the_store() {
    for (cents, says) in
        (1..=9).map(|cents| (cents, if cents == 9 { "nine is too many" } else { "must not" }))
    {
        let dir = dir();
        let path = dir.path().join("bank.db");
        let bank = open(&path, Registry::new().with::<Account>().with::<unruly::Unruly>()).await;
        bank.execute(deposit(1, 100)).await.unwrap();
        bank.execute(deposit(1, cents)).await.unwrap();
        bank.execute(deposit(1, 100)).await.unwrap();
        let stopped = bank.catch_up().await.unwrap_err();
        let CatchUpError::Stopped { fault: ConsumerFault::Event(fault), .. } = &stopped else {
            panic!("{cents}: {stopped:?}")
        };
        assert_eq!(fault.position().get(), 3);
        let why = std::error::Error::source(&**fault).unwrap().to_string();
        assert!(why.contains(says), "{cents}: {why}");
        // What came before it is in effect, and the store is as whole as ever.
        let position = ask::<i64>(&path, "SELECT position FROM cqrs_checkpoints WHERE consumer = 'unruly'");
        assert_eq!(position, Some(2));
        bank.execute(deposit(1, 100)).await.unwrap();
        SqliteStore::open(&path).await.unwrap().verify().await.unwrap();
    }
}

#[tokio::test]
async fn where_nobody_runs_statements_an_engine_says_so() {
    let registry = Registry::new().with::<Account>().with::<Ledger>();
    let refused = Engine::builder().registry(registry).open("memory:").await.unwrap_err().to_string();
    assert!(refused.contains("`ledger`") && refused.contains("writes to SQLite"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn in_the_background_too() {
    let dir = dir();
    let path = dir.path().join("bank.db");
    let registry = Registry::new().with::<Account>().with::<Ledger>().with::<inline::Balances>();
    let store = SqliteStore::open(&path).await.unwrap();
    let bank = Engine::builder().registry(registry).build(store).await.unwrap();
    let tasks: Vec<_> = (0..8)
        .map(|account| {
            let bank = bank.clone();
            tokio::spawn(async move {
                for cents in 1..=20 {
                    bank.execute(deposit(account, cents)).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(ask(&path, "SELECT sum(cents) FROM balances"), Some(8 * 210));
    bank.catch_up().await.unwrap();
    assert_eq!(ask(&path, "SELECT sum(cents) FROM ledger"), Some(8 * 210));
    let status = bank.status().await.unwrap();
    assert!(status.iter().all(|status| !matches!(status.state, ConsumerState::Stopped(_))), "{status:?}");
    bank.shutdown().await;
}

/// Only the user's code knows its tables, so a reset would fold each event into them once more.
#[tokio::test]
async fn a_projection_with_tables_of_its_own_is_not_reset() {
    let dir = dir();
    let path = dir.path().join("bank.db");
    let store = SqliteStore::open(&path).await.unwrap();
    let registry = Registry::new().with::<Account>().with::<Ledger>();
    let bank = Engine::builder().registry(registry).without_background().build(store).await.unwrap();
    bank.execute(Deposit { account: 1, cents: 5 }).await.unwrap();
    bank.catch_up().await.unwrap();
    let refused = bank.reset("ledger").await.unwrap_err();
    assert!(matches!(refused, cqrs::engine::ResetError::OwnTables { projection: "ledger", .. }), "{refused}");
    bank.execute(Deposit { account: 1, cents: 5 }).await.unwrap();
    bank.catch_up().await.unwrap();
    assert_eq!(ask::<i64>(&path, "SELECT count(*) FROM ledger"), Some(2));
}
