//! Commands: what is asked for, and of whom.

use std::borrow::Cow;

use crate::aggregate::{Aggregate, Handle};
use crate::id::Id;
use crate::receipt::ExpectedVersion;
use crate::store::Content;

/// A request to one aggregate. Derive it; see `#[derive(Command)]`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a command",
    label = "not a command",
    note = "add `#[derive(Command)]` to `{Self}` and mark its routing field with `#[id]`"
)]
pub trait Command: Sized + Send + Sync + 'static {
    /// The type of the field marked `#[id]`: the id of the aggregate that handles the command.
    // `#[aggregate]` checks that it is, for each command that it handles; a bound here would be one
    // more place to report a command that nobody does.
    type Id: Id;
    /// The one aggregate with a `#[handle]` for it.
    type Aggregate: Handle<Self>;
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
