//! Resets: a consumer begins at the start of the log again.

use std::collections::BTreeMap;

use bytes::Bytes;
use cqrs_core::error::StoreErrorKind;
use cqrs_core::id::Partition;
use cqrs_core::read_store::{
    Batch, Checkpoint, Collection, CommitError, Entry, RangeRead, Record, RecordContent,
};

use super::entries::{Documents, at, batch_of, list, put, put_in};
use super::kit::{Check, Got, World, ensure, fail, same, skip};

const INDEX: Collection = Collection::new("index");

fn batch(consumer: &str, epoch: u64, from: Option<Checkpoint>, position: u64) -> Batch {
    let writes = ["a", "b"].map(|key| put(key, &position.to_string())).to_vec();
    batch_of(consumer, epoch, from, at(position)).with_writes(writes)
}

/// A consumer with a record, documents and a checkpoint at position 1; its epoch.
async fn filled(documents: &Documents, consumer: &str) -> Got<u64> {
    if documents.read_capabilities().records {
        let revision = documents.record(consumer).await?.revision;
        let reads = BTreeMap::from([("Probed".to_owned(), 1)]);
        documents.set_record(consumer, revision, RecordContent { reads, ..RecordContent::default() }).await?;
    }
    let epoch = documents.claim(consumer).await?.epoch;
    let mut first = batch(consumer, epoch, None, 1);
    if documents.read_capabilities().collections {
        first.writes.push(put_in(&INDEX, "a", ""));
    }
    documents.commit(first).await?;
    Ok(epoch)
}

/// The read store, if it can reset consumers.
async fn resettable(world: &World) -> Got<Documents> {
    let documents = world.documents()?;
    reset(&documents, "nobody").await?;
    Ok(documents)
}

async fn reset(documents: &Documents, consumer: &str) -> Check {
    match documents.reset(consumer).await {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == StoreErrorKind::Unsupported => {
            skip("the read store cannot reset a consumer")
        }
        Err(error) => Err(error.into()),
    }
}

type Kept = (Option<Checkpoint>, RecordContent, Vec<(String, Bytes)>, Vec<Entry>);

async fn kept(documents: &Documents, consumer: &str) -> Got<Kept> {
    let Record { content, .. } = documents.record(consumer).await?;
    let checkpoint = documents.checkpoint(consumer, Partition::ONLY).await?;
    let index = documents.range(RangeRead::new(consumer, INDEX, 1_000)).await?;
    Ok((checkpoint, content, list(documents, consumer, None, 1_000).await?, index))
}

pub(super) async fn a_reset_removes_what_a_consumer_has(world: World) -> Check {
    let documents = resettable(&world).await?;
    for consumer in ["p", "p", "never known"] {
        if consumer == "p" {
            filled(&documents, consumer).await?;
        }
        reset(&documents, consumer).await?;
        let nothing = (None, RecordContent::default(), Vec::new(), Vec::new());
        same("what is left after a reset", &kept(&documents, consumer).await?, &nothing)?;
        let claim = documents.claim(consumer).await?;
        same("the checkpoints of a claim after a reset", &claim.checkpoints, &BTreeMap::new())?;
        documents.commit(batch(consumer, claim.epoch, None, 1)).await?;
        reset(&documents, consumer).await?;
    }
    Ok(())
}

pub(super) async fn a_reset_fences_the_owner(world: World) -> Check {
    let documents = resettable(&world).await?;
    let epoch = filled(&documents, "p").await?;
    reset(&documents, "p").await?;
    let before = kept(&documents, "p").await?;
    for from in [None, Some(at(1))] {
        match documents.commit(batch("p", epoch, from, 2)).await {
            Err(CommitError::Fenced) => {}
            other => return fail(format!("expected the former owner to be fenced, got {other:?}")),
        }
    }
    same("what is there after a fenced batch", &kept(&documents, "p").await?, &before)?;
    let next = documents.claim("p").await?.epoch;
    ensure!(next > epoch, "a claim after a reset gave epoch {next}, and there was {epoch} before");
    Ok(())
}

pub(super) async fn a_reset_changes_no_other_consumer(world: World) -> Check {
    let documents = resettable(&world).await?;
    let others = ["P", "p ", "p2", "", "q"].map(|end| format!("other {end}"));
    let mut before = Vec::new();
    for other in &others {
        let epoch = filled(&documents, other).await?;
        before.push((epoch, kept(&documents, other).await?));
    }
    filled(&documents, "other p").await?;
    reset(&documents, "other p").await?;
    for (other, (epoch, there)) in others.iter().zip(before) {
        let what = format!("what {other:?} has after another consumer was reset");
        same(what, &kept(&documents, other).await?, &there)?;
        documents.commit(batch(other, epoch, Some(at(1)), 2)).await?;
    }
    Ok(())
}

pub(super) async fn a_reset_raises_the_revision(world: World) -> Check {
    let documents = resettable(&world).await?;
    filled(&documents, "p").await?;
    let before = documents.record("p").await?.revision;
    reset(&documents, "p").await?;
    let after = documents.record("p").await?.revision;
    ensure!(after > before, "the revision was {before} before a reset, and is {after} after it");
    same("the revision in a claim", &documents.claim("p").await?.revision, &after)
}
