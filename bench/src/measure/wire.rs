//! Round trips and statements for each command of one task, by a proxy in between. It is a pass of its own,
//! so that it slows nothing that is timed.

use pg_cluster::{Counts, Proxy};

use super::{MINUTES, MOMENTS, POSTGRES, Run, SESSION, key, say};
use crate::results::{Fault, Measure};
use crate::session::Ask;
use crate::work::{Load, Sample, Stop};

pub const CASE: &str = "1 task";

const ACCOUNTS: u64 = 100;

pub async fn measure(run: &mut Run) -> anyhow::Result<()> {
    let Some(port) = run.ground.server().map(pg_cluster::Server::port) else { return Ok(()) };
    let names = run.contenders.iter().filter(|(_, about)| about.store == POSTGRES);
    for name in names.map(|(_, about)| about.name).collect::<Vec<_>>() {
        let proxy = Proxy::start(port).await?;
        let spot = run.ground.spot(true).await?;
        let counted = count(run, name, &proxy, run.ground.url(&spot, Some(proxy.port())), &spot.dir).await;
        run.ground.remove(&spot).await?;
        match counted {
            Ok((counts, commands)) => {
                let each = |count: u64| count as f64 / commands as f64;
                run.results.add(key(Measure::RoundTrips, CASE, name), each(counts.round_trips));
                run.results.add(key(Measure::Statements, CASE, name), each(counts.statements));
            }
            Err(fault) => {
                say(format_args!("{name}: {fault:?}"));
                run.results.fault(key(Measure::RoundTrips, CASE, name), fault.clone());
                run.results.fault(key(Measure::Statements, CASE, name), fault);
            }
        }
    }
    Ok(())
}

async fn count(
    run: &Run,
    name: &str,
    proxy: &Proxy,
    postgres: String,
    dir: &std::path::Path,
) -> Result<(Counts, u64), Fault> {
    let failed = Fault::Failed;
    let mut remote = run.start(SESSION, name).map_err(failed)?;
    remote.ask::<()>(&Ask::Open { postgres, dir: dir.to_owned() }, MOMENTS).await.map_err(failed)?;
    let accounts = Ask::Accounts { accounts: ACCOUNTS, tasks: 1, time: MINUTES };
    remote.ask::<u64>(&accounts, MINUTES).await.map_err(failed)?;
    let load = |commands| {
        Ask::Load(Load { tasks: 1, hot: false, stop: Stop::Commands(commands), seed: run.plan.seed })
    };
    // Whatever is prepared at first use is prepared.
    remote.ask::<Sample>(&load(40), MINUTES).await.map_err(failed)?;
    let before = proxy.counts();
    let done: Sample = remote.ask(&load(run.plan.wire_commands), MINUTES).await.map_err(failed)?;
    let counts = proxy.counts().since(before);
    let check = Ask::Check { projected: false, seed: run.plan.seed };
    if let Some(wrong) = remote.ask::<Option<String>>(&check, MINUTES).await.map_err(failed)? {
        return Err(Fault::Wrong(wrong));
    }
    Ok((counts, done.commands))
}
