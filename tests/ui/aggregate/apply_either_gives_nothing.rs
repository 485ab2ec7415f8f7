use cqrs::prelude::*;

#[derive(Event, Serialize, Deserialize)]
struct Opened;
#[derive(Event, Serialize, Deserialize)]
struct Closed;

#[derive(Command)]
struct Open {
    #[id]
    account: u64,
}
#[derive(Command)]
struct Close {
    #[id]
    account: u64,
}

struct Account;

#[aggregate(id = u64)]
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
    fn opened(_: Option<&Self>, _: &Opened) {}
    #[apply]
    fn closed(&mut self, _: &Closed) {}
}

fn main() {}
