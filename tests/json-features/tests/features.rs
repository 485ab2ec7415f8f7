//! The engine in a program in which another crate has turned all features of `serde_json` on.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, reason = "a test stops at what it did not expect")]

use std::collections::BTreeMap;

use cqrs::Registry;
use cqrs::engine::Failure;
use cqrs::memory::MemoryStore;
use cqrs::prelude::*;
use cqrs_testkit::prelude::*;
use serde_json::Value;
use serde_json::value::RawValue;

#[derive(Clone, Serialize, Deserialize)]
#[serde(tag = "kind")]
pub enum Fee {
    Card { fee: f64, n: i64 },
}

#[derive(Event, Serialize, Deserialize)]
pub struct Charged {
    pub fee: Fee,
}

#[derive(Event, Serialize, Deserialize)]
pub struct Flat {
    pub id: u64,
    #[serde(flatten)]
    pub rest: BTreeMap<String, f64>,
}

/// Holds whatever a client has sent.
#[derive(Event, Serialize, Deserialize)]
#[event(version = 2, upcast(same))]
pub struct Noted {
    pub body: Value,
    pub wide: u128,
    pub raw: Option<Box<RawValue>>,
}

fn same(payload: Value) -> Value {
    payload
}

#[derive(Command)]
pub struct Record {
    #[id]
    pub id: u64,
    pub body: Option<Value>,
    pub raw: Option<String>,
    pub kind: &'static str,
}

#[derive(Default)]
pub struct Journal {
    pub notes: Vec<String>,
}

#[aggregate(id = u64, events = Recorded)]
impl Journal {
    #[handle]
    fn record(&self, cmd: Record) -> Recorded {
        match cmd.kind {
            "charged" => Charged { fee: Fee::Card { fee: 1.5, n: 1 } }.into(),
            "flat" => Flat { id: 1, rest: [("a".to_owned(), 1.5)].into() }.into(),
            _ => {
                let raw = cmd.raw.map(|raw| RawValue::from_string(raw).unwrap());
                Noted { body: cmd.body.unwrap_or_default(), wide: u128::MAX, raw }.into()
            }
        }
    }
    #[apply]
    fn charged(&mut self, _: &Charged) {}
    #[apply]
    fn flat(&mut self, _: &Flat) {}
    #[apply]
    fn noted(&mut self, event: &Noted) {
        self.notes.push(event.body.to_string());
    }
}

#[derive(Default, Serialize, Deserialize)]
pub struct Count {
    pub notes: u64,
    pub last: Option<Box<RawValue>>,
}

#[projection(name = "count", key = u64)]
impl Count {
    #[on]
    fn noted(&mut self, event: &Noted) {
        self.notes += 1;
        self.last.clone_from(&event.raw);
    }
}

fn nested(levels: usize) -> String {
    format!("{}1{}", "[".repeat(levels), "]".repeat(levels))
}

async fn engine(store: &MemoryStore) -> Engine {
    let registry = Registry::new().with::<Journal>().with::<Count>();
    Engine::builder().registry(registry).without_background().build(store.clone()).await.unwrap()
}

/// Reads JSON of any depth, as a server that has disabled the limit does. The stack has room for it.
fn unbounded(text: &str) -> Value {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    deserializer.disable_recursion_limit();
    Value::deserialize(&mut deserializer).unwrap()
}

#[tokio::test]
async fn what_is_accepted_can_be_read() {
    let store = MemoryStore::new();
    let mut running = engine(&store).await;
    let record = |kind, body, raw| Record { id: 1, body, raw, kind };
    let mut accepted = 0;
    for _ in 0..2 {
        for kind in ["charged", "flat"] {
            // Numbers reach such types as maps; whether they are read is serde's affair.
            match running.execute(record(kind, None, None)).await {
                Ok(_) => accepted += 1,
                Err(ExecuteError::Failed(Failure::Encode(_))) => {}
                Err(error) => panic!("{error}"),
            }
        }
        for levels in [1, 99, 100, 127, 400] {
            let deep = running.execute(record("noted", Some(unbounded(&nested(levels))), None)).await;
            assert_eq!(deep.is_ok(), levels <= 99, "{levels} levels");
            accepted += usize::from(deep.is_ok());
            // As raw JSON it is passed on without being read.
            running.execute(record("noted", None, Some(nested(levels)))).await.unwrap();
            accepted += 1;
        }
        let exact: Value = serde_json::from_str("[1.10,100000000000000000001,1e400]").unwrap();
        let text = exact.to_string();
        assert!(text.starts_with("[1.10,100000000000000000001,"));
        let receipt = running.execute(record("noted", Some(exact), None)).await.unwrap();
        accepted += 1;
        assert_eq!(running.load::<Journal>(&1).await.unwrap().version.get(), accepted as u64);
        let notes = running.load::<Journal>(&1).await.unwrap().state.unwrap().notes;
        assert_eq!(*notes.last().unwrap(), text);
        assert!(running.get::<Count>(&1).after(&receipt).await.unwrap().is_some());
        let verification = running.verify().await.unwrap();
        assert!(verification.is_sound(), "{verification}");
        running.shutdown().await;
        running = engine(&store).await;
    }
}

#[test]
fn an_upcast_keeps_every_number() {
    for number in ["1.10", "100000000000000000001", "1e400", "-0", "1E+2"] {
        Journal::given_stored("Noted", 1, format!(r#"{{"body":{number},"wide":1,"raw":null}}"#)).then_state(
            |journal| journal.notes == [serde_json::from_str::<Value>(number).unwrap().to_string()],
        );
    }
}
