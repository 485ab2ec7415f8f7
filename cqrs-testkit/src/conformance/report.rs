//! Runs rules, and says how they went.

use std::fmt;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use super::Setup;
use super::kit::{Failure, World};
use super::rules::Rule;

/// After this long, a rule that is still running counts as hanging. Rules that wait for something
/// give up by themselves, far earlier.
const DEADLINE: Duration = Duration::from_secs(300);

/// How each rule went.
#[derive(Clone, Debug)]
#[must_use]
pub struct Report {
    outcomes: Vec<(&'static Rule, Outcome)>,
}

/// How one rule went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The store kept the clause.
    Passed,
    /// The store did not keep the clause, and how.
    Failed(String),
    /// The rule was left out, and why.
    Skipped(String),
}

impl Report {
    /// Each rule with its outcome, in the order of the suite.
    pub fn outcomes(&self) -> impl Iterator<Item = (&'static Rule, &Outcome)> {
        self.outcomes.iter().map(|(rule, outcome)| (*rule, outcome))
    }

    /// The names of the rules that failed.
    #[must_use]
    pub fn failed(&self) -> Vec<&'static str> {
        self.names(|outcome| matches!(outcome, Outcome::Failed(_)))
    }

    /// The names of the rules that were left out.
    #[must_use]
    pub fn skipped(&self) -> Vec<&'static str> {
        self.names(|outcome| matches!(outcome, Outcome::Skipped(_)))
    }

    fn names(&self, wanted: impl Fn(&Outcome) -> bool) -> Vec<&'static str> {
        self.outcomes().filter(|(_, outcome)| wanted(outcome)).map(|(rule, _)| rule.name).collect()
    }

    /// Prints a line for each rule. What was left out goes past the test harness, which keeps the
    /// output of passing tests to itself.
    #[allow(clippy::print_stdout, reason = "the lines are for whoever runs the test")]
    pub(super) fn print(&self) {
        for (rule, outcome) in &self.outcomes {
            let line = Line(rule, outcome);
            match outcome {
                // Nobody is there to be told that standard error is closed.
                Outcome::Skipped(_) => _ = writeln!(std::io::stderr(), "{line}"),
                Outcome::Passed | Outcome::Failed(_) => println!("{line}"),
            }
        }
    }

    #[allow(clippy::panic, reason = "this is how a test fails")]
    pub(super) fn assert_passed(&self) {
        if self.outcomes.is_empty() {
            panic!("the conformance suite has no such rule");
        }
        let failed = self.failed().len();
        if failed > 0 {
            panic!("{failed} of {} rules failed:\n{self}", self.outcomes.len());
        }
    }
}

impl fmt::Display for Report {
    /// The rules that did not pass, a line each.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rest = self.outcomes.iter().filter(|(_, outcome)| *outcome != Outcome::Passed);
        rest.into_iter().try_for_each(|(rule, outcome)| writeln!(f, "{}", Line(rule, outcome)))
    }
}

struct Line<'a>(&'a Rule, &'a Outcome);

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(Rule { topic, name, clause, .. }, outcome) = self;
        match outcome {
            Outcome::Passed => write!(f, "ok       {topic}: {name}"),
            Outcome::Skipped(why) => write!(f, "skipped  {topic}: {name}, because {why}"),
            Outcome::Failed(how) => {
                write!(f, "FAILED   {topic}: {name}\n         contract: {clause}\n         {how}")
            }
        }
    }
}

#[allow(clippy::panic, reason = "without a runtime there is no test")]
pub(super) fn examine(setup: &Arc<dyn Setup>, patience: Duration, rules: &[&'static Rule]) -> Report {
    // Several threads even on a small machine, so that races are races.
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = match builder.worker_threads(4).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => panic!("the suite's runtime cannot be started: {error}"),
    };
    let one = |rule: &&'static Rule| (*rule, runtime.block_on(examine_one(setup, patience, rule)));
    let outcomes = rules.iter().map(one).collect();
    // A rule that hangs has left its tasks behind.
    runtime.shutdown_background();
    Report { outcomes }
}

async fn examine_one(setup: &Arc<dyn Setup>, patience: Duration, rule: &'static Rule) -> Outcome {
    let setup = Arc::clone(setup);
    // As a task of its own, so that a store that panics fails the rule and not the suite.
    let task = tokio::spawn(async move {
        let world = World::new(setup, patience).await?;
        world.grants(rule.needs)?;
        (rule.check)(world).await
    });
    match tokio::time::timeout(DEADLINE, task).await {
        Ok(Ok(Ok(()))) => Outcome::Passed,
        Ok(Ok(Err(Failure::Skip(why)))) => Outcome::Skipped(why),
        Ok(Ok(Err(Failure::Fail(how)))) => Outcome::Failed(how),
        Ok(Err(panicked)) => Outcome::Failed(format!("it panicked: {panicked}")),
        Err(_) => Outcome::Failed(format!("it was still running after {DEADLINE:?}")),
    }
}
