//! Snapshots: where a stream need not be read from its beginning.
//!
//! A snapshot is made from what the log has, never from what a process has in memory: whoever has read
//! a stream and finds one due keeps it, and a command that makes one due has the stream read once more,
//! behind its receipt. So an event that does not come back as it was written cannot get into one.
//!
//! The engine uses it if it is of this log and this code, and the stream has the very event that it names, at
//! its version and position. The read of what follows begins with that event, so the check costs no call of
//! its own. Otherwise the engine forgets the snapshot and reads the whole stream.

use std::borrow::Cow;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use foldhash::{HashMap, HashSet};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Inner;
use super::error::Failure;
use super::fold::{End, fold};
use crate::aggregate::{Aggregate, SharedState as _};
use crate::codec::{CodecError, reason};
use crate::error::{FoldError, FoldFault, StoreError, StoreErrorKind};
use crate::event::Stored;
use crate::id::{StreamId, Version};
use crate::store::{BoxFuture, EventStore, Snapshot, StreamEvent};
use crate::timer;

/// How the snapshots of one aggregate are made, without its type.
#[derive(Clone, Copy)]
pub(crate) struct Plan {
    aggregate: &'static str,
    every: u64,
    fingerprint: u64,
    fresh: fn() -> Box<dyn Folding>,
}

impl Plan {
    pub(crate) fn of<A: Aggregate>() -> Option<Self> {
        let snapshots = A::SNAPSHOTS?;
        let (every, fingerprint) = (snapshots.interval(), snapshots.fingerprint());
        Some(Self { aggregate: A::NAME, every, fingerprint, fresh: || Box::new(Folded::<A>::new()) })
    }

    pub(super) fn aggregate(&self) -> &'static str {
        self.aggregate
    }

    /// The version from which on a stream may have a snapshot.
    pub(super) fn first(&self) -> u64 {
        self.every
    }

    pub(super) fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    pub(super) fn fresh(&self) -> Box<dyn Folding> {
        (self.fresh)()
    }

    /// Whether a multiple has been passed since the last one that is known.
    fn is_due(&self, place: Place) -> bool {
        place.end.version.get() / self.every > place.snapshot.get() / self.every
    }
}

/// A state that is being folded, without its type.
pub(crate) trait Folding: Send + Sync {
    /// Begins anew.
    fn reset(&mut self);
    /// Folds the next event of the stream.
    fn fold(&mut self, stored: &Stored<'_>) -> Result<(), FoldFault>;
    /// The state, to be kept; `None` if there is none.
    fn freeze(&self) -> Option<Result<Bytes, CodecError>>;
    /// Takes over a state that was kept.
    fn thaw(&mut self, bytes: &[u8]) -> Result<(), CodecError>;
}

/// A state with its type.
pub(super) struct Folded<A: Aggregate> {
    state: A::State,
    /// Its length as a snapshot when it was last measured, and the stream's version then.
    encoded: usize,
    measured: Version,
    /// The bytes of the events that were folded since.
    folded: usize,
}

/// A state that has grown by less is not measured again.
const MEASURED: usize = 4_096;

impl<A: Aggregate> Folded<A> {
    pub(super) fn new() -> Self {
        Self { state: A::State::new(A::initial()), encoded: 0, measured: Version::NONE, folded: 0 }
    }

    pub(super) fn get(&self) -> Option<&A> {
        self.state.get()
    }

    pub(super) fn get_mut(&mut self) -> &mut Option<A> {
        self.state.get_mut()
    }

    pub(super) fn into_inner(self) -> Option<A> {
        self.state.into_inner()
    }

    /// Notes that an event of so many bytes was folded.
    pub(super) fn grown(&mut self, bytes: usize) {
        self.folded = self.folded.saturating_add(bytes);
    }

