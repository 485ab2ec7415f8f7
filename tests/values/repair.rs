//! Events that are stored already and cannot be read: the way out, without SQL.

use bytes::Bytes;
use cqrs::Registry;
use cqrs::codec::{Codec, CodecError};
use cqrs::engine::Compared;
use cqrs::event::NewEvent;
use cqrs::prelude::*;
use cqrs::store::{Append, EventStore, Guard};
use cqrs_testkit::prelude::*;
use serde::de::DeserializeOwned;

use crate::chain;

/// What older releases stored, none of which the type reads.
const UNREADABLE: &[(u32, &str)] = &[
    // Left out by `skip_serializing_if`, of the current version.
    (2, r#"{"name":"skipped"}"#),
    // One-sided rename, and a duplicate of colliding fields.
    (2, r#"{"noteName":"renamed","labels":[]}"#),
    (2, r#"{"name":"one","name":"two","labels":[]}"#),
    // A float that is not a number, a number that only `u128` holds, and one written with `arbitrary_precision`.
    (2, r#"{"name":null,"labels":[]}"#),
    (2, r#"{"name":340282366920938463463374607431768211455,"labels":[]}"#),
    (2, r#"{"name":{"$serde_json::private::Number":"1.5"},"labels":[]}"#),
    // Of a version without any other way, and no JSON at all.
    (1, r#"{"title":"old"}"#),
    (1, "old"),
];

/// Takes out of the bytes what there is of a name.
fn repair(version: u32, payload: &[u8]) -> Option<Vec<u8>> {
    if payload == br#"{"hopeless":1}"# {
        return None;
    }
    let depth = payload.iter().filter(|byte| **byte == b'[').count();
    let name = format!("v{version}, {} bytes, {depth} deep", payload.len());
    serde_json::to_vec(&serde_json::json!({ "name": name, "labels": ["repaired"] })).ok()
}

#[derive(Event, Serialize, Deserialize)]
#[event(version = 2, upcast_bytes = repair)]
pub struct Noted {
    pub name: String,
    pub labels: Vec<String>,
}

/// With other ways beside it: those are tried first.
#[derive(Event, Serialize, Deserialize)]
#[event(version = 2, upcast(add_currency), upcast_bytes = cents_of_anything)]
pub struct Paid {
    pub cents: u128,
    pub currency: String,
}

fn add_currency(mut payload: serde_json::Value) -> serde_json::Value {
    payload["currency"] = "CZK".into();
    payload
}

fn cents_of_anything(_: u32, payload: &[u8]) -> Option<Vec<u8>> {
    payload.starts_with(b"[[[[").then(|| br#"{"cents":1,"currency":"deep"}"#.to_vec())
}

/// A codec with a format of its own.
pub struct Upside;
impl Codec for Upside {
    fn encode<T: Serialize>(value: &T) -> Result<Bytes, CodecError> {
        let mut bytes = cqrs::codec::Json::encode(value)?.to_vec();
        bytes.reverse();
        Ok(bytes.into())
    }
    fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
        cqrs::codec::Json::decode(&bytes.iter().rev().copied().collect::<Vec<_>>())
    }
}

#[derive(Event, Serialize, Deserialize)]
#[event(codec = Upside, upcast_bytes = turned)]
pub struct Turned {
    pub n: u32,
}

fn turned(_: u32, payload: &[u8]) -> Option<Vec<u8>> {
    (payload == b"lost").then(|| b"}0:\"n\"{".to_vec())
}

#[derive(Command)]
pub struct Note {
    #[id]
    pub id: u64,
}

#[derive(Default, Debug)]
pub struct Notes {
    pub names: Vec<String>,
    pub cents: u128,
    pub turned: u32,
}

#[aggregate(id = u64)]
impl Notes {
    #[handle]
    fn note(&self, cmd: Note) -> Noted {
        Noted { name: cmd.id.to_string(), labels: vec![] }
    }
    #[apply]
    fn noted(&mut self, event: &Noted) {
        self.names.push(event.name.clone());
    }
    #[apply]
    fn paid(&mut self, event: &Paid) {
        self.cents += event.cents;
        self.names.push(event.currency.clone());
    }
    #[apply]
    fn turned(&mut self, _: &Turned) {
        self.turned += 1;
    }
}

macro_rules! counts {
    ($name:ident, $stored:literal, $mode:ident) => {
        #[derive(Default, Serialize, Deserialize, Debug, PartialEq)]
        pub struct $name {
            pub events: u32,
            pub repaired: u32,
        }
        #[projection(name = $stored, key = u64, mode = $mode)]
        impl $name {
            #[on]
            fn noted(&mut self, event: &Noted) {
                self.events += 1;
                self.repaired += u32::from(event.labels == ["repaired"]);
            }
            #[on]
            fn paid(&mut self, _: &Paid) {
                self.events += 1;
            }
        }
    };
}

counts!(Counted, "counted", async);
counts!(CountedLive, "counted-live", live);

fn stored(stream: &str, name: &'static str, version: u32, payload: &str) -> NewEvent {
    NewEvent {
        id: uuid::Uuid::new_v4(),
        stream: stream.parse().unwrap(),
        name: name.into(),
        schema_version: version,
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        tags: Default::default(),
        time: Default::default(),
        metadata: Default::default(),
    }
}

fn deep() -> String {
    format!("{}1{}", "[".repeat(300), "]".repeat(300))
}

#[tokio::test]
async fn events_that_cannot_be_read_are_upcast_from_their_bytes() {
    let store = cqrs::memory::MemoryStore::new();
    let mut events: Vec<_> =
        UNREADABLE.iter().map(|(version, payload)| stored("Notes/1", "Noted", *version, payload)).collect();
    events.push(stored("Notes/1", "Noted", 2, &format!(r#"{{"name":{},"labels":[]}}"#, deep())));
    events.push(stored("Notes/1", "Paid", 1, &deep()));
    events.push(stored("Notes/1", "Paid", 1, r#"{"cents":100000000000000000001}"#));
    events.push(stored("Notes/1", "Paid", 2, &deep()));
    events.push(stored("Notes/1", "Turned", 1, "lost"));
    let count = events.len();
    store.append(Append::new(events, Guard::Any)).await.unwrap();
    let registry = Registry::new().with::<Notes>().with::<Counted>().with::<CountedLive>();
    let engine =
        Engine::builder().registry(registry).without_background().build(store.clone()).await.unwrap();

    let loaded = engine.load::<Notes>(&1).await.unwrap().state.unwrap();
    assert_eq!(loaded.names.len(), count - 1);
    assert_eq!((loaded.cents, loaded.turned), (100_000_000_000_000_000_001 + 2, 1));
    assert!(loaded.names.contains(&"v2, 622 bytes, 301 deep".to_owned()), "{loaded:?}");
    engine.execute(Note { id: 1 }).await.unwrap();
    engine.catch_up().await.unwrap();
    let counted = engine.get::<Counted>(&1).await.unwrap().unwrap();
    assert_eq!((counted.events, counted.repaired), (count as u32, 9));
    let live = engine.get::<CountedLive>(&1).await.unwrap().unwrap();
    assert_eq!((live.events, live.repaired), (counted.events, counted.repaired));
    let verification = engine.verify().await.unwrap();
    assert!(verification.is_sound(), "{verification}");
    assert!(matches!(verification.projections[0].compared, Compared::Same { documents: 1 }));

    // What the function does not know keeps its own error, and a newer version is not its business.
    store
        .append(Append::new(vec![stored("Notes/2", "Noted", 2, r#"{"hopeless":1}"#)], Guard::Any))
        .await
        .unwrap();
    store.append(Append::new(vec![stored("Notes/3", "Noted", 3, "{}")], Guard::Any)).await.unwrap();
    let error = engine.load::<Notes>(&2).await.unwrap_err();
    assert!(chain(&error).contains("missing field `name`"), "{}", chain(&error));
    let error = engine.load::<Notes>(&3).await.unwrap_err();
    assert!(chain(&error).contains("a newer program wrote it"), "{}", chain(&error));
    assert!(!engine.verify().await.unwrap().is_sound());
}

#[test]
fn the_testkit_upcasts_from_bytes_too() {
    for (version, payload) in UNREADABLE {
        Notes::given_stored("Noted", *version, payload).then_state(|notes| notes.names.len() == 1);
    }
    Notes::given_stored("Paid", 1, deep()).then_state(|notes| notes.cents == 1);
    Notes::given_stored("Paid", 1, r#"{"cents":340282366920938463463374607431768211455}"#)
        .then_state(|notes| notes.cents == u128::MAX);
}
