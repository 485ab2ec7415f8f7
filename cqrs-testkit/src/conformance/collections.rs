//! The collections of a consumer: several in one commit, keys of any bytes, ranges and counts.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use cqrs_core::error::StoreErrorKind;
use cqrs_core::read_store::{
    Collection, CommitError, EntryKey, EntryWrite, MAX_COLLECTION_BYTES, MAX_DOCUMENT_BYTES,
    MAX_ENTRY_KEY_BYTES, RangeRead,
};
use cqrs_core::store::{Append, Direction, Guard};

use super::diary::{ALL, indexed_diary};
use super::entries::{Documents, at, batch_of, checkpoint, fenced, get, get_in, put, put_in, remove, write};
use super::inline::holds;
use super::kit::{Check, Got, World, ensure, fail, join, same};

const INDEX: Collection = Collection::new("index:status");
const PARKED: Collection = Collection::new("parked");

/// Keys that a store of texts would mix up or cut.
fn unusual_keys() -> Vec<Vec<u8>> {
    let keys: [&[u8]; 12] =
        [b"", b"\0", b"\0\0", b"\0a", b"a\0", b"a\0b", b"a\0c", b"A", b"a ", b"\\x61", b"%", b"\xc3"];
    keys.into_iter()
        .chain([&[0xff; MAX_ENTRY_KEY_BYTES][..]])
        .map(<[u8]>::to_vec)
        .chain(byte_keys())
        .collect()
}

/// Keys of which one is in another place if bytes are compared as characters or as signed numbers.
fn byte_keys() -> Vec<Vec<u8>> {
    let mut keys: Vec<Vec<u8>> =
        [&b"a"[..], b"ab", b"b", b"\x7f", b"\x80", b"\xc3\xa9", b"\xff", b"\xff\xff", b"\xffa"]
            .map(<[u8]>::to_vec)
            .into();
    keys.extend((0..40_u8).map(|key| vec![key.wrapping_mul(37) | 1, key | 1]));
    keys
}

/// Keys that every store orders in the same way.
fn plain_keys() -> Vec<Vec<u8>> {
    (10..40).map(|key: u8| key.to_string().into_bytes()).collect()
}

/// Writes entries with these keys, and with their numbers as content.
async fn write_keys(documents: &Documents, keys: Vec<Vec<u8>>) -> Got<BTreeMap<Bytes, Bytes>> {
    let numbered = keys.into_iter().zip(0..);
    let entries: BTreeMap<Bytes, Bytes> =
        numbered.map(|(key, at): (Vec<u8>, usize)| (key.into(), at.to_string().into())).collect();
    // Not in their order.
    let writes = entries.iter().rev();
    let put = |(key, content): (&Bytes, &Bytes)| EntryWrite::put(INDEX, key.clone(), content.clone());
    write(documents, "p", writes.map(put).collect()).await?;
    Ok(entries)
}

type Pairs = Vec<(Bytes, Bytes)>;

async fn read(documents: &Documents, range: RangeRead) -> Got<Pairs> {
    Ok(documents.range(range).await?.into_iter().map(|entry| (entry.key, entry.content)).collect())
}

/// Returns the content of a range, as the contract defines it.
fn expected(entries: &BTreeMap<Bytes, Bytes>, range: &RangeRead) -> Pairs {
    let within = |key: &Bytes| {
        let above = match &range.lower {
            Bound::Unbounded => true,
            Bound::Included(lower) => key >= lower,
            Bound::Excluded(lower) => key > lower,
        };
        above
            && match &range.upper {
                Bound::Unbounded => true,
                Bound::Included(upper) => key <= upper,
                Bound::Excluded(upper) => key < upper,
            }
    };
    let pairs =
        entries.iter().filter(|(key, _)| within(key)).map(|(key, content)| (key.clone(), content.clone()));
    let mut pairs: Pairs = pairs.collect();
    if range.direction == Direction::Backward {
        pairs.reverse();
    }
    pairs.truncate(range.limit);
    pairs
}

/// No bound, and bounds at and between plain keys.
fn bounds() -> Vec<Bound<Bytes>> {
    let keys = ["1", "10", "17", "23", "23x", "39", "4"].map(Bytes::from);
    let included = keys.iter().cloned().map(Bound::Included);
    let excluded = keys.iter().cloned().map(Bound::Excluded);
    std::iter::once(Bound::Unbounded).chain(included).chain(excluded).collect()
}

