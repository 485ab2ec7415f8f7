//! PostgreSQL by hand, with `tokio-postgres` and prepared statements.

use std::collections::{HashMap, HashSet};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, anyhow};
use futures_util::TryStreamExt as _;
use tokio::sync::{mpsc, oneshot};
use tokio_postgres::{Client, NoTls, Statement};

use super::{Event, Known, Row};
use crate::contender::{About, Contender, Outcome, Place};

/// A connection of its own.
pub async fn connect(url: &str) -> anyhow::Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// The rows of a table, by a connection of its own.
pub async fn count(url: &str, table: &str) -> anyhow::Result<u64> {
    let row = connect(url).await?.query_one(&format!("SELECT count(*) FROM {table}"), &[]).await?;
    Ok(row.get::<_, i64>(0).try_into()?)
}

const TABLES: &str = "
    CREATE TABLE events (
        position bigserial PRIMARY KEY, account bigint NOT NULL, version bigint NOT NULL, name text NOT NULL,
        payload bytea NOT NULL, UNIQUE (account, version)
    );
    CREATE TABLE summary (account bigint PRIMARY KEY, balance bigint NOT NULL) WITH (fillfactor = 50);
    CREATE TABLE checkpoint (position bigint NOT NULL) WITH (fillfactor = 10);
    INSERT INTO checkpoint VALUES (0);";

/// With `BATCHED`, what waits together is one statement. Without, each row is a statement and a transaction.
pub struct Postgres<const BATCHED: bool> {
    url: String,
    known: Known,
    writer: Writer,
    reader: Client,
    read: Statement,
    summaries: Client,
}

enum Writer {
    Single { connections: Vec<(Client, Statement)>, next: AtomicUsize },
    Batched(mpsc::UnboundedSender<Waiting>),
}

type Waiting = (Row, oneshot::Sender<Result<(), String>>);

impl<const BATCHED: bool> Postgres<BATCHED> {
    async fn store(&self, account: u64, event: Event) -> anyhow::Result<Outcome> {
        match &self.writer {
            Writer::Single { connections, next } => {
                let Some(row) = self.known.decide(account, &event, |row| row)? else {
                    return Ok(Outcome::Refused);
                };
                let (client, insert) = &connections[next.fetch_add(1, Ordering::Relaxed) % connections.len()];
                let (account, version) = (row.account as i64, row.version as i64);
                client.execute(insert, &[&account, &version, &row.name, &row.payload]).await?;
            }
            Writer::Batched(way) => {
                let (answer, done) = oneshot::channel();
                let sent = self.known.decide(account, &event, |row| way.send((row, answer)).is_ok())?;
                match sent {
                    None => return Ok(Outcome::Refused),
                    Some(false) => return Err(anyhow!("the writer has ended")),
                    Some(true) => done.await.context("the writer has ended")?.map_err(anyhow::Error::msg)?,
                }
            }
        }
        Ok(Outcome::Accepted)
    }
}

async fn single(place: &Place) -> anyhow::Result<Writer> {
    let mut connections = Vec::new();
    for _ in 0..place.connections {
        let client = connect(&place.postgres).await?;
        let insert = "INSERT INTO events (account, version, name, payload) VALUES ($1, $2, $3, $4)";
        let insert = client.prepare(insert).await?;
        connections.push((client, insert));
    }
    Ok(Writer::Single { connections, next: AtomicUsize::new(0) })
}

const INSERT: &str = "INSERT INTO events (account, version, name, payload)
    SELECT * FROM UNNEST ($1::bigint[], $2::bigint[], $3::text[], $4::bytea[])";

async fn batched(place: &Place) -> anyhow::Result<Writer> {
    let client = connect(&place.postgres).await?;
    let insert = client.prepare(INSERT).await?;
    let (way, mut rows) = mpsc::unbounded_channel::<Waiting>();
    tokio::spawn(async move {
        let (mut group, mut answers) = (Vec::new(), Vec::new());
        while let Some(first) = rows.recv().await {
            let mut next = Some(first);
            // Those who were just answered get to ask again, so that groups grow as large as there are tasks.
            tokio::task::yield_now().await;
            while let Some((row, answer)) = next {
                group.push(row);
                answers.push(answer);
                next = if group.len() < 1_000 { rows.try_recv().ok() } else { None };
            }
            let done = insert_all(&client, &insert, &group).await.map_err(|error| format!("{error:#}"));
            group.clear();
            answers.drain(..).for_each(|answer| drop(answer.send(done.clone())));
        }
    });
    Ok(Writer::Batched(way))
}

