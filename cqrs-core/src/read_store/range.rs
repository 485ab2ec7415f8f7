//! Reads of a part of a collection.

use std::ops::Bound;

use bytes::{BufMut as _, Bytes, BytesMut};

use super::collection::Collection;
use crate::store::Direction;

/// A read of the entries of a collection between two keys, in the order of the key bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RangeRead {
    /// The consumer that owns the collection.
    pub consumer: String,
    /// The collection.
    pub collection: Collection,
    /// The lowest key, whatever the direction is.
    pub lower: Bound<Bytes>,
    /// The highest key, whatever the direction is.
    pub upper: Bound<Bytes>,
    /// The order: from the lowest key ([`Forward`](Direction::Forward)) or from the highest one.
    pub direction: Direction,
    /// The maximum number of entries.
    pub limit: usize,
}

impl RangeRead {
    /// Reads the first `limit` entries of a collection.
    #[must_use]
    pub fn new(consumer: impl Into<String>, collection: Collection, limit: usize) -> Self {
        Self {
            consumer: consumer.into(),
            collection,
            lower: Bound::Unbounded,
            upper: Bound::Unbounded,
            direction: Direction::Forward,
            limit,
        }
    }

    /// Reads the first `limit` documents of a consumer.
    #[must_use]
    pub fn documents(consumer: impl Into<String>, limit: usize) -> Self {
        Self::new(consumer, Collection::DOCUMENTS, limit)
    }

    /// Sets the lowest key.
    #[must_use]
    pub fn with_lower(mut self, lower: Bound<Bytes>) -> Self {
        self.lower = lower;
        self
    }

    /// Sets the highest key.
    #[must_use]
    pub fn with_upper(mut self, upper: Bound<Bytes>) -> Self {
        self.upper = upper;
        self
    }

    /// Continues after the last key of the page before, in the direction of the read.
    #[must_use]
    pub fn after(self, key: impl Into<Bytes>) -> Self {
        let bound = Bound::Excluded(key.into());
        match self.direction {
            Direction::Forward => self.with_lower(bound),
            Direction::Backward => self.with_upper(bound),
        }
    }

    /// Starts at the highest key and returns keys in descending order.
    #[must_use]
    pub fn backward(mut self) -> Self {
        self.direction = Direction::Backward;
        self
    }

    /// Returns the same range as the lowest key that it includes and the lowest key past its end, if it has
    /// an end. Every store can compare these two with the same operators.
    #[must_use]
    pub fn half_open(&self) -> (Bytes, Option<Bytes>) {
        let lower = match &self.lower {
            Bound::Unbounded => Bytes::new(),
            Bound::Included(key) => key.clone(),
            Bound::Excluded(key) => successor(key),
        };
        let upper = match &self.upper {
            Bound::Unbounded => None,
            Bound::Included(key) => Some(successor(key)),
            Bound::Excluded(key) => Some(key.clone()),
        };
        (lower, upper)
    }
}

/// Returns the first key after a key in byte order.
fn successor(key: &[u8]) -> Bytes {
    let mut next = BytesMut::with_capacity(key.len() + 1);
    next.put_slice(key);
    next.put_u8(0);
    next.freeze()
}
