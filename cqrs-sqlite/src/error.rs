//! SQLite errors, classified by what a caller can do about them.

use std::fmt;
use std::sync::Arc;

use cqrs_core::error::{StoreError, StoreErrorKind};
use rusqlite::ErrorCode;
use rusqlite::types::FromSqlError;

/// An error that can be sent to every caller waiting for the same commit. [`StoreError`] is not `Clone`.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    kind: StoreErrorKind,
    message: String,
    cause: Option<Arc<rusqlite::Error>>,
}

impl Fault {
    pub(crate) fn new(kind: StoreErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), cause: None }
    }

    pub(crate) fn corrupt(message: impl Into<String>) -> Self {
        Self::new(StoreErrorKind::Corrupt, message)
    }

    pub(crate) fn kind(&self) -> StoreErrorKind {
        self.kind
    }

    /// Reclassifies an error of a `COMMIT`. SQLite has rolled back, but if only the sync failed, the whole commit
    /// may be on disk and reappear after a crash. A failed write leaves the commit without its last frame, so
    /// recovery discards it.
    pub(crate) fn while_committing(mut self) -> Self {
        let unfinished = self.cause.as_ref().and_then(|cause| cause.sqlite_error()).is_some_and(|error| {
            [rusqlite::ffi::SQLITE_IOERR_WRITE, rusqlite::ffi::SQLITE_IOERR_READ]
                .contains(&error.extended_code)
        });
        if self.is(ErrorCode::SystemIoFailure) && !unfinished {
            self.kind = StoreErrorKind::Unknown;
            self.message =
                "the commit failed with an I/O error (SQLITE_IOERR); it may have been written".to_owned();
        }
        self
    }

    /// Replaces the message.
    pub(crate) fn with_message(mut self, message: String) -> Self {
        self.message = message;
        self
    }

    /// Adds the log position that the error concerns.
    pub(crate) fn at(mut self, position: i64) -> Self {
        self.message = format!("the event at position {position}: {}", self.message);
        self
    }

    pub(crate) fn is(&self, code: ErrorCode) -> bool {
        self.cause.as_ref().and_then(|cause| cause.sqlite_error_code()) == Some(code)
    }

    /// Returns whether another connection holds a lock, so that a retry may succeed.
    pub(crate) fn is_busy(&self) -> bool {
        self.is(ErrorCode::DatabaseBusy) || self.is(ErrorCode::DatabaseLocked)
    }

    /// Converts to a [`StoreError`] with the failed operation first: `cannot append: the disk is full …`.
    pub(crate) fn to_error(&self, doing: &str) -> StoreError {
        let error = StoreError::new(self.kind, format!("cannot {doing}: {}", self.message));
        match &self.cause {
            Some(cause) => error.because(Arc::clone(cause)),
            None => error,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        self.cause.as_ref().map_or(Ok(()), |cause| write!(f, " ({cause})"))
    }
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        let (kind, message) = classify(&error);
        Self { kind, message: message.to_owned(), cause: Some(Arc::new(error)) }
    }
}

/// A column holds a value of the wrong type.
impl From<FromSqlError> for Fault {
    fn from(error: FromSqlError) -> Self {
        Self::corrupt(format!("a stored value has the wrong type ({error})"))
    }
}

fn classify(error: &rusqlite::Error) -> (StoreErrorKind, &'static str) {
    use StoreErrorKind::{Corrupt, Failed, Unavailable};
    let Some(code) = error.sqlite_error_code() else { return classify_driver(error) };
    match code {
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => {
            (Unavailable, "another connection kept the file locked (SQLITE_BUSY); retry, or raise `patience`")
        }
        ErrorCode::DatabaseCorrupt => (Corrupt, "the file is damaged (SQLITE_CORRUPT); restore a backup"),
        ErrorCode::NotADatabase => (Corrupt, "the file is not an SQLite database (SQLITE_NOTADB)"),
        ErrorCode::DiskFull => (Failed, "the disk is full (SQLITE_FULL); free some space"),
        ErrorCode::ReadOnly => (Failed, "the file is read-only (SQLITE_READONLY)"),
        ErrorCode::CannotOpen => (Failed, "the file cannot be opened (SQLITE_CANTOPEN)"),
        ErrorCode::PermissionDenied => (Failed, "access to the file was denied (SQLITE_PERM)"),
        ErrorCode::SystemIoFailure => (Failed, "an I/O error occurred (SQLITE_IOERR)"),
        ErrorCode::OutOfMemory => (Failed, "SQLite ran out of memory (SQLITE_NOMEM)"),
        ErrorCode::TooBig => (Failed, "the value exceeds SQLite's size limit (SQLITE_TOOBIG)"),
        _ => (Failed, "SQLite returned an error"),
    }
}

fn classify_driver(error: &rusqlite::Error) -> (StoreErrorKind, &'static str) {
    match error {
        rusqlite::Error::InvalidColumnType(..)
        | rusqlite::Error::FromSqlConversionFailure(..)
        | rusqlite::Error::IntegralValueOutOfRange(..)
        | rusqlite::Error::Utf8Error(..) => (StoreErrorKind::Corrupt, "a stored value has the wrong type"),
        _ => (StoreErrorKind::Failed, "SQLite returned an error"),
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
        let error = fault(ffi::SQLITE_FULL).to_error("append");
        assert_eq!(error.to_string(), "cannot append: the disk is full (SQLITE_FULL); free some space");
        assert!(std::error::Error::source(&error).is_some_and(|cause| !cause.to_string().contains("append")));
    }
}
