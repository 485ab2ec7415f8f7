//! The stores of this framework as logs that are guarded by tags.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cqrs::context::{IdSource as _, TimeOrderedIds};
use cqrs::event::{Metadata, NewEvent, Tag};
use cqrs::postgres::PostgresStore;
use cqrs::sqlite::SqliteStore;
use cqrs::store::{Append, AppendError, EventStore, Guard, Query};
use cqrs::{StreamId, Timestamp};

use crate::contender::{About, Place};
use crate::growth::{Log, PAYLOAD, STREAMS, common, own, some};
use crate::limits;

/// A store, and how many events it has acknowledged.
struct Grown<S> {
    store: S,
    ids: TimeOrderedIds,
    events: u64,
}

impl<S: EventStore> Grown<S> {
    fn new(store: S) -> Self {
        Self { store, ids: TimeOrderedIds::default(), events: 0 }
    }

    fn event(&self, stream: &StreamId, tags: &[String; 2]) -> NewEvent {
        let time = Timestamp::now();
        NewEvent {
            id: self.ids.next(time),
            stream: stream.clone(),
            name: "Enrolled".into(),
            schema_version: 1,
            payload: Bytes::from_static(PAYLOAD),
            tags: tags.iter().map(|tag| Tag::from(&**tag)).collect(),
            time,
            metadata: Arc::new(Metadata::new()),
        }
    }

    async fn grow(&mut self, events: u64, time: Duration) -> anyhow::Result<u64> {
        let begun = Instant::now();
        while self.events < events && begun.elapsed() < time {
            let to = events.min(self.events + 1_000);
            let page = (self.events..to).map(|number| {
                let stream = StreamId::new("Course", &(number % STREAMS))?;
                Ok(self.event(&stream, &[common(), some(number)]))
            });
            let page = page.collect::<anyhow::Result<Vec<_>>>()?;
            self.store.append(Append::new(page, Guard::Any)).await?;
            self.events = to;
        }
        Ok(self.events)
    }

    async fn append(&mut self, number: u64) -> anyhow::Result<bool> {
        let stream = StreamId::new("New", &number)?;
        let event = self.event(&stream, &[common(), own(number)]);
        let guard = Guard::Absent(Query::tags([common(), own(number)].iter().map(|tag| Tag::from(&**tag))));
        match self.store.append(Append::new(vec![event], guard)).await {
            Ok(_) => {
                self.events += 1;
                Ok(true)
            }
            Err(AppendError::Conflict(_)) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

const LESS: [&str; 1] = ["Each event has an id, a time, a name, metadata and a schema version, too."];

macro_rules! log {
    (
        $log:ident, $name:literal on $database:literal,
        open($place:ident) $open:block, stored($self:ident) $stored:block
    ) => {
        impl Log for $log {
            fn about() -> About {
                About { name: $name, store: $database, packages: &["cqrs"], less: &LESS }
            }
            async fn open($place: &Place) -> anyhow::Result<Self> {
                $open
            }
            async fn grow(&mut self, events: u64, time: Duration) -> anyhow::Result<u64> {
                self.log.grow(events, time).await
            }
            async fn append(&mut self, number: u64) -> anyhow::Result<bool> {
                self.log.append(number).await
            }
            async fn stored(&$self) -> anyhow::Result<u64> {
                $stored
            }
            fn expected(&self) -> u64 {
                self.log.events
            }
        }
    };
}

pub struct Sqlite {
    log: Grown<SqliteStore>,
    file: PathBuf,
}

log! {
    Sqlite, "cqrs-sqlite" on "SQLite",
    open(place) {
        let file = place.dir.join("log.db");
        Ok(Self { log: Grown::new(SqliteStore::open(&file).await?), file })
    },
    stored(self) { limits::sqlite::count(&self.file, "cqrs_events") }
}

pub struct Postgres {
    log: Grown<PostgresStore>,
    url: String,
}

log! {
    Postgres, "cqrs-postgres" on "PostgreSQL",
    open(place) {
        let url = place.postgres.clone();
        Ok(Self { log: Grown::new(PostgresStore::open(&url).await?), url })
    },
    stored(self) { limits::postgres::count(&self.url, "cqrs.events").await }
}
