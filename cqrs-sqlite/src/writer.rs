//! The one thread that writes: it takes all that waits, and commits it together.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use cqrs_core::error::{StoreError, StoreErrorKind};
use cqrs_core::store::LogId;
use rusqlite::{Connection, ErrorCode};
use tokio::sync::{mpsc, oneshot};

use crate::append::{Ids, Tx};
use crate::error::Fault;
use crate::known::Known;
use crate::news::News;
use crate::open;

/// Something that is written inside the transaction of a group.
pub(crate) trait Write: Send + 'static {
    type Done: Send;
    type Error: From<StoreError> + Send;

    /// What it does, for the message of a fault.
    const DOING: &'static str;

    /// About how many bytes it writes, so that a group does not grow too large.
    fn weight(&self) -> usize;

    /// Checks and writes. What is refused has written nothing; a fault spoils the transaction.
    fn write(&self, tx: &mut Tx<'_>) -> Result<Result<Self::Done, Self::Error>, Fault>;
}

/// A [`Write`] with whoever waits for it, whatever its type.
pub(crate) trait Job: Send {
    fn weight(&self) -> usize;
    /// Whether it is given a transaction of its own.
    fn is_alone(&self) -> bool {
        false
    }
    fn run(&mut self, tx: &mut Tx<'_>) -> Result<(), Fault>;
    /// After the commit.
    fn tell(self: Box<Self>);
    /// Instead of it.
    fn fail(self: Box<Self>, fault: &Fault);
}

struct Task<W: Write> {
    write: W,
    outcome: Option<Result<W::Done, W::Error>>,
    answer: oneshot::Sender<Result<W::Done, W::Error>>,
}

impl<W: Write> Job for Task<W> {
    fn weight(&self) -> usize {
        self.write.weight()
    }

    fn run(&mut self, tx: &mut Tx<'_>) -> Result<(), Fault> {
        // Whoever dropped the future has left it open whether this takes place.
        if !self.answer.is_closed() {
            self.outcome = Some(self.write.write(tx)?);
        }
        Ok(())
    }

    fn tell(self: Box<Self>) {
        if let Some(outcome) = self.outcome {
            // Nobody listens if the future was dropped meanwhile.
            let _ = self.answer.send(outcome);
        }
    }

    fn fail(self: Box<Self>, fault: &Fault) {
        let _ = self.answer.send(Err(fault.told(W::DOING).into()));
    }
}

/// The next turn to write, for whoever has reserved it.
pub(crate) struct Turn(Arc<Place>);

/// Where whoever has the turn leaves what is to be written.
#[derive(Default)]
struct Place {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
enum State {
    #[default]
    Waiting,
    Given(Box<dyn Job>),
    /// There is nothing to come, or it comes too late.
    Over,
}

/// After this a turn is taken back that nobody has used: everybody who writes waits for it.
const RESERVED: Duration = Duration::from_millis(500);
const RESERVING: &str = "reserve the next append";

impl Place {
    // Nothing in here can be left half-changed by a panic.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(&self) -> Option<Box<dyn Job>> {
        let waiting = |state: &mut State| matches!(state, State::Waiting);
        let waited = self.changed.wait_timeout_while(self.lock(), RESERVED, waiting);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *state, State::Over) {
            State::Given(job) => Some(job),
            State::Waiting | State::Over => None,
        }
    }
}

impl Turn {
    /// Takes it for something to write, or gives that back if it is too late.
    fn take(self, job: Box<dyn Job>) -> Result<(), Box<dyn Job>> {
        let mut state = self.0.lock();
        if matches!(*state, State::Over) {
            return Err(job);
        }
        *state = State::Given(job);
        Ok(())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        if matches!(*state, State::Waiting) {
            *state = State::Over;
        }
        drop(state);
        self.0.changed.notify_one();
    }
}

/// Somebody who waits for such a turn, and what they write in it.
struct Reserving {
    answer: Option<oneshot::Sender<Result<Turn, StoreError>>>,
    job: Option<Box<dyn Job>>,
}

