//! Return types of closures in tests.

/// The return type of a closure in a `then_…`: `bool`, or `()` if the closure asserts by itself.
///
/// Both `|account| account.balance == 5` and `|account| assert_eq!(account.balance, 5)` are accepted.
///
/// ```
/// # mod bank { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bank.rs")); } use bank::*;
/// # use cqrs_testkit::prelude::*;
/// # let ada = || Opened { owner: "Ada".into() };
/// Account::given(ada()).then_state(|account| account.balance == 0);
/// Account::given(ada()).then_state(|account| assert_eq!(account.balance, 0));
/// ```
#[diagnostic::on_unimplemented(
    message = "the closure of a `then_…` must return `bool` or `()`, not `{Self}`",
    label = "neither `bool` nor `()`",
    note = "compare with `==`, or use `assert_eq!(…)` in the closure"
)]
pub trait Verdict {
    /// Returns whether the check passed.
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
