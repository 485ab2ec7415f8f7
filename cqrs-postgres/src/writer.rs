//! The one task of a partition that writes: it takes all that waits, and commits it together.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use cqrs_core::error::{StoreError, StoreErrorKind};
use cqrs_core::event::NewEvent;
use cqrs_core::id::{Position, StreamId, Version};
use cqrs_core::store::{Append, AppendError, Appended};
use foldhash::HashMap;
use futures_util::future::{self, Either};
use tokio::sync::{mpsc, oneshot};
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;
use uuid::Uuid;

use crate::append::{self, Facts, Ground, HEAD, Outcome, Start, Target, Written};
use crate::at_once::at_once;
use crate::drive::Drive;
use crate::error::Fault;
use crate::guard::number;
use crate::inline::{self, Effects, Held, Statements};
use crate::known::Shared;
use crate::limit::{again, until, within};
use crate::news::{self, News};
use crate::open::{Conn, Place, Sql, of_one};
use crate::readers::{Lanes, Share};
use crate::schema::Meta;
use crate::sent::{self, Came, Landed, Sent};
use crate::statements::{self, Refused, UNGUARD};
use crate::turns::Turns;

const DOING: &str = "append";
pub(crate) const RESERVING: &str = "reserve the next append";

/// An append with whoever waits for it.
#[derive(Debug)]
pub(crate) struct Job {
    append: Append,
    /// The highest head that this handle had reported when the append was asked for. Events at or below it were
    /// written by another append.
    floor: i64,
    answer: oneshot::Sender<Outcome>,
}

impl Job {
    pub(crate) fn append(&self) -> &Append {
        &self.append
    }

    /// About how many bytes it writes, so that a group does not grow too large.
    fn weight(&self) -> usize {
        let of_texts = |event: &NewEvent| {
            event.metadata.size() + event.tags.iter().map(|tag| tag.as_str().len()).sum::<usize>()
        };
        self.append.events.iter().map(|event| event.payload.len() + of_texts(event) + 500).sum()
    }

    fn tell(self, outcome: Outcome) {
        // Nobody listens if the future was dropped meanwhile.
        let _ = self.answer.send(outcome);
    }
}

/// The next turn to write, for whoever has reserved it.
pub(crate) type Turn = oneshot::Sender<Job>;

/// Somebody who waits for such a turn.
type Reserving = oneshot::Sender<Result<Turn, StoreError>>;

/// What the task that writes is asked for.
#[derive(Debug)]
pub(crate) enum Wish {
    Append(Job),
    Reserve(Reserving),
}

/// The way to the task that writes.
#[derive(Clone, Debug)]
pub(crate) struct Writer(mpsc::UnboundedSender<Wish>);

impl Writer {
    /// The way in, and what the task is to be given.
    ///
    /// There is no bound: each append that waits is a future that its caller has, and one that waited for room and is
    /// not polled would keep that room from others.
    pub(crate) fn new() -> (Self, mpsc::UnboundedReceiver<Wish>) {
        let (way, jobs) = mpsc::unbounded_channel();
        (Self(way), jobs)
    }

    /// Waits until nobody else writes. Nobody does until what this gives is dropped, or has appended.
    pub(crate) async fn reserve(&self) -> Result<Turn, StoreError> {
        let (answer, turn) = oneshot::channel();
        if self.0.send(Wish::Reserve(answer)).is_err() {
            return Err(stopped(StoreErrorKind::Failed));
        }
        turn.await.unwrap_or_else(|_| Err(stopped(StoreErrorKind::Failed)))
    }

    /// Has something appended in a turn that was reserved, or with the next group if there is none or it was
    /// taken back. If the future is dropped, it is appended as a whole or not at all.
    pub(crate) async fn append_on(
        &self,
        turn: Option<Turn>,
        append: Append,
        floor: i64,
    ) -> Result<Appended, AppendError> {
        let (answer, outcome) = oneshot::channel();
        let job = Job { append, floor, answer };
        let left = match turn {
            Some(turn) => turn.send(job).err(),
            None => Some(job),
        };
        if let Some(job) = left
            && self.0.send(Wish::Append(job)).is_err()
        {
            return Err(stopped(StoreErrorKind::Failed).into());
        }
        // The task ends in the midst of its work only with the runtime that it was started on.
        outcome.await.unwrap_or_else(|_| Err(stopped(StoreErrorKind::Unknown).into()))
    }
}

fn stopped(kind: StoreErrorKind) -> StoreError {
    StoreError::new(
        kind,
        format!("cannot {DOING}: the writing task of this store has stopped with its runtime"),
    )
}

/// The connections that were lost while a commit was under way, and of which the writer could not find out in time
/// what became of it. What was sent on them may still arrive and be appended later, so they are fenced before any
/// read answers that something is not there.
#[derive(Debug, Default)]
pub(crate) struct Lost {
    some: AtomicBool,
    all: std::sync::Mutex<Vec<(Target, Uuid)>>,
}

static FENCE: Sql = Sql::new("SELECT {s}.fence_v3($1, $2)", &[Type::INT8, Type::UUID]);

impl Lost {
    fn add(&self, target: Target, writer: Uuid) {
        let mut all = self.lock();
        if !all.iter().any(|(_, lost)| *lost == writer) {
            all.push((target, writer));
        }
        self.some.store(true, Ordering::SeqCst);
    }

