//! [evento](https://docs.rs/evento) with its PostgreSQL executor: a write model that each command loads and
//! writes through, and a read model that its subscription keeps as stored snapshots.
//!
//! As in its documentation, the write model starts from a copy in the memory of the process and reads what
//! came after; the copy keeps one second behind.

use std::sync::atomic::{AtomicU64, Ordering};

use ::evento::metadata::Event;
use ::evento::migrator::{Migrate as _, Plan};
use ::evento::{Executor, Projection, ProjectionAggregate as _, WriteError};
use anyhow::{Context as _, Result, bail};
use sqlx_0_9::PgPool;
use sqlx_0_9::postgres::PgPoolOptions;

use crate::contender::{About, Contender, Outcome, Place, REFERENCE};
use crate::retried;

#[::evento::aggregate(name = "bank/Account")]
pub enum Account {
    Opened { reference: String },
    Deposited { cents: u64, reference: String },
    Withdrawn { cents: u64, reference: String },
}

/// What a command is decided on.
#[::evento::projection(id = id)]
#[::evento::snapshot(memory)]
pub struct Held {
    pub id: String,
    pub cents: i64,
}

/// An account folded from all of its events.
#[::evento::projection]
#[::evento::snapshot(none)]
pub struct Replayed {
    pub cents: i64,
}

/// What is read of an account without its events, in its table of snapshots.
#[::evento::projection(name = "bank/Balance", bitcode::Encode, bitcode::Decode)]
pub struct Balance {
    pub cents: i64,
}

#[::evento::handler]
async fn held_opened(event: Event<Opened>, held: &mut Held) -> Result<()> {
    held.id.clone_from(&event.aggregate_id);
    Ok(())
}

#[::evento::handler]
async fn held_deposited(event: Event<Deposited>, held: &mut Held) -> Result<()> {
    held.cents += event.data.cents.cast_signed();
    Ok(())
}

#[::evento::handler]
async fn held_withdrawn(event: Event<Withdrawn>, held: &mut Held) -> Result<()> {
    held.cents -= event.data.cents.cast_signed();
    Ok(())
}

#[::evento::handler]
async fn replayed_opened(_event: Event<Opened>, _replayed: &mut Replayed) -> Result<()> {
    Ok(())
}

#[::evento::handler]
async fn replayed_deposited(event: Event<Deposited>, replayed: &mut Replayed) -> Result<()> {
    replayed.cents += event.data.cents.cast_signed();
    Ok(())
}

#[::evento::handler]
async fn replayed_withdrawn(event: Event<Withdrawn>, replayed: &mut Replayed) -> Result<()> {
    replayed.cents -= event.data.cents.cast_signed();
    Ok(())
}

#[::evento::handler]
async fn balance_opened(_event: Event<Opened>, _balance: &mut Balance) -> Result<()> {
    Ok(())
}

#[::evento::handler]
async fn balance_deposited(event: Event<Deposited>, balance: &mut Balance) -> Result<()> {
    balance.cents += event.data.cents.cast_signed();
    Ok(())
}

#[::evento::handler]
async fn balance_withdrawn(event: Event<Withdrawn>, balance: &mut Balance) -> Result<()> {
    balance.cents -= event.data.cents.cast_signed();
    Ok(())
}

fn held<E: Executor>() -> Projection<E, Held> {
    Projection::new::<Account>()
        .handler(held_opened())
        .handler(held_deposited())
        .handler(held_withdrawn())
        .strict()
}

fn replayed<E: Executor>() -> Projection<E, Replayed> {
    Projection::new::<Account>()
        .handler(replayed_opened())
        .handler(replayed_deposited())
        .handler(replayed_withdrawn())
        .strict()
}

fn balance<E: Executor>() -> Projection<E, Balance> {
    Projection::new::<Account>()
        .handler(balance_opened())
        .handler(balance_deposited())
        .handler(balance_withdrawn())
        .strict()
}

/// evento, open.
pub struct Evento {
    pool: PgPool,
    executor: ::evento::Postgres,
    /// Its copies in memory belong to the process and are found by the account's name alone: each place
    /// needs names of its own.
    place: u64,
}

