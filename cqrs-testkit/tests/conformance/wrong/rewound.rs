//! Flaws in the memory of a handle whose log was rewound.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use cqrs_core::error::StoreError;
use cqrs_core::event::RecordedEvent;
use cqrs_core::read_store::{Batch, Checkpoint};
use cqrs_core::store::{Appended, CommandKey, Expected, Guard, Head, LogId, StreamRead, StreamSlice};
use cqrs_core::{Partition, Position, StreamId, Version};
use uuid::Uuid;

use super::documents::{start, start_from};
use super::{Flaw, Wrong, lock};

/// The memory of these flaws.
#[derive(Debug, Default)]
pub(super) struct State {
    /// The last events of streams that were written to.
    ends: Mutex<HashSet<(StreamId, Version, Uuid)>>,
    /// The ends of appends.
    points: Mutex<HashSet<(Position, Uuid)>>,
    keys: Mutex<HashMap<CommandKey, Appended>>,
    heads: Mutex<HashMap<(Partition, Position), Option<Uuid>>>,
    events: Mutex<HashMap<(StreamId, Version), Arc<RecordedEvent>>>,
    checkpoints: Mutex<HashSet<(String, LogId, Position, Uuid)>>,
}

impl Wrong {
    pub(super) fn remember_append(&self, key: Option<CommandKey>, appended: &Appended) {
        let State { ends, points, keys, .. } = &self.state.rewound;
        let Some(event) = appended.event else { return };
        if let [(stream, version)] = &*appended.versions {
            lock(ends).insert((stream.clone(), *version, event));
        }
        lock(points).insert((appended.position, event));
        if let Some(key) = key
            && self.has(Flaw::RemembersKeys)
        {
            lock(keys).insert(key, appended.clone());
        }
    }

    /// A guard as it is taken by a store that does not look up again what it has written.
    pub(super) fn believed(&self, guard: Guard) -> Guard {
        let State { ends, points, .. } = &self.state.rewound;
        match guard {
            Guard::Stream { stream, expected: Expected::Event(version, event) }
                if self.has(Flaw::ExpectsItsOwnByVersion)
                    && lock(ends).contains(&(stream.clone(), version, event)) =>
            {
                Guard::stream(stream, Expected::Version(version))
            }
            Guard::Unchanged { query, after }
                if self.has(Flaw::UnchangedAfterItsOwnByPosition)
                    && after.event.is_some_and(|event| lock(points).contains(&(after.position, event))) =>
            {
                Guard::Unchanged { query, after: after.position.into() }
            }
            guard => guard,
        }
    }

    pub(super) fn remembered_key(&self, key: &CommandKey) -> Option<Appended> {
        lock(&self.state.rewound.keys).get(key).cloned()
    }

    /// A head with the event that was first seen there.
    pub(super) fn remembered_head(&self, partition: Partition, head: Head) -> Head {
        if !self.has(Flaw::RemembersTheEventsOfHeads) {
            return head;
        }
        let mut heads = lock(&self.state.rewound.heads);
        Head { event: *heads.entry((partition, head.position)).or_insert(head.event), ..head }
    }

    /// A read of a stream with the events that were first seen at their versions.
    pub(super) fn remembered_slice(&self, slice: &mut StreamSlice) {
        if !self.has(Flaw::RemembersStreams) {
            return;
        }
        let mut events = lock(&self.state.rewound.events);
        for event in &mut slice.events {
            let at = (event.meta.stream.clone(), event.meta.version);
            *event = Arc::clone(events.entry(at).or_insert_with(|| Arc::clone(event)));
        }
    }

    pub(super) async fn read_whatever_is_there(&self, read: StreamRead) -> Result<StreamSlice, StoreError> {
        cqrs_core::store::EventStore::read_stream(&self.documents.reopen(), read).await
    }

    /// Has a batch pass that starts where this store has committed, if another checkpoint is there.
    pub(super) fn believed_batch(&self, batch: &mut Batch, stored: Option<Checkpoint>) {
        let mut committed = lock(&self.state.rewound.checkpoints);
        let named =
            |consumer: &str, at: Checkpoint| Some((consumer.to_owned(), at.log, at.position, at.event?));
        if let (Some(from), Some(there)) = (start(batch), stored)
            && from.position == there.position
            && named(&batch.consumer, from).is_some_and(|from| committed.contains(&from))
        {
            start_from(batch, stored);
        }
        committed.extend(named(&batch.consumer, batch.to));
    }
}
