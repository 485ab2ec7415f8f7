//! The store of `cqrs` on PostgreSQL: the log, the read models, their checkpoints and the commands'
//! keys, in one schema of a database.
//!
//! ```no_run
//! use cqrs_core::id::Partition;
//! use cqrs_core::store::EventStore;
//! use cqrs_postgres::PostgresStore;
//!
//! # async fn run() -> Result<(), cqrs_core::error::StoreError> {
//! let store = PostgresStore::open("postgres://bank@localhost/bank").await?;
//! let head = store.head(Partition::ONLY).await?;
//! println!("{}", head.position);
//! # Ok(())
//! # }
//! ```
//!
//! Linking this crate makes `Engine::open("postgres://…")` work. PostgreSQL 13 or newer is needed, with a
//! database in UTF-8.
//!
//! # What is promised
//!
//! - **Durable.** What was acknowledged is committed, with whatever `synchronous_commit` and the standbys
//!   of the server promise. A commit whose standby did not answer is told as `Unknown`.
//! - **Any number of processes.** Each append takes the log's lock as the last thing before it checks and
//!   writes, and waits for it as long as [`PostgresBuilder::patience`] says; then it gives `Unavailable`.
//! - **Positions have no gaps**, in the order of commits, so a reader that has seen one never finds
//!   anything new at or below it: also beside long transactions, on a hot standby, and after a dump.
//! - **Group commit.** One task of each partition writes. It takes all appends that wait, checks each
//!   against those before it, and commits them together, in one round trip where each says which version
//!   its stream has, and in two otherwise. Where many wait, they take turns in two halves, so that the server
//!   writes one while this process decides the other. Those that are refused are told, and touch nobody else.
//! - **An answer "it is not there" is final.** An append whose connection was lost while it committed is
//!   told as `Unknown`; before its key or its stream is read on this handle, it is fenced: it has taken
//!   place by then, or never will.
//!
//! Work is done on tasks of the tokio runtime that the store is opened in. They end when the last handle
//! is dropped, after everything that was handed over has been written.

#![forbid(unsafe_code)]

mod append;
mod at_once;
mod credentials;
mod dial;
mod documents;
mod drive;
mod entries;
mod error;
mod fold;
mod guard;
mod inline;
mod known;
mod limit;
mod news;
mod open;
mod plain;
mod read;
mod readers;
mod schema;
mod sent;
mod server;
mod snapshots;
mod statements;
mod tls;
mod turns;
mod url;
mod verify;
mod writer;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cqrs_core::consumer::Database as _;
use cqrs_core::engine::{StoreScheme, Stores};
use cqrs_core::error::{StoreError, StoreErrorKind};
use cqrs_core::id::{Partition, Position, StreamId, Version};
use cqrs_core::read_store::{
    Batch, Checkpoint, Claim, CommitError, Entry, EntryKey, RangeRead, ReadCapabilities, ReadStore, Record,
    RecordContent, check_name,
};
use cqrs_core::store::{
    Append, AppendError, Appended, BoxFuture, Capabilities, CommandKey, EventStore, Guard, Head, Limits,
    LogId, LogRead, LogSlice, Reservation, Snapshot, StreamRead, StreamSlice, TakeEvent, unsupported,
};

// The page's programs are compiled with the tests.
#[cfg(doctest)]
#[doc = include_str!("../../docs/guide/postgres.md")]
struct Guide;

use self::append::Target;
pub use self::credentials::Credentials;
use self::credentials::Passwords;
use self::dial::Dialer;
use self::error::Fault;
use self::guard::number;
use self::news::{Floor, News};
use self::open::{Place, Role, Timeouts};
use self::readers::{Alone, Lanes, Share};
use self::schema::{Meta, Schema};
use self::server::Key;
pub use self::statements::{Postgres, Transaction};
pub use self::verify::Verified;
use self::writer::{Lost, Task, Turn, Writer};
// Of the version that the transaction of a projection is of.
pub use tokio_postgres;

