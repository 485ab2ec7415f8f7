//! Files that are not ours, not whole, or not writable: a clear error, and nothing made worse.

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
use std::path::Path;

use cqrs_core::Tag;
use cqrs_core::error::{StoreError, StoreErrorKind};
use cqrs_core::id::{Partition, Position, Version};
use cqrs_core::read_store::{Batch, Checkpoint, Collection, EntryWrite, RangeRead, ReadStore as _};
use cqrs_core::store::{Append, AppendError, CommandKey, EventStore as _, Expected, Guard, Query};
use cqrs_sqlite::SqliteStore;
use rusqlite::Connection;
use support::{at_rest, dir, event, payload, read_all, read_stream, stream};

/// Opening has to fail like this, with these words, and leave the file byte for byte.
async fn refused(path: &Path, kind: StoreErrorKind, words: &str) {
    let before = fs::read(path).ok();
    let error = SqliteStore::open(path).await.unwrap_err();
    let text = format!("{error}");
    assert_eq!(error.kind(), kind, "{text}");
    assert!(text.contains(words) && text.contains(&path.display().to_string()), "{text}");
    assert!(fs::read(path).ok() == before, "{words}: the file was changed");
}

#[tokio::test]
async fn a_directory_is_refused() {
    let dir = dir();
    refused(dir.path(), StoreErrorKind::Invalid, "the path is a directory").await;
}

#[tokio::test]
async fn a_missing_directory_is_named() {
    let dir = dir();
    refused(&dir.path().join("no/bank.db"), StoreErrorKind::Invalid, "does not exist; create it first").await;
}

#[tokio::test]
async fn what_is_no_database_is_refused() {
    let dir = dir();
    for (name, content) in
        [("a.txt", "a"), ("b.txt", &*"no database ".repeat(1_000)), ("c", "SQLite format 4")]
    {
        let path = dir.path().join(name);
        fs::write(&path, content).unwrap();
        refused(&path, StoreErrorKind::Corrupt, "is not an SQLite database").await;
    }
    // It begins as one, with a page size that makes no sense, and one that does.
    let path = dir.path().join("torn.db");
    let torn = [b"SQLite format 3\0 and then ".repeat(30), b"SQLite format 3\0\x02\0".repeat(1_024)];
    for torn in torn {
        fs::write(&path, torn).unwrap();
        refused(&path, StoreErrorKind::Corrupt, "").await;
    }
}

#[tokio::test]
async fn another_applications_database_is_refused() {
    let dir = dir();
    let path = dir.path().join("tables.db");
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE customers (id)").unwrap();
    refused(&path, StoreErrorKind::Invalid, "the table `customers`").await;
    let path = dir.path().join("id.db");
    Connection::open(&path).unwrap().pragma_update(None, "application_id", 0x1234_5678).unwrap();
    refused(&path, StoreErrorKind::Invalid, "its application id is 0x12345678").await;
    // Also one that keeps a WAL, where closing as the last one would write it back.
    let path = dir.path().join("wal.db");
    let other = Connection::open(&path).unwrap();
    other.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE customers (id)").unwrap();
    refused(&path, StoreErrorKind::Invalid, "the table `customers`").await;
    other.execute_batch("INSERT INTO customers VALUES (1)").unwrap();
}

/// An empty file and an empty database of no application become a store.
#[tokio::test]
async fn an_empty_file_becomes_a_store() {
    let dir = dir();
    let path = dir.path().join("empty.db");
    fs::write(&path, "").unwrap();
    SqliteStore::open(&path).await.unwrap().verify().await.unwrap();
    let path = dir.path().join("vacuumed.db");
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE x (y); DROP TABLE x; VACUUM").unwrap();
    SqliteStore::open(&path).await.unwrap().verify().await.unwrap();
}

#[tokio::test]
async fn a_users_own_tables_may_live_beside_ours() {
    let dir = dir();
    let path = filled(dir.path()).await;
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE events (id)").unwrap();
    let store = SqliteStore::open(&path).await.unwrap();
    assert_eq!(store.verify().await.unwrap().events, 60);
}

