//! Tags, metadata and what is recorded for a key as text, for stores that keep them where a person may read them.
//!
//! It is JSON. What is written here is read here, in all releases; a text that is none of ours gives `None`.

use std::collections::BTreeMap;

use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::event::{Metadata, Tag, Tags};
use crate::id::{StreamId, Version};
use crate::read_store::RecordContent;
use crate::store::{Content, KeyOwner};

/// Tags as a list; `None` if there are none.
#[must_use]
pub fn of_tags(tags: &Tags) -> Option<String> {
    (!tags.is_empty()).then(|| tags.iter().map(Tag::as_str).collect::<Value>().to_string())
}

/// What [`of_tags`] has written.
#[must_use]
pub fn tags(text: &str) -> Option<Tags> {
    let all: Value = serde_json::from_str(text).ok()?;
    all.as_array()?.iter().map(|tag| tag.as_str().map(Tag::from)).collect()
}

/// Metadata as an object of the fields that are there; `None` if there are none.
#[must_use]
pub fn of_metadata(metadata: &Metadata) -> Option<String> {
    let mut object = Map::new();
    let Metadata { correlation, causation, actor, entries } = metadata;
    for (name, text) in [("correlation", correlation), ("causation", causation), ("actor", actor)] {
        if let Some(text) = text {
            object.insert(name.to_owned(), text.as_str().into());
        }
    }
    if !entries.is_empty() {
        let entries = entries.iter().map(|(name, text)| (name.clone(), text.as_str().into()));
        object.insert("entries".to_owned(), Value::Object(entries.collect()));
    }
    (!object.is_empty()).then(|| Value::Object(object).to_string())
}

/// What [`of_metadata`] of this or a newer release has written. Fields and entries that this release does not know
/// are ignored.
#[must_use]
pub fn metadata(text: &str) -> Option<Metadata> {
    // Unknown fields are not parsed: they may be of any type, and nest as deep as they like.
    let mut fields: BTreeMap<String, &RawValue> = serde_json::from_str(text).ok()?;
    let mut metadata = Metadata::new();
    for (name, field) in [
        ("correlation", &mut metadata.correlation),
        ("causation", &mut metadata.causation),
        ("actor", &mut metadata.actor),
    ] {
        if let Some(value) = fields.remove(name) {
            *field = serde_json::from_str(value.get()).ok()?;
        }
    }
    if let Some(entries) = fields.remove("entries") {
        let entries: BTreeMap<String, &RawValue> = serde_json::from_str(entries.get()).ok()?;
        let text = |(name, value): (String, &RawValue)| Some((name, serde_json::from_str(value.get()).ok()?));
        metadata.entries = entries.into_iter().filter_map(text).collect();
    }
    Some(metadata)
}

/// The content of a consumer's record.
#[must_use]
pub fn of_record(content: &RecordContent) -> String {
    let names = |names: &BTreeMap<String, u32>| {
        Value::Object(names.iter().map(|(name, version)| (name.clone(), (*version).into())).collect())
    };
    let RecordContent { reads, adding, fold } = content;
    let mut object = Map::new();
    object.insert("reads".to_owned(), names(reads));
    if !adding.is_empty() {
        object.insert("adding".to_owned(), names(adding));
    }
    if let Some(fold) = fold {
        // Not a number, which many readers of JSON round.
        object.insert("fold".to_owned(), format!("{fold:016x}").into());
    }
    Value::Object(object).to_string()
}

/// What [`of_record`] has written. Fields of newer releases are ignored.
#[must_use]
pub fn record(text: &str) -> Option<RecordContent> {
    let fields: Map<String, Value> = serde_json::from_str(text).ok()?;
    let names = |field: &str| {
        let Some(value) = fields.get(field) else { return Some(BTreeMap::new()) };
        let name =
            |(name, version): (&String, &Value)| Some((name.clone(), version.as_u64()?.try_into().ok()?));
        value.as_object()?.iter().map(name).collect::<Option<BTreeMap<String, u32>>>()
    };
    let fold = match fields.get("fold") {
        None => None,
        Some(fold) => Some(u64::from_str_radix(fold.as_str()?, 16).ok()?),
    };
    Some(RecordContent { reads: names("reads")?, adding: names("adding")?, fold })
}

/// What is recorded for an idempotency key: the versions that its append gave streams, and what it is used for.
/// A list of pairs, and an object behind them if the use is known.
#[must_use]
pub fn of_key(versions: &[(StreamId, Version)], owner: Option<&KeyOwner>) -> String {
    let pair = |(stream, version): &(StreamId, Version)| {
        Value::Array(vec![stream.as_str().into(), version.get().into()])
    };
    let mut all: Vec<Value> = versions.iter().map(pair).collect();
    all.extend(owner.map(of_owner));
    Value::Array(all).to_string()
}

fn of_owner(owner: &KeyOwner) -> Value {
    let mut object = Map::new();
    match owner {
        KeyOwner::Request => _ = object.insert("request".to_owned(), Value::Bool(true)),
        KeyOwner::Command { name, content } => {
            object.insert("command".to_owned(), name.as_ref().into());
            if let Some(Content { shape, value }) = content {
                object.insert("shape".to_owned(), (*shape).into());
                object.insert("value".to_owned(), (*value).into());
            }
        }
    }
    Value::Object(object)
}

