//! WAL checkpoints, and the marker in the main file that shows a missing WAL.
//!
//! Between two checkpoints the latest commits are only in the WAL. Without it, the main file looks like a log
//! that ends earlier. The main file therefore records whether more commits follow:
//!
//! - Each checkpoint starts with a commit that sets [`Wal::Expected`].
//! - The next commit, which is only in the WAL, sets [`Wal::Followed`].
//! - Closing the store writes the whole WAL back and sets [`Wal::Complete`].
//!
//! A main file that expects a WAL and has none was copied or moved without it, and is rejected. Three cases are
//! not detected: the last checkpoint was made by another program, such as the `sqlite3` shell; a reader blocked
//! the last checkpoint; the WAL is an older one of the same file.

use rusqlite::Connection;

use crate::error::Fault;

/// The state of the WAL according to the main file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wal {
    /// The main file holds every commit.
    Complete,
    /// More commits follow in the WAL.
    Expected,
    /// This state was read from a commit in the WAL.
    Followed,
}

/// Size of the WAL in pages at which a checkpoint starts (32 MiB). A larger WAL means fewer writes of pages that
/// change often. SQLite's default of 1,000 pages would start a checkpoint every few groups.
pub(crate) const CHECKPOINT_PAGES: i32 = 8_192;

/// Pages to add before the next attempt, when an older reader blocked a checkpoint.
pub(crate) const RETRY_PAGES: i32 = 1_024;

/// Estimates how many pages a group of writes adds to the WAL: the index leaves that each write changes, the
/// pages that the group changes once, and its bytes.
pub(crate) fn estimate_pages(writes: usize, bytes: usize) -> i32 {
    const PAGE: usize = 4_096;
    i32::try_from(8 + 2 * writes + bytes / PAGE).unwrap_or(i32::MAX)
}

/// Reads the marker. The tables must have this program's version.
pub(crate) fn state(conn: &Connection) -> Result<Wal, Fault> {
    let mut select = conn.prepare_cached("SELECT wal FROM cqrs_meta")?;
    match select.query_row((), |row| row.get(0))? {
        0 => Ok(Wal::Complete),
        1 => Ok(Wal::Expected),
        2 => Ok(Wal::Followed),
        other => Err(Fault::corrupt(format!("the WAL marker in `cqrs_meta` has the unknown value {other}"))),
    }
}

/// Sets [`Wal::Expected`] in the current transaction.
pub(crate) fn mark_expected(conn: &Connection) -> Result<(), Fault> {
    let mut update = conn.prepare_cached("UPDATE cqrs_meta SET wal = 1, generation = generation + 1")?;
    update.execute(())?;
    Ok(())
}

/// Sets [`Wal::Followed`] in the current transaction.
pub(crate) fn mark_followed(conn: &Connection) -> Result<(), Fault> {
    conn.prepare_cached("UPDATE cqrs_meta SET wal = 2")?.execute(())?;
    Ok(())
}

/// Sets [`Wal::Complete`] in the current transaction.
pub(crate) fn mark_complete(conn: &Connection) -> Result<(), Fault> {
    conn.prepare_cached("UPDATE cqrs_meta SET wal = 0")?.execute(())?;
    Ok(())
}

/// The part of the WAL that a checkpoint writes back.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// As much as current readers allow.
    Passive,
    /// All of it; then empties the WAL. Waits for readers and writers up to the connection's busy timeout.
    Truncate,
}

/// Runs a checkpoint and returns the WAL size in pages at which to run the next one.
pub(crate) fn run(conn: &Connection, mode: Mode) -> Result<i32, Fault> {
    let sql = match mode {
        Mode::Passive => "PRAGMA wal_checkpoint(PASSIVE)",
        Mode::Truncate => "PRAGMA wal_checkpoint(TRUNCATE)",
    };
    let (busy, pages, written): (bool, i32, i32) =
        conn.query_row(sql, (), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    let whole = !busy && pages == written;
    tracing::debug!(pages, written, whole, "wrote the WAL back to the main file");
    Ok(if whole { CHECKPOINT_PAGES } else { pages.saturating_add(RETRY_PAGES).max(CHECKPOINT_PAGES) })
}
