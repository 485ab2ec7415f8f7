//! Reads of a stream and of the log, alone.

use std::collections::BTreeSet;

use cqrs_core::error::{StoreError, StoreErrorKind};
use cqrs_core::id::{Partition, Position, Version};
use cqrs_core::store::{LogRead, Query, StreamRead};

use super::append::ascending;
use super::kit::{
    Check, Event, Got, Sketch as _, World, backward, by_names, by_tags, ensure, fail, forward, ids, item,
    new_ids, same, versions,
};

const NONE: Vec<u64> = Vec::new();

pub(super) async fn a_stream_is_read_forward(world: World) -> Check {
    let stream = world.stream("a");
    world.put(world.events(&stream, 5)).await?;
    world.put(world.events(&world.stream("b"), 1)).await?;
    for (from, expected) in [(0, 1..=5), (1, 1..=5), (3, 3..=5), (5, 5..=5)] {
        let events = all_from(&world, forward(&stream, Version::new(from))).await?;
        same(format!("the versions from {from}"), &versions(&events), &expected.collect())?;
    }
    Ok(())
}

pub(super) async fn a_stream_is_read_backward(world: World) -> Check {
    let stream = world.stream("a");
    world.put(world.events(&stream, 5)).await?;
    let last = Version::new(u64::MAX);
    for (from, expected) in [(last, 5), (Version::new(6), 5), (Version::new(5), 5), (Version::new(2), 2)] {
        let events = all_from(&world, backward(&stream, from)).await?;
        same(format!("the versions back from {from}"), &versions(&events), &(1..=expected).rev().collect())?;
    }
    Ok(())
}

/// Page by page in either direction, as a store may give less than asked for.
async fn all_from(world: &World, mut read: StreamRead) -> Got<Vec<Event>> {
    let (first, mut events) = (read.direction, Vec::<Event>::new());
    loop {
        let page = world.slice(read.clone()).await?.events;
        let Some(last) = page.last() else { return Ok(events) };
        let at = last.meta.version.get();
        events.extend(page);
        match first {
            cqrs_core::store::Direction::Forward => read.from = Version::new(at + 1),
            cqrs_core::store::Direction::Backward if at <= 1 => return Ok(events),
            cqrs_core::store::Direction::Backward => read.from = Version::new(at - 1),
        }
        ensure!(events.len() <= 100, "reading a short stream does not end");
    }
}

pub(super) async fn a_stream_is_read_up_to_the_limit(world: World) -> Check {
    let stream = world.stream("a");
    world.put(world.events(&stream, 5)).await?;
    for limit in 1..=6 {
        for read in [forward(&stream, Version::new(1)), backward(&stream, Version::new(5))] {
            let events = world.slice(StreamRead { limit, ..read }).await?.events.len();
            ensure!((1..=limit).contains(&events), "{events} events came for a limit of {limit}");
        }
    }
    Ok(())
}

/// More events than stores are likely to read at a time.
const LONG: usize = 2_300;

pub(super) async fn a_fold_goes_to_a_streams_end(world: World) -> Check {
    let stream = world.stream("a");
    for _ in 0..LONG / 100 {
        world.put(world.events(&stream, 100)).await?;
        world.put(world.events(&world.stream("b"), 1)).await?;
    }
    let lent = world.folded(&stream, 1, usize::MAX).await?;
    let read = world.stream_events(&stream).await?;
    ensure!(lent.len() == read.len(), "{} of {} events came", lent.len(), read.len());
    for (lent, read) in lent.iter().zip(&read) {
        same("a version", &lent.version, &read.meta.version)?;
        same("a payload", &lent.payload, &read.payload.to_vec())?;
    }
    Ok(())
}

pub(super) async fn a_fold_begins_at_a_version(world: World) -> Check {
    let stream = world.stream("a");
    world.put(world.events(&stream, 5)).await?;
    for (from, first) in [(0, 1), (1, 1), (3, 3), (5, 5), (6, 6), (u64::MAX, 6)] {
        let lent = world.folded(&stream, from, usize::MAX).await?;
        let versions: Vec<u64> = lent.iter().map(|lent| lent.version.get()).collect();
        same(format!("the versions from {from}"), &versions, &(first..6).collect())?;
    }
    same("what a missing stream has", &world.folded(&world.stream("b"), 1, usize::MAX).await?, &Vec::new())
}

pub(super) async fn a_fold_breaks_off(world: World) -> Check {
    let stream = world.stream("a");
    world.put(world.events(&stream, 5)).await?;
    for most in 1..=5 {
        let lent = world.folded(&stream, 1, most).await?.len();
        ensure!(lent == most, "{lent} events came to a fold that wanted {most}");
    }
    Ok(())
}

