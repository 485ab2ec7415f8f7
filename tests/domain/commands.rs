//! Enum commands, services, async handlers and every kind of answer.

use std::fmt;
use std::sync::Arc;

use cqrs::aggregate::{IntoDecision, IntoEvents, Refusal};
use cqrs::context::Services;
use cqrs::prelude::*;
use cqrs::{Command as _, Handle, Version};

use crate::support::{decide, decide_with};

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Sku(String);

impl fmt::Display for Sku {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::str::FromStr for Sku {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

#[derive(Event, Serialize, Deserialize)]
struct Stocked {
    pieces: u32,
}
#[derive(Event, Serialize, Deserialize)]
struct Taken {
    pieces: u32,
}
#[derive(Event, Serialize, Deserialize)]
struct Priced {
    cents: u64,
}

#[derive(Command)]
#[command(name = "move-stock")]
enum Move {
    In {
        #[id]
        sku: Sku,
        pieces: u32,
        #[expected_version]
        seen: Version,
    },
    Out(#[id] Sku, u32, #[idempotency_key] Option<String>),
}

#[derive(Command)]
struct Price {
    #[id]
    sku: Sku,
    euros: u64,
    #[expected_version]
    seen: Option<Version>,
    #[idempotency_key]
    request: u128,
}

#[derive(Command)]
struct Note<T> {
    #[id]
    sku: Sku,
    text: T,
}

#[derive(Command)]
struct Count {
    #[id]
    sku: Sku,
}

#[derive(Command)]
struct Recount {
    #[id]
    sku: Sku,
    lost: u32,
}

struct Rates {
    cents_per_euro: u64,
}
impl Service for Rates {}

trait Mailer: Service {
    fn send(&self, to: &str) -> bool;
}
struct Silent;
impl Service for Silent {}
impl Mailer for Silent {
    fn send(&self, _: &str) -> bool {
        true
    }
}

struct Item {
    pieces: u32,
}

#[aggregate(id = Sku)]
impl Item {
    #[handle]
    fn shift(item: Option<&Self>, cmd: Move) -> Vec<ItemEvent> {
        match (item, cmd) {
            (_, Move::In { pieces, .. }) => vec![Stocked { pieces }.into()],
            (Some(item), Move::Out(_, pieces, _)) if pieces <= item.pieces => vec![Taken { pieces }.into()],
            _ => vec![],
        }
    }
    #[handle]
    async fn price(&self, cmd: &Price, rates: &Rates, ctx: &Context, mailer: &dyn Mailer) -> Option<Priced> {
        std::future::ready(()).await;
        assert!(mailer.send(&ctx.stream.to_string()));
        Some(Priced { cents: cmd.euros * rates.cents_per_euro })
    }
    #[handle]
    fn note(cmd: Note<String>) -> (Stocked, Option<Taken>) {
        (Stocked { pieces: u32::try_from(cmd.text.len()).unwrap() }, None)
    }
    #[handle]
    fn count(&self, _: Count, ctx: &Context) {
        assert_eq!(ctx.stream.category(), "Item");
    }

    #[handle]
    fn recount(&self, cmd: Recount) -> impl IntoEvents<Self> + IntoDecision<Self, First = Taken> + use<> {
        Taken { pieces: self.pieces.min(cmd.lost) }
    }

    #[apply]
    fn stocked(item: Option<&Self>, e: &Stocked) -> Self {
        Self { pieces: item.map_or(0, |item| item.pieces) + e.pieces }
    }
    #[apply]
    fn taken(&mut self, e: &Taken) {
        self.pieces -= e.pieces;
    }
    #[apply]
    fn priced(&mut self, _: &Priced) {}

    /// Not marked, so it is left alone.
    fn sku() -> Sku {
        Sku("bolt".into())
    }
}

fn into(pieces: u32) -> Move {
    Move::In { sku: Item::sku(), pieces, seen: Version::new(3) }
}

#[test]
fn an_enum_routes_by_each_variants_id() {
    let out = Move::Out(Item::sku(), 2, Some("again".into()));
    assert_eq!((into(1).id(), out.id()), (&Item::sku(), &Item::sku()));
    assert_eq!((into(1).expected_version(), out.expected_version()), (Some(Version::new(3).into()), None));
    assert_eq!(out.duplicate().idempotency_key().as_deref(), Some("again"));
    assert!(into(1).idempotency_key().is_none());
    assert_eq!(Move::NAME, "move-stock");
}

#[test]
fn a_handler_with_option_takes_either() {
    assert!(matches!(&decide(vec![], into(5)).unwrap()[..], [ItemEvent::Stocked(Stocked { pieces: 5 })]));
    let events = decide(
        vec![Stocked { pieces: 5 }.into(), Stocked { pieces: 1 }.into()],
        Move::Out(Item::sku(), 6, None),
    );
    assert!(matches!(&events.unwrap()[..], [ItemEvent::Taken(Taken { pieces: 6 })]));
}

#[test]
fn services_and_context_are_handed_in() {
    let price = || Price { sku: Item::sku(), euros: 2, seen: None, request: 9 };
    let given = || vec![Stocked { pieces: 1 }.into()];
    assert!(matches!(decide(given(), price()), Err(Refusal::NoService(_))));
    let mut services = Services::new();
    services.insert(Arc::new(Rates { cents_per_euro: 2500 }));
    services.insert::<dyn Mailer>(Arc::new(Silent));
    let events = decide_with(&services, given(), price()).unwrap();
    assert!(matches!(&events[..], [ItemEvent::Priced(Priced { cents: 5000 })]));
    assert_eq!(price().idempotency_key().as_deref(), Some("9"));
    const { assert!(<Item as Handle<Price>>::REACHES_OUT) };
    const { assert!(!<Item as Handle<Count>>::REACHES_OUT) };
    let mut needed = Vec::new();
    <Item as cqrs::Aggregate>::services(&mut needed);
    assert_eq!(needed.len(), 2);
}

#[test]
fn a_generic_command_is_handled_for_one_type() {
    let events = decide(vec![], Note { sku: Item::sku(), text: "four".to_owned() }).unwrap();
    assert!(matches!(&events[..], [ItemEvent::Stocked(Stocked { pieces: 4 })]));
}

#[test]
fn an_answer_may_hide_its_type() {
    let events = decide(vec![Stocked { pieces: 1 }.into()], Recount { sku: Item::sku(), lost: 3 });
    assert!(matches!(&events.unwrap()[..], [ItemEvent::Taken(Taken { pieces: 1 })]));
}

#[test]
fn nothing_is_an_answer() {
    assert!(decide(vec![Stocked { pieces: 1 }.into()], Count { sku: Item::sku() }).unwrap().is_empty());
}
