//! Documents: keys, deletion and every kind of fold.

use cqrs::event::EventSet;
use cqrs::projection::Keys;
use cqrs::{EventMeta, Projection, prelude::*};

use crate::bank::{Deposited, Opened, Summary, Withdrawn};
use crate::support::{meta, read};

#[derive(Event, Serialize, Deserialize)]
struct Transferred {
    from: u64,
    to: u64,
    cents: u64,
}
#[derive(Event, Serialize, Deserialize)]
struct Merged {
    into: u64,
    gone: Vec<u64>,
}

#[derive(Serialize, Deserialize, Debug, PartialEq)]
struct Owner {
    name: String,
    seen: u32,
    by: Option<String>,
}

#[projection(name = "owners", key = String)]
impl Owner {
    #[on(key = &e.owner)]
    fn opened(old: Option<Self>, e: &Opened, meta: &EventMeta) -> Self {
        let seen = old.map_or(0, |old| old.seen) + 1;
        Owner { name: e.owner.clone(), seen, by: meta.metadata.actor.clone() }
    }
    #[on(key = meta.metadata.actor.clone())]
    fn deposited(self, _: &Deposited, meta: &EventMeta) -> Option<Self> {
        assert_eq!(meta.stream.category(), "Account");
        (self.seen > 1).then_some(Owner { seen: self.seen - 1, ..self })
    }
    #[on]
    fn withdrawn(&mut self, _: &Withdrawn, _: &EventMeta) {
        self.seen += 10;
    }
}

#[derive(Serialize, Deserialize, Default)]
struct Flow {
    cents: u64,
}

#[projection(name = "flows", key = u64)]
impl Flow {
    #[on(key = [*from, *to])]
    fn transferred(&mut self, Transferred { from, to, cents }: &Transferred) {
        let _ = (from, to);
        self.cents += cents;
    }
    #[on(key = merged.gone.clone())]
    fn merged(self, merged: &Merged) -> Option<Self> {
        assert_ne!(merged.into, 0);
        None
    }
}

fn event<P: Projection>(name: &str, json: &str) -> P::Event {
    read::<P::Event>(name, 1, json).unwrap().remove(0)
}

fn keys<P: Projection<Key: Clone>>(event: &P::Event, stream: &str) -> Vec<P::Key> {
    let mut keys = Keys::default();
    P::route(event, &meta(stream), &mut keys).unwrap();
    keys.iter().cloned().collect()
}

#[test]
fn the_streams_id_is_the_key() {
    let opened = event::<Summary>("Opened", r#"{"owner":"Ada"}"#);
    assert_eq!(keys::<Summary>(&opened, "Account/42"), [42]);
    assert!(Summary::route(&opened, &meta("Account/x"), &mut Keys::default()).is_err());
}

#[test]
fn the_event_says_which_documents() {
    let opened = event::<Owner>("Opened", r#"{"owner":"Ada"}"#);
    assert_eq!(keys::<Owner>(&opened, "Account/1"), ["Ada"]);
    let deposited = event::<Owner>("Deposited", r#"{"cents":1}"#);
    assert_eq!(keys::<Owner>(&deposited, "Account/1"), ["ada"]);
    let moved = event::<Flow>("Transferred", r#"{"from":1,"to":2,"cents":3}"#);
    assert_eq!(keys::<Flow>(&moved, "Transfer/9"), [1, 2]);
    let merged = event::<Flow>("Merged", r#"{"into":1,"gone":[2,3]}"#);
    assert_eq!(keys::<Flow>(&merged, "Merge/9"), [2, 3]);
}

#[test]
fn documents_are_created_changed_and_deleted() {
    let meta = meta("Account/1");
    let opened = event::<Owner>("Opened", r#"{"owner":"Ada"}"#);
    let deposited = event::<Owner>("Deposited", r#"{"cents":1}"#);
    let withdrawn = event::<Owner>("Withdrawn", r#"{"cents":1}"#);
    let mut owner = Owner::initial();
    assert_eq!(owner, None);
    for seen in [1, 2] {
        Owner::apply(&mut owner, &opened, &meta).unwrap();
        assert_eq!(owner, Some(Owner { name: "Ada".into(), seen, by: Some("ada".into()) }));
    }
    Owner::apply(&mut owner, &withdrawn, &meta).unwrap();
    assert_eq!(owner.as_ref().map(|owner| owner.seen), Some(12));
    for left in (1..12).rev() {
        Owner::apply(&mut owner, &deposited, &meta).unwrap();
        assert_eq!(owner.as_ref().map(|owner| owner.seen), Some(left));
    }
    Owner::apply(&mut owner, &deposited, &meta).unwrap();
    assert_eq!(owner, None);
    assert!(Owner::apply(&mut owner, &deposited, &meta).is_err());
}

#[test]
fn a_document_that_nothing_creates_starts_from_default() {
    let mut flow = Flow::initial();
    let moved = event::<Flow>("Transferred", r#"{"from":1,"to":2,"cents":3}"#);
    Flow::apply(&mut flow, &moved, &meta("Transfer/9")).unwrap();
    assert_eq!(flow.as_ref().map(|flow| flow.cents), Some(3));
    let merged = event::<Flow>("Merged", r#"{"into":1,"gone":[2]}"#);
    Flow::apply(&mut flow, &merged, &meta("Merge/9")).unwrap();
    assert!(flow.is_none());
}

#[test]
fn only_the_named_events_are_read() {
    let names: Vec<_> = <Flow as Projection>::Event::TYPES.iter().map(|kind| kind.name).collect();
    assert_eq!(names, ["Transferred", "Merged"]);
}
