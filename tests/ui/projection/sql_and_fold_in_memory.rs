use cqrs::prelude::*;
use cqrs::sqlite::{Sqlite, Transaction};

#[derive(Event, Serialize, Deserialize)]
struct Opened;

struct Ledger;

#[projection(name = "ledger", sql = Sqlite, fold_in_memory)]
impl Ledger {
    #[on]
    fn opened(_: &Transaction<'_>, _: &Opened) {}
}

fn main() {}
