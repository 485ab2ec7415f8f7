//! Opening the file: what it has to be, and how each connection is set up.

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
use crate::file::{self, Conn, Content, OpenFile, beside, length};
use crate::schema::{self, Found};
use crate::{snapshots, statements, wal};

/// Before this version, a file could be damaged when two connections reset the WAL together.
const OLDEST: i32 = 3_051_003;

/// What every SQLite database begins with.
const MAGIC: &[u8] = b"SQLite format 3\0";

/// Enough for all statements of this crate and many of a projection's own, so that each is prepared once
/// per connection.
const STATEMENTS: usize = 256;

/// Where the file is, and how it is opened.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) path: PathBuf,
    /// How long to wait for another process that holds the file.
    pub(crate) patience: Duration,
    pub(crate) file: Arc<OpenFile>,
}

impl Place {
    /// Refuses a path that cannot lead to a store.
    pub(crate) fn new(path: &Path, patience: Duration) -> Result<Self, Fault> {
        check_library()?;
        let path = file::resolve(path)?;
        let file = Arc::new(OpenFile::new(path.clone()));
        Ok(Self { path, patience, file })
    }

    /// Opens the file for writing, and creates the store in it if it is empty.
    pub(crate) fn writer(&self) -> Result<(Conn, LogId), Fault> {
        let found = self.look(|conn| {
            let found = schema::inspect(conn)?;
            match found {
                Found::Empty => {}
                Found::Older(version) => return Err(schema::outdated(version)),
                Found::Ready(_) => self.has_its_wal(conn)?,
            }
            Ok(found)
        })?;
        let mut conn = match found {
            Found::Empty => self.create()?,
            Found::Older(_) | Found::Ready(_) => self.connect(READ_WRITE)?,
        };
        // Until it is known to be whole, closing it must not change it.
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        self.set_up(&conn).map_err(|fault| self.cannot_open(fault))?;
        let log = schema::log_id(&conn)?;
        statements::watch(&mut conn)?;
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
        // From now on it waits in its own way, and never but for the lock.
        conn.busy_timeout(Duration::ZERO)?;
        self.file.opened()?;
        self.file.check()?;
        Ok((conn, log))
    }

    /// Opens the file for writing again, after all connections were closed.
    pub(crate) fn writer_again(&self, log: LogId) -> Result<Conn, Fault> {
        // Else one that was deleted meanwhile would be created anew.
        self.file.check()?;
        let (conn, found) = self.writer()?;
        match found == log {
            true => Ok(conn),
            false => Err(Fault::corrupt(format!("the file has the log {found} now, and had the log {log}"))),
        }
    }

