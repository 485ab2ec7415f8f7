//! A disk that fills up: whoever is told that it failed has written nothing, and nobody else suffers.

#![allow(missing_docs, reason = "a test")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test stops at a fault")]
#![cfg(target_os = "linux")]

mod support;

use std::collections::HashSet;
use std::path::Path;
use std::process::Command;

use cqrs_core::error::StoreErrorKind;
use cqrs_core::store::{Append, AppendError, EventStore as _, Guard};
use cqrs_sqlite::SqliteStore;
use support::{dir, event, payload, read_all};

/// A small file system of its own, as long as it lives; `None` if this user may not mount one.
struct Small<'a>(&'a Path);

impl<'a> Small<'a> {
    fn mount(at: &'a Path) -> Option<Self> {
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=3m", "tmpfs"]).arg(at).output();
        mount.is_ok_and(|done| done.status.success()).then_some(Self(at))
    }
}

impl Drop for Small<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_and_keeps_what_is_there() {
    let dir = dir();
    let Some(_small) = Small::mount(dir.path()) else {
        println!("skipped: a small file system can be mounted by root only");
        return;
    };
    let path = dir.path().join("full.db");
    let store = SqliteStore::open(&path).await.unwrap();
    let writers: Vec<_> = (0..8).map(|task| tokio::spawn(fill(store.clone(), task))).collect();
    let (mut written, mut refused) = (HashSet::new(), 0);
    for writer in writers {
        let (texts, refusals) = writer.await.unwrap();
        written.extend(texts);
        refused += refusals;
    }
    assert!(refused > 0, "the disk was never full");
    // What is there can still be read, and is what was acknowledged.
    let there: HashSet<String> = read_all(&store).await.iter().map(|event| payload(event)).collect();
    assert!(there == written, "{} events for {} acknowledged", there.len(), written.len());
    println!("{} appends were acknowledged and {refused} refused", written.len());
    drop(store);
    let store = SqliteStore::open(&path).await.unwrap();
    assert_eq!(store.verify().await.unwrap().events, written.len() as u64);
    // With room again it goes on.
    let grown = Command::new("mount").args(["-o", "remount,size=64m"]).arg(dir.path()).status();
    assert!(grown.unwrap().success());
    store.append(Append::new(vec![event("A/1", "room")], Guard::Any)).await.unwrap();
}

/// Appends until the disk has refused some times; the last ones are small and may still fit.
async fn fill(store: SqliteStore, task: usize) -> (Vec<String>, usize) {
    let (mut written, mut refused) = (Vec::new(), 0);
    for number in 0.. {
        let size = if refused < 3 { 9_000 } else { 10 };
        let text = format!("{task}-{number}-{}", "x".repeat(size));
        match store.append(Append::new(vec![event(&format!("A/{task}"), text.clone())], Guard::Any)).await {
            Ok(_) => written.push(text),
            Err(AppendError::Store(error)) => {
                assert_eq!(error.kind(), StoreErrorKind::Failed, "{error}");
                assert!(error.to_string().contains("the disk is full"), "{error}");
                refused += 1;
            }
            Err(error) => panic!("{error}"),
        }
        if refused == 6 {
            break;
        }
    }
    (written, refused)
}