pub(super) async fn nothing_is_read_behind_a_streams_end(world: World) -> Check {
    let stream = world.stream("a");
    world.put(world.events(&stream, 2)).await?;
    for from in [3, 4, 1_000, u64::MAX] {
        let slice = world.slice(forward(&stream, Version::new(from))).await?;
        same(format!("the versions from {from}"), &versions(&slice.events), &NONE)?;
    }
    Ok(())
}

pub(super) async fn a_missing_stream_is_empty(world: World) -> Check {
    let (stream, other) = (world.stream("missing"), world.stream("missing-not"));
    world.put(world.events(&other, 1)).await?;
    for read in [forward(&stream, Version::new(1)), backward(&stream, Version::new(u64::MAX))] {
        let slice = world.slice(read).await?;
        same("the versions", &versions(&slice.events), &NONE)?;
        same("the stream's version", &slice.version, &Version::NONE)?;
    }
    Ok(())
}

pub(super) async fn a_read_tells_the_streams_version(world: World) -> Check {
    let stream = world.stream("a");
    world.put(world.events(&stream, 4)).await?;
    let reads = [
        forward(&stream, Version::new(1)),
        forward(&stream, Version::new(9)),
        StreamRead { limit: 1, ..forward(&stream, Version::new(2)) },
        StreamRead { limit: 1, ..backward(&stream, Version::new(2)) },
    ];
    for read in reads {
        same("the stream's version", &world.slice(read).await?.version, &Version::new(4))?;
    }
    Ok(())
}

pub(super) async fn the_log_is_read_between_two_positions(world: World) -> Check {
    let appended = world.fill(&world.stream("a"), 5).await?;
    let at: Vec<Position> = appended.iter().map(|appended| appended.position).collect();
    let far = Position::new(at[4].get() + 1_000);
    let cases = [
        (Position::START, Some(at[4]), 5),
        (at[1], None, 3),
        (at[1], Some(at[3]), 2),
        (at[1], Some(at[2]), 1),
        (at[1], Some(at[1]), 0),
        (at[3], Some(at[1]), 0),
        (at[4], None, 0),
        (at[4], Some(far), 0),
        (far, None, 0),
    ];
    for (after, up_to, count) in cases {
        let read = LogRead { up_to, ..world.log_read(after, Query::all()) };
        let slice = world.log.read_log(read).await?;
        let between = |event: &&Event| {
            event.meta.position > after && up_to.is_none_or(|up_to| event.meta.position <= up_to)
        };
        let (all, inside) = (slice.events.len(), slice.events.iter().filter(between).count());
        same(format!("the events behind {after} up to {up_to:?}"), &(all, inside), &(count, count))?;
    }
    Ok(())
}

pub(super) async fn the_log_is_read_up_to_the_limit(world: World) -> Check {
    let appended = world.fill(&world.stream("a"), 5).await?;
    for limit in 1..=6 {
        let read = LogRead { limit, ..world.log_read(Position::START, Query::all()) };
        let events = world.log.read_log(read).await?.events;
        ensure!(events.len() <= limit, "{} events came for a limit of {limit}", events.len());
        if let (Some(first), Some(expected)) = (events.first(), appended.first()) {
            same("the first position", &first.meta.position, &expected.position)?;
        }
    }
    Ok(())
}

pub(super) async fn paging_through_the_log_ends_and_misses_nothing(world: World) -> Check {
    let stream = world.stream("a");
    let mut expected = Vec::new();
    for round in 0..12 {
        let name = if round % 5 == 3 { "Wanted" } else { "Other" };
        let event = world.event(&stream).named(name);
        expected.extend((name == "Wanted").then(|| event.id.to_string()));
        world.put(vec![event]).await?;
    }
    for (query, count) in [(by_names(&["Wanted"]), 2), (by_names(&["Never"]), 0), (Query::all(), 12)] {
        for limit in [1, 2, 5] {
            let events = paged(&world, &query, limit).await?;
            same(format!("the events in pages of {limit}"), &events.len(), &count)?;
            ensure!(count != 2 || ids(&events) == expected, "the events in pages of {limit} are others");
        }
    }
    Ok(())
}

