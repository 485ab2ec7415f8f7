//! A pool of reader threads, each with its own connection, next to the writer thread.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use cqrs_core::error::{StoreError, StoreErrorKind};
use rusqlite::Connection;
use tokio::sync::oneshot;

use crate::error::Fault;
use crate::file::Conn;
use crate::open::Location;

type Read = Box<dyn FnOnce(Result<&Connection, Fault>) + Send>;

/// A queue of reads, and the threads that run them. A thread is started only when a read is queued and none is idle,
/// up to a limit.
#[derive(Debug)]
pub(crate) struct Readers {
    location: Location,
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
    /// Number of threads that have the file open.
    connected: usize,
    /// Number of times that all threads were asked to close the file.
    releases: u64,
    closed: bool,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} queued, {} of {} idle", self.queue.len(), self.idle, self.threads)
    }
}

impl Readers {
    pub(crate) fn new(location: Location, limit: usize) -> Self {
        let (ready, released) = (Condvar::new(), Condvar::new());
        Self { location, limit: limit.max(1), state: Mutex::default(), ready, released }
    }

    /// Runs a read on one of the threads. Dropping the future discards the result.
    ///
    /// Once started, a read runs to its end even if its future is not polled, so it must be bounded.
    pub(crate) async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        doing: &'static str,
        read: impl FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.start(doing, read)?.finish().await
    }

    /// Starts a read, and returns it without waiting for its result.
    pub(crate) fn start<T: Send + 'static>(
        self: &Arc<Self>,
        doing: &'static str,
        read: impl FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<PendingRead<T>, StoreError> {
        let (answer, outcome) = oneshot::channel();
        let file = Arc::clone(&self.location.file);
        let job = move |conn: Result<&Connection, Fault>| {
            if !answer.is_closed() {
                let done = conn.and_then(read);
                // Discard the result, or the error, of a read from another file.
                let _ = answer.send(file.check().and(done));
            }
        };
        self.submit(Box::new(job)).map_err(|fault| fault.to_error(doing))?;
        Ok(PendingRead { doing, outcome })
    }

    /// Queues a read, and starts a thread for it if none is idle.
    fn submit(self: &Arc<Self>, read: Read) -> Result<(), Fault> {
        let mut state = self.lock();
        state.queue.push_back(read);
        let wanted = state.queue.len() > state.idle && state.threads < self.limit;
        if wanted
            && let Err(error) = self.start_thread(&mut state)
            && state.threads == 0
        {
            state.queue.pop_back();
            let message = format!("the operating system refused a new thread ({error}); retry later");
            return Err(Fault::new(StoreErrorKind::Unavailable, message));
        }
        drop(state);
        // `notify_one` might wake a thread that only closes the file.
        self.ready.notify_all();
        Ok(())
    }

    fn start_thread(self: &Arc<Self>, state: &mut State) -> std::io::Result<()> {
        let readers = Arc::clone(self);
        let thread = std::thread::Builder::new().name("cqrs-sqlite-read".to_owned());
        thread.spawn(move || readers.work())?;
        state.threads += 1;
        Ok(())
    }

    fn work(&self) {
        // On a panic of a read, dropping this frees the slot for another thread.
        let mut worker = Worker { readers: self, conn: None, releases: 0 };
        while let Some(read) = self.next(&mut worker) {
            if worker.conn.is_none() {
                match self.location.reader() {
                    Ok(open) => worker.connect(open),
                    Err(fault) => {
                        read(Err(fault));
                        continue;
                    }
                }
            }
            if let Some(open) = &worker.conn {
                read(Ok(open));
                // A connection that could not end its snapshot would read the same one forever.
                if !open.is_autocommit() {
                    worker.disconnect();
                }
            }
        }
    }

    /// Returns the next read, or `None` when the store is closed. Closes the connection first if asked to.
    fn next(&self, worker: &mut Worker<'_>) -> Option<Read> {
        loop {
            let mut state = self.lock();
            let releases = state.releases;
            if worker.conn.is_some() && worker.releases != releases {
                drop(state);
                worker.disconnect();
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

    /// Makes all threads close the file after their current read, and waits for that until `until`.
    pub(crate) fn release(&self, until: Instant) {
        let mut state = self.lock();
        state.releases += 1;
        self.ready.notify_all();
        let left = until.saturating_duration_since(Instant::now());
        let connected = |state: &mut State| state.connected > 0;
        // A thread that takes longer only delays the removal of the WAL.
        let _ = self.released.wait_timeout_while(state, left, connected);
    }

    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.ready.notify_all();
    }

    // A panic cannot leave the queue half-changed.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A thread and its connection.
struct Worker<'a> {
    readers: &'a Readers,
    conn: Option<Conn>,
    /// The value of `State::releases` when the connection was opened.
    releases: u64,
}

impl Worker<'_> {
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

impl Drop for Worker<'_> {
    fn drop(&mut self) {
        self.disconnect();
        self.readers.lock().threads -= 1;
    }
}

/// A read that was started.
pub(crate) struct PendingRead<T> {
    doing: &'static str,
    outcome: oneshot::Receiver<Result<T, Fault>>,
}

impl<T> PendingRead<T> {
    /// Waits for the result.
    pub(crate) async fn finish(self) -> Result<T, StoreError> {
        match self.outcome.await {
            Ok(done) => done.map_err(|fault| fault.to_error(self.doing)),
            Err(_) => {
                Err(Fault::new(StoreErrorKind::Failed, "the reader thread has stopped").to_error(self.doing))
            }
        }
    }
}
