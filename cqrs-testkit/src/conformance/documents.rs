//! The read store: documents, checkpoints and their fences.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use cqrs_core::consumer::Database as _;
use cqrs_core::error::{StoreError, StoreErrorKind};
use cqrs_core::id::Partition;
use cqrs_core::read_store::{
    Batch, Checkpoint, Claim, Collection, CommitError, EntryKey, EntryWrite, MAX_DOCUMENT_BYTES,
    MAX_KEY_BYTES, MAX_NAME_BYTES,
};
use cqrs_core::store::LogId;
use uuid::Uuid;

use super::diary::{Elsewhere, Nowhere};
use super::entries::{Documents, at, batch_of, checkpoint, fenced, get, list, put, remove, write};
use super::kit::{Abandon, Check, Failure, Got, World, ensure, fail, join, same, together};
use super::strings::TEXTS;

/// A batch of the consumer `p` on the first partition, without writes.
fn batch(epoch: u64, from: Option<Checkpoint>, to: Checkpoint) -> Batch {
    batch_of("p", epoch, from, to)
}

fn bytes(text: &str) -> Option<Bytes> {
    Some(Bytes::from(text.to_owned()))
}

pub(super) async fn a_new_consumer_has_no_checkpoint(world: World) -> Check {
    let documents = world.documents()?;
    same("the checkpoint", &checkpoint(&documents, "p").await?, &None)?;
    same("the claimed checkpoints", &documents.claim("p").await?.checkpoints, &BTreeMap::new())?;
    same("the checkpoint after a claim", &checkpoint(&documents, "p").await?, &None)
}

pub(super) async fn each_claim_raises_the_epoch(world: World) -> Check {
    let documents = world.documents()?;
    let mut last = documents.claim("p").await?.epoch;
    for _ in 0..3 {
        let epoch = documents.claim("p").await?.epoch;
        ensure!(epoch > last, "a claim gave epoch {epoch} after {last}");
        last = epoch;
    }
    Ok(())
}

pub(super) async fn racing_claims_get_epochs_of_their_own(world: World) -> Check {
    let documents = world.documents()?;
    let claims = (0..8).map(|_| {
        let documents = Arc::clone(&documents);
        async move { Ok::<_, Failure>(documents.claim("p").await?.epoch) }
    });
    let mut epochs = together(claims).await?.into_iter().collect::<Got<Vec<u64>>>()?;
    epochs.sort_unstable();
    let all = epochs.len();
    epochs.dedup();
    same("the different epochs", &epochs.len(), &all)
}

pub(super) async fn a_claim_gives_the_checkpoint(world: World) -> Check {
    let documents = world.documents()?;
    let epoch = documents.claim("p").await?.epoch;
    documents.commit(batch(epoch, None, at(5))).await?;
    let there = Partition::new(3);
    documents.commit(batch(epoch, Some(at(5)), at(7)).with_partition(there)).await?;
    let expected = [(Partition::ONLY, at(5)), (there, at(7))].into();
    same("the claimed checkpoints", &documents.claim("p").await?.checkpoints, &expected)
}

pub(super) async fn a_checkpoint_is_kept(world: World) -> Check {
    let documents = world.documents()?;
    let epoch = documents.claim("p").await?.epoch;
    let mut from = None;
    let quiet = Checkpoint { event: None, ..at(9) };
    let far = Checkpoint { log: LogId(Uuid::max()), ..at(i64::MAX.unsigned_abs()) };
    for to in [at(5), quiet, far] {
        documents.commit(batch(epoch, from, to)).await?;
        same("the checkpoint", &checkpoint(&documents, "p").await?, &Some(to))?;
        from = Some(to);
    }
    Ok(())
}

pub(super) async fn a_former_owner_is_fenced(world: World) -> Check {
    let documents = world.documents()?;
    let former = documents.claim("p").await?.epoch;
    documents.commit(batch(former, None, at(1))).await?;
    let owner = documents.claim("p").await?.epoch;
    fenced(&documents, batch(former, Some(at(1)), at(2))).await?;
    fenced(&documents, batch(owner + 1, Some(at(1)), at(2))).await?;
    Ok(documents.commit(batch(owner, Some(at(1)), at(2))).await?)
}

