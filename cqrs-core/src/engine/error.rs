//! What a caller of the engine can be told.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::aggregate::Misfit;
use crate::codec::CodecError;
use crate::context::MissingService;
use crate::engine::follow::{CatchUpError, ConsumerFault};
use crate::engine::record::UnsharedEvent;
use crate::error::{EncodeError, FoldError, FoldFault, StoreError};
use crate::id::{InvalidStreamId, Position, StreamId};
use crate::store::{CommandKey, Conflict, KeyOwner};

/// Why a command was not accepted. Nothing was written, unless a [`Failure`] says that this is not
/// known.
#[derive(Debug)]
#[non_exhaustive]
pub enum ExecuteError<E> {
    /// The domain said no: the handler's own error, untouched.
    Refused(E),
    /// The handler creates, but there is something already.
    Exists {
        /// The command's name.
        command: &'static str,
        /// What exists.
        stream: StreamId,
    },
    /// The handler needs something that exists, but there is nothing.
    Missing {
        /// The command's name.
        command: &'static str,
        /// What does not exist.
        stream: StreamId,
    },
    /// A rule that an inline projection enforces rejects an event of the decision, such as a value that is
    /// taken already. Nothing was written. `#[aggregate(rejection = …)]` turns it into the domain's own
    /// error, which is then [`Refused`](Self::Refused).
    Rejected(Rejection),
    /// Somebody else wrote first: the version that the command expects is not there, or the race
    /// was lost more often than the engine tries. Load, look and ask again.
    Conflict(Conflict),
    /// The command could not be carried out.
    Failed(Failure),
}

/// What kept a command from being carried out, other than the domain and other writers.
#[derive(Debug)]
#[non_exhaustive]
pub enum Failure {
    /// The store failed.
    Store(StoreError),
    /// The stream holds an event that does not fold into the state.
    Fold(FoldError),
    /// The handler returned an event that does not fold into the state it was decided on: it would
    /// have made the stream unreadable.
    Undecidable {
        /// The event's stored name.
        event: &'static str,
        /// What is wrong with it.
        misfit: Misfit,
    },
    /// An event of the decision cannot be stored: it does not serialize, or cannot be read back from what its
    /// codec writes.
    Encode(EncodeError),
    /// The command's id is not one.
    Id(InvalidStreamId),
    /// An inline projection cannot take an event of the decision.
    Inline {
        /// The projection.
        projection: &'static str,
        /// What is wrong with the event.
        error: FoldError,
    },
    /// An inline projection has to reach the end of the log before it can be part of a commit, and did
    /// not: it cannot, or other programs that do not know it write faster.
    InlineBehind {
        /// The projection.
        projection: &'static str,
        /// What keeps it.
        source: Option<Box<CatchUpError>>,
    },
    /// The aggregate is not in the engine's registry.
    NotRegistered(&'static str),
    /// The handler needs a service that the engine was not given.
    NoService(MissingService),
    /// The handler, or a service that it calls, did not answer in time; nothing was written. The limit is
    /// [`Timeouts::service`](super::Timeouts::service).
    ServiceTimeout {
        /// The command's name.
        command: &'static str,
        /// Its stream.
        stream: StreamId,
        /// For how long it was waited.
        limit: Duration,
    },
    /// Other commands did not leave the queue of the stream in time; nothing was written. The limit is
    /// [`Timeouts::queue`](super::Timeouts::queue).
    QueueTimeout {
        /// The command's name.
        command: &'static str,
        /// Its stream.
        stream: StreamId,
        /// For how long it has waited.
        limit: Duration,
    },
    /// A handler executes the command, and the command would wait for that handler; nothing was written.
    Deadlock {
        /// The command's name.
        command: &'static str,
        /// Its stream.
        stream: StreamId,
        /// The commands whose handlers are deciding, each with its stream: the one that executes this command on its
        /// own stream, or those that wait for each other.
        waiting: Vec<(&'static str, StreamId)>,
    },
    /// The idempotency key is that of another command, or of the same command with other content. Nothing was
    /// written.
    KeyReused(Box<KeyReused>),
    /// The engine has been shut down.
    ShutDown,
}

impl<E> ExecuteError<E> {
    /// Returns whether the command was rejected: by the domain, by a rule that an inline projection enforces, or
    /// because what it needs does not exist or what it creates does. The same command on the same state gets the
    /// same answer; any other error may not occur again.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused(_) | Self::Rejected(_) | Self::Exists { .. } | Self::Missing { .. })
    }
}

/// An idempotency key that was used for something else before.
#[derive(Debug)]
pub struct KeyReused {
    pub(super) key: CommandKey,
    pub(super) first: KeyOwner,
    pub(super) second: KeyOwner,
}

impl KeyReused {
    /// The key, with its stream.
    #[must_use]
    pub fn key(&self) -> &CommandKey {
        &self.key
    }

    /// What the key was used for first.
    #[must_use]
    pub fn first(&self) -> &KeyOwner {
        &self.first
    }

