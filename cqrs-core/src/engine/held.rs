//! What a follower has in memory of a consumer that it owns: its claim, the documents that it has
//! written, and the page of the log behind them.
//!
//! All of it is one value, which the follower takes out of its place for each step and puts back when
//! the step has ended well. So whatever goes wrong, from a fence to a cancelled future, takes all of it
//! along, and the next step begins with a claim and with what is stored.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use quick_cache::Weighter;
use quick_cache::unsync::Cache;

use super::record::Agreement;
use crate::id::{Partition, Position};
use crate::pace::Pieces;
use crate::read_store::{Claim, EntryKey, EntryWrite};
use crate::store::LogSlice;

/// Events in one page: at first, and at most, far behind the end of the log. What a page holds of one key is
/// one write, so that a larger one has fewer writes for each event; but whoever appends to the same store
/// may wait for it.
const PAGE: (usize, usize) = (1_000, 10_000);
/// A page whose documents are larger than this together is followed by a smaller one.
const HEAVY: usize = 2 << 20;
/// After this a page that was read ahead is read again: the log may have been rewound meanwhile.
const FRESH: Duration = Duration::from_secs(1);
/// What is remembered of a consumer's documents, in bytes of memory.
const REMEMBERED: u64 = 8 << 20;

/// What a follower has in memory of a consumer that it owns.
pub(super) struct Held {
    pub(super) claim: Claim,
    pub(super) agreement: Arc<Agreement>,
    pub(super) written: Written,
    pub(super) pages: Pages,
    pub(super) pieces: Pieces,
}

impl Held {
    pub(super) fn new(claim: Claim, agreement: Arc<Agreement>) -> Self {
        Self {
            claim,
            agreement,
            written: Written::new(),
            pages: Pages { size: PAGE.0, ahead: None },
            pieces: Pieces::default(),
        }
    }
}

/// Documents as the owner of their consumer has written them last, as far as there is room.
///
/// They are what is stored for as long as its commits succeed: whoever else writes one has raised the
/// consumer's epoch or moved its checkpoint on some partition, and then the next commit is fenced.
pub(super) struct Written(Cache<Bytes, Option<Bytes>, Weight>);

impl Written {
    fn new() -> Self {
        // Of documents that are larger than the guess, fewer are kept.
        Self(Cache::with_weighter(REMEMBERED as usize / 512, REMEMBERED, Weight))
    }

    /// Returns what is stored of a document, if that is known; `Some(None)` if it is not there. Entries of other
    /// collections are never known, because commits of others may change them.
    pub(super) fn get(&self, entry: &EntryKey) -> Option<&Option<Bytes>> {
        if entry.collection.is_documents() { self.0.get(&entry.key) } else { None }
    }

    /// Takes what was committed.
    pub(super) fn committed(&mut self, writes: Vec<EntryWrite>) {
        for write in writes.into_iter().filter(|write| write.entry.collection.is_documents()) {
            self.0.insert(write.entry.key, write.content);
        }
    }
}

#[derive(Clone)]
struct Weight;

impl Weighter<Bytes, Option<Bytes>> for Weight {
    fn weight(&self, key: &Bytes, content: &Option<Bytes>) -> u64 {
        // Beside the texts: the entry, and what an allocation of a short text has left over.
        let texts = key.len() + content.as_ref().map_or(0, Bytes::len);
        256 + texts as u64
    }
}

/// The way through the log, page by page.
pub(super) struct Pages {
    size: usize,
    /// One at a time: a page of each partition would be much memory, and old when it is used.
    ahead: Option<Ahead>,
}

/// A page that was read while the one before it was committed.
pub(super) struct Ahead {
    pub(super) partition: Partition,
    pub(super) after: Position,
    pub(super) read: Instant,
    pub(super) slice: LogSlice,
}

impl Pages {
    /// How many events the next page has at most.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// Learns from a page that was committed, with the bytes that it wrote; with `more` behind it.
    pub(super) fn learn(&mut self, written: usize, more: bool) {
        let (least, most) = PAGE;
        self.size = if written > HEAVY || !more { least } else { (self.size * 2).min(most) };
    }

