//! A bank on real postings: commands in, read models out.
//!
//! ```text
//! cargo run --release --example bank
//! cargo run --release --example bank -- import examples/bank/sample.csv --overdraft refuse
//! cargo run --release --example bank -- import examples/bank/sample.csv --json --accounts
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
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, Parser, Subcommand, ValueEnum};
use cqrs::prelude::*;
use indicatif::{ProgressBar, ProgressStyle};

use domain::Overdraft;
use import::Import;
use postings::{Fault, Postings};
use reports::Report;

/// A bank on real postings. Without a command it plays a short story on built-in data.
#[derive(Parser)]
#[command(name = "bank", version)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Turns the postings of a file into commands, and reports what the read models say then.
    ///
    /// A malformed row stops the import with file, line, column and reason. What came before it
    /// stays, and is reported; the exit code is 1 then.
    Import(ImportArgs),
}

#[derive(Args)]
struct ImportArgs {
    /// The postings: CSV, plain or gzipped.
    file: PathBuf,
    /// Whether accounts may be overdrawn.
    #[arg(long, value_enum, default_value_t = OverdraftArg::Allow)]
    overdraft: OverdraftArg,
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
    let end = match Cli::parse().command {
        None => story::play(&mut out).await,
        Some(Command::Import(args)) => import(&mut out, &args).await,
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

async fn import(out: &mut impl Write, args: &ImportArgs) -> anyhow::Result<()> {
    let (postings, progress) = open(&args.file, args.report.json)?;
    let bank = Engine::open("memory:").await?;

    let begun = Instant::now();
    let end = Import::new(&bank, args.overdraft.into()).run(postings).await;
    let imported = begun.elapsed();
    progress.finish_and_clear();
    bank.catch_up().await?;
    let caught_up = begun.elapsed() - imported;

    let report = Report::of(&bank, args.report.accounts).await?;
    if args.report.json {
        writeln!(out, "{}", serde_json::to_string(&report)?)?;
    } else {
        summary(out, &args.file, &report, imported, caught_up)?;
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
    let style = "{bar:40} {percent}% of {binary_total_bytes}, {eta} to go";
    progress.set_style(ProgressStyle::with_template(style)?);
    let postings = Postings::read(&name, progress.wrap_read(file))?;
    Ok((postings, progress))
}

fn summary(
    out: &mut impl Write,
    file: &Path,
    report: &Report,
    imported: Duration,
    caught_up: Duration,
) -> io::Result<()> {
    let Report { commands, accepted, refused, refused_czk, .. } = report;
    let per_second = *commands as f64 / imported.as_secs_f64().max(1e-9);
    writeln!(
        out,
        "{}: {} postings in {imported:.0?}, {} commands/s; read models complete {caught_up:.0?} later.",
        file.display(),
        show::count(*commands),
        show::count(per_second as u64),
    )?;
    writeln!(
        out,
        "{} accepted, {} refused ({} CZK not covered).\n",
        show::count(*accepted),
        show::count(*refused),
        refused_czk.grouped()
    )
}
