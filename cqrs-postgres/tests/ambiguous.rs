//! Connections that break while an append is under way: nothing is doubled, nothing is lost, and what was
//! said not to be there never comes.

#![allow(missing_docs, reason = "a test")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at a fault")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use cqrs_core::error::StoreErrorKind;
use cqrs_core::id::Version;
use cqrs_core::store::{Append, AppendError, CommandKey, EventStore as _, Expected, Guard};
use cqrs_postgres::PostgresStore;
use support::{connect, event, read_stream, schema, stream, with};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

/// Lets everything through.
const PASS: u8 = 0;
/// Hands the next append on, and cuts the client off without its answer.
const CUT: u8 = 1;
/// Keeps the next append back, and cuts the client off.
const KEEP: u8 = 2;
/// Lets nothing through any more, as a network that drops packets.
const SILENT: u8 = 3;

/// Stands between the store and the server.
struct Proxy {
    port: u16,
    mode: Arc<AtomicU8>,
    /// Lets go what was kept back.
    release: Arc<Notify>,
    /// Tells that it has arrived and was answered.
    delivered: Arc<Notify>,
}

impl Proxy {
    async fn start(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (mode, release, delivered) = (Arc::new(AtomicU8::new(PASS)), Arc::default(), Arc::default());
        let proxy = Self { port, mode, release, delivered };
        let parts = (Arc::clone(&proxy.mode), Arc::clone(&proxy.release), Arc::clone(&proxy.delivered));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
                tokio::spawn(carry(client, server, parts.clone()));
            }
        });
        proxy
    }
}

/// An append is known by the text in its payload.
fn is_append(bytes: &[u8]) -> bool {
    bytes.windows(6).any(|part| part == b"marked")
}

async fn carry(
    mut client: TcpStream,
    mut server: TcpStream,
    parts: (Arc<AtomicU8>, Arc<Notify>, Arc<Notify>),
) {
    let (mode, release, delivered) = parts;
    let (mut up, mut down) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        tokio::select! {
            read = client.read(&mut up) => {
                let Ok(count @ 1..) = read else { return };
                let sent = &up[..count];
                if mode.load(Ordering::SeqCst) == SILENT {
                    continue;
                }
                let stops = is_append(sent).then(|| mode.swap(PASS, Ordering::SeqCst));
                match stops {
                    Some(CUT) => {
                        server.write_all(sent).await.unwrap();
                        drop(client);
                        // The server is done when it answers.
                        let _ = server.read(&mut down).await;
                        delivered.notify_one();
                        return;
                    }
                    Some(KEEP) => {
                        drop(client);
                        release.notified().await;
                        server.write_all(sent).await.unwrap();
                        let _ = server.read(&mut down).await;
                        delivered.notify_one();
                        return;
                    }
                    _ => if server.write_all(sent).await.is_err() { return },
                }
            }
            read = server.read(&mut down) => {
                let Ok(count @ 1..) = read else { return };
                if client.write_all(&down[..count]).await.is_err() { return }
            }
        }
    }
}

fn marked(name: &str, version: u64, key: &CommandKey) -> Append {
    let guard = Guard::stream(stream(name), Expected::Version(Version::new(version)));
    Append::new(vec![event(name, "marked")], guard).with_key(Some(key.clone()))
}

async fn unknown(store: &PostgresStore, append: Append) {
    match store.append(append).await {
        Err(AppendError::Store(error)) => assert_eq!(error.kind(), StoreErrorKind::Unknown, "{error}"),
        other => panic!("{other:?}"),
    }
}

/// A store that does not look for what became of a lost commit, but says at once that it does not know.
async fn behind_a_proxy(options: &str) -> Option<(Proxy, PostgresStore)> {
    resolving_behind_a_proxy(options, Duration::ZERO).await
}

async fn resolving_behind_a_proxy(options: &str, limit: Duration) -> Option<(Proxy, PostgresStore)> {
    let server = pg_cluster::made()?.server();
    let proxy = Proxy::start(server.port()).await;
    let url =
        format!("postgres://postgres:secret@127.0.0.1:{}/postgres?schema={}{options}", proxy.port, schema());
    let store = PostgresStore::builder(&url).resolve_timeout(limit).open().await.unwrap();
    store.append(Append::new(vec![event("A/1", "first")], Guard::Any)).await.unwrap();
    Some((proxy, store))
}

