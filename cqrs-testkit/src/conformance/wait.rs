//! Waiting for news.

use cqrs_core::id::{Partition, Position};

use super::kit::{Abandon, Check, World, join, skip};

/// A store may say that it cannot wait; its callers poll.
async fn wait(world: &World, after: Position) -> Check {
    match world.soon("waiting for news", world.log.wait(world.home, after)).await? {
        Ok(()) => Ok(()),
        Err(error) => skip(format!("the store cannot wait: {error}")),
    }
}

pub(super) async fn waiting_for_what_is_there_ends_at_once(world: World) -> Check {
    world.fill(&world.stream("a"), 3).await?;
    wait(&world, Position::START).await?;
    let head = world.head().await?;
    wait(&world, Position::new(head.get() - 1)).await
}

pub(super) async fn waiting_ends_with_an_append(world: World) -> Check {
    for _ in 0..5 {
        let head = world.head().await?;
        let waiting = {
            let world = world.clone();
            tokio::spawn(async move { wait(&world, head).await })
        };
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        world.fill(&world.stream("a"), 1).await?;
        join(vec![waiting]).await?.into_iter().collect::<Check>()?;
    }
    Ok(())
}

pub(super) async fn all_who_wait_are_woken(world: World) -> Check {
    let head = world.head().await?;
    let mut waiting = Vec::new();
    for _ in 0..5 {
        let world = world.clone();
        waiting.push(tokio::spawn(async move { wait(&world, head).await }));
    }
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
    world.fill(&world.stream("a"), 1).await?;
    join(waiting).await?.into_iter().collect()
}

pub(super) async fn a_dropped_wait_has_no_effect(world: World) -> Check {
    for point in Abandon::points() {
        let head = world.head().await?;
        let _ = point.drop(world.log.wait(world.home, head)).await;
        world.soon("an append after a dropped wait", world.fill(&world.stream("a"), 1)).await??;
    }
    Ok(())
}

pub(super) async fn waiting_is_for_one_partition(world: World) -> Check {
    let other: Partition = world.log.partition_of(&world.elsewhere("a"));
    world.fill(&world.elsewhere("a"), 1).await?;
    match world.soon("waiting for another partition", world.log.wait(other, Position::START)).await? {
        Ok(()) => Ok(()),
        Err(error) => skip(format!("the store cannot wait: {error}")),
    }
}
