use cqrs::prelude::*;

#[derive(Event, Serialize, Deserialize)]
struct Opened {
    owner: String,
}
#[derive(Event, Serialize, Deserialize)]
struct Closed;

#[derive(Serialize, Deserialize)]
struct Summary;

#[projection(name = "summaries", key = u64)]
impl Summary {
    #[on]
    fn opened(_: &Opened) -> Self {
        Summary
    }
    #[onn]
    fn closed(&mut self, _: &Closed) {}
}

fn main() {}
