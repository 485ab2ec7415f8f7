//! Opening the file: what it must be, and how each connection is set up.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cqrs_core::error::StoreErrorKind;
use cqrs_core::store::LogId;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior};

use crate::error::Fault;
use crate::file::{self, Conn, Content, OpenFile, length, sibling};
use crate::schema::{self, Found};
use crate::{snapshots, statements, wal};

/// Older versions can damage a file when two connections reset the WAL at the same time.
const MIN_SQLITE_VERSION: i32 = 3_051_003;

/// The first bytes of every SQLite database.
const MAGIC: &[u8] = b"SQLite format 3\0";

/// Capacity of the cache of prepared statements. It holds all statements of this crate and many of a projection,
/// so that a connection prepares each of them once.
const STATEMENT_CACHE: usize = 256;

/// The path of the file, and how to open it.
#[derive(Clone, Debug)]
pub(crate) struct Location {
    pub(crate) path: PathBuf,
    /// Maximum wait for another process that locks the file.
    pub(crate) patience: Duration,
    pub(crate) file: Arc<OpenFile>,
}

impl Location {
    /// Resolves the path, and rejects one that cannot be a store.
    pub(crate) fn new(path: &Path, patience: Duration) -> Result<Self, Fault> {
        check_library()?;
        let path = file::resolve(path)?;
        let file = Arc::new(OpenFile::new(path.clone()));
        Ok(Self { path, patience, file })
    }

    /// Opens the file for writing, and creates the store if the file is empty.
    pub(crate) fn writer(&self) -> Result<(Conn, LogId), Fault> {
        let found = self.check_and_inspect(|conn| {
            let found = schema::inspect(conn)?;
            match found {
                Found::Empty => {}
                Found::Older(version) => return Err(schema::outdated(version)),
                Found::Ready(_) => self.check_wal_exists(conn)?,
            }
            Ok(found)
        })?;
        let mut conn = match found {
            Found::Empty => self.create()?,
            Found::Older(_) | Found::Ready(_) => self.connect(READ_WRITE)?,
        };
        // Until the file is checked, closing the connection must not change it.
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        self.configure(&conn).map_err(|fault| self.cannot_open(fault))?;
        let log = schema::log_id(&conn)?;
        statements::install_authorizer(&mut conn)?;
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
        // From here on the writer retries by itself, and only when it takes the write lock.
        conn.busy_timeout(Duration::ZERO)?;
        self.file.opened()?;
        self.file.check()?;
        Ok((conn, log))
    }

    /// Reopens the file for writing after all connections were closed.
    pub(crate) fn reopen_writer(&self, log: LogId) -> Result<Conn, Fault> {
        // Otherwise a deleted file would be created again.
        self.file.check()?;
        let (conn, found) = self.writer()?;
        match found == log {
            true => Ok(conn),
            false => Err(Fault::corrupt(format!(
                "the file now holds the log {found}, and held the log {log} before; restore the file"
            ))),
        }
    }

