//! Checks of the outcome of a command.

use cqrs_core::aggregate::{IntoEvents, Refusal};
use cqrs_core::event::RecordedEvent;
use cqrs_core::{Aggregate, Metadata};

use super::explain::{debug_lines, domain, lines, outcome_reason, why_accepted};
use super::world::{Accepted, Outcome};
use super::{AggregateScenario, When};
use crate::report::compare::{Comparison, event_lines, names};
use crate::report::leaves::Leaves;
use crate::report::table::Table;
use crate::report::{Checked, Failure};
use crate::stored::{Image, images};
use crate::verdict::Verdict;

/// Checks of the command's outcome. Each returns the test, so that you can chain several checks and a further
/// [`when`](AggregateScenario::when).
///
/// Events are compared in their stored form: by name, schema version, and payload. They need neither `PartialEq` nor
/// `Debug`.
impl<A: Aggregate> AggregateScenario<A, When> {
    /// Checks that the command produced exactly these events, in this order.
    ///
    /// ```
    /// # mod bank { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bank.rs")); } use bank::*;
    /// # use cqrs_testkit::prelude::*;
    /// # let ada = || Opened { owner: "Ada".into() };
    /// Account::given((ada(), Deposited { cents: 5000 }))
    ///     .when(Withdraw { account: 7, cents: 1000 })
    ///     .then((Withdrawn { cents: 1000 }, FeeCharged { cents: 1 }));
    /// ```
    ///
    /// # Panics
    /// If it did not.
    #[track_caller]
    pub fn then(self, expected: impl IntoEvents<A>) -> Self {
        self.checked(|test| test.check_exact(expected))
    }

    /// Checks that the command produced at least these events, in any order.
    ///
    /// ```
    /// # mod bank { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bank.rs")); } use bank::*;
    /// # use cqrs_testkit::prelude::*;
    /// # let ada = || Opened { owner: "Ada".into() };
    /// Account::given((ada(), Deposited { cents: 5000 }))
    ///     .when(Withdraw { account: 7, cents: 1000 })
    ///     .then_contains(FeeCharged { cents: 1 });
    /// ```
    ///
    /// # Panics
    /// If it did not.
    #[track_caller]
    pub fn then_contains(self, expected: impl IntoEvents<A>) -> Self {
        self.checked(|test| test.check_contains(expected))
    }

    /// Checks that the command produced these events in this order, possibly with others between them.
    ///
    /// ```
    /// # mod bank { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bank.rs")); } use bank::*;
    /// # use cqrs_testkit::prelude::*;
    /// # let ada = || Opened { owner: "Ada".into() };
    /// Account::given((ada(), Deposited { cents: 5000 }))
    ///     .when(Withdraw { account: 7, cents: 1000 })
    ///     .then_sequence((Withdrawn { cents: 1000 }, FeeCharged { cents: 1 }));
    /// ```
    ///
    /// # Panics
    /// If it did not.
    #[track_caller]
    pub fn then_sequence(self, expected: impl IntoEvents<A>) -> Self {
        self.checked(|test| test.check_sequence(expected))
    }

    /// Checks that the command produced these events first, possibly followed by others.
    ///
    /// ```
    /// # mod bank { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bank.rs")); } use bank::*;
    /// # use cqrs_testkit::prelude::*;
    /// # let ada = || Opened { owner: "Ada".into() };
    /// Account::given((ada(), Deposited { cents: 5000 }))
    ///     .when(Withdraw { account: 7, cents: 1000 })
    ///     .then_starts_with(Withdrawn { cents: 1000 });
    /// ```
    ///
    /// # Panics
    /// If it did not.
    #[track_caller]
    pub fn then_starts_with(self, expected: impl IntoEvents<A>) -> Self {
        self.checked(|test| test.check_start(expected))
    }

    /// Checks the events of an accepted command with a closure, which returns `bool` or asserts.
    ///
    /// ```
    /// # mod bank { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bank.rs")); } use bank::*;
    /// # use cqrs_testkit::prelude::*;
    /// # let ada = || Opened { owner: "Ada".into() };
    /// Account::given((ada(), Deposited { cents: 5000 }))
    ///     .when(Withdraw { account: 7, cents: 1000 })
    ///     .then_matches(|events| matches!(events, [AccountEvent::Withdrawn(_), AccountEvent::FeeCharged(_)]));
    /// ```
    ///
    /// # Panics
    /// If the command was refused, or the check fails.
    #[track_caller]
    pub fn then_matches<V: Verdict>(self, check: impl FnOnce(&[A::Event]) -> V) -> Self {
        self.checked(|test| {
            let accepted = test.accepted("did not lead to events", &["(events that match)"])?;
            test.check_verdict(check(&accepted.events), "then_matches")
        })
    }

