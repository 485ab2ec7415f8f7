//! What the macros cost at compile time: a crate of 100 aggregates with 5 commands and 5 events
//! each, against the same types and methods without the macros.
//!
//! `cargo bench --bench compile_time`; takes some minutes, and needs no network once the
//! dependencies are there.

#![allow(
    missing_docs,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a benchmark prints, and stops at a fault"
)]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const AGGREGATES: usize = 100;
const KINDS: usize = 5;
const ROUNDS: usize = 3;

fn main() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let base = Path::new(env!("CARGO_TARGET_TMPDIR")).join("compile_time");
    let with = write_crate(&base.join("with"), &root, true);
    let without = write_crate(&base.join("without"), &root, false);
    for (what, arguments) in
        [("check", &["check"][..]), ("build", &["build"]), ("build --release", &["build", "--release"])]
    {
        // Dependencies first, so that only the crate itself is timed.
        cargo(&with, arguments);
        cargo(&without, arguments);
        let mut times = [Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            times[0].push(timed(&without, arguments));
            times[1].push(timed(&with, arguments));
        }
        let [plain, macros] = times.map(median);
        let extra = macros.saturating_sub(plain);
        println!(
            "{what:<16} without macros {:>6.2} s   with macros {:>6.2} s   {:>5.1} ms per aggregate",
            plain.as_secs_f64(),
            macros.as_secs_f64(),
            extra.as_secs_f64() * 1e3 / AGGREGATES as f64
        );
    }
}

fn write_crate(dir: &Path, root: &Path, macros: bool) -> PathBuf {
    fs::create_dir_all(dir.join("src")).unwrap();
    let manifest = format!(
        "[package]\nname = \"generated-{}\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[workspace]\n\n[dependencies]\ncqrs = {{ path = {root:?} }}\nserde = {{ version = \"1\", features = [\"derive\"] }}\nthiserror = \"2\"\n",
        if macros { "with" } else { "without" }
    );
    fs::write(dir.join("Cargo.toml"), manifest).unwrap();
    // The same versions as the workspace has.
    fs::copy(root.join("Cargo.lock"), dir.join("Cargo.lock")).unwrap();
    let mut source = String::from("#![allow(dead_code)]\n");
    for number in 0..AGGREGATES {
        aggregate(&mut source, number, macros);
    }
    fs::write(dir.join("src/lib.rs"), source).unwrap();
    dir.to_owned()
}

fn aggregate(source: &mut String, number: usize, macros: bool) {
    let attribute = |text: &str| if macros { format!("{text}\n") } else { String::new() };
    let mut types = String::new();
    let mut methods = String::new();
    for kind in 0..KINDS {
        let (event, command) = (format!("Event{kind}Of{number}"), format!("Command{kind}"));
        let derive = if macros { "cqrs::Event, " } else { "" };
        write!(
            types,
            "#[derive({derive}serde::Serialize, serde::Deserialize)]\npub struct {event} {{ pub amount: u64, pub note: String }}\n{}pub struct {command} {{ {}pub id: u64, pub amount: u64, pub note: String }}\n",
            attribute("#[derive(cqrs::Command)]"),
            if macros { "#[id] " } else { "" },
        )
        .unwrap();
        let (receiver, apply) = if kind == 0 {
            (
                String::new(),
                format!("fn apply{kind}(event: &{event}) -> Self {{ Self {{ total: event.amount }} }}"),
            )
        } else {
            (
                "&self, ".to_owned(),
                format!("fn apply{kind}(&mut self, event: &{event}) {{ self.total += event.amount }}"),
            )
        };
        write!(
            methods,
            "{}fn handle{kind}({receiver}cmd: {command}) -> Result<{event}, Refused> {{ if cmd.amount == 0 {{ return Err(Refused) }} Ok({event} {{ amount: cmd.amount, note: cmd.note }}) }}\n{}{apply}\n",
            attribute("#[handle]"),
            attribute("#[apply]"),
        )
        .unwrap();
    }
    write!(
        source,
        "pub mod m{number} {{\n{types}#[derive(Debug, thiserror::Error)] #[error(\"refused\")] pub struct Refused;\npub struct Account{number} {{ total: u64 }}\n{}impl Account{number} {{\n{methods}}}\n}}\n",
        attribute("#[cqrs::aggregate(id = u64, error = Refused)]"),
    )
    .unwrap();
}

fn timed(dir: &Path, arguments: &[&str]) -> Duration {
    // A changed comment makes the crate, and nothing else, be compiled again.
    let path = dir.join("src/lib.rs");
    let source = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("{source}// again\n")).unwrap();
    let start = Instant::now();
    cargo(dir, arguments);
    start.elapsed()
}

fn cargo(dir: &Path, arguments: &[&str]) {
    let output = Command::new(env!("CARGO"))
        .args(arguments)
        .current_dir(dir)
        .env("CARGO_INCREMENTAL", "0")
        .env("CARGO_TARGET_DIR", dir.join("target"))
        .output()
        .expect("cargo runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo {arguments:?} failed in {}:\n{errors}", dir.display());
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}
