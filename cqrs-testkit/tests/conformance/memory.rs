//! The store in memory keeps the contract, as a whole and with parts of it taken away.

use std::sync::Arc;

use cqrs_core::memory::MemoryStore;
use cqrs_core::store::BoxFuture;
use cqrs_testkit::conformance::{Fault, Setup, Stores};

struct Memory {
    partitions: u16,
}

pub(crate) fn stores(store: &MemoryStore) -> Stores {
    let again = store.clone();
    Stores::new(Arc::new(store.clone())).documents(Arc::new(store.clone())).again(move || {
        let stores = stores(&again);
        Box::pin(async { Ok(stores) })
    })
}

impl Setup for Memory {
    fn fresh(&self) -> BoxFuture<'_, Result<Stores, Fault>> {
        Box::pin(async { Ok(stores(&MemoryStore::builder().partitions(self.partitions).build())) })
    }
}

mod one_partition {
    cqrs_testkit::conformance_tests!(super::Memory { partitions: 1 });
}

#[test]
fn four_partitions() {
    cqrs_testkit::conformance::run(Memory { partitions: 4 });
}
