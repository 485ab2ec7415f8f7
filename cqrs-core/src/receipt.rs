//! Receipts: proof that a command was accepted, and how long a reader has to wait to see it.

use std::fmt;
use std::str::FromStr;

use crate::id::{Partition, Position, Version};
use crate::store::{Appended, LogId};

/// What a command left in the log.
///
/// It prints to a short token and parses from it, so that a browser can carry it from the command
/// to the next query:
///
/// ```
/// # use cqrs_core::Receipt;
/// let receipt: Receipt = "0-42-5-7f3a9c1e".parse()?;
/// assert_eq!(receipt.position().get(), 42);
/// assert_eq!(receipt.to_string(), "0-42-5-7f3a9c1e");
/// # Ok::<(), cqrs_core::receipt::InvalidReceipt>(())
/// ```
///
/// The parts are the partition, the position, the version of the stream, and a mark of the log, by
/// which a receipt of another log is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    partition: Partition,
    position: Position,
    version: Version,
    mark: u32,
    repeated: bool,
}

impl Receipt {
    pub(crate) fn new(log: LogId, partition: Partition, position: Position, version: Version) -> Self {
        Self { partition, position, version, mark: mark(log), repeated: false }
    }

    pub(crate) fn repeated_from(appended: &Appended, version: Version) -> Self {
        let first = Self::new(appended.log, appended.partition, appended.position, version);
        Self { repeated: true, ..first }
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
        self.mark == mark(log)
    }
}

/// 32 of the log id's random bits: enough to tell two logs that one program meets.
fn mark(log: LogId) -> u32 {
    let bits = log.0.as_u128();
    u32::try_from(bits & u128::from(u32::MAX)).unwrap_or_default()
}

impl fmt::Display for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}-{:08x}", self.partition, self.position, self.version, self.mark)
    }
}

impl FromStr for Receipt {
    type Err = InvalidReceipt;

    fn from_str(token: &str) -> Result<Self, InvalidReceipt> {
        let invalid = || InvalidReceipt(token.chars().take(80).collect());
        let parts: Vec<&str> = token.split('-').collect();
        let [partition, position, version, mark] = parts[..] else { return Err(invalid()) };
        // `from_str_radix` and `parse` take a leading `+`, which no receipt prints.
        if mark.len() != 8 || token.contains('+') {
            return Err(invalid());
        }
        Ok(Self {
            partition: partition.parse().map_err(|_| invalid())?,
            position: position.parse().map_err(|_| invalid())?,
            version: version.parse().map_err(|_| invalid())?,
            mark: u32::from_str_radix(mark, 16).map_err(|_| invalid())?,
            repeated: false,
        })
    }
}

/// A text that is not a receipt's token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidReceipt(String);

impl fmt::Display for InvalidReceipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not a receipt: one looks like `0-42-5-7f3a9c1e`", self.0)
    }
}

impl std::error::Error for InvalidReceipt {}
