//! Guards, decided in the process on what is known of the log.
//!
//! How a query finds its events is told in [`schema`](crate::schema): its functions leap through the
//! indexes. What a group has not written yet is matched here.

use cqrs_core::event::Tag;
use cqrs_core::id::{Position, Version};
use cqrs_core::store::{Conflict, Found, Guard, Query};
use serde_json::{Value, json};

use crate::append::Facts;

/// Checks a guard against the facts and what those before it in the group write.
pub(crate) fn check(facts: &Facts<'_>, guard: &Guard) -> Result<(), Conflict> {
    let found = match guard {
        Guard::Any => None,
        Guard::All(all) => return all.iter().try_for_each(|guard| check(facts, guard)),
        Guard::Stream { stream, expected } => {
            let version = Version::new(facts.version_of(stream).cast_unsigned());
            let holds = expected.holds(version) && facts.ends_with(stream, *expected);
            (!holds).then_some(Found::Version(version))
        }
        Guard::Unchanged { query, after } => match after.agrees(facts.id_at(after.position)) {
            true => facts.last_match(query, after.position).map(Found::Position),
            false => Some(Found::Position(after.position)),
        },
        Guard::Absent(query) => facts.last_match(query, Position::START).map(Found::Position),
    };
    found.map_or(Ok(()), |found| Err(Conflict { clause: guard.clone(), found }))
}

/// The clauses of a guard that speak of one thing each.
pub(crate) fn clauses(guard: &Guard) -> Vec<&Guard> {
    match guard {
        Guard::All(all) => all.iter().flat_map(clauses).collect(),
        one => vec![one],
    }
}

/// A position as PostgreSQL counts. Nothing lies behind the largest, so all that are larger are it.
pub(crate) fn number(position: Position) -> i64 {
    i64::try_from(position.get()).unwrap_or(i64::MAX)
}

/// The items of a query, as the statements take them.
pub(crate) fn items(query: &Query) -> String {
    let Some(items) = query.items() else { return r#"[{"names":[],"tags":[]}]"#.to_owned() };
    // No text in the database has a NUL, and none can be sent there.
    let possible = items.iter().filter(|item| !item.tags.iter().any(|tag| tag.as_str().contains('\0')));
    let items = possible.filter_map(|item| {
        let names: Vec<&str> =
            item.names.iter().map(|name| &**name).filter(|name| !name.contains('\0')).collect();
        let tags: Vec<&str> = item.tags.iter().map(Tag::as_str).collect();
        (item.names.is_empty() || !names.is_empty()).then(|| json!({ "names": names, "tags": tags }))
    });
    items.collect::<Value>().to_string()
}
