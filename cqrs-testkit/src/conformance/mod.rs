//! The conformance suite: tries to break each clause of the contract that a store promises.
//!
//! The contract is in the documentation of [`cqrs_core::store`] and [`cqrs_core::read_store`]. Each
//! [`Rule`] of the suite quotes one clause of it and fails if the store does not keep it. A store
//! brings a [`Setup`], which gives an empty store as often as it is asked:
//!
//! ```
//! use std::sync::Arc;
//!
//! use cqrs_core::memory::MemoryStore;
//! use cqrs_core::store::BoxFuture;
//! use cqrs_testkit::conformance::{Fault, Setup, Stores};
//!
//! struct Memory;
//!
//! impl Setup for Memory {
//!     fn fresh(&self) -> BoxFuture<'_, Result<Stores, Fault>> {
//!         Box::pin(async {
//!             let store = Arc::new(MemoryStore::new());
//!             Ok(Stores::new(store.clone()).documents(store))
//!         })
//!     }
//! }
//!
//! // One test for each rule, in a file of `tests/`:
//! cqrs_testkit::conformance_tests!(Memory);
//!
//! // Or all of them in one test, which prints a line for each:
//! # fn one_test() {
//! cqrs_testkit::conformance::run(Memory);
//! # }
//! ```
//!
//! A rule that the store cannot be held to, because [`Capabilities`](cqrs_core::store::Capabilities)
//! says that it lacks something, is left out, and the line that says so is printed even if the test
//! passes.

mod append;
mod cancel;
mod collections;
mod diary;
mod documents;
mod entries;
mod facts;
mod guards;
mod inline;
mod keys;
mod kit;
mod limits;
mod model;
mod races;
mod reads;
mod records;
mod report;
mod reservations;
mod resets;
mod rewound;
mod rules;
mod snapshots;
mod strings;
mod wait;

use std::sync::Arc;
use std::time::Duration;

use cqrs_core::read_store::ReadStore;
use cqrs_core::store::{BoxFuture, EventStore};

pub use self::report::{Outcome, Report};
pub use self::rules::{RULES, Rule};

/// Whatever keeps a setup from giving a store.
pub type Fault = Box<dyn std::error::Error + Send + Sync>;

/// Gives the suite the stores that it examines.
pub trait Setup: Send + Sync + 'static {
    /// An empty log, and an empty read store if there is one. Nobody else may write to them.
    ///
    /// It is called once and more for each rule, some hundred times in all, so it should be quick;
    /// stores given earlier may still be in use.
    ///
    /// # Errors
    /// Whatever went wrong; each rule that needed the store fails with it.
    fn fresh(&self) -> BoxFuture<'_, Result<Stores, Fault>>;
}

/// A store as the suite examines it.
#[derive(Clone)]
pub struct Stores {
    pub(crate) log: Arc<dyn EventStore>,
    pub(crate) documents: Option<Arc<dyn ReadStore>>,
    pub(crate) again: Option<Again>,
    pub(crate) back_up: Option<BackUp>,
}

type BackUp = Arc<dyn Fn() -> BoxFuture<'static, Result<Backup, Fault>> + Send + Sync>;

type Restore = Box<dyn FnOnce() -> BoxFuture<'static, Result<(), Fault>> + Send>;

/// A backup of a store, and the way to restore it.
pub struct Backup(Restore);

impl Backup {
    /// Creates one that is restored by this function. It replaces what the store has, in place and under all
    /// handles that are open. The log keeps its id.
    pub fn new<F>(restore: F) -> Self
    where
        F: FnOnce() -> BoxFuture<'static, Result<(), Fault>> + Send + 'static,
    {
        Self(Box::new(restore))
    }

    pub(crate) async fn restore(self) -> Result<(), Fault> {
        (self.0)().await
    }
}

impl std::fmt::Debug for Backup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Backup")
    }
}

type Again = Arc<dyn Fn() -> BoxFuture<'static, Result<Stores, Fault>> + Send + Sync>;

impl Stores {
    /// A log, without a read store and without a second handle.
    #[must_use]
    pub fn new(log: Arc<dyn EventStore>) -> Self {
        Self { log, documents: None, again: None, back_up: None }
    }

    /// With a read store. If it is the very object that is the log, as an engine asks of a store for inline
    /// projections, the rules about these apply as well.
    #[must_use]
    pub fn documents(mut self, documents: Arc<dyn ReadStore>) -> Self {
        self.documents = Some(documents);
        self
    }

    /// Whether the log and the read store are one object.
    pub(crate) fn are_one(&self) -> bool {
        let log = Arc::as_ptr(&self.log);
        self.documents.as_ref().is_some_and(|documents| std::ptr::addr_eq(log, Arc::as_ptr(documents)))
    }

    /// With a way to open the same store once more, as another process would, while this handle is
    /// open.
    #[must_use]
    pub fn again<F>(mut self, open: F) -> Self
    where
        F: Fn() -> BoxFuture<'static, Result<Self, Fault>> + Send + Sync + 'static,
    {
        self.again = Some(Arc::new(open));
        self
    }

    /// With a way to back the store up and to restore it while handles are open: the log, and the read store if
    /// there is one. The rules about a log that was rewound require it; without it they are left out.
    #[must_use]
    pub fn backup<F>(mut self, back_up: F) -> Self
    where
        F: Fn() -> BoxFuture<'static, Result<Backup, Fault>> + Send + Sync + 'static,
    {
        self.back_up = Some(Arc::new(back_up));
        self
    }
}

impl std::fmt::Debug for Stores {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { log, documents, again, back_up } = self;
        let (again, backup) = (again.is_some(), back_up.is_some());
        write!(f, "Stores({log:?}, {documents:?}, again: {again}, backup: {backup})")
    }
}

/// The suite with a setup: which rules to examine, and how patiently.
#[derive(Clone)]
pub struct Suite {
    setup: Arc<dyn Setup>,
    patience: Duration,
    rules: Vec<&'static Rule>,
}

impl std::fmt::Debug for Suite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Suite({} rules, patience {:?})", self.rules.len(), self.patience)
    }
}

impl Suite {
    /// All rules.
    pub fn new(setup: impl Setup) -> Self {
        let rules = RULES.iter().collect();
        Self { setup: Arc::new(setup), patience: Duration::from_secs(10), rules }
    }

    /// How long the suite waits for something that has to come, such as a waiting reader's news,
    /// before it counts as hanging. Ten seconds if not said.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Only the rules that are wanted, of those that were left.
    #[must_use]
    pub fn only(mut self, wanted: impl Fn(&Rule) -> bool) -> Self {
        self.rules.retain(|rule| wanted(rule));
        self
    }

    /// Examines the store, and says how each rule went. It brings its own runtime, so it must not be
    /// called inside of one.
    pub fn report(&self) -> Report {
        report::examine(&self.setup, self.patience, &self.rules)
    }

    /// Examines the store and prints a line for each rule.
    ///
    /// # Panics
    /// If a rule failed, so that it can stand in a test; also if no rule was left to examine.
    pub fn run(&self) {
        let report = self.report();
        report.print();
        report.assert_passed();
    }
}

/// Examines a store by all rules and prints a line for each.
///
/// # Panics
/// If a rule failed.
pub fn run(setup: impl Setup) {
    Suite::new(setup).run();
}

/// Examines a store by one rule and prints how it went.
///
/// # Panics
/// If the rule failed, or there is none of this name.
pub fn run_rule(setup: impl Setup, name: &str) {
    Suite::new(setup).only(|rule| rule.name == name).run();
}
