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

/// Statements that do what they must not, or only seem to.
pub mod unruly {
    use super::*;

    /// What is done to the transaction, and what is said of it; nothing if it does no harm.
    pub const CASES: [(&str, &str); 27] = [
        ("COMMIT", ENDS),
        ("END", ENDS),
        ("COMMIT; BEGIN", ENDS),
        ("COMMIT AND CHAIN", ENDS),
        ("BEGIN; INSERT INTO kept VALUES (current_setting('application_name'), 'script'); COMMIT", ENDS),
        ("PREPARE TRANSACTION 'x'", ENDS),
        ("SET CONSTRAINTS ALL IMMEDIATE", ENDS),
        ("SET CONSTRAINTS ALL IMMEDIATE; COMMIT", ENDS),
        ("ROLLBACK AND CHAIN", ENDS),
        ("SAVEPOINT a; COMMIT", ENDS),
        ("ROLLBACK", WRITES),
        ("ABORT", WRITES),
        ("ROLLBACK; BEGIN", WRITES),
        ("ROLLBACK; INSERT INTO kept VALUES (current_setting('application_name'), 'script')", WRITES),
        (
            "ROLLBACK; BEGIN; INSERT INTO kept VALUES (current_setting('application_name'), 'x'); COMMIT",
            WRITES,
        ),
        ("SET TRANSACTION READ ONLY", WRITES),
        ("DEALLOCATE ALL", "take out `DEALLOCATE`"),
        // Of these PostgreSQL says by itself that they cannot be here.
        ("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE", "must be called before any query"),
        ("DISCARD ALL", "cannot run inside a transaction block"),
        ("VACUUM kept", "cannot run inside a transaction block"),
        ("SELECT 1 / 0", "division by zero"),
        // What remains is harmless.
        ("BEGIN", ""),
        ("START TRANSACTION", ""),
        ("SAVEPOINT a", ""),
        ("SAVEPOINT a; DELETE FROM kept; ROLLBACK TO a; RELEASE a", ""),
        ("SET LOCAL work_mem = '1MB'", ""),
        ("DISCARD PLANS", ""),
    ];
    const ENDS: &str = "end the transaction that they run in";
    const WRITES: &str = "behind a `ROLLBACK` or `COMMIT` of theirs";

    /// In this one the method does not ask what came of its statements.
    pub const CARELESS: i64 = 100;
    pub const PANICS: i64 = 999;
    pub const GOOD: i64 = 1_000;

    /// Writes a row, does as the number says, and writes another one.
    async fn obey(tx: &Transaction<'_>, cents: i64) -> Result<(), Error> {
        let keep = "INSERT INTO kept VALUES (current_setting('application_name'), 'a row')";
        tx.batch_execute(keep).await?;
        assert_ne!(cents, PANICS, "panics on purpose");
        let Some((statements, _)) = CASES.get((cents % CARELESS) as usize).filter(|_| cents < GOOD) else {
            return Ok(());
        };
        let done = tx.batch_execute(statements).await;
        if cents >= CARELESS {
            let _ = tx.batch_execute(keep).await;
            return Ok(());
        }
        done?;
        tx.batch_execute(keep).await
    }

    pub struct Unruly;

    #[projection(name = "unruly", sql = Postgres)]
    impl Unruly {
        #[on]
        async fn deposited(tx: &Transaction<'_>, e: &Deposited) -> Result<(), Error> {
            obey(tx, e.cents).await
        }
    }

    pub struct AtOnce;

    #[projection(name = "at-once", sql = Postgres, mode = inline)]
    impl AtOnce {
        #[on]
        async fn deposited(tx: &Transaction<'_>, e: &Deposited) -> Result<(), Error> {
            obey(tx, e.cents).await
        }
    }

    pub struct Script;

    #[projection(name = "script", sql = Postgres)]
    impl Script {
        #[setup]
        async fn tables(tx: &Transaction<'_>) -> Result<(), Error> {
            tx.batch_execute("BEGIN; CREATE TABLE script (); COMMIT").await
        }

        #[on]
        async fn deposited(_: &Transaction<'_>, _: &Deposited) -> Result<(), Error> {
            Ok(())
        }
    }
}

