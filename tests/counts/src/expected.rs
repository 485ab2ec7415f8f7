//! Holds what was counted against what is recorded in `expected.toml`.

use std::collections::BTreeMap;
use std::path::Path;

/// Each kind of count with its measures and what was recorded for them.
type Recorded = BTreeMap<String, BTreeMap<String, u64>>;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/expected.toml");

const HEAD: &str = "\
# What each measure has counted when it was recorded, on purpose, as CONTRIBUTING.md says. The tests hold
# their counts against this.

";

/// The variable that has counts recorded rather than checked, if it is `record`.
const VARIABLE: &str = "CQRS_COUNTS";

/// How to record, which each fault ends with.
const WAY: &str = "CQRS_COUNTS=record cargo test --release --locked -p counts --test";

/// How far a count may lie below what is recorded, in percent. Below that, what was gained would be lost
/// again without a word.
const BELOW: u64 = 20;

/// The counts of one kind.
#[derive(Debug)]
pub struct Sheet {
    kind: &'static str,
    /// How far a count may lie above what is recorded, in percent.
    above: u64,
    found: BTreeMap<String, u64>,
}

impl Sheet {
    /// With nothing on it. `kind` is the name of the test and of the table in the file; `above` is how far a
    /// count may lie above what is recorded, in percent.
    #[must_use]
    pub fn new(kind: &'static str, above: u64) -> Self {
        Self { kind, above, found: BTreeMap::new() }
    }

    /// Puts down what a measure has counted.
    pub fn add(&mut self, measure: impl Into<String>, count: u64) {
        let measure = measure.into();
        assert!(!self.found.contains_key(&measure), "{measure}: counted twice");
        self.found.insert(measure, count);
    }

    /// The negative control: this count is put down for a measure, instead of what was counted, and has to be
    /// found out by the same comparison.
    ///
    /// # Panics
    /// If it is not.
    pub fn catches(&self, measure: &str, count: u64) {
        let honest = self.found[measure];
        let fault = judge(self.kind, measure, honest, count, self.above);
        assert!(fault.is_some(), "{measure}: {count} was not told from {honest}, so waste would not be seen");
    }

    /// Compares all with what is recorded, or records it if the environment says so.
    ///
    /// # Panics
    /// With all that differs.
    pub fn settle(self) {
        let mut recorded = read(Path::new(FILE));
        if std::env::var_os(VARIABLE).is_some_and(|value| value == "record") {
            recorded.insert(self.kind.to_owned(), self.found);
            std::fs::write(FILE, HEAD.to_owned() + &toml::to_string(&recorded).unwrap()).unwrap();
            return;
        }
        let faults = self.compare(recorded.get(self.kind).unwrap_or(&BTreeMap::new()));
        assert!(faults.is_empty(), "{}", faults.join("\n"));
    }

    fn compare(&self, recorded: &BTreeMap<String, u64>) -> Vec<String> {
        let counted = self.found.iter().filter_map(|(measure, &found)| match recorded.get(measure) {
            Some(&recorded) => judge(self.kind, measure, recorded, found, self.above),
            None => {
                let what = format!("{}: {measure}: {found} counted, and nothing is recorded", self.kind);
                Some(format!("{what}; record it with `{WAY} {}`", self.kind))
            }
        });
        let gone = recorded.keys().filter(|measure| !self.found.contains_key(*measure)).map(|measure| {
            let what = format!("{}: {measure}: recorded, and not counted any more", self.kind);
            format!("{what}; if that is meant, record it with `{WAY} {}`", self.kind)
        });
        counted.chain(gone).collect()
    }
}

fn read(file: &Path) -> Recorded {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    toml::from_str(&text).unwrap_or_else(|error| unreadable(file, &error))
}

#[allow(clippy::panic, reason = "a test stops at a fault")]
fn unreadable(file: &Path, error: &toml::de::Error) -> ! {
    panic!("{} cannot be read: {error}", file.display())
}

/// What is wrong with a count, if something is.
fn judge(kind: &str, measure: &str, recorded: u64, found: u64, above: u64) -> Option<String> {
    let what = format!("{kind}: {measure}: {found} counted, {recorded} recorded");
    if found * 100 > recorded * (100 + above) {
        let limit =
            if above == 0 { "no more is allowed".to_owned() } else { format!("{above} % more is allowed") };
        return Some(format!("{what}, and {limit}; if that is meant, record it with `{WAY} {kind}`"));
    }
    if found * 100 < recorded * (100 - BELOW) {
        return Some(format!("{what}: record the gain, so that it stays, with `{WAY} {kind}`"));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sheet(above: u64, found: &[(&str, u64)]) -> Sheet {
        let mut sheet = Sheet::new("things", above);
        found.iter().for_each(|&(measure, count)| sheet.add(measure, count));
        sheet
    }

    fn recorded(counts: &[(&str, u64)]) -> BTreeMap<String, u64> {
        counts.iter().map(|&(measure, count)| (measure.to_owned(), count)).collect()
    }

    #[test]
    fn a_count_may_lie_so_far_above_and_below() {
        for (above, found, fault) in [
            (10, 100, None),
            (10, 110, None),
            (10, 111, Some("10 % more is allowed")),
            (10, 80, None),
            (10, 79, Some("record the gain")),
            (0, 100, None),
            (0, 101, Some("no more is allowed")),
            (0, 99, None),
        ] {
            let faults = sheet(above, &[("one", found)]).compare(&recorded(&[("one", 100)]));
            assert_eq!(faults.len(), usize::from(fault.is_some()), "{found} at {above} %: {faults:?}");
            for (fault, words) in faults.iter().zip(fault) {
                assert!(fault.contains(words), "{fault}");
                assert!(fault.starts_with(&format!("things: one: {found} counted, 100 recorded")), "{fault}");
                assert!(fault.contains("`CQRS_COUNTS=record cargo test"), "{fault}");
            }
        }
        // Where nothing is recorded to be needed, one is too much.
        assert_eq!(sheet(10, &[("one", 1)]).compare(&recorded(&[("one", 0)])).len(), 1);
    }

    #[test]
    fn what_is_new_or_gone_is_told() {
        let faults = sheet(10, &[("new", 1)]).compare(&recorded(&[("old", 1)]));
        assert!(faults[0].starts_with("things: new: 1 counted, and nothing is recorded"), "{faults:?}");
        assert!(faults[1].starts_with("things: old: recorded, and not counted any more"), "{faults:?}");
    }
}