    /// What it was used for now.
    #[must_use]
    pub fn second(&self) -> &KeyOwner {
        &self.second
    }
}

impl fmt::Display for KeyReused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, first, second } = self;
        write!(f, "the idempotency key {:?} of {} was used by {first}", key.key, key.stream)?;
        if first.is_same_command(second) {
            return f.write_str(" with other content; give each command a key of its own");
        }
        write!(
            f,
            ", and now by {second}; give each command a key of its own, or execute both through `Engine::request`"
        )
    }
}

/// A command that a rule of an inline projection rejects.
#[derive(Debug)]
pub struct Rejection {
    projection: &'static str,
    error: FoldError,
}

impl Rejection {
    /// The rejection that an inline projection's fault means, or the fault back if it breaks no rule.
    pub(super) fn of(projection: &'static str, error: FoldError) -> Result<Self, FoldError> {
        match error.fault() {
            FoldFault::Misfit(_) | FoldFault::Rule(_) => Ok(Self { projection, error }),
            _ => Err(error),
        }
    }

    /// The projection that enforces the rule.
    #[must_use]
    pub fn projection(&self) -> &'static str {
        self.projection
    }

    /// The stored name of the event that breaks the rule.
    #[must_use]
    pub fn event(&self) -> &str {
        self.error.event()
    }

    /// What enforces the rule: a constraint of the projection's tables as the database names it, or `key`
    /// if the document to be created exists already, or the one to be changed does not. `None` if a handler
    /// with its own SQL returned an error of its own.
    #[must_use]
    pub fn constraint(&self) -> Option<&str> {
        match self.error.fault() {
            FoldFault::Rule(violation) => violation.constraint(),
            _ => Some("key"),
        }
    }

    /// The value that breaks the rule: the document's key, or what the database reports. PostgreSQL reports the
    /// values of a unique constraint, and SQLite none.
    #[must_use]
    pub fn value(&self) -> Option<&str> {
        match self.error.fault() {
            FoldFault::Rule(violation) => violation.value(),
            _ => self.error.document(),
        }
    }

    /// The cause: the error of the database or of the handler.
    #[must_use]
    pub fn cause(&self) -> Option<&(dyn StdError + 'static)> {
        self.error.source()
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (projection, event) = (self.projection, self.event());
        write!(f, "the inline projection `{projection}` rejects `{event}`")?;
        match (self.constraint(), self.value()) {
            (Some(constraint), Some(value)) => write!(f, ": constraint `{constraint}`, value {value:?}"),
            (Some(constraint), None) => write!(f, ": constraint `{constraint}`"),
            (None, _) => Ok(()),
        }
    }
}

impl StdError for Rejection {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.cause()
    }
}

impl<E: StdError> fmt::Display for ExecuteError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(error) => fmt::Display::fmt(error, f),
            Self::Exists { command, stream } => {
                write!(f, "`{command}` creates {stream}, which exists already")
            }
            Self::Missing { command, stream } => {
                write!(f, "`{command}` needs {stream}, which does not exist")
            }
            Self::Rejected(rejection) => rejection.fmt(f),
            Self::Conflict(conflict) => conflict.fmt(f),
            Self::Failed(failure) => failure.fmt(f),
        }
    }
}

// Variants that print as what they hold have that one's source, so that nothing is said twice.
impl<E: StdError> StdError for ExecuteError<E> {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Refused(error) => error.source(),
            Self::Rejected(rejection) => rejection.source(),
            Self::Failed(failure) => failure.source(),
            Self::Exists { .. } | Self::Missing { .. } | Self::Conflict(_) => None,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store(error) => error.fmt(f),
            Self::Fold(error) => error.fmt(f),
            Self::Undecidable { event, .. } => write!(
                f,
                "the handler returned `{event}`, which does not fold into the state it was decided on; nothing was written"
            ),
            Self::Encode(error) => error.fmt(f),
            Self::Id(error) => error.fmt(f),
            Self::Inline { projection, .. } => write!(
                f,
                "the projection `{projection}`, which is kept inline, cannot take an event of the decision; nothing was written"
            ),
            Self::InlineBehind { projection, .. } => write!(
                f,
                "the projection `{projection}`, which is kept inline, is behind the log; nothing was written"
            ),
            Self::NotRegistered(aggregate) => write!(
                f,
                "the aggregate `{aggregate}` is not registered with this engine: link the crate that defines it, or add `.with::<{aggregate}>()` to its registry"
            ),
            Self::NoService(error) => error.fmt(f),
            Self::ServiceTimeout { command, stream, limit } => write!(
                f,
                "the handler of `{command}` on {stream} did not decide within {limit:?}; nothing was written; check the services that it calls, or raise `Timeouts::service`"
            ),
            Self::QueueTimeout { command, stream, limit } => write!(
                f,
                "`{command}` waited {limit:?} for its turn in the queue of {stream}; nothing was written; send it again, or raise `Timeouts::queue`"
            ),
            Self::Deadlock { command, stream, waiting } => {
                let handlers: Vec<_> =
                    waiting.iter().map(|(command, stream)| format!("`{command}` on {stream}")).collect();
                let handlers = handlers.join(" and of ");
                write!(
                    f,
                    "`{command}` on {stream} would wait forever: it was executed while the handler of {handlers} is deciding, which has to return first; return its events from that handler, or execute it after that command"
                )
            }
            Self::KeyReused(reused) => reused.fmt(f),
            Self::ShutDown => f.write_str("the engine has been shut down"),
        }
    }
}

