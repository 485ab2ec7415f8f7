//! Building a read model of all events from the first to the last.

use std::collections::HashSet;
use std::time::Duration;

use super::{MINUTES, MOMENTS, Run, key, say};
use crate::contenders::Kind;
use crate::limits::SINGLE;
use crate::plan::Plan;
use crate::results::{Fault, Measure};
use crate::session::Ask;
use crate::work::{Load, Sample, Stop};

pub const CASE: &str = "all accounts";

pub async fn measure(run: &mut Run) -> anyhow::Result<()> {
    let chosen = run.contenders.iter().map(|(kind, about)| (*kind, about.name));
    let chosen: Vec<_> = chosen.filter(|(_, name)| !SINGLE.contains(name)).collect();
    let mut out = HashSet::new();
    for round in 0..run.plan.catch_up_rounds {
        for at in 0..chosen.len() {
            let (kind, name) = chosen[(at + round) % chosen.len()];
            if out.contains(name) {
                continue;
            }
            if let Err(fault) = once(run, kind, name, round as u64).await? {
                if fault != Fault::Absent {
                    say(format_args!("{name}: {fault:?}"));
                }
                run.results.fault(key(Measure::CatchUp, CASE, name), fault);
                out.insert(name);
            }
        }
        say(format_args!("catching up: round {}", round + 1));
    }
    Ok(())
}

async fn once(run: &mut Run, kind: Kind, name: &str, round: u64) -> anyhow::Result<Result<(), Fault>> {
    let mut open = match run.open(name, true).await? {
        Ok(open) => open,
        Err(words) => return Ok(Err(Fault::Failed(words))),
    };
    let (tasks, time) = match kind {
        // As long as it takes, which is not long.
        Kind::Ours | Kind::Limit => (Plan::filling_tasks(kind), Duration::from_secs(600)),
        Kind::Peer => (Plan::filling_tasks(kind), run.plan.catch_up_fill),
    };
    let remote = &mut open.remote;
    let accounts = Ask::Accounts { accounts: run.plan.catch_up_accounts, tasks, time };
    let filled = async {
        let accounts = remote.ask::<u64>(&accounts, time + MINUTES).await?;
        let seed = run.plan.seed ^ (round << 32);
        let stop = Stop::Events(run.plan.catch_up_events, time);
        let load = Load { tasks: tasks.min(accounts), hot: false, stop, seed };
        remote.ask::<Sample>(&Ask::Load(load), time + MINUTES).await?;
        remote.ask::<u64>(&Ask::Events, MOMENTS).await
    };
    let filled = filled.await;
    if filled.is_ok() {
        run.ground.settle(&open.spot).await?;
    }
    let projected = match filled {
        Ok(events) => {
            let projected = open.remote.ask::<Option<f64>>(&Ask::Project, MINUTES).await;
            projected.map(|seconds| (events, seconds))
        }
        Err(words) => Err(words),
    };
    match projected {
        Ok((events, Some(seconds))) => {
            let key = key(Measure::CatchUp, CASE, name);
            run.results.add_sized(key, events as f64 / seconds, events);
            run.close(open, true).await
        }
        Ok((_, None)) => Ok(run.close(open, false).await?.and(Err(Fault::Absent))),
        Err(words) => {
            run.ground.remove(&open.spot).await?;
            Ok(Err(Fault::Failed(words)))
        }
    }
}
