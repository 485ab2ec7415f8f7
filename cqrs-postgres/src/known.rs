//! What the writing task remembers of its own commits: which event it has written last to a stream, and
//! to the log.
//!
//! An event stays at its version for ever. So an append that rests on the event that this task has written
//! at a version rests on the version, and that is checked by the statement that appends. And as long as the
//! log's last event is the one that this task has written last, nobody else has written since: then what it
//! has written to a stream since it began to look is that stream's last event, and need not be looked up.
//!
//! What is on its way is remembered as if it were written, for those who are sent behind it, and forgotten
//! if it turns out not to be.

use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cqrs_core::id::StreamId;
use foldhash::{HashMap, HashSet};
use uuid::Uuid;

/// Streams in one generation, of which there are two.
const GENERATION: usize = 16_384;

/// How long it is cautious at the most.
const CAUTIOUS: u32 = 64;

/// The last events of some streams, each with its version.
#[derive(Debug, Default)]
pub(crate) struct Known {
    young: HashMap<StreamId, Last>,
    old: HashMap<StreamId, Last>,
    /// The last event of the log, if this task has written it.
    end: Option<(i64, Uuid)>,
    /// Counts how often somebody else has written.
    era: u64,
    names: Names,
    /// How often in a row nobody else had written when this task did.
    calm: u32,
    /// How often that has to be before a plain statement is tried, which is in vain if somebody else writes.
    cautious: u32,
    /// How often a writer was fenced, when this was looked up last.
    fenced: Option<i64>,
}

/// What is known, for the writing task and for what it has sent. It is never locked for longer than it takes
/// to decide a group.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shared(Arc<Mutex<Known>>);

impl Shared {
    // Nothing that is remembered is trusted: the server checks what it is used for.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The event that the writing task has written last to a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) version: i64,
    pub(crate) id: Uuid,
    /// Whether it is the stream's last one, if the log ends as is known.
    pub(crate) is_sure: bool,
}

/// The same, as it is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Last {
    version: i64,
    id: Uuid,
    era: u64,
}

/// The names that are known to stand in the index for the block in which the log ends.
#[derive(Debug, Default)]
struct Names {
    block: i64,
    there: HashSet<Box<str>>,
}

/// The block that a position lies in.
fn block_of(position: i64) -> i64 {
    position >> 8
}

impl Known {
    /// The position and the id of the log's last event, as far as this task knows.
    pub(crate) fn end(&self) -> Option<(i64, Uuid)> {
        self.end
    }

    /// The event that this task has written last to a stream.
    pub(crate) fn of(&self, stream: &StreamId) -> Option<Written> {
        let Last { version, id, era } = *self.young.get(stream).or_else(|| self.old.get(stream))?;
        Some(Written { version, id, is_sure: era == self.era })
    }

