//! Inline projections: read models that are part of an append's commit.
//!
//! What the projections of a group are and which documents they change is found out in the process: each
//! try decides the group on what is known of the documents, and asks for those that it missed; the last
//! one has missed none.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use cqrs_core::consumer::{Effect, Handlers, Inlined, Routed};
use cqrs_core::event::RecordedEvent;
use cqrs_core::id::{Partition, Position, StreamId, Version};
use cqrs_core::read_store::{Checkpoint, EntryKey};
use cqrs_core::store::{self, Append, AppendError, InlineConsumer, InlineGap, LogId, LogSlice};
use foldhash::{HashMap, HashSet};
use futures_util::future;
use tokio_postgres::types::Type;
use uuid::Uuid;

use crate::append::Facts;
use crate::entries::Writes;
use crate::error::Fault;
use crate::open::{Conn, Sql};
use crate::read;

/// A consumer and one of its entries.
type Place = (&'static str, EntryKey);

/// What is stored of the projections of a group; nobody else changes it while they are held.
#[derive(Debug, Default)]
pub(crate) struct Held {
    /// The revision of each one's record.
    revisions: HashMap<String, u64>,
    checkpoints: HashMap<String, Checkpoint>,
    /// Those that have committed anything, in any partition.
    begun: HashSet<String>,
    entries: HashMap<Place, Option<Bytes>>,
    /// The events that each one has missed, from its checkpoint to the end of the log.
    missed: HashMap<&'static str, LogSlice>,
}

/// What a group makes of its projections.
#[derive(Debug)]
pub(crate) struct Effects<'a> {
    held: &'a Held,
    pub(crate) missing: BTreeSet<Place>,
    checkpoints: BTreeMap<&'static str, Checkpoint>,
    entries: BTreeMap<Place, Option<Bytes>>,
    pub(crate) handlers: Vec<Statements>,
}

/// Statements of the user's own that an append runs.
#[derive(Debug)]
pub(crate) struct Statements {
    pub(crate) consumer: &'static str,
    pub(crate) inlined: Inlined,
    pub(crate) handlers: Handlers,
    /// True if the consumer has committed nothing yet.
    pub(crate) first: bool,
}

static ENTER: Sql = Sql::new(
    "INSERT INTO {s}.consumers (consumer, epoch) SELECT n.consumer, 0 FROM unnest($1) AS n (consumer)
     ON CONFLICT DO NOTHING",
    &[Type::TEXT_ARRAY],
);
static HOLD: Sql = Sql::new(
    "SELECT c.consumer, c.revision FROM {s}.consumers c WHERE c.consumer = ANY ($1) ORDER BY c.consumer
     FOR NO KEY UPDATE",
    &[Type::TEXT_ARRAY],
);
static CHECKPOINTS: Sql = Sql::new(
    "SELECT c.consumer, c.partition, c.log, c.position, c.event FROM {s}.checkpoints c
     WHERE c.consumer = ANY ($1)",
    &[Type::TEXT_ARRAY],
);
static GET: Sql = Sql::new(
    "SELECT (SELECT e.content FROM {s}.entries e
             WHERE e.consumer = n.consumer AND e.collection = n.collection AND e.key = n.key)
     FROM unnest($1, $2, $3) WITH ORDINALITY AS n (consumer, collection, key, number) ORDER BY n.number",
    &[Type::TEXT_ARRAY, Type::TEXT_ARRAY, Type::BYTEA_ARRAY],
);
static PUT: Sql = Sql::new(
    "INSERT INTO {s}.entries (consumer, collection, key, content)
     SELECT * FROM unnest($1, $2, $3, $4)
     ON CONFLICT (consumer, collection, key) DO UPDATE SET content = excluded.content",
    &[Type::TEXT_ARRAY, Type::TEXT_ARRAY, Type::BYTEA_ARRAY, Type::BYTEA_ARRAY],
);
// By their place, which one lookup for each finds: joined to the list, and planned while the table is empty, it
// walks through the table.
static REMOVE: Sql = Sql::new(
    "DELETE FROM {s}.entries e WHERE e.ctid = ANY (ARRAY(
         SELECT (SELECT t.ctid FROM {s}.entries t
                 WHERE t.consumer = n.consumer AND t.collection = n.collection AND t.key = n.key)
         FROM unnest($1, $2, $3) AS n (consumer, collection, key)))",
    &[Type::TEXT_ARRAY, Type::TEXT_ARRAY, Type::BYTEA_ARRAY],
);
static MOVE: Sql = Sql::new(
    "INSERT INTO {s}.checkpoints (consumer, partition, log, position, event)
     SELECT n.consumer, $1, $2, n.position, n.event FROM unnest($3, $4, $5) AS n (consumer, position, event)
     ON CONFLICT (consumer, partition) DO UPDATE
     SET log = excluded.log, position = excluded.position, event = excluded.event",
    &[Type::INT4, Type::UUID, Type::TEXT_ARRAY, Type::INT8_ARRAY, Type::UUID_ARRAY],
);

