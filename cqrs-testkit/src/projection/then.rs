//! Checks of the documents.

use std::borrow::Borrow;
use std::collections::BTreeMap;

use cqrs_core::Projection;
use cqrs_core::aggregate::Misfit;

use super::documents::{Document, Documents, FaultKind, read, write};
use super::{ProjectionScenario, When, what};
use crate::id;
use crate::report::compare::{differences, differs, leaf_rows, unused_notes};
use crate::report::leaves::{Ignored, Leaves};
use crate::report::table::{Mark, Table};
use crate::report::{Chapter, Checked, Failure, count, listed};
use crate::verdict::Verdict;

/// Checks of the documents. Each returns the test, so that you can chain them.
///
/// Documents are compared in their stored form, as JSON. They need neither `PartialEq` nor `Debug`.
impl<P: Projection, S> ProjectionScenario<P, S> {
    /// Checks that the document with this key equals `expected`.
    ///
    /// ```
    /// # mod bank { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bank.rs")); } use bank::*;
    /// # use cqrs_testkit::prelude::*;
    /// # let ada = || Opened { owner: "Ada".into() };
    /// Summary::given(Account::history(7, (ada(), Deposited { cents: 5 })))
    ///     .then_document(7, Summary { owner: "Ada".into(), balance: 5, postings: 1 });
    /// ```
    ///
    /// # Panics
    /// If it differs or does not exist.
    #[track_caller]
    #[expect(clippy::needless_pass_by_value, reason = "the expected document is written where it is used")]
    pub fn then_document(self, key: impl Borrow<P::Key>, expected: P) -> Self {
        self.checked(|test| test.check_document(&id::text(key.borrow())?, &expected))
    }

    /// Checks the document with this key with a closure, which returns `bool` or asserts.
    ///
    /// ```
    /// # mod bank { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bank.rs")); } use bank::*;
    /// # use cqrs_testkit::prelude::*;
    /// # let ada = || Opened { owner: "Ada".into() };
    /// Summary::given(Account::history(7, (ada(), Deposited { cents: 5 })))
    ///     .then_document_matches(7, |summary| summary.balance == 5);
    /// ```
    ///
    /// # Panics
    /// If the check fails, or the document does not exist.
    #[track_caller]
    pub fn then_document_matches<V: Verdict>(
        self,
        key: impl Borrow<P::Key>,
        check: impl FnOnce(&P) -> V,
    ) -> Self {
        self.checked(|test| {
            let key = id::text(key.borrow())?;
            let stored = test.document(&key)?;
            let document = read::<P>(&key, &stored.json, &stored.by)?;
            if check(&document).holds() { Ok(()) } else { Err(test.no_match(&key, stored)) }
        })
    }

    /// Checks that there is no document with this key.
    ///
    /// ```
    /// # mod bank { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bank.rs")); } use bank::*;
    /// # use cqrs_testkit::prelude::*;
    /// # let ada = || Opened { owner: "Ada".into() };
    /// Summary::given(Account::history(7, (ada(), Deposited { cents: 5 })))
    ///     .then_no_document(8);
    /// ```
    ///
    /// # Panics
    /// If there is one.
    #[track_caller]
    pub fn then_no_document(self, key: impl Borrow<P::Key>) -> Self {
        self.checked(|test| test.check_none(&id::text(key.borrow())?))
    }

    /// Checks that these are all documents, in any order.
    ///
    /// ```
    /// # mod bank { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bank.rs")); } use bank::*;
    /// # use cqrs_testkit::prelude::*;
    /// # let ada = || Opened { owner: "Ada".into() };
    /// Summary::given(Account::history(7, (ada(), Deposited { cents: 5 })))
    ///     .then_documents([(7, Summary { owner: "Ada".into(), balance: 5, postings: 1 })]);
    /// ```
    ///
    /// # Panics
    /// If a document differs or is missing, or if there are others.
    #[track_caller]
    pub fn then_documents(self, expected: impl IntoIterator<Item = (P::Key, P)>) -> Self {
        self.checked(|test| test.check_all(expected))
    }

    /// Checks the number of documents.
    ///
    /// ```
    /// # mod bank { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bank.rs")); } use bank::*;
    /// # use cqrs_testkit::prelude::*;
    /// # let ada = || Opened { owner: "Ada".into() };
    /// Summary::given(Account::history(7, (ada(), Deposited { cents: 5 })))
    ///     .then_document_count(1);
    /// ```
    ///
    /// # Panics
    /// If the number differs.
    #[track_caller]
    pub fn then_document_count(self, expected: usize) -> Self {
        self.checked(|test| test.check_count(expected))
    }

