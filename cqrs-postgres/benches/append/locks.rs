//! One log, many processes that do not know each other: which way of numbering events lets them go on
//! fastest, durable, one event per append. Each client has a connection of its own, so nothing is merged.
//!
//! - *late lock*: one at a time from the lock to the end of the commit; the number is the last one and one.
//! - *single statement*: no lock; who takes a number that is taken already tries again.
//! - *shared lock and fence*: numbers from a sequence, all at once; a reader that wants to know that nothing
//!   comes behind what it has read takes the lock for itself for a moment, here every 10 milliseconds.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use pg_cluster::Cluster;
use tokio_postgres::error::SqlState;

use crate::hand::{PAYLOAD, connect};
use crate::{median, runtime};

const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_millis(800);

const TABLES: &str = "CREATE SCHEMA locks;
    CREATE TABLE locks.late (position bigint PRIMARY KEY, stream bigint NOT NULL, payload bytea NOT NULL);
    CREATE TABLE locks.single (LIKE locks.late INCLUDING ALL);
    CREATE TABLE locks.shared (position bigserial PRIMARY KEY, stream bigint NOT NULL, payload bytea NOT NULL);
    CREATE FUNCTION locks.append_late(s bigint, p bytea) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
        IF NOT pg_try_advisory_xact_lock(7) THEN PERFORM pg_advisory_xact_lock(7); END IF;
        INSERT INTO locks.late SELECT coalesce((SELECT position FROM locks.late ORDER BY position DESC LIMIT 1), 0) + 1, s, p;
    END $$;
    CREATE FUNCTION locks.append_shared(s bigint, p bytea) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
        PERFORM pg_advisory_xact_lock_shared(8);
        INSERT INTO locks.shared (stream, payload) VALUES (s, p);
    END $$;";

const WAYS: [(&str, &str); 3] = [
    ("late lock", "SELECT locks.append_late($1, $2)"),
    (
        "single statement",
        "INSERT INTO locks.single SELECT coalesce((SELECT position FROM locks.single ORDER BY position DESC LIMIT 1), 0) + 1, $1, $2",
    ),
    ("shared lock and fence", "SELECT locks.append_shared($1, $2)"),
];

pub fn run(cluster: &Cluster) {
    let runtime = runtime();
    runtime.block_on(async {
        connect(cluster.url()).await.batch_execute(TABLES).await.unwrap();
        println!("{:<26} {:>8} {:>10} {:>14}", "appends", "clients", "per s", "tries per one");
        for clients in [1, 4, 16] {
            let mut rates = [const { Vec::new() }; WAYS.len()];
            for _ in 0..ROUNDS {
                for ((_, append), rates) in WAYS.iter().zip(&mut rates) {
                    rates.push(round(cluster, append, clients).await);
                }
            }
            for ((way, _), rates) in WAYS.iter().zip(&mut rates) {
                let (rate, tries) = median(rates);
                println!("{way:<26} {clients:>8} {rate:>10.0} {tries:>14.2}");
            }
        }
    });
}

/// Appends per second, and how often each was tried.
async fn round(cluster: &Cluster, append: &'static str, clients: u64) -> (f64, f64) {
    let (done, tried, over) =
        (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let fence = append.contains("shared").then(|| {
        let (url, over) = (cluster.url().to_owned(), Arc::clone(&over));
        tokio::spawn(async move {
            let reader = connect(&url).await;
            while !over.load(Ordering::Relaxed) {
                reader.batch_execute("SELECT pg_advisory_lock(8), pg_advisory_unlock(8)").await.unwrap();
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
    });
    let mut connections = Vec::new();
    for _ in 0..clients {
        let client = connect(cluster.url()).await;
        let append = client.prepare(append).await.unwrap();
        connections.push((client, append));
    }
    let begun = Instant::now();
    let tasks = connections.into_iter().zip(0_i64..).map(|((client, append), stream)| {
        let (done, tried) = (Arc::clone(&done), Arc::clone(&tried));
        tokio::spawn(async move {
            while begun.elapsed() < ROUND {
                tried.fetch_add(1, Ordering::Relaxed);
                match client.execute(&append, &[&stream, &PAYLOAD]).await {
                    Ok(_) => _ = done.fetch_add(1, Ordering::Relaxed),
                    Err(error) if error.code() == Some(&SqlState::UNIQUE_VIOLATION) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    let (done, took) = (done.load(Ordering::Relaxed) as f64, begun.elapsed().as_secs_f64());
    over.store(true, Ordering::Relaxed);
    if let Some(fence) = fence {
        fence.await.unwrap();
    }
    (done / took, tried.load(Ordering::Relaxed) as f64 / done)
}
