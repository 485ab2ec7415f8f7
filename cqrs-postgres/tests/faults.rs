//! What goes wrong is told by name, nothing that was acknowledged is lost by it, and when the server is
//! back the store goes on.

#![allow(missing_docs, reason = "a test")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test stops at a fault")]

mod support;

use std::ops::ControlFlow;
use std::process::{Command, Stdio};
use std::time::Duration;

use cqrs_core::error::{StoreError, StoreErrorKind};
use cqrs_core::id::{Partition, Position, Version};
use cqrs_core::read_store::{Batch, Checkpoint, ReadStore as _};
use cqrs_core::store::{
    Append, AppendError, CommandKey, Direction, EventStore as _, Expected, Guard, Head, LogPoint, LogRead,
    Query, StreamEvent, StreamRead,
};
use cqrs_postgres::PostgresStore;
use support::{connect, event, payload, read_all, read_stream, schema, stream, with};
use tokio_postgres::error::SqlState;

async fn refused(url: &str) -> StoreError {
    PostgresStore::open(url).await.unwrap_err()
}

fn one(name: &str, text: &str) -> Append {
    Append::new(vec![event(name, text)], Guard::Any)
}

#[tokio::test]
async fn what_cannot_be_opened_is_refused_by_name() {
    let Some(cluster) = pg_cluster::made() else { return };
    let server = cluster.server();
    let url = |user: &str, password: &str, database: &str| {
        with(&server.url(user, password, database), &format!("schema={}", schema()))
    };
    let closed =
        format!("postgres://postgres:secret@127.0.0.1:{}/postgres", pg_cluster::free_port().unwrap());
    let cases = [
        (closed, StoreErrorKind::Unavailable, "the server cannot be reached"),
        (url("postgres", "wrong", "postgres"), StoreErrorKind::Failed, "does not let this user in"),
        (url("nobody", "secret", "postgres"), StoreErrorKind::Failed, "does not let this user in"),
        (url("postgres", "secret", "nowhere"), StoreErrorKind::Invalid, "no such database"),
        (with(cluster.url(), "schema=Up"), StoreErrorKind::Invalid, "cannot be the name"),
        (with(cluster.url(), "schema=pg_x"), StoreErrorKind::Invalid, "cannot be the name"),
        (with(cluster.url(), "shema=x"), StoreErrorKind::Invalid, "shema"),
        #[cfg(not(feature = "tls"))]
        (with(cluster.url(), "sslmode=require"), StoreErrorKind::Unsupported, "postgres-tls"),
        #[cfg(not(feature = "tls"))]
        (with(cluster.url(), "sslrootcert=file.pem"), StoreErrorKind::Unsupported, "postgres-tls"),
    ];
    for (url, kind, words) in cases {
        let error = refused(&url).await;
        let text = error.to_string();
        assert_eq!(error.kind(), kind, "{url}: {text}");
        assert!(text.contains(words) && !text.contains("secret"), "{url}: {text}");
    }
}

#[tokio::test]
async fn a_schema_that_is_not_ours_is_left_alone() {
    let Some(cluster) = pg_cluster::shared() else { return };
    let client = connect(cluster.url()).await;
    for table in ["events (id integer)", "meta (version integer)", "entries (body json)"] {
        let schema = schema();
        client
            .batch_execute(&format!("CREATE SCHEMA {schema}; CREATE TABLE {schema}.{table}"))
            .await
            .unwrap();
        let error = refused(&with(cluster.url(), &format!("schema={schema}"))).await;
        assert_eq!(error.kind(), StoreErrorKind::Invalid, "{error}");
        assert!(error.to_string().contains("is not of this store"), "{error}");
        let tables = "SELECT count(*) FROM pg_tables WHERE schemaname = $1";
        assert_eq!(client.query_one(tables, &[&schema]).await.unwrap().get::<_, i64>(0), 1);
    }
    // One with tables that do not stand in the way is used.
    let schema = schema();
    client
        .batch_execute(&format!("CREATE SCHEMA {schema}; CREATE TABLE {schema}.mine (a int)"))
        .await
        .unwrap();
    PostgresStore::open(&with(cluster.url(), &format!("schema={schema}"))).await.unwrap();
}

