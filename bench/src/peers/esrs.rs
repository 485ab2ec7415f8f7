//! [esrs](https://docs.rs/esrs) with its PostgreSQL store: one aggregate, optimistic writes, and a read
//! model that its rebuilder builds.

use ::esrs::handler::TransactionalEventHandler;
use ::esrs::manager::AggregateManager;
use ::esrs::rebuilder::{PgRebuilder, Rebuilder};
use ::esrs::store::StoreEvent;
use ::esrs::store::postgres::{PgStore, PgStoreBuilder, PgStoreError};
use ::esrs::{Aggregate, AggregateState};
use anyhow::{Context as _, Result};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use sqlx::postgres::PgPoolOptions;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use crate::contender::{About, Contender, Outcome, Place, REFERENCE};
use crate::retried;

struct Account;

/// An account, folded from its events.
#[derive(Default)]
struct State {
    open: bool,
    cents: i64,
}

#[derive(Clone, Copy, Debug)]
enum Command {
    Open,
    Deposit(u64),
    Withdraw(u64),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
enum Event {
    Opened { reference: String },
    Deposited { cents: u64, reference: String },
    Withdrawn { cents: u64, reference: String },
}

#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("the account is open already")]
    Open,
    #[error("there is no such account")]
    NoAccount,
    #[error("the account does not have the money")]
    NoMoney,
}

impl Aggregate for Account {
    const NAME: &'static str = "account";
    type State = State;
    type Command = Command;
    type Event = Event;
    type Error = Refusal;

    fn handle_command(state: &State, command: Command) -> std::result::Result<Vec<Event>, Refusal> {
        let reference = || REFERENCE.to_owned();
        Ok(vec![match command {
            Command::Open if state.open => return Err(Refusal::Open),
            Command::Open => Event::Opened { reference: reference() },
            _ if !state.open => return Err(Refusal::NoAccount),
            Command::Deposit(cents) => Event::Deposited { cents, reference: reference() },
            Command::Withdraw(cents) if state.cents < cents.cast_signed() => return Err(Refusal::NoMoney),
            Command::Withdraw(cents) => Event::Withdrawn { cents, reference: reference() },
        }])
    }

    fn apply_event(mut state: State, event: Event) -> State {
        match event {
            Event::Opened { .. } => state.open = true,
            Event::Deposited { cents, .. } => state.cents += cents.cast_signed(),
            Event::Withdrawn { cents, .. } => state.cents -= cents.cast_signed(),
        }
        state
    }
}

/// Keeps the table of balances.
struct Balances;

#[async_trait]
impl TransactionalEventHandler<Account, PgStoreError, PgConnection> for Balances {
    async fn handle(
        &self,
        event: &StoreEvent<Event>,
        transaction: &mut PgConnection,
    ) -> std::result::Result<(), PgStoreError> {
        let change = match &event.payload {
            Event::Opened { .. } => 0,
            Event::Deposited { cents, .. } => cents.cast_signed(),
            Event::Withdrawn { cents, .. } => -cents.cast_signed(),
        };
        sqlx::query(
            "INSERT INTO balance (id, cents) VALUES ($1, $2)
             ON CONFLICT (id) DO UPDATE SET cents = balance.cents + $2",
        )
        .bind(event.aggregate_id)
        .bind(change)
        .execute(transaction)
        .await?;
        Ok(())
    }

    async fn delete(
        &self,
        account: Uuid,
        transaction: &mut PgConnection,
    ) -> std::result::Result<(), PgStoreError> {
        sqlx::query("DELETE FROM balance WHERE id = $1").bind(account).execute(transaction).await?;
        Ok(())
    }
}

/// esrs, open.
pub struct Esrs {
    pool: PgPool,
    manager: AggregateManager<PgStore<Account>>,
}

impl Esrs {
    async fn command(&self, account: u64, command: Command) -> Result<Outcome> {
        let id = id(account);
        loop {
            let state = self.manager.load(id).await?.unwrap_or_else(|| AggregateState::with_id(id));
            match self.manager.handle_command(state, command).await {
                Ok(Ok(_)) => return Ok(Outcome::Accepted),
                Ok(Err(Refusal::NoMoney)) => return Ok(Outcome::Refused),
                Ok(Err(refusal)) => return Err(refusal.into()),
                Err(error) if is_conflict(&error) => retried(),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn id(account: u64) -> Uuid {
    Uuid::from_u128(account.into())
}

/// Whether somebody else took the position in the stream first.
fn is_conflict(error: &PgStoreError) -> bool {
    matches!(error, PgStoreError::Sqlx(sqlx::Error::Database(error)) if error.is_unique_violation())
}

impl Contender for Esrs {
    fn about() -> About {
        About {
            name: "esrs",
            store: "PostgreSQL",
            packages: &["esrs"],
            less: &[
                "No order over all streams but the writers' clocks.",
                "No read model that catches up while commands run: its handlers run inside the command or \
                 behind a message broker; the read model here is built by its rebuilder, which is meant to \
                 run alone.",
            ],
        }
    }

    async fn open(place: &Place) -> Result<Self> {
        let pool = PgPoolOptions::new().max_connections(place.connections).connect(&place.postgres).await?;
        sqlx::query("CREATE TABLE balance (id uuid PRIMARY KEY, cents bigint NOT NULL)")
            .execute(&pool)
            .await?;
        let store: PgStore<Account> = PgStoreBuilder::new(pool.clone()).try_build().await?;
        Ok(Self { pool, manager: AggregateManager::new(store) })
    }

    async fn open_account(&self, account: u64) -> Result<()> {
        self.command(account, Command::Open).await.map(drop)
    }

    async fn deposit(&self, account: u64, cents: u64) -> Result<Outcome> {
        self.command(account, Command::Deposit(cents)).await
    }

    async fn withdraw(&self, account: u64, cents: u64) -> Result<Outcome> {
        self.command(account, Command::Withdraw(cents)).await
    }

    async fn rehydrate(&self, account: u64) -> Result<u64> {
        let state = self.manager.load(id(account)).await?.context("there is no such account")?;
        Ok(u64::try_from(state.inner().cents)?)
    }

    async fn stored(&self) -> Result<u64> {
        let rows: i64 =
            sqlx::query_scalar("SELECT count(*) FROM account_events").fetch_one(&self.pool).await?;
        Ok(u64::try_from(rows)?)
    }

    // Not its `all_at_once`: that one deletes an account's row before each of its events.
    async fn project(&self) -> Result<Option<()>> {
        let rebuilder: PgRebuilder<Account> =
            PgRebuilder::new().with_transactional_event_handlers(vec![Box::new(Balances)]);
        rebuilder.by_aggregate_id(self.pool.clone()).await?;
        Ok(Some(()))
    }

    async fn projected(&self, account: u64) -> Result<Option<u64>> {
        let cents: Option<i64> = sqlx::query_scalar("SELECT cents FROM balance WHERE id = $1")
            .bind(id(account))
            .fetch_optional(&self.pool)
            .await?;
        Ok(cents.map(u64::try_from).transpose()?)
    }

    async fn close(self) -> Result<()> {
        self.pool.close().await;
        Ok(())
    }
}
