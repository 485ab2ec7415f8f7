use cqrs::prelude::*;

#[derive(Event, Serialize, Deserialize)]
struct Opened;

#[derive(Command)]
#[command(upcast_bytes = repair)]
struct Open {
    #[id]
    account: u64,
}

fn repair(_: u32, _: &[u8]) -> Option<Vec<u8>> {
    None
}

#[derive(Default)]
struct Account;

#[aggregate(id = u64)]
impl Account {
    #[handle]
    fn open(&self, _: Open) -> Opened {
        Opened
    }
    #[apply]
    fn opened(&mut self, _: &Opened) {}
}

fn main() {}
