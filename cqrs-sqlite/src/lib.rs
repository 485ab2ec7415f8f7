//! A `cqrs` store in one SQLite file: the log, the read models, their checkpoints, and idempotency keys. It needs no
//! server.
//!
//! ```
//! use cqrs_core::id::Partition;
//! use cqrs_core::store::EventStore;
//! use cqrs_sqlite::SqliteStore;
//!
//! # tokio::runtime::Runtime::new()?.block_on(async {
//! # let dir = tempfile::tempdir()?;
//! # let path = dir.path().join("bank.db");
//! let store = SqliteStore::open(&path).await?;
//! let head = store.head(Partition::ONLY).await?;
//! assert_eq!(head.position.get(), 0);
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```
//!
//! Linking this crate makes `Engine::open("sqlite:bank.db")` work.
//!
//! # Guarantees
//!
//! - **Durability.** An acknowledged write survives a crash of the process at any point. It survives a power failure
//!   if the disk keeps what it has confirmed (`synchronous=FULL` with a WAL).
//! - **One file, several processes** on one machine. Each append takes SQLite's write lock and waits for it up to
//!   [`SqliteBuilder::patience`]; then it fails with `Unavailable`. Network file systems are not supported, because
//!   their locks are not reliable.
//! - **Group commit.** One thread writes. It takes all pending appends and read-model commits, checks each against
//!   those before it, and commits them together. A rejected write does not affect the others.
//! - **Readers never wait for the writer**, and the writer never waits for readers.
//! - **Positions have no gaps** and follow the order of commits. There is one partition.
//! - **File identity.** If the open file is deleted, moved, replaced, or overwritten, calls fail with `Corrupt`. So
//!   does opening a file that was copied without its WAL.
//!
//! A file that is restored from a backup while it is closed keeps its log id, and the store cannot detect that it went
//! back in time. Call [`SqliteStore::assign_new_log_id`] after such a restore.
//!
//! The store works on its own threads. It needs no particular runtime, and no read or write waits for a future that is
//! not polled. After the last handle is dropped, the threads finish all queued writes, write the WAL back, and stop.

#![forbid(unsafe_code)]

/// The driver, for the statements of SQL projections.
pub use rusqlite;

mod append;
mod cache;
mod checkpoint;
mod documents;
mod entries;
mod error;
mod file;
mod fold;
mod guard;
mod head;
mod inline;
mod open;
mod read;
mod readers;
mod schema;
mod snapshots;
mod statements;
mod verify;
mod wal;
mod writer;

use std::fmt;
use std::path::{Path, PathBuf};
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
    Append, AppendError, Appended, BoxFuture, Capabilities, CommandKey, EventStore, Head, Limits, LogId,
    LogRead, LogSlice, Reservation, Snapshot, StreamRead, StreamSlice, TakeEvent,
};
use tokio::sync::oneshot;

// Compiles and runs the programs of the guide page as doc tests.
#[cfg(doctest)]
#[doc = include_str!("../../docs/guide/sqlite.md")]
struct Guide;

use self::documents::{Claiming, Recording, Resetting};
use self::error::Fault;
use self::guard::number;
use self::head::HeadWatch;
use self::open::Location;
use self::readers::Readers;
use self::snapshots::Forgetting;
pub use self::statements::{Sqlite, Transaction};
pub use self::verify::Verified;
use self::writer::{Thread, Turn, Writer};

/// A log and its read models in one SQLite file. Clones share the same store.
#[derive(Clone, Debug)]
pub struct SqliteStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    location: Location,
    log: LogId,
    limits: Limits,
    writer: Writer,
    readers: Arc<Readers>,
    head_watch: Arc<HeadWatch>,
}

impl Shared {
    /// Appends, in a reserved turn if there is one.
    async fn append(&self, turn: Option<Turn>, append: Append) -> Result<Appended, AppendError> {
        self.limits.check(&append)?;
        self.writer.write_in(turn, append).await
    }

    /// Runs a read that does not include the log's end, after checking that the log was not rewound.
    fn read<T: Send + 'static>(
        &self,
        doing: &'static str,
        read: impl FnOnce(&rusqlite::Connection) -> Result<T, Fault> + Send + 'static,
    ) -> impl Future<Output = Result<T, StoreError>> + Send {
        let floor = self.head_watch.head();
        self.readers.read(doing, move |conn| {
            read::check_not_rewound(conn, floor)?;
            read(conn)
        })
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.readers.close();
        self.head_watch.close();
    }
}

impl SqliteStore {
    /// Opens the store in a file, and creates it if the file is missing or empty.
    ///
    /// # Errors
    /// - [`StoreErrorKind::Invalid`]: the path is a URI or not a regular file, its parent directory does not exist, the
    ///   file has several hard links, or it is another application's database.
    /// - [`StoreErrorKind::Unsupported`]: the tables have an older version and must be [migrated](Self::migrate), or a
    ///   newer version that this program cannot read; or the file system does not support a WAL.
    /// - [`StoreErrorKind::Corrupt`]: the file is damaged or not a database, or its WAL is missing.
    /// - [`StoreErrorKind::Unavailable`]: another process keeps the file locked.
    /// - [`StoreErrorKind::Failed`]: the file cannot be read or written.
    ///
    /// A rejected file is not changed.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        Self::builder(path).open().await
    }

    /// Migrates the tables of a file to this program's version, or creates them if the file is missing or empty. A file
    /// that needs no migration is not changed.
    ///
    /// Run it once, before the first program of a new release opens the file. It runs in one transaction, and no other
    /// program may have the file open. Back up the file first: programs of the previous release cannot open it
    /// afterwards, unless the guide page says otherwise for the version.
    ///
    /// # Errors
    /// As [`open`](Self::open); [`StoreErrorKind::Unavailable`] if a program has the file open.
    pub async fn migrate(path: impl AsRef<Path>) -> Result<(), StoreError> {
        Self::builder(path).migrate().await
    }

    /// Returns the statements that [`migrate`](Self::migrate) would run now, for review or for the `sqlite3` shell.
    /// Returns an empty string if there is nothing to do.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn migration_sql(path: impl AsRef<Path>) -> Result<String, StoreError> {
        Self::builder(path).migration_sql().await
    }

    /// Assigns a new id to the log in a file, and returns it.
    ///
    /// Call it for a copy that you use in addition to its original, and for a file that went back in time because it
    /// was restored from a backup or lost its WAL. The same transaction moves the checkpoints and snapshots in the
    /// file to the new id, so that its read models continue. Afterwards, receipts of the original log and checkpoints
    /// in other stores are rejected, because their log has another id.
    ///
    /// # Errors
    /// As [`open`](Self::open), except that a missing WAL is accepted; [`StoreErrorKind::Invalid`] if the file has no
    /// log; [`StoreErrorKind::Unavailable`] if a program has the file open.
    pub async fn assign_new_log_id(path: impl AsRef<Path>) -> Result<LogId, StoreError> {
        Self::builder(path).assign_new_log_id().await
    }

    /// Returns a builder, for settings that differ from those of [`open`](Self::open).
    #[must_use]
    pub fn builder(path: impl AsRef<Path>) -> SqliteBuilder {
        let path = path.as_ref().to_owned();
        SqliteBuilder { path, patience: Duration::from_secs(5), readers: 4, limits: Limits::standard() }
    }

    /// Writes the WAL back to the main file and closes the file, unless another process has it open. You can then
    /// copy or move the main file alone. A later call opens it again.
    /// [`Engine::shutdown`](cqrs_core::Engine::shutdown) calls this. Dropping the last handle also closes the file,
    /// on the store's own thread.
    ///
    /// It waits for all writes queued before, and up to [`patience`](SqliteBuilder::patience) for reads and for other
    /// processes.
    ///
    /// # Errors
    /// [`StoreErrorKind::Unavailable`] if another process kept the file locked; other kinds if the WAL was not written
    /// back for another reason. The WAL still holds all acknowledged writes.
    pub async fn close(&self) -> Result<(), StoreError> {
        self.shared.writer.close().await
    }

    /// Verifies the whole file, and returns what it contains or the first fault: damaged pages, gaps in positions or
    /// versions, an index that differs from the log, metadata that cannot be decoded, a checkpoint or key past the
    /// end of the log, or a snapshot that does not match the log. It does not decode payloads; the engine does.
    ///
    /// It reads one snapshot without blocking other work, and takes time in proportion to the file.
    ///
    /// # Errors
    /// [`StoreErrorKind::Corrupt`] with a message that names the fault; other kinds if the file cannot be read.
    pub async fn verify(&self) -> Result<Verified, StoreError> {
        let (location, log) = (self.shared.location.clone(), self.shared.log);
        // On its own thread, because it takes long and must not block other reads.
        let verify = move || {
            let conn = location.reader()?;
            let done = verify::verify(&conn, log);
            location.file.check().and(done)
        };
        run_on_thread("cqrs-sqlite-verify", "verify the file", verify).await
    }
}

/// Configures a [`SqliteStore`].
#[derive(Clone)]
pub struct SqliteBuilder {
    path: PathBuf,
    patience: Duration,
    readers: usize,
    limits: Limits,
}

// A URL in the place of the path may hold a password.
impl fmt::Debug for SqliteBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, patience, readers, limits } = self;
        let mut shown = f.debug_struct("SqliteBuilder");
        shown.field("path", &file::shown(path)).field("patience", patience);
        shown.field("readers", readers).field("limits", limits).finish()
    }
}

impl SqliteBuilder {
    /// Sets how long an append waits for another process that is writing (default: 5 s).
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Sets the maximum number of reader threads, at least 1 (default: 4).
    #[must_use]
    pub fn readers(mut self, readers: usize) -> Self {
        self.readers = readers;
        self
    }

    /// Sets the size limits of what it stores (default: [`Limits::standard`]).
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Migrates the file: see [`SqliteStore::migrate`].
    ///
    /// # Errors
    /// As [`SqliteStore::migrate`].
    pub async fn migrate(self) -> Result<(), StoreError> {
        self.with_closed_file("migrate", |location| location.migrate()).await
    }

    /// Returns the statements of a migration: see [`SqliteStore::migration_sql`].
    ///
    /// # Errors
    /// As [`SqliteStore::migration_sql`].
    pub async fn migration_sql(self) -> Result<String, StoreError> {
        self.with_closed_file("plan the migration of", |location| location.migration_sql()).await
    }

    /// Assigns a new log id: see [`SqliteStore::assign_new_log_id`].
    ///
    /// # Errors
    /// As [`SqliteStore::assign_new_log_id`].
    pub async fn assign_new_log_id(self) -> Result<LogId, StoreError> {
        self.with_closed_file("assign a new log id to", |location| location.assign_new_log_id()).await
    }

    /// Works on a file that no store has open, on its own thread.
    async fn with_closed_file<T: Send + 'static>(
        self,
        doing: &str,
        work: impl FnOnce(Location) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, StoreError> {
        let doing = format!("{doing} {}", file::shown(&self.path));
        let work = move || Location::new(&self.path, self.patience).and_then(work);
        run_on_thread("cqrs-sqlite-file", &doing, work).await
    }

    /// Opens the store.
    ///
    /// # Errors
    /// As [`SqliteStore::open`].
    pub async fn open(self) -> Result<SqliteStore, StoreError> {
        let doing = format!("open {}", file::shown(&self.path));
        let to_error = |fault: Fault| fault.to_error(&doing);
        let head_watch = Arc::new(HeadWatch::new());
        let (writer, requests) = Writer::new();
        let (opened, opening) = oneshot::channel();
        let thread = std::thread::Builder::new().name("cqrs-sqlite-write".to_owned());
        let published = Arc::clone(&head_watch);
        let started = thread.spawn(move || {
            let open = || {
                let location = Location::new(&self.path, self.patience)?;
                let (conn, log) = location.writer()?;
                let readers = Arc::new(Readers::new(location.clone(), self.readers));
                let thread = Thread::new(conn, location.clone(), log, published, Arc::clone(&readers))?;
                Ok(((location, log, readers), thread))
            };
            match open() {
                Ok((open, thread)) => {
                    let _ = opened.send(Ok(open));
                    thread.run(requests);
                }
                Err(fault) => _ = opened.send(Err(fault)),
            }
        });
        let failed = |message: String| to_error(Fault::new(StoreErrorKind::Failed, message));
        started.map_err(|error| failed(format!("the operating system refused a new thread ({error})")))?;
        let opened = opening.await.map_err(|_| failed("the writer thread has stopped".to_owned()))?;
        let (location, log, readers) = opened.map_err(to_error)?;
        let shared = Shared { location, log, limits: self.limits, writer, readers, head_watch };
        Ok(SqliteStore { shared: Arc::new(shared) })
    }
}

/// Runs `work` on its own thread. Dropping the future discards the result but does not stop the work.
async fn run_on_thread<T: Send + 'static>(
    name: &str,
    doing: &str,
    work: impl FnOnce() -> Result<T, Fault> + Send + 'static,
) -> Result<T, StoreError> {
    let (answer, outcome) = oneshot::channel();
    let started = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        let _ = answer.send(work());
    });
    let failed = |message: String| Fault::new(StoreErrorKind::Failed, message).to_error(doing);
    started.map_err(|error| failed(format!("the operating system refused a new thread ({error})")))?;
    let done = outcome.await.map_err(|_| failed("the thread has stopped".to_owned()))?;
    done.map_err(|fault| fault.to_error(doing))
}

/// Returns the path in `sqlite:PATH`. After `//` comes a host, which must be empty.
fn path_of(url: &str) -> Result<&str, Fault> {
    let rest = url.split_once(':').map_or("", |(_, rest)| rest);
    let invalid = |message: String| Err(Fault::new(StoreErrorKind::Invalid, message));
    let path = match rest.strip_prefix("//") {
        Some(path) if path.starts_with('/') => path,
        Some(host) => {
            let path = if host.contains('@') { "PATH" } else { host };
            return invalid(format!("a URL with `//` names a host; write `sqlite:{path}`"));
        }
        None => rest,
    };
    if let Some((path, _)) = path.split_once('?') {
        let path = if path.contains('@') { "PATH" } else { path };
        return invalid(format!(
            "the URL has options after `?`, which are not supported; write `sqlite:{path}`, and use \
             `SqliteStore::builder` for settings"
        ));
    }
    let encoded = path.as_bytes().windows(3).any(
        |bytes| matches!(bytes, [b'%', high, low] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit()),
    );
    if encoded {
        let message = "percent-encoding is not supported; write the path as it is. For a file whose name contains a \
                       `%`, use `SqliteStore::open`";
        return invalid(message.to_owned());
    }
    Ok(path)
}

