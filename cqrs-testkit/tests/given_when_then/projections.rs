//! Scenarios of projections that hold.

use cqrs::Metadata;
use cqrs::aggregate::Misfit;
use cqrs_testkit::prelude::*;

use crate::bank::{Account, Deposited, FeeCharged, Opened, Summary, Withdrawn};
use crate::shop::{Customer, Noted, Order, Paid, ordered};

fn ada() -> Opened {
    Opened { owner: "Ada".into() }
}

fn summary(balance: u64, postings: u32) -> Summary {
    Summary { owner: "Ada".into(), balance, postings }
}

#[test]
fn documents_of_several_streams() {
    Summary::given((
        Account::history(7, (ada(), Deposited { cents: 500 })),
        Account::history(8, Opened { owner: "Bob".into() }),
        Account::history(7, [Withdrawn { cents: 100 }]),
    ))
    .then_document(7, summary(400, 2))
    .then_document(8, Summary { owner: "Bob".into(), balance: 0, postings: 0 })
    .then_document_matches(7, |summary| summary.balance == 400)
    .then_document_matches(7, |summary| assert_eq!(summary.postings, 2))
    .then_no_document(9)
    .then_document_count(2)
    .then_documents([(8, Summary { owner: "Bob".into(), balance: 0, postings: 0 }), (7, summary(400, 2))]);
}

#[test]
fn nothing_gives_nothing() {
    Summary::given(()).then_documents([]).then_document_count(0).then_no_document(7);
}

#[test]
fn what_an_event_changes() {
    Summary::given([Account::history(7, ada()), Account::history(8, ada())])
        .when(Account::history(7, FeeCharged { cents: 1 }))
        .then_unchanged()
        .when(Account::history(7, Deposited { cents: 1 }))
        .then_document(7, summary(1, 1))
        .then_document_unchanged(8)
        .and_given(vec![Account::history(8, Deposited { cents: 2 })])
        .then_document(8, summary(2, 1));
}

#[test]
fn events_carry_their_envelope() {
    let order = Order::history("o1".to_owned(), ordered(1))
        .at("2024-05-01T12:30:00Z")
        .with_metadata(Metadata::new().actor("web"));
    Customer::given(order).then_document_matches("ada".to_owned(), |customer| {
        assert_eq!(customer.orders, ["o1"]);
        let last = customer.last.as_ref().unwrap();
        assert_eq!((last.at, last.by.as_deref()), (1_714_566_600_000_000, Some("web")));
    });
}

#[test]
fn streams_can_be_named_by_their_key() {
    Summary::given(History::of("Account/7").event(ada()).event(Deposited { cents: 5 }))
        .and_given(History::of("Account/7").stored("Deposited", 1, r#"{"cents":6}"#))
        .then_document(7, summary(11, 2));
}

#[test]
fn documents_can_go() {
    Customer::given(Order::history("ada".to_owned(), ordered(1)))
        .when(Order::history("ada".to_owned(), Paid { cents: 1 }))
        .then_no_document("ada".to_owned());
}

#[test]
fn fields_can_be_ignored() {
    Customer::given(Order::history("o".to_owned(), ordered(1)))
        .ignoring(["last.at", "/orders/0"])
        .then_document(
            "ada".to_owned(),
            Customer {
                orders: vec!["p".into()],
                last: Some(crate::shop::Timed { at: 0, by: None }),
                note: 0,
            },
        );
}

#[test]
fn a_second_feeding() {
    Summary::given(Account::history(7, ada())).then_document(7, summary(0, 0));
    Summary::given(Account::history(7, FeeCharged { cents: 1 })).then_idempotent();
    Customer::given(Order::history("o".to_owned(), ordered(1)))
        .fed_twice()
        .then_document_matches("ada".to_owned(), |customer| customer.orders.len() == 2);
}

#[test]
fn faults_can_be_expected() {
    Summary::given(Account::history(7, Deposited { cents: 1 })).then_misfit(Misfit::Missing);
    Summary::given(Account::history(7, ada())).when(Account::history(7, ada())).then_misfit(Misfit::Exists);
    Summary::given(History::of("Account/seven").event(ada())).then_not_a_key();
}

#[test]
fn the_check_can_be_switched_off() {
    Customer::given(Order::history("ada".to_owned(), Noted { note: "x".into() }))
        .without_round_trip()
        .then_document_matches("ada".to_owned(), |customer| customer.note == 0);
}
