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

#[aggregate(id = u64)]
impl Account {
    #[handle]
    fn open(&self, _: Open) -> Result<Opened, String> {
        Ok(Opened)
    }
    #[apply]
    fn opened(&mut self, _: &Opened) {}
}

fn main() {}
