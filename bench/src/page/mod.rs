//! The page that shows the results of a run: a function of them alone.

mod numbers;
mod plots;
mod tables;
mod text;

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::results::Results;

/// A page and its plots, by their file names.
#[derive(Debug, PartialEq)]
pub struct Page {
    pub markdown: String,
    pub plots: Vec<(&'static str, String)>,
}

pub fn page(results: &Results) -> anyhow::Result<Page> {
    let plots = plots::all(results)?;
    let names: Vec<_> = plots.iter().map(|(name, _)| *name).collect();
    Ok(Page { markdown: text::markdown(results, &names), plots })
}

/// All figures, for the console.
pub fn console(results: &Results) -> String {
    let mut words = String::new();
    for section in tables::sections(results) {
        words += &format!("\n{}\n{}\n", section.title, section.table.console());
    }
    for line in tables::faults(results).iter().chain(&tables::retries(results)) {
        words += &format!("- {line}\n");
    }
    words
}

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs")
}

/// Where the results are kept that the page was made from.
fn kept() -> PathBuf {
    docs().join("performance/results.json")
}

fn read(file: &Path) -> anyhow::Result<Results> {
    let words = std::fs::read(file)
        .with_context(|| format!("{} cannot be read; `short` and `full` make results", file.display()))?;
    serde_json::from_slice(&words).with_context(|| format!("{} holds no results of a run", file.display()))
}

/// Writes the page; the results that it shows are those given, or those of the last time.
pub fn publish(from: Option<&Path>, again: Option<&Path>) -> anyhow::Result<()> {
    let mut results = read(from.unwrap_or(&kept()))?;
    if let Some(again) = again {
        results = results.replaced_by(read(again)?)?;
    }
    let page = page(&results)?;
    std::fs::create_dir_all(docs().join("performance"))?;
    std::fs::write(kept(), serde_json::to_string_pretty(&results)? + "\n")?;
    std::fs::write(docs().join("performance.md"), &page.markdown)?;
    for (name, svg) in &page.plots {
        std::fs::write(docs().join("performance").join(name), svg)?;
    }
    println!("docs/performance.md and {} plots are written", page.plots.len());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contenders::Kind;
    use crate::machine::Machine;
    use crate::measure;
    use crate::plan::{Form, Plan};
    use crate::results::{Fault, Key, Measure, Who};

    fn who(kind: Kind, name: &str) -> Who {
        let (name, store) = (name.to_owned(), "PostgreSQL".to_owned());
        let less = vec![format!("What {name} leaves out.")];
        Who { kind, name, store, packages: Vec::new(), less }
    }

    fn key(contender: &str, measure: Measure) -> Key<'_> {
        Key { measure, case: measure::COMMAND_CASES[0].0, durable: true, contender }
    }

    fn results() -> Results {
        let machine = Machine {
            processor: "a processor".to_owned(),
            cores: 2,
            memory: Some(24),
            system: "linux 6".to_owned(),
            postgres: Some("15.18".to_owned()),
            rustc: "rustc 1.95".to_owned(),
            sync: 130.0,
        };
        let contenders = vec![
            who(Kind::Ours, "us"),
            who(Kind::Limit, "limit"),
            who(Kind::Peer, "slow"),
            who(Kind::Peer, "quick"),
            who(Kind::Peer, "liar"),
            who(Kind::Peer, "broken"),
        ];
        let mut results = Results {
            plan: Plan::new(Form::Full, 7),
            machine,
            commit: Some("c0ffee".to_owned()),
            begun: 1_795_000_000,
            seconds: 1_700,
            settings: [("fsync".to_owned(), "on".to_owned())].into(),
            versions: [("slow".to_owned(), "0.5.0".to_owned())].into(),
            contenders,
            logs: Vec::new(),
            figures: Vec::new(),
            again: Vec::new(),
        };
        for (name, values) in [
            ("us", [900.0, 1_000.0, 1_100.0]),
            ("limit", [1_900.0, 2_000.0, 2_500.0]),
            ("slow", [90.0, 100.0, 110.0]),
            ("quick", [1_400.0, 1_500.0, 1_600.0]),
            ("liar", [8_900.0, 9_000.0, 9_100.0]),
        ] {
            values.iter().for_each(|value| results.add_sized(key(name, Measure::Commands), *value, 10_000));
        }
        let wrong = "7 events are stored, and 9 were acknowledged".to_owned();
        results.fault(key("liar", Measure::Commands), Fault::Wrong(wrong));
        results.fault(key("broken", Measure::Commands), Fault::Failed("no answer within 30s".to_owned()));
        results
    }

    fn line<'a>(page: &'a Page, of: &str) -> &'a str {
        let found = page.markdown.lines().find(|line| line.starts_with('|') && line.contains(of));
        found.unwrap_or_else(|| panic!("no row of {of}"))
    }

    #[test]
    fn a_page_is_a_function_of_the_file() {
        let results = results();
        let text = serde_json::to_string(&results).unwrap();
        let again: Results = serde_json::from_str(&text).unwrap();
        assert_eq!(page(&results).unwrap(), page(&again).unwrap());
        let mut other = again;
        other.add(key("us", Measure::Commands), 5_000.0);
        other.add(key("us", Measure::Commands), 5_000.0);
        assert_ne!(page(&results).unwrap().markdown, page(&other).unwrap().markdown);
        assert_ne!(page(&results).unwrap().plots, page(&other).unwrap().plots);
    }

    #[test]
    fn a_row_has_median_span_and_ratio_to_the_limit() {
        let page = page(&results()).unwrap();
        for part in ["1,000", "900 to 1,100", "0.50"] {
            assert!(line(&page, "**us**").contains(part), "{}", line(&page, "**us**"));
        }
    }

    #[test]
    fn what_is_wrong_stands_there_as_wrong_and_is_nobodys_measure() {
        let page = page(&results()).unwrap();
        assert!(line(&page, "liar").contains("WRONG"), "{}", line(&page, "liar"));
        assert!(line(&page, "broken").contains("failed"), "{}", line(&page, "broken"));
        assert!(page.markdown.contains("7 events are stored, and 9 were acknowledged"));
        assert!(page.markdown.contains("no answer within 30s"));
        let faster = page.markdown.split("## Where a peer is ahead").nth(1).unwrap();
        let faster = faster.split("\n## ").next().unwrap();
        assert!(faster.contains("quick") && !faster.contains("liar") && !faster.contains("slow"), "{faster}");
    }

    #[test]
    fn what_each_does_less_is_said() {
        let page = page(&results()).unwrap();
        assert!(page.markdown.contains("What quick leaves out."));
    }

    #[test]
    fn the_page_that_is_kept_shows_the_results_that_are_kept() {
        if !kept().exists() {
            return;
        }
        let page = page(&read(&kept()).unwrap()).unwrap();
        let there = std::fs::read_to_string(docs().join("performance.md")).unwrap();
        assert!(there == page.markdown, "`-- page` makes docs/performance.md anew");
        for (name, svg) in &page.plots {
            let there = std::fs::read_to_string(docs().join("performance").join(name)).unwrap();
            assert!(there == *svg, "`-- page` makes docs/performance/{name} anew");
        }
    }
}
