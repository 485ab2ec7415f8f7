//! `kill -9`, at named points and at any time.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cqrs::engine::Stores;
use cqrs::sqlite::SqliteStore;
use cqrs_testkit::faults::{Call, Fault, Faulty};

use crate::check::{Told, check};
use crate::domain::{Request, running};
use crate::process::{Process, block_on, note, open, part, send, tell};
use crate::wrong::{Flaw, Flawed};

/// Where a process can end: before and after each call of a store. Between them lie deciding, folding
/// and noting what was done; within them, what a kill at any time meets.
const POINTS: [Call; 10] = [
    Call::Append,
    Call::FindKey,
    Call::ReadStream,
    Call::Snapshot,
    Call::SaveSnapshot,
    Call::ReadLog,
    Call::Head,
    Call::Claim,
    Call::Get,
    Call::Commit,
];
/// The how manieth such call it is.
const TURNS: [usize; 5] = [0, 1, 2, 5, 11];
/// After so many rounds a new file is begun, so that checking one stays cheap, and creating one is
/// interrupted, too.
const ROUNDS_PER_FILE: u64 = 25;

/// 240 rounds unless `CQRS_KILLS` says otherwise; half of them of each kind.
fn rounds() -> u64 {
    std::env::var("CQRS_KILLS").map_or(240, |rounds| rounds.parse().unwrap()) / 2
}

/// A number for each round, all over the range.
fn scattered(round: u64, below: u64) -> u64 {
    round.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29) % below
}

