use cqrs::prelude::*;

#[derive(Event, Serialize, Deserialize)]
struct Opened;

#[derive(Command)]
struct Open {
    #[id]
    account: u64,
}

#[derive(Serialize, Deserialize)]
struct Account;

#[aggregate(id = u64, snapshot = every(500, versoin = 2))]
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
