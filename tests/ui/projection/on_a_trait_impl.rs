use cqrs::prelude::*;

trait Shape {}

#[derive(Event, Serialize, Deserialize)]
struct Opened {
    owner: String,
}
#[derive(Event, Serialize, Deserialize)]
struct Closed;

#[derive(Serialize, Deserialize)]
struct Summary;

#[projection(name = "summaries", key = u64)]
impl Shape for Summary {
}

fn main() {}
