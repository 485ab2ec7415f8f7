use cqrs::prelude::*;

#[derive(Event, Serialize, Deserialize)]
struct Opened;

struct Ledger;

#[projection(name = "ledger", sql = String)]
impl Ledger {
    #[on]
    fn opened(_: &(), _: &Opened) {}
}

fn main() {}