pub(super) async fn collections_of_a_consumer_are_apart(world: World) -> Check {
    let documents = world.documents()?;
    let longest = "x".repeat(MAX_COLLECTION_BYTES);
    let names = ["a", "b", "a.b", "a:b", "a-b", "a_b", "0", &longest];
    let named = names.iter().map(|name| Collection::from((*name).to_owned()));
    let collections: Vec<Collection> = std::iter::once(Collection::DOCUMENTS).chain(named).collect();
    for collection in &collections {
        let text = format!("in {collection}");
        let writes = vec![put_in(collection, "k", &text), put_in(collection, "gone", "")];
        write(&documents, "p", writes).await?;
    }
    let removed = |collection: &Collection| EntryWrite::remove(collection.clone(), "gone");
    write(&documents, "p", collections[1..].iter().map(removed).collect()).await?;
    for (at, collection) in collections.iter().enumerate() {
        let found = get_in(&documents, "p", collection, "k").await?;
        same(format!("the entry of {collection}"), &found, &Some(Bytes::from(format!("in {collection}"))))?;
        let all = read(&documents, RangeRead::new("p", collection.clone(), 10)).await?;
        same(format!("the number of entries of {collection}"), &all.len(), &if at == 0 { 2 } else { 1 })?;
        same(
            format!("{collection} of another consumer"),
            &get_in(&documents, "q", collection, "k").await?,
            &None,
        )?;
    }
    let unknown = Collection::new("c");
    same(
        "a collection without entries",
        &read(&documents, RangeRead::new("p", unknown, 9)).await?,
        &Vec::new(),
    )
}

/// Each batch writes its number to a document and to entries of two collections. One read of all three sees one batch.
pub(super) async fn several_collections_change_in_one_commit(world: World) -> Check {
    let documents = world.documents()?;
    let writer = {
        let documents = Arc::clone(&documents);
        tokio::spawn(async move {
            for round in 1..=40_u32 {
                let text = round.to_string();
                let writes = vec![put("k", &text), put_in(&INDEX, "k", &text), put_in(&PARKED, "k", &text)];
                write(&documents, "p", writes).await?;
                tokio::task::yield_now().await;
            }
            Ok(())
        })
    };
    let entries = || [Collection::DOCUMENTS, INDEX, PARKED].map(|of| EntryKey::new(of, "k")).to_vec();
    while !writer.is_finished() {
        let found = documents.get("p", entries()).await?;
        let whole = found.windows(2).all(|pair| pair[0] == pair[1]);
        ensure!(whole, "one read saw entries of several batches: {found:?}");
        tokio::task::yield_now().await;
    }
    join(vec![writer]).await?.into_iter().collect::<Check>()?;
    let found = documents.get("p", entries()).await?;
    same("the entries at the end", &found, &vec![Some(Bytes::from("40")); 3])
}

pub(super) async fn a_fenced_batch_changes_no_collection(world: World) -> Check {
    let documents = world.documents()?;
    write(&documents, "p", vec![put_in(&INDEX, "kept", "old")]).await?;
    let former = documents.claim("p").await?.epoch;
    documents.claim("p").await?;
    let writes = vec![put_in(&INDEX, "kept", "new"), put_in(&PARKED, "new", "new")];
    fenced(&documents, batch_of("p", former, Some(at(1)), at(2)).with_writes(writes)).await?;
    let old = Some(Bytes::from("old"));
    same("the entry", &get_in(&documents, "p", &INDEX, "kept").await?, &old)?;
    same("an entry of the fenced batch", &get_in(&documents, "p", &PARKED, "new").await?, &None)
}

pub(super) async fn keys_of_entries_may_have_any_bytes(world: World) -> Check {
    let documents = world.documents()?;
    let entries = write_keys(&documents, unusual_keys()).await?;
    for (key, content) in &entries {
        let found = get_in(&documents, "p", &INDEX, key.clone()).await?;
        same(format!("the entry {key:?}"), &found.as_ref(), &Some(content))?;
    }
    for (key, _) in entries.iter().step_by(2) {
        write(&documents, "p", vec![EntryWrite::remove(INDEX, key.clone())]).await?;
    }
    for (at, (key, content)) in entries.iter().enumerate() {
        let left = (at % 2 == 1).then(|| content.clone());
        same(format!("the entry {key:?}"), &get_in(&documents, "p", &INDEX, key.clone()).await?, &left)?;
    }
    Ok(())
}

