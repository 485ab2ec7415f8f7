//! Projections with their own SQL: tables of the user's in the store's database.

#![allow(missing_docs, missing_debug_implementations, unreachable_pub, reason = "a test")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at a fault")]

mod support;

use cqrs::Registry;
use cqrs::engine::{CatchUpError, ConsumerFault, ConsumerState, Failure};
use cqrs::prelude::*;
use cqrs_postgres::tokio_postgres::{Client, Error};
use cqrs_postgres::{Postgres, PostgresStore, Transaction};
use support::{connect, schema};

#[derive(Event, Serialize, Deserialize)]
pub struct Opened;
#[derive(Event, Serialize, Deserialize)]
pub struct Deposited {
    pub cents: i64,
}

#[derive(Command)]
pub struct Deposit {
    #[id]
    pub account: u64,
    pub cents: i64,
}

#[derive(Default)]
pub struct Account;

#[aggregate(id = u64)]
impl Account {
    #[handle]
    fn deposit(account: Option<&Self>, cmd: Deposit) -> (Option<Opened>, Deposited) {
        (account.is_none().then_some(Opened), Deposited { cents: cmd.cents })
    }
    #[apply]
    fn opened(_: &Opened) -> Self {
        Self
    }
    #[apply]
    fn deposited(&mut self, _: &Deposited) {}
}

pub struct Ledger;

#[projection(name = "ledger", sql = Postgres)]
impl Ledger {
    #[setup]
    async fn tables(tx: &Transaction<'_>) -> Result<(), Error> {
        tx.batch_execute("CREATE TABLE ledger (position bigint PRIMARY KEY, account text, cents bigint)")
            .await
    }

    #[on]
    async fn deposited(tx: &Transaction<'_>, e: &Deposited, meta: &EventMeta) -> Result<u64, Error> {
        let position = meta.position.get() as i64;
        tx.execute("INSERT INTO ledger VALUES ($1, $2, $3)", &[&position, &meta.stream.id(), &e.cents]).await
    }
}

/// The same, in the commit of the command.
pub mod inline {
    use super::*;

    pub struct Balances;

    #[projection(name = "balances", sql = Postgres, mode = inline)]
    impl Balances {
        #[setup]
        async fn tables(tx: &Transaction<'_>) -> Result<(), Error> {
            tx.batch_execute(
                "CREATE TABLE balances (account text PRIMARY KEY, cents bigint CHECK (cents >= 0))",
            )
            .await
        }

        #[on]
        async fn opened(tx: &Transaction<'_>, _: &Opened, meta: &EventMeta) -> Result<u64, Error> {
            tx.execute("INSERT INTO balances VALUES ($1, 0)", &[&meta.stream.id()]).await
        }

        #[on]
        async fn deposited(tx: &Transaction<'_>, e: &Deposited, meta: &EventMeta) -> Result<u64, Error> {
            let update = "UPDATE balances SET cents = cents + $2 WHERE account = $1";
            tx.execute(update, &[&meta.stream.id(), &e.cents]).await
        }
    }
}

/// Statements that do what they must not.
pub mod unruly {
    use super::*;

    pub struct Unruly;

    #[projection(name = "unruly", sql = Postgres)]
    impl Unruly {
        #[on]
        async fn deposited(tx: &Transaction<'_>, e: &Deposited) -> Result<(), Error> {
            tx.batch_execute(match e.cents {
                1 => "COMMIT",
                2 => "ROLLBACK",
                3 => "COMMIT; BEGIN",
                4 => "SELECT 1 / 0",
                9 => panic!("nine is too many"),
                _ => "SELECT 1",
            })
            .await
        }
    }
}

/// A database of its own: its URL and a connection beside the store.
async fn database() -> Option<(String, Client)> {
    let server = pg_cluster::shared()?.server()?;
    let name = schema();
    server.psql("postgres", &format!("CREATE DATABASE {name}")).unwrap();
    let url = server.url(pg_cluster::USER, pg_cluster::PASSWORD, &name);
    let client = connect(&url).await;
    Some((url, client))
}

async fn open(url: &str, registry: Registry) -> Engine {
    let store = PostgresStore::open(url).await.unwrap();
    Engine::builder().registry(registry).without_background().build(store).await.unwrap()
}

async fn ask(client: &Client, sql: &str) -> Option<i64> {
    client.query_one(&format!("SELECT ({sql})::bigint"), &[]).await.unwrap().get(0)
}

fn deposit(account: u64, cents: i64) -> Deposit {
    Deposit { account, cents }
}

#[tokio::test]
async fn tables_of_the_users_are_kept_with_the_checkpoint() {
    let Some((url, client)) = database().await else { return };
    let registry = || Registry::new().with::<Account>().with::<Ledger>();
    let bank = open(&url, registry()).await;
    bank.catch_up().await.unwrap();
    assert_eq!(
        ask(&client, "SELECT count(*) FROM ledger").await,
        Some(0),
        "the tables are there from the start"
    );
    for cents in [5, 7] {
        bank.execute(deposit(1, cents)).await.unwrap();
    }
    bank.catch_up().await.unwrap();
    assert_eq!(ask(&client, "SELECT sum(cents) FROM ledger WHERE account = '1'").await, Some(12));

    drop(bank);
    let bank = open(&url, registry()).await;
    bank.execute(deposit(2, 1)).await.unwrap();
    bank.catch_up().await.unwrap();
    assert_eq!(ask(&client, "SELECT sum(position * position) FROM ledger").await, Some(4 + 9 + 25));
}

