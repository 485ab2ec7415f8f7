//! How long an engine waits for what it depends on.

use std::time::Duration;

/// The limits on what an engine waits for, by the real clock. Set them with
/// [`EngineBuilder::timeouts`](crate::engine::EngineBuilder::timeouts).
///
/// An error that comes from one of them names what was waited for, and the limit.
///
/// ```
/// use std::time::Duration;
/// use cqrs_core::engine::Timeouts;
///
/// let timeouts = Timeouts { service: Duration::from_secs(5), ..Timeouts::default() };
/// assert_eq!(timeouts.store, Duration::from_secs(45));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_structs, reason = "it is written out with `..Timeouts::default()`")]
pub struct Timeouts {
    /// How long a command that nobody polls keeps its turn in the queue of its stream, and how long later
    /// commands wait for its append (default: 1 s). After that the next command takes the turn over. A command
    /// that is polled, because it waits for a service or the store, keeps its turn.
    pub turn: Duration,
    /// How long a command waits for its turn in the queue of its stream (default: 60 s). After that it fails
    /// with [`Failure::QueueTimeout`](crate::engine::Failure::QueueTimeout).
    pub queue: Duration,
    /// How long a handler that calls services may take for one decision (default: 30 s). After that the
    /// command fails with [`Failure::ServiceTimeout`](crate::engine::Failure::ServiceTimeout).
    pub service: Duration,
    /// How long one call of a store may take without progress (default: 45 s, which is longer than the limits
    /// of the stores themselves). After that the call fails with
    /// [`StoreErrorKind::Unavailable`](crate::error::StoreErrorKind::Unavailable), and an append whose outcome
    /// cannot be found out with [`StoreErrorKind::Unknown`](crate::error::StoreErrorKind::Unknown).
    pub store: Duration,
    /// How long a command waits until an inline projection has caught up with the log (default: 60 s). After
    /// that it fails with [`Failure::InlineBehind`](crate::engine::Failure::InlineBehind); the projection
    /// keeps what it has caught up with.
    pub inline: Duration,
    /// How long [`Engine::shutdown`](crate::engine::Engine::shutdown) waits for commands, snapshots, and
    /// projections (default: 30 s). After that it abandons them and reports them. It abandons
    /// commands that are not polled after one and a half times `turn`, if only such commands are left.
    pub shutdown: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            turn: Duration::from_secs(1),
            queue: Duration::from_secs(60),
            service: Duration::from_secs(30),
            store: Duration::from_secs(45),
            inline: Duration::from_secs(60),
            shutdown: Duration::from_secs(30),
        }
    }
}