async fn insert_all(client: &Client, insert: &Statement, rows: &[Row]) -> anyhow::Result<()> {
    let accounts: Vec<i64> = rows.iter().map(|row| row.account as i64).collect();
    let versions: Vec<i64> = rows.iter().map(|row| row.version as i64).collect();
    let names: Vec<&str> = rows.iter().map(|row| row.name).collect();
    let payloads: Vec<&[u8]> = rows.iter().map(|row| &*row.payload).collect();
    client.execute(insert, &[&accounts, &versions, &names, &payloads]).await?;
    Ok(())
}

impl<const BATCHED: bool> Contender for Postgres<BATCHED> {
    fn about() -> About {
        About {
            name: if BATCHED { "by-hand-postgres-batched" } else { super::SINGLE[1] },
            store: "PostgreSQL",
            packages: &["tokio-postgres"],
            less: if BATCHED {
                &[
                    "No framework: knows all state, reads nothing, and cannot share the log with another process.",
                    "One connection writes what waits together in one statement.",
                ]
            } else {
                &[
                    "No framework: knows all state, reads nothing, and cannot share the log with another process.",
                    "Each event is a statement and a transaction of its own.",
                ]
            },
        }
    }

    async fn open(place: &Place) -> anyhow::Result<Self> {
        let reader = connect(&place.postgres).await?;
        reader.batch_execute(TABLES).await?;
        let read = "SELECT name, payload FROM events WHERE account = $1 AND version > 0 ORDER BY version";
        let read = reader.prepare(read).await?;
        let writer = if BATCHED { batched(place).await? } else { single(place).await? };
        let summaries = connect(&place.postgres).await?;
        Ok(Self { url: place.postgres.clone(), known: Known::default(), writer, reader, read, summaries })
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
        let rows = self.reader.query_raw(&self.read, [account as i64]).await?;
        let (mut rows, mut balance) = (pin!(rows), None);
        while let Some(row) = rows.try_next().await? {
            balance = Some(Event::decode(row.try_get(0)?, row.try_get(1)?)?.fold(balance)?);
        }
        balance.context("the account is not open")
    }

    async fn stored(&self) -> anyhow::Result<u64> {
        count(&self.url, "events").await
    }

    /// All balances stay in memory. While one page is written, the next one is read.
    async fn project(&self) -> anyhow::Result<Option<()>> {
        let page = "SELECT position, account, name, payload FROM events WHERE position > $1
            ORDER BY position LIMIT 1000";
        let page = self.reader.prepare(page).await?;
        let upsert = "WITH moved AS (UPDATE checkpoint SET position = $3)
            INSERT INTO summary SELECT * FROM UNNEST ($1::bigint[], $2::bigint[])
            ON CONFLICT (account) DO UPDATE SET balance = excluded.balance";
        let upsert = self.summaries.prepare(upsert).await?;
        let mut balances: HashMap<i64, u64> = HashMap::new();
        let mut rows = self.reader.query(&page, &[&0_i64]).await?;
        while let Some(last) = rows.last() {
            let at: i64 = last.try_get(0)?;
            let mut changed = HashSet::new();
            for row in &rows {
                let account: i64 = row.try_get(1)?;
                let event = Event::decode(row.try_get(2)?, row.try_get(3)?)?;
                let balance = event.fold(balances.get(&account).copied())?;
                balances.insert(account, balance);
                changed.insert(account);
            }
            let accounts: Vec<i64> = changed.into_iter().collect();
            let changed: Vec<i64> = accounts.iter().map(|account| balances[account] as i64).collect();
            let write = async { self.summaries.execute(&upsert, &[&accounts, &changed, &at]).await };
            let read = async { self.reader.query(&page, &[&at]).await };
            let (_, next) = tokio::try_join!(write, read)?;
            rows = next;
        }
        Ok(Some(()))
    }

    async fn projected(&self, account: u64) -> anyhow::Result<Option<u64>> {
        let select = "SELECT balance FROM summary WHERE account = $1";
        let row = self.reader.query_opt(select, &[&(account as i64)]).await?;
        Ok(row.map(|row| row.try_get::<_, i64>(0)).transpose()?.map(|balance| balance as u64))
    }

    async fn close(self) -> anyhow::Result<()> {
        Ok(())
    }
}
