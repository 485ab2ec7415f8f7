//! What happens without the record: a read store that keeps none, such as one that was written before there
//! were records. It shows that the tests next to this one would notice.

use std::sync::Arc;

use cqrs::engine::Stores;
use cqrs::memory::MemoryStore;
use cqrs::prelude::*;
use cqrs::read_store::{Batch, CommitError, ReadStore};
use cqrs::store::BoxFuture;

use crate::releases::{Release, lagging};
use crate::shop::{moves, note, register};

#[derive(Debug)]
struct WithoutRecords(MemoryStore);

impl ReadStore for WithoutRecords {
    forward_reads!(0);
    fn commit(&self, batch: Batch) -> BoxFuture<'_, Result<(), CommitError>> {
        self.0.commit(batch)
    }
}

#[tokio::test]
async fn without_records_an_old_release_passes_the_event_and_verify_finds_it() {
    let store = MemoryStore::new();
    let stores =
        || Stores { log: Arc::new(store.clone()), documents: Arc::new(WithoutRecords(store.clone())) };
    let open = async |registry| {
        Engine::builder().registry(registry).without_background().build(stores()).await.unwrap()
    };
    let old = open(lagging::Second::registry()).await;
    register(&old, "a").await;
    let new = open(lagging::Third::registry()).await;
    moves(&new, "a").await;
    let noted = note(&old, "a").await;
    assert_eq!(lagging::Second::of(&old, "a", Some(&noted)).await.unwrap(), (1, 1, 0));
    assert_eq!(lagging::Third::of(&new, "a", Some(&noted)).await.unwrap(), (1, 1, 0), "the move is lost");
    assert!(!new.verify().await.unwrap().is_sound());
}
