//! Tests of an aggregate: given events, when a command, then events or a refusal.
//!
//! A handler only ever gets `&self`, so no test needs to ask whether it changed the state behind
//! the back of `#[apply]`: that does not compile.

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

/// Starts the test of an aggregate. Every aggregate has it.
///
/// ```
/// # mod bank { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bank.rs")); } use bank::*;
/// use cqrs_testkit::prelude::*;
///
/// Account::given(()).when(Open { account: 7, owner: "Ada".into() }).then(Opened { owner: "Ada".into() });
/// ```
pub trait AggregateTest: Aggregate {
    /// An aggregate to which these events have happened: one, a tuple, an array or a vector of
    /// them, or `()` for none.
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
    #[must_use = "go on with `.when(…)`"]
    fn given(events: impl IntoEvents<Self>) -> AggregateScenario<Self> {
        AggregateScenario::new().and_given(events)
    }

    /// An aggregate that has accepted this command. Says what was asked instead of what happened,
    /// where the events are not the point of the test.
    ///
    /// ```
    /// # mod bank { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bank.rs")); } use bank::*;
    /// # use cqrs_testkit::prelude::*;
    /// Account::given_command(Open { account: 7, owner: "Ada".into() })
    ///     .when(Withdraw { account: 7, cents: 1 })
    ///     .then_error(AccountError::Overdraft { balance: 0 });
    /// ```
    #[track_caller]
    #[must_use = "go on with `.when(…)`"]
    fn given_command<C: Command>(command: C) -> AggregateScenario<Self>
    where
        Self: Handle<C>,
    {
        AggregateScenario::new().and_given_command(command)
    }

    /// An aggregate that has accepted these commands, in order: a tuple of them, or an array or a
    /// vector of one kind.
    ///
    /// ```
    /// # mod bank { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bank.rs")); } use bank::*;
    /// # use cqrs_testkit::prelude::*;
    /// Account::given_commands((Open { account: 7, owner: "Ada".into() }, Deposit { account: 7, cents: 5 }))
    ///     .when(Withdraw { account: 7, cents: 6 })
    ///     .then_error(AccountError::Overdraft { balance: 5 });
    /// ```
    #[track_caller]
    #[must_use = "go on with `.when(…)`"]
    fn given_commands(commands: impl IntoCommands<Self>) -> AggregateScenario<Self> {
        AggregateScenario::new().and_given_commands(commands)
    }

    /// An aggregate with an event as some release stored it: its stored name, schema version and
    /// payload. Tells whether old events can still be read.
    ///
    /// ```
    /// # mod bank { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bank.rs")); } use bank::*;
    /// # use cqrs_testkit::prelude::*;
    /// Account::given_stored("Opened", 1, r#"{"owner":"Ada"}"#)
    ///     .when(Deposit { account: 7, cents: 5 })
    ///     .then(Deposited { cents: 5 });
    /// ```
    #[track_caller]
    #[must_use = "go on with `.when(…)`"]
    fn given_stored(name: &str, version: u32, payload: impl AsRef<[u8]>) -> AggregateScenario<Self> {
        AggregateScenario::new().and_given_stored(name, version, payload)
    }
}

impl<A: Aggregate> AggregateTest for A {}

/// The test of an aggregate: what is given, what is asked, and what came of it.
///
/// `S` says where the test stands: [`Given`], or [`When`] behind `.when(…)`, which brings the
/// `then…` methods.
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
    /// What is given but has not been folded yet.
    pending: Vec<Step<A>>,
    now: Option<Timestamp>,
    metadata: Option<Arc<Metadata>>,
    ignored: Ignored,
    outcome: Option<Outcome<A>>,
    stands: PhantomData<S>,
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
            stands: PhantomData,
        }
    }
}

/// What is given and fixed.
impl<A: Aggregate, S> AggregateScenario<A, S> {
    /// Further events that have happened.
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
    #[must_use = "go on with `.when(…)`"]
    pub fn and_given(self, events: impl IntoEvents<A>) -> AggregateScenario<A> {
        let mut all = Vec::new();
        events.into_events(&mut all);
        self.step(Box::new(|world, _| world.given(all)))
    }

    /// A further command that was accepted.
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
    #[must_use = "go on with `.when(…)`"]
    pub fn and_given_command<C: Command>(self, command: C) -> AggregateScenario<A>
    where
        A: Handle<C>,
    {
        self.and_given_commands([command])
    }

    /// Further commands that were accepted, in order.
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
    #[must_use = "go on with `.when(…)`"]
    pub fn and_given_commands(mut self, commands: impl IntoCommands<A>) -> AggregateScenario<A> {
        let mut all = Commands::new();
        commands.into_commands(&mut all);
        let (now, metadata) = (self.now, self.metadata.clone());
        let fixed = |step: Step<A>| Step { now, metadata: metadata.clone(), ..step };
        self.pending.extend(all.steps(Location::caller()).map(fixed));
        self.stand()
    }

    /// A further event as some release stored it.
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
    #[must_use = "go on with `.when(…)`"]
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

    /// The time of what follows: a text such as `"2024-05-01T12:30:00Z"`, a [`Timestamp`], or a
    /// [`SystemTime`](std::time::SystemTime). Until a test says it for the first time, it is
    /// that time from the start; a test that says nothing runs at [`START`].
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
    #[must_use = "go on with `.when(…)`"]
    pub fn at(mut self, now: impl IntoTime) -> Self {
        let now = time(now);
        self.now = Some(now);
        self.pending.iter_mut().for_each(|step| _ = step.now.get_or_insert(now));
        self
    }

