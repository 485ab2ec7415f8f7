//! The writer thread: it commits all pending writes together (group commit).

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use cqrs_core::error::{StoreError, StoreErrorKind};
use cqrs_core::store::LogId;
use rusqlite::ErrorCode;
use rusqlite::config::DbConfig;
use tokio::sync::{mpsc, oneshot};

use crate::append::{IdCheck, Tx};
use crate::cache::LogCache;
use crate::error::Fault;
use crate::file::Conn;
use crate::head::HeadWatch;
use crate::open::Location;
use crate::read::LastEvent;
use crate::readers::Readers;
use crate::{checkpoint, schema};

/// A write that runs inside the transaction of a group.
pub(crate) trait Write: Send + 'static {
    type Done: Send;
    type Error: From<StoreError> + Send;

    /// The name of the operation, for error messages.
    const DOING: &'static str;

    /// Estimates the bytes it writes, which bounds the size of a group.
    fn weight(&self) -> usize;

    /// Checks and writes. A rejected write changes nothing; a [`Fault`] fails the whole transaction.
    fn write(&self, tx: &mut Tx<'_>) -> Result<Result<Self::Done, Self::Error>, Fault>;
}

/// A [`Write`] of any type, together with the caller that waits for it.
pub(crate) trait Job: Send {
    fn weight(&self) -> usize;
    /// Returns whether it needs a transaction of its own.
    fn needs_own_transaction(&self) -> bool {
        false
    }
    fn run(&mut self, tx: &mut Tx<'_>) -> Result<(), Fault>;
    /// Reports the result to the caller after the commit.
    fn finish(self: Box<Self>);
    /// Reports an error to the caller instead.
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
        // A caller that dropped the future accepts either outcome, so the write is skipped.
        if !self.answer.is_closed() {
            self.outcome = Some(self.write.write(tx)?);
        }
        Ok(())
    }

    fn finish(self: Box<Self>) {
        if let Some(outcome) = self.outcome {
            // The future may have been dropped meanwhile.
            let _ = self.answer.send(outcome);
        }
    }

    fn fail(self: Box<Self>, fault: &Fault) {
        let _ = self.answer.send(Err(fault.to_error(W::DOING).into()));
    }
}

/// The exclusive right to write next, held by the caller that reserved it.
pub(crate) struct Turn(Arc<TurnSlot>);

/// Through it, the holder of a turn passes a job to the writer thread.
#[derive(Default)]
struct TurnSlot {
    state: Mutex<TurnState>,
    changed: Condvar,
}

#[derive(Default)]
enum TurnState {
    #[default]
    Waiting,
    Submitted(Box<dyn Job>),
    /// The turn has ended: it was dropped, used, or timed out.
    Ended,
}

/// Maximum time that the writer thread waits for the holder of a turn. All other writes wait meanwhile.
const TURN_TIMEOUT: Duration = Duration::from_millis(500);
const RESERVE: &str = "reserve the next append";

impl TurnSlot {
    // A panic cannot leave the state half-changed.
    fn lock(&self) -> MutexGuard<'_, TurnState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(&self) -> Option<Box<dyn Job>> {
        let waiting = |state: &mut TurnState| matches!(state, TurnState::Waiting);
        let waited = self.changed.wait_timeout_while(self.lock(), TURN_TIMEOUT, waiting);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *state, TurnState::Ended) {
            TurnState::Submitted(job) => Some(job),
            TurnState::Waiting | TurnState::Ended => None,
        }
    }
}

impl Turn {
    /// Passes a job to the writer thread. Returns the job if the turn has ended.
    fn take(self, job: Box<dyn Job>) -> Result<(), Box<dyn Job>> {
        let mut state = self.0.lock();
        if matches!(*state, TurnState::Ended) {
            return Err(job);
        }
        *state = TurnState::Submitted(job);
        Ok(())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        if matches!(*state, TurnState::Waiting) {
            *state = TurnState::Ended;
        }
        drop(state);
        self.0.changed.notify_one();
    }
}

/// A caller that waits for a turn, and the job that it runs in that turn.
struct ReserveJob {
    answer: Option<oneshot::Sender<Result<Turn, StoreError>>>,
    job: Option<Box<dyn Job>>,
}

impl Job for ReserveJob {
    fn weight(&self) -> usize {
        0
    }

    fn needs_own_transaction(&self) -> bool {
        true
    }

    fn run(&mut self, tx: &mut Tx<'_>) -> Result<(), Fault> {
        if let Some(answer) = self.answer.take() {
            let slot = Arc::<TurnSlot>::default();
            // The future may have been dropped meanwhile.
            if answer.send(Ok(Turn(Arc::clone(&slot)))).is_ok() {
                self.job = slot.wait();
            }
        }
        self.job.as_mut().map_or(Ok(()), |job| job.run(tx))
    }