/// What became of a commit whose connection was lost can mostly be found out: an append that arrived is told as one
/// that took place, and one that was kept back is made again. Either way it is there once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_became_of_a_lost_commit_is_found_out() {
    for options in ["", "&pgbouncer=true"] {
        for (mode, keyed, guarded) in [
            (CUT, true, true),
            (CUT, false, false),
            (KEEP, true, true),
            (KEEP, false, false),
            (KEEP, false, true),
        ] {
            let limit = Duration::from_secs(60);
            let Some((proxy, store)) = resolving_behind_a_proxy(options, limit).await else { return };
            let key = CommandKey { stream: stream("A/1"), key: "k".to_owned() };
            let mut append = marked("A/1", 1, &key);
            if !guarded {
                append.guard = Guard::Any;
            }
            append.key = append.key.filter(|_| keyed);
            proxy.mode.store(mode, Ordering::SeqCst);
            let appended = store.append(append).await.unwrap();
            assert_eq!(appended.version_of(&stream("A/1")), Some(Version::new(2)), "{mode} {options}");
            assert_eq!(appended.position.get(), 2);
            if mode == KEEP {
                proxy.release.notify_one();
                tokio::time::timeout(Duration::from_secs(120), proxy.delivered.notified()).await.unwrap();
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            assert_eq!(read_stream(&store, "A/1").await.len(), 2, "{mode} {options}");
            let found = store.find_key(&key).await.unwrap();
            assert_eq!(found, keyed.then_some(appended), "{mode} {options}");
            store.verify().await.unwrap();
        }
    }
}

/// A lock of the log that another session keeps, such as a commit that waits for its standby.
async fn keep_locked(cluster: &pg_cluster::Cluster, schema: &str) -> tokio_postgres::Client {
    let holder = connect(cluster.url()).await;
    let row = holder.query_one(&format!("SELECT log FROM {schema}.meta"), &[]).await.unwrap();
    let (high, low) = row.get::<_, uuid::Uuid>(0).as_u64_pair();
    let lock = (high ^ low).cast_signed();
    holder.batch_execute(&format!("BEGIN; SELECT pg_advisory_xact_lock({lock})")).await.unwrap();
    holder
}

/// As long as another session keeps the lock, nobody can say what became of an append. Everything says so within its
/// limit, and goes on when the lock is free.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_a_lock_is_told_so_in_bounded_time() {
    let Some(cluster) = pg_cluster::shared() else { return };
    let name = schema();
    let url = with(cluster.url(), &format!("schema={name}&application_name={name}"));
    let (patience, limit) = (Duration::from_millis(300), Duration::from_millis(900));
    let builder = PostgresStore::builder(&url).patience(patience).resolve_timeout(limit);
    let store = builder.open().await.unwrap();
    let key = CommandKey { stream: stream("A/1"), key: "k".to_owned() };
    store.append(Append::new(vec![event("A/1", "first")], Guard::Any)).await.unwrap();
    let holder = keep_locked(cluster, &name).await;
    let error = store.append(marked("A/1", 1, &key)).await.unwrap_err();
    assert!(
        matches!(&error, AppendError::Store(error) if error.kind() == StoreErrorKind::Unavailable),
        "{error}"
    );
    let appending = tokio::spawn({
        let (store, append) = (store.clone(), marked("A/1", 1, &key));
        async move { store.append(append).await }
    });
    let killer = connect(cluster.url()).await;
    let waiting = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                   WHERE application_name = $1 AND wait_event = 'advisory'";
    while killer.query(waiting, &[&name]).await.unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    match appending.await.unwrap() {
        Err(AppendError::Store(error)) => assert_eq!(error.kind(), StoreErrorKind::Unknown, "{error}"),
        other => panic!("{other:?}"),
    }
    // Not one of them may answer before the append can no longer take place.
    let take = &mut |_: cqrs_core::store::StreamEvent<'_>| std::ops::ControlFlow::Continue(());
    let (from, stream) = (Version::new(1), stream("A/1"));
    let read = cqrs_core::store::StreamRead {
        stream: stream.clone(),
        from,
        limit: 10,
        direction: cqrs_core::store::Direction::Forward,
    };
    let reads = async {
        [
            store.find_key(&key).await.err(),
            store.read_stream(read).await.err(),
            store.fold_stream(&stream, from, take).await.err(),
            store.reserve(&stream).await.err(),
        ]
    };
    let errors = tokio::time::timeout(Duration::from_secs(60), reads).await.unwrap();
    for error in errors {
        let error = error.unwrap();
        assert_eq!(error.kind(), StoreErrorKind::Unavailable, "{error}");
        assert!(error.to_string().contains("a commit of this process"), "{error}");
    }
    holder.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(store.find_key(&key).await.unwrap(), None);
    store.append(marked("A/1", 1, &key)).await.unwrap();
}