/// All statements of a transaction with inline projections.
pub(crate) static ALL: [&Sql; 7] = [&ENTER, &HOLD, &CHECKPOINTS, &GET, &PUT, &REMOVE, &MOVE];

/// The consumers that appends with events bring, each once, in the order in which they are held.
pub(crate) fn names(group: &[&Append]) -> Vec<&'static str> {
    let bringing = group.iter().filter(|append| !append.events.is_empty());
    let names = bringing.flat_map(|append| &append.inline).map(|consumer| consumer.name());
    names.collect::<BTreeSet<_>>().into_iter().collect()
}

/// Whether an append runs statements of the user's own, which may spoil a transaction for others.
pub(crate) fn has_statements(append: &Append) -> bool {
    append.inline.iter().any(|consumer| consumer.database().is_some())
}

impl Held {
    /// Holds the consumers until the end of the transaction, so that no batch of theirs comes between.
    pub(crate) async fn read(
        conn: &Conn,
        partition: Partition,
        names: Vec<&'static str>,
    ) -> Result<Self, Fault> {
        if names.is_empty() {
            return Ok(Self::default());
        }
        // Each is sent when it is first polled, which is in this order.
        let (_, there, rows) = future::try_join3(
            conn.rows(&ENTER, &[&names]),
            conn.rows(&HOLD, &[&names]),
            conn.rows(&CHECKPOINTS, &[&names]),
        )
        .await?;
        let mut held = Self::default();
        for row in &there {
            held.revisions.insert(row.try_get(0)?, row.try_get::<_, i64>(1)?.cast_unsigned());
        }
        for row in &rows {
            let (consumer, of, position): (String, i32, i64) =
                (row.try_get(0)?, row.try_get(1)?, row.try_get(3)?);
            held.begun.insert(consumer.clone());
            if of == i32::from(partition.get()) {
                let position = Position::new(position.cast_unsigned());
                let stored = Checkpoint { log: LogId(row.try_get(2)?), position, event: row.try_get(4)? };
                held.checkpoints.insert(consumer, stored);
            }
        }
        Ok(held)
    }

    /// Reads the events that consumers have missed, as far as the appends of the group allow it.
    pub(crate) async fn read_missed(
        &mut self,
        conn: &Conn,
        facts: &Facts<'_>,
        group: &[&Append],
    ) -> Result<(), Fault> {
        for append in group.iter().filter(|append| !append.events.is_empty()) {
            for consumer in &append.inline {
                let name = consumer.name();
                if self.missed.contains_key(name) {
                    continue;
                }
                let (revision, stored) = (self.revision(name), self.checkpoints.get(name).copied());
                let inlined = Inlined::new(consumer, revision, stored, facts.log_end(), append.inline_gap);
                // If the append is refused for that, the decision of the group reports it.
                if let Some(missing) = inlined.ok().and_then(|one| one.missing(facts.partition())) {
                    let slice = read::log(conn, &missing, facts.log()).await?;
                    self.missed.insert(name, slice);
                }
            }
        }
        Ok(())
    }

    fn revision(&self, name: &str) -> u64 {
        self.revisions.get(name).copied().unwrap_or_default()
    }

    /// Reads entries that a try has missed.
    pub(crate) async fn fetch(&mut self, conn: &Conn, missing: BTreeSet<Place>) -> Result<(), Fault> {
        let mut lists = (Vec::new(), Vec::new(), Vec::new());
        for (consumer, entry) in &missing {
            lists.0.push(*consumer);
            lists.1.push(entry.collection.name());
            lists.2.push(&*entry.key);
        }
        let rows = conn.rows(&GET, &[&lists.0, &lists.1, &lists.2]).await?;
        if rows.len() != missing.len() {
            return Err(Fault::corrupt("entries are missing in an answer"));
        }
        for (place, row) in missing.into_iter().zip(&rows) {
            let content = row.try_get::<_, Option<&[u8]>>(0)?.map(Bytes::copy_from_slice);
            self.entries.insert(place, content);
        }
        Ok(())
    }
}

/// A read that has found nothing at all.
fn nothing(facts: &Facts<'_>) -> LogSlice {
    let (events, read_to) = (Vec::new(), Position::START);
    LogSlice { events, read_to, read_to_event: None, after_event: None, head: facts.log_end() }
}

/// What one consumer makes of an append.
struct ConsumerEffect {
    consumer: &'static str,
    inlined: Inlined,
    effect: Effect,
}

impl<'a> Effects<'a> {
    pub(crate) fn new(held: &'a Held) -> Self {
        Self {
            held,
            missing: BTreeSet::new(),
            checkpoints: BTreeMap::new(),
            entries: BTreeMap::new(),
            handlers: Vec::new(),
        }
    }

