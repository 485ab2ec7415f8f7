//! The one thread that writes: it takes all that waits, and commits it together.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use cqrs_core::error::{StoreError, StoreErrorKind};
use cqrs_core::store::LogId;
use rusqlite::ErrorCode;
use rusqlite::config::DbConfig;
use tokio::sync::{mpsc, oneshot};

use crate::append::{Ids, Tx};
use crate::error::Fault;
use crate::file::Conn;
use crate::known::Known;
use crate::news::News;
use crate::read::Last;
use crate::readers::Readers;
use crate::{checkpoint, open, schema};

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

/// What the thread is asked to do.
pub(crate) enum Ask {
    Write(Box<dyn Job>),
    /// Close the file, and answer when that is done.
    Close(oneshot::Sender<Result<(), Fault>>),
}

/// The way to the writing thread.
///
/// The queue has no bound of its own: a place in it that was handed to a future which is not polled would be
/// a place less for all others. What waits here is held by its caller anyway.
#[derive(Clone, Debug)]
pub(crate) struct Writer(mpsc::UnboundedSender<Ask>);

const CLOSING: &str = "close the file";

impl Writer {
    /// The way in, and what the thread is to be given.
    pub(crate) fn new() -> (Self, mpsc::UnboundedReceiver<Ask>) {
        let (way, asked) = mpsc::unbounded_channel();
        (Self(way), asked)
    }

    /// Has everything written back to the main file, and the file closed. What is written later opens it again.
    pub(crate) async fn close(&self) -> Result<(), StoreError> {
        let (answer, outcome) = oneshot::channel();
        if self.0.send(Ask::Close(answer)).is_err() {
            return Err(stopped(CLOSING, StoreErrorKind::Failed));
        }
        match outcome.await {
            Ok(closed) => closed.map_err(|fault| fault.told(CLOSING)),
            Err(_) => Err(stopped(CLOSING, StoreErrorKind::Failed)),
        }
    }

    /// Has something written with the next group.
    pub(crate) async fn write<W: Write>(&self, write: W) -> Result<W::Done, W::Error> {
        self.write_in(None, write).await
    }

