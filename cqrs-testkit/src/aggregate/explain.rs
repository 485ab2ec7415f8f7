//! Describes the outcome of a command.

use std::fmt;

use cqrs_core::aggregate::Refusal;
use cqrs_core::context::{MissingService, Services};
use cqrs_core::{Aggregate, Version};

use super::world::{Outcome, World};
use crate::report::compare::{event_lines, names};
use crate::report::leaves::clip;
use crate::report::{Failure, chain, count};
use crate::stored::Image;

/// Maximum number of characters of a value on one line.
const LINE: usize = 50;
/// Maximum number of characters of a printed refusal.
const LIMIT: usize = 240;

/// Returns the outcome as lines of the story.
pub(crate) fn results<A: Aggregate>(outcome: &Outcome<A>) -> Vec<String> {
    match outcome {
        Outcome::Accepted(accepted) if accepted.images.is_empty() => vec!["no event".to_owned()],
        Outcome::Accepted(accepted) => accepted.images.iter().map(Image::inline).collect(),
        Outcome::Refused(Refusal::Domain(error)) => vec![format!("refused: {}", domain(error))],
        Outcome::Refused(Refusal::Exists) => vec!["refused: exists already".to_owned()],
        Outcome::Refused(Refusal::Missing) => vec!["refused: does not exist".to_owned()],
        Outcome::Refused(Refusal::NoService(missing)) => vec![format!("failed: {missing}")],
        Outcome::Conflict { .. } => vec!["conflict: another version".to_owned()],
    }
}

/// Returns the outcome as a sentence with the reason.
pub(crate) fn outcome_reason<A: Aggregate>(world: &World<A>, outcome: &Outcome<A>, command: &str) -> String {
    match outcome {
        Outcome::Accepted(accepted) if accepted.images.is_empty() => {
            "the handler accepted the command and returned no event".to_owned()
        }
        Outcome::Accepted(accepted) => {
            format!("the handler accepted the command and returned {}", names(&accepted.images))
        }
        Outcome::Refused(Refusal::Domain(error)) => format!("the handler refused with {}", domain(error)),
        Outcome::Refused(Refusal::Exists) => exists(world, command),
        Outcome::Refused(Refusal::Missing) => missing(world, command),
        Outcome::Refused(Refusal::NoService(missing)) => missing.to_string(),
        Outcome::Conflict { expected, actual } => conflict(world, command, *expected, *actual),
    }
}

/// Returns the outcome as lines of a table, where events were expected.
pub(crate) fn lines<A: Aggregate>(outcome: &Outcome<A>) -> Vec<String> {
    match outcome {
        Outcome::Accepted(accepted) => event_lines(&accepted.images),
        Outcome::Refused(Refusal::Domain(error)) => {
            let mut lines = vec!["(refused)".to_owned()];
            lines.extend(debug_lines(error));
            lines
        }
        _ => results(outcome).into_iter().map(|line| format!("({line})")).collect(),
    }
}

/// Explains why a command was accepted, when the test expected it to be refused because the aggregate is missing or
/// exists.
pub(crate) fn why_accepted<A: Aggregate>(
    world: &World<A>,
    outcome: &Outcome<A>,
    wants_missing: bool,
) -> Option<String> {
    let Outcome::Accepted(accepted) = outcome else { return None };
    let before = events_of(world).saturating_sub(accepted.images.len());
    Some(match (wants_missing, before) {
        (true, _) if A::ALWAYS_EXISTS => {
            format!("no `#[apply]` of `{}` creates it, so it always exists", A::NAME)
        }
        (true, 0) => "its handler does not take `&self`, so it does not require an existing aggregate".to_owned(),
        (true, n) => format!("{} exists: {} came before", world.subject(), count(n, "event")),
        (false, 0) => "no event came before, so nothing exists yet; add an event with `given`".to_owned(),
        (false, _) => {
            "its handler takes `&self` or `Option<&Self>`; only a handler without `self` requires that nothing exists"
                .to_owned()
        }
    })
}

fn events_of<A: Aggregate>(world: &World<A>) -> usize {
    usize::try_from(world.version.get()).unwrap_or(usize::MAX)
}

/// Formats an error of the domain: `` `Overdraft { balance: 0 }` (the balance is 0) ``.
pub(crate) fn domain(error: &(impl std::error::Error + 'static)) -> String {
    let (debug, display) = (clip(&format!("{error:?}"), LIMIT), clip(&chain(error), LIMIT));
    if debug == display { format!("`{debug}`") } else { format!("`{debug}` ({display})") }
}

fn missing<A: Aggregate>(world: &World<A>, command: &str) -> String {
    format!(
        "{} does not exist: the handler of `{command}` takes `&self`; add the event that creates it with `given`",
        world.subject()
    )
}

fn exists<A: Aggregate>(world: &World<A>, command: &str) -> String {
    format!(
        "{} already exists: the handler of `{command}` has no `self` and so creates it, but {} came before",
        world.subject(),
        count(events_of(world), "event")
    )
}

fn conflict<A: Aggregate>(world: &World<A>, command: &str, expected: Version, actual: Version) -> String {
    format!(
        "`{command}` expects version {expected} of {}, which is at version {actual}; each given or returned event adds 1",
        world.subject()
    )
}

pub(crate) fn no_service(command: &str, missing: MissingService, given: &Services) -> Failure {
    let service = missing.service();
    let of = match service.strip_prefix("dyn ") {
        Some(interface) => format!(
            "`.service::<dyn {0}>(Arc::new(…))` with a test double that implements `{0}`",
            short(interface)
        ),
        None => format!("`.service(Arc::new({} …))`", short(service)),
    };
    let failure = Failure::new(format!("the handler of `{command}` needs the service `{service}`"))
        .cause(format!("the test does not provide it: before `.when(…)`, add {of}"));
    // A test double that is registered under its own type is not found under the trait that it implements.
    if given.is_empty() { failure } else { failure.note(format!("given: {given:?}")) }
}

/// Returns the name of a type without its module path.
fn short(name: &str) -> &str {
    name.rsplit("::").next().unwrap_or(name)
}

/// Returns the `Debug` output of a value as lines, or as one line if it is short.
pub(crate) fn debug_lines(value: &dyn fmt::Debug) -> Vec<String> {
    let line = format!("{value:?}");
    if line.chars().count() <= LINE {
        return vec![line];
    }
    format!("{value:#?}").lines().map(str::to_owned).collect()
}
