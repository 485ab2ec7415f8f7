//! Versions, tags and codecs of events.

use bytes::Bytes;
use cqrs::codec::{CodecError, Json};
use cqrs::prelude::*;
use cqrs::{Codec, Event as _, Tag};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::support::{read, stored};

#[derive(Event, Serialize, Deserialize)]
#[event(name = "guest-registered")]
struct RegisteredV1 {
    name: String,
}

#[derive(Event, Serialize, Deserialize)]
#[event(name = "guest-registered", version = 2, from = RegisteredV1)]
struct RegisteredV2 {
    first: String,
    last: String,
}

impl From<RegisteredV1> for RegisteredV2 {
    fn from(old: RegisteredV1) -> Self {
        let (first, last) = old.name.split_once(' ').unwrap_or((&old.name, ""));
        Self { first: first.to_owned(), last: last.to_owned() }
    }
}

#[derive(Event, Serialize, Deserialize, Debug, PartialEq)]
#[event(name = "guest-registered", version = 3, from = RegisteredV2)]
struct Registered {
    first: String,
    last: String,
    newsletter: bool,
}

impl From<RegisteredV2> for Registered {
    fn from(old: RegisteredV2) -> Self {
        Self { first: old.first, last: old.last, newsletter: false }
    }
}

/// Once, a stay was one event; now its nights are, and a stay without any is nothing.
#[derive(Event, Serialize, Deserialize)]
struct Stayed {
    nights: Vec<u32>,
}

#[derive(Event, Serialize, Deserialize, Debug, PartialEq)]
#[event(replaces = Stayed)]
struct NightSpent(u32);

impl From<Stayed> for Vec<NightSpent> {
    fn from(old: Stayed) -> Self {
        old.nights.into_iter().map(NightSpent).collect()
    }
}

fn cents(mut json: Value) -> Value {
    json["cents"] = Value::from(json["crowns"].as_u64().unwrap_or_default() * 100);
    json
}

fn currency(mut json: Value) -> Value {
    json["currency"] = Value::from("CZK");
    json
}

#[derive(Event, Serialize, Deserialize, Debug, PartialEq)]
#[event(version = 3, upcast(cents, currency))]
struct Paid {
    cents: u64,
    currency: String,
}

/// A codec of one's own: JSON back to front.
struct Backwards;

impl Codec for Backwards {
    fn encode<T: Serialize>(value: &T) -> Result<Bytes, CodecError> {
        Ok(Json::encode(value)?.iter().rev().copied().collect())
    }

    fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
        let bytes: Vec<u8> = bytes.iter().rev().copied().collect();
        Json::decode(&bytes)
    }
}

#[derive(Event, Serialize, Deserialize)]
#[event(codec = Backwards)]
struct Left;

#[derive(Event, Serialize, Deserialize)]
struct Labelled {
    #[tag]
    room: u32,
    #[tag(name = "guest")]
    by: Option<String>,
    #[tag]
    label: Vec<String>,
}

#[derive(Command)]
struct CheckOut {
    #[id]
    guest: u32,
}

#[derive(Default)]
struct Guest {
    nights: u32,
}

#[aggregate(id = u32, name = "guest", events = GuestFact)]
impl Guest {
    #[handle]
    fn check_out(&self, _: CheckOut) -> (Option<NightSpent>, [Left; 1]) {
        (None, [Left])
    }
    #[apply]
    fn registered(&mut self, _: &Registered) {}
    #[apply]
    fn night(&mut self, _: &NightSpent) {
        self.nights += 1;
    }
    #[apply]
    fn paid(&mut self, _: &Paid) {}
    #[apply]
    fn left(&mut self, _: &Left) {}
    #[apply]
    fn labelled(&mut self, _: &Labelled) {}
}

#[test]
fn former_versions_are_read_hop_by_hop() {
    let read = |version, json| match read("guest-registered", version, json).unwrap().remove(0) {
        GuestFact::Registered(event) => event,
        _ => panic!("another event"),
    };
    let ada = Registered { first: "Ada".into(), last: "Lovelace".into(), newsletter: false };
    assert_eq!(read(1, r#"{"name":"Ada Lovelace"}"#), ada);
    assert_eq!(read(2, r#"{"first":"Ada","last":"Lovelace"}"#), ada);
    assert_eq!(read(3, r#"{"first":"Ada","last":"Lovelace","newsletter":false}"#), ada);
    let mut shapes = Vec::new();
    Registered::former(&mut shapes);
    assert_eq!(shapes.iter().map(|shape| shape.version).collect::<Vec<_>>(), [2, 1]);
}

#[test]
fn one_event_becomes_several_or_none() {
    let nights = |json| -> Vec<_> {
        let one = |event| match event {
            GuestFact::NightSpent(NightSpent(price)) => price,
            _ => panic!("another event"),
        };
        read("Stayed", 1, json).unwrap().into_iter().map(one).collect()
    };
    assert_eq!(nights(r#"{"nights":[90,80]}"#), [90, 80]);
    assert_eq!(nights(r#"{"nights":[]}"#), [] as [u32; 0]);
}

#[test]
fn raw_json_is_lifted_step_by_step() {
    let read = |version, json| match read("Paid", version, json).unwrap().remove(0) {
        GuestFact::Paid(event) => event,
        _ => panic!("another event"),
    };
    let paid = Paid { cents: 500, currency: "CZK".into() };
    assert_eq!(read(1, r#"{"crowns":5}"#), paid);
    assert_eq!(read(2, r#"{"cents":500}"#), paid);
    let mut shapes = Vec::new();
    Paid::former(&mut shapes);
    assert_eq!(shapes.iter().map(|shape| shape.version).collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn a_codec_of_ones_own_writes_and_reads() {
    assert!(matches!(read("Left", 1, "llun").as_deref(), Ok([GuestFact::Left(Left)])));
    let shown = format!("{:?}", GuestFact::from(NightSpent(90)));
    assert_eq!(shown, "NightSpent 90");
}

#[test]
fn tags_come_from_fields() {
    let tags = |event: &Labelled| {
        let mut tags = cqrs::event::Tags::default();
        event.tags(&mut tags);
        tags
    };
    let all = tags(&Labelled { room: 7, by: Some("Ada".into()), label: vec!["vip".into(), "late".into()] });
    let all: Vec<_> = all.iter().map(Tag::as_str).collect();
    assert_eq!(all, ["guest:Ada", "label:late", "label:vip", "room:7"]);
    assert_eq!(tags(&Labelled { room: 7, by: None, label: vec![] }).len(), 1);
}

#[test]
fn an_aggregate_without_creating_apply_starts_from_default() {
    let events = crate::support::decide(vec![], CheckOut { guest: 1 }).unwrap();
    assert_eq!(stored::<GuestFact>(&events), [("Left".to_owned(), 1, "llun".to_owned())]);
    const { assert!(<Guest as cqrs::Aggregate>::ALWAYS_EXISTS) };
    assert_eq!(crate::support::fold::<Guest>([NightSpent(90).into()]).unwrap().nights, 1);
}
