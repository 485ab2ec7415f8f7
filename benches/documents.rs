//! What a catch-up costs with hot keys and large documents, if a document passes through its stored form between two
//! events (the default), and if a batch is folded in memory (`fold_in_memory`).
//!
//! `cargo bench --bench documents`

#![allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark prints, and stops at a fault"
)]

use std::time::Instant;

use cqrs::Registry;
use cqrs::memory::MemoryStore;
use cqrs::prelude::*;

#[derive(Event, Serialize, Deserialize)]
pub struct Added {
    pub n: u64,
}

#[derive(Command)]
pub struct Add {
    #[id]
    pub id: u64,
    pub times: u64,
}

#[derive(Default)]
pub struct List;

#[aggregate(id = u64)]
impl List {
    #[handle]
    fn add(&self, cmd: Add) -> Vec<Added> {
        (0..cmd.times).map(|n| Added { n }).collect()
    }
    #[apply]
    fn added(&mut self, _: &Added) {}
}

macro_rules! documents {
    ($module:ident, $lines:literal $(, $option:ident)?) => {
        pub mod $module {
            use super::*;

            #[derive(Serialize, Deserialize)]
            pub struct Document {
                pub sum: u64,
                pub lines: Vec<Line>,
            }

            /// About 100 bytes of JSON.
            #[derive(Serialize, Deserialize)]
            pub struct Line {
                pub number: u64,
                pub what: String,
                pub price: f64,
            }

            #[projection(name = "documents", key = u64 $(, $option)?)]
            impl Document {
                #[on]
                fn added(document: Option<Self>, event: &Added) -> Self {
                    let what = || "an article with a name of usual length, in blue or in red".to_owned();
                    let line = |number| Line { number, what: what(), price: 12.5 };
                    let mut document =
                        document.unwrap_or_else(|| Self { sum: 0, lines: (0..$lines).map(line).collect() });
                    document.sum += event.n;
                    document
                }
            }
        }
    };
}

documents!(small, 1);
documents!(small_in_memory, 1, fold_in_memory);
documents!(large, 1_100);
documents!(large_in_memory, 1_100, fold_in_memory);

/// Microseconds per event of a catch-up over 1,000 events, the median of seven.
async fn catch_up(registry: &Registry, keys: u64) -> f64 {
    let mut times = Vec::new();
    for _ in 0..7 {
        let store = MemoryStore::new();
        let builder = Engine::builder().registry(registry.clone()).without_background();
        let engine = builder.build(store).await.unwrap();
        for id in 0..keys {
            engine.execute(Add { id, times: 1_000 / keys }).await.unwrap();
        }
        let start = Instant::now();
        engine.catch_up().await.unwrap();
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    macro_rules! registry {
        ($module:ident) => {
            Registry::new().with::<List>().with::<$module::Document>()
        };
    }
    println!("{:30} {:>10} {:>10}", "µs per event", "stored", "in memory");
    for (what, stored, in_memory, keys) in [
        ("one key, 100 bytes", registry!(small), registry!(small_in_memory), 1),
        ("1,000 keys, 100 bytes", registry!(small), registry!(small_in_memory), 1_000),
        ("one key, 100 KiB", registry!(large), registry!(large_in_memory), 1),
        ("100 keys, 100 KiB", registry!(large), registry!(large_in_memory), 100),
    ] {
        let (stored, in_memory) = (catch_up(&stored, keys).await, catch_up(&in_memory, keys).await);
        println!("{what:30} {stored:10.2} {in_memory:10.2}");
    }
}
