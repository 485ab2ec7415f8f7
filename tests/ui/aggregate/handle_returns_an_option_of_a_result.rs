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

#[aggregate(id = u64, error = std::fmt::Error)]
impl Account {
    #[handle]
    fn open(&self, _: Open) -> Option<Result<Opened, std::fmt::Error>> {
        None
    }
    #[apply]
    fn opened(&mut self, _: &Opened) {}
}

fn main() {}
