//! What must hold after whatever has happened.

use std::collections::{BTreeSet, HashMap};

use cqrs::engine::{Stores, Verification};
use cqrs::store::{LogRead, Query};
use cqrs::{Partition, Position};
use serde_json::Value;

use crate::domain::{Account, Answer, Request, Total, quiet};

/// What somebody has heard.
#[derive(Clone, Debug, Default)]
pub struct Told {
    pub accepted: BTreeSet<Request>,
    pub refused: BTreeSet<Request>,
    /// Sent, and not answered before the end.
    pub open: BTreeSet<Request>,
}

impl Told {
    pub fn sent(&mut self, request: Request) {
        self.open.insert(request);
    }

    pub fn answered(&mut self, request: Request, answer: Answer) {
        self.open.remove(&request);
        match answer {
            Answer::Accepted => self.accepted.insert(request),
            Answer::Refused => self.refused.insert(request),
        };
    }
}

/// Every acknowledged request is in the log, once, and no refused one is; versions have neither gaps nor
/// repeats; every read model is what a fresh fold makes of the log, as it was found and when it has
/// caught up; and so is every aggregate. Gives the number of events, or what does not hold.
pub async fn check(stores: &Stores, told: &Told) -> Result<usize, String> {
    let mut expected = Total::default();
    let (mut versions, mut balances, mut seen) = (HashMap::new(), HashMap::new(), BTreeSet::new());
    let events = log(stores).await?;
    for (stream, version, payload) in &events {
        let last: &mut u64 = versions.entry(stream.clone()).or_default();
        *last += 1;
        if *last != *version {
            return Err(format!("{stream} has version {version} in the place of {last}"));
        }
        let Some(request) = payload["request"].as_str() else {
            expected.accounts += 1;
            continue;
        };
        let request: Request = request.parse().map_err(|()| format!("{request} is none of ours"))?;
        let cents = payload["cents"].as_i64().unwrap_or_default();
        let cents = if request.number % 6 == 3 { -cents } else { cents };
        *balances.entry(request.account).or_insert(0) += cents;
        expected.balance += cents;
        expected.postings += 1;
        if !seen.insert(request.clone()) {
            return Err(format!("{request} took place twice"));
        }
    }
    // Opening an account is a request without a number in its event.
    let numbered = |requests: &BTreeSet<Request>| {
        requests.iter().filter(|request| request.number > 0).cloned().collect::<Vec<_>>()
    };
    if let Some(lost) = numbered(&told.accepted).iter().find(|request| !seen.contains(request)) {
        return Err(format!("{lost} was acknowledged and is lost"));
    }
    if let Some(ghost) = numbered(&told.refused).iter().find(|request| seen.contains(request)) {
        return Err(format!("{ghost} was refused and is in the log"));
    }

    let bank = quiet(stores.clone()).await;
    let found = sound(&bank, "as they were found").await?;
    let inline = found.projections.iter().find(|projection| projection.name == "posted");
    let up_to = inline.and_then(|inline| inline.up_to.get(&Partition::ONLY)).copied();
    if up_to.unwrap_or_default().get() != events.len() as u64 {
        return Err(format!("the inline projection is at {up_to:?} of {} events", events.len()));
    }
    bank.catch_up().await.map_err(|error| format!("{error}: {:?}", std::error::Error::source(&error)))?;
    sound(&bank, "caught up").await?;
    let total = bank.get::<Total>(&"bank".to_owned()).await.map_err(|error| error.to_string())?;
    if total.unwrap_or_default() != expected {
        return Err(format!("the total is not {expected:?}"));
    }
    for (account, balance) in balances {
        // From its snapshot, if there is one.
        let loaded = bank.load::<Account>(&account).await.map_err(|error| error.to_string())?;
        if loaded.state.is_none_or(|state| state.balance.cast_signed() != balance) {
            return Err(format!("account {account} has not the balance {balance}"));
        }
    }
    Ok(events.len())
}

async fn sound(bank: &cqrs::Engine, when: &str) -> Result<Verification, String> {
    let found = bank.verify().await.map_err(|error| error.to_string())?;
    if found.is_sound() { Ok(found) } else { Err(format!("read models, {when}: {found}")) }
}

async fn log(stores: &Stores) -> Result<Vec<(String, u64, Value)>, String> {
    let (mut all, mut after) = (Vec::new(), Position::START);
    loop {
        let (partition, query) = (Partition::ONLY, Query::all());
        let read = LogRead { partition, after, up_to: None, query, limit: 1_000 };
        let slice = stores.log.read_log(read).await.map_err(|error| error.to_string())?;
        for event in &slice.events {
            let payload = serde_json::from_slice(&event.payload).map_err(|error| error.to_string())?;
            all.push((event.meta.stream.to_string(), event.meta.version.get(), payload));
        }
        after = slice.read_to;
        if after >= slice.head.position {
            return Ok(all);
        }
    }
}
