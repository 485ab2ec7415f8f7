//! Receipts: proof that a command was accepted, and how long a reader has to wait to see it.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

use crate::id::{Partition, Position, Version};
use crate::store::{LogId, LogPoint};

/// What a command left in the log.
///
/// It prints to a short token and parses from it, so that a browser can carry it from the command
/// to the next query:
///
/// ```
/// # use cqrs_core::Receipt;
/// let receipt: Receipt = "0-42-5-7f3a9c1e-c4de6b02".parse()?;
/// assert_eq!(receipt.position().get(), 42);
/// assert_eq!(receipt.to_string(), "0-42-5-7f3a9c1e-c4de6b02");
/// # Ok::<(), cqrs_core::receipt::InvalidReceipt>(())
/// ```
///
/// The parts are the partition, the position, the version of the stream, a mark of the log, and a mark of the
/// event at that position. The marks show a receipt of another log, and one of a history that the log has lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    partition: Partition,
    position: Position,
    version: Version,
    log: u32,
    /// Of the event at the position; 0 if the stream had no events.
    event: u32,
    repeated: bool,
}

impl Receipt {
    /// The point is that of the stream's event at the version.
    pub(crate) fn new(log: LogId, partition: Partition, point: LogPoint, version: Version) -> Self {
        let LogPoint { position, event } = point;
        let event = event.map_or(0, mark);
        Self { partition, position, version, log: mark(log.0), event, repeated: false }
    }

    pub(crate) fn repeated(self) -> Self {
        Self { repeated: true, ..self }
    }

    /// The partition of the log that the command's stream lives in.
    #[must_use]
    pub fn partition(&self) -> Partition {
        self.partition
    }

    /// The position of the command's last event. If it had none, that of the last event its
    /// decision was based on.
    #[must_use]
    pub fn position(&self) -> Position {
        self.position
    }

    /// The version of the stream behind the command.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// Whether the command had been accepted before, under the same idempotency key, and this is
    /// the answer it got then. A parsed receipt does not know.
    #[must_use]
    pub fn is_repeated(&self) -> bool {
        self.repeated
    }

    /// Whether the receipt is of this log.
    #[must_use]
    pub fn is_of(&self, log: LogId) -> bool {
        self.log == mark(log.0)
    }

    /// Whether a log that has this event at the receipt's position still has what the receipt is of. `false` for a
    /// log that was rewound, or ends before the position.
    #[must_use]
    pub fn is_of_event(&self, there: Option<Uuid>) -> bool {
        self.position == Position::START || there.is_some_and(|there| mark(there) == self.event)
    }

    /// The version with the mark of its event, to be expected by a later command.
    #[must_use]
    pub fn expected(&self) -> ExpectedVersion {
        let event = (self.version != Version::NONE).then_some(self.event);
        ExpectedVersion { version: self.version, event }
    }
}

/// The last 32 bits, which are random in the ids of logs and events: enough to tell two that one program meets
/// in one place.
fn mark(id: Uuid) -> u32 {
    let bits = id.as_u128();
    u32::try_from(bits & u128::from(u32::MAX)).unwrap_or_default()
}

/// The version of a stream as a client has seen it, with a mark of the event there.
///
/// A command that expects it is accepted only if the stream still has that version *and* that event. After the log
/// was rewound, another event may have the same version, and the plain number would match by chance. Take it from a
/// [`Receipt`] or from what [`load`](crate::Engine::load) returns. A plain [`Version`] is accepted as well, and is
/// compared by number alone.
///
/// It prints to a short text and parses from it, so that a form in a browser can carry it:
///
/// ```
/// # use cqrs_core::receipt::ExpectedVersion;
/// let seen: ExpectedVersion = "5-c4de6b02".parse()?;
/// assert_eq!(seen.version().get(), 5);
/// assert_eq!(seen.to_string(), "5-c4de6b02");
/// assert_eq!("5".parse::<ExpectedVersion>()?.to_string(), "5");
/// # Ok::<(), cqrs_core::receipt::InvalidExpectedVersion>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpectedVersion {
    version: Version,
    /// Of the event at the version, if it is known.
    event: Option<u32>,
}

impl ExpectedVersion {
    pub(crate) fn new(version: Version, event: Option<Uuid>) -> Self {
        Self { version, event: event.map(mark) }
    }

    /// The version.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// Whether a stream of this version with this last event is the expected one.
    #[must_use]
    pub fn holds(&self, version: Version, event: Option<Uuid>) -> bool {
        self.version == version && self.event.is_none_or(|expected| event.map(mark) == Some(expected))
    }
}

impl From<Version> for ExpectedVersion {
    fn from(version: Version) -> Self {
        Self { version, event: None }
    }
}

impl From<Receipt> for ExpectedVersion {
    fn from(receipt: Receipt) -> Self {
        receipt.expected()
    }
}

impl From<&Receipt> for ExpectedVersion {
    fn from(receipt: &Receipt) -> Self {
        receipt.expected()
    }
}

impl fmt::Display for ExpectedVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.event {
            Some(event) => write!(f, "{}-{event:08x}", self.version),
            None => self.version.fmt(f),
        }
    }
}

impl FromStr for ExpectedVersion {
    type Err = InvalidExpectedVersion;

    fn from_str(text: &str) -> Result<Self, InvalidExpectedVersion> {
        let invalid = || InvalidExpectedVersion(text.chars().take(80).collect());
        let (version, event) = match text.split_once('-') {
            Some((version, event)) => (version, Some(marked(event).ok_or_else(invalid)?)),
            None => (text, None),
        };
        if version.contains('+') {
            return Err(invalid());
        }
        Ok(Self { version: version.parse().map_err(|_| invalid())?, event })
    }
}

/// A mark as it is printed.
fn marked(text: &str) -> Option<u32> {
    // `from_str_radix` accepts a leading `+`, which no mark has.
    let is_printed = text.len() == 8 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
    if is_printed { u32::from_str_radix(text, 16).ok() } else { None }
}

impl fmt::Display for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { partition, position, version, log, event, .. } = self;
        write!(f, "{partition}-{position}-{version}-{log:08x}-{event:08x}")
    }
}

impl FromStr for Receipt {
    type Err = InvalidReceipt;

    fn from_str(token: &str) -> Result<Self, InvalidReceipt> {
        let invalid = || InvalidReceipt(token.chars().take(80).collect());
        let parts: Vec<&str> = token.split('-').collect();
        let [partition, position, version, log, event] = parts[..] else { return Err(invalid()) };
        // `parse` accepts a leading `+`, which no receipt prints.
        if token.contains('+') {
            return Err(invalid());
        }
        Ok(Self {
            partition: partition.parse().map_err(|_| invalid())?,
            position: position.parse().map_err(|_| invalid())?,
            version: version.parse().map_err(|_| invalid())?,
            log: marked(log).ok_or_else(invalid)?,
            event: marked(event).ok_or_else(invalid)?,
            repeated: false,
        })
    }
}

/// A text that is not a receipt's token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidReceipt(String);

impl fmt::Display for InvalidReceipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not a receipt: one looks like `0-42-5-7f3a9c1e-c4de6b02`", self.0)
    }
}

impl std::error::Error for InvalidReceipt {}

/// A text that is not an [`ExpectedVersion`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidExpectedVersion(String);

impl fmt::Display for InvalidExpectedVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not an expected version: one looks like `5-c4de6b02` or `5`", self.0)
    }
}

impl std::error::Error for InvalidExpectedVersion {}