pub(super) async fn entries_are_in_the_order_of_key_bytes(world: World) -> Check {
    let documents = world.documents()?;
    let entries = write_keys(&documents, byte_keys()).await?;
    let all = RangeRead::new("p", INDEX, 1_000);
    same("the entries", &read(&documents, all.clone()).await?, &expected(&entries, &all))?;
    let bounds = [&b"a0"[..], b"\x7f\x7f", b"\xb0\0", b"\xfe", b"\xff0"].map(Bytes::from);
    for (at, lower) in bounds.iter().enumerate() {
        for upper in &bounds[at..] {
            let range = all.clone().with_lower(Bound::Included(lower.clone()));
            let range = range.with_upper(Bound::Excluded(upper.clone()));
            let found = read(&documents, range.clone()).await?;
            same(format!("the entries of {range:?}"), &found, &expected(&entries, &range))?;
        }
    }
    Ok(())
}

pub(super) async fn a_range_has_bounds(world: World) -> Check {
    let documents = world.documents()?;
    let entries = write_keys(&documents, plain_keys()).await?;
    for lower in bounds() {
        for upper in bounds() {
            let range = RangeRead::new("p", INDEX, 1_000).with_lower(lower.clone()).with_upper(upper);
            let found = read(&documents, range.clone()).await?;
            same(format!("the entries of {range:?}"), &found, &expected(&entries, &range))?;
        }
    }
    Ok(())
}

pub(super) async fn a_range_is_read_backward(world: World) -> Check {
    let documents = world.documents()?;
    let entries = write_keys(&documents, plain_keys()).await?;
    for bound in bounds() {
        for limit in [0, 1, 3, 1_000] {
            let range = RangeRead::new("p", INDEX, limit).backward();
            for range in [range.clone().with_lower(bound.clone()), range.with_upper(bound.clone())] {
                let found = read(&documents, range.clone()).await?;
                same(format!("the entries of {range:?}"), &found, &expected(&entries, &range))?;
            }
        }
    }
    let mut listed = Vec::new();
    let mut next = RangeRead::new("p", INDEX, 5).backward();
    loop {
        let page = read(&documents, next.clone()).await?;
        let Some((last, _)) = page.last().cloned() else { break };
        listed.extend(page);
        next = next.after(last);
    }
    let all = RangeRead::new("p", INDEX, 1_000).backward();
    same("the entries in pages", &listed, &expected(&entries, &all))
}

pub(super) async fn a_count_is_that_of_the_range(world: World) -> Check {
    let documents = world.documents()?;
    let entries = write_keys(&documents, plain_keys()).await?;
    write(&documents, "p", vec![put_in(&PARKED, "a", ""), put("a", "")]).await?;
    for bound in bounds() {
        for limit in [0, 1, 3, 1_000] {
            let range = RangeRead::new("p", INDEX, limit);
            let lower = range.clone().with_lower(bound.clone());
            let upper = range.with_upper(bound.clone()).backward();
            for range in [lower, upper] {
                let count = documents.count(range.clone()).await?;
                same(format!("the count of {range:?}"), &count, &(expected(&entries, &range).len() as u64))?;
            }
        }
    }
    same("the count of nothing", &documents.count(RangeRead::new("q", INDEX, 9)).await?, &0)
}