    /// Checks that feeding any event a second time, directly after the first, changes nothing.
    ///
    /// The engine feeds each event once: the checkpoint moves in the same commit as the documents. Use this for a
    /// projection that something else feeds at least once.
    ///
    /// ```
    /// use cqrs::prelude::*;
    /// use cqrs_testkit::prelude::*;
    ///
    /// #[derive(Event, Serialize, Deserialize)]
    /// struct Moved {
    ///     to: String,
    /// }
    ///
    /// #[derive(Default, Serialize, Deserialize)]
    /// struct Place {
    ///     name: String,
    /// }
    ///
    /// #[projection(name = "places", key = u64)]
    /// impl Place {
    ///     #[on]
    ///     fn moved(&mut self, e: &Moved) {
    ///         self.name = e.to.clone();
    ///     }
    /// }
    ///
    /// Place::given(History::of("Person/7").event(Moved { to: "Brno".into() })).then_idempotent();
    /// ```
    ///
    /// # Panics
    /// If it changes something, or cannot be folded.
    #[track_caller]
    pub fn then_idempotent(self) -> Self {
        self.checked(Self::check_idempotent)
    }

    /// Checks that the last event does not apply to its document: it creates one that exists, or changes one that does
    /// not. The engine parks such an event.
    ///
    /// ```
    /// # mod bank { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bank.rs")); } use bank::*;
    /// # use cqrs_testkit::prelude::*;
    /// # let ada = || Opened { owner: "Ada".into() };
    /// use cqrs::aggregate::Misfit;
    ///
    /// Summary::given(Account::history(7, Deposited { cents: 5 })).then_misfit(Misfit::Missing);
    /// ```
    ///
    /// # Panics
    /// If all events could be folded, or one failed in another way.
    #[track_caller]
    pub fn then_misfit(mut self, expected: Misfit) -> Self {
        self.run_pending();
        match &self.fault {
            Some(fault) if matches!(fault.kind, FaultKind::Misfit(misfit) if misfit == expected) => self,
            Some(fault) => fault.failure.raise(),
            None => self
                .failure(format!("expected a misfit ({expected}), but all events could be folded"))
                .raise(),
        }
    }

    /// Checks that the last event names no document, because the id of its stream is not a key of this projection. The
    /// engine parks such an event.
    ///
    /// ```
    /// # mod bank { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bank.rs")); } use bank::*;
    /// # use cqrs_testkit::prelude::*;
    /// # let ada = || Opened { owner: "Ada".into() };
    /// Summary::given(History::of("Account/seven").event(ada())).then_not_a_key();
    /// ```
    ///
    /// # Panics
    /// If all events could be folded, or one failed in another way.
    #[track_caller]
    pub fn then_not_a_key(mut self) -> Self {
        self.run_pending();
        match &self.fault {
            Some(fault) if matches!(fault.kind, FaultKind::NotAKey) => self,
            Some(fault) => fault.failure.raise(),
            None => self.failure("expected an event that names no document, but all do".to_owned()).raise(),
        }
    }
}

/// Checks of the effect of the last `when`.
impl<P: Projection> ProjectionScenario<P, When> {
    /// Checks that the last `when` changed no document.
    ///
    /// ```
    /// # mod bank { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bank.rs")); } use bank::*;
    /// # use cqrs_testkit::prelude::*;
    /// # let ada = || Opened { owner: "Ada".into() };
    /// Summary::given(Account::history(7, ada()))
    ///     .when(Account::history(7, FeeCharged { cents: 1 }))
    ///     .then_unchanged();
    /// ```
    ///
    /// # Panics
    /// If it changed, created or removed one.
    #[track_caller]
    pub fn then_unchanged(self) -> Self {
        self.checked(|test| test.check_unchanged(None))
    }

    /// Checks that the last `when` did not change, create, or remove this document.
    ///
    /// ```
    /// # mod bank { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bank.rs")); } use bank::*;
    /// # use cqrs_testkit::prelude::*;
    /// # let ada = || Opened { owner: "Ada".into() };
    /// Summary::given((Account::history(7, ada()), Account::history(8, ada())))
    ///     .when(Account::history(7, Deposited { cents: 5 }))
    ///     .then_document_unchanged(8);
    /// ```
    ///
    /// # Panics
    /// If it did.
    #[track_caller]
    pub fn then_document_unchanged(self, key: impl Borrow<P::Key>) -> Self {
        self.checked(|test| test.check_unchanged(Some(&id::text(key.borrow())?)))
    }
}

