//! How much of each measure a run does.

use std::time::Duration;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::contenders::Kind;

/// How thorough a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// Does everything once, just to see that it works. Its times mean nothing.
    Smoke,
    Short,
    Full,
}

/// A part of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// Commands by several tasks, and how long each takes.
    Commands,
    /// Round trips and statements for each command.
    Wire,
    /// The memory that a fixed piece of work takes at most.
    Memory,
    /// Folding one long account.
    Rehydrate,
    /// Building a read model of all events.
    CatchUp,
    /// Appends that are guarded by tags, as the log grows.
    Growth,
    /// Crates and the time to check them.
    Compile,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    pub form: Form,
    pub seed: u64,
    pub parts: Vec<Part>,
    /// Accounts that are opened for commands.
    pub accounts: u64,
    /// After so long, no more of them are opened.
    pub setup: Duration,
    /// Interleaved repetitions of commands, and how long each is.
    pub rounds: usize,
    pub round: Duration,
    pub wire_commands: u64,
    pub memory_accounts: u64,
    pub memory_commands: u64,
    pub memory_rounds: usize,
    /// How long an account may get, and after how long it is left as it is.
    pub rehydrate_events: u64,
    pub rehydrate_fill: Duration,
    pub rehydrate_rounds: usize,
    pub catch_up_events: u64,
    pub catch_up_accounts: u64,
    /// How long peers may write, before they read what there is.
    pub catch_up_fill: Duration,
    pub catch_up_rounds: usize,
    pub growth_sizes: Vec<u64>,
    /// How long a log may grow to the next size, if it takes many events at once.
    pub growth_fill: Duration,
    pub growth_appends: usize,
    pub growth_rounds: usize,
    pub compile_rounds: usize,
}

impl Plan {
    /// How long a log may grow to the next size, if it takes commands.
    pub const GROWTH_BY_COMMANDS: Duration = Duration::from_secs(20);

    pub fn new(form: Form, seed: u64) -> Self {
        let seconds = Duration::from_secs;
        use Part::{CatchUp, Commands, Compile, Growth, Memory, Rehydrate, Wire};
        let parts = vec![Commands, Wire, Memory, Rehydrate, CatchUp, Growth];
        match form {
            Form::Smoke => Self {
                form,
                seed,
                parts,
                accounts: 64,
                setup: seconds(5),
                rounds: 1,
                round: Duration::from_millis(50),
                wire_commands: 20,
                memory_accounts: 16,
                memory_commands: 50,
                memory_rounds: 1,
                rehydrate_events: 100,
                rehydrate_fill: seconds(1),
                rehydrate_rounds: 2,
                catch_up_events: 300,
                catch_up_accounts: 20,
                catch_up_fill: seconds(1),
                catch_up_rounds: 1,
                growth_sizes: vec![1_000],
                growth_fill: seconds(1),
                growth_appends: 10,
                growth_rounds: 1,
                compile_rounds: 1,
            },
            Form::Short => Self {
                form,
                seed,
                parts,
                accounts: 2_000,
                setup: seconds(5),
                rounds: 3,
                round: Duration::from_millis(400),
                wire_commands: 200,
                memory_accounts: 500,
                memory_commands: 2_000,
                memory_rounds: 1,
                rehydrate_events: 10_000,
                rehydrate_fill: seconds(5),
                rehydrate_rounds: 5,
                catch_up_events: 50_000,
                catch_up_accounts: 2_000,
                catch_up_fill: seconds(2),
                catch_up_rounds: 1,
                growth_sizes: vec![10_000, 100_000],
                growth_fill: seconds(20),
                growth_appends: 200,
                growth_rounds: 1,
                compile_rounds: 1,
            },
            Form::Full => Self {
                form,
                seed,
                parts: [&*parts, &[Compile]].concat(),
                accounts: 10_000,
                setup: seconds(15),
                rounds: 3,
                round: seconds(1),
                wire_commands: 200,
                memory_accounts: 1_000,
                memory_commands: 10_000,
                memory_rounds: 3,
                rehydrate_events: 10_000,
                rehydrate_fill: seconds(20),
                rehydrate_rounds: 9,
                catch_up_events: 1_000_000,
                catch_up_accounts: 10_000,
                catch_up_fill: seconds(4),
                catch_up_rounds: 2,
                growth_sizes: vec![10_000, 100_000, 1_000_000],
                growth_fill: seconds(900),
                growth_appends: 300,
                growth_rounds: 3,
                compile_rounds: 3,
            },
        }
    }

    /// How many tasks write at once where only what they have written counts: as many as are quick with it.
    pub fn filling_tasks(kind: Kind) -> u64 {
        match kind {
            Kind::Ours | Kind::Limit => 256,
            Kind::Peer => 16,
        }
    }
}
