use cqrs::prelude::*;
use cqrs::sqlite::{Sqlite, rusqlite};

#[derive(Event, Serialize, Deserialize)]
struct Opened;

struct Ledger;

#[projection(name = "ledger", sql = Sqlite)]
impl Ledger {
    #[on]
    fn opened(_: &String, _: &Opened) -> rusqlite::Result<()> {
        Ok(())
    }
}

fn main() {}
