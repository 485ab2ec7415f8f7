//! A bank on real postings: commands in, read models out.
//!
//! ```text
//! cargo run --release --example bank
//! cargo run --release --example bank -- import examples/bank/sample.csv --overdraft refuse
//! cargo run --release --example bank -- report --json --accounts
//! cargo run --release --example bank -- account 7
//! cargo run --release --example bank -- verify
//! ```
#![allow(unreachable_pub, reason = "the modules are written as they would stand in a library")]

#[rustfmt::skip] // One fact per line, as the README shows it.
mod domain;
mod import;
mod postings;
mod reports;
mod show;
mod story;
mod values;

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, Parser, Subcommand, ValueEnum};
use cqrs::prelude::*;
use indicatif::{ProgressBar, ProgressStyle};

use domain::Overdraft;
use import::{Import, Tally};
use postings::{Fault, Postings};
use reports::{Report, Statement};
use values::AccountId;

/// A bank on real postings. Without a command it plays a short story on built-in data.
#[derive(Parser)]
#[command(name = "bank", version)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    /// Where the bank is kept: `sqlite:FILE`, or `memory:` for one that ends with the program.
    #[arg(long, global = true, value_name = "URL", default_value = "sqlite:bank.db")]
    store: String,
}

#[derive(Subcommand)]
enum Command {
    /// Turns the postings of a file into commands, and reports what the read models say then.
    ///
    /// A malformed row stops the import with file, line, column and reason. What came before it
    /// stays, and is reported; the exit code is 1 then. An import that was cut off is run again to
    /// be finished: what is in the bank already is not carried out twice.
    Import(ImportArgs),
    /// Reports what the read models say, beside whoever is writing.
    Report(ReportArgs),
    /// Reports one account.
    Account {
        /// Its number.
        id: AccountId,
        /// Prints it as one JSON object, and nothing else.
        #[arg(long)]
        json: bool,
    },
    /// Compares every read model with a fresh fold of the log, and walks through the file if there
    /// is one. The exit code is 1 if anything is not as it has to be.
    Verify,
}

#[derive(Args)]
struct ImportArgs {
    /// The postings: CSV, plain or gzipped.
    file: PathBuf,
    /// Whether accounts that it opens may be overdrawn.
    #[arg(long, value_enum, default_value_t = OverdraftArg::Allow)]
    overdraft: OverdraftArg,
    /// How many postings, of different accounts, are carried out at once.
    #[arg(long, value_name = "N", default_value = "64")]
    in_flight: NonZeroUsize,
    #[command(flatten)]
    report: ReportArgs,
}

