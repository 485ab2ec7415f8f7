//! The adversary on the store in memory, and on stores that are wrong on purpose.

#![allow(clippy::print_stdout, reason = "the figures are for whoever runs it")]

mod wrong;

use std::sync::Arc;

use cqrs_core::memory::MemoryStore;
use cqrs_testkit::adversary::{Adversary, Report, appends};

use crate::wrong::{Flaw, Wrong};

fn on(store: &MemoryStore, appends: u64) -> Adversary {
    let handle = || Arc::new(store.clone());
    Adversary::new(appends).on("one", handle()).on("another", handle()).replica("a third", handle())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_store_in_memory_loses_nothing() {
    let report = on(&MemoryStore::new(), appends(4_000)).run().await;
    println!("{report}");
    report.assert_clean();
    assert!(report.acknowledged > report.refused + report.open);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nor_with_partitions() {
    let report = on(&MemoryStore::builder().partitions(3).build(), appends(2_000)).run().await;
    println!("{report}");
    report.assert_clean();
}

type Found = fn(&Report) -> bool;

/// What the report has to say of a store that is wrong in this way.
const FOUND: [(Flaw, Found); 12] = [
    (Flaw::NumbersBeforeCommit, |report| report.lost() > 0),
    (Flaw::SkipsGapsAfterAWhile, |report| report.lost() > 0),
    (Flaw::GivesAgain, |report| report.duplicates() > 0),
    (Flaw::Swaps, |report| report.inversions() > 0),
    (Flaw::ShowsWhatIsRolledBack, |report| report.phantoms() > 0),
    (Flaw::AcknowledgesTooMuch, |report| report.vanished > 0),
    (Flaw::WritesWhatItRefuses, |report| says(report, "was refused, but is in the log")),
    (Flaw::TearsAppends, |report| says(report, "is torn")),
    (Flaw::IgnoresGuards, |report| says(report, "has a guard that cannot hold")),
    (Flaw::IgnoresKeys, |report| says(report, "was repeated, and got")),
    (Flaw::HeadsGoBack, |report| says(report, "was shown the head")),
    (Flaw::Stalls, |report| report.is_clean() && report.stall().as_millis() >= wrong::STALL / 2),
];

fn says(report: &Report, words: &str) -> bool {
    report.faults.iter().any(|fault| fault.contains(words))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn each_wrong_store_is_found_out() {
    let mut missed = Vec::new();
    for (flaw, found) in FOUND {
        let (one, another) = Wrong::pair(flaw);
        let run = Adversary::new(600).on("one", one).on("another", another).run();
        let report = run.await;
        println!("{flaw:?}: {report}");
        if !found(&report) {
            missed.push(format!("{flaw:?} was not found out: {report}"));
        }
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}