pub(super) async fn a_moved_checkpoint_fences(world: World) -> Check {
    let documents = world.documents()?;
    let epoch = documents.claim("p").await?.epoch;
    fenced(&documents, batch(epoch, Some(at(1)), at(2))).await?;
    documents.commit(batch(epoch, None, at(1))).await?;
    let other_event = Checkpoint { event: None, ..at(1) };
    let other_log = Checkpoint { log: LogId(Uuid::from_u128(8)), ..at(1) };
    for from in [None, Some(at(2)), Some(other_event), Some(other_log)] {
        fenced(&documents, batch(epoch, from, at(3))).await?;
    }
    documents.commit(batch(epoch, Some(at(1)), at(2))).await?;
    fenced(&documents, batch(epoch, Some(at(1)), at(2))).await
}

pub(super) async fn who_never_claimed_is_fenced(world: World) -> Check {
    let documents = world.documents()?;
    for epoch in [0, 1] {
        fenced(&documents, batch(epoch, None, at(1))).await?;
    }
    Ok(())
}

pub(super) async fn a_fenced_batch_writes_nothing(world: World) -> Check {
    let documents = world.documents()?;
    write(&documents, "p", vec![put("kept", "old")]).await?;
    let former = documents.claim("p").await?.epoch;
    let owner = documents.claim("p").await?.epoch;
    let writes = vec![put("kept", "new"), put("new", "new")];
    let batches = [batch(former, Some(at(1)), at(2)), batch(owner, Some(at(8)), at(9))];
    for batch in batches.map(|batch| batch.with_writes(writes.clone())) {
        fenced(&documents, batch).await?;
        same("the document", &get(&documents, "p", "kept").await?, &bytes("old"))?;
        same("a document of the fenced batch", &get(&documents, "p", "new").await?, &None)?;
        same("the checkpoint", &checkpoint(&documents, "p").await?, &Some(at(1)))?;
    }
    Ok(())
}

/// One batch after the other writes its number to three documents and the checkpoint. Read in this
/// order, the first may not be ahead of the second.
pub(super) async fn documents_and_checkpoint_move_together(world: World) -> Check {
    let documents = world.documents()?;
    let writer = tokio::spawn(write_numbers(Arc::clone(&documents)));
    while !writer.is_finished() {
        let first = checkpoint(&documents, "p").await?;
        let first = first.map_or(0, |first| first.position.get());
        let listed = list(&documents, "p", None, 10).await?;
        let numbers: Vec<u64> = listed.iter().map(|(_, content)| number(content)).collect();
        let second = checkpoint(&documents, "p").await?;
        let second = second.map_or(0, |second| second.position.get());
        let behind = numbers.iter().all(|number| (first..=second).contains(number));
        ensure!(behind, "documents at {numbers:?} between the checkpoints {first} and {second}");
        let whole = first == 0 || numbers.len() == 3 && numbers.windows(2).all(|pair| pair[0] == pair[1]);
        ensure!(whole, "one read saw the documents of one batch at {numbers:?}");
        tokio::task::yield_now().await;
    }
    join(vec![writer]).await?.into_iter().collect()
}

async fn write_numbers(documents: Documents) -> Check {
    let epoch = documents.claim("p").await?.epoch;
    let mut from = None;
    for round in 1..=40 {
        let text = round.to_string();
        let writes = ["first", "second", "third"].map(|key| put(key, &text)).to_vec();
        documents.commit(batch(epoch, from, at(round)).with_writes(writes)).await?;
        from = Some(at(round));
        tokio::task::yield_now().await;
    }
    Ok(())
}

fn number(content: &Bytes) -> u64 {
    String::from_utf8_lossy(content).parse().unwrap_or_default()
}

