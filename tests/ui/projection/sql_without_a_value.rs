use cqrs::prelude::*;

#[derive(Event, Serialize, Deserialize)]
struct Opened;

struct Ledger;

#[projection(name = "ledger", sql)]
impl Ledger {
}

fn main() {}
