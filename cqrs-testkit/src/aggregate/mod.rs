//! Tests of an aggregate: given events, when a command is sent, then events or a refusal.
//!
//! Handlers get `&self` at most, so the compiler ensures that only `#[apply]` changes the state. No test needs to check
//! that.

mod commands;
mod explain;
mod run;
mod then;
mod world;

use std::fmt;
use std::marker::PhantomData;
use std::mem;
use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cqrs_core::aggregate::IntoEvents;
use cqrs_core::context::{IdSource, Service};
use cqrs_core::event::Tags;
use cqrs_core::{Aggregate, Command, Handle, Metadata, Timestamp};

pub use self::commands::{Commands, IntoCommands};
use self::world::{Act, Moment, Outcome, Step, World};
use crate::fixed::{IntoTime, START, time};
use crate::report::leaves::Ignored;
use crate::report::{Checked, Failure};
pub use crate::step::{Given, When};
use crate::stored::Image;
use crate::verdict::Verdict;

/// Adds the constructors of tests to every aggregate.
///
/// ```
/// # mod bank { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bank.rs")); } use bank::*;
/// use cqrs_testkit::prelude::*;
///
/// Account::given(()).when(Open { account: 7, owner: "Ada".into() }).then(Opened { owner: "Ada".into() });
/// ```
pub trait AggregateTest: Aggregate {
    /// Starts with these past events: one, a tuple, an array or vector of them, or `()` for none.
    ///
    /// ```
    /// # mod bank { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bank.rs")); } use bank::*;
    /// # use cqrs_testkit::prelude::*;
    /// Account::given(()).when(Deposit { account: 7, cents: 5 }).then_missing();
    /// Account::given([Opened { owner: "Ada".into() }])
    ///     .when(Deposit { account: 7, cents: 5 })
    ///     .then(Deposited { cents: 5 });
    /// Account::given((Opened { owner: "Ada".into() }, Deposited { cents: 5 }))
    ///     .when(Withdraw { account: 7, cents: 6 })
    ///     .then_error(AccountError::Overdraft { balance: 5 });
    /// ```
    #[track_caller]
    #[must_use = "continue with `.when(…)`"]
    fn given(events: impl IntoEvents<Self>) -> AggregateScenario<Self> {
        AggregateScenario::new().and_given(events)
    }

    /// Starts with this accepted command. Use it where the events do not matter for the test.
    ///
    /// ```
    /// # mod bank { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bank.rs")); } use bank::*;
    /// # use cqrs_testkit::prelude::*;
    /// Account::given_command(Open { account: 7, owner: "Ada".into() })
    ///     .when(Withdraw { account: 7, cents: 1 })
    ///     .then_error(AccountError::Overdraft { balance: 0 });
    /// ```
    #[track_caller]
    #[must_use = "continue with `.when(…)`"]
    fn given_command<C: Command>(command: C) -> AggregateScenario<Self>
    where
        Self: Handle<C>,
    {
        AggregateScenario::new().and_given_command(command)
    }

    /// Starts with these accepted commands, in order: a tuple of them, or an array or vector of one type.
    ///
    /// ```
    /// # mod bank { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bank.rs")); } use bank::*;
    /// # use cqrs_testkit::prelude::*;
    /// Account::given_commands((Open { account: 7, owner: "Ada".into() }, Deposit { account: 7, cents: 5 }))
    ///     .when(Withdraw { account: 7, cents: 6 })
    ///     .then_error(AccountError::Overdraft { balance: 5 });
    /// ```
    #[track_caller]
    #[must_use = "continue with `.when(…)`"]
    fn given_commands(commands: impl IntoCommands<Self>) -> AggregateScenario<Self> {
        AggregateScenario::new().and_given_commands(commands)
    }

    /// Starts with an event in its stored form: name, schema version, and payload. Use it to test that old events can
    /// still be read.
    ///
    /// ```
    /// # mod bank { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bank.rs")); } use bank::*;
    /// # use cqrs_testkit::prelude::*;
    /// Account::given_stored("Opened", 1, r#"{"owner":"Ada"}"#)
    ///     .when(Deposit { account: 7, cents: 5 })
    ///     .then(Deposited { cents: 5 });
    /// ```
    #[track_caller]
    #[must_use = "continue with `.when(…)`"]
    fn given_stored(name: &str, version: u32, payload: impl AsRef<[u8]>) -> AggregateScenario<Self> {
        AggregateScenario::new().and_given_stored(name, version, payload)
    }
}