pub(super) async fn racing_batches_move_the_checkpoint_once(world: World) -> Check {
    let documents = world.documents()?;
    let epoch = documents.claim("p").await?.epoch;
    let mut from = None;
    for round in 1..=15 {
        let racers = (0..6).map(|_| {
            let documents = Arc::clone(&documents);
            async move { documents.commit(batch(epoch, from, at(round))).await }
        });
        let mut winners = 0;
        for outcome in together(racers).await? {
            match outcome {
                Ok(()) => winners += 1,
                Err(CommitError::Fenced) => {}
                Err(error) => return Err(error.into()),
            }
        }
        same("the batches accepted from one checkpoint", &winners, &1)?;
        from = Some(at(round));
    }
    Ok(())
}

pub(super) async fn an_epoch_is_for_all_partitions(world: World) -> Check {
    let documents = world.documents()?;
    let there = |epoch| batch(epoch, Some(at(1)), at(1)).with_partition(Partition::new(1));
    let former = documents.claim("p").await?.epoch;
    documents.commit(batch(former, None, at(1))).await?;
    let owner = documents.claim("p").await?.epoch;
    fenced(&documents, there(former)).await?;
    Ok(documents.commit(there(owner)).await?)
}

pub(super) async fn partitions_have_checkpoints_of_their_own(world: World) -> Check {
    let documents = world.documents()?;
    let epoch = documents.claim("p").await?.epoch;
    let mut from = BTreeMap::new();
    for partition in [1, 0, u16::MAX].map(Partition::new) {
        let to = at(u64::from(partition.get()) + 5);
        same("the checkpoint at first", &documents.checkpoint("p", partition).await?, &None)?;
        let claim = Claim { epoch, checkpoints: from.clone(), revision: 0 };
        documents.commit(Batch::new("p", &claim, to).with_partition(partition)).await?;
        from.insert(partition, to);
        same("the checkpoint", &documents.checkpoint("p", partition).await?, &Some(to))?;
    }
    same("the first partition's", &checkpoint(&documents, "p").await?, &Some(at(5)))
}

/// Whoever has not seen another partition move does not know what the documents are.
pub(super) async fn a_checkpoint_that_moved_in_another_partition_fences(world: World) -> Check {
    let documents = world.documents()?;
    let epoch = documents.claim("p").await?.epoch;
    let [first, second, third] = [0, 1, u16::MAX].map(Partition::new);
    let on = |partition, from: &[(Partition, Checkpoint)], to| {
        let claim = Claim { epoch, checkpoints: from.iter().copied().collect(), revision: 0 };
        Batch::new("p", &claim, to).with_partition(partition)
    };
    documents.commit(on(first, &[], at(1))).await?;
    documents.commit(on(third, &[(first, at(1))], at(7))).await?;
    let other_event = Checkpoint { event: None, ..at(7) };
    let other_log = Checkpoint { log: LogId(Uuid::from_u128(8)), ..at(7) };
    let mut late = vec![vec![(first, at(1))], vec![(first, at(1)), (second, at(7))]];
    late.push(vec![(first, at(1)), (second, at(1)), (third, at(7))]);
    for there in [at(6), at(8), other_event, other_log] {
        late.push(vec![(first, at(1)), (third, there)]);
    }
    for from in late {
        fenced(&documents, on(first, &from, at(2))).await?;
    }
    Ok(documents.commit(on(first, &[(first, at(1)), (third, at(7))], at(2))).await?)
}

pub(super) async fn consumers_are_apart(world: World) -> Check {
    let documents = world.documents()?;
    let epoch = documents.claim("p").await?.epoch;
    documents.commit(batch(epoch, None, at(5))).await?;
    for other in ["P", "p ", "q"] {
        same(format!("the checkpoint of {other:?}"), &checkpoint(&documents, other).await?, &None)?;
        documents.claim(other).await?;
    }
    Ok(documents.commit(batch(epoch, Some(at(5)), at(6))).await?)
}

