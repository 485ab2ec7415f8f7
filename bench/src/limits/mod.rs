//! What is possible without a framework: the same bank by hand. The hand knows the state of all accounts,
//! so that a command reads nothing, and keeps what a program needs at least of an event: position, account,
//! version, name and payload.

pub mod logs;
pub mod memory;
pub mod postgres;
pub mod sqlite;

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

use crate::contender::REFERENCE;

/// Who writes each event alone. They read as those beside them who write many at once, so where much is to be
/// read they are left out: on a slow disk they take minutes to have it.
pub const SINGLE: [&str; 2] = ["by-hand-sqlite-single", "by-hand-postgres-single"];

/// An event as the program has it.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    Opened(Opened),
    Deposited(Posted),
    Withdrawn(Posted),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Opened {
    pub reference: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Posted {
    pub cents: u64,
    pub reference: String,
}

impl Event {
    pub fn opened() -> Self {
        Self::Opened(Opened { reference: REFERENCE.to_owned() })
    }

    pub fn deposited(cents: u64) -> Self {
        Self::Deposited(Posted { cents, reference: REFERENCE.to_owned() })
    }

    pub fn withdrawn(cents: u64) -> Self {
        Self::Withdrawn(Posted { cents, reference: REFERENCE.to_owned() })
    }

    pub fn name(&self) -> &'static str {
        match self {
            Self::Opened(_) => "Opened",
            Self::Deposited(_) => "Deposited",
            Self::Withdrawn(_) => "Withdrawn",
        }
    }

    pub fn encode(&self) -> anyhow::Result<Vec<u8>> {
        Ok(match self {
            Self::Opened(event) => serde_json::to_vec(event)?,
            Self::Deposited(event) | Self::Withdrawn(event) => serde_json::to_vec(event)?,
        })
    }

    pub fn decode(name: &str, payload: &[u8]) -> anyhow::Result<Self> {
        Ok(match name {
            "Opened" => Self::Opened(serde_json::from_slice(payload)?),
            "Deposited" => Self::Deposited(serde_json::from_slice(payload)?),
            "Withdrawn" => Self::Withdrawn(serde_json::from_slice(payload)?),
            other => bail!("{other:?} is no event of the bank"),
        })
    }

    /// Folds it into a balance; `None` is an account that is not open.
    pub fn fold(&self, balance: Option<u64>) -> anyhow::Result<u64> {
        match (self, balance) {
            (Self::Opened(_), None) => Ok(0),
            (Self::Opened(_), Some(_)) => bail!("an account was opened twice"),
            (Self::Deposited(event), Some(balance)) => Ok(balance + event.cents),
            (Self::Withdrawn(event), Some(balance)) => balance.checked_sub(event.cents).context("overdrawn"),
            (_, None) => bail!("an account that is not open has a posting"),
        }
    }
}

/// A row that is ready to be written.
#[derive(Clone, Debug)]
pub struct Row {
    pub account: u64,
    pub version: u64,
    pub name: &'static str,
    pub payload: Vec<u8>,
}

/// What the hand knows of all accounts.
#[derive(Debug, Default)]
pub struct Known(Mutex<HashMap<u64, (u64, u64)>>);

impl Known {
    fn all(&self) -> MutexGuard<'_, HashMap<u64, (u64, u64)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Decides what happens to an account, as if what was decided before is written, and hands it on while
    /// nobody else decides, so that the versions of an account are handed on in their order. `None` if the
    /// account does not have the money.
    pub fn decide<T>(
        &self,
        account: u64,
        event: &Event,
        hand_on: impl FnOnce(Row) -> T,
    ) -> anyhow::Result<Option<T>> {
        let payload = event.encode()?;
        let mut all = self.all();
        let state = all.get(&account).copied();
        if let (Event::Withdrawn(event), Some((balance, _))) = (event, state)
            && event.cents > balance
        {
            return Ok(None);
        }
        let balance = event.fold(state.map(|(balance, _)| balance))?;
        let version = state.map_or(0, |(_, version)| version) + 1;
        all.insert(account, (balance, version));
        Ok(Some(hand_on(Row { account, version, name: event.name(), payload })))
    }
}
