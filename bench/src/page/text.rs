//! The words of the page.

use super::numbers::{micros, thousands};
use super::tables::{self, by_store};
use crate::contenders::Kind;
use crate::plan::Form;
use crate::results::Results;

pub fn markdown(results: &Results, plots: &[&str]) -> String {
    let mut page = head(results);
    for section in tables::sections(results) {
        page += &format!("\n## {}\n\n", section.title);
        if !section.words.is_empty() {
            page += &format!("{}\n\n", section.words);
        }
        if let Some(plot) = section.plot.filter(|plot| plots.contains(plot)) {
            page += &format!("![{}](performance/{plot})\n\n", section.title);
        }
        page += &format!("{}\n", section.table.markdown());
    }
    page += &list(
        "Where a peer is ahead",
        "Figures of peers that are better than ours on the same store, of those that are right.",
        "In this run, nowhere.",
        &tables::ahead(results),
    );
    page += &list(
        "What went wrong",
        "After each measure the balances and the number of events are compared with what was acknowledged. \
         A figure whose contender did not pass is WRONG, and no ratio is taken of it.",
        "Nothing.",
        &tables::faults(results),
    );
    page += &list(
        "Who tried again",
        "A command that finds that somebody else wrote first is decided again, in the way that the contender's \
         documentation shows. The tries are part of the time of the command.",
        "Nobody.",
        &tables::retries(results),
    );
    page += &less(results);
    page + &rerun(results)
}

fn head(results: &Results) -> String {
    let (plan, machine) = (&results.plan, &results.machine);
    let form = match plan.form {
        Form::Smoke => "a smoke run, whose times mean nothing",
        Form::Short => "the short form",
        Form::Full => "the full form",
    };
    let memory = machine.memory.map_or_else(|| "unknown".to_owned(), |memory| format!("{memory} GiB"));
    let postgres = machine.postgres.as_deref().unwrap_or("none");
    let settings = results.settings.iter().map(|(name, value)| format!("`{name} = {value}`"));
    let again = results.again.iter().map(|again| {
        let parts: Vec<_> = again.parts.iter().map(|part| format!("{part:?}").to_lowercase()).collect();
        format!("; {} on {}", parts.join(" and "), date(again.begun))
    });
    let again = again.collect::<String>();
    let code = match &results.commit {
        Some(commit) => format!("commit {commit}"),
        None => {
            "the run has no record of its commit; it may be older than the code beside this page".to_owned()
        }
    };
    let versions = results.versions.iter().map(|(name, version)| format!("{name} {version}"));
    format!(
        "# Performance\n\n\
         Made by `bench/` from [its results](performance/results.json), which say more than this page: each \
         repetition of each figure. Nothing here is typed in by hand.\n\n\
         | | |\n|---|---|\n\
         | run | {form}, on {}, in {} minutes{again} |\n\
         | code | {code} |\n\
         | processor | {}, {} cores, shared by contender, server and who measures |\n\
         | memory | {memory} |\n\
         | system | {}, {} |\n\
         | one `fdatasync` behind 4 KiB | {} |\n\
         | PostgreSQL | {postgres}, on the same machine over TCP; {}; `synchronous_commit` as each table says |\n\
         | SQLite | WAL and `synchronous = FULL`, by hand as in our store |\n\
         | versions | {} |\n\
         | seed | {} |\n\n\
         ## Method\n\n\
         One bank for all: an account is opened, money is put in, and taken out if it is there. An event has \
         about 130 bytes of JSON. Three deposits come to one withdrawal, and one withdrawal in ten asks for what \
         is not there and has to be refused. A task has accounts of its own, so that each answer can be checked, \
         but where all want the same one. Each peer is used as its own documentation shows, in its newest \
         version, with up to 16 connections where it has a pool. Exceptions are under [What each does less, or \
         otherwise](#what-each-does-less-or-otherwise): ours remembers more accounts than by default, and the SQL \
         of one peer is changed so that it runs on this server.\n\n\
         - Each contender and measure is a process of its own, built with `--release`; what it does is in \
           `bench/src`.\n\
         - Repetitions are interleaved: each contender has its turn before anybody has the second, and who begins \
           changes. A figure is the median of {} repetitions of commands, {} of folding, {} of read models, {} of \
           guards, {} of memory, and {} of compiling, with the least and the most. Of two repetitions, the \
           median is the mean.\n\
         - Databases are new for each measure; who keeps all in memory is opened anew for each repetition of \
           commands. After they are filled, each is vacuumed and analysed, as PostgreSQL \
           does by itself a minute later.\n\
         - _By hand_ is the baseline: the same bank without a framework, which knows all state and keeps what is \
           needed at least. It is not an upper limit, and some figures of ours are better. Ratios are to the best \
           of these on the same store, in the same run. A ratio above 1 is better for commands and read models, \
           and worse for folding.\n\
         - After each measure a model of the bank is compared with what is stored: the number of events, and the \
           balances of up to 1,000 accounts, read anew.\n",
        date(results.begun),
        (results.seconds + 30) / 60,
        machine.processor,
        machine.cores,
        machine.system,
        machine.rustc,
        micros(machine.sync),
        settings.collect::<Vec<_>>().join(", "),
        versions.collect::<Vec<_>>().join(", "),
        plan.seed,
        plan.rounds,
        plan.rehydrate_rounds,
        plan.catch_up_rounds,
        plan.growth_rounds,
        plan.memory_rounds,
        plan.compile_rounds,
    )
}

