//! Inline projections: read models that are part of an append's commit.

use std::sync::Arc;

use cqrs_core::consumer::{Effect, Inlined, Routed};
use cqrs_core::event::RecordedEvent;
use cqrs_core::id::{Partition, Position, StreamId, Version};
use cqrs_core::read_store::Checkpoint;
use cqrs_core::store::{self, Append, AppendError, Appended, InlineConsumer, InlineGap};

use crate::append::{self, Tx};
use crate::error::Fault;
use crate::read;
use crate::statements::{self, Refused};
use crate::{documents, entries};

/// Writes an append that was checked, with what inline projections make of its events.
pub(crate) fn write(tx: &mut Tx<'_>, append: &Append) -> Result<Result<Appended, AppendError>, Fault> {
    let head = Position::new(tx.head.cast_unsigned());
    let version_of = |stream: &StreamId| Ok::<_, Fault>(Version::new(tx.version_of(stream)?.cast_unsigned()));
    let events = store::recorded(append.events.iter().cloned(), Partition::ONLY, head, version_of)?;
    let mut effects = Vec::new();
    for consumer in &append.inline {
        match effect(tx, consumer, append.inline_gap, &events)? {
            Ok(effect) => effects.push(effect),
            Err(refused) => return Ok(Err(refused)),
        }
    }
    if effects.iter().all(|one| one.effect.handlers.is_none()) {
        return write_all(tx, append, &events, &effects);
    }
    // Statements may fail after the first rows are written.
    let before = tx.mark()?;
    let written = write_all(tx, append, &events, &effects)?;
    match written {
        Ok(_) => tx.keep()?,
        Err(_) => tx.back_to(before)?,
    }
    Ok(written)
}

/// What one consumer makes of an append.
struct ConsumerEffect {
    consumer: &'static str,
    /// Whether the consumer has committed nothing yet, anywhere.
    first: bool,
    inlined: Inlined,
    effect: Effect,
}

fn effect(
    tx: &Tx<'_>,
    consumer: &InlineConsumer,
    gap: InlineGap,
    events: &[Arc<RecordedEvent>],
) -> Result<Result<ConsumerEffect, AppendError>, Fault> {
    let name = consumer.name();
    let revision = documents::revision(tx.conn, name)?;
    let stored = documents::checkpoint(tx.conn, name, Partition::ONLY)?;
    let mut inlined = match Inlined::new(consumer, revision, stored, tx.end(), gap) {
        Ok(inlined) => inlined,
        Err(behind) => return Ok(Err(behind)),
    };
    if let Some(missing) = inlined.missing(Partition::ONLY) {
        match inlined.with_missed(read::log_in(tx.conn, &missing, tx.log)?) {
            Ok(known) => inlined = known,
            Err(behind) => return Ok(Err(behind)),
        }
    }
    let folded = match inlined.route(events) {
        Err(refused) => return Ok(Err(refused)),
        Ok(Routed { reads, work, .. }) => inlined.fold(work, entries::get_in(tx.conn, name, &reads)?),
    };
    let effect = match folded {
        Err(refused) => return Ok(Err(refused)),
        Ok(effect) => effect,
    };
    let first = effect.handlers.is_some() && !documents::has_committed(tx.conn, name)?;
    Ok(Ok(ConsumerEffect { consumer: name, first, inlined, effect }))
}

fn write_all(
    tx: &mut Tx<'_>,
    append: &Append,
    events: &[Arc<RecordedEvent>],
    effects: &[ConsumerEffect],
) -> Result<Result<Appended, AppendError>, Fault> {
    let appended = append::write(tx, append)?;
    let event = events.last().map(|event| event.meta.id);
    let to = Checkpoint { log: tx.log, position: appended.position, event };
    for ConsumerEffect { consumer, first, inlined, effect } in effects {
        documents::write_checkpoint(tx.conn, consumer, Partition::ONLY, &to)?;
        entries::write(tx.conn, consumer, &effect.writes)?;
        let Some(handlers) = &effect.handlers else { continue };
        match statements::run(tx.conn, handlers, *first)? {
            Ok(()) => {}
            Err(Refused::Store(error)) => return Ok(Err(error.into())),
            Err(Refused::Unfit(unfit)) => return Ok(Err(inlined.refused(unfit))),
        }
    }
    Ok(Ok(appended))
}
