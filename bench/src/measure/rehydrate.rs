//! Folding one long account from its events.

use super::{MINUTES, MOMENTS, Open, Run, key, say};
use crate::results::{Fault, Measure};
use crate::session::Ask;
use crate::work::{Load, Sample, Stop};

pub const CASE: &str = "one account";

pub async fn measure(run: &mut Run) -> anyhow::Result<()> {
    let names: Vec<_> = run.contenders.iter().map(|(_, about)| about.name).collect();
    let mut stands = Vec::new();
    for name in names {
        match fill(run, name).await? {
            Ok((open, events)) => stands.push((name, open, events)),
            Err(words) => {
                say(format_args!("{name}: {words}"));
                run.results.fault(key(Measure::Rehydrate, CASE, name), Fault::Failed(words));
            }
        }
    }
    for _ in 0..run.plan.rehydrate_rounds {
        let mut going = Vec::new();
        for (name, mut open, events) in stands {
            let key = key(Measure::Rehydrate, CASE, name);
            match open.remote.ask::<Vec<f64>>(&Ask::Rehydrate { times: 1 }, MOMENTS).await {
                Ok(seconds) => {
                    seconds.iter().for_each(|&seconds| run.results.add_sized(key, seconds, events));
                    going.push((name, open, events));
                }
                Err(words) => {
                    say(format_args!("{name}: {words}"));
                    run.results.fault(key, Fault::Failed(words));
                    run.ground.remove(&open.spot).await?;
                }
            }
        }
        stands = going;
    }
    for (name, open, _) in stands {
        if let Err(fault) = run.close(open, false).await? {
            run.results.fault(key(Measure::Rehydrate, CASE, name), fault);
        }
    }
    Ok(())
}

/// A contender with one long account, and how many events it has.
async fn fill(run: &mut Run, name: &str) -> anyhow::Result<Result<(Open, u64), String>> {
    let mut open = match run.open(name, true).await? {
        Ok(open) => open,
        Err(words) => return Ok(Err(words)),
    };
    let (time, seed) = (run.plan.rehydrate_fill, run.plan.seed);
    let stop = Stop::Events(run.plan.rehydrate_events, time);
    let load = Load { tasks: 1, hot: true, stop, seed };
    let remote = &mut open.remote;
    let filled = async {
        // None but the hot one.
        remote.ask::<u64>(&Ask::Accounts { accounts: 0, tasks: 1, time: MOMENTS }, MINUTES).await?;
        remote.ask::<Sample>(&Ask::Load(load), time + MOMENTS).await?;
        // The first that are folded warm up.
        remote.ask::<Vec<f64>>(&Ask::Rehydrate { times: 2 }, MINUTES).await?;
        remote.ask::<u64>(&Ask::Events, MOMENTS).await
    };
    match filled.await {
        Ok(events) => {
            run.ground.settle(&open.spot).await?;
            Ok(Ok((open, events)))
        }
        Err(words) => {
            run.ground.remove(&open.spot).await?;
            Ok(Err(words))
        }
    }
}