    /// Checks that the command was accepted without events.
    ///
    /// ```
    /// # mod bank { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bank.rs")); } use bank::*;
    /// # use cqrs_testkit::prelude::*;
    /// # let ada = || Opened { owner: "Ada".into() };
    /// Account::given(ada()).when(Deposit { account: 7, cents: 0 }).then_nothing();
    /// ```
    ///
    /// # Panics
    /// If it was refused, or produced events.
    #[track_caller]
    pub fn then_nothing(self) -> Self {
        self.checked(|test| test.check_exact(()))
    }

    /// Checks that the command was accepted, with any events.
    ///
    /// ```
    /// # mod bank { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bank.rs")); } use bank::*;
    /// # use cqrs_testkit::prelude::*;
    /// # let ada = || Opened { owner: "Ada".into() };
    /// Account::given(ada()).when(Deposit { account: 7, cents: 5 }).then_accepted();
    /// ```
    ///
    /// # Panics
    /// If it was refused.
    #[track_caller]
    pub fn then_accepted(self) -> Self {
        self.checked(|test| test.accepted("was not accepted", &["(accepted)"]).map(|_| ()))
    }

    /// Checks that the handler refused with this error.
    ///
    /// For an error without `PartialEq`, use [`then_error_matches`](Self::then_error_matches) or
    /// [`then_error_text`](Self::then_error_text).
    ///
    /// ```
    /// # mod bank { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bank.rs")); } use bank::*;
    /// # use cqrs_testkit::prelude::*;
    /// # let ada = || Opened { owner: "Ada".into() };
    /// Account::given(ada())
    ///     .when(Withdraw { account: 7, cents: 1 })
    ///     .then_error(AccountError::Overdraft { balance: 0 });
    /// ```
    ///
    /// # Panics
    /// If it did not.
    #[track_caller]
    #[expect(clippy::needless_pass_by_value, reason = "the expected error is written where it is used")]
    pub fn then_error(self, expected: A::Error) -> Self
    where
        A::Error: PartialEq,
    {
        self.checked(|test| test.check_error(&expected))
    }

    /// Checks the error that the handler refused with, by a closure that returns `bool` or asserts.
    ///
    /// ```
    /// # mod bank { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bank.rs")); } use bank::*;
    /// # use cqrs_testkit::prelude::*;
    /// # let ada = || Opened { owner: "Ada".into() };
    /// Account::given(ada())
    ///     .when(Withdraw { account: 7, cents: 1 })
    ///     .then_error_matches(|error| matches!(error, AccountError::Overdraft { .. }));
    /// ```
    ///
    /// # Panics
    /// If the handler did not refuse, or the check fails.
    #[track_caller]
    pub fn then_error_matches<V: Verdict>(self, check: impl FnOnce(&A::Error) -> V) -> Self {
        self.checked(|test| {
            let error = test.refused(&["(an error that matches)".to_owned()])?;
            test.check_verdict(check(error), "then_error_matches")
        })
    }

    /// Checks that the handler refused with an error that displays as this text.
    ///
    /// ```
    /// # mod bank { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bank.rs")); } use bank::*;
    /// # use cqrs_testkit::prelude::*;
    /// # let ada = || Opened { owner: "Ada".into() };
    /// Account::given(ada())
    ///     .when(Withdraw { account: 7, cents: 1 })
    ///     .then_error_text("there are only 0 cents");
    /// ```
    ///
    /// # Panics
    /// If it did not.
    #[track_caller]
    pub fn then_error_text(self, expected: &str) -> Self {
        self.checked(|test| test.check_error_text(expected))
    }