#[tokio::test]
async fn a_store_of_another_kind_is_refused() {
    let Some(cluster) = pg_cluster::shared() else { return };
    let schema = schema();
    let url = with(cluster.url(), &format!("schema={schema}"));
    PostgresStore::open(&with(&url, "partitions=3")).await.unwrap();
    PostgresStore::open(&url).await.unwrap();
    let error = refused(&with(&url, "partitions=4")).await;
    assert_eq!(error.kind(), StoreErrorKind::Invalid);
    assert!(error.to_string().contains("3 partitions, and 4 are asked for"), "{error}");
    let client = connect(cluster.url()).await;
    client.batch_execute(&format!("DROP TABLE {schema}.keys")).await.unwrap();
    let error = refused(&url).await;
    assert_eq!(error.kind(), StoreErrorKind::Corrupt);
    assert!(error.to_string().contains("the table `keys` is missing"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_that_open_a_new_store_at_once_find_one() {
    let Some(cluster) = pg_cluster::shared() else { return };
    for round in 0..3 {
        let url = with(cluster.url(), &format!("schema={}", schema()));
        let opening = (0..10).map(|_| {
            let url = url.clone();
            tokio::spawn(async move { PostgresStore::open(&url).await.unwrap() })
        });
        let mut logs = Vec::new();
        for store in opening.collect::<Vec<_>>() {
            logs.push(store.await.unwrap().head(Partition::ONLY).await.unwrap().log);
        }
        assert!(logs.windows(2).all(|pair| pair[0] == pair[1]), "round {round}: {logs:?}");
    }
}

/// In this binary once more, as one of the ten processes below: where the store is.
const CHILD: &str = "CQRS_OPENING_CHILD";
/// An advisory lock that nobody else takes.
const START: i64 = 4_711;

async fn open_when_told(url: &str, plain: &str) {
    let gate = connect(plain).await;
    gate.query("SELECT pg_advisory_lock_shared($1)", &[&START]).await.unwrap();
    let store = PostgresStore::open(url).await.unwrap();
    let key = CommandKey { stream: stream("A/1"), key: std::process::id().to_string() };
    store.append(one("A/1", "one").with_key(Some(key))).await.unwrap();
    println!("log {}", store.head(Partition::ONLY).await.unwrap().log);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_processes_that_open_a_new_store_at_once_find_one() {
    if let Ok(urls) = std::env::var(CHILD) {
        let (url, plain) = urls.split_once(' ').unwrap();
        return open_when_told(url, plain).await;
    }
    let Some(cluster) = pg_cluster::shared() else { return };
    let url = with(cluster.url(), &format!("schema={}", schema()));
    ten_at_once(cluster.url(), &url).await;
}

/// Has ten processes open a store at the same moment and append to it.
async fn ten_at_once(plain: &str, url: &str) {
    const TEN: usize = 10;
    let gate = connect(plain).await;
    gate.query("SELECT pg_advisory_lock($1)", &[&START]).await.unwrap();
    let children: Vec<_> = (0..TEN)
        .map(|_| {
            let mut child = Command::new(std::env::current_exe().unwrap());
            child.args(["ten_processes_that_open_a_new_store_at_once_find_one", "--exact", "--nocapture"]);
            child.env(CHILD, format!("{url} {plain}"));
            child.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    // All of them are let go at the same moment.
    let waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = $1::bigint::oid AND NOT granted";
    let begun = std::time::Instant::now();
    while gate.query_one(waiting, &[&START]).await.unwrap().get::<_, i64>(0) < TEN as i64 {
        assert!(begun.elapsed().as_secs() < 120, "the processes do not come");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    gate.query("SELECT pg_advisory_unlock($1)", &[&START]).await.unwrap();
    let mut logs = Vec::new();
    for child in children {
        let done = child.wait_with_output().unwrap();
        assert!(done.status.success());
        let told = String::from_utf8(done.stdout).unwrap();
        let log = told.lines().find_map(|line| Some(line.split_once("log ")?.1.to_owned()));
        logs.push(log.unwrap_or_else(|| panic!("{told}")));
    }
    let store = PostgresStore::open(url).await.unwrap();
    let log = store.head(Partition::ONLY).await.unwrap().log.to_string();
    assert!(logs.iter().all(|other| *other == log), "{log}: {logs:?}");
    assert_eq!(read_stream(&store, "A/1").await.len(), TEN);
    store.verify().await.unwrap();
}

/// What the guide grants is enough to work, and not enough to change what has happened.
#[tokio::test]
async fn a_role_with_the_rights_of_the_guide_works() {
    let Some(cluster) = pg_cluster::made() else { return };
    let server = cluster.server();
    let schema = schema();
    let url = |user: &str| with(&server.url(user, "pw", "postgres"), &format!("schema={schema}"));
    let client = connect(cluster.url()).await;
    client.batch_execute(&format!("CREATE ROLE r{schema} LOGIN PASSWORD 'pw'")).await.unwrap();
    let role = format!("r{schema}");
    let error = refused(&url(&role)).await;
    assert_eq!(error.kind(), StoreErrorKind::Failed);
    assert!(error.to_string().contains("lacks a right"), "{error}");

    PostgresStore::open(&with(cluster.url(), &format!("schema={schema}"))).await.unwrap();
    let page = include_str!("../../docs/guide/postgres.md");
    let grants: String = page.lines().filter(|line| line.starts_with("GRANT")).collect();
    assert!(grants.matches("GRANT").count() >= 5);
    let grants = grants.replace("SCHEMA cqrs", &format!("SCHEMA {schema}"));
    let grants = grants.replace("cqrs.", &format!("{schema}.")).replace("TO bank", &format!("TO {role}"));
    // As in a database that grants nothing to everybody.
    let revoke = format!("REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA {schema} FROM PUBLIC");
    client.batch_execute(&format!("{revoke}; {grants}")).await.unwrap();

    let store = PostgresStore::open(&url(&role)).await.unwrap();
    let key = CommandKey { stream: stream("A/1"), key: "k".to_owned() };
    store.append(one("A/1", "one").with_key(Some(key.clone()))).await.unwrap();
    let expected = Guard::stream(stream("A/1"), Expected::Version(Version::new(1)));
    store.append(Append::new(vec![event("A/1", "two")], expected)).await.unwrap();
    assert!(store.find_key(&key).await.unwrap().is_some());
    assert_eq!(read_stream(&store, "A/1").await.len(), 2);
    use_documents(&store).await;

    let role = connect(&url(&role).replace(&format!("?schema={schema}"), "")).await;
    for forbidden in [
        "UPDATE {s}.events SET name = 'x'",
        "DELETE FROM {s}.events",
        "TRUNCATE {s}.events",
        "DELETE FROM {s}.keys",
        "UPDATE {s}.meta SET version = 2",
        "DROP TABLE {s}.events",
    ] {
        let error = role.batch_execute(&forbidden.replace("{s}", &schema)).await.unwrap_err();
        assert_eq!(error.code().map(SqlState::code), Some("42501"), "{forbidden}: {error}");
    }
}

async fn use_documents(store: &PostgresStore) {
    use cqrs_core::read_store::{Batch, Checkpoint, Collection, EntryWrite, RangeRead, ReadStore as _};
    let claim = store.claim("p").await.unwrap();
    let log = store.head(Partition::ONLY).await.unwrap().log;
    let to = Checkpoint { log, position: Position::new(1), event: None };
    let writes = vec![
        EntryWrite::put(Collection::DOCUMENTS, "a", "x"),
        EntryWrite::remove(Collection::DOCUMENTS, "b"),
    ];
    let batch = Batch::new("p", &claim, to).with_writes(writes);
    store.commit(batch).await.unwrap();
    assert_eq!(store.range(RangeRead::documents("p", 9)).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_table_that_is_dropped_is_told() {
    let Some(cluster) = pg_cluster::shared() else { return };
    let schema = schema();
    let store = PostgresStore::open(&with(cluster.url(), &format!("schema={schema}"))).await.unwrap();
    store.append(one("A/1", "one")).await.unwrap();
    let client = connect(cluster.url()).await;
    client.batch_execute(&format!("DROP TABLE {schema}.events CASCADE")).await.unwrap();
    let corrupt = |error: &StoreError| {
        assert_eq!(error.kind(), StoreErrorKind::Corrupt, "{error}");
        assert!(error.to_string().contains("a part of the store's schema is missing"), "{error}");
    };
    corrupt(&store.head(Partition::ONLY).await.unwrap_err());
    match store.append(one("A/1", "two")).await {
        Err(AppendError::Store(error)) => corrupt(&error),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_log_that_is_rewound_or_replaced_is_told() {
    let Some(cluster) = pg_cluster::shared() else { return };
    let schema = schema();
    let url = with(cluster.url(), &format!("schema={schema}"));
    let store = PostgresStore::open(&url).await.unwrap();
    let mut third = None;
    for text in ["one", "two", "three"] {
        third = store.append(one("A/1", text)).await.unwrap().event;
    }
    let third = third.unwrap();
    let head = store.head(Partition::ONLY).await.unwrap();
    assert_eq!((head.position, head.event), (Position::new(3), Some(third)));
    let client = connect(cluster.url()).await;
    let rewind = format!(
        "DELETE FROM {schema}.events WHERE position = 3; DELETE FROM {schema}.tags WHERE position = 3"
    );
    client.batch_execute(&rewind).await.unwrap();
    for (call, error) in every_call(&store).await {
        let error = error.unwrap_or_else(|| panic!("{call} does not notice that the log was rewound"));
        assert_eq!(error.kind(), StoreErrorKind::Corrupt, "{call}: {error}");
        assert!(error.to_string().contains("the log was rewound"), "{call}: {error}");
    }
    // The negative control: a handle that has reported no head has nothing to compare with, and its calls work.
    for (call, error) in every_call(&PostgresStore::open(&url).await.unwrap()).await {
        assert!(error.is_none(), "{call}: {error:?}");
    }
    // The handle works again once the log has grown past the head that it has reported. What rests on the event that
    // was lost does not.
    let expected = Expected::Event(Version::new(3), third);
    let guard = Guard::stream(stream("A/1"), expected);
    let lost = store.append(Append::new(vec![event("A/1", "on a lost event")], guard)).await;
    assert!(matches!(lost, Err(AppendError::Conflict(_))), "{lost:?}");
    let after = LogPoint { position: Position::new(3), event: Some(third) };
    let guard = Guard::Unchanged { query: Query::none(), after };
    let lost = store.append(Append::new(vec![event("A/1", "on a lost head")], guard)).await;
    assert!(matches!(lost, Err(AppendError::Conflict(_))), "{lost:?}");
    // Another log in the same place is not written to.
    client.batch_execute(&format!("DROP SCHEMA {schema} CASCADE")).await.unwrap();
    PostgresStore::open(&url).await.unwrap();
    match store.append(one("A/1", "four")).await {
        Err(AppendError::Store(error)) => {
            assert_eq!(error.kind(), StoreErrorKind::Corrupt, "{error}");
            // It is empty, so it also ends before the head that was reported.
            let words = error.to_string();
            assert!(words.contains("replaced") || words.contains("rewound"), "{error}");
        }
        other => panic!("{other:?}"),
    }
}

/// A restored copy gets an id of its own. What is in the same schema moves along; an open handle is refused.
#[tokio::test]
async fn a_copy_gets_a_log_id_of_its_own() {
    let Some(cluster) = pg_cluster::shared() else { return };
    let url = with(cluster.url(), &format!("schema={}", schema()));
    let refused = PostgresStore::assign_new_log_id(&url).await.unwrap_err();
    assert_eq!(refused.kind(), StoreErrorKind::Invalid, "{refused}");
    let store = PostgresStore::open(&url).await.unwrap();
    for text in ["one", "two", "three"] {
        store.append(one("A/1", text)).await.unwrap();
    }
    let head = store.head(Partition::ONLY).await.unwrap();
    let claim = store.claim("reader").await.unwrap();
    let to = Checkpoint { log: head.log, position: head.position, event: head.event };
    let batch = Batch::new("reader", &claim, to);
    store.commit(batch).await.unwrap();
    let new = PostgresStore::assign_new_log_id(&url).await.unwrap();
    assert_ne!(new, head.log);
    match store.append(one("A/1", "four")).await {
        Err(AppendError::Store(error)) => assert!(error.to_string().contains("replaced"), "{error}"),
        other => panic!("{other:?}"),
    }
    let copy = PostgresStore::open(&url).await.unwrap();
    assert_eq!(copy.head(Partition::ONLY).await.unwrap(), Head { log: new, ..head });
    let moved = copy.checkpoint("reader", Partition::ONLY).await.unwrap();
    assert_eq!(moved, Some(Checkpoint { log: new, ..to }));
    copy.append(one("A/1", "four")).await.unwrap();
    copy.verify().await.unwrap();
}

/// Every call that looks at the log, and its fault. The last one appends.
async fn every_call(store: &PostgresStore) -> Vec<(&'static str, Option<StoreError>)> {
    let of = |error: AppendError| match error {
        AppendError::Store(error) => error,
        other => panic!("{other:?}"),
    };
    let key = CommandKey { stream: stream("A/1"), key: "no such key".into() };
    let (query, after, partition) = (Query::all(), Position::START, Partition::ONLY);
    let log = |query: Query| LogRead { partition, after, up_to: None, query, limit: 10 };
    let forward = |name: &str| StreamRead {
        stream: stream(name),
        from: Version::new(1),
        direction: Direction::Forward,
        limit: 10,
    };
    let mut take = |_: StreamEvent<'_>| ControlFlow::Continue(());
    let check = Append::new(Vec::new(), Guard::stream(stream("A/1"), Expected::Version(Version::new(2))));
    let tagged = Guard::Absent(Query::names(["No such name"]));
    let mut calls = vec![
        ("head", store.head(partition).await.err()),
        ("read_log", store.read_log(log(query)).await.err()),
        ("read_log of nothing", store.read_log(log(Query::none())).await.err()),
        ("read_stream", store.read_stream(forward("A/1")).await.err()),
        ("read_stream of none", store.read_stream(forward("A/none")).await.err()),
        ("fold_stream", store.fold_stream(&stream("A/1"), Version::new(1), &mut take).await.err()),
        ("fold_stream of none", store.fold_stream(&stream("A/none"), Version::new(1), &mut take).await.err()),
        ("find_key", store.find_key(&key).await.err()),
        ("reserve", store.reserve(&stream("A/1")).await.err()),
        ("append of nothing", store.append(check).await.map_err(of).err()),
    ];
    // Another stream for each, so that none rests on an event of the other.
    for (call, name, guard) in [
        ("append", "B/1", Guard::Any),
        ("append to a new stream", "B/2", Guard::stream(stream("B/2"), Expected::NoStream)),
        ("append with a query", "B/3", tagged),
    ] {
        calls.push((call, store.append(Append::new(vec![event(name, call)], guard)).await.map_err(of).err()));
    }
    calls
}

#[tokio::test]
async fn payloads_can_be_read_in_a_view() {
    let Some(cluster) = pg_cluster::shared() else { return };
    let schema = schema();
    let store = PostgresStore::open(&with(cluster.url(), &format!("schema={schema}"))).await.unwrap();
    let mut bytes = event("A/1", "");
    bytes.payload = vec![0xff, 0].into();
    // The last time with a timestamp, and those after it.
    let times = [i64::MAX as u64, i64::MAX as u64 + 1, u64::MAX].map(|micros| {
        let mut late = event("A/2", "{}");
        late.time = cqrs_core::event::Timestamp::from_micros(micros);
        late
    });
    let mut events = vec![event("A/1", r#"{"cents":5}"#), event("A/1", "no json"), bytes];
    events.extend(times);
    store.append(Append::new(events, Guard::Any)).await.unwrap();
    let client = connect(cluster.url()).await;
    let view = format!("SELECT payload::text, time::text FROM {schema}.log ORDER BY position");
    let rows = client.query(&view, &[]).await.unwrap();
    let texts: Vec<&str> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(texts[..3], [r#"{"cents":5}"#, r#""no json""#, r#""ff00""#]);
    assert!(rows[0].get::<_, &str>(1).starts_with("2023-11-14 22:13:20.123456"));
    let times: Vec<Option<&str>> = rows[3..].iter().map(|row| row.get(1)).collect();
    assert!(times[0].is_some_and(|time| time.starts_with("294247-01-10")), "{times:?}");
    assert_eq!(times[1..], [None, None]);
}

/// The server crashes and comes back, twice, under appends that are told what became of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_goes_on_when_the_server_is_back() {
    let Some(cluster) = pg_cluster::own(&[]) else { return };
    let server = cluster.server();
    let store = PostgresStore::open(cluster.url()).await.unwrap();
    let writers: Vec<_> = (0..4).map(|task| tokio::spawn(write_through(store.clone(), task))).collect();
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        server.stop("immediate").unwrap();
        let error = store.head(Partition::ONLY).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Unavailable, "{error}");
        server.go().unwrap();
    }
    let mut written = Vec::new();
    for writer in writers {
        written.extend(writer.await.unwrap());
    }
    written.sort();
    let mut there: Vec<String> = read_all(&store).await.iter().map(|event| payload(event)).collect();
    there.sort();
    assert_eq!(there, written);
}

/// Appends each text with a key until it is known to be there; as often as it takes.
async fn write_through(store: PostgresStore, task: usize) -> Vec<String> {
    let name = format!("A/{task}");
    let mut written = Vec::new();
    for number in 0..150 {
        let text = format!("{task}-{number}");
        let key = CommandKey { stream: stream(&name), key: text.clone() };
        loop {
            let expected = Expected::Version(Version::new(written.len() as u64));
            let guard = Guard::stream(stream(&name), expected);
            let append = Append::new(vec![event(&name, text.clone())], guard).with_key(Some(key.clone()));
            match store.append(append).await {
                Ok(_) | Err(AppendError::Duplicate(_)) => break,
                Err(AppendError::Store(error)) => {
                    let passes = [StoreErrorKind::Unavailable, StoreErrorKind::Unknown];
                    assert!(passes.contains(&error.kind()), "{:?} {error}", error.kind());
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(error) => panic!("{error}"),
            }
        }
        written.push(text);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    written
}

/// A standby that does not answer: whoever waits for it is cancelled, and the server only warns.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_did_not_wait_for_its_standby_is_unknown() {
    let Some(cluster) = pg_cluster::own(&[]) else { return };
    let server = cluster.server();
    let store = PostgresStore::open(cluster.url()).await.unwrap();
    store.append(one("A/1", "zero")).await.unwrap();
    server.psql("postgres", "ALTER SYSTEM SET synchronous_standby_names = 'nobody'").unwrap();
    server.reload().unwrap();
    // The server takes up the setting some time after the reload, so appends go on until one has to wait.
    let appending = tokio::spawn({
        let store = store.clone();
        async move {
            for version in 1.. {
                let key = CommandKey { stream: stream("A/1"), key: version.to_string() };
                let guard = Guard::stream(stream("A/1"), Expected::Version(Version::new(version)));
                let append = Append::new(vec![event("A/1", "more")], guard).with_key(Some(key.clone()));
                if let Err(error) = store.append(append).await {
                    return (key, error);
                }
            }
            unreachable!("there are more versions than time")
        }
    });
    let waiting = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    let begun = std::time::Instant::now();
    while server.psql("postgres", waiting).unwrap().is_empty() {
        assert!(begun.elapsed().as_secs() < 120, "nobody waits for the standby");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (key, error) = appending.await.unwrap();
    match error {
        AppendError::Store(error) => assert_eq!(error.kind(), StoreErrorKind::Unknown, "{error}"),
        other => panic!("{other:?}"),
    }
    server
        .psql("postgres", "SET synchronous_commit = local; ALTER SYSTEM RESET synchronous_standby_names")
        .ok();
    server.reload().unwrap();
    assert!(store.find_key(&key).await.unwrap().is_some());
}

/// All connections have ended, and none of them looks it: a read finds its way nevertheless.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_gets_by_connections_that_were_lost() {
    let Some(cluster) = pg_cluster::shared() else { return };
    let name = schema();
    let url = with(cluster.url(), &format!("schema={name}&application_name={name}"));
    let store = PostgresStore::open(&url).await.unwrap();
    store.append(one("A/1", "one")).await.unwrap();
    let killer = connect(cluster.url()).await;
    for _ in 0..20 {
        let reads = (0..16).map(|_| {
            let store = store.clone();
            tokio::spawn(async move { read_stream(&store, "A/1").await.len() })
        });
        for read in reads.collect::<Vec<_>>() {
            assert_eq!(read.await.unwrap(), 1);
        }
        let all = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1";
        assert!(killer.query(all, &[&name]).await.unwrap().len() > 3, "the reads were not spread");
    }
}