    /// An estimate of its size in memory, in bytes. The state is encoded when its events have doubled since the last
    /// time, in number or in bytes, so that costs less than folding them did.
    pub(super) fn size(&mut self, version: Version) -> usize {
        let Some(state) = self.state.get() else { return 0 };
        let own = size_of::<Self>();
        if let Some(size) = A::state_size(state) {
            return own.saturating_add(size);
        }
        if !std::mem::needs_drop::<A>() {
            return own;
        }
        let has_doubled = version.get() / 2 >= self.measured.get();
        if let (Some(snapshots), true) =
            (A::SNAPSHOTS, has_doubled || self.folded > self.encoded.max(MEASURED))
        {
            self.measured = version;
            if let Some(encoded) = snapshots.encoded_size(state) {
                (self.encoded, self.folded) = (encoded, 0);
            }
        }
        own.saturating_add(self.encoded).saturating_add(self.folded)
    }
}

impl<A: Aggregate> Folding for Folded<A> {
    fn reset(&mut self) {
        *self = Self::new();
    }

    fn fold(&mut self, stored: &Stored<'_>) -> Result<(), FoldFault> {
        self.grown(stored.payload.len());
        fold(self.get_mut(), stored)
    }

    fn freeze(&self) -> Option<Result<Bytes, CodecError>> {
        Some(A::SNAPSHOTS?.freeze(self.get()?))
    }

    fn thaw(&mut self, bytes: &[u8]) -> Result<(), CodecError> {
        if let Some(snapshots) = A::SNAPSHOTS {
            *self.get_mut() = Some(snapshots.thaw(bytes)?);
            (self.encoded, self.folded) = (bytes.len(), 0);
        }
        Ok(())
    }
}

/// How far a stream was read.
#[derive(Clone, Copy)]
pub(super) struct Place {
    /// The last event that was read.
    pub(super) end: End,
    /// The version of the last snapshot that is known.
    pub(super) snapshot: Version,
}

/// Why a snapshot is not used.
pub(super) enum Doubt {
    /// It does not fit the log or the type.
    Unfit(Cow<'static, str>),
    /// The log cannot be read, so there is nothing to fall back on.
    Store(StoreError),
}

impl From<StoreError> for Doubt {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

// If the event is at fault and not the snapshot, reading the whole stream will tell.
impl From<FoldError> for Doubt {
    fn from(_: FoldError) -> Self {
        Self::Unfit("what follows does not fold".into())
    }
}

impl Inner {
    /// Reads a stream to its end, from its snapshot if there is a good one, else from its beginning.
    pub(super) async fn read_whole<E: From<StoreError> + From<FoldError>>(
        &self,
        stream: &StreamId,
        plan: Option<Plan>,
        state: &mut dyn Folding,
    ) -> Result<Place, E> {
        if let Some(plan) = plan
            && let Some(place) = self.read_from_snapshot(stream, plan, state).await?
        {
            return Ok(place);
        }
        state.reset();
        let end = self.fold_whole::<E>(stream, state).await?;
        Ok(Place { end, snapshot: Version::NONE })
    }

    async fn read_from_snapshot(
        &self,
        stream: &StreamId,
        plan: Plan,
        state: &mut dyn Folding,
    ) -> Result<Option<Place>, StoreError> {
        let snapshot = match self.log.snapshot(stream, plan.fingerprint).await {
            Ok(Some(snapshot)) => snapshot,
            Ok(None) => return Ok(None),
            Err(error) => {
                tracing::warn!(%stream, %error, "no snapshot, reading the whole stream");
                if error.kind() == StoreErrorKind::Corrupt {
                    self.forget(stream).await;
                }
                return Ok(None);
            }
        };
        match self.read_tail(stream, plan, &snapshot, state).await {
            Ok(place) => Ok(Some(place)),
            Err(Doubt::Store(error)) => Err(error),
            Err(Doubt::Unfit(why)) => {
                let version = snapshot.version.get();
                tracing::warn!(%stream, version, %why, "a snapshot is no good, reading the whole stream");
                self.forget(stream).await;
                Ok(None)
            }
        }
    }

