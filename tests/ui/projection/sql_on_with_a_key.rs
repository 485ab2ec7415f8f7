use cqrs::prelude::*;
use cqrs::sqlite::{Sqlite, Transaction, rusqlite};

#[derive(Event, Serialize, Deserialize)]
struct Opened;

struct Ledger;

#[projection(name = "ledger", sql = Sqlite)]
impl Ledger {
    #[on(key = 7)]
    fn opened(_: &Transaction<'_>, _: &Opened) -> rusqlite::Result<()> {
        Ok(())
    }
}

fn main() {}
