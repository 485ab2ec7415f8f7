//! What the writing thread remembers of the log from one group to the next, so that an append need not
//! look up what the one before it has just written.

use std::mem;

use cqrs_core::id::StreamId;
use foldhash::HashMap;
use rusqlite::Connection;

use crate::checkpoint::{self, Wal};
use crate::error::Fault;
use crate::read::{self, Last};
use crate::schema;

/// Streams in one generation, of which there are two.
const GENERATION: usize = 8_192;

/// The log's head and some streams' versions. They are good only within a transaction that holds the
/// lock for writing and has [refreshed](Self::refresh) them.
#[derive(Debug, Default)]
pub(crate) struct Known {
    seen: Option<Seen>,
    young: HashMap<StreamId, Last>,
    /// Those of the generation before. Who is asked for here becomes young again.
    old: HashMap<StreamId, Last>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    /// What SQLite counts up when another connection has written.
    data_version: i64,
    /// The log's last event at that time.
    head: Last,
    wal: Wal,
}

impl Known {
    /// Makes sure that nothing is remembered that another connection has changed; gives the log's last event.
    pub(crate) fn refresh(&mut self, conn: &Connection) -> Result<Last, Fault> {
        let now: i64 = conn.prepare_cached("PRAGMA data_version")?.query_row((), |row| row.get(0))?;
        if let Some(seen) = self.seen
            && seen.data_version == now
        {
            return Ok(seen.head);
        }
        self.forget();
        // Another process may have migrated the file.
        schema::current(conn)?.writable()?;
        let head = read::last(conn)?;
        self.seen = Some(Seen { data_version: now, head, wal: checkpoint::state(conn)? });
        Ok(head)
    }

    /// What the file says about its WAL; `None` if that is not known.
    pub(crate) fn wal(&self) -> Option<Wal> {
        self.seen.map(|seen| seen.wal)
    }

    /// Takes over what a transaction has committed.
    pub(crate) fn committed(&mut self, head: Last, wal: Wal) {
        if let Some(seen) = &mut self.seen {
            (seen.head, seen.wal) = (head, wal);
        }
    }

    /// After a transaction that was not committed.
    pub(crate) fn forget(&mut self) {
        *self = Self::default();
    }

    /// After some of a transaction was taken back.
    pub(crate) fn forget_versions(&mut self) {
        self.young.clear();
        self.old.clear();
    }

    /// The last event of a stream.
    pub(crate) fn last_of(&mut self, conn: &Connection, stream: &StreamId) -> Result<Last, Fault> {
        if let Some(last) = self.young.get(stream) {
            return Ok(*last);
        }
        let last = match self.old.remove(stream) {
            Some(last) => last,
            None => read::last_of(conn, stream)?,
        };
        self.remember(stream, last);
        Ok(last)
    }

    pub(crate) fn remember(&mut self, stream: &StreamId, last: Last) {
        if let Some(known) = self.young.get_mut(stream) {
            *known = last;
            return;
        }
        if self.young.len() >= GENERATION {
            self.old = mem::take(&mut self.young);
        }
        self.young.insert(stream.clone(), last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn versions(known: &mut Known, conn: &Connection, streams: impl Iterator<Item = usize>) -> Vec<i64> {
        let stream = |number| format!("A/{number}").parse::<StreamId>().ok();
        streams
            .filter_map(stream)
            .filter_map(|stream| known.last_of(conn, &stream).ok())
            .map(|last| last.number)
            .collect()
    }

    #[test]
    fn what_is_remembered_is_bounded_and_what_is_in_use_stays() -> rusqlite::Result<()> {
        let conn = Connection::open_in_memory()?;
        schema::prepare(&conn).map_err(|_| rusqlite::Error::InvalidQuery)?;
        let mut known = Known::default();
        for round in 0..5 {
            let last = Last { number: 7, id: None };
            known.remember(&"A/hot".parse().map_err(|_| rusqlite::Error::InvalidQuery)?, last);
            versions(&mut known, &conn, (0..GENERATION).map(|stream| round * GENERATION + stream));
        }
        assert!(known.young.len() + known.old.len() <= 2 * GENERATION);
        let hot = "A/hot".parse().map_err(|_| rusqlite::Error::InvalidQuery)?;
        // The table has no event of it, so a look there would give 0.
        assert_eq!(known.last_of(&conn, &hot).ok().map(|last| last.number), Some(7));
        Ok(())
    }

    #[test]
    fn what_another_connection_writes_is_not_covered_by_memory() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let open = || Connection::open(dir.path().join("log.db"));
        let (one, other) = (open()?, open()?);
        one.pragma_update(None, "journal_mode", "WAL")?;
        schema::prepare(&one).map_err(|fault| fault.told("prepare"))?;
        let write = |conn: &Connection, position: i64| {
            conn.execute(
                "INSERT INTO cqrs_events VALUES (?1, ?1, 1, 0, 0, randomblob(16), 'A/1', 'B', NULL, NULL, x'')",
                (position,),
            )
        };
        let stream: StreamId = "A/1".parse()?;
        let mut known = Known::default();
        let mut look = |expected: i64| -> Result<(), Box<dyn std::error::Error>> {
            one.execute_batch("BEGIN IMMEDIATE")?;
            let head = known.refresh(&one).map_err(|fault| fault.told("look"))?;
            let last = known.last_of(&one, &stream).map_err(|fault| fault.told("look"))?;
            one.execute_batch("ROLLBACK")?;
            assert_eq!((head.number, last.number), (expected, expected));
            Ok(())
        };
        look(0)?;
        write(&other, 1)?;
        look(1)?;
        // The negative control: what the same connection wrote has to be told.
        write(&one, 2)?;
        look(1)
    }
}
