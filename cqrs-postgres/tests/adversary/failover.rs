//! The primary is lost, and a standby takes its place.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cqrs::Registry;
use cqrs::engine::{ConsumerFault, ConsumerState, Stores};
use cqrs::prelude::*;
use cqrs_core::memory::MemoryStore;
use cqrs_core::store::{Append, CommandKey, EventStore as _, Guard};
use cqrs_postgres::PostgresStore;
use pg_cluster::Server;
use tokio::time::sleep;

use crate::commits::{Count, Counted, Counter};
use crate::standby::Standby;
use crate::support::{connect, event, payload, read_all, schema, stream, with};

/// How long a server, or a consumer, may take for what it certainly does.
const LIMIT: Duration = Duration::from_secs(120);

/// Appends until the server is gone, and gives what was acknowledged.
async fn append_until_the_end(store: PostgresStore, task: u32, count: Arc<AtomicUsize>) -> Vec<String> {
    let mut acknowledged = Vec::new();
    for number in 0.. {
        let text = format!("{task}-{number}");
        let key = CommandKey { stream: stream(&format!("Task/{task}")), key: text.clone() };
        let append = Append::new(vec![event(&format!("Task/{task}"), text.clone())], Guard::Any);
        match store.append(append.with_key(Some(key))).await {
            Ok(_) => {
                acknowledged.push(text);
                count.fetch_add(1, Ordering::Relaxed);
            }
            Err(_) => break,
        }
    }
    acknowledged
}

/// Waits until the server says so.
async fn until(server: &Server, condition: &str) {
    let begun = Instant::now();
    while begun.elapsed() < LIMIT {
        if server.psql("postgres", &format!("SELECT {condition}")).is_ok_and(|said| said == "t") {
            return;
        }
        sleep(Duration::from_millis(20)).await;
    }
    unreachable!("it never came to this: {condition}");
}

/// Has the standby hear nothing more of its primary.
async fn cut_off(server: &Server, standby: &Standby<'_>) {
    let deaf = connect(&standby.url()).await;
    deaf.batch_execute("ALTER SYSTEM SET primary_conninfo = ''").await.unwrap();
    deaf.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    until(server, "count(*) = 0 FROM pg_stat_replication").await;
}

/// Loses the primary in the midst of appends. Gives how many were acknowledged, and how many of these the
/// promoted standby does not have.
async fn acknowledged_and_lost(server: &Server, url: &str, synchronous: bool) -> (usize, usize) {
    let option = format!("schema={}", schema());
    let store = PostgresStore::open(&with(url, &option)).await.unwrap();
    let standby = Standby::start(server, "standby");
    until(server, "bool_and(replay_lsn = pg_current_wal_lsn()) FROM pg_stat_replication").await;
    if synchronous {
        server.psql("postgres", "ALTER SYSTEM SET synchronous_standby_names = 'standby'").unwrap();
        server.reload().unwrap();
        until(server, "count(*) = 1 FROM pg_stat_replication WHERE sync_state = 'sync'").await;
    } else {
        cut_off(server, &standby).await;
    }
    let count = Arc::new(AtomicUsize::new(0));
    let tasks =
        (0..8).map(|task| tokio::spawn(append_until_the_end(store.clone(), task, Arc::clone(&count))));
    let tasks: Vec<_> = tasks.collect();
    let begun = Instant::now();
    while count.load(Ordering::Relaxed) < 300 && begun.elapsed() < LIMIT {
        sleep(Duration::from_millis(10)).await;
    }
    server.stop("immediate").unwrap();
    let mut acknowledged = Vec::new();
    for task in tasks {
        acknowledged.extend(task.await.unwrap());
    }
    standby.promote();
    let promoted = PostgresStore::open(&with(&standby.url(), &option)).await.unwrap();
    let mut there: Vec<_> = read_all(&promoted).await.iter().map(|event| payload(event)).collect();
    let all = there.len();
    there.sort_unstable();
    there.dedup();
    assert_eq!(there.len(), all, "an append was doubled");
    promoted.append(Append::new(vec![event("Task/1", "goes on")], Guard::Any)).await.unwrap();
    let lost = acknowledged.iter().filter(|text| there.binary_search(text).is_err()).count();
    println!("synchronous: {synchronous}; {} acknowledged, {lost} of them lost", acknowledged.len());
    (acknowledged.len(), lost)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_a_synchronous_standby_has_acknowledged_survives_the_primary() {
    for synchronous in [true, false] {
        let Some(cluster) = pg_cluster::own(&[]) else { return };
        let server = cluster.server();
        let (acknowledged, lost) = acknowledged_and_lost(server, cluster.url(), synchronous).await;
        assert!(acknowledged >= 300);
        // Without it they are lost, so the test would see it.
        assert_eq!(lost == 0, synchronous, "{lost} of {acknowledged} acknowledged appends are lost");
    }
}

#[derive(Event, Serialize, Deserialize)]
struct Paid {
    cents: i64,
}

#[derive(Command)]
struct Pay {
    #[id]
    account: u64,
    /// Negative for a withdrawal.
    cents: i64,
}

#[derive(Debug)]
struct Overdraft(i64);

impl std::fmt::Display for Overdraft {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the balance is {}", self.0)
    }
}

