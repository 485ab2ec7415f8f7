//! Guards: each kind, where it holds and where it does not.

use cqrs_core::error::StoreErrorKind;
use cqrs_core::event::NewEvent;
use cqrs_core::id::{Position, StreamId, Version};
use cqrs_core::store::{Append, Conflict, Expected, Found, Guard, LogRead, Query};

use super::kit::{
    Check, Got, Sketch as _, World, at_version, by_names, by_tags, ensure, expect, item, same, unchanged,
};

/// An append of one event under this guard is accepted.
async fn accepted(world: &World, stream: &StreamId, guard: Guard) -> Check {
    world.append(vec![world.event(stream)], guard).await?;
    Ok(())
}

/// An append of one event under this guard is stopped by it.
async fn stopped(world: &World, stream: &StreamId, guard: Guard) -> Got<Conflict> {
    world.conflict(vec![world.event(stream)], guard).await
}

pub(super) async fn no_stream_is_expected(world: World) -> Check {
    let stream = world.stream("a");
    accepted(&world, &stream, expect(&stream, Expected::NoStream)).await?;
    stopped(&world, &stream, expect(&stream, Expected::NoStream)).await?;
    world.fill(&stream, 2).await?;
    stopped(&world, &stream, expect(&stream, Expected::NoStream)).await.map(drop)
}

pub(super) async fn a_version_is_expected(world: World) -> Check {
    let (stream, missing) = (world.stream("a"), world.stream("missing"));
    world.fill(&stream, 3).await?;
    for wrong in [1, 2, 4, 5] {
        stopped(&world, &stream, at_version(&stream, wrong)).await?;
    }
    accepted(&world, &stream, at_version(&stream, 3)).await?;
    stopped(&world, &stream, at_version(&stream, 3)).await?;
    stopped(&world, &missing, at_version(&missing, 1)).await.map(drop)
}

pub(super) async fn a_last_event_is_expected(world: World) -> Check {
    let (stream, other) = (world.stream("a"), world.stream("b"));
    let events = [&stream, &stream, &stream, &other].map(|stream| world.event(stream));
    let [first, second, third, stranger] = [0, 1, 2, 3].map(|at: usize| events[at].id);
    for event in events {
        world.put(vec![event]).await?;
    }
    let event = |version, id| expect(&stream, Expected::Event(Version::new(version), id));
    for wrong in [event(3, second), event(2, second), event(2, third), event(1, first), event(4, third)] {
        stopped(&world, &stream, wrong).await?;
    }
    // The version is right, and somebody else's event stands there.
    stopped(&world, &stream, event(3, stranger)).await?;
    accepted(&world, &stream, event(3, third)).await?;
    stopped(&world, &stream, event(3, third)).await.map(drop)
}

pub(super) async fn version_none_means_no_stream(world: World) -> Check {
    let stream = world.stream("a");
    let none = || expect(&stream, Expected::Version(Version::NONE));
    accepted(&world, &stream, none()).await?;
    stopped(&world, &stream, none()).await.map(drop)
}

pub(super) async fn a_stream_is_expected_to_exist(world: World) -> Check {
    let stream = world.stream("a");
    stopped(&world, &stream, expect(&stream, Expected::Exists)).await?;
    world.fill(&stream, 1).await?;
    accepted(&world, &stream, expect(&stream, Expected::Exists)).await
}

pub(super) async fn any_stream_is_expected(world: World) -> Check {
    let stream = world.stream("a");
    accepted(&world, &stream, expect(&stream, Expected::Any)).await?;
    accepted(&world, &stream, expect(&stream, Expected::Any)).await
}

pub(super) async fn a_stream_is_guarded_that_is_not_written(world: World) -> Check {
    let (guarded, written) = (world.stream("guarded"), world.stream("written"));
    stopped(&world, &written, at_version(&guarded, 2)).await?;
    world.fill(&guarded, 2).await?;
    accepted(&world, &written, at_version(&guarded, 2)).await?;
    stopped(&world, &written, at_version(&guarded, 1)).await.map(drop)
}

