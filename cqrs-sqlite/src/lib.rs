//! The store of `cqrs` on one SQLite file: the log, the read models, their checkpoints and the
//! commands' keys, with nothing to install.
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
//! # What is promised
//!
//! - **Durable.** What was acknowledged survives the end of the process at any point, and a loss of
//!   power as far as the disk keeps what it has confirmed (`synchronous=FULL`, in a WAL).
//! - **One file, several processes** on one machine. Each append takes SQLite's lock for writing, and
//!   waits for it as long as [`SqliteBuilder::patience`] says; then it gives `Unavailable`. File
//!   systems over a network are not supported: their locks do not hold.
//! - **Group commit.** One thread writes. It takes all appends and commits of read models that wait,
//!   checks each against those before it, and commits them together. Those that are refused are told,
//!   and touch nobody else.
//! - **Readers never wait for the writer**, nor the writer for them.
//! - **Positions have no gaps**, in the order of commits. There is one partition.
//! - **The file that was opened.** A file that is deleted, moved, replaced or overwritten while it is open, and
//!   one that was copied without its WAL, give `Corrupt`.
//!
//! A file that is restored from a backup while no program has it open keeps the log's id, and the store cannot
//! notice that it went back in time: call [`SqliteStore::assign_new_log_id`] for it.
//!
//! Work is done on threads of the store's own, so it needs no particular runtime, and no read or write waits for
//! a future that is not polled. The threads end when the last handle is dropped, after everything that was handed
//! over has been written and the WAL was written back.

#![forbid(unsafe_code)]

/// The driver whose types a projection's own statements use.
pub use rusqlite;

mod append;
mod checkpoint;
mod documents;
mod error;
mod file;
mod fold;
mod guard;
mod inline;
mod known;
mod news;
mod open;
mod read;
mod readers;
mod schema;
mod snapshots;
mod statements;
mod verify;
mod wal;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cqrs_core::consumer::Database as _;
use cqrs_core::engine::{StoreScheme, Stores};
use cqrs_core::error::{StoreError, StoreErrorKind};
use cqrs_core::id::{Partition, Position, StreamId, Version};
use cqrs_core::read_store::{
    Batch, Checkpoint, Claim, CommitError, ReadStore, Record, RecordContent, check_name,
};
use cqrs_core::store::{
    Append, AppendError, Appended, BoxFuture, Capabilities, CommandKey, EventStore, Head, Limits, LogId,
    LogRead, LogSlice, Reservation, Snapshot, StreamRead, StreamSlice, TakeEvent,
};
use tokio::sync::oneshot;

// The page's programs are compiled and run with the tests.
#[cfg(doctest)]
#[doc = include_str!("../../docs/guide/sqlite.md")]
struct Guide;

use self::documents::{Claiming, Recording};
use self::error::Fault;
use self::guard::number;
use self::news::News;
use self::open::Place;
use self::readers::Readers;
use self::snapshots::Forgetting;
pub use self::statements::{Sqlite, Transaction};
pub use self::verify::Verified;
use self::writer::{Thread, Turn, Writer};

/// A log and its read models in one SQLite file. A clone is another handle of the same store.
#[derive(Clone, Debug)]
pub struct SqliteStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    place: Place,
    log: LogId,
    limits: Limits,
    writer: Writer,
    readers: Arc<Readers>,
    news: Arc<News>,
}

impl Shared {
    /// Appends, in a turn that was reserved if there is one.
    async fn append(&self, turn: Option<Turn>, append: Append) -> Result<Appended, AppendError> {
        self.limits.check(&append)?;
        self.writer.write_in(turn, append).await
    }

    /// Reads something beside the log's end, from a log that has not been rewound.
    fn read<T: Send + 'static>(
        &self,
        doing: &'static str,
        read: impl FnOnce(&rusqlite::Connection) -> Result<T, Fault> + Send + 'static,
    ) -> impl Future<Output = Result<T, StoreError>> + Send {
        let floor = self.news.head();
        self.readers.read(doing, move |conn| {
            read::check_not_rewound(conn, floor)?;
            read(conn)
        })
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.readers.close();
        self.news.close();
    }
}

