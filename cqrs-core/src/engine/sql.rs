//! A projection with its own SQL as a consumer: decode a batch, and hand each event to the user's
//! statements, in the transaction that a store gives.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;

use super::consumer::{caught, failed, query, reads};
use crate::consumer::{Consumer, Database, Effect, ErrorOrigin, Handlers, Routed, RunIn, Unfit, Work};
use crate::error::{BoxError, FoldFault, Panicked, RuleViolation};
use crate::event::{RecordedEvent, decode};
use crate::projection::SqlProjection;
use crate::store::Query;

/// A `#[projection(sql = …)]` as a consumer.
pub(crate) struct SqlConsumer<P>(PhantomData<fn() -> P>);

impl<P: SqlProjection> SqlConsumer<P> {
    pub(crate) fn shared() -> Arc<dyn Consumer> {
        Arc::new(Self(PhantomData))
    }
}

impl<P: SqlProjection> fmt::Debug for SqlConsumer<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(P::NAME)
    }
}

impl<P: SqlProjection> Consumer for SqlConsumer<P> {
    fn name(&self) -> &'static str {
        P::NAME
    }

    fn query(&self) -> Query {
        query::<P::Event>()
    }

    fn reads(&self) -> BTreeMap<&'static str, u32> {
        reads::<P::Event>()
    }

    fn fold(&self) -> Option<u64> {
        P::FOLD
    }

    fn database(&self) -> Option<&'static str> {
        Some(P::Database::NAME)
    }

    fn route(&self, events: &[Arc<RecordedEvent>]) -> Result<Routed, Unfit> {
        let mut steps = Vec::with_capacity(events.len());
        for (good, recorded) in events.iter().enumerate() {
            let add = |event| steps.push(Step::<P> { good, recorded: recorded.clone(), event });
            caught(|| Ok(decode::<P::Event>(&recorded.stored(), &mut { add })?))
                .map_err(|fault| Unfit { good, error: failed(recorded, fault) })?;
        }
        let handlers = Handlers::new::<P::Database>(Arc::new(Steps(steps)));
        Ok(Routed::new(Vec::new(), Box::new(Statements(handlers))))
    }
}

/// Statements that read for themselves what they need.
struct Statements(Handlers);

impl Work for Statements {
    fn fold(self: Box<Self>, _: Vec<Option<Bytes>>) -> Result<Effect, Unfit> {
        Ok(Effect::of_handlers(self.0))
    }
}

/// Decoded events; one that is stored may have become several.
struct Steps<P: SqlProjection>(Vec<Step<P>>);

struct Step<P: SqlProjection> {
    good: usize,
    recorded: Arc<RecordedEvent>,
    event: P::Event,
}

impl<P: SqlProjection> RunIn<P::Database> for Steps<P> {
    fn set_up<'a, 't>(
        &'a self,
        transaction: &'a <P::Database as Database>::Transaction<'t>,
    ) -> <P::Database as Database>::Running<'a>
    where
        't: 'a,
    {
        P::set_up(transaction)
    }

    fn steps(&self) -> usize {
        self.0.len()
    }

    fn run<'a, 't>(
        &'a self,
        step: usize,
        transaction: &'a <P::Database as Database>::Transaction<'t>,
    ) -> <P::Database as Database>::Running<'a>
    where
        't: 'a,
    {
        let Some(Step { event, recorded, .. }) = self.0.get(step) else {
            return P::Database::ready(Err("there is no such step".into()));
        };
        // A panic must not end whoever runs this; that of a future is caught where it is polled.
        let run = catch_unwind(AssertUnwindSafe(|| P::handle(transaction, event, &recorded.meta)));
        run.unwrap_or_else(|panic| P::Database::ready(Err(Panicked::new(&*panic).into())))
    }

    fn unfit(&self, step: usize, error: BoxError) -> Option<Unfit> {
        let Step { good, recorded, .. } = self.0.get(step)?;
        let fault = match error.downcast::<Panicked>() {
            Ok(panicked) => FoldFault::Panicked(*panicked),
            Err(error) => match P::Database::origin(&*error) {
                ErrorOrigin::Statement => FoldFault::Handler(error),
                ErrorOrigin::Handler => FoldFault::Rule(RuleViolation::new(error)),
                ErrorOrigin::Constraint { name, value } => {
                    FoldFault::Rule(RuleViolation::new(error).of_constraint(name, value))
                }
            },
        };
        Some(Unfit { good: *good, error: failed(recorded, fault) })
    }
}