pub(super) async fn documents_are_kept_byte_for_byte(world: World) -> Check {
    let documents = world.documents()?;
    let contents: [&[u8]; 5] =
        [b"", b"\0", b" {\"b\":1, \"a\":2, \"a\":\"\\u0000\"} ", b"\xff\xfe", &[7; 70_000]];
    let key = |at: usize| format!("document {at}");
    let all = contents.iter().enumerate();
    let writes =
        all.map(|(at, content)| EntryWrite::put(Collection::DOCUMENTS, key(at), Bytes::from(*content)));
    write(&documents, "c", writes.collect()).await?;
    for (at, content) in contents.into_iter().enumerate() {
        let found = get(&documents, "c", &key(at)).await?;
        ensure!(found.as_deref() == Some(content), "document {at} came back as another");
    }
    Ok(())
}

pub(super) async fn a_document_is_replaced(world: World) -> Check {
    let documents = world.documents()?;
    for content in ["first, longer", "second"] {
        write(&documents, "c", vec![put("k", content)]).await?;
        same("the document", &get(&documents, "c", "k").await?, &bytes(content))?;
    }
    Ok(())
}

pub(super) async fn a_document_is_removed(world: World) -> Check {
    let documents = world.documents()?;
    write(&documents, "c", vec![put("gone", "1"), put("kept", "2")]).await?;
    // Removing what is not there is no fault.
    write(&documents, "c", vec![remove("gone"), remove("never")]).await?;
    same("the removed document", &get(&documents, "c", "gone").await?, &None)?;
    same("the documents left", &list(&documents, "c", None, 10).await?.len(), &1)?;
    write(&documents, "c", vec![put("gone", "again")]).await?;
    same("the document written again", &get(&documents, "c", "gone").await?, &bytes("again"))
}

pub(super) async fn documents_come_in_the_order_of_the_keys(world: World) -> Check {
    let documents = world.documents()?;
    write(&documents, "c", vec![put("a", "1"), put("b", "2"), put("c", "3")]).await?;
    let keys = ["c", "missing", "a", "c", "also missing"];
    let found = documents.get("c", keys.map(EntryKey::document).to_vec()).await?;
    same("the documents", &found, &vec![bytes("3"), None, bytes("1"), bytes("3"), None])?;
    same("the documents for no keys", &documents.get("c", Vec::new()).await?, &Vec::new())?;
    same(
        "in a collection without any",
        &documents.get("d", vec![EntryKey::document("a")]).await?,
        &vec![None],
    )
}

pub(super) async fn documents_are_listed_by_the_bytes_of_the_key(world: World) -> Check {
    let documents = world.documents()?;
    let mut keys = ["b", "B", "a", "é", "ab", "a b", "_", "10", "9", "~", "z", "Z", "😀", "\u{fffd}"];
    write(&documents, "c", keys.map(|key| put(key, "")).to_vec()).await?;
    keys.sort_unstable();
    let listed = list(&documents, "c", None, 100).await?;
    same("the keys", &listed.iter().map(|(key, _)| &**key).collect::<Vec<_>>(), &keys.into())
}

pub(super) async fn documents_are_listed_in_pages(world: World) -> Check {
    let documents = world.documents()?;
    let keys: Vec<String> = (10..17).map(|key| key.to_string()).collect();
    write(&documents, "c", keys.iter().map(|key| put(key, key)).collect()).await?;
    for limit in 1..=8 {
        let (mut listed, mut after) = (Vec::new(), None);
        loop {
            let page = list(&documents, "c", after, limit).await?;
            let rest = keys.len() - listed.len();
            same(format!("the size of a page of {limit}"), &page.len(), &limit.min(rest))?;
            after = page.last().map(|(key, _)| key.clone());
            listed.extend(page.into_iter().map(|(key, _)| key));
            if after.is_none() {
                break;
            }
        }
        same("the keys listed", &listed, &keys)?;
    }
    let between = list(&documents, "c", Some("12x".to_owned()), 1).await?;
    same("the next one behind a key that is not there", &between, &vec![("13".to_owned(), "13".into())])
}

pub(super) async fn documents_of_other_consumers_are_apart(world: World) -> Check {
    let documents = world.documents()?;
    let names = ["c", "c ", " c", "d", "c/x", "%", "_", "c'", "日本語"];
    for name in names {
        write(&documents, name, vec![put("k", name)]).await?;
    }
    for name in names {
        same(format!("the document of {name:?}"), &get(&documents, name, "k").await?, &bytes(name))?;
        same(format!("the documents of {name:?}"), &list(&documents, name, None, 10).await?.len(), &1)?;
    }
    Ok(())
}