    /// Checks that the command was refused because the aggregate does not exist (its handler takes `&self`).
    ///
    /// ```
    /// # mod bank { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bank.rs")); } use bank::*;
    /// # use cqrs_testkit::prelude::*;
    /// # let ada = || Opened { owner: "Ada".into() };
    /// Account::given(()).when(Deposit { account: 7, cents: 5 }).then_missing();
    /// ```
    ///
    /// # Panics
    /// If the outcome is a different one.
    #[track_caller]
    pub fn then_missing(self) -> Self {
        self.checked(|test| match test.outcome() {
            Outcome::Refused(Refusal::Missing) => Ok(()),
            _ => {
                Err(test.wrong_outcome("was not refused as missing", "(refused: does not exist)", Some(true)))
            }
        })
    }

    /// Checks that the command was refused because the aggregate already exists (its handler has no `self`).
    ///
    /// ```
    /// # mod bank { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bank.rs")); } use bank::*;
    /// # use cqrs_testkit::prelude::*;
    /// # let ada = || Opened { owner: "Ada".into() };
    /// Account::given(ada()).when(Open { account: 7, owner: "Ada".into() }).then_exists();
    /// ```
    ///
    /// # Panics
    /// If the outcome is a different one.
    #[track_caller]
    pub fn then_exists(self) -> Self {
        self.checked(|test| match test.outcome() {
            Outcome::Refused(Refusal::Exists) => Ok(()),
            _ => Err(test.wrong_outcome(
                "was not refused as existing already",
                "(refused: exists already)",
                Some(false),
            )),
        })
    }

    /// Checks that the command was refused because it expects another version of the stream.
    ///
    /// ```
    /// use cqrs::Version;
    /// use cqrs::prelude::*;
    /// use cqrs_testkit::prelude::*;
    ///
    /// #[derive(Event, Serialize, Deserialize)]
    /// struct Renamed;
    ///
    /// #[derive(Command)]
    /// struct Rename {
    ///     #[id]
    ///     page: u64,
    ///     #[expected_version]
    ///     seen: Version,
    /// }
    ///
    /// #[derive(Default)]
    /// struct Page;
    ///
    /// #[aggregate(id = u64, error = std::convert::Infallible)]
    /// impl Page {
    ///     #[handle]
    ///     fn rename(&self, _: Rename) -> Renamed {
    ///         Renamed
    ///     }
    ///     #[apply]
    ///     fn renamed(&mut self, _: &Renamed) {}
    /// }
    ///
    /// let rename = || Rename { page: 1, seen: Version::new(1) };
    /// Page::given([Renamed]).when(rename()).then(Renamed).when(rename()).then_conflict();
    /// ```
    ///
    /// # Panics
    /// If the outcome is a different one.
    #[track_caller]
    pub fn then_conflict(self) -> Self {
        self.checked(|test| match test.outcome() {
            Outcome::Conflict { .. } => Ok(()),
            _ => {
                Err(test.wrong_outcome("was not refused as a conflict", "(conflict: another version)", None))
            }
        })
    }

    /// Checks that all events carry this metadata.
    ///
    /// ```
    /// # mod bank { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bank.rs")); } use bank::*;
    /// # use cqrs_testkit::prelude::*;
    /// # let ada = || Opened { owner: "Ada".into() };
    /// use cqrs::Metadata;
    ///
    /// Account::given(ada())
    ///     .with_metadata(Metadata::new().actor("teller"))
    ///     .when(Deposit { account: 7, cents: 5 })
    ///     .then_metadata(Metadata::new().actor("teller"));
    /// ```
    ///
    /// # Panics
    /// If one does not, or the command was not accepted.
    #[track_caller]
    #[expect(clippy::needless_pass_by_value, reason = "the expected metadata is written where it is used")]
    pub fn then_metadata(self, expected: Metadata) -> Self {
        self.checked(|test| test.check_metadata(&expected))
    }

    /// Checks the events as the log would return them, with tags, time, versions, and metadata. The closure returns
    /// `bool` or asserts.
    ///
    /// ```
    /// # mod bank { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bank.rs")); } use bank::*;
    /// # use cqrs_testkit::prelude::*;
    /// # let ada = || Opened { owner: "Ada".into() };
    /// Account::given(ada())
    ///     .when(Deposit { account: 7, cents: 5 })
    ///     .then_recorded(|events| assert_eq!(events[0].meta.version.get(), 2));
    /// ```
    ///
    /// # Panics
    /// If the command was refused, or the check fails.
    #[track_caller]
    pub fn then_recorded<V: Verdict>(self, check: impl FnOnce(&[RecordedEvent]) -> V) -> Self {
        self.checked(|test| {
            let accepted = test.accepted("did not lead to events", &["(events that match)"])?;
            test.check_verdict(check(&accepted.recorded), "then_recorded")
        })
    }
}

