//! Errors that more than one module speaks of.
//!
//! Three things stay apart, because a caller treats them differently: the domain said no (the
//! user's own type, in [`ExecuteError::Refused`](crate::engine)), somebody else
//! wrote first ([`Conflict`](crate::store::Conflict)), and the store failed ([`StoreError`]).

use std::error::Error as StdError;
use std::fmt;

use crate::aggregate::Misfit;
use crate::codec::CodecError;
use crate::event::{EventMeta, EventSet, Shape, Stored};
use crate::id::{Partition, Position, StreamId, Version};
use crate::projection::NotAKey;

/// Any error, boxed.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// A fault of a store: what kind, in which words, and from what cause.
#[derive(Debug)]
pub struct StoreError {
    kind: StoreErrorKind,
    message: String,
    source: Option<BoxError>,
}

/// The kinds of a store's faults, by what a caller can do about them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StoreErrorKind {
    /// The store cannot be reached or is busy, and nothing was written. Trying again may help.
    Unavailable,
    /// The connection broke while writing: whether it was written is not known. The command's
    /// idempotency key tells.
    Unknown,
    /// The store cannot do what was asked, such as check this kind of guard. Nothing was written.
    Unsupported,
    /// The request breaks a limit or is malformed. Nothing was written.
    Invalid,
    /// What is stored contradicts itself, or another program changed it.
    Corrupt,
    /// Anything else: no space, no rights, a bug. Nothing was written.
    Failed,
}

impl StoreError {
    /// A fault of this kind, in lower case and without a final dot.
    pub fn new(kind: StoreErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    /// Adds what caused it; the cause is not repeated in the message.
    #[must_use]
    pub fn because(mut self, cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(cause.into());
        self
    }

    /// What a caller can do about it.
    #[must_use]
    pub fn kind(&self) -> StoreErrorKind {
        self.kind
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StoreErrorKind::Invalid, message)
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for StoreError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|cause| cause as _)
    }
}

/// A stored event that does not become one of ours.
#[derive(Debug)]
#[non_exhaustive]
pub enum DecodeError {
    /// No type is stored under this name.
    UnknownEvent {
        /// The stored name.
        name: String,
    },
    /// The name is known, the version is not: it is newer than this program, or older than all
    /// that it can read.
    UnknownVersion {
        /// The stored name.
        name: String,
        /// The stored version.
        stored: u32,
        /// The version that this program writes.
        current: u32,
    },
    /// The payload does not fit the type.
    Payload {
        /// The stored name.
        name: String,
        /// The stored version.
        version: u32,
        /// What the codec says.
        source: CodecError,
    },
}

impl DecodeError {
    /// The payload of `stored` does not fit.
    #[must_use]
    pub fn payload(stored: &Stored<'_>, source: CodecError) -> Self {
        Self::Payload { name: stored.name.to_owned(), version: stored.version, source }
    }
}

/// An event that cannot be stored: its codec does not write it, or cannot read what it writes.
///
/// The engine stores only what its own type reads back, so that no stream ends at an event that no program can
/// read. See the guide's page on events for what JSON can hold.
#[derive(Debug)]
pub struct EncodeError(Box<NotStorable>);

#[derive(Debug)]
struct NotStorable {
    event: &'static str,
    version: u32,
    written: bool,
    source: CodecError,
}

impl EncodeError {
    pub(crate) fn unwritten(event: &'static str, version: u32, source: CodecError) -> Self {
        Self(Box::new(NotStorable { event, version, written: false, source }))
    }

    pub(crate) fn unread(event: &'static str, version: u32, error: DecodeError) -> Self {
        let source = match error {
            DecodeError::Payload { source, .. } => source,
            other => CodecError::new(other),
        };
        Self(Box::new(NotStorable { event, version, written: true, source }))
    }

