//! Tags, metadata and versions as text, for stores that keep them where a person may read them.
//!
//! It is JSON. What is written here is read here, in all releases; a text that is none of ours gives `None`.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::event::{Metadata, Tag, Tags};
use crate::id::{StreamId, Version};

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

/// What [`of_metadata`] has written.
#[must_use]
pub fn metadata(text: &str) -> Option<Metadata> {
    let fields: Map<String, Value> = serde_json::from_str(text).ok()?;
    let mut metadata = Metadata::new();
    for (name, value) in fields {
        match (name.as_str(), value) {
            ("correlation", Value::String(text)) => metadata.correlation = Some(text),
            ("causation", Value::String(text)) => metadata.causation = Some(text),
            ("actor", Value::String(text)) => metadata.actor = Some(text),
            ("entries", Value::Object(entries)) => metadata.entries = texts(entries)?,
            _ => return None,
        }
    }
    Some(metadata)
}

fn texts(entries: Map<String, Value>) -> Option<BTreeMap<String, String>> {
    let text = |(name, value)| match value {
        Value::String(text) => Some((name, text)),
        _ => None,
    };
    entries.into_iter().map(text).collect()
}

/// The versions that an append gave streams, as a list of pairs.
#[must_use]
pub fn of_versions(versions: &[(StreamId, Version)]) -> String {
    let pair = |(stream, version): &(StreamId, Version)| {
        Value::Array(vec![stream.as_str().into(), version.get().into()])
    };
    versions.iter().map(pair).collect::<Value>().to_string()
}

/// What [`of_versions`] has written.
#[must_use]
pub fn versions(text: &str) -> Option<Vec<(StreamId, Version)>> {
    let all: Value = serde_json::from_str(text).ok()?;
    let one = |pair: &Value| {
        let [stream, version] = pair.as_array()?.as_slice() else { return None };
        Some((stream.as_str()?.parse().ok()?, Version::new(version.as_u64()?)))
    };
    all.as_array()?.iter().map(one).collect()
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
        assert_eq!(versions(&of_versions(&gave)), Some(gave));
        assert_eq!((of_tags(&Tags::default()), of_metadata(&Metadata::new())), (None, None));
    }

    #[test]
    fn what_is_not_ours_is_nothing() {
        for text in ["", "7", "{}x", "[7]", "{\"actor\":7}", "{\"strange\":\"\"}", "{\"entries\":{\"a\":1}}"]
        {
            assert!(tags(text).is_none() && metadata(text).is_none() && versions(text).is_none(), "{text}");
        }
    }

    #[test]
    fn the_form_is_that_of_all_releases() {
        let metadata = Metadata::new().actor("ada").entry("at", "the desk");
        let text = r#"{"actor":"ada","entries":{"at":"the desk"}}"#;
        assert_eq!(of_metadata(&metadata).as_deref(), Some(text));
        let tags: Tags = [Tag::from("a:1")].into_iter().collect();
        assert_eq!(of_tags(&tags).as_deref(), Some(r#"["a:1"]"#));
    }
}
