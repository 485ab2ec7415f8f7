//! Other processes: one that writes to the same file, and one that is killed while it writes.

#![allow(missing_docs, reason = "a test")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test stops at a fault"
)]

mod support;

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdout};
use std::time::{Duration, Instant};

use cqrs_core::Tag;
use cqrs_core::id::{Partition, Position, Version};
use cqrs_core::read_store::{
    Batch, Checkpoint, Collection, CommitError, EntryKey, EntryWrite, ReadStore as _,
};
use cqrs_core::store::{Append, AppendError, CommandKey, EventStore as _, Expected, Guard, Query};
use cqrs_sqlite::SqliteStore;
use support::{child, dir, event, payload, read_all, read_stream, role, stream};

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

/// What a child prints for the parent, before the next thing happens.
fn tell(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "> {line}").unwrap();
    out.flush().unwrap();
}

/// The next such line. The first may share its line with what the test runner prints.
fn heard(out: &mut BufReader<ChildStdout>) -> Option<String> {
    let mut line = String::new();
    while out.read_line(&mut line).unwrap() > 0 {
        if line.ends_with('\n')
            && let Some(at) = line.find("> ")
        {
            return Some(line[at + 2..].trim_end().to_owned());
        }
        line.clear();
    }
    None
}

fn start(test: &str, file: &Path, role: &str) -> (Child, BufReader<ChildStdout>) {
    let mut child = child(test, file, role).spawn().unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    (child, out)
}

const ROUNDS: u64 = 400;

/// Everybody counts one stream up, expecting the version that was read, and takes the seat of that
/// number for a new stream; so there is one winner for each, whoever it is.
async fn count_up(store: &SqliteStore, who: &str) -> u64 {
    let mut won = 0;
    loop {
        let version = read_stream(store, "Race/1").await.len() as u64;
        let (next, version) = (version + 1, Version::new(version));
        let guard = Guard::stream(stream("Race/1"), Expected::Version(version));
        won += u64::from(try_append(store, Append::new(vec![event("Race/1", who)], guard)).await);
        let mut seat = event(&format!("Seat/{who}-{next}"), who);
        seat.tags = [Tag::new("seat", &next)].into_iter().collect();
        let free = Guard::Absent(Query::tags(seat.tags.iter().cloned()));
        try_append(store, Append::new(vec![seat], free)).await;
        if next >= ROUNDS {
            return won;
        }
    }
}