/// A file states what a program has to know to read it and to write to it. This program knows version 3.
#[tokio::test]
async fn a_newer_schema_is_used_as_far_as_it_allows() {
    let dir = dir();
    let path = filled(dir.path()).await;
    let state = |tables: i32, reader: i32, writer: i32| {
        let conn = Connection::open(&path).unwrap();
        conn.pragma_update(None, "user_version", tables).unwrap();
        let numbers = "UPDATE cqrs_meta SET min_reader = ?1, min_writer = ?2";
        conn.execute(numbers, (reader, writer)).unwrap();
    };
    let append = async |payload: &str| {
        let store = SqliteStore::open(&path).await.unwrap();
        assert_eq!(read_stream(&store, "Account/1").await.len(), 20);
        store.append(Append::new(vec![event("Account/0", payload)], Guard::Any)).await
    };
    state(4, 3, 3);
    append("a newer file that allows it").await.unwrap();
    state(4, 3, 4);
    let error = append("a newer file that does not").await.unwrap_err();
    let AppendError::Store(error) = error else { panic!("{error}") };
    assert_eq!(error.kind(), StoreErrorKind::Unsupported);
    assert!(error.to_string().contains("a program that knows version 4 can write to them"), "{error}");
    at_rest(&path);
    state(4, 4, 4);
    refused(&path, StoreErrorKind::Unsupported, "a program that knows version 4 can read them").await;
    // One that no longer states it there.
    Connection::open(&path).unwrap().execute_batch("ALTER TABLE cqrs_meta DROP COLUMN min_reader").unwrap();
    refused(&path, StoreErrorKind::Unsupported, "a program that knows version 4 can read them").await;
    Connection::open(&path).unwrap().pragma_update(None, "user_version", -1).unwrap();
    refused(&path, StoreErrorKind::Corrupt, "the impossible version -1").await;
}

/// Another process migrates the file while it is open: the next append hears of it.
#[tokio::test]
async fn a_file_that_is_migrated_while_it_is_open_is_written_as_far_as_it_allows() {
    let dir = dir();
    let path = dir.path().join("open.db");
    let store = SqliteStore::open(&path).await.unwrap();
    let append = || store.append(Append::new(vec![event("A/1", "x")], Guard::Any));
    append().await.unwrap();
    let other = Connection::open(&path).unwrap();
    other.execute_batch("UPDATE cqrs_meta SET min_writer = 4; PRAGMA user_version = 4").unwrap();
    let Err(AppendError::Store(error)) = append().await else { panic!("it was written") };
    assert_eq!(error.kind(), StoreErrorKind::Unsupported, "{error}");
    other.execute_batch("UPDATE cqrs_meta SET min_writer = 3").unwrap();
    append().await.unwrap();
}

#[tokio::test]
async fn a_missing_table_is_named() {
    let dir = dir();
    let path = filled(dir.path()).await;
    Connection::open(&path).unwrap().execute_batch("DROP TABLE cqrs_keys").unwrap();
    let error = SqliteStore::open(&path).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Corrupt);
    assert!(error.to_string().contains("`cqrs_keys` is missing"), "{error}");
}

/// A file at rest with 60 events, a key, a consumer and two documents.
async fn filled(dir: &Path) -> std::path::PathBuf {
    let path = dir.join("filled.db");
    let store = SqliteStore::open(&path).await.unwrap();
    fill(&store).await;
    drop(store);
    at_rest(&path);
    path
}

async fn fill(store: &SqliteStore) {
    let events = (0..60).map(|number| {
        let mut event = event(&format!("Account/{}", number % 3), format!("{{\"number\":{number}}}"));
        event.name = if number % 10 == 0 { "Audited".into() } else { "Happened".into() };
        event
    });
    let events: Vec<_> = events.collect();
    let last = events.last().unwrap().id;
    let key = CommandKey { stream: stream("Account/0"), key: "first".to_owned() };
    let append = Append::new(events, Guard::stream(stream("Account/0"), Expected::NoStream));
    let appended = store.append(append.with_key(Some(key))).await.unwrap();
    let claim = store.claim("summary").await.unwrap();
    let to = Checkpoint { log: appended.log, position: Position::new(60), event: Some(last) };
    let writes =
        [("0", "zero"), ("1", "one")].map(|(key, text)| EntryWrite::put(Collection::DOCUMENTS, key, text));
    let batch = Batch::new("summary", &claim, to).with_writes(writes.into());
    store.commit(batch).await.unwrap();
}

