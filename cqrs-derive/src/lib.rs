//! The macros of `cqrs`. Use them through that crate, which re-exports them: what they generate
//! calls its private door, and both are released together.
#![forbid(unsafe_code)]

mod attr;
mod block;
mod check;
mod drive;
mod errors;
mod expand;
mod fallback;
mod hash;
mod manifest;
mod model;
mod normal;
mod paths;
mod source;
mod spell;
mod suggest;
mod twin;

use proc_macro::TokenStream;

/// Makes a struct an event: a fact with a stored name and a version.
///
/// ```
/// use cqrs::prelude::*;
///
/// #[derive(Event, Serialize, Deserialize)]
/// pub struct Opened {
///     pub owner: String,
/// }
/// ```
///
/// becomes
///
/// ```text
/// impl Event for Opened {
///     const NAME: &'static str = "Opened";
///     const VERSION: u32 = 1;
///     type Codec = Json;
/// }
/// ```
///
/// The stored name is the struct's unless `name` says otherwise. It outlives the type: once events
/// are stored, a renamed struct keeps its old name by `#[event(name = "…")]`. Two events with one
/// name in an aggregate do not compile; over the whole program, the engine refuses to start.
///
/// # `#[event(…)]` on the struct
///
/// | argument | meaning |
/// | --- | --- |
/// | `name = "account-opened"` | the stored name |
/// | `version = 2` | the version of this shape, from 1 |
/// | `from = OpenedV1` | the type that the version before had; `impl From<OpenedV1> for Opened` is the way |
/// | `upcast(from_v1, from_v2)` | functions from JSON to JSON, one per former version, instead of types |
/// | `upcast_bytes = repair` | a function `fn(u32, &[u8]) -> Option<Vec<u8>>` from a version and a payload that cannot be read otherwise, of this version or an older one, to a payload of this version |
/// | `replaces = Stayed`, `replaces(A, B)` | events that are no longer written; `impl From<Stayed> for Vec<NightSpent>` says what each becomes: several, one or nothing |
/// | `codec = Cbor` | how it becomes bytes, a type that implements `Codec`; JSON if left out |
/// | `crate = my::cqrs` | where the crate `cqrs` is found, if it is not a dependency in Cargo.toml |
///
/// A version without a way from the version before does not compile, and neither does a chain
/// with a missing hop or a cycle.
///
/// ```
/// # use cqrs::prelude::*;
/// #[derive(Event, Serialize, Deserialize)]
/// #[event(name = "opened")]
/// struct OpenedV1 {
///     name: String,
/// }
///
/// #[derive(Event, Serialize, Deserialize)]
/// #[event(name = "opened", version = 2, from = OpenedV1)]
/// struct Opened {
///     owner: String,
///     newsletter: bool,
/// }
///
/// impl From<OpenedV1> for Opened {
///     fn from(old: OpenedV1) -> Self {
///         Self { owner: old.name, newsletter: false }
///     }
/// }
/// ```
///
/// # `#[tag]` on a field
///
/// Makes the field an indexed fact, `field:value`; `#[tag(name = "course")]` names it otherwise. The
/// type needs `Display`; an `Option`, array or `Vec` of such tags each value that is there.
#[proc_macro_derive(Event, attributes(event, tag))]
pub fn derive_event(input: TokenStream) -> TokenStream {
    drive::event(&input.into()).into()
}

/// Makes a struct or an enum a command: a request to one aggregate, which its id routes.
///
/// ```
/// # use cqrs::prelude::*;
/// #[derive(Command)]
/// pub struct Deposit {
///     #[id]
///     pub account: u64,
///     pub cents: u64,
/// }
/// # #[derive(Default)]
/// # pub struct Account;
/// # #[aggregate(id = u64)]
/// # impl Account {
/// #     #[handle]
/// #     fn deposit(&self, _: Deposit) {}
/// # }
/// ```
///
/// becomes
///
/// ```text
/// impl Command for Deposit {
///     type Id = u64;
///     type Aggregate = Account; // the one whose `#[aggregate]` block handles it
///     const NAME: &'static str = "Deposit";
///     fn id(&self) -> &u64 { &self.account }
///     …
/// }
/// ```
///
/// A command that no aggregate handles, or two do, does not compile. The aggregate lies in the
/// same crate and is at least as visible as its commands. In an enum each variant has its own
/// `#[id]`, all of one type. A command may be generic; a handler takes it with types filled in.
///
/// # On the command
///
/// `#[command(name = "…")]` gives a name for messages and spans other than the type's;
/// `#[command(crate = my::cqrs)]` says where the crate is found, if it is not a dependency in Cargo.toml.
///
/// # On its fields
///
/// | attribute | meaning |
/// | --- | --- |
/// | `#[id]` | names the aggregate; exactly one |
/// | `#[expected_version]` | a `Version`, or an `Option` of it: the stream must have it |
/// | `#[idempotency_key]` | anything with `Display`, or an `Option` of it: a repeated delivery with this key answers with the first receipt |
///
/// Every field is `Clone`: a command that lost a race is decided again.
#[proc_macro_derive(Command, attributes(command, id, expected_version, idempotency_key))]
pub fn derive_command(input: TokenStream) -> TokenStream {
    drive::command(&input.into()).into()
}