#[derive(Args)]
struct ReportArgs {
    /// Prints the report as one JSON object, and nothing else.
    #[arg(long)]
    json: bool,
    /// Reports each account, too.
    #[arg(long)]
    accounts: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum OverdraftArg {
    Allow,
    Refuse,
}

impl From<OverdraftArg> for Overdraft {
    fn from(arg: OverdraftArg) -> Self {
        match arg {
            OverdraftArg::Allow => Self::Allowed,
            OverdraftArg::Refuse => Self::Refused,
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let mut out = BufWriter::new(io::stdout());
    let Cli { command, store } = Cli::parse();
    let end = match command {
        None => story::play(&mut out, &store).await,
        Some(Command::Import(args)) => import(&mut out, &store, &args).await,
        Some(Command::Report(args)) => report(&mut out, &store, &args).await,
        Some(Command::Account { id, json }) => account(&mut out, &store, id, json).await,
        Some(Command::Verify) => verify(&mut out, &store).await,
    };
    // What was printed before a fault comes before it.
    match out.flush().map_err(anyhow::Error::from).and(end) {
        Err(error) if !is_broken_pipe(&error) => {
            // If there is nobody to tell it to, the exit code still says it.
            let _ = writeln!(io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
        _ => ExitCode::SUCCESS,
    }
}

/// Whether the reader of our output has had enough, as `head` has.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

async fn import(out: &mut impl Write, store: &str, args: &ImportArgs) -> anyhow::Result<()> {
    let (postings, progress) = open(&args.file, args.report.json)?;
    let bank = Engine::open(store).await?;

    let import = Import::new(&bank, args.overdraft.into(), args.in_flight);
    let tally = import.tally();
    let told = |postings: Postings| postings.inspect(|_| tell_repeated(&progress, &tally));
    let begun = Instant::now();
    let end = import.run(told(postings)).await;
    let imported = begun.elapsed();
    progress.finish_and_clear();
    bank.catch_up().await?;
    let caught_up = begun.elapsed() - imported;

    let report = Report::of(&bank, args.report.accounts).await?;
    if args.report.json {
        writeln!(out, "{}", serde_json::to_string(&report)?)?;
    } else {
        summary(out, &args.file, &tally, imported, caught_up)?;
        show::report(out, &report)?;
    }
    bank.shutdown().await;
    Ok(end?)
}

/// Opens a file of postings; the progress bar moves as it is read, if somebody can see it.
fn open(path: &Path, quiet: bool) -> anyhow::Result<(Postings, ProgressBar)> {
    let name = path.display().to_string();
    let file = File::open(path).map_err(|error| Fault::of_file(&name, error))?;
    let length = file.metadata().map_or(0, |data| data.len());
    let progress = if quiet { ProgressBar::hidden() } else { ProgressBar::new(length) };
    let style = "{bar:40} {percent}% of {binary_total_bytes}, {eta} to go{msg}";
    progress.set_style(ProgressStyle::with_template(style)?);
    let postings = Postings::read(&name, progress.wrap_read(file))?;
    Ok((postings, progress))
}

/// Says beside the progress bar how much of the file an earlier import has done.
fn tell_repeated(progress: &ProgressBar, tally: &Tally) {
    match tally.repeated() {
        repeated if repeated > 0 && !progress.is_hidden() => {
            progress.set_message(format!("; {} were there already", show::count(repeated)));
        }
        _ => {}
    }
}

fn summary(
    out: &mut impl Write,
    file: &Path,
    tally: &Tally,
    imported: Duration,
    caught_up: Duration,
) -> io::Result<()> {
    let (done, repeated) = (tally.carried_out(), tally.repeated());
    let per_second = done as f64 / imported.as_secs_f64().max(1e-9);
    let already = match repeated {
        0 => String::new(),
        _ => format!(" ({} were there already)", show::count(repeated)),
    };
    writeln!(
        out,
        "{}: {} postings{already} in {imported:.0?}, {} a second; read models complete {caught_up:.0?} later.\n",
        file.display(),
        show::count(done),
        show::count(per_second as u64),
    )
}

async fn report(out: &mut impl Write, store: &str, args: &ReportArgs) -> anyhow::Result<()> {
    let bank = reader(store).await?;
    let report = Report::of(&bank, args.accounts).await?;
    if args.json {
        writeln!(out, "{}", serde_json::to_string(&report)?)?;
    } else {
        show::report(out, &report)?;
        lag(out, &bank).await?;
    }
    Ok(())
}

/// Says so if the read models are behind the log: an import is running, or was cut off.
async fn lag(out: &mut impl Write, bank: &Engine) -> anyhow::Result<()> {
    let lag = bank.status().await?.into_iter().map(|projection| projection.lag).max();
    match lag.filter(|lag| lag.positions > 0) {
        Some(lag) => Ok(writeln!(out, "The read models are behind the log by {lag}.")?),
        None => Ok(()),
    }
}

async fn account(out: &mut impl Write, store: &str, id: AccountId, json: bool) -> anyhow::Result<()> {
    let bank = reader(store).await?;
    let Some(statement) = Statement::of(&bank, id).await? else {
        anyhow::bail!("the bank in {store} has no account {id}");
    };
    if json {
        writeln!(out, "{}", serde_json::to_string(&statement)?)?;
    } else {
        show::statement(out, &statement)?;
        lag(out, &bank).await?;
    }
    Ok(())
}

async fn verify(out: &mut impl Write, store: &str) -> anyhow::Result<()> {
    walk(out, store).await?;
    let found = reader(store).await?.verify().await?;
    writeln!(out, "{found}")?;
    anyhow::ensure!(found.is_sound(), "the read models in {store} are not what the log makes them");
    Ok(())
}

/// Walks through what the store keeps: one in memory keeps nothing.
async fn walk(out: &mut impl Write, store: &str) -> anyhow::Result<()> {
    let (events, streams) = match store.split_once(':') {
        #[cfg(feature = "sqlite")]
        Some(("sqlite", file)) => {
            let seen = cqrs::sqlite::SqliteStore::open(file).await?.verify().await?;
            (seen.events, seen.streams)
        }
        #[cfg(feature = "postgres")]
        Some(("postgres" | "postgresql", _)) => {
            let seen = cqrs::postgres::PostgresStore::open(store).await?.verify().await?;
            (seen.events, seen.streams)
        }
        _ => return Ok(()),
    };
    Ok(writeln!(out, "log: {events} events in {streams} streams are as they were written")?)
}

/// A bank to read from. It leaves the read models to whoever keeps them, such as a running import.
async fn reader(store: &str) -> anyhow::Result<Engine> {
    Ok(Engine::builder().projections_elsewhere().open(store).await?)
}
