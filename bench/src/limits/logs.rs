//! Logs by hand that are guarded by tags: a table of events and one of their tags.

use std::path::PathBuf;
use std::pin::pin;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::SinkExt as _;
use rusqlite::Connection;
use tokio_postgres::{Client, Statement};

use super::{postgres, sqlite};
use crate::contender::{About, Place};
use crate::growth::{Log, PAYLOAD, STREAMS, common, own, some};

const POSTGRES_TABLES: &str = r#"
    CREATE TABLE events (position bigint PRIMARY KEY, stream bigint NOT NULL, payload bytea NOT NULL);
    CREATE TABLE tags (
        tag text COLLATE "C" NOT NULL, position bigint NOT NULL, PRIMARY KEY (tag, position)
    );"#;

/// With `COPY`, it grows by pages of 10,000 that are copied in; without, by inserts of 1,000 rows each.
pub struct Postgres<const COPY: bool> {
    url: String,
    client: Client,
    insert: [Statement; 2],
    append: Statement,
    events: u64,
}

impl<const COPY: bool> Postgres<COPY> {
    async fn copy(&mut self, to: u64) -> anyhow::Result<()> {
        let transaction = self.client.transaction().await?;
        let events = (self.events..to)
            .map(|number| format!("{number}\t{}\t\\\\x{}\n", number % STREAMS, hex(PAYLOAD)));
        let tags = (self.events..to)
            .flat_map(|number| [common(), some(number)].map(|tag| format!("{tag}\t{number}\n")));
        for (table, rows) in [("events", events.collect::<String>()), ("tags", tags.collect())] {
            let sink = transaction.copy_in(&format!("COPY {table} FROM STDIN")).await?;
            let mut sink = pin!(sink);
            sink.send(Bytes::from(rows)).await?;
            sink.finish().await?;
        }
        transaction.commit().await?;
        self.events = to;
        Ok(())
    }