    fn finish(self: Box<Self>) {
        self.job.into_iter().for_each(Job::finish);
    }

    fn fail(self: Box<Self>, fault: &Fault) {
        let _ = self.answer.map(|answer| answer.send(Err(fault.to_error(RESERVE))));
        self.job.into_iter().for_each(|job| job.fail(fault));
    }
}

/// A request to the writer thread.
pub(crate) enum Request {
    Write(Box<dyn Job>),
    /// Closes the file and reports the result.
    Close(oneshot::Sender<Result<(), Fault>>),
}

/// A handle for sending requests to the writer thread.
///
/// The queue is unbounded. In a bounded queue, a future that is not polled could hold a slot and block other callers.
/// Each caller holds its own pending write anyway.
#[derive(Clone, Debug)]
pub(crate) struct Writer(mpsc::UnboundedSender<Request>);

const CLOSE: &str = "close the file";

impl Writer {
    /// Creates a handle, and the receiver for the writer thread.
    pub(crate) fn new() -> (Self, mpsc::UnboundedReceiver<Request>) {
        let (sender, requests) = mpsc::unbounded_channel();
        (Self(sender), requests)
    }

    /// Writes the WAL back to the main file and closes the file. A later write opens it again.
    pub(crate) async fn close(&self) -> Result<(), StoreError> {
        let (answer, outcome) = oneshot::channel();
        if self.0.send(Request::Close(answer)).is_err() {
            return Err(stopped(CLOSE, StoreErrorKind::Failed));
        }
        match outcome.await {
            Ok(closed) => closed.map_err(|fault| fault.to_error(CLOSE)),
            Err(_) => Err(stopped(CLOSE, StoreErrorKind::Failed)),
        }
    }

    /// Queues a write for the next group, and waits for its result.
    pub(crate) async fn write<W: Write>(&self, write: W) -> Result<W::Done, W::Error> {
        self.write_in(None, write).await
    }

    /// Waits for a turn. No other write runs until the returned turn is used, dropped, or timed out.
    pub(crate) async fn reserve(&self) -> Result<Turn, StoreError> {
        let (answer, turn) = oneshot::channel();
        let job = Box::new(ReserveJob { answer: Some(answer), job: None });
        if self.0.send(Request::Write(job)).is_err() {
            return Err(stopped(RESERVE, StoreErrorKind::Failed));
        }
        turn.await.unwrap_or_else(|_| Err(stopped(RESERVE, StoreErrorKind::Failed)))
    }

    /// Writes in a reserved turn. Without a turn, or after it has timed out, queues the write for the next group. If
    /// the future is dropped, the write happens completely or not at all.
    pub(crate) async fn write_in<W: Write>(&self, turn: Option<Turn>, write: W) -> Result<W::Done, W::Error> {
        let (answer, outcome) = oneshot::channel();
        let job: Box<dyn Job> = Box::new(Task { write, outcome: None, answer });
        let left = match turn {
            Some(turn) => turn.take(job).err(),
            None => Some(job),
        };
        if let Some(job) = left
            && self.0.send(Request::Write(job)).is_err()
        {
            return Err(stopped(W::DOING, StoreErrorKind::Failed).into());
        }
        // The thread stops in the middle of its work only if it panics.
        outcome.await.unwrap_or_else(|_| Err(stopped(W::DOING, StoreErrorKind::Unknown).into()))
    }
}

fn stopped(doing: &str, kind: StoreErrorKind) -> StoreError {
    StoreError::new(kind, format!("cannot {doing}: the writer thread has stopped; open the store again"))
}

/// The state of the writer thread.
pub(crate) struct Thread {
    /// `None` while the file is closed.
    conn: Option<Conn>,
    location: Location,
    log: LogId,
    head_watch: Arc<HeadWatch>,
    readers: Arc<Readers>,
    cache: LogCache,
    /// Estimated size of the WAL in pages. Some supported releases of `rusqlite` do not report it after a commit. Each
    /// checkpoint resets the estimate.
    pages: i32,
    /// Size of the WAL in pages at which to run a checkpoint.
    checkpoint_at: i32,
}

/// Limits of one transaction, so that no caller waits long and the WAL stays small. A larger append gets its own
/// transaction.
const GROUP_JOBS: usize = 1_024;
const GROUP_BYTES: usize = 4 << 20;

/// An error of a group's transaction, by where it failed.
enum GroupError {
    /// At its start or at its commit, which affects the whole group.
    Whole(Fault),
    /// At one job. The others may succeed in transactions of their own.
    OneJob(Fault),
}

