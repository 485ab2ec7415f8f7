//! What a closure in a test may give back.

/// What the closure of a `then_…` gives back: `bool`, or `()` if it asserts by itself.
///
/// So both `|account| account.balance == 5` and `|account| assert_eq!(account.balance, 5)` do.
///
/// ```
/// # mod bank { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bank.rs")); } use bank::*;
/// # use cqrs_testkit::prelude::*;
/// # let ada = || Opened { owner: "Ada".into() };
/// Account::given(ada()).then_state(|account| account.balance == 0);
/// Account::given(ada()).then_state(|account| assert_eq!(account.balance, 0));
/// ```
#[diagnostic::on_unimplemented(
    message = "the closure of a `then_…` gives `bool` or `()`, not `{Self}`",
    label = "neither `bool` nor `()`",
    note = "compare something with `==`, or put `assert_eq!(…)` into the closure"
)]
pub trait Verdict {
    /// Whether what was asked holds.
    fn holds(self) -> bool;
}

impl Verdict for bool {
    fn holds(self) -> bool {
        self
    }
}

impl Verdict for () {
    fn holds(self) -> bool {
        true
    }
}
