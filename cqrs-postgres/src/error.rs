//! Faults of PostgreSQL, told by what a caller can do about them.

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use cqrs_core::error::{StoreError, StoreErrorKind};
use tokio_postgres::error::SqlState;

/// A fault that can be told to several who wait for one commit, which a [`StoreError`] cannot.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    kind: StoreErrorKind,
    words: String,
    cause: Option<Arc<tokio_postgres::Error>>,
    timed_out: bool,
    /// Whether another try may do better, where the cause does not say so.
    passing: bool,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.words)
    }
}

/// What the functions of the schema raise when a store is not what its handle takes it for.
pub(crate) const REPLACED: &str = "CQ001";
/// What they raise when a writer was given up: its connection was lost and it may not write any more.
pub(crate) const FENCED: &str = "CQ002";
/// What they raise when what was just checked does not hold.
pub(crate) const CONTRADICTION: &str = "CQ003";
/// What they raise when a transaction sees an old snapshot.
pub(crate) const ISOLATION: &str = "CQ004";
/// What they raise when statements of the user's own would commit a batch that is not complete.
pub(crate) const OPEN_BATCH: &str = "CQ005";
/// What they raise when the log ends before a position that the handle has reported.
pub(crate) const REWOUND: &str = "CQ006";

impl Fault {
    pub(crate) fn new(kind: StoreErrorKind, words: impl Into<String>) -> Self {
        Self { kind, words: words.into(), cause: None, timed_out: false, passing: false }
    }

    /// The server did not answer within the store's own time limit.
    pub(crate) fn timeout(doing: &str, limit: Duration) -> Self {
        let words = format!(
            "the server did not answer within {limit:?} ({doing}); it is overloaded, stopped, or cut off by the network"
        );
        Self { timed_out: true, ..Self::new(StoreErrorKind::Unavailable, words) }
    }

    pub(crate) fn is_timeout(&self) -> bool {
        self.timed_out
    }

    /// The same fault of another kind, in other words.
    pub(crate) fn told_as(mut self, kind: StoreErrorKind, words: impl Into<String>) -> Self {
        (self.kind, self.words) = (kind, words.into());
        self
    }

    pub(crate) fn corrupt(words: impl Into<String>) -> Self {
        Self::new(StoreErrorKind::Corrupt, words)
    }

    pub(crate) fn kind(&self) -> StoreErrorKind {
        self.kind
    }

    /// The same fault, at a moment when the commit was under way: if the connection is gone, nobody has
    /// said whether it took place.
    pub(crate) fn while_committing(mut self) -> Self {
        if self.ends_connection() && !self.is(&SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT) {
            self.kind = StoreErrorKind::Unknown;
            self.words = format!("the connection was lost while committing: {}", self.words);
        }
        self
    }

    /// Whether the connection is of no more use.
    pub(crate) fn ends_connection(&self) -> bool {
        self.timed_out
            || self.cause.as_ref().is_some_and(|cause| match cause.as_db_error() {
                Some(told) => ["FATAL", "PANIC"].contains(&told.severity()),
                None => true,
            })
    }

    /// Whether the connection leads to a server that does not write, or will not for long: one that only reads,
    /// was demoted, or shuts down. Another one may be the primary by now.
    pub(crate) fn leaves_server(&self) -> bool {
        let Some(told) = self.cause.as_ref().and_then(|cause| cause.as_db_error()) else { return false };
        match told.code().code() {
            "25006" => true,
            "0A000" => told.message().contains("during recovery"),
            code => code.starts_with("57P"),
        }
    }

    /// Whether it is the database's own matter, and another try may do better.
    pub(crate) fn passes(&self) -> bool {
        self.passing || self.code().is_some_and(passes)
    }

    /// Whether an error of a statement is the store's matter and not that of who wrote the statement: what
    /// no other statement would have escaped, and what may pass.
    pub(crate) fn is_of_the_store(error: &tokio_postgres::Error) -> bool {
        let Some(code) = error.code() else { return error.is_closed() };
        let told = error.as_db_error().is_some_and(|told| ["FATAL", "PANIC"].contains(&told.severity()));
        told || ["40", "53", "57", "58", "XX", "25006", "55P03"].iter().any(|of| code.code().starts_with(of))
    }

    pub(crate) fn words(&self) -> &str {
        &self.words
    }

    /// The same fault, told in other words.
    pub(crate) fn saying(mut self, words: String) -> Self {
        self.words = words;
        self
    }

    /// With what else there is to know.
    pub(crate) fn with(mut self, note: Option<&str>) -> Self {
        if let Some(note) = note {
            self.words = format!("{}; {note}", self.words);
        }
        self
    }

