//! What `macro_rules!` captures, in each place where a user writes a type, and types in parentheses.
//!
//! A row of the table is a fragment; each becomes a module with one domain in it.

use cqrs::prelude::*;

/// Stands in front of what is captured as a path.
type Id = u64;

/// A service.
trait Mailer: Service {}

/// Another.
struct Rates;
impl Service for Rates {}

macro_rules! table {
    ($d:tt $($module:ident: $fragment:ident $names:tt;)*) => {$(
        mod $module {
            use std::fmt::Error;

            use cqrs::Version;
            use cqrs::codec::Json;
            use cqrs::prelude::*;

            use super::{Id, Mailer, Rates};

            macro_rules! domain {
                (
                    $d id:$fragment, $d error:$fragment, $d this:$fragment, $d view:$fragment,
                    $d open:$fragment, $d put:$fragment, $d fill:$fragment, $d opened:$fragment, $d put_in:$fragment,
                    $d old:$fragment, $d codec:$fragment, $d version:$fragment, $d text:$fragment,
                    $d context:$fragment, $d rates:$fragment, $d meta:$fragment,
                    [$d stored:literal $d was:literal $d put_name:literal $d category:literal $d views:literal]
                ) => {
                    #[derive(Event, Serialize, Deserialize)]
                    #[event(name = $d stored)]
                    struct OpenedV1;

                    #[derive(Event, Serialize, Deserialize)]
                    #[event(name = $d was)]
                    struct Begun;

                    #[derive(Event, Serialize, Deserialize)]
                    #[event(name = $d stored, version = 2, from = $d old, replaces(Begun), codec = $d codec)]
                    struct Opened {
                        #[tag]
                        by: $d id,
                    }

                    impl From<OpenedV1> for Opened {
                        fn from(_: OpenedV1) -> Self {
                            Self { by: 0 }
                        }
                    }

                    impl From<Begun> for Vec<Opened> {
                        fn from(_: Begun) -> Self {
                            Self::new()
                        }
                    }

                    #[derive(Event, Serialize, Deserialize)]
                    #[event(name = $d put_name)]
                    struct PutIn;

                    #[derive(Command)]
                    enum Open {
                        ById {
                            #[id]
                            id: $d id,
                            #[expected_version]
                            version: $d version,
                        },
                        Plainly(#[id] Id, #[idempotency_key] $d text),
                    }

                    #[derive(Command)]
                    struct Put(#[id] $d id);

                    #[derive(Command)]
                    struct Fill<T, const N: usize> {
                        #[id]
                        id: (u64),
                        with: [T; N],
                    }

                    struct Box;

                    #[aggregate(id = $d id, error = $d error, name = $d category, events = Facts)]
                    impl $d this {
                        #[handle]
                        fn open(_: $d open, _: &$d context, _: &$d rates, _: &dyn Mailer) -> Result<$d opened, $d error> {
                            Ok(Opened { by: 7 })
                        }
                        #[handle]
                        fn put(this: Option<&$d this>, _: &$d put) -> Option<$d put_in> {
                            this.map(|_| PutIn)
                        }
                        #[handle]
                        fn fill(&self, fill: Fill<$d fill, 2>) -> ($d put_in, Vec<$d put_in>) {
                            assert_eq!(fill.with.len(), 2);
                            (PutIn, Vec::new())
                        }
                        #[apply]
                        fn opened(_: &$d opened) -> $d this {
                            Box
                        }
                        #[apply]
                        fn put_in(old: Option<$d this>, _: &$d put_in) -> $d this {
                            old.unwrap_or(Box)
                        }
                    }

                    #[derive(Serialize, Deserialize, Default)]
                    struct View(u64);

                    #[projection(name = $d views, key = $d id)]
                    impl $d view {
                        #[on(key = event.by)]
                        fn opened(event: &$d opened, _: &$d meta) -> $d view {
                            View(event.by)
                        }
                        #[on]
                        fn put_in(old: Option<&$d view>, _: &$d put_in) -> Option<$d view> {
                            old.map(|old| View(old.0 + 1))
                        }
                    }
                };
            }
            domain!(
                Id, Error, Box, View, Open, Put, u8, Opened, PutIn, OpenedV1, Json, Version, String, Context, Rates,
                EventMeta, $names
            );
        }
    )*};
}

table! { $
    types: ty ["ty-opened" "ty-begun" "ty-put-in" "ty-boxes" "ty-views"];
    paths: path ["path-opened" "path-begun" "path-put-in" "path-boxes" "path-views"];
    idents: ident ["ident-opened" "ident-begun" "ident-put-in" "ident-boxes" "ident-views"];
    token_trees: tt ["tt-opened" "tt-begun" "tt-put-in" "tt-boxes" "tt-views"];
}

/// Whole types and more, captured.
mod whole {
    use cqrs::prelude::*;

    use super::{Mailer, Rates};

    macro_rules! domain {
        (
            $item:item; $command:ty, $returns:ty, $unit:ty, $event:ty, $maybe:ty, $service:ty, $context:ty;
            $every:expr, $version:expr, $rule:expr, $mode:path, $name:expr, $key:expr;
            $handle:meta, $apply:meta; $body:block; $pattern:pat
        ) => {
            #[derive(Command)]
            $item

            #[derive(Event, Serialize, Deserialize)]
            #[event(name = $name)]
            struct Done;

            #[derive(Default, Serialize, Deserialize)]
            struct Thing;

            #[aggregate(id = u64, name = "whole-thing", snapshot = every($every, version = $version))]
            impl Thing {
                #[$handle]
                fn act(_: $maybe, $pattern: $command, _: $service, _: $context) -> $returns $body
                #[$apply]
                fn done(&mut self, _: $event) -> $unit {}
            }

            #[derive(Default, Serialize, Deserialize)]
            struct Other;

            #[aggregate(id = u64, name = "whole-other", snapshot = $rule)]
            impl Other {}

            #[derive(Default, Serialize, Deserialize)]
            struct View;

            #[projection(name = "whole-views", key = u64, mode = $mode)]
            impl View {
                #[on(key = $key)]
                fn done(&mut self, _: &Done) {}
            }
        };
    }
    domain! {
        struct Act { #[id] id: u64 };
        &Act, Option<[Done; 2]>, (), &Done, Option<&Self>, &Rates, &Context;
        500, 2, every(100), live, "whole-done", 7;
        handle, apply; { None }; Act { .. }
    }

    #[derive(Command)]
    struct Wait {
        #[id]
        id: (u64),
    }

    #[derive(Event, Serialize, Deserialize)]
    #[event(name = "whole-waited")]
    struct Waited {
        #[tag]
        by: (Option<(u64)>),
    }

    struct Room;

    #[aggregate(id = (u64), error = (std::fmt::Error), name = "whole-room")]
    impl (Room) {
        #[handle]
        fn wait(
            old: (Option<(&(Self))>),
            wait: (Wait),
            _: (&(Context)),
            _: &(dyn Mailer),
        ) -> (Result<(Waited), (std::fmt::Error)>) {
            Ok(Waited { by: old.map(|_| wait.id) })
        }
        #[apply]
        fn waited(_: (Option<(Self)>), _: (&(Waited))) -> (Self) {
            Room
        }
    }
}
