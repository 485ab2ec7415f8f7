//! Commands as the starting point of a test, instead of events.

use std::fmt;
use std::panic::Location;

use cqrs_core::{Aggregate, Command, Handle};

use super::world::{Act, Step, World};
use crate::fixed::Count;

/// Commands that bring an aggregate into its state, in order. Each must be accepted.
///
/// ```
/// # mod bank { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bank.rs")); } use bank::*;
/// # use cqrs_testkit::prelude::*;
/// # let ada = || Opened { owner: "Ada".into() };
/// use cqrs_testkit::aggregate::{Commands, IntoCommands};
///
/// /// So many times one cent.
/// struct Drops(usize);
///
/// impl IntoCommands<Account> for Drops {
///     fn into_commands(self, commands: &mut Commands<Account>) {
///         (0..self.0).for_each(|_| commands.add(Deposit { account: 7, cents: 1 }));
///     }
/// }
///
/// Account::given(ada()).and_given_commands(Drops(3)).then_state(|account| account.balance == 3);
/// ```
pub struct Commands<A: Aggregate>(Vec<Act<A>>);

impl<A: Aggregate> Commands<A> {
    pub(crate) fn new() -> Self {
        Self(Vec::new())
    }

    /// Appends a command.
    pub fn add<C: Command>(&mut self, command: C)
    where
        A: Handle<C>,
    {
        self.0.push(Box::new(|world: &mut World<A>, moment| world.given_command(command, moment)));
    }

    pub(crate) fn steps(self, location: &'static Location<'static>) -> impl Iterator<Item = Step<A>> {
        self.0.into_iter().map(move |act| Step { location, now: None, metadata: None, act })
    }
}

impl<A: Aggregate> fmt::Debug for Commands<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Commands").field(&Count(self.0.len())).finish()
    }
}

/// Several commands for the aggregate `A`: a tuple of different ones, or an array or vector of one type.
///
/// ```
/// # mod bank { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bank.rs")); } use bank::*;
/// # use cqrs_testkit::prelude::*;
/// Account::given_commands((Open { account: 7, owner: "Ada".into() }, Deposit { account: 7, cents: 5 }))
///     .and_given_commands([Deposit { account: 7, cents: 6 }, Deposit { account: 7, cents: 7 }])
///     .then_state(|account| account.balance == 18);
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a list of commands for `{A}`",
    label = "not commands that `{A}` handles",
    note = "pass a tuple of commands, `(Open {{ … }}, Deposit {{ … }})`, or an array or `Vec` of one type"
)]
pub trait IntoCommands<A: Aggregate> {
    /// Appends its commands to `commands`, in order.
    fn into_commands(self, commands: &mut Commands<A>);
}

impl<A: Aggregate> IntoCommands<A> for () {
    fn into_commands(self, _: &mut Commands<A>) {}
}

impl<A: Handle<C>, C: Command> IntoCommands<A> for Vec<C> {
    fn into_commands(self, commands: &mut Commands<A>) {
        self.into_iter().for_each(|command| commands.add(command));
    }
}

impl<A: Handle<C>, C: Command, const N: usize> IntoCommands<A> for [C; N] {
    fn into_commands(self, commands: &mut Commands<A>) {
        self.into_iter().for_each(|command| commands.add(command));
    }
}

macro_rules! tuples {
    ($($command:ident)*) => {
        impl<A: Aggregate $(+ Handle<$command>)*, $($command: Command),*> IntoCommands<A> for ($($command,)*) {
            #[allow(non_snake_case, reason = "one name serves for the type and its value")]
            fn into_commands(self, commands: &mut Commands<A>) {
                let ($($command,)*) = self;
                $(commands.add($command);)*
            }
        }
    };
}

tuples!(C1);
tuples!(C1 C2);
tuples!(C1 C2 C3);
tuples!(C1 C2 C3 C4);
tuples!(C1 C2 C3 C4 C5);
tuples!(C1 C2 C3 C4 C5 C6);
tuples!(C1 C2 C3 C4 C5 C6 C7);
tuples!(C1 C2 C3 C4 C5 C6 C7 C8);