impl<A: Aggregate> AggregateTest for A {}

/// A test of an aggregate: its past events, its commands, and their outcomes.
///
/// `S` is the phase of the test: [`Given`], or [`When`] after `.when(…)`, which adds the `then…` methods.
///
/// ```
/// # mod bank { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bank.rs")); } use bank::*;
/// # use cqrs_testkit::prelude::*;
/// # let ada = || Opened { owner: "Ada".into() };
/// // Several steps of one story; what is fixed holds for all that follow.
/// Account::given(ada())
///     .at("2024-05-01T12:30:00Z")
///     .when(Deposit { account: 7, cents: 5 })
///     .then(Deposited { cents: 5 })
///     .then_state(|account| account.balance == 5)
///     .when(Withdraw { account: 7, cents: 6 })
///     .then_error(AccountError::Overdraft { balance: 5 });
/// ```
pub struct AggregateScenario<A: Aggregate, S = Given> {
    world: World<A>,
    /// Given steps that have not run yet.
    pending: Vec<Step<A>>,
    now: Option<Timestamp>,
    metadata: Option<Arc<Metadata>>,
    ignored: Ignored,
    outcome: Option<Outcome<A>>,
    phase: PhantomData<S>,
}

impl<A: Aggregate> AggregateScenario<A> {
    fn new() -> Self {
        Self {
            world: World::new(),
            pending: Vec::new(),
            now: None,
            metadata: None,
            ignored: Ignored::default(),
            outcome: None,
            phase: PhantomData,
        }
    }
}

/// The setup of a test.
impl<A: Aggregate, S> AggregateScenario<A, S> {
    /// Adds past events.
    ///
    /// ```
    /// # mod bank { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bank.rs")); } use bank::*;
    /// # use cqrs_testkit::prelude::*;
    /// # let ada = || Opened { owner: "Ada".into() };
    /// Account::given(ada())
    ///     .and_given([Deposited { cents: 5 }, Deposited { cents: 6 }])
    ///     .then_state(|account| account.balance == 11);
    /// ```
    #[track_caller]
    #[must_use = "continue with `.when(…)`"]
    pub fn and_given(self, events: impl IntoEvents<A>) -> AggregateScenario<A> {
        let mut all = Vec::new();
        events.into_events(&mut all);
        self.step(Box::new(|world, _| world.given(all)))
    }

    /// Adds an accepted command.
    ///
    /// ```
    /// # mod bank { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bank.rs")); } use bank::*;
    /// # use cqrs_testkit::prelude::*;
    /// # let ada = || Opened { owner: "Ada".into() };
    /// Account::given(ada())
    ///     .and_given_command(Deposit { account: 7, cents: 5 })
    ///     .then_state(|account| account.balance == 5);
    /// ```
    #[track_caller]
    #[must_use = "continue with `.when(…)`"]
    pub fn and_given_command<C: Command>(self, command: C) -> AggregateScenario<A>
    where
        A: Handle<C>,
    {
        self.and_given_commands([command])
    }

    /// Adds accepted commands, in order.
    ///
    /// ```
    /// # mod bank { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bank.rs")); } use bank::*;
    /// # use cqrs_testkit::prelude::*;
    /// # let ada = || Opened { owner: "Ada".into() };
    /// Account::given(ada())
    ///     .and_given_commands([Deposit { account: 7, cents: 5 }, Deposit { account: 7, cents: 6 }])
    ///     .then_state(|account| account.balance == 11);
    /// ```
    #[track_caller]
    #[must_use = "continue with `.when(…)`"]
    pub fn and_given_commands(mut self, commands: impl IntoCommands<A>) -> AggregateScenario<A> {
        let mut all = Commands::new();
        commands.into_commands(&mut all);
        let (now, metadata) = (self.now, self.metadata.clone());
        let fixed = |step: Step<A>| Step { now, metadata: metadata.clone(), ..step };
        self.pending.extend(all.steps(Location::caller()).map(fixed));
        self.into_phase()
    }