pub(super) async fn a_conflict_names_the_stream_and_its_version(world: World) -> Check {
    let (stream, missing) = (world.stream("a"), world.stream("missing"));
    world.fill(&stream, 1).await?;
    let wrong =
        [(at_version(&stream, 2), 1), (expect(&stream, Expected::NoStream), 1), (at_version(&missing, 3), 0)];
    for (clause, found) in wrong {
        let Guard::Stream { stream: written, .. } = &clause else { continue };
        let conflict = stopped(&world, written, clause.clone()).await?;
        let expected = Conflict { clause, found: Found::Version(Version::new(found)) };
        same("the conflict", &conflict, &expected)?;
    }
    Ok(())
}

pub(super) async fn a_conflict_names_the_query_and_the_last_match(world: World) -> Check {
    let stream = world.stream("a");
    let (first, last) = (probe(&world, &stream, "Wanted"), probe(&world, &stream, "Wanted"));
    let before = world.put(vec![first]).await?.position;
    let at = world.put(vec![last]).await?.position;
    world.put(vec![probe(&world, &stream, "Other")]).await?;
    let query = by_names(&["Wanted", "Sought"]);
    for clause in [unchanged(&query, before), Guard::Absent(query.clone())] {
        let conflict = stopped(&world, &stream, clause.clone()).await?;
        same("the conflict", &conflict, &Conflict { clause, found: Found::Position(at) })?;
    }
    Ok(())
}

fn probe(world: &World, stream: &StreamId, name: &'static str) -> NewEvent {
    world.event(stream).named(name)
}

pub(super) async fn nothing_of_these_names_is_new(world: World) -> Check {
    let stream = world.stream("a");
    let query = by_names(&["First", "Second"]);
    let names = ["First", "Second", "Third"];
    world.put(names.map(|name| probe(&world, &stream, name)).into()).await?;
    accepted(&world, &stream, unchanged(&query, world.head().await?)).await?;
    for name in ["First", "Second"] {
        let before = world.head().await?;
        world.put(vec![probe(&world, &stream, name), probe(&world, &stream, "Third")]).await?;
        stopped(&world, &stream, unchanged(&query, before)).await?;
    }
    Ok(())
}

pub(super) async fn nothing_with_this_tag_is_new(world: World) -> Check {
    let (stream, other) = (world.stream("a"), world.stream("b"));
    let query = by_tags(&["seat:1"]);
    let seat = |tag: &str| vec![world.event(&stream).tagged(&[tag])];
    world.put(seat("seat:1")).await?;
    let at = world.put(seat("seat:2")).await?.position;
    accepted(&world, &other, unchanged(&query, at)).await?;
    world.put(seat("seat:1")).await?;
    world.put(seat("seat:11")).await?;
    stopped(&world, &other, unchanged(&query, at)).await.map(drop)
}

pub(super) async fn what_lies_at_the_position_is_not_new(world: World) -> Check {
    let stream = world.stream("a");
    let query = by_names(&["Probed"]);
    let appended = world.fill(&stream, 3).await?;
    let positions: Vec<Position> = appended.iter().map(|appended| appended.position).collect();
    let [first, _, last] = positions[..] else { return Ok(()) };
    stopped(&world, &stream, unchanged(&query, first)).await?;
    accepted(&world, &stream, unchanged(&query, last)).await?;
    stopped(&world, &stream, unchanged(&query, last)).await.map(drop)
}

pub(super) async fn all_is_new_behind_the_start(world: World) -> Check {
    let stream = world.stream("a");
    let query = by_names(&["Probed"]);
    accepted(&world, &stream, unchanged(&query, Position::START)).await?;
    stopped(&world, &stream, unchanged(&query, Position::START)).await.map(drop)
}