    /// Creates the store in a file that is empty or not there. It is written before the file has a WAL, so
    /// that the main file alone is never an empty log.
    fn create(&self) -> Result<Conn, Fault> {
        let new = !self.path.exists();
        let create = || {
            let conn = self.connect(READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE)?;
            durable(&conn)?;
            let creating = Transaction::new_unchecked(&conn, TransactionBehavior::Immediate)?;
            schema::prepare(&creating)?;
            creating.commit()?;
            Ok(conn)
        };
        let created = create().and_then(|conn| {
            self.set_up(&conn)?;
            // An empty database may have had a WAL before.
            conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |_| Ok(()))?;
            Ok(conn)
        });
        if created.is_err() && new && length(&self.path) == 0 {
            // SQLite has created the file before anything else.
            let _ = std::fs::remove_file(&self.path);
        }
        created.map_err(|fault| self.cannot_open(fault))
    }

    /// Brings the tables to this program's version, and creates them if the file is empty or not there.
    pub(crate) fn migrate(&self) -> Result<(), Fault> {
        let found = self.look(|conn| {
            let found = schema::inspect(conn)?;
            match found {
                Found::Empty => Ok(found),
                Found::Older(_) | Found::Ready(_) => self.has_its_wal(conn).map(|()| found),
            }
        })?;
        match found {
            Found::Empty => self.create().map(drop),
            Found::Older(_) => self.alone(schema::migrate),
            Found::Ready(_) => Ok(()),
        }
    }

    /// The statements that [`migrate`](Self::migrate) would run now.
    pub(crate) fn migration_sql(&self) -> Result<String, Fault> {
        self.look(schema::migration_sql)
    }

    /// Makes the file a log of its own, and with it all that in the same file is about the log.
    pub(crate) fn assign_new_log_id(&self) -> Result<LogId, Fault> {
        // Not the check of the WAL: whoever calls this continues without what it has lost.
        file::if_closed(&self.path, || check_file(&self.path))?;
        match self.look_inside(schema::inspect)? {
            Found::Empty => return Err(Fault::new(StoreErrorKind::Invalid, "it has no log")),
            Found::Older(version) => return Err(schema::outdated(version)),
            Found::Ready(versions) => versions.writable()?,
        }
        self.alone(|conn| {
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

    /// Changes the file in one transaction while nobody else has it open.
    ///
    /// Without a WAL, a transaction that excludes others waits until they have closed the file. Whoever opens
    /// it afterwards sees the change.
    fn alone<T>(&self, change: impl FnOnce(&Connection) -> Result<T, Fault>) -> Result<T, Fault> {
        let in_use = |fault: Fault| match fault.is_busy() {
            true => Fault::new(
                StoreErrorKind::Unavailable,
                "another program, or another part of this one, has the file open: close it there first",
            ),
            false => fault,
        };
        let conn = self.without_wal().map_err(in_use)?;
        let changing = Transaction::new_unchecked(&conn, TransactionBehavior::Exclusive);
        let changing = changing.map_err(|error| in_use(error.into()))?;
        let changed = change(&changing)?;
        changing.commit()?;
        // It may be open somewhere else by now. Then the next store that opens it does this.
        let _ = journal_mode(&conn, "WAL");
        Ok(changed)
    }

    /// Opens the file and removes its WAL, once nobody else has it open.
    fn without_wal(&self) -> Result<Conn, Fault> {
        let begun = Instant::now();
        loop {
            let conn = self.connect(READ_WRITE)?;
            durable(&conn)?;
            match journal_mode(&conn, "DELETE") {
                Ok(_) => return Ok(conn),
                // This connection has the file open as well, so it is closed: another one may be waiting for that.
                Err(fault) if fault.is_busy() && begun.elapsed() < self.patience => {
                    drop(conn);
                    std::thread::sleep(crate::writer::pause() * 20);
                }
                Err(fault) => return Err(fault),
            }
        }
    }

    /// Checks the file as far as that is possible without SQLite, and reads it before it is known to be a store
    /// of ours.
    fn look<T>(&self, read: impl FnOnce(&Connection) -> Result<T, Fault>) -> Result<T, Fault> {
        file::if_closed(&self.path, || check_file(&self.path).and_then(|()| wal::check(&self.path)))?;
        self.look_inside(read)
    }

    /// Reads the file, and leaves no trace beside it.
    fn look_inside<T>(&self, read: impl FnOnce(&Connection) -> Result<T, Fault>) -> Result<T, Fault> {
        let done = if length(&self.path) == 0 {
            read(&Connection::open_in_memory()?)
        } else if length(&beside(&self.path, "-wal")) == 0 {
            immutable(&self.path).and_then(|conn| read(&conn))
        } else {
            let conn = self.connect(READ_WRITE)?;
            conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
            if !beside(&self.path, "-shm").exists() {
                // The index of the WAL is kept in memory, and not in a file.
                conn.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
            }
            read(&conn)
        };
        done.map_err(|fault| self.cannot_open(fault))
    }

    /// Refuses a file that says that commits follow in its WAL, if there is none.
    fn has_its_wal(&self, conn: &Connection) -> Result<(), Fault> {
        if schema::expects_wal(conn)? && length(&beside(&self.path, "-wal")) == 0 {
            return Err(Fault::corrupt(format!(
                "its WAL {} is missing, and with it the last commits: the file was copied or moved alone while it \
                 was open. Put the WAL back, or copy a file that was closed; to continue without those commits, call \
                 `SqliteStore::assign_new_log_id`",
                beside(&self.path, "-wal").display()
            )));
        }
        Ok(())
    }

    /// Opens a store that is there for reading.
    pub(crate) fn reader(&self) -> Result<Conn, Fault> {
        // Else it would join another file with the WAL of this one.
        self.file.check()?;
        // Even a reader writes to the index of the WAL, so the file is not opened read-only.
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
            // Before it is read, which would create a WAL.
            return Err(Fault::new(StoreErrorKind::Failed, "the file cannot be written"));
        }
        conn.busy_timeout(self.patience)?;
        conn.set_prepared_statement_cache_capacity(STATEMENTS);
        // Else a statement with `LIMIT ?` is compiled anew for each value.
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
        // In KiB, where the sign says so.
        conn.pragma_update(None, "cache_size", -16_384)?;
        Ok(conn)
    }

    /// Says which of the two it is that cannot be written: SQLite says the same of both.
    fn cannot_open(&self, fault: Fault) -> Fault {
        let directory = self.path.parent().unwrap_or(Path::new("/"));
        match fault.is(ErrorCode::CannotOpen) || fault.is(ErrorCode::ReadOnly) {
            true => fault.saying(format!(
                "the file cannot be opened for writing: the store needs rights to read and write the file and its \
                 directory {}",
                directory.display()
            )),
            false => fault,
        }
    }

    fn set_up(&self, conn: &Connection) -> Result<(), Fault> {
        let mode = retry(self.patience, || journal_mode(conn, "WAL"))?;
        if !mode.eq_ignore_ascii_case("wal") {
            let words = format!("the file system has no room for a WAL (SQLite stays with `{mode}`)");
            return Err(Fault::new(StoreErrorKind::Unsupported, words));
        }
        durable(conn)?;
        // The writer writes it back itself: see `checkpoint`.
        conn.pragma_update(None, "wal_autocheckpoint", 0)?;
        // A WAL that a slow reader made grow is cut when it is reused.
        conn.pragma_update(None, "journal_size_limit", 64 << 20)?;
        Ok(())
    }
}

// Without `SQLITE_OPEN_URI`. Some builds of SQLite take `file:` for a URI all the same; an absolute path
// never begins so.
const READ_WRITE: OpenFlags = OpenFlags::SQLITE_OPEN_READ_WRITE.union(OpenFlags::SQLITE_OPEN_NO_MUTEX);

fn durable(conn: &Connection) -> Result<(), Fault> {
    // With less, a loss of power takes appends that were acknowledged.
    conn.pragma_update(None, "synchronous", "FULL")?;
    // The same for macOS, where an fsync alone does not reach the disk.
    conn.pragma_update(None, "fullfsync", true)?;
    Ok(())
}

/// Opens the main file alone, as it is on the disk: without its WAL, without a lock, and without creating
/// anything.
fn immutable(path: &Path) -> Result<Connection, Fault> {
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

/// What the main file says of itself.
pub(crate) fn content(path: &Path) -> Result<Option<Content>, Fault> {
    schema::content(&immutable(path)?)
}

fn journal_mode(conn: &Connection, mode: &str) -> Result<String, Fault> {
    Ok(conn.pragma_update_and_check(None, "journal_mode", mode, |row| row.get(0))?)
}

/// Tries again as long as another process holds the file. Changing the journal's mode does not wait
/// by itself.
fn retry<T>(patience: Duration, mut attempt: impl FnMut() -> Result<T, Fault>) -> Result<T, Fault> {
    let begun = Instant::now();
    loop {
        match attempt() {
            Err(fault) if fault.is_busy() && begun.elapsed() < patience => {
                std::thread::sleep(Duration::from_millis(2));
            }
            done => return done,
        }
    }
}

fn check_library() -> Result<(), Fault> {
    if rusqlite::version_number() >= OLDEST {
        return Ok(());
    }
    let there = rusqlite::version();
    let words =
        format!("this program has SQLite {there}, which can damage the file; 3.51.3 or newer is needed");
    Err(Fault::new(StoreErrorKind::Unsupported, words))
}

/// Refuses what SQLite would take for a new database, or describe by a single word.
fn check_file(path: &Path) -> Result<(), Fault> {
    if length(path) == 0 {
        let wal = beside(path, "-wal");
        if length(&wal) > 0 {
            // SQLite would remove it, and with it what is in it.
            return Err(Fault::corrupt(format!(
                "the file is {}, but its WAL {} has content: put the file back, or remove its WAL",
                if path.exists() { "empty" } else { "missing" },
                wal.display()
            )));
        }
        return Ok(());
    }
    // What cannot be read will be told by SQLite.
    let Some(start) = start_of(path) else { return Ok(()) };
    if !start.starts_with(MAGIC) {
        return Err(Fault::corrupt("the file is not an SQLite database"));
    }
    let without_wal = || length(&beside(path, "-wal")) == 0;
    // While there is a WAL, the file's end may be in the midst of being written, and is no fault.
    if cut_off(path, &start) && without_wal() && cut_off(path, &start) {
        return Err(Fault::corrupt("the file was cut off: it does not end with a whole page"));
    }
    Ok(())
}

/// The first bytes, as far as they go.
fn start_of(path: &Path) -> Option<Vec<u8>> {
    let mut start = Vec::new();
    File::open(path).ok()?.take(MAGIC.len() as u64 + 2).read_to_end(&mut start).ok()?;
    Some(start)
}

/// SQLite itself would take the missing end of a page for zeros.
fn cut_off(path: &Path, start: &[u8]) -> bool {
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

    /// SQLite's own waiting may sleep for a tenth of a second while the lock comes free many times. The writer
    /// looks more often, which it could not if SQLite waited first.
    #[test]
    fn a_writer_hears_at_once_that_the_lock_is_taken() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let told = |fault: Fault| fault.told("open the file");
        let place = Place::new(&dir.path().join("store.db"), Duration::from_secs(3_600)).map_err(told)?;
        let ((one, _), (other, _)) = (place.writer().map_err(told)?, place.writer().map_err(told)?);
        one.execute_batch("BEGIN IMMEDIATE")?;
        let refused = other.execute_batch("BEGIN IMMEDIATE").map_err(Fault::from);
        assert!(refused.is_err_and(|fault| fault.is(ErrorCode::DatabaseBusy)));
        one.execute_batch("COMMIT")?;
        other.execute_batch("BEGIN IMMEDIATE; COMMIT")?;
        Ok(())
    }
}