impl<P: Projection, S> ProjectionScenario<P, S> {
    /// Feeds pending events, then runs the check.
    #[track_caller]
    fn checked(mut self, check: impl FnOnce(&Self) -> Checked) -> Self {
        self.run_pending();
        if let Some(fault) = &self.fault {
            fault.failure.raise();
        }
        match check(&self) {
            Ok(()) => self,
            Err(failure) => failure.raise(),
        }
    }

    fn document(&self, key: &str) -> Result<&Document, Failure> {
        self.documents.all.get(key).ok_or_else(|| self.missing(key))
    }

    fn missing(&self, key: &str) -> Failure {
        self.failure(format!("there is no document `{key}` of `{}`", P::NAME)).cause(self.why_missing(key))
    }

    fn why_missing(&self, key: &str) -> String {
        if let Some(by) = self.documents.removed.get(key) {
            return format!("{by} removed it");
        }
        let keys: Vec<String> = self.documents.all.keys().take(8).map(|key| format!("`{key}`")).collect();
        match self.documents.all.len() {
            0 => "no event was folded into a document".to_owned(),
            n if n > keys.len() => {
                format!("no event has this key; there are {n}, the first {}", listed(&keys))
            }
            _ => format!("no event has this key; there is {}", listed(&keys)),
        }
    }

    fn no_match(&self, key: &str, stored: &Document) -> Failure {
        let mut story = self.story();
        let lines = stored.leaves().0.iter().map(|leaf| leaf.path.before(&leaf.text)).collect();
        story.push(Chapter { label: "stored", lines });
        self.failure(format!("the document `{key}` of `{}` does not match", P::NAME))
            .story(story)
            .cause("the closure of `then_document_matches` returned `false`")
            .note("use `assert_eq!(…)` in the closure to see the values")
    }

    fn check_document(&self, key: &str, expected: &P) -> Checked {
        let left = Leaves::of_bytes(&write(key, expected, "as expected")?);
        let Some(document) = self.documents.all.get(key) else {
            let mut table = Table::new("expected", "actual");
            leaf_rows(&mut table, &left, &Leaves(Vec::new()), &self.ignored);
            return Err(self.missing(key).table(table));
        };
        let right = document.leaves();
        let differing = differences(&left, &right, &self.ignored);
        if differing.is_empty() {
            return Ok(());
        }
        let mut table = Table::new("expected", "actual");
        leaf_rows(&mut table, &left, &right, &self.ignored);
        let differs = differs(&differing, ["expected", "actual"]);
        let cause = format!("it {differs}\nit was last changed by {}", document.by);
        Err(self
            .failure(format!("the document `{key}` of `{}` is not as expected", P::NAME))
            .table(table)
            .cause(cause)
            .notes(unused_notes(&self.ignored, &[&left, &right])))
    }

    fn check_none(&self, key: &str) -> Checked {
        let Some(document) = self.documents.all.get(key) else { return Ok(()) };
        let mut table = Table::new("expected", "actual");
        table.row(Mark::Differs, "(no document)", format!("document {key}"));
        leaf_rows(&mut table, &Leaves(Vec::new()), &document.leaves(), &Ignored::default());
        Err(self
            .failure(format!("there is a document `{key}` of `{}`", P::NAME))
            .table(table)
            .cause(format!("it was last changed by {}", document.by)))
    }

    fn check_all(&self, expected: impl IntoIterator<Item = (P::Key, P)>) -> Checked {
        let mut wanted = BTreeMap::new();
        for (key, document) in expected {
            let key = id::text(&key)?;
            let json = write(&key, &document, "as expected")?;
            wanted.insert(key, Document { json, by: String::new() });
        }
        let changes = Changes { left: &wanted, right: &self.documents.all, ignored: &self.ignored };
        let changed = changes.keys();
        if changed.is_empty() {
            return Ok(());
        }
        Err(self
            .failure(format!("the documents of `{}` are not as expected", P::NAME))
            .table(changes.table(&changed, ["expected", "actual"]))
            .cause(changes.cause(&changed, ["expected", "actual"], ["is missing", "is not expected"])))
    }

    fn check_count(&self, expected: usize) -> Checked {
        let actual = self.documents.all.len();
        if actual == expected {
            return Ok(());
        }
        let keys: Vec<String> = self.documents.all.keys().take(20).map(|key| format!("`{key}`")).collect();
        let title = format!("`{}` has {}, not {expected}", P::NAME, count(actual, "document"));
        let failure = self.failure(title);
        Err(if keys.is_empty() { failure } else { failure.cause(format!("there is {}", listed(&keys))) })
    }

