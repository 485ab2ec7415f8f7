//! Which aggregates and projections there are: by link time or spelled out, and checked as a whole.

use std::any::TypeId;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::aggregate::Aggregate;
use crate::consumer::Consumer;
use crate::context::{ServiceType, Services};
use crate::engine::Stores;
use crate::engine::consumer::DocumentConsumer;
use crate::engine::snapshots::Plan;
use crate::engine::sql::SqlConsumer;
use crate::error::DecodeError;
use crate::event::{EventSet, Shape, Stored, decode};
use crate::id::StreamId;
use crate::projection::{Mode, Projection, SqlProjection};
use crate::read_store::check_name;

/// One aggregate or projection, as the macros submit it. Also the type's own description of
/// itself, for [`Registry::with`].
pub trait Register: 'static {
    /// The entry in the registry.
    const REGISTRATION: Registration;
}

/// An entry of the [`Registry`].
#[derive(Clone, Copy)]
pub struct Registration {
    kind: Kind,
    name: &'static str,
    type_id: fn() -> TypeId,
    type_name: fn() -> &'static str,
    location: Location,
    events: fn() -> Vec<EventEntry>,
    decodes: fn(&Stored<'_>) -> Result<(), DecodeError>,
}

/// Where an entry was written, for messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    /// The file, as the compiler names it.
    pub file: &'static str,
    /// The line, from 1.
    pub line: u32,
}

#[derive(Clone, Copy)]
enum Kind {
    Aggregate { id: fn() -> TypeId, services: fn(&mut Vec<ServiceType>), snapshots: fn() -> Option<Plan> },
    Projection { consumer: fn() -> Arc<dyn Consumer>, mode: Mode },
}

#[derive(Clone, Debug)]
pub(crate) struct EventEntry {
    pub(crate) name: &'static str,
    pub(crate) type_id: TypeId,
    pub(crate) type_name: &'static str,
    shape: Shape,
    former: Vec<Shape>,
}

impl EventEntry {
    /// All names under which it may be stored.
    fn stored_names(&self) -> impl Iterator<Item = &'static str> {
        std::iter::once(self.name).chain(self.former.iter().map(|shape| shape.name))
    }

    fn is_stored_as(&self, name: &str) -> bool {
        self.stored_names().any(|stored| stored == name)
    }
}

inventory::collect!(Registration);

impl Registration {
    /// An aggregate's entry.
    #[must_use]
    pub const fn aggregate<A: Aggregate>(location: Location) -> Self {
        let kind =
            Kind::Aggregate { id: TypeId::of::<A::Id>, services: A::services, snapshots: Plan::of::<A> };
        Self::new::<A, A::Event>(kind, A::NAME, location)
    }

    /// A projection's entry.
    #[must_use]
    pub const fn projection<P: Projection>(location: Location) -> Self {
        let kind = Kind::Projection { consumer: DocumentConsumer::<P>::shared, mode: P::MODE };
        Self::new::<P, P::Event>(kind, P::NAME, location)
    }

    /// The entry of a projection with its own SQL.
    #[must_use]
    pub const fn sql_projection<P: SqlProjection>(location: Location) -> Self {
        let kind = Kind::Projection { consumer: SqlConsumer::<P>::shared, mode: P::MODE };
        Self::new::<P, P::Event>(kind, P::NAME, location)
    }

    const fn new<T: 'static, S: EventSet>(kind: Kind, name: &'static str, location: Location) -> Self {
        Self {
            kind,
            name,
            type_id: TypeId::of::<T>,
            type_name: std::any::type_name::<T>,
            location,
            events: entries::<S>,
            decodes: decodes::<S>,
        }
    }

    /// Whether both are the same thing of the same type.
    fn is(&self, other: &Self) -> bool {
        self.word() == other.word() && (self.type_id)() == (other.type_id)()
    }

    fn word(&self) -> &'static str {
        match self.kind {
            Kind::Aggregate { .. } => "aggregate",
            Kind::Projection { .. } => "projection",
        }
    }
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Location { file, line } = self.location;
        write!(f, "{} `{}` ({} at {file}:{line})", self.word(), self.name, (self.type_name)())
    }
}

/// Whether each stream of an aggregate whose ids are of type `id` has a key of its own, whose text is that of the
/// stream's id. A type of the user's own may parse several texts to equal values, and print another.
fn is_one_to_one(key: TypeId, id: TypeId) -> bool {
    macro_rules! is_any {
        ($($ty:ty)*) => { [$(TypeId::of::<$ty>()),*].contains(&key) };
    }
    key == TypeId::of::<String>()
        || (key == id && is_any!(u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize bool char uuid::Uuid))
}

fn decodes<S: EventSet>(stored: &Stored<'_>) -> Result<(), DecodeError> {
    decode::<S>(stored, &mut |_| {})
}