/// Each name has an order of its own in an index, and a store puts several together: where a limit ends, it
/// must not have gone further with one of them than with the others.
pub(super) async fn names_that_take_turns_are_read_in_pages(world: World) -> Check {
    // Turn by turn, in clumps, and with a long way between them.
    let log = "ABABCAABBC.AAAABBBBCCA............B.CBCBA";
    let stream = world.stream("a");
    let mut all = Vec::new();
    for name in log.chars() {
        let name = match name {
            'A' => "A",
            'B' => "B",
            'C' => "C",
            _ => "Other",
        };
        let event = world.event(&stream).named(name);
        all.push((event.id.to_string(), name));
        world.put(vec![event]).await?;
    }
    for wanted in [&["A", "B"][..], &["C", "A"], &["A", "B", "C"], &["B", "Never"], &["C", "Other", "B"]] {
        let matching = all.iter().filter(|(_, name)| wanted.contains(name));
        let expected: Vec<String> = matching.map(|(id, _)| id.clone()).collect();
        for limit in [1, 2, 3, 5, 8, 100] {
            let events = paged(&world, &by_names(wanted), limit).await?;
            same(format!("the events called {wanted:?} in pages of {limit}"), &ids(&events), &expected)?;
        }
    }
    Ok(())
}

/// Reads to the end, and holds each page to what it says of itself.
async fn paged(world: &World, query: &Query, limit: usize) -> Got<Vec<Event>> {
    let (mut events, mut after) = (Vec::new(), Position::START);
    for _ in 0..50 {
        let slice = world.log.read_log(LogRead { limit, ..world.log_read(after, query.clone()) }).await?;
        let (read_to, head) = (slice.read_to, slice.head.position);
        ensure!(read_to <= head, "the log was read to {read_to}, but ends at {head}");
        let last = slice.events.last().map_or(after, |last| last.meta.position);
        ensure!(last <= read_to, "an event at {last} came of a read up to {read_to}");
        events.extend(slice.events);
        if read_to == head {
            return Ok(events);
        }
        ensure!(read_to > after, "a page behind {after} went to {read_to}, and the log to {head}");
        after = read_to;
    }
    fail("reading a short log in pages does not end")
}

pub(super) async fn a_read_ends_no_further_than_asked(world: World) -> Check {
    let appended = world.fill(&world.stream("a"), 4).await?;
    let at: Vec<Position> = appended.iter().map(|appended| appended.position).collect();
    for (after, up_to) in [(at[0], at[2]), (at[1], at[1]), (at[2], at[0]), (at[3], at[3])] {
        let read = LogRead { up_to: Some(up_to), ..world.log_read(after, by_names(&["Never"])) };
        let read_to = world.log.read_log(read).await?.read_to;
        let (low, high) = (after, up_to.max(after));
        ensure!(low <= read_to && read_to <= high, "a read behind {after} up to {up_to} went to {read_to}");
    }
    Ok(())
}

pub(super) async fn the_log_is_filtered_by_names(world: World) -> Check {
    mixed(&world, &[]).await?;
    for (names, expected) in [(&["A"][..], 2), (&["B"], 3), (&["A", "B"], 5), (&["A", "X"], 2), (&["X"], 0)] {
        let events = world.log_events(&by_names(names)).await?;
        ascending(&events)?;
        let wrong = events.iter().filter(|event| !names.contains(&&*event.name)).count();
        same(format!("the events with the names {names:?}"), &(events.len(), wrong), &(expected, 0))?;
    }
    Ok(())
}

pub(super) async fn the_log_is_filtered_by_tags(world: World) -> Check {
    mixed(&world, &["x:1", "y:1"]).await?;
    for (wanted, expected) in [(&["x:1"][..], 2), (&["y:1"], 3), (&["x:1", "y:1"], 1), (&["x:11"], 0)] {
        let events = world.log_events(&by_tags(wanted)).await?;
        ascending(&events)?;
        let query = by_tags(wanted);
        let wrong = events.iter().filter(|event| !query.matches(&event.name, &event.tags)).count();
        same(format!("the events with the tags {wanted:?}"), &(events.len(), wrong), &(expected, 0))?;
    }
    Ok(())
}

pub(super) async fn the_log_is_filtered_by_items(world: World) -> Check {
    mixed(&world, &["x:1", "y:1"]).await?;
    let cases = [
        (vec![item(&["A"], &["x:1"])], 1),
        (vec![item(&["A"], &["x:1"]), item(&["B"], &["y:1"])], 3),
        (vec![item(&["A", "B"], &["y:1"]), item(&["A"], &[])], 4),
        (vec![item(&["C"], &[]), item(&["C"], &["x:1"])], 1),
        (vec![item(&[], &["z:1"]), item(&["C"], &[])], 1),
    ];
    for (items, expected) in cases {
        let query = Query::any_of(items);
        let events = world.log_events(&query).await?;
        ascending(&events)?;
        same(format!("the events with {query}"), &events.len(), &expected)?;
    }
    Ok(())
}

