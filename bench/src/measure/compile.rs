//! Crates, and the time that `cargo check` takes for them from nothing: of an empty program that depends on
//! what a program with this contender has to name, in the versions of this package's lock file and with
//! the features that it uses here.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::bail;
use serde::Deserialize;

use super::{POSTGRES, Run, key, say};
use crate::contender::About;
use crate::results::{Fault, Measure};

pub const CASE: &str = "cargo check";

const HERE: &str = env!("CARGO_MANIFEST_DIR");

/// What `cargo metadata` says.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    dependencies: Vec<Dependency>,
}

#[derive(Clone, Debug, Deserialize)]
struct Dependency {
    name: String,
    req: String,
    features: Vec<String>,
    uses_default_features: bool,
    rename: Option<String>,
    path: Option<String>,
}

pub fn measure(run: &mut Run) -> anyhow::Result<()> {
    let known = dependencies()?;
    for round in 0..run.plan.compile_rounds {
        one_round(run, &known, round)?;
    }
    Ok(())
}

fn one_round(run: &mut Run, known: &[Dependency], round: usize) -> anyhow::Result<()> {
    let mut done: BTreeMap<String, Result<(f64, f64), String>> = BTreeMap::new();
    for about in run.contenders.iter().map(|(_, about)| about.clone()).collect::<Vec<_>>() {
        let (time, crates) =
            (key(Measure::Compile, CASE, about.name), key(Measure::Crates, CASE, about.name));
        if about.packages.is_empty() {
            run.results.fault(time, Fault::Absent);
            run.results.fault(crates, Fault::Absent);
            continue;
        }
        // Two contenders may need the same.
        let manifest = manifest(&about, known)?;
        let dir = run.ground.dir().join("compile");
        let checked = done.entry(manifest).or_insert_with_key(|manifest| {
            say(format_args!("cargo check for {}, round {}", about.name, round + 1));
            let checked = check(&dir, manifest).map_err(|error| format!("{error:#}"));
            drop(std::fs::remove_dir_all(&dir));
            checked
        });
        match checked.clone() {
            Ok((seconds, count)) => {
                run.results.add(time, seconds);
                if round == 0 {
                    run.results.add(crates, count);
                }
            }
            Err(words) => {
                say(format_args!("{}: {words}", about.name));
                run.results.fault(time, Fault::Failed(words.clone()));
                run.results.fault(crates, Fault::Failed(words));
            }
        }
    }
    Ok(())
}

fn dependencies() -> anyhow::Result<Vec<Dependency>> {
    let mut metadata = Command::new("cargo");
    metadata.args(["metadata", "--no-deps", "--offline", "--format-version", "1"]).current_dir(HERE);
    let metadata: Metadata = serde_json::from_slice(&output(&mut metadata)?)?;
    Ok(metadata.packages.into_iter().flat_map(|package| package.dependencies).collect())
}

/// What every such program names.
const ALL_NAME: [&str; 2] = ["serde", "tokio"];

/// The manifest of a program that uses it.
fn manifest(about: &About, known: &[Dependency]) -> anyhow::Result<String> {
    let mut lines = String::new();
    let find = |name| known.iter().find(|it| it.name == name && it.rename.is_none()).cloned();
    // What is not named here is brought by what is.
    let named = about.packages.iter().filter_map(|&name| find(name));
    for mut it in named.chain(ALL_NAME.iter().filter_map(|&name| find(name))) {
        // What this package asks for is for all contenders together.
        match &*it.name {
            "cqrs" => {
                let store = match about.store {
                    "SQLite" => Some("sqlite"),
                    POSTGRES => Some("postgres"),
                    _ => None,
                };
                it.features = store.into_iter().map(str::to_owned).collect();
            }
            "tokio" => it.features = ["macros", "rt-multi-thread"].map(str::to_owned).into(),
            _ => {}
        }
        let source = match &it.path {
            Some(path) => format!("path = {path:?}"),
            None => format!("version = {:?}", it.req),
        };
        let Dependency { name, features, uses_default_features, .. } = it;
        lines += &format!(
            "{name} = {{ {source}, features = {features:?}, default-features = {uses_default_features} }}\n"
        );
    }
    let first = about.packages.first().copied().unwrap_or_default();
    anyhow::ensure!(
        find(first).is_some(),
        "{} needs {first}, which {HERE}/Cargo.toml does not name",
        about.name
    );
    // As in the manifest here: it stands in the lock file.
    let patch = format!("sqlx-sqlite = {{ path = \"{HERE}/unbuilt/sqlx-sqlite\" }}");
    Ok(format!(
        "[package]\nname = \"empty\"\nedition = \"2024\"\n\n[workspace]\n\n[dependencies]\n{lines}\n\
         [patch.crates-io]\n{patch}\n"
    ))
}

/// The seconds and the crates.
fn check(dir: &Path, manifest: &str) -> anyhow::Result<(f64, f64)> {
    let crates = crates(dir, manifest)?;
    let start = Instant::now();
    output(&mut cargo(dir, &["check"]))?;
    Ok((start.elapsed().as_secs_f64(), crates as f64))
}

/// How many crates a program with this manifest, which is made here, is built of beside itself.
fn crates(dir: &Path, manifest: &str) -> anyhow::Result<usize> {
    std::fs::create_dir_all(dir.join("src"))?;
    std::fs::write(dir.join("src/main.rs"), "fn main() {}\n")?;
    std::fs::write(dir.join("Cargo.toml"), manifest)?;
    std::fs::copy(Path::new(HERE).join("Cargo.lock"), dir.join("Cargo.lock"))?;
    let tree = output(&mut cargo(dir, &["tree", "-e", "normal,build", "--prefix", "none"]))?;
    let tree = String::from_utf8(tree)?;
    // Name and version; what follows says whether it was named before.
    let crates: BTreeSet<_> = tree.lines().map(|line| line.split(' ').take(2).collect::<Vec<_>>()).collect();
    Ok(crates.len() - 1)
}

fn cargo(dir: &Path, arguments: &[&str]) -> Command {
    let mut cargo = Command::new("cargo");
    cargo.args(arguments).arg("--offline").current_dir(dir);
    cargo.env("CARGO_TARGET_DIR", dir.join("target")).env_remove("RUSTFLAGS");
    cargo
}

fn output(command: &mut Command) -> anyhow::Result<Vec<u8>> {
    let done = command.stdin(Stdio::null()).output()?;
    if !done.status.success() {
        bail!("{command:?}: {}: {}", done.status, String::from_utf8_lossy(&done.stderr).trim());
    }
    Ok(done.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contenders;

    /// What each needs is there, in the versions of the lock file and with the features that it asks for.
    #[test]
    fn a_program_can_be_made_with_each_contender() -> anyhow::Result<()> {
        let (dir, known) = (tempfile::tempdir()?, dependencies()?);
        let mut counts = BTreeMap::new();
        for (_, about) in contenders::all().into_iter().filter(|(_, about)| !about.packages.is_empty()) {
            counts.insert(about.name, crates(dir.path(), &manifest(&about, &known)?)?);
        }
        for store in ["cqrs-sqlite", "cqrs-postgres"] {
            assert!(counts[store] > counts["cqrs-memory"], "{counts:?}");
        }
        assert!(counts.len() > 10, "{counts:?}");
        Ok(())
    }
}
