//! In memory by hand: events as values, or as their JSON.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::Context as _;

use super::Event;
use crate::contender::{About, Contender, Outcome, Place};

/// With `JSON`, events are encoded when they are stored and decoded when they are read.
#[derive(Debug, Default)]
pub struct Memory<const JSON: bool>(Mutex<Bank>);

#[derive(Debug, Default)]
struct Bank {
    log: Vec<(u64, Stored)>,
    /// For each account its balance and the places of its events in the log.
    accounts: HashMap<u64, (u64, Vec<usize>)>,
    summaries: HashMap<u64, u64>,
}

#[derive(Debug)]
enum Stored {
    Value(Event),
    Json(&'static str, Vec<u8>),
}

impl Stored {
    fn fold(&self, balance: Option<u64>) -> anyhow::Result<u64> {
        match self {
            Self::Value(event) => event.fold(balance),
            Self::Json(name, payload) => Event::decode(name, payload)?.fold(balance),
        }
    }
}

impl<const JSON: bool> Memory<JSON> {
    fn bank(&self) -> MutexGuard<'_, Bank> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn store(&self, account: u64, event: Event) -> anyhow::Result<Outcome> {
        let mut bank = self.bank();
        let bank = &mut *bank;
        let balance = bank.accounts.get(&account).map(|(balance, _)| *balance);
        if let (Event::Withdrawn(event), Some(balance)) = (&event, balance)
            && event.cents > balance
        {
            return Ok(Outcome::Refused);
        }
        let balance = event.fold(balance)?;
        let stored = if JSON { Stored::Json(event.name(), event.encode()?) } else { Stored::Value(event) };
        let state = bank.accounts.entry(account).or_default();
        state.0 = balance;
        state.1.push(bank.log.len());
        bank.log.push((account, stored));
        Ok(Outcome::Accepted)
    }
}

impl<const JSON: bool> Contender for Memory<JSON> {
    fn about() -> About {
        About {
            name: if JSON { "by-hand-json" } else { "by-hand-fold" },
            store: "memory",
            packages: &[],
            less: if JSON {
                &["No framework: a list of encoded events and a map of balances behind one lock."]
            } else {
                &["No framework: a list of events and a map of balances behind one lock.", "No JSON."]
            },
        }
    }

    async fn open(_: &Place) -> anyhow::Result<Self> {
        Ok(Self::default())
    }

    async fn open_account(&self, account: u64) -> anyhow::Result<()> {
        self.store(account, Event::opened()).map(drop)
    }

    async fn deposit(&self, account: u64, cents: u64) -> anyhow::Result<Outcome> {
        self.store(account, Event::deposited(cents))
    }

    async fn withdraw(&self, account: u64, cents: u64) -> anyhow::Result<Outcome> {
        self.store(account, Event::withdrawn(cents))
    }

    async fn rehydrate(&self, account: u64) -> anyhow::Result<u64> {
        let bank = self.bank();
        let (_, places) = bank.accounts.get(&account).context("the account is not open")?;
        let mut balance = None;
        for place in places {
            balance = Some(bank.log[*place].1.fold(balance)?);
        }
        balance.context("the account has no event")
    }

    async fn stored(&self) -> anyhow::Result<u64> {
        Ok(self.bank().log.len() as u64)
    }

    async fn project(&self) -> anyhow::Result<Option<()>> {
        let mut bank = self.bank();
        let Bank { log, summaries, .. } = &mut *bank;
        summaries.clear();
        for (account, event) in log {
            let balance = event.fold(summaries.get(account).copied())?;
            summaries.insert(*account, balance);
        }
        Ok(Some(()))
    }

    async fn projected(&self, account: u64) -> anyhow::Result<Option<u64>> {
        Ok(self.bank().summaries.get(&account).copied())
    }

    async fn close(self) -> anyhow::Result<()> {
        Ok(())
    }
}
