//! A domain with all that a bank does not need: services, context, `async`, tags, old shapes,
//! codecs of its own, and mistakes.

use std::fmt;
use std::sync::Mutex;

use cqrs::codec::{Codec, CodecError};
use cqrs::prelude::*;
use cqrs::{Timestamp, Version};
use serde::Serializer;
use serde::de::DeserializeOwned;

/// What one piece costs.
pub struct Rates(pub u64);
impl Service for Rates {}

pub trait Mailer: Service {
    fn send(&self, to: &str);
}

/// A stand-in that remembers.
#[derive(Default)]
pub struct Outbox(pub Mutex<Vec<String>>);
impl Service for Outbox {}
impl Mailer for Outbox {
    fn send(&self, to: &str) {
        self.0.lock().unwrap().push(to.to_owned());
    }
}

#[derive(Event, Serialize, Deserialize)]
pub struct Ordered {
    #[tag]
    pub customer: String,
    pub lines: Vec<Line>,
    pub at: u64,
    pub number: String,
}
#[derive(Serialize, Deserialize)]
pub struct Line {
    pub article: String,
    pub cents: u64,
}
#[derive(Event, Serialize, Deserialize)]
pub struct Mailed;
/// Stored without its reader ever seeing the note again.
#[derive(Event, Serialize, Deserialize)]
pub struct Noted {
    #[serde(skip_deserializing)]
    pub note: String,
}
/// Comes back in another order, as a `HashSet` does now and then.
#[derive(Event, Serialize, Deserialize)]
pub struct Shuffled {
    #[serde(deserialize_with = "turned")]
    pub items: Vec<u32>,
}
fn turned<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<u32>, D::Error> {
    let mut items = Vec::deserialize(from)?;
    items.reverse();
    Ok(items)
}
/// Cannot be read back at all.
#[derive(Event, Serialize, Deserialize)]
pub struct Lost {
    #[serde(skip_serializing)]
    pub what: String,
}
/// Cannot be stored.
#[derive(Event, Deserialize)]
pub struct Unstorable;
impl Serialize for Unstorable {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("no room"))
    }
}

/// Bytes that are not JSON.
pub struct Reversed;
impl Codec for Reversed {
    fn encode<T: Serialize>(value: &T) -> Result<bytes::Bytes, CodecError> {
        let mut json = serde_json::to_vec(value).map_err(CodecError::new)?;
        json.reverse();
        Ok(json.into())
    }

    fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
        let mut json = bytes.to_vec();
        json.reverse();
        serde_json::from_slice(&json).map_err(CodecError::new)
    }
}
#[derive(Event, Serialize, Deserialize)]
#[event(codec = Reversed)]
pub struct Sealed {
    pub word: String,
}

#[derive(Event, Serialize, Deserialize)]
#[event(name = "Paid", version = 1)]
pub struct PaidV1 {
    pub crowns: u64,
}
#[derive(Event, Serialize, Deserialize)]
#[event(version = 2, from = PaidV1)]
pub struct Paid {
    pub cents: u64,
}
impl From<PaidV1> for Paid {
    fn from(old: PaidV1) -> Self {
        Self { cents: old.crowns * 100 }
    }
}

#[derive(Debug)]
pub enum OrderError {
    Empty,
    Rejected { reasons: Vec<String>, limit: u64 },
}
impl fmt::Display for OrderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the order is not good")
    }
}
impl std::error::Error for OrderError {}