/// A log and its read models in one schema of a PostgreSQL database. A clone is another handle of the
/// same store.
#[derive(Clone, Debug)]
pub struct PostgresStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    place: Arc<Place>,
    meta: Meta,
    limits: Limits,
    writers: Vec<Writer>,
    lost: Arc<Lost>,
    readers: Arc<Lanes>,
    /// Where read models are committed, which may wait for locks.
    keepers: Arc<Lanes>,
    /// Where statements of the user's own run.
    alone: Alone,
    news: Arc<News>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.news.close();
    }
}

impl PostgresStore {
    /// Opens the store that a URL names, and creates it if its schema does not exist or is empty.
    ///
    /// A store of an older schema version is not changed: see [`migrate`](Self::migrate). A store of a newer one
    /// is opened if this program knows enough to read it; if it does not know enough to write to it, every
    /// call that writes fails with [`StoreErrorKind::Unsupported`].
    ///
    /// Beside what `libpq` knows, the URL takes `schema=NAME` (`cqrs` unless set), `partitions=NUMBER`
    /// for a log that is created (1 unless set), and `pgbouncer=true`.
    ///
    /// # Errors
    /// - [`StoreErrorKind::Invalid`]: the URL cannot be understood, the database does not exist, the
    ///   schema is another application's, or the log has another number of partitions.
    /// - [`StoreErrorKind::Unsupported`]: the server is too old, the database is not in UTF-8, the store has
    ///   an older schema version and has to be migrated, or a newer one that this program cannot read.
    /// - [`StoreErrorKind::Corrupt`]: a part of the schema is missing.
    /// - [`StoreErrorKind::Unavailable`]: the server cannot be reached, is full, or is a standby.
    /// - [`StoreErrorKind::Failed`]: the user is not let in, or lacks a right.
    pub async fn open(url: &str) -> Result<Self, StoreError> {
        Self::builder(url).open().await
    }

    /// Migrates the store that a URL names to this program's schema version, and creates it if it does not
    /// exist. A store that needs no migration is left as it is.
    ///
    /// It runs in one transaction, as a user who owns the schema: once, before the first program of a new
    /// release opens the store. Programs of the release before continue to work as far as the guide page
    /// says for the version. For another schema, write it into the URL or use [`PostgresBuilder::migrate`].
    ///
    /// # Errors
    /// As [`open`](Self::open); [`StoreErrorKind::Unavailable`] if other transactions keep a table locked.
    pub async fn migrate(url: &str) -> Result<(), StoreError> {
        Self::builder(url).migrate().await
    }