/// A database of its own: its URL and a connection beside the store.
async fn database() -> Option<(String, Client)> {
    let server = pg_cluster::made()?.server();
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
    assert!(refused.is_refusal());
    let ExecuteError::Rejected(rejection) = &refused else { panic!("{refused}") };
    assert_eq!((rejection.projection(), rejection.event()), ("balances", "Deposited"));
    assert_eq!(rejection.constraint(), Some("balances_cents_check"));
    assert_eq!(ask(&client, "SELECT cents FROM balances").await, Some(5));
    assert_eq!(ask(&client, "SELECT max(position) FROM cqrs.events").await, Some(2));
    // Nothing of it is remembered either.
    bank.execute(deposit(1, 1)).await.unwrap();
    assert_eq!(ask(&client, "SELECT cents FROM balances").await, Some(6));
}

/// Two programs on one account: whoever has lost too often reserves the next append, and what it brings is
/// part of the commit as ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inline_tables_are_part_of_a_commit_that_was_reserved() {
    const EACH: i64 = 40;
    let Some((url, client)) = database().await else { return };
    let mut tasks = Vec::new();
    for _ in 0..2 {
        let bank = open(&url, Registry::new().with::<Account>().with::<inline::Balances>()).await;
        for _ in 0..3 {
            let bank = bank.clone();
            tasks.push(tokio::spawn(async move {
                for _ in 0..EACH {
                    bank.execute(deposit(1, 5)).await.unwrap();
                }
                // One that is refused lets the others go on.
                bank.execute(deposit(1, -1_000_000)).await.unwrap_err();
            }));
        }
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(ask(&client, "SELECT cents FROM balances").await, Some(6 * EACH * 5));
    assert_eq!(ask(&client, "SELECT max(position) FROM cqrs.events").await, Some(1 + 6 * EACH));
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

/// A bank of its own in a database that has a table to write to, and how its rows are counted.
struct Bank {
    engine: Engine,
    client: Client,
    name: String,
}

impl Bank {
    async fn open(url: &str, registry: Registry) -> Self {
        let (client, name) = (connect(url).await, schema());
        client.batch_execute("CREATE TABLE IF NOT EXISTS kept (who text, what text)").await.unwrap();
        let engine = open(&format!("{url}?schema={name}&application_name={name}"), registry).await;
        Self { engine, client, name }
    }

    /// The rows that last.
    async fn kept(&self) -> Option<i64> {
        ask(&self.client, &format!("SELECT count(*) FROM kept WHERE who = '{}'", self.name)).await
    }

    async fn checkpoint(&self) -> Option<i64> {
        ask(&self.client, &format!("SELECT max(position) FROM {}.checkpoints", self.name)).await
    }
}

/// An error with all its causes.
fn whole(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Whatever statements do to their transaction: either it goes on and is committed with the checkpoint, or
/// nothing of it lasts, and it is told which event it was.
#[tokio::test]
async fn statements_that_end_the_transaction_leave_nothing() {
    let Some((url, _)) = database().await else { return };
    let cases = (0..)
        .zip(unruly::CASES)
        .flat_map(|(number, case)| [(number, case), (number + unruly::CARELESS, case)]);
    for (cents, (statements, words)) in cases {
        let bank = Bank::open(&url, Registry::new().with::<Account>().with::<unruly::Unruly>()).await;
        for cents in [unruly::GOOD, unruly::GOOD, cents, unruly::GOOD] {
            bank.engine.execute(deposit(1, cents)).await.unwrap();
        }
        let done = bank.engine.catch_up().await;
        if words.is_empty() {
            done.unwrap();
            assert_eq!((bank.kept().await, bank.checkpoint().await), (Some(5), Some(5)), "{statements}");
            continue;
        }
        let stopped = done.unwrap_err();
        let CatchUpError::Stopped { fault: ConsumerFault::Event(fault), .. } = &stopped else {
            panic!("{cents}: {stopped:?}")
        };
        let told = whole(fault);
        // Who is careless does not hear of it from PostgreSQL, but the store does.
        let careless = cents >= unruly::CARELESS;
        assert!(careless || told.contains(words), "{statements}: {told}");
        let ours = ["take out `", "take that out", "return the error"];
        assert!(!careless || ours.iter().any(|ours| told.contains(ours)), "{statements}: {told}");
        assert_eq!(fault.position().get(), 4, "{statements}: {told}");
        // What came before it is in effect, and nothing else.
        assert_eq!((bank.kept().await, bank.checkpoint().await), (Some(2), Some(3)), "{statements}");
        bank.engine.execute(deposit(1, unruly::GOOD)).await.unwrap();
    }
    let prepared = connect(&url).await.query("SELECT 1 FROM pg_prepared_xacts", &[]).await.unwrap();
    assert!(prepared.is_empty());
}

/// The same in the commit of a command, which is refused then.
#[tokio::test]
async fn inline_statements_that_end_the_transaction_leave_nothing() {
    let Some((url, _)) = database().await else { return };
    let cases = (0..)
        .zip(unruly::CASES)
        .flat_map(|(number, case)| [(number, case), (number + unruly::CARELESS, case)]);
    for (cents, (statements, words)) in cases {
        let bank = Bank::open(&url, Registry::new().with::<Account>().with::<unruly::AtOnce>()).await;
        // With its first batch or with a later one.
        let begin = (cents + 1) % 2;
        for _ in 0..begin {
            bank.engine.execute(deposit(1, unruly::GOOD)).await.unwrap();
        }
        let done = bank.engine.execute(deposit(1, cents)).await;
        if words.is_empty() {
            done.unwrap();
            assert_eq!(bank.kept().await, Some(begin + 2), "{statements}");
        } else {
            let refused = done.unwrap_err();
            let ExecuteError::Failed(Failure::Inline { projection, error }) = &refused else {
                panic!("{statements}: {refused:?}")
            };
            let told = whole(error);
            assert_eq!((*projection, error.event()), ("at-once", "Deposited"), "{statements}: {told}");
            let careless = cents >= unruly::CARELESS;
            assert!(careless || told.contains(words), "{statements}: {told}");
            let ours = ["take out `", "take that out", "return the error"];
            assert!(!careless || ours.iter().any(|ours| told.contains(ours)), "{statements}: {told}");
            assert_eq!(bank.kept().await, Some(begin), "{statements}: {told}");
        }
        // The next command is carried out as if nothing had been.
        let before = bank.kept().await;
        bank.engine.execute(deposit(1, unruly::GOOD)).await.unwrap();
        assert_eq!(bank.kept().await, before.map(|before| before + 1), "{statements}");
    }
}

/// The control: without the trigger of the table, what a `COMMIT` leaves behind is half a batch.
#[tokio::test]
async fn without_the_trigger_a_part_lasts() {
    let Some((url, _)) = database().await else { return };
    for inline in [false, true] {
        let registry = Registry::new().with::<Account>();
        let registry =
            if inline { registry.with::<unruly::AtOnce>() } else { registry.with::<unruly::Unruly>() };
        let bank = Bank::open(&url, registry).await;
        let drop = format!("DROP TRIGGER batch_is_closed ON {}.consumers", bank.name);
        bank.client.batch_execute(&drop).await.unwrap();
        let done = bank.engine.execute(deposit(1, 0)).await;
        assert_eq!(done.is_err(), inline);
        if !inline {
            bank.engine.catch_up().await.unwrap_err();
            assert!(bank.checkpoint().await < Some(2));
        }
        assert_eq!(bank.kept().await, Some(1), "inline: {inline}");
        // An event that was refused is even there.
        let events = format!("SELECT count(*) FROM {}.events", bank.name);
        assert_eq!(ask(&bank.client, &events).await, Some(2), "inline: {inline}");
    }
}

#[tokio::test]
async fn a_panic_stops_in_front_of_its_event() {
    let Some((url, _)) = database().await else { return };
    let bank = Bank::open(&url, Registry::new().with::<Account>().with::<unruly::Unruly>()).await;
    for cents in [unruly::GOOD, unruly::PANICS, unruly::GOOD] {
        bank.engine.execute(deposit(1, cents)).await.unwrap();
    }
    let stopped = bank.engine.catch_up().await.unwrap_err();
    let CatchUpError::Stopped { fault: ConsumerFault::Event(fault), .. } = &stopped else {
        panic!("{stopped:?}")
    };
    assert_eq!(fault.position().get(), 3);
    assert_eq!((bank.kept().await, bank.checkpoint().await), (Some(1), Some(2)));
}

/// A script with a transaction of its own is what somebody most likely brings.
#[tokio::test]
async fn a_setup_that_commits_is_refused() {
    let Some((url, client)) = database().await else { return };
    let bank = open(&url, Registry::new().with::<Account>().with::<unruly::Script>()).await;
    bank.execute(deposit(1, 5)).await.unwrap();
    let told = whole(&bank.catch_up().await.unwrap_err());
    assert!(told.contains("the tables could not be set up: its statements end the transaction"), "{told}");
    assert_eq!(ask(&client, "SELECT count(*) FROM pg_tables WHERE tablename = 'script'").await, Some(0));
    assert_eq!(ask(&client, "SELECT count(*) FROM cqrs.checkpoints").await, Some(0));
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
