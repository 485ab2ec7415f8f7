//! What is accepted can be read, and what a process has in memory agrees with the log: on every store, before and
//! after a restart.

#![allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests stop at what they did not expect"
)]

mod cached;
mod documents;
mod events;
mod random;
mod repair;
mod snapshots;

use std::error::Error;

use cqrs::Registry;
use cqrs::memory::MemoryStore;
use cqrs::prelude::*;

/// A store that can be opened again, as after a restart.
pub enum Place {
    Memory(MemoryStore),
    Url(String, Option<tempfile::TempDir>),
}

impl Place {
    pub async fn open(&self, registry: &Registry) -> Engine {
        let builder = Engine::builder().registry(registry.clone()).without_background();
        match self {
            Self::Memory(store) => builder.build(store.clone()).await.unwrap(),
            Self::Url(url, _) => builder.open(url).await.unwrap(),
        }
    }
}

/// An empty store of each kind. `test` names it where tests share a server.
pub fn places(test: &str) -> Vec<Place> {
    let directory = tempfile::tempdir().unwrap();
    let file = format!("sqlite:{}", directory.path().join("values.db").display());
    let mut all = vec![Place::Memory(MemoryStore::new()), Place::Url(file, Some(directory))];
    if cfg!(feature = "postgres")
        && let Some(cluster) = pg_cluster::shared()
    {
        all.push(Place::Url(format!("{}?schema={test}_{}", cluster.url(), std::process::id()), None));
    }
    all
}

/// An error with its causes.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}
