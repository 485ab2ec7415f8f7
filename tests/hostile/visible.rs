//! A public aggregate over types that are less so, documented throughout.

use cqrs::prelude::*;

#[derive(Event, Serialize, Deserialize)]
#[event(name = "visible-done")]
struct Done;

/// Documented.
#[derive(Command, Debug)]
pub struct Do {
    /// Documented.
    #[id]
    pub id: u64,
}

/// Documented.
#[derive(Default, Debug)]
pub struct Visible;

#[aggregate(id = u64)]
impl Visible {
    #[handle]
    fn done(&self, _: Do) -> Done {
        Done
    }
    #[apply]
    fn apply(&mut self, _: &Done) {}
}

/// Documented.
#[derive(Default, Serialize, Deserialize, Debug)]
pub struct View;

#[projection(name = "visible-views", key = u64)]
impl View {
    #[on]
    fn on(&mut self, _: &Done) {}
}
