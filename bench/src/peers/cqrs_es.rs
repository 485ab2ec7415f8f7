//! [cqrs-es](https://docs.rs/cqrs-es) with [postgres-es](https://docs.rs/postgres-es): one aggregate, its
//! event store without snapshots, and a view that its replay builds.

use std::sync::{Arc, Mutex, PoisonError};

use ::cqrs_es::event_sink::EventSink;
use ::cqrs_es::persist::{GenericQuery, PersistedEventStore, PersistenceError, QueryReplay, ViewRepository};
use ::cqrs_es::{Aggregate, AggregateContext, AggregateError, DomainEvent, EventEnvelope, EventStore, View};
use anyhow::{Result, bail};
use postgres_es::{PostgresCqrs, PostgresEventRepository, PostgresViewRepository, postgres_cqrs};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;

use crate::contender::{About, Contender, Outcome, Place, REFERENCE};
use crate::retried;

/// An account, folded from its events.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Account {
    open: bool,
    cents: i64,
}

#[derive(Clone, Copy, Debug)]
enum Command {
    Open,
    Deposit(u64),
    Withdraw(u64),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Event {
    Opened { reference: String },
    Deposited { cents: u64, reference: String },
    Withdrawn { cents: u64, reference: String },
}

impl DomainEvent for Event {
    fn event_type(&self) -> String {
        match self {
            Self::Opened { .. } => "Opened",
            Self::Deposited { .. } => "Deposited",
            Self::Withdrawn { .. } => "Withdrawn",
        }
        .to_owned()
    }

    fn event_version(&self) -> String {
        "1.0".to_owned()
    }
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
    const TYPE: &'static str = "account";
    type Command = Command;
    type Event = Event;
    type Error = Refusal;
    type Services = ();

    async fn handle(
        &mut self,
        command: Command,
        (): &(),
        sink: &EventSink<Self>,
    ) -> std::result::Result<(), Refusal> {
        let reference = || REFERENCE.to_owned();
        let event = match command {
            Command::Open if self.open => return Err(Refusal::Open),
            Command::Open => Event::Opened { reference: reference() },
            _ if !self.open => return Err(Refusal::NoAccount),
            Command::Deposit(cents) => Event::Deposited { cents, reference: reference() },
            Command::Withdraw(cents) if self.cents < cents.cast_signed() => return Err(Refusal::NoMoney),
            Command::Withdraw(cents) => Event::Withdrawn { cents, reference: reference() },
        };
        sink.write(event, self).await;
        Ok(())
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Opened { .. } => self.open = true,
            Event::Deposited { cents, .. } => self.cents += cents.cast_signed(),
            Event::Withdrawn { cents, .. } => self.cents -= cents.cast_signed(),
        }
    }
}

/// What is read of an account without its events.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Balance {
    cents: i64,
}

impl View<Account> for Balance {
    fn update(&mut self, event: &EventEnvelope<Account>) {
        match &event.payload {
            Event::Opened { .. } => {}
            Event::Deposited { cents, .. } => self.cents += cents.cast_signed(),
            Event::Withdrawn { cents, .. } => self.cents -= cents.cast_signed(),
        }
    }
}

/// The tables that its documentation tells, without the one for snapshots.
const TABLES: [&str; 2] = [
    "CREATE TABLE events (
        aggregate_type text NOT NULL,
        aggregate_id text NOT NULL,
        sequence bigint NOT NULL CHECK (sequence >= 0),
        event_type text NOT NULL,
        event_version text NOT NULL,
        payload json NOT NULL,
        metadata json NOT NULL,
        PRIMARY KEY (aggregate_type, aggregate_id, sequence)
    )",
    "CREATE TABLE balance (
        view_id text PRIMARY KEY,
        version bigint NOT NULL CHECK (version >= 0),
        payload json NOT NULL
    )",
];

/// cqrs-es, open.
pub struct CqrsEs {
    pool: PgPool,
    cqrs: PostgresCqrs<Account>,
}

impl CqrsEs {
    async fn command(&self, account: u64, command: Command) -> Result<Outcome> {
        loop {
            match self.cqrs.execute(&account.to_string(), command).await {
                Ok(()) => return Ok(Outcome::Accepted),
                Err(AggregateError::UserError(Refusal::NoMoney)) => return Ok(Outcome::Refused),
                Err(AggregateError::AggregateConflict) => retried(),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn balances(&self) -> PostgresViewRepository<Balance, Account> {
        PostgresViewRepository::new("balance", self.pool.clone())
    }
}

impl Contender for CqrsEs {
    fn about() -> About {
        About {
            name: "cqrs-es",
            store: "PostgreSQL",
            packages: &["cqrs-es", "postgres-es"],
            less: &[
                "No order over all streams: a rebuild reads by the position in the stream.",
                "Read models are called by the process that wrote, after its commit and with no checkpoint, \
                 so a crash in between leaves an event out; the read model here is built by its replay.",
                "A read model that fails goes to a callback, and the replay goes on without that event.",
            ],
        }
    }

    async fn open(place: &Place) -> Result<Self> {
        let pool = PgPoolOptions::new().max_connections(place.connections).connect(&place.postgres).await?;
        for table in TABLES {
            sqlx::query(table).execute(&pool).await?;
        }
        Ok(Self { cqrs: postgres_cqrs(pool.clone(), vec![], ()), pool })
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
        let repository = PostgresEventRepository::new(self.pool.clone());
        let store = PersistedEventStore::<_, Account>::new_event_store(repository);
        let mut context = store.load_aggregate(&account.to_string()).await?;
        Ok(u64::try_from(context.aggregate().cents)?)
    }

    async fn stored(&self) -> Result<u64> {
        let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM events").fetch_one(&self.pool).await?;
        Ok(u64::try_from(rows)?)
    }

    async fn project(&self) -> Result<Option<()>> {
        // Its replay adds to the view that it finds.
        sqlx::query("TRUNCATE balance").execute(&self.pool).await?;
        let errors = Arc::new(Mutex::new(Vec::<String>::new()));
        let collect = |errors: &Arc<Mutex<Vec<String>>>| {
            let errors = Arc::clone(errors);
            Box::new(move |error: PersistenceError| {
                errors.lock().unwrap_or_else(PoisonError::into_inner).push(error.to_string());
            })
        };
        let mut query = GenericQuery::new(Arc::new(self.balances()));
        query.use_error_handler(collect(&errors));
        let mut replay = QueryReplay::new(PostgresEventRepository::new(self.pool.clone()), query);
        replay.use_error_handler(collect(&errors));
        replay.replay_all().await?;
        let errors = errors.lock().unwrap_or_else(PoisonError::into_inner);
        match errors.first() {
            None => Ok(Some(())),
            Some(first) => bail!("the replay left out {} events, the first with: {first}", errors.len()),
        }
    }

    async fn projected(&self, account: u64) -> Result<Option<u64>> {
        let view = self.balances().load(&account.to_string()).await?;
        Ok(view.map(|view| u64::try_from(view.cents)).transpose()?)
    }

    async fn close(self) -> Result<()> {
        self.pool.close().await;
        Ok(())
    }
}
