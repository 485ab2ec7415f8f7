//! What an accepted append does, and what a refused one leaves behind.

use std::collections::BTreeSet;

use cqrs_core::error::StoreErrorKind;
use cqrs_core::event::{NewEvent, Timestamp};
use cqrs_core::id::{Position, StreamId, Version};
use cqrs_core::store::{Append, Appended, Expected, Guard, Head, Query};

use super::kit::{
    Check, Event, Got, Sketch as _, World, at_version, by_tags, ensure, expect, fail, ids, join, new_ids,
    same, together, versions,
};

const BATCH: usize = 5;

pub(super) async fn events_of_one_append_appear_together(world: World) -> Check {
    let stream = world.stream("a");
    let batches = (0..30).map(|_| world.events(&stream, BATCH)).collect();
    for count in watched(&world, batches).await? {
        ensure!(count % BATCH == 0, "a reader saw {count} events of appends that have {BATCH} each");
    }
    Ok(())
}

pub(super) async fn events_of_several_streams_appear_together(world: World) -> Check {
    let (a, b) = (world.stream("a"), world.stream("b"));
    let batches = (0..30).map(|_| vec![world.event(&a), world.event(&b)]).collect();
    for count in watched(&world, batches).await? {
        ensure!(
            count % 2 == 0,
            "a reader saw {count} events of appends that have one for each of two streams"
        );
    }
    Ok(())
}

/// Appends one batch after the other, while a reader notes how many events of the log it sees.
async fn watched(world: &World, batches: Vec<Vec<NewEvent>>) -> Got<Vec<usize>> {
    let writer = {
        let world = world.clone();
        tokio::spawn(async move {
            for batch in batches {
                world.put(batch).await?;
                tokio::task::yield_now().await;
            }
            Ok(())
        })
    };
    let mut counts = Vec::new();
    while !writer.is_finished() {
        counts.push(world.read_log(Position::START, Query::all()).await?.events.len());
        tokio::task::yield_now().await;
    }
    join(vec![writer]).await?.into_iter().collect::<Check>()?;
    Ok(counts)
}

pub(super) async fn events_keep_the_order_of_the_append(world: World) -> Check {
    let stream = world.stream("a");
    let events = world.events(&stream, 4);
    let expected = new_ids(&events);
    world.put(events).await?;
    same("the events of the stream", &ids(&world.stream_events(&stream).await?), &expected)?;
    same("the events of the log", &ids(&world.log_events(&Query::all()).await?), &expected)
}

pub(super) async fn no_append_comes_between_the_events_of_another(world: World) -> Check {
    let writers = (0..6).map(|writer| {
        let world = world.clone();
        async move {
            let stream = world.stream(&writer.to_string());
            for _ in 0..10 {
                world.put(world.events(&stream, 3)).await?;
            }
            Ok(())
        }
    });
    together(writers).await?.into_iter().collect::<Check>()?;
    for batch in world.log_events(&Query::all()).await?.chunks(3) {
        let streams: BTreeSet<&StreamId> = batch.iter().map(|event| &event.meta.stream).collect();
        ensure!(streams.len() == 1, "appends of three events are mixed in the log: {streams:?}");
    }
    Ok(())
}

pub(super) async fn versions_count_from_one_without_gaps(world: World) -> Check {
    let (a, b) = (world.stream("a"), world.stream("b"));
    for count in [1, 3, 2, 3] {
        world.put(world.events(&a, count)).await?;
        world.put(world.events(&b, 1)).await?;
    }
    same("the versions of the stream", &versions(&world.stream_events(&a).await?), &(1..=9).collect())?;
    same("the versions of another", &versions(&world.stream_events(&b).await?), &vec![1, 2, 3, 4])
}

pub(super) async fn positions_are_in_the_order_of_commits(world: World) -> Check {
    let mut expected = Vec::new();
    for (round, name) in (0..).zip(["c", "a", "b", "a", "c"]) {
        // The clocks of those who write are not in the order of the commits.
        let time = Timestamp::from_micros(1_700_000_000_000_000 - 1_000 * round);
        let event = NewEvent { time, ..world.event(&world.stream(name)) };
        expected.push(event.id.to_string());
        world.put(vec![event]).await?;
    }
    let events = world.log_events(&Query::all()).await?;
    same("the events by position", &ids(&events), &expected)?;
    ascending(&events)
}

pub(super) fn ascending(events: &[Event]) -> Check {
    let mut last = Position::START;
    for event in events {
        let position = event.meta.position;
        ensure!(position > last, "position {position} follows on {last}");
        last = position;
    }
    Ok(())
}

pub(super) async fn positions_have_no_gaps(world: World) -> Check {
    let stream = world.stream("a");
    for round in 0..4 {
        world.append(world.events(&stream, 2), at_version(&stream, round * 2)).await?;
        world.conflict(world.events(&stream, 2), at_version(&stream, round * 2 + 1)).await?;
    }
    let events = world.log_events(&Query::all()).await?;
    let positions: Vec<u64> = events.iter().map(|event| event.meta.position.get()).collect();
    same("the positions", &positions, &(1..=8).collect())
}

