use cqrs::prelude::*;

#[derive(Event, Serialize, Deserialize)]
struct Opened;

#[derive(Command)]
struct Open {
    #[id]
    account: u64,
}

#[derive(Default)]
struct Account;

trait Mailer: Service {}

#[aggregate(id = u64)]
impl Account {
    #[handle]
    fn open(&self, _: Open, _mailer: &std::sync::Arc<dyn Mailer>) -> Opened {
        Opened
    }
    #[apply]
    fn opened(&mut self, _: &Opened) {}
}

fn main() {}