impl<A: Aggregate> AggregateScenario<A, When> {
    #[track_caller]
    fn checked(self, check: impl FnOnce(&Self) -> Checked) -> Self {
        match check(&self) {
            Ok(()) => self,
            Err(failure) => failure.raise(),
        }
    }

    fn outcome(&self) -> &Outcome<A> {
        // Only `when` creates this phase, and it sets an outcome. The fallback would make the mistake visible.
        self.outcome.as_ref().unwrap_or(&Outcome::Refused(Refusal::Missing))
    }

    fn failure(&self, what: &str, with_result: bool) -> Failure {
        Failure::new(format!("`{}` {what}", self.world.command())).story(self.world.story(with_result))
    }

    fn why(&self) -> String {
        outcome_reason(&self.world, self.outcome(), self.world.command())
    }

    /// Returns the accepted events, or a failure with the expected lines next to the actual outcome.
    fn accepted<T: AsRef<str>>(&self, title: &str, wanted: &[T]) -> Result<&Accepted<A>, Failure> {
        match self.outcome() {
            Outcome::Accepted(accepted) => Ok(accepted),
            other => {
                let wanted: Vec<String> = wanted.iter().map(|line| line.as_ref().to_owned()).collect();
                let table = Table::new("expected", "actual").opposed(&wanted, &lines(other));
                Err(self.failure(title, false).table(table).cause(self.why()))
            }
        }
    }

    fn refused(&self, wanted: &[String]) -> Result<&A::Error, Failure> {
        match self.outcome() {
            Outcome::Refused(Refusal::Domain(error)) => Ok(error),
            other => {
                let table = Table::new("expected", "actual").opposed(wanted, &lines(other));
                let cause = match other {
                    Outcome::Accepted(_) => format!("expected an error, but {}", self.why()),
                    _ => format!("it was refused before its handler ran: {}", self.why()),
                };
                Err(self.failure("was not refused with the expected error", false).table(table).cause(cause))
            }
        }
    }

    /// Returns a failure for an outcome of another kind than the expected one.
    fn wrong_outcome(&self, title: &str, wanted: &str, wants_missing: Option<bool>) -> Failure {
        let table = Table::new("expected", "actual").opposed(&[wanted.to_owned()], &lines(self.outcome()));
        let failure = self.failure(title, false).table(table);
        let why = wants_missing.and_then(|missing| why_accepted(&self.world, self.outcome(), missing));
        match why {
            Some(why) => failure.cause(why),
            None => failure.cause(self.why()),
        }
    }

    fn check_verdict(&self, verdict: impl Verdict, method: &str) -> Checked {
        if verdict.holds() {
            return Ok(());
        }
        Err(self
            .failure(&format!("did not pass the check of `{method}`"), true)
            .cause("the closure returned `false`")
            .note("use `assert_eq!(…)` in the closure to see the values"))
    }

    /// Returns the expected events in their stored form, and the actual ones.
    fn expected_and_accepted(
        &self,
        expected: impl IntoEvents<A>,
    ) -> Result<(Vec<Image>, &Accepted<A>), Failure> {
        let mut events = Vec::new();
        expected.into_events(&mut events);
        let expected = images(&events, &|at| format!("expected event {}", at + 1))?;
        let wanted = if expected.is_empty() { vec!["(no event)".to_owned()] } else { event_lines(&expected) };
        let accepted = self.accepted("did not lead to the expected events", &wanted)?;
        Ok((expected, accepted))
    }

