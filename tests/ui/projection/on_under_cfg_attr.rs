use cqrs::prelude::*;

#[derive(Event, Serialize, Deserialize)]
struct Opened;

#[derive(Default, Serialize, Deserialize)]
struct View;

#[projection(name = "views", key = u64)]
impl View {
    #[cfg_attr(all(), on)]
    fn opened(&mut self, _: &Opened) {}
}

fn main() {}
