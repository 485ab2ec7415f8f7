//! Runs a handler's decision, which may be a future.

use std::panic::resume_unwind;
use std::thread;
use std::time::Duration;

use cqrs_core::Aggregate;
use cqrs_core::aggregate::{Decided, Decision};

use crate::report::Failure;

/// Waits for the decision.
///
/// An `async` handler runs on its own thread with its own runtime: blocking inside another runtime panics, and a plain
/// `#[test]` has no runtime.
pub(crate) fn finish<A: Aggregate>(
    decision: Decision<'_, A>,
    command: &str,
    patience: Duration,
) -> Result<Decided<A>, Failure> {
    let later = match decision {
        Decision::Ready(decided) => return Ok(decided),
        Decision::Later(later) => later,
    };
    // Rust reports a panic of the handler with the thread's name, which is then the name of the test.
    let name = thread::current().name().unwrap_or("test").to_owned();
    let joined = thread::scope(|scope| {
        let run = move || block_on(later, patience);
        let thread = thread::Builder::new().name(name).spawn_scoped(scope, run)?;
        // The handler's own panic, which was already printed with its location.
        thread.join().unwrap_or_else(|panic| resume_unwind(panic))
    });
    match joined {
        Ok(Some(decided)) => Ok(decided),
        Ok(None) => Err(stuck(command, patience)),
        Err(error) => {
            Err(Failure::new(format!("the async handler of `{command}` cannot be run"))
                .cause(error.to_string()))
        }
    }
}

/// Returns `None` if it takes longer than `patience`.
fn block_on<T>(future: impl Future<Output = T>, patience: Duration) -> std::io::Result<Option<T>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(async { tokio::time::timeout(patience, future).await.ok() }))
}

fn stuck(command: &str, patience: Duration) -> Failure {
    Failure::new(format!("the async handler of `{command}` has not finished after {patience:?}"))
        .cause("it waits for something that never happens")
        .note(
            "it runs on its own runtime while the test's thread waits: it cannot wait for a task of the test, unless \
             the test is `#[tokio::test(flavor = \"multi_thread\")]`",
        )
        .note("raise the time limit with `.patience(…)`")
}