    /// Of the names of events that are to come behind `end`, those that the index of names may not have for the
    /// blocks in which they will lie, each once for a block.
    pub(crate) fn lacks_names<'a>(&self, end: i64, names: &[&'a str]) -> Vec<(&'a str, i64)> {
        let mut lacks = Vec::new();
        for (name, position) in names.iter().zip(end + 1..) {
            let block = block_of(position);
            let is_there = self.names.block == block && self.names.there.contains(*name);
            if !is_there && !lacks.contains(&(*name, block)) {
                lacks.push((*name, block));
            }
        }
        lacks
    }

    /// The block of the index of names that has all of these, if the log ends as is known.
    pub(crate) fn block_with<'a>(&self, mut names: impl Iterator<Item = &'a str>) -> Option<i64> {
        names.all(|name| self.names.there.contains(name)).then_some(self.names.block)
    }

    /// How often a writer was fenced, if it is known and nobody else seems to write.
    pub(crate) fn fenced(&self) -> Option<i64> {
        self.fenced.filter(|_| self.calm > self.cautious)
    }

    /// A plain statement was tried, and somebody else had written.
    pub(crate) fn plainly_in_vain(&mut self) {
        self.cautious = (self.cautious * 2 + 1).min(CAUTIOUS);
    }

    /// Whether that is all that is not known. As long as the end is not, it would be forgotten with it.
    pub(crate) fn lacks_fenced(&self) -> bool {
        self.fenced.is_none() && self.end.is_some()
    }

    pub(crate) fn remember_fenced(&mut self, count: i64) {
        self.fenced = Some(count);
    }

    /// Whether the log has ended as this task knew.
    pub(crate) fn end_was(&mut self, as_known: bool) {
        match as_known {
            // It grows less cautious when that has gone well for a while.
            true if self.calm > 2 * self.cautious => self.cautious /= 2,
            true => {}
            false => return self.end_was_another(),
        }
        self.calm = self.calm.saturating_add(1);
    }

    /// The log has ended otherwise than this task knew: somebody else has written, or was fenced.
    pub(crate) fn end_was_another(&mut self) {
        self.era += 1;
        self.end = None;
        self.names = Names::default();
        self.calm = 0;
        self.fenced = None;
    }

    /// What this task was to write to a stream was not written.
    pub(crate) fn forget(&mut self, stream: &StreamId) {
        self.young.remove(stream);
        self.old.remove(stream);
    }

    /// This task has written an event to a stream, its last one.
    pub(crate) fn remember(&mut self, stream: &StreamId, (version, id): (i64, Uuid)) {
        let last = Last { version, id, era: self.era };
        if let Some(known) = self.young.get_mut(stream) {
            *known = last;
            return;
        }
        if self.young.len() >= GENERATION {
            self.old = mem::take(&mut self.young);
        }
        self.young.insert(stream.clone(), last);
    }

    /// This task has written the last event of the log.
    pub(crate) fn remember_end(&mut self, position: i64, id: Uuid) {
        self.end = Some((position, id));
    }

    /// This task has written an event with this name at a position, and the positions ascend.
    pub(crate) fn remember_name(&mut self, position: i64, name: &str) {
        let block = block_of(position);
        if self.names.block != block {
            self.names = Names { block, there: HashSet::default() };
        }
        if !self.names.there.contains(name) {
            self.names.there.insert(name.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: Uuid = Uuid::from_u128(7);

    fn stream(number: usize) -> Option<StreamId> {
        format!("A/{number}").parse().ok()
    }

    #[test]
    fn what_is_remembered_is_bounded_and_the_latest_word_counts() {
        let mut known = Known::default();
        for round in 0..3_i64 {
            for stream in (0..GENERATION + 100).filter_map(stream) {
                known.remember(&stream, (round, ID));
            }
        }
        assert!(known.young.len() + known.old.len() <= 2 * GENERATION);
        let last = stream(GENERATION).and_then(|stream| known.of(&stream));
        assert_eq!(last, Some(Written { version: 2, id: ID, is_sure: true }));
    }

    #[test]
    fn nothing_is_sure_after_somebody_else_has_written() {
        let mut known = Known::default();
        let (one, two) =
            (stream(1).unwrap_or_else(|| unreachable!()), stream(2).unwrap_or_else(|| unreachable!()));
        known.remember(&one, (1, ID));
        known.remember(&two, (1, ID));
        known.remember_end(2, ID);
        let written = |version, is_sure| Some(Written { version, id: ID, is_sure });
        assert_eq!(known.of(&one), written(1, true));
        known.end_was_another();
        known.remember(&one, (3, ID));
        // It is still the event that was written there.
        assert_eq!([known.of(&one), known.of(&two)], [written(3, true), written(1, false)]);
        known.forget(&one);
        assert_eq!(known.of(&one), None);
        assert_eq!(known.end(), None);
    }

    /// How many of so many groups try a plain statement, if every `other`th time somebody else has written.
    fn plainly(known: &mut Known, groups: usize, other: usize) -> usize {
        let mut tried = 0;
        for group in 1..=groups {
            known.remember_end(group as i64, ID);
            known.remember_fenced(1);
            let (plainly, as_known) = (known.fenced().is_some(), group % other > 0);
            tried += usize::from(plainly);
            if plainly && !as_known {
                known.plainly_in_vain();
            }
            known.end_was(as_known);
        }
        tried
    }

    #[test]
    fn who_writes_beside_another_seldom_tries_a_plain_statement() {
        let mut known = Known::default();
        assert_eq!(plainly(&mut known, 1_000, usize::MAX), 999);
        // Each that is in vain costs a round trip.
        assert!(plainly(&mut known, 1_000, 3) < 20);
        // As soon as the other one has gone, all is as before.
        assert!(plainly(&mut known, 1_000, usize::MAX) > 900);
    }

    #[test]
    fn names_are_known_of_the_last_block_alone() {
        let mut known = Known::default();
        known.remember_name(254, "Opened");
        known.remember_name(255, "Closed");
        assert_eq!(known.block_with(["Opened", "Closed"].into_iter()), Some(0));
        known.remember_name(256, "Opened");
        assert_eq!(known.block_with(["Opened"].into_iter()), Some(1));
        assert_eq!(known.block_with(["Opened", "Closed"].into_iter()), None);
        known.end_was_another();
        assert_eq!(known.block_with(["Opened"].into_iter()), None);
    }

    #[test]
    fn names_are_lacking_once_for_each_block() {
        let mut known = Known::default();
        let names = ["Opened", "Closed", "Opened", "Opened", "Closed"];
        assert_eq!(known.lacks_names(0, &names), [("Opened", 0), ("Closed", 0)]);
        known.remember_name(250, "Opened");
        assert_eq!(known.lacks_names(250, &names), [("Closed", 0)]);
        known.remember_name(252, "Closed");
        assert_eq!(known.lacks_names(252, &names[..3]), []);
        // The third is the last of its block.
        assert_eq!(known.lacks_names(252, &names), [("Opened", 1), ("Closed", 1)]);
    }
}
