use cqrs::prelude::*;

#[derive(Event, Serialize, Deserialize)]
struct Opened;

#[derive(Default, Serialize, Deserialize)]
struct Summary;

#[projection(name = "summary", fold_in_memory, key = u64, fold_in_memory)]
impl Summary {
    #[on]
    fn opened(&mut self, _: &Opened) {}
}

fn main() {}