fn open_url(url: String) -> BoxFuture<'static, Result<Stores, StoreError>> {
    Box::pin(async move {
        let path = path_of(&url).map_err(|fault| {
            let shown = if url.contains('@') { "a URL that begins with `sqlite:`" } else { url.as_str() };
            fault.to_error(&format!("open {shown}"))
        })?;
        Ok(Arc::new(SqliteStore::open(path).await?).into())
    })
}

inventory::submit! { StoreScheme { scheme: "sqlite", open: open_url } }

impl From<SqliteStore> for Stores {
    fn from(store: SqliteStore) -> Self {
        Arc::new(store).into()
    }
}

fn check_partition(partition: Partition) -> Result<(), StoreError> {
    if partition == Partition::ONLY {
        return Ok(());
    }
    let message = format!("the log has one partition, and no partition {partition}");
    Err(StoreError::new(StoreErrorKind::Invalid, message))
}

impl EventStore for SqliteStore {
    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::none();
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

    fn partition_of(&self, _: &StreamId) -> Partition {
        Partition::ONLY
    }

    fn append(&self, append: Append) -> BoxFuture<'_, Result<Appended, AppendError>> {
        Box::pin(self.shared.append(None, append))
    }

    fn reserve(&self, _: &StreamId) -> BoxFuture<'_, Result<Option<Reservation>, StoreError>> {
        Box::pin(async move {
            let turn = self.shared.writer.reserve().await?;
            let shared = Arc::clone(&self.shared);
            Ok(Some(Reservation::new(move |append| {
                Box::pin(async move { shared.append(Some(turn), append).await })
            })))
        })
    }

    fn find_key(&self, key: &CommandKey) -> BoxFuture<'_, Result<Option<Appended>, StoreError>> {
        let (key, log) = (key.clone(), self.shared.log);
        let find = move |conn: &rusqlite::Connection| append::find_key(conn, log, &key);
        Box::pin(self.shared.read("look a key up", find))
    }

    fn read_stream(&self, read: StreamRead) -> BoxFuture<'_, Result<StreamSlice, StoreError>> {
        Box::pin(self.shared.read("read a stream", move |conn| read::stream(conn, &read)))
    }

    fn fold_stream<'a>(
        &'a self,
        stream: &'a StreamId,
        from: Version,
        take: &'a mut TakeEvent<'a>,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(fold::stream(&self.shared.readers, stream, from, self.shared.head_watch.head(), take))
    }

    fn read_log(&self, read: LogRead) -> BoxFuture<'_, Result<LogSlice, StoreError>> {
        let log = self.shared.log;
        Box::pin(async move {
            check_partition(read.partition)?;
            let floor = self.shared.head_watch.head();
            let slice = move |conn: &rusqlite::Connection| {
                let slice = read::log(conn, &read, log)?;
                read::not_rewound(floor, number(slice.head.position)).map(|()| slice)
            };
            let slice = self.shared.readers.read("read the log", slice).await?;
            self.shared.head_watch.publish(number(slice.head.position));
            Ok(slice)
        })
    }

    fn head(&self, partition: Partition) -> BoxFuture<'_, Result<Head, StoreError>> {
        let log = self.shared.log;
        Box::pin(async move {
            check_partition(partition)?;
            let floor = self.shared.head_watch.head();
            let head = move |conn: &rusqlite::Connection| {
                let head = read::head(conn, log)?;
                read::not_rewound(floor, number(head.position)).map(|()| head)
            };
            let head = self.shared.readers.read("read the log's head", head).await?;
            self.shared.head_watch.publish(number(head.position));
            Ok(head)
        })
    }

    fn wait(&self, partition: Partition, after: Position) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            let Shared { head_watch, location, .. } = &*self.shared;
            if partition == Partition::ONLY && head_watch.head() > number(after) {
                return Ok(());
            }
            // Another process may have appended, which this handle has not seen yet.
            self.head(partition).await?;
            head_watch.wait(number(after), location).await;
            Ok(())
        })
    }

    fn snapshot(
        &self,
        stream: &StreamId,
        fingerprint: u64,
    ) -> BoxFuture<'_, Result<Option<Snapshot>, StoreError>> {
        let stream = stream.clone();
        let find = move |conn: &rusqlite::Connection| snapshots::find(conn, &stream, fingerprint);
        Box::pin(self.shared.read("look a snapshot up", find))
    }

    fn save_snapshot(&self, snapshot: Snapshot) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            self.shared.limits.check_snapshot(&snapshot)?;
            self.shared.writer.write(snapshot).await
        })
    }

    fn forget_snapshot(&self, stream: &StreamId) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(self.shared.writer.write(Forgetting(stream.clone())))
    }

    fn close(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(self.shared.writer.close())
    }
}

