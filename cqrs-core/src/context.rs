//! What a handler may ask for beside state and command: the context and services.

use std::any::{Any, TypeId, type_name};
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use uuid::Uuid;

use crate::event::{Metadata, Timestamp};
use crate::id::{StreamId, Version};

/// What a handler can know about the command it decides, asked for as `&Context`.
///
/// Take the time and fresh ids from here and not from the system, so that a test can fix them.
#[derive(Debug)]
pub struct Context {
    /// The stream that the command is for.
    pub stream: StreamId,
    /// The version of the state that the handler sees.
    pub version: Version,
    /// The time of this decision; the events get it too.
    pub now: Timestamp,
    /// What the caller sent along; the events get it too.
    pub metadata: Arc<Metadata>,
    ids: Arc<dyn IdSource>,
}

impl Context {
    /// The context of one decision.
    #[must_use]
    pub fn new(
        stream: StreamId,
        version: Version,
        now: Timestamp,
        metadata: Arc<Metadata>,
        ids: Arc<dyn IdSource>,
    ) -> Self {
        Self { stream, version, now, metadata, ids }
    }

    /// A fresh id: a UUIDv7, or what the test has fixed.
    #[must_use]
    pub fn new_id(&self) -> Uuid {
        self.ids.next(self.now)
    }
}

/// Where the engine takes the time from.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// The time now.
    fn now(&self) -> Timestamp;
}

/// The system's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// Where the engine takes the ids of events from, and [`Context::new_id`] its own.
pub trait IdSource: fmt::Debug + Send + Sync + 'static {
    /// A fresh id; `now` is the time of the decision.
    fn next(&self, now: Timestamp) -> Uuid;
}

/// UUIDv7 that grow in the order in which this source hands them out: the time in milliseconds,
/// then a counter, then random bits (RFC 9562, section 6.2, method 1).
#[derive(Debug, Default)]
pub struct TimeOrderedIds {
    /// Milliseconds since 1970 in the upper 48 bits' place, a 16-bit counter below.
    last: AtomicU64,
}

impl IdSource for TimeOrderedIds {
    fn next(&self, now: Timestamp) -> Uuid {
        const LAST_MILLI: u64 = (1 << 48) - 1;
        let base = (now.as_micros() / 1000).min(LAST_MILLI) << 16;
        // At the end of the 48 bits only the random ones tell ids apart.
        let after = |last: u64| base.max(last.saturating_add(1));
        let step = |last: u64| Some(after(last));
        let last = self.last.fetch_update(Ordering::Relaxed, Ordering::Relaxed, step);
        // The closure never refuses, so both arms carry the former value.
        let (Ok(former) | Err(former)) = last;
        let tick = after(former);
        // A random v4 gives the tail; 12 bits of the counter go into `rand_a`, 4 follow the variant.
        let random = Uuid::new_v4().as_u128() & ((1 << 58) - 1);
        let counter = u128::from(tick & 0xffff);
        let bits = (u128::from(tick >> 16) << 80)
            | (0x7 << 76)
            | ((counter >> 4) << 64)
            | (0b10 << 62)
            | ((counter & 0xf) << 58)
            | random;
        Uuid::from_u128(bits)
    }
}

/// Something that handlers need and the engine is given: rates, a mailer, a clock of another kind.
///
/// A handler asks for it with a parameter `&T` or `&dyn Trait`; the engine is given it with
/// [`EngineBuilder::service`](crate::engine::EngineBuilder::service), and refuses to start without it.
///
/// ```
/// # use cqrs_core::Service;
/// struct Rates;
/// impl Service for Rates {}
///
/// trait Mailer: Service {
///     fn send(&self, to: &str);
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is neither the context nor a service",
    label = "a handler cannot ask for this",
    note = "behind the command a handler takes `&Context` and services; make it one with `impl Service for {Self} {{}}`"
)]
pub trait Service: Send + Sync + 'static {}

/// Services by type.
#[derive(Clone, Default)]
pub struct Services(HashMap<TypeId, (&'static str, Arc<dyn Any + Send + Sync>)>);

impl Services {
    /// Without any.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a service under the type `T`, in place of a former one of that type.
    pub fn insert<T: Service + ?Sized>(&mut self, service: Arc<T>) {
        self.0.insert(TypeId::of::<T>(), (type_name::<T>(), Arc::new(service)));
    }

    /// The service of type `T`.
    #[must_use]
    pub fn get<T: Service + ?Sized>(&self) -> Option<&T> {
        let (_, service) = self.0.get(&TypeId::of::<T>())?;
        service.downcast_ref::<Arc<T>>().map(AsRef::as_ref)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the needed service is here.
    #[must_use]
    pub fn has(&self, needed: &ServiceType) -> bool {
        self.0.contains_key(&needed.id)
    }
}

impl fmt::Debug for Services {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.values().map(|(name, _)| name)).finish()
    }
}

/// A service that some handler needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ServiceType {
    pub(crate) id: TypeId,
    /// The type's name, for messages.
    pub name: &'static str,
}

impl ServiceType {
    pub(crate) fn of<T: Service + ?Sized>() -> Self {
        Self { id: TypeId::of::<T>(), name: type_name::<T>() }
    }
}

/// What a decision is made with: the context and the services.
#[derive(Debug)]
pub struct Surroundings<'a> {
    /// The context of this decision.
    pub context: &'a Context,
    /// The engine's services, or the test's.
    pub services: &'a Services,
}

/// A parameter that a handler may have behind its command.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is neither the context nor a service",
    label = "a handler cannot ask for this",
    note = "behind its command a handler takes `&Context` and services; a type becomes one with `impl Service for … {{}}`"
)]
pub trait Param<'a>: Sized {
    /// The service that must be there, or `None` if it is always there.
    const NEEDS: Option<fn() -> ServiceType>;

    /// Takes it from the surroundings.
    ///
    /// # Errors
    /// [`MissingService`] if it is a service that was not given.
    fn take(from: &Surroundings<'a>) -> Result<Self, MissingService>;
}

impl<'a> Param<'a> for &'a Context {
    const NEEDS: Option<fn() -> ServiceType> = None;

    fn take(from: &Surroundings<'a>) -> Result<Self, MissingService> {
        Ok(from.context)
    }
}

#[diagnostic::do_not_recommend]
impl<'a, T: Service + ?Sized> Param<'a> for &'a T {
    const NEEDS: Option<fn() -> ServiceType> = Some(ServiceType::of::<T>);

    fn take(from: &Surroundings<'a>) -> Result<Self, MissingService> {
        from.services.get().ok_or(MissingService(type_name::<T>()))
    }
}

/// A handler needs a service that was not given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MissingService(pub(crate) &'static str);

impl MissingService {
    /// The name of the service's type.
    #[must_use]
    pub fn service(&self) -> &'static str {
        self.0
    }
}

impl fmt::Display for MissingService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the service `{}` was not given: add `.service(…)`", self.0)
    }
}

impl std::error::Error for MissingService {}