    /// Reads on from a snapshot. The event that is its last one is read again, to see that the log has
    /// it there; it is not decoded.
    pub(super) async fn read_tail(
        &self,
        stream: &StreamId,
        plan: Plan,
        snapshot: &Snapshot,
        state: &mut dyn Folding,
    ) -> Result<Place, Doubt> {
        let Snapshot { version, position, event: last, .. } = *snapshot;
        if (snapshot.log, &snapshot.stream, snapshot.fingerprint) != (self.log_id, stream, plan.fingerprint) {
            return Err(Doubt::Unfit("it is of another log, stream or fold".into()));
        }
        let mut walk = self.walk(stream, version, state);
        let mut doubt = Some(Doubt::Unfit("the log has no such event".into()));
        let take = &mut |event: StreamEvent<'_>| {
            if doubt.is_none() {
                return walk.step(event);
            }
            if (event.version, event.position, event.id) != (version, position, last) {
                return ControlFlow::Break(());
            }
            let thawed = walk.state().thaw(&snapshot.state);
            let unread = |error| Doubt::Unfit(format!("its state cannot be read: {}", reason(&error)).into());
            doubt = thawed.err().map(unread);
            walk.begin_behind(event);
            if doubt.is_none() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        self.log.fold_stream(stream, version, take).await?;
        if let Some(doubt) = doubt {
            return Err(doubt);
        }
        // Its last event is in the walk, so there is an end.
        let end = walk.end::<Doubt>()?.unwrap_or_default();
        Ok(Place { end, snapshot: version })
    }

    async fn forget(&self, stream: &StreamId) {
        if let Err(error) = self.log.forget_snapshot(stream).await {
            tracing::warn!(%stream, %error, "a snapshot that is no good could not be taken away");
        }
    }

    /// Keeps the state of a stream that was just read, if it is time to.
    pub(super) async fn keep(
        &self,
        stream: &StreamId,
        plan: Option<Plan>,
        place: &mut Place,
        state: &dyn Folding,
    ) {
        let Some(plan) = plan.filter(|plan| self.is_snapshot_due(stream, plan, *place)) else { return };
        let Some(permit) = self.saves.permit() else { return };
        let snapshot = self.freeze(stream, plan, *place, state);
        place.snapshot = place.end.version;
        let log = Arc::clone(&self.log);
        if let Some(snapshot) = snapshot {
            let work = Box::pin(async move { save(&*log, snapshot).await });
            self.saves.run(Making { permit, work }).await;
        }
    }

    /// What keeps the state of a stream, when a command has made it time to; `None` if there is no room for it.
    pub(super) fn renewal(self: &Arc<Self>, stream: &StreamId, plan: Plan) -> Option<Making> {
        let permit = self.saves.permit()?;
        let (inner, stream) = (Arc::clone(self), stream.clone());
        Some(Making { permit, work: Box::pin(async move { inner.read_and_save(&stream, plan).await }) })
    }

    async fn read_and_save(&self, stream: &StreamId, plan: Plan) {
        let mut state = (plan.fresh)();
        match self.read_whole::<Failure>(stream, Some(plan), &mut *state).await {
            // Somebody else may have kept a newer one.
            Ok(place) if plan.is_due(place) => {
                if let Some(snapshot) = self.freeze(stream, plan, place, &*state) {
                    save(&*self.log, snapshot).await;
                }
            }
            Ok(_) => {}
            // Whoever reads it next hears why.
            Err(_) => tracing::warn!(%stream, "no snapshot: the stream could not be read"),
        }
    }

    fn freeze(&self, stream: &StreamId, plan: Plan, place: Place, state: &dyn Folding) -> Option<Snapshot> {
        let (stream, fingerprint) = (stream.clone(), plan.fingerprint);
        let End { version, position, event } = place.end;
        // A stream without events has no state to keep.
        let event = event?;
        match state.freeze()? {
            Ok(state) => {
                Some(Snapshot { stream, log: self.log_id, version, position, event, fingerprint, state })
            }
            Err(error) => {
                if self.saves.refuse(&stream, plan, version) {
                    tracing::warn!(
                        aggregate = plan.aggregate,
                        %stream,
                        why = %reason(&error),
                        "no snapshot: the state cannot be written and read back; streams of this aggregate are read whole until its serde attributes agree"
                    );
                }
                None
            }
        }
    }

