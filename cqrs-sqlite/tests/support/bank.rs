//! A bank with one command, for tests about files: it counts how many events were folded.

use std::sync::atomic::{AtomicUsize, Ordering};

use cqrs::prelude::*;

#[derive(Event, Serialize, Deserialize)]
pub struct Deposited {
    pub cents: u64,
}

#[derive(Command)]
pub struct Deposit {
    #[id]
    pub account: u64,
    pub cents: u64,
}

/// The number of events that this program has folded into accounts.
pub static FOLDED: AtomicUsize = AtomicUsize::new(0);

#[derive(Default, Serialize, Deserialize)]
pub struct Account {
    pub balance: u64,
}

#[aggregate(id = u64, snapshot = every(10))]
impl Account {
    /// An event for each cent.
    #[handle]
    fn deposit(&self, cmd: Deposit) -> Vec<Deposited> {
        (0..cmd.cents).map(|_| Deposited { cents: 1 }).collect()
    }
    #[apply]
    fn deposited(&mut self, event: &Deposited) {
        FOLDED.fetch_add(1, Ordering::SeqCst);
        self.balance += event.cents;
    }
}
