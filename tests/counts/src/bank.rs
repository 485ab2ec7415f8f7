//! The domain: an account that is deposited to, and its balance as a read model.

use std::convert::Infallible;

use cqrs::prelude::*;

/// Money came in.
#[derive(Debug, Event, Serialize, Deserialize)]
pub struct Deposited {
    /// How much, in cents.
    pub cents: u64,
    /// What for.
    pub reference: String,
}

/// Deposits something, once or several times.
#[derive(Debug, Command)]
pub struct Deposit {
    /// The account.
    #[id]
    pub account: u64,
    /// How many events it gives.
    pub times: usize,
}

impl Deposit {
    /// One deposit.
    #[must_use]
    pub fn to(account: u64) -> Self {
        Self { account, times: 1 }
    }
}

/// An account, which is there from the start.
#[derive(Debug, Default)]
pub struct Account {
    /// In cents.
    pub balance: u64,
}

#[aggregate(id = u64, error = Infallible)]
impl Account {
    #[handle]
    fn deposit(&self, cmd: Deposit) -> Vec<Deposited> {
        let one = || Deposited { cents: 500, reference: "invoice 2026-11-0042, at the counter".to_owned() };
        std::iter::repeat_with(one).take(cmd.times).collect()
    }

    #[apply]
    fn deposited(&mut self, event: &Deposited) {
        self.balance += event.cents;
    }
}

/// The balance of an account.
#[derive(Debug, Serialize, Deserialize)]
pub struct Balance {
    /// In cents.
    pub cents: u64,
}

#[projection(name = "balance", key = u64)]
impl Balance {
    #[on]
    fn deposited(balance: Option<Self>, event: &Deposited) -> Self {
        Self { cents: balance.map_or(0, |balance| balance.cents) + event.cents }
    }
}