    /// Lets time pass before what follows.
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
    #[must_use = "go on with `.when(…)`"]
    pub fn later(mut self, passed: Duration) -> Self {
        let now = self.now.unwrap_or(START);
        self.pending.iter_mut().for_each(|step| _ = step.now.get_or_insert(now));
        let passed = u64::try_from(passed.as_micros()).unwrap_or(u64::MAX);
        self.now = Some(Timestamp::from_micros(now.as_micros().saturating_add(passed)));
        self
    }

    /// The ids that handlers get from their context, in place of those that count up:
    /// [`nth_id`](crate::fixed::nth_id).
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
    #[must_use = "go on with `.when(…)`"]
    pub fn with_ids(mut self, ids: impl IdSource) -> Self {
        self.world.ids = Arc::new(ids);
        self
    }

    /// The metadata of what follows, as a caller of the engine sends it along.
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
    #[must_use = "go on with `.when(…)`"]
    pub fn with_metadata(mut self, metadata: Metadata) -> Self {
        let metadata = Arc::new(metadata);
        self.pending
            .iter_mut()
            .for_each(|step| _ = step.metadata.get_or_insert_with(|| Arc::clone(&metadata)));
        self.metadata = Some(metadata);
        self
    }

    /// A service that handlers ask for. For one that they ask for as `&dyn Mailer`, say which:
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
    #[must_use = "go on with `.when(…)`"]
    pub fn service<T: Service + ?Sized>(mut self, service: Arc<T>) -> Self {
        self.world.services.insert(service);
        self
    }

    /// Fields whose values are not compared from here on, such as a random number.
    ///
    /// `"at"` is every field of that name at any depth, `"lines.price"` every `price` directly in
    /// `lines`, and `"/lines/0/price"` is one place from the top, as a JSON pointer; `*` stands for
    /// any one name or index. What lies inside of an ignored field is ignored too.
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
    #[must_use = "go on with `.when(…)`"]
    pub fn ignoring<T: AsRef<str>>(mut self, fields: impl IntoIterator<Item = T>) -> Self {
        fields.into_iter().for_each(|field| self.ignored.add(field.as_ref()));
        self
    }

    /// Does not check that events are the same after storing and reading back, and folds them as
    /// they are.
    ///
    /// ```
    /// # mod bank { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bank.rs")); } use bank::*;
    /// # use cqrs_testkit::prelude::*;
    /// # let ada = || Opened { owner: "Ada".into() };
    /// Account::given(ada()).without_round_trip().when(Deposit { account: 7, cents: 5 }).then_accepted();
    /// ```
    #[must_use = "go on with `.when(…)`"]
    pub fn without_round_trip(mut self) -> Self {
        self.world.round_trip = false;
        self
    }

    /// How long an `async` handler may take, in place of 30 seconds.
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
    #[must_use = "go on with `.when(…)`"]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.world.patience = patience;
        self
    }

    /// Sends a command. Its events are folded, so that the next one sees them.
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
    /// If what was given does not fold, the handler needs a service that is not given, or an event
    /// does not survive storing.
    #[track_caller]
    #[must_use = "say with `.then(…)` what should come of it"]
    pub fn when<C: Command>(mut self, command: C) -> AggregateScenario<A, When>
    where
        A: Handle<C>,
    {
        let moment = self.moment(self.now, self.metadata.clone());
        match self.settle().and_then(|()| self.world.when(command, &moment)) {
            Ok(outcome) => {
                self.outcome = Some(outcome);
                self.stand()
            }
            Err(failure) => failure.raise(),
        }
    }

    /// The state so far satisfies the closure, which compares (and gives `bool`) or asserts.
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
    /// If it does not, or there is no state.
    #[track_caller]
    pub fn then_state<V: Verdict>(mut self, check: impl FnOnce(&A) -> V) -> Self {
        if let Err(failure) = self.settle() {
            failure.raise();
        }
        let Some(state) = &self.world.state else { self.no_state().raise() };
        if !check(state).holds() {
            let title = format!("the state of {} is not as expected", self.world.subject());
            Failure::new(title)
                .story(self.world.story(true))
                .cause("the closure of `then_state` gave `false`")
                .note("put `assert_eq!(…)` into the closure to see the values")
                .raise();
        }
        self
    }
}

impl<A: Aggregate, S> AggregateScenario<A, S> {
    #[track_caller]
    fn step(mut self, act: Act<A>) -> AggregateScenario<A> {
        let (now, metadata) = (self.now, self.metadata.clone());
        self.pending.push(Step { place: Location::caller(), now, metadata, act });
        self.stand()
    }

    /// The same test, standing elsewhere.
    fn stand<T>(self) -> AggregateScenario<A, T> {
        let Self { world, pending, now, metadata, ignored, outcome, stands: _ } = self;
        AggregateScenario { world, pending, now, metadata, ignored, outcome, stands: PhantomData }
    }

    fn moment(&self, now: Option<Timestamp>, metadata: Option<Arc<Metadata>>) -> Moment {
        Moment { now: now.unwrap_or(START), metadata: metadata.unwrap_or_default() }
    }

    /// Does what is given and not done yet.
    fn settle(&mut self) -> Checked {
        for Step { place, now, metadata, act } in mem::take(&mut self.pending) {
            let moment = self.moment(now, metadata);
            act(&mut self.world, &moment)
                .map_err(|failure| failure.story(self.world.story(true)).given_at(place))?;
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
