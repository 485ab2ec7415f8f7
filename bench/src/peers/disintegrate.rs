//! [disintegrate](https://docs.rs/disintegrate) with
//! [disintegrate-postgres](https://docs.rs/disintegrate-postgres): decisions over the events of an account,
//! each guarded by its own query, and a read model that its listener keeps.
//!
//! As in its bank: a withdrawal is decided on all of the account's postings, and a deposit in between does
//! not make it stale. A deposit is decided on whether the account is open.

use std::str::FromStr as _;
use std::time::Duration;

use ::disintegrate::serde::json::Json;
use ::disintegrate::{
    Decision, DecisionError, Event, EventId, EventListener, EventSourcedStateStore, IntoState, IntoStatePart,
    LoadState, MultiState, NoSnapshot, PersistedEvent, StateMutate, StateQuery, StreamQuery, event_types,
    query, union,
};
use anyhow::{Result, bail};
use async_trait::async_trait;
use disintegrate_postgres::{
    PgDecisionMaker, PgEventId, PgEventListener, PgEventListenerConfig, PgEventStore, decision_maker,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tokio::sync::oneshot;

use crate::contender::{About, Contender, Outcome, Place, REFERENCE};
use crate::retried;

#[derive(Clone, Debug, PartialEq, Eq, Event, Serialize, Deserialize)]
#[stream(OpeningEvent, [Opened])]
#[stream(PostingEvent, [Deposited, Withdrawn])]
enum BankEvent {
    Opened {
        #[id]
        account: i64,
        reference: String,
    },
    Deposited {
        #[id]
        account: i64,
        cents: u64,
        reference: String,
    },
    Withdrawn {
        #[id]
        account: i64,
        cents: u64,
        reference: String,
    },
}

/// Whether an account is open.
#[derive(Clone, Debug, Default, StateQuery, Serialize, Deserialize)]
#[state_query(OpeningEvent)]
struct Opening {
    #[id]
    account: i64,
    open: bool,
}

impl Opening {
    fn of(account: i64) -> Self {
        Self { account, open: false }
    }
}

impl StateMutate for Opening {
    fn mutate(&mut self, event: OpeningEvent) {
        match event {
            OpeningEvent::Opened { .. } => self.open = true,
        }
    }
}

/// The balance of an account.
#[derive(Clone, Debug, Default, StateQuery, Serialize, Deserialize)]
#[state_query(PostingEvent)]
struct Postings {
    #[id]
    account: i64,
    cents: i64,
}

impl Postings {
    fn of(account: i64) -> Self {
        Self { account, cents: 0 }
    }
}

impl StateMutate for Postings {
    fn mutate(&mut self, event: PostingEvent) {
        match event {
            PostingEvent::Deposited { cents, .. } => self.cents += cents.cast_signed(),
            PostingEvent::Withdrawn { cents, .. } => self.cents -= cents.cast_signed(),
        }
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

#[derive(Clone, Copy)]
struct Open {
    account: i64,
}

impl Decision for Open {
    type Event = BankEvent;
    type StateQuery = Opening;
    type Error = Refusal;

    fn state_query(&self) -> Opening {
        Opening::of(self.account)
    }

    fn process(&self, opening: &Opening) -> std::result::Result<Vec<BankEvent>, Refusal> {
        if opening.open {
            return Err(Refusal::Open);
        }
        Ok(vec![BankEvent::Opened { account: self.account, reference: REFERENCE.to_owned() }])
    }
}

#[derive(Clone, Copy)]
struct Deposit {
    account: i64,
    cents: u64,
}

impl Decision for Deposit {
    type Event = BankEvent;
    type StateQuery = Opening;
    type Error = Refusal;

    fn state_query(&self) -> Opening {
        Opening::of(self.account)
    }

    fn process(&self, opening: &Opening) -> std::result::Result<Vec<BankEvent>, Refusal> {
        if !opening.open {
            return Err(Refusal::NoAccount);
        }
        let Self { account, cents } = *self;
        Ok(vec![BankEvent::Deposited { account, cents, reference: REFERENCE.to_owned() }])
    }
}

#[derive(Clone, Copy)]
struct Withdraw {
    account: i64,
    cents: u64,
}

impl Decision for Withdraw {
    type Event = BankEvent;
    type StateQuery = (Opening, Postings);
    type Error = Refusal;

    fn state_query(&self) -> Self::StateQuery {
        (Opening::of(self.account), Postings::of(self.account))
    }

    fn validation_query<ID: EventId>(&self) -> Option<StreamQuery<ID, BankEvent>> {
        let (opening, postings) = self.state_query();
        Some(union!(&opening, postings.exclude_events(event_types!(BankEvent, [Deposited]))))
    }

    fn process(
        &self,
        (opening, postings): &Self::StateQuery,
    ) -> std::result::Result<Vec<BankEvent>, Refusal> {
        let Self { account, cents } = *self;
        if !opening.open {
            return Err(Refusal::NoAccount);
        }
        if postings.cents < cents.cast_signed() {
            return Err(Refusal::NoMoney);
        }
        Ok(vec![BankEvent::Withdrawn { account, cents, reference: REFERENCE.to_owned() }])
    }
}

/// Keeps the table of balances.
struct Balances {
    query: StreamQuery<PgEventId, BankEvent>,
    pool: PgPool,
}

#[async_trait]
impl EventListener<PgEventId, BankEvent> for Balances {
    type Error = sqlx::Error;

    fn id(&self) -> &'static str {
        "balances"
    }

    fn query(&self) -> &StreamQuery<PgEventId, BankEvent> {
        &self.query
    }

    // An event can come again: the row knows which one it has seen last.
    async fn handle(&self, event: PersistedEvent<PgEventId, BankEvent>) -> sqlx::Result<()> {
        let event_id = event.id();
        let (account, change) = match event.into_inner() {
            BankEvent::Opened { account, .. } => {
                sqlx::query("INSERT INTO balance VALUES ($1, 0, $2) ON CONFLICT DO NOTHING")
                    .bind(account)
                    .bind(event_id)
                    .execute(&self.pool)
                    .await?;
                return Ok(());
            }
            BankEvent::Deposited { account, cents, .. } => (account, cents.cast_signed()),
            BankEvent::Withdrawn { account, cents, .. } => (account, -cents.cast_signed()),
        };
        sqlx::query(
            "UPDATE balance SET cents = cents + $2, event_id = $3 WHERE account = $1 AND event_id < $3",
        )
        .bind(account)
        .bind(change)
        .bind(event_id)
        .execute(&self.pool)
        .await?;
        Ok(())
    }
}

type Store = PgEventStore<BankEvent, Json<BankEvent>>;
type StateStore = EventSourcedStateStore<PgEventId, BankEvent, Store, NoSnapshot>;

/// disintegrate, open.
pub struct Disintegrate {
    pool: PgPool,
    store: Store,
    decisions: PgDecisionMaker<BankEvent, Json<BankEvent>, NoSnapshot>,
}

impl Disintegrate {
    async fn decide<D>(&self, decision: D) -> Result<Outcome>
    where
        D: Decision<Event = BankEvent, Error = Refusal> + Copy,
        D::StateQuery: Serialize + DeserializeOwned + IntoStatePart<PgEventId, D::StateQuery> + 'static,
        <D::StateQuery as IntoStatePart<PgEventId, D::StateQuery>>::Target: Send
            + Sync
            + Serialize
            + DeserializeOwned
            + IntoState<D::StateQuery>
            + MultiState<PgEventId, BankEvent>,
    {
        loop {
            match self.decisions.make(decision).await {
                Ok(_) => return Ok(Outcome::Accepted),
                Err(DecisionError::Domain(Refusal::NoMoney)) => return Ok(Outcome::Refused),
                Err(DecisionError::StateStore(error)) if is_conflict(error.as_ref()) => retried(),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Whether somebody else wrote first: its own error, which it makes of a conflict at the commit, or the
/// same failure of the transaction at an earlier statement.
fn is_conflict(error: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    use disintegrate_postgres::Error;
    match error.downcast_ref::<Error>() {
        Some(Error::Concurrency) => true,
        Some(Error::Database(sqlx::Error::Database(error))) => error.code().as_deref() == Some("40001"),
        _ => false,
    }
}

impl Contender for Disintegrate {
    fn about() -> About {
        About {
            name: "disintegrate",
            store: "PostgreSQL",
            packages: &["disintegrate", "disintegrate-postgres"],
            less: &[
                "Its newest version needs PostgreSQL 16; on an older server one number in its SQL is \
                 rewritten here.",
                "A read model is written outside the transaction of its checkpoint: it can get an event \
                 again, and has to see that by itself.",
            ],
        }
    }

    async fn open(place: &Place) -> Result<Self> {
        // Older servers than PostgreSQL 16 do not read a number as one of its functions writes it.
        let options = PgConnectOptions::from_str(&place.postgres)?;
        let options = options.options([("check_function_bodies", "off")]);
        let pool = PgPoolOptions::new().max_connections(place.connections).connect_with(options).await?;
        let create = "CREATE TABLE balance (account bigint PRIMARY KEY, cents bigint NOT NULL, \
                      event_id bigint NOT NULL)";
        sqlx::query(create).execute(&pool).await?;
        let store = PgEventStore::try_new(pool.clone(), Json::default()).await?;
        let function = "SELECT pg_get_functiondef('event_store_begin_epoch'::regproc)";
        let function: String = sqlx::query_scalar(function).fetch_one(&pool).await?;
        sqlx::query(&function.replace("0xFFFFFFFF", "4294967295")).execute(&pool).await?;
        Ok(Self { pool, decisions: decision_maker(store.clone(), NoSnapshot), store })
    }

    async fn open_account(&self, account: u64) -> Result<()> {
        self.decide(Open { account: account.cast_signed() }).await.map(drop)
    }

    async fn deposit(&self, account: u64, cents: u64) -> Result<Outcome> {
        self.decide(Deposit { account: account.cast_signed(), cents }).await
    }

    async fn withdraw(&self, account: u64, cents: u64) -> Result<Outcome> {
        self.decide(Withdraw { account: account.cast_signed(), cents }).await
    }

    async fn rehydrate(&self, account: u64) -> Result<u64> {
        let account = account.cast_signed();
        let states: StateStore = EventSourcedStateStore::new(self.store.clone(), NoSnapshot);
        let loaded = states.load((Opening::of(account), Postings::of(account))).await;
        let loaded = loaded.map_err(anyhow::Error::from_boxed)?;
        let (_, postings) = loaded.state();
        Ok(u64::try_from(postings.cents)?)
    }

    async fn stored(&self) -> Result<u64> {
        let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM event").fetch_one(&self.pool).await?;
        Ok(u64::try_from(rows)?)
    }

    async fn project(&self) -> Result<Option<()>> {
        sqlx::query("TRUNCATE balance").execute(&self.pool).await?;
        let last: Option<i64> =
            sqlx::query_scalar("SELECT max(event_id) FROM event").fetch_one(&self.pool).await?;
        let (stop, stopped) = oneshot::channel::<()>();
        let listener = PgEventListener::builder(self.store.clone()).register_listener(
            Balances { query: query!(BankEvent), pool: self.pool.clone() },
            PgEventListenerConfig::poller(Duration::from_secs(5)).with_notifier(),
        );
        let listening = tokio::spawn(listener.start_with_shutdown(async { drop(stopped.await) }));
        loop {
            // Its table is there as soon as it has started.
            let at: Option<i64> = sqlx::query_scalar(
                "SELECT last_processed_event_id FROM event_listener WHERE id = 'balances'",
            )
            .fetch_optional(&self.pool)
            .await
            .ok()
            .flatten();
            if at >= last.or(Some(0)) {
                break;
            }
            if listening.is_finished() {
                listening.await??;
                bail!("the listener has ended at event {at:?} of {last:?}");
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        drop(stop);
        listening.await??;
        // Its documented way to build a read model anew, for whoever asks next.
        sqlx::query("UPDATE event_listener SET last_processed_event_id = 0").execute(&self.pool).await?;
        Ok(Some(()))
    }

    async fn projected(&self, account: u64) -> Result<Option<u64>> {
        let cents: Option<i64> = sqlx::query_scalar("SELECT cents FROM balance WHERE account = $1")
            .bind(account.cast_signed())
            .fetch_optional(&self.pool)
            .await?;
        Ok(cents.map(u64::try_from).transpose()?)
    }

    async fn close(self) -> Result<()> {
        self.pool.close().await;
        Ok(())
    }
}