/// The child: sends again what was not answered in the last round, then more of its own on four
/// accounts at once, while three projections follow.
async fn work(stores: Stores, round: &str, again: &str, requests: u64) {
    let bank = running(stores).await;
    tell("ready");
    for request in again.split_whitespace() {
        send(&bank, request.parse().unwrap()).await;
    }
    let tasks = (1..=4).map(|account| {
        let (bank, by) = (bank.clone(), round.to_owned());
        tokio::spawn(async move {
            for number in 0..requests {
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

/// What is carried from one round to the next of the same file.
struct File {
    dir: tempfile::TempDir,
    told: Told,
}

impl File {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), told: Told::default() }
    }

    fn path(&self) -> std::path::PathBuf {
        self.dir.path().join("bank.db")
    }

    fn start(&self, test: &str, round: u64, how: &str) -> Process {
        let again: Vec<_> = self.told.open.iter().map(ToString::to_string).collect();
        Process::start(test, &format!("{round};{how};{}", again.join(" ")), &self.path())
    }

    fn check(&self) -> Result<usize, String> {
        // It may have been killed before there was a file; then this makes one.
        block_on(async { check(&open(&self.path()).await, &self.told).await })
    }
}

#[test]
fn a_process_is_killed_at_any_time() {
    if let Some((part, file)) = part() {
        let parts: Vec<_> = part.split(';').collect();
        block_on(async { work(open(&file).await, parts[0], parts[2], u64::MAX).await });
        return;
    }
    let (mut file, mut acknowledged, mut events) = (File::new(), 0, 0);
    let begun = std::time::Instant::now();
    for round in 0..rounds() {
        if round % ROUNDS_PER_FILE == 0 {
            acknowledged += file.told.accepted.len();
            file = File::new();
        }
        let mut process = file.start("kills::a_process_is_killed_at_any_time", round, "");
        // By the clock, when much may not have begun yet; or in the midst of its work.
        let heard = if round % 3 == 0 {
            std::thread::sleep(Duration::from_millis(scattered(round, 60)));
            0
        } else {
            2 + scattered(round, 120)
        };
        for _ in 0..heard {
            if let Some(line) = process.hear() {
                note(&mut file.told, &line);
            }
        }
        process.child.kill().unwrap();
        assert!(!process.hear_out(&mut file.told), "it ended by itself");
        events = file.check().unwrap_or_else(|fault| panic!("round {round}: {fault}"));
    }
    acknowledged += file.told.accepted.len();
    let per_minute = rounds() as f64 / begun.elapsed().as_secs_f64() * 60.0;
    println!(
        "{acknowledged} acknowledged requests in {} rounds, {per_minute:.0} a minute; {events} events in the last file",
        rounds()
    );
    assert!(acknowledged as u64 > rounds(), "too few were killed in the midst of work");
}

fn fault(turn: &str) -> (Call, Fault, usize) {
    let round: usize = turn.parse().unwrap();
    let call = POINTS[round / 2 % POINTS.len()];
    let fault = if round.is_multiple_of(2) { Fault::AbortBefore } else { Fault::AbortAfter };
    (call, fault, TURNS[round / 2 / POINTS.len() % TURNS.len()])
}

/// A store that ends the process at a call.
fn deadly(store: SqliteStore, (call, fault, turn): (Call, Fault, usize)) -> Faulty<SqliteStore> {
    let store = Faulty::new(store);
    store.skip(call, turn);
    store.fail_next(call, fault);
    store
}

#[test]
fn a_process_is_killed_at_named_points() {
    if let Some((part, file)) = part() {
        let parts: Vec<_> = part.split(';').collect();
        block_on(async {
            let store = deadly(SqliteStore::open(&file).await.unwrap(), fault(parts[1]));
            work(Arc::new(store).into(), parts[0], parts[2], 20).await;
        });
        return;
    }
    let mut file = File::new();
    let mut survived = Vec::new();
    let begun = std::time::Instant::now();
    for round in 0..rounds() {
        if round % ROUNDS_PER_FILE == 0 {
            file = File::new();
        }
        let mut process = file.start("kills::a_process_is_killed_at_named_points", round, &round.to_string());
        if process.hear_out(&mut file.told) {
            survived.push(fault(&round.to_string()));
        }
        file.check().unwrap_or_else(|found| panic!("{:?}: {found}", fault(&round.to_string())));
    }
    let per_minute = rounds() as f64 / begun.elapsed().as_secs_f64() * 60.0;
    println!("{} rounds, {per_minute:.0} a minute; not reached: {survived:?}", rounds());
    let early = survived.iter().filter(|(_, _, turn)| *turn == 0).count();
    assert!(
        early == 0 && survived.len() as u64 <= rounds() / 4,
        "points that were not reached: {survived:?}"
    );
}

/// The control: a read store that moves the checkpoint in a commit of its own is caught as soon as the
/// process ends between the two.
#[test]
fn a_checkpoint_apart_is_caught() {
    if let Some((_, file)) = part() {
        block_on(async {
            let store = deadly(SqliteStore::open(&file).await.unwrap(), (Call::Commit, Fault::AbortAfter, 2));
            work(Arc::new(Flawed(store, Flaw::CheckpointApart)).into(), "control", "", 20).await;
        });
        return;
    }
    let mut file = File::new();
    let mut process = file.start("kills::a_checkpoint_apart_is_caught", 0, "");
    assert!(!process.hear_out(&mut file.told));
    let fault = file.check().unwrap_err();
    assert!(fault.starts_with("read models, as they were found: "), "{fault}");
}

/// The control of what is said of the log: an acknowledgement that comes before the commit.
#[test]
fn an_early_acknowledgement_is_caught() {
    let dir = tempfile::tempdir().unwrap();
    let file: &Path = &dir.path().join("bank.db");
    block_on(async {
        let stores = open(file).await;
        let bank = running(stores.clone()).await;
        let mut told = Told::default();
        for number in 0..5 {
            let request = Request::new("control", 1, number);
            let answer = request.send(&bank).await.unwrap();
            told.answered(request, answer);
        }
        check(&stores, &told).await.unwrap();
        let mut lost = told.clone();
        lost.accepted.insert(Request::new("control", 1, 6));
        assert!(check(&stores, &lost).await.unwrap_err().ends_with("is lost"));
        told.refused.insert(Request::new("control", 1, 4));
        assert!(check(&stores, &told).await.unwrap_err().ends_with("is in the log"));
    });
}