/// Makes a type an aggregate: the methods of this `impl` block decide commands and fold events.
///
/// ```
/// # use cqrs::prelude::*;
/// # #[derive(Event, Serialize, Deserialize)]
/// # pub struct Opened { owner: String }
/// # #[derive(Event, Serialize, Deserialize)]
/// # pub struct Deposited { cents: u64 }
/// # #[derive(Command)]
/// # pub struct Open { #[id] account: u64, owner: String }
/// # #[derive(Command)]
/// # pub struct Deposit { #[id] account: u64, cents: u64 }
/// pub struct Account {
///     balance: u64,
/// }
///
/// #[aggregate(id = u64, error = std::fmt::Error)]
/// impl Account {
///     #[handle]
///     fn open(cmd: Open) -> Opened {
///         Opened { owner: cmd.owner }
///     }
///     #[handle]
///     fn deposit(&self, cmd: Deposit) -> Result<Deposited, std::fmt::Error> {
///         Ok(Deposited { cents: cmd.cents })
///     }
///
///     #[apply]
///     fn opened(_: &Opened) -> Self {
///         Account { balance: 0 }
///     }
///     #[apply]
///     fn deposited(&mut self, event: &Deposited) {
///         self.balance += event.cents;
///     }
/// }
/// ```
///
/// stays as it is, and beside it come
///
/// ```text
/// /// Everything that can happen to `Account`: the events with an `#[apply]`.
/// pub enum AccountEvent { Opened(Opened), Deposited(Deposited) } // with `From` for each
///
/// impl Aggregate for Account { … } // its names and types, and the fold
/// impl Handle<Open> for Account { … } // and for each other command
/// impl Register for Account { … } // submitted at link time
/// ```
///
/// # Arguments
///
/// | argument | meaning |
/// | --- | --- |
/// | `id = AccountId` | what names one of them |
/// | `error = AccountError` | what handlers refuse with; if left out, they never do |
/// | `name = "account"` | the category of its streams; the type's name if left out |
/// | `events = AccountFact` | what the generated enum is called; `AccountEvent` if left out |
/// | `snapshot = every(500)` | keeps the state beside the log whenever so many events have been passed; it derives `Serialize` and `Deserialize` then. `every(500, version = 2)` after a change of the fold that does not stand in this block |
/// | `rejection = AccountError::of_rejection` | a function `fn(&Rejection) -> Option<AccountError>`: the domain's own error for a command that a rule of an inline projection rejects |
/// | `state_size = Account::bytes` | a function `fn(&Account) -> usize`: the bytes of memory that a state owns besides its own fields, for the limit on remembered states; the engine calls it after each command. If left out, the engine estimates them |
/// | `crate = my::cqrs` | where the crate `cqrs` is found, if it is not a dependency in Cargo.toml |
///
/// # `#[handle]`
///
/// The receiver says what must exist, and the engine refuses for you if it does not:
///
/// | signature | the stream |
/// | --- | --- |
/// | `fn open(cmd: Open)` | must not exist: this creates |
/// | `fn deposit(&self, cmd: Deposit)` | must exist |
/// | `fn note(account: Option<&Self>, cmd: Note)` | may exist |
///
/// The command may be taken by reference. Behind it a handler takes what else it needs, each by
/// reference: `&Context`, and any `Service`; the engine does not start if a service is missing. It
/// may be `async`. It returns what happened: an event, a tuple, `Option`, array or `Vec` of events,
/// or nothing; or a `Result` of that and the error.
///
/// # `#[apply]`
///
/// | signature | the state |
/// | --- | --- |
/// | `fn opened(event: &Opened) -> Self` | begins with this event |
/// | `fn deposited(&mut self, event: &Deposited)` | changes |
/// | `fn moved(account: Option<&Self>, event: &Moved) -> Self` | begins or changes; `Option<Self>` works too |
///
/// If none begins it, the state is there from the start, as its `Default`. If some do, a handler that
/// creates has to return one of those events first.
///
/// Methods without `#[handle]` or `#[apply]` are left alone.
#[proc_macro_attribute]
pub fn aggregate(args: TokenStream, item: TokenStream) -> TokenStream {
    drive::aggregate(args.into(), &item.into()).into()
}