impl Job for Reserving {
    fn weight(&self) -> usize {
        0
    }

    fn is_alone(&self) -> bool {
        true
    }

    fn run(&mut self, tx: &mut Tx<'_>) -> Result<(), Fault> {
        if let Some(answer) = self.answer.take() {
            let place = Arc::<Place>::default();
            // Nobody is there to use it if the future was dropped meanwhile.
            if answer.send(Ok(Turn(Arc::clone(&place)))).is_ok() {
                self.job = place.wait();
            }
        }
        self.job.as_mut().map_or(Ok(()), |job| job.run(tx))
    }

    fn tell(self: Box<Self>) {
        self.job.into_iter().for_each(Job::tell);
    }

    fn fail(self: Box<Self>, fault: &Fault) {
        let _ = self.answer.map(|answer| answer.send(Err(fault.told(RESERVING))));
        self.job.into_iter().for_each(|job| job.fail(fault));
    }
}

/// The way to the writing thread.
#[derive(Clone, Debug)]
pub(crate) struct Writer(mpsc::Sender<Box<dyn Job>>);

/// How many may wait; those behind them wait to be let in.
const QUEUE: usize = 1_024;

impl Writer {
    /// The way in, and what the thread is to be given.
    pub(crate) fn new() -> (Self, mpsc::Receiver<Box<dyn Job>>) {
        let (way, jobs) = mpsc::channel(QUEUE);
        (Self(way), jobs)
    }

    /// Has something written with the next group.
    pub(crate) async fn write<W: Write>(&self, write: W) -> Result<W::Done, W::Error> {
        self.write_in(None, write).await
    }

    /// Waits until nobody else writes. Nobody does until what this gives is dropped, or has written.
    pub(crate) async fn reserve(&self) -> Result<Turn, StoreError> {
        let (answer, turn) = oneshot::channel();
        if self.0.send(Box::new(Reserving { answer: Some(answer), job: None })).await.is_err() {
            return Err(stopped(RESERVING, StoreErrorKind::Failed));
        }
        turn.await.unwrap_or_else(|_| Err(stopped(RESERVING, StoreErrorKind::Failed)))
    }

    /// Has something written in a turn that was reserved, or with the next group if there is none or it was
    /// taken back. If the future is dropped, it is written as a whole or not at all.
    pub(crate) async fn write_in<W: Write>(&self, turn: Option<Turn>, write: W) -> Result<W::Done, W::Error> {
        let (answer, outcome) = oneshot::channel();
        let job: Box<dyn Job> = Box::new(Task { write, outcome: None, answer });
        let left = match turn {
            Some(turn) => turn.take(job).err(),
            None => Some(job),
        };
        if let Some(job) = left
            && self.0.send(job).await.is_err()
        {
            return Err(stopped(W::DOING, StoreErrorKind::Failed).into());
        }
        // The thread ends in the midst of its work only by a panic.
        outcome.await.unwrap_or_else(|_| Err(stopped(W::DOING, StoreErrorKind::Unknown).into()))
    }
}

fn stopped(doing: &str, kind: StoreErrorKind) -> StoreError {
    StoreError::new(kind, format!("cannot {doing}: the writing thread of this store has stopped"))
}

/// The thread's own side.
pub(crate) struct Thread {
    // Dropped before the place: see there.
    conn: Connection,
    place: open::Place,
    log: LogId,
    news: Arc<News>,
    known: Known,
}

/// What one transaction holds at most, so that nobody waits long for it and the WAL stays small.
const GROUP_JOBS: usize = 1_024;
const GROUP_BYTES: usize = 4 << 20;

/// Where a group ended that was not committed.
enum Stop {
    /// At the start or the end, which concerns all of it.
    Whole(Fault),
    /// At one of several, the others of which may do better alone.
    One(Fault),
}

impl Thread {
    pub(crate) fn new(conn: Connection, place: open::Place, log: LogId, news: Arc<News>) -> Self {
        Self { conn, place, log, news, known: Known::default() }
    }

