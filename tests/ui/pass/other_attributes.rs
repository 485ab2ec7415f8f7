//! Attributes that are not ours, and methods that are left alone.
#![deny(warnings)]
use cqrs::prelude::*;

#[derive(Event, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Opened {
    #[serde(default)]
    pub by_whom: String,
}

#[derive(Command)]
#[allow(clippy::large_enum_variant)]
pub enum Open {
    #[doc = "Plainly."]
    Plainly(#[id] u64),
}

#[derive(Default)]
pub struct Account;

#[aggregate(id = u64)]
impl Account {
    pub const LIMIT: usize = 7;

    /// Documented.
    #[must_use]
    #[inline]
    #[handle]
    pub fn open(&self, #[allow(unused_variables)] cmd: Open) -> Opened {
        Self::helper()
    }

    #[cold]
    #[track_caller]
    fn helper() -> Opened {
        Opened { by_whom: String::new() }
    }

    #[apply]
    pub(crate) fn opened(&mut self, _: &Opened) {}

    pub fn generic<T: Clone>(&mut self, it: &T) -> T {
        it.clone()
    }
}

fn main() {
    assert_eq!(Account.generic(&Account::LIMIT), 7);
    assert!(Account.open(Open::Plainly(7)).by_whom.is_empty());
}
