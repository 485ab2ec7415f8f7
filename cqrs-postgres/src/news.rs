//! Who waits for the head to move, and how other processes' appends are noticed.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use cqrs_core::id::Partition;
use tokio::sync::{Notify, watch};
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use crate::append::HEAD;
use crate::error::Fault;
use crate::open::{Place, Sql};
use crate::readers::{Lanes, Share};

/// How often the log is looked at while somebody waits and nobody can be listened to.
const INTERVAL: Duration = Duration::from_millis(50);
/// The pause between two looks while a connection listens, because a notification can be lost. It doubles from the first
/// to the last while nothing happens, so that many tenants at rest cost little.
const RARE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));
/// How long a message to other processes waits for more to tell.
const PAUSE: Duration = Duration::from_millis(20);
/// How long to wait before a lost ear is tried again.
const AGAIN: Duration = Duration::from_secs(5);

/// The last heads that this handle has heard of. They may lag behind other processes.
#[derive(Debug)]
pub(crate) struct News {
    heads: Vec<watch::Sender<i64>>,
    waiting: AtomicUsize,
    /// Whether the watcher is running.
    watched: AtomicBool,
    /// Wakes the watcher: somebody has told of news, or begins to wait.
    heard: Arc<Notify>,
    /// Wakes the teller.
    moved: Notify,
    tasks: std::sync::Mutex<Vec<tokio::task::AbortHandle>>,
}

impl News {
    pub(crate) fn new(partitions: u16) -> Self {
        Self {
            heads: (0..partitions).map(|_| watch::Sender::new(0)).collect(),
            waiting: AtomicUsize::new(0),
            watched: AtomicBool::new(false),
            heard: Arc::default(),
            moved: Notify::new(),
            tasks: std::sync::Mutex::default(),
        }
    }

    /// The last head that was shown to anybody.
    pub(crate) fn head(&self, partition: Partition) -> i64 {
        self.heads.get(usize::from(partition.get())).map_or(0, |head| *head.borrow())
    }

    /// Tells of a head that somebody has seen.
    pub(crate) fn seen(&self, partition: Partition, head: i64) -> bool {
        let Some(known) = self.heads.get(usize::from(partition.get())) else { return false };
        known.send_if_modified(|last| {
            let newer = head > *last;
            *last = head.max(*last);
            newer
        })
    }

    /// Tells of a head that this process has moved, also to other processes.
    pub(crate) fn publish(&self, partition: Partition, head: i64) {
        if self.seen(partition, head) {
            self.moved.notify_one();
        }
    }

    /// Waits until a head behind `after` was seen, by the writer or by the watcher.
    pub(crate) async fn wait(
        self: &Arc<Self>,
        partition: Partition,
        after: i64,
        lanes: &Arc<Lanes>,
        place: &Arc<Place>,
    ) {
        let Some(head) = self.heads.get(usize::from(partition.get())) else { return };
        let mut head = head.subscribe();
        let _waiting = self.begin_waiting(lanes, place);
        // The sender lives as long as `self`.
        let _ = head.wait_for(|head| *head > after).await;
    }

    fn begin_waiting(self: &Arc<Self>, lanes: &Arc<Lanes>, place: &Arc<Place>) -> Waiting {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        if !self.watched.swap(true, Ordering::SeqCst) {
            let watch =
                Watcher { news: Arc::clone(self), lanes: Arc::clone(lanes), place: Arc::clone(place) };
            self.keep(tokio::spawn(watch.run()).abort_handle());
        }
        self.heard.notify_one();
        Waiting(Arc::clone(self))
    }

    /// A task that ends with the store.
    pub(crate) fn keep(&self, task: tokio::task::AbortHandle) {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).push(task);
    }

    pub(crate) fn close(&self) {
        for task in self.tasks.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            task.abort();
        }
    }
}

