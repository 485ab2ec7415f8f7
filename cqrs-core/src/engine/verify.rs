//! Holds the stored documents of projections against a fresh fold of the log.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::value::RawValue;

use super::consumer::{Documents, fold_into};
use super::follow::{ConsumerFault, Follower, Trouble, check, position};
use super::{Engine, Inner};
use crate::consumer::Routed;
use crate::error::{FoldError, StoreError, chain};
use crate::event::RecordedEvent;
use crate::id::{Partition, Position};
use crate::read_store::Checkpoint;
use crate::store::Query;

/// Documents that are read at once.
const PAGE: usize = 1_000;
/// How often the documents of a projection that moves meanwhile are read; the last time its follower
/// in this engine waits.
const ATTEMPTS: u32 = 4;
/// How many differences of one projection are kept with their contents.
const SHOWN: usize = 100;

impl Engine {
    /// Reads every event of the log, and compares every projection's stored documents with a fresh fold
    /// up to the projection's checkpoint, by the `#[on]` methods of this program.
    ///
    /// Nothing is changed. Projections may move meanwhile: what is compared is of one checkpoint. A
    /// projection that does not stand still for as long as it takes to read its documents is said to
    /// be [`Busy`](Compared::Busy).
    ///
    /// It reads all events once, those that projections want once more per projection, and holds the documents of one
    /// projection in memory twice. Events of several partitions that change one document are folded
    /// one partition after the other, so a projection to which that order matters may be said to
    /// differ.
    ///
    /// # Errors
    /// [`StoreError`] if a store fails. What is wrong with a read model is no error, but stands in
    /// the result.
    pub async fn verify(&self) -> Result<Verification, StoreError> {
        let inner = &self.0.inner;
        let live = |name| Verified { name, up_to: BTreeMap::new(), compared: Compared::Live };
        let mut projections: Vec<_> = inner.registry.live().map(live).collect();
        for follower in inner.followers.values() {
            projections.push(verify(inner, follower).await?);
        }
        projections.sort_by_key(|projection| projection.name);
        Ok(Verification { events: events(inner).await?, projections })
    }
}

/// What [`Engine::verify`] found. It prints as a line for the events, one per projection, and one per
/// difference.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Verification {
    /// The events of the log.
    pub events: Decoded,
    /// All projections, by name.
    pub projections: Vec<Verified>,
}

impl Verification {
    /// Whether every event that this program knows can be read, and every projection that keeps documents
    /// was compared and equals its fold. One that keeps tables of its own cannot be compared; it is named,
    /// and does not count.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.events.fault.is_none() && self.projections.iter().all(Verified::is_sound)
    }
}

/// What came of reading every event.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Decoded {
    /// How many became events of this program.
    pub known: u64,
    /// How many are stored under names that nothing in this program reads.
    pub unknown: u64,
    /// The first that this program should read, and cannot.
    pub fault: Option<Arc<FoldError>>,
}

impl fmt::Display for Decoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(fault) = &self.fault {
            return write!(f, "events: {}", chain(&**fault));
        }
        write!(f, "events: {} can be read", self.known)?;
        match self.unknown {
            0 => Ok(()),
            unknown => write!(f, ", {unknown} are of names that this program does not know"),
        }
    }
}

/// What came of one projection.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Verified {
    /// The projection.
    pub name: &'static str,
    /// The checkpoint that was compared, by partition; [`Position::START`] where it has not begun.
    pub up_to: BTreeMap<Partition, Position>,
    /// What the comparison gave.
    pub compared: Compared,
}

impl Verified {
    /// Whether it was compared and equals its fold, or keeps no documents.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        matches!(self.compared, Compared::Same { .. } | Compared::Live | Compared::Tables)
    }
}

