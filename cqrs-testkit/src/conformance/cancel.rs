//! Futures that are dropped before they are ready.

use std::time::Duration;

use cqrs_core::id::{Position, Version};
use cqrs_core::store::{Append, AppendError, Expected, Query};

use super::kit::{Abandon, Check, World, ensure, expect, forward, key, same};

const BATCH: usize = 4;

pub(super) async fn a_dropped_append_is_whole_or_nothing(world: World) -> Check {
    for (round, point) in Abandon::points().enumerate() {
        let stream = world.stream(&format!("dropped-{round}"));
        let append = Append::new(world.events(&stream, BATCH), expect(&stream, Expected::NoStream));
        let done = point.drop(world.log.append(append)).await;
        for _ in 0..3 {
            let count = world.slice(forward(&stream, Version::new(1))).await?.version.get();
            let whole = count == 0 || count == BATCH as u64;
            ensure!(whole, "an append of {BATCH} events dropped at {point:?} wrote {count} of them");
            ensure!(done.is_none() || count > 0, "an append that was ready before the drop is not there");
            tokio::time::sleep(Duration::from_micros(300)).await;
        }
    }
    Ok(())
}

pub(super) async fn nothing_hangs_after_a_dropped_append(world: World) -> Check {
    let stream = world.stream("a");
    for point in Abandon::points() {
        let _ = point
            .drop(world.log.append(Append::new(world.events(&stream, 2), cqrs_core::store::Guard::Any)))
            .await;
        world.soon("an append after a dropped one", world.fill(&stream, 1)).await??;
        world.soon("a read after a dropped append", world.stream_events(&stream)).await??;
    }
    Ok(())
}

/// The key tells what became of an append whose future was dropped.
pub(super) async fn a_dropped_append_is_resolved_by_its_key(world: World) -> Check {
    for (round, point) in Abandon::points().enumerate() {
        let stream = world.stream(&format!("dropped-{round}"));
        let key = key(&stream, &format!("command-{round}"));
        let append = || {
            Append::new(world.events(&stream, 2), cqrs_core::store::Guard::Any).with_key(Some(key.clone()))
        };
        let _ = point.drop(world.log.append(append())).await;
        match world.soon("the second try", world.log.append(append())).await? {
            Ok(_) | Err(AppendError::Duplicate(_)) => {}
            Err(error) => return Err(error.into()),
        }
        let length = world.stream_events(&stream).await?.len();
        same(format!("the stream after a second try (dropped at {point:?})"), &length, &2)?;
    }
    Ok(())
}

pub(super) async fn a_dropped_read_has_no_effect(world: World) -> Check {
    let stream = world.stream("a");
    world.fill(&stream, 3).await?;
    let read = || world.log_read(Position::START, Query::all());
    for point in Abandon::points() {
        let _ = point.drop(world.log.read_stream(forward(&stream, Version::new(1)))).await;
        let _ = point.drop(world.log.read_log(read())).await;
        let _ = point.drop(world.log.head(world.home)).await;
        let later = world.soon("a read after a dropped one", world.stream_events(&stream)).await??;
        same("the stream's length", &later.len(), &3)?;
        world.soon("a read of the log", world.log_events(&Query::all())).await??;
    }
    Ok(())
}
