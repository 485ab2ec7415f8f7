//! Compares stored values, and shows the differences as rows and in words.

use std::mem;

use super::align::{Pair, align};
use super::leaves::{Ignored, Leaf, Leaves, Path, focus};
use super::table::{Mark, Table};
use super::{count, listed, number};
use crate::stored::Image;

/// Maximum number of characters of a value, in a table and in a sentence.
const CELL: usize = 230;
const SENTENCE: usize = 60;

/// A leaf that differs between two values.
#[derive(Debug)]
pub(crate) struct Difference {
    pub(crate) path: Path,
    pub(crate) left: Option<String>,
    pub(crate) right: Option<String>,
}

/// Returns the leaves that differ, except for ignored ones.
pub(crate) fn differences(left: &Leaves, right: &Leaves, ignored: &Ignored) -> Vec<Difference> {
    let text = |leaf: &Leaf| Some(leaf.text.clone());
    let path = |leaf: &Leaf| leaf.path.clone();
    let mut all = Vec::new();
    for pair in by_path(left, right) {
        let difference = match pair {
            Pair::Both(l, r) => {
                let (l, r) = (&left.0[l], &right.0[r]);
                if l.text == r.text || ignored.covers(&l.path) {
                    continue;
                }
                Difference { path: path(l), left: text(l), right: text(r) }
            }
            Pair::Left(l) if !ignored.covers(&left.0[l].path) => {
                Difference { path: path(&left.0[l]), left: text(&left.0[l]), right: None }
            }
            Pair::Right(r) if !ignored.covers(&right.0[r].path) => {
                Difference { path: path(&right.0[r]), left: None, right: text(&right.0[r]) }
            }
            Pair::Left(_) | Pair::Right(_) => continue,
        };
        all.push(difference);
    }
    all
}

fn by_path(left: &Leaves, right: &Leaves) -> Vec<Pair> {
    align(left.0.len(), right.0.len(), &|l, r| left.0[l].path == right.0[r].path)
}

/// Describes differing fields: ``field `cents`: expected 5, actual 6``. `words` name the sides.
pub(crate) fn fields(differences: &[Difference], words: [&str; 2]) -> String {
    if let [one] = differences {
        let absent = || "nothing".to_owned();
        let left = one.left.clone().unwrap_or_else(absent);
        let right = one.right.clone().unwrap_or_else(absent);
        let (left, right) = focus(&left, &right, SENTENCE);
        return format!("{}: {} {left}, {} {right}", one.path.describe(), words[0], words[1]);
    }
    let mut names: Vec<String> = differences.iter().take(5).map(|one| format!("`{}`", one.path)).collect();
    if differences.len() > 5 {
        names.push(format!("{} more", differences.len() - 5));
    }
    format!("the fields {}", listed(&names))
}

/// Describes differing fields with a verb: ``differs only in field …``.
pub(crate) fn differs(differences: &[Difference], words: [&str; 2]) -> String {
    let only = if differences.len() == 1 { "only " } else { "" };
    format!("differs {only}in {}", fields(differences, words))
}

/// Adds the leaves of two values to the table.
pub(crate) fn leaf_rows(table: &mut Table, left: &Leaves, right: &Leaves, ignored: &Ignored) {
    let show = |leaf: &Leaf| format!("   {}", leaf.path.before(&super::leaves::clip(&leaf.text, CELL)));
    for pair in by_path(left, right) {
        match pair {
            Pair::Both(l, r) => both_row(table, &left.0[l], &right.0[r], ignored),
            Pair::Left(l) => {
                let mark = if ignored.covers(&left.0[l].path) { Mark::Ignored } else { Mark::Left };
                table.row(mark, show(&left.0[l]), "");
            }
            Pair::Right(r) => {
                let mark = if ignored.covers(&right.0[r].path) { Mark::Ignored } else { Mark::Right };
                table.row(mark, "", show(&right.0[r]));
            }
        }
    }
}

fn both_row(table: &mut Table, left: &Leaf, right: &Leaf, ignored: &Ignored) {
    let mark = match () {
        () if left.text == right.text => Mark::Same,
        () if ignored.covers(&left.path) => Mark::Ignored,
        () => Mark::Differs,
    };
    let (l, r) = focus(&left.text, &right.text, CELL);
    table.row(mark, format!("   {}", left.path.before(&l)), format!("   {}", right.path.before(&r)));
}