#[derive(Clone, Copy)]
enum Command {
    Deposit(u64),
    Withdraw(u64),
}

impl Evento {
    fn id(&self, account: u64) -> String {
        format!("{}-{account}", self.place)
    }

    async fn command(&self, account: u64, command: Command) -> Result<Outcome> {
        let reference = REFERENCE.to_owned();
        loop {
            let held = held().load(self.id(account)).execute(&self.executor).await?;
            let held = held.context("there is no such account")?;
            let mut write = held.write()?;
            match command {
                Command::Deposit(cents) => write.event(&Deposited { cents, reference: reference.clone() }),
                Command::Withdraw(cents) if held.cents < cents.cast_signed() => {
                    return Ok(Outcome::Refused);
                }
                Command::Withdraw(cents) => write.event(&Withdrawn { cents, reference: reference.clone() }),
            };
            match write.commit(&self.executor).await {
                Ok(_) => return Ok(Outcome::Accepted),
                Err(WriteError::InvalidOriginalVersion) => retried(),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Contender for Evento {
    fn about() -> About {
        About {
            name: "evento",
            store: "PostgreSQL",
            packages: &["evento", "evento-sql"],
            less: &[
                "A stream ends at 65,535 events.",
                "The order over all streams is the server's clock in milliseconds, and read models stay a \
                 second behind so as not to miss an event.",
                "Events are stored in a binary form that SQL cannot read, not as JSON.",
            ],
        }
    }

    async fn open(place: &Place) -> Result<Self> {
        static PLACES: AtomicU64 = AtomicU64::new(0);
        let pool = PgPoolOptions::new().max_connections(place.connections).connect(&place.postgres).await?;
        let mut connection = pool.acquire().await?;
        ::evento::sql_migrator::new::<sqlx_0_9::Postgres>()?
            .run(&mut *connection, &Plan::apply_all())
            .await?;
        drop(connection);
        let executor = pool.clone().into();
        Ok(Self { pool, executor, place: PLACES.fetch_add(1, Ordering::Relaxed) })
    }

    async fn open_account(&self, account: u64) -> Result<()> {
        let opened = Opened { reference: REFERENCE.to_owned() };
        match ::evento::append(self.id(account)).event(&opened).commit(&self.executor).await {
            Ok(_) => Ok(()),
            Err(WriteError::InvalidOriginalVersion) => bail!("the account is open already"),
            Err(error) => Err(error.into()),
        }
    }

    async fn deposit(&self, account: u64, cents: u64) -> Result<Outcome> {
        self.command(account, Command::Deposit(cents)).await
    }

    async fn withdraw(&self, account: u64, cents: u64) -> Result<Outcome> {
        self.command(account, Command::Withdraw(cents)).await
    }

    async fn rehydrate(&self, account: u64) -> Result<u64> {
        let replayed = replayed().load(self.id(account)).execute(&self.executor).await?;
        Ok(u64::try_from(replayed.context("there is no such account")?.cents)?)
    }

    async fn stored(&self) -> Result<u64> {
        let rows: i64 = sqlx_0_9::query_scalar("SELECT count(*) FROM event").fetch_one(&self.pool).await?;
        Ok(u64::try_from(rows)?)
    }

    async fn project(&self) -> Result<Option<()>> {
        for table in ["TRUNCATE snapshot", "TRUNCATE subscriber"] {
            sqlx_0_9::query(table).execute(&self.pool).await?;
        }
        balance().subscription("balances").run_once(&self.executor).await?;
        Ok(Some(()))
    }

    // The stored snapshot, and the events after it if there are any.
    async fn projected(&self, account: u64) -> Result<Option<u64>> {
        let balance = balance().load(self.id(account)).execute(&self.executor).await?;
        Ok(balance.map(|balance| u64::try_from(balance.cents)).transpose()?)
    }

    async fn close(self) -> Result<()> {
        self.pool.close().await;
        Ok(())
    }
}