    /// Waits until nothing that was lost can still take place.
    pub(crate) async fn settle(&self, lanes: &Arc<Lanes>) -> Result<(), Fault> {
        if !self.some.load(Ordering::SeqCst) {
            return Ok(());
        }
        let all = self.lock().clone();
        for (target, writer) in all {
            tracing::debug!(%writer, "fencing a connection that was lost while it committed");
            let fence = move |conn: Share| async move { fence(&conn, target, writer).await };
            lanes.read("wait for a commit whose connection was lost", fence).await.map_err(|fault| {
                let words =
                    format!("a commit of this process whose connection was lost is still open: {fault}");
                let kind = fault.kind();
                fault.told_as(kind, words)
            })?;
            let mut left = self.lock();
            left.retain(|(_, lost)| *lost != writer);
            self.some.store(!left.is_empty(), Ordering::SeqCst);
        }
        Ok(())
    }

    // Nothing in here can be left half-changed by a panic.
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(Target, Uuid)>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes sure that nothing that a writer has sent can still take effect. Waits for the lock at most as long as the
/// connection's limits allow.
async fn fence(conn: &Conn, target: Target, writer: Uuid) -> Result<(), Fault> {
    conn.ready(&[&FENCE]).await?;
    again("fence a writer", || async {
        conn.transaction(conn.row(&FENCE, &[&target.lock, &writer])).await.map(drop)
    })
    .await
}

/// How long a partition keeps its connection while it writes and others wait for one.
const HOLD: Duration = Duration::from_millis(200);

/// The task's own side.
#[derive(Debug)]
pub(crate) struct Task {
    place: Arc<Place>,
    meta: Meta,
    target: Target,
    news: Arc<News>,
    lost: Arc<Lost>,
    conn: Option<Arc<Conn>>,
    drive: Drive,
    /// When the connection was opened.
    since: Instant,
    known: Shared,
    /// The connection that was lost last while it committed.
    broken: Option<Uuid>,
}

/// What is to be committed together.
#[derive(Default)]
struct Group {
    jobs: Vec<Job>,
    bytes: usize,
    /// The first of the next group, if it would have made this one too large.
    next: Option<Job>,
    /// Those who have their turn behind it.
    reserving: Vec<Reserving>,
}

impl Group {
    fn push(&mut self, job: Job) {
        let weight = job.weight();
        if !self.jobs.is_empty() && self.bytes + weight > GROUP_BYTES && self.next.is_none() {
            self.next = Some(job);
            return;
        }
        self.bytes += weight;
        self.jobs.push(job);
    }

    fn take_up(&mut self, wish: Wish) {
        match wish {
            Wish::Append(job) => self.push(job),
            Wish::Reserve(reserving) => self.reserving.push(reserving),
        }
    }

    fn fill(&mut self, jobs: &mut Jobs, share: usize) {
        while !self.is_full(share)
            && let Ok(next) = jobs.try_recv()
        {
            self.take_up(next);
        }
    }

    /// Gives those who were just told the time to send the next one, as long as there are such: another thread
    /// may be at one of them.
    async fn wait_for(&mut self, jobs: &mut Jobs, share: usize, others: usize) {
        let mut in_vain = 0;
        while self.jobs.len() < share.min(others) && in_vain < YIELDS {
            let before = self.jobs.len();
            tokio::task::yield_now().await;
            self.fill(jobs, share);
            in_vain = if self.jobs.len() > before { 0 } else { in_vain + 1 };
        }
    }

    fn is_full(&self, share: usize) -> bool {
        self.jobs.len() >= share || self.bytes >= GROUP_BYTES || self.next.is_some()
    }

    /// Those that somebody still waits for. Whoever dropped the future has left it open whether it takes
    /// place.
    fn take(&mut self) -> Vec<Job> {
        self.bytes = 0;
        // The next one will be about as large.
        let next = Vec::with_capacity(self.jobs.len());
        let mut jobs = std::mem::replace(&mut self.jobs, next);
        jobs.retain(|job| !job.answer.is_closed());
        if let Some(next) = self.next.take() {
            self.push(next);
        }
        jobs
    }
}

type Jobs = mpsc::UnboundedReceiver<Wish>;

/// A group that has to be written in another way.
struct Back {
    group: Vec<Job>,
    /// The connection that it may have been committed on already.
    lost: Option<Uuid>,
}

impl From<Vec<Job>> for Back {
    fn from(group: Vec<Job>) -> Self {
        Self { group, lost: None }
    }
}

/// Groups that are on their way, in their order, and those that came back.
#[derive(Default)]
struct Line {
    sent: VecDeque<Sent>,
    /// To be written in another way, when nothing is on its way any more.
    back: Vec<Back>,
    /// So many that will land next may not be as durable as they should be.
    doubted: usize,
    /// What was written and told. It is thrown away while the server writes the next group.
    spent: Vec<Append>,
}

impl Line {
    fn size(&self) -> usize {
        self.sent.iter().map(|sent| sent.size).sum()
    }

