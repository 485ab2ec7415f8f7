//! The crate under another path; `::cqrs` is not named in here.

mod our {
    pub(super) mod own {
        pub(in super::super) use ::cqrs as framework;
    }
}

use our::own::framework as fw;
use serde::{Deserialize, Serialize};

#[derive(fw::Event, Serialize, Deserialize)]
#[event(name = "renamed-done", crate = our::own::framework)]
struct Done;

#[derive(fw::Command)]
#[command(crate = our::own::framework)]
struct Do {
    #[id]
    id: u64,
}

#[derive(Default)]
struct Thing;

#[fw::aggregate(id = u64, crate = our::own::framework)]
impl Thing {
    #[handle]
    fn done(&self, _: Do) -> Done {
        Done
    }
    #[apply]
    fn apply(&mut self, _: &Done) {}
}

#[derive(Default, Serialize, Deserialize)]
struct View;

#[fw::projection(name = "renamed-views", key = u64, crate = our::own::framework)]
impl View {
    #[on]
    fn on(&mut self, _: &Done) {}
}