impl std::error::Error for Overdraft {}

/// It rejects overdrafts.
#[derive(Default)]
struct Purse {
    cents: i64,
}

#[aggregate(id = u64, error = Overdraft)]
impl Purse {
    #[handle]
    fn pay(&self, cmd: Pay) -> Result<Paid, Overdraft> {
        if self.cents + cmd.cents < 0 { Err(Overdraft(self.cents)) } else { Ok(Paid { cents: cmd.cents }) }
    }
    #[apply]
    fn paid(&mut self, event: &Paid) {
        self.cents += event.cents;
    }
}

async fn purses(url: &str) -> Engine {
    let stores = PostgresStore::open(url).await.unwrap();
    Engine::builder().registry(Registry::new().with::<Purse>()).build(stores).await.unwrap()
}

/// Withdraws by the engine that has seen what was lost, until each withdrawal was decided; the server may still be
/// starting. Another program has deposited so often meanwhile.
async fn never_negative(engine: &Engine, url: &str, regrown: i64) {
    let other = purses(url).await;
    for _ in 0..regrown {
        other.execute(Pay { account: 1, cents: 1 }).await.unwrap();
    }
    for cents in [900_000, 50_000, 1_000] {
        let withdrawn = engine.execute(Pay { account: 1, cents: -cents }).await;
        assert!(withdrawn.is_err(), "regrown by {regrown}: {withdrawn:?}");
    }
    let balance = purses(url).await.load::<Purse>(&1).await.unwrap().state.unwrap().cents;
    assert_eq!(balance, 100 + regrown, "regrown by {regrown}");
}

/// An asynchronous standby takes over that lags behind, and commands go on through the engine that has seen what was
/// lost: an account that rejects overdrafts never goes negative.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_decision_rests_on_what_a_failover_has_lost() {
    for regrown in [0, 1, 3] {
        let Some(cluster) = pg_cluster::own(&[]) else { return };
        let server = cluster.server();
        let standby = Standby::start(server, "standby");
        let there = standby.url();
        let port = there.rsplit_once(':').unwrap().1.split_once('/').unwrap().0;
        let (user, password) = (pg_cluster::USER, pg_cluster::PASSWORD);
        let hosts = format!("127.0.0.1:{},127.0.0.1:{port}", server.port());
        let url = format!("postgres://{user}:{password}@{hosts}/postgres?target_session_attrs=read-write");
        let engine = purses(&url).await;
        engine.execute(Pay { account: 1, cents: 100 }).await.unwrap();
        until(server, "bool_and(replay_lsn = pg_current_wal_lsn()) FROM pg_stat_replication").await;
        cut_off(server, &standby).await;
        let lost = engine.execute(Pay { account: 1, cents: 1_000_000 }).await.unwrap();
        assert_eq!(lost.version().get(), 2);
        server.stop("immediate").unwrap();
        standby.promote();
        never_negative(&engine, &url, regrown).await;
    }
}