    /// The event's stored name.
    #[must_use]
    pub fn event(&self) -> &'static str {
        self.0.event
    }

    /// The version of its shape.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.0.version
    }

    /// What the codec says.
    #[must_use]
    pub fn cause(&self) -> &CodecError {
        &self.0.source
    }
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let NotStorable { event, version, written, .. } = &*self.0;
        if *written {
            write!(
                f,
                "the event `{event}` version {version} cannot be read back from what its codec writes; nothing was stored; make its `Serialize` and `Deserialize` agree"
            )
        } else {
            write!(f, "the event `{event}` version {version} does not serialize; nothing was stored")
        }
    }
}

impl StdError for EncodeError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&self.0.source)
    }
}

/// Says why no kind of the set knows the stored event.
pub(crate) fn undecodable<S: EventSet>(stored: &Stored<'_>) -> DecodeError {
    let name = stored.name.to_owned();
    match current_version::<S>(stored.name) {
        Some(current) => DecodeError::UnknownVersion { name, stored: stored.version, current },
        None => DecodeError::UnknownEvent { name },
    }
}

fn current_version<S: EventSet>(name: &str) -> Option<u32> {
    let direct = S::TYPES.iter().find(|kind| kind.name == name).map(|kind| kind.version);
    direct.or_else(|| {
        let mut former: Vec<Shape> = Vec::new();
        S::TYPES.iter().for_each(|kind| (kind.former)(&mut former));
        former.iter().filter(|shape| shape.name == name).map(|shape| shape.version).max()
    })
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownEvent { name } => {
                write!(f, "no event type here is stored as `{name}`")
            }
            Self::UnknownVersion { name, stored, current } if stored > current => write!(
                f,
                "`{name}` is stored in version {stored}, but this program knows it up to version {current}: a newer program wrote it"
            ),
            Self::UnknownVersion { name, stored, current } => write!(
                f,
                "`{name}` is stored in version {stored}, and there is no way from it to version {current}: add `from`, `upcast` or `replaces` to its `#[event(…)]`"
            ),
            Self::Payload { name, version, .. } => {
                write!(f, "the payload of `{name}` version {version} does not fit its type")
            }
        }
    }
}

impl StdError for DecodeError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Payload { source, .. } => Some(source),
            Self::UnknownEvent { .. } | Self::UnknownVersion { .. } => None,
        }
    }
}

/// A stored event that could not be folded, with its place in the log.
#[derive(Debug)]
pub struct FoldError(Box<Unfolded>);

#[derive(Debug)]
struct Unfolded {
    event: String,
    stream: StreamId,
    version: Version,
    partition: Partition,
    position: Position,
    document: Option<String>,
    fault: FoldFault,
}

/// What is wrong with an event that could not be folded.
#[derive(Debug)]
#[non_exhaustive]
pub enum FoldFault {
    /// It could not be decoded.
    Decode(DecodeError),
    /// It has no place in the state or document there is.
    Misfit(Misfit),
    /// It names no document.
    Key(NotAKey),
    /// The key or the document that it leads to breaks a limit.
    Limit(StoreError),
    /// The document that it changes does not fit its type: what is stored of it, or what the event makes of it,
    /// which could not be read back.
    Document(CodecError),
    /// The projection's own statements failed on it.
    Handler(BoxError),
    /// It violates a rule of the projection: a constraint of its tables, or its handler returned an error of
    /// its own.
    Rule(RuleViolation),
    /// The projection's code panicked on it.
    Panicked(Panicked),
}

/// A rule of a projection with its own SQL that an event violates.
#[derive(Debug)]
pub struct RuleViolation {
    constraint: Option<String>,
    value: Option<String>,
    cause: BoxError,
}

impl RuleViolation {
    /// The handler returned this error.
    #[must_use]
    pub fn new(cause: BoxError) -> Self {
        Self { constraint: None, value: None, cause }
    }

    /// Names the constraint of the database, and the value that violates it if the database reports one.
    #[must_use]
    pub fn of_constraint(mut self, constraint: impl Into<String>, value: Option<String>) -> Self {
        self.constraint = Some(constraint.into());
        self.value = value;
        self
    }

