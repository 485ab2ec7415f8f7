use cqrs::prelude::*;

#[derive(Event, Serialize, Deserialize)]
struct Opened;

#[derive(Default, Serialize, Deserialize)]
struct View;

#[allow(unused_macros)]
macro_rules! folds {
    () => {
        #[on]
        fn opened(&mut self, _: &Opened) {}
    };
}

#[projection(name = "views", key = u64)]
impl View {
    folds!();
}

fn main() {}