    pub(super) fn keep(&mut self, ahead: Option<Ahead>) {
        self.ahead = ahead;
    }

    /// The page behind a position of a partition, if it was read just now.
    pub(super) fn take(&mut self, partition: Partition, after: Position) -> Option<LogSlice> {
        let ahead = self.ahead.take()?;
        let there = (ahead.partition, ahead.after) == (partition, after);
        (there && ahead.read.elapsed() < FRESH).then_some(ahead.slice)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::read_store::Collection;
    use crate::store::{Head, LogId};

    fn write(key: &str, len: usize) -> EntryWrite {
        EntryWrite::put(Collection::DOCUMENTS, key.to_owned(), vec![b'x'; len])
    }

    fn entry(key: &str) -> EntryKey {
        EntryKey::document(key.to_owned())
    }

    #[test]
    fn what_is_remembered_is_the_last_that_was_written_or_nothing() {
        let mut written = Written::new();
        let lengths = [10, 1 << 10, 1 << 20, 2 * REMEMBERED as usize, 0, 3 << 20, 20];
        for round in 0..200_usize {
            for key in 0..23_usize {
                let len = lengths[(round * 7 + key) % lengths.len()];
                let key = format!("key {key}");
                let removed = (round + len).is_multiple_of(5);
                let last = if removed { EntryWrite::new(entry(&key), None) } else { write(&key, len) };
                written.committed(vec![last.clone()]);
                let known = written.get(&entry(&key));
                assert!(known.is_none_or(|known| *known == last.content), "{key} in round {round}");
                assert!(written.0.weight() <= REMEMBERED);
            }
        }
        written.committed(vec![write("small", 10)]);
        written.committed(vec![write("small", 2 * REMEMBERED as usize)]);
        assert_ne!(written.get(&entry("small")), Some(&Some(vec![b'x'; 10].into())));
    }

    #[test]
    fn many_documents_find_room() {
        let mut written = Written::new();
        for _ in 0..2 {
            written.committed((0..20_000).map(|key| write(&key.to_string(), 100)).collect());
        }
        let known = (0..20_000).filter(|key| written.get(&entry(&key.to_string())).is_some()).count();
        assert_eq!(known, 20_000);
    }

    #[test]
    fn pages_grow_far_behind_and_not_under_a_weight() {
        let mut held =
            Held::new(Claim { epoch: 1, checkpoints: BTreeMap::new(), revision: 0 }, Arc::default()).pages;
        let mut after = |written, more| {
            held.learn(written, more);
            held.size()
        };
        assert_eq!([(); 5].map(|()| after(0, true)), [2_000, 4_000, 8_000, 10_000, 10_000]);
        assert_eq!(after(HEAVY + 1, true), 1_000);
        assert_eq!([after(HEAVY, true), after(0, false)], [2_000, 1_000]);
    }

    #[test]
    fn a_page_ahead_is_taken_once_at_its_place_and_while_it_is_fresh() {
        let mut pages =
            Held::new(Claim { epoch: 1, checkpoints: BTreeMap::new(), revision: 0 }, Arc::default()).pages;
        let head = Head { log: LogId(uuid::Uuid::nil()), position: Position::new(9), event: None };
        let ahead = |read| {
            let slice = LogSlice {
                events: Vec::new(),
                read_to: Position::new(9),
                read_to_event: None,
                after_event: None,
                head,
            };
            Some(Ahead { partition: Partition::new(1), after: Position::new(5), read, slice })
        };
        let mut taken = |read, partition, after| {
            pages.keep(ahead(read));
            pages.take(Partition::new(partition), Position::new(after)).is_some()
        };
        assert!(taken(Instant::now(), 1, 5));
        assert!(!taken(Instant::now(), 1, 4));
        assert!(!taken(Instant::now(), 0, 5));
        assert!(Instant::now().checked_sub(FRESH).is_none_or(|long_ago| !taken(long_ago, 1, 5)));
        assert!(pages.take(Partition::new(1), Position::new(5)).is_none());
    }
}
