//! The write path of the log: what one append does inside the transaction of its group.

use std::collections::HashSet;

use cqrs_core::error::{StoreError, StoreErrorKind};
use cqrs_core::event::{NewEvent, Tags};
use cqrs_core::id::{Partition, Position, StreamId, Version};
use cqrs_core::store::{Append, AppendError, Appended, CommandKey, Head, LogId};
use cqrs_core::text;
use rusqlite::{CachedStatement, Connection, OptionalExtension as _};
use uuid::Uuid;

use crate::error::Fault;
use crate::known::Known;
use crate::read::Last;
use crate::writer::Write;
use crate::{guard, inline, read};

/// One transaction that holds the lock for writing, and what it knows of the log: nobody else can
/// change it meanwhile.
pub(crate) struct Tx<'a> {
    pub(crate) conn: &'a Connection,
    pub(crate) log: LogId,
    pub(crate) head: i64,
    /// The id of the event at the head.
    last: Option<Uuid>,
    known: &'a mut Known,
    ids: Ids,
    insert: Option<CachedStatement<'a>>,
}

/// How an event's id is checked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ids {
    /// By the index, when the event is inserted. An id that was used spoils the transaction.
    OnInsert,
    /// Before anything is inserted, so that an append with such an id is refused alone.
    Before,
}

impl<'a> Tx<'a> {
    pub(crate) fn new(
        conn: &'a Connection,
        log: LogId,
        known: &'a mut Known,
        ids: Ids,
        floor: i64,
    ) -> Result<Self, Fault> {
        let Last { number: head, id: last } = known.refresh(conn)?;
        read::not_rewound(floor, head)?;
        Ok(Self { conn, log, head, last, known, ids, insert: None })
    }

    /// The log's last event.
    pub(crate) fn last(&self) -> Last {
        Last { number: self.head, id: self.last }
    }

    /// Where the log ends.
    pub(crate) fn end(&self) -> Head {
        Head { log: self.log, position: Position::new(self.head.cast_unsigned()), event: self.last }
    }

    /// The last event of a stream.
    pub(crate) fn last_of(&mut self, stream: &StreamId) -> Result<Last, Fault> {
        self.known.last_of(self.conn, stream)
    }

    pub(crate) fn version_of(&mut self, stream: &StreamId) -> Result<i64, Fault> {
        Ok(self.last_of(stream)?.number)
    }

    /// The id of the event at a position, if there is one.
    pub(crate) fn id_at(&self, position: Position) -> Result<Option<Uuid>, Fault> {
        match guard::number(position) {
            head if head == self.head => Ok(self.last),
            other => read::id_at(self.conn, other),
        }
    }

    /// Marks the place to which [`back_to`](Self::back_to) leads, if [`keep`](Self::keep) does not come
    /// first.
    pub(crate) fn mark(&self) -> Result<Mark, Fault> {
        self.conn.prepare_cached("SAVEPOINT cqrs_mark")?.execute(())?;
        Ok(Mark(self.last()))
    }

    pub(crate) fn keep(&self) -> Result<(), Fault> {
        self.conn.prepare_cached("RELEASE cqrs_mark")?.execute(())?;
        Ok(())
    }

    pub(crate) fn back_to(&mut self, mark: Mark) -> Result<(), Fault> {
        self.conn.prepare_cached("ROLLBACK TO cqrs_mark")?.execute(())?;
        Last { number: self.head, id: self.last } = mark.0;
        self.known.forget_versions();
        self.keep()
    }

    fn appended(&self, versions: Vec<(StreamId, Version)>) -> Appended {
        let Head { log, position, event } = self.end();
        Appended { log, partition: Partition::ONLY, position, event, versions, owner: None }
    }
}

/// The log's last event at a place that a transaction may have to go back to.
#[derive(Clone, Copy)]
pub(crate) struct Mark(Last);

impl Write for Append {
    type Done = Appended;
    type Error = AppendError;

    const DOING: &'static str = "append";

    fn weight(&self) -> usize {
        // A row besides its payload, and the entries of its indexes.
        let texts = |event: &NewEvent| {
            event.metadata.size() + event.tags.iter().map(|tag| 2 * tag.as_str().len() + 50).sum::<usize>()
        };
        self.events.iter().map(|event| event.payload.len() + texts(event) + 500).sum()
    }

    /// All is checked before the first row is written, in the order of the contract. So who loses is
    /// left out, and the others of the group are not touched by it.
    fn write(&self, tx: &mut Tx<'_>) -> Result<Result<Appended, AppendError>, Fault> {
        if let Some(key) = &self.key
            && let Some(first) = find_key(tx.conn, tx.log, key)?
        {
            return Ok(Err(AppendError::Duplicate(first)));
        }
        if let Err(conflict) = guard::check(tx, &self.guard)? {
            return Ok(Err(conflict.into()));
        }
        // An inline projection is asked last, so that it never refuses what could not be written anyway.
        if (tx.ids == Ids::Before || !self.inline.is_empty())
            && let Some(id) = used_twice(tx.conn, &self.events)?
        {
            let message = format!("the event id {id} is used twice");
            return Ok(Err(StoreError::new(StoreErrorKind::Invalid, message).into()));
        }
        if self.inline.is_empty() || self.events.is_empty() {
            return Ok(Ok(write(tx, self)?));
        }
        inline::write(tx, self)
    }
}

fn used_twice(conn: &Connection, events: &[NewEvent]) -> Result<Option<Uuid>, Fault> {
    let mut statement = conn.prepare_cached("SELECT 1 FROM cqrs_events WHERE id = ?1")?;
    let mut seen = HashSet::with_capacity(events.len());
    for event in events {
        if !seen.insert(event.id) || statement.exists((event.id.as_bytes(),))? {
            return Ok(Some(event.id));
        }
    }
    Ok(None)
}

/// Writes what was checked.
pub(crate) fn write(tx: &mut Tx<'_>, append: &Append) -> Result<Appended, Fault> {
    let mut versions = match &append.key {
        Some(key) if append.events.is_empty() => {
            vec![(key.stream.clone(), Version::new(tx.version_of(&key.stream)?.cast_unsigned()))]
        }
        _ => Vec::with_capacity(1),
    };
    for event in &append.events {
        let version = write_event(tx, event)?;
        // The last one is looked at first: most appends write to one stream.
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
    let checksum = read::Checked {
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
        checksum.sum(),
        event.id.as_bytes(),
        event.stream.as_str(),
        &*event.name,
        tags,
        metadata,
        &*event.payload,
    ))?;
    write_tags(tx.conn, &event.tags, position)?;
    (tx.head, tx.last) = (position, Some(event.id));
    tx.known.remember(&event.stream, Last { number: version, id: Some(event.id) });
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

/// What the append with this key gave, if there was one.
pub(crate) fn find_key(conn: &Connection, log: LogId, key: &CommandKey) -> Result<Option<Appended>, Fault> {
    let mut select =
        conn.prepare_cached("SELECT position, versions FROM cqrs_keys WHERE stream = ?1 AND key = ?2")?;
    let found = select.query_row((key.stream.as_str(), &key.key), |row| Ok((row.get(0)?, row.get(1)?)));
    let Some((position, versions)) = found.optional()? else { return Ok(None) };
    let (position, versions): (i64, String) = (position, versions);
    let (versions, owner) = text::key(&versions)
        .ok_or_else(|| Fault::corrupt(format!("what is stored for the key {:?} cannot be read", key.key)))?;
    let event = read::id_at(conn, position)?;
    let position = Position::new(position.cast_unsigned());
    Ok(Some(Appended { log, partition: Partition::ONLY, position, event, versions, owner }))
}