/// What comparing a projection with its fold gave.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Compared {
    /// The stored documents are those of the fold.
    Same {
        /// How many there are.
        documents: usize,
    },
    /// They are not.
    Different {
        /// How many there are, stored or folded or both.
        documents: usize,
        /// How many of them differ.
        count: usize,
        /// The first 100 that differ, by key.
        differences: Vec<Difference>,
    },
    /// It is folded when it is read, so nothing is stored and there is nothing to compare.
    Live,
    /// It was not compared: what it writes are tables of its own, by statements of its own.
    Tables,
    /// It was not compared: it moved each time its documents were read. Try again when less is
    /// going on.
    Busy,
    /// It was not compared: the checkpoint is not of this log, or an event below it does not fold,
    /// although it did once.
    Failed(ConsumerFault),
}

/// A document that is not as the fold makes it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Difference {
    /// The document's key.
    pub key: String,
    /// What is stored, as JSON; `None` if it is missing.
    pub stored: Option<String>,
    /// What the fold gives, as JSON; `None` if there should be no such document.
    pub folded: Option<String>,
}

impl fmt::Display for Verification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.events.fmt(f)?;
        self.projections.iter().try_for_each(|projection| write!(f, "\n{projection}"))
    }
}

impl fmt::Display for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.name)?;
        match &self.compared {
            Compared::Same { documents } => {
                write!(f, "{documents} documents are as a fresh fold makes them")?;
                self.place(f)
            }
            Compared::Different { documents, count, differences } => {
                write!(f, "{count} of {documents} documents are not as a fresh fold makes them")?;
                self.place(f)?;
                differences.iter().try_for_each(|difference| write!(f, "\n  {difference}"))?;
                match count.saturating_sub(differences.len()) {
                    0 => Ok(()),
                    more => write!(f, "\n  and {more} more"),
                }
            }
            Compared::Live => f.write_str("nothing to compare, for it is folded when it is read"),
            Compared::Tables => f.write_str("not compared, for it keeps tables of its own"),
            Compared::Busy => f.write_str("not compared, for it moved each time its documents were read"),
            Compared::Failed(fault) => write!(f, "not compared: {}", chain(fault)),
        }
    }
}

