//! Entries of consumers, in the words of the rules.

use std::sync::Arc;

use bytes::Bytes;
use cqrs_core::id::{Partition, Position};
use cqrs_core::read_store::{
    Batch, Checkpoint, Claim, Collection, CommitError, EntryKey, EntryWrite, RangeRead, ReadStore,
};
use cqrs_core::store::LogId;
use uuid::Uuid;

use super::kit::{Check, Got, fail, same};

pub(super) type Documents = Arc<dyn ReadStore>;

/// A checkpoint of one and the same log, at this position.
pub(super) fn at(position: u64) -> Checkpoint {
    let event = Some(Uuid::from_u128(u128::from(position)));
    Checkpoint { log: LogId(Uuid::from_u128(7)), position: Position::new(position), event }
}

/// A batch of a consumer that starts from this checkpoint of the first partition, without writes.
pub(super) fn batch_of(consumer: &str, epoch: u64, from: Option<Checkpoint>, to: Checkpoint) -> Batch {
    let checkpoints = from.map(|from| (Partition::ONLY, from)).into_iter().collect();
    Batch::new(consumer, &Claim { epoch, checkpoints, revision: 0 }, to)
}

/// A write of a document.
pub(super) fn put(key: &str, content: &str) -> EntryWrite {
    put_in(&Collection::DOCUMENTS, key.to_owned(), content)
}

/// The removal of a document.
pub(super) fn remove(key: &str) -> EntryWrite {
    EntryWrite::remove(Collection::DOCUMENTS, key.to_owned())
}

/// A write of an entry.
pub(super) fn put_in(collection: &Collection, key: impl Into<Bytes>, content: &str) -> EntryWrite {
    EntryWrite::put(collection.clone(), key, content.to_owned())
}

/// Takes a consumer over and commits these writes, which has to work.
pub(super) async fn write(documents: &Documents, consumer: &str, writes: Vec<EntryWrite>) -> Check {
    let epoch = documents.claim(consumer).await?.epoch;
    let from = checkpoint(documents, consumer).await?;
    let to = at(from.map_or(0, |from| from.position.get()) + 1);
    Ok(documents.commit(batch_of(consumer, epoch, from, to).with_writes(writes)).await?)
}

/// A document.
pub(super) async fn get(documents: &Documents, consumer: &str, key: &str) -> Got<Option<Bytes>> {
    get_in(documents, consumer, &Collection::DOCUMENTS, key.to_owned()).await
}

/// An entry.
pub(super) async fn get_in(
    documents: &Documents,
    consumer: &str,
    collection: &Collection,
    key: impl Into<Bytes>,
) -> Got<Option<Bytes>> {
    let found = documents.get(consumer, vec![EntryKey::new(collection.clone(), key)]).await?;
    same("the number of contents for one key", &found.len(), &1)?;
    Ok(found.into_iter().next().flatten())
}

/// The first documents after a key, with their keys as text.
pub(super) async fn list(
    documents: &Documents,
    consumer: &str,
    after: Option<String>,
    limit: usize,
) -> Got<Vec<(String, Bytes)>> {
    let range = RangeRead::documents(consumer, limit);
    let range = after.map_or(range.clone(), |after| range.after(after));
    let text = |key: Bytes| String::from_utf8_lossy(&key).into_owned();
    Ok(documents.range(range).await?.into_iter().map(|entry| (text(entry.key), entry.content)).collect())
}

pub(super) async fn checkpoint(documents: &Documents, consumer: &str) -> Got<Option<Checkpoint>> {
    Ok(documents.checkpoint(consumer, Partition::ONLY).await?)
}

pub(super) async fn fenced(documents: &Documents, batch: Batch) -> Check {
    match documents.commit(batch).await {
        Err(CommitError::Fenced) => Ok(()),
        other => fail(format!("expected the batch to be fenced, got {other:?}")),
    }
}