    fn check_unchanged(&self, only: Option<&str>) -> Checked {
        let changes = Changes { left: &self.before.all, right: &self.documents.all, ignored: &self.ignored };
        let mut changed = changes.keys();
        changed.retain(|key| only.is_none_or(|only| only == *key));
        if changed.is_empty() {
            return Ok(());
        }
        let mut cause = changes.cause(&changed, ["before", "after"], ["was removed", "is new"]);
        if let [key] = changed[..]
            && let Some(by) = self.last_change(key)
        {
            cause.push_str(&format!("\nthe last to change it was {by}"));
        }
        Err(self
            .failure(format!("the last `when` changed documents of `{}`", P::NAME))
            .table(changes.table(&changed, ["before", "after"]))
            .cause(cause))
    }

    fn last_change(&self, key: &str) -> Option<&str> {
        let document = self.documents.all.get(key).map(|document| document.by.as_str());
        document.or_else(|| self.documents.removed.get(key).map(String::as_str))
    }

    fn check_idempotent(&self) -> Checked {
        let mut documents = Documents::<P>::new();
        for (at, entry) in self.log.iter().enumerate() {
            let what = what(at + 1, &entry.event);
            documents.feed(&entry.event, &what, false).map_err(|fault| fault.failure)?;
            let once = documents.clone();
            let again = format!("{what}, fed a second time,");
            documents
                .feed(&entry.event, &again, false)
                .map_err(|fault| fault.failure.story(self.story()).note(NOT_BY_ENGINE))?;
            let changes = Changes { left: &once.all, right: &documents.all, ignored: &self.ignored };
            let changed = changes.keys();
            if !changed.is_empty() {
                let cause = changes.cause(&changed, ["once", "twice"], ["was removed", "is new"]);
                return Err(self
                    .failure(format!("{again} changes `{}`", P::NAME))
                    .table(changes.table(&changed, ["fed once", "fed twice"]))
                    .cause(cause)
                    .note(NOT_BY_ENGINE));
            }
        }
        Ok(())
    }
}

const NOT_BY_ENGINE: &str =
    "the engine feeds each event once; this matters only if something else feeds the projection";

/// Two states of all documents.
struct Changes<'a> {
    left: &'a BTreeMap<String, Document>,
    right: &'a BTreeMap<String, Document>,
    ignored: &'a Ignored,
}

impl<'a> Changes<'a> {
    /// Returns the keys of the documents that differ.
    fn keys(&self) -> Vec<&'a str> {
        let mut all: Vec<&str> = self.left.keys().chain(self.right.keys()).map(String::as_str).collect();
        all.sort_unstable();
        all.dedup();
        all.retain(|key| match (self.left.get(*key), self.right.get(*key)) {
            (Some(left), Some(right)) => {
                !differences(&left.leaves(), &right.leaves(), self.ignored).is_empty()
            }
            _ => true,
        });
        all
    }

    fn table(&self, changed: &[&str], headings: [&'static str; 2]) -> Table {
        let mut table = Table::new(headings[0], headings[1]);
        let none = Leaves(Vec::new());
        for key in changed {
            let title = format!("document {key}");
            let (left, right) = (self.left.get(*key), self.right.get(*key));
            match (left, right) {
                (Some(_), None) => table.row(Mark::Left, title, ""),
                (None, _) => table.row(Mark::Right, "", title),
                _ => table.row(Mark::Same, title.clone(), title),
            }
            let leaves = |side: Option<&Document>| side.map_or_else(|| none.clone(), Document::leaves);
            leaf_rows(&mut table, &leaves(left), &leaves(right), self.ignored);
        }
        table
    }

    /// Describes the differences. `sides` name the two states; `alone` describes a document that is in only one of
    /// them.
    fn cause(&self, changed: &[&str], sides: [&str; 2], alone: [&str; 2]) -> String {
        let one = |key: &&str| match (self.left.get(*key), self.right.get(*key)) {
            (Some(left), Some(right)) => {
                let differing = differences(&left.leaves(), &right.leaves(), self.ignored);
                format!("the document `{key}` {}", differs(&differing, sides))
            }
            (Some(_), None) => format!("the document `{key}` {}", alone[0]),
            (None, _) => format!("the document `{key}` {}", alone[1]),
        };
        let mut lines: Vec<String> = changed.iter().take(5).map(one).collect();
        if changed.len() > 5 {
            lines.push(format!("and {} more", changed.len() - 5));
        }
        lines.join("\n")
    }
}