    /// Returns the statements that [`migrate`](Self::migrate) would run now, for review or for `psql`. The text
    /// is empty if there is nothing to do.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn migration_sql(url: &str) -> Result<String, StoreError> {
        Self::builder(url).migration_sql().await
    }

    /// Gives the log in a schema a new id, and returns it.
    ///
    /// Call it for a copy that continues next to its original, such as a restored backup or a staging database, and
    /// for a log that went back in time. Without it, the copy has the id of the original, and receipts and
    /// checkpoints of one are taken for those of the other. The checkpoints and snapshots in the same schema move to
    /// the new id in the same transaction, so that their read models continue. Receipts of the original, and
    /// checkpoints in other stores, are rejected from then on, because their log has another id.
    ///
    /// Close the programs that use the copy first. One that still has it open is rejected with its next append.
    ///
    /// # Errors
    /// As [`open`](Self::open); [`StoreErrorKind::Invalid`] if the schema has no log;
    /// [`StoreErrorKind::Unavailable`] if an append keeps the log locked.
    pub async fn assign_new_log_id(url: &str) -> Result<LogId, StoreError> {
        Self::builder(url).assign_new_log_id().await
    }

    /// Sets up a store that differs from [`open`](Self::open).
    #[must_use]
    pub fn builder(url: &str) -> PostgresBuilder {
        PostgresBuilder {
            url: url.to_owned(),
            schema: None,
            partitions: None,
            bouncer: false,
            patience: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(30),
            resolve_timeout: Duration::from_secs(10),
            readers: 4,
            limits: Limits::standard(),
            source: None,
        }
    }

    /// Walks through the whole store, and gives what it has seen or the first thing that is wrong, with its
    /// place and a way out: a gap among positions or versions, a stream in a partition that is not its own,
    /// tags or metadata that cannot be read, a table of tags that disagrees with the events, a checkpoint or
    /// a key beyond the log, a snapshot of what the log does not have. Payloads are read, and looked at by
    /// nobody here: what they say is the engine's matter. Damaged pages are found by PostgreSQL's own
    /// checksums and by `pg_amcheck`.
    ///
    /// It reads one snapshot, beside all other work, on a connection of its own, and takes time in proportion
    /// to the log, but not memory. As long as it goes on, the server keeps dead rows that it might see.
    ///
    /// # Errors
    /// [`StoreErrorKind::Corrupt`] with a message that names the fault, or what kept it from reading.
    pub async fn verify(&self) -> Result<Verified, StoreError> {
        let Shared { place, meta, .. } = &*self.shared;
        let (way, meta) = (Arc::clone(place), *meta);
        let walk =
            place.run(async move { verify::verify(&way.connect(Role::Reader, meta).await?, meta).await });
        walk.await.map_err(|fault| fault.told("verify the log"))
    }

    /// Refuses to write to a store of a newer schema version that this program can only read.
    fn writable(&self) -> Result<(), StoreError> {
        let Shared { meta, place, .. } = &*self.shared;
        meta.versions.writable(&place.schema).map_err(|fault| fault.told("write"))
    }

    /// The partition, if it is there.
    fn partition(&self, partition: Partition) -> Result<Partition, StoreError> {
        let partitions = self.shared.meta.partitions;
        if partition.get() < partitions {
            return Ok(partition);
        }
        let message = format!("there is no partition {partition}; this log has {partitions}");
        Err(StoreError::new(StoreErrorKind::Invalid, message))
    }

    /// The one partition that an append is about.
    fn target(&self, append: &Append) -> Result<Partition, StoreError> {
        if self.shared.meta.partitions == 1 {
            return Ok(Partition::ONLY);
        }
        let guarded = guard::clauses(&append.guard).into_iter().filter_map(|clause| match clause {
            Guard::Stream { stream, .. } => Some(stream),
            _ => None,
        });
        let written = append.events.iter().map(|event| &event.stream);
        let mut streams = written.chain(append.key.as_ref().map(|key| &key.stream)).chain(guarded);
        let Some(first) = streams.next() else { return Ok(Partition::ONLY) };
        let partition = self.partition_of(first);
        match streams.find(|stream| self.partition_of(stream) != partition) {
            None => Ok(partition),
            Some(other) => Err(unsupported(format_args!(
                "append atomically across partitions: {first} lies in {partition}, and {other} in {}",
                self.partition_of(other)
            ))),
        }
    }

    fn writer(&self, partition: Partition) -> Result<&Writer, StoreError> {
        let writer = self.shared.writers.get(usize::from(partition.get()));
        writer.ok_or_else(|| unsupported("write to this partition"))
    }

    /// Appends, in a turn that was reserved on its partition if there is one.
    async fn append_on(
        &self,
        turn: Option<(Partition, Turn)>,
        append: Append,
    ) -> Result<Appended, AppendError> {
        self.shared.limits.check(&append)?;
        self.writable()?;
        if let Some(other) = append
            .inline
            .iter()
            .find_map(|consumer| consumer.database().filter(|database| *database != Postgres::NAME))
        {
            return Err(unsupported(format_args!("run a projection on {other}")).into());
        }
        let partition = self.target(&append)?;
        let turn = turn.filter(|(reserved, _)| *reserved == partition).map(|(_, turn)| turn);
        let floor = self.shared.news.head(partition);
        self.writer(partition)?.append_on(turn, append, floor).await
    }

    /// On a connection that nobody shares while the transaction is open. It is put back if it is as it was;
    /// if this future is dropped it is not, and the server rolls back.
    async fn commit_statements(&self, batch: &Batch) -> Result<Result<(), CommitError>, Fault> {
        let Some(handlers) = &batch.handlers else {
            return Err(Fault::corrupt("the batch has no statements"));
        };
        let Shared { place, meta, alone, .. } = &*self.shared;
        let conn = match alone.take() {
            Some(conn) => conn,
            None => place.connect(Role::Guest, *meta).await?,
        };
        let done = documents::commit_statements(&conn, batch, handlers).await;
        let again = match &done {
            Ok(Ok(())) => true,
            Ok(Err(CommitError::Fenced)) => conn.client.batch_execute("ROLLBACK").await.is_ok(),
            // Nobody knows what statements that were refused have done to the session.
            _ => false,
        };
        if again {
            alone.put(conn, Arc::strong_count(&place.server) == 1);
        }
        done
    }

    /// The highest head that was reported of the partition of a stream.
    fn floor(&self, stream: &StreamId) -> Floor {
        Floor::of(&self.shared.news, self.partition_of(stream))
    }

    /// Runs a read that shows a head, which must not fall short of one that was shown before it began.
    async fn forward<T, F>(
        &self,
        doing: &'static str,
        partition: Partition,
        read: impl Fn(Share) -> F + Send + Sync + 'static,
        head: impl Fn(&T) -> Position,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Fault>> + Send + 'static,
    {
        let floor = self.shared.news.head(partition);
        let done = self.shared.readers.read(doing, read).await.map_err(|fault| fault.told(doing))?;
        let head = number(head(&done));
        news::not_rewound(partition, floor, head).map_err(|fault| fault.told(doing))?;
        self.shared.news.seen(partition, head);
        Ok(done)
    }
}