fn entries<S: EventSet>() -> Vec<EventEntry> {
    let entry = |kind: &crate::event::EventType<S>| {
        let mut former = Vec::new();
        (kind.former)(&mut former);
        EventEntry {
            name: kind.name,
            type_id: (kind.type_id)(),
            type_name: (kind.type_name)(),
            shape: Shape { name: kind.name, version: kind.version },
            former,
        }
    };
    S::TYPES.iter().map(entry).collect()
}

/// The aggregates and projections that an engine works with.
#[derive(Clone, Debug, Default)]
pub struct Registry(Vec<Registration>);

impl Registry {
    /// Empty, to be filled with [`with`](Self::with).
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// All that is linked into this program.
    ///
    /// A linker may leave out a module that nothing else refers to. What is missing is named when
    /// it is first used; spell the registry out where that is too late.
    #[must_use]
    pub fn linked() -> Self {
        let mut all: Vec<_> = inventory::iter::<Registration>().copied().collect();
        // Link order is not promised; names make messages and start-up the same every time.
        all.sort_by_key(|entry| (entry.name, entry.location.file, entry.location.line));
        Self(all)
    }

    /// Adds an aggregate or a projection by hand; once, also if it is linked.
    #[must_use]
    pub fn with<T: Register>(mut self) -> Self {
        if !self.0.iter().any(|entry| entry.is(&T::REGISTRATION)) {
            self.0.push(T::REGISTRATION);
        }
        self
    }

    /// Each aggregate's type, name and how its snapshots are made, if they are.
    pub(crate) fn aggregates(&self) -> impl Iterator<Item = (TypeId, &'static str, Option<Plan>)> {
        self.0.iter().filter_map(|entry| match entry.kind {
            Kind::Aggregate { snapshots, .. } => Some(((entry.type_id)(), entry.name, snapshots())),
            Kind::Projection { .. } => None,
        })
    }

    pub(crate) fn has_projection(&self, projection: TypeId) -> bool {
        let same = |entry: &&Registration| (entry.type_id)() == projection;
        self.0.iter().filter(same).any(|entry| matches!(entry.kind, Kind::Projection { .. }))
    }

    /// The consumers of all projections that are kept, with their modes.
    pub(crate) fn consumers(&self) -> Vec<(Mode, Arc<dyn Consumer>)> {
        let consumer = |entry: &Registration| match entry.kind {
            Kind::Projection { consumer, mode: mode @ (Mode::Async | Mode::Inline) } => {
                Some((mode, consumer()))
            }
            Kind::Projection { mode: Mode::Live, .. } | Kind::Aggregate { .. } => None,
        };
        self.0.iter().filter_map(consumer).collect()
    }

