//! Which aggregates and projections there are: by link time or spelled out, and checked as a whole.

use std::any::TypeId;
use std::collections::BTreeMap;
use std::fmt;

use crate::aggregate::Aggregate;
use crate::context::{ServiceType, Services};
use crate::engine::consumer::{Consumer, DocumentConsumer};
use crate::event::{EventSet, Shape};
use crate::projection::Projection;

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
    Aggregate { services: fn(&mut Vec<ServiceType>) },
    Projection { consumer: fn() -> Box<dyn Consumer> },
}

#[derive(Clone, Debug)]
pub(crate) struct EventEntry {
    pub(crate) name: &'static str,
    pub(crate) type_id: TypeId,
    pub(crate) type_name: &'static str,
    shape: Shape,
    former: Vec<Shape>,
}

inventory::collect!(Registration);

impl Registration {
    /// An aggregate's entry.
    #[must_use]
    pub const fn aggregate<A: Aggregate>(location: Location) -> Self {
        Self {
            kind: Kind::Aggregate { services: A::services },
            name: A::NAME,
            type_id: TypeId::of::<A>,
            type_name: std::any::type_name::<A>,
            location,
            events: entries::<A::Event>,
        }
    }

    /// A projection's entry.
    #[must_use]
    pub const fn projection<P: Projection>(location: Location) -> Self {
        Self {
            kind: Kind::Projection { consumer: DocumentConsumer::<P>::boxed },
            name: P::NAME,
            type_id: TypeId::of::<P>,
            type_name: std::any::type_name::<P>,
            location,
            events: entries::<P::Event>,
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

    pub(crate) fn aggregate_types(&self) -> impl Iterator<Item = TypeId> {
        let aggregates = self.0.iter().filter(|entry| matches!(entry.kind, Kind::Aggregate { .. }));
        aggregates.map(|entry| (entry.type_id)())
    }

    pub(crate) fn has_projection<P: Projection>(&self) -> bool {
        let same = |entry: &&Registration| (entry.type_id)() == TypeId::of::<P>();
        self.0.iter().filter(same).any(|entry| matches!(entry.kind, Kind::Projection { .. }))
    }

    pub(crate) fn consumers(&self) -> Vec<Box<dyn Consumer>> {
        let consumer = |entry: &Registration| match entry.kind {
            Kind::Projection { consumer } => Some(consumer()),
            Kind::Aggregate { .. } => None,
        };
        self.0.iter().filter_map(consumer).collect()
    }

    /// Checks that every name stands for one thing and every needed service is there.
    ///
    /// # Errors
    /// [`RegistryError`] with all that is doubled or missing.
    pub fn check(&self, services: &Services) -> Result<(), RegistryError> {
        let mut faults = Vec::new();
        self.check_names(&mut faults);
        self.check_events(&mut faults);
        self.check_successors(&mut faults);
        self.check_services(services, &mut faults);
        if faults.is_empty() { Ok(()) } else { Err(RegistryError { faults }) }
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
            let Kind::Aggregate { services: needs } = entry.kind else { continue };
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
