//! The entries of a consumer in the course of a batch.

use bytes::Bytes;
use foldhash::HashMap;

use crate::read_store::{EntryKey, EntryWrite};

/// Entries that the events of a batch read and change. A batch is folded in pieces; each piece is given what the
/// pieces before it have made of an entry.
#[derive(Default)]
pub(super) struct BatchEntries {
    places: HashMap<EntryKey, usize>,
    entries: Vec<BatchEntry>,
}

struct BatchEntry {
    content: Option<Bytes>,
    is_written: bool,
}

impl BatchEntries {
    pub(super) fn contains(&self, entry: &EntryKey) -> bool {
        self.places.contains_key(entry)
    }

    /// Takes the stored content of an entry.
    pub(super) fn read(&mut self, entry: EntryKey, content: Option<Bytes>) {
        self.set(entry, BatchEntry { content, is_written: false });
    }

    /// Takes a change of an entry.
    pub(super) fn write(&mut self, write: EntryWrite) {
        self.set(write.entry, BatchEntry { content: write.content, is_written: true });
    }

    fn set(&mut self, entry: EntryKey, to: BatchEntry) {
        match self.places.get(&entry) {
            Some(place) => self.entries[*place] = to,
            None => {
                self.places.insert(entry, self.entries.len());
                self.entries.push(to);
            }
        }
    }

    /// Returns the content of an entry as the batch leaves it so far.
    pub(super) fn content(&self, entry: &EntryKey) -> Option<Bytes> {
        self.entries.get(*self.places.get(entry)?)?.content.clone()
    }

    /// Returns the last change of each changed entry.
    pub(super) fn into_writes(self) -> Vec<EntryWrite> {
        let mut entries = self.entries;
        let mut writes = Vec::with_capacity(entries.len());
        for (entry, place) in self.places {
            let changed = entries.get_mut(place).filter(|changed| changed.is_written);
            writes.extend(changed.map(|changed| EntryWrite::new(entry, changed.content.take())));
        }
        writes
    }
}
