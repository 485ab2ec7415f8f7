//! The step of a test, as a type: it can check results only after a command or another action.

/// The test has given events, and has not done anything yet.
///
/// ```compile_fail,E0599
/// # mod bank { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bank.rs")); } use bank::*;
/// # use cqrs_testkit::prelude::*;
// No command was run, so there are no new events to compare.
/// Account::given([Opened { owner: "Ada".into() }]).then(Deposited { cents: 5 });
/// ```
#[derive(Clone, Copy, Debug)]
pub enum Given {}

/// The test has run something, and can check the result.
///
/// ```
/// # mod bank { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bank.rs")); } use bank::*;
/// # use cqrs_testkit::prelude::*;
/// use cqrs_testkit::aggregate::{AggregateScenario, When};
///
/// let test: AggregateScenario<Account, When> =
///     Account::given([Opened { owner: "Ada".into() }]).when(Deposit { account: 7, cents: 5 });
/// test.then(Deposited { cents: 5 });
/// ```
#[derive(Clone, Copy, Debug)]
pub enum When {}
