//! Faults of SQLite, told by what a caller can do about them.

use std::sync::Arc;

use cqrs_core::error::{StoreError, StoreErrorKind};
use rusqlite::ErrorCode;
use rusqlite::types::FromSqlError;

/// A fault that can be told to several who wait for one commit, which a [`StoreError`] cannot.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    kind: StoreErrorKind,
    words: String,
    cause: Option<Arc<rusqlite::Error>>,
}

impl Fault {
    pub(crate) fn new(kind: StoreErrorKind, words: impl Into<String>) -> Self {
        Self { kind, words: words.into(), cause: None }
    }

    pub(crate) fn corrupt(words: impl Into<String>) -> Self {
        Self::new(StoreErrorKind::Corrupt, words)
    }

    pub(crate) fn kind(&self) -> StoreErrorKind {
        self.kind
    }

    /// The same fault, of a commit: SQLite has given up, but some of what it wrote may be on the
    /// disk, where a crash would let the next process find it.
    pub(crate) fn while_committing(mut self) -> Self {
        if self.is(ErrorCode::SystemIoFailure) {
            self.kind = StoreErrorKind::Unknown;
            self.words = "the disk failed while committing".to_owned();
        }
        self
    }

    /// With the place in the log that it concerns.
    pub(crate) fn at(mut self, position: i64) -> Self {
        self.words = format!("the event at position {position}: {}", self.words);
        self
    }

    pub(crate) fn is(&self, code: ErrorCode) -> bool {
        self.cause.as_ref().and_then(|cause| cause.sqlite_error_code()) == Some(code)
    }

    /// With what could not be done in front: `cannot append: the disk is full`.
    pub(crate) fn told(&self, doing: &str) -> StoreError {
        let error = StoreError::new(self.kind, format!("cannot {doing}: {}", self.words));
        match &self.cause {
            Some(cause) => error.because(Arc::clone(cause)),
            None => error,
        }
    }
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        let (kind, words) = classify(&error);
        Self { kind, words: words.to_owned(), cause: Some(Arc::new(error)) }
    }
}

/// A column that holds what it cannot hold.
impl From<FromSqlError> for Fault {
    fn from(error: FromSqlError) -> Self {
        Self::corrupt(format!("a stored value is not what it should be ({error})"))
    }
}

fn classify(error: &rusqlite::Error) -> (StoreErrorKind, &'static str) {
    use StoreErrorKind::{Corrupt, Failed, Unavailable};
    let Some(code) = error.sqlite_error_code() else { return classify_driver(error) };
    match code {
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => {
            (Unavailable, "another process kept the file locked")
        }
        ErrorCode::DatabaseCorrupt => (Corrupt, "the file is damaged"),
        ErrorCode::NotADatabase => (Corrupt, "the file is not an SQLite database"),
        ErrorCode::DiskFull => (Failed, "the disk is full"),
        ErrorCode::ReadOnly => (Failed, "the file cannot be written"),
        ErrorCode::CannotOpen | ErrorCode::PermissionDenied => (Failed, "the file cannot be opened"),
        ErrorCode::SystemIoFailure => (Failed, "the disk failed"),
        ErrorCode::OutOfMemory => (Failed, "there is not enough memory"),
        ErrorCode::TooBig => (Failed, "it is larger than SQLite can store"),
        _ => (Failed, "SQLite refused it"),
    }
}

fn classify_driver(error: &rusqlite::Error) -> (StoreErrorKind, &'static str) {
    match error {
        rusqlite::Error::InvalidColumnType(..)
        | rusqlite::Error::FromSqlConversionFailure(..)
        | rusqlite::Error::IntegralValueOutOfRange(..)
        | rusqlite::Error::Utf8Error(..) => {
            (StoreErrorKind::Corrupt, "a stored value is not what it should be")
        }
        _ => (StoreErrorKind::Failed, "SQLite refused it"),
    }
}