/// A server that does not say a word any more keeps nobody waiting for longer than the limits say.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_silent_is_given_up() {
    let Some(server) = pg_cluster::made().map(pg_cluster::Cluster::server) else { return };
    let proxy = Proxy::start(server.port()).await;
    let url = format!(
        "postgres://postgres:secret@127.0.0.1:{}/postgres?schema={}&connect_timeout=1",
        proxy.port,
        schema()
    );
    let limit = Duration::from_millis(500);
    let builder =
        PostgresStore::builder(&url).patience(limit).statement_timeout(limit).resolve_timeout(limit);
    let store = builder.open().await.unwrap();
    let append = |text: &str| Append::new(vec![event("A/1", text)], Guard::Any);
    store.append(append("first")).await.unwrap();
    assert_eq!(read_stream(&store, "A/1").await.len(), 1);
    proxy.mode.store(SILENT, Ordering::SeqCst);
    let begun = std::time::Instant::now();
    let read = || async {
        let (stream, from, direction) =
            (stream("A/1"), Version::new(1), cqrs_core::store::Direction::Forward);
        store.read_stream(cqrs_core::store::StreamRead { stream, from, limit: 10, direction }).await
    };
    let (appended, read_of_stream, claimed) =
        futures_util::future::join3(store.append(append("second")), read(), async {
            cqrs_core::read_store::ReadStore::claim(&store, "consumer").await
        })
        .await;
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    let error = read_of_stream.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("did not answer within"), "{error}");
    assert!(claimed.is_err());
    match appended {
        Err(AppendError::Store(error)) => assert_eq!(error.kind(), StoreErrorKind::Unknown, "{error}"),
        other => panic!("{other:?}"),
    }
    proxy.mode.store(PASS, Ordering::SeqCst);
    let count = read().await.unwrap().events.len();
    store.append(append("third")).await.unwrap();
    assert_eq!(read_stream(&store, "A/1").await.len(), count + 1);
}