/// What [`fill`] has written, however long ago.
async fn check_filled(store: &SqliteStore) {
    let all = read_all(store).await;
    let payloads: Vec<_> = all.iter().map(|event| payload(event)).collect();
    assert_eq!(payloads, (0..60).map(|number| format!("{{\"number\":{number}}}")).collect::<Vec<_>>());
    let last = all.last().unwrap();
    assert_eq!((last.meta.version, &*last.name, last.schema_version), (Version::new(20), "Happened", 1));
    assert_eq!(last.meta.time.to_string(), "2023-11-14T22:13:20.123456Z");
    // The first version of the tables was written when a text could still hold U+0000.
    assert!(["the desk", "the\0desk"].contains(&&*last.meta.metadata.entries["at"]));
    assert_eq!(last.tags.len(), 2);
    assert_eq!(read_stream(store, "Account/1").await.len(), 20);
    let key = CommandKey { stream: stream("Account/0"), key: "first".to_owned() };
    let first = store.find_key(&key).await.unwrap().unwrap();
    assert_eq!((first.position, first.versions.len()), (Position::new(60), 3));
    let tagged = Guard::Absent(Query::tags([Tag::from("stream:Account/2")]));
    let refused = store.append(Append::new(vec![event("A/1", "")], tagged)).await;
    assert!(matches!(refused, Err(AppendError::Conflict(_))));
    let documents = store.range(RangeRead::documents("summary", 9)).await.unwrap();
    let documents: Vec<_> = documents.iter().map(|entry| (&*entry.key, &*entry.content)).collect();
    assert_eq!(documents, [(&b"0"[..], &b"zero"[..]), (b"1", b"one")]);
    let checkpoint = store.checkpoint("summary", Partition::ONLY).await.unwrap().unwrap();
    assert_eq!(checkpoint.event, Some(last.meta.id));
    let seen = store.verify().await.unwrap();
    assert_eq!((seen.events, seen.streams, seen.checkpoints, seen.documents), (60, 3, 1, 2));
}

#[tokio::test]
async fn a_store_that_is_opened_again_has_all_of_it() {
    let dir = dir();
    let path = dir.path().join("store.db");
    fill(&SqliteStore::open(&path).await.unwrap()).await;
    // Once while the former handle may still be closing, and once from the file alone.
    check_filled(&SqliteStore::open(&path).await.unwrap()).await;
    at_rest(&path);
    check_filled(&SqliteStore::open(&path).await.unwrap()).await;
}

/// Keep these files as they are: each was written by that version of the tables.
const FIXTURES: [&str; 2] = ["v1.db", "v2.db"];

fn fixture(name: &str, dir: &Path) -> std::path::PathBuf {
    let path = dir.join(name);
    fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name), &path).unwrap();
    path
}

/// Opening a file of an older version changes nothing and names the call that does.
#[tokio::test]
async fn a_file_of_an_older_version_is_refused_until_it_is_migrated() {
    let dir = dir();
    for name in FIXTURES {
        let path = fixture(name, dir.path());
        refused(&path, StoreErrorKind::Unsupported, "call `SqliteStore::migrate`").await;
        SqliteStore::migrate(&path).await.unwrap();
        let store = SqliteStore::open(&path).await.unwrap();
        check_filled(&store).await;
        store.append(Append::new(vec![event("Account/0", "new")], Guard::Any)).await.unwrap();
        assert_eq!(store.verify().await.unwrap().events, 61);
    }
}

