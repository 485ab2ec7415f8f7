use cqrs::prelude::*;
use cqrs::sqlite::{Sqlite, Transaction};

#[derive(Event, Serialize, Deserialize)]
struct Opened;

struct Ledger;

#[projection(name = "ledger", sql = Sqlite)]
impl Ledger {
    #[on]
    fn opened(_event: &Opened, _tx: &Transaction<'_>) {}
}

fn main() {}