    /// Creates the store in an empty or missing file. It writes the tables before it enables the WAL, so that the main
    /// file alone is never an empty log.
    fn create(&self) -> Result<Conn, Fault> {
        let new = !self.path.exists();
        let create = || {
            let conn = self.connect(READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE)?;
            set_durability(&conn)?;
            let creating = Transaction::new_unchecked(&conn, TransactionBehavior::Immediate)?;
            schema::prepare(&creating)?;
            creating.commit()?;
            Ok(conn)
        };
        let created = create().and_then(|conn| {
            self.configure(&conn)?;
            // An empty database may already have had a WAL.
            conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |_| Ok(()))?;
            Ok(conn)
        });
        if created.is_err() && new && length(&self.path) == 0 {
            // SQLite creates the file before it does anything else.
            let _ = std::fs::remove_file(&self.path);
        }
        created.map_err(|fault| self.cannot_open(fault))
    }

    /// Migrates the tables to this program's version, or creates them if the file is empty or missing.
    pub(crate) fn migrate(&self) -> Result<(), Fault> {
        let found = self.check_and_inspect(|conn| {
            let found = schema::inspect(conn)?;
            match found {
                Found::Empty => Ok(found),
                Found::Older(_) | Found::Ready(_) => self.check_wal_exists(conn).map(|()| found),
            }
        })?;
        match found {
            Found::Empty => self.create().map(drop),
            Found::Older(_) => self.exclusively(schema::migrate),
            Found::Ready(_) => Ok(()),
        }
    }

    /// Returns the statements that [`migrate`](Self::migrate) would run now.
    pub(crate) fn migration_sql(&self) -> Result<String, Fault> {
        self.check_and_inspect(schema::migration_sql)
    }

    /// Assigns a new id to the log, and to all data in the same file that refers to it.
    pub(crate) fn assign_new_log_id(&self) -> Result<LogId, Fault> {
        // This skips the check of the WAL: the caller continues without the commits that a missing WAL held.
        file::if_closed(&self.path, || check_file(&self.path))?;
        match self.inspect(schema::inspect)? {
            Found::Empty => return Err(Fault::new(StoreErrorKind::Invalid, "the file has no log")),
            Found::Older(version) => return Err(schema::outdated(version)),
            Found::Ready(versions) => versions.writable()?,
        }
        self.exclusively(|conn| {
            let (old, new) = (schema::log_id(conn)?, LogId(uuid::Uuid::new_v4()));
            conn.execute("UPDATE cqrs_meta SET log = ?1, wal = 0", (new.0.as_bytes(),))?;
            conn.execute(
                "UPDATE cqrs_checkpoints SET log = ?1 WHERE log = ?2",
                (new.0.as_bytes(), old.0.as_bytes()),
            )?;
            snapshots::assign(conn, old, new)?;
            Ok(new)
        })
    }

    /// Changes the file in one transaction while no other connection has it open.
    ///
    /// Without a WAL, an exclusive transaction waits until all other connections are closed. Connections that are
    /// opened later see the change.
    fn exclusively<T>(&self, change: impl FnOnce(&Connection) -> Result<T, Fault>) -> Result<T, Fault> {
        let in_use = |fault: Fault| match fault.is_busy() {
            true => Fault::new(
                StoreErrorKind::Unavailable,
                "another program, or another part of this one, has the file open (SQLITE_BUSY); close it there first",
            ),
            false => fault,
        };
        let conn = self.remove_wal().map_err(in_use)?;
        let changing = Transaction::new_unchecked(&conn, TransactionBehavior::Exclusive);
        let changing = changing.map_err(|error| in_use(error.into()))?;
        let changed = change(&changing)?;
        changing.commit()?;
        // If another connection has opened the file by now, the next store that opens it enables the WAL.
        let _ = journal_mode(&conn, "WAL");
        Ok(changed)
    }

    /// Opens the file and removes its WAL, once no other connection has it open.
    fn remove_wal(&self) -> Result<Conn, Fault> {
        let started = Instant::now();
        loop {
            let conn = self.connect(READ_WRITE)?;
            set_durability(&conn)?;
            match journal_mode(&conn, "DELETE") {
                Ok(_) => return Ok(conn),
                // Close this connection too: another process may be waiting for that.
                Err(fault) if fault.is_busy() && started.elapsed() < self.patience => {
                    drop(conn);
                    std::thread::sleep(crate::writer::retry_pause() * 20);
                }
                Err(fault) => return Err(fault),
            }
        }
    }

    /// Checks the file as far as possible without SQLite, then reads it before it is known to be a store.
    fn check_and_inspect<T>(&self, read: impl Fn(&Connection) -> Result<T, Fault>) -> Result<T, Fault> {
        file::if_closed(&self.path, || check_file(&self.path).and_then(|()| wal::check(&self.path)))?;
        self.inspect(read)
    }

    /// Reads the file without leaving new files next to it.
    fn inspect<T>(&self, read: impl Fn(&Connection) -> Result<T, Fault>) -> Result<T, Fault> {
        if length(&self.path) == 0 {
            return read(&Connection::open_in_memory()?);
        }
        let is_alone = || length(&sibling(&self.path, "-wal")) == 0 && !has_rollback_journal(&self.path);
        if is_alone() {
            let done = open_immutable(&self.path).and_then(|conn| read(&conn));
            // Otherwise another process writes to the file, and the pages may be of two states.
            if is_alone() {
                return done.map_err(|fault| self.cannot_open(fault));
            }
        }
        self.connect(READ_WRITE)
            .and_then(|conn| {
                conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
                // The first read rolls back what a rollback journal belongs to, if its process was killed: the main
                // file alone may look as if that transaction had committed.
                if !sibling(&self.path, "-shm").exists() && !has_rollback_journal(&self.path) {
                    // In exclusive mode, SQLite keeps the WAL index in memory instead of in a `-shm` file.
                    conn.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
                }
                read(&conn)
            })
            .map_err(|fault| self.cannot_open(fault))
    }

    /// Fails if the main file expects commits in a WAL and there is no WAL.
    fn check_wal_exists(&self, conn: &Connection) -> Result<(), Fault> {
        if schema::expects_wal(conn)? && length(&sibling(&self.path, "-wal")) == 0 {
            return Err(Fault::corrupt(format!(
                "the WAL {} is missing, and with it the last commits: the file was copied or moved without it while it \
                 was open. Restore the WAL, or copy a file that was closed; to continue without those commits, call \
                 `SqliteStore::assign_new_log_id`",
                sibling(&self.path, "-wal").display()
            )));
        }
        Ok(())
    }

    /// Opens an existing store for reading.
    pub(crate) fn reader(&self) -> Result<Conn, Fault> {
        // Otherwise it might combine another file with this file's WAL.
        self.file.check()?;
        // Readers write to the WAL index as well, so the file is not opened read-only.
        let conn = self.connect(READ_WRITE)?;
        // Only the writer knows whether the file may be written to.
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        conn.pragma_update(None, "query_only", true)?;
        Ok(conn)
    }

    fn connect(&self, flags: OpenFlags) -> Result<Conn, Fault> {
        self.try_connect(flags).map_err(|fault| self.cannot_open(fault))
    }

    fn try_connect(&self, flags: OpenFlags) -> Result<Conn, Fault> {
        let conn = Conn::open(&self.path, flags)?;
        if conn.is_readonly("main")? {
            // Check before the first read, which would create a WAL.
            return Err(Fault::new(StoreErrorKind::Failed, "the file is read-only"));
        }
        conn.busy_timeout(self.patience)?;
        conn.set_prepared_statement_cache_capacity(STATEMENT_CACHE);
        // Otherwise SQLite recompiles a statement with `LIMIT ?` for each value.
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
        // A negative size is in KiB.
        conn.pragma_update(None, "cache_size", -16_384)?;
        Ok(conn)
    }

    /// Names both the file and the directory in the message: SQLite's error is the same for either.
    fn cannot_open(&self, fault: Fault) -> Fault {
        let directory = self.path.parent().unwrap_or(Path::new("/"));
        match fault.is(ErrorCode::CannotOpen) || fault.is(ErrorCode::ReadOnly) {
            true => fault.with_message(format!(
                "the file cannot be opened for writing; grant this process read and write access to the file and to its \
                 directory {}",
                directory.display()
            )),
            false => fault,
        }
    }

    fn configure(&self, conn: &Connection) -> Result<(), Fault> {
        let mode = retry(self.patience, || journal_mode(conn, "WAL"))?;
        if !mode.eq_ignore_ascii_case("wal") {
            let message = format!(
                "the file system does not support a WAL (SQLite keeps the journal mode `{mode}`); use a local disk"
            );
            return Err(Fault::new(StoreErrorKind::Unsupported, message));
        }
        set_durability(conn)?;
        // The writer runs checkpoints itself: see `checkpoint`.
        conn.pragma_update(None, "wal_autocheckpoint", 0)?;
        // If a slow reader made the WAL grow, SQLite truncates it when the WAL is reused.
        conn.pragma_update(None, "journal_size_limit", 64 << 20)?;
        Ok(())
    }
}

