//! What happens to the WAL of a store that was not closed: damage is found and named, and what a crash
//! leaves behind is not taken for damage.

#![allow(missing_docs, reason = "a test")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test stops at a fault"
)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use cqrs_core::error::{StoreError, StoreErrorKind};
use cqrs_core::store::{Append, EventStore as _, Guard};
use cqrs_sqlite::SqliteStore;
use rusqlite::Connection;
use support::{dir, event, payload, read_all};
use tempfile::TempDir;

const PAGE: usize = 4_096;
const FRAME: usize = 24 + PAGE;
const HEADER: usize = 32;

/// The three files of a store, as its process leaves them when it is killed.
#[derive(Clone)]
struct Files {
    database: Vec<u8>,
    wal: Vec<u8>,
    index: Option<Vec<u8>>,
}

impl Files {
    /// Of a store that is open and at rest.
    fn of(path: &Path) -> Self {
        let read = |end: &str| fs::read(format!("{}{end}", path.display()));
        Self { database: read("").unwrap(), wal: read("-wal").unwrap(), index: Some(read("-shm").unwrap()) }
    }

    /// A machine that stops takes the index with it, or an older one stays.
    fn without_index(&self) -> Self {
        Self { index: None, ..self.clone() }
    }

    fn with_wal(&self, wal: impl Into<Vec<u8>>) -> Self {
        Self { wal: wal.into(), ..self.clone() }
    }

    /// Each in a place of its own, since the threads of former ones may still be closing.
    fn put(&self, dir: &Path) -> PathBuf {
        let place = TempDir::new_in(dir).unwrap().keep();
        let path = place.join("bank.db");
        fs::write(&path, &self.database).unwrap();
        fs::write(place.join("bank.db-wal"), &self.wal).unwrap();
        if let Some(index) = &self.index {
            fs::write(place.join("bank.db-shm"), index).unwrap();
        }
        path
    }

    async fn open(&self, dir: &Path) -> Result<usize, StoreError> {
        open(&self.put(dir)).await
    }

    /// The numbers of the frames that end a transaction, from 0.
    fn commits(&self) -> Vec<usize> {
        let frames = (self.wal.len() - HEADER) / FRAME;
        let ends = |frame: &usize| self.wal[HEADER + frame * FRAME + 4..][..4] != [0; 4];
        (0..frames).filter(ends).collect()
    }
}

/// How many appends are there: those that were made first, and none of the others.
async fn open(path: &Path) -> Result<usize, StoreError> {
    let store = SqliteStore::open(path).await?;
    store.verify().await?;
    let texts: Vec<_> = read_all(&store).await.iter().map(|event| payload(event)).collect();
    let expected: Vec<_> = (0..texts.len()).map(|number| number.to_string()).collect();
    assert_eq!(texts, expected);
    Ok(texts.len())
}

const APPENDS: usize = 12;

/// A store that nobody has closed, with its appends in the WAL, each in a transaction of its own.
async fn filled(dir: &TempDir) -> Files {
    let path = dir.path().join("filled.db");
    let store = SqliteStore::open(&path).await.unwrap();
    for number in 0..APPENDS {
        append(&store, number).await;
    }
    let files = Files::of(&path);
    assert_eq!(files.clone().open(dir.path()).await.unwrap(), APPENDS);
    files
}

async fn append(store: &SqliteStore, number: usize) {
    store.append(Append::new(vec![event("A/1", number.to_string())], Guard::Any)).await.unwrap();
}

fn flipped(wal: &[u8], at: usize) -> Vec<u8> {
    let mut wal = wal.to_vec();
    wal[at] ^= 1 << (at % 8);
    wal
}

/// Bytes all over the WAL, and each one of its header and of a frame's.
fn places(wal: &[u8]) -> impl Iterator<Item = usize> + use<> {
    let second = HEADER + FRAME;
    (0..HEADER).chain(second..second + 24).chain((HEADER..wal.len()).step_by(2_039))
}

#[tokio::test]
async fn a_flipped_bit_is_named() {
    let dir = dir();
    let files = filled(&dir).await;
    for at in places(&files.wal) {
        let error = files.with_wal(flipped(&files.wal, at)).open(dir.path()).await;
        let error = error.map(|seen| format!("{seen} appends")).expect_err(&format!("flipped at {at}"));
        assert_eq!(error.kind(), StoreErrorKind::Corrupt, "flipped at {at}: {error}");
        let frame =
            at.checked_sub(HEADER).map(|at| format!("bank.db-wal is damaged in frame {},", at / FRAME + 1));
        let words = frame.unwrap_or_else(|| "bank.db-wal is damaged in its header,".to_owned());
        assert!(error.to_string().contains(&words), "flipped at {at}: {error}");
    }
}

/// Without the index, damage to the last transaction cannot be told from a crash.
#[tokio::test]
async fn without_the_index_all_but_the_last_transaction_is_watched() {
    let dir = dir();
    let files = filled(&dir).await.without_index();
    let (mut named, mut last) = (0, 0);
    for at in places(&files.wal) {
        match files.with_wal(flipped(&files.wal, at)).open(dir.path()).await {
            Ok(seen) => {
                assert_eq!(seen, APPENDS - 1, "flipped at {at}");
                last += 1;
            }
            Err(error) => {
                assert!(error.to_string().contains("bank.db-wal is damaged in "), "flipped at {at}: {error}");
                named += 1;
            }
        }
    }
    println!("{named} flipped bits were named, {last} took the last append");
    let commits = files.commits();
    let frames = commits[commits.len() - 1] - commits[commits.len() - 3];
    assert!(last <= frames * FRAME / 2_039 + 2, "{last} flips took the last append");
}

