//! Random values of hostile shapes: each is rejected, or leads to the same states and documents whatever a process
//! has in memory, however events are batched, and in every mode.

use std::collections::BTreeMap;

use cqrs::memory::MemoryStore;
use cqrs::prelude::*;
use cqrs::store::{EventStore as _, LogRead, Query};
use cqrs::{Partition, Position, Registry};

/// A generator that gives the same numbers for the same seed.
#[derive(Clone, Copy)]
struct Random(u64);

impl Random {
    fn next(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }

    fn float(&mut self) -> f64 {
        [0.1, -0.0, 1e300, 1.0, f64::NAN, f64::MIN_POSITIVE, 3.5, 1e-310][self.next(8) as usize]
    }

    fn hostile(&mut self) -> Hostile {
        // Most of a kind that is always rejected are rare, so that much is accepted.
        let rarely = self.next(12) == 0;
        Hostile {
            skipped: self.next(4),
            nested: [None, Some(None), Some(Some(7))][self.next(3) as usize],
            rate: (self.next(2) == 0).then(|| self.float()),
            plain: if rarely { self.float() } else { 0.1 },
            labels: vec![1; if rarely { self.next(2) as usize } else { 1 }],
            loose: match self.next(4) {
                0 => Loose::Float(if rarely { self.float() } else { 2.0 }),
                1 => Loose::Whole(self.next(9)),
                2 => Loose::Text("x".to_owned()),
                _ => Loose::Empty(None),
            },
            tagged: match self.next(3) {
                0 if rarely => Tagged::Wide { amount: 1 << 80 },
                1 => Tagged::Wide { amount: 5 },
                _ => Tagged::Small { lines: if rarely { [(1, 2)].into() } else { BTreeMap::new() } },
            },
            extra: (0..self.next(3)).map(|n| (["a", "b"][n as usize].to_owned(), self.next(3))).collect(),
            body: (0..if rarely { 100 + self.next(60) } else { self.next(4) })
                .fold(serde_json::Value::Null, |inner, _| serde_json::json!([inner])),
            digest: String::new(),
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Loose {
    Float(f64),
    Whole(u64),
    Text(String),
    Empty(Option<u8>),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "kind")]
pub enum Tagged {
    Wide { amount: u128 },
    Small { lines: BTreeMap<u32, u32> },
}

#[derive(Event, Clone, Debug, Serialize, Deserialize)]
pub struct Hostile {
    #[serde(skip)]
    pub skipped: u64,
    pub nested: Option<Option<u8>>,
    pub rate: Option<f64>,
    pub plain: f64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<u8>,
    pub loose: Loose,
    pub tagged: Tagged,
    #[serde(flatten)]
    pub extra: BTreeMap<String, u64>,
    #[serde(rename = "tree")]
    pub body: serde_json::Value,
    /// What the state was when this was decided.
    pub digest: String,
}

#[derive(Command)]
pub struct Throw {
    #[id]
    pub id: u64,
    pub events: Vec<Hostile>,
}

#[derive(Default, Debug)]
pub struct Target {
    pub last: Option<Hostile>,
    pub skipped: u64,
}

#[aggregate(id = u64)]
impl Target {
    #[handle]
    fn throw(&self, cmd: Throw) -> Vec<Hostile> {
        // Every bit of what is in memory goes into what is stored.
        let digest = format!(
            "{:?} {}",
            self.last.as_ref().map(|last| (&last.loose, last.rate, last.nested)),
            self.skipped
        );
        cmd.events.into_iter().map(|event| Hostile { digest: digest.clone(), ..event }).collect()
    }
    #[apply]
    fn hit(&mut self, event: &Hostile) {
        self.skipped += event.skipped;
        self.last = Some(event.clone());
    }
}

macro_rules! view {
    ($module:ident, $name:literal, $($option:tt)*) => {
        pub mod $module {
            use super::*;

            #[derive(Default, Debug, Serialize, Deserialize)]
            pub struct View {
                pub events: u64,
                #[serde(skip)]
                pub since: u64,
                pub nested: Option<Option<u8>>,
                pub loose: Option<Loose>,
                pub rate: Option<f64>,
                pub seen: Vec<String>,
            }

            #[projection(name = $name, key = u64, $($option)*)]
            impl View {
                #[on]
                fn hit(&mut self, event: &Hostile) {
                    self.events += 1;
                    self.since += 1;
                    self.seen.push(format!("{} {:?} {:?} {:?}", self.since, self.nested, self.loose, self.rate));
                    self.nested = event.nested;
                    self.loose = Some(match &event.loose {
                        Loose::Float(float) => Loose::Whole(*float as u64),
                        other => other.clone(),
                    });
                    self.rate = event.rate.map(|rate| if rate > 1.0 { f64::INFINITY } else { rate });
                }
            }
        }
    };
}

view!(followed, "view", mode = async);
view!(inline, "view-inline", mode = inline);
view!(live, "view-live", mode = live);
view!(in_memory, "view-in-memory", fold_in_memory);

/// What came of the commands: the answers, what is in the log, and each document, by its projection.
type Outcome = (Vec<Result<u64, String>>, Vec<Vec<u8>>, BTreeMap<&'static str, Option<String>>);

async fn run(commands: &[Vec<Hostile>], restarts: bool) -> Outcome {
    let store = MemoryStore::new();
    let registry = Registry::new().with::<Target>().with::<followed::View>().with::<inline::View>();
    let registry = registry.with::<live::View>().with::<in_memory::View>();
    let open = || Engine::builder().registry(registry.clone()).without_background().build(store.clone());
    let mut engine = open().await.unwrap();
    let mut answers = Vec::new();
    for events in commands {
        let answer = engine.execute(Throw { id: 1, events: events.clone() }).await;
        answers.push(answer.map(|receipt| receipt.version().get()).map_err(|error| crate::chain(&error)));
        if restarts {
            engine.catch_up().await.unwrap();
            engine.shutdown().await;
            engine = open().await.unwrap();
        }
    }
    engine.catch_up().await.unwrap();
    let read = LogRead {
        partition: Partition::ONLY,
        after: Position::START,
        up_to: None,
        query: Query::all(),
        limit: 1_000,
    };
    let log = store.read_log(read).await.unwrap().events.iter().map(|event| event.payload.to_vec()).collect();
    macro_rules! document {
        ($module:ident) => {
            engine.get::<$module::View>(&1).await.unwrap().map(|view| serde_json::to_string(&view).unwrap())
        };
    }
    let documents = [
        ("async", document!(followed)),
        ("inline", document!(inline)),
        ("live", document!(live)),
        ("in memory", document!(in_memory)),
    ];
    // Any event that is in the log can be read by all.
    assert!(engine.verify().await.unwrap().events.fault.is_none());
    (answers, log, documents.into())
}

#[tokio::test]
async fn random_values_are_rejected_or_lead_to_the_same_everywhere() {
    let (mut accepted, mut rejected, mut depended) = (0, 0, 0);
    for seed in 1..=120 {
        let mut random = Random(seed);
        let commands: Vec<Vec<Hostile>> =
            (0..6).map(|_| (0..=random.next(3)).map(|_| random.hostile()).collect()).collect();
        let mut one = run(&commands, false).await;
        let mut many = run(&commands, true).await;
        // The negative control: without the stored form between events, batches show.
        depended += usize::from(one.2.remove("in memory") != many.2.remove("in memory"));
        assert_eq!(one, many, "seed {seed}");
        let mut documents: Vec<_> = one.2.into_values().collect();
        documents.dedup();
        assert_eq!(documents.len(), 1, "seed {seed}: {documents:?}");
        accepted += one.0.iter().filter(|answer| answer.is_ok()).count();
        rejected += one.0.iter().filter(|answer| answer.is_err()).count();
    }
    assert!(accepted > 200 && rejected > 50, "{accepted} accepted, {rejected} rejected");
    assert!(depended > 20, "the check finds what depends on batches: {depended}");
}