/// Sets up a [`PostgresStore`].
#[derive(Clone)]
pub struct PostgresBuilder {
    url: String,
    schema: Option<String>,
    partitions: Option<u16>,
    bouncer: bool,
    patience: Duration,
    statement_timeout: Duration,
    resolve_timeout: Duration,
    readers: usize,
    limits: Limits,
    source: Option<Arc<credentials::Ask>>,
}

impl std::fmt::Debug for PostgresBuilder {
    // A URL may hold a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PostgresBuilder({})", url::shown_text(&self.url))
    }
}

impl PostgresBuilder {
    /// The schema of the database that holds the store; `cqrs` unless set. Its name has the letters a-z,
    /// digits and `_`.
    #[must_use]
    pub fn schema(mut self, schema: impl Into<String>) -> Self {
        self.schema = Some(schema.into());
        self
    }

    /// Into how many partitions a log is laid out that is created now, at least 1; 1 unless set. Each
    /// has positions, a lock and a writer of its own, and a stream lies in one of them. It cannot be
    /// changed later.
    #[must_use]
    pub fn partitions(mut self, partitions: u16) -> Self {
        self.partitions = Some(partitions);
        self
    }

    /// Whether PgBouncer stands before the server, in its transaction mode. Then nothing is left in a
    /// session: statements are not prepared, which costs the server some time for each, and other
    /// processes' appends are noticed by looking and not by listening.
    #[must_use]
    pub fn pgbouncer(mut self, between: bool) -> Self {
        self.bouncer = between;
        self
    }

    /// How long a call waits for a lock that another session has (default: 5 seconds): an append for other processes
    /// that write, and a read for a commit whose connection was lost. Then it returns
    /// [`Unavailable`](StoreErrorKind::Unavailable).
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// How long one statement takes at most, waiting included (default: 30 seconds, and at least
    /// [`patience`](Self::patience)). PostgreSQL cancels it then. If PostgreSQL does not answer for 5 seconds longer,
    /// the store gives the connection up. A read then returns [`Unavailable`](StoreErrorKind::Unavailable). A commit
    /// that got no answer, such as one that waits for a synchronous standby, is looked for as
    /// [`resolve_timeout`](Self::resolve_timeout) says. [`verify`](PostgresStore::verify) has no such limit.
    #[must_use]
    pub fn statement_timeout(mut self, limit: Duration) -> Self {
        self.statement_timeout = limit;
        self
    }

    /// How long the store tries to find out what became of an append whose connection was lost while it committed
    /// (default: 10 seconds). Within that time it reconnects, makes sure that nothing of the lost connection can still
    /// take effect, and looks for the events: an append that took place returns `Ok`, and one that did not is
    /// made again. After that time the append returns [`Unknown`](StoreErrorKind::Unknown).
    #[must_use]
    pub fn resolve_timeout(mut self, limit: Duration) -> Self {
        self.resolve_timeout = limit;
        self
    }

    /// How many connections read at most, at least 1; 4 unless set. Beside them each partition has one
    /// that writes; read models have two, and one listens while somebody waits.
    #[must_use]
    pub fn readers(mut self, readers: usize) -> Self {
        self.readers = readers;
        self
    }

