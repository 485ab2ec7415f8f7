//! SQLite by hand, with `rusqlite` and cached statements.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, anyhow};
use rusqlite::{Connection, OpenFlags, OptionalExtension as _};
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_blocking;

use super::{Event, Known, Row};
use crate::contender::{About, Contender, Outcome, Place};

/// The rows of a table, by a connection of its own.
pub fn count(file: &Path, table: &str) -> anyhow::Result<u64> {
    let conn = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let rows: i64 = conn.query_row(&format!("SELECT count(*) FROM {table}"), (), |row| row.get(0))?;
    Ok(rows.try_into()?)
}

/// A connection that keeps what it commits, as the store of this framework does.
pub fn connect(file: &Path) -> anyhow::Result<Connection> {
    let conn = Connection::open(file)?;
    let settings = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA cache_size = -16384;
        PRAGMA wal_autocheckpoint = 8192; PRAGMA busy_timeout = 5000;";
    conn.execute_batch(settings)?;
    Ok(conn)
}

const TABLES: &str = "
    CREATE TABLE events (
        position INTEGER PRIMARY KEY, account INTEGER NOT NULL, version INTEGER NOT NULL, name TEXT NOT NULL,
        payload BLOB NOT NULL, UNIQUE (account, version)
    );
    CREATE TABLE summary (account INTEGER PRIMARY KEY, balance INTEGER NOT NULL);
    CREATE TABLE checkpoint (position INTEGER NOT NULL);
    INSERT INTO checkpoint VALUES (0);";

/// With `BATCHED`, what waits together is one transaction. Without, each row is a transaction.
pub struct Sqlite<const BATCHED: bool> {
    file: PathBuf,
    reader: Arc<Mutex<Connection>>,
    known: Known,
    way: mpsc::UnboundedSender<Waiting>,
}

type Waiting = (Row, oneshot::Sender<Result<(), String>>);

impl<const BATCHED: bool> Sqlite<BATCHED> {
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&mut Connection) -> anyhow::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        let reader = Arc::clone(&self.reader);
        spawn_blocking(move || read(&mut reader.lock().unwrap_or_else(PoisonError::into_inner))).await?
    }

    async fn store(&self, account: u64, event: Event) -> anyhow::Result<Outcome> {
        let (answer, done) = oneshot::channel();
        match self.known.decide(account, &event, |row| self.way.send((row, answer)).is_ok())? {
            None => Ok(Outcome::Refused),
            Some(false) => Err(anyhow!("the writer has ended")),
            Some(true) => {
                done.await.context("the writer has ended")?.map_err(anyhow::Error::msg)?;
                Ok(Outcome::Accepted)
            }
        }
    }
}

fn write(conn: &Connection, mut rows: mpsc::UnboundedReceiver<Waiting>, most: usize) {
    let (mut group, mut answers) = (Vec::new(), Vec::new());
    while let Some(first) = rows.blocking_recv() {
        let mut next = Some(first);
        while let Some((row, answer)) = next {
            group.push(row);
            answers.push(answer);
            next = if group.len() < most { rows.try_recv().ok() } else { None };
        }
        let done = insert(conn, &group).map_err(|error| format!("{error:#}"));
        group.clear();
        answers.drain(..).for_each(|answer| drop(answer.send(done.clone())));
    }
}

/// Writes rows in one transaction.
fn insert(conn: &Connection, rows: &[Row]) -> anyhow::Result<()> {
    conn.prepare_cached("BEGIN IMMEDIATE")?.execute(())?;
    let insert = "INSERT INTO events (account, version, name, payload) VALUES (?1, ?2, ?3, ?4)";
    let mut insert = conn.prepare_cached(insert)?;
    for row in rows {
        insert.execute((row.account as i64, row.version as i64, row.name, &row.payload))?;
    }
    conn.prepare_cached("COMMIT")?.execute(())?;
    Ok(())
}

