//! [eventually](https://docs.rs/eventually) with
//! [eventually-postgres](https://docs.rs/eventually-postgres): an aggregate behind its repository, and a
//! read model that its projector feeds from a persistent subscription.
//!
//! It is made for tokio 0.2, so its connections run on such a runtime beside ours.

use std::error::Error as _;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use ::eventually::store::Persisted;
use ::eventually::sync::RwLock;
use ::eventually::{Aggregate, AggregateRootBuilder, Projection, Projector, Repository};
use anyhow::{Context as _, Result, bail};
use eventually_postgres::{EventStore, EventStoreBuilder, EventSubscriber, PersistentBuilder};
use futures::future::{BoxFuture, FutureExt as _};
use serde::{Deserialize, Serialize};
use tokio_0_2::runtime::{Builder, Runtime};
use tokio_postgres_0_5::error::{DbError, SqlState};
use tokio_postgres_0_5::{Client, NoTls};

use crate::contender::{About, Contender, Outcome, Place, REFERENCE};
use crate::retried;

/// Its name for the streams of accounts, and for the channel that tells of them.
const TYPE: &str = "account";

#[derive(Clone, Copy, Debug)]
struct Accounts;

/// An account, folded from its events.
#[derive(Clone, Debug, Default)]
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

fn decide(state: &Account, command: Command) -> std::result::Result<Event, Refusal> {
    let reference = || REFERENCE.to_owned();
    match command {
        Command::Open if state.open => Err(Refusal::Open),
        Command::Open => Ok(Event::Opened { reference: reference() }),
        _ if !state.open => Err(Refusal::NoAccount),
        Command::Deposit(cents) => Ok(Event::Deposited { cents, reference: reference() }),
        Command::Withdraw(cents) if state.cents < cents.cast_signed() => Err(Refusal::NoMoney),
        Command::Withdraw(cents) => Ok(Event::Withdrawn { cents, reference: reference() }),
    }
}

impl Aggregate for Accounts {
    type Id = String;
    type State = Account;
    type Event = Event;
    type Command = Command;
    type Error = Refusal;

    fn apply(mut state: Account, event: Event) -> std::result::Result<Account, Refusal> {
        match event {
            Event::Opened { .. } => state.open = true,
            Event::Deposited { cents, .. } => state.cents += cents.cast_signed(),
            Event::Withdrawn { cents, .. } => state.cents -= cents.cast_signed(),
        }
        Ok(state)
    }

    fn handle<'a, 's: 'a>(
        &'a self,
        _: &'s String,
        state: &'s Account,
        command: Command,
    ) -> BoxFuture<'a, std::result::Result<Option<Vec<Event>>, Refusal>> {
        async move { decide(state, command).map(|event| Some(vec![event])) }.boxed()
    }
}

/// Keeps the table of balances.
struct Balances(Client);

impl Projection for Balances {
    type SourceId = String;
    type Event = Event;
    type Error = tokio_postgres_0_5::Error;

    fn project(
        &mut self,
        event: Persisted<String, Event>,
    ) -> BoxFuture<'_, std::result::Result<(), Self::Error>> {
        async move {
            let account = event.source_id().clone();
            let change = match event.take() {
                Event::Opened { .. } => 0,
                Event::Deposited { cents, .. } => cents.cast_signed(),
                Event::Withdrawn { cents, .. } => -cents.cast_signed(),
            };
            let statement = "INSERT INTO balance (id, cents) VALUES ($1, $2)
                             ON CONFLICT (id) DO UPDATE SET cents = balance.cents + $2";
            self.0.execute(statement, &[&account, &change]).await.map(drop)
        }
        .boxed()
    }
}

type Store = EventStore<String, Event>;

/// eventually, open.
pub struct Eventually {
    url: String,
    runtime: Runtime,
    store: Store,
    repository: Repository<Accounts, Store>,
    /// For what is asked beside it.
    client: Client,
}