    /// Adds a past event in its stored form.
    ///
    /// ```
    /// # mod bank { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bank.rs")); } use bank::*;
    /// # use cqrs_testkit::prelude::*;
    /// # let ada = || Opened { owner: "Ada".into() };
    /// Account::given(ada())
    ///     .and_given_stored("Deposited", 1, r#"{"cents":5}"#)
    ///     .then_state(|account| account.balance == 5);
    /// ```
    #[track_caller]
    #[must_use = "continue with `.when(…)`"]
    pub fn and_given_stored(
        self,
        name: &str,
        version: u32,
        payload: impl AsRef<[u8]>,
    ) -> AggregateScenario<A> {
        let payload = Bytes::copy_from_slice(payload.as_ref());
        let image = Image { name: name.to_owned().into(), version, payload, tags: Tags::default() };
        self.step(Box::new(move |world, _| world.given_stored(&image)))
    }

    /// Sets the time of the following steps: a string such as `"2024-05-01T12:30:00Z"`, a [`Timestamp`], or a
    /// [`SystemTime`](std::time::SystemTime). The first call also applies to the steps before it (default: [`START`]).
    ///
    /// ```
    /// # mod bank { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bank.rs")); } use bank::*;
    /// # use cqrs_testkit::prelude::*;
    /// # let ada = || Opened { owner: "Ada".into() };
    /// Account::given(ada())
    ///     .at("2024-05-01T12:30:00Z")
    ///     .when(Deposit { account: 7, cents: 5 })
    ///     .then_recorded(|events| events[0].meta.time.to_string().starts_with("2024-05-01T12:30"));
    /// ```
    #[track_caller]
    #[must_use = "continue with `.when(…)`"]
    pub fn at(mut self, now: impl IntoTime) -> Self {
        let now = time(now);
        self.now = Some(now);
        self.pending.iter_mut().for_each(|step| _ = step.now.get_or_insert(now));
        self
    }

    /// Moves the time of the following steps forward.
    ///
    /// ```
    /// # mod bank { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bank.rs")); } use bank::*;
    /// # use cqrs_testkit::prelude::*;
    /// # let ada = || Opened { owner: "Ada".into() };
    /// use std::time::Duration;
    ///
    /// Account::given(ada())
    ///     .at("2024-05-01T12:30:00Z")
    ///     .when(Deposit { account: 7, cents: 5 })
    ///     .later(Duration::from_secs(24 * 60 * 60))
    ///     .when(Deposit { account: 7, cents: 5 })
    ///     .then_recorded(|events| events[0].meta.time.to_string().starts_with("2024-05-02T12:30"));
    /// ```
    #[must_use = "continue with `.when(…)`"]
    pub fn later(mut self, passed: Duration) -> Self {
        let now = self.now.unwrap_or(START);
        self.pending.iter_mut().for_each(|step| _ = step.now.get_or_insert(now));
        let passed = u64::try_from(passed.as_micros()).unwrap_or(u64::MAX);
        self.now = Some(Timestamp::from_micros(now.as_micros().saturating_add(passed)));
        self
    }

    /// Sets the source of ids for handlers (default: ids that count up, [`nth_id`](crate::fixed::nth_id)).
    ///
    /// ```
    /// # mod bank { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bank.rs")); } use bank::*;
    /// # use cqrs_testkit::prelude::*;
    /// # let ada = || Opened { owner: "Ada".into() };
    /// use cqrs::context::IdSource;
    /// use cqrs::Timestamp;
    /// use uuid::Uuid;
    ///
    /// #[derive(Debug)]
    /// struct AlwaysMax;
    ///
    /// impl IdSource for AlwaysMax {
    ///     fn next(&self, _: Timestamp) -> Uuid {
    ///         Uuid::max()
    ///     }
    /// }
    ///
    /// Account::given(ada()).with_ids(AlwaysMax).when(Deposit { account: 7, cents: 5 }).then_accepted();
    /// ```
    #[must_use = "continue with `.when(…)`"]
    pub fn with_ids(mut self, ids: impl IdSource) -> Self {
        self.world.ids = Arc::new(ids);
        self
    }

