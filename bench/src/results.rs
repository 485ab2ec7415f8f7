//! What a run found out, as it is kept: all that the page is made of.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::contender::About;
use crate::contenders::Kind;
use crate::machine::Machine;
use crate::plan::{Part, Plan};

/// Of what kind a figure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Measure {
    /// Commands per second.
    Commands,
    /// How long one command takes, in microseconds.
    P50,
    P99,
    /// Tries beyond the first, for each command.
    Retries,
    /// Of the commands of one task, for each.
    RoundTrips,
    Statements,
    /// The most memory of a fixed piece of work, in bytes.
    Memory,
    /// Seconds to fold one account.
    Rehydrate,
    /// Events per second into a read model.
    CatchUp,
    /// Events per second into a log, by the quickest way that there is.
    Bulk,
    /// Microseconds for one guarded append (the median of a round).
    Guarded,
    /// Seconds for `cargo check`, and crates.
    Compile,
    Crates,
}

impl Measure {
    pub fn more_is_better(self) -> bool {
        matches!(self, Self::Commands | Self::CatchUp | Self::Bulk)
    }
}

/// Why a figure is not to be trusted, or is not there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// What was stored or shown is not what was acknowledged.
    Wrong(String),
    /// It gave an error, crashed or did not answer.
    Failed(String),
    /// It has nothing of the kind.
    Absent,
}

/// One figure of one contender, with a value for each repetition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    pub measure: Measure,
    /// Such as `16 tasks` or `100000`.
    pub case: String,
    /// Whether each commit waited until it was on the disk.
    pub durable: bool,
    pub contender: String,
    pub values: Vec<f64>,
    /// Over how many events or accounts, for each repetition; empty where the plan says it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sizes: Vec<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
}

/// What names a figure.
#[derive(Clone, Copy, Debug)]
pub struct Key<'a> {
    pub measure: Measure,
    pub case: &'a str,
    pub durable: bool,
    pub contender: &'a str,
}

impl Figure {
    fn is(&self, key: Key<'_>) -> bool {
        self.measure == key.measure
            && self.case == key.case
            && self.durable == key.durable
            && self.contender == key.contender
    }

    pub fn median(&self) -> Option<f64> {
        median(&self.values)
    }

    pub fn least(&self) -> Option<f64> {
        self.values.iter().copied().reduce(f64::min)
    }

    pub fn most(&self) -> Option<f64> {
        self.values.iter().copied().reduce(f64::max)
    }

    /// The median, if it is there and right.
    pub fn sound(&self) -> Option<f64> {
        if self.fault.is_none() { self.median() } else { None }
    }
}

pub fn median(values: &[f64]) -> Option<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let middle = values.len().checked_sub(1)? / 2;
    let other = values.len() / 2;
    Some((values[middle] + values[other]) / 2.0)
}

/// A contender, as it was when the run was made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Who {
    pub kind: Kind,
    pub name: String,
    pub store: String,
    pub packages: Vec<String>,
    pub less: Vec<String>,
}

