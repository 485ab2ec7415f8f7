//! The macros of `cqrs`. They are re-exported there; use them from there.
#![forbid(unsafe_code)]

mod attr;
mod check;
mod drive;
mod errors;
mod expand;
mod fallback;
mod model;
mod paths;
mod suggest;

use proc_macro::TokenStream;

/// Makes a struct an event: a fact with a stored name and a schema version.
///
/// It also needs serde's `Serialize` and `Deserialize`.
///
/// | `#[event(…)]` | |
/// | --- | --- |
/// | `name = "…"` | the stored name; that of the struct unless set |
/// | `version = 2` | the schema version, from 1; 1 unless set |
/// | `from = OldType` | the type of the version before; needs `impl From<OldType> for This` |
/// | `upcast(f, g)` | or a function on the JSON for each version before this one, the oldest first |
/// | `replaces = OldType`, `replaces(A, B)` | events whose place this one takes; needs `impl From<OldType> for Vec<This>` |
/// | `codec = Type` | how it becomes bytes; JSON unless set |
/// | `crate = path` | where the crate `cqrs` is, if it has another name |
///
/// `#[tag]` or `#[tag(name = "…")]` on a field makes it an indexed fact, `key:value`; an `Option`, array
/// or `Vec` tags each value.
///
/// More is on the guide's page "Events".
#[proc_macro_derive(Event, attributes(event, tag))]
pub fn derive_event(input: TokenStream) -> TokenStream {
    drive::event(input.into()).into()
}
/// Makes a struct or an enum a command: a request to one aggregate.
///
/// | on a field | |
/// | --- | --- |
/// | `#[id]` | the id of the aggregate that it is for; exactly one, in an enum one per variant |
/// | `#[expected_version]` | a `Version`, or an `Option` of it: what the stream must have |
/// | `#[idempotency_key]` | anything that prints, or an `Option` of it: what makes a second delivery answer with the first receipt |
///
/// `#[command(name = "…")]` sets the name, which is that of the type unless set; `#[command(crate = path)]`
/// says where the crate `cqrs` is.
///
/// More is on the guide's page "Aggregates".
#[proc_macro_derive(Command, attributes(command, id, expected_version, idempotency_key))]
pub fn derive_command(input: TokenStream) -> TokenStream {
    drive::command(input.into()).into()
}
/// Makes the type of an `impl` block an aggregate: state that is folded from events, and handlers that
/// decide on it.
///
/// | `#[aggregate(…)]` | |
/// | --- | --- |
/// | `id = Type` | the type of its id; required |
/// | `error = Type` | what its handlers refuse with; without it they cannot |
/// | `name = "…"` | the category of its streams; the name of the type unless set |
/// | `events = Name` | the name of the generated enum of events; `AccountEvent` for an `Account` unless set |
/// | `crate = path` | where the crate `cqrs` is, if it has another name |
///
/// | method | |
/// | --- | --- |
/// | `#[handle] fn open(cmd: Open) -> …` | decides if there is nothing yet |
/// | `#[handle] fn deposit(&self, cmd: Deposit) -> …` | decides if the stream exists |
/// | `#[handle] fn touch(this: Option<&Self>, cmd: Touch) -> …` | decides in either case |
/// | `#[apply] fn opened(e: &Opened) -> Self` | creates the state |
/// | `#[apply] fn deposited(&mut self, e: &Deposited)` | changes it |
/// | `#[apply] fn touched(this: Option<&Self>, e: &Touched) -> Self` | either; also `Option<Self>` |
///
/// Behind its command a handler may take `&Context` and services, and it may be `async`. It returns one
/// event, a tuple, `Option`, array or `Vec` of them, or nothing; or a `Result` of that and the error.
///
/// More is on the guide's page "Aggregates".
#[proc_macro_attribute]
pub fn aggregate(args: TokenStream, item: TokenStream) -> TokenStream {
    drive::aggregate(args.into(), &item.into()).into()
}
/// Makes the type of an `impl` block a projection: a read model with one document per key.
///
/// | `#[projection(…)]` | |
/// | --- | --- |
/// | `name = "…"` | names its documents and its checkpoint in the store; required |
/// | `key = Type` | the type of the key; required |
/// | `crate = path` | where the crate `cqrs` is, if it has another name |
///
/// | method | |
/// | --- | --- |
/// | `#[on] fn opened(e: &Opened) -> Self` | creates the document |
/// | `#[on] fn deposited(&mut self, e: &Deposited)` | changes it |
/// | `#[on] fn closed(self, e: &Closed) -> Option<Self>` | replaces it, or deletes it with `None` |
/// | `#[on] fn seen(this: Option<Self>, e: &Seen) -> Self` | either; may also give `Option<Self>`, and take `Option<&Self>` |
///
/// The document is that of the stream's id, or with `#[on(key = …)]` that of the key, or those of the
/// keys, that the expression gives. `meta: &EventMeta` may stand behind the event.
///
/// More is on the guide's page "Projections".
#[proc_macro_attribute]
pub fn projection(args: TokenStream, item: TokenStream) -> TokenStream {
    drive::projection(args.into(), &item.into()).into()
}