impl Eventually {
    async fn command(&self, account: u64, command: Command) -> Result<Outcome> {
        use ::eventually::repository::Error;
        use eventually_postgres::store::Error::Postgres;
        let mut repository = self.repository.clone();
        loop {
            let mut root = repository.get(account.to_string()).await?;
            match root.handle(command).await {
                Ok(_) => {}
                Err(Refusal::NoMoney) => return Ok(Outcome::Refused),
                Err(refusal) => return Err(refusal.into()),
            }
            match repository.add(root).await {
                Ok(_) => return Ok(Outcome::Accepted),
                Err(Error::Store(Postgres(error))) if is_conflict(&error) => retried(),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Whether somebody else wrote to the stream first. Its own `is_conflict_error` always says no.
fn is_conflict(error: &tokio_postgres_0_5::Error) -> bool {
    let error = error.source().and_then(|source| source.downcast_ref::<DbError>());
    error.is_some_and(|error| {
        *error.code() == SqlState::RAISE_EXCEPTION
            && error.message().starts_with("invalid aggregate version provided")
    })
}

async fn connect(runtime: &Runtime, url: &str) -> Result<Client> {
    let url = url.to_owned();
    on(runtime, async move {
        let (client, connection) = tokio_postgres_0_5::connect(&url, NoTls).await?;
        tokio_0_2::spawn(async move {
            if let Err(error) = connection.await {
                eprintln!("a connection of eventually has ended: {error}");
            }
        });
        Ok(client)
    })
    .await
}

/// Runs on the other runtime.
async fn on<T: Send + 'static>(
    runtime: &Runtime,
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    runtime.spawn(work).await?
}

impl Contender for Eventually {
    fn about() -> About {
        About {
            name: "eventually",
            store: "PostgreSQL",
            packages: &["eventually", "eventually-postgres"],
            less: &[
                "One connection, no pool.",
                "It reads the last position without a lock, so two writers on two connections can store \
                 the same position.",
                "A conflict has no error of its own: the words of its SQL function tell it here.",
                "A read model and its checkpoint are not written in one transaction: after a crash it gets \
                 its last event again.",
                "Made for tokio 0.2, which runs here beside the newer one.",
            ],
        }
    }

    async fn open(place: &Place) -> Result<Self> {
        let url = place.postgres.clone();
        let runtime = Builder::new().threaded_scheduler().enable_all().build()?;
        let mut client = connect(&runtime, &url).await?;
        let builder = on(&runtime, async move {
            let migrated = EventStoreBuilder::migrate_database(&mut client).await?;
            Ok(migrated.builder(Arc::new(client)))
        })
        .await?;
        let store: Store = builder.build(TYPE).await?;
        let repository = Repository::new(AggregateRootBuilder::from(Accounts), store.clone());
        let client = connect(&runtime, &url).await?;
        let table = "CREATE TABLE balance (id text PRIMARY KEY, cents bigint NOT NULL)";
        client.batch_execute(table).await?;
        Ok(Self { url, runtime, store, repository, client })
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
        let root = self.repository.get(account.to_string()).await?;
        anyhow::ensure!(root.state().open, "there is no such account");
        u64::try_from(root.state().cents).context("the account is overdrawn")
    }

    async fn stored(&self) -> Result<u64> {
        let row = self.client.query_one("SELECT count(*) FROM events", &[]).await?;
        Ok(u64::try_from(row.get::<_, i64>(0))?)
    }

    async fn project(&self) -> Result<Option<()>> {
        let reset = "TRUNCATE balance; DELETE FROM subscriptions";
        self.client.batch_execute(reset).await?;
        let last = "SELECT coalesce(max(sequence_number), -1) FROM events";
        let last: i64 = self.client.query_one(last, &[]).await?.get(0);

        let url = self.url.clone();
        let subscriber =
            on(&self.runtime, async move { Ok(EventSubscriber::<String, Event>::new(&url, TYPE).await?) });
        let subscriber = subscriber.await?;
        // A connection of its own: on the one that streams the events, the first checkpoint would wait for
        // the last event.
        let checkpoints = Arc::new(connect(&self.runtime, &self.url).await?);
        let subscriptions = PersistentBuilder::new(checkpoints, self.store.clone(), subscriber);
        let subscription = subscriptions.get_or_create("balances".to_owned()).await?;
        let balances = Balances(connect(&self.runtime, &self.url).await?);
        let mut projector = Projector::new(Arc::new(RwLock::new(balances)), subscription);
        let (abort, aborted) = futures::future::AbortHandle::new_pair();
        let run = async move { projector.run().await };
        let mut running = self.runtime.spawn(futures::future::Abortable::new(run, aborted));

        let at = "SELECT last_sequence_number FROM subscriptions WHERE name = 'balances'";
        loop {
            if self.client.query_one(at, &[]).await?.get::<_, i64>(0) >= last {
                break;
            }
            if let Some(ended) = (&mut running).now_or_never() {
                ended??.context("the projector has ended")?;
                bail!("the projector has ended");
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        abort.abort();
        Ok(Some(()))
    }

    async fn projected(&self, account: u64) -> Result<Option<u64>> {
        let statement = "SELECT cents FROM balance WHERE id = $1";
        let row = self.client.query_opt(statement, &[&account.to_string()]).await?;
        Ok(row.map(|row| u64::try_from(row.get::<_, i64>(0))).transpose()?)
    }

    async fn close(self) -> Result<()> {
        drop((self.store, self.repository, self.client));
        self.runtime.shutdown_background();
        Ok(())
    }
}
