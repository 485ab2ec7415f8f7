use cqrs::prelude::*;

#[derive(Default, Serialize, Deserialize)]
struct Account;

#[aggregate(id = u64, snapshot = every(500, 2))]
impl Account {
}

fn main() {}
