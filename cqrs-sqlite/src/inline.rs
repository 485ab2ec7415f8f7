//! Inline projections: read models that are part of an append's commit.

use std::sync::Arc;

use bytes::Bytes;
use cqrs_core::consumer::{Handlers, Inlined, Routed};
use cqrs_core::event::RecordedEvent;
use cqrs_core::id::{Partition, Position, StreamId, Version};
use cqrs_core::read_store::Checkpoint;
use cqrs_core::store::{self, Append, AppendError, Appended, InlineConsumer, InlineGap};

use crate::append::{self, Tx};
use crate::documents;
use crate::error::Fault;
use crate::read;
use crate::statements::{self, Refused};

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
    if !effects.iter().any(Effect::may_be_refused) {
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
struct Effect {
    consumer: &'static str,
    /// Whether the consumer has committed nothing yet, anywhere.
    first: bool,
    documents: Vec<(String, Option<Bytes>)>,
    handlers: Option<(Inlined, Handlers)>,
}

impl Effect {
    fn may_be_refused(&self) -> bool {
        self.handlers.is_some()
    }
}

fn effect(
    tx: &Tx<'_>,
    consumer: &InlineConsumer,
    gap: InlineGap,
    events: &[Arc<RecordedEvent>],
) -> Result<Result<Effect, AppendError>, Fault> {
    let name = consumer.name();
    let revision = documents::revision(tx.conn, name)?;
    let stored = documents::checkpoint(tx.conn, name, Partition::ONLY)?;
    let mut effect = Effect { consumer: name, first: false, documents: Vec::new(), handlers: None };
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
    match inlined.route(events) {
        Err(refused) => return Ok(Err(refused)),
        Ok(Routed::Handlers(handlers)) => {
            effect.first = !documents::has_committed(tx.conn, name)?;
            effect.handlers = Some((inlined, handlers));
        }
        Ok(Routed::Documents { keys, work }) => {
            let stored = documents::get_in(tx.conn, name, &keys)?;
            match inlined.fold(work, stored) {
                Err(refused) => return Ok(Err(refused)),
                Ok(folded) => effect.documents = keys.into_iter().zip(folded).collect(),
            }
        }
    }
    Ok(Ok(effect))
}

fn write_all(
    tx: &mut Tx<'_>,
    append: &Append,
    events: &[Arc<RecordedEvent>],
    effects: &[Effect],
) -> Result<Result<Appended, AppendError>, Fault> {
    let appended = append::write(tx, append)?;
    let event = events.last().map(|event| event.meta.id);
    let to = Checkpoint { log: tx.log, position: appended.position, event };
    for effect in effects {
        documents::write_checkpoint(tx.conn, effect.consumer, Partition::ONLY, &to)?;
        documents::write_documents(tx.conn, effect.consumer, &effect.documents)?;
        let Some((inlined, handlers)) = &effect.handlers else { continue };
        match statements::run(tx.conn, handlers, effect.first)? {
            Ok(()) => {}
            Err(Refused::Store(error)) => return Ok(Err(error.into())),
            Err(Refused::Unfit(unfit)) => return Ok(Err(inlined.refused(unfit))),
        }
    }
    Ok(Ok(appended))
}
