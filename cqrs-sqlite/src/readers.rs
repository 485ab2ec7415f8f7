//! A few threads that read, each with a connection of its own, beside the one that writes.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use cqrs_core::error::{StoreError, StoreErrorKind};
use rusqlite::Connection;
use tokio::sync::oneshot;

use crate::error::Fault;
use crate::open::Place;

type Read = Box<dyn FnOnce(Result<&Connection, Fault>) + Send>;

/// Reads that wait, and the threads that take them. A thread is started when none is idle, up to a
/// limit, so that a store nobody reads has none.
#[derive(Debug)]
pub(crate) struct Readers {
    place: Place,
    limit: usize,
    state: Mutex<State>,
    ready: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Read>,
    threads: usize,
    idle: usize,
    closed: bool,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} wait, {} of {} idle", self.queue.len(), self.idle, self.threads)
    }
}

impl Readers {
    pub(crate) fn new(place: Place, limit: usize) -> Self {
        Self { place, limit: limit.max(1), state: Mutex::default(), ready: Condvar::new() }
    }

    /// Reads on one of the threads. Dropping the future has no effect but that nobody hears of it.
    pub(crate) async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        doing: &'static str,
        read: impl FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (answer, outcome) = oneshot::channel();
        let file = Arc::clone(&self.place.file);
        let job = move |conn: Result<&Connection, Fault>| {
            if !answer.is_closed() {
                let done = conn.and_then(read);
                // What another file says is not told, and no fault of it either.
                let _ = answer.send(file.check().and(done));
            }
        };
        self.submit(Box::new(job)).map_err(|fault| fault.told(doing))?;
        match outcome.await {
            Ok(done) => done.map_err(|fault| fault.told(doing)),
            Err(_) => Err(Fault::new(StoreErrorKind::Failed, "the reading thread has stopped").told(doing)),
        }
    }

    /// Has something done on one of the threads.
    pub(crate) fn submit(self: &Arc<Self>, read: Read) -> Result<(), Fault> {
        let mut state = self.lock();
        state.queue.push_back(read);
        let wanted = state.queue.len() > state.idle && state.threads < self.limit;
        if wanted
            && let Err(error) = self.start(&mut state)
            && state.threads == 0
        {
            let words = format!("no thread can be started ({error})");
            return Err(Fault::new(StoreErrorKind::Unavailable, words));
        }
        drop(state);
        self.ready.notify_one();
        Ok(())
    }

    fn start(self: &Arc<Self>, state: &mut State) -> std::io::Result<()> {
        let readers = Arc::clone(self);
        let thread = std::thread::Builder::new().name("cqrs-sqlite-read".to_owned());
        thread.spawn(move || readers.work())?;
        state.threads += 1;
        Ok(())
    }

    fn work(&self) {
        // Even if a read panics, another thread can take its place.
        let _working = Working(self);
        let mut conn = None;
        while let Some(read) = self.next() {
            if conn.is_none() {
                match self.place.reader() {
                    Ok(open) => conn = Some(open),
                    Err(fault) => {
                        read(Err(fault));
                        continue;
                    }
                }
            }
            if let Some(open) = conn.take() {
                read(Ok(&open));
                // One that could not end its snapshot would show the same one for ever.
                conn = Some(open).filter(Connection::is_autocommit);
            }
        }
    }

    /// The next one that waits; `None` when the store is closed.
    fn next(&self) -> Option<Read> {
        let mut state = self.lock();
        state.idle += 1;
        let waiting = |state: &mut State| state.queue.is_empty() && !state.closed;
        let mut state = self.ready.wait_while(state, waiting).unwrap_or_else(PoisonError::into_inner);
        state.idle -= 1;
        state.queue.pop_front()
    }

    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.ready.notify_all();
    }

    // The queue is never left half-changed.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Working<'a>(&'a Readers);

impl Drop for Working<'_> {
    fn drop(&mut self) {
        self.0.lock().threads -= 1;
    }
}
