// The bank that the examples in the documentation and the tests are about.

use std::fmt;

use cqrs::prelude::*;

#[derive(Event, Serialize, Deserialize)]
pub struct Opened {
    pub owner: String,
}
#[derive(Event, Serialize, Deserialize)]
pub struct Deposited {
    pub cents: u64,
}
#[derive(Event, Serialize, Deserialize)]
pub struct Withdrawn {
    pub cents: u64,
}
#[derive(Event, Serialize, Deserialize)]
pub struct FeeCharged {
    pub cents: u64,
}

#[derive(Command)]
pub struct Open {
    #[id]
    pub account: u64,
    pub owner: String,
}
#[derive(Command)]
pub struct Deposit {
    #[id]
    pub account: u64,
    pub cents: u64,
}
/// Takes out the money, and a fee of one cent from 1000 cents on.
#[derive(Command)]
pub struct Withdraw {
    #[id]
    pub account: u64,
    pub cents: u64,
}

#[derive(Debug, PartialEq)]
pub enum AccountError {
    Overdraft { balance: u64 },
    NothingToDo,
}

impl fmt::Display for AccountError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Overdraft { balance } => write!(f, "there are only {balance} cents"),
            Self::NothingToDo => f.write_str("nothing to do"),
        }
    }
}

impl std::error::Error for AccountError {}

pub struct Account {
    pub balance: u64,
}

#[aggregate(id = u64, error = AccountError)]
impl Account {
    #[handle]
    fn open(cmd: Open) -> Opened {
        Opened { owner: cmd.owner }
    }
    #[handle]
    fn deposit(&self, cmd: Deposit) -> Option<Deposited> {
        (cmd.cents > 0).then_some(Deposited { cents: cmd.cents })
    }
    #[handle]
    fn withdraw(&self, cmd: Withdraw) -> Result<(Withdrawn, Option<FeeCharged>), AccountError> {
        if cmd.cents == 0 {
            return Err(AccountError::NothingToDo);
        }
        if cmd.cents > self.balance {
            return Err(AccountError::Overdraft { balance: self.balance });
        }
        let fee = (cmd.cents >= 1000).then_some(FeeCharged { cents: 1 });
        Ok((Withdrawn { cents: cmd.cents }, fee))
    }

    #[apply]
    fn opened(_: &Opened) -> Self {
        Self { balance: 0 }
    }
    #[apply]
    fn deposited(&mut self, e: &Deposited) {
        self.balance += e.cents;
    }
    #[apply]
    fn withdrawn(&mut self, e: &Withdrawn) {
        self.balance -= e.cents;
    }
    #[apply]
    fn charged(&mut self, e: &FeeCharged) {
        self.balance = self.balance.saturating_sub(e.cents);
    }
}

/// A read model: one document per account.
#[derive(Serialize, Deserialize)]
pub struct Summary {
    pub owner: String,
    pub balance: u64,
    pub postings: u32,
}

#[projection(name = "account-summary", key = u64)]
impl Summary {
    #[on]
    fn opened(e: &Opened) -> Self {
        Self { owner: e.owner.clone(), balance: 0, postings: 0 }
    }
    #[on]
    fn deposited(&mut self, e: &Deposited) {
        self.balance += e.cents;
        self.postings += 1;
    }
    #[on]
    fn withdrawn(&mut self, e: &Withdrawn) {
        self.balance -= e.cents;
        self.postings += 1;
    }
}
