//! What the macros cost at compile time: a crate of 100 aggregates with 5 commands and 5 events
//! each, against the same types and methods without the macros, and against the same with the least
//! that anybody has to write by hand: an enum of the events, its JSON both ways, and the fold.
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
    let crates = [Style::Types, Style::ByHand, Style::Macros].map(|style| write_crate(&base, &root, style));
    for (what, arguments) in
        [("check", &["check"][..]), ("build", &["build"]), ("build --release", &["build", "--release"])]
    {
        // Dependencies first, so that only the crate itself is timed.
        crates.iter().for_each(|dir| cargo(dir, arguments));
        let mut times = [Vec::new(), Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            for (dir, times) in crates.iter().zip(&mut times) {
                times.push(timed(dir, arguments));
            }
        }
        let [types, by_hand, macros] = times.map(|times| median(times).as_secs_f64());
        println!(
            "{what:<16} types alone {types:>6.2} s   by hand {by_hand:>6.2} s   with macros {macros:>6.2} s   \
             {:>4.2} of by hand, {:>5.1} ms more per aggregate",
            macros / by_hand,
            (macros - by_hand) * 1e3 / AGGREGATES as f64
        );
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Style {
    Types,
    ByHand,
    Macros,
}

fn write_crate(base: &Path, root: &Path, style: Style) -> PathBuf {
    let name = format!("{style:?}").to_lowercase();
    let dir = base.join(&name);
    fs::create_dir_all(dir.join("src")).unwrap();
    let manifest = format!(
        "[package]\nname = \"generated-{name}\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[workspace]\n\n[dependencies]\ncqrs = {{ path = {root:?}, default-features = false }}\nserde = {{ version = \"1\", features = [\"derive\"] }}\nserde_json = \"1\"\nthiserror = \"2\"\n"
    );
    fs::write(dir.join("Cargo.toml"), manifest).unwrap();
    // The same versions as the workspace has.
    fs::copy(root.join("Cargo.lock"), dir.join("Cargo.lock")).unwrap();
    let mut source = String::from("#![allow(dead_code)]\n");
    for number in 0..AGGREGATES {
        aggregate(&mut source, number, style);
    }
    fs::write(dir.join("src/lib.rs"), source).unwrap();
    dir
}

fn aggregate(source: &mut String, number: usize, style: Style) {
    let macros = style == Style::Macros;
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
    let by_hand = if style == Style::ByHand { by_hand(number) } else { String::new() };
    write!(
        source,
        "pub mod m{number} {{\n{types}#[derive(Debug, thiserror::Error)] #[error(\"refused\")] pub struct Refused;\npub struct Account{number} {{ total: u64 }}\n{}impl Account{number} {{\n{methods}}}\n{by_hand}}}\n",
        attribute("#[cqrs::aggregate(id = u64, error = Refused)]"),
    )
    .unwrap();
}

/// The least that stands in for the macros: no registration, no versions, no guards.
fn by_hand(number: usize) -> String {
    let kinds = (0..KINDS).map(|kind| (kind, format!("Event{kind}Of{number}")));
    let [mut variants, mut encode, mut decode, mut apply] = [const { String::new() }; 4];
    for (kind, event) in kinds {
        write!(variants, "{event}({event}), ").unwrap();
        write!(encode, "Self::{event}(e) => (\"{event}\", serde_json::to_vec(e)?), ").unwrap();
        write!(decode, "\"{event}\" => Self::{event}(serde_json::from_slice(bytes)?), ").unwrap();
        let fold = if kind == 0 {
            format!("*state = Some(Account{number}::apply0(e))")
        } else {
            format!("if let Some(state) = state {{ state.apply{kind}(e) }}")
        };
        write!(apply, "Self::{event}(e) => {fold}, ").unwrap();
    }
    format!(
        "pub enum Event {{ {variants} }}\nimpl Event {{\npub fn encode(&self) -> Result<(&'static str, Vec<u8>), serde_json::Error> {{ Ok(match self {{ {encode} }}) }}\npub fn decode(name: &str, bytes: &[u8]) -> Result<Self, Box<dyn std::error::Error>> {{ Ok(match name {{ {decode} _ => return Err(\"unknown\".into()) }}) }}\npub fn apply(&self, state: &mut Option<Account{number}>) {{ match self {{ {apply} }} }}\n}}\n"
    )
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
