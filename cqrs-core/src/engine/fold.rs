//! Folding a stream into a state, event by event as the store hands them over.

use std::ops::ControlFlow;

use uuid::Uuid;

use super::Inner;
use super::snapshots::Folding;
use crate::aggregate::Aggregate;
use crate::error::{FoldError, FoldFault, StoreError, StoreErrorKind};
use crate::event::{Stored, decode};
use crate::id::{Partition, Position, StreamId, Version};
use crate::store::{LogPoint, StreamEvent};

/// The last event of a stream, as far as it was read; the default is that of a stream without events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct End {
    pub(super) version: Version,
    pub(super) position: Position,
    pub(super) event: Option<Uuid>,
}

impl End {
    /// Where in the log that is.
    pub(super) fn point(&self) -> LogPoint {
        LogPoint { position: self.position, event: self.event }
    }

    fn of(event: StreamEvent<'_>) -> Self {
        Self { version: event.version, position: event.position, event: Some(event.id) }
    }
}

/// A fold on its way along a stream.
pub(super) struct Walk<'s> {
    stream: &'s StreamId,
    partition: Partition,
    state: &'s mut dyn Folding,
    behind: Version,
    last: Option<End>,
    fault: Option<Fault>,
}

/// What a walk ends at before the stream's end.
enum Fault {
    Store(StoreError),
    Fold(FoldError),
}

impl<'s> Walk<'s> {
    /// Folds the event, which has to be the next one.
    pub(super) fn step(&mut self, event: StreamEvent<'_>) -> ControlFlow<()> {
        let before = self.last.map_or(self.behind, |last| last.version);
        if event.version != before.next() {
            let words = format!("{} has a hole beside its version {}", self.stream, event.version.get());
            self.fault = Some(Fault::Store(StoreError::new(StoreErrorKind::Corrupt, words)));
            return ControlFlow::Break(());
        }
        self.last = Some(End::of(event));
        match self.state.fold(&event.stored) {
            Ok(()) => ControlFlow::Continue(()),
            Err(fault) => {
                let at = (event.version, self.partition, event.position);
                self.fault = Some(Fault::Fold(FoldError::at(event.stored.name, self.stream, at, fault)));
                ControlFlow::Break(())
            }
        }
    }

    /// Begins behind an event that is known to be the one it should be.
    pub(super) fn begin_behind(&mut self, event: StreamEvent<'_>) {
        self.last = Some(End::of(event));
    }

    pub(super) fn state(&mut self) -> &mut dyn Folding {
        self.state
    }

    /// The last event, if there was any.
    pub(super) fn end<E>(self) -> Result<Option<End>, E>
    where
        E: From<StoreError> + From<FoldError>,
    {
        match self.fault {
            None => Ok(self.last),
            Some(Fault::Store(error)) => Err(error.into()),
            Some(Fault::Fold(error)) => Err(error.into()),
        }
    }
}

impl Inner {
    /// A fold that is about to begin behind a version.
    pub(super) fn walk<'s>(
        &self,
        stream: &'s StreamId,
        behind: Version,
        state: &'s mut dyn Folding,
    ) -> Walk<'s> {
        let partition = self.log.partition_of(stream);
        Walk { stream, partition, state, behind, last: None, fault: None }
    }

    /// Folds a whole stream. Returns its end.
    pub(super) async fn fold_whole<E: From<StoreError> + From<FoldError>>(
        &self,
        stream: &StreamId,
        state: &mut dyn Folding,
    ) -> Result<End, E> {
        let mut walk = self.walk(stream, Version::NONE, state);
        self.log.fold_stream(stream, Version::NONE.next(), &mut |event| walk.step(event)).await?;
        Ok(walk.end::<E>()?.unwrap_or_default())
    }

    /// Folds what a stream has after an event that the state has already. Returns the stream's end, or `None` if the
    /// log has another event there: it was rewound, and the state is one of a lost history.
    pub(super) async fn fold_after<E: From<StoreError> + From<FoldError>>(
        &self,
        stream: &StreamId,
        after: End,
        state: &mut dyn Folding,
    ) -> Result<Option<End>, E> {
        if after.version == Version::NONE {
            return self.fold_whole(stream, state).await.map(Some);
        }
        let mut walk = self.walk(stream, after.version, state);
        let mut is_there = false;
        let take = &mut |event: StreamEvent<'_>| {
            if is_there {
                return walk.step(event);
            }
            is_there = (event.version, Some(event.id)) == (after.version, after.event);
            walk.begin_behind(event);
            if is_there { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        self.log.fold_stream(stream, after.version, take).await?;
        if is_there { walk.end() } else { Ok(None) }
    }
}

impl Inner {
    /// Folds a stream from its beginning up to a version.
    pub(super) async fn fold_to<E: From<StoreError> + From<FoldError>>(
        &self,
        stream: &StreamId,
        to: Version,
        state: &mut dyn Folding,
    ) -> Result<(), E> {
        let mut walk = self.walk(stream, Version::NONE, state);
        let step = &mut |event: StreamEvent<'_>| {
            let last = event.version >= to;
            if walk.step(event).is_break() || last {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        };
        self.log.fold_stream(stream, Version::NONE.next(), step).await?;
        walk.end().map(drop)
    }
}

/// Folds a stored event into a state.
pub(super) fn fold<A: Aggregate>(state: &mut Option<A>, stored: &Stored<'_>) -> Result<(), FoldFault> {
    let mut misfit = Ok(());
    decode::<A::Event>(stored, &mut |event| {
        if misfit.is_ok() {
            misfit = A::apply(state, &event);
        }
    })?;
    Ok(misfit?)
}