fn rehydrate(conn: &Connection, account: u64) -> anyhow::Result<u64> {
    let select = "SELECT name, payload FROM events WHERE account = ?1 AND version > 0 ORDER BY version";
    let mut select = conn.prepare_cached(select)?;
    let (mut rows, mut balance) = (select.query((account as i64,))?, None);
    while let Some(row) = rows.next()? {
        let event = Event::decode(row.get_ref(0)?.as_str()?, row.get_ref(1)?.as_blob()?)?;
        balance = Some(event.fold(balance)?);
    }
    balance.context("the account is not open")
}

/// All balances stay in memory.
fn project(conn: &mut Connection) -> anyhow::Result<()> {
    let mut balances: HashMap<i64, u64> = HashMap::new();
    let mut after = 0_i64;
    loop {
        let (before, mut changed) = (after, HashSet::new());
        let page = "SELECT position, account, name, payload FROM events WHERE position > ?1
            ORDER BY position LIMIT 1000";
        let mut page = conn.prepare_cached(page)?;
        let mut rows = page.query((after,))?;
        while let Some(row) = rows.next()? {
            after = row.get(0)?;
            let account = row.get(1)?;
            let event = Event::decode(row.get_ref(2)?.as_str()?, row.get_ref(3)?.as_blob()?)?;
            let balance = event.fold(balances.get(&account).copied())?;
            balances.insert(account, balance);
            changed.insert(account);
        }
        drop(rows);
        drop(page);
        if after == before {
            return Ok(());
        }
        let transaction = conn.transaction()?;
        let upsert = "INSERT INTO summary VALUES (?1, ?2)
            ON CONFLICT (account) DO UPDATE SET balance = excluded.balance";
        let mut upsert = transaction.prepare_cached(upsert)?;
        for account in changed {
            upsert.execute((account, balances[&account] as i64))?;
        }
        drop(upsert);
        transaction.execute("UPDATE checkpoint SET position = ?1", (after,))?;
        transaction.commit()?;
    }
}

impl<const BATCHED: bool> Contender for Sqlite<BATCHED> {
    fn about() -> About {
        About {
            name: if BATCHED { "by-hand-sqlite-batched" } else { super::SINGLE[0] },
            store: "SQLite",
            packages: &["rusqlite"],
            less: if BATCHED {
                &[
                    "No framework: knows all state, reads nothing, and cannot share the log with another process.",
                    "One thread writes what waits together in one transaction.",
                ]
            } else {
                &[
                    "No framework: knows all state, reads nothing, and cannot share the log with another process.",
                    "Each event is a transaction of its own.",
                ]
            },
        }
    }

    async fn open(place: &Place) -> anyhow::Result<Self> {
        let file = place.dir.join("by-hand.db");
        let conn = connect(&file)?;
        conn.execute_batch(TABLES)?;
        let (way, rows) = mpsc::unbounded_channel();
        std::thread::spawn(move || write(&conn, rows, if BATCHED { 1_000 } else { 1 }));
        let reader = Arc::new(Mutex::new(connect(&file)?));
        Ok(Self { file, reader, known: Known::default(), way })
    }

    async fn open_account(&self, account: u64) -> anyhow::Result<()> {
        self.store(account, Event::opened()).await.map(drop)
    }

    async fn deposit(&self, account: u64, cents: u64) -> anyhow::Result<Outcome> {
        self.store(account, Event::deposited(cents)).await
    }

    async fn withdraw(&self, account: u64, cents: u64) -> anyhow::Result<Outcome> {
        self.store(account, Event::withdrawn(cents)).await
    }

    async fn rehydrate(&self, account: u64) -> anyhow::Result<u64> {
        self.read(move |conn| rehydrate(conn, account)).await
    }

    async fn stored(&self) -> anyhow::Result<u64> {
        count(&self.file, "events")
    }

    async fn project(&self) -> anyhow::Result<Option<()>> {
        self.read(project).await.map(Some)
    }

    async fn projected(&self, account: u64) -> anyhow::Result<Option<u64>> {
        let select = "SELECT balance FROM summary WHERE account = ?1";
        let of = move |conn: &mut Connection| {
            Ok(conn.query_row(select, (account as i64,), |row| row.get::<_, i64>(0)).optional()?)
        };
        Ok(self.read(of).await?.map(|balance| balance as u64))
    }

    async fn close(self) -> anyhow::Result<()> {
        Ok(())
    }
}