fn tables(path: &Path) -> (i32, Vec<String>) {
    let conn = Connection::open(path).unwrap();
    let version = conn.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
    let mut select =
        conn.prepare("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name").unwrap();
    let tables = select.query_map((), |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap();
    (version, tables)
}

/// By however many at once: one migrates, and the tables are those of a file that is new. The statements
/// that are shown for review do the same.
#[tokio::test]
async fn a_migrated_file_is_like_a_new_one() {
    let dir = dir();
    let new = dir.path().join("new.db");
    SqliteStore::open(&new).await.unwrap();
    let expected = tables(&new);
    assert_eq!(SqliteStore::migration_sql(&new).await.unwrap(), "");
    for name in FIXTURES {
        let path = fixture(name, dir.path());
        assert_ne!(tables(&path), expected);
        let migrations: Vec<_> = (0..4).map(|_| tokio::spawn(SqliteStore::migrate(path.clone()))).collect();
        for migration in migrations {
            migration.await.unwrap().unwrap();
        }
        assert_eq!(tables(&path), expected, "{name}");
        check_filled(&SqliteStore::open(&path).await.unwrap()).await;

        // In another directory, as the store before may still be closing.
        let by_hand = tempfile::tempdir().unwrap();
        let path = fixture(name, by_hand.path());
        let sql = SqliteStore::migration_sql(&path).await.unwrap();
        Connection::open(&path).unwrap().execute_batch(&sql).unwrap();
        assert_eq!(tables(&path), expected, "{name}: {sql}");
        check_filled(&SqliteStore::open(&path).await.unwrap()).await;
    }
    // Of a file that is not there, a migration makes a new one; so do its statements.
    let (called, by_hand) = (dir.path().join("called.db"), dir.path().join("by_hand.db"));
    let sql = SqliteStore::migration_sql(&by_hand).await.unwrap();
    assert!(!by_hand.exists());
    Connection::open(&by_hand).unwrap().execute_batch(&sql).unwrap();
    SqliteStore::migrate(&called).await.unwrap();
    for path in [called, by_hand] {
        assert_eq!(tables(&path), expected);
        fill(&SqliteStore::open(&path).await.unwrap()).await;
        check_filled(&SqliteStore::open(&path).await.unwrap()).await;
    }
}

/// A program of the release before continues to write what it knows, so nothing is migrated beside it.
#[tokio::test]
async fn a_file_that_is_open_is_not_migrated() {
    let dir = dir();
    let path = fixture("v2.db", dir.path());
    let other = Connection::open(&path).unwrap();
    other.execute_batch("PRAGMA journal_mode = WAL; UPDATE cqrs_consumers SET epoch = epoch + 1").unwrap();
    let builder = SqliteStore::builder(&path).patience(std::time::Duration::from_millis(50));
    let error = builder.clone().migrate().await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    assert!(error.to_string().contains("has the file open"), "{error}");
    assert_eq!(tables(&path).0, 2);
    drop(other);
    builder.migrate().await.unwrap();
    check_filled(&SqliteStore::open(&path).await.unwrap()).await;
}

#[tokio::test]
async fn a_migration_that_fails_leaves_the_old_version() {
    let dir = dir();
    let path = fixture("v1.db", dir.path());
    // Somebody's own table stands where ours is to be.
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE cqrs_snapshots (mine)").unwrap();
    let error = SqliteStore::migrate(&path).await.unwrap_err();
    assert!(format!("{error:?}").contains("cqrs_snapshots"), "{error:?}");
    assert_eq!(tables(&path).0, 1);
    Connection::open(&path).unwrap().execute_batch("DROP TABLE cqrs_snapshots").unwrap();
    SqliteStore::migrate(&path).await.unwrap();
    check_filled(&SqliteStore::open(&path).await.unwrap()).await;
}

/// Whatever is cut off: the fault shows at the start, at a read or in `verify`, and never as a panic
/// or as fewer events.
#[tokio::test]
async fn a_truncated_file_is_noticed() {
    let dir = dir();
    let path = filled(dir.path()).await;
    let whole = fs::read(&path).unwrap();
    let cut = dir.path().join("cut.db");
    for length in (1..whole.len()).step_by(2_048).chain([15, 16, 99, 100, whole.len() - 1]) {
        fresh_copy(&cut, &whole[..length]);
        let error = examine(&cut).await.expect_err(&format!("cut at {length} of {}", whole.len()));
        assert_eq!(error.kind(), StoreErrorKind::Corrupt, "cut at {length}: {error}");
    }
}

/// A bit that flips is either noticed, or lies where nothing of the log does: in a document, in free
/// space, in a number that SQLite does not use.
#[tokio::test]
async fn a_flipped_bit_is_noticed_or_harmless() {
    let dir = dir();
    let path = filled(dir.path()).await;
    let whole = fs::read(&path).unwrap();
    let flipped = dir.path().join("flipped.db");
    let expected = examine(&path).await.unwrap();
    let (mut noticed, mut harmless) = (0, 0);
    for at in (0..whole.len()).step_by(199) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        fresh_copy(&flipped, &bytes);
        match examine(&flipped).await {
            Err(error) => {
                let kind = error.kind();
                assert_ne!(kind, StoreErrorKind::Unknown, "flipped at {at}: {error}");
                noticed += 1;
            }
            Ok(events) => {
                assert!(events == expected, "flipped at {at}: events came back as others");
                harmless += 1;
            }
        }
    }
    println!("{noticed} flipped bits noticed, {harmless} without effect on the log");
    assert!(noticed > 50);
}

fn fresh_copy(path: &Path, bytes: &[u8]) {
    for end in ["-wal", "-shm"] {
        let _ = fs::remove_file(format!("{}{end}", path.display()));
    }
    // A new file, since connections of the last round may still be closing the old one.
    let _ = fs::remove_file(path);
    fs::write(path, bytes).unwrap();
}