/// Makes a type a projection: one document per key, folded from the events that the methods of this
/// `impl` block name.
///
/// ```
/// # use cqrs::prelude::*;
/// # #[derive(Event, Serialize, Deserialize)]
/// # pub struct Opened { owner: String }
/// # #[derive(Event, Serialize, Deserialize)]
/// # pub struct Transferred { from: u64, to: u64 }
/// # #[derive(Event, Serialize, Deserialize)]
/// # pub struct Closed;
/// #[derive(Serialize, Deserialize)]
/// pub struct Summary {
///     pub owner: String,
///     pub transfers: u32,
/// }
///
/// #[projection(name = "account-summary", key = u64)]
/// impl Summary {
///     #[on]
///     fn opened(event: &Opened) -> Self {
///         Summary { owner: event.owner.clone(), transfers: 0 }
///     }
///     #[on(key = [event.from, event.to])]
///     fn transferred(&mut self, event: &Transferred) {
///         self.transfers += 1;
///     }
///     #[on]
///     fn closed(self, _: &Closed) -> Option<Self> {
///         None
///     }
/// }
/// ```
///
/// stays as it is, and beside it come
///
/// ```text
/// impl Projection for Summary { … } // its names, which documents an event changes, and the fold
/// impl Register for Summary { … } // submitted at link time
/// ```
///
/// # Arguments
///
/// | argument | meaning |
/// | --- | --- |
/// | `name = "account-summary"` | names its documents and its checkpoint in the store |
/// | `key = AccountId` | what names one document |
/// | `mode = inline` | brought up to date in the commit of each command; `live`: kept nowhere, folded on each read; `async`, in the background, if left out |
/// | `fold_in_memory` | folds the events of a batch without storing a document between them, which is faster for hot keys; what serde does not store then lives until the batch ends, so such a document depends on its batches: `Engine::verify` and the testkit compare both ways |
/// | `sql = Sqlite` | keeps tables by statements of its own, instead of documents: see below |
/// | `crate = my::cqrs` | where the crate `cqrs` is found, if it is not a dependency in Cargo.toml |
///
/// # `#[on]`
///
/// | signature | the document |
/// | --- | --- |
/// | `fn opened(event: &Opened) -> Self` | begins |
/// | `fn deposited(&mut self, event: &Deposited)` | changes |
/// | `fn closed(self, event: &Closed) -> Option<Self>` | changes, or is deleted with `None` |
/// | `fn seen(old: Option<Self>, event: &Seen) -> Self` | begins or changes; `Option<&Self>` works too, and `-> Option<Self>` may delete |
///
/// Behind the event each may take `meta: &EventMeta`. If none begins it, a document starts from its
/// `Default`.
///
/// An event changes the document whose key is the id of its stream. `#[on(key = …)]` says otherwise:
/// an expression over the method's own parameters, event and meta, that gives a key, a reference to one,
/// or an `Option`, array or `Vec` of keys.
///
/// # `sql = …`
///
/// With the database that a store brings, such as `cqrs::sqlite::Sqlite`, the methods write rows of the
/// user's own tables, in the transaction that moves the projection's checkpoint. There is no `key`, and
/// no method has a `self`:
///
/// | signature | |
/// | --- | --- |
/// | `#[setup] fn tables(tx: &Transaction<'_>) -> Result<(), E>` | prepares the tables, once; may be left out |
/// | `#[on] fn opened(tx: &Transaction<'_>, event: &Opened) -> Result<(), E>` | writes what the event means; `meta: &EventMeta` may follow |
///
/// They may also return nothing, or a `Result` of anything. Where the database's driver is asynchronous,
/// they are `async`.
#[proc_macro_attribute]
pub fn projection(args: TokenStream, item: TokenStream) -> TokenStream {
    drive::projection(args.into(), &item.into()).into()
}