    /// How large things may be.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Sets a source of credentials. It is called for each new connection, so that a token that expires or a
    /// password that is changed is replaced while the store is open. The password in the URL, `PGPASSWORD` and
    /// password files are not used then.
    ///
    /// A source that fails or does not answer within 10 seconds gives
    /// [`StoreErrorKind::Unavailable`], and is called again for
    /// the next connection.
    ///
    /// ```no_run
    /// # use cqrs_postgres::{Credentials, PostgresStore};
    /// # async fn token() -> Result<String, std::io::Error> { Ok(String::new()) }
    /// # async fn run() -> Result<(), cqrs_core::error::StoreError> {
    /// let url = "postgres://bank@db.example/bank";
    /// let source = || async { Ok(Credentials::password(token().await?)) };
    /// let store = PostgresStore::builder(url).credentials(source).open().await?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn credentials<F>(mut self, source: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<Credentials, Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
    {
        self.source = Some(Arc::new(move || Box::pin(source())));
        self
    }

    /// Opens the store.
    ///
    /// # Errors
    /// As [`PostgresStore::open`].
    pub async fn open(self) -> Result<PostgresStore, StoreError> {
        let doing = format!("open {}", url::shown_text(&self.url));
        self.connect().await.map_err(|fault| fault.told(&doing))
    }

    /// Migrates the store to this program's schema version: see [`PostgresStore::migrate`].
    ///
    /// # Errors
    /// As [`PostgresStore::migrate`].
    pub async fn migrate(self) -> Result<(), StoreError> {
        let doing = format!("migrate {}", url::shown_text(&self.url));
        let migrate = async {
            let (place, partitions) = self.place()?;
            place.migrate(partitions).await
        };
        migrate.await.map_err(|fault| fault.told(&doing))
    }

    /// Assigns a new log id: see [`PostgresStore::assign_new_log_id`].
    ///
    /// # Errors
    /// As [`PostgresStore::assign_new_log_id`].
    pub async fn assign_new_log_id(self) -> Result<LogId, StoreError> {
        let doing = format!("assign a new log id in {}", url::shown_text(&self.url));
        let assign = async {
            let (place, _) = self.place()?;
            place.assign_new_log_id().await
        };
        assign.await.map_err(|fault| fault.told(&doing))
    }

    /// Returns the statements of a migration: see [`PostgresStore::migration_sql`].
    ///
    /// # Errors
    /// As [`PostgresStore::migration_sql`].
    pub async fn migration_sql(self) -> Result<String, StoreError> {
        let doing = format!("plan the migration of {}", url::shown_text(&self.url));
        let plan = async {
            let (place, partitions) = self.place()?;
            place.migration_sql(partitions).await
        };
        plan.await.map_err(|fault| fault.told(&doing))
    }

    /// Where the store is, and the number of partitions that it has to have.
    fn place(&self) -> Result<(Arc<Place>, Option<u16>), Fault> {
        let asked = url::parse(&self.url)?;
        let schema =
            Schema::new(self.schema.as_ref().or(asked.schema.as_ref()).map_or("cqrs", String::as_str))?;
        let bouncer = self.bouncer || asked.bouncer;
        let partitions = self.partitions.or(asked.partitions);
        if partitions == Some(0) {
            return Err(Fault::new(StoreErrorKind::Invalid, "a log has at least one partition"));
        }
        // Whoever has the lock works for milliseconds; these stop one that does not.
        let timeouts = Timeouts {
            lock: self.patience,
            statement: self.statement_timeout.max(self.patience),
            idle: Duration::from_secs(10),
            resolve: self.resolve_timeout,
        };
        let passwords = Passwords { source: self.source.clone(), file: asked.passfile.clone() };
        let dialer = Dialer::new(&asked, passwords)?;
        let key = |config, runtime| Key {
            config,
            ssl: asked.ssl,
            files: asked.files,
            passfile: asked.passfile,
            source: self.source.as_ref().map(|source| Arc::as_ptr(source).addr()),
            bouncer,
            timeouts,
            readers: self.readers,
            runtime,
        };
        let place = Place::new(asked.config, schema, bouncer, timeouts, dialer, key)?;
        Ok((Arc::new(place), partitions))
    }

