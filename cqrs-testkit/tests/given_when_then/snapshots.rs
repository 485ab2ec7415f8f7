//! An aggregate with snapshots is decided on as it comes back from one.

use cqrs::prelude::*;
use cqrs_testkit::prelude::*;

#[derive(Event, Serialize, Deserialize)]
pub struct Limited {
    cents: u64,
}
#[derive(Event, Serialize, Deserialize)]
pub struct Spent {
    cents: u64,
}

#[derive(Command)]
pub struct Spend {
    #[id]
    purse: u64,
    cents: u64,
}

#[derive(Debug, PartialEq)]
pub struct TooMuch;

impl std::fmt::Display for TooMuch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("too much")
    }
}

impl std::error::Error for TooMuch {}

#[derive(Default, Serialize, Deserialize)]
pub struct Purse {
    spent: u64,
    /// A mistake: it is not kept.
    #[serde(skip)]
    limit: u64,
    mean: f64,
}

#[aggregate(id = u64, error = TooMuch, snapshot = every(100))]
impl Purse {
    #[handle]
    fn spend(&self, cmd: Spend) -> Result<Spent, TooMuch> {
        if self.spent + cmd.cents > self.limit {
            return Err(TooMuch);
        }
        Ok(Spent { cents: cmd.cents })
    }
    #[apply]
    fn limited(&mut self, event: &Limited) {
        self.limit = event.cents;
    }
    #[apply]
    fn spent(&mut self, event: &Spent) {
        self.spent += event.cents;
        self.mean = self.spent as f64 / event.cents as f64;
    }
}

#[test]
fn a_field_that_is_not_kept_shows() {
    let given = || Purse::given([Limited { cents: 9 }]);
    given().when(Spend { purse: 1, cents: 5 }).then_error(TooMuch);
    given().without_round_trip().when(Spend { purse: 1, cents: 5 }).then([Spent { cents: 5 }]);
}

#[test]
#[should_panic(expected = "the state cannot be restored from a snapshot")]
fn a_state_that_does_not_come_back_is_named() {
    Purse::given([Spent { cents: 0 }]).when(Spend { purse: 1, cents: 5 }).then_error(TooMuch);
}