/// Two stores share a connection. It falls silent before the second one has used it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shared_connection_that_is_silent_is_not_used_again() {
    let Some(server) = pg_cluster::made().map(pg_cluster::Cluster::server) else { return };
    let proxy = Proxy::start(server.port()).await;
    let open = async || {
        let url = format!("postgres://postgres:secret@127.0.0.1:{}/postgres?schema={}", proxy.port, schema());
        let limit = Duration::from_millis(500);
        let builder = PostgresStore::builder(&url).patience(limit).statement_timeout(limit).readers(1);
        builder.open().await.unwrap()
    };
    let (first, second) = (open().await, open().await);
    assert!(read_stream(&first, "A/1").await.is_empty());
    proxy.mode.store(SILENT, Ordering::SeqCst);
    let read = cqrs_core::store::StreamRead {
        stream: stream("A/1"),
        from: Version::new(1),
        limit: 10,
        direction: cqrs_core::store::Direction::Forward,
    };
    let error = second.read_stream(read).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable, "{error}");
    proxy.mode.store(PASS, Ordering::SeqCst);
    for store in [&second, &first] {
        assert!(read_stream(store, "A/1").await.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_that_arrived_is_found() {
    for options in ["", "&pgbouncer=true"] {
        let Some((proxy, store)) = behind_a_proxy(options).await else { return };
        let key = CommandKey { stream: stream("A/1"), key: "k".to_owned() };
        proxy.mode.store(CUT, Ordering::SeqCst);
        unknown(&store, marked("A/1", 1, &key)).await;
        let found = store.find_key(&key).await.unwrap().unwrap();
        assert_eq!(found.version_of(&stream("A/1")), Some(Version::new(2)));
        match store.append(marked("A/1", 1, &key)).await {
            Err(AppendError::Duplicate(first)) => assert_eq!(first, found),
            other => panic!("{other:?}"),
        }
        assert_eq!(read_stream(&store, "A/1").await.len(), 2);
    }
}

/// What the network keeps back comes after the store was asked: it has to stay out for good.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_that_comes_late_stays_out() {
    for options in ["", "&pgbouncer=true"] {
        for ask in [true, false] {
            let Some((proxy, store)) = behind_a_proxy(options).await else { return };
            let key = CommandKey { stream: stream("A/1"), key: "k".to_owned() };
            proxy.mode.store(KEEP, Ordering::SeqCst);
            unknown(&store, marked("A/1", 1, &key)).await;
            if ask {
                assert_eq!(store.find_key(&key).await.unwrap(), None);
            } else {
                assert_eq!(read_stream(&store, "A/1").await.len(), 1);
            }
            proxy.release.notify_one();
            tokio::time::timeout(Duration::from_secs(120), proxy.delivered.notified()).await.unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
            assert_eq!(store.find_key(&key).await.unwrap(), None, "it came late");
            assert_eq!(read_stream(&store, "A/1").await.len(), 1);
            // And the store goes on.
            store.append(marked("A/1", 1, &key)).await.unwrap();
        }
    }
}

/// The negative control: without asking, what comes late does take place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_that_comes_late_takes_place_if_nobody_asked() {
    let Some((proxy, store)) = behind_a_proxy("").await else { return };
    let key = CommandKey { stream: stream("A/1"), key: "k".to_owned() };
    proxy.mode.store(KEEP, Ordering::SeqCst);
    unknown(&store, marked("A/1", 1, &key)).await;
    proxy.release.notify_one();
    tokio::time::timeout(Duration::from_secs(120), proxy.delivered.notified()).await.unwrap();
    assert!(store.find_key(&key).await.unwrap().is_some());
}

/// Backends are ended at random under appends; each is told what became of it, or finds out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ended_backends_lose_and_double_nothing() {
    // So few that they are one group, and so many that groups are sent behind each other.
    for (writers, count) in [(8, 100), (80, 20)] {
        let mut doubts = 0;
        // On a quick machine all may be written before one is ended while it matters.
        let mut ended = 0;
        for _ in 0..10 {
            let Some((more, while_writing)) = end_backends(writers, count).await else { return };
            doubts += more;
            ended += while_writing;
            if ended > 0 {
                break;
            }
        }
        assert!(ended > 0, "no connection was lost while it mattered");
        assert_eq!(doubts, 0, "what became of these appends could be found out");
    }
}

/// How often a writer was told that it is not known what became of an append, and how many backends were ended while
/// they worked at one.
async fn end_backends(writers: usize, count: usize) -> Option<(usize, usize)> {
    let cluster = pg_cluster::shared()?;
    let name = schema();
    let url = with(cluster.url(), &format!("schema={name}&application_name={name}"));
    let store = PostgresStore::open(&url).await.unwrap();
    let writers: Vec<_> = (0..writers).map(|task| tokio::spawn(write(store.clone(), task, count))).collect();
    let killer = connect(cluster.url()).await;
    let all = "SELECT state = 'active' AND (query LIKE '%append%' OR query LIKE 'INSERT%'),
                      pg_terminate_backend(pid)
               FROM pg_stat_activity WHERE application_name = $1";
    let (mut ended, mut pause) = (0, Duration::from_millis(20));
    // Connecting takes its time on a busy machine, so the pauses grow: what is ended too early moves nothing.
    while !writers.iter().all(tokio::task::JoinHandle::is_finished) {
        tokio::time::sleep(pause).await;
        pause += pause / 4;
        let rows = killer.query(all, &[&name]).await.unwrap();
        ended += rows.iter().filter(|row| row.get::<_, bool>(0)).count();
    }
    let mut doubts = 0;
    for (task, writer) in writers.into_iter().enumerate() {
        doubts += writer.await.unwrap();
        assert_eq!(read_stream(&store, &format!("A/{task}")).await.len(), count);
    }
    store.verify().await.unwrap();
    Some((doubts, ended))
}

