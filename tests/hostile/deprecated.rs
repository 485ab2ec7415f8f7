//! What is old may still be named by generated code.

use cqrs::prelude::*;

#[deprecated]
#[derive(Event, Serialize, Deserialize)]
#[event(name = "deprecated-done")]
pub(crate) struct Done;

#[derive(Command)]
#[command(name = "deprecated-do")]
pub(crate) struct Do {
    #[id]
    pub(crate) id: u64,
    #[deprecated]
    pub(crate) note: String,
}

#[derive(Default)]
pub(crate) struct Thing;

#[allow(deprecated, reason = "the user's own mention")]
mod uses {
    use super::{Do, Done, Thing};
    use cqrs::prelude::*;

    #[aggregate(id = u64)]
    impl Thing {
        #[deprecated]
        #[handle]
        fn done(&self, _: Do) -> Done {
            Done
        }
        #[deprecated]
        #[apply]
        fn apply(&mut self, _: &Done) {}
    }
}
