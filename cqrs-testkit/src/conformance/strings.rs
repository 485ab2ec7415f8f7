//! Unusual texts: what differs in a single byte is different, and comes back as it went.

use cqrs_core::event::{Metadata, RecordedEvent};
use cqrs_core::store::{Append, Guard, Query};

use super::kit::{
    Check, Sketch as _, World, by_tags, ensure, expect, forward, key, same, skip, stream, versions,
};

/// Groups of texts that a careless store takes for the same, and texts that break quoting.
pub(super) const TEXTS: [&str; 44] = [
    "a",
    "A",
    "a ",
    " a",
    "a\t",
    "a\n",
    "a\u{1}",
    "\u{1}a",
    "aa",
    "a\u{a0}",
    "a\u{200b}",
    "\u{feff}a",
    // One letter in two normal forms, without its accent, and what a collation sorts beside it.
    "é",
    "e\u{301}",
    "e",
    "É",
    "ß",
    "ss",
    "ı",
    "i",
    "İ",
    "æ",
    "ae",
    "'",
    "''",
    "\"",
    "\\",
    "\\\\",
    "%",
    "_",
    "__",
    "*",
    ">",
    ".",
    "a/b",
    "a//b",
    "a:b",
    "{}",
    "$1",
    "?",
    "NULL",
    "'; DROP TABLE events; --",
    "😀",
    "日本語 \u{202e}",
];

pub(super) async fn streams_with_unusual_ids_are_apart(world: World) -> Check {
    let streams = TEXTS.map(|text| stream(&format!("Probe/{text}")));
    for stream in &streams {
        let append =
            world.append(vec![world.event(stream)], expect(stream, cqrs_core::store::Expected::NoStream));
        append.await?;
    }
    for stream in &streams {
        let events = world.stream_events(stream).await?;
        same(format!("the versions of {stream:?}"), &versions(&events), &vec![1])?;
        ensure!(events[0].meta.stream == *stream, "{stream:?} came back as {:?}", events[0].meta.stream);
    }
    Ok(())
}

pub(super) async fn categories_are_apart(world: World) -> Check {
    for name in ["Probe/1", "probe/1", "Probe /1", "Prob/e1", "Probé/1", "Pro%/1", "Pro'be/1"] {
        let stream = stream(name);
        world.put(vec![world.event(&stream)]).await?;
        same(format!("the versions of {name:?}"), &versions(&world.stream_events(&stream).await?), &vec![1])?;
    }
    Ok(())
}

pub(super) async fn long_stream_ids_differ_in_their_last_letter(world: World) -> Check {
    let most = world.log.limits().stream_bytes;
    let size = most.min(10_000);
    ensure!(size > 10, "stream ids may have {most} bytes only");
    let long = "s".repeat(size - 8);
    for last in ["1", "2"] {
        let stream = stream(&format!("Probe/{long}{last}"));
        world.put(vec![world.event(&stream)]).await?;
        same("the versions", &versions(&world.stream_events(&stream).await?), &vec![1])?;
    }
    Ok(())
}

pub(super) async fn unusual_event_names_are_apart(world: World) -> Check {
    let stream = world.stream("a");
    for text in TEXTS {
        world.put(vec![world.event(&stream).named(text)]).await?;
    }
    for text in TEXTS {
        let events = world.log_events(&Query::names([text])).await?;
        let names: Vec<&str> = events.iter().map(|event| &*event.name).collect();
        same(format!("the events called {text:?}"), &names, &vec![text])?;
    }
    Ok(())
}

pub(super) async fn unusual_tags_are_apart(world: World) -> Check {
    let stream = world.stream("a");
    let tags = TEXTS.map(|text| format!("tag:{text}"));
    for tag in &tags {
        let absent = Guard::Absent(by_tags(&[tag]));
        world.append(vec![world.event(&stream).tagged(&[tag])], absent).await?;
    }
    for tag in &tags {
        let events = world.log_events(&by_tags(&[tag])).await?;
        same(format!("the events with the tag {tag:?}"), &events.len(), &1)?;
    }
    Ok(())
}

pub(super) async fn unusual_keys_are_apart(world: World) -> Check {
    let stream = world.stream("a");
    for text in TEXTS {
        let append = Append::new(vec![world.event(&stream)], Guard::Any);
        world.append_with(&key(&stream, text), append).await?;
    }
    Ok(())
}

pub(super) async fn unusual_metadata_is_kept(world: World) -> Check {
    let stream = world.stream("a");
    let mut metadata = Metadata::new().correlation("c\u{1}'\"").causation("%_\\").actor("日本語 😀");
    for text in TEXTS {
        metadata = metadata.entry(text, text);
    }
    if metadata.size() > world.log.limits().metadata_bytes {
        return skip("the store's metadata are too short for it");
    }
    world.put(vec![world.event(&stream).about(metadata.clone())]).await?;
    let events = world.slice(forward(&stream, cqrs_core::id::Version::new(1))).await?.events;
    let kept = events.first().map(|event: &std::sync::Arc<RecordedEvent>| &*event.meta.metadata);
    same("the metadata", &kept, &Some(&metadata))
}

/// The texts themselves are all different, as the rules take for granted.
#[test]
fn texts_differ() {
    assert_eq!(TEXTS.iter().collect::<std::collections::BTreeSet<_>>().len(), TEXTS.len());
}
