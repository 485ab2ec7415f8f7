//! Waiting for the log's head to move, including appends by other processes.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::file::Conn;
use crate::open::Location;
use crate::read;

/// Polling interval while a caller waits. SQLite has no notification across processes.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// The highest head that this store handle has seen. Other processes may have appended more.
#[derive(Debug)]
pub(crate) struct HeadWatch {
    head: watch::Sender<i64>,
    watcher: Mutex<Watcher>,
    wake: Condvar,
    released: Condvar,
}

#[derive(Debug, Default)]
struct Watcher {
    waiting: usize,
    running: bool,
    /// Set while the watcher thread has the file open.
    connected: bool,
    /// Asks the watcher thread to close the file.
    releasing: bool,
    closed: bool,
}

impl HeadWatch {
    pub(crate) fn new() -> Self {
        Self {
            head: watch::Sender::new(0),
            watcher: Mutex::default(),
            wake: Condvar::new(),
            released: Condvar::new(),
        }
    }

    pub(crate) fn head(&self) -> i64 {
        *self.head.borrow()
    }

    pub(crate) fn publish(&self, head: i64) {
        self.head.send_if_modified(|last| {
            let newer = head > *last;
            *last = head.max(*last);
            newer
        });
    }

    /// Waits until the writer or the watcher publishes a head after `after`.
    pub(crate) async fn wait(self: &Arc<Self>, after: i64, location: &Location) {
        let _waiting = self.start_waiting(location);
        let mut head = self.head.subscribe();
        // The sender lives as long as `self`.
        let _ = head.wait_for(|head| *head > after).await;
    }

    fn start_waiting(self: &Arc<Self>, location: &Location) -> WaitGuard {
        let mut watcher = self.lock();
        watcher.waiting += 1;
        if !watcher.running {
            let (head_watch, location) = (Arc::clone(self), location.clone());
            let thread = std::thread::Builder::new().name("cqrs-sqlite-watch".to_owned());
            // Without the thread, the engine still polls.
            watcher.running = thread.spawn(move || head_watch.watch(&location)).is_ok();
        }
        drop(watcher);
        self.wake.notify_all();
        WaitGuard(Arc::clone(self))
    }

    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.wake.notify_all();
    }

    /// Makes the watcher thread close the file, and waits until it has.
    pub(crate) fn release(&self, until: Instant) {
        let mut watcher = self.lock();
        watcher.releasing = watcher.connected;
        self.wake.notify_all();
        let left = until.saturating_duration_since(Instant::now());
        let _ = self.released.wait_timeout_while(watcher, left, |watcher| watcher.connected);
    }

    fn watch(&self, location: &Location) {
        let mut conn = None;
        while self.wait_until_due(&mut conn) {
            if conn.is_none() {
                conn = location.reader().ok();
                self.lock().connected = conn.is_some();
            }
            // Ignore errors here: a read reports them. The next round retries.
            match conn.as_ref().map(|conn| (read::last(conn), location.file.check())) {
                Some((Ok(last), Ok(()))) => self.publish(last.number),
                _ => {
                    conn = None;
                    self.disconnected();
                }
            }
        }
        drop(conn);
        self.disconnected();
    }

    fn disconnected(&self) {
        let mut watcher = self.lock();
        (watcher.connected, watcher.releasing) = (false, false);
        self.released.notify_all();
    }

    /// Sleeps until the next poll is due. Returns `false` when the store is closed.
    fn wait_until_due(&self, conn: &mut Option<Conn>) -> bool {
        loop {
            let watcher = self.lock();
            let (watcher, _) = self
                .wake
                .wait_timeout_while(watcher, POLL_INTERVAL, |watcher| !watcher.closed && !watcher.releasing)
                .unwrap_or_else(PoisonError::into_inner);
            let idle = self
                .wake
                .wait_while(watcher, |watcher| watcher.waiting == 0 && !watcher.closed && !watcher.releasing);
            let watcher = idle.unwrap_or_else(PoisonError::into_inner);
            if !watcher.releasing {
                return !watcher.closed;
            }
            drop(watcher);
            *conn = None;
            self.disconnected();
        }
    }

    // A panic cannot leave the state half-changed.
    fn lock(&self) -> MutexGuard<'_, Watcher> {
        self.watcher.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts a waiting caller until it is dropped.
struct WaitGuard(Arc<HeadWatch>);

impl Drop for WaitGuard {
    fn drop(&mut self) {
        self.0.lock().waiting -= 1;
    }
}