    /// Waits until the first has landed, or for a job, if one more has `room`.
    async fn next(&mut self, jobs: &mut Jobs, room: bool) -> Next {
        let Some(first) = self.sent.front_mut() else {
            return jobs.recv().await.map_or(Next::Over, Next::Wish);
        };
        if !room || jobs.is_closed() {
            return Next::Landed(first.landed().await);
        }
        match future::select(first.landed(), pin!(jobs.recv())).await {
            Either::Left((landed, _)) => Next::Landed(landed),
            Either::Right((Some(wish), _)) => Next::Wish(wish),
            Either::Right((None, landing)) => Next::Landed(landing.await),
        }
    }
}

enum Next {
    Landed(Landed),
    Wish(Wish),
    /// Nobody is left who could send.
    Over,
}

/// How many groups are on their way at once: one that the server writes, and the next.
const SENT: usize = 2;

/// What one transaction holds at most, so that nobody waits long for it.
const GROUP_JOBS: usize = 1_024;
const GROUP_BYTES: usize = 4 << 20;

/// After this a turn is taken back that nobody has used: everybody who writes waits for it.
const RESERVED: Duration = Duration::from_millis(500);

/// How often in a row it yields in vain, until it no longer waits for those who may send.
const YIELDS: u32 = 4;

/// So many are told one by one.
const FEW: usize = 2;

/// How often a group is tried that the database's own troubles stopped, or whose connection was lost.
const TRIES: u32 = 5;

/// The pauses between two looks for what became of a commit: at first, and at the most.
const LOOK: Duration = Duration::from_millis(20);
const LOOK_LATER: Duration = Duration::from_secs(1);

/// Of the events asked for, those that are in the log.
static WRITTEN: Sql = Sql::new(
    "SELECT e.id, e.version, e.position FROM {s}.events e WHERE e.id = ANY ($1)",
    &[Type::UUID_ARRAY],
);

impl Task {
    pub(crate) fn new(
        place: Arc<Place>,
        meta: Meta,
        target: Target,
        news: Arc<News>,
        lost: Arc<Lost>,
    ) -> Self {
        let (known, drive) = (Shared::default(), Drive::default());
        Self {
            place,
            meta,
            target,
            news,
            lost,
            conn: None,
            drive,
            since: Instant::now(),
            known,
            broken: None,
        }
    }

    /// Works until nobody is left who could send.
    pub(crate) async fn run(mut self, mut jobs: Jobs) {
        let (mut line, mut group, mut under_way) = (Line::default(), Group::default(), 1);
        let mut turns = Turns::new();
        // Whether the group cannot be sent behind what is on its way.
        let mut waits = false;
        loop {
            under_way = under_way.max(line.size() + group.jobs.len() + jobs.len());
            let share = turns.share(under_way).map_or(GROUP_JOBS, |share| share.min(GROUP_JOBS));
            group.fill(&mut jobs, share);
            if !(group.jobs.is_empty() && line.sent.is_empty()) {
                let others = under_way.saturating_sub(line.size());
                group.wait_for(&mut jobs, share, others).await;
            }
            if line.sent.is_empty() {
                for Back { group, lost } in std::mem::take(&mut line.back) {
                    Box::pin(self.commit(group, lost)).await;
                }
                while !group.reserving.is_empty() && !group.jobs.is_empty() {
                    let jobs = group.take();
                    Box::pin(self.commit(jobs, None)).await;
                }
                for reserving in std::mem::take(&mut group.reserving) {
                    Box::pin(self.reserve(reserving)).await;
                }
            }
            let may_go = match line.sent.len() {
                0 => !group.jobs.is_empty(),
                sent => {
                    sent < SENT
                        && group.is_full(share)
                        && !waits
                        && line.back.is_empty()
                        && group.reserving.is_empty()
                }
            };
            if may_go {
                let behind = !line.sent.is_empty();
                match self.send(group.take(), behind).await {
                    Ok(sent) => line.sent.extend(sent),
                    Err(jobs) if behind => {
                        jobs.into_iter().for_each(|job| group.push(job));
                        waits = true;
                    }
                    Err(jobs) => {
                        under_way = jobs.len();
                        Box::pin(self.commit(jobs, None)).await;
                    }
                }
                continue;
            }
            line.spent.clear();
            let room = !group.is_full(share) && !waits && line.back.is_empty() && group.reserving.is_empty();
            let idle = line.sent.is_empty() && self.conn.is_some();
            let server = Arc::clone(&self.place.server);
            let next = async {
                let next = pin!(line.next(&mut jobs, room));
                if !idle {
                    return Some(next.await);
                }
                match future::select(next, pin!(server.is_wanted())).await {
                    Either::Left((next, _)) => Some(next),
                    Either::Right(_) => None,
                }
            };
            let Some(next) = self.drive.along(next).await else {
                self.leave();
                continue;
            };
            match next {
                Next::Wish(wish) => group.take_up(wish),
                Next::Over => break,
                Next::Landed(landed) => {
                    waits = false;
                    turns.landed(landed.group.len(), under_way, Instant::now());
                    under_way = line.size() + group.jobs.len() + jobs.len();
                    line.sent.pop_front();
                    self.land(landed, &mut line).await;
                    // Others wait for a connection, and this one has had its time.
                    let is_wanted = line.sent.is_empty() && self.place.server.has_waiting_writers();
                    if is_wanted && self.since.elapsed() >= HOLD {
                        self.leave();
                    }
                }
            }
        }
        // It says good-bye to the server.
        self.leave();
    }

