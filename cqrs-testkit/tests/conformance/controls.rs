//! Each rule is proven by a store that breaks it, and no other.

use std::time::Duration;

use cqrs_testkit::conformance::{RULES, Rule, Suite};

use crate::wrong::{FLAWS, Flaw, Ground, WrongSetup};

/// Compares everything with everything, so it may fail beside the rule that a flaw is for; it is
/// left out, except for the flaw that only it finds.
const MODEL: &str = "any_history_agrees_with_the_model";

fn rule(name: &str) -> &'static Rule {
    let found = RULES.iter().find(|rule| rule.name == name);
    found.unwrap_or_else(|| unreachable!("there is no rule {name}"))
}

/// The least that the rule asks of a store.
fn ground(rule: &Rule) -> Ground {
    match rule.name {
        "tags_are_refused_where_there_are_none"
        | "several_streams_are_refused_where_they_cannot_be_had"
        | "snapshots_are_refused_where_there_are_none"
        | "nothing_is_reserved_where_it_cannot_be"
        | "collections_are_refused_where_there_are_none"
        | "records_are_refused_where_there_are_none" => Ground::Plain,
        _ if rule.is_about_partitions() => Ground::Partitions,
        "inline_projections_are_refused_where_they_cannot_be_had" => Ground::Plain,
        _ => Ground::Full,
    }
}

/// Examines a store that is wrong in this way by all rules, and says what is not as it should be.
fn examine(name: &str, flaw: Flaw) -> Option<String> {
    let suite = Suite::new(WrongSetup { ground: ground(rule(name)), flaw })
        .patience(Duration::from_secs(1))
        .only(|rule| name == MODEL || rule.name != MODEL);
    // A race may be missed when the machine is busy.
    let mut reports = (0..5).map(|_| suite.report());
    let missed = || format!("{flaw:?} should break {name}, but nothing failed");
    let Some(report) = reports.find(|report| !report.failed().is_empty()) else { return Some(missed()) };
    (report.failed() != [name]).then(|| format!("{flaw:?} should break {name}, but:\n{report}"))
}

fn examine_all_of(topic: &str) {
    let about = |name: &str| rule(name).topic == topic;
    let wrong = FLAWS.iter().filter(|(name, _)| about(name));
    let complaints: Vec<String> = wrong.filter_map(|(name, flaw)| examine(name, *flaw)).collect();
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[test]
fn every_rule_has_a_flaw() {
    let flawed: Vec<&str> = FLAWS.iter().map(|(name, _)| *name).collect();
    let rules: Vec<&str> = RULES.iter().map(|rule| rule.name).collect();
    assert_eq!(flawed, rules);
}

macro_rules! topics {
    ($($topic:ident)*) => {
        $(
            #[test]
            fn $topic() {
                examine_all_of(stringify!($topic));
            }
        )*

        #[test]
        fn every_topic_is_examined() {
            let topics = [$(stringify!($topic)),*];
            assert!(RULES.iter().all(|rule| topics.contains(&rule.topic)));
        }
    };
}

topics! { append facts guards keys races reads limits strings wait cancel snapshots rewound reservations documents collections records resets inline model }