fn list(title: &str, words: &str, none: &str, lines: &[String]) -> String {
    let lines: String = lines.iter().map(|line| format!("- {line}\n")).collect();
    let lines = if lines.is_empty() { format!("{none}\n") } else { lines };
    format!("\n## {title}\n\n{words}\n\n{lines}")
}

fn less(results: &Results) -> String {
    let mut page = "\n## What each does less, or otherwise\n\n".to_owned();
    let mut known = Vec::new();
    for who in by_store(&results.contenders).into_iter().chain(by_store(&results.logs)) {
        let said = (&who.name, &who.less);
        if who.less.is_empty() || known.contains(&said) {
            continue;
        }
        known.push(said);
        let kind = if who.kind == Kind::Limit { ", by hand" } else { "" };
        page += &format!("- `{}` on {}{kind}: {}\n", who.name, who.store, who.less.join(" "));
    }
    page
}

fn rerun(results: &Results) -> String {
    let plan = &results.plan;
    format!(
        "\n## To see for yourself\n\n\
         A PostgreSQL server has to be installed, not running: the benchmark starts one of its own on a free port, \
         and stops it. It needs some GB of disk for the time of the run.\n\n\
         ```sh\n\
         cargo run --release --manifest-path bench/Cargo.toml -- short   # a few minutes\n\
         cargo run --release --manifest-path bench/Cargo.toml -- full    # 20 minutes to an hour\n\
         cargo run --release --manifest-path bench/Cargo.toml -- full --only cqrs-postgres esrs --part commands\n\
         cargo run --release --manifest-path bench/Cargo.toml -- page --from bench/results/full.json\n\
         ```\n\n\
         `-- list` names the contenders, `-- full --help` the settings. This run had {} accounts, {} rounds of {:?} \
         and read models of up to {} events.\n",
        thousands(plan.accounts),
        plan.rounds,
        plan.round,
        thousands(plan.catch_up_events),
    )
}

/// The day of so many seconds since 1970, in UTC.
fn date(seconds: u64) -> String {
    cqrs::Timestamp::from_micros(seconds * 1_000_000).to_string().chars().take(10).collect()
}

#[cfg(test)]
mod tests {
    use super::date;

    #[test]
    fn a_day_is_named() {
        assert_eq!([0, 951_868_799, 951_868_800].map(date), ["1970-01-01", "2000-02-29", "2000-03-01"]);
    }
}
