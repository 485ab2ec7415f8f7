//! A disk that fills up under a running engine.

use std::path::Path;
use std::process::Command;

use crate::check::{Told, check};
use crate::domain::{Answer, Request, Summary, running};
use crate::process::open;

/// A small file system of its own, as long as it lives; `None` if this user may not mount one.
struct Small<'a>(&'a Path);

impl<'a> Small<'a> {
    fn mount(at: &'a Path) -> Option<Self> {
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=3m", "tmpfs"]).arg(at).output();
        mount.is_ok_and(|done| done.status.success()).then_some(Self(at))
    }

    fn grow(&self) {
        let grown = Command::new("mount").args(["-o", "remount,size=64m"]).arg(self.0).status();
        assert!(grown.unwrap().success());
    }
}

impl Drop for Small<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_loses_nothing_that_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let Some(small) = Small::mount(dir.path()) else {
        pg_cluster::skip("a small file system can be mounted by root only");
        return;
    };
    let stores = open(&dir.path().join("bank.db")).await;
    let bank = running(stores.clone()).await;
    let (mut told, mut failed) = (Told::default(), 0);
    for number in 0.. {
        let request = Request::new("disk", 1, number);
        told.sent(request.clone());
        match request.send(&bank).await {
            Ok(answer) => told.answered(request, answer),
            Err(error) => {
                let words = format!("{error}: {:?}", std::error::Error::source(&error));
                assert!(words.contains("the disk is full"), "{words}");
                failed += 1;
            }
        }
        if failed == 10 {
            break;
        }
    }
    // What is there can be read.
    assert!(bank.get::<Summary>(&1).await.unwrap().is_some());
    small.grow();
    // What failed is sent again, and the projections go on by themselves or when asked to.
    for request in told.open.clone() {
        let answer = request.send(&bank).await.unwrap();
        assert!(answer == Answer::Accepted || request.number % 6 == 5);
        told.answered(request, answer);
    }
    bank.catch_up().await.unwrap();
    println!("{} requests were accepted, the disk was full {failed} times", told.accepted.len());
    bank.shutdown().await;
    check(&stores, &told).await.unwrap();
}