pub(super) async fn an_append_says_where_it_wrote(world: World) -> Check {
    let stream = world.stream("a");
    world.fill(&stream, 1).await?;
    let appended = world.put(world.events(&stream, 3)).await?;
    let Some(last) = world.stream_events(&stream).await?.pop() else { return fail("the stream is empty") };
    let expected = Appended {
        log: world.log.head(world.home).await?.log,
        partition: world.log.partition_of(&stream),
        position: last.meta.position,
        event: Some(last.meta.id),
        versions: vec![(stream, Version::new(4))],
        owner: None,
    };
    same("what the append says", &appended, &expected)
}

pub(super) async fn an_append_to_several_streams_counts_versions_for_each(world: World) -> Check {
    let (a, b) = (world.stream("a"), world.stream("b"));
    world.fill(&a, 1).await?;
    let events = [&b, &a, &b].map(|stream| world.event(stream));
    let expected = new_ids(&events);
    let appended = world.put(events.into()).await?;
    let counted = vec![(b.clone(), Version::new(2)), (a.clone(), Version::new(2))];
    same("the versions, by first appearance", &appended.versions, &counted)?;
    let log = world.log_events(&Query::all()).await?;
    same("the events", &&ids(&log)[1..], &&expected[..])?;
    same("their versions", &versions(&log), &vec![1, 1, 2, 2])
}

pub(super) async fn other_handles_see_what_was_appended(world: World) -> Check {
    let stream = world.stream("a");
    let other = world.again().await?;
    for round in 1..=5 {
        world.fill(&stream, 1).await?;
        same("the versions that another handle reads", &other.stream_events(&stream).await?.len(), &round)?;
        same("the events of the log", &other.log_events(&Query::all()).await?.len(), &round)?;
        // As guards do.
        other.append(Vec::new(), expect(&stream, Expected::Exists)).await?;
    }
    Ok(())
}

pub(super) async fn an_empty_append_only_checks_its_guard(world: World) -> Check {
    let stream = world.stream("a");
    let head = world.fill(&stream, 1).await?.pop().map(|appended| appended.position);
    let appended = world.append(Vec::new(), at_version(&stream, 1)).await?;
    same("the position of an empty append", &Some(appended.position), &head)?;
    same("the streams that it wrote to", &appended.versions, &Vec::new())?;
    world.conflict(Vec::new(), at_version(&stream, 2)).await?;
    same("the stream's length", &world.stream_events(&stream).await?.len(), &1)
}

pub(super) async fn an_event_id_is_used_once(world: World) -> Check {
    let (a, b) = (world.stream("a"), world.stream("b"));
    let first = world.event(&a);
    world.put(vec![first.clone()]).await?;
    // The same event again, and only its id, in another stream and behind a new event.
    refuse_id(&world, vec![first.clone()]).await?;
    let taken = NewEvent { id: first.id, ..world.event(&b) };
    refuse_id(&world, vec![world.event(&b), taken]).await?;
    same("the other stream's length", &world.stream_events(&b).await?.len(), &0)
}

pub(super) async fn an_event_id_comes_once_in_an_append(world: World) -> Check {
    let stream = world.stream("a");
    let (first, second) = (world.event(&stream), world.event(&stream));
    let twice = NewEvent { id: first.id, ..world.event(&stream) };
    refuse_id(&world, vec![first.clone(), second, twice]).await?;
    same("the stream's length", &world.stream_events(&stream).await?.len(), &0)?;
    // The refused append has not used the id up.
    world.put(vec![first]).await.map(drop)
}

pub(super) async fn an_event_id_is_used_once_in_all_partitions(world: World) -> Check {
    let (here, there) = (world.stream("a"), world.elsewhere("a"));
    let first = world.event(&here);
    world.put(vec![first.clone()]).await?;
    let append = Append::new(vec![NewEvent { id: first.id, ..world.event(&there) }], Guard::Any);
    world.refused(append, StoreErrorKind::Invalid).await?;
    same("the other stream's length", &world.stream_events(&there).await?.len(), &0)
}

async fn refuse_id(world: &World, events: Vec<NewEvent>) -> Check {
    world.refused(Append::new(events, Guard::Any), StoreErrorKind::Invalid).await.map(drop)
}

pub(super) async fn a_refused_append_leaves_nothing(world: World) -> Check {
    let stream = world.stream("a");
    world.fill(&stream, 1).await?;
    let before: Head = world.log.head(world.home).await?;
    let events = world.events(&stream, 3);
    world.conflict(events.clone(), at_version(&stream, 5)).await?;
    same("the stream's length", &world.stream_events(&stream).await?.len(), &1)?;
    same("the log's length", &world.log_events(&Query::all()).await?.len(), &1)?;
    same("the log's head", &world.log.head(world.home).await?, &before)?;
    // Not even the ids of its events are used up.
    let appended = world.append(events, at_version(&stream, 1)).await?;
    same("the version behind", &appended.version_of(&stream), &Some(Version::new(4)))
}

pub(super) async fn a_refused_append_leaves_no_tags(world: World) -> Check {
    let stream = world.stream("a");
    world.fill(&stream, 1).await?;
    let tagged = || vec![world.event(&stream).tagged(&["seat:1"])];
    world.conflict(tagged(), at_version(&stream, 5)).await?;
    world.append(tagged(), Guard::Absent(by_tags(&["seat:1"]))).await?;
    Ok(())
}
