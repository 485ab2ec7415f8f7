//! What the figures were measured on.

use std::fs::{File, read_to_string};
use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::results::median;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Machine {
    pub processor: String,
    pub cores: usize,
    /// In GiB.
    pub memory: Option<u64>,
    pub system: String,
    pub postgres: Option<String>,
    pub rustc: String,
    /// Microseconds for one `fdatasync` behind 4 KiB that were written, where the databases are.
    pub sync: f64,
}

impl Machine {
    pub fn look(dir: &Path, postgres: Option<String>) -> anyhow::Result<Self> {
        let line = |file: &str, name: &str| {
            let text = read_to_string(file).ok()?;
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.split_once(':'))?;
            Some(line.1.trim().to_owned())
        };
        let memory = line("/proc/meminfo", "MemTotal").and_then(|text| text.split(' ').next()?.parse().ok());
        let kernel = read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let rustc = std::process::Command::new("rustc").arg("--version").output();
        let rustc = rustc.map(|done| String::from_utf8_lossy(&done.stdout).trim().to_owned());
        Ok(Self {
            processor: line("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".to_owned()),
            cores: std::thread::available_parallelism()?.get(),
            memory: memory.map(|kibibytes: u64| (kibibytes + 524_288) / 1_048_576),
            system: format!("{} {}", std::env::consts::OS, kernel.trim()),
            postgres,
            rustc: rustc.unwrap_or_else(|_| "unknown".to_owned()),
            sync: sync(dir)?,
        })
    }
}

/// The commit of this repository, with a mark if files differ from it.
pub fn commit() -> Option<String> {
    let git = |arguments: &[&str]| {
        let repository = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
        let done =
            std::process::Command::new("git").arg("-C").arg(repository).args(arguments).output().ok()?;
        done.status.success().then(|| String::from_utf8_lossy(&done.stdout).trim().to_owned())
    };
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    // Files that a run writes do not count as changes of the code.
    let code = ["status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs", ":!bench/results"];
    let changed = git(&code).is_none_or(|files| !files.is_empty());
    Some(if changed { format!("{commit}, with changes") } else { commit })
}

fn sync(dir: &Path) -> anyhow::Result<f64> {
    let mut file = File::create(dir.join("sync"))?;
    let mut times = Vec::new();
    for _ in 0..300 {
        let start = Instant::now();
        file.write_all(&[7; 4_096])?;
        file.sync_data()?;
        times.push(start.elapsed().as_secs_f64() * 1e6);
    }
    std::fs::remove_file(dir.join("sync"))?;
    Ok(median(&times).unwrap_or_default())
}
