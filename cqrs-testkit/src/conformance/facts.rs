//! Events are handed back as they were appended.

use std::fmt::Debug;

use bytes::Bytes;
use cqrs_core::event::{Metadata, NewEvent, RecordedEvent, Timestamp};
use cqrs_core::id::Version;
use cqrs_core::store::{Direction, Query, StreamRead};
use uuid::Uuid;

use super::kit::{Check, Event, Got, Lent, Sketch as _, World, fail, forward, same, tags};

/// Appends the event and compares a part of it with what three kinds of read give back.
async fn kept<T: PartialEq + Debug>(
    world: &World,
    what: &str,
    event: NewEvent,
    part: impl Fn(&RecordedEvent) -> T,
    expected: &T,
) -> Check {
    let stream = event.stream.clone();
    let appended = world.put(vec![event]).await?;
    let version = appended.version_of(&stream).unwrap_or_default();
    let by_stream = world.slice(forward(&stream, version)).await?.events;
    let from_behind = StreamRead { direction: Direction::Backward, ..forward(&stream, version) };
    let by_stream_backward = world.slice(from_behind).await?.events;
    let mut by_log = world.log_events(&Query::all()).await?;
    by_log.retain(|event| event.meta.stream == stream && event.meta.version == version);
    for (way, events) in [("stream", by_stream), ("stream, backward", by_stream_backward), ("log", by_log)] {
        same(format!("{what}, read by {way}"), &part(&*only(events)?), expected)?;
    }
    Ok(())
}

fn only(events: Vec<Event>) -> Got<Event> {
    events.into_iter().next().map_or_else(|| fail("the event that was just appended is not there"), Ok)
}

pub(super) async fn ids_names_and_schema_versions_are_kept(world: World) -> Check {
    let stream = world.stream("a");
    for schema_version in [1, 7, i32::MAX.unsigned_abs()] {
        let name = format!("Probed{schema_version}");
        let event = NewEvent { schema_version, ..world.event(&stream).named(name.clone()) };
        let expected = (event.id, stream.clone(), name, schema_version);
        let part = |event: &RecordedEvent| {
            (event.meta.id, event.meta.stream.clone(), event.name.to_string(), event.schema_version)
        };
        kept(&world, "id, stream, name and schema version", event, part, &expected).await?;
    }
    let max = NewEvent { id: Uuid::max(), ..world.event(&stream) };
    kept(&world, "the greatest id", max, |event| event.meta.id, &Uuid::max()).await
}

pub(super) async fn payloads_are_kept_byte_for_byte(world: World) -> Check {
    let stream = world.stream("a");
    let all_bytes: Vec<u8> = (0..=255).collect();
    let payloads: [&[u8]; 9] = [
        b"",
        b"null",
        b" {\"b\" : 1,\n\t\"a\": 2}  ",
        b"{\"a\":1,\"a\":2}",
        br#"{"nul":"\u0000","half":"\ud800"}"#,
        b"{\"big\":123456789012345678901234567890,\"exact\":1.10,\"exponent\":1E2}",
        b"\0",
        b"\xff\xfe not UTF-8 \xc3",
        &all_bytes,
    ];
    for payload in payloads {
        let event = world.event(&stream).saying(payload.to_vec());
        kept(&world, "the payload", event, |event| event.payload.clone(), &Bytes::copy_from_slice(payload))
            .await?;
    }
    Ok(())
}

pub(super) async fn times_are_kept_to_the_microsecond(world: World) -> Check {
    let stream = world.stream("a");
    // 1970, an odd microsecond, one behind 2038, and the last one of the year 9999.
    for micros in [0, 1_700_000_000_654_321, 4_102_444_800_000_001, 253_402_300_799_999_999] {
        let time = Timestamp::from_micros(micros);
        let event = NewEvent { time, ..world.event(&stream) };
        kept(&world, "the time", event, |event| event.meta.time, &time).await?;
    }
    Ok(())
}

pub(super) async fn tags_are_kept(world: World) -> Check {
    let stream = world.stream("a");
    let sets: [&[&str]; 4] = [&[], &["a:1"], &["b:2", "a:1", "a:2"], &["no colon", ":", "a:b:c"]];
    for set in sets {
        let event = world.event(&stream).tagged(set);
        kept(&world, "the tags", event, |event| event.tags.clone(), &tags(set)).await?;
    }
    Ok(())
}

pub(super) async fn metadata_is_kept(world: World) -> Check {
    let stream = world.stream("a");
    let full = Metadata::new().correlation("c").causation("because").actor("me").entry("k", "v");
    let all = [
        Metadata::new(),
        // An empty text is not the same as none.
        Metadata::new().correlation("").entry("", "").entry("empty", ""),
        full.entry("quote", "\"'\\").entry("correlation", "another"),
    ];
    for metadata in all {
        let event = world.event(&stream).about(metadata.clone());
        let part = |event: &RecordedEvent| Metadata::clone(&event.meta.metadata);
        kept(&world, "the metadata", event, part, &metadata).await?;
    }
    Ok(())
}

pub(super) async fn a_fold_is_lent_what_it_needs(world: World) -> Check {
    let stream = world.stream("a");
    let event = NewEvent { schema_version: 3, ..world.event(&stream).named("Folded") };
    let appended = world.put(vec![event.clone()]).await?;
    let expected = Lent {
        id: event.id,
        version: Version::new(1),
        position: appended.position,
        name: "Folded".to_owned(),
        schema_version: 3,
        payload: event.payload.to_vec(),
    };
    same("what is lent", &world.folded(&stream, 1, usize::MAX).await?, &vec![expected])
}