#[tokio::test]
async fn inline_tables_are_part_of_the_commit() {
    let Some((url, client)) = database().await else { return };
    let bank = open(&url, Registry::new().with::<Account>().with::<inline::Balances>()).await;
    bank.execute(deposit(1, 5)).await.unwrap();
    assert_eq!(ask(&client, "SELECT cents FROM balances").await, Some(5), "without waiting for anything");

    let refused = bank.execute(deposit(1, -6)).await.unwrap_err();
    let ExecuteError::Failed(Failure::Inline { projection, error }) = &refused else { panic!("{refused}") };
    assert_eq!((*projection, error.event()), ("balances", "Deposited"));
    assert_eq!(ask(&client, "SELECT cents FROM balances").await, Some(5));
    assert_eq!(ask(&client, "SELECT max(position) FROM cqrs.events").await, Some(2));
    // Nothing of it is remembered either.
    bank.execute(deposit(1, 1)).await.unwrap();
    assert_eq!(ask(&client, "SELECT cents FROM balances").await, Some(6));
}

#[tokio::test]
async fn an_inline_projection_that_is_new_catches_up_before_the_first_commit() {
    let Some((url, client)) = database().await else { return };
    let old = open(&url, Registry::new().with::<Account>()).await;
    for account in 1..=3 {
        old.execute(deposit(account, 5)).await.unwrap();
    }
    let new = open(&url, Registry::new().with::<Account>().with::<inline::Balances>()).await;
    new.execute(deposit(3, 2)).await.unwrap();
    assert_eq!(ask(&client, "SELECT sum(cents) FROM balances").await, Some(17));
    // The old program knows nothing of it and writes on; the new one's next commit waits for that too.
    old.execute(deposit(1, 10)).await.unwrap();
    new.execute(deposit(2, 1)).await.unwrap();
    assert_eq!(ask(&client, "SELECT sum(cents) FROM balances").await, Some(28));
}

#[tokio::test]
async fn statements_that_fail_stop_in_front_of_their_event() {
    for cents in [4, 9] {
        let Some((url, client)) = database().await else { return };
        let bank = open(&url, Registry::new().with::<Account>().with::<unruly::Unruly>()).await;
        for cents in [100, cents, 100] {
            bank.execute(deposit(1, cents)).await.unwrap();
        }
        let stopped = bank.catch_up().await.unwrap_err();
        let CatchUpError::Stopped { fault: ConsumerFault::Event(fault), .. } = &stopped else {
            panic!("{cents}: {stopped:?}")
        };
        assert_eq!(fault.position().get(), 3);
        // What came before it is in effect.
        let position = "SELECT position FROM cqrs.checkpoints WHERE consumer = 'unruly'";
        assert_eq!(ask(&client, position).await, Some(2));
        bank.execute(deposit(1, 100)).await.unwrap();
    }
}

#[tokio::test]
async fn statements_that_end_the_transaction_are_found_out() {
    for cents in [1, 2, 3] {
        let Some((url, client)) = database().await else { return };
        let bank = open(&url, Registry::new().with::<Account>().with::<unruly::Unruly>()).await;
        bank.execute(deposit(1, cents)).await.unwrap();
        let stopped = format!("{:?}", bank.catch_up().await.unwrap_err());
        assert!(stopped.contains("ended its transaction"), "{cents}: {stopped}");
        // The checkpoint has not passed the event.
        let position = "SELECT max(position) FROM cqrs.checkpoints WHERE consumer = 'unruly'";
        assert!(ask(&client, position).await < Some(2));
        bank.execute(deposit(1, 100)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn in_the_background_too() {
    let Some((url, client)) = database().await else { return };
    let registry = Registry::new().with::<Account>().with::<Ledger>().with::<inline::Balances>();
    let store = PostgresStore::open(&url).await.unwrap();
    let bank = Engine::builder().registry(registry).build(store).await.unwrap();
    let tasks: Vec<_> = (0..8)
        .map(|account| {
            let bank = bank.clone();
            tokio::spawn(async move {
                for cents in 1..=20 {
                    bank.execute(deposit(account, cents)).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(ask(&client, "SELECT sum(cents) FROM balances").await, Some(8 * 210));
    bank.catch_up().await.unwrap();
    assert_eq!(ask(&client, "SELECT sum(cents) FROM ledger").await, Some(8 * 210));
    let status = bank.status().await.unwrap();
    assert!(status.iter().all(|status| !matches!(status.state, ConsumerState::Stopped(_))), "{status:?}");
    bank.shutdown().await;
}
