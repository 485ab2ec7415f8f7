//! The store keeps every clause of the contract.

#![allow(missing_docs, missing_debug_implementations, reason = "a test")]

mod support;

use std::path::PathBuf;
use std::sync::Arc;

use cqrs_core::store::BoxFuture;
use cqrs_sqlite::SqliteStore;
use cqrs_testkit::conformance::{Backup, Fault, Setup, Stores, Suite};
use tempfile::TempDir;
use uuid::Uuid;

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
        let (again, there) = ((path.clone(), Arc::clone(&dir)), dir);
        let again = move || handle(again.0.clone(), Arc::clone(&again.1));
        let stores = Stores::new(store.clone()).documents(store).again(again);
        Ok(stores.backup(move || back_up(path.clone(), Arc::clone(&there))))
    })
}

/// A copy that is restored by SQL, in the file that is open.
fn back_up(path: PathBuf, dir: Arc<TempDir>) -> BoxFuture<'static, Result<Backup, Fault>> {
    Box::pin(async move {
        let copy = dir.path().join(Uuid::new_v4().to_string());
        support::back_up(&path, &copy);
        Ok(Backup::new(move || {
            Box::pin(async move {
                support::restore(&path, &copy);
                drop(dir);
                Ok(())
            })
        }))
    })
}

cqrs_testkit::conformance_tests!(Sqlite);

/// A store whose file is replaced by an older copy of it.
#[cfg(unix)]
struct Replaced;

#[cfg(unix)]
impl Setup for Replaced {
    fn fresh(&self) -> BoxFuture<'_, Result<Stores, Fault>> {
        Box::pin(async {
            let dir = Arc::new(TempDir::new()?);
            let path = dir.path().join("store.db");
            let stores = handle(path.clone(), Arc::clone(&dir)).await?;
            Ok(stores.backup(move || replace(path.clone(), Arc::clone(&dir))))
        })
    }
}

#[cfg(unix)]
fn replace(path: PathBuf, dir: Arc<TempDir>) -> BoxFuture<'static, Result<Backup, Fault>> {
    Box::pin(async move {
        let copy = dir.path().join(Uuid::new_v4().to_string());
        support::back_up(&path, &copy);
        Ok(Backup::new(move || {
            Box::pin(async move {
                for end in ["", "-wal", "-shm"] {
                    let mut name = path.clone().into_os_string();
                    name.push(end);
                    std::fs::remove_file(name)?;
                }
                std::fs::copy(&copy, &path)?;
                drop(dir);
                Ok(())
            })
        }))
    })
}

#[cfg(unix)]
#[test]
fn a_replaced_file_is_a_log_that_was_rewound() {
    Suite::new(Replaced).only(|rule| rule.topic == "rewound").run();
}