    /// Takes the effect of an append that was checked; nothing of it if one consumer refuses.
    pub(crate) fn take(&mut self, facts: &Facts<'_>, append: &Append) -> Result<(), AppendError> {
        if append.inline.is_empty() || append.events.is_empty() {
            return Ok(());
        }
        let version_of =
            |stream: &StreamId| Ok::<_, AppendError>(Version::new(facts.version_of(stream).cast_unsigned()));
        let head = Position::new(facts.head().cast_unsigned());
        let events = store::recorded(append.events.iter().cloned(), facts.partition(), head, version_of)?;
        let effects =
            append.inline.iter().map(|consumer| self.effect(facts, (consumer, append.inline_gap), &events));
        let effects = effects.collect::<Result<Vec<_>, _>>()?;
        let position = Position::new((facts.head() + events.len() as i64).cast_unsigned());
        let event = events.last().map(|event| event.meta.id);
        for ConsumerEffect { consumer, inlined, effect: Effect { writes, handlers, .. } } in effects {
            if let Some(handlers) = handlers {
                let first = self.is_first(consumer);
                self.handlers.push(Statements { consumer, inlined, handlers, first });
            }
            self.checkpoints.insert(consumer, Checkpoint { log: facts.log(), position, event });
            self.entries.extend(writes.into_iter().map(|write| ((consumer, write.entry), write.content)));
        }
        Ok(())
    }

    /// Whether a consumer has committed nothing yet, anywhere.
    fn is_first(&self, consumer: &'static str) -> bool {
        !self.held.begun.contains(consumer) && !self.checkpoints.contains_key(consumer)
    }

    fn effect(
        &mut self,
        facts: &Facts<'_>,
        (consumer, gap): (&InlineConsumer, InlineGap),
        events: &[Arc<RecordedEvent>],
    ) -> Result<ConsumerEffect, AppendError> {
        let name = consumer.name();
        let stored = self.checkpoints.get(name).or_else(|| self.held.checkpoints.get(name));
        let revision = self.held.revision(name);
        let mut inlined = Inlined::new(consumer, revision, stored.copied(), facts.log_end(), gap)?;
        if inlined.missing(facts.partition()).is_some() {
            // They do not include events of an append before it in the group: then the projection is behind.
            let missed = self.held.missed.get(name).cloned().unwrap_or_else(|| nothing(facts));
            inlined = inlined.with_missed(missed)?;
        }
        let Routed { reads, work, .. } = inlined.route(events)?;
        let mut effect = Effect::default();
        // Without all of them it is left for the next try.
        if let Some(stored) = self.entries_of(name, &reads) {
            effect = inlined.fold(work, stored)?;
        }
        Ok(ConsumerEffect { consumer: name, inlined, effect })
    }

    /// Returns the entries as the group leaves them so far, if all are known.
    fn entries_of(&mut self, name: &'static str, entries: &[EntryKey]) -> Option<Vec<Option<Bytes>>> {
        let mut all = Vec::with_capacity(entries.len());
        for entry in entries {
            let place = (name, entry.clone());
            match self.entries.get(&place).or_else(|| self.held.entries.get(&place)) {
                Some(content) => all.push(content.clone()),
                None => _ = self.missing.insert(place),
            }
        }
        (all.len() == entries.len()).then_some(all)
    }

    /// Writes entries and checkpoints.
    pub(crate) async fn write(&self, conn: &Conn, log: LogId, partition: Partition) -> Result<(), Fault> {
        if self.checkpoints.is_empty() {
            return Ok(());
        }
        let (mut put_of, mut removed_of, mut writes) = (Vec::new(), Vec::new(), Writes::default());
        for ((consumer, entry), content) in &self.entries {
            if content.is_some() {
                put_of.push(*consumer);
            } else {
                removed_of.push(*consumer);
            }
            writes.add(entry, content.as_ref());
        }
        let Writes { put, removed } = writes;
        let names: Vec<&str> = self.checkpoints.keys().copied().collect();
        let positions: Vec<i64> =
            self.checkpoints.values().map(|to| to.position.get().cast_signed()).collect();
        let ids: Vec<Option<Uuid>> = self.checkpoints.values().map(|to| to.event).collect();
        let removing = async {
            if removed_of.is_empty() {
                return Ok(());
            }
            conn.rows(&REMOVE, &[&removed_of, &removed.collections, &removed.keys]).await.map(drop)
        };
        future::try_join3(
            conn.rows(&PUT, &[&put_of, &put.collections, &put.keys, &put.contents]),
            removing,
            conn.rows(&MOVE, &[&i32::from(partition.get()), &log.0, &names, &positions, &ids]),
        )
        .await
        .map(drop)
    }
}
