use cqrs::prelude::*;

#[derive(Event, Serialize, Deserialize)]
struct Opened {
    at: std::cell::Cell<u64>,
}

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
        Opened { at: 1.into() }
    }
    #[apply]
    fn opened(&mut self, _: &Opened) {}
}

async fn used(engine: &Engine) {
    let _ = engine.execute(Open { account: 1 }).await;
}

fn main() {}