    /// Tries whether a stored event can be read by all of this program that read its name; `false` if
    /// nothing here does.
    pub(crate) fn decodes(&self, stored: &Stored<'_>) -> Result<bool, DecodeError> {
        let mut known = false;
        for entry in &self.0 {
            match (entry.decodes)(stored) {
                Ok(()) => known = true,
                Err(DecodeError::UnknownEvent { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(known)
    }

    /// Checks that the stores can keep every projection in the way that it wants to be kept.
    pub(crate) fn check_stores(&self, stores: &Stores) -> Result<(), RegistryError> {
        let mut faults = Vec::new();
        let (inline, runs) = (stores.can_inline(), stores.documents.read_capabilities().database);
        for entry in &self.0 {
            let Kind::Projection { consumer, mode } = entry.kind else { continue };
            if mode == Mode::Inline && !inline {
                faults.push(format!(
                    "{entry:?} is `mode = inline`, and these stores cannot commit read models together with events: keep both in one database that can, or take the `mode` off"
                ));
            }
            if let Some(needed) = consumer().database().filter(|needed| runs != Some(needed)) {
                faults.push(format!(
                    "{entry:?} writes to {needed} by its own statements, and the read models here are kept elsewhere: open a store on {needed}"
                ));
            }
        }
        if faults.is_empty() { Ok(()) } else { Err(RegistryError { faults }) }
    }

    /// The projections that are folded when they are read.
    pub(crate) fn live(&self) -> impl Iterator<Item = Arc<dyn Consumer>> {
        self.0.iter().filter_map(|entry| match entry.kind {
            Kind::Projection { consumer, mode: Mode::Live } => Some(consumer()),
            Kind::Projection { .. } | Kind::Aggregate { .. } => None,
        })
    }

    /// The streams with this id in which a projection's events lie, or `None` if that is not known: one of its
    /// events is of no aggregate here, or streams with other ids may belong to the same key.
    pub(crate) fn streams<P: Projection>(&self, id: &str) -> Option<Vec<StreamId>> {
        let wanted = entries::<P::Event>();
        let aggregate = |entry: &Registration| match entry.kind {
            Kind::Aggregate { id, .. } => Some((entry.name, id(), (entry.events)())),
            Kind::Projection { .. } => None,
        };
        let aggregates: Vec<_> = self.0.iter().filter_map(aggregate).collect();
        let has = |events: &[EventEntry], name| events.iter().any(|event| event.is_stored_as(name));
        let mut stored = wanted.iter().flat_map(EventEntry::stored_names);
        if !stored.all(|name| aggregates.iter().any(|(_, _, events)| has(events, name))) {
            return None;
        }
        let reads = |events: &[EventEntry]| {
            wanted.iter().flat_map(EventEntry::stored_names).any(|name| has(events, name))
        };
        let streams: Vec<_> = aggregates.iter().filter(|(_, _, events)| reads(events)).collect();
        if !streams.iter().all(|(_, id, _)| is_one_to_one(TypeId::of::<P::Key>(), *id)) {
            return None;
        }
        let streams = streams.into_iter();
        // An id that names no stream has no events.
        Some(streams.filter_map(|(category, _, _)| StreamId::new(category, &id).ok()).collect())
    }

    /// Checks that every name stands for one thing and every needed service is there.
    ///
    /// # Errors
    /// [`RegistryError`] with all that is doubled or missing.
    pub fn check(&self, services: &Services) -> Result<(), RegistryError> {
        let mut faults = Vec::new();
        self.check_limits(&mut faults);
        self.check_names(&mut faults);
        self.check_events(&mut faults);
        self.check_successors(&mut faults);
        self.check_services(services, &mut faults);
        if faults.is_empty() { Ok(()) } else { Err(RegistryError { faults }) }
    }

    /// Names that a store would reject with the first append or commit. The macros check what is written in
    /// an attribute; traits that are implemented by hand are checked here.
    fn check_limits(&self, faults: &mut Vec<String>) {
        for entry in &self.0 {
            if let Err(error) = check_name(entry.word(), entry.name) {
                faults.push(format!("{entry:?}: {error}"));
            }
            for name in (entry.events)().iter().flat_map(EventEntry::stored_names) {
                if let Err(error) = check_name("event", name) {
                    faults.push(format!("in {entry:?}: {error}"));
                }
            }
        }
    }

    fn check_names(&self, faults: &mut Vec<String>) {
        let mut seen: BTreeMap<(&str, &str), &Registration> = BTreeMap::new();
        for entry in &self.0 {
            let word = entry.word();
            let Some(first) = seen.insert((word, entry.name), entry) else { continue };
            faults.push(format!(
                "two {word}s are named `{}`: {first:?}, {entry:?}; give one another `name = \"…\"`",
                entry.name
            ));
        }
    }

    fn check_events(&self, faults: &mut Vec<String>) {
        let mut seen: BTreeMap<&str, (EventEntry, &Registration)> = BTreeMap::new();
        for entry in &self.0 {
            for event in (entry.events)() {
                match seen.get(event.name) {
                    Some((first, user)) if first.type_id != event.type_id => faults.push(format!(
                        "two event types are stored as `{}`: `{}` (of {user:?}) and `{}` (of {entry:?}); give one of them `#[event(name = \"…\")]`",
                        event.name, first.type_name, event.type_name,
                    )),
                    Some(_) => {}
                    None => {
                        seen.insert(event.name, (event, entry));
                    }
                }
            }
        }
    }

    /// An event beside the one that replaces it: what is stored would be decoded as both.
    fn check_successors(&self, faults: &mut Vec<String>) {
        for entry in &self.0 {
            let events = (entry.events)();
            for new in &events {
                let doubled = events.iter().filter(|old| new.former.contains(&old.shape));
                faults.extend(doubled.map(|old| {
                    format!(
                        "in {entry:?} `{}` replaces `{}`, which has a method of its own there: a stored `{}` would be folded twice; take one of the two methods out",
                        new.name, old.name, old.name,
                    )
                }));
            }
        }
    }

    fn check_services(&self, services: &Services, faults: &mut Vec<String>) {
        for entry in &self.0 {
            let Kind::Aggregate { services: needs, .. } = entry.kind else { continue };
            let mut needed = Vec::new();
            needs(&mut needed);
            let mut named: Vec<&str> = Vec::new();
            for service in needed.iter().filter(|service| !services.has(service)) {
                if !named.contains(&service.name) {
                    named.push(service.name);
                    faults.push(format!(
                        "{entry:?} needs the service `{}`, which was not given: add `.service(…)`",
                        service.name
                    ));
                }
            }
        }
    }
}

/// What is wrong with a registry: everything at once, a sentence each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryError {
    faults: Vec<String>,
}

impl RegistryError {
    /// The faults, a sentence each.
    #[must_use]
    pub fn faults(&self) -> &[String] {
        &self.faults
    }
}

impl fmt::Display for RegistryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.faults.join("\n"))
    }
}

impl std::error::Error for RegistryError {}
