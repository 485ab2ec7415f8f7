use cqrs::prelude::*;

#[derive(Event, Serialize, Deserialize)]
struct Opened;

#[derive(Default, Serialize, Deserialize)]
struct Summary;

#[projection(name = "summary", key = u64, fold_in_memory(Opened))]
impl Summary {
    #[on]
    fn opened(&mut self, _: &Opened) {}
}

fn main() {}
