//! Projections with their own SQL: the user's statements inside a transaction of the writing thread.

use std::cell::Cell;
use std::ops::Deref;

use cqrs_core::consumer::{Database, ErrorOrigin, Handlers, Unfit, find_cause};
use cqrs_core::error::{BoxError, StoreError, StoreErrorKind};
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::{Connection, ErrorCode};

use crate::error::Fault;

/// Names SQLite as the database of a projection: `#[projection(name = "…", sql = Sqlite)]`.
#[derive(Debug)]
pub enum Sqlite {}

/// The transaction that a projection's statements run in. It derefs to a [`Connection`].
///
/// It is the one that moves the projection's checkpoint. A statement that would end it, attach a file,
/// set a pragma or change one of the store's own tables (`cqrs_…`) is refused.
#[derive(Debug)]
pub struct Transaction<'t>(&'t Connection);

impl Deref for Transaction<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.0
    }
}

impl Database for Sqlite {
    type Transaction<'t> = Transaction<'t>;
    type Running<'a> = Result<(), BoxError>;

    const NAME: &'static str = "SQLite";

    fn ready<'a>(outcome: Result<(), BoxError>) -> Self::Running<'a> {
        outcome
    }

    fn origin(error: &(dyn std::error::Error + 'static)) -> ErrorOrigin {
        let Some(error) = find_cause::<rusqlite::Error>(error) else { return ErrorOrigin::Handler };
        match error.sqlite_error_code() {
            Some(ErrorCode::ConstraintViolation) => {
                ErrorOrigin::Constraint { name: constraint(&error.to_string()), value: None }
            }
            _ => ErrorOrigin::Statement,
        }
    }
}

/// The constraint in a message such as `UNIQUE constraint failed: accounts.email`; SQLite reports no value.
fn constraint(message: &str) -> String {
    let name = message.split_once(" constraint failed: ").map_or(message, |(_, name)| name);
    name.strip_suffix(" constraint failed").unwrap_or(name).to_owned()
}

/// Why statements were not carried out. Whoever asks has to roll back what they had done.
pub(crate) enum Refused {
    Unfit(Unfit),
    Store(StoreError),
}

/// Runs all steps; before the first batch of a consumer its tables are set up.
pub(crate) fn run(conn: &Connection, handlers: &Handlers, first: bool) -> Result<Result<(), Refused>, Fault> {
    let run = match handlers.of::<Sqlite>() {
        Ok(run) => run,
        Err(unsupported) => return Ok(Err(Refused::Store(unsupported))),
    };
    let transaction = Transaction(conn);
    if first && let Err(error) = guarded(conn, || run.set_up(&transaction))? {
        // It would fail the next time as well, so it is not told as what may pass.
        let failed = StoreError::new(StoreErrorKind::Invalid, "the tables could not be set up");
        return Ok(Err(Refused::Store(failed.because(error))));
    }
    for step in 0..run.steps() {
        if let Err(error) = guarded(conn, || run.run(step, &transaction))? {
            let unfit = run.unfit(step, error).ok_or_else(|| Fault::corrupt("a step is missing"))?;
            return Ok(Err(Refused::Unfit(unfit)));
        }
    }
    Ok(Ok(()))
}

/// Runs the user's statements, and tells what they did wrong from what befell the store.
fn guarded(
    conn: &Connection,
    statements: impl FnOnce() -> Result<(), BoxError>,
) -> Result<Result<(), BoxError>, Fault> {
    let outside = INSIDE.replace(true);
    let outcome = statements();
    INSIDE.set(outside);
    if conn.is_autocommit() {
        return Err(Fault::new(
            StoreErrorKind::Failed,
            "the statements of a projection ended its transaction",
        ));
    }
    let Err(error) = outcome else { return Ok(Ok(())) };
    match error.downcast::<rusqlite::Error>() {
        Ok(error) if is_of_the_store(&error) => Err((*error).into()),
        Ok(error) if error.sqlite_error_code() == Some(ErrorCode::AuthorizationForStatementDenied) => {
            Ok(Err(DENIED.into()))
        }
        Ok(error) => Ok(Err(error)),
        Err(error) => Ok(Err(error)),
    }
}

const DENIED: &str = "a statement of a projection may not end its transaction, set a pragma, attach a file or change the store's own tables (`cqrs_…`)";

/// What no other statement would have escaped, and what may pass.
fn is_of_the_store(error: &rusqlite::Error) -> bool {
    use ErrorCode::{
        CannotOpen, DatabaseBusy, DatabaseCorrupt, DatabaseLocked, DiskFull, NotADatabase, OutOfMemory,
        PermissionDenied, ReadOnly, SystemIoFailure,
    };
    matches!(
        error.sqlite_error_code(),
        Some(
            CannotOpen
                | DatabaseBusy
                | DatabaseCorrupt
                | DatabaseLocked
                | DiskFull
                | NotADatabase
                | OutOfMemory
                | PermissionDenied
                | ReadOnly
                | SystemIoFailure
        )
    )
}

thread_local! {
    /// Whether this thread, the only one that uses its connection, runs statements of the user.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Lets the connection ask before it prepares a statement. Set once and not around each batch, because
/// setting it makes SQLite prepare everything anew.
pub(crate) fn watch(conn: &mut Connection) -> Result<(), Fault> {
    conn.authorizer(Some(|context: AuthContext<'_>| match INSIDE.get() && is_ours(&context.action) {
        true => Authorization::Deny,
        false => Authorization::Allow,
    }))?;
    Ok(())
}

fn is_ours(action: &AuthAction<'_>) -> bool {
    let ours = |name: &str| name.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("cqrs_"));
    match action {
        AuthAction::Transaction { .. }
        | AuthAction::Savepoint { .. }
        | AuthAction::Attach { .. }
        | AuthAction::Detach { .. }
        | AuthAction::Pragma { .. } => true,
        AuthAction::Insert { table_name }
        | AuthAction::Delete { table_name }
        | AuthAction::Update { table_name, .. }
        | AuthAction::CreateTable { table_name }
        | AuthAction::CreateIndex { table_name, .. }
        | AuthAction::CreateTrigger { table_name, .. }
        | AuthAction::CreateTempTrigger { table_name, .. }
        | AuthAction::AlterTable { table_name, .. }
        | AuthAction::DropTable { table_name }
        | AuthAction::DropIndex { table_name, .. }
        | AuthAction::CreateVtable { table_name, .. }
        | AuthAction::DropVtable { table_name, .. } => ours(table_name),
        _ => false,
    }
}
