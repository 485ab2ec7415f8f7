//! Events that serde writes and cannot read.

use std::collections::BTreeMap;

use bytes::Bytes;
use cqrs::Registry;
use cqrs::codec::{Codec, CodecError, Json};
use cqrs::engine::Failure;
use cqrs::prelude::*;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{chain, places};

#[derive(Event, Serialize, Deserialize)]
pub struct LeftOut {
    pub rows: Vec<Row>,
}
#[derive(Serialize, Deserialize)]
pub struct Row {
    pub id: u32,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
}
#[derive(Event, Serialize, Deserialize)]
pub struct WrittenNever {
    pub user: String,
    #[serde(skip_serializing)]
    pub secret: String,
}
#[derive(Event, Serialize, Deserialize)]
pub struct RenamedOneWay {
    #[serde(rename(serialize = "ownerName"))]
    pub owner: String,
}
#[derive(Serialize, Deserialize)]
#[serde(tag = "kind")]
pub enum Tagged {
    Wei { amount: u128 },
}
#[derive(Event, Serialize, Deserialize)]
pub struct TaggedWide {
    pub amount: Tagged,
}
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
pub enum Untagged {
    Wide(u128),
}
#[derive(Event, Serialize, Deserialize)]
pub struct UntaggedWide {
    pub amount: Untagged,
}
#[derive(Serialize, Deserialize)]
pub struct Numbered {
    pub lines: BTreeMap<u32, String>,
}
#[derive(Event, Serialize, Deserialize)]
pub struct FlatNumbers {
    #[serde(flatten)]
    pub inner: Numbered,
}
#[derive(Serialize, Deserialize)]
pub struct Part {
    pub id: u32,
}
#[derive(Event, Serialize, Deserialize)]
pub struct Colliding {
    pub id: u32,
    #[serde(flatten)]
    pub part: Part,
}
#[derive(Event, Serialize, Deserialize)]
pub struct Deep {
    pub body: Value,
}
#[derive(Event, Serialize, Deserialize)]
pub struct NotANumber {
    pub celsius: f64,
}
/// Its `Deserialize` accepts less than its `Serialize` writes.
#[derive(Event, Serialize, Deserialize)]
#[serde(try_from = "u32")]
pub struct Picky(u32);
impl From<Picky> for u32 {
    fn from(picky: Picky) -> Self {
        picky.0
    }
}
impl TryFrom<u32> for Picky {
    type Error = String;
    fn try_from(number: u32) -> Result<Self, String> {
        if number < 10 { Ok(Self(number)) } else { Err(format!("{number} is too large")) }
    }
}
/// A codec that writes half of what it should.
pub struct Truncating;
impl Codec for Truncating {
    fn encode<T: Serialize>(value: &T) -> Result<Bytes, CodecError> {
        let whole = Json::encode(value)?;
        Ok(whole.slice(..whole.len() / 2))
    }
    fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
        Json::decode(bytes)
    }
}
#[derive(Event, Serialize, Deserialize)]
#[event(codec = Truncating)]
pub struct Truncated {
    pub text: String,
}
#[derive(Event, Serialize, Deserialize)]
pub struct Fine {
    pub n: u64,
}

#[derive(Command)]
pub struct Record {
    #[id]
    pub id: String,
    pub kind: &'static str,
}

#[derive(Default)]
pub struct Journal {
    pub events: u64,
}

fn nested(levels: usize) -> Value {
    (0..levels).fold(Value::Bool(true), |inner, _| Value::Array(vec![inner]))
}

/// What is recorded; what the error has to name besides the event.
const REJECTED: &[(&str, &[&str])] = &[
    ("LeftOut", &["rows[1]", "labels"]),
    ("WrittenNever", &["secret"]),
    ("RenamedOneWay", &["owner"]),
    ("TaggedWide", &["u128 is not supported"]),
    ("UntaggedWide", &["did not match any variant"]),
    ("FlatNumbers", &["u32"]),
    ("Colliding", &["id"]),
    ("Deep", &["100 levels"]),
    ("NotANumber", &["celsius"]),
    ("Truncated", &["EOF"]),
];

