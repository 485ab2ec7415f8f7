use cqrs::prelude::*;
use cqrs::sqlite::{Sqlite, Transaction};

#[derive(Event, Serialize, Deserialize)]
struct Opened;

struct Ledger;

#[projection(name = "ledger", sql = Sqlite)]
impl Ledger {
    #[on]
    fn opened(_: &Transaction<'_>, _: &Opened) {}
}

async fn read(engine: &Engine) {
    let _ = engine.list::<Ledger>().await;
}

fn main() {}
