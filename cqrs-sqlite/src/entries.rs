//! The entries of consumers' collections.

use bytes::Bytes;
use cqrs_core::read_store::{Entry, EntryKey, EntryWrite, RangeRead};
use cqrs_core::store::Direction;
use rusqlite::Connection;

use crate::error::Fault;
use crate::read;

pub(crate) fn write(conn: &Connection, consumer: &str, writes: &[EntryWrite]) -> Result<(), Fault> {
    if writes.is_empty() {
        return Ok(());
    }
    // Without other indexes or triggers a replacement is one walk down the tree, and an
    // `ON CONFLICT DO UPDATE` three.
    let mut put = conn.prepare_cached(
        "INSERT OR REPLACE INTO cqrs_entries (consumer, collection, key, content) VALUES (?1, ?2, ?3, ?4)",
    )?;
    let mut remove =
        conn.prepare_cached("DELETE FROM cqrs_entries WHERE consumer = ?1 AND collection = ?2 AND key = ?3")?;
    for at in in_order(writes, |write| &write.entry) {
        let EntryWrite { entry: EntryKey { collection, key }, content, .. } = &writes[at];
        match content {
            Some(content) => put.execute((consumer, collection.name(), &**key, &**content))?,
            None => remove.execute((consumer, collection.name(), &**key))?,
        };
    }
    Ok(())
}

/// Returns the numbers of entries in the order of their keys: neighbors in the tree are then visited together,
/// while their page is in the cache.
fn in_order<T>(all: &[T], entry: impl Fn(&T) -> &EntryKey) -> Vec<usize> {
    let mut order: Vec<_> = (0..all.len()).collect();
    order.sort_unstable_by_key(|at| entry(&all[*at]));
    order
}

pub(crate) fn get(
    conn: &Connection,
    consumer: &str,
    entries: &[EntryKey],
) -> Result<Vec<Option<Bytes>>, Fault> {
    read::snapshot(conn, |conn| get_in(conn, consumer, entries))
}

/// Reads entries as [`get`] does, in the transaction that the connection is in.
pub(crate) fn get_in(
    conn: &Connection,
    consumer: &str,
    entries: &[EntryKey],
) -> Result<Vec<Option<Bytes>>, Fault> {
    let mut select = conn.prepare_cached(
        "SELECT content FROM cqrs_entries WHERE consumer = ?1 AND collection = ?2 AND key = ?3",
    )?;
    let mut found = vec![None; entries.len()];
    for at in in_order(entries, |entry| entry) {
        let EntryKey { collection, key } = &entries[at];
        let mut rows = select.query((consumer, collection.name(), &**key))?;
        let content = rows.next()?.map(|row| Ok::<_, Fault>(row.get_ref(0)?.as_blob()?));
        found[at] = content.transpose()?.map(Bytes::copy_from_slice);
    }
    Ok(found)
}

/// The condition of a range: its consumer, its collection, its lowest key, and the lowest key past its end.
const WITHIN: &str = "consumer = ?1 AND collection = ?2 AND key >= ?3 AND key < ?4";
/// The same of a range without an end.
const FROM: &str = "consumer = ?1 AND collection = ?2 AND key >= ?3 AND ?4 IS NULL";

pub(crate) fn range(conn: &Connection, range: &RangeRead) -> Result<Vec<Entry>, Fault> {
    let (lower, upper) = range.half_open();
    let within = if upper.is_some() { WITHIN } else { FROM };
    let order = if range.direction == Direction::Forward { "ASC" } else { "DESC" };
    let mut select = conn.prepare_cached(&format!(
        "SELECT key, content FROM cqrs_entries WHERE {within} ORDER BY key {order} LIMIT ?5"
    ))?;
    let entry = |row: &rusqlite::Row<'_>| {
        let (key, content): (Vec<u8>, Vec<u8>) = (row.get(0)?, row.get(1)?);
        Ok(Entry { key: key.into(), content: content.into() })
    };
    let rows = select.query_map(
        (&range.consumer, range.collection.name(), &*lower, upper.as_deref(), limit(range)),
        entry,
    )?;
    Ok(rows.collect::<Result<_, _>>()?)
}

pub(crate) fn count(conn: &Connection, range: &RangeRead) -> Result<u64, Fault> {
    let (lower, upper) = range.half_open();
    let within = if upper.is_some() { WITHIN } else { FROM };
    let mut select = conn.prepare_cached(&format!(
        "SELECT count(*) FROM (SELECT 1 FROM cqrs_entries WHERE {within} LIMIT ?5)"
    ))?;
    let params = (&range.consumer, range.collection.name(), &*lower, upper.as_deref(), limit(range));
    Ok(select.query_row(params, |row| row.get::<_, i64>(0))?.cast_unsigned())
}

fn limit(range: &RangeRead) -> i64 {
    i64::try_from(range.limit).unwrap_or(i64::MAX)
}
