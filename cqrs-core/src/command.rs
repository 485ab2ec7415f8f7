//! Commands: what is asked for, and of whom.

use std::borrow::Cow;

use crate::aggregate::{Aggregate, Handle};
use crate::id::Id;
use crate::receipt::ExpectedVersion;
use crate::store::Content;

/// A request to one aggregate. Derive it; see `#[derive(Command)]`. It is `Send` and `Sync`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a command",
    label = "not a command",
    note = "add `#[derive(Command)]` to `{Self}` and mark its routing field with `#[id]`"
)]
pub trait Command: Sized + 'static {
    /// The type of the field marked `#[id]`: the id of the aggregate that handles the command.
    // `#[aggregate]` checks that it is, for each command that it handles; a bound here would be one
    // more place to report a command that nobody does.
    type Id: Id;
    /// The one aggregate with a `#[handle]` for it.
    type Aggregate: Handle<Self>;
    /// The form in which the engine stores a command until it is decided.
    type Shared: SharedCommand<Self>;
    /// The name, for messages and spans.
    const NAME: &'static str;

    /// Which aggregate it is for.
    fn id(&self) -> &Self::Id;

    /// The version that the stream must have; nothing is checked if `None`.
    fn expected_version(&self) -> Option<ExpectedVersion> {
        None
    }

    /// The key under which a repeated delivery answers with the first receipt.
    fn idempotency_key(&self) -> Option<Cow<'_, str>> {
        None
    }

    /// Its content as numbers, by which a key that is reused for another request is told; `None` if it cannot be
    /// compared.
    fn content(&self) -> Option<Content> {
        None
    }

    /// A copy for another attempt: a handler consumes its command, and a lost race decides again.
    #[must_use]
    fn duplicate(&self) -> Self;
}

/// The form in which the engine stores a command `C` until it is decided, for all threads: [`Sent`], if `C` is `Send` and
/// `Sync`.
///
/// The bound is on an associated type of [`Command`] and not on the command itself: a supertrait is checked
/// again wherever the command is named, and reported each time.
#[diagnostic::on_unimplemented(
    message = "the command `{C}` cannot be shared between threads",
    label = "a field of `{C}` is not `Send` or not `Sync`",
    note = "the engine works on several threads: in the fields of a command, use `Arc` and not `Rc`, and plain values and not `Cell` or `RefCell`"
)]
pub trait SharedCommand<C>: Send + Sync + 'static {
    /// Keeps a command.
    fn new(command: C) -> Self;

    /// The command.
    fn get(&self) -> &C;
}

/// A command that the engine keeps.
#[derive(Debug)]
pub struct Sent<C>(C);

#[diagnostic::do_not_recommend]
impl<C: Send + Sync + 'static> SharedCommand<C> for Sent<C> {
    fn new(command: C) -> Self {
        Self(command)
    }

    fn get(&self) -> &C {
        &self.0
    }
}

/// Names the one aggregate that handles a command; its name is what the compiler says if there are two. `#[aggregate]` implements it for every command
/// that has a `#[handle]` in its block.
#[diagnostic::on_unimplemented(
    message = "no aggregate handles the command `{Self}`",
    label = "no `#[handle]` takes this command",
    note = "add a method with `#[handle]` that takes `cmd: {Self}` to the `#[aggregate]` block it belongs to"
)]
pub trait HandledByOneAggregate {
    /// The aggregate.
    type Aggregate: Aggregate;
}

/// Says that a type is the id of the aggregate `A`. `#[aggregate(id = …)]` implements it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not the id of `{A}`",
    label = "the `#[id]` of this command is a `{Self}`",
    note = "give the field the type that `#[aggregate(id = …)]` of `{A}` names"
)]
pub trait IdOf<A> {}
