//! The fixed time and ids of a test, so that it behaves the same in every run.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use cqrs_core::Timestamp;
use cqrs_core::context::IdSource;
use uuid::Uuid;

/// The time of a test, unless it sets another with `.at(…)`: 2020-01-01T00:00:00Z.
///
/// ```
/// use cqrs_testkit::fixed::START;
///
/// assert_eq!(START.to_string(), "2020-01-01T00:00:00.000000Z");
/// ```
pub const START: Timestamp = Timestamp::from_micros(1_577_836_800_000_000);

/// Returns the id of the `n`th call of [`Context::new_id`](cqrs_core::Context::new_id) in a test, counted from 1.
///
/// ```
/// use cqrs_testkit::fixed::nth_id;
///
/// assert_eq!(nth_id(1).to_string(), "00000000-0000-7000-8000-000000000001");
/// ```
#[must_use]
pub fn nth_id(n: u64) -> Uuid {
    // The version and variant bits of a UUIDv7, for code that checks them.
    Uuid::from_u128((0x7000_8000_u128 << 48) | u128::from(n))
}

/// An id source that counts up from 1 with [`nth_id`]. It is the default in tests.
///
/// ```
/// use cqrs::context::IdSource;
/// use cqrs_testkit::fixed::{CountingIds, START, nth_id};
///
/// let ids = CountingIds::default();
/// assert_eq!([ids.next(START), ids.next(START)], [nth_id(1), nth_id(2)]);
/// ```
#[derive(Debug, Default)]
pub struct CountingIds(AtomicU64);

impl IdSource for CountingIds {
    fn next(&self, _: Timestamp) -> Uuid {
        nth_id(self.0.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

/// An argument of `.at(…)`: a [`Timestamp`], a [`SystemTime`], or a string such as `"2024-05-01T12:30:00Z"`.
///
/// ```
/// # mod bank { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bank.rs")); } use bank::*;
/// # use cqrs_testkit::prelude::*;
/// # let ada = || Opened { owner: "Ada".into() };
/// use std::time::SystemTime;
///
/// use cqrs::Timestamp;
///
/// let _ = Account::given(ada()).at("2024-05-01T12:30:00Z");
/// let _ = Account::given(ada()).at(Timestamp::from_micros(1_714_566_600_000_000));
/// let _ = Account::given(ada()).at(SystemTime::now());
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a time",
    label = "not a time",
    note = "write `.at(\"2024-05-01T12:30:00Z\")`, or pass a `Timestamp` or a `SystemTime`"
)]
pub trait IntoTime {
    /// Converts to a timestamp.
    ///
    /// # Errors
    /// Returns the reason if a string cannot be parsed as a time.
    fn into_time(self) -> Result<Timestamp, String>;
}

impl IntoTime for Timestamp {
    fn into_time(self) -> Result<Timestamp, String> {
        Ok(self)
    }
}

impl IntoTime for SystemTime {
    fn into_time(self) -> Result<Timestamp, String> {
        Ok(self.into())
    }
}

impl IntoTime for &str {
    fn into_time(self) -> Result<Timestamp, String> {
        self.parse().map_err(|error: cqrs_core::event::InvalidTimestamp| error.to_string())
    }
}

/// Converts an argument of `.at(…)`, or fails the test with the reason.
#[track_caller]
pub(crate) fn time(time: impl IntoTime) -> Timestamp {
    match time.into_time() {
        Ok(time) => time,
        Err(reason) => crate::report::fail_test(&reason),
    }
}

/// Prints the length of a list whose elements need not be `Debug`.
pub(crate) struct Count(pub(crate) usize);

impl fmt::Debug for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}]", self.0)
    }
}
