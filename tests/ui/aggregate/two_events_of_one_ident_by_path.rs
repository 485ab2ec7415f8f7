use cqrs::prelude::*;

mod card {
    use cqrs::prelude::*;

    #[derive(Event, Serialize, Deserialize)]
    #[event(name = "card-paid")]
    pub struct Paid;
}

mod cash {
    use cqrs::prelude::*;

    #[derive(Event, Serialize, Deserialize)]
    #[event(name = "cash-paid")]
    pub struct Paid;
}

#[derive(Command)]
struct Pay {
    #[id]
    account: u64,
}

#[derive(Default)]
struct Account;

#[aggregate(id = u64)]
impl Account {
    #[handle]
    fn pay(&self, _: Pay) -> (card::Paid, cash::Paid) {
        (card::Paid, cash::Paid)
    }
    #[apply]
    fn card(&mut self, _: &card::Paid) {}
    #[apply]
    fn cash(&mut self, _: &cash::Paid) {}
}

fn main() {}
