//! Opening the file: what it has to be, and how each connection is set up.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cqrs_core::error::StoreErrorKind;
use cqrs_core::store::LogId;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use crate::error::Fault;
use crate::{schema, statements, wal};

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
}

impl Place {
    /// Opens the file for writing, and creates or migrates the store in it.
    pub(crate) fn writer(&self) -> Result<(Connection, LogId), Fault> {
        check_library()?;
        check_path(&self.path)?;
        wal::check(&self.path)?;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut conn = self.connect(flags)?;
        // A file that turns out not to be ours is left as it is, its WAL included.
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        schema::inspect(&conn)?;
        if conn.is_readonly("main")? {
            return Err(Fault::new(StoreErrorKind::Failed, "the file cannot be written"));
        }
        self.set_up(&conn)?;
        let prepared = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        schema::prepare(&prepared)?;
        prepared.commit()?;
        let log = schema::log_id(&conn)?;
        statements::watch(&mut conn)?;
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
        // From now on it waits in its own way, and never but for the lock.
        conn.busy_timeout(Duration::ZERO)?;
        Ok((conn, log))
    }

    /// Opens a store that is there for reading.
    pub(crate) fn reader(&self) -> Result<Connection, Fault> {
        // Even a reader writes to the index of the WAL, so the file is not opened read-only.
        let conn = self.connect(OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        conn.pragma_update(None, "query_only", true)?;
        Ok(conn)
    }

    fn connect(&self, flags: OpenFlags) -> Result<Connection, Fault> {
        let conn = Connection::open_with_flags(&self.path, flags)?;
        conn.busy_timeout(self.patience)?;
        conn.set_prepared_statement_cache_capacity(STATEMENTS);
        // Else a statement with `LIMIT ?` is compiled anew for each value.
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
        // In KiB, where the sign says so.
        conn.pragma_update(None, "cache_size", -16_384)?;
        Ok(conn)
    }

    fn set_up(&self, conn: &Connection) -> Result<(), Fault> {
        let mode: String = retry(self.patience, || {
            conn.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))
        })?;
        if !mode.eq_ignore_ascii_case("wal") {
            let words = format!("the file system has no room for a WAL (SQLite stays with `{mode}`)");
            return Err(Fault::new(StoreErrorKind::Unsupported, words));
        }
        // With less, a loss of power takes appends that were acknowledged.
        conn.pragma_update(None, "synchronous", "FULL")?;
        // The same for macOS, where an fsync alone does not reach the disk.
        conn.pragma_update(None, "fullfsync", true)?;
        // In pages, 32 MiB. The later the WAL is written back, the more often a page was changed that
        // is then written once; with SQLite's 1,000 that would be every few groups.
        conn.pragma_update(None, "wal_autocheckpoint", 8_192)?;
        // A WAL that a slow reader made grow is cut when it is reused.
        conn.pragma_update(None, "journal_size_limit", 64 << 20)?;
        Ok(())
    }
}

/// Tries again as long as another process holds the file. Changing the journal's mode does not wait
/// by itself.
fn retry<T>(patience: Duration, mut attempt: impl FnMut() -> rusqlite::Result<T>) -> Result<T, Fault> {
    let begun = std::time::Instant::now();
    loop {
        match attempt().map_err(Fault::from) {
            Err(fault) if fault.kind() == StoreErrorKind::Unavailable && begun.elapsed() < patience => {
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

/// Refuses by name what SQLite would take for a new database, or tell in one word.
fn check_path(path: &Path) -> Result<(), Fault> {
    let invalid = |words: String| Err(Fault::new(StoreErrorKind::Invalid, words));
    if path.is_dir() {
        return invalid("it is a directory".to_owned());
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent.filter(|parent| !parent.is_dir()) {
        return invalid(format!("the directory {} does not exist; create it first", parent.display()));
    }
    // What cannot be read will be told by SQLite.
    let Some(start) = start_of(path) else { return Ok(()) };
    if !start.is_empty() && !start.starts_with(MAGIC) {
        return Err(Fault::corrupt("the file is not an SQLite database"));
    }
    if cut_off(path, &start) && !has_wal(path) && cut_off(path, &start) {
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
    let length = std::fs::metadata(path).map_or(0, |file| file.len());
    size > 0 && !length.is_multiple_of(size)
}

/// While there is a WAL, the file's end may be in the midst of being written, and is no fault.
fn has_wal(path: &Path) -> bool {
    let mut wal = path.as_os_str().to_owned();
    wal.push("-wal");
    std::fs::metadata(wal).is_ok_and(|wal| wal.len() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SQLite's own waiting may sleep for a tenth of a second while the lock comes free many times. The writer
    /// looks more often, which it could not if SQLite waited first.
    #[test]
    fn a_writer_hears_at_once_that_the_lock_is_taken() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let place = Place { path: dir.path().join("store.db"), patience: Duration::from_secs(3_600) };
        let told = |fault: Fault| fault.told("open the file");
        let ((one, _), (other, _)) = (place.writer().map_err(told)?, place.writer().map_err(told)?);
        one.execute_batch("BEGIN IMMEDIATE")?;
        let refused = other.execute_batch("BEGIN IMMEDIATE").map_err(Fault::from);
        assert!(refused.is_err_and(|fault| fault.is(rusqlite::ErrorCode::DatabaseBusy)));
        one.execute_batch("COMMIT")?;
        other.execute_batch("BEGIN IMMEDIATE; COMMIT")?;
        Ok(())
    }
}
