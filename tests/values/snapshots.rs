//! Snapshots whose state serde changes or cannot read.

use std::sync::{Arc, Mutex};

use cqrs::Registry;
use cqrs::memory::MemoryStore;
use cqrs::prelude::*;
use cqrs_testkit::faults::{Call, Faulty};
use tracing_subscriber::fmt::MakeWriter;

#[derive(Event, Serialize, Deserialize)]
pub struct Added {
    pub n: u64,
}
#[derive(Command)]
pub struct Add {
    #[id]
    pub id: u64,
}

/// Every third event counts, by a field that serde does not store.
#[derive(Default, Serialize, Deserialize)]
pub struct Forgetful {
    pub thirds: u64,
    #[serde(skip)]
    pub since: u64,
}

#[aggregate(id = u64, snapshot = every(4))]
impl Forgetful {
    #[handle]
    fn add(&self, cmd: Add) -> Added {
        Added { n: cmd.id }
    }
    #[apply]
    fn added(&mut self, _: &Added) {
        self.since += 1;
        self.thirds += u64::from(self.since.is_multiple_of(3));
    }
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "kind")]
pub enum Cart {
    Open { lines: std::collections::BTreeMap<u32, String> },
}

#[derive(Command)]
pub struct Put {
    #[id]
    pub id: u64,
}
#[derive(Event, Serialize, Deserialize)]
pub struct PutIn {
    pub what: String,
}

#[aggregate(id = u64, snapshot = every(4))]
impl Cart {
    #[handle]
    fn put(_: Option<&Self>, _: Put) -> PutIn {
        PutIn { what: "a secret".into() }
    }
    #[apply]
    fn put_in(cart: Option<&Self>, event: &PutIn) -> Self {
        let Self::Open { mut lines } = match cart {
            Some(Self::Open { lines }) => Self::Open { lines: lines.clone() },
            None => Self::Open { lines: Default::default() },
        };
        lines.insert(lines.len() as u32, event.what.clone());
        Self::Open { lines }
    }
}

async fn engine(store: impl Into<cqrs::engine::Stores>, registry: Registry) -> Engine {
    Engine::builder().registry(registry).without_background().build(store).await.unwrap()
}

#[tokio::test]
async fn verify_compares_a_snapshot_and_its_tail_with_all_events() {
    let registry = Registry::new().with::<Forgetful>();
    let engine = engine(MemoryStore::new(), registry).await;
    for id in [1, 2] {
        for _ in 0..3 {
            engine.execute(Add { id }).await.unwrap();
        }
    }
    let verification = engine.verify().await.unwrap();
    assert!(verification.is_sound());
    assert_eq!(verification.snapshots.compared, 0);
    for _ in 0..3 {
        engine.execute(Add { id: 2 }).await.unwrap();
    }
    let verification = engine.verify().await.unwrap();
    assert!(!verification.is_sound(), "{verification}");
    assert_eq!(verification.snapshots.compared, 1);
    let difference = &verification.snapshots.differences[0];
    assert_eq!((difference.stream.as_str(), difference.version.get()), ("Forgetful/2", 6));
    assert_eq!(difference.resumed.as_deref(), Some(r#"{"thirds":1}"#));
    assert_eq!(difference.folded.as_deref(), Some(r#"{"thirds":2}"#));
    assert!(verification.to_string().contains("Forgetful/2 at version 6"), "{verification}");
}

/// What was logged.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;
    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[tokio::test]
async fn a_state_that_does_not_read_back_is_not_saved_and_reported_once() {
    let lines = Lines::default();
    let subscriber = tracing_subscriber::fmt().with_writer(lines.clone()).with_ansi(false).finish();
    let _logging = tracing::subscriber::set_default(subscriber);
    let store = Faulty::new(MemoryStore::new());
    let engine = engine(Arc::new(store.clone()), Registry::new().with::<Cart>()).await;
    let mut reads = Vec::new();
    for count in 1..=64 {
        for id in [1, 2] {
            engine.execute(Put { id }).await.unwrap();
        }
        if count % 16 == 0 {
            engine.load::<Cart>(&1).await.unwrap();
            reads.push(store.count(Call::ReadStream));
        }
    }
    assert_eq!(store.count(Call::SaveSnapshot), 0);
    // It is tried at 4, 8, 16, 32 and 64 events, and not at each multiple of four.
    assert!(reads[3] - reads[2] <= 4, "{reads:?}");
    let logged = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    assert_eq!(logged.matches("no snapshot").count(), 1, "{logged}");
    assert!(logged.contains("invalid type, expected u32"), "{logged}");
    assert!(!logged.contains("secret"), "{logged}");
}