impl Thread {
    pub(crate) fn new(
        conn: Conn,
        location: Location,
        log: LogId,
        head_watch: Arc<HeadWatch>,
        readers: Arc<Readers>,
    ) -> Result<Self, Fault> {
        let checkpoint_at = checkpoint::CHECKPOINT_PAGES;
        let cache = LogCache::default();
        let mut thread =
            Self { conn: None, location, log, head_watch, readers, cache, pages: 0, checkpoint_at };
        thread.opened(conn)?;
        Ok(thread)
    }

    fn opened(&mut self, conn: Conn) -> Result<(), Fault> {
        self.pages = 0;
        self.cache.clear();
        self.checkpoint_at = checkpoint::CHECKPOINT_PAGES;
        self.conn = Some(conn);
        Ok(())
    }

    /// Runs until all handles are dropped.
    pub(crate) fn run(mut self, mut requests: mpsc::UnboundedReceiver<Request>) {
        let (mut group, mut next) = (Vec::new(), None);
        while let Some(first) = next.take().or_else(|| requests.blocking_recv()) {
            let first = match first {
                Request::Write(job) => job,
                Request::Close(answer) => {
                    let _ = answer.send(self.close());
                    continue;
                }
            };
            let (mut bytes, alone) = (first.weight(), first.needs_own_transaction());
            group.push(first);
            while !alone
                && group.len() < GROUP_JOBS
                && let Ok(request) = requests.try_recv()
            {
                match request {
                    Request::Write(job)
                        if !job.needs_own_transaction() && bytes + job.weight() <= GROUP_BYTES =>
                    {
                        bytes += job.weight();
                        group.push(job);
                    }
                    other => {
                        next = Some(other);
                        break;
                    }
                }
            }
            self.pages = self.pages.saturating_add(checkpoint::estimate_pages(group.len(), bytes));
            self.commit_group(&mut group);
        }
        // No caller is left to receive an error. The WAL holds all acknowledged writes.
        let _ = self.close();
    }

    /// Writes the WAL back to the main file and closes all connections, as far as other processes allow.
    fn close(&mut self) -> Result<(), Fault> {
        let until = Instant::now() + self.location.patience;
        self.head_watch.release(until);
        self.readers.release(until);
        let done = self.write_back(until);
        self.conn = None;
        self.cache.clear();
        self.location.file.closed();
        if let Err(fault) = &done {
            tracing::warn!(file = %self.location.path.display(), %fault, "the checkpoint at close failed");
        }
        done
    }

    fn write_back(&mut self, until: Instant) -> Result<(), Fault> {
        if self.conn.is_none() {
            return Ok(());
        }
        if let Err(fault) = self.location.file.check() {
            // Closing the connection must not write to the file that is now at the path.
            self.conn()?.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
            return Err(fault);
        }
        self.begin_transaction()?;
        let conn = self.conn()?;
        if let Err(fault) = mark_complete(conn).and_then(|()| self.commit_transaction()) {
            self.roll_back();
            return Err(fault);
        }
        let conn = self.conn()?;
        conn.busy_timeout(until.saturating_duration_since(Instant::now()))?;
        checkpoint::run(conn, checkpoint::Mode::Truncate)?;
        Ok(())
    }

    fn conn(&self) -> Result<&Conn, Fault> {
        // `prepare` opens it before each group.
        self.conn.as_ref().ok_or_else(|| Fault::new(StoreErrorKind::Failed, "the file is closed"))
    }

    /// Commits a group and reports the result to each caller.
    fn commit_group(&mut self, group: &mut Vec<Box<dyn Job>>) {
        let mut end = self.try_commit(group, IdCheck::OnInsert);
        if let Err(GroupError::OneJob(fault)) = &end
            && fault.is(ErrorCode::ConstraintViolation)
        {
            end = self.try_commit(group, IdCheck::BeforeInsert);
        }
        match end {
            Ok(last) => {
                self.head_watch.publish(last.number);
                group.drain(..).for_each(Job::finish);
            }
            Err(GroupError::OneJob(_)) if group.len() > 1 => {
                for job in std::mem::take(group) {
                    self.commit_group(&mut vec![job]);
                }
            }
            Err(GroupError::OneJob(fault) | GroupError::Whole(fault)) => {
                group.drain(..).for_each(|job| job.fail(&fault));
            }
        }
    }

    /// Returns the log's last event after the commit. On failure, leaves the file as it was.
    fn try_commit(&mut self, group: &mut [Box<dyn Job>], id_check: IdCheck) -> Result<LastEvent, GroupError> {
        self.prepare().map_err(|fault| {
            self.roll_back();
            GroupError::Whole(fault)
        })?;
        let written = self.write(group, id_check).map_err(GroupError::OneJob);
        let done = written.and_then(|head| {
            self.commit_transaction().map_err(GroupError::Whole)?;
            // A commit to a file that no longer has a name is lost.
            self.location.file.check().map(|()| head).map_err(GroupError::Whole)
        });
        match &done {
            Ok(head) => self.cache.committed(*head, checkpoint::Wal::Followed),
            Err(_) => self.roll_back(),
        }
        done
    }