    /// Leaves the connection to others.
    fn leave(&mut self) {
        self.conn = None;
        std::mem::take(&mut self.drive).on_its_own();
    }

    /// Sends a group, if it can be assumed what it rests on; if not, it comes back.
    async fn send(&mut self, group: Vec<Job>, behind: bool) -> Result<Option<Sent>, Vec<Job>> {
        if group.is_empty() {
            return Ok(None);
        }
        // Behind PgBouncer, what is sent behind another may come to another server process; and so it would on
        // a new connection.
        if self.place.bouncer || (behind && self.there().is_none()) {
            return Err(group);
        }
        let conn = match self.connected().await {
            Ok(conn) => conn,
            Err(fault) => {
                fail(group, &fault);
                return Ok(None);
            }
        };
        if !behind {
            conn.doubted();
        }
        // It goes out at once, and not only when it is waited for.
        let limit = self.place.timeouts.client();
        let known = self.known.clone();
        let sending = sent::send(conn, self.target, known, self.floor(), group, limit);
        self.drive.along(sending).await.map(Some)
    }

    /// Tells those of a group that has landed, unless it has to be tried otherwise.
    async fn land(&mut self, Landed { group, conn, came }: Landed, line: &mut Line) {
        if conn.doubted() {
            line.doubted = 1 + line.sent.len();
        }
        let doubted = line.doubted > 0;
        line.doubted = line.doubted.saturating_sub(1);
        match came {
            Came::Written(outcomes, head) => {
                self.news.publish(self.target.partition, head);
                match doubted {
                    false => line.spent = tell(group, outcomes).await,
                    true => fail(group, &doubt()),
                }
            }
            Came::Partly(outcomes, head) => {
                self.news.publish(self.target.partition, head);
                if doubted {
                    return fail(group, &doubt());
                }
                let (mut told, mut answers, mut again) = (Vec::new(), Vec::new(), Vec::new());
                for (job, outcome) in group.into_iter().zip(outcomes) {
                    match outcome {
                        Some(outcome) => {
                            told.push(job);
                            answers.push(outcome);
                        }
                        None => again.push(job),
                    }
                }
                if !again.is_empty() {
                    line.back.push(again.into());
                }
                line.spent = tell(told, answers).await;
            }
            Came::Failed(fault) => {
                let fault = fault.while_committing();
                let is_unknown = fault.kind() == StoreErrorKind::Unknown;
                if is_unknown || fault.leaves_server() {
                    tracing::warn!(connection = %conn.id, error = %fault, "giving the writer's connection up");
                    self.conn = self.conn.take().filter(|current| current.id != conn.id);
                }
                let again =
                    fault.passes() || fault.leaves_server() || (group.len() > 1 && spoilt_by_one(&fault));
                match again || is_unknown {
                    true => line.back.push(Back { group, lost: is_unknown.then_some(conn.id) }),
                    false => fail(group, &fault),
                }
            }
            // It is to be seen under the lock who has lost.
            Came::Moved | Came::NotSent => line.back.push(group.into()),
        }
    }

    /// The highest head that this handle has reported. A log that ends before it was rewound.
    fn floor(&self) -> i64 {
        self.news.head(self.target.partition)
    }

    /// The connection, if it has not ended.
    fn there(&self) -> Option<&Arc<Conn>> {
        self.conn.as_ref().filter(|conn| !conn.is_lost())
    }

    /// The connection, or a new one if it has ended.
    async fn connected(&mut self) -> Result<Arc<Conn>, Fault> {
        if let Some(conn) = self.there() {
            return Ok(Arc::clone(conn));
        }
        // What was lost makes room for the new one.
        self.conn = None;
        let (conn, mut drive) = self.place.connect_writer(self.meta).await?;
        self.since = Instant::now();
        let limit = self.place.timeouts.client();
        drive.along(within(limit, "prepare statements", conn.ready(&append::ALL))).await?;
        self.drive = drive;
        Ok(Arc::clone(self.conn.insert(Arc::new(conn))))
    }

    /// Commits a group and tells each of it what came of it. If its connection was lost while it committed, it is
    /// found out first what became of it, and committed again if nothing did.
    async fn commit(&mut self, mut group: Vec<Job>, mut lost: Option<Uuid>) {
        for _ in 0..TRIES {
            if let Some(writer) = lost.take() {
                group = self.resolve(writer, group).await;
            }
            // Statements of a user's own may spoil the transaction that they are part of.
            if group.len() > 1 && group.iter().any(|job| inline::has_statements(&job.append)) {
                return self.commit_each(group).await;
            }
            if group.is_empty() {
                return;
            }
            self.broken = None;
            match self.attempt(&group).await {
                Ok(outcomes) => return drop(tell(group, outcomes).await),
                // One of several may be what the database does not take; the others may do better alone.
                Err(fault) if group.len() > 1 && spoilt_by_one(&fault) => {
                    return self.commit_each(group).await;
                }
                Err(fault) => match self.broken.take() {
                    Some(writer) => lost = Some(writer),
                    None => return fail(group, &fault),
                },
            }
        }
        if let Some(writer) = lost {
            let group = self.resolve(writer, group).await;
            fail(group, &not_written(TRIES));
        }
    }

    async fn commit_each(&mut self, group: Vec<Job>) {
        for job in group {
            Box::pin(self.commit(vec![job], None)).await;
        }
    }

