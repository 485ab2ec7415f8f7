//! The bank on PostgreSQL: the same program, the same report, and several processes at once.
//!
//! It runs the example, which has to be built with the feature first:
//! `cargo build --features postgres --example bank`. `CQRS_ROWS=50000` takes all of the real postings.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

const SAMPLE: &[u8] = include_bytes!("../examples/bank/sample.csv");

/// The example as it was built beside this test.
fn bank(home: &Path, args: &[&str]) -> Command {
    let test = std::env::current_exe().unwrap();
    let profile = test.parent().and_then(Path::parent).unwrap();
    let program = profile.join("examples/bank").with_extension(std::env::consts::EXE_EXTENSION);
    assert!(program.exists(), "{} is not built, see above", program.display());
    let mut command = Command::new(program);
    command.args(args).current_dir(home);
    command
}

fn told(home: &Path, args: &[&str]) -> String {
    let done = bank(home, args).output().unwrap();
    let (out, err) = (String::from_utf8(done.stdout).unwrap(), String::from_utf8(done.stderr).unwrap());
    assert!(done.status.success(), "{args:?}: {out}{err}");
    out
}

/// A schema of its own in the tests' server.
fn url(cluster: &pg_cluster::Cluster, name: &str) -> String {
    format!("{}?schema={name}_{}", cluster.url(), std::process::id())
}

/// The real postings as plain text, or the sample where they are missing.
fn postings() -> Vec<u8> {
    let beside = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/data");
    let data = std::env::var_os("CQRS_DATA").map_or_else(beside, PathBuf::from);
    let file = data.join("bank/transactions.csv.gz");
    match std::fs::File::open(&file) {
        Ok(zipped) => {
            let mut plain = Vec::new();
            flate2::read::GzDecoder::new(zipped).read_to_end(&mut plain).unwrap();
            plain
        }
        Err(error) => {
            pg_cluster::skip_without_data(&format!(
                "the real postings are not here; the sample is used ({}: {error})",
                file.display()
            ));
            SAMPLE.to_vec()
        }
    }
}

#[test]
fn the_report_is_that_of_the_file_byte_for_byte() {
    let Some(cluster) = pg_cluster::shared() else { return };
    let home = TempDir::new().unwrap();
    std::fs::write(home.path().join("postings.csv"), SAMPLE).unwrap();
    for overdraft in ["allow", "refuse"] {
        let store = url(cluster, overdraft);
        let file = format!("sqlite:{overdraft}.db");
        let import = ["import", "postings.csv", "--json", "--accounts", "--overdraft", overdraft, "--store"];
        let on = |store: &str| told(home.path(), &[&import[..], &[store]].concat());
        let expected = on(&file);
        assert_eq!(on(&store), expected);
        assert_eq!(told(home.path(), &["report", "--json", "--accounts", "--store", &store]), expected);
        // Once more: nothing is doubled.
        assert_eq!(on(&store), expected);
        let verified = told(home.path(), &["verify", "--store", &store]);
        assert!(verified.contains("are as a fresh fold makes them"), "{verified}");
        assert_eq!(
            verified,
            told(home.path(), &["verify", "--store", &file]),
            "the log is walked through too"
        );
    }
}

#[test]
fn three_processes_import_thirds_of_one_file_at_once() {
    let Some(cluster) = pg_cluster::shared() else { return };
    let home = TempDir::new().unwrap();
    let all = String::from_utf8(postings()).unwrap();
    let rows = std::env::var("CQRS_ROWS").map_or(12_000, |rows| rows.parse().unwrap());
    let all: String = all.lines().take(1 + rows).map(|row| format!("{row}\n")).collect();
    std::fs::write(home.path().join("all.csv"), &all).unwrap();
    let (header, rows) = all.split_once('\n').unwrap();
    let store = url(cluster, "thirds");
    let imports: Vec<Child> = (0..3)
        .map(|third| {
            let rows = rows.lines().skip(third).step_by(3);
            let part: String = std::iter::once(header).chain(rows).map(|row| format!("{row}\n")).collect();
            let name = format!("third-{third}.csv");
            std::fs::write(home.path().join(&name), part).unwrap();
            let mut import = bank(home.path(), &["import", &name, "--json", "--store", &store]);
            import.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for import in imports {
        let done = import.wait_with_output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
    let expected = told(home.path(), &["import", "all.csv", "--json", "--store", "memory:"]);
    // The last third's report was made when its own import ended; another import of everything adds
    // nothing, and waits until the read models have all.
    let again = told(home.path(), &["import", "all.csv", "--json", "--store", &store]);
    assert_eq!(totals(&again), totals(&expected));
    let verified = told(home.path(), &["verify", "--store", &store]);
    assert!(verified.contains("are as a fresh fold makes them"), "{verified}");
}

/// What does not depend on the order in which the postings of one account came: its first one opens it.
fn totals(report: &str) -> serde_json::Value {
    let mut report: serde_json::Value = serde_json::from_str(report).unwrap();
    report.as_object_mut().unwrap().remove("ever_negative");
    for month in report["by_month"].as_object_mut().unwrap().values_mut() {
        month.as_object_mut().unwrap().remove("opened");
    }
    report
}
