//! The measures: what contenders are asked for, in which order, and what is noted down of it.

mod catch_up;
mod commands;
mod compile;
mod growth;
mod memory;
mod rehydrate;
mod wire;

pub use catch_up::CASE as CATCH_UP_CASE;
pub use commands::CASES as COMMAND_CASES;
pub use compile::CASE as COMPILE_CASE;
pub use growth::CASE as GROWTH_CASE;
pub use memory::CASE as MEMORY_CASE;
pub use rehydrate::CASE as REHYDRATE_CASE;
pub use wire::CASE as WIRE_CASE;

use std::path::PathBuf;
use std::time::Duration;

use crate::contender::About;
use crate::contenders::{self, Kind};
use crate::ground::{Ground, Spot};
use crate::plan::{Part, Plan};
use crate::remote::Remote;
use crate::results::{Fault, Key, Measure, Results};
use crate::session::Ask;

/// How long a contender may take for what takes moments.
const MOMENTS: Duration = Duration::from_secs(60);
/// And for what depends on how much it has stored.
const MINUTES: Duration = Duration::from_secs(180);

/// A run under way.
pub struct Run {
    pub plan: Plan,
    pub ground: Ground,
    pub results: Results,
    /// Those who take part.
    pub contenders: Vec<(Kind, About)>,
    pub logs: Vec<(Kind, About)>,
    /// Where contenders' complaints go.
    pub complaints: PathBuf,
}

/// An open contender and its place.
struct Open {
    remote: Remote,
    spot: Spot,
}

impl Run {
    pub async fn part(&mut self, part: Part) -> anyhow::Result<()> {
        match part {
            Part::Commands => commands::measure(self).await,
            Part::Wire => wire::measure(self).await,
            Part::Memory => memory::measure(self).await,
            Part::Rehydrate => rehydrate::measure(self).await,
            Part::CatchUp => catch_up::measure(self).await,
            Part::Growth => growth::measure(self).await,
            Part::Compile => compile::measure(self),
        }
    }

    /// Only PostgreSQL has the choice not to wait for the disk.
    fn takes_part(about: &About, durable: bool) -> bool {
        durable || about.store == POSTGRES
    }

    fn start(&self, role: &str, name: &str) -> Result<Remote, String> {
        Remote::start(role, name, &self.complaints.join(format!("{name}.txt")))
    }

    /// A contender's process, with the contender open in an empty place.
    async fn open(&mut self, name: &str, durable: bool) -> anyhow::Result<Result<Open, String>> {
        let spot = self.ground.spot(durable).await?;
        let postgres = self.ground.url(&spot, None);
        let opened = async {
            let mut remote = self.start(SESSION, name)?;
            remote.ask::<()>(&Ask::Open { postgres, dir: spot.dir.clone() }, MOMENTS).await?;
            Ok(remote)
        };
        match opened.await {
            Ok(remote) => Ok(Ok(Open { remote, spot })),
            Err(words) => {
                self.ground.remove(&spot).await?;
                Ok(Err(words))
            }
        }
    }

    /// Says whether what is stored is right, ends the contender and removes its place.
    async fn close(&mut self, mut open: Open, projected: bool) -> anyhow::Result<Result<(), Fault>> {
        let check = Ask::Check { projected, seed: self.plan.seed };
        let checked = open.remote.ask::<Option<String>>(&check, MINUTES).await;
        let checked = match checked {
            Ok(None) => Ok(()),
            Ok(Some(wrong)) => Err(Fault::Wrong(wrong)),
            Err(words) => Err(Fault::Failed(format!("while it was checked: {words}"))),
        };
        // How it ends is nobody's measure.
        let _: Result<(), String> = open.remote.ask(&Ask::Close, MOMENTS).await;
        drop(open.remote);
        self.ground.remove(&open.spot).await?;
        Ok(checked)
    }
}

pub const SESSION: &str = "session";
pub const LOG_SESSION: &str = "log-session";
pub const POSTGRES: &str = "PostgreSQL";

/// Who takes part, of those with these names; all if there are none.
pub fn choose(all: Vec<(Kind, About)>, only: &[String], has_server: bool) -> Vec<(Kind, About)> {
    let wanted = |about: &About| only.is_empty() || only.iter().any(|name| name == about.name);
    let possible = |about: &About| has_server || about.store != POSTGRES;
    all.into_iter().filter(|(_, about)| wanted(about) && possible(about)).collect()
}

/// A name that nobody has.
pub fn unknown(only: &[String]) -> Option<&String> {
    let known: Vec<_> =
        contenders::all().into_iter().chain(contenders::logs()).map(|(_, it)| it.name).collect();
    only.iter().find(|name| !known.contains(&name.as_str()))
}

fn key<'a>(measure: Measure, case: &'a str, contender: &'a str) -> Key<'a> {
    Key { measure, case, durable: true, contender }
}

/// As it goes to the console: that the run goes on.
fn say(words: impl std::fmt::Display) {
    eprintln!("  {words}");
}
