//! What became of a command, in words.

use std::fmt;

use cqrs_core::aggregate::Refusal;
use cqrs_core::context::{MissingService, Services};
use cqrs_core::{Aggregate, Version};

use super::world::{Outcome, World};
use crate::report::compare::{event_lines, names};
use crate::report::leaves::clip;
use crate::report::{Failure, chain, count};
use crate::stored::Image;

/// A value is shown on one line up to this many characters.
const LINE: usize = 50;
/// A refusal is shown up to this many characters.
const LIMIT: usize = 240;

/// What a command came to, a line each, as the story tells it.
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

/// What a command came to, in a sentence with the reason.
pub(crate) fn came_to<A: Aggregate>(world: &World<A>, outcome: &Outcome<A>, command: &str) -> String {
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

/// What a command came to instead of events, as the lines of a table.
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

/// Why something exists, although the test says that it should not, or the other way round.
pub(crate) fn why_accepted<A: Aggregate>(
    world: &World<A>,
    outcome: &Outcome<A>,
    wants_missing: bool,
) -> Option<String> {
    let Outcome::Accepted(accepted) = outcome else { return None };
    let before = events_of(world).saturating_sub(accepted.images.len());
    Some(match (wants_missing, before) {
        (true, _) if A::ALWAYS_EXISTS => {
            format!("no `#[apply]` of `{}` creates, so it exists from the start", A::NAME)
        }
        (true, 0) => "its handler does not take `&self`, so it does not ask for something that exists".to_owned(),
        (true, n) => format!("{} exists: {} came before", world.subject(), count(n, "event")),
        (false, 0) => "no event came before, so nothing exists already: give it with `given`".to_owned(),
        (false, _) => {
            "its handler takes `&self` or `Option<&Self>`; only a handler without `self` asks that nothing exists"
                .to_owned()
        }
    })
}

fn events_of<A: Aggregate>(world: &World<A>) -> usize {
    usize::try_from(world.version.get()).unwrap_or(usize::MAX)
}

/// An error of the domain: `` `Overdraft { balance: 0 }` (the balance is 0) ``.
pub(crate) fn domain(error: &(impl std::error::Error + 'static)) -> String {
    let (debug, display) = (clip(&format!("{error:?}"), LIMIT), clip(&chain(error), LIMIT));
    if debug == display { format!("`{debug}`") } else { format!("`{debug}` ({display})") }
}

fn missing<A: Aggregate>(world: &World<A>, command: &str) -> String {
    format!(
        "{} does not exist: the handler of `{command}` takes `&self`, so give it its first event with `given`",
        world.subject()
    )
}

fn exists<A: Aggregate>(world: &World<A>, command: &str) -> String {
    format!(
        "{} exists already: the handler of `{command}` has no `self` and so creates, but {} came before",
        world.subject(),
        count(events_of(world), "event")
    )
}

fn conflict<A: Aggregate>(world: &World<A>, command: &str, expected: Version, actual: Version) -> String {
    format!(
        "`{command}` expects version {expected} of {}, which is at version {actual}: each event given or returned counts one",
        world.subject()
    )
}

pub(crate) fn no_service(command: &str, missing: MissingService, given: &Services) -> Failure {
    let service = missing.service();
    let of = match service.strip_prefix("dyn ") {
        Some(interface) => format!(
            "`.service::<dyn {0}>(Arc::new(…))` with a stand-in that implements `{0}`",
            short(interface)
        ),
        None => format!("`.service(Arc::new({} …))`", short(service)),
    };
    let failure = Failure::new(format!("the handler of `{command}` needs the service `{service}`"))
        .cause(format!("the test does not give it: before `.when(…)`, add {of}"));
    // A stand-in given as itself is not found as the interface that it implements.
    if given.is_empty() { failure } else { failure.note(format!("given: {given:?}")) }
}

/// The name of a type without its module.
fn short(name: &str) -> &str {
    name.rsplit("::").next().unwrap_or(name)
}

/// The lines of a value's `Debug`: one, if that is short.
pub(crate) fn debug_lines(value: &dyn fmt::Debug) -> Vec<String> {
    let line = format!("{value:?}");
    if line.chars().count() <= LINE {
        return vec![line];
    }
    format!("{value:#?}").lines().map(str::to_owned).collect()
}
