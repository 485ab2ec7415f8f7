//! A test kit for `cqrs`: given-when-then tests for domains, a conformance suite for stores, and fault injection.
//!
//! Add it to `[dev-dependencies]`. Every aggregate, and every projection that stores documents, then has `given`:
//!
//! ```
//! # mod bank { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bank.rs")); } use bank::*;
//! use cqrs_testkit::prelude::*;
//!
//! // An aggregate: its past events, a command, and the expected result.
//! Account::given([Opened { owner: "Ada".into() }])
//!     .when(Deposit { account: 7, cents: 500 })
//!     .then(Deposited { cents: 500 })
//!     .when(Withdraw { account: 7, cents: 501 })
//!     .then_error(AccountError::Overdraft { balance: 500 });
//! Account::given(()).when(Deposit { account: 7, cents: 1 }).then_missing();
//!
//! // A projection: the events of some streams, and the expected documents.
//! Summary::given(Account::history(7, (Opened { owner: "Ada".into() }, Deposited { cents: 500 })))
//!     .then_document(7, Summary { owner: "Ada".into(), balance: 500, postings: 1 });
//! ```
//!
//! - Tests compare what is stored: name, version, and payload of events, and the JSON of documents. The types need
//!   neither `PartialEq` nor `Debug`.
//! - Each event and each document is serialized and read back, and a test fails if that changes it. This cannot detect
//!   a field that serde skips in both directions (`#[serde(skip)]`). But states are folded from the events that were
//!   read back, so such a field has its default value in tests as it has in production.
//! - Time and ids are fixed: [`fixed::START`] and [`fixed::nth_id`].
//! - `async` handlers run to completion, in a plain `#[test]` as well as inside a runtime.
//! - A failing test prints the given events, the command, the expected and actual results side by side, and the likely
//!   cause. It points to the line of the `then…` that failed.
//!
//! | Module | Contents |
//! | --- | --- |
//! | [`aggregate`] | `Account::given(…).when(…).then(…)` |
//! | [`projection`] | `Summary::given(…).then_document(…)` |
//! | [`history`] | events to test projections with: `Account::history(…)` |
//! | [`fixed`] | the time and the ids of a test |
//! | [`conformance`] | checks a store against each clause of its contract |
//! | [`adversary`] | checks a store under concurrent load |
//! | [`faults`] | a store that fails on request |
#![forbid(unsafe_code)]

pub mod adversary;
pub mod aggregate;
pub mod conformance;
pub mod faults;
pub mod fixed;
pub mod history;
pub mod projection;

mod id;
mod report;
mod step;
mod stored;
mod verdict;

pub use verdict::Verdict;

/// Everything that a test file needs besides the domain itself: `use cqrs_testkit::prelude::*;`.
///
/// The traits that add `given` and `history` are imported without their names, so that they cannot clash with names
/// of the domain.
pub mod prelude {
    pub use crate::aggregate::AggregateTest as _;
    pub use crate::fixed::nth_id;
    pub use crate::history::{AggregateHistory as _, History};
    pub use crate::projection::ProjectionTest as _;
}