pub(super) async fn documents_with_unusual_keys_are_apart(world: World) -> Check {
    let documents = world.documents()?;
    write(&documents, "c", TEXTS.map(|text| put(text, text)).to_vec()).await?;
    for text in TEXTS {
        same(format!("the document {text:?}"), &get(&documents, "c", text).await?, &bytes(text))?;
    }
    let listed = list(&documents, "c", None, TEXTS.len() + 1).await?;
    let listed: BTreeSet<&str> = listed.iter().map(|(key, _)| &**key).collect();
    same("the keys listed", &listed, &TEXTS.into())
}

pub(super) async fn no_name_of_a_document_has_a_nul(world: World) -> Check {
    let documents = world.documents()?;
    let refused = documents.claim("p\0").await.err().map(|error| error.kind());
    same("a claim of a consumer that cannot be", &refused, &Some(StoreErrorKind::Invalid))?;
    let epoch = documents.claim("p").await?.epoch;
    let plain = || batch(epoch, None, at(1));
    let batches = [plain().with_writes(vec![put("a\0b", "x")]), batch_of("p\0", epoch, None, at(1))];
    for batch in batches {
        let text = format!("{batch:?}");
        let named = match documents.commit(batch).await {
            Err(CommitError::Store(error)) => {
                error.kind() == StoreErrorKind::Invalid && error.to_string().contains("U+0000")
            }
            _ => false,
        };
        ensure!(named, "expected a refusal as Invalid that names U+0000, for {text}");
        same("the checkpoint", &checkpoint(&documents, "p").await?, &None)?;
    }
    documents.commit(plain().with_writes(vec![put("a", "1"), put("ab", "2")])).await?;
    same("a document that cannot be", &get(&documents, "p", "a\0b").await?, &None)?;
    same("a consumer that cannot be", &list(&documents, "p\0", None, 9).await?, &Vec::new())?;
    let behind = list(&documents, "p", Some("a\0b".to_owned()), 9).await?;
    let behind: Vec<&str> = behind.iter().map(|(key, _)| &**key).collect();
    same("the keys behind one that cannot be", &behind, &vec!["ab"])
}

pub(super) async fn documents_have_the_same_limits_everywhere(world: World) -> Check {
    let documents = world.documents()?;
    let epoch = documents.claim("p").await?.epoch;
    let long = |size: usize| "x".repeat(size);
    let plain = || batch(epoch, None, at(1));
    let of = |writes| plain().with_writes(writes);
    let beside = |write| vec![put("a", "x"), put("b", "x"), put("c", "x"), write];
    let too_large: Vec<(usize, Batch)> = vec![
        (MAX_KEY_BYTES, of(beside(put(&long(MAX_KEY_BYTES + 1), "x")))),
        (MAX_DOCUMENT_BYTES, of(beside(put("d", &long(MAX_DOCUMENT_BYTES + 1))))),
        (MAX_NAME_BYTES, batch_of(&long(MAX_NAME_BYTES + 1), epoch, None, at(1))),
    ];
    for (limit, batch) in too_large {
        let named = match documents.commit(batch).await {
            Err(CommitError::Store(error)) => {
                error.kind() == StoreErrorKind::Invalid && error.to_string().contains(&limit.to_string())
            }
            _ => false,
        };
        ensure!(named, "expected a refusal as Invalid that names the limit of {limit}");
        same("the checkpoint", &checkpoint(&documents, "p").await?, &None)?;
        same("a document of the batch", &get(&documents, "p", "a").await?, &None)?;
    }
    let refused = documents.claim(&long(MAX_NAME_BYTES + 1)).await.err().map(|error| error.kind());
    same("a claim by a name past the limit", &refused, &Some(StoreErrorKind::Invalid))?;
    let (name, key, large) = (long(MAX_NAME_BYTES), long(MAX_KEY_BYTES), long(MAX_DOCUMENT_BYTES));
    let epoch = documents.claim(&name).await?.epoch;
    let writes = vec![put(&key, "x"), put("large", &large)];
    documents.commit(batch_of(&name, epoch, None, at(1)).with_writes(writes)).await?;
    same("the document with the longest key", &get(&documents, &name, &key).await?, &bytes("x"))?;
    let stored = get(&documents, &name, "large").await?.map(|document| document.len());
    same("the size of the largest document", &stored, &Some(MAX_DOCUMENT_BYTES))
}

