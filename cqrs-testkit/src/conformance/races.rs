//! Many tasks at once: one winner, and readers that miss nothing.

use std::collections::BTreeMap;

use cqrs_core::event::NewEvent;
use cqrs_core::id::{Position, StreamId, Version};
use cqrs_core::store::{AppendError, Appended, Expected, Guard, Query};

use super::append::ascending;
use super::kit::{
    Check, Event, Failure, Got, Sketch as _, World, at_version, by_tags, ensure, expect, forward, ids, join,
    same, together, unchanged,
};

const RACERS: usize = 8;
const ROUNDS: u64 = 15;

/// Races appends of one event under one guard, and gives what the winners got. All others must be
/// stopped by the guard.
async fn race(world: &World, stream: &StreamId, guard: Guard, tag: &[&str]) -> Got<Vec<Appended>> {
    let racers = (0..RACERS).map(|_| {
        let (world, guard) = (world.clone(), guard.clone());
        let event = world.event(stream).tagged(tag);
        async move { world.append(vec![event], guard).await }
    });
    let mut winners = Vec::new();
    for outcome in together(racers).await? {
        match outcome {
            Ok(appended) => winners.push(appended),
            Err(AppendError::Conflict(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(winners)
}

pub(super) async fn one_of_many_gets_the_version(world: World) -> Check {
    let stream = world.stream("a");
    world.fill(&stream, 1).await?;
    for version in 1..=ROUNDS {
        let winners = race(&world, &stream, at_version(&stream, version), &[]).await?;
        same("the winners of one version", &winners.len(), &1)?;
    }
    same("the stream's length", &world.stream_events(&stream).await?.len(), &(ROUNDS as usize + 1))
}

pub(super) async fn one_of_many_creates_the_stream(world: World) -> Check {
    for round in 1..=ROUNDS {
        let stream = world.stream(&format!("new-{round}"));
        let winners = race(&world, &stream, expect(&stream, Expected::NoStream), &[]).await?;
        same("the winners of one new stream", &winners.len(), &1)?;
    }
    Ok(())
}

pub(super) async fn one_of_many_takes_the_tag(world: World) -> Check {
    let stream = world.stream("a");
    for round in 1..=ROUNDS {
        let tag = format!("seat:{round}");
        let absent = Guard::Absent(by_tags(&[&tag]));
        let winners = race(&world, &stream, absent, &[&tag]).await?;
        same("the winners of one absent tag", &winners.len(), &1)?;
    }
    Ok(())
}

pub(super) async fn one_of_many_goes_on_from_the_position(world: World) -> Check {
    let stream = world.stream("a");
    world.fill(&stream, 1).await?;
    let query = Query::all();
    for _ in 0..ROUNDS {
        let head = world.head().await?;
        let winners = race(&world, &stream, unchanged(&query, head), &[]).await?;
        same("the winners of one position", &winners.len(), &1)?;
    }
    Ok(())
}

pub(super) async fn one_of_many_passes_all_clauses(world: World) -> Check {
    let stream = world.stream("a");
    for round in 1..=ROUNDS {
        let (tag, name) = (format!("seat:{round}"), format!("all-{round}"));
        let clauses = vec![expect(&world.stream(&name), Expected::NoStream), Guard::Absent(by_tags(&[&tag]))];
        let winners = race(&world, &stream, Guard::All(clauses), &[&tag]).await?;
        same("the winners of one conjunction", &winners.len(), &1)?;
    }
    Ok(())
}

/// Decisions over a tag race with appends that guard nothing: between what a decision saw and what
/// it wrote, nothing with the tag may stand.
pub(super) async fn tag_guards_see_appends_without_guards(world: World) -> Check {
    let query = by_tags(&["seat:1"]);
    let writers = (0..4).map(|writer| {
        let (world, query) = (world.clone(), query.clone());
        async move {
            let stream = world.stream(&writer.to_string());
            let seat = |payload: String| vec![world.event(&stream).tagged(&["seat:1"]).saying(payload)];
            for _ in 0..ROUNDS {
                if writer % 2 == 0 {
                    world.put(seat(String::new())).await?;
                } else {
                    let seen = world.read_log(Position::START, query.clone()).await?.head.position;
                    decide(&world, seat(seen.to_string()), unchanged(&query, seen)).await?;
                }
            }
            Ok(())
        }
    });
    together(writers).await?.into_iter().collect::<Check>()?;
    let mut before = Position::START;
    for event in world.log_events(&query).await? {
        if let Ok(seen) = String::from_utf8_lossy(&event.payload).parse::<Position>() {
            let at = event.meta.position;
            ensure!(before <= seen, "the decision at {at} had seen all up to {seen}, but not {before}");
        }
        before = event.meta.position;
    }
    Ok(())
}

/// An append that may lose.
async fn decide(world: &World, events: Vec<NewEvent>, guard: Guard) -> Check {
    match world.append(events, guard).await {
        Ok(_) | Err(AppendError::Conflict(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Six writers, each with a stream of its own; gives up on the first that fails.
fn writers(world: &World, rounds: usize) -> tokio::task::JoinHandle<Check> {
    let world = world.clone();
    tokio::spawn(async move {
        let writers = (0..6).map(|writer| {
            let world = world.clone();
            async move {
                let stream = world.stream(&writer.to_string());
                for round in 0..rounds {
                    world.put(world.events(&stream, 1 + round % 2)).await?;
                    tokio::task::yield_now().await;
                }
                Ok(())
            }
        });
        together(writers).await?.into_iter().collect()
    })
}

/// The clause that most stores on SQL break.
pub(super) async fn a_reader_by_position_misses_nothing(world: World) -> Check {
    let writing = writers(&world, 25);
    let (mut seen, mut after, mut done) = (Vec::<Event>::new(), Position::START, false);
    while !done {
        // Looked at before the read, so that the last read comes behind the last write.
        done = writing.is_finished();
        let page = world.read_log(after, Query::all()).await?.events;
        after = page.last().map_or(after, |last| last.meta.position);
        seen.extend(page);
        tokio::task::yield_now().await;
    }
    join(vec![writing]).await?.into_iter().collect::<Check>()?;
    ascending(&seen)?;
    let all = world.log_events(&Query::all()).await?;
    let missed = all.iter().filter(|event| !seen.iter().any(|seen| seen.meta.id == event.meta.id)).count();
    ensure!(missed == 0, "a reader that polls behind the last position it saw missed {missed} events");
    same("the events seen", &ids(&seen), &ids(&all))
}

pub(super) async fn events_and_head_are_of_one_snapshot(world: World) -> Check {
    let writing = writers(&world, 25);
    let mut slices = Vec::new();
    while !writing.is_finished() {
        let slice = world.read_log(Position::START, Query::all()).await?;
        let (read_to, head) = (slice.read_to, slice.head.position);
        let events = slice.events.iter().filter(|event| event.meta.position <= read_to).count();
        ensure!(read_to <= head, "the log was read to {read_to}, but ends at {head}");
        slices.push((events, read_to));
        tokio::task::yield_now().await;
    }
    join(vec![writing]).await?.into_iter().collect::<Check>()?;
    let all = world.log_events(&Query::all()).await?;
    for (events, read_to) in slices {
        let there = all.iter().filter(|event| event.meta.position <= read_to).count();
        same(format!("the events of a read that went to position {read_to}"), &events, &there)?;
    }
    Ok(())
}

pub(super) async fn a_stream_and_its_version_are_of_one_snapshot(world: World) -> Check {
    let writing = writers(&world, 25);
    let stream = world.stream("0");
    let mut next = Version::new(1);
    while !writing.is_finished() {
        let slice = world.slice(forward(&stream, next)).await?;
        let last = slice.events.last().map(|event| event.meta.version);
        let version = slice.version;
        match last {
            Some(last) => ensure!(last <= version, "version {last} was read of a stream at {version}"),
            None => {
                ensure!(version < next, "the stream is at {version}, but nothing was read from {next}");
            }
        }
        next = last.map_or(next, Version::next);
        tokio::task::yield_now().await;
    }
    join(vec![writing]).await?.into_iter().collect()
}

/// Streams keep their order while many append to each, and nobody's event is lost.
pub(super) async fn nothing_is_lost_among_many_writers(world: World) -> Check {
    let streams = [world.stream("a"), world.stream("b")];
    let writers = (0..RACERS).map(|writer| {
        let (world, stream) = (world.clone(), streams[writer % 2].clone());
        async move {
            let mut said = Vec::new();
            for _ in 0..ROUNDS {
                let appended = world.put(world.events(&stream, 1)).await?;
                said.push((appended.version_of(&stream), appended.position));
            }
            Ok::<_, Failure>((stream, said))
        }
    });
    let mut expected = BTreeMap::new();
    for outcome in together(writers).await? {
        let (stream, said) = outcome?;
        expected.entry(stream).or_insert_with(Vec::new).extend(said);
    }
    for (stream, mut said) in expected {
        said.sort();
        let events = world.stream_events(&stream).await?;
        let read = events.iter().map(|event| (Some(event.meta.version), event.meta.position)).collect();
        same(format!("the versions and positions of {stream}"), &said, &read)?;
    }
    Ok(())
}
