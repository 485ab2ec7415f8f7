//! Durable commands through the engine, against inserts of one who knows all state.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cqrs::prelude::Engine;
use cqrs_postgres::PostgresStore;
use pg_cluster::Cluster;

use crate::{bank, hand, median, runtime, scattered, url};

const ROUNDS: usize = 9;
const ROUND: Duration = Duration::from_millis(600);
const ACCOUNTS: u64 = 10_000;

/// What one round came to.
struct Sample {
    rate: f64,
    times: Vec<Duration>,
    spent: [f64; 5],
    /// For how many microseconds of each command the lock of the log was held, and waited for.
    lock: [f64; 2],
}

/// Somebody who does one piece of work for a task, as often as asked.
enum Work {
    Single(Vec<hand::Single>, Arc<AtomicU64>),
    Batched(hand::Batched, Arc<AtomicU64>),
    /// Engines that know nothing of each other, as in so many processes.
    Engines {
        engines: Vec<Engine>,
        accounts: u64,
        apart: bool,
    },
}

struct Contender {
    name: String,
    tasks: u64,
    work: Arc<Work>,
    samples: Vec<Sample>,
}

impl Work {
    async fn once(&self, task: u64, number: u64) {
        // Its own version for each row: the hand knows the state.
        let row = |next: &AtomicU64| {
            let version = next.fetch_add(1, Ordering::Relaxed);
            (format!("Account/{}", scattered(number) % ACCOUNTS), version as i64)
        };
        match self {
            Self::Single(all, next) => all[task as usize].insert(row(next)).await,
            Self::Batched(batched, next) => batched.insert(row(next)).await,
            Self::Engines { engines, accounts, apart } => {
                let (count, at) = (engines.len() as u64, task % engines.len() as u64);
                let account = scattered(number) % accounts;
                let account = if *apart { account / count * count + at } else { account };
                bank::post(&engines[at as usize], account, number).await;
            }
        }
    }
}

/// Those with `who` in their names.
pub fn run(cluster: &Cluster, who: &str) {
    let runtime = runtime();
    let one = |tasks| Engines { count: 1, tasks, accounts: ACCOUNTS, apart: false };
    let engines = [
        one(1),
        one(16),
        one(64),
        Engines { accounts: 1, ..one(64) },
        Engines { count: 2, ..one(64) },
        Engines { count: 2, apart: true, ..one(64) },
    ];
    let mut contenders = Vec::new();
    for tasks in [1, 16, 64] {
        if hand_name(tasks).contains(who) {
            contenders.push(runtime.block_on(by_hand(cluster, tasks)));
        }
        for engines in engines.iter().filter(|engines| engines.tasks == tasks && engines.name().contains(who))
        {
            contenders.push(runtime.block_on(engines.open(cluster)));
        }
    }
    let watch = Arc::new(runtime.block_on(hand::connect(cluster.url())));
    for round in 0..ROUNDS as u64 {
        for contender in &mut contenders {
            let sample = runtime.block_on(one_round(contender, &watch, round));
            contender.samples.push(sample);
        }
    }
    print(contenders);
}

fn hand_name(tasks: u64) -> String {
    format!("by hand, {tasks} tasks, {}", if tasks == 1 { "state known" } else { "known, batched" })
}

async fn by_hand(cluster: &Cluster, tasks: u64) -> Contender {
    let table = format!("hand_{tasks}");
    hand::table(&hand::connect(cluster.url()).await, &table).await;
    let next = Arc::default();
    let work = match tasks {
        1 => Work::Single(vec![hand::Single::new(cluster.url(), &table).await], next),
        _ => Work::Batched(hand::Batched::new(cluster.url(), &table).await, next),
    };
    Contender { name: hand_name(tasks), tasks, work: Arc::new(work), samples: Vec::new() }
}

/// So many engines with so many tasks in all, on the same accounts or each on some of its own.
struct Engines {
    count: usize,
    tasks: u64,
    accounts: u64,
    apart: bool,
}

impl Engines {
    fn name(&self) -> String {
        let hot = if self.accounts == 1 { ", one hot account" } else { "" };
        let count = if self.count == 1 { String::new() } else { format!(", {} engines", self.count) };
        let apart = if self.apart { " apart" } else { "" };
        format!("engine, {} tasks{hot}{count}{apart}", self.tasks)
    }

    async fn open(&self, cluster: &Cluster) -> Contender {
        let Self { count, tasks, accounts, apart } = *self;
        let url = url(cluster, &format!("bench_{count}_{tasks}_{accounts}_{apart}"));
        let mut engines = Vec::new();
        for _ in 0..count {
            engines.push(bank::engine(PostgresStore::open(&url).await.unwrap()).await);
        }
        bank::open(&engines[0], accounts).await;
        let work = Arc::new(Work::Engines { engines, accounts, apart });
        Contender { name: self.name(), tasks, work, samples: Vec::new() }
    }
}

