//! The file that a store has open: closed, copied, deleted, replaced, overwritten, known by several names.

#![allow(missing_docs, reason = "a test")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test stops at a fault"
)]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use cqrs_core::error::{StoreError, StoreErrorKind};
use cqrs_core::id::{Partition, Position, Version};
use cqrs_core::read_store::{Batch, Checkpoint, Claim, CommitError, EntryKey, RangeRead, ReadStore};
use cqrs_core::store::{
    Append, AppendError, CommandKey, Direction, EventStore, Guard, LogRead, Query, Snapshot, StreamRead,
};
use cqrs_sqlite::SqliteStore;
use rusqlite::Connection;
use support::{at_rest, dir, event, read_all, stream};

async fn append(store: &SqliteStore) -> Result<(), AppendError> {
    store.append(Append::new(vec![event("A/1", "x")], Guard::Any)).await.map(drop)
}

/// A store with some events that is open.
async fn filled(path: &Path, events: usize) -> SqliteStore {
    let store = SqliteStore::open(path).await.unwrap();
    for _ in 0..events {
        append(&store).await.unwrap();
    }
    store
}

fn side(path: &Path, end: &str) -> PathBuf {
    format!("{}{end}", path.display()).into()
}

/// How many events a copy of the main file alone has.
async fn alone(path: &Path) -> Result<usize, StoreError> {
    let place = tempfile::tempdir().unwrap();
    let copy = place.path().join("copy.db");
    fs::copy(path, &copy).unwrap();
    Ok(read_all(&SqliteStore::open(&copy).await?).await.len())
}

/// After it was closed, in whatever way, the main file is all there is.
#[tokio::test]
async fn a_closed_file_can_be_copied_alone() {
    let dir = dir();
    let path = dir.path().join("bank.db");
    let store = filled(&path, 20).await;
    store.close().await.unwrap();
    assert!(!side(&path, "-wal").exists() && !side(&path, "-shm").exists());
    assert_eq!(alone(&path).await.unwrap(), 20);
    // Twice is no fault, and it is not the end.
    store.close().await.unwrap();
    assert_eq!(read_all(&store).await.len(), 20);
    append(&store).await.unwrap();
    EventStore::close(&store).await.unwrap();
    ReadStore::close(&store).await.unwrap();
    assert_eq!(alone(&path).await.unwrap(), 21);
    // Also while somebody waits for news, whose thread has the file open.
    let waiting = tokio::spawn({
        let store = store.clone();
        async move { store.wait(Partition::ONLY, Position::new(21)).await }
    });
    tokio::time::sleep(Duration::from_millis(150)).await;
    append(&store).await.unwrap();
    waiting.await.unwrap().unwrap();
    store.close().await.unwrap();
    assert!(!side(&path, "-wal").exists());
    assert_eq!(alone(&path).await.unwrap(), 22);
    append(&store).await.unwrap();
    drop(store);
    let begun = std::time::Instant::now();
    while side(&path, "-wal").exists() {
        assert!(begun.elapsed() < Duration::from_secs(10), "dropping the store did not close the file");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(alone(&path).await.unwrap(), 23);
}

/// Two stores have the file open. Each says what it wrote, whichever is closed first.
#[tokio::test]
async fn the_last_store_to_close_leaves_a_whole_file() {
    let dir = dir();
    let path = dir.path().join("bank.db");
    let (one, other) = (filled(&path, 3).await, filled(&path, 3).await);
    one.close().await.unwrap();
    append(&other).await.unwrap();
    // Its last commit is in the WAL only, although the first store has said that all is written back.
    assert!(alone(&path).await.unwrap_err().to_string().contains("is missing"));
    append(&one).await.unwrap();
    other.close().await.unwrap();
    one.close().await.unwrap();
    assert_eq!(alone(&path).await.unwrap(), 8);
}

#[tokio::test]
async fn the_main_file_is_never_an_empty_log() {
    let dir = dir();
    let path = dir.path().join("bank.db");
    let store = SqliteStore::open(&path).await.unwrap();
    let log = store.head(Partition::ONLY).await.unwrap().log;
    // With its tables and its id, from the first moment on.
    let copy = dir.path().join("copy.db");
    fs::copy(&path, &copy).unwrap();
    assert_eq!(SqliteStore::open(&copy).await.unwrap().head(Partition::ONLY).await.unwrap().log, log);
    // As soon as the WAL has what the main file lacks, the main file says so.
    append(&store).await.unwrap();
    let error = alone(&path).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Corrupt);
    assert!(error.to_string().contains("-wal is missing, and with it the last commits"), "{error}");
    // With the WAL it is whole; and without, where that is said.
    let whole = dir.path().join("whole.db");
    for end in ["", "-wal"] {
        fs::copy(side(&path, end), side(&whole, end)).unwrap();
    }
    assert_eq!(read_all(&SqliteStore::open(&whole).await.unwrap()).await.len(), 1);
    let lost = dir.path().join("lost.db");
    fs::copy(&path, &lost).unwrap();
    SqliteStore::assign_new_log_id(&lost).await.unwrap();
    let lost = SqliteStore::open(&lost).await.unwrap();
    assert!(lost.head(Partition::ONLY).await.unwrap().log != log && read_all(&lost).await.is_empty());
}

