//! What is said when a scenario of a projection does not hold.

use cqrs::aggregate::Misfit;
use cqrs_testkit::prelude::*;
use expect_test::expect;

use crate::bank::{Account, Deposited, FeeCharged, Opened, Summary, Withdrawn};
use crate::shop::{Customer, Noted, Order, Paid, ordered};
use crate::support::check;

fn ada() -> Opened {
    Opened { owner: "Ada".into() }
}

fn summary(balance: u64, postings: u32) -> Summary {
    Summary { owner: "Ada".into(), balance, postings }
}

fn rich() -> History {
    Account::history(7, (ada(), Deposited { cents: 500 }))
}

#[test]
fn a_field_differs() {
    check(
        || {
            Summary::given(rich())
                .when(Account::history(7, (Withdrawn { cents: 1 }, FeeCharged { cents: 2 })))
                .then_document(7, summary(500, 2))
        },
        &expect![[r#"
            the document `7` of `account-summary` is not as expected

              given  Account/7: Opened { owner: "Ada" }
                     Account/7: Deposited { cents: 500 }
              when   Account/7: Withdrawn { cents: 1 }
                     Account/7: FeeCharged { cents: 2 } (not read)

                expected         actual
              ≠    balance: 500     balance: 499
                   owner: "Ada"     owner: "Ada"
                   postings: 2      postings: 2

            cause: it differs only in field `balance`: expected 500, actual 499
                   it was last changed by event 3 (`Withdrawn` of Account/7)
        "#]],
    );
}

#[test]
fn several_fields_differ() {
    check(
        || {
            Summary::given(rich())
                .ignoring(["owner"])
                .then_document(7, Summary { owner: "Bob".into(), balance: 1, postings: 2 })
        },
        &expect![[r#"
            the document `7` of `account-summary` is not as expected

              given  Account/7: Opened { owner: "Ada" }
                     Account/7: Deposited { cents: 500 }

                expected         actual
              ≠    balance: 1       balance: 500
              ~    owner: "Bob"     owner: "Ada"
              ≠    postings: 2      postings: 1

            cause: it differs in the fields `balance` and `postings`
                   it was last changed by event 2 (`Deposited` of Account/7)
        "#]],
    );
}

#[test]
fn many_equal_fields_are_left_out() {
    check(
        || {
            let order = |at: usize| Order::history(format!("o{at}"), ordered(1));
            let expected = |at: usize| format!("o{}", if at == 12 { 13 } else { at });
            Customer::given((0..24).map(order).collect::<Vec<_>>()).ignoring(["last"]).then_document(
                "ada".to_owned(),
                Customer { orders: (0..24).map(expected).collect(), last: None, note: 0 },
            )
        },
        &expect![[r#"
            the document `ada` of `customers` is not as expected

              given  Order/o0: Ordered { at: 1, customer: "ada", lines[0].article: "a0", lines[0].cents: 5, number: "n1" } → `ada`
                     Order/o1: Ordered { at: 1, customer: "ada", lines[0].article: "a0", lines[0].cents: 5, number: "n1" } → `ada`
                     Order/o2: Ordered { at: 1, customer: "ada", lines[0].article: "a0", lines[0].cents: 5, number: "n1" } → `ada`
                     Order/o3: Ordered { at: 1, customer: "ada", lines[0].article: "a0", lines[0].cents: 5, number: "n1" } → `ada`
                     Order/o4: Ordered { at: 1, customer: "ada", lines[0].article: "a0", lines[0].cents: 5, number: "n1" } → `ada`
                     Order/o5: Ordered { at: 1, customer: "ada", lines[0].article: "a0", lines[0].cents: 5, number: "n1" } → `ada`
                     … 12 more …
                     Order/o18: Ordered { at: 1, customer: "ada", lines[0].article: "a0", lines[0].cents: 5, number: "n1" } → `ada`
                     Order/o19: Ordered { at: 1, customer: "ada", lines[0].article: "a0", lines[0].cents: 5, number: "n1" } → `ada`
                     Order/o20: Ordered { at: 1, customer: "ada", lines[0].article: "a0", lines[0].cents: 5, number: "n1" } → `ada`
                     Order/o21: Ordered { at: 1, customer: "ada", lines[0].article: "a0", lines[0].cents: 5, number: "n1" } → `ada`
                     Order/o22: Ordered { at: 1, customer: "ada", lines[0].article: "a0", lines[0].cents: 5, number: "n1" } → `ada`
                     Order/o23: Ordered { at: 1, customer: "ada", lines[0].article: "a0", lines[0].cents: 5, number: "n1" } → `ada`

                expected              actual
              ~    last: null
              ~                          last.at: 1577836800000000
              ~                          last.by: null
                   note: 0               note: 0
                   orders[0]: "o0"       orders[0]: "o0"
                   orders[1]: "o1"       orders[1]: "o1"
                   orders[2]: "o2"       orders[2]: "o2"
                … 5 equal lines …
                   orders[8]: "o8"       orders[8]: "o8"
                   orders[9]: "o9"       orders[9]: "o9"
                   orders[10]: "o10"     orders[10]: "o10"
                   orders[11]: "o11"     orders[11]: "o11"
              ≠    orders[12]: "o13"     orders[12]: "o12"
                   orders[13]: "o13"     orders[13]: "o13"
                   orders[14]: "o14"     orders[14]: "o14"
                   orders[15]: "o15"     orders[15]: "o15"
                   orders[16]: "o16"     orders[16]: "o16"
                   orders[17]: "o17"     orders[17]: "o17"
                   orders[18]: "o18"     orders[18]: "o18"
                   orders[19]: "o19"     orders[19]: "o19"
                   orders[20]: "o20"     orders[20]: "o20"
                   orders[21]: "o21"     orders[21]: "o21"
                   orders[22]: "o22"     orders[22]: "o22"
                   orders[23]: "o23"     orders[23]: "o23"

            cause: it differs only in field `orders[12]`: expected "o13", actual "o12"
                   it was last changed by event 24 (`Ordered` of Order/o23)
        "#]],
    );
}

#[test]
fn every_when_is_told() {
    check(
        || {
            Summary::given(rich())
                .when(Account::history(7, Deposited { cents: 1 }))
                .when(Account::history(7, Deposited { cents: 2 }))
                .and_given(Account::history(7, Deposited { cents: 3 }))
                .then_document_count(2)
        },
        &expect![[r#"
            `account-summary` has 1 document, not 2

              given  Account/7: Opened { owner: "Ada" }
                     Account/7: Deposited { cents: 500 }
              when   Account/7: Deposited { cents: 1 }
              when   Account/7: Deposited { cents: 2 }
              given  Account/7: Deposited { cents: 3 }

            cause: there is `7`
        "#]],
    );
}

#[test]
fn there_is_no_document() {
    check(
        || Summary::given(()).then_document(7, summary(0, 0)),
        &expect![[r#"
        there is no document `7` of `account-summary`

          given  nothing

            expected         actual
          -    balance: 0
          -    owner: "Ada"
          -    postings: 0

        cause: no event was folded into a document
    "#]],
    );
    check(
        || Summary::given(rich()).then_document(8, summary(0, 0)),
        &expect![[r#"
        there is no document `8` of `account-summary`

          given  Account/7: Opened { owner: "Ada" }
                 Account/7: Deposited { cents: 500 }

            expected         actual
          -    balance: 0
          -    owner: "Ada"
          -    postings: 0

        cause: no event has this key; there is `7`
    "#]],
    );
    check(
        || Summary::given(Account::history(7, FeeCharged { cents: 1 })).then_document_matches(7, |_| true),
        &expect![[r#"
            there is no document `7` of `account-summary`

              given  Account/7: FeeCharged { cents: 1 } (not read)

            cause: no event was folded into a document
            note: `account-summary` reads only `Opened`, `Deposited` and `Withdrawn`
        "#]],
    );
    check(
        || {
            Customer::given(Order::history("ada".to_owned(), (ordered(1), Paid { cents: 1 })))
                .then_document_matches("ada".to_owned(), |customer| customer.orders.is_empty())
        },
        &expect![[r#"
            there is no document `ada` of `customers`

              given  Order/ada: Ordered { at: 1, customer: "ada", lines[0].article: "a0", lines[0].cents: 5, number: "n1" }
                     Order/ada: Paid v2 { cents: 1 }

            cause: event 2 (`Paid` of Order/ada) removed it
        "#]],
    );
}

#[test]
fn there_is_a_document() {
    check(
        || Summary::given(rich()).then_no_document(7),
        &expect![[r#"
            there is a document `7` of `account-summary`

              given  Account/7: Opened { owner: "Ada" }
                     Account/7: Deposited { cents: 500 }

                expected       actual
              ≠ (no document)  document 7
              +                   balance: 500
              +                   owner: "Ada"
              +                   postings: 1

            cause: it was last changed by event 2 (`Deposited` of Account/7)
        "#]],
    );
}

#[test]
fn a_closure_says_no() {
    check(
        || Summary::given(rich()).then_document_matches(7, |summary| summary.balance == 0),
        &expect![[r#"
            the document `7` of `account-summary` does not match

              given   Account/7: Opened { owner: "Ada" }
                      Account/7: Deposited { cents: 500 }
              stored  balance: 500
                      owner: "Ada"
                      postings: 1

            cause: the closure of `then_document_matches` returned `false`
            note: use `assert_eq!(…)` in the closure to see the values
        "#]],
    );
}

#[test]
fn other_documents() {
    check(
        || {
            Summary::given((rich(), Account::history(8, ada())))
                .then_documents([(7, summary(5, 1)), (9, summary(0, 0))])
        },
        &expect![[r#"
            the documents of `account-summary` are not as expected

              given  Account/7: Opened { owner: "Ada" }
                     Account/7: Deposited { cents: 500 }
                     Account/8: Opened { owner: "Ada" }

                expected         actual
                document 7       document 7
              ≠    balance: 5       balance: 500
                   owner: "Ada"     owner: "Ada"
                   postings: 1      postings: 1
              +                  document 8
              +                     balance: 0
              +                     owner: "Ada"
              +                     postings: 0
              - document 9
              -    balance: 0
              -    owner: "Ada"
              -    postings: 0

            cause: the document `7` differs only in field `balance`: expected 5, actual 500
                   the document `8` is not expected
                   the document `9` is missing
        "#]],
    );
    check(
        || Summary::given((rich(), Account::history(8, ada()))).then_document_count(1),
        &expect![[r#"
        `account-summary` has 2 documents, not 1

          given  Account/7: Opened { owner: "Ada" }
                 Account/7: Deposited { cents: 500 }
                 Account/8: Opened { owner: "Ada" }

        cause: there is `7` and `8`
    "#]],
    );
}

#[test]
fn something_changed() {
    check(
        || Summary::given(rich()).when(Account::history(7, Withdrawn { cents: 1 })).then_unchanged(),
        &expect![[r#"
            the last `when` changed documents of `account-summary`

              given  Account/7: Opened { owner: "Ada" }
                     Account/7: Deposited { cents: 500 }
              when   Account/7: Withdrawn { cents: 1 }

                before           after
                document 7       document 7
              ≠    balance: 500     balance: 499
                   owner: "Ada"     owner: "Ada"
              ≠    postings: 1      postings: 2

            cause: the document `7` differs in the fields `balance` and `postings`
                   the last to change it was event 3 (`Withdrawn` of Account/7)
        "#]],
    );
    check(
        || {
            Customer::given(Order::history("ada".to_owned(), ordered(1)))
                .when(Order::history("ada".to_owned(), Paid { cents: 1 }))
                .then_document_unchanged("ada".to_owned())
        },
        &expect![[r#"
            the last `when` changed documents of `customers`

              given  Order/ada: Ordered { at: 1, customer: "ada", lines[0].article: "a0", lines[0].cents: 5, number: "n1" }
              when   Order/ada: Paid v2 { cents: 1 }

                before                        after
              - document ada
              -    last.at: 1577836800000000
              -    last.by: null
              -    note: 0
              -    orders[0]: "ada"

            cause: the document `ada` was removed
                   the last to change it was event 2 (`Paid` of Order/ada)
        "#]],
    );
    check(
        || Summary::given(()).when(Account::history(7, ada())).then_unchanged(),
        &expect![[r#"
            the last `when` changed documents of `account-summary`

              given  nothing
              when   Account/7: Opened { owner: "Ada" }

                before  after
              +         document 7
              +            balance: 0
              +            owner: "Ada"
              +            postings: 0

            cause: the document `7` is new
                   the last to change it was event 1 (`Opened` of Account/7)
        "#]],
    );
}

#[test]
fn a_second_feeding_changes_something() {
    check(
        || Customer::given(Order::history("o".to_owned(), ordered(1))).then_idempotent(),
        &expect![[r#"
            event 1 (`Ordered` of Order/o), fed a second time, changes `customers`

              given  Order/o: Ordered { at: 1, customer: "ada", lines[0].article: "a0", lines[0].cents: 5, number: "n1" } → `ada`

                fed once                      fed twice
                document ada                  document ada
                   last.at: 1577836800000000     last.at: 1577836800000000
                   last.by: null                 last.by: null
                   note: 0                       note: 0
                   orders[0]: "o"                orders[0]: "o"
              +                                  orders[1]: "o"

            cause: the document `ada` differs only in field `orders[1]`: once nothing, twice "o"
            note: the engine feeds each event once; this matters only if something else feeds the projection
        "#]],
    );
    check(
        || Summary::given(rich()).then_idempotent(),
        &expect![[r#"
            event 1 (`Opened` of Account/7), fed a second time, does not fold into the document `7`

              given  Account/7: Opened { owner: "Ada" }
                     Account/7: Deposited { cents: 500 }

            cause: its `#[on]` has no `self` and so creates, but there is a document with the key `7`
            note: the engine feeds each event once; this matters only if something else feeds the projection
        "#]],
    );
    check(
        || Summary::given(rich()).fed_twice().then_document(7, summary(0, 0)),
        &expect![[r#"
            event 1 (`Opened` of Account/7), fed a second time, does not fold into the document `7`

              given  Account/7: Opened { owner: "Ada" }

            cause: its `#[on]` has no `self` and so creates, but there is a document with the key `7`
            note: given at projection_messages.rs:…
        "#]],
    );
}

#[test]
fn an_event_does_not_fit() {
    check(
        || Summary::given(Account::history(7, Deposited { cents: 1 })).then_document(7, summary(1, 1)),
        &expect![[r#"
            event 1 (`Deposited` of Account/7) does not fold into the document `7`

              given  Account/7: Deposited { cents: 1 }

            cause: its `#[on]` needs a document, but there is none with the key `7`; an event whose `#[on]` creates it must come first
            note: given at projection_messages.rs:…
        "#]],
    );
    check(
        || Summary::given(Account::history(7, [ada(), ada()])).then_misfit(Misfit::Missing),
        &expect![[r#"
            event 2 (`Opened` of Account/7) does not fold into the document `7`

              given  Account/7: Opened { owner: "Ada" }
                     Account/7: Opened { owner: "Ada" }

            cause: its `#[on]` has no `self` and so creates, but there is a document with the key `7`
            note: given at projection_messages.rs:…
        "#]],
    );
    check(
        || Summary::given(rich()).then_misfit(Misfit::Missing),
        &expect![[r#"
        expected a misfit (it needs something that exists, but there is nothing yet), but all events could be folded

          given  Account/7: Opened { owner: "Ada" }
                 Account/7: Deposited { cents: 500 }
    "#]],
    );
}

#[test]
fn the_stream_is_not_a_key() {
    check(
        || Summary::given(History::of("Account/seven").event(ada())).then_document_count(1),
        &expect![[r#"
            event 1 (`Opened` of Account/seven) names no document

              given  Account/seven: Opened { owner: "Ada" }

            cause: the stream's id "seven" is not a `u64` (invalid digit found in string): say with `#[on(key = …)]` which document the event belongs to
            note: given at projection_messages.rs:…
        "#]],
    );
    check(
        || Summary::given(rich()).then_not_a_key(),
        &expect![[r#"
        expected an event that names no document, but all do

          given  Account/7: Opened { owner: "Ada" }
                 Account/7: Deposited { cents: 500 }
    "#]],
    );
}

#[test]
fn a_document_does_not_survive_storing() {
    check(
        || {
            Customer::given(History::of("Order/ada").stored("Noted", 1, r#"{"note":"x"}"#))
                .then_document_matches("ada".to_owned(), |customer| customer.note == 2)
        },
        &expect![[r#"
            the document `ada` of `customers` is not the same after storing and reading back

              given  Order/ada: Noted { note: "x" }

                stored         read back
                   last: null     last: null
              ≠    note: 1        note: 0
                   orders: []     orders: []

            cause: after event 1 (`Noted` of Order/ada), it changes in field `note`: stored 1, read back 0
            note: check its `#[serde(…)]` attributes; if the change is intended, add `.without_round_trip()`
            note: given at projection_messages.rs:…
        "#]],
    );
}

#[test]
fn an_event_does_not_survive_storing() {
    check(
        || {
            Customer::given(Order::history("ada".to_owned(), Noted { note: "x".into() }))
                .then_document_count(1)
        },
        &expect![[r#"
            event 1 of Order/ada, `Noted`, is not the same after storing and reading back

              given  Order/ada: Noted { note: "x" }

                stored        read back
              ≠    note: "x"     note: ""

            cause: `Noted` changes in field `note`: stored "x", read back ""
            note: check its `#[serde(…)]` attributes; if the change is intended, add `.without_round_trip()`
            note: given at projection_messages.rs:…
        "#]],
    );
    check(
        || Customer::given(History::of("Order/ada").event(Noted { note: "x".into() })).then_document_count(1),
        &expect![[r#"
            event 1 of Order/ada, `Noted`, is not the same after storing and reading back

              given  Order/ada: Noted { note: "x" }

                stored        read back
              ≠    note: "x"     note: ""

            cause: `Noted` changes in field `note`: stored "x", read back ""
            note: check its `#[serde(…)]` attributes; if the change is intended, add `.without_round_trip()`
            note: given at projection_messages.rs:…
        "#]],
    );
}

#[test]
fn an_event_comes_back_in_another_order() {
    check(
        || {
            let shuffled = crate::shop::Shuffled { items: vec![1, 2] };
            Customer::given(History::of("Order/ada").event(shuffled)).then_document_count(1)
        },
        &expect![[r#"
            event 1 of Order/ada, `Shuffled`, is not the same after storing and reading back

              given  Order/ada: Shuffled { items[0]: 1, items[1]: 2 }

                stored          read back
              ≠    items[0]: 1     items[0]: 2
              ≠    items[1]: 2     items[1]: 1

            cause: `Shuffled` changes in the fields `items[0]` and `items[1]`
            note: the same values in another order: the order of a `HashSet` changes every time, that of a `BTreeSet` does not
            note: given at projection_messages.rs:…
        "#]],
    );
}

#[test]
fn an_event_does_not_decode() {
    check(
        || Summary::given(History::of("Account/7").stored("Opened", 1, "{}")).then_document_count(1),
        &expect![[r#"
            event 1 (`Opened` of Account/7) does not decode

              given  Account/7: Opened

            cause: the payload of `Opened` version 1 does not fit its type: missing field `owner` at line 1 column 2
            note: given at projection_messages.rs:…
        "#]],
    );
    check(
        || Summary::given(History::of("Account/7").stored("Opened", 2, "{}")).then_document_count(1),
        &expect![[r#"
            event 1 (`Opened` of Account/7) does not decode

              given  Account/7: Opened v2

            cause: `Opened` is stored in version 2, but this program knows it up to version 1: a newer program wrote it
            note: given at projection_messages.rs:…
        "#]],
    );
}

#[test]
fn a_history_of_nothing() {
    check(
        || History::of("Account"),
        &expect![[r#"
        "Account" does not name a stream: write `category/id`, both not empty, the category without `/`
    "#]],
    );
    check(
        || Order::history(String::new(), ordered(1)),
        &expect![[r#"
        the id "" names no stream

        cause: "Order/" does not name a stream: write `category/id`, both not empty, the category without `/`
    "#]],
    );
    check(
        || Order::history("o".to_owned(), crate::shop::Unstorable),
        &expect![[r#"
        event 1 of Order/o cannot be stored

        cause: its `Serialize` fails: no room
    "#]],
    );
}