#[aggregate(id = String, events = Recorded)]
impl Journal {
    #[handle]
    fn record(&self, cmd: Record) -> Vec<Recorded> {
        // The last of several must not be stored without the others.
        let fine = || Fine { n: self.events }.into();
        let last = match cmd.kind {
            "LeftOut" => {
                let row = |id, labels| Row { id, labels };
                LeftOut { rows: vec![row(1, vec!["a".to_owned()]), row(2, Vec::new())] }.into()
            }
            "WrittenNever" => WrittenNever { user: "ada".into(), secret: "x".into() }.into(),
            "RenamedOneWay" => RenamedOneWay { owner: "ada".into() }.into(),
            "TaggedWide" => TaggedWide { amount: Tagged::Wei { amount: 1 << 70 } }.into(),
            "UntaggedWide" => UntaggedWide { amount: Untagged::Wide(1 << 70) }.into(),
            "FlatNumbers" => FlatNumbers { inner: Numbered { lines: [(7, "x".into())].into() } }.into(),
            "Colliding" => Colliding { id: 1, part: Part { id: 2 } }.into(),
            // As deep as a parser of requests accepts it.
            "Deep" => Deep { body: nested(100) }.into(),
            "NotANumber" => NotANumber { celsius: f64::NAN }.into(),
            "Picky" => Picky(10).into(),
            "Truncated" => Truncated { text: "half".into() }.into(),
            "deepest" => Deep { body: nested(99) }.into(),
            "bottomless" => Deep { body: nested(2_000) }.into(),
            _ => fine(),
        };
        vec![fine(), last]
    }

    #[apply]
    fn left_out(&mut self, _: &LeftOut) {
        self.events += 1;
    }
    #[apply]
    fn written_never(&mut self, _: &WrittenNever) {
        self.events += 1;
    }
    #[apply]
    fn renamed(&mut self, _: &RenamedOneWay) {
        self.events += 1;
    }
    #[apply]
    fn tagged(&mut self, _: &TaggedWide) {
        self.events += 1;
    }
    #[apply]
    fn untagged(&mut self, _: &UntaggedWide) {
        self.events += 1;
    }
    #[apply]
    fn flat(&mut self, _: &FlatNumbers) {
        self.events += 1;
    }
    #[apply]
    fn colliding(&mut self, _: &Colliding) {
        self.events += 1;
    }
    #[apply]
    fn deep(&mut self, _: &Deep) {
        self.events += 1;
    }
    #[apply]
    fn not_a_number(&mut self, _: &NotANumber) {
        self.events += 1;
    }
    #[apply]
    fn picky(&mut self, _: &Picky) {
        self.events += 1;
    }
    #[apply]
    fn truncated(&mut self, _: &Truncated) {
        self.events += 1;
    }
    #[apply]
    fn fine(&mut self, _: &Fine) {
        self.events += 1;
    }
}

/// Reads the events that clients could poison.
#[derive(Default, Serialize, Deserialize)]
pub struct Pages {
    pub fine: u64,
    pub deep: u64,
    /// The last body, as many levels deeper than its event has it as a document may.
    #[serde(default)]
    pub body: Value,
}

#[projection(name = "pages", key = String)]
impl Pages {
    #[on]
    fn fine(&mut self, _: &Fine) {
        self.fine += 1;
    }
    #[on]
    fn deep(&mut self, event: &Deep) {
        self.deep += 1;
        self.body = (0..27).fold(event.body.clone(), |body, _| Value::Array(vec![body]));
    }
    #[on]
    fn left_out(&mut self, _: &LeftOut) {}
}

#[tokio::test]
async fn an_event_that_does_not_read_back_is_rejected_by_name() {
    let registry = Registry::new().with::<Journal>().with::<Pages>();
    for place in places("rejected") {
        let mut engine = place.open(&registry).await;
        let record = |kind| Record { id: "j".into(), kind };
        engine.execute(record("fine")).await.unwrap();
        for round in 0..2 {
            let more: [(&str, &[&str]); 2] =
                [("Picky", &["10 is too large"]), ("bottomless", &["100 levels"])];
            for (kind, words) in REJECTED.iter().chain(&more) {
                let error = engine.execute(record(kind)).await.unwrap_err();
                assert!(!error.is_refusal(), "it is no answer of the domain");
                let text = chain(&error);
                let ExecuteError::Failed(Failure::Encode(encode)) = error else { panic!("{text}") };
                let name = if *kind == "bottomless" { "Deep" } else { kind };
                assert_eq!(encode.event(), name);
                for word in [&[name][..], words].concat() {
                    assert!(text.contains(word), "{kind}: {text} does not name {word}");
                }
                assert!(text.contains("nothing was stored"), "{text}");
                let loaded = engine.load::<Journal>(&"j".into()).await.unwrap();
                assert_eq!(loaded.version.get(), 2 + 4 * round, "{kind}: nothing was stored");
            }
            // The stream is alive, with the deepest value there may be, and again after a restart.
            let receipt = engine.execute(record("deepest")).await.unwrap();
            engine.execute(record("fine")).await.unwrap();
            let pages = engine.get::<Pages>(&"j".into()).after(&receipt).await.unwrap().unwrap();
            assert_eq!(pages.deep, round + 1);
            engine.catch_up().await.unwrap();
            let verification = engine.verify().await.unwrap();
            assert!(verification.is_sound(), "{verification}");
            engine.shutdown().await;
            engine = place.open(&registry).await;
        }
    }
}