/// Opens a file, walks through it and reads all of it; gives the events.
async fn examine(path: &Path) -> Result<Vec<String>, StoreError> {
    let store = SqliteStore::open(path).await?;
    store.verify().await?;
    Ok(read_all(&store).await.iter().map(|event| format!("{event:?}")).collect())
}

/// Each contradiction that SQLite itself cannot see is named by `verify`.
#[tokio::test]
async fn verify_names_the_first_fault() {
    let faults = [
        ("DELETE FROM cqrs_events WHERE position = 30", "there is no event at position 30"),
        ("UPDATE cqrs_events SET version = 21 WHERE position = 60", "Account/2 has no version 20"),
        (
            "UPDATE cqrs_events SET version = -version WHERE stream = 'Account/1';
             UPDATE cqrs_events SET version = 21 + version WHERE stream = 'Account/1'",
            "version 2 of Account/1 has a lower position than the version before it",
        ),
        (
            "UPDATE cqrs_events SET metadata = '{' WHERE position = 7",
            "position 7: the checksum does not match",
        ),
        ("UPDATE cqrs_events SET tags = '[1]' WHERE position = 7", "position 7: the checksum does not match"),
        (
            "UPDATE cqrs_events SET stream = 'Account', version = 1 WHERE position = 60",
            "position 60: the checksum does not match",
        ),
        (
            "DELETE FROM cqrs_tags WHERE tag = 'all:1' AND position = 9",
            "its tag `all:1` is missing from the index",
        ),
        ("INSERT INTO cqrs_tags VALUES ('all:2', 9)", "the index of tags has 121 entries"),
        (
            "UPDATE cqrs_events SET payload = CAST('{}' AS BLOB) WHERE position = 8",
            "position 8: the checksum does not match",
        ),
        (
            "UPDATE cqrs_events SET time = time + 1 WHERE position = 8",
            "position 8: the checksum does not match",
        ),
        ("UPDATE cqrs_keys SET position = 61", "refers to a position or versions that do not exist"),
        ("UPDATE cqrs_checkpoints SET position = 61", "the checkpoint of `summary` is at 61"),
        ("UPDATE cqrs_checkpoints SET position = 59", "an event that is not in the log at or before"),
    ];
    let dir = dir();
    let path = filled(dir.path()).await;
    let whole = fs::read(&path).unwrap();
    for (at, (fault, words)) in faults.into_iter().enumerate() {
        let path = dir.path().join(format!("fault-{at}.db"));
        fs::write(&path, &whole).unwrap();
        Connection::open(&path).unwrap().execute_batch(fault).unwrap();
        let error = SqliteStore::open(&path).await.unwrap().verify().await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Corrupt, "{fault}: {error}");
        assert!(error.to_string().contains(words), "{fault}: {error}");
    }
}

/// Metadata as a newer release may write it, with a field and an entry that this one does not know.
#[tokio::test]
async fn what_a_newer_release_adds_to_metadata_is_ignored() {
    let dir = dir();
    let path = filled(dir.path()).await;
    let metadata = r#"{"actor":"ada","tenant":{"id":[7]},"entries":{"at":"the desk","weight":1.5}}"#;
    let other = Connection::open(&path).unwrap();
    let columns = "position, version, schema_version, time, stream, name, tags, id, payload";
    let checksum = other
        .query_row(&format!("SELECT {columns} FROM cqrs_events WHERE position = 7"), [], |row| {
            // As every release writes it.
            let numbers: [i64; 4] = [row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?];
            let tags: Option<String> = row.get(6)?;
            let texts: [String; 4] =
                [row.get(4)?, row.get(5)?, tags.unwrap_or_default(), metadata.to_owned()];
            let mut sum = crc32fast::Hasher::new();
            let lengths = texts.iter().map(|text| text.len() as i64);
            numbers.into_iter().chain(lengths).for_each(|number| sum.update(&number.to_le_bytes()));
            texts.iter().for_each(|text| sum.update(text.as_bytes()));
            sum.update(&row.get::<_, Vec<u8>>(7)?);
            sum.update(&row.get::<_, Vec<u8>>(8)?);
            Ok(sum.finalize())
        })
        .unwrap();
    let update = "UPDATE cqrs_events SET metadata = ?1, checksum = ?2 WHERE position = 7";
    assert_eq!(other.execute(update, (metadata, checksum)).unwrap(), 1);
    drop(other);
    let store = SqliteStore::open(&path).await.unwrap();
    store.verify().await.unwrap();
    let read = &read_all(&store).await[6].meta.metadata;
    assert_eq!((read.actor.as_deref(), &*read.entries["at"]), (Some("ada"), "the desk"));
    assert_eq!(read.entries.len(), 1);
}