async fn write(store: PostgresStore, task: usize, count: usize) -> usize {
    let name = format!("A/{task}");
    let mut doubts = 0;
    for number in 0..count {
        let key = CommandKey { stream: stream(&name), key: number.to_string() };
        loop {
            let append = marked(&name, number as u64, &key);
            // Some in a turn of their own, which may end at any point, too.
            let turn = match number % 8 {
                0 => store.reserve(&key.stream).await.map(Option::unwrap).map(Some),
                _ => Ok(None),
            };
            let written = match turn {
                Ok(Some(turn)) => turn.append(append).await,
                Ok(None) => store.append(append).await,
                Err(error) => Err(error.into()),
            };
            match written {
                Ok(_) | Err(AppendError::Duplicate(_)) => break,
                Err(AppendError::Store(error)) => {
                    let passes = [StoreErrorKind::Unavailable, StoreErrorKind::Unknown];
                    assert!(passes.contains(&error.kind()), "{:?} {error}", error.kind());
                    doubts += usize::from(error.kind() == StoreErrorKind::Unknown);
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
    doubts
}

/// What a plain append rests on, whose snapshot is older than its lock: it does not see the row of a fence
/// that was set meanwhile, and it does see the sequence that counts fences. Were the sequence a row too, a
/// writer that was fenced could still write.
#[tokio::test]
async fn a_fence_is_seen_by_a_statement_that_began_before_it() {
    let Some(cluster) = pg_cluster::shared() else { return };
    let schema = schema();
    PostgresStore::open(&with(cluster.url(), &format!("schema={schema}"))).await.unwrap();
    let (one, other) = (connect(cluster.url()).await, connect(cluster.url()).await);
    other.batch_execute("SELECT pg_advisory_lock(4711)").await.unwrap();
    let began = format!(
        "SELECT CASE WHEN pg_advisory_lock(4711) IS NOT NULL
                     THEN pg_sequence_last_value('{schema}.fenced'::regclass) END,
                (SELECT count(*) FROM {schema}.fences)"
    );
    let waiting = tokio::spawn(async move { one.query_one(&began, &[]).await.unwrap() });
    let waits = "SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = 4711 AND NOT granted";
    while other.query(waits, &[]).await.unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let fence = format!("SELECT {schema}.fence_v3(1, 'f0000000-0000-4000-8000-000000000000')");
    other.batch_execute(&fence).await.unwrap();
    other.batch_execute("SELECT pg_advisory_unlock(4711)").await.unwrap();
    let row = waiting.await.unwrap();
    // The store has made the sequence with a 1 in it.
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (2, 0));
}

/// The same for what is written with a plain statement: one event or a few, without key and tag, by whoever
/// wrote the log's last event.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plain_append_that_comes_late_stays_out_if_somebody_asked() {
    for (count, ask) in [(1, true), (1, false), (3, true), (3, false)] {
        let Some((proxy, store)) = behind_a_proxy("").await else { return };
        let plain = |version: u64, text: &str| {
            let untagged =
                |_| cqrs_core::event::NewEvent { tags: [].into_iter().collect(), ..event("A/1", text) };
            let guard = Guard::stream(stream("A/1"), Expected::Version(Version::new(version)));
            Append::new((0..count).map(untagged).collect(), guard)
        };
        // Now the store knows how the log ends, and that nobody else is writing.
        for round in 0..3 {
            store.append(plain(1 + round * count, "before")).await.unwrap();
        }
        let there = 1 + 3 * count;
        proxy.mode.store(KEEP, Ordering::SeqCst);
        unknown(&store, plain(there, "marked")).await;
        if ask {
            assert_eq!(read_stream(&store, "A/1").await.len() as u64, there);
        }
        proxy.release.notify_one();
        tokio::time::timeout(Duration::from_secs(120), proxy.delivered.notified()).await.unwrap();
        let after = if ask { there } else { there + count };
        assert_eq!(read_stream(&store, "A/1").await.len() as u64, after, "{count} events, asked: {ask}");
        store.append(plain(after, "after")).await.unwrap();
    }
}
