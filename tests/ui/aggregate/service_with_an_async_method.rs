use cqrs::prelude::*;

#[derive(Event, Serialize, Deserialize)]
struct Opened {
    rate: u64,
}

#[derive(Command)]
struct Open {
    #[id]
    account: u64,
}

trait Rates: Service {
    async fn rate(&self) -> u64;
}

#[derive(Default)]
struct Account;

#[aggregate(id = u64)]
impl Account {
    #[handle]
    async fn open(&self, _: Open, rates: &dyn Rates) -> Opened {
        let rate = rates.rate().await;
        Opened { rate }
    }
    #[apply]
    fn opened(&mut self, _: &Opened) {}
}

fn main() {}
