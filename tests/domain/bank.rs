//! The program that the target asks for.

use std::fmt;

use cqrs::aggregate::{Misfit, Refusal};
use cqrs::prelude::*;
use cqrs::{Aggregate, Command as _, Event as _, Handle};

use crate::support::{decide, fold, read, stored};

pub type AccountId = u64;

#[derive(Event, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Opened {
    pub owner: String,
}
#[derive(Event, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Deposited {
    pub cents: u64,
}
#[derive(Event, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Withdrawn {
    pub cents: u64,
}

#[derive(Command)]
pub struct Open {
    #[id]
    pub account: AccountId,
    pub owner: String,
}
#[derive(Command)]
pub struct Deposit {
    #[id]
    pub account: AccountId,
    pub cents: u64,
}
#[derive(Command)]
pub struct Withdraw {
    #[id]
    pub account: AccountId,
    pub cents: u64,
}

#[derive(Debug, PartialEq)]
pub enum AccountError {
    Overdraft { balance: u64 },
}

impl fmt::Display for AccountError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Overdraft { balance } = self;
        write!(f, "there are only {balance} cents")
    }
}

impl std::error::Error for AccountError {}

#[derive(Debug)]
pub struct Account {
    balance: u64,
}

#[aggregate(id = AccountId, error = AccountError)]
impl Account {
    #[handle]
    fn open(cmd: Open) -> Result<Opened, AccountError> {
        Ok(Opened { owner: cmd.owner })
    }
    #[handle]
    fn deposit(&self, cmd: Deposit) -> Result<Deposited, AccountError> {
        Ok(Deposited { cents: cmd.cents })
    }
    #[handle]
    fn withdraw(&self, cmd: Withdraw) -> Result<Withdrawn, AccountError> {
        if cmd.cents > self.balance {
            return Err(AccountError::Overdraft { balance: self.balance });
        }
        Ok(Withdrawn { cents: cmd.cents })
    }

    #[apply]
    fn opened(_: &Opened) -> Self {
        Account { balance: 0 }
    }
    #[apply]
    fn deposited(&mut self, e: &Deposited) {
        self.balance += e.cents;
    }
    #[apply]
    fn withdrawn(&mut self, e: &Withdrawn) {
        self.balance -= e.cents;
    }
}

/// A read model: one document per account.
#[derive(Serialize, Deserialize, Debug, PartialEq)]
pub struct Summary {
    pub owner: String,
    pub balance: u64,
    pub postings: u32,
}

#[projection(name = "account-summary", key = AccountId)]
impl Summary {
    #[on]
    fn opened(e: &Opened) -> Self {
        Summary { owner: e.owner.clone(), balance: 0, postings: 0 }
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

fn opened() -> AccountEvent {
    Opened { owner: "Ada".into() }.into()
}

#[test]
fn a_handler_without_self_creates_and_refuses_what_exists() {
    let events = decide(vec![], Open { account: 1, owner: "Ada".into() }).unwrap();
    assert_eq!(stored(&events), [("Opened".to_owned(), 1, r#"{"owner":"Ada"}"#.to_owned())]);
    let again = decide(vec![opened()], Open { account: 1, owner: "Ada".into() });
    assert!(matches!(again, Err(Refusal::Exists)));
}

#[test]
fn a_handler_with_self_needs_the_stream() {
    let missing = decide(vec![], Deposit { account: 1, cents: 5 });
    assert!(matches!(missing, Err(Refusal::Missing)));
    let events = decide(vec![opened()], Deposit { account: 1, cents: 5 }).unwrap();
    assert_eq!(fold::<Account>([opened()].into_iter().chain(events)).unwrap().balance, 5);
}

#[test]
fn the_domain_refuses_in_its_own_words() {
    let refused = decide(vec![opened()], Withdraw { account: 1, cents: 1 });
    assert!(matches!(refused, Err(Refusal::Domain(AccountError::Overdraft { balance: 0 }))));
}

#[test]
fn a_fold_in_the_wrong_place_is_a_misfit() {
    let mut state = None;
    let deposited = Deposited { cents: 1 }.into();
    assert_eq!(Account::apply(&mut state, &deposited), Err(Misfit::Missing));
    assert_eq!(Account::apply(&mut state, &opened()), Ok(()));
    assert_eq!(Account::apply(&mut state, &opened()), Err(Misfit::Exists));
}

#[test]
fn users_match_the_enum_exhaustively() {
    let name = |event: AccountEvent| match event {
        AccountEvent::Opened(event) => event.owner,
        AccountEvent::Deposited(_) => "deposited".to_owned(),
        AccountEvent::Withdrawn(_) => "withdrawn".to_owned(),
    };
    assert_eq!(name(opened()), "Ada");
}

#[test]
fn names_and_constants() {
    assert_eq!((Opened::NAME, Opened::VERSION), ("Opened", 1));
    assert_eq!((Account::NAME, Open::NAME), ("Account", "Open"));
    const { assert!(!Account::ALWAYS_EXISTS) };
    const { assert!(!<Account as Handle<Open>>::REACHES_OUT) };
    let copy = Open { account: 7, owner: "Ada".into() }.duplicate();
    assert_eq!((copy.id(), copy.owner.as_str()), (&7, "Ada"));
    assert!(copy.expected_version().is_none() && copy.idempotency_key().is_none());
}

#[test]
fn an_unknown_event_is_an_error() {
    assert!(read::<AccountEvent>("Renamed", 1, "{}").is_err());
    assert!(read::<AccountEvent>("Opened", 2, "{}").is_err());
    assert!(read::<AccountEvent>("Opened", 1, "{").is_err());
}
