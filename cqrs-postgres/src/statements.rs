//! Projections with their own SQL: the user's statements inside a transaction of the store.

use std::ops::Deref;

use cqrs_core::consumer::{AsyncDatabase, Database, Handlers, Unfit};
use cqrs_core::error::{BoxError, StoreError, StoreErrorKind};
use cqrs_core::store::BoxFuture;
use tokio_postgres::Client;
use tokio_postgres::types::Type;

use crate::error::Fault;
use crate::open::{Conn, Sql};

/// Names PostgreSQL as the database of a projection: `#[projection(name = "…", sql = Postgres)]`.
#[derive(Debug)]
pub enum Postgres {}

/// The transaction that a projection's statements run in. It derefs to a [`Client`] of `tokio_postgres`.
///
/// It is the one that moves the projection's checkpoint. Statements that end it fail the whole batch, and
/// what they had committed stays: so do not. Those that travel together on it are carried out in turn.
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

// A setting of the transaction that is gone when it has ended.
static MARK: Sql = Sql::new("SELECT set_config('cqrs.batch', $1, true)", &[Type::TEXT]);
static MARKED: Sql = Sql::new("SELECT coalesce(current_setting('cqrs.batch', true), '') = $1", &[Type::TEXT]);

/// Runs all steps in the transaction that is open; before the first batch of a consumer its tables are set
/// up.
pub(crate) async fn run(conn: &Conn, handlers: &Handlers, first: bool) -> Result<Result<(), Refused>, Fault> {
    let run = match handlers.of::<Postgres>() {
        Ok(run) => run,
        Err(unsupported) => return Ok(Err(Refused::Store(unsupported))),
    };
    let mark = uuid::Uuid::new_v4().to_string();
    conn.row(&MARK, &[&mark]).await?;
    let transaction = Transaction(&conn.client);
    if first && let Err(error) = run.set_up(&transaction).await {
        let error = of_the_user(error)?;
        // It would fail the next time as well, so it is not told as what may pass.
        let failed = StoreError::new(StoreErrorKind::Invalid, "the tables could not be set up");
        return Ok(Err(Refused::Store(failed.because(error))));
    }
    for step in 0..run.steps() {
        if let Err(error) = run.run(step, &transaction).await {
            let error = of_the_user(error)?;
            let unfit = run.unfit(step, error).ok_or_else(|| Fault::corrupt("a step is missing"))?;
            return Ok(Err(Refused::Unfit(unfit)));
        }
    }
    if conn.row(&MARKED, &[&mark]).await?.try_get(0)? {
        return Ok(Ok(()));
    }
    Err(Fault::new(StoreErrorKind::Failed, "the statements of a projection ended its transaction"))
}

/// Tells what befell the store, which no other statement would have escaped or which may pass, from what
/// the user's statements did wrong.
fn of_the_user(error: BoxError) -> Result<BoxError, Fault> {
    match error.downcast::<tokio_postgres::Error>() {
        Err(error) => Ok(error),
        Ok(error) => {
            let of_the_store = Fault::is_of_the_store(&error);
            if of_the_store { Err((*error).into()) } else { Ok(error) }
        }
    }
}
