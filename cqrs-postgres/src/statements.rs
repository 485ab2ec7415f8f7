//! Projections with their own SQL: the user's statements inside a transaction of the store.

use std::ops::Deref;

use cqrs_core::consumer::{AsyncDatabase, Database, ErrorOrigin, Handlers, RunIn, Unfit, find_cause};
use cqrs_core::error::{BoxError, StoreError, StoreErrorKind};
use cqrs_core::store::BoxFuture;
use futures_util::future;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row};
use uuid::Uuid;

use crate::error::{Fault, OPEN_BATCH};
use crate::open::{Conn, Sql};

/// Names PostgreSQL as the database of a projection: `#[projection(name = "…", sql = Postgres)]`.
#[derive(Debug)]
pub enum Postgres {}

/// The transaction that a projection's statements run in. It derefs to a [`Client`] of `tokio_postgres`.
///
/// It is the one that moves the projection's checkpoint, and the store ends it. Statements that do so
/// themselves are refused, and the whole batch with them. Those that travel together on it are carried out in
/// turn.
#[derive(Debug)]
pub struct Transaction<'t>(&'t Client);

impl Deref for Transaction<'_> {
    type Target = Client;

    fn deref(&self) -> &Client {
        self.0
    }
}

impl Database for Postgres {
    type Transaction<'t> = Transaction<'t>;
    type Running<'a> = BoxFuture<'a, Result<(), BoxError>>;

    const NAME: &'static str = "PostgreSQL";

    fn ready<'a>(outcome: Result<(), BoxError>) -> Self::Running<'a> {
        Box::pin(std::future::ready(outcome))
    }

    fn origin(error: &(dyn std::error::Error + 'static)) -> ErrorOrigin {
        if find_cause::<Ended>(error).is_some() {
            return ErrorOrigin::Statement;
        }
        let Some(error) = find_cause::<tokio_postgres::Error>(error) else { return ErrorOrigin::Handler };
        match error.as_db_error() {
            Some(error) if is_rule(error.code()) => ErrorOrigin::Constraint {
                name: error.constraint().or(error.column()).unwrap_or(error.message()).to_owned(),
                value: error.detail().and_then(violating_value),
            },
            _ => ErrorOrigin::Statement,
        }
    }
}

/// Whether the code is an integrity constraint's (class 23) or the exception of a user's trigger.
fn is_rule(code: &SqlState) -> bool {
    code.code().starts_with("23") || *code == SqlState::RAISE_EXCEPTION
}

/// The value in a detail such as `Key (email)=(ada@example.org) already exists.`
fn violating_value(detail: &str) -> Option<String> {
    let (_, rest) = detail.split_once(")=(")?;
    let (value, _) = rest.rsplit_once(')')?;
    Some(value.to_owned())
}

impl<'a, F: Future<Output = Result<(), BoxError>> + Send + 'a> AsyncDatabase<'a, F> for Postgres {
    fn later(handler: F) -> Self::Running<'a> {
        Box::pin(handler)
    }
}

/// Why statements were not carried out. Whoever asks has to roll back what they had done.
#[derive(Debug)]
pub(crate) enum Refused {
    Unfit(Unfit),
    Store(StoreError),
}

// A batch is open from its first statement to its last. While it is, a trigger of the table refuses the
// commit; see the schema. Who holds the consumer waits for nobody here.
static OPEN: Sql = Sql::new(
    "INSERT INTO {s}.consumers (consumer, epoch, batch) VALUES ($1, 0, $2)
     ON CONFLICT (consumer) DO UPDATE SET batch = excluded.batch",
    &[Type::TEXT, Type::UUID],
);
static LOOK: Sql = Sql::new(
    "UPDATE {s}.consumers SET batch = batch WHERE consumer = $1 AND batch = $2 RETURNING epoch",
    &[Type::TEXT, Type::UUID],
);
static CLOSE: Sql = Sql::new(
    "UPDATE {s}.consumers SET batch = NULL WHERE consumer = $1 AND batch = $2 RETURNING epoch",
    &[Type::TEXT, Type::UUID],
);

/// What a session of its own for such statements begins with, and what another one is told around them:
/// outside of the store's transactions nothing is written. So what comes behind a `ROLLBACK` does not last.
pub(crate) const GUARD: &str = "SET default_transaction_read_only = on";
pub(crate) const UNGUARD: &str = "SET default_transaction_read_only = off";

/// Runs all steps in the transaction that is open; before the first batch of a consumer its tables are set
/// up. It is for the caller to end the transaction, whatever came of it.
pub(crate) async fn run(
    conn: &Conn,
    consumer: &str,
    handlers: &Handlers,
    first: bool,
) -> Result<Result<(), Refused>, Fault> {
    let run = match handlers.of::<Postgres>() {
        Ok(run) => run,
        Err(unsupported) => return Ok(Err(Refused::Store(unsupported))),
    };
    if !first && run.steps() == 0 {
        return Ok(Ok(()));
    }
    conn.ready(&[&OPEN, &LOOK, &CLOSE]).await?;
    let steps = Steps { conn, consumer, run: &*run, first };
    let mut end = steps.run(Look::AtTheEnd).await?;
    if let End::Ended(Ended::Over | Ended::ReadOnly | Ended::Failed, None) = end {
        // Nothing of it counts any more, so each may run once more to find out which one it was.
        conn.client.batch_execute("ROLLBACK").await?;
        conn.client.batch_execute(&conn.begin_writing()).await?;
        end = steps.run(Look::BehindEach).await?;
    }
    Ok(match end {
        End::Done => Ok(()),
        End::Refused(refused) => Err(refused),
        End::Ended(why, at) => Err(steps.refuse(at.or(run.steps().checked_sub(1)), Box::new(why))?),
    })
}

