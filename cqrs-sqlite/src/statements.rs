//! SQL projections: the user's statements inside a transaction of the writer thread.

use std::cell::Cell;
use std::ops::Deref;

use cqrs_core::consumer::{Database, ErrorOrigin, Handlers, Unfit, find_cause};
use cqrs_core::error::{BoxError, StoreError, StoreErrorKind};
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::{Connection, ErrorCode};

use crate::error::Fault;

/// SQLite as the database of a projection: `#[projection(name = "…", sql = Sqlite)]`.
#[derive(Debug)]
pub enum Sqlite {}

/// The transaction that runs a projection's statements. It derefs to a [`Connection`].
///
/// The same transaction advances the projection's checkpoint. SQLite denies a statement that would end the
/// transaction, attach a file, set a pragma, or change one of the store's own tables (`cqrs_…`).
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

/// Extracts the constraint from a message such as `UNIQUE constraint failed: accounts.email`. SQLite reports no
/// value.
fn constraint(message: &str) -> String {
    let name = message.split_once(" constraint failed: ").map_or(message, |(_, name)| name);
    name.strip_suffix(" constraint failed").unwrap_or(name).to_owned()
}

/// Why the statements of a projection failed. The caller must roll back what they have written.
pub(crate) enum Refused {
    Unfit(Unfit),
    Store(StoreError),
}

/// Runs all steps, and sets up the tables before the first batch of a consumer.
pub(crate) fn run(conn: &Connection, handlers: &Handlers, first: bool) -> Result<Result<(), Refused>, Fault> {
    let run = match handlers.of::<Sqlite>() {
        Ok(run) => run,
        Err(unsupported) => return Ok(Err(Refused::Store(unsupported))),
    };
    let transaction = Transaction(conn);
    if first && let Err(error) = run_user_statements(conn, || run.set_up(&transaction))? {
        // A retry would fail in the same way, so the error is not a transient one.
        let failed = StoreError::new(StoreErrorKind::Invalid, "the projection could not set up its tables");
        return Ok(Err(Refused::Store(failed.because(error))));
    }
    for step in 0..run.steps() {
        if let Err(error) = run_user_statements(conn, || run.run(step, &transaction))? {
            let unfit = run.unfit(step, error).ok_or_else(|| Fault::corrupt("a step is missing"))?;
            return Ok(Err(Refused::Unfit(unfit)));
        }
    }
    Ok(Ok(()))
}

/// Runs the user's statements, and separates their errors from failures of the store.
fn run_user_statements(
    conn: &Connection,
    statements: impl FnOnce() -> Result<(), BoxError>,
) -> Result<Result<(), BoxError>, Fault> {
    let outside = IN_USER_STATEMENTS.replace(true);
    let outcome = statements();
    IN_USER_STATEMENTS.set(outside);
    if conn.is_autocommit() {
        return Err(Fault::new(
            StoreErrorKind::Failed,
            "a statement of the projection ended the store's transaction; remove its `COMMIT` or `ROLLBACK`",
        ));
    }
    let Err(error) = outcome else { return Ok(Ok(())) };
    match error.downcast::<rusqlite::Error>() {
        Ok(error) if is_store_failure(&error) => Err((*error).into()),
        Ok(error) if error.sqlite_error_code() == Some(ErrorCode::AuthorizationForStatementDenied) => {
            Ok(Err(DENIED.into()))
        }
        Ok(error) => Ok(Err(error)),
        Err(error) => Ok(Err(error)),
    }
}

const DENIED: &str = "SQLite denied a statement of the projection (SQLITE_AUTH): it must not end its transaction, set a pragma, attach a file, or change the store's own tables (`cqrs_…`)";

/// Returns whether the store failed, so that any other statement would have failed too and a retry may succeed.
fn is_store_failure(error: &rusqlite::Error) -> bool {
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
    /// Set while this thread runs the user's statements. No other thread uses its connection.
    static IN_USER_STATEMENTS: Cell<bool> = const { Cell::new(false) };
}

/// Installs an authorizer that denies some of the user's statements. It is installed once, and not for each batch,
/// because installing it makes SQLite prepare all statements again.
pub(crate) fn install_authorizer(conn: &mut Connection) -> Result<(), Fault> {
    conn.authorizer(Some(|context: AuthContext<'_>| {
        match IN_USER_STATEMENTS.get() && is_denied(&context.action) {
            true => Authorization::Deny,
            false => Authorization::Allow,
        }
    }))?;
    Ok(())
}

fn is_denied(action: &AuthAction<'_>) -> bool {
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
