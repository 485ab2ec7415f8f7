//! A few threads that read, each with a connection of its own, beside the one that writes.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use cqrs_core::error::{StoreError, StoreErrorKind};
use rusqlite::Connection;
use tokio::sync::oneshot;

use crate::error::Fault;
use crate::file::Conn;
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
    released: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Read>,
    threads: usize,
    idle: usize,
    /// Threads that have the file open.
    connected: usize,
    /// How often all were asked to close it.
    releases: u64,
    closed: bool,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} wait, {} of {} idle", self.queue.len(), self.idle, self.threads)
    }
}

impl Readers {
    pub(crate) fn new(place: Place, limit: usize) -> Self {
        let (ready, released) = (Condvar::new(), Condvar::new());
        Self { place, limit: limit.max(1), state: Mutex::default(), ready, released }
    }

    /// Reads on one of the threads. Dropping the future has no effect but that nobody hears of it.
    ///
    /// A read ends by itself, whether its future is polled or not. So it has to be bounded.
    pub(crate) async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        doing: &'static str,
        read: impl FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.begin(doing, read)?.end().await
    }

    /// Begins such a read at once.
    pub(crate) fn begin<T: Send + 'static>(
        self: &Arc<Self>,
        doing: &'static str,
        read: impl FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<Reading<T>, StoreError> {
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
        Ok(Reading { doing, outcome })
    }

    /// Has something done on one of the threads.
    fn submit(self: &Arc<Self>, read: Read) -> Result<(), Fault> {
        let mut state = self.lock();
        state.queue.push_back(read);
        let wanted = state.queue.len() > state.idle && state.threads < self.limit;
        if wanted
            && let Err(error) = self.start(&mut state)
            && state.threads == 0
        {
            state.queue.pop_back();
            let words = format!("no thread can be started ({error})");
            return Err(Fault::new(StoreErrorKind::Unavailable, words));
        }
        drop(state);
        // `notify_one` might wake a thread that only closes the file.
        self.ready.notify_all();
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
        let mut working = Working { readers: self, conn: None, releases: 0 };
        while let Some(read) = self.next(&mut working) {
            if working.conn.is_none() {
                match self.place.reader() {
                    Ok(open) => working.connect(open),
                    Err(fault) => {
                        read(Err(fault));
                        continue;
                    }
                }
            }
            if let Some(open) = &working.conn {
                read(Ok(open));
                // One that could not end its snapshot would show the same one for ever.
                if !open.is_autocommit() {
                    working.disconnect();
                }
            }
        }
    }

    /// The next one that waits; `None` when the store is closed. Closes the file first, if asked to.
    fn next(&self, working: &mut Working<'_>) -> Option<Read> {
        loop {
            let mut state = self.lock();
            let releases = state.releases;
            if working.conn.is_some() && working.releases != releases {
                drop(state);
                working.disconnect();
                continue;
            }
            state.idle += 1;
            let waiting =
                |state: &mut State| state.queue.is_empty() && !state.closed && state.releases == releases;
            state = self.ready.wait_while(state, waiting).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
            let next = state.queue.pop_front();
            if next.is_some() || state.closed {
                return next;
            }
        }
    }

    /// Has all threads close the file, each after the read that it is at; waits until then.
    pub(crate) fn release(&self, until: Instant) {
        let mut state = self.lock();
        state.releases += 1;
        self.ready.notify_all();
        let left = until.saturating_duration_since(Instant::now());
        let connected = |state: &mut State| state.connected > 0;
        // Those that take longer hold up nothing but the removal of the WAL.
        let _ = self.released.wait_timeout_while(state, left, connected);
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

/// A thread and its connection.
struct Working<'a> {
    readers: &'a Readers,
    conn: Option<Conn>,
    /// How often all had been asked to close the file when this one was opened.
    releases: u64,
}

impl Working<'_> {
    fn connect(&mut self, conn: Conn) {
        self.conn = Some(conn);
        let mut state = self.readers.lock();
        state.connected += 1;
        self.releases = state.releases;
    }

    fn disconnect(&mut self) {
        if self.conn.take().is_some() {
            self.readers.lock().connected -= 1;
            self.readers.released.notify_all();
        }
    }
}

impl Drop for Working<'_> {
    fn drop(&mut self) {
        self.disconnect();
        self.readers.lock().threads -= 1;
    }
}

/// A read that was begun.
pub(crate) struct Reading<T> {
    doing: &'static str,
    outcome: oneshot::Receiver<Result<T, Fault>>,
}

impl<T> Reading<T> {
    /// Waits for its end.
    pub(crate) async fn end(self) -> Result<T, StoreError> {
        match self.outcome.await {
            Ok(done) => done.map_err(|fault| fault.told(self.doing)),
            Err(_) => {
                Err(Fault::new(StoreErrorKind::Failed, "the reading thread has stopped").told(self.doing))
            }
        }
    }
}
