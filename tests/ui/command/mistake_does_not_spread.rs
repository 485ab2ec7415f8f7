use cqrs::prelude::*;

#[derive(Command)]
struct Open {
    account: u64,
}

#[derive(Default)]
struct Account;

#[aggregate(id = u64)]
impl Account {
    #[handle]
    fn open(&self, _: Open) {}
}

async fn run(engine: Engine) {
    let _ = engine.execute(Open { account: 1 }).await;
}

fn main() {}
