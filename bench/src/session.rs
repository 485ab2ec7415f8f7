//! A contender in a process of its own: what it is asked for comes by standard input, line by line, and its
//! answers go by standard output. So its memory and its global state are its own, and if it crashes or
//! hangs, the run goes on.

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::contender::{Contender, Place};
use crate::growth::Log;
use crate::work::{self, Load, Model};

/// What stands before an answer, so that whatever else a contender prints is left out.
pub const ANSWER: &str = "@answer ";

/// Up to how many connections a contender may open.
const CONNECTIONS: u32 = 16;

/// What a contender is asked for; the answer to each is a value of the type in brackets.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Ask {
    /// Be opened. [`()`]
    Open { postgres: String, dir: PathBuf },
    /// Open the hot account and so many others, as far as the time allows. [`u64`], the accounts.
    Accounts { accounts: u64, tasks: u64, time: Duration },
    /// [`Sample`](crate::work::Sample)
    Load(Load),
    /// Events that are stored, as the model has them. [`u64`]
    Events,
    /// Fold the hot account from its events, so often. `Vec<f64>`, in seconds.
    Rehydrate { times: usize },
    /// Build the read model. `Option<f64>`, in seconds.
    Project,
    /// Say what is wrong. `Option<String>`
    Check { projected: bool, seed: u64 },
    /// The most memory that this process has had so far, in bytes. `Option<u64>`
    Peak,
    /// [`()`]
    Close,
}

/// What a log is asked for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum AskLog {
    /// Be opened. [`()`]
    Open { postgres: String, dir: PathBuf },
    /// Grow to so many events, as far as the time allows. [`u64`], how many there are, and the seconds.
    Grow { events: u64, time: Duration },
    /// So many guarded appends, one after the other. `Vec<f64>`, in seconds.
    Append { times: usize },
    /// Say what is wrong. `Option<String>`
    Check,
    /// [`()`]
    Close,
}

type Answered = anyhow::Result<Value>;

fn answer<T: Serialize>(value: T) -> Answered {
    Ok(serde_json::to_value(value)?)
}

fn place(postgres: String, dir: PathBuf) -> Place {
    Place { postgres, dir, connections: CONNECTIONS }
}

/// Answers until it is told to close, or until nobody asks any more.
pub async fn serve<C: Contender>() -> anyhow::Result<()> {
    let mut open: Option<(Arc<C>, Arc<Model>)> = None;
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        let ask: Ask = serde_json::from_str(&line)?;
        let closes = matches!(ask, Ask::Close);
        reply(asked(ask, &mut open).await)?;
        if closes {
            break;
        }
    }
    Ok(())
}

async fn asked<C: Contender>(ask: Ask, open: &mut Option<(Arc<C>, Arc<Model>)>) -> Answered {
    if let Ask::Open { postgres, dir } = ask {
        *open = Some((Arc::new(C::open(&place(postgres, dir)).await?), Arc::new(Model::new(0))));
        return answer(());
    }
    if let Ask::Close = ask {
        let contender = open.take().and_then(|(contender, _)| Arc::into_inner(contender));
        return answer(contender.context("it is not open, or still at work")?.close().await?);
    }
    let (contender, model) = open.as_mut().context("it is not open")?;
    match ask {
        Ask::Open { .. } | Ask::Close => unreachable!("done above"),
        Ask::Accounts { accounts, tasks, time } => {
            *model = Arc::new(work::open_accounts(contender, accounts, tasks, time).await?);
            answer(model.accounts())
        }
        Ask::Load(load) => answer(work::carry_out(contender, model, load).await?),
        Ask::Events => answer(model.events()),
        Ask::Rehydrate { times } => {
            let mut seconds = Vec::with_capacity(times);
            for _ in 0..times {
                let start = Instant::now();
                let balance = contender.rehydrate(work::HOT).await?;
                seconds.push(start.elapsed().as_secs_f64());
                let expected = model.balance(work::HOT);
                anyhow::ensure!(balance == expected, "the events tell {balance} and not {expected}");
            }
            answer(seconds)
        }
        Ask::Project => {
            let start = Instant::now();
            let there = contender.project().await?;
            answer(there.map(|()| start.elapsed().as_secs_f64()))
        }
        Ask::Check { projected, seed } => answer(work::check(&**contender, model, projected, seed).await?),
        Ask::Peak => answer(peak()),
    }
}

/// As [`serve`], for a log.
pub async fn serve_log<L: Log>() -> anyhow::Result<()> {
    let mut open: Option<(L, u64)> = None;
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        let ask: AskLog = serde_json::from_str(&line)?;
        let closes = matches!(ask, AskLog::Close);
        reply(asked_log(ask, &mut open).await)?;
        if closes {
            break;
        }
    }
    Ok(())
}

async fn asked_log<L: Log>(ask: AskLog, open: &mut Option<(L, u64)>) -> Answered {
    if let AskLog::Open { postgres, dir } = ask {
        *open = Some((L::open(&place(postgres, dir)).await?, 0));
        return answer(());
    }
    let (log, appended) = open.as_mut().context("it is not open")?;
    match ask {
        AskLog::Open { .. } => unreachable!("done above"),
        AskLog::Grow { events, time } => {
            let begun = Instant::now();
            let there = log.grow(events, time).await?;
            answer((there, begun.elapsed().as_secs_f64()))
        }
        AskLog::Append { times } => {
            let mut seconds = Vec::with_capacity(times);
            for _ in 0..times {
                *appended += 1;
                let start = Instant::now();
                let done = log.append(*appended).await?;
                seconds.push(start.elapsed().as_secs_f64());
                anyhow::ensure!(done, "an append was refused though its guard holds");
            }
            answer(seconds)
        }
        AskLog::Check => {
            let (stored, expected) = (log.stored().await?, log.expected());
            if stored != expected {
                return answer(Some(format!("{stored} events are stored, and {expected} were acknowledged")));
            }
            // A log that did not grow far enough was asked for no append that could come again.
            let again = *appended > 0 && log.append(*appended).await?;
            answer(again.then(|| "a guard that does not hold was not noticed".to_owned()))
        }
        AskLog::Close => {
            *open = None;
            answer(())
        }
    }
}

fn reply(answered: Answered) -> anyhow::Result<()> {
    let answered = answered.map_err(|error| format!("{error:#}"));
    let mut out = std::io::stdout().lock();
    // On a line of its own, whatever was printed before.
    writeln!(out, "\n{ANSWER}{}", serde_json::to_string(&answered)?)?;
    Ok(out.flush()?)
}

/// The high-water mark of this process's resident memory, in bytes; nothing where the system does not tell.
fn peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}
