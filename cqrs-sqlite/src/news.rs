//! Who waits for the head to move, and how other processes' appends are noticed.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::file::Conn;
use crate::open::Place;
use crate::read;

/// How often the file is looked at while somebody waits. Nothing tells one process that another has
/// committed.
const INTERVAL: Duration = Duration::from_millis(50);

/// The last head that this handle has heard of. It may lag behind other processes.
#[derive(Debug)]
pub(crate) struct News {
    head: watch::Sender<i64>,
    watcher: Mutex<Watcher>,
    turn: Condvar,
    released: Condvar,
}

#[derive(Debug, Default)]
struct Watcher {
    waiting: usize,
    running: bool,
    /// Whether the thread has the file open.
    connected: bool,
    /// Whether it is asked to close it.
    releasing: bool,
    closed: bool,
}

impl News {
    pub(crate) fn new() -> Self {
        Self {
            head: watch::Sender::new(0),
            watcher: Mutex::default(),
            turn: Condvar::new(),
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

    /// Waits until a head behind `after` was published, by the writer or by the watcher.
    pub(crate) async fn wait(self: &Arc<Self>, after: i64, place: &Place) {
        let _waiting = self.begin_waiting(place);
        let mut head = self.head.subscribe();
        // The sender lives as long as `self`.
        let _ = head.wait_for(|head| *head > after).await;
    }

    fn begin_waiting(self: &Arc<Self>, place: &Place) -> Waiting {
        let mut watcher = self.lock();
        watcher.waiting += 1;
        if !watcher.running {
            let (news, place) = (Arc::clone(self), place.clone());
            let thread = std::thread::Builder::new().name("cqrs-sqlite-watch".to_owned());
            // Without the thread the caller still polls.
            watcher.running = thread.spawn(move || news.watch(&place)).is_ok();
        }
        drop(watcher);
        self.turn.notify_all();
        Waiting(Arc::clone(self))
    }

    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.turn.notify_all();
    }

    /// Has the thread close the file, and waits until it has.
    pub(crate) fn release(&self, until: Instant) {
        let mut watcher = self.lock();
        watcher.releasing = watcher.connected;
        self.turn.notify_all();
        let left = until.saturating_duration_since(Instant::now());
        let _ = self.released.wait_timeout_while(watcher, left, |watcher| watcher.connected);
    }

    fn watch(&self, place: &Place) {
        let mut conn = None;
        while self.somebody_waits(&mut conn) {
            if conn.is_none() {
                conn = place.reader().ok();
                self.lock().connected = conn.is_some();
            }
            // A fault shows to whoever reads; here it is tried again.
            match conn.as_ref().map(|conn| (read::last(conn), place.file.check())) {
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

    /// Sleeps until it is time to look; `false` when the store is closed.
    fn somebody_waits(&self, conn: &mut Option<Conn>) -> bool {
        loop {
            let watcher = self.lock();
            let (watcher, _) = self
                .turn
                .wait_timeout_while(watcher, INTERVAL, |watcher| !watcher.closed && !watcher.releasing)
                .unwrap_or_else(PoisonError::into_inner);
            let idle = self
                .turn
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

    // Nothing in here can be left half-changed by a panic.
    fn lock(&self) -> MutexGuard<'_, Watcher> {
        self.watcher.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts one who waits, until it is dropped.
struct Waiting(Arc<News>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.lock().waiting -= 1;
    }
}
