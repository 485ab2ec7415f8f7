//! [fmodel-rust](https://docs.rs/fmodel-rust): a decider behind its event-sourced aggregate, and its
//! materialized view. It brings no store; its documentation shows a vector behind a lock, and here it is a
//! map of accounts behind a lock.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use anyhow::{Context as _, Result};
use fmodel_rust::aggregate::{EventRepository, EventSourcedAggregate};
use fmodel_rust::decider::Decider;
use fmodel_rust::materialized_view::{MaterializedView, ViewStateRepository};
use fmodel_rust::view::View;

use crate::contender::{About, Contender, Outcome, Place, REFERENCE};

#[derive(Clone, Copy, Debug)]
pub(super) enum Command {
    Open(u64),
    Deposit(u64, u64),
    Withdraw(u64, u64),
}

impl Command {
    fn account(self) -> u64 {
        match self {
            Self::Open(account) | Self::Deposit(account, _) | Self::Withdraw(account, _) => account,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Event {
    Opened { account: u64, reference: String },
    Deposited { account: u64, cents: u64, reference: String },
    Withdrawn { account: u64, cents: u64, reference: String },
}

impl Event {
    fn account(&self) -> u64 {
        match self {
            Self::Opened { account, .. }
            | Self::Deposited { account, .. }
            | Self::Withdrawn { account, .. } => *account,
        }
    }

    fn change(&self) -> i64 {
        match self {
            Self::Opened { .. } => 0,
            Self::Deposited { cents, .. } => cents.cast_signed(),
            Self::Withdrawn { cents, .. } => -cents.cast_signed(),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("the account is open already")]
    Open,
    #[error("there is no such account")]
    NoAccount,
    #[error("the account does not have the money")]
    NoMoney,
}

/// An account, folded from its events.
#[derive(Clone, Debug)]
pub(super) struct Account {
    open: bool,
    cents: i64,
}

type Decide = Decider<'static, Command, Account, Event, Refusal>;

fn decider() -> Decide {
    Decider {
        decide: Box::new(|command: &Command, state: &Account| {
            let reference = || REFERENCE.to_owned();
            Ok(vec![match *command {
                Command::Open(_) if state.open => return Err(Refusal::Open),
                Command::Open(account) => Event::Opened { account, reference: reference() },
                _ if !state.open => return Err(Refusal::NoAccount),
                Command::Deposit(account, cents) => {
                    Event::Deposited { account, cents, reference: reference() }
                }
                Command::Withdraw(_, cents) if state.cents < cents.cast_signed() => {
                    return Err(Refusal::NoMoney);
                }
                Command::Withdraw(account, cents) => {
                    Event::Withdrawn { account, cents, reference: reference() }
                }
            }])
        }),
        evolve: Box::new(|state: &Account, event: &Event| Account {
            open: true,
            cents: state.cents + event.change(),
        }),
        initial_state: Box::new(|| Account { open: false, cents: 0 }),
    }
}

/// An account's events with their versions.
type Stream = Vec<(Event, u64)>;

/// The events of each account.
#[derive(Clone, Default)]
pub(super) struct Log(Arc<RwLock<HashMap<u64, Stream>>>);

impl Log {
    fn events(&self, account: u64) -> Stream {
        let log = self.0.read().unwrap_or_else(PoisonError::into_inner);
        log.get(&account).cloned().unwrap_or_default()
    }
}

impl EventRepository<Command, Event, u64, Refusal> for Log {
    async fn fetch_events(&self, command: &Command) -> std::result::Result<Stream, Refusal> {
        Ok(self.events(command.account()))
    }

    async fn save(&self, events: &[Event]) -> std::result::Result<Stream, Refusal> {
        let mut log = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let saved = events.iter().map(|event| {
            let stream = log.entry(event.account()).or_default();
            let entry = (event.clone(), stream.len() as u64);
            stream.push(entry.clone());
            entry
        });
        Ok(saved.collect())
    }

    async fn version_provider(&self, event: &Event) -> std::result::Result<Option<u64>, Refusal> {
        let log = self.0.read().unwrap_or_else(PoisonError::into_inner);
        Ok(log.get(&event.account()).and_then(|stream| stream.last()).map(|(_, version)| *version))
    }
}

/// A balance as its view sees it.
#[derive(Clone, Debug)]
struct Balance {
    account: u64,
    cents: i64,
}

#[derive(Clone, Default)]
struct Balances(Arc<RwLock<HashMap<u64, Balance>>>);

impl ViewStateRepository<Event, Balance, Refusal> for Balances {
    async fn fetch_state(&self, event: &Event) -> std::result::Result<Option<Balance>, Refusal> {
        let balances = self.0.read().unwrap_or_else(PoisonError::into_inner);
        Ok(balances.get(&event.account()).cloned())
    }

    async fn save(&self, state: &Balance) -> std::result::Result<Balance, Refusal> {
        let mut balances = self.0.write().unwrap_or_else(PoisonError::into_inner);
        balances.insert(state.account, state.clone());
        Ok(state.clone())
    }
}

fn view() -> View<'static, Balance, Event> {
    View {
        evolve: Box::new(|state: &Balance, event: &Event| Balance {
            account: event.account(),
            cents: state.cents + event.change(),
        }),
        initial_state: Box::new(|| Balance { account: 0, cents: 0 }),
    }
}

pub(super) type Aggregate = EventSourcedAggregate<Command, Account, Event, Log, Decide, u64, Refusal>;

/// fmodel-rust, open.
pub struct Fmodel {
    log: Log,
    pub(super) aggregate: Aggregate,
    balances: Balances,
}

impl Fmodel {
    async fn command(&self, command: Command) -> Result<Outcome> {
        match self.aggregate.handle(&command).await {
            Ok(_) => Ok(Outcome::Accepted),
            Err(Refusal::NoMoney) => Ok(Outcome::Refused),
            Err(refusal) => Err(refusal.into()),
        }
    }
}

impl Contender for Fmodel {
    fn about() -> About {
        About {
            name: "fmodel-rust",
            store: "memory",
            packages: &["fmodel-rust"],
            less: &[
                "Brings no store: this one is a map of ours, which keeps events as values, not as JSON.",
                "No version check: what saves events is not told what they were decided on, so two \
                 commands at once can spend the same money.",
                "No order over all streams.",
                "Nothing feeds a read model or remembers where it is: the loop is ours, in memory.",
            ],
        }
    }

    async fn open(_: &Place) -> Result<Self> {
        let log = Log::default();
        let aggregate = EventSourcedAggregate::new(log.clone(), decider());
        Ok(Self { log, aggregate, balances: Balances::default() })
    }

    async fn open_account(&self, account: u64) -> Result<()> {
        self.command(Command::Open(account)).await.map(drop)
    }

    async fn deposit(&self, account: u64, cents: u64) -> Result<Outcome> {
        self.command(Command::Deposit(account, cents)).await
    }

    async fn withdraw(&self, account: u64, cents: u64) -> Result<Outcome> {
        self.command(Command::Withdraw(account, cents)).await
    }

    async fn rehydrate(&self, account: u64) -> Result<u64> {
        let Decider { evolve, initial_state, .. } = decider();
        let events = self.log.events(account);
        let state = events.iter().fold(initial_state(), |state, (event, _)| evolve(&state, event));
        anyhow::ensure!(state.open, "there is no such account");
        u64::try_from(state.cents).context("the account is overdrawn")
    }

    // There is nothing but the map.
    async fn stored(&self) -> Result<u64> {
        let log = self.log.0.read().unwrap_or_else(PoisonError::into_inner);
        Ok(log.values().map(|stream| stream.len() as u64).sum())
    }

    async fn project(&self) -> Result<Option<()>> {
        let accounts: Vec<u64> =
            self.log.0.read().unwrap_or_else(PoisonError::into_inner).keys().copied().collect();
        self.balances.0.write().unwrap_or_else(PoisonError::into_inner).clear();
        let view = MaterializedView::new(self.balances.clone(), view());
        for account in accounts {
            for (event, _) in self.log.events(account) {
                view.handle(&event).await?;
            }
        }
        Ok(Some(()))
    }

    async fn projected(&self, account: u64) -> Result<Option<u64>> {
        let balances = self.balances.0.read().unwrap_or_else(PoisonError::into_inner);
        Ok(balances.get(&account).map(|balance| u64::try_from(balance.cents)).transpose()?)
    }

    async fn close(self) -> Result<()> {
        Ok(())
    }
}
