//! A hot standby of a test's cluster, and a reader of the store's table that works on it.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use cqrs_core::error::{StoreError, StoreErrorKind};
use cqrs_core::event::{EventMeta, Metadata, RecordedEvent, Timestamp};
use cqrs_core::id::{Partition, Position, StreamId, Version};
use cqrs_core::store::{
    Append, AppendError, Appended, BoxFuture, Capabilities, CommandKey, EventStore, Head, Limits, LogId,
    LogRead, LogSlice, StreamRead, StreamSlice, unsupported,
};
use pg_cluster::Server;
use tokio::time::sleep;
use tokio_postgres::{Client, NoTls, Row};
use uuid::Uuid;

/// A standby that streams from a server, and is stopped with it.
#[derive(Debug)]
pub(crate) struct Standby<'a> {
    server: &'a Server,
    data: PathBuf,
    port: u16,
}

impl<'a> Standby<'a> {
    /// Makes one under this name, by which a primary may wait for it.
    pub(crate) fn start(server: &'a Server, name: &str) -> Self {
        let data = server.dir().join(name);
        let port = pg_cluster::free_port().unwrap();
        let primary = server.port().to_string();
        let mut backup = server.program("pg_basebackup");
        backup.arg("-h").arg(server.dir()).args([
            "-p",
            &primary,
            "-U",
            pg_cluster::USER,
            "-R",
            "-X",
            "stream",
        ]);
        backup.args(["-c", "fast", "--no-sync", "-D"]).arg(&data);
        assert!(backup.stdin(Stdio::null()).status().unwrap().success());
        let path = data.join("postgresql.auto.conf");
        let text = std::fs::read_to_string(&path).unwrap();
        let named =
            text.replace("primary_conninfo = '", &format!("primary_conninfo = 'application_name={name} "));
        std::fs::write(&path, format!("{named}port = {port}\nmax_standby_streaming_delay = -1\n")).unwrap();
        let standby = Self { server, data, port };
        standby.ctl(&["-w", "-t", "180", "start"]);
        standby
    }

    fn ctl(&self, arguments: &[&str]) {
        let mut ctl = self.server.program("pg_ctl");
        ctl.arg("-D").arg(&self.data).arg("-l").arg(self.data.with_extension("log")).args(arguments);
        let quiet = ctl.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        assert!(quiet.status().unwrap().success(), "pg_ctl {arguments:?} on the standby");
    }

    /// Makes it a primary.
    pub(crate) fn promote(&self) {
        self.ctl(&["-w", "-t", "180", "promote"]);
    }

    pub(crate) fn url(&self) -> String {
        let (user, password) = (pg_cluster::USER, pg_cluster::PASSWORD);
        format!("postgres://{user}:{password}@127.0.0.1:{}/postgres", self.port)
    }
}

impl Drop for Standby<'_> {
    fn drop(&mut self) {
        let mut ctl = self.server.program("pg_ctl");
        ctl.arg("-D").arg(&self.data).args(["-m", "immediate", "-w", "stop"]);
        let _ = ctl.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}

/// Reads the events of a store by position, and nothing else: one statement, as any program could.
#[derive(Debug)]
pub(crate) struct Prefix {
    url: String,
    schema: String,
    log: LogId,
    client: tokio::sync::Mutex<Option<Arc<Client>>>,
}

impl Prefix {
    pub(crate) fn new(url: &str, schema: &str, log: LogId) -> Arc<Self> {
        let (url, schema) = (url.to_owned(), schema.to_owned());
        Arc::new(Self { url, schema, log, client: tokio::sync::Mutex::default() })
    }

    async fn client(&self) -> Result<Arc<Client>, tokio_postgres::Error> {
        let mut held = self.client.lock().await;
        match &*held {
            Some(client) if !client.is_closed() => Ok(Arc::clone(client)),
            _ => {
                let (client, connection) = tokio_postgres::connect(&self.url, NoTls).await?;
                tokio::spawn(connection);
                Ok(Arc::clone(held.insert(Arc::new(client))))
            }
        }
    }

    async fn read(&self, read: &LogRead) -> Result<LogSlice, tokio_postgres::Error> {
        let select = format!(
            "SELECT h.head, e.position, e.stream, e.version, e.name, e.payload
             FROM (SELECT coalesce(max(position), 0) AS head FROM {0}.events WHERE partition = $3) h
             LEFT JOIN LATERAL (SELECT * FROM {0}.events WHERE partition = $3 AND position > $1
                                ORDER BY position LIMIT $2) e ON true ORDER BY e.position",
            self.schema
        );
        let (after, limit) = (read.after.get().cast_signed(), read.limit as i64);
        let partition = i32::from(read.partition.get());
        let rows = self.client().await?.query(&select, &[&after, &limit, &partition]).await?;
        let head = rows.first().map_or(0, |row| row.get::<_, i64>(0)).cast_unsigned();
        let mut events: Vec<_> = rows.iter().filter_map(|row| event(row, read.partition)).collect();
        let to = events.last().map_or(read.after, |event: &Arc<RecordedEvent>| event.meta.position);
        events.retain(|event| read.query.matches(&event.name, &event.tags));
        let head = Head { log: self.log, position: Position::new(head), event: None };
        Ok(LogSlice { events, read_to: to, read_to_event: None, after_event: None, head })
    }
}

fn event(row: &Row, partition: Partition) -> Option<Arc<RecordedEvent>> {
    let meta = EventMeta {
        id: Uuid::nil(),
        position: Position::new(row.get::<_, Option<i64>>(1)?.cast_unsigned()),
        stream: row.get::<_, &str>(2).parse().unwrap(),
        version: Version::new(row.get::<_, i64>(3).cast_unsigned()),
        partition,
        time: Timestamp::from_micros(0),
        metadata: Arc::new(Metadata::new()),
    };
    let (name, payload) = (row.get::<_, String>(4), row.get::<_, Vec<u8>>(5));
    let (name, payload, tags) = (name.into(), payload.into(), [].into_iter().collect());
    Some(Arc::new(RecordedEvent { meta, name, schema_version: 1, payload, tags }))
}

#[allow(clippy::needless_pass_by_value, reason = "it stands in `map_err`")]
fn told(error: tokio_postgres::Error) -> StoreError {
    StoreError::new(StoreErrorKind::Unavailable, error.to_string())
}

impl EventStore for Prefix {
    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::none();
        capabilities.gapless_positions = true;
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

    fn append(&self, _: Append) -> BoxFuture<'_, Result<Appended, AppendError>> {
        Box::pin(async { Err(unsupported("append").into()) })
    }

    fn find_key(&self, _: &CommandKey) -> BoxFuture<'_, Result<Option<Appended>, StoreError>> {
        Box::pin(async { Err(unsupported("look a key up")) })
    }

    fn read_stream(&self, _: StreamRead) -> BoxFuture<'_, Result<StreamSlice, StoreError>> {
        Box::pin(async { Err(unsupported("read a stream")) })
    }

    fn read_log(&self, read: LogRead) -> BoxFuture<'_, Result<LogSlice, StoreError>> {
        Box::pin(async move { self.read(&read).await.map_err(told) })
    }

    fn head(&self, _: Partition) -> BoxFuture<'_, Result<Head, StoreError>> {
        Box::pin(async { Err(unsupported("show its head")) })
    }

    fn wait(&self, _: Partition, _: Position) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async {
            sleep(Duration::from_millis(3)).await;
            Ok(())
        })
    }
}