    async fn connect(self) -> Result<PostgresStore, Fault> {
        let (place, partitions) = self.place()?;
        let meta = place.prepare(partitions).await?;
        let news = Arc::new(News::new(meta.partitions));
        let lost = Arc::new(Lost::default());
        let writers = (0..meta.partitions).map(Partition::new).map(|partition| {
            let (writer, jobs) = Writer::new();
            let target = Target::new(meta.log, partition);
            let (place, news, lost) = (Arc::clone(&place), Arc::clone(&news), Arc::clone(&lost));
            tokio::spawn(Task::new(place, meta, target, news, lost).run(jobs));
            writer
        });
        let writers = writers.collect();
        let server = &place.server;
        server.serves(meta.partitions);
        let readers = Lanes::new(Arc::clone(&place), meta, Role::Reader, &server.readers);
        let keepers = Lanes::new(Arc::clone(&place), meta, Role::Writer, &server.keepers);
        let alone = Alone::default();
        let telling = news::tell(Arc::clone(&news), Arc::clone(&readers), Arc::clone(&place));
        news.keep(tokio::spawn(telling).abort_handle());
        let limits = self.limits;
        let shared = Shared { place, meta, limits, writers, lost, readers, keepers, alone, news };
        Ok(PostgresStore { shared: Arc::new(shared) })
    }
}

fn open_url(url: String) -> BoxFuture<'static, Result<Stores, StoreError>> {
    Box::pin(async move { Ok(Arc::new(PostgresStore::open(&url).await?).into()) })
}

inventory::submit! { StoreScheme { scheme: "postgres", open: open_url } }
inventory::submit! { StoreScheme { scheme: "postgresql", open: open_url } }

impl From<PostgresStore> for Stores {
    fn from(store: PostgresStore) -> Self {
        Arc::new(store).into()
    }
}