    fn compared<'a>(&'a self, expected: &'a [Image], accepted: &'a Accepted<A>) -> Comparison<'a> {
        Comparison { expected, actual: &accepted.images, ignored: &self.ignored }
    }

    fn event_failure(&self, title: &str, table: Table, cause: String, compared: &Comparison<'_>) -> Checked {
        Err(self.failure(title, false).table(table).cause(cause).notes(compared.unused_notes()))
    }

    fn check_exact(&self, expected: impl IntoEvents<A>) -> Checked {
        let (expected, accepted) = self.expected_and_accepted(expected)?;
        let compared = self.compared(&expected, accepted);
        if compared.is_same() {
            return Ok(());
        }
        self.event_failure(
            "did not lead to the expected events",
            compared.table(),
            compared.cause(),
            &compared,
        )
    }

    fn check_contains(&self, expected: impl IntoEvents<A>) -> Checked {
        let (expected, accepted) = self.expected_and_accepted(expected)?;
        let compared = self.compared(&expected, accepted);
        let missing: Vec<Image> = compared.missing().iter().map(|&at| expected[at].clone()).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let cause = format!("not among the returned events: {}", names(&missing));
        let table = compared.table_in_any_order();
        self.event_failure("did not lead to all of the expected events", table, cause, &compared)
    }

    fn check_sequence(&self, expected: impl IntoEvents<A>) -> Checked {
        let (expected, accepted) = self.expected_and_accepted(expected)?;
        let compared = self.compared(&expected, accepted);
        let Some(at) = compared.first_out_of_sequence() else { return Ok(()) };
        let name = &expected[at].name;
        let cause = match (compared.missing().contains(&at), at) {
            (true, _) if compared.expected_before(at) => format!("`{name}` was returned less often"),
            (true, _) | (_, 0) => format!("`{name}` is not among the returned events"),
            (false, _) => format!("`{name}` was returned, but not after `{}`", expected[at - 1].name),
        };
        let table = compared.table_of_sequence();
        self.event_failure("did not lead to the expected sequence of events", table, cause, &compared)
    }

    fn check_start(&self, expected: impl IntoEvents<A>) -> Checked {
        let (expected, accepted) = self.expected_and_accepted(expected)?;
        let compared = self.compared(&expected, accepted);
        if compared.matching() == expected.len() {
            return Ok(());
        }
        let start = compared.start();
        let table = compared.table_of_start();
        self.event_failure("did not begin with the expected events", table, start.cause(), &compared)
    }

    fn check_error(&self, expected: &A::Error) -> Checked
    where
        A::Error: PartialEq,
    {
        let actual = self.refused(&debug_lines(expected))?;
        if actual == expected {
            return Ok(());
        }
        let (left, right) = (debug_lines(expected), debug_lines(actual));
        let cause = if left == right {
            "both errors print the same, but their `PartialEq` says that they differ".to_owned()
        } else {
            format!("the handler refused with {}", domain(actual))
        };
        let table = Table::new("expected", "actual").lines(&left, &right);
        Err(self.failure("was refused with another error", false).table(table).cause(cause))
    }

    fn check_error_text(&self, expected: &str) -> Checked {
        let left: Vec<String> = expected.lines().map(str::to_owned).collect();
        let actual = self.refused(&left)?;
        let text = actual.to_string();
        if text == expected {
            return Ok(());
        }
        let right: Vec<String> = text.lines().map(str::to_owned).collect();
        let table = Table::new("expected", "actual").lines(&left, &right);
        let cause = format!("the handler refused with {}", domain(actual));
        Err(self.failure("was refused with another text", false).table(table).cause(cause))
    }

    fn check_metadata(&self, expected: &Metadata) -> Checked {
        let accepted = self.accepted("did not lead to events", &["(events with this metadata)"])?;
        for event in &accepted.recorded {
            if *event.meta.metadata != *expected {
                return Err(self.other_metadata(expected, &event.meta.metadata));
            }
        }
        if accepted.recorded.is_empty() {
            return Err(self.failure("produced no event that could carry metadata", true));
        }
        Ok(())
    }

    fn other_metadata(&self, expected: &Metadata, actual: &Metadata) -> Failure {
        let table =
            Table::new("expected", "actual").lines(&metadata_lines(expected), &metadata_lines(actual));
        self.failure("produced events with other metadata", true)
            .table(table)
            .cause("events carry the metadata that `.with_metadata(…)` sets before `.when(…)`")
    }
}

fn metadata_lines(metadata: &Metadata) -> Vec<String> {
    let entries = serde_json::json!({
        "correlation": metadata.correlation,
        "causation": metadata.causation,
        "actor": metadata.actor,
        "entries": metadata.entries,
    });
    Leaves::of_json(&entries).0.iter().map(|leaf| leaf.path.before(&leaf.text)).collect()
}
