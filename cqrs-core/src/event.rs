//! Events: what is stored, under which name, and how older shapes are read.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use uuid::Uuid;

use crate::codec::{Codec, Storable};
use crate::error::{DecodeError, EncodeError};
use crate::id::{Partition, Position, StreamId, Version};

/// A fact that has happened. Derive it; see `#[derive(Event)]`.
///
/// An event is stored under [`NAME`](Self::NAME) and [`VERSION`](Self::VERSION), never under its
/// Rust path, so types can be moved; and renamed, if `#[event(name = "…")]` keeps the stored name,
/// which is the type's unless set. What was stored under an older version is read through
/// [`upcast`](Self::upcast).
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an event",
    label = "not an event",
    note = "an event is a struct that derives `Event`, `Serialize` and `Deserialize`; the enum of an aggregate's events is not one"
)]
pub trait Event: Storable + 'static {
    /// The stored name, unique among all events of a log.
    const NAME: &'static str;
    /// The version of this shape, from 1.
    const VERSION: u32;
    /// How this type becomes bytes and comes back.
    type Codec: Codec;

    /// The indexed facts of this event, for tag queries and tag guards.
    fn tags(&self, tags: &mut Tags) {
        let _ = tags;
    }

    /// Reads a stored event of an older shape, hands each event it becomes to `out` (several, one
    /// or none), and answers whether the stored name and version were known.
    ///
    /// # Errors
    /// [`DecodeError`] if the shape is known but the payload does not fit it.
    fn upcast(stored: &Stored<'_>, out: &mut dyn FnMut(Self)) -> Result<bool, DecodeError> {
        let _ = (stored, out);
        Ok(false)
    }

    /// Turns a payload of this event that cannot be read otherwise, of this or an older version, into one of this
    /// version; `None` if it does not know it either. `#[event(upcast_bytes = …)]`.
    fn upcast_bytes(version: u32, payload: &[u8]) -> Option<Vec<u8>> {
        let _ = (version, payload);
        None
    }

    /// Names every older shape that [`upcast`](Self::upcast) or [`upcast_bytes`](Self::upcast_bytes) reads.
    fn former(shapes: &mut Vec<Shape>) {
        let _ = shapes;
    }
}

/// A stored name with its schema version: what a payload says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Shape {
    /// The stored name.
    pub name: &'static str,
    /// The schema version, from 1.
    pub version: u32,
}

/// A stored event's name, schema version and payload: all that decoding needs.
#[derive(Clone, Copy, Debug)]
pub struct Stored<'a> {
    /// The stored name.
    pub name: &'a str,
    /// The schema version, from 1.
    pub version: u32,
    /// The payload as the codec wrote it.
    pub payload: &'a [u8],
}

/// One kind of event in the closed set that an aggregate or a projection reads.
///
/// Made by the macros; part of [`EventSet::TYPES`].
pub struct EventType<S> {
    /// The stored name.
    pub name: &'static str,
    /// The version that is written today.
    pub version: u32,
    pub(crate) type_id: fn() -> std::any::TypeId,
    pub(crate) type_name: fn() -> &'static str,
    pub(crate) former: fn(&mut Vec<Shape>),
    pub(crate) decode: Decode<S>,
}

/// Decodes a stored event if it is one of the type's shapes; answers whether it was.
type Decode<S> = fn(&Stored<'_>, &mut dyn FnMut(S)) -> Result<bool, DecodeError>;

impl<S> EventType<S> {
    /// Describes `E`, with the function that decodes it into the set.
    #[must_use]
    pub const fn of<E: Event>(decode: Decode<S>) -> Self {
        Self {
            name: E::NAME,
            version: E::VERSION,
            type_id: std::any::TypeId::of::<E>,
            type_name: std::any::type_name::<E>,
            former: E::former,
            decode,
        }
    }
}

impl<S> fmt::Debug for EventType<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} v{} ({})", self.name, self.version, (self.type_name)())
    }
}