/// How many hold the lock of a log and how many wait for it, on average until then.
async fn locks(watch: Arc<tokio_postgres::Client>, end: Instant) -> [f64; 2] {
    let select = "SELECT count(*) FILTER (WHERE granted), count(*) FILTER (WHERE NOT granted)
        FROM pg_locks WHERE locktype = 'advisory'";
    let select = watch.prepare(select).await.unwrap();
    let (mut seen, mut sum) = (0, [0, 0]);
    while Instant::now() < end {
        let row = watch.query_one(&select, &[]).await.unwrap();
        seen += 1;
        sum = [sum[0] + row.get::<_, i64>(0), sum[1] + row.get::<_, i64>(1)];
        // Seldom enough to take nothing from those who work.
        tokio::time::sleep(Duration::from_millis(7)).await;
    }
    sum.map(|sum| sum as f64 / f64::from(seen))
}

/// Commits, syncs of the WAL and bytes of it, of the whole server so far; and the microseconds of a
/// processor that this process and the server have used.
async fn counters(watch: &tokio_postgres::Client) -> [f64; 5] {
    let select =
        "SELECT (SELECT sum(xact_commit) FROM pg_stat_database)::float8, wal_sync::float8, wal_bytes::float8,
            pg_backend_pid()
        FROM pg_stat_wal";
    let row = watch.query_one(select, &[]).await.unwrap();
    let (_, server, _) = processor(&row.get::<_, i32>(3).to_string()).unwrap();
    let of_server = |entry: std::io::Result<std::fs::DirEntry>| {
        let (pid, parent, used) = processor(entry.ok()?.file_name().to_str()?)?;
        (pid == server || parent == server).then_some(used)
    };
    let served = std::fs::read_dir("/proc").unwrap().filter_map(of_server).sum();
    let (_, _, own) = processor("self").unwrap();
    [row.get(0), row.get(1), row.get(2), own, served]
}

/// The id of a process, that of its parent, and the microseconds of a processor that it has used.
fn processor(pid: &str) -> Option<(u32, u32, f64)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, which may hold anything, stands in parentheses.
    let pid = stat.split(' ').next()?.parse().ok()?;
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let ticks = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
    Some((pid, fields.get(1)?.parse().ok()?, ticks * 10_000.0))
}

async fn one_round(contender: &Contender, watch: &Arc<tokio_postgres::Client>, round: u64) -> Sample {
    let before = counters(watch).await;
    let begun = Instant::now();
    let locks = tokio::spawn(locks(Arc::clone(watch), begun + ROUND));
    let work = |task: u64| {
        let work = Arc::clone(&contender.work);
        tokio::spawn(async move {
            let (mut times, mut at) = (Vec::new(), (round << 40) + (task << 24));
            while begun.elapsed() < ROUND {
                at += 1;
                let start = Instant::now();
                work.once(task, at).await;
                times.push(start.elapsed());
            }
            times
        })
    };
    let mut times = Vec::new();
    for task in (0..contender.tasks).map(work).collect::<Vec<_>>() {
        times.extend(task.await.unwrap());
    }
    let rate = times.len() as f64 / begun.elapsed().as_secs_f64();
    // The server tells what its backends did with some delay.
    tokio::time::sleep(Duration::from_millis(20)).await;
    let after = counters(watch).await;
    let each = |at: usize| (after[at] - before[at]) / times.len() as f64;
    let lock = locks.await.unwrap().map(|count| count / rate * 1e6);
    Sample { rate, spent: [0, 1, 2, 3, 4].map(each), lock, times }
}

fn print(contenders: Vec<Contender>) {
    println!(
        "{:<36} {:>9} {:>7} {:>9} {:>9} {:>9} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8}",
        "commands",
        "per s",
        "ratio",
        "best",
        "p50",
        "p99",
        "commits",
        "syncs",
        "bytes",
        "µs here",
        "µs there",
        "µs held",
        "µs wait"
    );
    let mut limit = (f64::NAN, f64::NAN);
    for mut contender in contenders {
        let mut rates: Vec<f64> = contender.samples.iter().map(|sample| sample.rate).collect();
        let rate = median(&mut rates);
        let best = rates.last().copied().unwrap_or_default();
        if contender.name.starts_with("by hand") {
            limit = (rate, best);
        }
        let mut times: Vec<_> =
            contender.samples.iter_mut().flat_map(|sample| std::mem::take(&mut sample.times)).collect();
        times.sort_unstable();
        let part = |part: usize| times[(times.len() - 1) * part / 100];
        let usual =
            |of: &dyn Fn(&Sample) -> f64| median(&mut contender.samples.iter().map(of).collect::<Vec<_>>());
        let spent = |at: usize| usual(&|sample| sample.spent[at]);
        let lock = |at: usize| usual(&|sample| sample.lock[at]);
        // The clock of processes is coarse.
        let mean = |at: usize| {
            contender.samples.iter().map(|sample| sample.spent[at]).sum::<f64>()
                / contender.samples.len() as f64
        };
        println!(
            "{:<36} {rate:>9.0} {:>7.2} {:>9.2} {:>9.1?} {:>9.1?} {:>8.2} {:>8.2} {:>8.0} {:>8.1} {:>8.1} {:>8.1} {:>8.1}",
            contender.name,
            rate / limit.0,
            best / limit.1,
            part(50),
            part(99),
            spent(0),
            spent(1),
            spent(2),
            mean(3),
            mean(4),
            lock(0),
            lock(1),
        );
    }
}
