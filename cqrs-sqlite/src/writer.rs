//! The one thread that writes: it takes all that waits, and commits it together.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use cqrs_core::error::{StoreError, StoreErrorKind};
use cqrs_core::store::LogId;
use rusqlite::{Connection, ErrorCode};
use tokio::sync::{mpsc, oneshot};

use crate::append::{Ids, Tx};
use crate::error::Fault;
use crate::known::Known;
use crate::news::News;

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

    /// Has something written with the next group. If the future is dropped, it is written as a whole
    /// or not at all.
    pub(crate) async fn write<W: Write>(&self, write: W) -> Result<W::Done, W::Error> {
        let (answer, outcome) = oneshot::channel();
        let job = Box::new(Task { write, outcome: None, answer });
        if self.0.send(job).await.is_err() {
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
    conn: Connection,
    log: LogId,
    patience: Duration,
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
    pub(crate) fn new(conn: Connection, log: LogId, patience: Duration, news: Arc<News>) -> Self {
        Self { conn, log, patience, news, known: Known::default() }
    }

    /// Works until nobody is left who could send.
    pub(crate) fn run(mut self, mut jobs: mpsc::Receiver<Box<dyn Job>>) {
        let mut group = Vec::new();
        while let Some(first) = jobs.blocking_recv() {
            let mut bytes = first.weight();
            group.push(first);
            while group.len() < GROUP_JOBS
                && bytes < GROUP_BYTES
                && let Ok(next) = jobs.try_recv()
            {
                bytes += next.weight();
                group.push(next);
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
        self.begin().map_err(Stop::Whole)?;
        let written = self.write(group, ids).map_err(Stop::One);
        let done = written.and_then(|head| {
            let commit = self.conn.prepare_cached("COMMIT").and_then(|mut commit| commit.execute(()));
            commit.map(|_| head).map_err(|error| Stop::Whole(Fault::from(error).while_committing()))
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
                Err(fault) if fault.is(ErrorCode::DatabaseBusy) && begun.elapsed() < self.patience => {
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

/// Between a tenth of a millisecond and one, by chance, so that two that wait part ways.
fn pause() -> Duration {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Duration::from_micros(100 + u64::from(now.subsec_nanos() / 100 % 900))
}