impl Verified {
    fn place(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (partition, position)) in self.up_to.iter().enumerate() {
            write!(f, "{}{position}", if at == 0 { ", up to position " } else { ", " })?;
            if self.up_to.len() > 1 {
                write!(f, " of partition {partition}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, stored, folded } = self;
        match (stored, folded) {
            (Some(stored), Some(folded)) => write!(f, "{key:?} is {stored} but the fold makes it {folded}"),
            (Some(stored), None) => write!(f, "{key:?} is {stored} but the fold has no such document"),
            (None, Some(folded)) => write!(f, "{key:?} is missing, the fold makes it {folded}"),
            (None, None) => write!(f, "{key:?} is missing"),
        }
    }
}

type Checkpoints = Vec<(Partition, Option<Checkpoint>)>;

/// Reads the log to where it ends now, or to the first event that cannot be read.
async fn events(inner: &Inner) -> Result<Decoded, StoreError> {
    let mut decoded = Decoded::default();
    for partition in inner.partitions() {
        let head = inner.log.head(partition).await?.position;
        let Decoded { known, unknown, .. } = &mut decoded;
        let count = &mut |events: &[Arc<RecordedEvent>]| {
            for event in events {
                match inner.registry.decodes(&event.stored()) {
                    Ok(true) => *known += 1,
                    Ok(false) => *unknown += 1,
                    Err(error) => return Err(Unread::Event(FoldError::new(&event.name, &event.meta, error))),
                }
            }
            Ok(())
        };
        match inner.read_log_to::<Unread>(partition, head, &Query::all(), count).await {
            Ok(()) => {}
            Err(Unread::Store(error)) => return Err(error),
            Err(Unread::Event(fault)) => return Ok(Decoded { fault: Some(Arc::new(fault)), ..decoded }),
        }
    }
    Ok(decoded)
}

/// Why the log was not read to its end.
enum Unread {
    Event(FoldError),
    Store(StoreError),
}

impl From<StoreError> for Unread {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

async fn verify(inner: &Inner, follower: &Follower) -> Result<Verified, StoreError> {
    let name = follower.name();
    if follower.consumer().database().is_some() {
        return Ok(Verified { name, up_to: BTreeMap::new(), compared: Compared::Tables });
    }
    let Some((checkpoints, stored)) = stored(inner, follower).await? else {
        return Ok(Verified { name, up_to: BTreeMap::new(), compared: Compared::Busy });
    };
    let up_to =
        checkpoints.iter().map(|(partition, checkpoint)| (*partition, position(*checkpoint))).collect();
    let compared = match folded(inner, follower, &checkpoints).await {
        Ok(folded) => compare(stored, folded),
        Err(Trouble::Fault(fault)) => Compared::Failed(fault),
        Err(Trouble::Store(error)) => return Err(error),
        // Nothing here writes, so nothing is fenced.
        Err(Trouble::Fenced) => Compared::Busy,
    };
    Ok(Verified { name, up_to, compared })
}

/// All documents and the checkpoint that they are of, or `None` if it moves each time.
///
/// A commit moves documents and checkpoint as one, and a checkpoint never moves back: so between two
/// looks that show one checkpoint nothing was committed.
async fn stored(inner: &Inner, follower: &Follower) -> Result<Option<(Checkpoints, Documents)>, StoreError> {
    for attempt in 1..=ATTEMPTS {
        let _held = if attempt == ATTEMPTS { Some(follower.hold().await) } else { None };
        let before = checkpoints(inner, follower).await?;
        let documents = documents(inner, follower.name()).await?;
        if checkpoints(inner, follower).await? == before {
            return Ok(Some((before, documents)));
        }
    }
    Ok(None)
}

async fn checkpoints(inner: &Inner, follower: &Follower) -> Result<Checkpoints, StoreError> {
    let mut all = Vec::new();
    for partition in follower.partitions() {
        all.push((partition, inner.documents.checkpoint(follower.name(), partition).await?));
    }
    Ok(all)
}

async fn documents(inner: &Inner, collection: &str) -> Result<Documents, StoreError> {
    let mut all = Documents::new();
    let mut after = None;
    loop {
        let page = inner.documents.list(collection, after, PAGE).await?;
        let whole = page.len() == PAGE;
        after = page.last().map(|(key, _)| key.clone());
        all.extend(page);
        if !whole {
            return Ok(all);
        }
    }
}

/// The documents that the log makes up to the checkpoints, by the code that the follower uses too.
async fn folded(inner: &Inner, follower: &Follower, to: &Checkpoints) -> Result<Documents, Trouble> {
    let mut documents = Documents::new();
    for (partition, checkpoint) in to {
        let Some(checkpoint) = checkpoint else { continue };
        // The head is looked at behind the checkpoint, so that it cannot fall short of it.
        let head = inner.log.head(*partition).await?;
        check(inner, *partition, *checkpoint, head).await?;
        let consumer = follower.consumer();
        let fold = &mut |events: &[Arc<RecordedEvent>]| {
            let routed = consumer.route(events).map_err(|unfit| unfoldable(unfit.error))?;
            // What keeps tables of its own does not come here.
            let Routed::Documents { keys, work } = routed else { return Ok(()) };
            fold_into(&mut documents, keys, work).map_err(|unfit| unfoldable(unfit.error))
        };
        inner.read_log_to::<Trouble>(*partition, checkpoint.position, &consumer.query(), fold).await?;
    }
    Ok(documents)
}

fn unfoldable(error: FoldError) -> Trouble {
    Trouble::Fault(ConsumerFault::Event(Arc::new(error)))
}

fn compare(stored: Documents, mut folded: Documents) -> Compared {
    let (mut documents, mut count, mut differences) = (0, 0, Vec::new());
    let mut differ = |key: String, stored: Option<&Bytes>, folded: Option<&Bytes>| {
        count += 1;
        differences.push(Difference { key, stored: stored.map(text), folded: folded.map(text) });
    };
    for (key, stored) in stored {
        documents += 1;
        let folded = folded.remove(&key);
        if !folded.as_ref().is_some_and(|folded| is_same(&stored, folded)) {
            differ(key, Some(&stored), folded.as_ref());
        }
    }
    for (key, folded) in folded {
        documents += 1;
        differ(key, None, Some(&folded));
    }
    if differences.is_empty() {
        return Compared::Same { documents };
    }
    differences.sort_by(|one, other| one.key.cmp(&other.key));
    differences.truncate(SHOWN);
    Compared::Different { documents, count, differences }
}

fn text(bytes: &Bytes) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Whether both are the same value in JSON. The order of an object's fields does not count, because
/// a `HashMap` has none.
fn is_same(one: &[u8], other: &[u8]) -> bool {
    one == other
        || match (std::str::from_utf8(one), std::str::from_utf8(other)) {
            (Ok(one), Ok(other)) => is_same_value(one, other),
            _ => false,
        }
}

/// Values are compared as they are written: in a `serde_json::Value`, two whole numbers of more than
/// 64 bits are rounded to floats, and may meet there.
fn is_same_value(one: &str, other: &str) -> bool {
    if one == other {
        return true;
    }
    match (one.as_bytes().first(), other.as_bytes().first()) {
        (Some(b'{'), Some(b'{')) => both(one, other, |one: Object<'_>, other: Object<'_>| {
            let same = |((key, one), (as_key, other)): (Field<'_>, Field<'_>)| {
                key == as_key && is_same_value(one.get(), other.get())
            };
            one.len() == other.len() && one.iter().zip(&other).all(same)
        }),
        (Some(b'['), Some(b'[')) => both(one, other, |one: Vec<&RawValue>, other: Vec<&RawValue>| {
            let same = |(one, other): (&&RawValue, &&RawValue)| is_same_value(one.get(), other.get());
            one.len() == other.len() && one.iter().zip(&other).all(same)
        }),
        (Some(b'"'), Some(b'"')) => both(one, other, |one: String, other: String| one == other),
        // A float may have been written with another number of digits by an older library.
        _ if is_float(one) && is_float(other) => both(one, other, |one: f64, other: f64| one == other),
        _ => false,
    }
}

type Object<'a> = BTreeMap<String, &'a RawValue>;
type Field<'a> = (&'a String, &'a &'a RawValue);

fn is_float(text: &str) -> bool {
    text.starts_with(|first: char| first == '-' || first.is_ascii_digit()) && text.contains(['.', 'e', 'E'])
}

fn both<'a, T: serde::Deserialize<'a>>(
    one: &'a str,
    other: &'a str,
    same: impl FnOnce(T, T) -> bool,
) -> bool {
    match (serde_json::from_str(one), serde_json::from_str(other)) {
        (Ok(one), Ok(other)) => same(one, other),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::is_same;

    #[test]
    fn json_is_compared_as_values() {
        let same = |one: &str, other: &str| is_same(one.as_bytes(), other.as_bytes());
        assert!(same(r#"{"a":1,"b":[true,null]}"#, r#"{"b":[true,null],"a":1}"#));
        assert!(same(r#"{"a":{"x":1,"y":2}}"#, r#"{"a":{"y":2,"x":1}}"#));
        assert!(same(r#""\u0041""#, r#""A""#));
        assert!(same("[1.50]", "[1.5]"));
        for (one, other) in [
            (r#"{"a":1}"#, r#"{"a":2}"#),
            (r#"{"a":1}"#, r#"{"b":1}"#),
            (r#"{"a":1}"#, r#"{"a":1,"b":1}"#),
            ("[1,2]", "[2,1]"),
            ("[1]", "[1,1]"),
            ("1", "1.0"),
            ("null", "0"),
            (r#""1""#, "1"),
            // They meet in a float.
            ("340282366920938463463374607431768211455", "340282366920938463463374607431768211454"),
            ("{", "["),
        ] {
            assert!(!same(one, other), "{one} {other}");
        }
    }
}