/// Whether it was accepted; anything but a conflict is a fault.
async fn try_append(store: &SqliteStore, append: Append) -> bool {
    match store.append(append).await {
        Ok(_) => true,
        Err(AppendError::Conflict(_)) => false,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn processes_race_and_one_wins() {
    if let Some((role, file)) = role() {
        let won = block_on(async {
            let store = SqliteStore::open(&file).await.unwrap();
            tell("ready");
            store.wait(Partition::ONLY, Position::START).await.unwrap();
            count_up(&store, &role).await
        });
        tell(&won.to_string());
        return;
    }
    let dir = dir();
    let file = dir.path().join("race.db");
    // All of them create the file.
    let mut children = ["first", "second"].map(|role| start("processes_race_and_one_wins", &file, role));
    let (wins, events) = block_on(async {
        let store = SqliteStore::open(&file).await.unwrap();
        for (_, out) in &mut children {
            assert_eq!(heard(out).as_deref(), Some("ready"));
        }
        store.append(Append::new(vec![event("Start/1", "go")], Guard::Any)).await.unwrap();
        let mut wins = vec![count_up(&store, "parent").await];
        for (child, out) in &mut children {
            wins.push(heard(out).unwrap().parse::<u64>().unwrap());
            assert!(child.wait().unwrap().success());
        }
        store.verify().await.unwrap();
        (wins, read_all(&store).await)
    });
    println!("of {ROUNDS} versions the parent and its children won {wins:?}");
    let streams =
        |category: &str| events.iter().filter(|event| event.meta.stream.category() == category).count();
    assert_eq!(wins.iter().sum::<u64>(), streams("Race") as u64, "each version has one winner");
    let mut seats: Vec<_> = events.iter().flat_map(|event| event.tags.iter()).collect();
    seats.retain(|tag| tag.as_str().starts_with("seat:"));
    let taken = seats.len();
    seats.sort_unstable();
    seats.dedup();
    assert_eq!(seats.len(), taken, "a seat was taken twice");
}

/// A process that commits without a pause does not shut the other one out.
#[test]
fn a_busy_process_leaves_room() {
    if let Some((_, file)) = role() {
        block_on(async {
            let store = SqliteStore::open(&file).await.unwrap();
            tell("ready");
            let busy = (0..32).map(|task| tokio::spawn(flood(store.clone(), task))).collect::<Vec<_>>();
            for task in busy {
                task.await.unwrap();
            }
        });
        return;
    }
    let dir = dir();
    let file = dir.path().join("busy.db");
    let (mut child, mut out) = start("a_busy_process_leaves_room", &file, "flood");
    heard(&mut out).unwrap();
    let slowest = block_on(async {
        let store = SqliteStore::open(&file).await.unwrap();
        let mut slowest = Duration::ZERO;
        for number in 0..50 {
            let begun = Instant::now();
            store.append(Append::new(vec![event("Quiet/1", number.to_string())], Guard::Any)).await.unwrap();
            slowest = slowest.max(begun.elapsed());
        }
        slowest
    });
    child.kill().unwrap();
    child.wait().unwrap();
    println!("the slowest append beside a busy process took {slowest:?}");
    assert!(slowest < Duration::from_secs(5));
}

async fn flood(store: SqliteStore, task: usize) {
    loop {
        let append = Append::new(vec![event(&format!("Flood/{task}"), "x")], Guard::Any);
        store.append(append).await.unwrap();
    }
}

#[test]
fn waiting_notices_another_process() {
    if let Some((_, file)) = role() {
        block_on(async {
            let store = SqliteStore::open(&file).await.unwrap();
            tell("ready");
            tokio::time::sleep(Duration::from_millis(200)).await;
            store.append(Append::new(vec![event("A/1", "x")], Guard::Any)).await.unwrap();
        });
        return;
    }
    let dir = dir();
    let file = dir.path().join("wait.db");
    let (mut child, mut out) = start("waiting_notices_another_process", &file, "append");
    block_on(async {
        heard(&mut out).unwrap();
        let store = SqliteStore::open(&file).await.unwrap();
        let waiting = store.wait(Partition::ONLY, Position::START);
        tokio::time::timeout(Duration::from_secs(5), waiting).await.unwrap().unwrap();
        assert_eq!(store.head(Partition::ONLY).await.unwrap().position, Position::new(1));
    });
    assert!(child.wait().unwrap().success());
}

/// Appends from several tasks and says each one that was acknowledged, until it is killed. A read
/// model counts along.
async fn write_until_killed(file: &Path, round: &str) {
    let store = SqliteStore::open(file).await.unwrap();
    let tasks = (0..4).map(|task| tokio::spawn(write_numbers(store.clone(), round.to_owned(), task)));
    let tasks: Vec<_> = tasks.chain([tokio::spawn(follow(store.clone()))]).collect();
    for task in tasks {
        task.await.unwrap();
    }
}

async fn write_numbers(store: SqliteStore, round: String, task: usize) {
    let name = format!("Writer/{task}");
    for number in 0.. {
        let text = format!("{round}-{task}-{number}");
        let key = CommandKey { stream: stream(&name), key: text.clone() };
        // Two events in two streams, which belong together.
        let events = vec![event(&name, text.clone()), event("Shared/1", text.clone())];
        store.append(Append::new(events, Guard::Any).with_key(Some(key))).await.unwrap();
        tell(&text);
    }
}

/// Writes how far it is into a document, with the checkpoint.
async fn follow(store: SqliteStore) {
    let mut claim = store.claim("follower").await.unwrap();
    let mut from = claim.checkpoints.clone();
    loop {
        let head = store.head(Partition::ONLY).await.unwrap();
        let to = Checkpoint { log: head.log, position: head.position, event: None };
        if Some(&to) == from.get(&Partition::ONLY) {
            store.wait(Partition::ONLY, head.position).await.unwrap();
            continue;
        }
        let writes = vec![EntryWrite::put(Collection::DOCUMENTS, "at", head.position.to_string())];
        claim.checkpoints.clone_from(&from);
        let batch = Batch::new("follower", &claim, to).with_writes(writes);
        match store.commit(batch).await {
            Ok(()) => _ = from.insert(Partition::ONLY, to),
            Err(CommitError::Fenced) => return,
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn nothing_acknowledged_is_lost_by_a_kill() {
    if let Some((role, file)) = role() {
        block_on(write_until_killed(&file, &role));
        return;
    }
    let rounds: u64 = std::env::var("CQRS_KILLS").map_or(25, |rounds| rounds.parse().unwrap());
    let dir = dir();
    let file = dir.path().join("killed.db");
    let mut acknowledged = Vec::new();
    for round in 0..rounds {
        let (mut child, mut out) = start("nothing_acknowledged_is_lost_by_a_kill", &file, &round.to_string());
        // Some die at some time, maybe before they have opened the file; some in the midst of work, however
        // slow the machine is.
        if round % 2 == 0 {
            std::thread::sleep(Duration::from_millis(round * 7_919 % 90));
        } else {
            acknowledged.extend((0..=round % 20).filter_map(|_| heard(&mut out)));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        while let Some(line) = heard(&mut out) {
            acknowledged.push(line);
        }
        block_on(check(&file, &acknowledged));
    }
    println!("{} acknowledged appends survived {rounds} kills", acknowledged.len());
    assert!(rounds < 2 || acknowledged.len() as u64 > rounds, "too few were killed in the midst of work");
}

/// All that was acknowledged is there, once, in both streams; and a read model is where it says.
async fn check(file: &Path, acknowledged: &[String]) {
    let store = SqliteStore::open(file).await.unwrap();
    let seen = store.verify().await.unwrap();
    let mut count: HashMap<String, usize> = HashMap::new();
    for event in read_all(&store).await {
        *count.entry(payload(&event)).or_default() += 1;
    }
    assert!(count.values().all(|times| *times == 2), "an append was torn or doubled");
    for text in acknowledged {
        assert!(count.contains_key(text), "{text} was acknowledged and is lost");
    }
    assert_eq!(seen.events as usize, 2 * count.len());
    let checkpoint = store.checkpoint("follower", Partition::ONLY).await.unwrap();
    let document = store.get("follower", vec![EntryKey::document("at")]).await.unwrap().remove(0);
    let at = checkpoint.map(|checkpoint| checkpoint.position.to_string());
    assert_eq!(document.map(|text| String::from_utf8(text.to_vec()).unwrap()), at);
}