    /// Sets the metadata of the following commands, as a caller of the engine does.
    ///
    /// ```
    /// # mod bank { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bank.rs")); } use bank::*;
    /// # use cqrs_testkit::prelude::*;
    /// # let ada = || Opened { owner: "Ada".into() };
    /// use cqrs::Metadata;
    ///
    /// Account::given(ada())
    ///     .with_metadata(Metadata::new().actor("teller"))
    ///     .when(Deposit { account: 7, cents: 5 })
    ///     .then_metadata(Metadata::new().actor("teller"));
    /// ```
    #[must_use = "continue with `.when(…)`"]
    pub fn with_metadata(mut self, metadata: Metadata) -> Self {
        let metadata = Arc::new(metadata);
        self.pending
            .iter_mut()
            .for_each(|step| _ = step.metadata.get_or_insert_with(|| Arc::clone(&metadata)));
        self.metadata = Some(metadata);
        self
    }

    /// Provides a service to handlers. If they request it as a trait object such as `&dyn Mailer`, name the trait:
    /// `.service::<dyn Mailer>(Arc::new(Outbox::default()))`.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use cqrs::prelude::*;
    /// use cqrs_testkit::prelude::*;
    ///
    /// struct Rates {
    ///     cents_per_piece: u64,
    /// }
    /// impl Service for Rates {}
    ///
    /// #[derive(Event, Serialize, Deserialize)]
    /// struct Priced {
    ///     cents: u64,
    /// }
    ///
    /// #[derive(Command)]
    /// struct Price {
    ///     #[id]
    ///     order: u64,
    ///     pieces: u64,
    /// }
    ///
    /// #[derive(Default)]
    /// struct Order;
    ///
    /// #[aggregate(id = u64, error = std::convert::Infallible)]
    /// impl Order {
    ///     #[handle]
    ///     async fn price(&self, cmd: Price, rates: &Rates) -> Priced {
    ///         Priced { cents: cmd.pieces * rates.cents_per_piece }
    ///     }
    ///     #[apply]
    ///     fn priced(&mut self, _: &Priced) {}
    /// }
    ///
    /// Order::given(())
    ///     .service(Arc::new(Rates { cents_per_piece: 4 }))
    ///     .when(Price { order: 1, pieces: 3 })
    ///     .then(Priced { cents: 12 });
    /// ```
    #[must_use = "continue with `.when(…)`"]
    pub fn service<T: Service + ?Sized>(mut self, service: Arc<T>) -> Self {
        self.world.services.insert(service);
        self
    }

    /// Excludes fields from the following comparisons, such as a random number.
    ///
    /// `"at"` matches every field of that name at any depth. `"lines.price"` matches every `price` directly in `lines`.
    /// `"/lines/0/price"` matches a single field from the top, as a JSON pointer. `*` matches any one name or index. A
    /// pattern also covers everything inside the field.
    ///
    /// ```
    /// # mod bank { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bank.rs")); } use bank::*;
    /// # use cqrs_testkit::prelude::*;
    /// # let ada = || Opened { owner: "Ada".into() };
    /// Account::given(ada())
    ///     .ignoring(["cents"])
    ///     .when(Deposit { account: 7, cents: 5 })
    ///     .then(Deposited { cents: 0 });
    /// ```
    #[must_use = "continue with `.when(…)`"]
    pub fn ignoring<T: AsRef<str>>(mut self, fields: impl IntoIterator<Item = T>) -> Self {
        fields.into_iter().for_each(|field| self.ignored.add(field.as_ref()));
        self
    }

    /// Disables the check that events survive serialization. Events are then folded without being read back.
    ///
    /// ```
    /// # mod bank { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bank.rs")); } use bank::*;
    /// # use cqrs_testkit::prelude::*;
    /// # let ada = || Opened { owner: "Ada".into() };
    /// Account::given(ada()).without_round_trip().when(Deposit { account: 7, cents: 5 }).then_accepted();
    /// ```
    #[must_use = "continue with `.when(…)`"]
    pub fn without_round_trip(mut self) -> Self {
        self.world.round_trip = false;
        self
    }