/// Returns a note for each pattern of `.ignoring(…)` that matches no compared field.
pub(crate) fn unused_notes(ignored: &Ignored, leaves: &[&Leaves]) -> Vec<String> {
    let note = |field: &str| format!("`.ignoring([{field:?}])` matches no field here");
    ignored.unused(leaves).into_iter().map(note).collect()
}

/// Returns whether two events are equal, except for ignored fields.
pub(crate) fn same(left: &Image, right: &Image, ignored: &Ignored) -> bool {
    left.name == right.name
        && left.version == right.version
        && differences(&left.leaves(), &right.leaves(), ignored).is_empty()
}

/// Expected and actual events, for comparison and for the description of a failure.
#[derive(Clone, Copy)]
pub(crate) struct Comparison<'a> {
    pub(crate) expected: &'a [Image],
    pub(crate) actual: &'a [Image],
    pub(crate) ignored: &'a Ignored,
}

/// Places events in rows.
enum RowPair {
    /// Two events that are equal or of the same type.
    SameType(usize, usize),
    /// Two unrelated events that share a row.
    Unrelated(usize, usize),
    Expected(usize),
    Actual(usize),
}

impl<'a> Comparison<'a> {
    fn same(&self, expected: usize, actual: usize) -> bool {
        same(&self.expected[expected], &self.actual[actual], self.ignored)
    }

    pub(crate) fn is_same(&self) -> bool {
        self.expected.len() == self.actual.len() && (0..self.actual.len()).all(|at| self.same(at, at))
    }

    /// Limits the actual events to the number of expected ones.
    pub(crate) fn start(&self) -> Self {
        let compared = self.expected.len().min(self.actual.len());
        Self { actual: &self.actual[..compared], ..*self }
    }

    /// Returns notes about patterns of `.ignoring(…)` that match nothing and are probably mistyped.
    pub(crate) fn unused_notes(&self) -> Vec<String> {
        let all: Vec<Leaves> = self.expected.iter().chain(self.actual).map(Image::leaves).collect();
        unused_notes(self.ignored, &all.iter().collect::<Vec<_>>())
    }

    /// Returns how many events at the start are equal.
    pub(crate) fn matching(&self) -> usize {
        let shorter = self.expected.len().min(self.actual.len());
        (0..shorter).take_while(|&at| self.same(at, at)).count()
    }

    /// Returns the expected events without an equal actual one. Each actual event is used once.
    pub(crate) fn missing(&self) -> Vec<usize> {
        let mut free = vec![true; self.actual.len()];
        let mut missing = Vec::new();
        for expected in 0..self.expected.len() {
            let found = (0..self.actual.len()).find(|&at| free[at] && self.same(expected, at));
            match found {
                Some(at) => free[at] = false,
                None => missing.push(expected),
            }
        }
        missing
    }

    /// Returns the first expected event that breaks the expected order, or `None` if the actual events contain all in
    /// order.
    pub(crate) fn first_out_of_sequence(&self) -> Option<usize> {
        let mut from = 0;
        for expected in 0..self.expected.len() {
            match (from..self.actual.len()).find(|&at| self.same(expected, at)) {
                Some(at) => from = at + 1,
                None => return Some(expected),
            }
        }
        None
    }

    /// Returns whether an equal event is expected before this one.
    pub(crate) fn expected_before(&self, at: usize) -> bool {
        self.expected[..at].iter().any(|event| same(event, &self.expected[at], self.ignored))
    }

    /// Places both lists in rows, in order. With `zip`, unrelated events share rows.
    fn rows_in_order(&self, zip: bool) -> Vec<RowPair> {
        let pairs = align(self.expected.len(), self.actual.len(), &|e, a| self.same(e, a));
        let mut rows = Vec::new();
        let mut gap = Gap { zip, ..Gap::default() };
        for pair in pairs {
            match pair {
                Pair::Left(e) => gap.expected.push(e),
                Pair::Right(a) => gap.actual.push(a),
                Pair::Both(e, a) => {
                    self.close(&mut gap, &mut rows);
                    rows.push(RowPair::SameType(e, a));
                }
            }
        }
        self.close(&mut gap, &mut rows);
        rows
    }

    /// Places the events between two equal ones: those of one type in the same row, the others in order.
    fn close(&self, gap: &mut Gap, rows: &mut Vec<RowPair>) {
        let (expected, actual) = (mem::take(&mut gap.expected), mem::take(&mut gap.actual));
        let same_type = |e: usize, a: usize| self.expected[expected[e]].name == self.actual[actual[a]].name;
        for pair in align(expected.len(), actual.len(), &same_type) {
            match pair {
                Pair::Left(e) => gap.expected.push(expected[e]),
                Pair::Right(a) => gap.actual.push(actual[a]),
                Pair::Both(e, a) => {
                    gap.flush_unrelated(rows);
                    rows.push(RowPair::SameType(expected[e], actual[a]));
                }
            }
        }
        gap.flush_unrelated(rows);
    }

