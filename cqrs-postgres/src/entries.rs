//! The entries of consumers' collections.

use bytes::Bytes;
use cqrs_core::read_store::{Entry, EntryKey, EntryWrite, RangeRead};
use cqrs_core::store::Direction;
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use crate::error::Fault;
use crate::open::{Conn, Sql};

/// Changed entries as the lists that a statement takes, in the order of their keys: neighbors in the index are
/// then visited together.
#[derive(Debug, Default)]
pub(crate) struct Writes<'a> {
    pub(crate) put: Put<'a>,
    pub(crate) removed: Removed<'a>,
}

#[derive(Debug, Default)]
pub(crate) struct Put<'a> {
    pub(crate) collections: Vec<&'a str>,
    pub(crate) keys: Vec<&'a [u8]>,
    pub(crate) contents: Vec<&'a [u8]>,
}

#[derive(Debug, Default)]
pub(crate) struct Removed<'a> {
    pub(crate) collections: Vec<&'a str>,
    pub(crate) keys: Vec<&'a [u8]>,
}

impl<'a> Writes<'a> {
    pub(crate) fn of(writes: &'a [EntryWrite]) -> Self {
        let mut sorted: Vec<&EntryWrite> = writes.iter().collect();
        sorted.sort_unstable_by_key(|write| &write.entry);
        let mut lists = Self::default();
        for write in sorted {
            lists.add(&write.entry, write.content.as_ref());
        }
        lists
    }

    pub(crate) fn add(&mut self, entry: &'a EntryKey, content: Option<&'a Bytes>) {
        match content {
            Some(content) => {
                self.put.collections.push(entry.collection.name());
                self.put.keys.push(&entry.key);
                self.put.contents.push(content);
            }
            None => {
                self.removed.collections.push(entry.collection.name());
                self.removed.keys.push(&entry.key);
            }
        }
    }
}

static GET: Sql = Sql::new(
    "SELECT (SELECT e.content FROM {s}.entries e
             WHERE e.consumer = $1 AND e.collection = n.collection AND e.key = n.key)
     FROM unnest($2, $3) WITH ORDINALITY AS n (collection, key, number) ORDER BY n.number",
    &[Type::TEXT, Type::TEXT_ARRAY, Type::BYTEA_ARRAY],
);

pub(crate) async fn get(
    conn: &Conn,
    consumer: &str,
    entries: &[EntryKey],
) -> Result<Vec<Option<Bytes>>, Fault> {
    // No text in the database has a NUL, and none can be sent there.
    if consumer.contains('\0') {
        return Ok(vec![None; entries.len()]);
    }
    let valid = |entry: &&EntryKey| entry.collection.is_valid();
    let keys: Vec<Option<&[u8]>> =
        entries.iter().map(|entry| Some(entry).filter(valid).map(|entry| &*entry.key)).collect();
    let collections: Vec<Option<&str>> =
        entries.iter().map(|entry| Some(entry).filter(valid).map(|entry| entry.collection.name())).collect();
    let rows = conn.rows(&GET, &[&consumer, &collections, &keys]).await?;
    rows.iter().map(|row| Ok(row.try_get::<_, Option<&[u8]>>(0)?.map(Bytes::copy_from_slice))).collect()
}

static RANGE: Sql = Sql::new(
    "SELECT e.key, e.content FROM {s}.entries e
     WHERE e.consumer = $1 AND e.collection = $2 AND e.key >= $3 ORDER BY e.key LIMIT $4",
    &[Type::TEXT, Type::TEXT, Type::BYTEA, Type::INT8],
);
static RANGE_TO: Sql = Sql::new(
    "SELECT e.key, e.content FROM {s}.entries e
     WHERE e.consumer = $1 AND e.collection = $2 AND e.key >= $3 AND e.key < $5 ORDER BY e.key LIMIT $4",
    &[Type::TEXT, Type::TEXT, Type::BYTEA, Type::INT8, Type::BYTEA],
);
static BACKWARD: Sql = Sql::new(
    "SELECT e.key, e.content FROM {s}.entries e
     WHERE e.consumer = $1 AND e.collection = $2 AND e.key >= $3 ORDER BY e.key DESC LIMIT $4",
    &[Type::TEXT, Type::TEXT, Type::BYTEA, Type::INT8],
);
static BACKWARD_TO: Sql = Sql::new(
    "SELECT e.key, e.content FROM {s}.entries e
     WHERE e.consumer = $1 AND e.collection = $2 AND e.key >= $3 AND e.key < $5 ORDER BY e.key DESC LIMIT $4",
    &[Type::TEXT, Type::TEXT, Type::BYTEA, Type::INT8, Type::BYTEA],
);
static COUNT: Sql = Sql::new(
    "SELECT count(*) FROM (SELECT FROM {s}.entries e
     WHERE e.consumer = $1 AND e.collection = $2 AND e.key >= $3 LIMIT $4) AS e",
    &[Type::TEXT, Type::TEXT, Type::BYTEA, Type::INT8],
);
static COUNT_TO: Sql = Sql::new(
    "SELECT count(*) FROM (SELECT FROM {s}.entries e
     WHERE e.consumer = $1 AND e.collection = $2 AND e.key >= $3 AND e.key < $5 LIMIT $4) AS e",
    &[Type::TEXT, Type::TEXT, Type::BYTEA, Type::INT8, Type::BYTEA],
);

pub(crate) async fn range(conn: &Conn, range: &RangeRead) -> Result<Vec<Entry>, Fault> {
    let rows = match range.direction {
        Direction::Forward => rows_of(conn, range, [&RANGE, &RANGE_TO]).await?,
        Direction::Backward => rows_of(conn, range, [&BACKWARD, &BACKWARD_TO]).await?,
    };
    let copied = |row: &Row, column| Ok::<_, Fault>(Bytes::copy_from_slice(row.try_get(column)?));
    rows.iter().map(|row| Ok(Entry { key: copied(row, 0)?, content: copied(row, 1)? })).collect()
}

pub(crate) async fn count(conn: &Conn, range: &RangeRead) -> Result<u64, Fault> {
    let rows = rows_of(conn, range, [&COUNT, &COUNT_TO]).await?;
    let count = rows.first().map(|row| row.try_get::<_, i64>(0)).transpose()?;
    Ok(count.unwrap_or_default().cast_unsigned())
}

/// Runs the first statement for a range without an end, and the second one for others.
async fn rows_of(conn: &Conn, range: &RangeRead, [from, to]: [&'static Sql; 2]) -> Result<Vec<Row>, Fault> {
    let (consumer, collection) = (&range.consumer, range.collection.name());
    if consumer.contains('\0') || !range.collection.is_valid() {
        return Ok(Vec::new());
    }
    let limit = i64::try_from(range.limit).unwrap_or(i64::MAX);
    let (lower, upper) = range.half_open();
    match upper {
        None => conn.rows(from, &[consumer, &collection, &&*lower, &limit]).await,
        Some(upper) => conn.rows(to, &[consumer, &collection, &&*lower, &limit, &&*upper]).await,
    }
}
