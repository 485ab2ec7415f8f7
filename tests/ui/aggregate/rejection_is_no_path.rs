use cqrs::prelude::*;

#[derive(Event, Serialize, Deserialize)]
struct Opened;

#[derive(Command)]
struct Open {
    #[id]
    account: u64,
}

#[derive(Debug, thiserror::Error)]
#[error("taken")]
struct Taken;

impl Taken {
    fn of(rejection: &cqrs::engine::Rejection) -> Option<Self> {
        let _ = rejection;
        None
    }
}

struct Account;

#[aggregate(id = u64, error = Taken, rejection = "Taken::of")]
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
