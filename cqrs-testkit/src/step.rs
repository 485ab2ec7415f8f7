//! Where a test stands: it can only ask for results once it has asked for something to happen.

/// Nothing has happened yet but what was given.
///
/// ```compile_fail,E0599
/// # mod bank { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bank.rs")); } use bank::*;
/// # use cqrs_testkit::prelude::*;
/// // There is no command whose events could be compared.
/// Account::given([Opened { owner: "Ada".into() }]).then(Deposited { cents: 5 });
/// ```
#[derive(Clone, Copy, Debug)]
pub enum Given {}

/// Something has happened, and the test can look at what came of it.
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