#[derive(Command)]
pub struct Place {
    #[id]
    pub order: String,
    pub articles: Vec<&'static str>,
}
#[derive(Command)]
pub struct Mail {
    #[id]
    pub order: String,
}
#[derive(Command)]
pub struct Price {
    #[id]
    pub order: String,
    #[expected_version]
    pub expected: Option<Version>,
}
#[derive(Command)]
pub struct Wait {
    #[id]
    pub order: String,
    pub how: Waiting,
}
#[derive(Clone)]
pub enum Waiting {
    Shortly,
    Forever,
    Panic,
}
#[derive(Command)]
pub struct Note {
    #[id]
    pub order: String,
    pub what: What,
}
#[derive(Clone, Copy)]
pub enum What {
    Noted,
    Lost,
    Unstorable,
    Sealed(&'static str),
    Nothing,
    NotThere,
}

#[derive(Debug)]
pub struct Order {
    pub pieces: usize,
    pub paid: u64,
}

#[aggregate(id = String, error = OrderError)]
impl Order {
    #[handle]
    fn place(cmd: Place, ctx: &Context) -> Result<Ordered, OrderError> {
        if cmd.articles.is_empty() {
            return Err(OrderError::Empty);
        }
        if cmd.articles.len() > 3 {
            let reasons = vec!["too many".to_owned(), "no stock".to_owned()];
            return Err(OrderError::Rejected { reasons, limit: 3 });
        }
        let line = |article: &str| Line { article: article.to_owned(), cents: 5 };
        Ok(Ordered {
            customer: ctx.metadata.actor.clone().unwrap_or_default(),
            lines: cmd.articles.into_iter().map(line).collect(),
            at: ctx.now.as_micros(),
            number: ctx.new_id().to_string(),
        })
    }
    #[handle]
    async fn mail(&self, cmd: Mail, mailer: &dyn Mailer) -> Mailed {
        tokio::task::yield_now().await;
        mailer.send(&cmd.order);
        Mailed
    }
    #[handle]
    fn price(&self, cmd: Price, rates: &Rates) -> Paid {
        let _ = cmd;
        Paid { cents: self.pieces as u64 * rates.0 }
    }
    #[handle]
    async fn wait(&self, cmd: Wait) -> Mailed {
        match cmd.how {
            Waiting::Shortly => tokio::time::sleep(std::time::Duration::from_millis(1)).await,
            Waiting::Forever => std::future::pending().await,
            Waiting::Panic => panic!("the printer is on fire"),
        }
        Mailed
    }
    #[handle]
    fn note(this: Option<&Self>, cmd: Note) -> Vec<OrderEvent> {
        let _ = this;
        let event: OrderEvent = match cmd.what {
            What::Noted => Noted { note: "fragile".into() }.into(),
            What::Lost => Lost { what: "all".into() }.into(),
            What::Unstorable => Unstorable.into(),
            What::Sealed(word) => Sealed { word: word.into() }.into(),
            What::Nothing => return vec![],
            What::NotThere => Mailed.into(),
        };
        vec![event]
    }

    #[apply]
    fn ordered(e: &Ordered) -> Self {
        Self { pieces: e.lines.len(), paid: 0 }
    }
    #[apply]
    fn mailed(&mut self, _: &Mailed) {
        self.pieces += 0;
    }
    #[apply]
    fn paid(&mut self, e: &Paid) {
        self.paid += e.cents;
    }
    #[apply]
    fn noted(&mut self, e: &Noted) {
        self.pieces += e.note.len();
    }
    #[apply]
    fn lost(&mut self, _: &Lost) {}
    #[apply]
    fn unstorable(&mut self, _: &Unstorable) {}
    #[apply]
    fn sealed(&mut self, _: &Sealed) {}
}

/// An order to begin with.
pub fn ordered(pieces: usize) -> Ordered {
    let lines = (0..pieces).map(|at| Line { article: format!("a{at}"), cents: 5 }).collect();
    Ordered { customer: "ada".into(), lines, at: 1, number: "n1".into() }
}

/// Counts orders per customer, and forgets who has been paid for.
#[derive(Serialize, Deserialize, Default)]
pub struct Customer {
    pub orders: Vec<String>,
    pub last: Option<Timed>,
    /// Kept in memory only: a mistake that the harness shows.
    #[serde(skip_deserializing)]
    pub note: u32,
}
#[derive(Serialize, Deserialize)]
pub struct Timed {
    pub at: u64,
    pub by: Option<String>,
}

#[projection(name = "customers", key = String)]
impl Customer {
    #[on(key = &e.customer)]
    fn ordered(&mut self, e: &Ordered, meta: &EventMeta) {
        let _ = e;
        self.orders.push(meta.stream.id().to_owned());
        self.last = Some(Timed { at: Timestamp::as_micros(meta.time), by: meta.metadata.actor.clone() });
    }
    #[on]
    fn noted(&mut self, e: &Noted) {
        self.note += 1 + u32::try_from(e.note.len()).unwrap();
    }
    #[on]
    fn paid(self, _: &Paid) -> Option<Self> {
        None
    }
}