/// The main file or its WAL remains after a crash, and the other is gone.
#[tokio::test]
async fn a_wal_without_its_file_is_no_new_log() {
    let dir = dir();
    let path = dir.path().join("bank.db");
    let _store = filled(&path, 3).await;
    for (name, content) in [("missing.db", None), ("empty.db", Some(""))] {
        let copy = dir.path().join(name);
        fs::copy(side(&path, "-wal"), side(&copy, "-wal")).unwrap();
        if let Some(content) = content {
            fs::write(&copy, content).unwrap();
        }
        let before = fs::read(side(&copy, "-wal")).unwrap();
        let error = SqliteStore::open(&copy).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Corrupt, "{error}");
        assert!(error.to_string().contains("but its WAL"), "{error}");
        assert!(fs::read(side(&copy, "-wal")).unwrap() == before);
    }
}

/// What another program does with the file after a crash of ours is no fault: it writes the WAL back as well.
#[tokio::test]
async fn a_file_that_another_program_has_closed_is_whole() {
    let dir = dir();
    let path = dir.path().join("bank.db");
    let _store = filled(&path, 3).await;
    let crashed = dir.path().join("crashed.db");
    for end in ["", "-wal", "-shm"] {
        fs::copy(side(&path, end), side(&crashed, end)).unwrap();
    }
    let count: i64 = Connection::open(&crashed)
        .unwrap()
        .query_row("SELECT count(*) FROM cqrs_events", (), |row| row.get(0))
        .unwrap();
    assert!(count == 3 && !side(&crashed, "-wal").exists());
    assert_eq!(alone(&crashed).await.unwrap(), 3);
}

