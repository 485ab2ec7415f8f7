//! The write path of the log: what one append does inside the transaction of its group.

use std::collections::HashSet;

use cqrs_core::error::{StoreError, StoreErrorKind};
use cqrs_core::event::{NewEvent, Tags};
use cqrs_core::id::{Partition, Position, StreamId, Version};
use cqrs_core::store::{Append, AppendError, Appended, CommandKey, Head, LogId};
use cqrs_core::text;
use rusqlite::{CachedStatement, Connection, OptionalExtension as _};
use uuid::Uuid;

use crate::cache::LogCache;
use crate::error::Fault;
use crate::read::LastEvent;
use crate::writer::Write;
use crate::{guard, inline, read};

/// A transaction that holds the write lock, with what it knows about the log. No other connection can change
/// the log meanwhile.
pub(crate) struct Tx<'a> {
    pub(crate) conn: &'a Connection,
    pub(crate) log: LogId,
    pub(crate) head: i64,
    /// The id of the event at the head.
    last: Option<Uuid>,
    cache: &'a mut LogCache,
    id_check: IdCheck,
    insert: Option<CachedStatement<'a>>,
}

/// When the id of an event is checked for a duplicate.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum IdCheck {
    /// On insert, by the unique index. A duplicate id fails the transaction.
    OnInsert,
    /// Before the insert, so that only the append with the duplicate id is rejected.
    BeforeInsert,
}

impl<'a> Tx<'a> {
    pub(crate) fn new(
        conn: &'a Connection,
        log: LogId,
        cache: &'a mut LogCache,
        id_check: IdCheck,
        floor: i64,
    ) -> Result<Self, Fault> {
        let LastEvent { number: head, id: last } = cache.refresh(conn)?;
        read::not_rewound(floor, head)?;
        Ok(Self { conn, log, head, last, cache, id_check, insert: None })
    }

    /// Returns the log's last event.
    pub(crate) fn last(&self) -> LastEvent {
        LastEvent { number: self.head, id: self.last }
    }

    /// Returns the end of the log.
    pub(crate) fn end(&self) -> Head {
        Head { log: self.log, position: Position::new(self.head.cast_unsigned()), event: self.last }
    }

    /// Returns the last event of a stream.
    pub(crate) fn last_of(&mut self, stream: &StreamId) -> Result<LastEvent, Fault> {
        self.cache.last_of(self.conn, stream)
    }

    pub(crate) fn version_of(&mut self, stream: &StreamId) -> Result<i64, Fault> {
        Ok(self.last_of(stream)?.number)
    }

    /// Returns the id of the event at a position, if there is one.
    pub(crate) fn id_at(&self, position: Position) -> Result<Option<Uuid>, Fault> {
        match guard::number(position) {
            head if head == self.head => Ok(self.last),
            other => read::id_at(self.conn, other),
        }
    }

    /// Opens a savepoint. End it with [`keep`](Self::keep), or undo the writes since then with
    /// [`back_to`](Self::back_to).
    pub(crate) fn mark(&self) -> Result<Savepoint, Fault> {
        self.conn.prepare_cached("SAVEPOINT cqrs_mark")?.execute(())?;
        Ok(Savepoint(self.last()))
    }

    pub(crate) fn keep(&self) -> Result<(), Fault> {
        self.conn.prepare_cached("RELEASE cqrs_mark")?.execute(())?;
        Ok(())
    }

    pub(crate) fn back_to(&mut self, mark: Savepoint) -> Result<(), Fault> {
        self.conn.prepare_cached("ROLLBACK TO cqrs_mark")?.execute(())?;
        LastEvent { number: self.head, id: self.last } = mark.0;
        self.cache.clear_streams();
        self.keep()
    }

    fn appended(&self, versions: Vec<(StreamId, Version)>) -> Appended {
        let Head { log, position, event } = self.end();
        Appended { log, partition: Partition::ONLY, position, event, versions, owner: None }
    }
}

/// The log's last event when a savepoint was opened.
#[derive(Clone, Copy)]
pub(crate) struct Savepoint(LastEvent);

impl Write for Append {
    type Done = Appended;
    type Error = AppendError;

    const DOING: &'static str = "append";

    fn weight(&self) -> usize {
        // Estimates what a row adds to its payload, including index entries.
        let texts = |event: &NewEvent| {
            event.metadata.size() + event.tags.iter().map(|tag| 2 * tag.as_str().len() + 50).sum::<usize>()
        };
        self.events.iter().map(|event| event.payload.len() + texts(event) + 500).sum()
    }

    /// Runs all checks, in the order of the contract, before it writes the first row. A rejected append therefore
    /// does not affect the rest of its group.
    fn write(&self, tx: &mut Tx<'_>) -> Result<Result<Appended, AppendError>, Fault> {
        if let Some(key) = &self.key
            && let Some(first) = find_key(tx.conn, tx.log, key)?
        {
            return Ok(Err(AppendError::Duplicate(first)));
        }
        if let Err(conflict) = guard::check(tx, &self.guard)? {
            return Ok(Err(conflict.into()));
        }
        // Inline projections run last, so that they only reject appends that would otherwise succeed.
        if (tx.id_check == IdCheck::BeforeInsert || !self.inline.is_empty())
            && let Some(id) = find_duplicate_id(tx.conn, &self.events)?
        {
            let message = format!("duplicate event id {id}; use a new id for each event");
            return Ok(Err(StoreError::new(StoreErrorKind::Invalid, message).into()));
        }
        if self.inline.is_empty() || self.events.is_empty() {
            return Ok(Ok(write(tx, self)?));
        }
        inline::write(tx, self)
    }
}

