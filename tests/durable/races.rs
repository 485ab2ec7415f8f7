//! Several processes on one file, each with an engine that carries out commands on the same accounts
//! and follows the log.

use std::path::Path;

use crate::check::{Told, check};
use crate::domain::{Request, running};
use crate::process::{Process, block_on, note, open, part, send, tell};

const REQUESTS: u64 = 60;

async fn race(file: &Path, by: &str) {
    let bank = running(open(file).await).await;
    tell("ready");
    let tasks = (1..=3).map(|account| {
        let (bank, by) = (bank.clone(), by.to_owned());
        tokio::spawn(async move {
            for number in 0..REQUESTS {
                send(&bank, Request::new(&by, account, number)).await;
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    bank.catch_up().await.unwrap();
    bank.shutdown().await;
}

#[test]
fn processes_that_race_agree() {
    if let Some((by, file)) = part() {
        return block_on(race(&file, &by));
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("bank.db");
    let mut told = Told::default();
    let mut racers =
        ["one", "two", "three"].map(|by| Process::start("races::processes_that_race_agree", by, &file));
    for racer in &mut racers {
        assert_eq!(racer.hear().as_deref(), Some("ready"));
    }
    // Each is heard as it goes on, so that none waits for its words to be taken.
    std::thread::scope(|scope| {
        let hear = |mut racer: Process| {
            let mut heard = Vec::new();
            while let Some(line) = racer.hear() {
                heard.push(line);
            }
            assert!(racer.child.wait().unwrap().success());
            heard
        };
        let racers = racers.map(|racer| scope.spawn(move || hear(racer)));
        for racer in racers {
            racer.join().unwrap().iter().for_each(|line| note(&mut told, line));
        }
    });
    let events = block_on(async { check(&open(&file).await, &told).await }).unwrap();
    println!("{events} events; {} requests gave up a race", told.open.len());
    // Each opens an account, or finds it open; one in six is refused.
    assert_eq!(told.accepted.len() + told.refused.len() + told.open.len(), 3 * 3 * REQUESTS as usize);
    assert!(told.open.len() < 50, "{} requests were given up", told.open.len());
}