    /// Whether a snapshot is due, and the state of this stream was not refused lately.
    pub(super) fn is_snapshot_due(&self, stream: &StreamId, plan: &Plan, place: Place) -> bool {
        plan.is_due(place) && !self.saves.is_refused(stream, place.end.version)
    }
}

async fn save(log: &dyn EventStore, snapshot: Snapshot) {
    let (stream, version) = (snapshot.stream.clone(), snapshot.version.get());
    match log.save_snapshot(snapshot).await {
        Ok(()) => tracing::debug!(%stream, version, "kept a snapshot"),
        Err(error) => tracing::warn!(%stream, version, %error, "a snapshot could not be kept"),
    }
}

/// The maximum number of snapshots made at a time in the background. One past it is due again at the next multiple.
const SAVES: u32 = 4;

/// After this a snapshot is given up, so that a store that does not answer keeps nobody from ending.
const PATIENCE: Duration = Duration::from_secs(30);

/// A snapshot in the making.
pub(super) struct Making {
    permit: Permit,
    work: BoxFuture<'static, ()>,
}

/// Permission to make a snapshot. Without a background, the future of a command or a load makes it. That future may
/// never be polled again, so it holds nothing that others need.
struct Permit {
    /// Counts it among those in the background.
    _counted: Option<OwnedSemaphorePermit>,
}

/// The making of snapshots beside the commands.
pub(super) struct Saves {
    permits: Arc<Semaphore>,
    /// Where they are made; by whoever makes one due if there is none.
    runtime: Option<Handle>,
    refused: Mutex<Refused>,
}

/// States that could not be written and read back.
#[derive(Default)]
struct Refused {
    /// The aggregates of which that was reported.
    reported: HashSet<&'static str>,
    /// The version at which it was tried last. Trying has a stream read once more, so it is tried again when the
    /// stream has twice as many events.
    streams: HashMap<StreamId, Version>,
}

/// Streams in [`Refused`]; with more of them, all are tried again.
const REFUSED: usize = 10_000;

impl Saves {
    pub(super) fn new(background: bool) -> Self {
        let runtime = if background { Handle::try_current().ok() } else { None };
        Self { permits: Arc::new(Semaphore::new(SAVES as usize)), runtime, refused: Mutex::default() }
    }

    fn refused(&self) -> MutexGuard<'_, Refused> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_refused(&self, stream: &StreamId, version: Version) -> bool {
        let tried = self.refused().streams.get(stream).copied();
        tried.is_some_and(|tried| version.get() / 2 < tried.get())
    }

    /// Notes a state that cannot be kept; answers whether it is the first of its aggregate.
    fn refuse(&self, stream: &StreamId, plan: Plan, version: Version) -> bool {
        let mut refused = self.refused();
        if refused.streams.len() >= REFUSED {
            refused.streams.clear();
        }
        refused.streams.insert(stream.clone(), version);
        refused.reported.insert(plan.aggregate)
    }

    fn permit(&self) -> Option<Permit> {
        if self.runtime.is_none() {
            return (!self.permits.is_closed()).then_some(Permit { _counted: None });
        }
        let counted = Arc::clone(&self.permits).try_acquire_owned().ok()?;
        Some(Permit { _counted: Some(counted) })
    }

    /// Makes one: in the background if there is one, else in the future of the caller.
    pub(super) async fn run(&self, Making { permit, work }: Making) {
        let Some(runtime) = &self.runtime else { return work.await };
        runtime.spawn(async move {
            if timer::timeout(PATIENCE, work).await.is_none() {
                tracing::warn!(patience = ?PATIENCE, "a snapshot was given up: the store does not answer");
            }
            drop(permit);
        });
    }

    /// Lets no other begin, and says how many are still being made.
    pub(super) fn abandon(&self) -> usize {
        self.permits.close();
        (SAVES as usize).saturating_sub(self.permits.available_permits())
    }

    /// Waits for those that are being made, and lets no other begin.
    pub(super) async fn finish(&self) {
        let all = self.permits.acquire_many(SAVES).await;
        self.permits.close();
        drop(all);
    }
}