fn find_duplicate_id(conn: &Connection, events: &[NewEvent]) -> Result<Option<Uuid>, Fault> {
    let mut statement = conn.prepare_cached("SELECT 1 FROM cqrs_events WHERE id = ?1")?;
    let mut seen = HashSet::with_capacity(events.len());
    for event in events {
        if !seen.insert(event.id) || statement.exists((event.id.as_bytes(),))? {
            return Ok(Some(event.id));
        }
    }
    Ok(None)
}

/// Writes an append that passed all checks.
pub(crate) fn write(tx: &mut Tx<'_>, append: &Append) -> Result<Appended, Fault> {
    let mut versions = match &append.key {
        Some(key) if append.events.is_empty() => {
            vec![(key.stream.clone(), Version::new(tx.version_of(&key.stream)?.cast_unsigned()))]
        }
        _ => Vec::with_capacity(1),
    };
    for event in &append.events {
        let version = write_event(tx, event)?;
        // Search from the end: most appends write to one stream.
        match versions.iter_mut().rev().find(|(stream, _)| *stream == event.stream) {
            Some((_, last)) => *last = version,
            None => versions.push((event.stream.clone(), version)),
        }
    }
    let mut appended = tx.appended(versions);
    if let Some(key) = &append.key {
        appended.owner.clone_from(&append.owner);
        write_key(tx, key, &appended)?;
    }
    Ok(appended)
}

const INSERT: &str = "INSERT INTO cqrs_events
        (position, version, schema_version, time, checksum, id, stream, name, tags, metadata, payload)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";

fn write_event(tx: &mut Tx<'_>, event: &NewEvent) -> Result<Version, Fault> {
    let version = tx.version_of(&event.stream)? + 1;
    let position = tx.head + 1;
    let time = event.time.as_micros().cast_signed();
    let (tags, metadata) = (text::of_tags(&event.tags), text::of_metadata(&event.metadata));
    let checksum = read::ChecksumInput {
        numbers: [position, version, i64::from(event.schema_version), time],
        id: event.id.as_bytes(),
        stream: event.stream.as_str(),
        name: &event.name,
        tags: tags.as_deref(),
        metadata: metadata.as_deref(),
        payload: &event.payload,
    };
    let insert = match &mut tx.insert {
        Some(insert) => insert,
        none => none.insert(tx.conn.prepare_cached(INSERT)?),
    };
    insert.execute((
        position,
        version,
        event.schema_version,
        time,
        checksum.checksum(),
        event.id.as_bytes(),
        event.stream.as_str(),
        &*event.name,
        tags,
        metadata,
        &*event.payload,
    ))?;
    write_tags(tx.conn, &event.tags, position)?;
    (tx.head, tx.last) = (position, Some(event.id));
    tx.cache.insert(&event.stream, LastEvent { number: version, id: Some(event.id) });
    Ok(Version::new(version.cast_unsigned()))
}

fn write_tags(conn: &Connection, tags: &Tags, position: i64) -> Result<(), Fault> {
    if tags.is_empty() {
        return Ok(());
    }
    let mut insert = conn.prepare_cached("INSERT INTO cqrs_tags (tag, position) VALUES (?1, ?2)")?;
    for tag in tags {
        insert.execute((tag.as_str(), position))?;
    }
    Ok(())
}

fn write_key(tx: &Tx<'_>, key: &CommandKey, appended: &Appended) -> Result<(), Fault> {
    let mut insert = tx
        .conn
        .prepare_cached("INSERT INTO cqrs_keys (stream, key, position, versions) VALUES (?1, ?2, ?3, ?4)")?;
    insert.execute((
        key.stream.as_str(),
        &key.key,
        tx.head,
        text::of_key(&appended.versions, appended.owner.as_ref()),
    ))?;
    Ok(())
}

/// Returns the result of the append with this idempotency key, if there was one.
pub(crate) fn find_key(conn: &Connection, log: LogId, key: &CommandKey) -> Result<Option<Appended>, Fault> {
    let mut select =
        conn.prepare_cached("SELECT position, versions FROM cqrs_keys WHERE stream = ?1 AND key = ?2")?;
    let found = select.query_row((key.stream.as_str(), &key.key), |row| Ok((row.get(0)?, row.get(1)?)));
    let Some((position, versions)) = found.optional()? else { return Ok(None) };
    let (position, versions): (i64, String) = (position, versions);
    let (versions, owner) = text::key(&versions).ok_or_else(|| {
        Fault::corrupt(format!("the stored result of the key {:?} cannot be decoded", key.key))
    })?;
    let event = read::checked_id_at(conn, position)?;
    let position = Position::new(position.cast_unsigned());
    Ok(Some(Appended { log, partition: Partition::ONLY, position, event, versions, owner }))
}