    /// Waits until nobody else writes. Nobody does until what this gives is dropped, or has written.
    pub(crate) async fn reserve(&self) -> Result<Turn, StoreError> {
        let (answer, turn) = oneshot::channel();
        let job = Box::new(Reserving { answer: Some(answer), job: None });
        if self.0.send(Ask::Write(job)).is_err() {
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
            && self.0.send(Ask::Write(job)).is_err()
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
    /// `None` while the file is closed.
    conn: Option<Conn>,
    place: open::Place,
    log: LogId,
    news: Arc<News>,
    readers: Arc<Readers>,
    known: Known,
    /// About how many pages the WAL has. It is an estimate, because not every supported release of the driver reports
    /// the number after a commit; each checkpoint starts it again.
    pages: i32,
    /// With how many it is written back.
    full: i32,
}

/// What one transaction holds at most, so that nobody waits long for it and the WAL stays small. An append
/// that is larger has a transaction of its own.
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
    pub(crate) fn new(
        conn: Conn,
        place: open::Place,
        log: LogId,
        news: Arc<News>,
        readers: Arc<Readers>,
    ) -> Result<Self, Fault> {
        let full = checkpoint::PAGES;
        let known = Known::default();
        let mut thread = Self { conn: None, place, log, news, readers, known, pages: 0, full };
        thread.opened(conn)?;
        Ok(thread)
    }

    fn opened(&mut self, conn: Conn) -> Result<(), Fault> {
        self.pages = 0;
        self.known.forget();
        self.full = checkpoint::PAGES;
        self.conn = Some(conn);
        Ok(())
    }

    /// Works until nobody is left who could send.
    pub(crate) fn run(mut self, mut asked: mpsc::UnboundedReceiver<Ask>) {
        let (mut group, mut next) = (Vec::new(), None);
        while let Some(first) = next.take().or_else(|| asked.blocking_recv()) {
            let first = match first {
                Ask::Write(job) => job,
                Ask::Close(answer) => {
                    let _ = answer.send(self.close());
                    continue;
                }
            };
            let (mut bytes, alone) = (first.weight(), first.is_alone());
            group.push(first);
            while !alone
                && group.len() < GROUP_JOBS
                && let Ok(ask) = asked.try_recv()
            {
                match ask {
                    Ask::Write(job) if !job.is_alone() && bytes + job.weight() <= GROUP_BYTES => {
                        bytes += job.weight();
                        group.push(job);
                    }
                    other => {
                        next = Some(other);
                        break;
                    }
                }
            }
            self.pages = self.pages.saturating_add(checkpoint::pages_of(group.len(), bytes));
            self.commit(&mut group);
        }
        // Nobody hears of a fault any more; what was acknowledged is in the WAL.
        let _ = self.close();
    }

    /// Writes everything back to the main file and closes all connections, as far as others allow.
    fn close(&mut self) -> Result<(), Fault> {
        let until = Instant::now() + self.place.patience;
        self.news.release(until);
        self.readers.release(until);
        let done = self.write_back(until);
        self.conn = None;
        self.known.forget();
        self.place.file.closed();
        if let Err(fault) = &done {
            tracing::warn!(file = %self.place.path.display(), %fault, "the WAL was not written back at close");
        }
        done
    }

    fn write_back(&mut self, until: Instant) -> Result<(), Fault> {
        if self.conn.is_none() {
            return Ok(());
        }
        if let Err(fault) = self.place.file.check() {
            // Closing must not write to what is there now.
            self.conn()?.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
            return Err(fault);
        }
        self.begin()?;
        let conn = self.conn()?;
        if let Err(fault) = say_complete(conn).and_then(|()| self.end()) {
            self.roll_back();
            return Err(fault);
        }
        let conn = self.conn()?;
        conn.busy_timeout(until.saturating_duration_since(Instant::now()))?;
        checkpoint::run(conn, checkpoint::Mode::Truncate)?;
        Ok(())
    }

    fn conn(&self) -> Result<&Conn, Fault> {
        // It is opened before each group.
        self.conn.as_ref().ok_or_else(|| Fault::new(StoreErrorKind::Failed, "the file is closed"))
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
            Ok(last) => {
                self.news.publish(last.number);
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

    /// Gives the log's last event after the commit, or leaves the file as it was.
    fn attempt(&mut self, group: &mut [Box<dyn Job>], ids: Ids) -> Result<Last, Stop> {
        self.prepare().map_err(|fault| {
            self.roll_back();
            Stop::Whole(fault)
        })?;
        let written = self.write(group, ids).map_err(Stop::One);
        let done = written.and_then(|head| {
            self.end().map_err(Stop::Whole)?;
            // What went to a file that no name leads to any more is lost with it.
            self.place.file.check().map(|()| head).map_err(Stop::Whole)
        });
        match &done {
            Ok(head) => self.known.committed(*head, checkpoint::Wal::Followed),
            Err(_) => self.roll_back(),
        }
        done
    }

    /// Begins the transaction of a group, in a file that says that it has a WAL.
    fn prepare(&mut self) -> Result<(), Fault> {
        if self.conn.is_none() {
            let conn = self.place.writer_again(self.log)?;
            self.opened(conn)?;
        }
        self.place.file.check()?;
        self.begin()?;
        self.refresh()?;
        let is_full = self.pages >= self.full;
        if is_full || self.known.wal() == Some(checkpoint::Wal::Complete) {
            let head = self.refresh()?;
            checkpoint::expect(self.conn()?)?;
            // Nothing of the group is in it, so that its outcome is never unknown.
            self.conn()?.execute_batch("COMMIT")?;
            self.known.committed(head, checkpoint::Wal::Expected);
            self.full = checkpoint::run(self.conn()?, checkpoint::Mode::Passive).unwrap_or_else(|fault| {
                // The WAL has everything, as long as there is room for it.
                tracing::warn!(file = %self.place.path.display(), %fault, "the WAL was not written back");
                self.pages.saturating_add(checkpoint::AGAIN)
            });
            if self.full == checkpoint::PAGES {
                self.pages = 0;
            }
            self.begin()?;
            self.refresh()?;
        }
        if self.known.wal() != Some(checkpoint::Wal::Followed) {
            checkpoint::follow(self.conn()?)?;
        }
        Ok(())
    }

    fn refresh(&mut self) -> Result<Last, Fault> {
        let Self { conn: Some(conn), known, .. } = self else { return self.conn().map(|_| Last::default()) };
        known.refresh(conn)
    }

    fn write(&mut self, group: &mut [Box<dyn Job>], ids: Ids) -> Result<Last, Fault> {
        let Self { conn: Some(conn), known, log, news, .. } = self else {
            return self.conn().map(|_| Last::default());
        };
        let mut tx = Tx::new(conn, *log, known, ids, news.head())?;
        for job in group {
            job.run(&mut tx)?;
        }
        Ok(tx.last())
    }

    fn end(&self) -> Result<(), Fault> {
        let commit = self.conn()?.prepare_cached("COMMIT").and_then(|mut commit| commit.execute(()));
        commit.map_err(|error| Fault::from(error).while_committing())?;
        Ok(())
    }

    /// Takes the lock for writing, and waits for another process that has it.
    ///
    /// SQLite's own waiting sleeps up to a tenth of a second at a time. Against a process that commits
    /// one group after the other it would hardly ever come at the right moment.
    fn begin(&self) -> Result<(), Fault> {
        let conn = self.conn()?;
        let begun = Instant::now();
        let mut waited = false;
        loop {
            let begin = conn.prepare_cached("BEGIN IMMEDIATE").and_then(|mut begin| begin.execute(()));
            match begin.map_err(Fault::from) {
                Ok(_) => {
                    if waited {
                        tracing::trace!(waited = ?begun.elapsed(), "another process had the lock for writing");
                    }
                    return Ok(());
                }
                Err(fault) if fault.is(ErrorCode::DatabaseBusy) && begun.elapsed() < self.place.patience => {
                    waited = true;
                    std::thread::sleep(pause());
                }
                Err(fault) => {
                    let (file, waited) = (self.place.path.display(), begun.elapsed());
                    tracing::warn!(%file, ?waited, %fault, "cannot take the lock for writing");
                    return Err(fault);
                }
            }
        }
    }

    fn roll_back(&mut self) {
        self.known.forget();
        // SQLite has often done so by itself; where it could not, the next `BEGIN` tells.
        if let Some(conn) = &self.conn
            && !conn.is_autocommit()
        {
            let _ = conn.execute_batch("ROLLBACK");
        }
    }
}

/// Says that the main file is going to have everything, if this program may say so.
fn say_complete(conn: &Conn) -> Result<(), Fault> {
    // A newer program may have given the file tables that this one only reads.
    if schema::current(conn)?.writable().is_err() || checkpoint::state(conn)? == checkpoint::Wal::Complete {
        return Ok(());
    }
    checkpoint::complete(conn)
}

/// By chance, so that two that wait part ways, and about as short as the moment between two groups of another
/// process.
pub(crate) fn pause() -> Duration {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Duration::from_micros(50 + u64::from(now.subsec_nanos() / 100 % 100))
}
