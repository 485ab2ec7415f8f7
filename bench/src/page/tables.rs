//! The figures as tables, and what else they say.

use comfy_table::presets::{ASCII_MARKDOWN, NOTHING};
use comfy_table::{ContentArrangement, Table as Drawn};

use super::numbers::{micros, number, thousands};
use crate::contenders::Kind;
use crate::measure::{self, COMMAND_CASES};
use crate::plan::Plan;
use crate::results::{Fault, Figure, Key, Measure, Results, Who};

/// Rows of words.
pub struct Table {
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    fn drawn(&self) -> Drawn {
        let mut drawn = Drawn::new();
        drawn.set_content_arrangement(ContentArrangement::Disabled);
        drawn.set_header(self.head.clone()).add_rows(self.rows.clone());
        drawn
    }

    pub fn console(&self) -> String {
        let mut drawn = self.drawn();
        drawn.load_style(NOTHING);
        drawn.to_string()
    }

    pub fn markdown(&self) -> String {
        let mut drawn = self.drawn();
        drawn.load_style(ASCII_MARKDOWN);
        drawn.to_string()
    }
}

/// A table and what has to be known to read it.
pub struct Section {
    pub title: &'static str,
    pub words: String,
    pub table: Table,
    /// The plot that belongs to it.
    pub plot: Option<&'static str>,
}

/// All tables that have a row.
pub fn sections(results: &Results) -> Vec<Section> {
    let plan = &results.plan;
    let all = [
        Section {
            title: "Commands per second, durable",
            words: format!(
                "Median of {} rounds of {:?} each, with least and most, and the ratio to the best one by hand \
                 on that store in the same run. {} accounts, or one that all tasks want.",
                plan.rounds,
                plan.round,
                thousands(plan.accounts)
            ),
            table: commands(results, true),
            plot: Some(super::plots::COMMANDS),
        },
        Section {
            title: "How long a command takes, durable",
            words: "Half of the commands take no longer than the first time, 99 of 100 no longer than the \
                    second; medians of all rounds."
                .to_owned(),
            table: times(results, true),
            plot: None,
        },
        Section {
            title: "Commands per second, without waiting for the disk",
            words: "The same with `synchronous_commit = off`, where a crash of the server loses what was \
                    acknowledged in the last moments. Only PostgreSQL has that choice here."
                .to_owned(),
            table: commands(results, false),
            plot: Some(super::plots::RELAXED),
        },
        Section {
            title: "How long a command takes, without waiting for the disk",
            words: String::new(),
            table: times(results, false),
            plot: None,
        },
        Section {
            title: "Round trips and statements for a command",
            words: format!(
                "Counted between contender and server, over {} commands of one task on durable accounts. A \
                 round trip is a `ReadyForQuery` of the server, which ends a `Query` or what was sent up to \
                 a `Sync`; a statement is a `Query` or an `Execute`. What a function does inside the server \
                 is not seen, and what runs beside the commands is counted, too.",
                plan.wire_commands
            ),
            table: wire(results),
            plot: None,
        },
        Section {
            title: "Folding one account",
            words: format!(
                "An account of {} events is read and folded; less, where writing so many to one account took \
                 longer than {:?}. The ratio is that of the time for each event to the least by hand.",
                thousands(plan.rehydrate_events),
                plan.rehydrate_fill
            ),
            table: rehydrate(results),
            plot: None,
        },
        Section {
            title: "Building a read model",
            words: format!(
                "The balance of each of {} accounts, from the first event to the last of {}. A peer writes for \
                 {:?}, and then reads what there is: the number of its events stands beside its figure. \
                 Median of {} repetitions, with least and most.",
                thousands(plan.catch_up_accounts),
                thousands(plan.catch_up_events),
                plan.catch_up_fill,
                plan.catch_up_rounds
            ),
            table: catch_up(results),
            plot: Some(super::plots::CATCH_UP),
        },
        Section {
            title: "Guards by tags, as the log grows",
            words: format!(
                "One append after the other under the condition that no event has both a tag that all events \
                 have and a new one: medians of {} appends each, and how quickly the log grew to its last \
                 size. One that grows by commands has {:?} for a size.",
                plan.growth_appends,
                Plan::GROWTH_BY_COMMANDS.min(plan.growth_fill)
            ),
            table: growth(results),
            plot: Some(super::plots::GUARDED),
        },
        Section {
            title: "Memory",
            words: format!(
                "The most that a process had in memory for {} accounts and {} commands of 16 tasks. A store in \
                 memory has its events in it.",
                thousands(plan.memory_accounts),
                thousands(plan.memory_commands)
            ),
            table: memory(results),
            plot: None,
        },
        Section {
            title: "Compiling",
            words:
                "`cargo check` from nothing, of an empty program that depends on the contender, on serde and \
                    on tokio; and how many crates that is."
                    .to_owned(),
            table: compile(results),
            plot: None,
        },
    ];
    all.into_iter().filter(|section| !section.table.rows.is_empty()).collect()
}

