use cqrs::prelude::*;
use cqrs::sqlite::{Sqlite, Transaction};

#[derive(Event, Serialize, Deserialize)]
struct Opened;

struct Ledger;

#[projection(name = "ledger", sql = Sqlite)]
impl Ledger {
    #[on]
    fn opened(_: &Transaction<'_>, _: &Opened) -> usize {
        1
    }
}

fn main() {}
