//! A benchmark of this framework against peers and against what is possible without a framework.

mod contender;
mod contenders;
mod ground;
mod growth;
mod limits;
mod machine;
mod measure;
mod ours;
mod page;
mod peers;
mod plan;
mod remote;
mod results;
mod retries;
mod session;
mod work;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use clap::{Args, Parser, Subcommand};

use contenders::Kind;
use ground::Ground;
use machine::Machine;
use measure::Run;
use plan::{Form, Part, Plan};
use results::{Fault, Results, Who};
pub use retries::retried;

/// The bank, measured: this framework, others, and what is possible without any. Each run starts the PostgreSQL
/// server that it needs, and stops it.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Sees in a minute that all contenders work. Fails if one of ours is wrong.
    Smoke(Options),
    /// A few minutes.
    Short(Options),
    /// About an hour.
    Full(Options),
    /// Makes docs/performance.md and its plots from the results of a run.
    Page {
        /// The results that the page is to show; they are kept beside it.
        #[arg(long)]
        from: Option<PathBuf>,
        /// Results of a later run of some parts, which replace those.
        #[arg(long)]
        again: Option<PathBuf>,
    },
    /// Names all contenders.
    List,
    /// A contender's process.
    #[command(hide = true, name = measure::SESSION)]
    Session { name: String },
    /// A log's process.
    #[command(hide = true, name = measure::LOG_SESSION)]
    LogSession { name: String },
}

#[derive(Args)]
struct Options {
    /// Only these contenders.
    #[arg(long, num_args = 1.., value_name = "NAME")]
    only: Vec<String>,
    /// Only these parts.
    #[arg(long, num_args = 1.., value_name = "PART")]
    part: Vec<Part>,
    /// Where the results go.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/results"))]
    out: PathBuf,
    /// What the commands are chosen by.
    #[arg(long, default_value_t = 20_261_121)]
    seed: u64,
    /// How many accounts are opened for commands.
    #[arg(long)]
    accounts: Option<u64>,
    /// Repetitions of commands.
    #[arg(long)]
    rounds: Option<usize>,
    /// How long each repetition of commands is.
    #[arg(long, value_name = "MILLISECONDS")]
    round: Option<u64>,
    /// Events in the read model that is built.
    #[arg(long, value_name = "EVENTS")]
    catch_up: Option<u64>,
    /// How long peers may write what they then build a read model of.
    #[arg(long, value_name = "SECONDS")]
    catch_up_fill: Option<u64>,
    /// How often a read model is built.
    #[arg(long)]
    catch_up_rounds: Option<usize>,
    /// Events in the log whose guarded appends are looked at, each ten times the one before.
    #[arg(long, num_args = 1.., value_name = "EVENTS")]
    growth: Vec<u64>,
}

impl Options {
    fn plan(&self, form: Form) -> Plan {
        let mut plan = Plan::new(form, self.seed);
        fn set<T>(place: &mut T, value: Option<T>) {
            if let Some(value) = value {
                *place = value;
            }
        }
        set(&mut plan.accounts, self.accounts);
        set(&mut plan.rounds, self.rounds);
        set(&mut plan.round, self.round.map(Duration::from_millis));
        set(&mut plan.catch_up_events, self.catch_up);
        set(&mut plan.catch_up_fill, self.catch_up_fill.map(Duration::from_secs));
        set(&mut plan.catch_up_rounds, self.catch_up_rounds);
        set(&mut plan.parts, Some(self.part.clone()).filter(|parts| !parts.is_empty()));
        set(&mut plan.growth_sizes, Some(self.growth.clone()).filter(|sizes| !sizes.is_empty()));
        plan
    }
}

fn main() -> anyhow::Result<()> {
    let what = Cli::parse().what;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match what {
        What::Smoke(options) => runtime.block_on(run(Form::Smoke, &options)),
        What::Short(options) => runtime.block_on(run(Form::Short, &options)),
        What::Full(options) => runtime.block_on(run(Form::Full, &options)),
        What::Page { from, again } => page::publish(from.as_deref(), again.as_deref()),
        What::List => {
            for (kind, about) in contenders::all().into_iter().chain(contenders::logs()) {
                println!("{:<28} {:<12} {kind:?}", about.name, about.store);
            }
            Ok(())
        }
        What::Session { name } => {
            let served = runtime.block_on(contenders::serve(&name));
            // What a contender leaves running does not keep its process.
            runtime.shutdown_background();
            served
        }
        What::LogSession { name } => {
            let served = runtime.block_on(contenders::serve_log(&name));
            runtime.shutdown_background();
            served
        }
    }
}