    async fn insert(&mut self, to: u64) -> anyhow::Result<()> {
        let positions: Vec<i64> = (self.events..to).map(|number| number as i64).collect();
        let streams: Vec<i64> = (self.events..to).map(|number| (number % STREAMS) as i64).collect();
        let payloads = vec![PAYLOAD; positions.len()];
        let tags: Vec<String> = (self.events..to).flat_map(|number| [common(), some(number)]).collect();
        let tagged: Vec<i64> = positions.iter().flat_map(|&position| [position; 2]).collect();
        let transaction = self.client.transaction().await?;
        let [events_insert, tags_insert] = &self.insert;
        // Sent together: the second does not wait for the first one's answer.
        let events: [&(dyn tokio_postgres::types::ToSql + Sync); 3] = [&positions, &streams, &payloads];
        let tags: [&(dyn tokio_postgres::types::ToSql + Sync); 2] = [&tags, &tagged];
        tokio::try_join!(
            transaction.execute(events_insert, &events),
            transaction.execute(tags_insert, &tags)
        )?;
        transaction.commit().await?;
        self.events = to;
        Ok(())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl<const COPY: bool> Log for Postgres<COPY> {
    fn about() -> About {
        About {
            name: if COPY { "by-hand-postgres-copy" } else { "by-hand-postgres-unnest" },
            store: "PostgreSQL",
            packages: &["tokio-postgres"],
            less: if COPY {
                &["No framework, no versions of streams, one writer.", "Grows by COPY of 10,000 rows."]
            } else {
                &["No framework, no versions of streams, one writer.", "Grows by UNNEST of 1,000 rows."]
            },
        }
    }

    async fn open(place: &Place) -> anyhow::Result<Self> {
        let client = postgres::connect(&place.postgres).await?;
        client.batch_execute(POSTGRES_TABLES).await?;
        let insert = [
            client
                .prepare("INSERT INTO events SELECT * FROM UNNEST ($1::bigint[], $2::bigint[], $3::bytea[])")
                .await?,
            client.prepare("INSERT INTO tags SELECT * FROM UNNEST ($1::text[], $2::bigint[])").await?,
        ];
        // The rarer tag first, as a guard has to look.
        let append = "
            WITH new AS (
                INSERT INTO events SELECT $1, 0, $2 WHERE NOT EXISTS (
                    SELECT FROM tags a JOIN tags b USING (position) WHERE a.tag = $4 AND b.tag = $3
                ) RETURNING position
            ), tagged AS (INSERT INTO tags SELECT tag, position FROM new, UNNEST (ARRAY[$3::text, $4]) tag)
            SELECT position FROM new";
        let append = client.prepare(append).await?;
        Ok(Self { url: place.postgres.clone(), client, insert, append, events: 0 })
    }

    async fn grow(&mut self, events: u64, time: Duration) -> anyhow::Result<u64> {
        let begun = Instant::now();
        while self.events < events && begun.elapsed() < time {
            if COPY {
                self.copy(events.min(self.events + 10_000)).await?;
            } else {
                self.insert(events.min(self.events + 1_000)).await?;
            }
        }
        Ok(self.events)
    }

    async fn append(&mut self, number: u64) -> anyhow::Result<bool> {
        let position = self.events as i64;
        let done =
            self.client.query_opt(&self.append, &[&position, &PAYLOAD, &common(), &own(number)]).await?;
        self.events += u64::from(done.is_some());
        Ok(done.is_some())
    }

    async fn stored(&self) -> anyhow::Result<u64> {
        postgres::count(&self.url, "events").await
    }

    fn expected(&self) -> u64 {
        self.events
    }
}

const SQLITE_TABLES: &str = "
    CREATE TABLE events (position INTEGER PRIMARY KEY, stream INTEGER NOT NULL, payload BLOB NOT NULL);
    CREATE TABLE tags (tag TEXT NOT NULL, position INTEGER NOT NULL, PRIMARY KEY (tag, position)) WITHOUT ROWID;";

pub struct Sqlite {
    file: PathBuf,
    conn: std::sync::Mutex<Connection>,
    events: u64,
}

impl Sqlite {
    fn conn(&mut self) -> &mut Connection {
        self.conn.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn insert(&mut self, to: u64) -> anyhow::Result<()> {
        let numbers = self.events..to;
        let transaction = self.conn().transaction()?;
        for number in numbers {
            row(&transaction, number, [common(), some(number)])?;
        }
        transaction.commit()?;
        self.events = to;
        Ok(())
    }
}

fn row(conn: &Connection, position: u64, tags: [String; 2]) -> anyhow::Result<()> {
    let mut event = conn.prepare_cached("INSERT INTO events VALUES (?1, ?2, ?3)")?;
    event.execute((position as i64, (position % STREAMS) as i64, PAYLOAD))?;
    let mut tag = conn.prepare_cached("INSERT INTO tags VALUES (?1, ?2)")?;
    for text in tags {
        tag.execute((text, position as i64))?;
    }
    Ok(())
}

impl Log for Sqlite {
    fn about() -> About {
        About {
            name: "by-hand-sqlite-log",
            store: "SQLite",
            packages: &["rusqlite"],
            less: &[
                "No framework, no versions of streams, one writer.",
                "Grows by transactions of 1,000 rows.",
            ],
        }
    }

    async fn open(place: &Place) -> anyhow::Result<Self> {
        let file = place.dir.join("log.db");
        let conn = sqlite::connect(&file)?;
        conn.execute_batch(SQLITE_TABLES)?;
        Ok(Self { file, conn: conn.into(), events: 0 })
    }

    async fn grow(&mut self, events: u64, time: Duration) -> anyhow::Result<u64> {
        let begun = Instant::now();
        while self.events < events && begun.elapsed() < time {
            self.insert(events.min(self.events + 1_000))?;
        }
        Ok(self.events)
    }

    async fn append(&mut self, number: u64) -> anyhow::Result<bool> {
        let position = self.events;
        let transaction = self.conn().transaction()?;
        let guard = "SELECT EXISTS (SELECT 1 FROM tags a JOIN tags b USING (position)
            WHERE a.tag = ?1 AND b.tag = ?2)";
        let there: bool =
            transaction.prepare_cached(guard)?.query_row((own(number), common()), |row| row.get(0))?;
        if !there {
            row(&transaction, position, [common(), own(number)])?;
        }
        transaction.commit()?;
        self.events += u64::from(!there);
        Ok(!there)
    }

    async fn stored(&self) -> anyhow::Result<u64> {
        sqlite::count(&self.file, "events")
    }

    fn expected(&self) -> u64 {
        self.events
    }
}
