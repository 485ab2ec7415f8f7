use cqrs::prelude::*;

#[derive(Serialize, Deserialize)]
struct Owner(String);

#[derive(Event, Serialize, Deserialize)]
struct Opened {
    #[tag]
    owner: Owner,
}

fn main() {}