/// Counts one who waits, until it is dropped.
struct Waiting(Arc<News>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Looks at the log while somebody waits, when it is told to and now and then.
struct Watcher {
    news: Arc<News>,
    lanes: Arc<Lanes>,
    place: Arc<Place>,
}

impl Watcher {
    async fn run(self) {
        let (mut silent, mut rare) = (None, RARE.0);
        loop {
            if self.news.waiting.load(Ordering::SeqCst) == 0 {
                self.news.heard.notified().await;
                continue;
            }
            let mut listening = self.place.is_listening();
            if !listening && !self.place.bouncer && patient(silent) {
                listening = self.place.listen(&self.news.heard).await.is_ok();
                silent = (!listening).then(tokio::time::Instant::now);
            }
            self.look().await;
            let pause = if listening { rare } else { INTERVAL };
            let told = tokio::time::timeout(pause, self.news.heard.notified()).await;
            rare = if told.is_ok() { RARE.0 } else { (rare * 2).min(RARE.1) };
        }
    }

    /// A fault shows to whoever reads; here it is tried again.
    async fn look(&self) {
        for number in 0..self.news.heads.len() {
            let partition = Partition::new(number as u16);
            let head = move |conn: Share| async move {
                Ok(conn.row(&HEAD, &[&i32::from(partition.get())]).await?.try_get::<_, i64>(0)?)
            };
            if let Ok(head) = self.lanes.read("look for new events", head).await {
                self.news.seen(partition, head);
            }
        }
    }
}

fn patient(silent: Option<tokio::time::Instant>) -> bool {
    silent.is_none_or(|since| since.elapsed() >= AGAIN)
}

// The transaction of a message has a commit of its own, which nobody has to wait for. It is not the one
// of the append: a message that is pending takes a lock over all databases at its commit.
static TELL: Sql =
    Sql::new("SELECT set_config('synchronous_commit', 'off', true), pg_notify($1, '')", &[Type::TEXT]);

/// Tells other processes that the log has moved; much that moves at once is told once.
pub(crate) async fn tell(news: Arc<News>, lanes: Arc<Lanes>, place: Arc<Place>) {
    let channel = place.schema.channel();
    loop {
        news.moved.notified().await;
        // If it cannot be told, others find out by looking.
        let channel = channel.clone();
        let tell = lanes.write("notify other processes", move |conn| async move {
            conn.rows(&TELL, &[&channel]).await.map(drop)
        });
        if let Err(fault) = tell.await {
            tracing::debug!(error = %fault, "cannot notify other processes of an append; they poll");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Refuses a head that falls short of one that was reported before.
pub(crate) fn not_rewound(partition: Partition, floor: i64, head: i64) -> Result<(), Fault> {
    if head >= floor {
        return Ok(());
    }
    let words = format!(
        "the log was rewound: partition {partition} ends at position {head}, and {floor} was reported before"
    );
    Err(Fault::corrupt(words))
}

/// The highest head of a partition that was reported, which a read that does not look at the log's end is to find.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Floor {
    partition: Partition,
    position: i64,
}

/// A column that is true if the log has no event at a position that was reported, and null otherwise: a null is the
/// cheapest to send with each row.
macro_rules! rewound {
    ($partition:literal, $position:literal) => {
        concat!(
            "CASE WHEN ",
            $position,
            " > 0 AND NOT EXISTS (SELECT FROM {s}.events f WHERE f.partition = ",
            $partition,
            " AND f.position = ",
            $position,
            ") THEN true END"
        )
    };
}
pub(crate) use rewound;

impl Floor {
    pub(crate) fn of(news: &News, partition: Partition) -> Self {
        Self { partition, position: news.head(partition) }
    }

    /// As the statements take it.
    pub(crate) fn numbers(self) -> (i32, i64) {
        (i32::from(self.partition.get()), self.position)
    }

    /// Refuses a row that says in this column that the log was rewound.
    pub(crate) fn hold(self, row: &Row, column: usize) -> Result<(), Fault> {
        if row.try_get::<_, Option<bool>>(column)?.is_none() {
            return Ok(());
        }
        let Self { partition, position } = self;
        Err(Fault::corrupt(format!(
            "the log was rewound: partition {partition} ends before position {position}, which was reported before"
        )))
    }
}
