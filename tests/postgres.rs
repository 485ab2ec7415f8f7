//! The feature `postgres` is all it takes to open a database: nothing here names the store.

#![allow(missing_docs, missing_debug_implementations, clippy::unwrap_used, reason = "a test")]

use std::convert::Infallible;

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

/// A schema of its own in the tests' server.
fn url(cluster: &pg_cluster::Cluster, name: &str) -> String {
    format!("{}?schema={name}_{}", cluster.url(), std::process::id())
}

#[tokio::test]
async fn a_url_is_enough() {
    let Some(cluster) = pg_cluster::shared() else { return };
    for scheme in ["postgres", "postgresql"] {
        let url = url(cluster, scheme).replacen("postgres:", &format!("{scheme}:"), 1);
        for round in 1..=2 {
            let engine = Engine::open(&url).await.unwrap();
            engine.execute(Count { counter: 1, by: 2 }).await.unwrap();
            assert_eq!(engine.load::<Counter>(&1).await.unwrap().state.unwrap().total, 2 * round);
            engine.shutdown().await;
        }
    }
}