impl StdError for Failure {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Store(error) => error.source(),
            Self::Fold(error) => error.source(),
            Self::Undecidable { misfit, .. } => Some(misfit),
            Self::Encode(error) => error.source(),
            Self::Inline { error, .. } => Some(error),
            Self::InlineBehind { source, .. } => source.as_deref().map(|source| source as _),
            Self::Id(_)
            | Self::NotRegistered(_)
            | Self::NoService(_)
            | Self::ServiceTimeout { .. }
            | Self::QueueTimeout { .. }
            | Self::Deadlock { .. }
            | Self::KeyReused(_)
            | Self::ShutDown => None,
        }
    }
}

impl<E> From<Failure> for ExecuteError<E> {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<FoldError> for Failure {
    fn from(error: FoldError) -> Self {
        Self::Fold(error)
    }
}

impl From<EncodeError> for Failure {
    fn from(error: EncodeError) -> Self {
        Self::Encode(error)
    }
}

impl From<InvalidStreamId> for Failure {
    fn from(error: InvalidStreamId) -> Self {
        Self::Id(error)
    }
}

/// Why a read gave no answer.
#[derive(Debug)]
#[non_exhaustive]
pub enum ReadError {
    /// The projection did not get as far as the receipt in time.
    Behind {
        /// The projection.
        projection: &'static str,
        /// How far it is.
        position: Position,
        /// How far it had to get.
        wanted: Position,
        /// What it is doing instead, if it is not just slow.
        trouble: Option<String>,
    },
    /// The projection has stopped before the receipt, and does not go on by itself.
    Stopped {
        /// The projection.
        projection: &'static str,
        /// How far it got.
        position: Position,
        /// Why it stopped.
        fault: ConsumerFault,
    },
    /// The projection is on standby before the receipt: it has come to an event that only another release of
    /// this program reads, and no such program moves it.
    Standby {
        /// The projection.
        projection: &'static str,
        /// How far it got.
        position: Position,
        /// How far it had to get.
        wanted: Position,
        /// The event.
        event: Arc<UnsharedEvent>,
    },
    /// The receipt is of another log.
    ForeignReceipt,
    /// The log no longer has the event that the receipt is of: it was rewound, as after a failover to a standby that
    /// lagged, and the command's effect is lost.
    LostReceipt {
        /// The receipt's position.
        position: Position,
        /// The end of the log.
        head: Position,
    },
    /// The projection is not in the engine's registry.
    NotRegistered(&'static str),
    /// A stored document, or its key, does not fit its type.
    Document {
        /// The projection.
        projection: &'static str,
        /// The key's text.
        key: String,
        /// What is wrong with it.
        source: CodecError,
    },
    /// The stream holds an event that does not fold into the state.
    Fold(FoldError),
    /// The id is not one.
    Id(InvalidStreamId),
    /// The store failed.
    Store(StoreError),
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Behind { projection, position, wanted, trouble } => {
                write!(
                    f,
                    "the projection `{projection}` is at position {position} and did not reach {wanted} in time"
                )?;
                trouble.iter().try_for_each(|trouble| write!(f, ": {trouble}"))
            }
            Self::Stopped { projection, position, .. } => {
                write!(f, "the projection `{projection}` has stopped at position {position}")
            }
            Self::Standby { projection, position, wanted, event } => write!(
                f,
                "the projection `{projection}` is on standby at position {position} and did not reach {wanted}: {event}"
            ),
            Self::ForeignReceipt => f.write_str("the receipt is of another log"),
            Self::LostReceipt { position, head } => write!(
                f,
                "the receipt is of an event at position {position} that the log no longer has: the log was rewound, and ends at {head}"
            ),
            Self::NotRegistered(projection) => write!(
                f,
                "the projection `{projection}` is not registered with this engine: link the crate that defines it, or add it to its registry"
            ),
            Self::Document { projection, key, .. } => {
                write!(f, "the document {key:?} of the projection `{projection}` does not fit its type")
            }
            Self::Fold(error) => error.fmt(f),
            Self::Id(error) => error.fmt(f),
            Self::Store(error) => error.fmt(f),
        }
    }
}

impl StdError for ReadError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Stopped { fault, .. } => Some(fault),
            Self::Document { source, .. } => Some(source),
            Self::Fold(error) => error.source(),
            Self::Store(error) => error.source(),
            Self::Behind { .. }
            | Self::ForeignReceipt
            | Self::LostReceipt { .. }
            | Self::Standby { .. }
            | Self::NotRegistered(_)
            | Self::Id(_) => None,
        }
    }
}

impl From<StoreError> for ReadError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<FoldError> for ReadError {
    fn from(error: FoldError) -> Self {
        Self::Fold(error)
    }
}

impl From<InvalidStreamId> for ReadError {
    fn from(error: InvalidStreamId) -> Self {
        Self::Id(error)
    }
}
