//! Appends that are guarded by a query of tags, as the log grows; and on the way how quickly it grows.

use super::{LOG_SESSION, MINUTES, MOMENTS, Run, key, say};
use crate::contenders::Kind;
use crate::ground::Spot;
use crate::plan::Plan;
use crate::remote::Remote;
use crate::results::{Fault, Measure, median};
use crate::session::AskLog;

/// Of the figures that are not of one size.
pub const CASE: &str = "growth";

struct Stand {
    name: &'static str,
    kind: Kind,
    remote: Remote,
    spot: Spot,
    /// The last size that it has reached.
    size: u64,
}

pub async fn measure(run: &mut Run) -> anyhow::Result<()> {
    let sizes = run.plan.growth_sizes.clone();
    let Some(first) = sizes.first().copied() else { return Ok(()) };
    let mut stands = Vec::new();
    for (kind, name) in run.logs.iter().map(|(kind, about)| (*kind, about.name)).collect::<Vec<_>>() {
        let spot = run.ground.spot(true).await?;
        let open = AskLog::Open { postgres: run.ground.url(&spot, None), dir: spot.dir.clone() };
        let opened = async {
            let mut remote = run.start(LOG_SESSION, name)?;
            remote.ask::<()>(&open, MOMENTS).await?;
            Ok(remote)
        };
        match opened.await {
            Ok(remote) => stands.push(Stand { name, kind, remote, spot, size: 0 }),
            Err(words) => {
                fail(run, name, first, Fault::Failed(words));
                run.ground.remove(&spot).await?;
            }
        }
    }
    for size in sizes {
        let mut grown = Vec::new();
        for mut stand in stands {
            if grow(run, &mut stand, size).await? {
                grown.push(stand);
            } else {
                end(run, stand).await?;
            }
        }
        stands = grown;
        for _ in 0..run.plan.growth_rounds {
            let mut going = Vec::new();
            for mut stand in stands {
                if append(run, &mut stand).await {
                    going.push(stand);
                } else {
                    run.ground.remove(&stand.spot).await?;
                }
            }
            stands = going;
        }
        say(format_args!("guarded appends: {size} events"));
    }
    for stand in stands {
        end(run, stand).await?;
    }
    Ok(())
}

fn fail(run: &mut Run, name: &str, size: u64, fault: Fault) {
    say(format_args!("{name}, {size} events: {fault:?}"));
    run.results.fault(key(Measure::Guarded, &size.to_string(), name), fault);
}

/// Whether it has reached the size.
async fn grow(run: &mut Run, stand: &mut Stand, size: u64) -> anyhow::Result<bool> {
    let time = match stand.kind {
        Kind::Ours | Kind::Limit => run.plan.growth_fill,
        Kind::Peer => run.plan.growth_fill.min(Plan::GROWTH_BY_COMMANDS),
    };
    let before = stand.size;
    let ask = AskLog::Grow { events: size, time };
    let (reached, seconds) = match stand.remote.ask::<(u64, f64)>(&ask, time + MINUTES).await {
        Ok(grown) => grown,
        Err(words) => {
            fail(run, stand.name, size, Fault::Failed(words));
            return Ok(false);
        }
    };
    let key = key(Measure::Bulk, CASE, stand.name);
    run.results.add_sized(key, reached.saturating_sub(before) as f64 / seconds, size);
    if reached < size {
        let words = format!("it had {reached} events after {seconds:.0} seconds");
        fail(run, stand.name, size, Fault::Failed(words));
        return Ok(false);
    }
    stand.size = size;
    run.ground.settle(&stand.spot).await?;
    Ok(true)
}

async fn append(run: &mut Run, stand: &mut Stand) -> bool {
    let ask = AskLog::Append { times: run.plan.growth_appends };
    let case = stand.size.to_string();
    match stand.remote.ask::<Vec<f64>>(&ask, MINUTES).await {
        Ok(seconds) => {
            let micros = median(&seconds).unwrap_or_default() * 1e6;
            run.results.add(key(Measure::Guarded, &case, stand.name), micros);
            true
        }
        Err(words) => {
            fail(run, stand.name, stand.size, Fault::Failed(words));
            false
        }
    }
}

async fn end(run: &mut Run, mut stand: Stand) -> anyhow::Result<()> {
    // One that has failed does not answer.
    if let Ok(Some(wrong)) = stand.remote.ask::<Option<String>>(&AskLog::Check, MINUTES).await {
        for size in run.plan.growth_sizes.clone() {
            fail(run, stand.name, size, Fault::Wrong(wrong.clone()));
        }
    }
    let _: Result<(), String> = stand.remote.ask(&AskLog::Close, MOMENTS).await;
    drop(stand.remote);
    run.ground.remove(&stand.spot).await
}
