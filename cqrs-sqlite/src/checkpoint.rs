//! When the WAL is written back to the main file, and what the main file says about its WAL.
//!
//! Between two checkpoints the last commits are in the WAL only, and the main file alone looks like a log that
//! ends earlier. So the main file says whether commits follow: each checkpoint begins with a commit that says
//! so ([`Wal::Expected`]), and the next commit, which is in the WAL only, says that it is the one that was
//! expected ([`Wal::Followed`]). A store that is closed writes all of the WAL back ([`Wal::Complete`]).
//!
//! A main file that expects a WAL and has none was copied or moved alone, and is refused. What this does not
//! find: a file whose last checkpoint was made by a connection of another program, such as the `sqlite3`
//! shell, or was held up by a reader; and a WAL of the same file that is older.

use rusqlite::Connection;

use crate::error::Fault;

/// What the main file says about the WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wal {
    /// The main file has everything.
    Complete,
    /// Commits follow that are in the WAL only.
    Expected,
    /// This is one of them.
    Followed,
}

/// The WAL is written back when it has so many pages, 32 MiB. The later that is, the more often a page was
/// changed that is then written once; with SQLite's own 1,000 it would be every few groups.
pub(crate) const PAGES: i32 = 8_192;

/// A reader that began earlier may hold a checkpoint up. Then the next one is made after so many pages.
pub(crate) const AGAIN: i32 = 1_024;

/// About how many pages a group of writes adds to the WAL: the leaves of the indexes that each write changes, the
/// pages that the group changes once, and twice its bytes.
pub(crate) fn pages_of(writes: usize, bytes: usize) -> i32 {
    const PAGE: usize = 4_096;
    i32::try_from(8 + 2 * writes + 2 * bytes / PAGE).unwrap_or(i32::MAX)
}

/// Reads what the file says. Its tables are of this program's version.
pub(crate) fn state(conn: &Connection) -> Result<Wal, Fault> {
    let mut select = conn.prepare_cached("SELECT wal FROM cqrs_meta")?;
    match select.query_row((), |row| row.get(0))? {
        0 => Ok(Wal::Complete),
        1 => Ok(Wal::Expected),
        2 => Ok(Wal::Followed),
        other => Err(Fault::corrupt(format!("its WAL has the impossible state {other}"))),
    }
}

/// Says in this transaction that the commits that follow are in the WAL.
pub(crate) fn expect(conn: &Connection) -> Result<(), Fault> {
    let mut update = conn.prepare_cached("UPDATE cqrs_meta SET wal = 1, generation = generation + 1")?;
    update.execute(())?;
    Ok(())
}

/// Says in this transaction that it is the one that was expected.
pub(crate) fn follow(conn: &Connection) -> Result<(), Fault> {
    conn.prepare_cached("UPDATE cqrs_meta SET wal = 2")?.execute(())?;
    Ok(())
}

/// Says in this transaction that the main file is going to have everything.
pub(crate) fn complete(conn: &Connection) -> Result<(), Fault> {
    conn.prepare_cached("UPDATE cqrs_meta SET wal = 0")?.execute(())?;
    Ok(())
}

/// How much of the WAL a checkpoint is about.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// As much as readers allow.
    Passive,
    /// All of it, and then the WAL is empty. Waits for readers and writers as long as the connection does.
    Truncate,
}

/// Writes the WAL back; returns the number of pages at which to do so again.
pub(crate) fn run(conn: &Connection, mode: Mode) -> Result<i32, Fault> {
    let sql = match mode {
        Mode::Passive => "PRAGMA wal_checkpoint(PASSIVE)",
        Mode::Truncate => "PRAGMA wal_checkpoint(TRUNCATE)",
    };
    let (busy, pages, written): (bool, i32, i32) =
        conn.query_row(sql, (), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    let whole = !busy && pages == written;
    tracing::debug!(pages, written, whole, "wrote the WAL back to the main file");
    Ok(if whole { PAGES } else { pages.saturating_add(AGAIN).max(PAGES) })
}