    async fn attempt(&mut self, group: &[Job]) -> Result<Vec<Outcome>, Fault> {
        let appends: Vec<&Append> = group.iter().map(|job| &job.append).collect();
        let mut tried = 1;
        loop {
            let done = self.once(&appends).await;
            if let Err(fault) = &done
                && (fault.passes() || fault.leaves_server())
                && self.broken.is_none()
                && tried < TRIES
            {
                tracing::debug!(tried, error = %fault, "appending again");
                tokio::time::sleep(Duration::from_millis(1 << tried)).await;
                tried += 1;
                continue;
            }
            return done;
        }
    }

    /// Finds out what became of a group whose connection was lost while it committed, tells those that were written,
    /// and gives the others back. If it cannot be found out in time, all are told so.
    async fn resolve(&mut self, writer: Uuid, group: Vec<Job>) -> Vec<Job> {
        tracing::warn!(connection = %writer, appends = group.len(), "a connection was lost while it committed; looking for its appends");
        let limit = self.place.timeouts.resolve;
        let looked = until(limit, Box::pin(self.look_for(writer, &group))).await;
        let fault = match looked {
            Some(Ok(found)) => {
                let (mut told, mut outcomes, mut others) = (Vec::new(), Vec::new(), Vec::new());
                for (job, appended) in group.into_iter().zip(found) {
                    match appended {
                        Some(appended) => {
                            self.news.publish(self.target.partition, number(appended.position));
                            told.push(job);
                            outcomes.push(Ok(appended));
                        }
                        None if job.answer.is_closed() => {}
                        None => others.push(job),
                    }
                }
                tracing::info!(connection = %writer, written = told.len(), not_written = others.len(), "found out what became of the lost commit");
                drop(tell(told, outcomes).await);
                return others;
            }
            Some(Err(fault)) => fault,
            None => Fault::timeout("find out what became of a lost commit", limit),
        };
        // A statement may still be waiting on it.
        self.conn = None;
        self.drive = Drive::default();
        tracing::warn!(connection = %writer, error = %fault, "cannot find out what became of a lost commit");
        self.lost.add(self.target, writer);
        let words = format!(
            "the connection was lost while committing, and whether the append took place could not be found out within {limit:?}: {fault}"
        );
        fail(group, &fault.told_as(StoreErrorKind::Unknown, words));
        Vec::new()
    }

    /// What was written of each append of a group, once nothing of it can be written any more. Tries until the server
    /// answers, or says what will not pass.
    async fn look_for(&mut self, writer: Uuid, group: &[Job]) -> Result<Vec<Option<Appended>>, Fault> {
        let ids: Vec<Uuid> = group.iter().flat_map(|job| &job.append.events).map(|event| event.id).collect();
        let mut pause = LOOK;
        let found = loop {
            match self.look_once(writer, &ids).await {
                Ok(found) => break found,
                Err(fault) if fault.kind() == StoreErrorKind::Unavailable => {
                    tracing::debug!(connection = %writer, error = %fault, "waiting to find out what became of a lost commit");
                    if fault.ends_connection() || fault.leaves_server() {
                        self.conn = None;
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LOOK_LATER);
                }
                Err(fault) => return Err(fault),
            }
        };
        group.iter().map(|job| self.was_written(job, &found)).collect()
    }

    async fn look_once(&mut self, writer: Uuid, ids: &[Uuid]) -> Result<HashMap<Uuid, (i64, i64)>, Fault> {
        let conn = self.connected().await?;
        let target = self.target;
        let look = async {
            fence(&conn, target, writer).await?;
            // A statement behind the fence: it sees all that this writer has committed.
            let rows = conn.rows(&WRITTEN, &[&ids]).await?;
            let one = |row: &Row| Ok((row.try_get(0)?, (row.try_get(1)?, row.try_get(2)?)));
            rows.iter().map(one).collect()
        };
        self.drive.along(within(self.place.timeouts.client(), "look for appends", look)).await
    }

    /// What an append gave, if its events are in the log. One without events is not found, and is to be made again: its
    /// key says whether it took place. So is one whose events were there before: it repeats another append, which its
    /// key or the ids of its events show.
    fn was_written(
        &self,
        Job { append, floor, .. }: &Job,
        found: &HashMap<Uuid, (i64, i64)>,
    ) -> Result<Option<Appended>, Fault> {
        let mut versions: Vec<(StreamId, Version)> = Vec::new();
        let (mut there, mut last) = (0, 0);
        for event in &append.events {
            let Some((version, position)) = found.get(&event.id) else { continue };
            there += 1;
            last = last.max(*position);
            let version = Version::new(version.cast_unsigned());
            match versions.iter_mut().rev().find(|(stream, _)| *stream == event.stream) {
                Some((_, last)) => *last = version,
                None => versions.push((event.stream.clone(), version)),
            }
        }
        let Target { log, partition, .. } = self.target;
        match there {
            0 => Ok(None),
            _ if last <= *floor => Ok(None),
            all if all == append.events.len() => {
                let event = append.events.last().map(|event| event.id);
                let position = Position::new(last.cast_unsigned());
                let owner = append.owner.clone();
                Ok(Some(Appended { log, partition, position, event, versions, owner }))
            }
            _ => Err(Fault::corrupt("an append was written in part")),
        }
    }

