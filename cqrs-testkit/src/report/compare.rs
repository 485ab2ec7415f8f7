//! Comparing what is stored: the rows to show, and in words what is different.

use std::mem;

use super::align::{Pair, align};
use super::leaves::{Ignored, Leaf, Leaves, Path, focus};
use super::table::{Mark, Table};
use super::{count, listed, number};
use crate::stored::Image;

/// A value is cut to this many characters in the table, and to fewer in a sentence.
const CELL: usize = 230;
const SENTENCE: usize = 60;

/// A leaf that two values do not share.
#[derive(Debug)]
pub(crate) struct Difference {
    pub(crate) path: Path,
    pub(crate) left: Option<String>,
    pub(crate) right: Option<String>,
}

/// What two values of leaves do not share, without what is ignored.
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

/// The differing fields in words: ``field `cents`: expected 5, actual 6``. `words` name the sides.
pub(crate) fn fields(differences: &[Difference], words: [&str; 2]) -> String {
    if let [one] = differences {
        let absent = || "nothing".to_owned();
        let left = one.left.clone().unwrap_or_else(absent);
        let right = one.right.clone().unwrap_or_else(absent);
        let (left, right) = focus(&left, &right, SENTENCE);
        return format!("{}: {} {left}, {} {right}", one.path.place(), words[0], words[1]);
    }
    let mut names: Vec<String> = differences.iter().take(5).map(|one| format!("`{}`", one.path)).collect();
    if differences.len() > 5 {
        names.push(format!("{} more", differences.len() - 5));
    }
    format!("the fields {}", listed(&names))
}

/// The same as what they do: ``differs only in field …``.
pub(crate) fn differs(differences: &[Difference], words: [&str; 2]) -> String {
    let only = if differences.len() == 1 { "only " } else { "" };
    format!("differs {only}in {}", fields(differences, words))
}

/// Puts the leaves of two values into the table.
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

/// A note for each of `.ignoring(…)` that names none of the compared fields.
pub(crate) fn idle_notes(ignored: &Ignored, leaves: &[&Leaves]) -> Vec<String> {
    let note = |field: &str| format!("`.ignoring([{field:?}])` names no field here");
    ignored.idle(leaves).into_iter().map(note).collect()
}

/// Whether two events are the same as far as the test compares them.
pub(crate) fn same(left: &Image, right: &Image, ignored: &Ignored) -> bool {
    left.name == right.name
        && left.version == right.version
        && differences(&left.leaves(), &right.leaves(), ignored).is_empty()
}

/// Two lists of events, with what a failing test says of them.
#[derive(Clone, Copy)]
pub(crate) struct Comparison<'a> {
    pub(crate) expected: &'a [Image],
    pub(crate) actual: &'a [Image],
    pub(crate) ignored: &'a Ignored,
}

/// Which events stand beside each other.
enum Beside {
    /// They are the same, or at least of the same kind.
    Kin(usize, usize),
    /// They only share the row.
    Strangers(usize, usize),
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

    /// The same with only as many actual events as are expected.
    pub(crate) fn start(&self) -> Self {
        let compared = self.expected.len().min(self.actual.len());
        Self { actual: &self.actual[..compared], ..*self }
    }

    /// Says which of `.ignoring(…)` is most likely mistyped.
    pub(crate) fn idle_notes(&self) -> Vec<String> {
        let all: Vec<Leaves> = self.expected.iter().chain(self.actual).map(Image::leaves).collect();
        idle_notes(self.ignored, &all.iter().collect::<Vec<_>>())
    }

    /// How many events at the start are the same.
    pub(crate) fn matching(&self) -> usize {
        let shorter = self.expected.len().min(self.actual.len());
        (0..shorter).take_while(|&at| self.same(at, at)).count()
    }

    /// The expected events that have no equal among the actual ones; each of those serves once.
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

    /// Whether the expected events are among the actual ones in this order; if not, the first that
    /// does not follow.
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

    /// Whether an equal event is already expected before this one.
    pub(crate) fn expected_before(&self, at: usize) -> bool {
        self.expected[..at].iter().any(|event| same(event, &self.expected[at], self.ignored))
    }

    /// Both lists in their order. `zip` lets events of different kinds share rows.
    fn beside(&self, zip: bool) -> Vec<Beside> {
        let pairs = align(self.expected.len(), self.actual.len(), &|e, a| self.same(e, a));
        let mut rows = Vec::new();
        let mut gap = Gap { zip, ..Gap::default() };
        for pair in pairs {
            match pair {
                Pair::Left(e) => gap.expected.push(e),
                Pair::Right(a) => gap.actual.push(a),
                Pair::Both(e, a) => {
                    self.close(&mut gap, &mut rows);
                    rows.push(Beside::Kin(e, a));
                }
            }
        }
        self.close(&mut gap, &mut rows);
        rows
    }

    /// Between equal events: those of one kind beside each other, the others as they come.
    fn close(&self, gap: &mut Gap, rows: &mut Vec<Beside>) {
        let (expected, actual) = (mem::take(&mut gap.expected), mem::take(&mut gap.actual));
        let kin = |e: usize, a: usize| self.expected[expected[e]].name == self.actual[actual[a]].name;
        for pair in align(expected.len(), actual.len(), &kin) {
            match pair {
                Pair::Left(e) => gap.expected.push(expected[e]),
                Pair::Right(a) => gap.actual.push(actual[a]),
                Pair::Both(e, a) => {
                    gap.strangers(rows);
                    rows.push(Beside::Kin(expected[e], actual[a]));
                }
            }
        }
        gap.strangers(rows);
    }

