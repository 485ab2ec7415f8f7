//! The domain as a user of this framework writes it.

use cqrs::prelude::*;

#[derive(Event, Serialize, Deserialize)]
pub struct Opened {
    pub reference: String,
}
#[derive(Event, Serialize, Deserialize)]
pub struct Deposited {
    pub cents: u64,
    pub reference: String,
}
#[derive(Event, Serialize, Deserialize)]
pub struct Withdrawn {
    pub cents: u64,
    pub reference: String,
}

#[derive(Command)]
pub struct Open {
    #[id]
    pub account: u64,
    pub reference: String,
}
#[derive(Command)]
pub struct Deposit {
    #[id]
    pub account: u64,
    pub cents: u64,
    pub reference: String,
}
#[derive(Command)]
pub struct Withdraw {
    #[id]
    pub account: u64,
    pub cents: u64,
    pub reference: String,
}

#[derive(Debug, thiserror::Error)]
#[error("a balance of {balance} does not cover that")]
pub struct Overdraft {
    balance: u64,
}

pub struct Account {
    pub balance: u64,
}

#[aggregate(id = u64, error = Overdraft)]
impl Account {
    #[handle]
    fn open(cmd: Open) -> Opened {
        Opened { reference: cmd.reference }
    }
    #[handle]
    fn deposit(&self, cmd: Deposit) -> Deposited {
        Deposited { cents: cmd.cents, reference: cmd.reference }
    }
    #[handle]
    fn withdraw(&self, cmd: Withdraw) -> Result<Withdrawn, Overdraft> {
        if cmd.cents > self.balance {
            return Err(Overdraft { balance: self.balance });
        }
        Ok(Withdrawn { cents: cmd.cents, reference: cmd.reference })
    }
    #[apply]
    fn opened(_: &Opened) -> Self {
        Self { balance: 0 }
    }
    #[apply]
    fn deposited(&mut self, event: &Deposited) {
        self.balance += event.cents;
    }
    #[apply]
    fn withdrawn(&mut self, event: &Withdrawn) {
        self.balance -= event.cents;
    }
}

/// The read model: an account and its balance.
#[derive(Serialize, Deserialize)]
pub struct Summary {
    pub balance: u64,
}

#[projection(name = "summary", key = u64)]
impl Summary {
    #[on]
    fn opened(_: &Opened) -> Self {
        Self { balance: 0 }
    }
    #[on]
    fn deposited(&mut self, event: &Deposited) {
        self.balance += event.cents;
    }
    #[on]
    fn withdrawn(&mut self, event: &Withdrawn) {
        self.balance -= event.cents;
    }
}
