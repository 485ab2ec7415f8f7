//! Time limits on what the store waits for.

use std::pin::pin;
use std::time::{Duration, Instant};

use futures_util::future::{self, Either};

use crate::error::Fault;

/// Waits for work as long as the limit allows, and then answers that the server did not.
pub(crate) async fn within<T>(
    limit: Duration,
    doing: &str,
    work: impl Future<Output = Result<T, Fault>>,
) -> Result<T, Fault> {
    match until(limit, work).await {
        Some(done) => done,
        None => Err(Fault::timeout(doing, limit)),
    }
}

/// Waits for work as long as the limit allows.
pub(crate) async fn until<T>(limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    // By the real clock: a test's paused clock runs ahead while the server works.
    let begun = Instant::now();
    loop {
        let left = limit.saturating_sub(begun.elapsed());
        match future::select(work.as_mut(), pin!(tokio::time::sleep(left))).await {
            Either::Left((done, _)) => return Some(done),
            Either::Right(_) if begun.elapsed() >= limit => return None,
            Either::Right(_) => {}
        }
    }
}

/// How often work is tried that the database itself has stopped.
const TRIES: u32 = 5;

/// Does work once more if the database stopped it because of other transactions: a deadlock, or a conflict between
/// transactions that are serialized.
pub(crate) async fn again<T, F>(doing: &str, mut work: impl FnMut() -> F) -> Result<T, Fault>
where
    F: Future<Output = Result<T, Fault>>,
{
    let mut tried = 1;
    loop {
        match work().await {
            Err(fault) if fault.passes() && tried < TRIES => {
                tracing::debug!(doing, tried, error = %fault, "trying again after a deadlock or a serialization failure");
                tokio::time::sleep(Duration::from_millis(1 << tried)).await;
                tried += 1;
            }
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_that_does_not_end_is_given_up() {
        let forever = future::pending::<Result<(), Fault>>();
        let done = within(Duration::from_millis(20), "read a stream", forever).await;
        let words = done.map_or_else(|fault| fault.told("read a stream").to_string(), |()| String::new());
        assert!(words.contains("did not answer within"), "{words}");
        assert!(matches!(within(Duration::ZERO, "read", async { Ok(1) }).await, Ok(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_paused_clock_does_not_end_work_outside_of_the_runtime() {
        let (done, work) = tokio::sync::oneshot::channel();
        let thread = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            done.send(())
        });
        assert_eq!(until(Duration::from_secs(30), work).await, Some(Ok(())));
        assert!(thread.join().is_ok());
    }
}
