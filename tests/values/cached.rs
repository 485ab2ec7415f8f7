//! Values that serde changes without an error: what is decided does not depend on what a process has in memory.

use std::collections::BTreeMap;

use cqrs::Registry;
use cqrs::prelude::*;

use crate::places;

#[derive(Event, Serialize, Deserialize)]
pub struct Changed {
    #[serde(skip)]
    pub skipped: u64,
    /// `Some(None)` is read as `None`.
    pub limit: Option<Option<u32>>,
    /// `Some(NaN)` is read as `None`.
    pub rate: Option<f64>,
    /// The first that fits is read.
    pub amount: Amount,
    /// Written in a shorter form than it has.
    #[serde(with = "whole")]
    pub price: f64,
    pub kept: BTreeMap<String, u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Amount {
    Exact(f64),
    Whole(u64),
}

mod whole {
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(price: &f64, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_f64(price.trunc())
    }
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
        f64::deserialize(from)
    }
}

#[derive(Command)]
pub struct Change {
    #[id]
    pub id: u64,
}

#[derive(Default, Debug, PartialEq, Clone)]
pub struct Settings {
    pub skipped: u64,
    pub limit: Option<Option<u32>>,
    pub rate: Option<f64>,
    pub amount: Option<Amount>,
    pub price: f64,
    pub events: u64,
}

#[derive(Debug, thiserror::Error)]
#[error("no more than three in a row")]
pub struct TooMany;

#[aggregate(id = u64, error = TooMany)]
impl Settings {
    /// Every fact that memory could remember and the log does not have leads to another answer.
    #[handle]
    fn change(&self, cmd: Change) -> Result<Vec<Changed>, TooMany> {
        let _ = cmd.id;
        if self.skipped > 3 {
            return Err(TooMany);
        }
        let was = u64::from(self.limit.is_some()) + 2 * u64::from(self.rate.is_some());
        let was = was + 4 * u64::from(matches!(self.amount, Some(Amount::Whole(_))));
        let changed = Changed {
            skipped: self.skipped + 2,
            limit: Some(None),
            rate: Some(f64::NAN),
            amount: Amount::Whole(7),
            price: self.price + 0.75,
            kept: [("was".to_owned(), was), ("price".to_owned(), (self.price * 100.0) as u64)].into(),
        };
        Ok(vec![changed])
    }

    #[apply]
    fn changed(&mut self, event: &Changed) {
        *self = Self {
            skipped: event.skipped,
            limit: event.limit,
            rate: event.rate,
            amount: Some(event.amount.clone()),
            price: event.price,
            events: self.events + 1,
        };
    }
}

#[tokio::test]
async fn a_command_has_the_same_outcome_in_one_process_and_in_many() {
    let registry = Registry::new().with::<Settings>();
    for place in places("cached") {
        let mut outcomes = Vec::new();
        for (id, restarts) in [(1, false), (2, true)] {
            let mut engine = place.open(&registry).await;
            let mut answers = Vec::new();
            for _ in 0..6 {
                let answer = engine.execute(Change { id }).await.map(|receipt| receipt.version().get());
                let state = engine.load::<Settings>(&id).await.unwrap().state;
                answers.push((answer.map_err(|error| error.to_string()), state));
                if restarts {
                    engine.shutdown().await;
                    engine = place.open(&registry).await;
                }
            }
            outcomes.push(answers);
            engine.shutdown().await;
        }
        assert_eq!(outcomes[0], outcomes[1]);
        let last = outcomes[0].last().unwrap();
        assert_eq!(last.0, Ok(6), "what is not stored has no effect on what is decided");
    }
}