/// The steps of one batch.
struct Steps<'a> {
    conn: &'a Conn,
    consumer: &'a str,
    run: &'a dyn RunIn<Postgres>,
    /// Whether the tables are set up before them.
    first: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Look {
    AtTheEnd,
    BehindEach,
}

enum End {
    Done,
    Refused(Refused),
    /// The transaction is not what it was, and this step has done that, if it is known: the first of all is
    /// that of the tables if they are set up.
    Ended(Ended, Option<usize>),
}

impl Steps<'_> {
    async fn run(&self, look: Look) -> Result<End, Fault> {
        let (batch, transaction) = (Uuid::new_v4(), Transaction(&self.conn.client));
        let consumer = self.consumer;
        let all = usize::from(self.first) + self.run.steps();
        for number in 0..all {
            let step = number.checked_sub(usize::from(self.first));
            let work = match step {
                None => self.run.set_up(&transaction),
                Some(step) => self.run.run(step, &transaction),
            };
            let done = match number {
                0 => {
                    // Each is sent when it is first polled, which is in this order.
                    let open = async { self.conn.rows(&OPEN, &[&consumer, &batch]).await };
                    let (opened, done) = future::join(open, work).await;
                    opened.map(|_| done)?
                }
                _ => work.await,
            };
            if let Err(error) = done {
                return Ok(End::Refused(self.refuse(step, error)?));
            }
            let last = number + 1 == all;
            if last || look == Look::BehindEach {
                let sql = if last { &CLOSE } else { &LOOK };
                if let Some(why) = ended(self.conn.rows(sql, &[&consumer, &batch]).await)? {
                    let known = look == Look::BehindEach || all == 1;
                    return Ok(match (known, step) {
                        (true, None) => End::Refused(self.refuse(None, Box::new(why))?),
                        (known, step) => End::Ended(why, step.filter(|_| known)),
                    });
                }
            }
        }
        Ok(End::Done)
    }

    /// Why a step was not carried out; without one, the tables were not set up.
    fn refuse(&self, step: Option<usize>, error: BoxError) -> Result<Refused, Fault> {
        let error = of_the_user(error)?;
        let Some(step) = step else {
            // It would fail the next time as well, so it is not told as what may pass.
            let failed = StoreError::new(StoreErrorKind::Invalid, "the tables could not be set up");
            return Ok(Refused::Store(failed.because(error)));
        };
        let unfit = self.run.unfit(step, error).ok_or_else(|| Fault::corrupt("a step is missing"))?;
        Ok(Refused::Unfit(unfit))
    }
}

/// What statements have made of their transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    Over,
    ReadOnly,
    Failed,
    Forgotten,
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Over => "its statements end the transaction that they run in, which is for the store to do; take out `COMMIT`, `ROLLBACK` and the like (`SAVEPOINT` is allowed)",
            Self::ReadOnly => "its statements write where nothing may be written any more: behind a `ROLLBACK` or `COMMIT` of theirs, or in a transaction that they made read-only; take that out",
            Self::Forgotten => "its statements have the session forget the store's; take out `DEALLOCATE`",
            Self::Failed => "one of its statements failed, and its method went on as if nothing were; return the error, or use a `SAVEPOINT`",
        })
    }
}

impl std::error::Error for Ended {}

impl Ended {
    /// The store's own first statement was carried out, so it can write: none of this is its fault.
    fn of(code: &SqlState) -> Option<Self> {
        match code.code() {
            OPEN_BATCH => Some(Self::Over),
            "25006" => Some(Self::ReadOnly),
            "25P02" => Some(Self::Failed),
            "26000" => Some(Self::Forgotten),
            _ => None,
        }
    }
}

/// Whether the transaction is another one than before, or cannot be committed any more.
fn ended(looked: Result<Vec<Row>, Fault>) -> Result<Option<Ended>, Fault> {
    match looked {
        Ok(rows) => Ok(rows.is_empty().then_some(Ended::Over)),
        Err(fault) => match fault.code().and_then(Ended::of) {
            Some(why) => Ok(Some(why)),
            None => Err(fault),
        },
    }
}

/// Tells what befell the store, which no other statement would have escaped or which may pass, from what
/// the user's statements did wrong.
fn of_the_user(error: BoxError) -> Result<BoxError, Fault> {
    // A method may give the driver's error inside of one of its own.
    let causes = std::iter::successors(Some(&*error as &(dyn std::error::Error + 'static)), |of| of.source());
    let codes = causes.filter_map(|cause| cause.downcast_ref::<tokio_postgres::Error>()?.code());
    if let Some(why) = codes.filter_map(Ended::of).find(|why| matches!(why, Ended::Over | Ended::ReadOnly)) {
        return Ok(Box::new(why));
    }
    match error.downcast::<tokio_postgres::Error>() {
        Err(error) => match Fault::inside(&*error) {
            Some(fault) => Err(fault),
            None => Ok(error),
        },
        Ok(error) => {
            let of_the_store = Fault::is_of_the_store(&error);
            if of_the_store { Err((*error).into()) } else { Ok(error) }
        }
    }
}
