//! Stores of several tenants in one process share a bounded number of connections, and none fails because of the
//! others.

#![allow(missing_docs, reason = "a test")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at a fault")]

mod support;

use std::time::Duration;

use cqrs_core::id::{Partition, Position};
use cqrs_core::read_store::{Batch, Checkpoint, Collection, EntryKey, EntryWrite, ReadStore as _};
use cqrs_core::store::{Append, EventStore as _, Guard};
use cqrs_postgres::PostgresStore;
use support::{connect, event, payload, read_all, schema, with};

const TENANTS: usize = 20;
/// Readers, read models, writers, statements of projections' own, and one that listens.
const BOUND: i64 = 4 + 2 + 16 + 4 + 1;

fn one(text: String) -> Append {
    Append::new(vec![event("A/1", text)], Guard::Any)
}

async fn document(store: &PostgresStore, text: &str) {
    let claim = store.claim("p").await.unwrap();
    let log = store.head(Partition::ONLY).await.unwrap().log;
    let to = Checkpoint { log, position: Position::new(1), event: None };
    let writes = vec![EntryWrite::put(Collection::DOCUMENTS, "a", text.to_owned())];
    let batch = Batch::new("p", &claim, to).with_writes(writes);
    store.commit(batch).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_tenants_share_their_connections() {
    let Some(cluster) = pg_cluster::made() else { return };
    let client = connect(cluster.url()).await;
    let role = schema();
    // A server that is full is one with a limit: what goes beyond it is refused.
    let limit = BOUND + 1;
    let make = format!("CREATE ROLE {role} LOGIN PASSWORD 'pw' CONNECTION LIMIT {limit}");
    client.batch_execute(&make).await.unwrap();
    client.batch_execute(&format!("CREATE DATABASE {role} OWNER {role}")).await.unwrap();
    let url = cluster.server().url(&role, "pw", &role);
    let count = async || {
        let count = "SELECT count(*) FROM pg_stat_activity WHERE usename = $1";
        client.query_one(count, &[&role]).await.unwrap().get::<_, i64>(0)
    };
    let (mut tenants, mut waits) = (Vec::new(), Vec::new());
    for tenant in 0..TENANTS {
        let store = PostgresStore::open(&with(&url, &format!("schema=t{tenant}"))).await.unwrap();
        store.append(one(format!("first of {tenant}"))).await.unwrap();
        document(&store, &tenant.to_string()).await;
        let waiting = store.clone();
        // Its followers wait for news.
        let wait = async move { waiting.wait(Partition::ONLY, Position::new(1_000_000)).await };
        waits.push(tokio::spawn(wait));
        tenants.push(store);
    }
    let mut most = count().await;
    // All of them at once, and more often than there are connections to write.
    let work = tenants.iter().enumerate().map(|(tenant, store)| {
        let store = store.clone();
        tokio::spawn(async move {
            for number in 0..20 {
                store.append(one(format!("{number} of {tenant}"))).await.unwrap();
                store.head(Partition::ONLY).await.unwrap();
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
    });
    for task in work.collect::<Vec<_>>() {
        most = most.max(count().await);
        task.await.unwrap();
    }
    assert!(most <= BOUND, "{most} connections");
    assert!(most > 10, "what is counted is not what was done: {most}");
    // Each has its own, whoever used the connection before.
    for (tenant, store) in tenants.iter().enumerate() {
        let all = read_all(store).await;
        assert_eq!(all.len(), 21);
        assert!(all.iter().all(|event| payload(event).ends_with(&format!(" of {tenant}"))));
        assert_eq!(
            store.get("p", vec![EntryKey::document("a")]).await.unwrap(),
            [Some(tenant.to_string().into())]
        );
    }
    // They are gone with the last store.
    waits.iter().for_each(tokio::task::JoinHandle::abort);
    drop(tenants);
    let begun = std::time::Instant::now();
    while count().await > 0 {
        assert!(begun.elapsed().as_secs() < 20, "{} connections are left", count().await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// One connection hears for all of them what other processes have written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_tenant_hears_of_its_own_log() {
    let Some(cluster) = pg_cluster::made() else { return };
    let (ours, theirs) = (schema(), schema());
    let url = |schema: &str, process: &str| {
        with(cluster.url(), &format!("schema={schema}&application_name={process}"))
    };
    let (one_tenant, other_tenant) = (
        PostgresStore::open(&url(&ours, "ours")).await.unwrap(),
        PostgresStore::open(&url(&theirs, "ours")).await.unwrap(),
    );
    let elsewhere = PostgresStore::open(&url(&ours, "elsewhere")).await.unwrap();
    let waiting = other_tenant.clone();
    let silent = tokio::spawn(async move { waiting.wait(Partition::ONLY, Position::START).await });
    let mut all = Vec::new();
    for number in 0..8 {
        let waiting = one_tenant.clone();
        let heard = tokio::spawn(async move { waiting.wait(Partition::ONLY, Position::new(number)).await });
        tokio::time::sleep(Duration::from_millis(300)).await;
        elsewhere.append(one(number.to_string())).await.unwrap();
        let begun = std::time::Instant::now();
        heard.await.unwrap().unwrap();
        all.push(begun.elapsed());
    }
    all.sort_unstable();
    // Without it, one that looks twice a second would mostly take longer.
    assert!(all[4] < Duration::from_millis(150), "{all:?}");
    assert!(!silent.is_finished());
    silent.abort();
}

/// What cannot be shared is not: another user, another schema's log, another runtime.
#[tokio::test]
async fn stores_with_other_credentials_share_nothing() {
    let Some(cluster) = pg_cluster::made() else { return };
    let client = connect(cluster.url()).await;
    let role = schema();
    client.batch_execute(&format!("CREATE ROLE {role} LOGIN SUPERUSER PASSWORD 'pw'")).await.unwrap();
    let server = cluster.server();
    let name = schema();
    let of = |user: &str, password: &str| {
        with(&server.url(user, password, "postgres"), &format!("schema={name}&application_name={name}"))
    };
    let (first, second) = (
        PostgresStore::open(&of("postgres", "secret")).await.unwrap(),
        PostgresStore::open(&of(&role, "pw")).await.unwrap(),
    );
    for store in [&first, &second] {
        store.append(one("x".to_owned())).await.unwrap();
        store.head(Partition::ONLY).await.unwrap();
    }
    let count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1 AND usename = $2";
    for user in ["postgres", &role] {
        let there: i64 = client.query_one(count, &[&name, &user]).await.unwrap().get(0);
        assert!(there >= 2, "{user}: {there}");
    }
    assert!(PostgresStore::open(&of(&role, "wrong")).await.is_err());
}
