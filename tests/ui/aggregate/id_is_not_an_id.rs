use cqrs::prelude::*;

#[derive(Event, Serialize, Deserialize)]
struct Opened;
#[derive(Event, Serialize, Deserialize)]
struct Closed;

#[derive(Command)]
struct Open {
    #[id]
    account: Id,
}
#[derive(Command)]
struct Close {
    #[id]
    account: Id,
}

#[derive(Clone)]
struct Id;

struct Account;

#[aggregate(id = Id)]
impl Account {
    #[handle]
    fn open(_: Open) -> Opened {
        Opened
    }
    #[handle]
    fn close(&self, _: Close) -> Closed {
        Closed
    }
    #[apply]
    fn opened(_: &Opened) -> Self {
        Account
    }
    #[apply]
    fn closed(&mut self, _: &Closed) {}
}

fn main() {}
