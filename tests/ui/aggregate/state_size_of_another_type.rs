use cqrs::prelude::*;

#[derive(Event, Serialize, Deserialize)]
struct Opened;

#[derive(Command)]
struct Open {
    #[id]
    account: u64,
}

struct Account;

impl Account {
    fn bytes(self) -> u64 {
        0
    }
}

#[aggregate(id = u64, state_size = Account::bytes)]
impl Account {
    #[handle]
    fn open(_: Open) -> Opened {
        Opened
    }
    #[apply]
    fn opened(_: &Opened) -> Self {
        Account
    }
}

fn main() {}