    /// Works until nobody is left who could send.
    pub(crate) fn run(mut self, mut jobs: mpsc::Receiver<Box<dyn Job>>) {
        let (mut group, mut next) = (Vec::new(), None);
        while let Some(first) = next.take().or_else(|| jobs.blocking_recv()) {
            let (mut bytes, alone) = (first.weight(), first.is_alone());
            group.push(first);
            while !alone
                && group.len() < GROUP_JOBS
                && bytes < GROUP_BYTES
                && let Ok(job) = jobs.try_recv()
            {
                if job.is_alone() {
                    next = Some(job);
                    break;
                }
                bytes += job.weight();
                group.push(job);
            }
            self.commit(&mut group);
        }
    }

    /// Commits a group and tells each of it what came of it.
    fn commit(&mut self, group: &mut Vec<Box<dyn Job>>) {
        let mut end = self.attempt(group, Ids::OnInsert);
        if let Err(Stop::One(fault)) = &end
            && fault.is(ErrorCode::ConstraintViolation)
        {
            end = self.attempt(group, Ids::Before);
        }
        match end {
            Ok(head) => {
                self.news.publish(head);
                group.drain(..).for_each(Job::tell);
            }
            Err(Stop::One(_)) if group.len() > 1 => {
                for job in std::mem::take(group) {
                    self.commit(&mut vec![job]);
                }
            }
            Err(Stop::One(fault) | Stop::Whole(fault)) => {
                group.drain(..).for_each(|job| job.fail(&fault));
            }
        }
    }

    /// Gives the head after the commit, or leaves the file as it was.
    fn attempt(&mut self, group: &mut [Box<dyn Job>], ids: Ids) -> Result<i64, Stop> {
        self.place.file.check().and_then(|()| self.begin()).map_err(Stop::Whole)?;
        let written = self.write(group, ids).map_err(Stop::One);
        let done = written.and_then(|head| {
            let commit = self.conn.prepare_cached("COMMIT").and_then(|mut commit| commit.execute(()));
            commit.map_err(|error| Stop::Whole(Fault::from(error).while_committing()))?;
            // What went to a file that no name leads to any more is lost with it.
            self.place.file.check().map(|()| head).map_err(Stop::Whole)
        });
        match &done {
            Ok(head) => self.known.committed(*head),
            Err(_) => self.roll_back(),
        }
        done
    }

    fn write(&mut self, group: &mut [Box<dyn Job>], ids: Ids) -> Result<i64, Fault> {
        let mut tx = Tx::new(&self.conn, self.log, &mut self.known, ids)?;
        for job in group {
            job.run(&mut tx)?;
        }
        Ok(tx.head)
    }

    /// Takes the lock for writing, and waits for another process that has it.
    ///
    /// SQLite's own waiting sleeps up to a tenth of a second at a time. Against a process that commits
    /// one group after the other it would hardly ever come at the right moment.
    fn begin(&self) -> Result<(), Fault> {
        let begun = Instant::now();
        loop {
            let begin = self.conn.prepare_cached("BEGIN IMMEDIATE").and_then(|mut begin| begin.execute(()));
            match begin.map_err(Fault::from) {
                Ok(_) => return Ok(()),
                Err(fault) if fault.is(ErrorCode::DatabaseBusy) && begun.elapsed() < self.place.patience => {
                    std::thread::sleep(pause());
                }
                Err(fault) => return Err(fault),
            }
        }
    }

    fn roll_back(&mut self) {
        self.known.forget();
        // SQLite has often done so by itself; where it could not, the next `BEGIN` tells.
        if !self.conn.is_autocommit() {
            let _ = self.conn.execute_batch("ROLLBACK");
        }
    }
}

/// By chance, so that two that wait part ways, and about as short as the moment between two groups of another
/// process.
pub(crate) fn pause() -> Duration {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Duration::from_micros(50 + u64::from(now.subsec_nanos() / 100 % 100))
}
