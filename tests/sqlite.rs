//! The feature `sqlite`, on by default, is all it takes to open a file: nothing here names the store.

#![allow(missing_docs, missing_debug_implementations, clippy::unwrap_used, reason = "a test")]

use std::convert::Infallible;
use std::path::Path;

use cqrs::prelude::*;

#[derive(Event, Serialize, Deserialize)]
pub struct Counted {
    pub by: u64,
}

#[derive(Command)]
pub struct Count {
    #[id]
    pub counter: u64,
    pub by: u64,
}

#[derive(Default)]
pub struct Counter {
    pub total: u64,
}

#[aggregate(id = u64, error = Infallible)]
impl Counter {
    #[handle]
    fn count(&self, cmd: Count) -> Counted {
        Counted { by: cmd.by }
    }

    #[apply]
    fn counted(&mut self, event: &Counted) {
        self.total += event.by;
    }
}

#[tokio::test]
async fn a_url_is_enough() {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("counters.db");
    for file in ["counters.db", "counters.db-wal", "counters.db-shm"] {
        let _ = std::fs::remove_file(path.with_file_name(file));
    }
    let url = format!("sqlite:{}", path.display());
    for round in 1..=2 {
        let engine = Engine::open(&url).await.unwrap();
        engine.execute(Count { counter: 1, by: 2 }).await.unwrap();
        assert_eq!(engine.load::<Counter>(&1).await.unwrap().state.unwrap().total, 2 * round);
        engine.shutdown().await;
    }
}

#[tokio::test]
async fn what_is_no_file_is_refused_with_a_way_out() {
    let refusal = async |url: &str| Engine::open(url).await.unwrap_err().to_string();
    assert!(refusal("sqlite::memory:").await.contains("write `memory:`"));
    assert!(refusal("sqlite:").await.contains("write `sqlite:PATH`"));
    assert!(refusal("sqlite://bank.db").await.contains("write `sqlite:bank.db`"));
    assert!(refusal("sqlite:bank.db?mode=rwc").await.contains("write `sqlite:bank.db`"));
}
