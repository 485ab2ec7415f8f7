//! The writer thread's cache of the log between groups, so that an append need not look up what an earlier one
//! has written.

use std::mem;

use cqrs_core::id::StreamId;
use foldhash::HashMap;
use rusqlite::Connection;

use crate::checkpoint::{self, Wal};
use crate::error::Fault;
use crate::read::{self, LastEvent};
use crate::schema;

/// Maximum number of streams in each of the two generations.
const GENERATION: usize = 8_192;

/// A cache of the log's head and of the last events of some streams. It is valid only within a transaction that
/// holds the write lock and has called [`refresh`](Self::refresh).
#[derive(Debug, Default)]
pub(crate) struct LogCache {
    head: Option<CachedHead>,
    recent: HashMap<StreamId, LastEvent>,
    /// The previous generation. A stream that is looked up here moves to `recent`.
    older: HashMap<StreamId, LastEvent>,
}

#[derive(Clone, Copy, Debug)]
struct CachedHead {
    /// SQLite's counter of commits by other connections.
    data_version: i64,
    /// The last event of the log at that time.
    head: LastEvent,
    wal: Wal,
}

impl LogCache {
    /// Drops the cache if another connection has written, and returns the last event of the log.
    pub(crate) fn refresh(&mut self, conn: &Connection) -> Result<LastEvent, Fault> {
        let now: i64 = conn.prepare_cached("PRAGMA data_version")?.query_row((), |row| row.get(0))?;
        if let Some(cached) = self.head
            && cached.data_version == now
        {
            return Ok(cached.head);
        }
        self.clear();
        // Another process may have migrated the file.
        schema::current(conn)?.writable()?;
        let head = read::last(conn)?;
        self.head = Some(CachedHead { data_version: now, head, wal: checkpoint::state(conn)? });
        Ok(head)
    }

    /// Returns the WAL marker of the file; `None` if it is not cached.
    pub(crate) fn wal(&self) -> Option<Wal> {
        self.head.map(|cached| cached.wal)
    }

    /// Updates the head and the WAL marker after a commit.
    pub(crate) fn committed(&mut self, head: LastEvent, wal: Wal) {
        if let Some(cached) = &mut self.head {
            (cached.head, cached.wal) = (head, wal);
        }
    }

    /// Clears the cache. Call it after a rollback.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Clears the streams. Call it after a partial rollback.
    pub(crate) fn clear_streams(&mut self) {
        self.recent.clear();
        self.older.clear();
    }

    /// Returns the last event of a stream.
    pub(crate) fn last_of(&mut self, conn: &Connection, stream: &StreamId) -> Result<LastEvent, Fault> {
        if let Some(last) = self.recent.get(stream) {
            return Ok(*last);
        }
        let last = match self.older.remove(stream) {
            Some(last) => last,
            None => read::last_of(conn, stream)?,
        };
        self.insert(stream, last);
        Ok(last)
    }

    pub(crate) fn insert(&mut self, stream: &StreamId, last: LastEvent) {
        if let Some(cache) = self.recent.get_mut(stream) {
            *cache = last;
            return;
        }
        if self.recent.len() >= GENERATION {
            self.older = mem::take(&mut self.recent);
        }
        self.recent.insert(stream.clone(), last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn versions(cache: &mut LogCache, conn: &Connection, streams: impl Iterator<Item = usize>) -> Vec<i64> {
        let stream = |number| format!("A/{number}").parse::<StreamId>().ok();
        streams
            .filter_map(stream)
            .filter_map(|stream| cache.last_of(conn, &stream).ok())
            .map(|last| last.number)
            .collect()
    }

    #[test]
    fn what_is_remembered_is_bounded_and_what_is_in_use_stays() -> rusqlite::Result<()> {
        let conn = Connection::open_in_memory()?;
        schema::prepare(&conn).map_err(|_| rusqlite::Error::InvalidQuery)?;
        let mut cache = LogCache::default();
        for round in 0..5 {
            let last = LastEvent { number: 7, id: None };
            cache.insert(&"A/hot".parse().map_err(|_| rusqlite::Error::InvalidQuery)?, last);
            versions(&mut cache, &conn, (0..GENERATION).map(|stream| round * GENERATION + stream));
        }
        assert!(cache.recent.len() + cache.older.len() <= 2 * GENERATION);
        let hot = "A/hot".parse().map_err(|_| rusqlite::Error::InvalidQuery)?;
        // The table has no such event, so a query would return 0.
        assert_eq!(cache.last_of(&conn, &hot).ok().map(|last| last.number), Some(7));
        Ok(())
    }

    #[test]
    fn what_another_connection_writes_is_not_covered_by_memory() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let open = || Connection::open(dir.path().join("log.db"));
        let (one, other) = (open()?, open()?);
        one.pragma_update(None, "journal_mode", "WAL")?;
        schema::prepare(&one).map_err(|fault| fault.to_error("prepare"))?;
        let write = |conn: &Connection, position: i64| {
            conn.execute(
                "INSERT INTO cqrs_events VALUES (?1, ?1, 1, 0, 0, randomblob(16), 'A/1', 'B', NULL, NULL, x'')",
                (position,),
            )
        };
        let stream: StreamId = "A/1".parse()?;
        let mut cache = LogCache::default();
        let mut look = |expected: i64| -> Result<(), Box<dyn std::error::Error>> {
            one.execute_batch("BEGIN IMMEDIATE")?;
            let head = cache.refresh(&one).map_err(|fault| fault.to_error("look"))?;
            let last = cache.last_of(&one, &stream).map_err(|fault| fault.to_error("look"))?;
            one.execute_batch("ROLLBACK")?;
            assert_eq!((head.number, last.number), (expected, expected));
            Ok(())
        };
        look(0)?;
        write(&other, 1)?;
        look(1)?;
        // Negative control: the cache does not see what its own connection writes.
        write(&one, 2)?;
        look(1)
    }
}