// `SQLITE_OPEN_URI` is not set. Some builds of SQLite still parse `file:` as a URI; an absolute path never starts
// like that.
const READ_WRITE: OpenFlags = OpenFlags::SQLITE_OPEN_READ_WRITE.union(OpenFlags::SQLITE_OPEN_NO_MUTEX);

fn set_durability(conn: &Connection) -> Result<(), Fault> {
    // A lower level loses acknowledged appends when the power fails.
    conn.pragma_update(None, "synchronous", "FULL")?;
    // On macOS, `fsync` alone does not write to the disk itself.
    conn.pragma_update(None, "fullfsync", true)?;
    Ok(())
}

/// Returns whether a transaction without a WAL, which creates or migrates the tables, is not committed yet. SQLite
/// deletes the journal when it commits.
fn has_rollback_journal(path: &Path) -> bool {
    length(&sibling(path, "-journal")) > 0
}

/// Opens the main file as it is on disk: without its WAL, without locks, and without creating files.
fn open_immutable(path: &Path) -> Result<Connection, Fault> {
    let mut uri = b"file:".to_vec();
    for byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' => uri.push(*byte),
            other => uri.extend_from_slice(format!("%{other:02x}").as_bytes()),
        }
    }
    uri.extend_from_slice(b"?immutable=1");
    let uri = String::from_utf8_lossy(&uri).into_owned();
    let flags =
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    Ok(Connection::open_with_flags(uri, flags)?)
}

