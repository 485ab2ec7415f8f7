//! Raw identifiers everywhere.

use cqrs::prelude::*;
use cqrs::{Command as _, Event as _};

#[derive(Event, Serialize, Deserialize)]
#[allow(non_camel_case_types, reason = "a keyword is the point")]
struct r#type {
    #[tag]
    r#match: u64,
}

#[derive(Command)]
#[allow(non_camel_case_types, reason = "a keyword is the point")]
enum r#do {
    r#async {
        #[id]
        r#fn: u64,
    },
    r#await(#[id] u64),
}

#[allow(non_camel_case_types, reason = "a keyword is the point")]
struct r#struct {
    r#match: u64,
}

#[aggregate(id = u64)]
impl r#struct {
    #[handle]
    fn r#do(r#in: r#do) -> r#type {
        let r#match = match r#in {
            r#do::r#async { r#fn } => r#fn,
            r#do::r#await(id) => id,
        };
        r#type { r#match }
    }
    #[apply]
    fn r#type(r#type: &r#type) -> Self {
        Self { r#match: r#type.r#match }
    }
}

#[derive(Serialize, Deserialize)]
#[allow(non_camel_case_types, reason = "a keyword is the point")]
struct r#dyn {
    r#match: u64,
}

#[projection(name = "raw", key = u64)]
impl r#dyn {
    #[on(key = r#type.r#match)]
    fn r#type(r#type: &r#type) -> Self {
        Self { r#match: r#type.r#match }
    }
}

#[test]
fn names_have_no_prefix() {
    assert_eq!((r#type::NAME, r#do::NAME), ("type", "do"));
    assert_eq!(<r#struct as cqrs::Aggregate>::NAME, "struct");
    let mut tags = cqrs::event::Tags::default();
    let event = r#type { r#match: 7 };
    event.tags(&mut tags);
    assert!(tags.contains(&cqrs::Tag::from("match:7")));
    let mut state = None;
    assert!(cqrs::Aggregate::apply(&mut state, &structEvent::from(event)).is_ok());
    assert_eq!(state.map(|state: r#struct| state.r#match), Some(7));
    assert_eq!(r#do::r#await(7).duplicate().id(), r#do::r#async { r#fn: 7 }.id());
}
