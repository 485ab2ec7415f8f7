//! Scenarios of aggregates that hold.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cqrs::context::IdSource;
use cqrs::{Metadata, Timestamp, Version};
use cqrs_testkit::fixed::START;
use cqrs_testkit::prelude::*;

use crate::bank::{
    Account, AccountError, AccountEvent, Deposit, Deposited, FeeCharged, Open, Opened, Withdraw, Withdrawn,
};
use crate::shop::{
    Mail, Mailed, Mailer, Note, Order, OrderError, OrderEvent, Ordered, Outbox, Paid, Place, Price, Rates,
    Wait, Waiting, What, ordered,
};

fn ada() -> Opened {
    Opened { owner: "Ada".into() }
}

#[test]
fn the_program_of_the_readme() {
    Account::given([ada()])
        .when(Withdraw { account: 7, cents: 1 })
        .then_error(AccountError::Overdraft { balance: 0 });
    Account::given(()).when(Deposit { account: 7, cents: 1 }).then_missing();
    Account::given(ada()).when(Open { account: 7, owner: "Bob".into() }).then_exists();
    Account::given((ada(), Deposited { cents: 5 }))
        .when(Withdraw { account: 7, cents: 2 })
        .then(Withdrawn { cents: 2 })
        .then_state(|account| account.balance == 3);
}

#[test]
fn several_commands_in_a_row() {
    Account::given(())
        .when(Open { account: 7, owner: "Ada".into() })
        .then([ada()])
        .when(Deposit { account: 7, cents: 5 })
        .then(Deposited { cents: 5 })
        .when(Withdraw { account: 7, cents: 6 })
        .then_error(AccountError::Overdraft { balance: 5 })
        .when(Withdraw { account: 7, cents: 5 })
        .when(Withdraw { account: 7, cents: 1 })
        .then_error(AccountError::Overdraft { balance: 0 })
        .and_given(Deposited { cents: 1 })
        .when(Withdraw { account: 7, cents: 1 })
        .then_accepted();
}

#[test]
fn given_by_commands() {
    Account::given_commands((Open { account: 7, owner: "Ada".into() }, Deposit { account: 7, cents: 5 }))
        .and_given_command(Withdraw { account: 7, cents: 1 })
        .and_given_commands([Deposit { account: 7, cents: 1 }])
        .and_given_commands(vec![Deposit { account: 7, cents: 1 }])
        .and_given_commands(())
        .then_state(|account| assert_eq!(account.balance, 6))
        .when(Deposit { account: 7, cents: 1 })
        .then(Deposited { cents: 1 });
    Account::given_command(Open { account: 7, owner: "Ada".into() })
        .then_state(|account| account.balance == 0);
}

#[test]
fn every_way_to_compare_events() {
    let given = || Account::given((ada(), Deposited { cents: 5000 }));
    let when = || given().when(Withdraw { account: 7, cents: 1000 });
    when().then((Withdrawn { cents: 1000 }, FeeCharged { cents: 1 }));
    when().then_contains(FeeCharged { cents: 1 }).then_contains(());
    when().then_contains((FeeCharged { cents: 1 }, Withdrawn { cents: 1000 }));
    when().then_sequence((Withdrawn { cents: 1000 }, FeeCharged { cents: 1 })).then_sequence(());
    when().then_sequence(FeeCharged { cents: 1 });
    when().then_starts_with(Withdrawn { cents: 1000 }).then_starts_with(());
    when().then_matches(|events| events.len() == 2);
    when().then_matches(|events| assert!(matches!(events[1], AccountEvent::FeeCharged(_))));
    given().when(Deposit { account: 7, cents: 0 }).then_nothing().then(()).then_accepted();
}

#[test]
fn every_way_to_compare_errors() {
    let overdraft = || Account::given(ada()).when(Withdraw { account: 7, cents: 1 });
    overdraft().then_error(AccountError::Overdraft { balance: 0 });
    overdraft().then_error_matches(|error| matches!(error, AccountError::Overdraft { .. }));
    overdraft().then_error_text("there are only 0 cents");
    // An error without `PartialEq`.
    Order::given(())
        .when(Place { order: "o".into(), articles: vec![] })
        .then_error_matches(|error| matches!(error, OrderError::Empty))
        .then_error_text("the order is not good");
}

#[test]
fn time_ids_and_metadata_are_fixed() {
    let place = || Place { order: "o".into(), articles: vec!["cup"] };
    Order::given(())
        .when(place())
        .then_matches(|events| {
            let [OrderEvent::Ordered(event)] = events else { panic!("one event") };
            assert_eq!((event.at, event.number.as_str()), (START.as_micros(), &*nth_id(1).to_string()));
        })
        .then_metadata(Metadata::new());
    let by = || Metadata::new().actor("ada").entry("from", "web");
    Order::given(())
        .at("2024-05-01T12:30:00Z")
        .later(Duration::from_secs(30))
        .with_metadata(by())
        .when(place())
        .then_metadata(by())
        .then_recorded(|events| {
            assert_eq!(events[0].meta.time.to_string(), "2024-05-01T12:30:30.000000Z");
            assert_eq!(
                (events[0].meta.stream.as_str(), events[0].meta.version),
                ("Order/o", Version::new(1))
            );
            assert!(events[0].tags.contains(&"customer:ada".into()));
        })
        .then_matches(
            |events| matches!(events, [OrderEvent::Ordered(Ordered { customer, .. })] if customer == "ada"),
        );
}

