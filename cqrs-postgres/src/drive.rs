//! The work of a connection, done by whoever waits for it.
//!
//! A connection is served by a future of its own. As a task of its own, each statement goes to that task
//! and its answer comes back from it: two hand-overs, each of which may wake a thread. The task that writes
//! has its connection for itself, so it serves it too, whenever it waits; a reader does so while it is alone.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let work = self.work.get_mut().unwrap_or_else(PoisonError::into_inner);
        work.as_mut().map_or(Poll::Ready(()), |work| work.as_mut().poll(context))
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

/// The work of a connection that several use. A task of its own does it, for as long as it is not lent to one
/// who has the connection for himself.
///
/// Whoever is lent it must not be somebody that others wait for: he may be kept and not polled, as a future
/// in a list of many is while one of them is looked at.
#[derive(Debug)]
pub(crate) struct Kept {
    work: Mutex<Work>,
    back: AtomicWaker,
}

#[derive(Debug)]
enum Work {
    Here(Drive),
    Lent,
    /// The task has ended, and nobody would do the work: there is none any more, which ends the connection.
    Gone,
}

impl Kept {
    pub(crate) fn new(drive: Drive) -> Arc<Self> {
        let kept = Arc::new(Self { work: Mutex::new(Work::Here(drive)), back: AtomicWaker::new() });
        let keeper = Keeper(Arc::clone(&kept));
        tokio::spawn(future::poll_fn(move |context| keeper.poll(context)));
        kept
    }

    /// Hands the work over, if nobody else has it.
    pub(crate) fn lend(self: &Arc<Self>) -> Lent {
        let mut work = self.work();
        match std::mem::replace(&mut *work, Work::Lent) {
            Work::Here(drive) => Lent(Some((drive, Arc::clone(self)))),
            other => {
                *work = other;
                Lent(None)
            }
        }
    }

    fn work(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The task. It ends with the connection, or with the runtime in which that was opened.
struct Keeper(Arc<Kept>);

impl Keeper {
    fn poll(&self, context: &mut Context<'_>) -> Poll<()> {
        // Before it is looked for: what comes back meanwhile wakes.
        self.0.back.register(context.waker());
        match &mut *self.0.work() {
            Work::Here(drive) => drive.poll(context),
            Work::Lent => Poll::Pending,
            Work::Gone => Poll::Ready(()),
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        *self.0.work() = Work::Gone;
    }
}

/// The work of a connection, until this is dropped; or nothing, where it is left to its task.
#[derive(Debug)]
pub(crate) struct Lent(Option<(Drive, Arc<Kept>)>);

impl Lent {
    /// No work.
    pub(crate) fn nothing() -> Self {
        Self(None)
    }

    /// Does it, if it is here, while something else is done.
    pub(crate) async fn along<T>(&mut self, other: impl Future<Output = T>) -> T {
        match &mut self.0 {
            Some((drive, _)) => drive.along(other).await,
            None => other.await,
        }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let Some((drive, kept)) = self.0.take() else { return };
        let mut work = kept.work();
        if let Work::Lent = *work {
            *work = Work::Here(drive);
        }
        drop(work);
        kept.back.wake();
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

    #[tokio::test]
    async fn what_is_lent_is_done_by_whoever_has_it_and_by_its_task_when_it_is_back() {
        let ((ask, asked), (answers, mut answered)) = (mpsc::unbounded_channel(), mpsc::unbounded_channel());
        let kept = Kept::new(Drive::new(answering(asked, answers)));
        for round in 0..3 {
            let _ = ask.send(round);
            assert_eq!(answered.recv().await, Some(round + 1));
            let mut lent = kept.lend();
            let along = async {
                let _ = ask.send(round);
                answered.recv().await
            };
            assert_eq!(lent.along(along).await, Some(round + 1));
            // One who has it and does nothing keeps others waiting, and there is nothing to lend.
            let _ = ask.send(round);
            let waiting = tokio::time::timeout(Duration::from_millis(50), answered.recv());
            assert!(waiting.await.is_err());
            assert!(kept.lend().0.is_none());
            drop(lent);
            assert_eq!(answered.recv().await, Some(round + 1));
        }
        drop(ask);
        assert_eq!(answered.recv().await, None);
    }

    #[test]
    fn the_work_is_gone_with_the_runtime_whoever_has_it() -> std::io::Result<()> {
        for is_lent in [false, true] {
            let ((ask, asked), (answers, mut answered)) =
                (mpsc::unbounded_channel(), mpsc::unbounded_channel());
            let runtime = tokio::runtime::Runtime::new()?;
            let kept = {
                let _inside = runtime.enter();
                Kept::new(Drive::new(answering(asked, answers)))
            };
            let _ = ask.send(0);
            assert_eq!(answered.blocking_recv(), Some(1));
            let lent = is_lent.then(|| kept.lend());
            drop(runtime);
            drop(lent);
            assert!(kept.lend().0.is_none());
            assert!(ask.send(0).is_err() && answered.blocking_recv().is_none());
        }
        Ok(())
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