impl ReadStore for SqliteStore {
    fn read_capabilities(&self) -> ReadCapabilities {
        let mut capabilities = ReadCapabilities::none();
        capabilities.records = true;
        capabilities.collections = true;
        capabilities.database = Some(Sqlite::NAME);
        capabilities
    }

    fn claim(&self, consumer: &str) -> BoxFuture<'_, Result<Claim, StoreError>> {
        let claiming = Claiming(consumer.to_owned());
        Box::pin(async move {
            check_name("consumer", &claiming.0)?;
            self.shared.writer.write(claiming).await
        })
    }

    fn checkpoint(
        &self,
        consumer: &str,
        partition: Partition,
    ) -> BoxFuture<'_, Result<Option<Checkpoint>, StoreError>> {
        let consumer = consumer.to_owned();
        let read = move |conn: &rusqlite::Connection| documents::checkpoint(conn, &consumer, partition);
        Box::pin(self.shared.read("read a checkpoint", read))
    }

    fn close(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(self.shared.writer.close())
    }

    fn commit(&self, batch: Batch) -> BoxFuture<'_, Result<(), CommitError>> {
        Box::pin(async move {
            batch.check()?;
            self.shared.writer.write(batch).await
        })
    }

    fn record(&self, consumer: &str) -> BoxFuture<'_, Result<Record, StoreError>> {
        let consumer = consumer.to_owned();
        let read = move |conn: &rusqlite::Connection| documents::record(conn, &consumer);
        Box::pin(self.shared.readers.read("read a consumer's record", read))
    }

    fn set_record(
        &self,
        consumer: &str,
        expected: u64,
        content: RecordContent,
    ) -> BoxFuture<'_, Result<bool, StoreError>> {
        let recording = Recording { consumer: consumer.to_owned(), expected, content };
        Box::pin(async move {
            check_name("consumer", &recording.consumer)?;
            self.shared.writer.write(recording).await
        })
    }

    fn reset(&self, consumer: &str) -> BoxFuture<'_, Result<(), StoreError>> {
        let resetting = Resetting(consumer.to_owned());
        Box::pin(async move {
            check_name("consumer", &resetting.0)?;
            self.shared.writer.write(resetting).await
        })
    }

    fn get(
        &self,
        consumer: &str,
        entries: Vec<EntryKey>,
    ) -> BoxFuture<'_, Result<Vec<Option<Bytes>>, StoreError>> {
        let consumer = consumer.to_owned();
        let read = move |conn: &rusqlite::Connection| entries::get(conn, &consumer, &entries);
        Box::pin(self.shared.read("read documents", read))
    }

    fn range(&self, range: RangeRead) -> BoxFuture<'_, Result<Vec<Entry>, StoreError>> {
        let read = move |conn: &rusqlite::Connection| entries::range(conn, &range);
        Box::pin(self.shared.read("list documents", read))
    }

    fn count(&self, range: RangeRead) -> BoxFuture<'_, Result<u64, StoreError>> {
        let read = move |conn: &rusqlite::Connection| entries::count(conn, &range);
        Box::pin(self.shared.read("count entries", read))
    }
}