    /// Tries once. The connection is put back if it can be used again.
    async fn once(&mut self, group: &[&Append]) -> Result<Vec<Outcome>, Fault> {
        let conn = self.connected().await?;
        self.conn = None;
        let mut drive = std::mem::take(&mut self.drive);
        let done = drive.along(Box::pin(self.on(conn, group, false))).await;
        self.drive = drive;
        done
    }

    /// Takes the lock for somebody, and keeps it until their append is written, or is not to come.
    async fn reserve(&mut self, reserving: Reserving) {
        if reserving.is_closed() {
            return;
        }
        let conn = match self.connected().await {
            Ok(conn) => conn,
            Err(fault) => return refuse(reserving, &fault),
        };
        self.conn = None;
        let mut drive = std::mem::take(&mut self.drive);
        self.broken = None;
        let left = drive.along(Box::pin(self.give_turn(conn, reserving))).await;
        self.drive = drive;
        let lost = self.broken.take();
        Box::pin(self.commit(left.into_iter().collect(), lost)).await;
    }

    /// Gives back what has to be tried once more.
    async fn give_turn(&mut self, conn: Arc<Conn>, reserving: Reserving) -> Option<Job> {
        let limit = self.place.timeouts.client();
        let begin = async {
            self.begin(&conn, self.guards(true, &[])).await?;
            // Taken before the statement: what is reported while its answer is on the way may be past it.
            let floor = self.floor();
            let head: i64 = conn.row(&HEAD, &[&i32::from(self.target.partition.get())]).await?.try_get(0)?;
            news::not_rewound(self.target.partition, floor, head)
        };
        let begun = within(limit, RESERVING, begin).await;
        if let Err(fault) = begun {
            tracing::debug!(partition = %self.target.partition, error = %fault, "cannot reserve the next append");
            if !fault.ends_connection() && !fault.leaves_server() {
                self.give_back(conn).await;
            }
            refuse(reserving, &fault);
            return None;
        }
        let (turn, mut job) = oneshot::channel();
        let used = match reserving.send(Ok(turn)) {
            Ok(()) => match until(RESERVED, &mut job).await {
                Some(job) => job.ok(),
                // It is taken back, unless it has come just now.
                None => {
                    tracing::info!(partition = %self.target.partition, "a reservation was not used within {RESERVED:?}; taken back");
                    job.close();
                    job.try_recv().ok()
                }
            },
            Err(_) => None,
        };
        let Some(job) = used else {
            self.give_back(conn).await;
            return None;
        };
        match self.on(conn, &[&job.append], true).await {
            Ok(outcomes) => drop(tell(vec![job], outcomes).await),
            Err(fault) if fault.passes() || fault.leaves_server() || self.broken.is_some() => {
                return Some(job);
            }
            Err(fault) => fail(vec![job], &fault),
        }
        None
    }

    /// Ends a transaction in which nothing was written.
    async fn give_back(&mut self, conn: Arc<Conn>) {
        let rollback = Self::end("ROLLBACK", self.guards(true, &[]));
        let rolled_back = async { Ok(conn.client.batch_execute(&rollback).await?) };
        if within(self.place.timeouts.client(), "roll back", rolled_back).await.is_ok() {
            self.conn = Some(conn);
        }
    }

    /// Writes a group on a connection, which has begun and has the lock if it is `reserved`.
    async fn on(
        &mut self,
        conn: Arc<Conn>,
        group: &[&Append],
        reserved: bool,
    ) -> Result<Vec<Outcome>, Fault> {
        if group.iter().any(|append| !append.inline.is_empty()) {
            conn.ready(&inline::ALL).await?;
        }
        conn.doubted();
        let limit = self.place.timeouts.client();
        let done = within(limit, DOING, Box::pin(self.work(&conn, group, reserved))).await;
        // If it took too long, the commit may have been sent.
        let done = done.map_err(|fault| if fault.is_timeout() { fault.while_committing() } else { fault });
        let doubted = conn.doubted();
        let guarded = self.guards(reserved, group);
        match &done {
            Err(fault) if fault.kind() == StoreErrorKind::Unknown => self.broken = Some(conn.id),
            Err(fault) if fault.ends_connection() || fault.leaves_server() => {
                tracing::warn!(connection = %conn.id, error = %fault, "giving the writer's connection up");
            }
            // Nobody knows what statements that were refused have done to the session.
            Err(_) if guarded => {}
            Ok(outcomes) if guarded && outcomes.iter().any(is_of_statements) => {}
            _ => self.conn = Some(conn),
        }
        match done {
            Ok(_) if doubted => Err(doubt()),
            done => done,
        }
    }

    async fn work(&mut self, conn: &Conn, group: &[&Append], reserved: bool) -> Result<Vec<Outcome>, Fault> {
        if self.place.bouncer
            && !reserved
            && let Some(outcomes) = self.in_one(conn, group).await?
        {
            return Ok(outcomes);
        }
        self.in_two(conn, group, reserved).await
    }