#[tokio::test]
async fn a_wal_that_is_cut_off_or_gone_is_named() {
    let dir = dir();
    let files = filled(&dir).await;
    let cuts = (0..files.wal.len()).step_by(1_531).chain((HEADER..files.wal.len()).step_by(FRAME));
    for length in cuts {
        let error = files.with_wal(&files.wal[..length]).open(dir.path()).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Corrupt);
        let frames = length.saturating_sub(HEADER) / FRAME;
        let words = format!("bank.db-wal is truncated after frame {frames} of");
        assert!(error.to_string().contains(&words), "cut at {length}: {error}");
        let seen = files.with_wal(&files.wal[..length]).without_index().open(dir.path()).await;
        match length {
            // The main file says that there has to be one.
            0 => assert!(seen.unwrap_err().to_string().contains("bank.db-wal is missing")),
            // Then it is what a crash leaves, or nearly.
            _ => assert!(seen.unwrap() < APPENDS),
        }
    }
    let path = files.put(dir.path());
    fs::remove_file(path.with_file_name("bank.db-wal")).unwrap();
    let error = open(&path).await.unwrap_err();
    assert!(error.to_string().contains("bank.db-wal is missing"), "{error}");
    assert!(error.to_string().contains("call `SqliteStore::assign_new_log_id`"), "{error}");
    SqliteStore::assign_new_log_id(&path).await.unwrap();
    assert_eq!(open(&path).await.unwrap(), 0);
}

/// A damaged WAL is accepted where that is said, up to its damage; and the log is another one then.
#[tokio::test]
async fn a_log_continues_without_what_its_wal_has_lost() {
    let dir = dir();
    let files = filled(&dir).await;
    let commits = files.commits();
    let path = files.with_wal(flipped(&files.wal, HEADER + commits[5] * FRAME + 300)).put(dir.path());
    let log = |path: &Path| {
        let conn = Connection::open_with_flags(path, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
        conn.query_row("SELECT log FROM cqrs_meta", (), |row| row.get::<_, Vec<u8>>(0)).unwrap()
    };
    let original = log(&files.put(dir.path()));
    open(&path).await.unwrap_err();
    SqliteStore::assign_new_log_id(&path).await.unwrap();
    assert!((3..APPENDS).contains(&open(&path).await.unwrap()));
    assert_ne!(log(&path), original);
}

/// What a machine that stops may leave of the last transaction, which was not acknowledged: any part of
/// it, in any order.
#[tokio::test]
async fn a_torn_last_transaction_is_no_damage() {
    let dir = dir();
    let files = filled(&dir).await.without_index();
    let commits = files.commits();
    let (before, last) = (commits[commits.len() - 2] + 1, commits[commits.len() - 1]);
    let frame = |number: usize| HEADER + number * FRAME;
    for lost in before..=last {
        let mut torn = files.wal.clone();
        torn[frame(lost)..frame(lost + 1)].fill(0);
        assert_eq!(files.with_wal(torn).open(dir.path()).await.unwrap(), APPENDS - 1);
        let mut half = files.wal.clone();
        half[frame(lost) + 512..frame(lost + 1)].fill(0);
        assert_eq!(files.with_wal(half).open(dir.path()).await.unwrap(), APPENDS - 1);
    }
}

/// A WAL is begun again from its start, over what it held, and a transaction that was given up leaves
/// frames behind that nothing goes on from.
#[tokio::test]
async fn what_lies_behind_the_end_is_no_damage() {
    let dir = dir();
    let path = dir.path().join("filled.db");
    let store = SqliteStore::open(&path).await.unwrap();
    let other = Connection::open(&path).unwrap();
    other.execute_batch("PRAGMA synchronous = FULL; PRAGMA cache_size = 5; CREATE TABLE mine (x)").unwrap();
    let big = "INSERT INTO mine WITH n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 99) \
               SELECT randomblob(4000) FROM n";
    for number in 0..8 {
        append(&store, number).await;
        // More than the cache holds, so that it reaches the WAL before it is given up.
        other.execute_batch(&format!("BEGIN; {big}; ROLLBACK")).unwrap();
        let files = Files::of(&path);
        assert!(files.wal.len() > HEADER + 90 * FRAME, "nothing was left behind");
        for files in [files.clone(), files.without_index()] {
            assert_eq!(files.open(dir.path()).await.unwrap(), number + 1);
        }
        if number % 3 == 2 {
            other.execute_batch(&format!("{big}; DELETE FROM mine; PRAGMA wal_checkpoint(RESTART)")).unwrap();
            let files = Files::of(&path);
            for files in [files.clone(), files.without_index()] {
                assert_eq!(files.open(dir.path()).await.unwrap(), number + 1);
            }
        }
    }
}

/// A file can be opened at any moment while another connection writes, and begins the WAL anew.
#[test]
fn a_wal_in_the_midst_of_being_written_is_no_damage() {
    let dir = dir();
    let path = dir.path().join("busy.db");
    let block_on = |opening| tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(opening);
    let _store = block_on(SqliteStore::open(&path)).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let other = Connection::open(&path).unwrap();
            other.busy_timeout(std::time::Duration::from_secs(10)).unwrap();
            other.execute_batch("PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 20").unwrap();
            other.execute_batch("CREATE TABLE mine (x)").unwrap();
            let mut commits = 0;
            while !stop.load(Ordering::Relaxed) {
                other.execute_batch("INSERT INTO mine VALUES (randomblob(9000))").unwrap();
                commits += 1;
            }
            commits
        });
        for _ in 0..300 {
            block_on(SqliteStore::open(&path)).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        println!("opened 300 times beside {} commits", writer.join().unwrap());
    });
}
