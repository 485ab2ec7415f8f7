use cqrs::prelude::*;

#[derive(Event, Serialize, Deserialize)]
enum Account {
    Opened { owner: String },
    Closed,
}

fn main() {}
