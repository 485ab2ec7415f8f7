//! What the engine tells a log: where it is and for whom, and nothing of what is in it.

#![allow(missing_docs, clippy::unwrap_used, reason = "tests stop at what they did not expect")]

use std::io::Write;
use std::sync::{Arc, Mutex};

use cqrs::prelude::*;
use tracing_subscriber::fmt::format::FmtSpan;

#[derive(Event, Serialize, Deserialize, Debug)]
struct Noted {
    text: String,
}

#[derive(Command, Debug)]
struct Note {
    #[id]
    book: u64,
    text: String,
}

#[derive(Serialize, Deserialize, Debug, Default)]
struct Book {
    last: String,
}

#[aggregate(id = u64, snapshot = every(1))]
impl Book {
    #[handle]
    fn note(&self, cmd: Note) -> Noted {
        Noted { text: cmd.text }
    }
    #[apply]
    fn noted(&mut self, event: &Noted) {
        self.last.clone_from(&event.text);
    }
}

#[derive(Serialize, Deserialize, Debug, Default)]
struct Pages {
    texts: Vec<String>,
}

#[projection(name = "pages", key = u64)]
impl Pages {
    #[on]
    fn noted(&mut self, event: &Noted) {
        self.texts.push(event.text.clone());
    }
}

#[derive(Clone, Debug, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn commands_appends_and_batches_have_spans_and_no_payload_is_told() {
    let captured = Captured::default();
    let writer = captured.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_span_events(FmtSpan::NEW)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);

    let engine = Engine::builder().without_background().open("memory:").await.unwrap();
    let metadata = Metadata::new().actor("the actor");
    engine
        .execute(Note { book: 7, text: "a secret".into() })
        .key("the key")
        .metadata(metadata)
        .await
        .unwrap();
    engine.catch_up().await.unwrap();

    let told = String::from_utf8(captured.0.lock().unwrap().clone()).unwrap();
    assert!(told.contains(r#"execute{command="Note" stream=Book/7}: cqrs_core"#), "{told}");
    assert!(told.contains(r#"append{events=1}"#), "{told}");
    assert!(told.contains(r#"project{consumer="pages" partition=0}"#), "{told}");
    assert!(told.contains("kept a snapshot stream=Book/7 version=1"), "{told}");
    for secret in ["a secret", "the actor", "the key"] {
        assert!(!told.contains(secret), "{told}");
    }
}