    /// Starts the transaction of a group, after the main file records that commits follow in the WAL.
    fn prepare(&mut self) -> Result<(), Fault> {
        if self.conn.is_none() {
            let conn = self.location.reopen_writer(self.log)?;
            self.opened(conn)?;
        }
        self.location.file.check()?;
        self.begin_transaction()?;
        self.refresh()?;
        let checkpoint_due = self.pages >= self.checkpoint_at;
        if checkpoint_due || self.cache.wal() == Some(checkpoint::Wal::Complete) {
            let head = self.refresh()?;
            checkpoint::mark_expected(self.conn()?)?;
            // This commit has no writes of the group, so their outcome stays known if it fails.
            self.conn()?.execute_batch("COMMIT")?;
            self.cache.committed(head, checkpoint::Wal::Expected);
            self.checkpoint_at =
                checkpoint::run(self.conn()?, checkpoint::Mode::Passive).unwrap_or_else(|fault| {
                    // The WAL keeps the commits while the disk has space for it.
                    tracing::warn!(file = %self.location.path.display(), %fault, "the checkpoint failed");
                    self.pages.saturating_add(checkpoint::RETRY_PAGES)
                });
            if self.checkpoint_at == checkpoint::CHECKPOINT_PAGES {
                self.pages = 0;
            }
            self.begin_transaction()?;
            self.refresh()?;
        }
        if self.cache.wal() != Some(checkpoint::Wal::Followed) {
            checkpoint::mark_followed(self.conn()?)?;
        }
        Ok(())
    }

    fn refresh(&mut self) -> Result<LastEvent, Fault> {
        let Self { conn: Some(conn), cache, .. } = self else {
            return self.conn().map(|_| LastEvent::default());
        };
        cache.refresh(conn)
    }

    fn write(&mut self, group: &mut [Box<dyn Job>], id_check: IdCheck) -> Result<LastEvent, Fault> {
        let Self { conn: Some(conn), cache, log, head_watch, .. } = self else {
            return self.conn().map(|_| LastEvent::default());
        };
        let mut tx = Tx::new(conn, *log, cache, id_check, head_watch.head())?;
        for job in group {
            job.run(&mut tx)?;
        }
        Ok(tx.last())
    }

    fn commit_transaction(&self) -> Result<(), Fault> {
        let commit = self.conn()?.prepare_cached("COMMIT").and_then(|mut commit| commit.execute(()));
        commit.map_err(|error| Fault::from(error).while_committing())?;
        Ok(())
    }

    /// Takes the write lock, and waits while another process holds it.
    ///
    /// SQLite's busy handler sleeps up to 100 ms at a time. Against a process that commits one group after another it
    /// would rarely retry at the right moment.
    fn begin_transaction(&self) -> Result<(), Fault> {
        let conn = self.conn()?;
        let started = Instant::now();
        let mut waited = false;
        loop {
            let begin = conn.prepare_cached("BEGIN IMMEDIATE").and_then(|mut begin| begin.execute(()));
            match begin.map_err(Fault::from) {
                Ok(_) => {
                    if waited {
                        tracing::trace!(waited = ?started.elapsed(), "another process held the write lock");
                    }
                    return Ok(());
                }
                Err(fault)
                    if fault.is(ErrorCode::DatabaseBusy) && started.elapsed() < self.location.patience =>
                {
                    waited = true;
                    std::thread::sleep(retry_pause());
                }
                Err(fault) => {
                    let (file, waited) = (self.location.path.display(), started.elapsed());
                    tracing::warn!(%file, ?waited, %fault, "cannot take the write lock");
                    return Err(fault);
                }
            }
        }
    }

    fn roll_back(&mut self) {
        self.cache.clear();
        // SQLite has often rolled back by itself. If the rollback fails, the next `BEGIN` reports it.
        if let Some(conn) = &self.conn
            && !conn.is_autocommit()
        {
            let _ = conn.execute_batch("ROLLBACK");
        }
    }
}

/// Sets [`checkpoint::Wal::Complete`], unless this program must not write to the file.
fn mark_complete(conn: &Conn) -> Result<(), Fault> {
    // A newer program may have migrated the file to tables that this one can only read.
    if schema::current(conn)?.writable().is_err() || checkpoint::state(conn)? == checkpoint::Wal::Complete {
        return Ok(());
    }
    checkpoint::mark_complete(conn)
}

/// Returns the pause between two attempts to take the write lock. It is about as short as the gap between two groups of
/// another process, and random, so that two waiting processes do not stay in step.
pub(crate) fn retry_pause() -> Duration {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Duration::from_micros(50 + u64::from(now.subsec_nanos() / 100 % 100))
}
