//! The most memory that a process needs for the same piece of work.

use super::{MINUTES, MOMENTS, Run, key, say};
use crate::results::{Fault, Measure};
use crate::session::Ask;
use crate::work::{Load, Sample, Stop};

pub const CASE: &str = "16 tasks";

pub async fn measure(run: &mut Run) -> anyhow::Result<()> {
    let names: Vec<_> = run.contenders.iter().map(|(_, about)| about.name).collect();
    for _ in 0..run.plan.memory_rounds {
        for name in &names {
            one_round(run, name).await?;
        }
    }
    Ok(())
}

async fn one_round(run: &mut Run, name: &'static str) -> anyhow::Result<()> {
    let key = key(Measure::Memory, CASE, name);
    let mut open = match run.open(name, true).await? {
        Ok(open) => open,
        Err(words) => {
            run.results.fault(key, Fault::Failed(words));
            return Ok(());
        }
    };
    let (accounts, seed) = (run.plan.memory_accounts, run.plan.seed);
    let load = Load { tasks: 16, hot: false, stop: Stop::Commands(run.plan.memory_commands), seed };
    let remote = &mut open.remote;
    let measured = async {
        let accounts = Ask::Accounts { accounts, tasks: 16, time: MOMENTS };
        remote.ask::<u64>(&accounts, MINUTES).await?;
        remote.ask::<Sample>(&Ask::Load(load), MINUTES).await?;
        remote.ask::<Option<u64>>(&Ask::Peak, MOMENTS).await
    };
    match measured.await {
        Ok(Some(bytes)) => run.results.add(key, bytes as f64),
        Ok(None) => run.results.fault(key, Fault::Failed("this system does not tell it".to_owned())),
        Err(words) => {
            say(format_args!("{name}: {words}"));
            run.results.fault(key, Fault::Failed(words));
            return run.ground.remove(&open.spot).await;
        }
    }
    if let Err(fault) = run.close(open, false).await? {
        run.results.fault(key, fault);
    }
    Ok(())
}