pub(super) async fn other_handles_see_what_is_committed(world: World) -> Check {
    let (documents, other) = (world.documents()?, world.again().await?.documents()?);
    let epoch = documents.claim("p").await?.epoch;
    let mut from = None;
    for round in 1..=5 {
        let text = round.to_string();
        documents.commit(batch(epoch, from, at(round)).with_writes(vec![put("k", &text)])).await?;
        from = Some(at(round));
        same("the document", &get(&other, "p", "k").await?, &bytes(&text))?;
        same("the checkpoint", &checkpoint(&other, "p").await?, &from)?;
    }
    // And the fence holds between handles.
    other.claim("p").await?;
    fenced(&documents, batch(epoch, from, at(6))).await
}

pub(super) async fn a_dropped_commit_is_whole_or_nothing(world: World) -> Check {
    let documents = world.documents()?;
    for (round, point) in Abandon::points().enumerate() {
        let consumer = format!("dropped {round}");
        let epoch = documents.claim(&consumer).await?.epoch;
        let writes = vec![put("first", "1"), put("second", "1")];
        let batch = batch_of(&consumer, epoch, None, at(1)).with_writes(writes);
        let _ = point.drop(documents.commit(batch)).await;
        for _ in 0..3 {
            let before = checkpoint(&documents, &consumer).await?.is_some();
            let listed = world
                .soon("a read after a dropped commit", list(&documents, &consumer, None, 10))
                .await??
                .len();
            let after = checkpoint(&documents, &consumer).await?.is_some();
            // The batch may still come in between, but only as a whole.
            let whole = before && listed == 2 || !after && listed == 0 || before != after && listed != 1;
            ensure!(whole, "a commit dropped at {point:?} left {listed} of 2 documents, checkpoint: {after}");
            tokio::time::sleep(std::time::Duration::from_micros(300)).await;
        }
    }
    Ok(())
}

pub(super) async fn nothing_hangs_after_a_dropped_commit(world: World) -> Check {
    let documents = world.documents()?;
    for point in Abandon::points() {
        let claim = documents.claim("p").await?;
        let from = claim.checkpoints.get(&Partition::ONLY).copied();
        let next = from.map_or(1, |checkpoint| checkpoint.position.get() + 1);
        let _ = point.drop(documents.commit(batch(claim.epoch, from, at(next)))).await;
        world.soon("a commit after a dropped one", write(&documents, "c", vec![put("k", "1")])).await??;
    }
    Ok(())
}

pub(super) async fn handlers_for_another_database_are_refused(world: World) -> Check {
    let documents = world.documents()?;
    let named = documents.read_capabilities().database;
    ensure!(named != Some(Nowhere::NAME), "the store runs handlers for a database that is not there");
    let epoch = documents.claim("p").await?.epoch;
    let batch = |from, to| batch(epoch, from, at(to));
    for from in [None, Some(at(1))] {
        let handlers = Some(Elsewhere::handlers());
        match documents.commit(batch(from, 5).with_handlers(handlers)).await {
            Err(CommitError::Store(error)) if error.kind() == StoreErrorKind::Unsupported => {
                names_nowhere(&error)?;
            }
            other => return fail(format!("expected the handlers to be refused, got {other:?}")),
        }
        same("the checkpoint", &checkpoint(&documents, "p").await?, &from)?;
        documents.commit(batch(from, 1)).await?;
    }
    Ok(())
}

/// A refusal tells for which database the handlers are.
pub(super) fn names_nowhere(error: &StoreError) -> Check {
    let message = error.to_string();
    ensure!(message.contains(Nowhere::NAME), "the refusal does not say which database: {message}");
    Ok(())
}