    /// Places the expected events in order, each with an equal actual one or one of its type, followed by the other
    /// actual ones.
    fn rows_in_any_order(&self) -> Vec<RowPair> {
        let mut free: Vec<usize> = (0..self.actual.len()).collect();
        let mut partner = vec![None; self.expected.len()];
        let same_type = |e: usize, a: usize| self.expected[e].name == self.actual[a].name;
        let rules: [&dyn Fn(usize, usize) -> bool; 2] = [&|e, a| self.same(e, a), &same_type];
        for fits in rules {
            for (e, partner) in partner.iter_mut().enumerate().filter(|(_, partner)| partner.is_none()) {
                let found = free.iter().position(|&a| fits(e, a));
                *partner = found.map(|at| free.remove(at));
            }
        }
        let row =
            |(e, a): (usize, &Option<usize>)| a.map_or(RowPair::Expected(e), |a| RowPair::SameType(e, a));
        let mut rows: Vec<RowPair> = partner.iter().enumerate().map(row).collect();
        rows.extend(free.into_iter().map(RowPair::Actual));
        rows
    }

    /// Returns a table for events that should be equal.
    pub(crate) fn table(&self) -> Table {
        self.rows(&self.rows_in_order(true), Mark::Right)
    }

    /// Returns a table for expected events that should come first.
    pub(crate) fn table_of_start(&self) -> Table {
        let start = self.start();
        let mut table = start.table();
        for at in start.actual.len()..self.actual.len() {
            lines(self.actual, at).into_iter().for_each(|line| table.row(Mark::Ignored, "", line));
        }
        table
    }

    /// Returns a table for expected events that should come in this order, with others between them.
    pub(crate) fn table_of_sequence(&self) -> Table {
        self.rows(&self.rows_in_order(false), Mark::Ignored)
    }

    /// Returns a table for expected events that should be present in any order.
    pub(crate) fn table_in_any_order(&self) -> Table {
        self.rows(&self.rows_in_any_order(), Mark::Ignored)
    }

    fn rows(&self, pairs: &[RowPair], extra: Mark) -> Table {
        let mut table = Table::new("expected", "actual");
        if self.expected.is_empty() || self.actual.is_empty() {
            return table.opposed(&event_lines(self.expected), &event_lines(self.actual));
        }
        for row in pairs {
            match *row {
                RowPair::SameType(e, a) => self.same_type_rows(&mut table, e, a),
                RowPair::Unrelated(e, a) => {
                    table = table.opposed(&lines(self.expected, e), &lines(self.actual, a));
                }
                RowPair::Expected(e) => {
                    lines(self.expected, e).into_iter().for_each(|line| table.row(Mark::Left, line, ""));
                }
                RowPair::Actual(a) => {
                    lines(self.actual, a).into_iter().for_each(|line| table.row(extra, "", line));
                }
            }
        }
        table
    }

    fn same_type_rows(&self, table: &mut Table, e: usize, a: usize) {
        let (expected, actual) = (&self.expected[e], &self.actual[a]);
        let mark = if expected.version == actual.version { Mark::Same } else { Mark::Differs };
        table.row(mark, title(self.expected, e), title(self.actual, a));
        leaf_rows(table, &expected.leaves(), &actual.leaves(), self.ignored);
    }

    /// Returns the likely cause, if the two lists should be equal.
    pub(crate) fn cause(&self) -> String {
        let (wanted, came, matching) = (self.expected.len(), self.actual.len(), self.matching());
        if came == 0 {
            return "the handler accepted the command and returned no event; an event happens only if the handler returns it"
                .to_owned();
        }
        if wanted == came && self.missing().is_empty() {
            return "these are the same events in another order".to_owned();
        }
        if wanted == came
            && let Some(difference) = self.only_difference()
        {
            return difference;
        }
        if matching == wanted.min(came) {
            return self.length_cause(matching);
        }
        self.unequal_cause(matching)
    }

    /// Describes the difference, if only one event differs and has the expected type.
    fn only_difference(&self) -> Option<String> {
        let differing: Vec<usize> = (0..self.expected.len()).filter(|&at| !self.same(at, at)).collect();
        let [at] = differing[..] else { return None };
        self.difference_of_same_type(at, at)
    }

