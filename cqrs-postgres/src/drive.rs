//! The work of a connection, done by whoever waits for it.
//!
//! A connection is served by a future of its own. As a task of its own, each statement goes to that task
//! and its answer comes back from it: two hand-overs, each of which may wake a thread. The task that writes
//! has its connection for itself, so it serves it too, whenever it waits.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use cqrs_core::store::BoxFuture;
use futures_util::future;
use futures_util::task::AtomicWaker;

/// The work of a connection, which is to send and to receive. It ends with the connection.
#[derive(Default)]
pub(crate) struct Drive {
    /// The mutex is never locked: it is there so that whoever has this can be shared.
    work: Mutex<Option<BoxFuture<'static, ()>>>,
    bell: Arc<Bell>,
}

impl std::fmt::Debug for Drive {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Drive")
    }
}

/// How often what rings while it is looked at is looked at once more, before others get their turn.
const ROUNDS: usize = 16;

impl Drive {
    pub(crate) fn new(work: impl Future<Output = ()> + Send + 'static) -> Self {
        Self { work: Mutex::new(Some(Box::pin(work))), bell: Arc::default() }
    }

    /// Leaves it to a task of its own.
    pub(crate) fn on_its_own(self) {
        self.work.into_inner().unwrap_or_else(PoisonError::into_inner).map(tokio::spawn);
    }

    /// Does it while something else is done.
    pub(crate) async fn along<T>(&mut self, other: impl Future<Output = T>) -> T {
        let mut other = pin!(other);
        let work = self.work.get_mut().unwrap_or_else(PoisonError::into_inner);
        let (bell, waker) = (&self.bell, Waker::from(Arc::clone(&self.bell)));
        future::poll_fn(|context| {
            bell.outer.register(context.waker());
            let inner = &mut Context::from_waker(&waker);
            for _ in 0..ROUNDS {
                bell.begin();
                let done = other.as_mut().poll(inner);
                // Who is done may have left something to be sent, which is not to wait for the next time.
                let has_work = done.is_pending() || bell.has_rung();
                if has_work && work.as_mut().is_some_and(|work| work.as_mut().poll(inner).is_ready()) {
                    *work = None;
                }
                let rung = bell.end();
                if done.is_ready() || !rung {
                    return done;
                }
            }
            context.waker().wake_by_ref();
            Poll::Pending
        })
        .await
    }
}

/// Rings when one of the two can go on. Whoever is at it hears that, and need not be woken: most of what
/// rings is one of them giving the other something to do.
#[derive(Default)]
struct Bell {
    outer: AtomicWaker,
    at_it: AtomicBool,
    rung: AtomicBool,
}

impl Bell {
    fn begin(&self) {
        self.at_it.store(true, Ordering::SeqCst);
        self.rung.store(false, Ordering::SeqCst);
    }

    fn has_rung(&self) -> bool {
        self.rung.load(Ordering::SeqCst)
    }

    /// Tells whether it has rung since the beginning; what rings from now on wakes the task.
    fn end(&self) -> bool {
        self.at_it.store(false, Ordering::SeqCst);
        self.has_rung()
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, Ordering::SeqCst);
        if !self.at_it.load(Ordering::SeqCst) {
            self.outer.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::mpsc;

    use super::*;

    /// Answers each number with the next one.
    async fn answering(mut asked: mpsc::UnboundedReceiver<u64>, answers: mpsc::UnboundedSender<u64>) {
        while let Some(number) = asked.recv().await {
            let _ = answers.send(number + 1);
        }
    }

    #[tokio::test]
    async fn both_go_on_by_what_the_other_does() {
        let ((ask, asked), (answers, mut answered)) = (mpsc::unbounded_channel(), mpsc::unbounded_channel());
        let mut drive = Drive::new(answering(asked, answers));
        for round in 0..3 {
            // More than fits into the rounds of one turn, and into the runtime's patience.
            let last = drive.along(async {
                let mut last = Some(round);
                for _ in 0..1_000 {
                    let _ = ask.send(last?);
                    last = answered.recv().await;
                }
                last
            });
            assert_eq!(last.await, Some(round + 1_000));
        }
    }

    #[tokio::test]
    async fn what_is_given_to_it_is_done_at_once() {
        let ((ask, asked), (answers, mut answered)) = (mpsc::unbounded_channel(), mpsc::unbounded_channel());
        let mut drive = Drive::new(answering(asked, answers));
        // Its own wakers are there only from the first time on.
        drive.along(tokio::task::yield_now()).await;
        for round in 0..3 {
            drive.along(async { _ = ask.send(round) }).await;
            assert_eq!(answered.try_recv(), Ok(round + 1));
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_comes_from_elsewhere_wakes() {
        let ((far, near), (answers, mut answered)) = (mpsc::unbounded_channel(), mpsc::unbounded_channel());
        let mut drive = Drive::new(answering(near, answers));
        let asking = tokio::spawn(async move {
            for number in 0..200 {
                let _ = far.send(number);
                tokio::time::sleep(Duration::from_micros(number % 7 * 30)).await;
            }
        });
        for number in 0..200 {
            assert_eq!(drive.along(answered.recv()).await, Some(number + 1));
        }
        let _ = asking.await;
        // It has ended, and what is done along goes on without it.
        drive.along(tokio::time::sleep(Duration::from_millis(1))).await;
        assert!(drive.work.get_mut().is_ok_and(|work| work.is_none()));
    }
}
