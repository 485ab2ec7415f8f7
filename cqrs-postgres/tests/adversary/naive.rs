//! Three protocols of the field that lose events, as small as the adversary needs them. Each writes some
//! rows of the user first, takes a position from a sequence, and commits a while later.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use cqrs_core::error::{StoreError, StoreErrorKind};
use cqrs_core::event::{EventMeta, Metadata, RecordedEvent, Timestamp};
use cqrs_core::id::{Partition, Position, StreamId, Version};
use cqrs_core::store::{
    Append, AppendError, Appended, BoxFuture, Capabilities, CommandKey, Conflict, EventStore, Found, Guard,
    Head, Limits, LogId, LogRead, LogSlice, StreamRead, StreamSlice,
};
use tokio::time::sleep;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row, Transaction};
use uuid::Uuid;

use crate::support::connect;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// `position > checkpoint`, and nothing else.
    Position,
    /// At a gap a reader waits for 50 ms, and then goes past it.
    GapAndTimeout,
    /// Only what is older than the oldest transaction that is under way; the checkpoint is a position.
    XminHorizon,
}

const GAP: Duration = Duration::from_millis(50);
const CONNECTIONS: usize = 12;

#[derive(Debug)]
pub(crate) struct Naive {
    protocol: Protocol,
    schema: String,
    log: LogId,
    readers: Vec<Client>,
    writers: Vec<tokio::sync::Mutex<Client>>,
    turn: AtomicU64,
    /// Gaps, and when they were seen first.
    gaps: Mutex<HashMap<i64, Instant>>,
}

#[allow(clippy::needless_pass_by_value, reason = "it stands in `map_err`")]
fn told(error: tokio_postgres::Error) -> StoreError {
    StoreError::new(StoreErrorKind::Unavailable, error.to_string())
}

impl Naive {
    pub(crate) async fn create(url: &str, schema: &str, protocol: Protocol) -> Arc<Self> {
        let mut connections = Vec::new();
        for _ in 0..2 * CONNECTIONS {
            connections.push(connect(url).await);
        }
        let tables = format!(
            "CREATE SCHEMA {schema};
             CREATE TABLE {schema}.own (xid xid8);
             CREATE TABLE {schema}.keys (key text PRIMARY KEY, position bigint);
             CREATE TABLE {schema}.events (position bigserial PRIMARY KEY, xid xid8 DEFAULT pg_current_xact_id(),
                stream text, version bigint, name text, payload text, UNIQUE (stream, version))"
        );
        connections[0].batch_execute(&tables).await.unwrap();
        let writers = connections.split_off(CONNECTIONS).into_iter().map(tokio::sync::Mutex::new).collect();
        Arc::new(Self {
            protocol,
            schema: schema.to_owned(),
            log: LogId(Uuid::new_v4()),
            readers: connections,
            writers,
            turn: AtomicU64::new(0),
            gaps: Mutex::default(),
        })
    }

    fn next(&self) -> u64 {
        self.turn.fetch_add(1, Ordering::Relaxed)
    }

    fn reader(&self) -> &Client {
        &self.readers[self.next() as usize % CONNECTIONS]
    }

    /// What a user's own statements take.
    async fn pause(&self) {
        let turn = self.next();
        let long = if turn.is_multiple_of(40) { 2 * GAP } else { Duration::ZERO };
        sleep(long + Duration::from_millis(turn % 7)).await;
    }

    async fn write(&self, append: &Append) -> Result<Appended, AppendError> {
        let mut client = self.writers[self.next() as usize % CONNECTIONS].lock().await;
        let transaction = client.transaction().await.map_err(told)?;
        let schema = &self.schema;
        let own = format!("INSERT INTO {schema}.own VALUES (pg_current_xact_id())");
        transaction.execute(&own, &[]).await.map_err(told)?;
        self.pause().await;
        self.check(&transaction, append).await?;
        let (mut position, mut versions) = (0, Vec::new());
        for event in &append.events {
            let insert = format!(
                "INSERT INTO {schema}.events (stream, version, name, payload)
                 SELECT $1, 1 + coalesce(max(version), 0), $2, $3 FROM {schema}.events WHERE stream = $1
                 RETURNING position, version"
            );
            let payload = String::from_utf8_lossy(&event.payload);
            let values: [&(dyn ToSql + Sync); 3] = [&event.stream.as_str(), &&*event.name, &&*payload];
            let row = transaction.query_one(&insert, &values).await.map_err(told)?;
            position = row.get::<_, i64>(0);
            versions.retain(|(stream, _)| *stream != event.stream);
            versions.push((event.stream.clone(), Version::new(row.get::<_, i64>(1).cast_unsigned())));
        }
        if let Some(key) = &append.key {
            let insert = format!("INSERT INTO {schema}.keys VALUES ($1, $2)");
            transaction.execute(&insert, &[&key.key, &position]).await.map_err(told)?;
        }
        self.pause().await;
        transaction.commit().await.map_err(told)?;
        Ok(self.appended(position, versions))
    }

    fn appended(&self, position: i64, versions: Vec<(StreamId, Version)>) -> Appended {
        let position = Position::new(position.cast_unsigned());
        Appended { log: self.log, partition: Partition::ONLY, position, event: None, versions, owner: None }
    }