impl Who {
    pub fn new(kind: Kind, about: &About) -> Self {
        let owned = |all: &[&str]| all.iter().map(|&one| one.to_owned()).collect();
        let (name, store) = (about.name.to_owned(), about.store.to_owned());
        Self { kind, name, store, packages: owned(about.packages), less: owned(about.less) }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Results {
    pub plan: Plan,
    pub machine: Machine,
    /// The commit of the code, if it was run in its repository; none if parts are of different ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// Seconds since 1970, and how long the run took.
    pub begun: u64,
    pub seconds: u64,
    /// Settings of the PostgreSQL server that are not its defaults.
    pub settings: BTreeMap<String, String>,
    /// Versions of packages, by the lock file.
    pub versions: BTreeMap<String, String>,
    pub contenders: Vec<Who>,
    pub logs: Vec<Who>,
    pub figures: Vec<Figure>,
    /// Parts that were measured again, later than the rest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub again: Vec<Again>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Again {
    pub parts: Vec<Part>,
    /// Seconds since 1970.
    pub begun: u64,
}

impl Results {
    /// Replaces what another run has measured later. Both have to be of the same.
    pub fn replaced_by(mut self, later: Self) -> anyhow::Result<Self> {
        let same = self.plan == Plan { parts: self.plan.parts.clone(), ..later.plan.clone() }
            && self.versions == later.versions
            && self.contenders == later.contenders
            && self.machine.processor == later.machine.processor
            && self.machine.rustc == later.machine.rustc;
        anyhow::ensure!(same, "the two runs differ in plan, contenders, versions or machine");
        let measured = |figure: &Figure| later.figures.iter().any(|other| other.measure == figure.measure);
        if self.commit != later.commit {
            self.commit = None;
        }
        self.figures.retain(|figure| !measured(figure));
        self.figures.extend(later.figures);
        self.again.push(Again { parts: later.plan.parts, begun: later.begun });
        Ok(self)
    }

    fn figure(&mut self, key: Key<'_>) -> &mut Figure {
        let at = self.figures.iter().position(|figure| figure.is(key)).unwrap_or_else(|| {
            self.figures.push(Figure {
                measure: key.measure,
                case: key.case.to_owned(),
                durable: key.durable,
                contender: key.contender.to_owned(),
                values: Vec::new(),
                sizes: Vec::new(),
                fault: None,
            });
            self.figures.len() - 1
        });
        &mut self.figures[at]
    }

    pub fn add(&mut self, key: Key<'_>, value: f64) {
        self.figure(key).values.push(value);
    }

    /// As [`add`](Self::add), with the size of what it is about.
    pub fn add_sized(&mut self, key: Key<'_>, value: f64, size: u64) {
        let figure = self.figure(key);
        figure.values.push(value);
        figure.sizes.push(size);
    }

    /// The first fault of a figure stays.
    pub fn fault(&mut self, key: Key<'_>, fault: Fault) {
        self.figure(key).fault.get_or_insert(fault);
    }

    pub fn find(&self, key: Key<'_>) -> Option<&Figure> {
        self.figures.iter().find(|figure| figure.is(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Form;

    fn run(parts: &[Part], measures: &[Measure], value: f64) -> Results {
        let mut results = Results {
            plan: Plan { parts: parts.to_vec(), ..Plan::new(Form::Full, 7) },
            machine: Machine {
                processor: "one".to_owned(),
                cores: 2,
                memory: None,
                system: String::new(),
                postgres: None,
                rustc: String::new(),
                sync: value,
            },
            commit: None,
            begun: value as u64,
            seconds: 1,
            settings: BTreeMap::new(),
            versions: BTreeMap::new(),
            contenders: Vec::new(),
            logs: Vec::new(),
            figures: Vec::new(),
            again: Vec::new(),
        };
        for &measure in measures {
            results.add(Key { measure, case: "a", durable: true, contender: "b" }, value);
        }
        results
    }

    #[test]
    fn a_later_run_replaces_what_it_has_measured() -> anyhow::Result<()> {
        let first = || run(&[Part::Memory, Part::Wire], &[Measure::Memory, Measure::Statements], 1.0);
        let later = run(&[Part::Memory], &[Measure::Memory], 2.0);
        let both = first().replaced_by(later.clone())?;
        let values: Vec<_> = both.figures.iter().map(|figure| (figure.measure, figure.values[0])).collect();
        assert_eq!(values, [(Measure::Statements, 1.0), (Measure::Memory, 2.0)]);
        assert_eq!(both.again, [Again { parts: vec![Part::Memory], begun: 2 }]);
        assert_eq!(both.plan.parts, [Part::Memory, Part::Wire]);
        let otherwise = Results { plan: Plan { rounds: 77, ..later.plan.clone() }, ..later };
        assert!(first().replaced_by(otherwise).is_err());
        Ok(())
    }

    #[test]
    fn a_median_is_the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 9.0]), Some(3.0));
    }
}
