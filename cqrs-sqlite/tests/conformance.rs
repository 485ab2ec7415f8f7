//! The store keeps every clause of the contract.

#![allow(missing_docs, missing_debug_implementations, reason = "a test")]

use std::path::PathBuf;
use std::sync::Arc;

use cqrs_core::store::BoxFuture;
use cqrs_sqlite::SqliteStore;
use cqrs_testkit::conformance::{Fault, Setup, Stores};
use tempfile::TempDir;

struct Sqlite;

impl Setup for Sqlite {
    fn fresh(&self) -> BoxFuture<'_, Result<Stores, Fault>> {
        Box::pin(async {
            let dir = Arc::new(TempDir::new()?);
            handle(dir.path().join("store.db"), dir).await
        })
    }
}

/// One handle; the directory is removed with the last.
fn handle(path: PathBuf, dir: Arc<TempDir>) -> BoxFuture<'static, Result<Stores, Fault>> {
    Box::pin(async move {
        let store = Arc::new(SqliteStore::open(&path).await?);
        let again = move || handle(path.clone(), Arc::clone(&dir));
        Ok(Stores::new(store.clone()).documents(store).again(again))
    })
}

cqrs_testkit::conformance_tests!(Sqlite);
