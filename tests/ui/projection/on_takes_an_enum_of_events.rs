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
    fn open(&self, _: Open) -> Opened {
        Opened
    }
    #[apply]
    fn opened(&mut self, _: &Opened) {}
}

#[derive(Default, Serialize, Deserialize)]
struct View;

#[projection(name = "views", key = u64)]
impl View {
    #[on]
    fn any(&mut self, _: &AccountEvent) {}
}

fn main() {}
