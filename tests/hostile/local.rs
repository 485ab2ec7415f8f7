//! Inside a function, and with types that nobody else sees.

use cqrs::prelude::*;

#[test]
fn inside_a_function() {
    #[derive(Event, Serialize, Deserialize)]
    #[event(name = "local-done")]
    struct Done;

    #[derive(Command)]
    struct Do<T> {
        #[id]
        id: u64,
        what: T,
    }

    #[derive(Default)]
    struct Thing;

    #[aggregate(id = u64, name = "local-thing")]
    impl Thing {
        #[handle]
        fn word(&self, word: Do<String>) -> Option<Done> {
            (word.what.len() == 4).then_some(Done)
        }
        #[handle]
        fn number(&self, number: &Do<u8>) -> [Done; 2] {
            assert_eq!(number.what, 4);
            [Done, Done]
        }
        #[apply]
        fn apply(&mut self, _: &Done) {}
    }

    #[derive(Default, Serialize, Deserialize)]
    struct View;

    #[projection(name = "local-views", key = u64)]
    impl View {
        #[on]
        fn on(&mut self, _: &Done) {}
    }

    let _: ThingEvent = Done.into();
    let _ = (Do { id: 1, what: "four".to_owned() }, Do { id: 1, what: 4_u8 });
    let _ = <View as cqrs::Projection>::initial();
}
