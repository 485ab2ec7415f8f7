//! Limits: what lies at the limit is accepted, and what lies one over it is refused.

use cqrs_core::error::StoreErrorKind;
use cqrs_core::event::{Metadata, NewEvent, Tag};
use cqrs_core::id::{StreamId, Version};
use cqrs_core::store::{Append, Guard};

use super::kit::{
    Check, Sketch as _, World, at_version, by_names, by_tags, ensure, forward, key, same, skip, stream,
};

/// More than this is not tried.
const MOST: usize = 64 << 20;

/// Tries an append whose size is the limit, and one that is one larger.
async fn limit(world: World, word: &str, limit: usize, append: impl Fn(&World, usize) -> Append) -> Check {
    if limit > MOST {
        return skip(format!("the limit of {limit} is too large to try"));
    }
    refused(&world, append(&world, limit + 1), word, limit).await?;
    world.log.append(append(&world, limit)).await?;
    refused(&world, append(&world, limit + 1), word, limit).await
}

async fn refused(world: &World, append: Append, word: &str, limit: usize) -> Check {
    let message = world.refused(append, StoreErrorKind::Invalid).await?;
    let named = message.contains(word) && message.contains(&limit.to_string());
    ensure!(named, "the message does not name the {word} and its limit of {limit}: {message}");
    Ok(())
}

fn one(event: NewEvent) -> Append {
    Append::new(vec![event], Guard::Any)
}

pub(super) async fn a_batch_may_have_so_many_events(world: World) -> Check {
    let most = world.log.limits().batch_events;
    limit(world, "batch", most, |world, size| Append::new(world.events(&world.stream("a"), size), Guard::Any))
        .await
}

pub(super) async fn an_append_may_have_so_many_bytes(world: World) -> Check {
    let limits = world.log.limits();
    limit(world, "total", limits.append_bytes, |world, size| {
        let each = limits.payload_bytes.min(size).max(1);
        let mut left = size;
        let mut events = Vec::new();
        while left > 0 {
            let payload = vec![b'7'; each.min(left)];
            left -= payload.len();
            events.push(world.event(&world.stream("a")).about(Metadata::new()).saying(payload));
        }
        Append::new(events, Guard::Any)
    })
    .await
}

pub(super) async fn a_payload_may_be_so_long(world: World) -> Check {
    let most = world.log.limits().payload_bytes;
    limit(world, "payload", most, |world, size| one(world.event(&world.stream("a")).saying(vec![b'7'; size])))
        .await
}

pub(super) async fn metadata_may_be_so_long(world: World) -> Check {
    let most = world.log.limits().metadata_bytes;
    limit(world, "metadata", most, |world, size| {
        let (actor, rest) = ("me", size.saturating_sub(7));
        let metadata = Metadata::new().actor(actor).entry("entry", "v".repeat(rest));
        one(world.event(&world.stream("a")).about(metadata))
    })
    .await
}

pub(super) async fn an_event_name_may_be_so_long(world: World) -> Check {
    let most = world.log.limits().name_bytes;
    limit(world, "name", most, |world, size| one(world.event(&world.stream("a")).named("N".repeat(size))))
        .await
}

pub(super) async fn a_stream_id_may_be_so_long(world: World) -> Check {
    let most = world.log.limits().stream_bytes;
    let long = |size: usize| stream(&format!("Probe/{}", "s".repeat(size.saturating_sub(6))));
    limit(world, "stream", most, |world, size| one(world.event(&long(size)))).await
}

pub(super) async fn an_event_may_have_so_many_tags(world: World) -> Check {
    let most = world.log.limits().tags;
    limit(world, "tag", most, |world, size| {
        let mut event = world.event(&world.stream("a"));
        event.tags = (0..size).map(|number| Tag::new("number", &number)).collect();
        one(event)
    })
    .await
}

pub(super) async fn a_tag_may_be_so_long(world: World) -> Check {
    let most = world.log.limits().tag_bytes;
    // Two bytes a letter, as the limit is in bytes.
    limit(world, "tag", most, |world, size| {
        let mut tag = "t:".to_owned();
        (0..size.saturating_sub(2) / 2).for_each(|_| tag.push('ä'));
        (tag.len()..size).for_each(|_| tag.push('x'));
        one(world.event(&world.stream("a")).tagged(&[&tag]))
    })
    .await
}

