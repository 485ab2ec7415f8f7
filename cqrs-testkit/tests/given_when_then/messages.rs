//! What is said when a scenario of an aggregate does not hold.

use std::sync::Arc;
use std::time::Duration;

use cqrs::{Metadata, Version};
use cqrs_testkit::prelude::*;
use expect_test::expect;

use crate::bank::{Account, AccountError, Deposit, Deposited, FeeCharged, Open, Opened, Withdraw, Withdrawn};
use crate::shop::{
    Line, Mail, Mailed, Note, Order, OrderError, Ordered, Place, Price, Rates, Sealed, Wait, Waiting, What,
    ordered,
};
use crate::support::check;

fn ada() -> Opened {
    Opened { owner: "Ada".into() }
}

fn rich() -> (Opened, Deposited) {
    (ada(), Deposited { cents: 5000 })
}

fn take(cents: u64) -> Withdraw {
    Withdraw { account: 7, cents }
}

fn place(articles: &[&'static str]) -> Place {
    Place { order: "o".into(), articles: articles.to_vec() }
}

fn note(what: What) -> Note {
    Note { order: "o".into(), what }
}

#[test]
fn one_field_differs() {
    check(
        || Account::given(rich()).when(take(6)).then(Withdrawn { cents: 5 }),
        &expect![[r#"
        `Withdraw` did not lead to the expected events

          given  Opened { owner: "Ada" }
                 Deposited { cents: 5000 }
          when   Withdraw for Account/7

            expected      actual
            1. Withdrawn  1. Withdrawn
          ≠    cents: 5      cents: 6

        cause: `Withdrawn` differs only in field `cents`: expected 5, actual 6
    "#]],
    );
}

#[test]
fn one_field_of_one_of_several_events_differs() {
    check(
        || Account::given(rich()).when(take(1000)).then((Withdrawn { cents: 1000 }, FeeCharged { cents: 2 })),
        &expect![[r#"
            `Withdraw` did not lead to the expected events

              given  Opened { owner: "Ada" }
                     Deposited { cents: 5000 }
              when   Withdraw for Account/7

                expected        actual
                1. Withdrawn    1. Withdrawn
                   cents: 1000     cents: 1000
                2. FeeCharged   2. FeeCharged
              ≠    cents: 2        cents: 1

            cause: event 2, `FeeCharged`, differs only in field `cents`: expected 2, actual 1
        "#]],
    );
}

#[test]
fn several_fields_differ() {
    check(
        || {
            let line = |article: &str| Line { article: article.into(), cents: 5 };
            Order::given(()).ignoring(["at", "nmber"]).when(place(&["cup", "pot"])).then(Ordered {
                customer: "bob".into(),
                lines: vec![line("cup"), line("pan"), line("jug")],
                at: 1,
                number: nth_id(1).to_string(),
            })
        },
        &expect![[r#"
            `Place` did not lead to the expected events

              given  nothing
              when   Place for Order/o

                expected                                           actual
                1. Ordered                                         1. Ordered
              ~    at: 1                                              at: 1577836800000000
              ≠    customer: "bob"                                    customer: ""
                   lines[0].article: "cup"                            lines[0].article: "cup"
                   lines[0].cents: 5                                  lines[0].cents: 5
              ≠    lines[1].article: "pan"                            lines[1].article: "pot"
                   lines[1].cents: 5                                  lines[1].cents: 5
              -    lines[2].article: "jug"
              -    lines[2].cents: 5
                   number: "00000000-0000-7000-8000-000000000001"     number: "00000000-0000-7000-8000-000000000001"

            cause: `Ordered` differs in the fields `customer`, `lines[1].article`, `lines[2].article` and `lines[2].cents`
            note: `.ignoring(["nmber"])` matches no field here
        "#]],
    );
}

#[test]
fn the_same_events_in_another_order() {
    check(
        || Account::given(rich()).when(take(1000)).then((FeeCharged { cents: 1 }, Withdrawn { cents: 1000 })),
        &expect![[r#"
            `Withdraw` did not lead to the expected events

              given  Opened { owner: "Ada" }
                     Deposited { cents: 5000 }
              when   Withdraw for Account/7

                expected        actual
              - 1. FeeCharged
              -    cents: 1
                2. Withdrawn    1. Withdrawn
                   cents: 1000     cents: 1000
              +                 2. FeeCharged
              +                    cents: 1

            cause: these are the same events in another order
        "#]],
    );
}

#[test]
fn fewer_events_than_expected() {
    check(
        || {
            Account::given(rich()).when(take(1000)).then((
                Withdrawn { cents: 1000 },
                FeeCharged { cents: 1 },
                Deposited { cents: 1 },
            ))
        },
        &expect![[r#"
            `Withdraw` did not lead to the expected events

              given  Opened { owner: "Ada" }
                     Deposited { cents: 5000 }
              when   Withdraw for Account/7

                expected        actual
                1. Withdrawn    1. Withdrawn
                   cents: 1000     cents: 1000
                2. FeeCharged   2. FeeCharged
                   cents: 1        cents: 1
              - 3. Deposited
              -    cents: 1

            cause: you compared 3 events, the handler returned 2: the first two match; not returned: `Deposited`
        "#]],
    );
}

#[test]
fn more_events_than_expected() {
    check(
        || Account::given(rich()).when(take(1000)).then(Withdrawn { cents: 1000 }),
        &expect![[r#"
        `Withdraw` did not lead to the expected events

          given  Opened { owner: "Ada" }
                 Deposited { cents: 5000 }
          when   Withdraw for Account/7

            expected        actual
            1. Withdrawn    1. Withdrawn
               cents: 1000     cents: 1000
          +                 2. FeeCharged
          +                    cents: 1

        cause: you compared 1 event, the handler returned 2: the first one matches; not expected: `FeeCharged`
    "#]],
    );
}

#[test]
fn another_event_than_expected() {
    check(
        || Account::given(rich()).when(take(5)).then(Deposited { cents: 5 }),
        &expect![[r#"
        `Withdraw` did not lead to the expected events

          given  Opened { owner: "Ada" }
                 Deposited { cents: 5000 }
          when   Withdraw for Account/7

            expected      actual
          ≠ 1. Deposited  1. Withdrawn
          ≠    cents: 5      cents: 5

        cause: the first event differs: expected `Deposited`, actual `Withdrawn`
    "#]],
    );
}

#[test]
fn an_event_is_missing_in_the_middle() {
    check(
        || {
            Account::given(rich()).when(take(1000)).then((
                Withdrawn { cents: 1000 },
                Deposited { cents: 5 },
                FeeCharged { cents: 1 },
            ))
        },
        &expect![[r#"
            `Withdraw` did not lead to the expected events

              given  Opened { owner: "Ada" }
                     Deposited { cents: 5000 }
              when   Withdraw for Account/7

                expected        actual
                1. Withdrawn    1. Withdrawn
                   cents: 1000     cents: 1000
              - 2. Deposited
              -    cents: 5
                3. FeeCharged   2. FeeCharged
                   cents: 1        cents: 1

            cause: the handler did not return `Deposited`
        "#]],
    );
}

#[test]
fn an_event_too_many_at_the_start() {
    check(
        || Account::given(rich()).when(take(1000)).then(FeeCharged { cents: 1 }),
        &expect![[r#"
        `Withdraw` did not lead to the expected events

          given  Opened { owner: "Ada" }
                 Deposited { cents: 5000 }
          when   Withdraw for Account/7

            expected       actual
          +                1. Withdrawn
          +                   cents: 1000
            1. FeeCharged  2. FeeCharged
               cents: 1       cents: 1

        cause: the handler also returned `Withdrawn`, which is not expected
    "#]],
    );
}

#[test]
fn the_first_matches_and_the_second_is_another() {
    check(
        || {
            Account::given(rich()).when(take(1000)).then((
                Withdrawn { cents: 1000 },
                Deposited { cents: 5 },
                Deposited { cents: 6 },
            ))
        },
        &expect![[r#"
            `Withdraw` did not lead to the expected events

              given  Opened { owner: "Ada" }
                     Deposited { cents: 5000 }
              when   Withdraw for Account/7

                expected        actual
                1. Withdrawn    1. Withdrawn
                   cents: 1000     cents: 1000
              ≠ 2. Deposited    2. FeeCharged
              ≠    cents: 5        cents: 1
              - 3. Deposited
              -    cents: 6

            cause: the first event matches, the second differs: expected `Deposited`, actual `FeeCharged`
        "#]],
    );
}

#[test]
fn no_event_was_returned() {
    check(
        || Account::given(ada()).when(Deposit { account: 7, cents: 0 }).then(Deposited { cents: 0 }),
        &expect![[r#"
            `Deposit` did not lead to the expected events

              given  Opened { owner: "Ada" }
              when   Deposit for Account/7

                expected      actual
              ≠ 1. Deposited  (no event)
              ≠    cents: 0

            cause: the handler accepted the command and returned no event; an event happens only if the handler returns it
        "#]],
    );
}

#[test]
fn something_happened_instead_of_nothing() {
    check(
        || Account::given(ada()).when(Deposit { account: 7, cents: 5 }).then_nothing(),
        &expect![[r#"
            `Deposit` did not lead to the expected events

              given  Opened { owner: "Ada" }
              when   Deposit for Account/7

                expected    actual
              ≠ (no event)  1. Deposited
              ≠                cents: 5

            cause: you expected no event, the handler returned 1; not expected: `Deposited`
        "#]],
    );
}

#[test]
fn refused_instead_of_accepted() {
    check(
        || Account::given(ada()).when(take(5)).then(Withdrawn { cents: 5 }),
        &expect![[r#"
            `Withdraw` did not lead to the expected events

              given  Opened { owner: "Ada" }
              when   Withdraw for Account/7

                expected      actual
              ≠ 1. Withdrawn  (refused)
              ≠    cents: 5   Overdraft { balance: 0 }

            cause: the handler refused with `Overdraft { balance: 0 }` (there are only 0 cents)
        "#]],
    );
    check(
        || Account::given(ada()).when(take(5)).then_accepted(),
        &expect![[r#"
            `Withdraw` was not accepted

              given  Opened { owner: "Ada" }
              when   Withdraw for Account/7

                expected    actual
              ≠ (accepted)  (refused)
              ≠             Overdraft { balance: 0 }

            cause: the handler refused with `Overdraft { balance: 0 }` (there are only 0 cents)
        "#]],
    );
}

#[test]
fn it_does_not_exist() {
    check(
        || Account::given(()).when(Deposit { account: 7, cents: 5 }).then(Deposited { cents: 5 }),
        &expect![[r#"
            `Deposit` did not lead to the expected events

              given  nothing
              when   Deposit for Account/7

                expected      actual
              ≠ 1. Deposited  (refused: does not exist)
              ≠    cents: 5

            cause: Account/7 does not exist: the handler of `Deposit` takes `&self`; add the event that creates it with `given`
        "#]],
    );
}

#[test]
fn it_exists_already() {
    check(
        || Account::given(rich()).when(Open { account: 7, owner: "Ada".into() }).then(ada()),
        &expect![[r#"
        `Open` did not lead to the expected events

          given  Opened { owner: "Ada" }
                 Deposited { cents: 5000 }
          when   Open for Account/7

            expected         actual
          ≠ 1. Opened        (refused: exists already)
          ≠    owner: "Ada"

        cause: Account/7 already exists: the handler of `Open` has no `self` and so creates it, but 2 events came before
    "#]],
    );
}

#[test]
fn accepted_instead_of_refused() {
    check(
        || Account::given(rich()).when(take(5)).then_error(AccountError::Overdraft { balance: 0 }),
        &expect![[r#"
            `Withdraw` was not refused with the expected error

              given  Opened { owner: "Ada" }
                     Deposited { cents: 5000 }
              when   Withdraw for Account/7

                expected                  actual
              ≠ Overdraft { balance: 0 }  1. Withdrawn
              ≠                              cents: 5

            cause: expected an error, but the handler accepted the command and returned `Withdrawn`
        "#]],
    );
    check(
        || Account::given(ada()).when(Deposit { account: 7, cents: 0 }).then_error_text("nothing to do"),
        &expect![[r#"
            `Deposit` was not refused with the expected error

              given  Opened { owner: "Ada" }
              when   Deposit for Account/7

                expected       actual
              ≠ nothing to do  (no event)

            cause: expected an error, but the handler accepted the command and returned no event
        "#]],
    );
}

#[test]
fn another_error_than_expected() {
    check(
        || Account::given(ada()).when(take(5)).then_error(AccountError::Overdraft { balance: 5 }),
        &expect![[r#"
            `Withdraw` was refused with another error

              given  Opened { owner: "Ada" }
              when   Withdraw for Account/7

                expected                  actual
              ≠ Overdraft { balance: 5 }  Overdraft { balance: 0 }

            cause: the handler refused with `Overdraft { balance: 0 }` (there are only 0 cents)
        "#]],
    );
    check(
        || Account::given(ada()).when(take(5)).then_error(AccountError::NothingToDo),
        &expect![[r#"
            `Withdraw` was refused with another error

              given  Opened { owner: "Ada" }
              when   Withdraw for Account/7

                expected     actual
              ≠ NothingToDo  Overdraft { balance: 0 }

            cause: the handler refused with `Overdraft { balance: 0 }` (there are only 0 cents)
        "#]],
    );
    check(
        || Account::given(ada()).when(take(5)).then_error_text("there are only 5 cents"),
        &expect![[r#"
        `Withdraw` was refused with another text

          given  Opened { owner: "Ada" }
          when   Withdraw for Account/7

            expected                actual
          ≠ there are only 5 cents  there are only 0 cents

        cause: the handler refused with `Overdraft { balance: 0 }` (there are only 0 cents)
    "#]],
    );
    check(
        || {
            Order::given(())
                .when(place(&["a", "b", "c", "d"]))
                .then_error_matches(|error| matches!(error, OrderError::Empty))
        },
        &expect![[r#"
            `Place` did not pass the check of `then_error_matches`

              given  nothing
              when   Place for Order/o
                     → refused: `Rejected { reasons: ["too many", "no stock"], limit: 3 }` (the order is not good)

            cause: the closure returned `false`
            note: use `assert_eq!(…)` in the closure to see the values
        "#]],
    );
}

#[test]
fn refused_before_the_handler_ran() {
    check(
        || Account::given(()).when(take(5)).then_error(AccountError::Overdraft { balance: 0 }),
        &expect![[r#"
            `Withdraw` was not refused with the expected error

              given  nothing
              when   Withdraw for Account/7

                expected                  actual
              ≠ Overdraft { balance: 0 }  (refused: does not exist)

            cause: it was refused before its handler ran: Account/7 does not exist: the handler of `Withdraw` takes `&self`; add the event that creates it with `given`
        "#]],
    );
}

#[test]
fn it_should_be_missing() {
    check(
        || Account::given(ada()).when(Deposit { account: 7, cents: 5 }).then_missing(),
        &expect![[r#"
            `Deposit` was not refused as missing

              given  Opened { owner: "Ada" }
              when   Deposit for Account/7

                expected                   actual
              ≠ (refused: does not exist)  1. Deposited
              ≠                               cents: 5

            cause: Account/7 exists: 1 event came before
        "#]],
    );
    check(
        || Account::given(()).when(Open { account: 7, owner: "Ada".into() }).then_missing(),
        &expect![[r#"
            `Open` was not refused as missing

              given  nothing
              when   Open for Account/7

                expected                   actual
              ≠ (refused: does not exist)  1. Opened
              ≠                               owner: "Ada"

            cause: its handler does not take `&self`, so it does not require an existing aggregate
        "#]],
    );
    check(
        || Account::given(ada()).when(take(5)).then_missing(),
        &expect![[r#"
            `Withdraw` was not refused as missing

              given  Opened { owner: "Ada" }
              when   Withdraw for Account/7

                expected                   actual
              ≠ (refused: does not exist)  (refused)
              ≠                            Overdraft { balance: 0 }

            cause: the handler refused with `Overdraft { balance: 0 }` (there are only 0 cents)
        "#]],
    );
}

#[test]
fn it_should_exist_already() {
    check(
        || Account::given(()).when(Open { account: 7, owner: "Ada".into() }).then_exists(),
        &expect![[r#"
            `Open` was not refused as existing already

              given  nothing
              when   Open for Account/7

                expected                   actual
              ≠ (refused: exists already)  1. Opened
              ≠                               owner: "Ada"

            cause: no event came before, so nothing exists yet; add an event with `given`
        "#]],
    );
    check(
        || Account::given(rich()).when(take(5)).then_exists(),
        &expect![[r#"
            `Withdraw` was not refused as existing already

              given  Opened { owner: "Ada" }
                     Deposited { cents: 5000 }
              when   Withdraw for Account/7

                expected                   actual
              ≠ (refused: exists already)  1. Withdrawn
              ≠                               cents: 5

            cause: its handler takes `&self` or `Option<&Self>`; only a handler without `self` requires that nothing exists
        "#]],
    );
}

#[test]
fn another_version() {
    let price = |expected| Price { order: "o".into(), expected: Some(Version::new(expected)) };
    check(
        || Order::given(ordered(1)).service(Arc::new(Rates(5))).when(price(3)).then_nothing(),
        &expect![[r#"
        `Price` did not lead to the expected events

          given  Ordered { at: 1, customer: "ada", lines[0].article: "a0", lines[0].cents: 5, number: "n1" }
          when   Price for Order/o

            expected    actual
          ≠ (no event)  (conflict: another version)

        cause: `Price` expects version 3 of Order/o, which is at version 1; each given or returned event adds 1
    "#]],
    );
    check(
        || Order::given(ordered(1)).service(Arc::new(Rates(5))).when(price(1)).then_conflict(),
        &expect![[r#"
            `Price` was not refused as a conflict

              given  Ordered { at: 1, customer: "ada", lines[0].article: "a0", lines[0].cents: 5, number: "n1" }
              when   Price for Order/o

                expected                     actual
              ≠ (conflict: another version)  1. Paid v2
              ≠                                 cents: 5

            cause: the handler accepted the command and returned `Paid`
        "#]],
    );
}

#[test]
fn not_among_the_events() {
    check(
        || {
            Account::given(rich())
                .when(take(1000))
                .then_contains((FeeCharged { cents: 2 }, Deposited { cents: 1 }))
        },
        &expect![[r#"
            `Withdraw` did not lead to all of the expected events

              given  Opened { owner: "Ada" }
                     Deposited { cents: 5000 }
              when   Withdraw for Account/7

                expected       actual
                1. FeeCharged  2. FeeCharged
              ≠    cents: 2       cents: 1
              - 2. Deposited
              -    cents: 1
              ~                1. Withdrawn
              ~                   cents: 1000

            cause: not among the returned events: `FeeCharged` and `Deposited`
        "#]],
    );
}

#[test]
fn not_in_this_sequence() {
    check(
        || {
            Account::given(rich())
                .when(take(1000))
                .then_sequence((FeeCharged { cents: 1 }, Withdrawn { cents: 1000 }))
        },
        &expect![[r#"
            `Withdraw` did not lead to the expected sequence of events

              given  Opened { owner: "Ada" }
                     Deposited { cents: 5000 }
              when   Withdraw for Account/7

                expected        actual
              - 1. FeeCharged
              -    cents: 1
                2. Withdrawn    1. Withdrawn
                   cents: 1000     cents: 1000
              ~                 2. FeeCharged
              ~                    cents: 1

            cause: `Withdrawn` was returned, but not after `FeeCharged`
        "#]],
    );
    check(
        || Account::given(rich()).when(take(1000)).then_sequence(Deposited { cents: 1 }),
        &expect![[r#"
        `Withdraw` did not lead to the expected sequence of events

          given  Opened { owner: "Ada" }
                 Deposited { cents: 5000 }
          when   Withdraw for Account/7

            expected      actual
          - 1. Deposited
          -    cents: 1
          ~               1. Withdrawn
          ~                  cents: 1000
          ~               2. FeeCharged
          ~                  cents: 1

        cause: `Deposited` is not among the returned events
    "#]],
    );
    check(
        || {
            Account::given(rich())
                .when(take(5))
                .then_sequence([Withdrawn { cents: 5 }, Withdrawn { cents: 5 }])
        },
        &expect![[r#"
            `Withdraw` did not lead to the expected sequence of events

              given  Opened { owner: "Ada" }
                     Deposited { cents: 5000 }
              when   Withdraw for Account/7

                expected      actual
                1. Withdrawn  1. Withdrawn
                   cents: 5      cents: 5
              - 2. Withdrawn
              -    cents: 5

            cause: `Withdrawn` was returned less often
        "#]],
    );
}

#[test]
fn another_start() {
    check(
        || Account::given(rich()).when(take(1000)).then_starts_with(Withdrawn { cents: 999 }),
        &expect![[r#"
        `Withdraw` did not begin with the expected events

          given  Opened { owner: "Ada" }
                 Deposited { cents: 5000 }
          when   Withdraw for Account/7

            expected       actual
            1. Withdrawn   1. Withdrawn
          ≠    cents: 999     cents: 1000
          ~                2. FeeCharged
          ~                   cents: 1

        cause: `Withdrawn` differs only in field `cents`: expected 999, actual 1000
    "#]],
    );
}

#[test]
fn a_closure_says_no() {
    check(
        || Account::given(rich()).when(take(1000)).then_matches(<[_]>::is_empty),
        &expect![[r#"
        `Withdraw` did not pass the check of `then_matches`

          given  Opened { owner: "Ada" }
                 Deposited { cents: 5000 }
          when   Withdraw for Account/7
                 → Withdrawn { cents: 1000 }
                 → FeeCharged { cents: 1 }

        cause: the closure returned `false`
        note: use `assert_eq!(…)` in the closure to see the values
    "#]],
    );
    check(
        || Account::given(ada()).when(take(5)).then_matches(<[_]>::is_empty),
        &expect![[r#"
            `Withdraw` did not lead to events

              given  Opened { owner: "Ada" }
              when   Withdraw for Account/7

                expected             actual
              ≠ (events that match)  (refused)
              ≠                      Overdraft { balance: 0 }

            cause: the handler refused with `Overdraft { balance: 0 }` (there are only 0 cents)
        "#]],
    );
    check(
        || Account::given(rich()).then_state(|account| account.balance == 0),
        &expect![[r#"
        the state of the Account is not as expected

          given  Opened { owner: "Ada" }
                 Deposited { cents: 5000 }

        cause: the closure of `then_state` returned `false`
        note: use `assert_eq!(…)` in the closure to see the values
    "#]],
    );
    check(
        || Account::given(rich()).when(take(5)).then_recorded(|events| events[0].tags.len() == 1),
        &expect![[r#"
            `Withdraw` did not pass the check of `then_recorded`

              given  Opened { owner: "Ada" }
                     Deposited { cents: 5000 }
              when   Withdraw for Account/7
                     → Withdrawn { cents: 5 }

            cause: the closure returned `false`
            note: use `assert_eq!(…)` in the closure to see the values
        "#]],
    );
}

#[test]
fn there_is_no_state() {
    check(
        || Account::given(()).then_state(|account| account.balance == 0),
        &expect![[r#"
        the Account has no state

          given  nothing

        cause: no event has created it
    "#]],
    );
    check(
        || Account::given(()).when(take(5)).then_missing().then_state(|account| account.balance == 0),
        &expect![[r#"
            Account/7 has no state

              given  nothing
              when   Withdraw for Account/7
                     → refused: does not exist

            cause: no event has created it
        "#]],
    );
}

#[test]
fn other_metadata() {
    check(
        || {
            Account::given(rich())
                .with_metadata(Metadata::new().actor("ada").entry("from", "web"))
                .when(take(5))
                .then_metadata(Metadata::new().actor("bob").entry("from", "web"))
        },
        &expect![[r#"
            `Withdraw` produced events with other metadata

              given  Opened { owner: "Ada" }
                     Deposited { cents: 5000 }
              when   Withdraw for Account/7
                     → Withdrawn { cents: 5 }

                expected             actual
              ≠ actor: "bob"         actor: "ada"
                causation: null      causation: null
                correlation: null    correlation: null
                entries.from: "web"  entries.from: "web"

            cause: events carry the metadata that `.with_metadata(…)` sets before `.when(…)`
        "#]],
    );
    check(
        || {
            Account::given(ada())
                .when(Deposit { account: 7, cents: 0 })
                .then_metadata(Metadata::new().actor("bob"))
        },
        &expect![[r#"
            `Deposit` produced no event that could carry metadata

              given  Opened { owner: "Ada" }
              when   Deposit for Account/7
                     → no event
        "#]],
    );
}

#[test]
fn the_story_tells_every_step() {
    check(
        || {
            Account::given_command(Open { account: 7, owner: "Ada".into() })
                .and_given([Deposited { cents: 5 }])
                .when(take(6))
                .when(take(2))
                .and_given(Deposited { cents: 1 })
                .when(take(4))
                .then(Withdrawn { cents: 5 })
        },
        &expect![[r#"
            `Withdraw` did not lead to the expected events

              given  Opened { owner: "Ada" } (from `Open`)
                     Deposited { cents: 5 }
              when   Withdraw for Account/7
                     → refused: `Overdraft { balance: 5 }` (there are only 5 cents)
              when   Withdraw for Account/7
                     → Withdrawn { cents: 2 }
              given  Deposited { cents: 1 }
              when   Withdraw for Account/7

                expected      actual
                1. Withdrawn  1. Withdrawn
              ≠    cents: 5      cents: 4

            cause: `Withdrawn` differs only in field `cents`: expected 5, actual 4
        "#]],
    );
}

#[test]
fn a_long_story_is_shortened() {
    check(
        || {
            Account::given((ada(), (1..=20).map(|cents| Deposited { cents }).collect::<Vec<_>>()))
                .when(take(1))
                .then_nothing()
        },
        &expect![[r#"
            `Withdraw` did not lead to the expected events

              given  Opened { owner: "Ada" }
                     Deposited { cents: 1 }
                     Deposited { cents: 2 }
                     Deposited { cents: 3 }
                     Deposited { cents: 4 }
                     Deposited { cents: 5 }
                     … 9 more …
                     Deposited { cents: 15 }
                     Deposited { cents: 16 }
                     Deposited { cents: 17 }
                     Deposited { cents: 18 }
                     Deposited { cents: 19 }
                     Deposited { cents: 20 }
              when   Withdraw for Account/7

                expected    actual
              ≠ (no event)  1. Withdrawn
              ≠                cents: 1

            cause: you expected no event, the handler returned 1; not expected: `Withdrawn`
        "#]],
    );
}

#[test]
fn long_values_are_cut_where_they_differ() {
    let owner = |end: &str| format!("{}{end}{}", "Ada ".repeat(40), "Lovelace ".repeat(40));
    check(
        || {
            Account::given(())
                .when(Open { account: 7, owner: owner("Maria") })
                .then(Opened { owner: owner("Marie") })
        },
        &expect![[r#"
            `Open` did not lead to the expected events

              given  nothing
              when   Open for Account/7

                expected                                              actual
                1. Opened                                             1. Opened
              ≠    owner: …da Ada Ada Ada Ada Ada Ada Ada Ada Ada Ad     owner: …da Ada Ada Ada Ada Ada Ada Ada Ada Ada Ad
                     a Ada Ada Ada Ada Ada Ada Ada Ada Ada Ada Ada A       a Ada Ada Ada Ada Ada Ada Ada Ada Ada Ada Ada A
                     da Ada Ada Ada Ada Ada MarieLovelace Lovelace L       da Ada Ada Ada Ada Ada MariaLovelace Lovelace L
                     ovelace Lovelace Lovelace Lovelace Lovelace Lov       ovelace Lovelace Lovelace Lovelace Lovelace Lov
                     elace Lovelace Lovelace Lovelace Lovelace Lovel       elace Lovelace Lovelace Lovelace Lovelace Lovel
                     a…                                                    a…

            cause: `Opened` differs only in field `owner`: expected …a Ada Ada Ada Ada Ada Ada MarieLovelace Lovelace Lovelace Lo…, actual …a Ada Ada Ada Ada Ada Ada MariaLovelace Lovelace Lovelace Lo…
        "#]],
    );
}

#[test]
fn given_events_do_not_fold() {
    check(
        || Account::given(Deposited { cents: 5 }).when(take(5)).then_nothing(),
        &expect![[r#"
        given event 1, `Deposited`, does not fold

          given  Deposited { cents: 5 }

        cause: its `#[apply]` takes `&mut self`, but nothing exists yet; an event whose `#[apply]` creates it must come first
        note: given at messages.rs:…
    "#]],
    );
    check(
        || Account::given([ada(), ada()]).then_state(|_| true),
        &expect![[r#"
        given event 2, `Opened`, does not fold

          given  Opened { owner: "Ada" }
                 Opened { owner: "Ada" }

        cause: its `#[apply]` has no `self` and so creates, but something already exists
        note: given at messages.rs:…
    "#]],
    );
}

#[test]
fn given_commands_are_refused() {
    check(
        || {
            Account::given_commands((Open { account: 7, owner: "Ada".into() }, take(5)))
                .when(take(5))
                .then_nothing()
        },
        &expect![[r#"
            the given command `Withdraw` was not accepted

              given  Opened { owner: "Ada" } (from `Open`)

            cause: the handler refused with `Overdraft { balance: 0 }` (there are only 0 cents)
            note: given at messages.rs:…
        "#]],
    );
}

#[test]
fn returned_events_do_not_fold() {
    check(
        || Order::given(()).when(note(What::NotThere)).then(Mailed),
        &expect![[r#"
        event 1 that `Note` returned, `Mailed`, does not fold

          given  nothing
          when   Note for Order/o

        cause: its `#[apply]` takes `&mut self`, but nothing exists yet; an event whose `#[apply]` creates it must come first
    "#]],
    );
}

#[test]
fn a_field_does_not_survive_storing() {
    check(
        || {
            Order::given((ordered(1), crate::shop::Noted { note: "x".into() }))
                .when(note(What::Nothing))
                .then_nothing()
        },
        &expect![[r#"
            given event 2, `Noted`, is not the same after storing and reading back

              given  Ordered { at: 1, customer: "ada", lines[0].article: "a0", lines[0].cents: 5, number: "n1" }
                     Noted { note: "x" }

                stored        read back
              ≠    note: "x"     note: ""

            cause: `Noted` changes in field `note`: stored "x", read back ""
            note: check its `#[serde(…)]` attributes; if the change is intended, add `.without_round_trip()`
            note: given at messages.rs:…
        "#]],
    );
    check(
        || Order::given(ordered(1)).when(note(What::Noted)).then_accepted(),
        &expect![[r#"
        event 1 that `Note` returned, `Noted`, is not the same after storing and reading back

          given  Ordered { at: 1, customer: "ada", lines[0].article: "a0", lines[0].cents: 5, number: "n1" }
          when   Note for Order/o

            stored              read back
          ≠    note: "fragile"     note: ""

        cause: `Noted` changes in field `note`: stored "fragile", read back ""
        note: check its `#[serde(…)]` attributes; if the change is intended, add `.without_round_trip()`
    "#]],
    );
}

#[test]
fn an_event_does_not_read_back() {
    check(
        || Order::given(ordered(1)).when(note(What::Lost)).then_accepted(),
        &expect![[r#"
        event 1 that `Note` returned, `Lost`, does not read back from what is stored

          given  Ordered { at: 1, customer: "ada", lines[0].article: "a0", lines[0].cents: 5, number: "n1" }
          when   Note for Order/o

            stored  read back
          ≠ Lost    (does not read)

        cause: the payload of `Lost` version 1 does not fit its type: missing field `what` at line 1 column 2
    "#]],
    );
}

#[test]
fn an_event_cannot_be_stored() {
    check(
        || Order::given(ordered(1)).when(note(What::Unstorable)).then_accepted(),
        &expect![[r#"
        event 1 that `Note` returned cannot be stored

          given  Ordered { at: 1, customer: "ada", lines[0].article: "a0", lines[0].cents: 5, number: "n1" }
          when   Note for Order/o

        cause: its `Serialize` fails: no room
    "#]],
    );
}

#[test]
fn stored_events_do_not_read() {
    check(
        || Account::given_stored("Opend", 1, r#"{"owner":"Ada"}"#).then_state(|_| true),
        &expect![[r#"
        given event 1, `Opend`, does not read back from what is stored

          given  Opend { owner: "Ada" } (stored)

            stored           read back
          ≠ Opend            (does not read)
          ≠    owner: "Ada"

        cause: no event type here is stored as `Opend`
        note: given at messages.rs:…
    "#]],
    );
    check(
        || Account::given_stored("Opened", 2, r#"{"owner":"Ada"}"#).then_state(|_| true),
        &expect![[r#"
        given event 1, `Opened`, does not read back from what is stored

          given  Opened v2 { owner: "Ada" } (stored)

            stored           read back
          ≠ Opened v2        (does not read)
          ≠    owner: "Ada"

        cause: `Opened` is stored in version 2, but this program knows it up to version 1: a newer program wrote it
        note: given at messages.rs:…
    "#]],
    );
    check(
        || Account::given_stored("Opened", 1, r#"{"name":"Ada"}"#).then_state(|_| true),
        &expect![[r#"
        given event 1, `Opened`, does not read back from what is stored

          given  Opened { name: "Ada" } (stored)

            stored          read back
          ≠ Opened          (does not read)
          ≠    name: "Ada"

        cause: the payload of `Opened` version 1 does not fit its type: missing field `owner` at line 1 column 14
        note: given at messages.rs:…
    "#]],
    );
}

#[test]
fn a_service_is_missing() {
    check(
        || Order::given(ordered(1)).when(Price { order: "o".into(), expected: None }),
        &expect![[r#"
            the handler of `Price` needs the service `given_when_then::shop::Rates`

              given  Ordered { at: 1, customer: "ada", lines[0].article: "a0", lines[0].cents: 5, number: "n1" }
              when   Price for Order/o

            cause: the test does not provide it: before `.when(…)`, add `.service(Arc::new(Rates …))`
        "#]],
    );
    check(
        || Order::given(ordered(1)).when(Mail { order: "o".into() }),
        &expect![[r#"
            the handler of `Mail` needs the service `dyn given_when_then::shop::Mailer`

              given  Ordered { at: 1, customer: "ada", lines[0].article: "a0", lines[0].cents: 5, number: "n1" }
              when   Mail for Order/o

            cause: the test does not provide it: before `.when(…)`, add `.service::<dyn Mailer>(Arc::new(…))` with a test double that implements `Mailer`
        "#]],
    );
}

#[test]
fn a_stand_in_is_given_under_its_own_name() {
    check(
        || {
            Order::given(ordered(1))
                .service(Arc::new(crate::shop::Outbox::default()))
                .when(Mail { order: "o".into() })
        },
        &expect![[r#"
            the handler of `Mail` needs the service `dyn given_when_then::shop::Mailer`

              given  Ordered { at: 1, customer: "ada", lines[0].article: "a0", lines[0].cents: 5, number: "n1" }
              when   Mail for Order/o

            cause: the test does not provide it: before `.when(…)`, add `.service::<dyn Mailer>(Arc::new(…))` with a test double that implements `Mailer`
            note: given: {"given_when_then::shop::Outbox"}
        "#]],
    );
}

#[test]
fn a_later_version_is_named() {
    check(
        || {
            Order::given(ordered(1))
                .service(Arc::new(Rates(5)))
                .when(Price { order: "o".into(), expected: None })
                .then(crate::shop::Paid { cents: 6 })
        },
        &expect![[r#"
            `Price` did not lead to the expected events

              given  Ordered { at: 1, customer: "ada", lines[0].article: "a0", lines[0].cents: 5, number: "n1" }
              when   Price for Order/o

                expected     actual
                1. Paid v2   1. Paid v2
              ≠    cents: 6     cents: 5

            cause: `Paid` differs only in field `cents`: expected 6, actual 5
        "#]],
    );
}

#[test]
fn an_async_handler_never_ends() {
    check(
        || {
            Order::given(ordered(1))
                .patience(Duration::from_millis(10))
                .when(Wait { order: "o".into(), how: Waiting::Forever })
        },
        &expect![[r#"
            the async handler of `Wait` has not finished after 10ms

              given  Ordered { at: 1, customer: "ada", lines[0].article: "a0", lines[0].cents: 5, number: "n1" }
              when   Wait for Order/o

            cause: it waits for something that never happens
            note: it runs on its own runtime while the test's thread waits: it cannot wait for a task of the test, unless the test is `#[tokio::test(flavor = "multi_thread")]`
            note: raise the time limit with `.patience(…)`
        "#]],
    );
}

#[test]
fn commands_for_two_aggregates() {
    check(
        || Account::given(rich()).when(take(5)).when(Withdraw { account: 8, cents: 5 }).then_nothing(),
        &expect![[r#"
            this test is about Account/7, but `Withdraw` is for Account/8

              given  Opened { owner: "Ada" }
                     Deposited { cents: 5000 }
              when   Withdraw for Account/7
                     → Withdrawn { cents: 5 }
              when   Withdraw for Account/8

            cause: all given events and commands of a test must belong to one aggregate
        "#]],
    );
}

#[test]
fn an_id_that_names_nothing() {
    check(
        || Order::given(()).when(Place { order: String::new(), articles: vec![] }),
        &expect![[r#"
        the id "" names no stream

          given  nothing
          when   Place for Order/

        cause: "Order/" does not name a stream: write `category/id`, both not empty, the category without `/`
    "#]],
    );
}

#[test]
fn a_time_that_is_none() {
    check(
        || Account::given(()).at("yesterday"),
        &expect![[r#"
        "yesterday" is not an instant: write RFC 3339 in UTC, such as `2024-05-01T12:30:00Z`
    "#]],
    );
}

#[test]
fn another_codec() {
    check(
        || Order::given(ordered(1)).when(note(What::Sealed("ab"))).then(Sealed { word: "abc".into() }),
        &expect![[r#"
            `Note` did not lead to the expected events

              given  Ordered { at: 1, customer: "ada", lines[0].article: "a0", lines[0].cents: 5, number: "n1" }
              when   Note for Order/o

                expected                          actual
                1. Sealed                         1. Sealed
              ≠    0000: 7d 22 63 62 61 22 3a 22     0000: 7d 22 62 61 22 3a 22 64
              ≠    0008: 64 72 6f 77 22 7b           0008: 72 6f 77 22 7b

            cause: `Sealed` differs in the fields `0000` and `0008`
        "#]],
    );
}
