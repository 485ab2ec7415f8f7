//! Tests for what is written with `cqrs`: given-when-then for domains, the
//! conformance suite for stores, and faults.
//!
//! Put it under `[dev-dependencies]`, and every aggregate and every projection that keeps documents has `given`:
//!
//! ```
//! # mod bank { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bank.rs")); } use bank::*;
//! use cqrs_testkit::prelude::*;
//!
//! // An aggregate: events, a command, and what comes of it.
//! Account::given([Opened { owner: "Ada".into() }])
//!     .when(Deposit { account: 7, cents: 500 })
//!     .then(Deposited { cents: 500 })
//!     .when(Withdraw { account: 7, cents: 501 })
//!     .then_error(AccountError::Overdraft { balance: 500 });
//! Account::given(()).when(Deposit { account: 7, cents: 1 }).then_missing();
//!
//! // A projection: what has happened to some streams, and the documents that come of it.
//! Summary::given(Account::history(7, (Opened { owner: "Ada".into() }, Deposited { cents: 500 })))
//!     .then_document(7, Summary { owner: "Ada".into(), balance: 500, postings: 1 });
//! ```
//!
//! - What is compared is what is stored: name, version and payload of events, the JSON of documents.
//!   They need neither `PartialEq` nor `Debug`.
//! - Each event and each document is stored and read back on the way, and a test fails when that
//!   changes it. A field that serde leaves out in both directions (`#[serde(skip)]`) cannot be seen
//!   so; but as states are folded from what was read back, it has its default there, as it would
//!   have in production.
//! - Time and ids are fixed: [`fixed::START`] and [`fixed::nth_id`].
//! - `async` handlers run to their end, in a plain `#[test]` as well as inside of a runtime.
//! - A failing test shows what was given and asked, expected and actual beside each other, and the
//!   likely cause; it points to the line of the `then…` that failed.
//!
//! | module | for |
//! | --- | --- |
//! | [`aggregate`] | `Account::given(…).when(…).then(…)` |
//! | [`projection`] | `Summary::given(…).then_document(…)` |
//! | [`history`] | what projections are fed with: `Account::history(…)` |
//! | [`fixed`] | time and ids of a test |
//! | [`conformance`] | whether a store keeps the contract |
//! | [`adversary`] | whether it still does when all happens at once |
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

/// All that a test file needs beside the domain itself: `use cqrs_testkit::prelude::*;`.
///
/// The traits that bring `given` and `history` come without their names, so that they cannot clash
/// with the domain's.
pub mod prelude {
    pub use crate::aggregate::AggregateTest as _;
    pub use crate::fixed::nth_id;
    pub use crate::history::{AggregateHistory as _, History};
    pub use crate::projection::ProjectionTest as _;
}