    fn difference_of_same_type(&self, e: usize, a: usize) -> Option<String> {
        let (expected, actual) = (&self.expected[e], &self.actual[a]);
        if expected.name != actual.name {
            return None;
        }
        let event = match self.actual.len() {
            1 => format!("`{}`", actual.name),
            _ => format!("event {}, `{}`,", a + 1, actual.name),
        };
        if expected.version != actual.version {
            let (was, is) = (expected.version, actual.version);
            return Some(format!("{event} has another version: expected {was}, actual {is}"));
        }
        let differences = differences(&expected.leaves(), &actual.leaves(), self.ignored);
        let differs = differs(&differences, ["expected", "actual"]);
        Some(format!("{event} {differs}"))
    }

    /// Describes the case that one list starts with the other.
    fn length_cause(&self, matching: usize) -> String {
        let (wanted, came) = (self.expected.len(), self.actual.len());
        let compared = match matching {
            0 => format!("you expected no event, the handler returned {came}"),
            1 => format!(
                "you compared {}, the handler returned {came}: the first one matches",
                count(wanted, "event")
            ),
            _ => format!(
                "you compared {}, the handler returned {came}: the first {} match",
                count(wanted, "event"),
                number(matching),
            ),
        };
        if wanted < came {
            format!("{compared}; not expected: {}", names(&self.actual[wanted..]))
        } else {
            format!("{compared}; not returned: {}", names(&self.expected[came..]))
        }
    }

    fn unequal_cause(&self, matching: usize) -> String {
        let missing: Vec<Image> = self.missing().iter().map(|&at| self.expected[at].clone()).collect();
        let swapped = Comparison { expected: self.actual, actual: self.expected, ignored: self.ignored };
        let extra: Vec<Image> = swapped.missing().iter().map(|&at| self.actual[at].clone()).collect();
        match (&missing[..], &extra[..]) {
            ([], extra) => format!("the handler also returned {}, which is not expected", names(extra)),
            (missing, []) => format!("the handler did not return {}", names(missing)),
            _ => {
                let (e, a) = (&self.expected[matching], &self.actual[matching]);
                let begin = match matching {
                    0 => "the first event differs".to_owned(),
                    1 => "the first event matches, the second differs".to_owned(),
                    _ => format!("the first {} events match, the next differs", number(matching)),
                };
                let what = match self.difference_of_same_type(matching, matching) {
                    Some(difference) => difference,
                    None => format!("expected `{}`, actual `{}`", e.name, a.name),
                };
                format!("{begin}: {what}")
            }
        }
    }
}

/// Events between two equal ones that are not placed yet.
#[derive(Default)]
struct Gap {
    expected: Vec<usize>,
    actual: Vec<usize>,
    zip: bool,
}

impl Gap {
    fn flush_unrelated(&mut self, rows: &mut Vec<RowPair>) {
        let (expected, actual) = (mem::take(&mut self.expected), mem::take(&mut self.actual));
        let shared = if self.zip { expected.len().min(actual.len()) } else { 0 };
        rows.extend((0..shared).map(|at| RowPair::Unrelated(expected[at], actual[at])));
        rows.extend(expected[shared..].iter().map(|&at| RowPair::Expected(at)));
        rows.extend(actual[shared..].iter().map(|&at| RowPair::Actual(at)));
    }
}

fn title(events: &[Image], at: usize) -> String {
    format!("{}. {}", at + 1, events[at].title())
}

/// Returns an event as lines: its title, then its leaves.
pub(crate) fn lines(events: &[Image], at: usize) -> Vec<String> {
    let show = |leaf: &Leaf| format!("   {}", leaf.path.before(&super::leaves::clip(&leaf.text, CELL)));
    let mut lines = vec![title(events, at)];
    lines.extend(events[at].leaves().0.iter().map(show));
    lines
}

/// Returns all events as lines, each as its title and its leaves.
pub(crate) fn event_lines(events: &[Image]) -> Vec<String> {
    if events.is_empty() {
        return vec!["(no event)".to_owned()];
    }
    (0..events.len()).flat_map(|at| lines(events, at)).collect()
}

/// Lists the names of events: `` `Opened` and `Closed` ``.
pub(crate) fn names(events: &[Image]) -> String {
    let names: Vec<String> = events.iter().map(|event| format!("`{}`", event.name)).collect();
    listed(&names)
}