pub(super) async fn names_and_keys_of_entries_have_the_same_limits_everywhere(world: World) -> Check {
    let documents = world.documents()?;
    let epoch = documents.claim("p").await?.epoch;
    let named = |name: &str| put_in(&Collection::from(name.to_owned()), "k", "x");
    let long = |size: usize| "x".repeat(size);
    let invalid = [
        ("", EntryWrite::put(Collection::DOCUMENTS, &b"\xff"[..], "x")),
        ("", named("Index")),
        ("", named("in dex")),
        ("", named("in/dex")),
        ("", named("índex")),
        ("", named("i\0")),
        ("100", named(&long(MAX_COLLECTION_BYTES + 1))),
        ("2,200", put_in(&INDEX, long(MAX_ENTRY_KEY_BYTES + 1), "x")),
        ("16,777,216", put_in(&INDEX, "k", &long(MAX_DOCUMENT_BYTES + 1))),
    ];
    for (limit, write) in invalid {
        let what = format!("{:?} of {}", write.entry.key.get(..9), write.entry.collection);
        let writes = vec![put("a", "x"), write];
        let refused = match documents.commit(batch_of("p", epoch, None, at(1)).with_writes(writes)).await {
            Err(CommitError::Store(error)) if error.kind() == StoreErrorKind::Invalid => error.to_string(),
            other => return fail(format!("expected {what} to be refused as Invalid, got {other:?}")),
        };
        let digits = |text: &str| text.replace(',', "");
        ensure!(digits(&refused).contains(&digits(limit)), "{refused} does not name the limit of {limit}");
        same("the checkpoint", &checkpoint(&documents, "p").await?, &None)?;
        same("a document of the batch", &get(&documents, "p", "a").await?, &None)?;
    }
    for name in ["Index", "i\0", "in dex"] {
        let collection = Collection::from(name.to_owned());
        let range = RangeRead::new("p", collection.clone(), 9);
        same(
            "the entries of a collection that cannot be",
            &read(&documents, range.clone()).await?,
            &Vec::new(),
        )?;
        same("their count", &documents.count(range).await?, &0)?;
        same("an entry that cannot be", &get_in(&documents, "p", &collection, "k").await?, &None)?;
    }
    let (key, large) = (long(MAX_ENTRY_KEY_BYTES), long(MAX_DOCUMENT_BYTES));
    write(&documents, "p", vec![put_in(&INDEX, key.clone(), "x"), put_in(&INDEX, "large", &large)]).await?;
    let found = get_in(&documents, "p", &INDEX, key).await?;
    same("the entry with the longest key", &found, &Some(Bytes::from("x")))?;
    let found = get_in(&documents, "p", &INDEX, "large").await?.map(|content| content.len());
    same("the size of the largest entry", &found, &Some(MAX_DOCUMENT_BYTES))
}

pub(super) async fn collections_are_refused_where_there_are_none(world: World) -> Check {
    let documents = world.documents()?;
    let epoch = documents.claim("p").await?.epoch;
    let batch = |writes| batch_of("p", epoch, None, at(1)).with_writes(writes);
    match documents.commit(batch(vec![put("k", "1"), put_in(&INDEX, "k", "1")])).await {
        Err(CommitError::Store(error)) if error.kind() == StoreErrorKind::Unsupported => {
            let message = error.to_string();
            ensure!(message.contains(INDEX.name()), "the refusal does not name the collection: {message}");
        }
        other => return fail(format!("expected the collection to be unsupported, got {other:?}")),
    }
    same("the checkpoint", &checkpoint(&documents, "p").await?, &None)?;
    same("a document of the batch", &get(&documents, "p", "k").await?, &None)?;
    Ok(documents.commit(batch(vec![put("k", "1"), remove("l")])).await?)
}

/// The diary keeps a document, an entry for each event that it writes without reading it, and a count of its events
/// that it reads.
pub(super) async fn an_inline_append_changes_several_collections(world: World) -> Check {
    let (diary, documents) = (indexed_diary("diary"), world.documents()?);
    let (a, b) = (world.stream("a"), world.stream("b"));
    for (stream, count) in [(&a, 2), (&b, 1), (&a, 3)] {
        let inline = std::iter::once(Arc::clone(&diary)).collect();
        let append = Append::new(world.events(stream, count), Guard::Any).with_inline(inline);
        world.log.append(append).await?;
    }
    let events = world.log_events(&cqrs_core::store::Query::all()).await?;
    holds(&world, &diary, ALL, &events).await?;
    let index = read(&documents, RangeRead::new("diary", Collection::new("ids"), 100)).await?;
    let mut ids: Vec<Bytes> =
        events.iter().map(|event| Bytes::copy_from_slice(event.meta.id.as_bytes())).collect();
    ids.sort();
    same("the keys of the index", &index.into_iter().map(|(key, _)| key).collect::<Vec<_>>(), &ids)?;
    let count = get_in(&documents, "diary", &Collection::new("count"), "all").await?;
    same("the count", &count, &Some(Bytes::from("6")))
}
