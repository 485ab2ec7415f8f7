//! Folding a stream into a state, event by event as the store hands them over.

use std::ops::ControlFlow;

use super::Inner;
use super::snapshots::Folding;
use crate::aggregate::Aggregate;
use crate::error::{FoldError, FoldFault, StoreError, StoreErrorKind};
use crate::event::{Stored, decode};
use crate::id::{Partition, Position, StreamId, Version};
use crate::store::StreamEvent;

/// A fold on its way along a stream.
pub(super) struct Walk<'s> {
    stream: &'s StreamId,
    partition: Partition,
    state: &'s mut dyn Folding,
    behind: Version,
    last: Option<(Version, Position)>,
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
        let before = self.last.map_or(self.behind, |(version, _)| version);
        if event.version != before.next() {
            let words = format!("{} has a hole beside its version {}", self.stream, event.version.get());
            self.fault = Some(Fault::Store(StoreError::new(StoreErrorKind::Corrupt, words)));
            return ControlFlow::Break(());
        }
        self.last = Some((event.version, event.position));
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
        self.last = Some((event.version, event.position));
    }

    pub(super) fn state(&mut self) -> &mut dyn Folding {
        self.state
    }

    /// The place of the last event, if there was any.
    pub(super) fn end<E>(self) -> Result<Option<(Version, Position)>, E>
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

    /// Folds what a stream has behind a version, to its end; gives the place of the last event, if there was
    /// any.
    pub(super) async fn fold_behind<E: From<StoreError> + From<FoldError>>(
        &self,
        stream: &StreamId,
        behind: Version,
        state: &mut dyn Folding,
    ) -> Result<Option<(Version, Position)>, E> {
        let mut walk = self.walk(stream, behind, state);
        self.log.fold_stream(stream, behind.next(), &mut |event| walk.step(event)).await?;
        walk.end()
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
