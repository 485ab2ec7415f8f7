//! Faults of SQLite, told by what a caller can do about them.

use std::fmt;
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

    /// The same fault, of a commit. SQLite has given up, but where all was written and then failed to
    /// be synced, it may be on the disk, and a crash would let the next process find it there. A write
    /// that failed has left the commit without its end, which nobody takes for one.
    pub(crate) fn while_committing(mut self) -> Self {
        let unfinished = self.cause.as_ref().and_then(|cause| cause.sqlite_error()).is_some_and(|error| {
            [rusqlite::ffi::SQLITE_IOERR_WRITE, rusqlite::ffi::SQLITE_IOERR_READ]
                .contains(&error.extended_code)
        });
        if self.is(ErrorCode::SystemIoFailure) && !unfinished {
            self.kind = StoreErrorKind::Unknown;
            self.words = "the disk failed while committing".to_owned();
        }
        self
    }

    /// The same fault in other words.
    pub(crate) fn saying(mut self, words: String) -> Self {
        self.words = words;
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

    /// Whether another connection holds a lock, which may pass.
    pub(crate) fn is_busy(&self) -> bool {
        self.is(ErrorCode::DatabaseBusy) || self.is(ErrorCode::DatabaseLocked)
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

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words)?;
        self.cause.as_ref().map_or(Ok(()), |cause| write!(f, " ({cause})"))
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

#[cfg(test)]
mod tests {
    use rusqlite::ffi;

    use super::*;

    fn fault(code: std::ffi::c_int) -> Fault {
        rusqlite::Error::SqliteFailure(ffi::Error::new(code), None).into()
    }

    #[test]
    fn faults_are_told_by_what_can_be_done_about_them() {
        let kind = |code| fault(code).kind();
        assert_eq!(kind(ffi::SQLITE_BUSY), StoreErrorKind::Unavailable);
        assert_eq!(kind(ffi::SQLITE_FULL), StoreErrorKind::Failed);
        assert_eq!(kind(ffi::SQLITE_READONLY_DBMOVED), StoreErrorKind::Failed);
        assert_eq!(kind(ffi::SQLITE_IOERR_READ), StoreErrorKind::Failed);
        assert_eq!(kind(ffi::SQLITE_CORRUPT_INDEX), StoreErrorKind::Corrupt);
        assert_eq!(kind(ffi::SQLITE_NOTADB), StoreErrorKind::Corrupt);
    }

    #[test]
    fn only_what_may_have_been_committed_is_unknown() {
        let kind = |code| fault(code).while_committing().kind();
        assert_eq!(kind(ffi::SQLITE_IOERR_FSYNC), StoreErrorKind::Unknown);
        assert_eq!(kind(ffi::SQLITE_IOERR_SHMMAP), StoreErrorKind::Unknown);
        assert_eq!(kind(ffi::SQLITE_IOERR_WRITE), StoreErrorKind::Failed);
        assert_eq!(kind(ffi::SQLITE_FULL), StoreErrorKind::Failed);
        assert_eq!(kind(ffi::SQLITE_BUSY), StoreErrorKind::Unavailable);
    }

    #[test]
    fn the_cause_is_told_once() {
        let error = fault(ffi::SQLITE_FULL).told("append");
        assert_eq!(error.to_string(), "cannot append: the disk is full");
        assert!(std::error::Error::source(&error).is_some_and(|cause| !cause.to_string().contains("append")));
    }
}
