//! Waking many without waking a thread for each.
//!
//! If something becomes ready on a thread of a runtime, the runtime wakes another of its threads to take its
//! share. That thread begins where it slept last, on few cores in the place of the one that woke it, does the
//! one piece of work that there is, and sleeps again: so whoever told sixteen that their append is written was
//! stopped sixteen times, and the change of threads took longer than what they did. What becomes ready while
//! the runtime looks at its sockets and timers, it takes together, and wakes one thread for all of it.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::future;
use futures_util::task::AtomicWaker;

/// Calls a function that makes many ready, and returns when that is done.
///
/// It is called in the moment in which the runtime would wake a task that has yielded, which is when it has
/// nothing else to do or has done much. A runtime that has no such moment calls it at once.
pub(crate) async fn at_once(function: impl FnOnce() + Send + 'static) {
    let later = Arc::new(Later {
        function: Mutex::new(Some(Box::new(function))),
        called: AtomicBool::new(false),
        outer: AtomicWaker::new(),
    });
    let mut yielded = false;
    future::poll_fn(|context| {
        later.outer.register(context.waker());
        if !yielded {
            yielded = true;
            // A task that yields is woken in that moment, and what the runtime knows of a task is its waker.
            let waker = Waker::from(Arc::clone(&later));
            let _ = pin!(tokio::task::yield_now()).poll(&mut Context::from_waker(&waker));
        }
        if later.called.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// What is to be called, and who waits for that.
struct Later {
    function: Mutex<Option<Box<dyn FnOnce() + Send>>>,
    called: AtomicBool,
    outer: AtomicWaker,
}

impl Wake for Later {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Taken out first, so that the lock is not held while it is called.
        let function = self.function.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(function) = function {
            function();
            self.called.store(true, Ordering::Release);
            self.outer.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::oneshot;

    use super::*;

    async fn all_are_told(rounds: usize) {
        for _ in 0..rounds {
            let (told, waiting): (Vec<_>, Vec<_>) = (0..40).map(|_| oneshot::channel()).unzip();
            let waiting: Vec<_> = waiting.into_iter().map(tokio::spawn).collect();
            at_once(move || {
                for (number, told) in told.into_iter().enumerate() {
                    let _ = told.send(number);
                }
            })
            .await;
            for (number, waiting) in waiting.into_iter().enumerate() {
                assert_eq!(waiting.await.ok(), Some(Ok(number)));
            }
        }
    }

    #[tokio::test]
    async fn on_one_thread() {
        all_are_told(100).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn on_several_threads() {
        // `main` is on none of them.
        all_are_told(100).await;
        assert!(tokio::spawn(all_are_told(1_000)).await.is_ok());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn beside_a_task_that_is_always_ready() {
        let busy = tokio::spawn(async {
            loop {
                tokio::task::yield_now().await;
                std::thread::sleep(Duration::from_micros(10));
            }
        });
        assert!(tokio::spawn(all_are_told(100)).await.is_ok());
        busy.abort();
    }

    #[test]
    fn without_a_runtime_it_is_called_at_once() {
        let (told, mut waiting) = oneshot::channel();
        let mut call = pin!(at_once(move || _ = told.send(())));
        assert!(call.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready());
        assert_eq!(waiting.try_recv(), Ok(()));
    }

    #[tokio::test]
    async fn what_is_given_up_is_called_or_dropped() {
        let (told, waiting) = oneshot::channel::<()>();
        let given_up = tokio::time::timeout(Duration::ZERO, at_once(move || _ = told.send(()))).await;
        drop(given_up);
        // Nobody waits for ever, whichever it was.
        assert!(tokio::time::timeout(Duration::from_secs(5), waiting).await.is_ok());
    }
}