/// The closed set of events that one aggregate applies or one projection reads: a generated enum.
pub trait EventSet: Sized + 'static {
    /// The kinds in the set, in the order of their `#[apply]` or `#[on]` methods.
    const TYPES: &'static [EventType<Self>];

    /// The event's bytes with its name, version and tags.
    ///
    /// # Errors
    /// [`EncodeError`] if the event's `Serialize` fails.
    fn encode(&self) -> Result<Encoded, EncodeError>;
}

/// Decodes a stored event and hands each event of the set that it becomes to `out`.
///
/// A stored event may become several when `#[event(replaces = …)]` split it; they come in the
/// order of [`EventSet::TYPES`].
///
/// # Errors
/// [`DecodeError`] if no kind in the set knows the stored name and version, or the payload does
/// not fit.
pub fn decode<S: EventSet>(stored: &Stored<'_>, out: &mut dyn FnMut(S)) -> Result<(), DecodeError> {
    let mut known = false;
    for kind in S::TYPES {
        known |= (kind.decode)(stored, out)?;
    }
    if known { Ok(()) } else { Err(crate::error::undecodable::<S>(stored)) }
}

/// An event as bytes, ready to be put into a [`NewEvent`].
#[derive(Clone, Debug)]
pub struct Encoded {
    /// The stored name.
    pub name: &'static str,
    /// The schema version.
    pub version: u32,
    /// The payload.
    pub payload: Bytes,
    /// The tags.
    pub tags: Tags,
}

/// An indexed fact on an event, written `key:value`, such as `course:42`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(Arc<str>);

impl Tag {
    /// The tag `key:value`.
    #[must_use]
    pub fn new(key: &str, value: &dyn fmt::Display) -> Self {
        Self(format!("{key}:{value}").into())
    }

    /// The whole text, `key:value`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Tag {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The tags of one event: a sorted set without repeats.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tags(Vec<Tag>);

impl Tags {
    /// Adds `key:value`.
    pub fn add(&mut self, key: &str, value: &dyn fmt::Display) {
        self.insert(Tag::new(key, value));
    }

    /// Adds a tag, once.
    pub fn insert(&mut self, tag: Tag) {
        if let Err(at) = self.0.binary_search(&tag) {
            self.0.insert(at, tag);
        }
    }

    /// Whether the tag is among them.
    #[must_use]
    pub fn contains(&self, tag: &Tag) -> bool {
        self.0.binary_search(tag).is_ok()
    }

    /// The tags in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Tag> {
        self.0.iter()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'a> IntoIterator for &'a Tags {
    type Item = &'a Tag;
    type IntoIter = std::slice::Iter<'a, Tag>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl FromIterator<Tag> for Tags {
    fn from_iter<I: IntoIterator<Item = Tag>>(tags: I) -> Self {
        let mut all = Self::default();
        tags.into_iter().for_each(|tag| all.insert(tag));
        all
    }
}

/// An instant in UTC, in microseconds since 1970, printed as RFC 3339.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The instant that lies this many microseconds behind 1970-01-01T00:00:00Z.
    #[must_use]
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// Microseconds since 1970-01-01T00:00:00Z.
    #[must_use]
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// How long after another instant this one is; zero if it is not.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }

    /// What the system's clock says.
    #[must_use]
    pub fn now() -> Self {
        SystemTime::now().into()
    }
}

impl From<SystemTime> for Timestamp {
    /// Instants before 1970 become 1970.
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
    }
}

impl From<Timestamp> for SystemTime {
    fn from(time: Timestamp) -> Self {
        UNIX_EPOCH + Duration::from_micros(time.0)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // `humantime` prints up to the year 9999, and refuses what lies beyond.
        const LAST: u64 = 253_402_300_799_999_999;
        humantime::format_rfc3339_micros(Self(self.0.min(LAST)).into()).fmt(f)
    }
}

impl std::str::FromStr for Timestamp {
    type Err = InvalidTimestamp;

    /// Reads RFC 3339 in UTC, such as `2024-05-01T12:30:00Z`, with up to six digits of a fraction.
    fn from_str(text: &str) -> Result<Self, InvalidTimestamp> {
        let time = humantime::parse_rfc3339(text).map_err(|_| InvalidTimestamp(text.to_owned()))?;
        Ok(time.into())
    }
}

/// A text that is not an instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidTimestamp(String);

