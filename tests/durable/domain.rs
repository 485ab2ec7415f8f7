//! Accounts, each of whose requests has a number that stands in its events.

use cqrs::Registry;
use cqrs::engine::Stores;
use cqrs::prelude::*;

#[derive(Event, Serialize, Deserialize)]
pub struct Opened {}
#[derive(Event, Serialize, Deserialize)]
pub struct Deposited {
    pub request: String,
    pub cents: u64,
}
#[derive(Event, Serialize, Deserialize)]
pub struct Withdrawn {
    pub request: String,
    pub cents: u64,
}

#[derive(Command)]
pub struct Open {
    #[id]
    pub account: u64,
}
#[derive(Command)]
pub struct Deposit {
    #[id]
    pub account: u64,
    pub request: String,
    pub cents: u64,
}
#[derive(Command)]
pub struct Withdraw {
    #[id]
    pub account: u64,
    pub request: String,
    pub cents: u64,
}

#[derive(Debug, PartialEq, thiserror::Error)]
#[error("the balance is {0}")]
pub struct Overdraft(u64);

#[derive(Serialize, Deserialize)]
pub struct Account {
    pub balance: u64,
}

/// With a snapshot in the midst of whatever happens.
#[aggregate(id = u64, error = Overdraft, snapshot = every(4))]
impl Account {
    #[handle]
    fn open(_: Open) -> Opened {
        Opened {}
    }
    #[handle]
    fn deposit(&self, cmd: Deposit) -> Deposited {
        Deposited { request: cmd.request, cents: cmd.cents }
    }
    #[handle]
    fn withdraw(&self, cmd: Withdraw) -> Result<Withdrawn, Overdraft> {
        if cmd.cents > self.balance {
            return Err(Overdraft(self.balance));
        }
        Ok(Withdrawn { request: cmd.request, cents: cmd.cents })
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

/// A document per account.
#[derive(Serialize, Deserialize, Default, PartialEq, Debug)]
pub struct Summary {
    pub balance: i64,
    pub postings: u64,
}

#[projection(name = "summary", key = u64)]
impl Summary {
    #[on]
    fn opened(_: &Opened) -> Self {
        Self::default()
    }
    #[on]
    fn deposited(&mut self, event: &Deposited) {
        self.balance += event.cents as i64;
        self.postings += 1;
    }
    #[on]
    fn withdrawn(&mut self, event: &Withdrawn) {
        self.balance -= event.cents as i64;
        self.postings += 1;
    }
}

/// One document, which every event changes.
#[derive(Serialize, Deserialize, Default, PartialEq, Debug)]
pub struct Total {
    pub accounts: u64,
    pub balance: i64,
    pub postings: u64,
}

#[projection(name = "total", key = String)]
impl Total {
    #[on(key = String::from("bank"))]
    fn opened(&mut self, _: &Opened) {
        self.accounts += 1;
    }
    #[on(key = String::from("bank"))]
    fn deposited(&mut self, event: &Deposited) {
        self.balance += event.cents as i64;
        self.postings += 1;
    }
    #[on(key = String::from("bank"))]
    fn withdrawn(&mut self, event: &Withdrawn) {
        self.balance -= event.cents as i64;
        self.postings += 1;
    }
}

/// Documents that come and go.
#[derive(Serialize, Deserialize, Default)]
pub struct Since {
    pub cents: u64,
}

#[projection(name = "since", key = u64)]
impl Since {
    #[on]
    fn deposited(&mut self, event: &Deposited) {
        self.cents += event.cents;
    }
    #[on]
    fn withdrawn(self, _: &Withdrawn) -> Option<Self> {
        None
    }
}

/// What moves with each append, in its commit.
#[derive(Serialize, Deserialize, Default)]
pub struct Posted {
    pub requests: Vec<String>,
}

#[projection(name = "posted", key = u64, mode = inline)]
impl Posted {
    #[on]
    fn deposited(&mut self, event: &Deposited) {
        self.post(&event.request);
    }
    #[on]
    fn withdrawn(&mut self, event: &Withdrawn) {
        self.post(&event.request);
    }
}

impl Posted {
    /// The last few.
    fn post(&mut self, request: &str) {
        self.requests.push(request.to_owned());
        if self.requests.len() > 5 {
            self.requests.remove(0);
        }
    }
}

fn registry() -> Registry {
    Registry::new().with::<Account>().with::<Summary>().with::<Total>().with::<Since>().with::<Posted>()
}

/// An engine whose projections move only when asked to.
pub async fn quiet(stores: Stores) -> Engine {
    Engine::builder().registry(registry()).without_background().build(stores).await.unwrap()
}

/// An engine whose projections run.
pub async fn running(stores: Stores) -> Engine {
    Engine::builder().registry(registry()).build(stores).await.unwrap()
}

/// A request, told by its text alone: who makes it, on which account, and the how manieth it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Request {
    pub by: String,
    pub account: u64,
    pub number: u64,
}

/// What came of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Accepted,
    Refused,
}

impl std::fmt::Display for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}", self.by, self.account, self.number)
    }
}

impl std::str::FromStr for Request {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.split('/');
        let mut next = || parts.next().ok_or(());
        let (by, account, number) = (next()?, next()?, next()?);
        let parse = |text: &str| text.parse().map_err(|_| ());
        Ok(Self { by: by.to_owned(), account: parse(account)?, number: parse(number)? })
    }
}

impl Request {
    pub fn new(by: &str, account: u64, number: u64) -> Self {
        Self { by: by.to_owned(), account, number }
    }

    /// Of six requests, four put in, one takes out, and one wants more than there is. Its key makes
    /// it happen once, however often it is sent.
    pub async fn send(&self, bank: &Engine) -> Result<Answer, ExecuteError<Overdraft>> {
        let (account, request) = (self.account, self.to_string());
        let key = request.clone();
        let answer = match self.number % 6 {
            0 if self.number == 0 => match bank.execute(Open { account }).await {
                Err(ExecuteError::Exists { .. }) => return Ok(Answer::Refused),
                answer => answer,
            },
            3 => bank.execute(Withdraw { account, request, cents: 1 }).key(key).await,
            5 => bank.execute(Withdraw { account, request, cents: u64::MAX }).key(key).await,
            _ => bank.execute(Deposit { account, request, cents: 3 }).key(key).await,
        };
        match answer {
            Ok(_) => Ok(Answer::Accepted),
            Err(ExecuteError::Refused(_)) => Ok(Answer::Refused),
            Err(error) => Err(error),
        }
    }
}
