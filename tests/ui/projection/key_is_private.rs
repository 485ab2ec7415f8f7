use cqrs::prelude::*;

struct Key(u64);

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::str::FromStr for Key {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Key)
    }
}

#[derive(Event, Serialize, Deserialize)]
struct Opened;

#[derive(Default, Serialize, Deserialize)]
pub struct Summary;

#[projection(name = "summary", key = Key)]
impl Summary {
    #[on(key = Key(1))]
    fn opened(&mut self, _: &Opened) {}
}

fn main() {}