fn find<'a>(
    results: &'a Results,
    measure: Measure,
    case: &str,
    durable: bool,
    who: &Who,
) -> Option<&'a Figure> {
    results.find(Key { measure, case, durable, contender: &who.name })
}

/// The best median of those by hand on this store.
fn limit(results: &Results, measure: Measure, case: &str, durable: bool, store: &str) -> Option<f64> {
    let hands = hands(results).filter(|who| who.store == store);
    let values = hands.filter_map(|who| find(results, measure, case, durable, who)?.sound());
    values.reduce(if measure.more_is_better() { f64::max } else { f64::min })
}

fn hands(results: &Results) -> impl Iterator<Item = &Who> {
    let all = results.contenders.iter().chain(&results.logs);
    all.filter(|who| who.kind == Kind::Limit)
}

/// By store, and as they were named within each.
pub fn by_store(all: &[Who]) -> Vec<&Who> {
    let order = ["memory", "SQLite", "PostgreSQL"];
    let mut all: Vec<&Who> = all.iter().collect();
    all.sort_by_key(|who| order.iter().position(|store| *store == who.store));
    all
}

fn name(who: &Who) -> String {
    match who.kind {
        Kind::Ours => format!("**{}**", who.name),
        Kind::Limit => format!("_{}_", who.name),
        Kind::Peer => who.name.clone(),
    }
}

/// A table with a row for each contender that has one of the figures.
fn table(all: &[Who], columns: &[&str], cells: impl Fn(&Who) -> Option<Vec<String>>) -> Table {
    let head = ["contender", "store"].iter().chain(columns).map(|&word| word.to_owned()).collect();
    let row = |who: &Who| Some([vec![name(who), who.store.clone()], cells(who)?].concat());
    Table { head, rows: by_store(all).into_iter().filter_map(row).collect() }
}

/// Of several cells, if one of them says something.
fn some(cells: Vec<Option<String>>) -> Option<Vec<String>> {
    let any = cells.iter().any(Option::is_some);
    any.then(|| cells.into_iter().map(Option::unwrap_or_default).collect())
}

/// What stands there if a figure is not sound.
fn marked(figure: &Figure, words: String) -> String {
    match &figure.fault {
        None => words,
        Some(Fault::Wrong(_)) => format!("WRONG ({words})"),
        Some(Fault::Failed(_)) => "failed".to_owned(),
        Some(Fault::Absent) => "has none".to_owned(),
    }
}

/// Median, least and most.
fn spread(figure: &Figure, show: impl Fn(f64) -> String) -> String {
    let (Some(middle), Some(least), Some(most)) = (figure.median(), figure.least(), figure.most()) else {
        return String::new();
    };
    match figure.values.len() {
        1 => show(middle),
        _ => format!("{} ({} to {})", show(middle), show(least), show(most)),
    }
}

fn commands(results: &Results, durable: bool) -> Table {
    let columns = COMMAND_CASES.map(|(case, ..)| case);
    table(&results.contenders, &columns, |who| {
        let cell = |case: &&str| {
            let figure = find(results, Measure::Commands, case, durable, who)?;
            let limit = limit(results, Measure::Commands, case, durable, &who.store);
            let ratio = figure.sound().zip(limit).map(|(value, limit)| format!(", {:.2}", value / limit));
            let mut words = spread(figure, number) + &ratio.unwrap_or_default();
            // Fewer accounts than planned could be opened in time.
            if let Some(accounts) = figure.sizes.iter().min()
                && *accounts > 1
                && *accounts < results.plan.accounts
            {
                words += &format!(", {} accounts", thousands(*accounts));
            }
            Some(marked(figure, words))
        };
        some(columns.iter().map(cell).collect())
    })
}

