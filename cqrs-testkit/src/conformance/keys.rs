//! Idempotency keys.

use cqrs_core::event::NewEvent;
use cqrs_core::id::{Position, Version};
use cqrs_core::store::{
    Append, AppendError, Appended, CommandKey, Content, Expected, Guard, KeyOwner, Query,
};

use super::kit::{
    Check, Failure, Got, Sketch as _, World, at_version, by_names, ensure, expect, fail, join, key, same,
    together,
};

/// The second append with a key must give what the first one gave.
async fn duplicate(world: &World, key: &CommandKey, append: Append) -> Got<Appended> {
    match world.append_with(key, append).await {
        Err(AppendError::Duplicate(first)) => Ok(first),
        other => fail(format!("expected the key {:?} to be there already, got {other:?}", key.key)),
    }
}

fn free(events: Vec<NewEvent>) -> Append {
    Append::new(events, Guard::Any)
}

pub(super) async fn a_second_append_gives_what_the_first_gave(world: World) -> Check {
    let stream = world.stream("a");
    let key = key(&stream, "command-1");
    let events = world.events(&stream, 2);
    let first = world.append_with(&key, free(events.clone())).await?;
    world.fill(&stream, 2).await?;
    // The very same, and another one under the same key.
    same("what it gives", &duplicate(&world, &key, free(events)).await?, &first)?;
    same("what it gives", &duplicate(&world, &key, free(world.events(&stream, 1))).await?, &first)?;
    same("the stream's length", &world.stream_events(&stream).await?.len(), &4)
}

pub(super) async fn a_key_comes_back_with_its_owner(world: World) -> Check {
    let stream = world.stream("a");
    let content = Some(Content { shape: u64::MAX, value: 1 << 63 });
    let owners = [
        KeyOwner::Request,
        KeyOwner::Command { name: "Deposit".into(), content },
        KeyOwner::Command { name: "Dépôt \"1\"".into(), content: None },
    ];
    for (number, owner) in owners.into_iter().enumerate() {
        let key = key(&stream, &format!("command-{number}"));
        let append = || free(world.events(&stream, 1)).with_owner(Some(owner.clone()));
        world.append_with(&key, append()).await?;
        let other = append().with_owner(Some(KeyOwner::Request));
        same("the owner of a key", &duplicate(&world, &key, other).await?.owner, &Some(owner.clone()))?;
        let found = world.log.find_key(&key).await?.and_then(|first| first.owner);
        same("the owner of a key that is looked up", &found, &Some(owner))?;
    }
    Ok(())
}

pub(super) async fn the_key_is_checked_before_the_guard(world: World) -> Check {
    let stream = world.stream("a");
    let key = key(&stream, "command-1");
    let append = || Append::new(world.events(&stream, 1), expect(&stream, Expected::NoStream));
    world.append_with(&key, append()).await?;
    duplicate(&world, &key, append()).await.map(drop)
}

pub(super) async fn keys_of_other_streams_are_others(world: World) -> Check {
    let (a, b) = (world.stream("a"), world.stream("b"));
    world.append_with(&key(&a, "command-1"), free(world.events(&a, 1))).await?;
    world.append_with(&key(&b, "command-1"), free(world.events(&b, 1))).await?;
    world.append_with(&key(&b, "command-2"), free(world.events(&b, 1))).await?;
    Ok(())
}

pub(super) async fn a_refused_append_records_no_key(world: World) -> Check {
    let stream = world.stream("a");
    let taken = world.event(&stream);
    world.put(vec![taken.clone()]).await?;
    let conflict = Append::new(world.events(&stream, 1), at_version(&stream, 5));
    for (name, append) in [("conflict", conflict), ("invalid", free(vec![taken]))] {
        let key = key(&stream, name);
        let refused = world.append_with(&key, append).await;
        ensure!(refused.is_err(), "the append was accepted: {refused:?}");
        world.append_with(&key, free(world.events(&stream, 1))).await?;
    }
    Ok(())
}

pub(super) async fn a_key_comes_without_events(world: World) -> Check {
    let stream = world.stream("a");
    let head = world.fill(&stream, 2).await?.pop().map(|appended| appended.position);
    let key = key(&stream, "nothing to do");
    let first = world.append_with(&key, free(Vec::new())).await?;
    same("the position", &Some(first.position), &head)?;
    same("the versions", &first.versions, &vec![(stream.clone(), Version::new(2))])?;
    same("the second time", &duplicate(&world, &key, free(world.events(&stream, 1))).await?, &first)
}

pub(super) async fn a_key_without_events_still_has_a_guard(world: World) -> Check {
    let stream = world.stream("a");
    let key = key(&stream, "command-1");
    let refused = world.append_with(&key, Append::new(Vec::new(), at_version(&stream, 1))).await;
    ensure!(matches!(refused, Err(AppendError::Conflict(_))), "expected a conflict, got {refused:?}");
    Ok(())
}

pub(super) async fn a_key_can_be_looked_up(world: World) -> Check {
    let (a, b) = (world.stream("a"), world.stream("b"));
    let find = |key| async { Ok::<_, Failure>(world.log.find_key(&{ key }).await?) };
    same("a key that was not used", &find(key(&a, "command-1")).await?, &None)?;
    let first = world.append_with(&key(&a, "command-1"), free(world.events(&a, 2))).await?;
    world.fill(&a, 1).await?;
    same("a key that was used", &find(key(&a, "command-1")).await?, &Some(first))?;
    same("another key", &find(key(&a, "command-2")).await?, &None)?;
    same("the key of another stream", &find(key(&b, "command-1")).await?, &None)
}

pub(super) async fn a_key_is_there_as_soon_as_its_events_are(world: World) -> Check {
    let stream = world.stream("a");
    let writer = {
        let (world, stream) = (world.clone(), stream.clone());
        tokio::spawn(async move {
            for round in 1..=30 {
                let name = round.to_string();
                let event = world.event(&stream).saying(name.clone());
                world.append_with(&key(&stream, &name), free(vec![event])).await?;
                tokio::task::yield_now().await;
            }
            Ok::<_, Failure>(())
        })
    };
    let mut after = Position::START;
    while !writer.is_finished() {
        for event in world.read_log(after, Query::all()).await?.events {
            after = event.meta.position;
            let key = key(&stream, &String::from_utf8_lossy(&event.payload));
            let found = world.log.find_key(&key).await?;
            ensure!(found.is_some(), "the events of the key {:?} are there, the key is not", key.key);
        }
        tokio::task::yield_now().await;
    }
    join(vec![writer]).await?.into_iter().collect()
}

pub(super) async fn racing_appends_with_one_key_write_once(world: World) -> Check {
    let stream = world.stream("a");
    for round in 0..15 {
        let racers = (0..8).map(|_| {
            let (world, stream) = (world.clone(), stream.clone());
            async move {
                let append = Append::new(world.events(&stream, 1), Guard::Absent(by_names(&["Never"])));
                world.append_with(&key(&stream, &round.to_string()), append).await
            }
        });
        let mut first = Vec::new();
        for outcome in together(racers).await? {
            match outcome {
                Ok(appended) | Err(AppendError::Duplicate(appended)) => first.push(appended),
                Err(error) => return Err(error.into()),
            }
        }
        first.dedup();
        same("the different answers to one key", &first.len(), &1)?;
        let written = world.stream_events(&stream).await?.len();
        same("the events written", &written, &(round + 1))?;
    }
    Ok(())
}