    /// Appends what can be assumed to hold, in a transaction that brings its settings along, in one round
    /// trip. `None` if nothing was written because it cannot, or does not.
    async fn in_one(&mut self, conn: &Conn, group: &[&Append]) -> Result<Option<Vec<Outcome>>, Fault> {
        let Some(mut facts) = Facts::assumed(group, &self.target, &self.known.lock()) else {
            return Ok(None);
        };
        let none = Held::default();
        let (mut outcomes, rows) = append::decide(&mut facts, &mut Effects::new(&none), group);
        let block = self.known.lock().block_with(rows.names.iter().copied());
        let begin = self.place.begin();
        // Each is sent when it is first polled, which is in this order.
        let (begun, written, committed) = future::join3(
            conn.client.batch_execute(&begin),
            rows.write(conn, &self.target, Ground::Assumed, block, self.floor()),
            conn.client.batch_execute("COMMIT"),
        )
        .await;
        match of_one(begun, written, committed) {
            Ok(Some(Written { start, .. })) => {
                append::shift(&mut outcomes, start);
                self.remember(&facts, start, start.position);
                self.news.publish(self.target.partition, start.position + facts.head());
                Ok(Some(outcomes))
            }
            // It is to be seen under the lock who has lost.
            Ok(None) => Ok(None),
            Err(fault) if Fault::is(&fault, &SqlState::UNIQUE_VIOLATION) => Ok(None),
            Err(fault) => Err(fault.while_committing()),
        }
    }

    /// Takes the lock, reads what is asked for, decides, and appends: two round trips.
    async fn in_two(
        &mut self,
        conn: &Conn,
        group: &[&Append],
        reserved: bool,
    ) -> Result<Vec<Outcome>, Fault> {
        let done = self.decided(conn, group, reserved).await;
        match done {
            Ok(decided) => decided,
            Err(fault) => {
                // Nothing was written. If this fails too, the connection has ended, and is seen to have.
                if !fault.ends_connection() {
                    let _ = conn.client.batch_execute("ROLLBACK").await;
                }
                Err(fault)
            }
        }
    }

    /// Whether the session writes nothing outside of the transaction of this group, because statements of a
    /// user's own might end it. A turn is reserved before it is known what for. Behind PgBouncer there is no
    /// session to say that of.
    fn guards(&self, reserved: bool, group: &[&Append]) -> bool {
        !self.place.bouncer && (reserved || group.iter().any(|append| inline::has_statements(append)))
    }

    /// Begins, and takes the lock: a statement of its own, so that what is read behind it is newer.
    async fn begin(&self, conn: &Conn, guarded: bool) -> Result<(), Fault> {
        let lock = format!("; SELECT pg_advisory_xact_lock({})", self.target.lock);
        if !guarded {
            return conn.client.batch_execute(&(self.place.begin() + &lock)).await.map_err(Fault::from);
        }
        let begin = self.place.timeouts.begin_writing() + &lock;
        let guard = conn.client.batch_execute(statements::GUARD);
        let (guarded, begun) = future::join(guard, conn.client.batch_execute(&begin)).await;
        Ok(guarded.and(begun)?)
    }

    /// What ends such a transaction.
    fn end(how: &str, guarded: bool) -> String {
        if guarded { format!("{how}; {UNGUARD}") } else { how.to_owned() }
    }

    /// The outer fault came before the commit was sent, the inner one after.
    async fn decided(
        &mut self,
        conn: &Conn,
        group: &[&Append],
        reserved: bool,
    ) -> Result<Result<Vec<Outcome>, Fault>, Fault> {
        let (log, partition) = (self.target.log, self.target.partition);
        let (guarded, floor) = (self.guards(reserved, group), self.floor());
        let begin = async {
            match reserved {
                true => Ok(()),
                false => self.begin(conn, guarded).await,
            }
        };
        // Each is sent when it is first polled, which is in this order.
        let (begun, known, held) = future::join3(
            begin,
            Facts::read(conn, &self.target, group, floor),
            Held::read(conn, partition, inline::names(group)),
        )
        .await;
        begun?;
        let (known, mut held) = (known?, held?);
        held.read_missed(conn, &known, group).await?;
        let mut facts;
        let (outcomes, rows, effects) = loop {
            facts = known.clone();
            let mut effects = Effects::new(&held);
            let (outcomes, rows) = append::decide(&mut facts, &mut effects, group);
            if effects.missing.is_empty() {
                break (outcomes, rows, effects);
            }
            let missing = std::mem::take(&mut effects.missing);
            held.fetch(conn, missing).await?;
        };
        let (commit, rollback) = (Self::end("COMMIT", guarded), Self::end("ROLLBACK", guarded));
        if rows.is_empty() {
            conn.client.batch_execute(&rollback).await?;
            return Ok(Ok(outcomes));
        }
        let block = self.known.lock().block_with(rows.names.iter().copied());
        // Statements of a user's own find the events written; all else travels together.
        let mut written = None;
        if !effects.handlers.is_empty() {
            written = Some(rows.write(conn, &self.target, Ground::Certain, block, floor).await?);
            let run = run_statements(conn, &effects).await?;
            if run.is_err() {
                conn.client.batch_execute(&rollback).await?;
            }
            // What the server has warned of until here are statements of the user's, and not the commit.
            conn.doubted();
            if let Err(refused) = run {
                return Ok(Ok(vec![Err(refused)]));
            }
        }
        // If one fails, the last has rolled back.
        let written = async {
            match written {
                Some(start) => Ok(start),
                None => rows.write(conn, &self.target, Ground::Certain, block, floor).await,
            }
        };
        let (written, effected, committed) =
            future::join3(written, effects.write(conn, log, partition), conn.client.batch_execute(&commit))
                .await;
        let done = written.and_then(|start| effected.map(|()| start)).and_then(|start| {
            committed?;
            Ok(start)
        });
        let written = match done.map_err(Fault::while_committing) {
            Ok(Some(written)) => written,
            Ok(None) => {
                return Ok(Err(Fault::corrupt("a key appeared under the log's lock; nothing was appended")));
            }
            Err(fault) => return Ok(Err(fault)),
        };
        // Positions are counted from the log's begin, as its head was read.
        self.remember(&facts, written.start, 0);
        self.news.publish(self.target.partition, facts.head());
        Ok(Ok(outcomes))
    }

