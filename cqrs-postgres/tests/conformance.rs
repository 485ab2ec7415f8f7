//! The store keeps every clause of the contract: with one partition, with four, and in the way that it
//! works behind PgBouncer.

#![allow(missing_docs, reason = "a test")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use cqrs_core::store::BoxFuture;
use cqrs_postgres::PostgresStore;
use cqrs_testkit::conformance::{Backup, Fault, Setup, Stores, Suite};
use support::{connect, schema, with};

struct Postgres {
    url: String,
}

impl Setup for Postgres {
    fn fresh(&self) -> BoxFuture<'_, Result<Stores, Fault>> {
        handle(self.url.clone(), schema())
    }
}

fn handle(url: String, schema: String) -> BoxFuture<'static, Result<Stores, Fault>> {
    Box::pin(async move {
        let store = Arc::new(PostgresStore::open(&with(&url, &format!("schema={schema}"))).await?);
        let again = (url.clone(), schema.clone());
        let again = move || handle(again.0.clone(), again.1.clone());
        let stores = Stores::new(store.clone()).documents(store).again(again);
        Ok(stores.backup(move || back_up(schema.clone())))
    })
}

/// A copy of the tables that is restored by SQL, while the store's connections stay open.
fn back_up(schema: String) -> BoxFuture<'static, Result<Backup, Fault>> {
    Box::pin(async move {
        let cluster = pg_cluster::shared().ok_or("there is no server")?;
        support::back_up(&connect(cluster.url()).await, &schema).await;
        let restore = async move {
            support::restore(&connect(cluster.url()).await, &schema).await;
            Ok(())
        };
        Ok(Backup::new(move || Box::pin(restore)))
    })
}

fn suite(options: &str) -> Option<Suite> {
    let setup = Postgres { url: with(pg_cluster::shared()?.url(), options) };
    // A busy machine is no fault of the store's.
    Some(Suite::new(setup).patience(Duration::from_secs(60)))
}

#[test]
fn with_one_partition() {
    suite("partitions=1").iter().for_each(Suite::run);
}

#[test]
fn with_four_partitions() {
    suite("partitions=4").iter().for_each(Suite::run);
}

/// Without the long races: the statements are the same, and each is planned anew.
#[test]
fn as_behind_pgbouncer() {
    let topics = [
        "append",
        "cancel",
        "collections",
        "documents",
        "guards",
        "keys",
        "reads",
        "rewound",
        "strings",
        "wait",
    ];
    let suite = suite("pgbouncer=true").map(|suite| suite.only(|rule| topics.contains(&rule.topic)));
    suite.iter().for_each(Suite::run);
}
