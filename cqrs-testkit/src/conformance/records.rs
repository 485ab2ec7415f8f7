//! Records: which events the programs that share a consumer read.

use std::sync::Arc;

use cqrs_core::error::StoreErrorKind;
use cqrs_core::read_store::{Batch, Checkpoint, CommitError, Record, RecordContent};

use super::entries::{Documents, at, batch_of, list, put};
use super::kit::{Check, Failure, Got, World, ensure, fail, same, together};
use super::strings::TEXTS;

/// A content that reads these names.
fn reads(names: &[&str]) -> RecordContent {
    let reads = names.iter().map(|name| ((*name).to_owned(), 1)).collect();
    RecordContent { reads, ..RecordContent::default() }
}

fn batch(epoch: u64, from: Option<Checkpoint>, position: u64) -> Batch {
    batch_of("p", epoch, from, at(position)).with_writes(vec![put("k", &position.to_string())])
}

/// Sets the record of a consumer, which has to work.
async fn set(documents: &Documents, consumer: &str, expected: u64, content: RecordContent) -> Check {
    let done = documents.set_record(consumer, expected, content).await?;
    ensure!(done, "the record of {consumer:?} was not set, although its revision is {expected}");
    Ok(())
}

pub(super) async fn a_new_consumer_has_no_record(world: World) -> Check {
    let documents = world.documents()?;
    same("the record", &documents.record("p").await?, &Record::default())?;
    same("the claimed revision", &documents.claim("p").await?.revision, &0)?;
    same("the record after a claim", &documents.record("p").await?, &Record::default())
}

pub(super) async fn a_record_is_kept(world: World) -> Check {
    let documents = world.documents()?;
    let names = TEXTS.iter().filter(|text| !text.contains('\0'));
    let names = || names.clone().map(|text| (*text).to_owned());
    let contents = [
        reads(&["a"]),
        RecordContent {
            reads: names().zip(1..).collect(),
            adding: names().zip((1..=u32::MAX).rev()).collect(),
            fold: Some(u64::MAX),
        },
        RecordContent { fold: Some(0), ..reads(&[]) },
        reads(&["b", "B"]),
    ];
    for (revision, content) in (0..).zip(contents) {
        set(&documents, "p", revision, content.clone()).await?;
        same("the record", &documents.record("p").await?, &Record { revision: revision + 1, content })?;
    }
    Ok(())
}

pub(super) async fn a_record_of_another_revision_replaces_nothing(world: World) -> Check {
    let documents = world.documents()?;
    set(&documents, "p", 0, reads(&["a"])).await?;
    set(&documents, "p", 1, reads(&["b"])).await?;
    let claim = documents.claim("p").await?;
    for expected in [0, 1, 3, u64::MAX >> 1] {
        let done = documents.set_record("p", expected, reads(&["c"])).await?;
        ensure!(!done, "a record was set for revision {expected}, although it has revision 2");
    }
    same("the record", &documents.record("p").await?, &Record { revision: 2, content: reads(&["b"]) })?;
    // Nor was the owner fenced.
    Ok(documents.commit(batch(claim.epoch, None, 1)).await?)
}

pub(super) async fn racing_records_have_one_winner(world: World) -> Check {
    let documents = world.documents()?;
    for revision in 0..4 {
        let racers = (0..8).map(|racer| {
            let documents = Arc::clone(&documents);
            async move {
                Ok::<_, Failure>(documents.set_record("p", revision, reads(&[&racer.to_string()])).await?)
            }
        });
        let done = together(racers).await?.into_iter().collect::<Got<Vec<bool>>>()?;
        let winners: Vec<usize> = (0..8).filter(|racer| done[*racer]).collect();
        let [winner] = winners[..] else { return fail(format!("of eight racers {winners:?} have won")) };
        let expected = Record { revision: revision + 1, content: reads(&[&winner.to_string()]) };
        same("the record", &documents.record("p").await?, &expected)?;
    }
    Ok(())
}

pub(super) async fn a_changed_record_fences(world: World) -> Check {
    let documents = world.documents()?;
    let claim = documents.claim("p").await?;
    set(&documents, "p", 0, reads(&["a"])).await?;
    match documents.commit(batch(claim.epoch, None, 1)).await {
        Err(CommitError::Fenced) => {}
        other => return fail(format!("expected a batch from before the record to be fenced, got {other:?}")),
    }
    let claim = documents.claim("p").await?;
    documents.commit(batch(claim.epoch, None, 1)).await?;
    let from = Some(batch(0, None, 1).to);
    set(&documents, "p", 1, reads(&["a", "b"])).await?;
    match documents.commit(batch(claim.epoch, from, 2)).await {
        Err(CommitError::Fenced) => {}
        other => return fail(format!("expected a batch from before the record to be fenced, got {other:?}")),
    }
    let claim = documents.claim("p").await?;
    Ok(documents.commit(batch(claim.epoch, from, 2)).await?)
}

pub(super) async fn a_claim_gives_the_revision(world: World) -> Check {
    let documents = world.documents()?;
    for revision in 0..3 {
        same("the claimed revision", &documents.claim("p").await?.revision, &revision)?;
        set(&documents, "p", revision, reads(&["a"])).await?;
    }
    same("the claimed revision", &documents.claim("p").await?.revision, &3)
}

pub(super) async fn a_record_moves_nothing(world: World) -> Check {
    let documents = world.documents()?;
    let claim = documents.claim("p").await?;
    documents.commit(batch(claim.epoch, None, 1)).await?;
    let before = documents.claim("p").await?.checkpoints;
    let listed = list(&documents, "p", None, 10).await?;
    set(&documents, "p", 0, reads(&["a"])).await?;
    same("the checkpoints", &documents.claim("p").await?.checkpoints, &before)?;
    same("the documents", &list(&documents, "p", None, 10).await?, &listed)
}

pub(super) async fn consumers_have_records_of_their_own(world: World) -> Check {
    let documents = world.documents()?;
    let mut consumers = Vec::new();
    for consumer in ["p", "P", "p ", "q"] {
        let record = documents.record(consumer).await?;
        same(format!("the revision of {consumer:?}"), &record.revision, &0)?;
        set(&documents, consumer, 0, reads(&[consumer])).await?;
        consumers.push(consumer);
    }
    for consumer in consumers {
        let expected = Record { revision: 1, content: reads(&[consumer]) };
        same(format!("the record of {consumer:?}"), &documents.record(consumer).await?, &expected)?;
    }
    match documents.set_record("p\0", 0, reads(&["a"])).await {
        Err(error) if error.kind() == StoreErrorKind::Invalid => Ok(()),
        other => fail(format!("expected a name with U+0000 to be refused as invalid, got {other:?}")),
    }
}

pub(super) async fn other_handles_see_a_record(world: World) -> Check {
    let (here, there) = (world.documents()?, world.again().await?.documents()?);
    for revision in 0..3 {
        let content = reads(&[&revision.to_string()]);
        set(&here, "p", revision, content.clone()).await?;
        same("the record", &there.record("p").await?, &Record { revision: revision + 1, content })?;
    }
    Ok(())
}

pub(super) async fn records_are_refused_where_there_are_none(world: World) -> Check {
    let documents = world.documents()?;
    match documents.set_record("p", 0, reads(&["a"])).await {
        Err(error) if error.kind() == StoreErrorKind::Unsupported => {}
        other => return fail(format!("expected the record to be unsupported, got {other:?}")),
    }
    same("the record", &documents.record("p").await?, &Record::default())
}