async fn run(form: Form, options: &Options) -> anyhow::Result<()> {
    if let Some(name) = measure::unknown(&options.only) {
        bail!("no contender is called {name:?}; `list` names them all");
    }
    let plan = options.plan(form);
    let (begun, start) = (SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs(), Instant::now());
    std::fs::create_dir_all(&options.out).with_context(|| format!("{}", options.out.display()))?;
    let complaints = options.out.join("complaints");
    if complaints.exists() {
        std::fs::remove_dir_all(&complaints)?;
    }
    std::fs::create_dir_all(&complaints)?;
    let ground = Ground::prepare(form).await?;
    let has_server = ground.server().is_some();
    let chosen = |all| measure::choose(all, &options.only, has_server);
    let (contenders, logs) = (chosen(contenders::all()), chosen(contenders::logs()));
    let who = |all: &[(Kind, contender::About)]| {
        all.iter().map(|(kind, about)| Who::new(*kind, about)).collect::<Vec<_>>()
    };
    let results = Results {
        machine: Machine::look(ground.dir(), ground.version().await?)?,
        commit: machine::commit(),
        plan: plan.clone(),
        begun,
        seconds: 0,
        settings: Ground::settings(form),
        versions: versions()?,
        contenders: who(&contenders),
        logs: who(&logs),
        figures: Vec::new(),
        again: Vec::new(),
    };
    let mut run = Run { plan, ground, results, contenders, logs, complaints };
    let file = options.out.join(format!("{}.json", form_name(form)));
    for part in run.plan.parts.clone() {
        eprintln!("{part:?}, after {:.0?}", start.elapsed());
        run.part(part).await?;
        run.results.seconds = start.elapsed().as_secs();
        // What there is so far, should the rest fail.
        std::fs::write(&file, serde_json::to_string_pretty(&run.results)? + "\n")?;
    }
    println!("{}", page::console(&run.results));
    println!("All figures are in {}, made in {:.0?}.", file.display(), start.elapsed());
    verdict(form, &run.results)
}

fn form_name(form: Form) -> &'static str {
    match form {
        Form::Smoke => "smoke",
        Form::Short => "short",
        Form::Full => "full",
    }
}

/// The versions of all packages in the lock file that contenders name.
fn versions() -> anyhow::Result<BTreeMap<String, String>> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.lock");
    let lock = std::fs::read_to_string(&file).with_context(|| format!("{}", file.display()))?;
    let of = |line: &str, name: &str| {
        Some(line.strip_prefix(name)?.strip_prefix(" = \"")?.strip_suffix('"')?.to_owned())
    };
    let (mut versions, mut name) = (BTreeMap::new(), None);
    for line in lock.lines() {
        name = of(line, "name").or(name);
        if let (Some(version), Some(name)) =
            (of(line, "version"), name.take_if(|_| line.starts_with("version")))
        {
            versions.insert(name, version);
        }
    }
    let named: Vec<_> = contenders::all().into_iter().chain(contenders::logs()).collect();
    versions.retain(|name, _| named.iter().any(|(_, about)| about.packages.contains(&name.as_str())));
    Ok(versions)
}

/// What is wrong with others is printed with their figures; what is wrong with us ends a smoke run badly.
fn verdict(form: Form, results: &Results) -> anyhow::Result<()> {
    let ours = |name: &str| {
        let mut all = results.contenders.iter().chain(&results.logs);
        all.any(|who| who.name == name && who.kind != Kind::Peer)
    };
    let faults: Vec<_> = results
        .figures
        .iter()
        .filter(|figure| ours(&figure.contender) && !matches!(figure.fault, None | Some(Fault::Absent)))
        .map(|figure| {
            format!("{}, {:?}, {}: {:?}", figure.contender, figure.measure, figure.case, figure.fault)
        })
        .collect();
    if form == Form::Smoke && !faults.is_empty() {
        bail!("what is ours is wrong:\n{}", faults.join("\n"));
    }
    Ok(())
}
