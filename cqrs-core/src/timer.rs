//! Timers by the real clock.
//!
//! The stores' work runs on threads, on sockets, and in other processes, and none of that stops when a test
//! stops the clock of its tokio runtime. So the limits on waits go by the real clock. They also work in a
//! runtime without a time driver, and outside a runtime.
//!
//! One thread serves the timers of the process. It starts with the first timer, and sleeps while there is
//! none.

use std::collections::BTreeMap;
use std::pin::{Pin, pin};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// Waits longer than any process lives count as no limit at all.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

struct Timers {
    pending: Mutex<Pending>,
    changed: Condvar,
}

struct Pending {
    /// By when they fire, and a number, because two may fire in the same instant.
    wakers: BTreeMap<(Instant, u64), Waker>,
    next: u64,
    is_running: bool,
    /// When the thread looks again by itself. A timer that is dropped leaves this as it is: to wake the thread
    /// costs more than one look that finds nothing.
    looks_at: Option<Instant>,
}

static TIMERS: Timers = Timers { pending: Mutex::new(Pending::new()), changed: Condvar::new() };

impl Pending {
    const fn new() -> Self {
        Self { wakers: BTreeMap::new(), next: 0, is_running: false, looks_at: None }
    }
}

impl Timers {
    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers a waker; `None` if there is no thread that would wake it.
    fn add(&'static self, until: Instant, waker: &Waker) -> Option<(Instant, u64)> {
        let mut pending = self.lock();
        if !pending.is_running {
            let thread = std::thread::Builder::new().name("cqrs-timer".to_owned());
            thread.spawn(|| self.run()).ok()?;
            pending.is_running = true;
        }
        let key = (until, pending.next);
        pending.next += 1;
        pending.wakers.insert(key, waker.clone());
        if pending.looks_at.is_none_or(|looks_at| until < looks_at) {
            pending.looks_at = Some(until);
            drop(pending);
            self.changed.notify_one();
        }
        Some(key)
    }

    fn run(&self) {
        let mut pending = self.lock();
        loop {
            let now = Instant::now();
            let mut due = Vec::new();
            while let Some(first) = pending.wakers.first_entry().filter(|first| first.key().0 <= now) {
                due.push(first.remove());
            }
            if !due.is_empty() {
                drop(pending);
                due.into_iter().for_each(Waker::wake);
                pending = self.lock();
                continue;
            }
            let first = pending.wakers.first_key_value().map(|(key, _)| key.0);
            pending.looks_at = first;
            pending = match first {
                None => self.changed.wait(pending).unwrap_or_else(PoisonError::into_inner),
                Some(first) => {
                    let waited = self.changed.wait_timeout(pending, first - now);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
}

/// A wait by the real clock; see [`sleep`].
#[derive(Debug)]
pub(crate) struct Sleep {
    until: Instant,
    key: Option<(Instant, u64)>,
}

/// Waits for some time by the real clock.
pub(crate) fn sleep(time: Duration) -> Sleep {
    Sleep { until: Instant::now() + time.min(FOREVER), key: None }
}

impl Sleep {
    fn forget(&mut self) {
        if let Some(key) = self.key.take() {
            // The last waker of a task takes the task along, and that may hold timers: not under the lock.
            let waker = TIMERS.lock().wakers.remove(&key);
            drop(waker);
        }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if Instant::now() >= self.until {
            self.forget();
            return Poll::Ready(());
        }
        if let Some(key) = self.key {
            let mut pending = TIMERS.lock();
            // It may have fired just before its time, and is then registered anew.
            if let Some(waker) = pending.wakers.get_mut(&key) {
                if !waker.will_wake(cx.waker()) {
                    let before = std::mem::replace(waker, cx.waker().clone());
                    drop(pending);
                    drop(before);
                }
                return Poll::Pending;
            }
        }
        self.key = TIMERS.add(self.until, cx.waker());
        if self.key.is_none() {
            // The process may start no thread, so the time is looked at again and again.
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.forget();
    }
}

/// Runs a future for at most some time by the real clock; `None` if it takes longer.
///
/// A future that is ready at once costs no timer.
pub(crate) async fn timeout<T>(limit: Duration, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    let mut timer = None;
    std::future::poll_fn(|cx| {
        if let Poll::Ready(done) = future.as_mut().poll(cx) {
            return Poll::Ready(Some(done));
        }
        let timer = timer.get_or_insert_with(|| sleep(limit));
        Pin::new(timer).poll(cx).map(|()| None)
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::task::Wake;
    use std::thread::Thread;

    use super::*;

    struct Unpark(Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    /// Runs a future without any runtime.
    fn block_on<T>(future: impl Future<Output = T>) -> T {
        let waker = Arc::new(Unpark(std::thread::current())).into();
        let mut future = pin!(future);
        loop {
            match future.as_mut().poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(done) => return done,
                Poll::Pending => std::thread::park(),
            }
        }
    }

    #[test]
    fn a_sleep_ends_in_time_and_a_later_one_does_not_delay_an_earlier_one() {
        let long = std::thread::spawn(|| {
            block_on(timeout(Duration::from_secs(60), sleep(Duration::from_millis(300))))
        });
        std::thread::sleep(Duration::from_millis(20));
        let start = Instant::now();
        block_on(sleep(Duration::from_millis(30)));
        let took = start.elapsed();
        assert!(took >= Duration::from_millis(30) && took < Duration::from_millis(290), "{took:?}");
        assert_eq!(long.join().ok().flatten(), Some(()));
    }

    #[test]
    fn a_timeout_gives_up_and_leaves_no_timer() {
        assert_eq!(block_on(timeout(Duration::from_millis(5), std::future::pending::<()>())), None);
        assert_eq!(block_on(timeout(Duration::MAX, async { 1 })), Some(1));
        let mut kept = sleep(Duration::from_secs(3_600));
        let waker = Waker::noop();
        assert!(Pin::new(&mut kept).poll(&mut Context::from_waker(waker)).is_pending());
        let key = kept.key;
        assert!(key.is_some_and(|key| TIMERS.lock().wakers.contains_key(&key)));
        drop(kept);
        assert!(key.is_some_and(|key| !TIMERS.lock().wakers.contains_key(&key)));
    }
}
