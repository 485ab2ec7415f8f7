//! Names of things: domain ids, streams, partitions, versions and positions.

use std::cell::Cell;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The identity of an aggregate, or the key of a read model's documents.
///
/// Implemented for every type that prints to a text and parses back from it: `u64`, `String`,
/// `uuid::Uuid`, and newtypes with [`Display`](fmt::Display) and [`FromStr`].
///
/// The text is what is stored: it names the stream (`Account/42`) and the document. It must be
/// stable over releases, differ for different ids, and parse back to an equal value.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be an id",
    label = "not an id",
    note = "an id is stored as text: it needs `Display` and `FromStr`, as `u64`, `String` and `Uuid` have; a newtype passes both on to what it holds"
)]
// Printing and parsing are methods and not supertraits, so that a type that lacks them gets the
// message above and not one about `FromStr`.
pub trait Id: Sized + 'static {
    /// What prints the id.
    fn as_text(&self) -> &dyn fmt::Display;

    /// Reads the id back from what it printed.
    ///
    /// # Errors
    /// What its `FromStr` says.
    fn from_text(text: &str) -> Result<Self, String>;
}

#[diagnostic::do_not_recommend]
impl<T> Id for T
where
    T: fmt::Display + FromStr<Err: fmt::Display> + 'static,
{
    fn as_text(&self) -> &dyn fmt::Display {
        self
    }

    fn from_text(text: &str) -> Result<Self, String> {
        text.parse().map_err(|error: T::Err| error.to_string())
    }
}

/// What a thread keeps to put a stream's key together in, in bytes.
const KEPT: usize = 1 << 10;

/// The key of one stream: a category (the aggregate's name) and an id, written `category/id`.
///
/// The category is not empty and has no `/`; the id is not empty and may hold anything else that
/// UTF-8 can, so `Account/a/b` is category `Account`, id `a/b`. Cloning copies a pointer.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(Arc<str>);

impl StreamId {
    /// The stream of `id` in `category`.
    ///
    /// # Errors
    /// [`InvalidStreamId`] if the category is empty or has a `/`, or the id's text is empty.
    pub fn new(category: &str, id: &dyn fmt::Display) -> Result<Self, InvalidStreamId> {
        use fmt::Write as _;
        // Where it is put together is used again: each command names its stream.
        thread_local!(static SCRATCH: Cell<String> = const { Cell::new(String::new()) });
        let mut key = SCRATCH.take();
        key.clear();
        key.push_str(category);
        key.push('/');
        // Writing to a `String` fails only if the id's own `Display` does.
        if write!(key, "{id}").is_err() {
            return Err(InvalidStreamId(key));
        }
        let valid = !category.is_empty() && !category.contains('/') && key.len() > category.len() + 1;
        if !valid {
            return Err(InvalidStreamId(key));
        }
        let stream = Self(key.as_str().into());
        if key.capacity() <= KEPT {
            SCRATCH.set(key);
        }
        Ok(stream)
    }

    /// What stands before the first `/`: the name of the aggregate.
    #[must_use]
    pub fn category(&self) -> &str {
        self.split().0
    }

    /// What stands behind the first `/`: the id's text.
    #[must_use]
    pub fn id(&self) -> &str {
        self.split().1
    }

    /// The whole key, `category/id`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn split(&self) -> (&str, &str) {
        self.0.split_once('/').unwrap_or((&self.0, ""))
    }
}

impl FromStr for StreamId {
    type Err = InvalidStreamId;

    fn from_str(key: &str) -> Result<Self, InvalidStreamId> {
        match key.split_once('/') {
            Some((category, id)) if !category.is_empty() && !id.is_empty() => Ok(Self(key.into())),
            _ => Err(InvalidStreamId(key.to_owned())),
        }
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StreamId({:?})", &*self.0)
    }
}

/// A text that is not `category/id`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidStreamId(pub(crate) String);

impl fmt::Display for InvalidStreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} does not name a stream: write `category/id`, both not empty, the category without `/`",
            self.0
        )
    }
}

impl std::error::Error for InvalidStreamId {}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty), $zero:ident: $zero_doc:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name($inner);

        impl $name {
            #[doc = $zero_doc]
            pub const $zero: Self = Self(0);

            #[doc = concat!("The ", stringify!($name), " with this number.")]
            #[must_use]
            pub const fn new(number: $inner) -> Self {
                Self(number)
            }

            /// The plain number.
            #[must_use]
            pub const fn get(self) -> $inner {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = std::num::ParseIntError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    };
}

number! {
    /// The version of an event in its stream, counted from 1 without gaps; also the version of
    /// the stream, which is that of its last event.
    Version(u64), NONE: "The version of a stream without events."
}

number! {
    /// A place in one partition of the log, counted from 1. Positions only grow and are never
    /// reused; they compare within one partition only.
    Position(u64), START: "Before the first event."
}

number! {
    /// One of the log's partitions, counted from 0. Each has its own order and its own positions.
    /// A log has one unless its store says more.
    Partition(u16), ONLY: "The first partition, and the only one unless the store says otherwise."
}

impl Version {
    /// The version that follows.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl Position {
    /// The position before, in a log without gaps; none lies before [`START`](Self::START).
    #[must_use]
    pub const fn before(self) -> Self {
        Self(self.0.saturating_sub(1))
    }

    /// The position that follows, in a log without gaps.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}
