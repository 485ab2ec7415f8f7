//! What an engine with nothing to do asks of the server.

#![allow(missing_docs, reason = "a test")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at a fault")]

mod support;

use std::time::Duration;

use cqrs::prelude::*;
use cqrs::registry::Registry;
use cqrs_postgres::PostgresStore;
use support::{connect, schema};

#[derive(Event, Serialize, Deserialize)]
struct Rung {}

#[derive(Command)]
struct Ring {
    #[id]
    bell: u64,
}

struct Bell;

#[aggregate(id = u64)]
impl Bell {
    #[handle]
    fn ring(_: Option<&Self>, _: Ring) -> Rung {
        Rung {}
    }

    #[apply]
    fn rung(_: Option<Self>, _: &Rung) -> Self {
        Bell
    }
}

/// Projections that differ in their names alone.
macro_rules! projections {
    ($($name:ident $stored:literal)*) => {
        $(
            #[derive(Serialize, Deserialize)]
            struct $name(u64);

            #[projection(name = $stored, key = u64)]
            impl $name {
                #[on]
                fn rung(rings: Option<Self>, _: &Rung) -> Self {
                    $name(rings.map_or(0, |rings| rings.0) + 1)
                }
            }
        )*

        fn all() -> Registry {
            Registry::new().with::<Bell>()$(.with::<$name>())*
        }

        async fn count(bells: &Engine, receipt: &Receipt) {
            $(assert_eq!(bells.get::<$name>(&1).after(receipt).await.unwrap().unwrap().0, receipt.version().get());)*
        }
    };
}

projections! {
    P00 "p00" P01 "p01" P02 "p02" P03 "p03" P04 "p04" P05 "p05"
    P06 "p06" P07 "p07" P08 "p08" P09 "p09" P10 "p10" P11 "p11"
    P12 "p12" P13 "p13" P14 "p14" P15 "p15" P16 "p16" P17 "p17"
    P18 "p18" P19 "p19" P20 "p20" P21 "p21" P22 "p22" P23 "p23"
    P24 "p24" P25 "p25" P26 "p26" P27 "p27" P28 "p28" P29 "p29"
}

/// One test at a time, since each may make the server slow for the other.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// The transactions of a database in a second, while nothing is asked of it but what engines at rest ask.
async fn transactions_a_second(client: &tokio_postgres::Client, database: &str) -> f64 {
    // A backend reports what it has done once a second.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let transactions = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = $1";
    let count_now = async || client.query_one(transactions, &[&database]).await.unwrap().get::<_, i64>(0);
    let (before, begun) = (count_now().await, std::time::Instant::now());
    tokio::time::sleep(Duration::from_secs(5)).await;
    (count_now().await - before) as f64 / begun.elapsed().as_secs_f64()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thirty_tenants_at_rest_ask_ever_more_rarely() {
    let Some(cluster) = pg_cluster::made() else { return };
    let _alone = ALONE.lock().await;
    let database = schema();
    let client = connect(cluster.url()).await;
    client.batch_execute(&format!("CREATE DATABASE {database}")).await.unwrap();
    let url = cluster.server().url("postgres", "secret", &database);
    let registry = || Registry::new().with::<Bell>().with::<P00>().with::<P01>().with::<P02>();
    let mut tenants = Vec::new();
    for tenant in 0..30 {
        let store = PostgresStore::open(&support::with(&url, &format!("schema=t{tenant}"))).await.unwrap();
        let bells = Engine::builder().registry(registry()).build(store).await.unwrap();
        let receipt = bells.execute(Ring { bell: 1 }).await.unwrap();
        bells.get::<P02>(&1).after(&receipt).await.unwrap();
        tenants.push(bells);
    }
    // They look ever more rarely, down to twice in 10 s each.
    let mut seen = Vec::new();
    while seen.last().is_none_or(|a_second| *a_second >= 10.0) {
        assert!(seen.len() < 10, "{seen:?} transactions a second");
        seen.push(transactions_a_second(&client, &database).await);
    }
    // They are woken all the same.
    for bells in &tenants {
        let receipt = bells.execute(Ring { bell: 1 }).await.unwrap();
        let counted = bells.get::<P02>(&1).after(&receipt).await.unwrap();
        assert_eq!(counted.unwrap().0, 2);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thirty_projections_at_rest_look_at_the_log_as_one() {
    let Some(cluster) = pg_cluster::made() else { return };
    let _alone = ALONE.lock().await;
    let database = schema();
    let client = connect(cluster.url()).await;
    client.batch_execute(&format!("CREATE DATABASE {database}")).await.unwrap();
    let url = cluster.server().url("postgres", "secret", &database);
    let store = PostgresStore::open(&url).await.unwrap();
    let bells = Engine::builder().registry(all()).build(store).await.unwrap();
    let receipt = bells.execute(Ring { bell: 1 }).await.unwrap();
    count(&bells, &receipt).await;

    let a_second = transactions_a_second(&client, &database).await;
    assert!(a_second < 10.0, "{a_second} transactions a second");
    assert!(a_second > 0.0, "what is counted is not what was done");

    // They are woken all the same.
    let receipt = bells.execute(Ring { bell: 1 }).await.unwrap();
    count(&bells, &receipt).await;
    // So they are by another process.
    let other = Engine::builder().registry(all()).projections_elsewhere().open(&url).await.unwrap();
    let receipt = other.execute(Ring { bell: 1 }).await.unwrap();
    count(&bells, &receipt).await;
}