type Call = (&'static str, Result<(), StoreError>);

/// One call of each kind.
async fn every_call(store: &SqliteStore) -> Vec<Call> {
    let append = match append(store).await {
        Err(AppendError::Store(error)) => Err(error),
        other => other.map_err(|error| panic!("{error}")),
    };
    let log = cqrs_core::store::LogId(uuid::Uuid::nil());
    let claim = Claim { epoch: 0, checkpoints: [].into(), revision: 0 };
    let batch = Batch::new("c", &claim, Checkpoint { log, position: Position::START, event: None });
    let commit = match store.commit(batch).await {
        Err(CommitError::Store(error)) => Err(error),
        _ => Ok(()),
    };
    let read =
        StreamRead { stream: stream("A/1"), from: Version::new(1), direction: Direction::Forward, limit: 9 };
    let (partition, after) = (Partition::ONLY, Position::START);
    let log_read = LogRead { partition, after, up_to: None, query: Query::all(), limit: 9 };
    let snapshot = Snapshot {
        stream: stream("A/1"),
        log,
        version: Version::new(1),
        position: Position::new(1),
        event: uuid::Uuid::from_u128(1),
        fingerprint: 1,
        state: Bytes::new(),
    };
    let key = CommandKey { stream: stream("A/1"), key: "k".into() };
    let take = &mut |_: cqrs_core::store::StreamEvent<'_>| std::ops::ControlFlow::Continue(());
    vec![
        ("append", append),
        ("commit", commit),
        ("read_stream", store.read_stream(read).await.map(drop)),
        ("fold_stream", store.fold_stream(&stream("A/1"), Version::new(1), take).await),
        ("read_log", store.read_log(log_read).await.map(drop)),
        ("head", store.head(Partition::ONLY).await.map(drop)),
        ("find_key", store.find_key(&key).await.map(drop)),
        ("snapshot", store.snapshot(&stream("A/1"), 1).await.map(drop)),
        ("save_snapshot", store.save_snapshot(snapshot).await),
        ("forget_snapshot", store.forget_snapshot(&stream("A/1")).await),
        ("wait", store.wait(Partition::ONLY, Position::START).await),
        ("claim", store.claim("c").await.map(drop)),
        ("checkpoint", store.checkpoint("c", Partition::ONLY).await.map(drop)),
        ("get", store.get("c", vec![EntryKey::document("k")]).await.map(drop)),
        ("range", store.range(RangeRead::documents("c", 1)).await.map(drop)),
        ("count", store.count(RangeRead::documents("c", 1)).await.map(drop)),
        ("verify", store.verify().await.map(drop)),
        ("reserve", store.reserve(&stream("A/1")).await.map(drop)),
    ]
}

fn all_fail(name: &str, calls: Vec<Call>, words: &str) {
    for (call, outcome) in calls {
        // It may answer from what this handle has seen.
        if call == "wait" && outcome.is_ok() {
            continue;
        }
        let Err(error) = outcome else { panic!("{name}: {call} worked") };
        assert_eq!(error.kind(), StoreErrorKind::Corrupt, "{name}: {call}: {error}");
        assert!(error.to_string().contains(words), "{name}: {call}: {error}");
    }
}

/// Whatever is done to the file under a store that is open: every later call says so, and what was put in its
/// place is left alone.
#[cfg(unix)]
#[tokio::test]
async fn a_file_that_is_gone_or_another_is_told_by_every_call() {
    type Deed = fn(&Path, &Path);
    // `older` is the same log, some commits before; `other` is another log.
    let deeds: [(&str, &str, Deed); 10] = [
        ("deleted", "the file was deleted or moved", |path, _| fs::remove_file(path).unwrap()),
        ("moved", "the file was deleted or moved", |path, _| fs::rename(path, side(path, ".old")).unwrap()),
        ("directory moved", "the file was deleted or moved", |path, _| {
            let parent = path.parent().unwrap();
            fs::rename(parent, parent.with_extension("moved")).unwrap();
        }),
        ("replaced by its older copy", "the file was replaced", |path, older| {
            fs::remove_file(path).unwrap();
            fs::copy(older, path).unwrap();
        }),
        ("renamed over", "the file was replaced", |path, older| {
            fs::copy(older, side(path, ".new")).unwrap();
            fs::rename(side(path, ".new"), path).unwrap();
        }),
        ("restored with its WAL", "the file was replaced", |path, older| {
            for end in ["", "-wal", "-shm"] {
                fs::remove_file(side(path, end)).unwrap();
            }
            fs::copy(older, path).unwrap();
        }),
        ("overwritten", "the file was overwritten", |path, older| {
            fs::copy(older, path).unwrap();
        }),
        ("overwritten with another log", "the file was overwritten", |path, older| {
            fs::copy(older.with_file_name("other.db"), path).unwrap();
        }),
        ("overwritten with something else", "the file was overwritten", |path, _| {
            fs::write(path, "text".repeat(2_000)).unwrap();
        }),
        ("without its WAL", "bank.db-wal was deleted or moved", |path, _| {
            fs::remove_file(side(path, "-wal")).unwrap();
        }),
    ];
    for (at, (name, words, deed)) in deeds.into_iter().enumerate() {
        for writes in [true, false] {
            let dir = dir();
            let place = dir.path().join(format!("place-{at}-{writes}"));
            fs::create_dir(&place).unwrap();
            let (path, older) = (place.join("bank.db"), dir.path().join("older.db"));
            let other = filled(&dir.path().join("other.db"), 1).await;
            other.close().await.unwrap();
            let store = filled(&path, 3).await;
            store.close().await.unwrap();
            fs::copy(&path, &older).unwrap();
            append(&store).await.unwrap();
            if !writes {
                // The last commits of the main file are older than the store.
                store.close().await.unwrap();
                assert_eq!(read_all(&store).await.len(), 4);
            }
            deed(&path, &older);
            let there = fs::read(&path).ok();
            all_fail(name, every_call(&store).await, words);
            // Once more, as the fault stays.
            all_fail(name, every_call(&store).await, words);
            assert!(store.close().await.is_err() || !writes, "{name}");
            drop(store);
            tokio::time::sleep(Duration::from_millis(50)).await;
            assert!(fs::read(&path).ok() == there, "{name}: what was put there was changed");
        }
    }
}

/// The control: what is no other file is no fault.
#[tokio::test]
async fn what_happens_to_any_file_is_no_fault() {
    let dir = dir();
    let path = dir.path().join("bank.db");
    let store = filled(&path, 3).await;
    let fine = async |name: &str| {
        for (call, outcome) in every_call(&store).await {
            assert!(outcome.is_ok(), "{name}: {call}: {outcome:?}");
        }
    };
    fine("nothing").await;
    fs::set_permissions(&path, fs::metadata(&path).unwrap().permissions()).unwrap();
    fine("its rights were set").await;
    let other = Connection::open(&path).unwrap();
    other.execute_batch("CREATE TABLE mine (x); PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    fine("somebody else wrote it back").await;
    let second = filled(&path, 3).await;
    second.close().await.unwrap();
    fine("another store wrote and closed").await;
    drop(other);
    store.close().await.unwrap();
    fine("it was closed").await;
}

/// In the turn of a reservation the file is looked at as well.
#[cfg(unix)]
#[tokio::test]
async fn a_reserved_append_to_a_file_that_is_gone_is_told() {
    let dir = dir();
    let path = dir.path().join("bank.db");
    let store = filled(&path, 1).await;
    let turn = store.reserve(&stream("A/1")).await.unwrap().unwrap();
    fs::remove_file(&path).unwrap();
    let error = turn.append(Append::new(vec![event("A/1", "x")], Guard::Any)).await.unwrap_err();
    assert!(error.to_string().contains("the file was deleted"), "{error}");
}

/// Everything in a directory, with what it holds.
fn listing(dir: &Path) -> BTreeSet<(PathBuf, Option<Vec<u8>>)> {
    let files = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    files.map(|path| (path.clone(), path.is_file().then(|| fs::read(&path).unwrap()))).collect()
}

/// Names that are no plain path to a file are refused, and nothing is created.
#[tokio::test]
async fn a_refused_name_leaves_nothing_behind() {
    let dir = dir();
    let inside = |name: &str| dir.path().join(name).display().to_string();
    drop(filled(&dir.path().join("there.db"), 1).await);
    at_rest(&dir.path().join("there.db"));
    fs::create_dir(dir.path().join("directory")).unwrap();
    let foreign = Connection::open(dir.path().join("foreign.db")).unwrap();
    foreign.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE customers (id)").unwrap();
    drop(foreign);
    let mut names = vec![
        (String::new(), "the path is empty"),
        (" ".to_owned(), "the path is empty"),
        (":memory:".to_owned(), "for an in-memory store write `memory:`"),
        (":MEMORY:".to_owned(), "for an in-memory store write `memory:`"),
        (inside("new.db-wal"), "files that end in `-wal`"),
        (inside("new.db-shm"), "files that end in `-shm`"),
        (inside("no/such/directory/a.db"), "does not exist; create it first"),
        (inside("there.db/a.db"), "a component of the path is a file"),
        (inside("directory"), "the path is a directory"),
        (inside("directory/"), "the path is a directory"),
        (inside("new/"), "the path is a directory that does not exist"),
        (inside("a\0.db"), "U+0000"),
        (inside("foreign.db"), "the table `customers`"),
    ];
    let there = inside("there.db");
    for uri in [
        format!("file:{there}"),
        format!("FILE:{there}"),
        format!("file://{there}"),
        format!("file:{there}?mode=ro"),
        format!("file:{there}?nolock=1"),
        format!("file:{there}?immutable=1"),
        format!("file:{there}?vfs=unix-none"),
        "file:relative.db".to_owned(),
        "file::memory:?cache=shared".to_owned(),
        "file:".to_owned(),
    ] {
        names.push((uri, "the path is a URI"));
    }
    for url in ["postgres://ada:secret@db/bank", "MySQL://ada:secret@db/bank", "x://secret", "://secret"] {
        names.push((url.to_owned(), "the path is a URL"));
    }
    for url in ["sqlite:relative.db", "SQLite:relative.db", "sqlite://relative.db"] {
        names.push((url.to_owned(), "the path starts with `sqlite:`"));
    }
    for text in ["ada:secret@db/bank", "//ada:secret@db/bank"] {
        names.push((text.to_owned(), "does not exist"));
    }
    #[cfg(unix)]
    {
        names.push(("/dev/null".to_owned(), "the path is not a regular file"));
        std::os::unix::fs::symlink(dir.path().join("nothing.db"), inside("dangling.db")).unwrap();
        names.push((inside("dangling.db"), "a symbolic link to a file that does not exist"));
        std::os::unix::net::UnixListener::bind(inside("socket")).unwrap();
        names.push((inside("socket"), "the path is not a regular file"));
    }
    let before = listing(dir.path());
    let refused = |name: &str, words: &str, outcome: Result<(), String>| {
        let error = outcome.expect_err(name);
        assert!(error.contains(words), "{name}: {error}");
        assert!(!error.contains("secret"), "{name}: {error}");
        assert!(listing(dir.path()) == before, "{name}: the directory was changed");
        assert!(!Path::new("relative.db").exists() && !Path::new("file:relative.db").exists(), "{name}");
    };
    for (name, words) in &names {
        let text = |error: StoreError| error.to_string();
        refused(name, words, SqliteStore::open(name).await.map(drop).map_err(text));
        let builder = format!("{:?}", SqliteStore::builder(name));
        assert!(!builder.contains("secret"), "{builder}");
        refused(name, words, SqliteStore::migrate(name).await.map_err(text));
        refused(name, words, SqliteStore::migration_sql(name).await.map(drop).map_err(text));
        refused(name, words, SqliteStore::assign_new_log_id(name).await.map(drop).map_err(text));
    }
    let urls = [
        (format!("sqlite:file:{there}"), "the path is a URI"),
        (format!("SQLITE:file:{there}"), "the path is a URI"),
        (format!("sqlite:{there}?mode=ro"), "options after `?`"),
        (format!("sqlite://{}", "host/a.db"), "names a host"),
        ("sqlite://ada:secret@host/a.db".to_owned(), "names a host"),
        ("sqlite:postgres://ada:secret@host/bank".to_owned(), "the path is a URL"),
        ("sqlite:postgres://ada:secret@host/bank?x=1".to_owned(), "options after `?`"),
        ("sqlite:postgres://ada:secret%40@host/bank".to_owned(), "percent-encoding"),
        (format!("sqlite:{}", inside("a%20b.db")), "percent-encoding"),
        ("sqlite:".to_owned(), "the path is empty"),
    ];
    for (url, words) in urls {
        let opened = cqrs_core::Engine::builder().registry(cqrs_core::Registry::new()).open(&url).await;
        refused(&url, words, opened.map(drop).map_err(|error| format!("{error:?} {error}")));
    }
}

/// Names that look odd and are paths all the same.
#[tokio::test]
async fn odd_names_of_files_work() {
    let dir = dir();
    for name in
        ["a b.db", "100%.db", "what?mode=ro", "a#b.db", "file:x.db", "häuser.db", "'quote'.db", "%66.db"]
    {
        let path = dir.path().join(name);
        let store = filled(&path, 2).await;
        store.close().await.unwrap();
        assert!(path.is_file(), "{name}");
        assert_eq!(alone(&path).await.unwrap(), 2, "{name}");
        append(&store).await.unwrap();
        assert_eq!(read_all(&store).await.len(), 3, "{name}");
    }
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStrExt as _;
        let path = dir.path().join(std::ffi::OsStr::from_bytes(b"not-utf8-\xff.db"));
        filled(&path, 2).await.close().await.unwrap();
        assert_eq!(alone(&path).await.unwrap(), 2);
    }
}

#[cfg(unix)]
#[tokio::test]
async fn several_names_of_one_file_are_one_store_or_refused() {
    let dir = dir();
    let path = dir.path().join("bank.db");
    let link = dir.path().join("link.db");
    let store = filled(&path, 1).await;
    // A symbolic link leads to the same WAL.
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let linked = filled(&link, 1).await;
    append(&store).await.unwrap();
    assert_eq!((read_all(&store).await.len(), read_all(&linked).await.len()), (3, 3));
    assert!(!side(&link, "-wal").exists());
    // The link leads elsewhere later, and the store stays where it was.
    let other = dir.path().join("other.db");
    filled(&other, 1).await.close().await.unwrap();
    fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink(&other, &link).unwrap();
    append(&linked).await.unwrap();
    assert_eq!(read_all(&store).await.len(), 4);
    // Each of two hard links would have a WAL of its own.
    let hard = dir.path().join("hard.db");
    fs::hard_link(&path, &hard).unwrap();
    for name in [&path, &hard] {
        let error = SqliteStore::open(name).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Invalid);
        assert!(error.to_string().contains("has 2 names (hard links)"), "{error}");
    }
    fs::remove_file(&hard).unwrap();
    SqliteStore::open(&path).await.unwrap();
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// A store of a relative path stays with its file when the program goes elsewhere. The working directory is that
/// of the whole process, so a child does this.
#[test]
fn a_relative_path_stays_the_same_file() {
    if let Some((_, file)) = support::role() {
        std::env::set_current_dir(file.parent().unwrap()).unwrap();
        run(async {
            let store = filled(Path::new("bank.db"), 1).await;
            store.close().await.unwrap();
            std::env::set_current_dir("elsewhere").unwrap();
            append(&store).await.unwrap();
            assert_eq!(read_all(&store).await.len(), 2);
            assert!(!Path::new("bank.db").exists());
            store.close().await.unwrap();
        });
        return;
    }
    let dir = dir();
    fs::create_dir(dir.path().join("elsewhere")).unwrap();
    let path = dir.path().join("bank.db");
    let child = support::child("a_relative_path_stays_the_same_file", &path, "move").status().unwrap();
    assert!(child.success());
    assert_eq!(run(alone(&path)).unwrap(), 2);
}

/// A file that cannot be written, or that lies where nothing can be, is named; and nothing is left behind.
#[cfg(unix)]
#[test]
fn what_cannot_be_written_is_named() {
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::process::CommandExt as _;
    if let Some((_, file)) = support::role() {
        let error = run(SqliteStore::open(file)).unwrap_err();
        println!("{:?}: {error}", error.kind());
        return;
    }
    let rights = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    for (name, file, directory, words) in [
        ("a file that is there", 0o666, 0o555, "its directory"),
        ("a file that is not", 0, 0o555, "its directory"),
        ("a read-only file", 0o444, 0o777, "the file is read-only"),
        ("a file without rights", 0o000, 0o777, "cannot be opened"),
        ("a directory without rights", 0o666, 0o000, "cannot be opened"),
    ] {
        let dir = dir();
        rights(dir.path(), 0o755);
        let place = dir.path().join("place");
        fs::create_dir(&place).unwrap();
        let path = place.join("bank.db");
        if name != "a file that is not" {
            run(async { filled(&path, 1).await.close().await.unwrap() });
            rights(&path, file);
        }
        let before = listing(&place);
        rights(&place, directory);
        let mut command = support::child("what_cannot_be_written_is_named", &path, "open");
        if Connection::open(place.join("probe.db")).is_ok_and(|conn| conn.execute_batch("VACUUM").is_ok()) {
            // Root may write everywhere, so a child without its rights tries.
            let _ = fs::remove_file(place.join("probe.db"));
            command.uid(65_534).gid(65_534);
        }
        let output = command.output().expect("a child without the rights of root");
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(told.contains("Failed:") && told.contains(words), "{name}: {told}");
        rights(&place, 0o755);
        assert!(listing(&place) == before, "{name}: the directory was changed");
    }
}

/// The WAL is written back when it is large, and the main file says then that more follows.
#[tokio::test]
async fn a_large_wal_is_written_back_and_the_next_commits_are_expected() {
    let dir = dir();
    let path = dir.path().join("bank.db");
    let store = SqliteStore::open(&path).await.unwrap();
    let mut sizes = Vec::new();
    for _ in 0..90 {
        let large = event("A/1", "x".repeat(1_000_000));
        store.append(Append::new(vec![large], Guard::Any)).await.unwrap();
        sizes.push(fs::metadata(side(&path, "-wal")).unwrap().len());
        let main = fs::metadata(&path).unwrap().len();
        assert!(sizes.len() < 40 || main > 30_000_000, "the main file has {main} bytes");
    }
    let largest = sizes.iter().max().unwrap();
    assert!((30_000_000..45_000_000).contains(largest), "the WAL had {largest} bytes");
    assert!(alone(&path).await.unwrap_err().to_string().contains("-wal is missing"));
    store.close().await.unwrap();
    assert_eq!(alone(&path).await.unwrap(), 90);
}

/// The commits in a WAL, over all of its lives since it was created.
fn commits(path: &Path) -> usize {
    let wal = fs::read(side(path, "-wal")).unwrap();
    let (header, frame) = (32, 24 + 4_096);
    let salts = &wal[16..24];
    let frames = wal[header..].chunks_exact(frame);
    frames.filter(|frame| frame[8..16] == *salts && frame[4..8] != [0; 4]).count()
}

/// What waits together is committed together, up to a size.
#[tokio::test]
async fn a_group_is_bounded_by_its_bytes() {
    let dir = dir();
    let path = dir.path().join("bank.db");
    let store = filled(&path, 1).await;
    for (events, bytes, expected) in [(3, 1_000_000, 4..=4), (1, 1_000, 1..=1)] {
        let turn = store.reserve(&stream("A/1")).await.unwrap().unwrap();
        let appends: Vec<_> = (0..4)
            .map(|_| {
                let events = (0..events).map(|_| event("A/1", "x".repeat(bytes))).collect();
                let store = store.clone();
                tokio::spawn(async move { store.append(Append::new(events, Guard::Any)).await })
            })
            .collect();
        // All wait for the turn to end, which is no commit of its own.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let before = commits(&path);
        drop(turn);
        for append in appends {
            append.await.unwrap().unwrap();
        }
        let made = commits(&path) - before;
        assert!(expected.contains(&made), "{made} commits for 4 appends of {} bytes", events * bytes);
    }
}