pub(super) async fn a_key_may_be_so_long(world: World) -> Check {
    let most = world.log.limits().key_bytes;
    limit(world, "key", most, |world, size| {
        let stream = world.stream("a");
        one(world.event(&stream)).with_key(Some(key(&stream, &"k".repeat(size))))
    })
    .await
}

/// The last of three events is invalid.
fn invalid(world: &World, stream: &StreamId) -> Vec<NewEvent> {
    let mut events = world.events(stream, 3);
    events.iter_mut().skip(2).for_each(|event| event.schema_version = 0);
    events
}

pub(super) async fn an_invalid_append_leaves_nothing(world: World) -> Check {
    let stream = world.stream("a");
    let mut events = invalid(&world, &stream);
    let key = || Some(key(&stream, "command-1"));
    let append = Append::new(events.clone(), Guard::Any).with_key(key());
    world.refused(append, StoreErrorKind::Invalid).await?;
    same("the stream's length", &world.stream_events(&stream).await?.len(), &0)?;
    events.iter_mut().for_each(|event| event.schema_version = 1);
    world.log.append(Append::new(events, Guard::Any).with_key(key())).await?;
    Ok(())
}

pub(super) async fn limits_are_checked_before_the_guard(world: World) -> Check {
    let stream = world.stream("a");
    for guard in [at_version(&stream, 9), Guard::All(vec![at_version(&stream, 9), absent()])] {
        let append = Append::new(invalid(&world, &stream), guard);
        world.refused(append, StoreErrorKind::Invalid).await?;
    }
    Ok(())
}

fn absent() -> Guard {
    Guard::Absent(by_names(&["Never"]))
}

pub(super) async fn an_event_has_a_name_and_a_schema_version(world: World) -> Check {
    let stream: StreamId = world.stream("a");
    let nameless = world.event(&stream).named("");
    let versionless = NewEvent { schema_version: 0, ..world.event(&stream) };
    for event in [nameless, versionless] {
        world.refused(one(event), StoreErrorKind::Invalid).await?;
    }
    Ok(())
}

pub(super) async fn no_text_has_a_nul(world: World) -> Check {
    let stream = world.stream("a");
    let nul = with_nul(&stream);
    let event = || world.event(&stream);
    let mut appends = vec![
        one(world.event(&nul)),
        one(event().named("Pro\0bed")),
        one(event().about(Metadata::new().correlation("a\0"))),
        one(event().about(Metadata::new().causation("\0a"))),
        one(event().about(Metadata::new().actor("\0"))),
        one(event().about(Metadata::new().entry("a\0", "a"))),
        one(event().about(Metadata::new().entry("a", "a\0"))),
        one(event()).with_key(Some(key(&stream, "k\0"))),
        Append::new(vec![event()], Guard::All(vec![at_version(&nul, 0)])),
        Append::new(vec![event()], Guard::Absent(by_names(&["N\0"]))),
    ];
    if world.capabilities.tags {
        appends.push(one(event().tagged(&["t:\0"])));
        appends.push(Append::new(vec![event()], Guard::Absent(by_tags(&["t:\0"]))));
    }
    for append in appends {
        let text = format!("{append:?}");
        let message = world.refused(append, StoreErrorKind::Invalid).await?;
        ensure!(message.contains("U+0000"), "the message does not name the character: {message} for {text}");
    }
    same("the stream's length", &world.stream_events(&stream).await?.len(), &0)
}

fn with_nul(like: &StreamId) -> StreamId {
    stream(&format!("{like}\0b"))
}

pub(super) async fn what_has_a_nul_is_not_there(world: World) -> Check {
    let plain = world.stream("a");
    let append = one(world.event(&plain).named("N")).with_key(Some(key(&plain, "k")));
    world.log.append(append).await?;
    let slice = world.slice(forward(&with_nul(&plain), Version::NONE)).await?;
    same("the version of a stream that cannot be", &slice.version, &Version::NONE)?;
    same("its events", &slice.events.len(), &0)?;
    for key in [key(&plain, "k\0"), key(&with_nul(&plain), "k")] {
        same("what is found for a key that cannot be", &world.log.find_key(&key).await?, &None)?;
    }
    same("the events of a name that cannot be", &world.log_events(&by_names(&["N\0"])).await?.len(), &0)?;
    if world.capabilities.tags {
        let none = world.log_events(&by_tags(&["t:\0"])).await?;
        same("the events with a tag that cannot be", &none.len(), &0)?;
    }
    Ok(())
}