/// Two events called A, three B and one C; A and B have the first tag once and the second as well.
async fn mixed(world: &World, tags: &[&str]) -> Check {
    let stream = world.stream("a");
    let (x, y) = (tags.get(..1).unwrap_or_default(), tags.get(1..).unwrap_or_default());
    let names = [("A", x), ("B", y), ("A", y), ("B", tags), ("C", &[][..]), ("B", &[][..])];
    for (name, tags) in names {
        world.put(vec![world.event(&stream).named(name).tagged(tags)]).await?;
    }
    Ok(())
}

pub(super) async fn a_partition_that_is_not_there_is_refused(world: World) -> Check {
    for partition in [world.capabilities.partitions, u16::MAX] {
        let partition = Partition::new(partition);
        let read = LogRead { partition, ..world.log_read(Position::START, Query::all()) };
        invalid(world.log.read_log(read).await)?;
        invalid(world.log.head(partition).await)?;
    }
    Ok(())
}

fn invalid<T>(result: Result<T, StoreError>) -> Check {
    match result {
        Err(error) if error.kind() == StoreErrorKind::Invalid => Ok(()),
        Err(error) => fail(format!("a missing partition is refused as {:?}: {error}", error.kind())),
        Ok(_) => fail("a missing partition is read as if it were there"),
    }
}

pub(super) async fn the_head_is_the_last_position(world: World) -> Check {
    same("the head of an empty log", &world.head().await?, &Position::START)?;
    for _ in 0..3 {
        let appended = world.put(world.events(&world.stream("a"), 2)).await?;
        same("the head", &world.head().await?, &appended.position)?;
        let slice = world.read_log(Position::START, by_names(&["Never"])).await?;
        same("the head beside a read", &slice.head.position, &appended.position)?;
    }
    Ok(())
}

pub(super) async fn a_log_has_one_id(world: World) -> Check {
    let log = world.log.head(world.home).await?.log;
    let appended = world.put(world.events(&world.stream("a"), 1)).await?;
    same("the id beside an append", &appended.log, &log)?;
    let slice = world.read_log(Position::START, Query::all()).await?;
    same("the id beside a read", &slice.head.log, &log)?;
    same("the id later on", &world.log.head(world.home).await?.log, &log)
}

pub(super) async fn another_log_has_another_id(world: World) -> Check {
    let other = world.fresh().await?;
    let (one, two) = (world.log.head(world.home).await?.log, other.log.head(other.home).await?.log);
    ensure!(one != two, "two logs have the id {one}");
    Ok(())
}

pub(super) async fn a_log_keeps_its_id(world: World) -> Check {
    let log = world.log.head(world.home).await?.log;
    let other = world.again().await?;
    same("the id by another handle", &other.log.head(other.home).await?.log, &log)
}

pub(super) async fn each_event_lies_in_the_partition_of_its_stream(world: World) -> Check {
    let streams = [world.stream("a"), world.elsewhere("b"), world.elsewhere("c"), world.stream("d")];
    for stream in &streams {
        world.put(vec![world.event(stream)]).await?;
    }
    let mut seen = BTreeSet::new();
    for partition in (0..world.capabilities.partitions).map(Partition::new) {
        for event in world.log_events_of(partition, &Query::all()).await? {
            same("the partition that the event tells", &event.meta.partition, &partition)?;
            same("its stream's", &world.log.partition_of(&event.meta.stream), &partition)?;
            seen.insert(event.meta.stream.clone());
        }
    }
    same("the streams seen", &seen, &streams.into_iter().collect())
}

pub(super) async fn partitions_have_positions_of_their_own(world: World) -> Check {
    let (here, there) = (world.stream("a"), world.elsewhere("a"));
    let events = world.events(&here, 2);
    let expected = new_ids(&events);
    world.put(events).await?;
    let before = world.head().await?;
    world.put(world.events(&there, 3)).await?;
    same("the head, after an append elsewhere", &world.head().await?, &before)?;
    same("the events here", &ids(&world.log_events(&Query::all()).await?), &expected)
}

pub(super) async fn a_stream_stays_in_its_partition(world: World) -> Check {
    let other = world.again().await?;
    for name in ["a", "b", "c", "d", "e", "f", "g", "h"] {
        let stream = super::kit::stream(&format!("Probe/{name}"));
        let partition = world.log.partition_of(&stream);
        let there = world.capabilities.partitions;
        ensure!(partition.get() < there, "{stream} lies in partition {partition} of {there}");
        same(format!("the partition of {stream}"), &other.log.partition_of(&stream), &partition)?;
        same("the same, asked again", &world.log.partition_of(&stream), &partition)?;
    }
    Ok(())
}

pub(super) async fn a_position_comes_with_its_event(world: World) -> Check {
    super::rewound::check_points(&world, &world.stream("a")).await
}
