use cqrs::prelude::*;

#[derive(Event, Serialize, Deserialize)]
struct Opened;

#[derive(Command)]
struct Open {
    #[id]
    account: u64,
}

#[derive(Default)]
struct Account;

type Maybe<T> = Option<T>;

#[aggregate(id = u64)]
impl Account {
    #[handle]
    fn open(&self, _: Open) -> Opened {
        Opened
    }
    #[apply]
    fn opened(_this: Maybe<Self>, _: &Opened) -> Self {
        Self
    }
}

fn main() {}