impl SqliteStore {
    /// Opens the store in a file, and creates it if the file is not there or empty.
    ///
    /// # Errors
    /// - [`StoreErrorKind::Invalid`]: the path is a URI, a directory or another thing that is not a file, its
    ///   parent does not exist, the file has two names, or it is another application's database.
    /// - [`StoreErrorKind::Unsupported`]: its tables have an older version and have to be
    ///   [migrated](Self::migrate), or a newer one that this program cannot read; or the file system cannot
    ///   keep a WAL.
    /// - [`StoreErrorKind::Corrupt`]: it is not a database, or a damaged one, or its WAL is missing.
    /// - [`StoreErrorKind::Unavailable`]: another process keeps it locked.
    /// - [`StoreErrorKind::Failed`]: it cannot be read or written.
    ///
    /// A file that is refused is left as it was.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        Self::builder(path).open().await
    }

    /// Migrates the tables of a file to this program's version, and creates them if the file is empty or does
    /// not exist. A file that needs no migration is left as it is.
    ///
    /// Run it once, before the first program of a new release opens the file. It runs in one transaction, and
    /// no program may have the file open meanwhile. Copy the file first: a program of the release before
    /// cannot open it afterwards, unless the guide page says so for the version.
    ///
    /// # Errors
    /// As [`open`](Self::open); [`StoreErrorKind::Unavailable`] if the file is still open somewhere.
    pub async fn migrate(path: impl AsRef<Path>) -> Result<(), StoreError> {
        Self::builder(path).migrate().await
    }

    /// Returns the statements that [`migrate`](Self::migrate) would run now, for review or for the `sqlite3`
    /// shell. The text is empty if there is nothing to do.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn migration_sql(path: impl AsRef<Path>) -> Result<String, StoreError> {
        Self::builder(path).migration_sql().await
    }

    /// Gives the log in a file a new id, and returns it.
    ///
    /// Call it for a copy that is to continue beside its original, and for a file that went back in time:
    /// one that was restored from a backup, or has lost its WAL. The checkpoints and snapshots in the same file
    /// move to the new id in the same transaction, so that read models in the file continue. Receipts of the
    /// original, and checkpoints in other stores, are rejected from then on, because their log has another id.
    ///
    /// # Errors
    /// As [`open`](Self::open), except that a missing WAL is accepted; [`StoreErrorKind::Invalid`] if there is
    /// no log in the file; [`StoreErrorKind::Unavailable`] if the file is open somewhere.
    pub async fn assign_new_log_id(path: impl AsRef<Path>) -> Result<LogId, StoreError> {
        Self::builder(path).assign_new_log_id().await
    }

    /// Sets up a store that differs from [`open`](Self::open).
    #[must_use]
    pub fn builder(path: impl AsRef<Path>) -> SqliteBuilder {
        let path = path.as_ref().to_owned();
        SqliteBuilder { path, patience: Duration::from_secs(5), readers: 4, limits: Limits::standard() }
    }

    /// Writes everything back to the main file and closes it, so that it can be copied or moved alone, unless
    /// another process has it open. A later call opens it again. [`Engine::shutdown`](cqrs_core::Engine::shutdown)
    /// does this, and so does dropping the last handle, on the store's own thread.
    ///
    /// It waits for the writes that were handed over before, and as long as
    /// [`patience`](SqliteBuilder::patience) says for reads and for other processes.
    ///
    /// # Errors
    /// [`StoreErrorKind::Unavailable`] if another process kept the file locked, or any other reason why the WAL
    /// was not written back. What was acknowledged is in the WAL then.
    pub async fn close(&self) -> Result<(), StoreError> {
        self.shared.writer.close().await
    }

    /// Walks through the whole file, and gives what it has seen or the first thing that is wrong:
    /// damaged pages, a gap among positions or versions, an index that disagrees with the log,
    /// metadata that cannot be read, a checkpoint or a key beyond the log, a snapshot of what the log does
    /// not have. Payloads are looked at by
    /// nobody here: what they say is the engine's matter.
    ///
    /// It reads one snapshot, beside all other work, and takes time in proportion to the file.
    ///
    /// # Errors
    /// [`StoreErrorKind::Corrupt`] with a message that names the fault, or what kept it from reading.
    pub async fn verify(&self) -> Result<Verified, StoreError> {
        let (place, log) = (self.shared.place.clone(), self.shared.log);
        // On a thread of its own, as it takes long and others read meanwhile.
        let verify = move || {
            let conn = place.reader()?;
            let done = verify::verify(&conn, log);
            place.file.check().and(done)
        };
        apart("cqrs-sqlite-verify", "verify the file", verify).await
    }
}

