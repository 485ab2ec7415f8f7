use cqrs::prelude::*;

#[derive(Serialize, Deserialize)]
#[projection(name = "summaries", key = u64)]
struct Summary {
    owner: String,
}

fn main() {}