    /// What befell the store, if an error of a statement that says so is wrapped in another error.
    pub(crate) fn inside(error: &(dyn std::error::Error + 'static)) -> Option<Self> {
        let causes = std::iter::successors(Some(error), |of| (**of).source());
        let found = causes
            .filter_map(|cause| cause.downcast_ref::<tokio_postgres::Error>())
            .find(|cause| Self::is_of_the_store(cause))?;
        let (kind, words) = match found.as_db_error() {
            Some(told) => classify(told),
            None => classify_driver(found),
        };
        Some(Self { passing: found.code().is_some_and(passes), ..Self::new(kind, words) })
    }

    /// With the place in the log that it concerns.
    pub(crate) fn at(mut self, position: i64) -> Self {
        self.words = format!("the event at position {position}: {}", self.words);
        self
    }

    /// With the part of the log that it concerns in front, if there are several.
    pub(crate) fn within(mut self, part: Option<String>) -> Self {
        if let Some(part) = part {
            self.words = format!("{part}: {}", self.words);
        }
        self
    }

    pub(crate) fn is(&self, code: &SqlState) -> bool {
        self.code() == Some(code)
    }

    pub(crate) fn code(&self) -> Option<&SqlState> {
        self.cause.as_ref().and_then(|cause| cause.code())
    }

    /// With what could not be done in front: `cannot append: the server cannot be reached`.
    pub(crate) fn told(&self, doing: &str) -> StoreError {
        let error = StoreError::new(self.kind, format!("cannot {doing}: {}", self.words));
        match &self.cause {
            Some(cause) => error.because(Arc::clone(cause)),
            None => error,
        }
    }
}

fn passes(code: &SqlState) -> bool {
    *code == SqlState::T_R_SERIALIZATION_FAILURE || *code == SqlState::T_R_DEADLOCK_DETECTED
}

impl From<tokio_postgres::Error> for Fault {
    fn from(error: tokio_postgres::Error) -> Self {
        let (kind, words) = match error.as_db_error() {
            Some(told) => classify(told),
            None => classify_driver(&error),
        };
        Self { kind, words, cause: Some(Arc::new(error)), timed_out: false, passing: false }
    }
}

fn classify(told: &tokio_postgres::error::DbError) -> (StoreErrorKind, String) {
    use StoreErrorKind::{Corrupt, Failed, Invalid, Unavailable, Unsupported};
    let (code, message) = (told.code(), told.message());
    let bouncer = "PgBouncer stands between in its transaction mode; write `pgbouncer=true` into the URL";
    let (kind, words) = match code.code() {
        REPLACED => (Corrupt, "the log was replaced by another one since it was opened"),
        FENCED => (Unavailable, "the connection was given up in between"),
        REWOUND => (Corrupt, "the log was rewound, as after a failover to a standby that lagged"),
        CONTRADICTION => (Corrupt, "what the log says of itself does not agree"),
        ISOLATION => (Unsupported, "it needs transactions that are `read committed`"),
        "28P01" | "28000" => (Failed, "the server does not let this user in"),
        "3D000" => (Invalid, "there is no such database"),
        "42501" => (
            Failed,
            "this user lacks a right that it needs; `docs/guide/postgres.md` lists them under Rights",
        ),
        "42P01" | "3F000" | "42883" | "42703" => (Corrupt, "a part of the store's schema is missing"),
        "53300" => (Unavailable, "the server has no connection left"),
        "53100" => (Failed, "the server's disk is full"),
        "0A000" if message.contains("during recovery") => {
            (Unavailable, "the server is a standby, which only reads")
        }
        "25006" => (Unavailable, "the server only reads: it is a standby, or was told so"),
        "55P03" => (
            Unavailable,
            "another session kept the lock for longer than `patience`: a writer, or a commit that waits for its standby",
        ),
        "57014" => (
            Unavailable,
            "PostgreSQL canceled the statement; if it ran into a time limit, raise `statement_timeout`",
        ),
        "25P03" | "25P04" => (Unavailable, "this process stood still, and lost its transaction"),
        "26000" | "42P05" => (Unsupported, bouncer),
        "08P01" if message.contains("unsupported startup parameter") => (Unsupported, bouncer),
        "54000" | "22001" | "22021" => {
            (Invalid, "it is larger than PostgreSQL can store, or holds what it cannot")
        }
        code if code.starts_with("57P") || code.starts_with("08") || code.starts_with("53") => {
            (Unavailable, "the server is not at its work")
        }
        code if code.starts_with("40") => (Unavailable, "the server gave way to another transaction"),
        "XX001" | "XX002" => (Corrupt, "the database is damaged"),
        _ => (Failed, "PostgreSQL refused it"),
    };
    (kind, format!("{words} ({message})"))
}

fn classify_driver(error: &tokio_postgres::Error) -> (StoreErrorKind, String) {
    use StoreErrorKind::{Corrupt, Failed, Invalid, Unavailable};
    let text = error.to_string();
    let cause = error.source().map_or_else(|| text.clone(), ToString::to_string);
    if error.is_closed() {
        return (Unavailable, "the connection to the server was lost".to_owned());
    }
    if cause.contains("does not allow writes") {
        let words = "the server only reads: it is a standby, or `default_transaction_read_only` is on";
        return (Unavailable, words.to_owned());
    }
    if text.starts_with("error connecting")
        || text.starts_with("error communicating")
        || text.contains("timeout")
    {
        return (Unavailable, format!("the server cannot be reached ({cause})"));
    }
    if text.starts_with("error performing TLS") {
        // No authority that the machine trusts, or none that was named.
        let way =
            if cause.contains("UnknownIssuer") { "; `sslrootcert=FILE` names its authority" } else { "" };
        return (Failed, format!("no TLS connection can be made ({cause}){way}"));
    }
    if text.starts_with("error deserializing") {
        return (Corrupt, format!("a stored value is not what it should be ({cause})"));
    }
    if text.starts_with("invalid conn") || text.contains("configuration") {
        return (Invalid, format!("the URL cannot be understood ({cause})"));
    }
    (Failed, format!("the driver failed ({text})"))
}