impl EventStore for PostgresStore {
    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::none();
        capabilities.partitions = self.shared.meta.partitions;
        capabilities.gapless_positions = true;
        capabilities.multi_stream_append = true;
        capabilities.tags = true;
        capabilities.inline = true;
        capabilities.event_guards = true;
        capabilities.snapshots = true;
        capabilities.reservations = true;
        capabilities
    }

    fn limits(&self) -> Limits {
        self.shared.limits
    }

    fn partition_of(&self, stream: &StreamId) -> Partition {
        self.shared.meta.partition_of(stream)
    }

    fn append(&self, append: Append) -> BoxFuture<'_, Result<Appended, AppendError>> {
        Box::pin(self.append_on(None, append))
    }

    fn reserve(&self, stream: &StreamId) -> BoxFuture<'_, Result<Option<Reservation>, StoreError>> {
        let partition = self.partition_of(stream);
        Box::pin(async move {
            let Shared { keepers, lost, .. } = &*self.shared;
            self.writable()?;
            // A fence would wait for whoever has the turn, and they for what they read behind it.
            lost.settle(keepers).await.map_err(|fault| fault.told(writer::RESERVING))?;
            let turn = self.writer(partition)?.reserve().await?;
            let store = self.clone();
            Ok(Some(Reservation::new(move |append| {
                Box::pin(async move { store.append_on(Some((partition, turn)), append).await })
            })))
        })
    }

    fn find_key(&self, key: &CommandKey) -> BoxFuture<'_, Result<Option<Appended>, StoreError>> {
        let key = key.clone();
        Box::pin(async move {
            let Shared { readers, keepers, lost, meta, .. } = &*self.shared;
            let told = |fault: Fault| fault.told("look a key up");
            if key.key.contains('\0') || key.stream.as_str().contains('\0') {
                return Ok(None);
            }
            lost.settle(keepers).await.map_err(told)?;
            let (log, floor) = (meta.log, self.floor(&key.stream));
            let find = move |conn: Share| {
                let key = key.clone();
                async move { append::find_key(&conn, log, &key, floor).await }
            };
            readers.read("look a key up", find).await.map_err(told)
        })
    }

    fn read_stream(&self, read: StreamRead) -> BoxFuture<'_, Result<StreamSlice, StoreError>> {
        Box::pin(async move {
            let Shared { readers, keepers, lost, .. } = &*self.shared;
            let told = |fault: Fault| fault.told("read a stream");
            lost.settle(keepers).await.map_err(told)?;
            let (partition, floor) = (self.partition_of(&read.stream), self.floor(&read.stream));
            let slice = move |conn: Share| {
                let read = read.clone();
                async move { read::stream(&conn, &read, partition, floor).await }
            };
            readers.read("read a stream", slice).await.map_err(told)
        })
    }

    fn fold_stream<'a>(
        &'a self,
        stream: &'a StreamId,
        from: Version,
        take: &'a mut TakeEvent<'a>,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let Shared { readers, keepers, lost, .. } = &*self.shared;
            let folded = async {
                lost.settle(keepers).await?;
                fold::stream(readers, stream, from, self.floor(stream), take).await
            };
            folded.await.map_err(|fault| fault.told("read a stream"))
        })
    }

    fn read_log(&self, read: LogRead) -> BoxFuture<'_, Result<LogSlice, StoreError>> {
        Box::pin(async move {
            let (partition, log) = (self.partition(read.partition)?, self.shared.meta.log);
            let slice = move |conn: Share| {
                let read = read.clone();
                async move { read::log(&conn, &read, log).await }
            };
            self.forward("read the log", partition, slice, |slice| slice.head.position).await
        })
    }

    fn head(&self, partition: Partition) -> BoxFuture<'_, Result<Head, StoreError>> {
        Box::pin(async move {
            let (partition, log) = (self.partition(partition)?, self.shared.meta.log);
            let head = move |conn: Share| async move { read::head(&conn, log, partition).await };
            self.forward("read the log's head", partition, head, |head| head.position).await
        })
    }

    fn snapshot(
        &self,
        stream: &StreamId,
        fingerprint: u64,
    ) -> BoxFuture<'_, Result<Option<Snapshot>, StoreError>> {
        let stream = stream.clone();
        Box::pin(async move {
            if stream.as_str().contains('\0') {
                return Ok(None);
            }
            let find = move |conn: Share| {
                let stream = stream.clone();
                async move { snapshots::find(&conn, &stream, fingerprint).await }
            };
            self.shared
                .readers
                .read("look a snapshot up", find)
                .await
                .map_err(|fault| fault.told("look a snapshot up"))
        })
    }

    fn save_snapshot(&self, snapshot: Snapshot) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            self.shared.limits.check_snapshot(&snapshot)?;
            self.writable()?;
            let save = move |conn: Share| async move { snapshots::save(&conn, &snapshot).await };
            self.shared
                .keepers
                .write("save a snapshot", save)
                .await
                .map_err(|fault| fault.told("save a snapshot"))
        })
    }

    fn forget_snapshot(&self, stream: &StreamId) -> BoxFuture<'_, Result<(), StoreError>> {
        let stream = stream.clone();
        Box::pin(async move {
            if stream.as_str().contains('\0') {
                return Ok(());
            }
            self.writable()?;
            let forget = move |conn: Share| async move { snapshots::forget(&conn, &stream).await };
            self.shared
                .keepers
                .write("forget a snapshot", forget)
                .await
                .map_err(|fault| fault.told("forget a snapshot"))
        })
    }

    fn wait(&self, partition: Partition, after: Position) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            let Shared { news, readers, place, .. } = &*self.shared;
            if partition.get() < self.shared.meta.partitions && news.head(partition) > number(after) {
                return Ok(());
            }
            // Another process may have moved it, which nobody has told us.
            self.head(partition).await?;
            news.wait(partition, number(after), readers, place).await;
            Ok(())
        })
    }
}

