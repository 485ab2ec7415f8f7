//! Holds the stored documents of projections against a fresh fold of the log.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::value::RawValue;

use super::consumer::{Documents, fold_into};
use super::follow::{ConsumerFault, Follower, Trouble, check, position};
use super::record::UnsharedEvent;
use super::snapshots::{Doubt, Folding, Plan};
use super::{Engine, Inner};
use crate::codec::MAX_DEPTH;
use crate::consumer::Consumer;
use crate::error::{FoldError, StoreError, StoreErrorKind, chain};
use crate::event::RecordedEvent;
use crate::id::{Partition, Position, StreamId, Version};
use crate::read_store::{Checkpoint, RangeRead};
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
    /// Of an aggregate with snapshots, each stream that is long enough to have one is read twice: from its snapshot,
    /// and from its beginning.
    ///
    /// # Errors
    /// [`StoreError`] if a store fails. What is wrong with a read model is no error, but stands in
    /// the result.
    pub async fn verify(&self) -> Result<Verification, StoreError> {
        let inner = &self.0.inner;
        let mut projections = Vec::new();
        for consumer in inner.registry.live() {
            projections.push(live(inner, &*consumer).await?);
        }
        for follower in inner.followers.values() {
            projections.push(verify(inner, follower).await?);
        }
        projections.sort_by_key(|projection| projection.name);
        let (events, streams) = events(inner).await?;
        Ok(Verification { events, projections, snapshots: snapshots(inner, streams).await? })
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
    /// The snapshots of aggregates that have them.
    pub snapshots: VerifiedSnapshots,
}

impl Verification {
    /// Whether every event that this program knows can be read, every state that is read from a snapshot equals the
    /// fold of its whole stream, and every projection that keeps documents was compared and equals its fold. One that
    /// keeps tables of its own cannot be compared; it is named,
    /// and does not count.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.events.fault.is_none()
            && self.snapshots.differences.is_empty()
            && self.projections.iter().all(Verified::is_sound)
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

/// What came of reading streams from their snapshots and from their beginnings.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct VerifiedSnapshots {
    /// How many were compared: those that the engine would use.
    pub compared: usize,
    /// The first 100 streams of which the two states differ.
    pub differences: Vec<SnapshotDifference>,
}

/// A stream whose state depends on whether it is read from its snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SnapshotDifference {
    /// The stream.
    pub stream: StreamId,
    /// The version of its snapshot.
    pub snapshot: Version,
    /// The version at which the states were compared.
    pub version: Version,
    /// The state from the snapshot and what follows it, as JSON; `None` if there is none, or it cannot be written.
    pub resumed: Option<String>,
    /// The state from all events of the stream.
    pub folded: Option<String>,
}

impl fmt::Display for VerifiedSnapshots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { compared, differences } = self;
        if differences.is_empty() {
            return write!(f, "snapshots: {compared} lead to the state of the whole stream");
        }
        write!(f, "snapshots: of {compared}, these do not lead to the state of the whole stream")?;
        differences.iter().try_for_each(|difference| write!(f, "\n  {difference}"))
    }
}

impl fmt::Display for SnapshotDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { stream, snapshot, version, resumed, folded } = self;
        let text = |state: &Option<String>| state.clone().unwrap_or_else(|| "nothing".to_owned());
        let (resumed, folded) = (text(resumed), text(folded));
        write!(
            f,
            "{stream} at version {version} is {resumed} from its snapshot at version {snapshot}, but {folded} from all events"
        )
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
    /// It folds in memory (`fold_in_memory`), and its documents depend on how their events are batched.
    Batched(Box<BatchedDifference>),
    /// It is folded when it is read, so nothing is stored and there is nothing to compare.
    Live,
    /// It was not compared: what it writes are tables of its own, by statements of its own.
    Tables,
    /// It was not compared: it moved each time its documents were read. Try again when less is
    /// going on.
    Busy,
    /// It was not compared: an event is in the log that only another release of this program reads.
    Standby(Arc<UnsharedEvent>),
    /// It was not compared: the checkpoint is not of this log, or an event below it does not fold,
    /// although it did once.
    Failed(ConsumerFault),
}

