//! The bank: what happens to an account, what may be asked of it, and how it is read.

use cqrs::prelude::*;

use crate::values::{AccountId, Czk, Day, Debit};

#[derive(Event, Serialize, Deserialize)]
pub struct Opened { pub on: Day, pub overdraft: Overdraft }
#[derive(Event, Serialize, Deserialize)]
pub struct Deposited { pub on: Day, pub amount: Czk }
#[derive(Event, Serialize, Deserialize)]
pub struct Withdrawn { pub on: Day, pub amount: Czk, pub kind: Debit }
#[derive(Event, Serialize, Deserialize)]
pub struct Declined { pub on: Day, pub amount: Czk, pub kind: Debit }

#[derive(Command)]
pub struct Open { #[id] pub account: AccountId, pub on: Day, pub overdraft: Overdraft }
#[derive(Command)]
pub struct Deposit { #[id] pub account: AccountId, pub on: Day, pub amount: Czk }
#[derive(Command)]
pub struct Withdraw { #[id] pub account: AccountId, pub on: Day, pub amount: Czk, pub kind: Debit }
/// Keeps on record that a withdrawal was refused.
#[derive(Command)]
pub struct Decline { #[id] pub account: AccountId, pub on: Day, pub amount: Czk, pub kind: Debit }

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Overdraft { Allowed, Refused }

#[derive(Debug, PartialEq, thiserror::Error)]
pub enum AccountError {
    #[error("a balance of {balance} CZK does not cover {amount} CZK")]
    Overdraft { balance: Czk, amount: Czk },
}

pub struct Account { balance: Czk, overdraft: Overdraft }

#[aggregate(id = AccountId, error = AccountError)]
impl Account {
    #[handle]                                   // no `self`: this creates; a second `Open` is refused
    fn open(cmd: Open) -> Opened { Opened { on: cmd.on, overdraft: cmd.overdraft } }
    #[handle]                                   // `&self`: the account must exist
    fn deposit(&self, cmd: Deposit) -> Deposited { Deposited { on: cmd.on, amount: cmd.amount } }
    #[handle]
    fn withdraw(&self, cmd: Withdraw) -> Result<Withdrawn, AccountError> {
        if self.overdraft == Overdraft::Refused && cmd.amount > self.balance {
            return Err(AccountError::Overdraft { balance: self.balance, amount: cmd.amount });
        }
        Ok(Withdrawn { on: cmd.on, amount: cmd.amount, kind: cmd.kind })
    }
    #[handle]
    fn decline(&self, cmd: Decline) -> Declined {
        Declined { on: cmd.on, amount: cmd.amount, kind: cmd.kind }
    }

    #[apply] fn opened(e: &Opened) -> Self { Account { balance: Czk::ZERO, overdraft: e.overdraft } }
    #[apply] fn deposited(&mut self, e: &Deposited) { self.balance += e.amount }
    #[apply] fn withdrawn(&mut self, e: &Withdrawn) { self.balance -= e.amount }
    #[apply] fn declined(&mut self, _: &Declined) {}
}

/// A read model: one document per account, kept by the engine.
#[derive(Default, Serialize, Deserialize)]
pub struct Summary { pub balance: Czk, pub lowest: Czk, pub postings: u64 }

#[projection(name = "account-summary", key = AccountId)]
impl Summary {
    #[on] fn opened(_: &Opened) -> Self { Summary::default() }
    #[on] fn deposited(&mut self, e: &Deposited) { self.balance += e.amount; self.postings += 1 }
    #[on] fn withdrawn(&mut self, e: &Withdrawn) {
        self.balance -= e.amount;
        self.lowest = self.lowest.min(self.balance);
        self.postings += 1;
    }
}