/// Sets up a [`SqliteStore`].
#[derive(Clone, Debug)]
pub struct SqliteBuilder {
    path: PathBuf,
    patience: Duration,
    readers: usize,
    limits: Limits,
}

impl SqliteBuilder {
    /// How long an append waits for another process that is writing; 5 seconds unless set.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// How many threads read at most, at least 1; 4 unless set.
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

    /// Migrates the file: see [`SqliteStore::migrate`].
    ///
    /// # Errors
    /// As [`SqliteStore::migrate`].
    pub async fn migrate(self) -> Result<(), StoreError> {
        self.on_the_file("migrate", |place| place.migrate()).await
    }

    /// Returns the statements of a migration: see [`SqliteStore::migration_sql`].
    ///
    /// # Errors
    /// As [`SqliteStore::migration_sql`].
    pub async fn migration_sql(self) -> Result<String, StoreError> {
        self.on_the_file("plan the migration of", |place| place.migration_sql()).await
    }

    /// Assigns a new log id: see [`SqliteStore::assign_new_log_id`].
    ///
    /// # Errors
    /// As [`SqliteStore::assign_new_log_id`].
    pub async fn assign_new_log_id(self) -> Result<LogId, StoreError> {
        self.on_the_file("assign a new log id to", |place| place.assign_new_log_id()).await
    }

    /// Works on a file that no store has opened, on a thread of its own.
    async fn on_the_file<T: Send + 'static>(
        self,
        doing: &str,
        work: impl FnOnce(Place) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, StoreError> {
        let doing = format!("{doing} {}", self.path.display());
        let work = move || Place::new(&self.path, self.patience).and_then(work);
        apart("cqrs-sqlite-file", &doing, work).await
    }

    /// Opens the store.
    ///
    /// # Errors
    /// As [`SqliteStore::open`].
    pub async fn open(self) -> Result<SqliteStore, StoreError> {
        let doing = format!("open {}", self.path.display());
        let told = |fault: Fault| fault.told(&doing);
        let news = Arc::new(News::new());
        let (writer, asked) = Writer::new();
        let (opened, opening) = oneshot::channel();
        let thread = std::thread::Builder::new().name("cqrs-sqlite-write".to_owned());
        let heard = Arc::clone(&news);
        let started = thread.spawn(move || {
            let open = || {
                let place = Place::new(&self.path, self.patience)?;
                let (conn, log) = place.writer()?;
                let readers = Arc::new(Readers::new(place.clone(), self.readers));
                let thread = Thread::new(conn, place.clone(), log, heard, Arc::clone(&readers))?;
                Ok(((place, log, readers), thread))
            };
            match open() {
                Ok((open, thread)) => {
                    let _ = opened.send(Ok(open));
                    thread.run(asked);
                }
                Err(fault) => _ = opened.send(Err(fault)),
            }
        });
        let failed = |words: String| told(Fault::new(StoreErrorKind::Failed, words));
        started.map_err(|error| failed(format!("no thread can be started ({error})")))?;
        let opened = opening.await.map_err(|_| failed("its thread has stopped".to_owned()))?;
        let (place, log, readers) = opened.map_err(told)?;
        let shared = Shared { place, log, limits: self.limits, writer, readers, news };
        Ok(SqliteStore { shared: Arc::new(shared) })
    }
}

/// Works on a thread of its own. Dropping the future has no effect but that nobody hears of it.
async fn apart<T: Send + 'static>(
    name: &str,
    doing: &str,
    work: impl FnOnce() -> Result<T, Fault> + Send + 'static,
) -> Result<T, StoreError> {
    let (answer, outcome) = oneshot::channel();
    let started = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        let _ = answer.send(work());
    });
    let failed = |words: String| Fault::new(StoreErrorKind::Failed, words).told(doing);
    started.map_err(|error| failed(format!("no thread can be started ({error})")))?;
    let done = outcome.await.map_err(|_| failed("its thread has stopped".to_owned()))?;
    done.map_err(|fault| fault.told(doing))
}