    /// The constraint as the database names it; `None` if the handler itself returned the error.
    #[must_use]
    pub fn constraint(&self) -> Option<&str> {
        self.constraint.as_deref()
    }

    /// The value that violates the constraint, if the database reports it.
    #[must_use]
    pub fn value(&self) -> Option<&str> {
        self.value.as_deref()
    }

    /// The error that the handler returned.
    #[must_use]
    pub fn cause(&self) -> &(dyn StdError + Send + Sync + 'static) {
        &*self.cause
    }
}

/// What a panic said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Panicked(String);

impl Panicked {
    pub(crate) fn new(panic: &(dyn std::any::Any + Send)) -> Self {
        let text = panic.downcast_ref::<&str>().copied();
        let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        Self(text.unwrap_or("without a message").to_owned())
    }
}

impl fmt::Display for Panicked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the code that folds it panicked: {}", self.0)
    }
}

impl StdError for Panicked {}

impl FoldError {
    /// Of an event with this stored name, as a [`Consumer`](crate::consumer::Consumer) tells it.
    #[must_use]
    pub fn new(name: &str, meta: &EventMeta, fault: impl Into<FoldFault>) -> Self {
        Self::at(name, &meta.stream, (meta.version, meta.partition, meta.position), fault.into())
    }

    pub(crate) fn at(
        name: &str,
        stream: &StreamId,
        (version, partition, position): (Version, Partition, Position),
        fault: FoldFault,
    ) -> Self {
        let (event, stream) = (name.to_owned(), stream.clone());
        Self(Box::new(Unfolded { event, stream, version, partition, position, document: None, fault }))
    }

    /// Names the document that the event does not fold into.
    pub(crate) fn into_document(mut self, key: Option<String>) -> Self {
        self.0.document = key;
        self
    }

    /// The key of the document that the event does not fold into, if it is about one.
    #[must_use]
    pub fn document(&self) -> Option<&str> {
        self.0.document.as_deref()
    }

    /// The event's stored name.
    #[must_use]
    pub fn event(&self) -> &str {
        &self.0.event
    }

    /// Its stream.
    #[must_use]
    pub fn stream(&self) -> &StreamId {
        &self.0.stream
    }

    /// Its version in the stream.
    #[must_use]
    pub fn version(&self) -> Version {
        self.0.version
    }

    /// The partition that it lies in.
    #[must_use]
    pub fn partition(&self) -> Partition {
        self.0.partition
    }

    /// Its position in the partition.
    #[must_use]
    pub fn position(&self) -> Position {
        self.0.position
    }

    /// What is wrong with it.
    #[must_use]
    pub fn fault(&self) -> &FoldFault {
        &self.0.fault
    }
}

impl From<DecodeError> for FoldFault {
    fn from(error: DecodeError) -> Self {
        Self::Decode(error)
    }
}

impl From<Misfit> for FoldFault {
    fn from(misfit: Misfit) -> Self {
        Self::Misfit(misfit)
    }
}

impl From<NotAKey> for FoldFault {
    fn from(error: NotAKey) -> Self {
        Self::Key(error)
    }
}

impl fmt::Display for FoldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Unfolded { event, stream, version, position, .. } = &*self.0;
        write!(
            f,
            "the event `{event}` at version {version} of {stream} (position {position}) cannot be folded"
        )
    }
}

impl StdError for FoldError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(match &self.0.fault {
            FoldFault::Decode(error) => error,
            FoldFault::Misfit(error) => error,
            FoldFault::Key(error) => error,
            FoldFault::Limit(error) => error,
            FoldFault::Document(error) => error,
            FoldFault::Handler(error) => &**error,
            FoldFault::Rule(violation) => &*violation.cause,
            FoldFault::Panicked(error) => error,
        })
    }
}

/// An error with all its causes on one line, as a log or a refusal shows it.
pub(crate) fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