/// The same after a crash of a server that acknowledges before it writes.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_decision_rests_on_what_a_crash_has_lost() {
    for regrown in [0, 1, 3] {
        let settings = [("synchronous_commit", "off"), ("wal_writer_delay", "10s"), ("fsync", "on")];
        let Some(cluster) = pg_cluster::own(&settings) else { return };
        let server = cluster.server();
        let engine = purses(cluster.url()).await;
        engine.execute(Pay { account: 1, cents: 100 }).await.unwrap();
        server.psql("postgres", "CHECKPOINT").unwrap();
        engine.execute(Pay { account: 1, cents: 1_000_000 }).await.unwrap();
        server.stop("immediate").unwrap();
        server.go().unwrap();
        let there = purses(cluster.url()).await.load::<Purse>(&1).await.unwrap().state.unwrap().cents;
        // Otherwise the crash has lost nothing, and nothing is tested.
        assert_eq!(there, 100);
        never_negative(&engine, cluster.url(), regrown).await;
    }
}

#[derive(Serialize, Deserialize)]
struct Tally {
    events: u64,
}

#[projection(name = "tally", key = u64)]
impl Tally {
    #[on]
    fn counted(this: Option<Self>, _: &Counted) -> Self {
        Tally { events: this.map_or(0, |tally| tally.events) + 1 }
    }
}

/// An engine on this log whose read models lie elsewhere, so that they do not go back with it.
async fn engine(log: &PostgresStore, documents: &MemoryStore) -> Engine {
    let stores = Stores { log: Arc::new(log.clone()), documents: Arc::new(documents.clone()) };
    let registry = Registry::new().with::<Counter>().with::<Tally>();
    Engine::builder().registry(registry).build(stores).await.unwrap()
}

/// Waits until the projection has stopped, and says why.
async fn stopped(engine: &Engine) -> ConsumerFault {
    let begun = Instant::now();
    while begun.elapsed() < LIMIT {
        let status = engine.status().await.unwrap();
        if let Some(ConsumerState::Stopped(fault)) = status.first().map(|status| &status.state) {
            return fault.clone();
        }
        sleep(Duration::from_millis(20)).await;
    }
    unreachable!("it waits in silence");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_consumer_that_is_ahead_of_a_promoted_log_stops_and_says_so() {
    let Some(cluster) = pg_cluster::own(&[]) else { return };
    let server = cluster.server();
    let option = format!("schema={}", schema());
    let primary = PostgresStore::open(&with(cluster.url(), &option)).await.unwrap();
    let documents = MemoryStore::new();
    let before = engine(&primary, &documents).await;
    before.execute(Count { counter: 1, by: 1 }).await.unwrap();
    let standby = Standby::start(server, "standby");
    until(server, "bool_and(replay_lsn = pg_current_wal_lsn()) FROM pg_stat_replication").await;
    cut_off(server, &standby).await;

    // Nobody but the primary and the read models gets to know of these.
    for _ in 0..5 {
        before.execute(Count { counter: 1, by: 1 }).await.unwrap();
    }
    before.catch_up().await.unwrap();
    before.shutdown().await;
    server.stop("immediate").unwrap();
    standby.promote();

    let promoted = PostgresStore::open(&with(&standby.url(), &option)).await.unwrap();
    let after = engine(&promoted, &documents).await;
    let fault = stopped(&after).await;
    println!("it says: {fault}");
    assert!(matches!(fault, ConsumerFault::Rewound { .. } | ConsumerFault::OtherLog), "{fault:?}");
    // Also when the log has come as far again, with another history.
    for _ in 0..9 {
        after.execute(Count { counter: 1, by: 1 }).await.unwrap();
    }
    after.shutdown().await;
    let later = engine(&promoted, &documents).await;
    let fault = stopped(&later).await;
    println!("it says: {fault}");
    assert!(matches!(fault, ConsumerFault::Rewound { .. } | ConsumerFault::OtherLog), "{fault:?}");
    later.shutdown().await;
}
