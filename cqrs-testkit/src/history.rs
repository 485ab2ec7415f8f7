//! Histories: past events of streams, to test projections with.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use cqrs_core::aggregate::IntoEvents;
use cqrs_core::event::Tags;
use cqrs_core::{Aggregate, Event, Metadata, StreamId, Timestamp};

use crate::fixed::{Count, IntoTime, time};
use crate::id;
use crate::report::{Failure, fail_test};
use crate::stored::{Image, image_of, images, round_trip, round_trip_of};

/// Adds [`history`](Self::history) to every aggregate.
///
/// ```
/// # mod bank { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bank.rs")); } use bank::*;
/// use cqrs_testkit::prelude::*;
///
/// let history = Account::history(7, [Opened { owner: "Ada".into() }]);
/// assert_eq!(format!("{history:?}"), r#"History { stream: StreamId("Account/7"), events: [1], .. }"#);
/// ```
pub trait AggregateHistory: Aggregate {
    /// Returns a history with events of the aggregate with this id.
    ///
    /// ```
    /// # mod bank { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bank.rs")); } use bank::*;
    /// # use cqrs_testkit::prelude::*;
    /// # let ada = || Opened { owner: "Ada".into() };
    /// let history = Account::history(7, (ada(), Deposited { cents: 5 }));
    /// Summary::given(history).then_document_count(1);
    /// ```
    ///
    /// # Panics
    /// If the id cannot name a stream, or an event cannot be stored.
    #[track_caller]
    #[must_use = "pass it to a projection"]
    fn history(id: impl Borrow<Self::Id>, events: impl IntoEvents<Self>) -> History {
        let stream = match id::stream(Self::NAME, id.borrow()) {
            Ok(stream) => stream,
            Err(failure) => failure.raise(),
        };
        let mut all = Vec::new();
        events.into_events(&mut all);
        match images(&all, &|at| format!("event {} of {stream}", at + 1)) {
            Ok(images) => {
                History::new(stream).with(images, |image, what| round_trip::<Self::Event>(image, what).err())
            }
            Err(failure) => failure.raise(),
        }
    }
}

impl<A: Aggregate> AggregateHistory for A {}

/// Events of one stream, in order.
///
/// Create it with [`AggregateHistory::history`] from the events of an aggregate, or with [`of`](Self::of) from any
/// events.
///
/// ```
/// # mod bank { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bank.rs")); } use bank::*;
/// # use cqrs_testkit::prelude::*;
/// # let ada = || Opened { owner: "Ada".into() };
/// let history = Account::history(7, (ada(), Deposited { cents: 5 })).at("2024-05-01T12:30:00Z");
/// Summary::given(history).then_document_matches(7, |summary| summary.balance == 5);
/// ```
#[derive(Clone)]
pub struct History {
    pub(crate) stream: StreamId,
    pub(crate) events: Vec<PastEvent>,
    pub(crate) time: Option<Timestamp>,
    pub(crate) metadata: Arc<Metadata>,
}

/// An event of a history, and the failure if it changed when it was serialized and read back.
#[derive(Clone)]
pub(crate) struct PastEvent {
    pub(crate) image: Image,
    pub(crate) fault: Option<Failure>,
}

impl History {
    fn new(stream: StreamId) -> Self {
        Self { stream, events: Vec::new(), time: None, metadata: Arc::default() }
    }

    /// Returns an empty history of a stream, named `category/id`.
    ///
    /// ```
    /// # mod bank { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bank.rs")); } use bank::*;
    /// # use cqrs_testkit::prelude::*;
    /// # let ada = || Opened { owner: "Ada".into() };
    /// Summary::given(History::of("Account/7").event(ada())).then_document_count(1);
    /// ```
    ///
    /// # Panics
    /// If `stream` is not a valid stream id.
    #[track_caller]
    #[must_use = "add events with `.event(…)`"]
    pub fn of(stream: &str) -> Self {
        match stream.parse() {
            Ok(stream) => Self::new(stream),
            Err(error) => fail_test(&cqrs_core::id::InvalidStreamId::to_string(&error)),
        }
    }

    /// Adds an event.
    ///
    /// ```
    /// # mod bank { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bank.rs")); } use bank::*;
    /// # use cqrs_testkit::prelude::*;
    /// # let ada = || Opened { owner: "Ada".into() };
    /// Summary::given(History::of("Account/7").event(ada()).event(Deposited { cents: 5 }))
    ///     .then_document_matches(7, |summary| summary.balance == 5);
    /// ```
    ///
    /// # Panics
    /// If the event cannot be stored.
    #[track_caller]
    #[must_use = "pass it to a projection"]
    #[expect(clippy::needless_pass_by_value, reason = "an event is written where it is used")]
    pub fn event<E: Event>(self, event: E) -> Self {
        match image_of(&event, &self.next()) {
            Ok(image) => self.with(vec![image], |image, what| round_trip_of::<E>(image, what).err()),
            Err(failure) => failure.raise(),
        }
    }