    fn remember(&self, facts: &Facts<'_>, start: Start, counted_from: i64) {
        let mut known = self.known.lock();
        known.end_was(start.as_known);
        facts.remember(&mut known, counted_from);
    }
}

/// Runs the statements of an append's own inline projections. It is alone in its group.
async fn run_statements(conn: &Conn, effects: &Effects<'_>) -> Result<Result<(), AppendError>, Fault> {
    for Statements { consumer, inlined, handlers, first } in &effects.handlers {
        match statements::run(conn, consumer, handlers, *first).await? {
            Ok(()) => {}
            Err(Refused::Store(error)) => return Ok(Err(error.into())),
            Err(Refused::Unfit(unfit)) => return Ok(Err(inlined.refused(unfit))),
        }
    }
    Ok(Ok(()))
}

fn doubt() -> Fault {
    Fault::new(
        StoreErrorKind::Unknown,
        "the server has warned of the commit: it may not be as durable as it should be",
    )
}

fn is_of_statements(outcome: &Outcome) -> bool {
    matches!(outcome, Err(AppendError::Unfit { .. } | AppendError::Behind { .. } | AppendError::Store(_)))
}

fn not_written(tries: u32) -> Fault {
    let words = format!("the connection was lost {tries} times while committing; nothing was written");
    Fault::new(StoreErrorKind::Unavailable, words)
}

/// Whether one append of a group may be what the database refused: for what it holds, and not for the server's state,
/// a missing right, or a full disk, which each of them would meet again.
fn spoilt_by_one(fault: &Fault) -> bool {
    let is_of_content = fault
        .code()
        .is_none_or(|code| ["22", "23", "54", "P0", "0A"].iter().any(|class| code.code().starts_with(class)));
    matches!(fault.kind(), StoreErrorKind::Invalid | StoreErrorKind::Failed)
        && is_of_content
        && !fault.ends_connection()
}

/// Tells all of a group what came of it, and gives back what they wanted to be written.
async fn tell(group: Vec<Job>, outcomes: Vec<Outcome>) -> Vec<Append> {
    let few = group.len() <= FEW;
    let (spent, answers): (Vec<_>, Vec<_>) =
        group.into_iter().map(|Job { append, answer, .. }| (append, answer)).unzip();
    let tell = move || {
        for (answer, outcome) in answers.into_iter().zip(outcomes) {
            // Nobody listens if the future was dropped meanwhile.
            let _ = answer.send(outcome);
        }
    };
    match few {
        true => tell(),
        false => at_once(tell).await,
    }
    spent
}

fn refuse(reserving: Reserving, fault: &Fault) {
    // Nobody listens if the future was dropped meanwhile.
    let _ = reserving.send(Err(fault.told(RESERVING)));
}

fn fail(group: Vec<Job>, fault: &Fault) {
    group.into_iter().for_each(|job| job.tell(Err(fault.told(DOING).into())));
}

#[cfg(test)]
mod tests {
    use cqrs_core::event::{Metadata, Timestamp};
    use cqrs_core::store::Guard;

    use super::*;

    fn job(bytes: usize) -> Option<Job> {
        let event = NewEvent {
            id: Uuid::new_v4(),
            stream: "A/1".parse().ok()?,
            name: "Happened".into(),
            schema_version: 1,
            payload: vec![0; bytes].into(),
            tags: [].into_iter().collect(),
            time: Timestamp::from_micros(0),
            metadata: Arc::new(Metadata::new()),
        };
        let (answer, outcome) = oneshot::channel();
        // Somebody waits for it as long as the test runs.
        std::mem::forget(outcome);
        Some(Job { append: Append::new(vec![event], Guard::Any), floor: 0, answer })
    }

    #[test]
    fn a_group_is_not_larger_than_it_may_be_unless_it_is_one() {
        let sizes = |bytes: &[usize]| {
            let mut group = Group::default();
            let mut sizes = Vec::new();
            let mut jobs: VecDeque<Job> = bytes.iter().filter_map(|bytes| job(*bytes)).collect();
            loop {
                while !group.is_full(100)
                    && let Some(job) = jobs.pop_front()
                {
                    group.push(job);
                }
                match group.take().len() {
                    0 => return sizes,
                    size => sizes.push(size),
                }
            }
        };
        assert_eq!(sizes(&[1 << 20; 10]), [3, 3, 3, 1]);
        assert_eq!(sizes(&[100, 10 << 20, 100]), [1, 1, 1]);
        assert_eq!(sizes(&[100; 150]), [100, 50]);
    }
}
