//! SQLite by hand.

use std::path::Path;

use rusqlite::{Connection, OpenFlags};

/// The rows of a table, by a connection of its own.
pub fn count(file: &Path, table: &str) -> anyhow::Result<u64> {
    let conn = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let rows: i64 = conn.query_row(&format!("SELECT count(*) FROM {table}"), (), |row| row.get(0))?;
    Ok(rows.try_into()?)
}