pub(super) async fn nothing_of_this_name_is_there(world: World) -> Check {
    let stream = world.stream("a");
    let absent = || Guard::Absent(by_names(&["Opened"]));
    accepted(&world, &stream, absent()).await?;
    world.put(vec![probe(&world, &stream, "Opened")]).await?;
    world.fill(&stream, 3).await?;
    stopped(&world, &stream, absent()).await.map(drop)
}

pub(super) async fn nothing_with_this_tag_is_there(world: World) -> Check {
    let stream = world.stream("a");
    let absent = || Guard::Absent(by_tags(&["email:a@b.c"]));
    accepted(&world, &stream, absent()).await?;
    let taken = world.event(&stream).tagged(&["email:a@b.c", "user:1"]);
    world.put(vec![taken]).await?;
    world.fill(&stream, 3).await?;
    stopped(&world, &stream, absent()).await.map(drop)
}

pub(super) async fn an_item_wants_a_name_and_all_tags(world: World) -> Check {
    let stream = world.stream("a");
    let absent = |names: &[&'static str], tags: &[&str]| Guard::Absent(Query::any_of([item(names, tags)]));
    world.put(vec![probe(&world, &stream, "Booked").tagged(&["seat:1", "show:1"])]).await?;
    world.put(vec![probe(&world, &stream, "Freed").tagged(&["seat:2", "show:1"])]).await?;
    for (names, tags) in [
        (&["Freed"][..], &["seat:1"][..]),
        (&["Booked", "Other"], &["seat:2", "show:1"]),
        (&["Booked"], &["seat:1", "seat:2"]),
        (&[], &["seat:1", "seat:2"]),
        (&["Other"], &["show:1"]),
    ] {
        accepted(&world, &stream, absent(names, tags)).await?;
    }
    stopped(&world, &stream, absent(&["Other", "Booked"], &["show:1", "seat:1"])).await?;
    stopped(&world, &stream, absent(&[], &["show:1", "seat:2"])).await.map(drop)
}

pub(super) async fn one_of_several_items_is_enough(world: World) -> Check {
    let stream = world.stream("a");
    let absent =
        |items: [&'static str; 3]| Guard::Absent(Query::any_of(items.map(|name| item(&[name], &[]))));
    world.put(vec![probe(&world, &stream, "Booked")]).await?;
    accepted(&world, &stream, absent(["X", "Y", "Z"])).await?;
    for items in [["Booked", "Y", "Z"], ["X", "Booked", "Z"], ["X", "Y", "Booked"]] {
        stopped(&world, &stream, absent(items)).await?;
    }
    Ok(())
}

pub(super) async fn a_query_without_items_matches_nothing(world: World) -> Check {
    let stream = world.stream("a");
    world.fill(&stream, 1).await?;
    let nothing = Query::any_of([]);
    accepted(&world, &stream, Guard::Absent(nothing.clone())).await?;
    accepted(&world, &stream, unchanged(&nothing, Position::START)).await?;
    same("the events that match it", &world.log_events(&nothing).await?.len(), &0)
}

pub(super) async fn a_query_for_all_matches_everything(world: World) -> Check {
    let stream = world.stream("a");
    accepted(&world, &stream, Guard::Absent(Query::all())).await?;
    stopped(&world, &stream, Guard::Absent(Query::all())).await?;
    let head = world.head().await?;
    accepted(&world, &stream, unchanged(&Query::all(), head)).await?;
    stopped(&world, &stream, unchanged(&Query::all(), head)).await.map(drop)
}

pub(super) async fn an_append_does_not_stand_in_its_own_way(world: World) -> Check {
    let stream = world.stream("a");
    let events = || vec![probe(&world, &stream, "Opened"), probe(&world, &stream, "Opened")];
    world.append(events(), Guard::Absent(by_names(&["Opened"]))).await?;
    let head = world.head().await?;
    world.append(events(), unchanged(&Query::all(), head)).await?;
    Ok(())
}

pub(super) async fn all_clauses_must_hold(world: World) -> Check {
    let stream = world.stream("a");
    world.fill(&stream, 2).await?;
    let head = world.head().await?;
    let good = [
        at_version(&stream, 2),
        Guard::Absent(by_names(&["Closed"])),
        unchanged(&Query::all(), head),
        Guard::All(vec![expect(&stream, Expected::Exists), Guard::Any]),
    ];
    let bad = [
        at_version(&stream, 1),
        Guard::Absent(by_names(&["Probed"])),
        unchanged(&Query::all(), Position::START),
        expect(&stream, Expected::NoStream),
    ];
    for (at, clause) in bad.into_iter().enumerate() {
        let mut all = good.to_vec();
        // The last one fails inside of a conjunction of its own.
        all[at] = if at == 3 { Guard::All(vec![Guard::Any, clause.clone()]) } else { clause.clone() };
        let conflict = stopped(&world, &stream, Guard::All(all)).await?;
        same("the clause that failed", &conflict.clause, &clause)?;
    }
    accepted(&world, &stream, Guard::All(good.to_vec())).await
}

pub(super) async fn no_clause_always_holds(world: World) -> Check {
    let stream = world.stream("a");
    world.fill(&stream, 1).await?;
    accepted(&world, &stream, Guard::All(Vec::new())).await?;
    accepted(&world, &stream, Guard::All(vec![Guard::All(Vec::new()), Guard::Any])).await?;
    accepted(&world, &stream, Guard::Any).await
}

pub(super) async fn a_guard_looks_at_the_partition_of_the_append(world: World) -> Check {
    let (here, there) = (world.stream("a"), world.elsewhere("a"));
    world.put(vec![probe(&world, &there, "Opened")]).await?;
    accepted(&world, &here, Guard::Absent(by_names(&["Opened"]))).await?;
    accepted(&world, &here, unchanged(&by_names(&["Opened"]), Position::START)).await
}

pub(super) async fn an_append_across_partitions_is_refused(world: World) -> Check {
    let (here, there) = (world.stream("a"), world.elsewhere("a"));
    let events = vec![world.event(&here), world.event(&there)];
    let unsupported = StoreErrorKind::Unsupported;
    let message = world.refused(Append::new(events, Guard::Any), unsupported).await?;
    ensure!(message.contains("partition"), "the refusal does not say why: {message}");
    let guard = expect(&there, Expected::NoStream);
    world.refused(Append::new(vec![world.event(&here)], guard), unsupported).await?;
    same("the other stream's length", &world.stream_events(&there).await?.len(), &0)
}

pub(super) async fn tags_are_refused_where_there_are_none(world: World) -> Check {
    let stream = world.stream("a");
    let query = by_tags(&["seat:1"]);
    let guards = [
        Guard::Absent(query.clone()),
        unchanged(&query, Position::START),
        Guard::All(vec![Guard::Any, Guard::Absent(query.clone())]),
    ];
    for guard in guards {
        let append = Append::new(vec![world.event(&stream)], guard);
        let message = world.refused(append, StoreErrorKind::Unsupported).await?;
        ensure!(message.contains("tag"), "the refusal does not say why: {message}");
    }
    let read = LogRead { query, ..world.log_read(Position::START, Query::all()) };
    match world.log.read_log(read).await {
        Err(error) if error.kind() == StoreErrorKind::Unsupported => Ok(()),
        other => super::kit::fail(format!("a read by tags was not refused: {other:?}")),
    }
}

pub(super) async fn several_streams_are_refused_where_they_cannot_be_had(world: World) -> Check {
    let (a, b) = (world.stream("a"), world.stream("b"));
    let appends = [
        Append::new(vec![world.event(&a), world.event(&b)], Guard::Any),
        Append::new(vec![world.event(&a)], expect(&b, Expected::NoStream)),
    ];
    for append in appends {
        let message = world.refused(append, StoreErrorKind::Unsupported).await?;
        ensure!(message.contains("stream"), "the refusal does not say why: {message}");
    }
    same("the second stream's length", &world.stream_events(&b).await?.len(), &0)
}