fn times(results: &Results, durable: bool) -> Table {
    let columns = COMMAND_CASES.map(|(case, ..)| case);
    table(&results.contenders, &columns, |who| {
        let cell = |case: &&str| {
            let half = find(results, Measure::P50, case, durable, who)?;
            let most = find(results, Measure::P99, case, durable, who)?;
            let words = [half, most].map(|figure| figure.median().map(micros).unwrap_or_default());
            Some(marked(half, words.join(", ")))
        };
        some(columns.iter().map(cell).collect())
    })
}

fn wire(results: &Results) -> Table {
    table(&results.contenders, &["round trips", "statements"], |who| {
        let cell = |measure| {
            let figure = find(results, measure, measure::WIRE_CASE, true, who)?;
            Some(marked(figure, figure.median().map(|value| format!("{value:.2}")).unwrap_or_default()))
        };
        some(vec![cell(Measure::RoundTrips), cell(Measure::Statements)])
    })
}

fn rehydrate(results: &Results) -> Table {
    let each = |who: &Who| {
        let figure = find(results, Measure::Rehydrate, measure::REHYDRATE_CASE, true, who)?;
        Some(figure.sound()? / *figure.sizes.last()? as f64)
    };
    table(&results.contenders, &["events", "time", "for each event", "ratio"], |who| {
        let figure = find(results, Measure::Rehydrate, measure::REHYDRATE_CASE, true, who)?;
        let limit = hands(results).filter(|hand| hand.store == who.store).filter_map(&each);
        let limit = limit.reduce(f64::min);
        let time = marked(figure, spread(figure, |seconds| micros(seconds * 1e6)));
        Some(vec![
            figure.sizes.last().map(|&events| thousands(events)).unwrap_or_default(),
            time,
            each(who).map(|seconds| micros(seconds * 1e6)).unwrap_or_default(),
            each(who).zip(limit).map(|(value, limit)| format!("{:.2}", value / limit)).unwrap_or_default(),
        ])
    })
}

fn catch_up(results: &Results) -> Table {
    let case = measure::CATCH_UP_CASE;
    table(&results.contenders, &["events", "events per second", "ratio"], |who| {
        let figure = find(results, Measure::CatchUp, case, true, who)?;
        let limit = limit(results, Measure::CatchUp, case, true, &who.store);
        let ratio = figure.sound().zip(limit).map(|(value, limit)| format!("{:.2}", value / limit));
        let events = figure.sizes.iter().min().map(|&events| thousands(events));
        Some(vec![
            events.unwrap_or_default(),
            marked(figure, spread(figure, number)),
            ratio.unwrap_or_default(),
        ])
    })
}

fn growth(results: &Results) -> Table {
    let sizes: Vec<String> = results.plan.growth_sizes.iter().map(u64::to_string).collect();
    let heads = results.plan.growth_sizes.iter().map(|&size| format!("{} events", thousands(size)));
    let heads: Vec<String> = heads.chain(["growing, events per second".to_owned()]).collect();
    let heads: Vec<&str> = heads.iter().map(String::as_str).collect();
    table(&results.logs, &heads, |who| {
        let cell = |size: &String| {
            let figure = find(results, Measure::Guarded, size, true, who)?;
            Some(marked(figure, spread(figure, micros)))
        };
        let mut cells: Vec<_> = sizes.iter().map(cell).collect();
        let grown = find(results, Measure::Bulk, measure::GROWTH_CASE, true, who);
        cells.push(grown.and_then(|figure| figure.values.last()).map(|&value| number(value)));
        some(cells)
    })
}

fn memory(results: &Results) -> Table {
    table(&results.contenders, &["MiB"], |who| {
        let figure = find(results, Measure::Memory, measure::MEMORY_CASE, true, who)?;
        Some(vec![marked(figure, spread(figure, |bytes| number(bytes / 1_048_576.0)))])
    })
}

fn compile(results: &Results) -> Table {
    table(&results.contenders, &["crates", "time"], |who| {
        let cell = |measure, show: &dyn Fn(f64) -> String| {
            let figure = find(results, measure, measure::COMPILE_CASE, true, who)?;
            // By hand in memory there is nothing to compile.
            (figure.fault != Some(Fault::Absent)).then(|| marked(figure, spread(figure, show)))
        };
        some(vec![
            cell(Measure::Crates, &|crates| thousands(crates as u64)),
            cell(Measure::Compile, &|seconds| micros(seconds * 1e6)),
        ])
    })
}

