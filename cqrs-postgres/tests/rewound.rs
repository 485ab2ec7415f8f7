//! A log that was rewound and has grown again: what was kept of the lost history is not used.

#![allow(missing_docs, missing_debug_implementations, unreachable_pub, reason = "a test")]
#![allow(clippy::unwrap_used, reason = "a test stops at a fault")]

#[path = "../../tests/support/rewound.rs"]
mod rewound;
mod support;

use cqrs_core::error::StoreError;
use cqrs_postgres::PostgresStore;
use rewound::Rewind;
use support::{back_up, connect, restore, schema, with};
use tokio_postgres::Client;

struct Log {
    client: Client,
    url: String,
    schema: String,
}

impl Log {
    /// Creates a schema of its own. `None` without a server.
    async fn new() -> Option<Self> {
        let (cluster, schema) = (pg_cluster::shared()?, schema());
        let url = with(cluster.url(), &format!("schema={schema}"));
        Some(Self { client: connect(cluster.url()).await, url, schema })
    }
}

impl Rewind for Log {
    type Store = PostgresStore;

    async fn open(&self) -> PostgresStore {
        PostgresStore::open(&self.url).await.unwrap()
    }

    async fn back_up(&self) {
        back_up(&self.client, &self.schema).await;
    }

    async fn restore(&self) {
        restore(&self.client, &self.schema).await;
    }

    async fn verify(store: &PostgresStore) -> Result<(), StoreError> {
        store.verify().await.map(drop)
    }
}

#[tokio::test]
async fn a_snapshot_of_a_lost_history_is_not_used() {
    let Some(log) = Log::new().await else { return };
    rewound::a_snapshot_of_a_lost_history_is_not_used(log).await;
}

#[tokio::test]
async fn a_projection_in_another_store_continues_after_a_reset() {
    let Some(log) = Log::new().await else { return };
    rewound::a_projection_in_another_store_continues_after_a_reset(log).await;
}