impl fmt::Display for InvalidTimestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not an instant: write RFC 3339 in UTC, such as `2024-05-01T12:30:00Z`", self.0)
    }
}

impl std::error::Error for InvalidTimestamp {}

/// What travels with an event beside its payload: why and for whom it happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// What the whole conversation is called: the same on everything that one request set off.
    pub correlation: Option<String>,
    /// What directly caused this: the id of a request, a command or an event.
    pub causation: Option<String>,
    /// On whose behalf.
    pub actor: Option<String>,
    /// Anything else, by name.
    pub entries: BTreeMap<String, String>,
}

impl Metadata {
    /// Without any entry.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the correlation.
    #[must_use]
    pub fn correlation(mut self, id: impl Into<String>) -> Self {
        self.correlation = Some(id.into());
        self
    }

    /// Sets the causation.
    #[must_use]
    pub fn causation(mut self, id: impl Into<String>) -> Self {
        self.causation = Some(id.into());
        self
    }

    /// Sets the actor.
    #[must_use]
    pub fn actor(mut self, actor: impl Into<String>) -> Self {
        self.actor = Some(actor.into());
        self
    }

    /// Sets a free entry.
    #[must_use]
    pub fn entry(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.entries.insert(name.into(), value.into());
        self
    }

    /// The length of all its texts, in bytes: what [`Limits::metadata_bytes`](crate::store::Limits)
    /// counts.
    #[must_use]
    pub fn size(&self) -> usize {
        self.texts().map(str::len).sum()
    }

    /// All its texts, the names of the entries included.
    pub(crate) fn texts(&self) -> impl Iterator<Item = &str> {
        let fixed = [&self.correlation, &self.causation, &self.actor].into_iter().flatten();
        fixed.chain(self.entries.iter().flat_map(|(name, value)| [name, value])).map(String::as_str)
    }
}

/// An event on its way into the log.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// The event's own id, a UUIDv7, unique in the log.
    pub id: Uuid,
    /// The stream it belongs to.
    pub stream: StreamId,
    /// The stored name.
    pub name: Cow<'static, str>,
    /// The schema version of the payload, from 1.
    pub schema_version: u32,
    /// The payload; stored and handed back byte for byte.
    pub payload: Bytes,
    /// The indexed facts.
    pub tags: Tags,
    /// When it happened, by the clock of the process that decided it.
    pub time: Timestamp,
    /// Why and for whom it happened.
    pub metadata: Arc<Metadata>,
}

impl NewEvent {
    /// The event as it is read, at its place.
    #[must_use]
    pub fn recorded(self, version: Version, partition: Partition, position: Position) -> RecordedEvent {
        let Self { id, stream, name, schema_version, payload, tags, time, metadata } = self;
        let meta = EventMeta { id, stream, version, partition, position, time, metadata };
        RecordedEvent { meta, name, schema_version, payload, tags }
    }
}

/// An event as the log hands it out.
#[derive(Clone, Debug)]
pub struct RecordedEvent {
    /// Where it stands and where it comes from.
    pub meta: EventMeta,
    /// The stored name.
    pub name: Cow<'static, str>,
    /// The schema version of the payload, from 1.
    pub schema_version: u32,
    /// The payload, byte for byte as it was appended.
    pub payload: Bytes,
    /// The indexed facts.
    pub tags: Tags,
}

impl RecordedEvent {
    /// The part that decoding needs.
    #[must_use]
    pub fn stored(&self) -> Stored<'_> {
        Stored { name: &self.name, version: self.schema_version, payload: &self.payload }
    }
}

/// Where a recorded event stands and where it comes from: all of the envelope but the payload.
///
/// A projection's handler asks for it with a parameter `meta: &EventMeta`.
#[derive(Clone, Debug)]
pub struct EventMeta {
    /// The event's own id, a UUIDv7.
    pub id: Uuid,
    /// Its stream.
    pub stream: StreamId,
    /// Its version in the stream, from 1.
    pub version: Version,
    /// The partition of the log that it lies in.
    pub partition: Partition,
    /// Its position in the partition.
    pub position: Position,
    /// When it happened.
    pub time: Timestamp,
    /// Why and for whom it happened.
    pub metadata: Arc<Metadata>,
}