    /// Sets the time limit of an `async` handler (default: 30 s).
    ///
    /// ```
    /// # mod bank { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bank.rs")); } use bank::*;
    /// # use cqrs_testkit::prelude::*;
    /// # let ada = || Opened { owner: "Ada".into() };
    /// use std::time::Duration;
    ///
    /// Account::given(ada())
    ///     .patience(Duration::from_secs(1))
    ///     .when(Deposit { account: 7, cents: 5 })
    ///     .then_accepted();
    /// ```
    #[must_use = "continue with `.when(…)`"]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.world.patience = patience;
        self
    }

    /// Sends a command, and folds its events so that the next command sees them.
    ///
    /// ```
    /// # mod bank { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bank.rs")); } use bank::*;
    /// # use cqrs_testkit::prelude::*;
    /// # let ada = || Opened { owner: "Ada".into() };
    /// Account::given(ada())
    ///     .when(Deposit { account: 7, cents: 5 })
    ///     .then(Deposited { cents: 5 })
    ///     .when(Withdraw { account: 7, cents: 6 })
    ///     .then_error(AccountError::Overdraft { balance: 5 });
    /// ```
    ///
    /// # Panics
    /// If a given event cannot be folded, the handler needs a service that the test does not provide, or an event does
    /// not survive serialization.
    #[track_caller]
    #[must_use = "check the outcome with `.then(…)`"]
    pub fn when<C: Command>(mut self, command: C) -> AggregateScenario<A, When>
    where
        A: Handle<C>,
    {
        let moment = self.moment(self.now, self.metadata.clone());
        match self.run_pending().and_then(|()| self.world.when(command, &moment)) {
            Ok(outcome) => {
                self.outcome = Some(outcome);
                self.into_phase()
            }
            Err(failure) => failure.raise(),
        }
    }

    /// Checks the current state with a closure, which returns `bool` or asserts.
    ///
    /// ```
    /// # mod bank { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bank.rs")); } use bank::*;
    /// # use cqrs_testkit::prelude::*;
    /// # let ada = || Opened { owner: "Ada".into() };
    /// Account::given((ada(), Deposited { cents: 5 }))
    ///     .then_state(|account| account.balance == 5)
    ///     .when(Withdraw { account: 7, cents: 1 })
    ///     .then_state(|account| assert_eq!(account.balance, 4));
    /// ```
    ///
    /// # Panics
    /// If the check fails, or there is no state.
    #[track_caller]
    pub fn then_state<V: Verdict>(mut self, check: impl FnOnce(&A) -> V) -> Self {
        if let Err(failure) = self.run_pending() {
            failure.raise();
        }
        let Some(state) = &self.world.state else { self.no_state().raise() };
        if !check(state).holds() {
            let title = format!("the state of {} is not as expected", self.world.subject());
            Failure::new(title)
                .story(self.world.story(true))
                .cause("the closure of `then_state` returned `false`")
                .note("use `assert_eq!(…)` in the closure to see the values")
                .raise();
        }
        self
    }
}

impl<A: Aggregate, S> AggregateScenario<A, S> {
    #[track_caller]
    fn step(mut self, act: Act<A>) -> AggregateScenario<A> {
        let (now, metadata) = (self.now, self.metadata.clone());
        self.pending.push(Step { location: Location::caller(), now, metadata, act });
        self.into_phase()
    }

    /// Moves the test to another phase.
    fn into_phase<T>(self) -> AggregateScenario<A, T> {
        let Self { world, pending, now, metadata, ignored, outcome, phase: _ } = self;
        AggregateScenario { world, pending, now, metadata, ignored, outcome, phase: PhantomData }
    }

    fn moment(&self, now: Option<Timestamp>, metadata: Option<Arc<Metadata>>) -> Moment {
        Moment { now: now.unwrap_or(START), metadata: metadata.unwrap_or_default() }
    }

    /// Runs the given steps that have not run yet.
    fn run_pending(&mut self) -> Checked {
        for Step { location, now, metadata, act } in mem::take(&mut self.pending) {
            let moment = self.moment(now, metadata);
            act(&mut self.world, &moment)
                .map_err(|failure| failure.story(self.world.story(true)).given_at(location))?;
        }
        Ok(())
    }

    fn no_state(&self) -> Failure {
        Failure::new(format!("{} has no state", self.world.subject()))
            .story(self.world.story(true))
            .cause("no event has created it")
    }
}

impl<A: Aggregate, S> fmt::Debug for AggregateScenario<A, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AggregateScenario")
            .field("aggregate", &A::NAME)
            .field("stream", &self.world.stream)
            .field("version", &self.world.version)
            .finish_non_exhaustive()
    }
}
