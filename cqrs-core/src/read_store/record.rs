//! The record of a consumer: the event names that its programs read.

use std::collections::BTreeMap;

/// The record of a consumer: the event names that its programs read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// The number of changes so far; 0 if nothing was ever recorded.
    pub revision: u64,
    /// The content.
    pub content: RecordContent,
}

/// The content of a [`Record`]. A store keeps it as it is; only the engine interprets it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordContent {
    /// Each stored event name that the consumer reads, with its highest schema version.
    pub reads: BTreeMap<String, u32>,
    /// Names and versions that a program is about to add, until it has made sure that the checkpoint has
    /// not passed such an event.
    pub adding: BTreeMap<String, u32>,
    /// The fingerprint of the code that folds, if it is known.
    pub fold: Option<u64>,
}
