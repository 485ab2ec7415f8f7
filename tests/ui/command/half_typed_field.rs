use cqrs::prelude::*;

#[derive(Event, Serialize, Deserialize)]
struct Opened;

#[derive(Command)]
struct Open {
    #[id]
    account: u64,
    owner
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

async fn used(engine: &Engine) {
    let _ = engine.execute(Open { account: 1 }).await;
}

fn main() {}