/// The path in `sqlite:PATH`. Two slashes begin a host, of which there is none before a third.
fn path_of(url: &str) -> Result<&str, Fault> {
    let rest = url.split_once(':').map_or("", |(_, rest)| rest);
    let invalid = |words: String| Err(Fault::new(StoreErrorKind::Invalid, words));
    let path = match rest.strip_prefix("//") {
        Some(path) if path.starts_with('/') => path,
        Some(host) => return invalid(format!("what follows `//` names a host; write `sqlite:{host}`")),
        None => rest,
    };
    if let Some((path, _)) = path.split_once('?') {
        return invalid(format!(
            "a `?` and what follows it are no options here; write `sqlite:{path}`, and use `SqliteStore::builder` for \
             settings"
        ));
    }
    let encoded = path.as_bytes().windows(3).any(
        |bytes| matches!(bytes, [b'%', high, low] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit()),
    );
    if encoded {
        let words = "percent-encoding is not decoded: write the path as it is. For a file whose name has a `%`, use \
                     `SqliteStore::open`";
        return invalid(words.to_owned());
    }
    Ok(path)
}

fn open_url(url: String) -> BoxFuture<'static, Result<Stores, StoreError>> {
    Box::pin(async move {
        let path = path_of(&url).map_err(|fault| fault.told(&format!("open {url}")))?;
        Ok(Arc::new(SqliteStore::open(path).await?).into())
    })
}

inventory::submit! { StoreScheme { scheme: "sqlite", open: open_url } }

impl From<SqliteStore> for Stores {
    fn from(store: SqliteStore) -> Self {
        Arc::new(store).into()
    }
}

fn only(partition: Partition) -> Result<(), StoreError> {
    if partition == Partition::ONLY {
        return Ok(());
    }
    let message = format!("there is no partition {partition}; this log has 1");
    Err(StoreError::new(StoreErrorKind::Invalid, message))
}

impl EventStore for SqliteStore {
    fn capabilities(&self) -> Capabilities {
        Capabilities::full()
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
        Box::pin(fold::stream(&self.shared.readers, stream, from, self.shared.news.head(), take))
    }

    fn read_log(&self, read: LogRead) -> BoxFuture<'_, Result<LogSlice, StoreError>> {
        let log = self.shared.log;
        Box::pin(async move {
            only(read.partition)?;
            let floor = self.shared.news.head();
            let slice = move |conn: &rusqlite::Connection| {
                let slice = read::log(conn, &read, log)?;
                read::not_rewound(floor, number(slice.head.position)).map(|()| slice)
            };
            let slice = self.shared.readers.read("read the log", slice).await?;
            self.shared.news.publish(number(slice.head.position));
            Ok(slice)
        })
    }

    fn head(&self, partition: Partition) -> BoxFuture<'_, Result<Head, StoreError>> {
        let log = self.shared.log;
        Box::pin(async move {
            only(partition)?;
            let floor = self.shared.news.head();
            let head = move |conn: &rusqlite::Connection| {
                let head = read::head(conn, log)?;
                read::not_rewound(floor, number(head.position)).map(|()| head)
            };
            let head = self.shared.readers.read("read the log's head", head).await?;
            self.shared.news.publish(number(head.position));
            Ok(head)
        })
    }

    fn wait(&self, partition: Partition, after: Position) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            let Shared { news, place, .. } = &*self.shared;
            if partition == Partition::ONLY && news.head() > number(after) {
                return Ok(());
            }
            // Another process may have moved it, which nobody has told us.
            self.head(partition).await?;
            news.wait(number(after), place).await;
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
    fn database(&self) -> Option<&'static str> {
        Some(Sqlite::NAME)
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

    fn keeps_records(&self) -> bool {
        true
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

    fn get(
        &self,
        collection: &str,
        keys: Vec<String>,
    ) -> BoxFuture<'_, Result<Vec<Option<Bytes>>, StoreError>> {
        let collection = collection.to_owned();
        let read = move |conn: &rusqlite::Connection| documents::get(conn, &collection, &keys);
        Box::pin(self.shared.read("read documents", read))
    }

    fn list(
        &self,
        collection: &str,
        after: Option<String>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<(String, Bytes)>, StoreError>> {
        let collection = collection.to_owned();
        let read =
            move |conn: &rusqlite::Connection| documents::list(conn, &collection, after.as_deref(), limit);
        Box::pin(self.shared.read("list documents", read))
    }
}
