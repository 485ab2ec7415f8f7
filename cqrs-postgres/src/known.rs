//! What the writing task remembers of its own commits: which event it has written last to a stream.
//!
//! An event stays at its version for ever. So an append that rests on the event that this task has written
//! at a version rests on the version, and that is checked by the statement that appends.

use std::collections::HashMap;
use std::mem;

use cqrs_core::id::StreamId;
use uuid::Uuid;

/// Streams in one generation, of which there are two.
const GENERATION: usize = 8_192;

/// The last events of some streams, each with its version.
#[derive(Debug, Default)]
pub(crate) struct Known {
    young: HashMap<StreamId, (i64, Uuid)>,
    old: HashMap<StreamId, (i64, Uuid)>,
}

impl Known {
    pub(crate) fn last_of(&self, stream: &StreamId) -> Option<(i64, Uuid)> {
        self.young.get(stream).or_else(|| self.old.get(stream)).copied()
    }

    pub(crate) fn remember(&mut self, stream: &StreamId, last: (i64, Uuid)) {
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

    #[test]
    fn what_is_remembered_is_bounded_and_the_latest_word_counts() {
        let stream = |number: usize| format!("A/{number}").parse::<StreamId>().ok();
        let mut known = Known::default();
        for round in 0..3_i64 {
            for stream in (0..GENERATION + 100).filter_map(stream) {
                known.remember(&stream, (round, Uuid::from_u128(7)));
            }
        }
        assert!(known.young.len() + known.old.len() <= 2 * GENERATION);
        let last = stream(GENERATION).and_then(|stream| known.last_of(&stream));
        assert_eq!(last, Some((2, Uuid::from_u128(7))));
    }
}