/// The versions that an append gave streams, and what its key is used for.
pub type KeyRecord = (Vec<(StreamId, Version)>, Option<KeyOwner>);

/// What [`of_key`] of this or a newer release has written. Fields that this release does not know are ignored.
#[must_use]
pub fn key(text: &str) -> Option<KeyRecord> {
    let all: Value = serde_json::from_str(text).ok()?;
    let (mut versions, mut owner) = (Vec::new(), None);
    for item in all.as_array()? {
        match item {
            Value::Object(object) => owner = owner_of(object),
            pair => versions.push(version(pair)?),
        }
    }
    Some((versions, owner))
}

fn owner_of(object: &Map<String, Value>) -> Option<KeyOwner> {
    if object.get("request").and_then(Value::as_bool) == Some(true) {
        return Some(KeyOwner::Request);
    }
    let name = object.get("command")?.as_str()?.to_owned().into();
    let number = |name: &str| object.get(name)?.as_u64();
    let content = number("shape").zip(number("value")).map(|(shape, value)| Content { shape, value });
    Some(KeyOwner::Command { name, content })
}

fn version(pair: &Value) -> Option<(StreamId, Version)> {
    let [stream, version] = pair.as_array()?.as_slice() else { return None };
    Some((stream.as_str()?.parse().ok()?, Version::new(version.as_u64()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let some: Tags = ["a:1", "b:\"2\""].map(Tag::from).into_iter().collect();
        assert_eq!(of_tags(&some).as_deref().and_then(tags), Some(some));
        let full = Metadata::new().correlation("c").causation("b").actor("ada").entry("at", "the desk");
        assert_eq!(of_metadata(&full).as_deref().and_then(metadata), Some(full));
        let stream: StreamId = "A/1".parse().unwrap_or_else(|wrong| unreachable!("{wrong}"));
        let gave = vec![(stream, Version::new(7))];
        let command = |content| Some(KeyOwner::Command { name: "Deposit".into(), content });
        let content = Content { shape: u64::MAX, value: 7 };
        for owner in [None, Some(KeyOwner::Request), command(None), command(Some(content))] {
            assert_eq!(key(&of_key(&gave, owner.as_ref())), Some((gave.clone(), owner)));
        }
        // Another release's owner is not known, and what it wrote is read all the same.
        assert_eq!(key(r#"[["A/1",7],{"process":"p"}]"#), Some((gave, None)));
        assert_eq!((of_tags(&Tags::default()), of_metadata(&Metadata::new())), (None, None));
    }

    #[test]
    fn what_is_not_ours_is_nothing() {
        for text in ["", "7", "{}x", "[7]", "{\"actor\":7}", "{\"entries\":[]}"] {
            assert!(tags(text).is_none() && metadata(text).is_none() && key(text).is_none(), "{text}");
        }
    }

    #[test]
    fn what_a_newer_release_adds_is_ignored() {
        let known = Metadata::new().actor("ada").entry("at", "the desk");
        let deep = format!("{}{}", "[".repeat(1_000), "]".repeat(1_000));
        for unknown in ["\"new\"", "7", "null", "1e999", r#"{"a":[1]}"#, &deep] {
            let text = format!(
                r#"{{"strange":{unknown},"actor":"ada","causation":null,"entries":{{"at":"the desk","new":{}}}}}"#,
                if unknown == "\"new\"" { "7" } else { unknown },
            );
            assert_eq!(metadata(&text).as_ref(), Some(&known), "{text}");
        }
    }

    #[test]
    fn the_form_is_that_of_all_releases() {
        let metadata = Metadata::new().actor("ada").entry("at", "the desk");
        let text = r#"{"actor":"ada","entries":{"at":"the desk"}}"#;
        assert_eq!(of_metadata(&metadata).as_deref(), Some(text));
        let tags: Tags = [Tag::from("a:1")].into_iter().collect();
        assert_eq!(of_tags(&tags).as_deref(), Some(r#"["a:1"]"#));
        let [reads, adding] = [("a", 1), ("b", 2)].map(|(name, version)| [(name.to_owned(), version)].into());
        let content = RecordContent { reads, adding, fold: Some(0x1f) };
        let text = r#"{"adding":{"b":2},"fold":"000000000000001f","reads":{"a":1}}"#;
        assert_eq!(of_record(&content), text);
        assert_eq!(record(text), Some(content));
    }

    #[test]
    fn a_record_of_a_newer_release_is_read_as_far_as_it_is_known() {
        let content = RecordContent { reads: [("a".to_owned(), 1)].into(), ..RecordContent::default() };
        assert_eq!(record(r#"{"reads":{"a":1},"indexes":["x"]}"#), Some(content.clone()));
        assert_eq!(record(&of_record(&content)), Some(content));
        for text in ["", "[]", r#"{"reads":[]}"#, r#"{"reads":{"a":-1}}"#, r#"{"fold":7}"#, r#"{"fold":"x"}"#]
        {
            assert_eq!(record(text), None, "{text}");
        }
    }
}
