use cqrs::prelude::*;

#[derive(Clone)]
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

#[derive(Command)]
struct Open {
    #[id]
    account: Key,
}

#[derive(Default)]
pub struct Account;

#[aggregate(id = Key)]
impl Account {
    #[handle]
    fn open(&self, _: Open) -> Opened {
        Opened
    }
    #[apply]
    fn opened(&mut self, _: &Opened) {}
}

fn main() {}
