//! Instructions of one command, as Valgrind's simulated processor counts them, on all threads of a process.
//! The difference between many commands and few leaves out what the process does at its start and end.

#![allow(missing_docs, reason = "a test")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at a fault")]
#![allow(clippy::print_stdout, reason = "what was left out is said")]

use std::path::Path;
use std::process::Command;

use counts::expected::Sheet;

const FEW: u64 = 100;
const MANY: u64 = 600;

#[test]
fn instructions() {
    if !is_here() {
        return;
    }
    let mut sheet = Sheet::new("instructions", 10);
    for store in ["memory", "sqlite"] {
        let measure = format!("{store}, a deposit");
        sheet.add(&measure, of_a_deposit(store, &[]));
        sheet.catches(&measure, of_a_deposit(store, &["wasteful"]));
    }
    sheet.settle();
}

/// Whether this can be counted here, and as it was recorded.
fn is_here() -> bool {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        pg_cluster::skip("instructions are recorded for Linux on x86-64");
        return false;
    }
    let here = Command::new("valgrind").arg("--version").output().is_ok_and(|done| done.status.success());
    if !here {
        pg_cluster::skip("valgrind is not installed here");
    }
    here
}

fn of_a_deposit(store: &str, more: &[&str]) -> u64 {
    (of_deposits(store, MANY, more) - of_deposits(store, FEW, more)) / (MANY - FEW)
}

fn of_deposits(store: &str, times: u64, more: &[&str]) -> u64 {
    // In memory if that is possible: a thousand commits wait for a disk, and no instruction tells.
    let memory = Path::new("/dev/shm");
    let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
    let file = dir.path().join("bank");
    let store = if store == "sqlite" { file.to_str().unwrap() } else { store };
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--error-exitcode=1"]);
    valgrind.arg(env!("CARGO_BIN_EXE_deposits")).args([store, &times.to_string()]).args(more);
    let done = valgrind.output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{valgrind:?}: {}\n{said}", done.status);
    // `==123== Collected : 456`
    let count = said.lines().find_map(|line| line.split_once("Collected :")?.1.trim().parse().ok());
    count.unwrap_or_else(|| panic!("{valgrind:?} gives no count\n{said}"))
}