impl ReadStore for PostgresStore {
    fn claim(&self, consumer: &str) -> BoxFuture<'_, Result<Claim, StoreError>> {
        let consumer = consumer.to_owned();
        Box::pin(async move {
            check_name("consumer", &consumer)?;
            self.writable()?;
            let claim = move |conn: Share| async move { documents::claim(&conn, &consumer).await };
            self.shared
                .keepers
                .write("claim a consumer", claim)
                .await
                .map_err(|fault| fault.told("claim a consumer"))
        })
    }

    fn checkpoint(
        &self,
        consumer: &str,
        partition: Partition,
    ) -> BoxFuture<'_, Result<Option<Checkpoint>, StoreError>> {
        let consumer = consumer.to_owned();
        Box::pin(async move {
            let read = move |conn: Share| {
                let consumer = consumer.clone();
                async move { documents::checkpoint(&conn, &consumer, partition).await }
            };
            self.shared
                .readers
                .read("read a checkpoint", read)
                .await
                .map_err(|fault| fault.told("read a checkpoint"))
        })
    }

    fn commit(&self, batch: Batch) -> BoxFuture<'_, Result<(), CommitError>> {
        Box::pin(async move {
            batch.check()?;
            self.writable()?;
            let commit = if batch.handlers.is_some() {
                let store = self.clone();
                self.shared.place.run(async move { store.commit_statements(&batch).await })
            } else {
                let commit = move |conn: Share| async move { documents::commit(&conn, &batch).await };
                self.shared.keepers.write("commit read models", commit)
            };
            commit.await.map_err(|fault| fault.told("commit read models"))?
        })
    }

    fn record(&self, consumer: &str) -> BoxFuture<'_, Result<Record, StoreError>> {
        let consumer = consumer.to_owned();
        Box::pin(async move {
            let read = move |conn: Share| {
                let consumer = consumer.clone();
                async move { documents::record(&conn, &consumer).await }
            };
            let doing = "read a consumer's record";
            self.shared.readers.read(doing, read).await.map_err(|fault| fault.told(doing))
        })
    }

    fn set_record(
        &self,
        consumer: &str,
        expected: u64,
        content: RecordContent,
    ) -> BoxFuture<'_, Result<bool, StoreError>> {
        let consumer = consumer.to_owned();
        Box::pin(async move {
            check_name("consumer", &consumer)?;
            self.writable()?;
            let set = move |conn: Share| async move {
                documents::set_record(&conn, &consumer, expected, &content).await
            };
            let doing = "record what a consumer reads";
            self.shared.keepers.write(doing, set).await.map_err(|fault| fault.told(doing))
        })
    }

    fn reset(&self, consumer: &str) -> BoxFuture<'_, Result<(), StoreError>> {
        let consumer = consumer.to_owned();
        Box::pin(async move {
            check_name("consumer", &consumer)?;
            self.writable()?;
            let reset = move |conn: Share| async move { documents::reset(&conn, &consumer).await };
            let doing = "reset a consumer";
            self.shared.keepers.write(doing, reset).await.map_err(|fault| fault.told(doing))
        })
    }

    fn read_capabilities(&self) -> ReadCapabilities {
        let mut capabilities = ReadCapabilities::none();
        capabilities.records = true;
        capabilities.collections = true;
        capabilities.database = Some(Postgres::NAME);
        capabilities
    }

    fn get(
        &self,
        consumer: &str,
        entries: Vec<EntryKey>,
    ) -> BoxFuture<'_, Result<Vec<Option<Bytes>>, StoreError>> {
        let asked = Arc::new((consumer.to_owned(), entries));
        Box::pin(async move {
            let read = move |conn: Share| {
                let asked = Arc::clone(&asked);
                async move { entries::get(&conn, &asked.0, &asked.1).await }
            };
            self.shared
                .readers
                .read("read documents", read)
                .await
                .map_err(|fault| fault.told("read documents"))
        })
    }

    fn range(&self, range: RangeRead) -> BoxFuture<'_, Result<Vec<Entry>, StoreError>> {
        let range = Arc::new(range);
        Box::pin(async move {
            let read = move |conn: Share| {
                let range = Arc::clone(&range);
                async move { entries::range(&conn, &range).await }
            };
            self.shared
                .readers
                .read("list documents", read)
                .await
                .map_err(|fault| fault.told("list documents"))
        })
    }

    fn count(&self, range: RangeRead) -> BoxFuture<'_, Result<u64, StoreError>> {
        let range = Arc::new(range);
        Box::pin(async move {
            let read = move |conn: Share| {
                let range = Arc::clone(&range);
                async move { entries::count(&conn, &range).await }
            };
            self.shared.readers.read("count entries", read).await.map_err(|fault| fault.told("count entries"))
        })
    }
}
