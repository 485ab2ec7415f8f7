//! A shop whose author has not heard of the bank: one of its events has the name of one of theirs.

use cqrs::prelude::*;

/// Also the name of an event of the bank.
#[derive(Event, Serialize, Deserialize, Debug)]
pub struct Opened {}

/// A name of its own.
#[derive(Event, Serialize, Deserialize, Debug)]
#[event(name = "shop.closed")]
pub struct Closed {}

/// Opens a shop.
#[derive(Command, Debug)]
pub struct OpenShop {
    /// Which one.
    #[id]
    pub shop: u64,
}

/// Closes a shop.
#[derive(Command, Debug)]
pub struct CloseShop {
    /// Which one.
    #[id]
    pub shop: u64,
}

/// A shop.
#[derive(Debug)]
pub struct Shop {}

#[aggregate(id = u64)]
impl Shop {
    #[handle]
    fn open(_: OpenShop) -> Opened {
        Opened {}
    }
    #[handle]
    fn close(&self, _: CloseShop) -> Closed {
        Closed {}
    }
    #[apply]
    fn opened(_: &Opened) -> Self {
        Self {}
    }
    #[apply]
    fn closed(&mut self, _: &Closed) {}
}
