//! What is missing around the store is said when it is opened, by an error and not by a panic; and a store that is
//! open can be used from anywhere.

#![allow(missing_docs, reason = "a test")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at a fault")]

mod support;

use std::task::{Context, Poll, Waker};

use cqrs_core::error::{StoreError, StoreErrorKind};
use cqrs_core::id::Partition;
use cqrs_core::store::{Append, EventStore as _, Guard};
use cqrs_postgres::PostgresStore;
use support::{connect, event, schema, with};
use tokio::runtime::{Builder, Runtime};

fn runtime(set_up: impl FnOnce(&mut Builder)) -> Runtime {
    let mut builder = Builder::new_current_thread();
    set_up(&mut builder);
    builder.build().unwrap()
}

/// Opens outside of every runtime.
fn polled_once(url: &str) -> Result<(), StoreError> {
    let mut opening = std::pin::pin!(PostgresStore::open(url));
    match opening.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => done.map(drop),
        Poll::Pending => panic!("it waits for a runtime that is not there"),
    }
}

#[test]
fn a_runtime_that_lacks_something_is_told() {
    let Some(cluster) = pg_cluster::shared() else { return };
    let url = with(cluster.url(), &format!("schema={}", schema()));
    let open = |runtime: Runtime| runtime.block_on(PostgresStore::open(&url)).map(drop);
    let cases = [
        (polled_once(&url), "there is no tokio runtime"),
        (open(runtime(|_| {})), "neither time nor IO driver"),
        (open(runtime(|builder| _ = builder.enable_io())), "no time driver"),
        (open(runtime(|builder| _ = builder.enable_time())), "no IO driver"),
    ];
    for (opened, words) in cases {
        let error = opened.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Failed, "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
    open(runtime(|builder| _ = builder.enable_all())).unwrap();
}

#[test]
fn a_store_works_on_threads_without_a_runtime() {
    let Some(cluster) = pg_cluster::shared() else { return };
    let url = with(cluster.url(), &format!("schema={}", schema()));
    let runtime = Runtime::new().unwrap();
    let store = runtime.block_on(PostgresStore::open(&url)).unwrap();
    let append = || store.append(Append::new(vec![event("A/1", "x")], Guard::Any));
    // One that blocks in no way that tokio knows of.
    let wait = |mut future: std::pin::Pin<Box<dyn Future<Output = ()> + Send + '_>>| {
        let begun = std::time::Instant::now();
        while future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
            assert!(begun.elapsed().as_secs() < 30, "it hangs");
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    };
    wait(Box::pin(async {
        append().await.unwrap();
        assert_eq!(store.head(Partition::ONLY).await.unwrap().position.get(), 1);
    }));
    // And says so when the runtime is gone.
    drop(runtime);
    wait(Box::pin(async {
        append().await.unwrap_err();
        store.head(Partition::ONLY).await.unwrap_err();
    }));
}

#[tokio::test]
async fn names_that_are_empty_and_servers_that_only_read_are_refused_by_name() {
    let Some(cluster) = pg_cluster::made() else { return };
    let client = connect(cluster.url()).await;
    let database = schema();
    client.batch_execute(&format!("CREATE DATABASE {database}")).await.unwrap();
    let read_only = format!("ALTER DATABASE {database} SET default_transaction_read_only = on");
    client.batch_execute(&read_only).await.unwrap();
    let reading = cluster.server().url("postgres", "secret", &database);
    let cases = [
        (with(cluster.url(), "schema="), StoreErrorKind::Invalid, "cannot be the name of its schema"),
        ("host=localhost user=''".to_owned(), StoreErrorKind::Invalid, "an empty name"),
        ("host=localhost dbname=''".to_owned(), StoreErrorKind::Invalid, "an empty name"),
        (String::new(), StoreErrorKind::Invalid, "names no host"),
        (reading, StoreErrorKind::Unavailable, "the server only reads"),
    ];
    for (url, kind, words) in cases {
        let error = PostgresStore::open(&url).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{url}: {error}");
        assert!(error.to_string().contains(words), "{url}: {error}");
    }
}
