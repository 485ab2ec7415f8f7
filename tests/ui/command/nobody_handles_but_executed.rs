use cqrs::prelude::*;

#[derive(Command)]
struct Open {
    #[id]
    account: u64,
}

async fn run(engine: Engine) {
    let _ = engine.execute(Open { account: 1 }).await;
}

fn main() {}