/// Reads the identity of the log in the main file.
pub(crate) fn content(path: &Path) -> Result<Option<Content>, Fault> {
    schema::content(&open_immutable(path)?)
}

fn journal_mode(conn: &Connection, mode: &str) -> Result<String, Fault> {
    Ok(conn.pragma_update_and_check(None, "journal_mode", mode, |row| row.get(0))?)
}

/// Retries while another process locks the file. SQLite does not wait by itself when the journal mode changes.
fn retry<T>(patience: Duration, mut attempt: impl FnMut() -> Result<T, Fault>) -> Result<T, Fault> {
    let started = Instant::now();
    loop {
        match attempt() {
            Err(fault) if fault.is_busy() && started.elapsed() < patience => {
                std::thread::sleep(Duration::from_millis(2));
            }
            done => return done,
        }
    }
}

fn check_library() -> Result<(), Fault> {
    if rusqlite::version_number() >= MIN_SQLITE_VERSION {
        return Ok(());
    }
    let found = rusqlite::version();
    let message =
        format!("this program has SQLite {found}, which can damage the file; link SQLite 3.51.3 or newer");
    Err(Fault::new(StoreErrorKind::Unsupported, message))
}

/// Rejects a file that SQLite would treat as a new database, or whose damage SQLite would not describe.
fn check_file(path: &Path) -> Result<(), Fault> {
    if length(path) == 0 {
        let wal = sibling(path, "-wal");
        if length(&wal) > 0 {
            // SQLite would delete the WAL with everything in it.
            return Err(Fault::corrupt(format!(
                "the file is {}, but its WAL {} has content; restore the file, or remove its WAL",
                if path.exists() { "empty" } else { "missing" },
                wal.display()
            )));
        }
        return Ok(());
    }
    // SQLite reports a file that cannot be read.
    let Some(start) = first_bytes(path) else { return Ok(()) };
    if !start.starts_with(MAGIC) {
        return Err(Fault::corrupt("the file is not an SQLite database; name another file"));
    }
    let is_alone = || length(&sibling(path, "-wal")) == 0 && !has_rollback_journal(path);
    // With a WAL or a rollback journal, the last page may be partly written, which is not damage.
    if is_truncated(path, &start) && is_alone() && is_truncated(path, &start) {
        return Err(Fault::corrupt(
            "the file was truncated: it does not end with a whole page; restore a backup",
        ));
    }
    Ok(())
}

/// Returns the first bytes of the file, or fewer if it is shorter.
fn first_bytes(path: &Path) -> Option<Vec<u8>> {
    let mut start = Vec::new();
    File::open(path).ok()?.take(MAGIC.len() as u64 + 2).read_to_end(&mut start).ok()?;
    Some(start)
}

/// Returns whether the last page is incomplete. SQLite would read the missing part as zeros.
fn is_truncated(path: &Path, start: &[u8]) -> bool {
    let size = match start.get(MAGIC.len()..) {
        Some(&[0, 1]) => 65_536,
        Some(&[high, low]) => u64::from(u16::from_be_bytes([high, low])),
        _ => return false,
    };
    size > 0 && !length(path).is_multiple_of(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SQLite's busy handler may sleep 100 ms while the lock becomes free many times. The writer polls more often,
    /// which works only if SQLite returns at once.
    #[test]
    fn a_writer_hears_at_once_that_the_lock_is_taken() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let to_error = |fault: Fault| fault.to_error("open the file");
        let location =
            Location::new(&dir.path().join("store.db"), Duration::from_secs(3_600)).map_err(to_error)?;
        let ((one, _), (other, _)) =
            (location.writer().map_err(to_error)?, location.writer().map_err(to_error)?);
        one.execute_batch("BEGIN IMMEDIATE")?;
        let refused = other.execute_batch("BEGIN IMMEDIATE").map_err(Fault::from);
        assert!(refused.is_err_and(|fault| fault.is(ErrorCode::DatabaseBusy)));
        one.execute_batch("COMMIT")?;
        other.execute_batch("BEGIN IMMEDIATE; COMMIT")?;
        Ok(())
    }
}