    /// Adds an event in its stored form, as some release has written it.
    ///
    /// ```
    /// # mod bank { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bank.rs")); } use bank::*;
    /// # use cqrs_testkit::prelude::*;
    /// Summary::given(History::of("Account/7").stored("Opened", 1, r#"{"owner":"Ada"}"#)).then_document_count(1);
    /// ```
    #[must_use = "pass it to a projection"]
    pub fn stored(self, name: &str, version: u32, payload: impl AsRef<[u8]>) -> Self {
        let payload = Bytes::copy_from_slice(payload.as_ref());
        let image = Image { name: name.to_owned().into(), version, payload, tags: Tags::default() };
        self.with(vec![image], |_, _| None)
    }

    /// Sets the time of its events (default: [`START`](crate::fixed::START)).
    ///
    /// ```
    /// # mod bank { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bank.rs")); } use bank::*;
    /// # use cqrs_testkit::prelude::*;
    /// # let ada = || Opened { owner: "Ada".into() };
    /// let history = Account::history(7, ada()).at("2024-05-01T12:30:00Z");
    /// Summary::given(history).then_document_count(1);
    /// ```
    #[track_caller]
    #[must_use = "pass it to a projection"]
    pub fn at(mut self, at: impl IntoTime) -> Self {
        self.time = Some(time(at));
        self
    }

    /// Sets the metadata of its events.
    ///
    /// ```
    /// # mod bank { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bank.rs")); } use bank::*;
    /// # use cqrs_testkit::prelude::*;
    /// # let ada = || Opened { owner: "Ada".into() };
    /// use cqrs::Metadata;
    ///
    /// let history = Account::history(7, ada()).with_metadata(Metadata::new().actor("teller"));
    /// Summary::given(history).then_document_count(1);
    /// ```
    #[must_use = "pass it to a projection"]
    pub fn with_metadata(mut self, metadata: Metadata) -> Self {
        self.metadata = Arc::new(metadata);
        self
    }

    fn next(&self) -> String {
        format!("event {} of {}", self.events.len() + 1, self.stream)
    }

    fn with(mut self, images: Vec<Image>, fault: impl Fn(&Image, &str) -> Option<Failure>) -> Self {
        for image in images {
            let fault = fault(&image, &self.next());
            self.events.push(PastEvent { image, fault });
        }
        self
    }
}

impl fmt::Debug for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("History")
            .field("stream", &self.stream)
            .field("events", &Count(self.events.len()))
            .finish_non_exhaustive()
    }
}

/// Arguments of a projection's `given`: a [`History`], a tuple, array, or vector of them, or `()` for none. Their
/// events happen in this order.
///
/// ```
/// # mod bank { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bank.rs")); } use bank::*;
/// # use cqrs_testkit::prelude::*;
/// # let ada = || Opened { owner: "Ada".into() };
/// Summary::given(()).then_document_count(0);
/// Summary::given([Account::history(7, ada()), Account::history(8, ada())]).then_document_count(2);
/// Summary::given((Account::history(7, ada()), History::of("Account/8").event(ada()))).then_document_count(2);
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not name the stream of its events",
    label = "not a history",
    note = "write `Account::history(id, events)` for the events of an aggregate, or `History::of(\"Account/7\").event(…)`"
)]
pub trait IntoHistory {
    /// Appends itself to `histories`, in order.
    fn into_history(self, histories: &mut Vec<History>);
}

impl IntoHistory for () {
    fn into_history(self, _: &mut Vec<History>) {}
}

impl IntoHistory for History {
    fn into_history(self, histories: &mut Vec<History>) {
        histories.push(self);
    }
}

impl<H: IntoHistory> IntoHistory for Vec<H> {
    fn into_history(self, histories: &mut Vec<History>) {
        self.into_iter().for_each(|history| history.into_history(histories));
    }
}

impl<H: IntoHistory, const N: usize> IntoHistory for [H; N] {
    fn into_history(self, histories: &mut Vec<History>) {
        self.into_iter().for_each(|history| history.into_history(histories));
    }
}

macro_rules! tuples {
    ($($history:ident)*) => {
        impl<$($history: IntoHistory),*> IntoHistory for ($($history,)*) {
            #[allow(non_snake_case, reason = "one name serves for the type and its value")]
            fn into_history(self, histories: &mut Vec<History>) {
                let ($($history,)*) = self;
                $($history.into_history(histories);)*
            }
        }
    };
}

tuples!(H1);
tuples!(H1 H2);
tuples!(H1 H2 H3);
tuples!(H1 H2 H3 H4);
tuples!(H1 H2 H3 H4 H5);
tuples!(H1 H2 H3 H4 H5 H6);
tuples!(H1 H2 H3 H4 H5 H6 H7);
tuples!(H1 H2 H3 H4 H5 H6 H7 H8);