/// The first document that depends on how its events are batched, and the first event after which that shows.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BatchedDifference {
    /// The document's key.
    pub key: String,
    /// The event's stored name.
    pub event: String,
    /// The event's stream.
    pub stream: StreamId,
    /// The event's version in its stream.
    pub version: Version,
    /// The document if it is stored after each event, as JSON; `None` if there is none.
    pub stored: Option<String>,
    /// The document if all events of a batch are folded in memory.
    pub in_memory: Option<String>,
}

impl fmt::Display for BatchedDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, event, stream, version, stored, in_memory } = self;
        let text = |document: &Option<String>| document.clone().unwrap_or_else(|| "nothing".to_owned());
        let (stored, in_memory) = (text(stored), text(in_memory));
        write!(
            f,
            "after `{event}` at version {version} of {stream}, {key:?} is {stored} if it is stored after each event, but {in_memory} if a batch is folded in memory"
        )
    }
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
        if self.snapshots.compared > 0 {
            write!(f, "\n{}", self.snapshots)?;
        }
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
            Compared::Batched(difference) => {
                write!(f, "its documents depend on how events are batched: {difference}")
            }
            Compared::Live => f.write_str("nothing to compare, for it is folded when it is read"),
            Compared::Tables => f.write_str("not compared, for it keeps tables of its own"),
            Compared::Busy => f.write_str("not compared, for it moved each time its documents were read"),
            Compared::Standby(event) => write!(f, "not compared: {event}"),
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

