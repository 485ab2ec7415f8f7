//! Where a test stands: it can only ask for results once it has asked for something to happen.

/// Nothing has happened yet but what was given.
#[derive(Clone, Copy, Debug)]
pub enum Given {}

/// Something has happened, and the test can look at what came of it.
#[derive(Clone, Copy, Debug)]
pub enum When {}
