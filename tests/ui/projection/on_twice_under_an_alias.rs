use cqrs::prelude::*;

#[derive(Event, Serialize, Deserialize)]
struct Opened;

use self::Opened as Begun;

#[derive(Default, Serialize, Deserialize)]
struct Summary;

#[projection(name = "summary", key = u64)]
impl Summary {
    #[on]
    fn opened(&mut self, _: &Opened) {}
    #[on]
    fn begun(&mut self, _: &Begun) {}
}

fn main() {}