#[test]
fn a_time_holds_from_the_start_and_then_for_what_follows() {
    let at = |micros| {
        move |order: &[cqrs::event::RecordedEvent]| order[0].meta.time == Timestamp::from_micros(micros)
    };
    let note = || Note { order: "o".into(), what: What::NotThere };
    Order::given_command(Place { order: "o".into(), articles: vec!["cup"] })
        .at(Timestamp::from_micros(5))
        .at(SystemTime::UNIX_EPOCH + Duration::from_micros(9))
        .when(note())
        .then_recorded(at(9))
        .later(Duration::from_micros(1))
        .when(note())
        .then_recorded(at(10));
}

#[derive(Debug)]
struct Same;
impl IdSource for Same {
    fn next(&self, _: Timestamp) -> uuid::Uuid {
        uuid::Uuid::max()
    }
}

#[test]
fn ids_can_be_of_ones_own() {
    Order::given(()).with_ids(Same).when(Place { order: "o".into(), articles: vec!["cup"] }).then(Ordered {
        number: uuid::Uuid::max().to_string(),
        at: START.as_micros(),
        customer: String::new(),
        lines: vec![crate::shop::Line { article: "cup".into(), cents: 5 }],
    });
}

#[test]
fn fields_can_be_ignored() {
    let when = || Order::given(()).when(Place { order: "o".into(), articles: vec!["a0", "a1"] });
    when().ignoring(["at", "/number", "customer"]).then(ordered(2));
    when().ignoring(["at", "number", "customer"]).ignoring(["lines"]).then(ordered(0));
    let other = || Order::given(()).when(Place { order: "o".into(), articles: vec!["x", "a1"] });
    other().ignoring(["at", "number", "customer", "/lines/0/article"]).then(ordered(2));
    other().ignoring(["at", "number", "customer", "lines.article"]).then_contains(ordered(2));
}

#[test]
fn services_are_those_of_the_test() {
    Order::given(ordered(3))
        .service(Arc::new(Rates(4)))
        .when(Price { order: "o".into(), expected: None })
        .then(Paid { cents: 12 });
    let outbox = Arc::new(Outbox::default());
    Order::given(ordered(1))
        .service::<dyn Mailer>(outbox.clone())
        .when(Mail { order: "o".into() })
        .then(Mailed);
    assert_eq!(*outbox.0.lock().unwrap(), ["o"]);
    // A given command gets them too, wherever they stand.
    Order::given_commands((
        Place { order: "o".into(), articles: vec!["cup"] },
        Price { order: "o".into(), expected: None },
    ))
    .service(Arc::new(Rates(4)))
    .then_state(|order| order.paid == 4);
}

#[test]
fn an_expected_version_is_checked() {
    let price = |expected| Price { order: "o".into(), expected: Some(Version::new(expected)) };
    let given = || Order::given(ordered(3)).service(Arc::new(Rates(4)));
    given().when(price(1)).then_accepted().when(price(1)).then_conflict();
    given().when(price(0)).then_conflict();
}

#[test]
fn async_handlers_run_in_a_plain_test() {
    Order::given(ordered(1)).when(Wait { order: "o".into(), how: Waiting::Shortly }).then(Mailed);
}

#[tokio::test]
async fn async_handlers_run_inside_of_a_runtime() {
    Order::given(ordered(1)).when(Wait { order: "o".into(), how: Waiting::Shortly }).then(Mailed);
}

#[tokio::test(flavor = "multi_thread")]
async fn async_handlers_run_inside_of_a_runtime_with_threads() {
    Order::given(ordered(1)).when(Wait { order: "o".into(), how: Waiting::Shortly }).then(Mailed);
}

#[test]
#[should_panic(expected = "the printer is on fire")]
fn a_panic_of_an_async_handler_is_its_own() {
    let _ = Order::given(ordered(1)).when(Wait { order: "o".into(), how: Waiting::Panic });
}

#[test]
fn the_state_is_folded_from_what_is_read_back() {
    let note = || Note { order: "o".into(), what: What::Noted };
    Order::given(ordered(1))
        .without_round_trip()
        .when(note())
        .then_state(|order| order.pieces == 1 + "fragile".len());
    Order::given(ordered(1))
        .and_given_stored("Noted", 1, r#"{"note":"x"}"#)
        .then_state(|order| order.pieces == 1);
}

#[test]
fn old_events_are_read() {
    Order::given(ordered(1))
        .and_given_stored("Paid", 1, r#"{"crowns":2}"#)
        .then_state(|order| order.paid == 200);
    Account::given_stored("Opened", 1, r#"{"owner":"Ada"}"#)
        .when(Deposit { account: 7, cents: 1 })
        .then_recorded(|events| events[0].meta.version == Version::new(2));
}

#[test]
fn another_codec_is_compared_by_its_bytes() {
    let sealed = |word: &'static str| crate::shop::Sealed { word: word.into() };
    Order::given(ordered(1)).when(Note { order: "o".into(), what: What::Sealed("x") }).then(sealed("x"));
}

#[test]
fn scenarios_print_themselves() {
    let scenario = Account::given(ada()).when(Deposit { account: 7, cents: 1 });
    let text = format!("{scenario:?}");
    assert!(text.contains("Account/7") && text.contains("Version(2)"), "{text}");
    let _ = scenario.then_accepted();
}
