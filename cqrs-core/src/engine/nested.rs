//! Commands that a handler executes while it decides.
//!
//! A handler that reaches outside may have an engine in one of its services. While it decides, its command has
//! the turn of its stream. A command that it executes on the same stream would wait for itself, and two handlers
//! that execute on each other's streams would wait for each other. Both are found out here, and reported at once.
//!
//! The waits of all engines of the process are in one list, because two engines can have services that hold each
//! other. Each engine has queues of its own, so a wait is for a stream of an engine.
//!
//! The chain is known while a handler's future is polled. A task that the handler spawns is not part of it; such a
//! command waits until a limit of [`Timeouts`](super::Timeouts) ends the wait.

use std::cell::RefCell;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::id::StreamId;
use crate::store::LogId;

/// A command whose handler decides.
#[derive(Debug)]
pub(super) struct Deciding {
    pub(super) engine: EngineMark,
    pub(super) log: LogId,
    pub(super) command: &'static str,
    pub(super) stream: StreamId,
    /// The command whose handler executes this one.
    pub(super) outer: Option<Arc<Self>>,
}

thread_local! {
    /// The command whose handler is polled on this thread.
    static CURRENT: RefCell<Option<Arc<Deciding>>> = const { RefCell::new(None) };
}

/// The command whose handler executes whatever is polled now.
pub(super) fn current() -> Option<Arc<Deciding>> {
    // A thread that ends has no current command any more.
    CURRENT.try_with(|current| current.borrow().clone()).ok().flatten()
}

/// Makes a command the current one for as long as this runs.
pub(super) fn within<T>(deciding: &Arc<Deciding>, run: impl FnOnce() -> T) -> T {
    let _restore = Restore(exchange(Some(Arc::clone(deciding))));
    run()
}

fn exchange(deciding: Option<Arc<Deciding>>) -> Option<Arc<Deciding>> {
    CURRENT.try_with(|current| current.replace(deciding)).ok().flatten()
}

/// Puts the former command back, also after a panic.
struct Restore(Option<Arc<Deciding>>);

impl Drop for Restore {
    fn drop(&mut self) {
        let ended = exchange(self.0.take());
        drop(ended);
    }
}

impl Deciding {
    /// The command and those whose handlers execute it, from the inside out.
    fn chain(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |deciding| deciding.outer.as_deref())
    }

    /// The queue whose turn it has.
    fn queue(&self) -> Queue {
        Queue { engine: self.engine.clone(), stream: self.stream.clone() }
    }
}

/// Tells the engines of a process apart. Clones are equal.
#[derive(Clone, Debug)]
pub(super) struct EngineMark(Arc<u8>);

impl Default for EngineMark {
    fn default() -> Self {
        // Not zero-sized, so that each has an address of its own.
        Self(Arc::new(0))
    }
}

impl PartialEq for EngineMark {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// A stream of an engine, which has one queue.
#[derive(Clone, PartialEq)]
struct Queue {
    engine: EngineMark,
    stream: StreamId,
}

/// Which queues wait for which: the first for the second, because a handler that has the turn of the first executes a
/// command on the second.
static WAITS: Mutex<Vec<Wait>> = Mutex::new(Vec::new());

struct Wait {
    command: &'static str,
    holds: Queue,
    wants: Queue,
}

fn waits() -> MutexGuard<'static, Vec<Wait>> {
    WAITS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A command that a handler executes.
pub(super) struct Nesting {
    engine: EngineMark,
    deciding: Arc<Deciding>,
}

impl Nesting {
    /// A command on a stream, executed by the handler of another.
    ///
    /// # Errors
    /// [`Deadlock`] if one of those that wait for it has the stream's turn.
    pub(super) fn new(
        engine: &EngineMark,
        deciding: Arc<Deciding>,
        log: LogId,
        stream: &StreamId,
    ) -> Result<Self, Deadlock> {
        let same = |outer: &&Deciding| outer.log == log && outer.stream == *stream;
        let itself = deciding.chain().find(same).map(|outer| outer.command);
        match itself {
            Some(command) => Err(Deadlock(vec![(command, stream.clone())])),
            None => Ok(Self { engine: engine.clone(), deciding }),
        }
    }

    /// The command whose handler executes it.
    pub(super) fn deciding(&self) -> Arc<Deciding> {
        Arc::clone(&self.deciding)
    }

    /// Notes that its handlers wait for a stream, until what this gives is dropped.
    ///
    /// # Errors
    /// [`Deadlock`] if that stream waits for one of theirs.
    pub(super) fn wait_for(&self, stream: &StreamId) -> Result<Waiting<'_>, Deadlock> {
        let wants = Queue { engine: self.engine.clone(), stream: stream.clone() };
        let mut waits = waits();
        let mut path: Vec<(&'static str, StreamId)> = Vec::new();
        let mut reached = vec![wants.clone()];
        let mut at = 0;
        while let Some(holder) = reached.get(at).cloned() {
            at += 1;
            for wait in waits.iter().filter(|wait| wait.holds == holder) {
                if !reached.contains(&wait.wants) {
                    path.push((wait.command, wait.holds.stream.clone()));
                    reached.push(wait.wants.clone());
                }
            }
        }
        if self.deciding.chain().any(|outer| reached.contains(&outer.queue())) {
            path.insert(0, (self.deciding.command, self.deciding.stream.clone()));
            return Err(Deadlock(path));
        }
        let edges = self.deciding.chain().map(|outer| Wait {
            command: outer.command,
            holds: outer.queue(),
            wants: wants.clone(),
        });
        waits.extend(edges);
        Ok(Waiting { nesting: self, wants })
    }
}

/// Handlers that wait for a stream.
pub(super) struct Waiting<'n> {
    nesting: &'n Nesting,
    wants: Queue,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut waits = waits();
        for outer in self.nesting.deciding.chain() {
            // Another command may wait for the same on behalf of the same handler: one for one.
            let place = waits.iter().position(|wait| wait.holds == outer.queue() && wait.wants == self.wants);
            place.map(|place| waits.swap_remove(place));
        }
    }
}

/// The commands that wait for each other, each with its stream. With a single one, that command's handler executes
/// another on its own stream.
#[derive(Debug)]
pub(super) struct Deadlock(pub(super) Vec<(&'static str, StreamId)>);