/// A hole in the log is told by whoever reads over it, not passed over.
#[tokio::test]
async fn a_hole_is_not_read_over() {
    let dir = dir();
    let path = filled(dir.path()).await;
    let store = SqliteStore::open(&path).await.unwrap();
    Connection::open(&path).unwrap().execute("DELETE FROM cqrs_events WHERE position = 30", ()).unwrap();
    let (after, query) = (Position::START, Query::all());
    let read =
        cqrs_core::store::LogRead { partition: Partition::ONLY, after, up_to: None, query, limit: 100 };
    let error = store.read_log(read).await.unwrap_err();
    assert!(error.to_string().contains("there is no event at position 30"), "{error}");
}

#[cfg(unix)]
mod unix {
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::process::CommandExt as _;

    use super::*;
    use support::{child, role};

    /// Root may write everywhere, so a child without its rights tries.
    #[test]
    fn a_read_only_file_is_refused() {
        if let Some((_, file)) = role() {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let error = runtime.block_on(SqliteStore::open(file)).unwrap_err();
            println!("{:?}: {error}", error.kind());
            return;
        }
        let dir = dir();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let path = runtime.block_on(filled(dir.path()));
        let before = fs::read(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let mut command = child("unix::a_read_only_file_is_refused", &path, "open");
        if Connection::open(&path).unwrap().execute_batch("BEGIN IMMEDIATE; ROLLBACK").is_ok() {
            command.uid(65_534).gid(65_534);
        }
        let Ok(output) = command.output() else {
            println!("skipped: no child without rights can be started");
            return;
        };
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(told.contains("Failed:") && told.contains("the file is read-only"), "{told}");
        assert!(fs::read(&path).unwrap() == before, "the file was changed");
    }
}

/// A rollback journal of SQLite that takes a file back to these pages of 4,096 bytes.
fn rollback_journal(pages: &[&[u8]]) -> Vec<u8> {
    const NONCE: u32 = 7;
    let count = u32::try_from(pages.len()).unwrap();
    let mut journal = vec![0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];
    for number in [count, NONCE, count, 512, 4_096] {
        journal.extend(number.to_be_bytes());
    }
    journal.resize(512, 0);
    for (page, number) in pages.iter().zip(1_u32..) {
        // SQLite sums every 200th byte, from the end on.
        let sampled = (1..=20).map(|step| u32::from(page[4_096 - 200 * step]));
        journal.extend(number.to_be_bytes());
        journal.extend(*page);
        journal.extend((NONCE + sampled.sum::<u32>()).to_be_bytes());
    }
    journal
}

/// A process is killed when its transaction is in the main file and the rollback journal is still there, so it is not
/// committed. The main file alone looks as if it were.
#[tokio::test]
async fn a_creation_that_was_killed_while_it_committed_is_rolled_back() {
    let dir = dir();
    let path = dir.path().join("bank.db");
    let store = SqliteStore::open(&path).await.unwrap();
    store.close().await.unwrap();
    drop(store);
    fs::write(path.with_extension("db-journal"), rollback_journal(&[])).unwrap();
    for round in 0..2 {
        let store = SqliteStore::open(&path).await.unwrap();
        store.append(Append::new(vec![event("A/1", "x")], Guard::Any)).await.unwrap();
        assert_eq!(store.head(Partition::ONLY).await.unwrap().position.get(), round + 1);
        store.close().await.unwrap();
    }
}

/// The same of a migration: the file is then still of the version before.
#[tokio::test]
async fn a_migration_that_was_killed_while_it_committed_is_rolled_back() {
    let dir = dir();
    let path = fixture("v2.db", dir.path());
    let before = fs::read(&path).unwrap();
    SqliteStore::migrate(&path).await.unwrap();
    assert!(SqliteStore::migration_sql(&path).await.unwrap().is_empty());
    fs::write(
        path.with_extension("db-journal"),
        rollback_journal(&before.chunks_exact(4_096).collect::<Vec<_>>()),
    )
    .unwrap();
    let refused = SqliteStore::open(&path).await.unwrap_err().to_string();
    assert!(refused.contains("call `SqliteStore::migrate`"), "{refused}");
    SqliteStore::migrate(&path).await.unwrap();
    SqliteStore::open(&path).await.unwrap();
}