    /// The key and the guard, of which the adversary uses the plain ones.
    async fn check(&self, transaction: &Transaction<'_>, append: &Append) -> Result<(), AppendError> {
        if let Some(key) = &append.key {
            let select = format!("SELECT position FROM {}.keys WHERE key = $1", self.schema);
            if let Some(row) = transaction.query_opt(&select, &[&key.key]).await.map_err(told)? {
                return Err(AppendError::Duplicate(self.appended(row.get(0), Vec::new())));
            }
        }
        let Guard::Stream { stream, expected } = &append.guard else { return Ok(()) };
        let select = self.version();
        let row = transaction.query_one(&select, &[&stream.as_str()]).await.map_err(told)?;
        let version = Version::new(row.get::<_, i64>(0).cast_unsigned());
        match expected.holds(version) {
            true => Ok(()),
            false => Err(Conflict { clause: append.guard.clone(), found: Found::Version(version) }.into()),
        }
    }

    fn version(&self) -> String {
        format!("SELECT coalesce(max(version), 0) FROM {}.events WHERE stream = $1", self.schema)
    }

    async fn read(&self, read: &LogRead) -> Result<LogSlice, StoreError> {
        let horizon = match self.protocol {
            Protocol::XminHorizon => "xid < pg_snapshot_xmin(pg_current_snapshot())",
            Protocol::Position | Protocol::GapAndTimeout => "true",
        };
        let after = read.after.get().cast_signed();
        let up_to = read.up_to.map_or(i64::MAX, |to| to.get().cast_signed());
        let select = format!(
            "SELECT position, stream, version, name, payload FROM {}.events
             WHERE {horizon} AND position > $1 AND position <= $2 ORDER BY position LIMIT 300",
            self.schema
        );
        let head = self.head(read.partition).await?;
        let rows = self.reader().query(&select, &[&after, &up_to]).await.map_err(told)?;
        let mut events: Vec<_> = rows.iter().map(event).collect();
        if self.protocol == Protocol::GapAndTimeout {
            self.stop_at_a_gap(after, &mut events);
        }
        let to = events.last().map_or(read.after, |event| event.meta.position);
        events.retain(|event| read.query.matches(&event.name, &event.tags));
        Ok(LogSlice { events, read_to: to, read_to_event: None, after_event: None, head })
    }

    fn stop_at_a_gap(&self, after: i64, events: &mut Vec<Arc<RecordedEvent>>) {
        let mut gaps = self.gaps.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = after + 1;
        let mut open = false;
        events.retain(|event| {
            let at = event.meta.position.get().cast_signed();
            open |= (next..at).any(|gap| gaps.entry(gap).or_insert_with(Instant::now).elapsed() < GAP);
            next = at + 1;
            !open
        });
    }
}

fn event(row: &Row) -> Arc<RecordedEvent> {
    let meta = EventMeta {
        id: Uuid::nil(),
        stream: row.get::<_, &str>(1).parse().unwrap(),
        version: Version::new(row.get::<_, i64>(2).cast_unsigned()),
        partition: Partition::ONLY,
        position: Position::new(row.get::<_, i64>(0).cast_unsigned()),
        time: Timestamp::from_micros(0),
        metadata: Arc::new(Metadata::new()),
    };
    let (name, payload) = (row.get::<_, String>(3), row.get::<_, String>(4));
    Arc::new(RecordedEvent {
        meta,
        name: name.into(),
        schema_version: 1,
        payload: payload.into(),
        tags: [].into_iter().collect(),
    })
}

impl EventStore for Naive {
    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::none();
        capabilities.multi_stream_append = true;
        capabilities.inline = true;
        capabilities.event_guards = true;
        capabilities.snapshots = true;
        capabilities.reservations = true;
        capabilities
    }

    fn limits(&self) -> Limits {
        Limits::standard()
    }

    fn partition_of(&self, _: &StreamId) -> Partition {
        Partition::ONLY
    }

    fn append(&self, append: Append) -> BoxFuture<'_, Result<Appended, AppendError>> {
        Box::pin(async move { self.write(&append).await })
    }

    fn find_key(&self, _: &CommandKey) -> BoxFuture<'_, Result<Option<Appended>, StoreError>> {
        Box::pin(async { Ok(None) })
    }

    fn read_stream(&self, read: StreamRead) -> BoxFuture<'_, Result<StreamSlice, StoreError>> {
        Box::pin(async move {
            let row = self.reader().query_one(&self.version(), &[&read.stream.as_str()]).await;
            let version = row.map_err(told)?.get::<_, i64>(0);
            Ok(StreamSlice { events: Vec::new(), version: Version::new(version.cast_unsigned()) })
        })
    }

    fn read_log(&self, read: LogRead) -> BoxFuture<'_, Result<LogSlice, StoreError>> {
        Box::pin(async move { self.read(&read).await })
    }

    fn head(&self, _: Partition) -> BoxFuture<'_, Result<Head, StoreError>> {
        Box::pin(async move {
            let select = format!("SELECT coalesce(max(position), 0) FROM {}.events", self.schema);
            let row = self.reader().query_one(&select, &[]).await.map_err(told)?;
            let position = Position::new(row.get::<_, i64>(0).cast_unsigned());
            Ok(Head { log: self.log, position, event: None })
        })
    }

    fn wait(&self, _: Partition, _: Position) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async {
            sleep(Duration::from_millis(3)).await;
            Ok(())
        })
    }
}