/// Reads the log to where it ends now, or to the first event that cannot be read. Also returns the streams that are
/// long enough for a snapshot of their aggregate.
async fn events(inner: &Inner) -> Result<(Decoded, Vec<(StreamId, Plan)>), StoreError> {
    let mut decoded = Decoded::default();
    let mut streams = Vec::new();
    let plans: HashMap<&str, Plan> =
        inner.aggregates.values().flatten().map(|plan| (plan.aggregate(), *plan)).collect();
    for partition in inner.partitions() {
        let head = inner.log.head(partition).await?.position;
        let Decoded { known, unknown, .. } = &mut decoded;
        let count = &mut |events: &[Arc<RecordedEvent>]| {
            for event in events {
                let meta = &event.meta;
                let plan = plans.get(meta.stream.category());
                if let Some(plan) = plan.filter(|plan| plan.first() == meta.version.get()) {
                    streams.push((meta.stream.clone(), *plan));
                }
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
            Err(Unread::Event(fault)) => {
                let fault = Some(Arc::new(fault));
                return Ok((Decoded { fault, ..decoded }, streams));
            }
        }
    }
    Ok((decoded, streams))
}

/// Reads each stream from its snapshot and from its beginning.
async fn snapshots(inner: &Inner, streams: Vec<(StreamId, Plan)>) -> Result<VerifiedSnapshots, StoreError> {
    let mut verified = VerifiedSnapshots::default();
    for (stream, plan) in streams {
        let snapshot = match inner.log.snapshot(&stream, plan.fingerprint()).await {
            Ok(Some(snapshot)) => snapshot,
            Ok(None) => continue,
            // The engine does not use it either.
            Err(error) if error.kind() == StoreErrorKind::Corrupt => continue,
            Err(error) => return Err(error),
        };
        let mut resumed = plan.fresh();
        let place = match inner.read_tail(&stream, plan, &snapshot, &mut *resumed).await {
            Ok(place) => place,
            Err(Doubt::Unfit(_)) => continue,
            Err(Doubt::Store(error)) => return Err(error),
        };
        let mut folded = plan.fresh();
        match inner.fold_to::<Unread>(&stream, place.end.version, &mut *folded).await {
            Ok(()) => {}
            Err(Unread::Store(error)) => return Err(error),
            // The events tell.
            Err(Unread::Event(_)) => continue,
        }
        verified.compared += 1;
        let state = |state: &dyn Folding| state.freeze().and_then(Result::ok);
        let (resumed, folded) = (state(&*resumed), state(&*folded));
        let same = match (&resumed, &folded) {
            (Some(resumed), Some(folded)) => is_same(resumed, folded),
            (resumed, folded) => resumed.is_none() && folded.is_none(),
        };
        if !same && verified.differences.len() < SHOWN {
            verified.differences.push(SnapshotDifference {
                stream,
                snapshot: snapshot.version,
                version: place.end.version,
                resumed: resumed.as_ref().map(text),
                folded: folded.as_ref().map(text),
            });
        }
    }
    Ok(verified)
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

impl From<FoldError> for Unread {
    fn from(error: FoldError) -> Self {
        Self::Event(error)
    }
}

/// What can be said of a projection that keeps nothing: whether its documents depend on batches.
async fn live(inner: &Inner, consumer: &dyn Consumer) -> Result<Verified, StoreError> {
    let (name, mut compared) = (consumer.name(), Compared::Live);
    if consumer.folds_in_memory() {
        let mut to = Vec::new();
        for partition in inner.partitions() {
            to.push((partition, inner.log.head(partition).await?.position));
        }
        match folded(inner, consumer, &to).await {
            Ok((_, None)) => {}
            Ok((_, Some(difference))) => compared = Compared::Batched(Box::new(difference)),
            Err(Trouble::Fault(fault)) => compared = Compared::Failed(fault),
            Err(Trouble::Store(error)) => return Err(error),
            Err(Trouble::Fenced) => compared = Compared::Busy,
            Err(Trouble::Standby(event)) => compared = Compared::Standby(event),
        }
    }
    Ok(Verified { name, up_to: BTreeMap::new(), compared })
}

async fn verify(inner: &Inner, follower: &Follower) -> Result<Verified, StoreError> {
    let name = follower.name();
    if follower.consumer().database().is_some() {
        return Ok(Verified { name, up_to: BTreeMap::new(), compared: Compared::Tables });
    }
    follower.renew(inner).await?;
    if let Some(event) = follower.standby(inner).await? {
        return Ok(Verified { name, up_to: BTreeMap::new(), compared: Compared::Standby(event) });
    }
    let Some((checkpoints, stored)) = stored(inner, follower).await? else {
        return Ok(Verified { name, up_to: BTreeMap::new(), compared: Compared::Busy });
    };
    let up_to =
        checkpoints.iter().map(|(partition, checkpoint)| (*partition, position(*checkpoint))).collect();
    let compared = match folded_to(inner, follower, &checkpoints).await {
        Ok((folded, None)) => compare(stored, folded),
        Ok((_, Some(difference))) => Compared::Batched(Box::new(difference)),
        Err(Trouble::Fault(fault)) => Compared::Failed(fault),
        Err(Trouble::Store(error)) => return Err(error),
        // Nothing here writes, so nothing is fenced.
        Err(Trouble::Fenced) => Compared::Busy,
        Err(Trouble::Standby(event)) => Compared::Standby(event),
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

async fn documents(inner: &Inner, consumer: &str) -> Result<Documents, StoreError> {
    let mut all = Documents::new();
    let mut next = RangeRead::documents(consumer, PAGE);
    loop {
        let page = inner.documents.range(next.clone()).await?;
        let whole = page.len() == PAGE;
        next = page.last().map_or(next.clone(), |last| next.after(last.key.clone()));
        all.extend(page.into_iter().map(|entry| (entry.key, entry.content)));
        if !whole {
            return Ok(all);
        }
    }
}

/// The documents that the log makes up to the checkpoints, by the code that the follower uses too.
async fn folded_to(inner: &Inner, follower: &Follower, checkpoints: &Checkpoints) -> Result<Folded, Trouble> {
    let mut to = Vec::new();
    for (partition, checkpoint) in checkpoints {
        let Some(checkpoint) = checkpoint else { continue };
        // The head is looked at after the checkpoint, so that it cannot fall short of it.
        check(inner, *partition, *checkpoint).await?;
        to.push((*partition, checkpoint.position));
    }
    folded(inner, follower.consumer(), &to).await
}

/// Documents, and the first that depends on how its events are batched.
type Folded = (Documents, Option<BatchedDifference>);

/// The documents that the log makes up to these positions, each stored after every event.
async fn folded(
    inner: &Inner,
    consumer: &dyn Consumer,
    to: &[(Partition, Position)],
) -> Result<Folded, Trouble> {
    let mut documents = Documents::new();
    let mut batched = consumer.folds_in_memory().then(Documents::new);
    let mut difference = None;
    for (partition, position) in to {
        let fold = &mut |events: &[Arc<RecordedEvent>]| {
            let Some(in_memory) = &mut batched else { return fold_page(consumer, &mut documents, events) };
            // A batch of one event is stored after it.
            let before = (documents.clone(), in_memory.clone());
            for event in events {
                fold_page(consumer, &mut documents, std::slice::from_ref(event))?;
            }
            fold_page(consumer, in_memory, events)?;
            if difference.is_none() && *in_memory != documents {
                difference = first_difference(consumer, before, events)?;
            }
            Ok(())
        };
        inner.read_log_to::<Trouble>(*partition, *position, &consumer.query(), fold).await?;
    }
    Ok((documents, difference))
}

fn fold_page(
    consumer: &dyn Consumer,
    documents: &mut Documents,
    events: &[Arc<RecordedEvent>],
) -> Result<(), Trouble> {
    let routed = consumer.route(events).map_err(|unfit| unfoldable(unfit.error))?;
    fold_into(documents, routed).map_err(|unfit| unfoldable(unfit.error))
}

/// The first event of a page after which a document differs, and the document; `None` if they are the same as JSON.
fn first_difference(
    consumer: &dyn Consumer,
    (mut documents, before): (Documents, Documents),
    events: &[Arc<RecordedEvent>],
) -> Result<Option<BatchedDifference>, Trouble> {
    for (at, event) in events.iter().enumerate() {
        fold_page(consumer, &mut documents, std::slice::from_ref(event))?;
        let mut in_memory = before.clone();
        fold_page(consumer, &mut in_memory, &events[..=at])?;
        let keys = documents.keys().chain(in_memory.keys());
        let differs = |key: &&Bytes| match (documents.get(*key), in_memory.get(*key)) {
            (Some(stored), Some(in_memory)) => !is_same(stored, in_memory),
            (stored, in_memory) => stored.is_some() || in_memory.is_some(),
        };
        if let Some(key) = keys.into_iter().find(differs) {
            return Ok(Some(BatchedDifference {
                key: text(key),
                event: event.name.clone().into_owned(),
                stream: event.meta.stream.clone(),
                version: event.meta.version,
                stored: documents.get(key).map(text),
                in_memory: in_memory.get(key).map(text),
            }));
        }
    }
    Ok(None)
}

fn unfoldable(error: FoldError) -> Trouble {
    Trouble::Fault(ConsumerFault::Event(Arc::new(error)))
}

fn compare(stored: Documents, mut folded: Documents) -> Compared {
    let (mut documents, mut count, mut differences) = (0, 0, Vec::new());
    let mut differ = |key: &Bytes, stored: Option<&Bytes>, folded: Option<&Bytes>| {
        count += 1;
        differences.push(Difference { key: text(key), stored: stored.map(text), folded: folded.map(text) });
    };
    for (key, stored) in stored {
        documents += 1;
        let folded = folded.remove(&key);
        if !folded.as_ref().is_some_and(|folded| is_same(&stored, folded)) {
            differ(&key, Some(&stored), folded.as_ref());
        }
    }
    for (key, folded) in folded {
        documents += 1;
        differ(&key, None, Some(&folded));
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
            (Ok(one), Ok(other)) => is_same_value(one, other, MAX_DEPTH),
            _ => false,
        }
}

/// Values are compared as they are written: in a `serde_json::Value`, two whole numbers of more than
/// 64 bits are rounded to floats, and may meet there. What nests deeper than `levels`, which only a `RawValue` can,
/// is compared as text.
fn is_same_value(one: &str, other: &str, levels: usize) -> bool {
    if one == other {
        return true;
    }
    let Some(levels) = levels.checked_sub(1) else { return false };
    match (one.as_bytes().first(), other.as_bytes().first()) {
        (Some(b'{'), Some(b'{')) => both(one, other, |one: Object<'_>, other: Object<'_>| {
            let same = |((key, one), (as_key, other)): (Field<'_>, Field<'_>)| {
                key == as_key && is_same_value(one.get(), other.get(), levels)
            };
            one.len() == other.len() && one.iter().zip(&other).all(same)
        }),
        (Some(b'['), Some(b'[')) => both(one, other, |one: Vec<&RawValue>, other: Vec<&RawValue>| {
            let same = |(one, other): (&&RawValue, &&RawValue)| is_same_value(one.get(), other.get(), levels);
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
