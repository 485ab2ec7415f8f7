//! A log that was rewound and has grown again: what was kept of the lost history is not used.

#![allow(missing_docs, missing_debug_implementations, unreachable_pub, reason = "a test")]
#![allow(clippy::unwrap_used, reason = "a test stops at a fault")]

#[path = "../../tests/support/rewound.rs"]
mod rewound;
mod support;

use cqrs_core::error::StoreError;
use cqrs_sqlite::SqliteStore;
use rewound::Rewind;
use support::{back_up, dir, restore};
use tempfile::TempDir;

struct Log(TempDir);

impl Log {
    fn paths(&self) -> [std::path::PathBuf; 2] {
        ["bank.db", "copy.db"].map(|name| self.0.path().join(name))
    }
}

impl Rewind for Log {
    type Store = SqliteStore;

    async fn open(&self) -> SqliteStore {
        SqliteStore::open(&self.paths()[0]).await.unwrap()
    }

    async fn back_up(&self) {
        let [path, copy] = self.paths();
        back_up(&path, &copy);
    }

    async fn restore(&self) {
        let [path, copy] = self.paths();
        restore(&path, &copy);
    }

    async fn verify(store: &SqliteStore) -> Result<(), StoreError> {
        store.verify().await.map(drop)
    }
}

#[tokio::test]
async fn a_snapshot_of_a_lost_history_is_not_used() {
    rewound::a_snapshot_of_a_lost_history_is_not_used(Log(dir())).await;
}

#[tokio::test]
async fn a_projection_in_another_store_continues_after_a_reset() {
    rewound::a_projection_in_another_store_continues_after_a_reset(Log(dir())).await;
}