fn title(measure: Measure) -> &'static str {
    match measure {
        Measure::Commands => "commands per second",
        Measure::P50 => "median time of a command",
        Measure::P99 => "99 of 100 commands",
        Measure::Retries => "tries again",
        Measure::RoundTrips => "round trips",
        Measure::Statements => "statements",
        Measure::Memory => "memory",
        Measure::Rehydrate => "folding",
        Measure::CatchUp => "building a read model, events per second",
        Measure::Bulk => "growing, events per second",
        Measure::Guarded => "guarded append",
        Measure::Compile => "compiling",
        Measure::Crates => "crates",
    }
}

fn shown(measure: Measure, value: f64) -> String {
    match measure {
        Measure::P50 | Measure::P99 | Measure::Guarded => micros(value),
        Measure::Rehydrate | Measure::Compile => micros(value * 1e6),
        Measure::Memory => format!("{} MiB", number(value / 1_048_576.0)),
        _ => number(value),
    }
}

fn of(figure: &Figure) -> String {
    let relaxed = if figure.durable { "" } else { ", without waiting for the disk" };
    format!("{}, {}{relaxed}", title(figure.measure), figure.case)
}

/// What went wrong: the same words once for each contender.
pub fn faults(results: &Results) -> Vec<String> {
    let mut lines: Vec<(String, Vec<String>)> = Vec::new();
    for figure in &results.figures {
        let words = match &figure.fault {
            Some(Fault::Wrong(words)) => format!("`{}` was WRONG: {words}", figure.contender),
            Some(Fault::Failed(words)) => format!("`{}` failed: {words}", figure.contender),
            Some(Fault::Absent) | None => continue,
        };
        match lines.iter_mut().find(|(known, _)| *known == words) {
            Some((_, cases)) => cases.push(of(figure)),
            None => lines.push((words, vec![of(figure)])),
        }
    }
    lines.into_iter().map(|(words, cases)| format!("{words} ({})", cases.join("; "))).collect()
}

/// Who had to try again, and how often.
pub fn retries(results: &Results) -> Vec<String> {
    let often = results.figures.iter().filter(|figure| figure.measure == Measure::Retries);
    let often = often.filter_map(|figure| Some((figure, figure.median()?)));
    let line = |(figure, times): (&Figure, f64)| {
        let relaxed = if figure.durable { "" } else { ", without waiting for the disk" };
        format!("`{}`, {}{relaxed}: {times:.2} tries again for each command", figure.contender, figure.case)
    };
    often.filter(|(_, times)| *times >= 0.01).map(line).collect()
}

/// Where a peer's sound figure is better than ours on the same store.
pub fn ahead(results: &Results) -> Vec<String> {
    let all = || results.contenders.iter().chain(&results.logs);
    let mut lines = Vec::new();
    for figure in &results.figures {
        // How often it tries again is not a merit by itself.
        if figure.measure == Measure::Retries {
            continue;
        }
        let Some(peer) = all().find(|who| who.name == figure.contender && who.kind == Kind::Peer) else {
            continue;
        };
        for ours in all().filter(|who| who.kind == Kind::Ours && who.store == peer.store) {
            let other = find(results, figure.measure, &figure.case, figure.durable, ours);
            let Some((theirs, our)) = compared(figure, other) else { continue };
            let better = if figure.measure.more_is_better() { theirs > our } else { theirs < our };
            if better {
                let line = format!(
                    "{}: `{}` {}, `{}` {}",
                    of(figure),
                    peer.name,
                    shown(figure.measure, theirs),
                    ours.name,
                    shown(figure.measure, our)
                );
                // The same contender may stand among the logs.
                if !lines.contains(&line) {
                    lines.push(line);
                }
            }
        }
    }
    lines
}

/// Two figures that can be held against each other: for each event, where their numbers differ.
fn compared(theirs: &Figure, ours: Option<&Figure>) -> Option<(f64, f64)> {
    let ours = ours?;
    let (mut one, other) = (theirs.sound()?, ours.sound()?);
    if theirs.measure == Measure::Rehydrate {
        one *= *ours.sizes.last()? as f64 / *theirs.sizes.last()? as f64;
    }
    Some((one, other))
}