    /// The expected events in their order, each with the actual one that is equal or else of its
    /// kind, and then the other actual ones.
    fn beside_in_any_order(&self) -> Vec<Beside> {
        let mut free: Vec<usize> = (0..self.actual.len()).collect();
        let mut partner = vec![None; self.expected.len()];
        let kin = |e: usize, a: usize| self.expected[e].name == self.actual[a].name;
        let rules: [&dyn Fn(usize, usize) -> bool; 2] = [&|e, a| self.same(e, a), &kin];
        for fits in rules {
            for (e, partner) in partner.iter_mut().enumerate().filter(|(_, partner)| partner.is_none()) {
                let found = free.iter().position(|&a| fits(e, a));
                *partner = found.map(|at| free.remove(at));
            }
        }
        let row = |(e, a): (usize, &Option<usize>)| a.map_or(Beside::Expected(e), |a| Beside::Kin(e, a));
        let mut rows: Vec<Beside> = partner.iter().enumerate().map(row).collect();
        rows.extend(free.into_iter().map(Beside::Actual));
        rows
    }

    /// Side by side, when both should be the same.
    pub(crate) fn table(&self) -> Table {
        self.rows(&self.beside(true), Mark::Right)
    }

    /// Side by side, when the expected ones should come first.
    pub(crate) fn table_of_start(&self) -> Table {
        let start = self.start();
        let mut table = start.table();
        for at in start.actual.len()..self.actual.len() {
            lines(self.actual, at).into_iter().for_each(|line| table.row(Mark::Ignored, "", line));
        }
        table
    }

    /// Side by side, when the expected ones should follow one another, others between them.
    pub(crate) fn table_of_sequence(&self) -> Table {
        self.rows(&self.beside(false), Mark::Ignored)
    }

    /// Side by side, when the expected ones should be there in any order.
    pub(crate) fn table_in_any_order(&self) -> Table {
        self.rows(&self.beside_in_any_order(), Mark::Ignored)
    }

    fn rows(&self, beside: &[Beside], extra: Mark) -> Table {
        let mut table = Table::new("expected", "actual");
        if self.expected.is_empty() || self.actual.is_empty() {
            return table.opposed(&event_lines(self.expected), &event_lines(self.actual));
        }
        for row in beside {
            match *row {
                Beside::Kin(e, a) => self.kin_rows(&mut table, e, a),
                Beside::Strangers(e, a) => {
                    table = table.opposed(&lines(self.expected, e), &lines(self.actual, a));
                }
                Beside::Expected(e) => {
                    lines(self.expected, e).into_iter().for_each(|line| table.row(Mark::Left, line, ""));
                }
                Beside::Actual(a) => {
                    lines(self.actual, a).into_iter().for_each(|line| table.row(extra, "", line));
                }
            }
        }
        table
    }

    fn kin_rows(&self, table: &mut Table, e: usize, a: usize) {
        let (expected, actual) = (&self.expected[e], &self.actual[a]);
        let mark = if expected.version == actual.version { Mark::Same } else { Mark::Differs };
        table.row(mark, title(self.expected, e), title(self.actual, a));
        leaf_rows(table, &expected.leaves(), &actual.leaves(), self.ignored);
    }

    /// What most likely went wrong, if the two lists should be the same.
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

    /// If one event alone differs and is of the expected kind: in what.
    fn only_difference(&self) -> Option<String> {
        let differing: Vec<usize> = (0..self.expected.len()).filter(|&at| !self.same(at, at)).collect();
        let [at] = differing[..] else { return None };
        self.kin_difference(at, at)
    }

    fn kin_difference(&self, e: usize, a: usize) -> Option<String> {
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

    /// One list begins with the other.
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
                let what = match self.kin_difference(matching, matching) {
                    Some(difference) => difference,
                    None => format!("expected `{}`, actual `{}`", e.name, a.name),
                };
                format!("{begin}: {what}")
            }
        }
    }
}

/// Events between two equal ones that have found no partner yet.
#[derive(Default)]
struct Gap {
    expected: Vec<usize>,
    actual: Vec<usize>,
    zip: bool,
}

impl Gap {
    fn strangers(&mut self, rows: &mut Vec<Beside>) {
        let (expected, actual) = (mem::take(&mut self.expected), mem::take(&mut self.actual));
        let shared = if self.zip { expected.len().min(actual.len()) } else { 0 };
        rows.extend((0..shared).map(|at| Beside::Strangers(expected[at], actual[at])));
        rows.extend(expected[shared..].iter().map(|&at| Beside::Expected(at)));
        rows.extend(actual[shared..].iter().map(|&at| Beside::Actual(at)));
    }
}

fn title(events: &[Image], at: usize) -> String {
    format!("{}. {}", at + 1, events[at].title())
}

/// An event alone: its title, then its leaves.
pub(crate) fn lines(events: &[Image], at: usize) -> Vec<String> {
    let show = |leaf: &Leaf| format!("   {}", leaf.path.before(&super::leaves::clip(&leaf.text, CELL)));
    let mut lines = vec![title(events, at)];
    lines.extend(events[at].leaves().0.iter().map(show));
    lines
}

/// All events, each as its title and its leaves.
pub(crate) fn event_lines(events: &[Image]) -> Vec<String> {
    if events.is_empty() {
        return vec!["(no event)".to_owned()];
    }
    (0..events.len()).flat_map(|at| lines(events, at)).collect()
}

/// The names of events: `` `Opened` and `Closed` ``.
pub(crate) fn names(events: &[Image]) -> String {
    let names: Vec<String> = events.iter().map(|event| format!("`{}`", event.name)).collect();
    listed(&names)
}
