//! Commands per second by several tasks, and how long each takes.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{MOMENTS, Open, Run, say};
use crate::contender::About;
use crate::contenders::Kind;
use crate::results::{Fault, Key, Measure};
use crate::session::Ask;
use crate::work::{Load, Sample, Stop};

/// What is asked for: its name, the tasks, and whether all go to one account.
pub const CASES: [(&str, u64, bool); 4] = [
    ("1 task", 1, false),
    ("16 tasks", 16, false),
    ("64 tasks", 64, false),
    ("64 tasks on one account", 64, true),
];

const MEASURES: [Measure; 4] = [Measure::Commands, Measure::P50, Measure::P99, Measure::Retries];

/// A contender through all rounds. If it fails in one case, it is opened anew for the others.
struct Stand {
    name: &'static str,
    kind: Kind,
    /// Whether it is opened anew for each round: millions of events a second are too many to be kept in memory.
    anew: bool,
    open: Option<Open>,
    accounts: u64,
    /// What went wrong, by case.
    faults: BTreeMap<&'static str, Fault>,
}

pub async fn measure(run: &mut Run) -> anyhow::Result<()> {
    for durable in [true, false] {
        let here = |about: &About| Run::takes_part(about, durable);
        let chosen = run.contenders.iter().filter(|(_, about)| here(about));
        let chosen: Vec<_> =
            chosen.map(|(kind, about)| (*kind, about.name, about.store == "memory")).collect();
        let mut stands = Vec::new();
        for (kind, name, anew) in chosen {
            let mut stand = Stand { name, kind, anew, open: None, accounts: 0, faults: BTreeMap::new() };
            set_up(run, &mut stand, durable).await?;
            stands.push(stand);
        }
        for round in 0..run.plan.rounds {
            for (number, (case, tasks, hot)) in CASES.into_iter().enumerate() {
                // Who comes first changes, so that nobody always comes behind the same one.
                for at in 0..stands.len() {
                    let turn = (at + round) % stands.len();
                    let stand = &mut stands[turn];
                    let seed = run.plan.seed ^ ((round as u64 + 1) << 32) ^ ((number as u64 + 1) << 48);
                    let load = Load { tasks, hot, stop: Stop::After(run.plan.round), seed };
                    one_round(run, stand, case, load, durable).await?;
                }
            }
            for stand in stands.iter_mut().filter(|stand| stand.anew) {
                close(run, stand).await?;
            }
            say(format_args!("commands, durable {durable}: round {}", round + 1));
        }
        for stand in stands {
            finish(run, stand, durable).await?;
        }
    }
    Ok(())
}

async fn set_up(run: &mut Run, stand: &mut Stand, durable: bool) -> anyhow::Result<()> {
    let opened = match run.open(stand.name, durable).await? {
        Ok(mut open) => {
            let (accounts, time) = (run.plan.accounts, run.plan.setup);
            let tasks = crate::plan::Plan::filling_tasks(stand.kind);
            let ask = Ask::Accounts { accounts, tasks, time };
            match open.remote.ask::<u64>(&ask, time + MOMENTS).await {
                Ok(accounts) => {
                    stand.accounts = accounts;
                    run.ground.settle(&open.spot).await?;
                    Ok(open)
                }
                Err(words) => {
                    run.ground.remove(&open.spot).await?;
                    Err(words)
                }
            }
        }
        Err(words) => Err(words),
    };
    match opened {
        Ok(open) => stand.open = Some(open),
        Err(words) => {
            say(format_args!("{}: {words}", stand.name));
            for (case, ..) in CASES {
                let fault = Fault::Failed(format!("while accounts were opened: {words}"));
                stand.faults.entry(case).or_insert(fault);
            }
        }
    }
    Ok(())
}

async fn one_round(
    run: &mut Run,
    stand: &mut Stand,
    case: &'static str,
    load: Load,
    durable: bool,
) -> anyhow::Result<()> {
    if stand.faults.contains_key(case) {
        return Ok(());
    }
    if stand.open.is_none() {
        set_up(run, stand, durable).await?;
    }
    let Some(open) = &mut stand.open else { return Ok(()) };
    match open.remote.ask::<Sample>(&Ask::Load(load), run.plan.round + Duration::from_secs(30)).await {
        Ok(sample) => {
            let key = |measure| Key { measure, case, durable, contender: stand.name };
            let (commands, accounts) = (sample.commands as f64, if load.hot { 1 } else { stand.accounts });
            run.results.add_sized(key(Measure::Commands), commands / sample.seconds, accounts);
            run.results.add(key(Measure::P50), sample.p50);
            run.results.add(key(Measure::P99), sample.p99);
            run.results.add(key(Measure::Retries), sample.retried as f64 / commands);
        }
        Err(words) => {
            say(format_args!("{}, {case}: {words}", stand.name));
            stand.faults.insert(case, Fault::Failed(words));
            // Its process is gone. What it had stored until then is not looked at.
            if let Some(open) = stand.open.take() {
                run.ground.remove(&open.spot).await?;
            }
        }
    }
    Ok(())
}

/// Closes it, if it is open, and sees whether all is right.
async fn close(run: &mut Run, stand: &mut Stand) -> anyhow::Result<()> {
    if let Some(open) = stand.open.take()
        && let Err(fault) = run.close(open, false).await?
    {
        say(format_args!("{}: {fault:?}", stand.name));
        for (case, ..) in CASES {
            stand.faults.entry(case).or_insert(fault.clone());
        }
    }
    Ok(())
}

async fn finish(run: &mut Run, mut stand: Stand, durable: bool) -> anyhow::Result<()> {
    close(run, &mut stand).await?;
    for (case, fault) in stand.faults {
        for measure in MEASURES {
            run.results.fault(Key { measure, case, durable, contender: stand.name }, fault.clone());
        }
    }
    Ok(())
}
