//! The rules of an account, and what its read models make of what happened to it.

use cqrs_testkit::prelude::*;

use crate::domain::{
    Account, AccountError, Decline, Declined, Deposit, Deposited, Open, Opened, Overdraft, Summary, Withdraw,
    Withdrawn,
};
use crate::reports::{MonthTotals, TypeTotals};
use crate::values::{AccountId, Czk, Day, Debit, Malformed};

const ACCOUNT: AccountId = AccountId(7);

type Tested = Result<(), Malformed>;

fn day(text: &str) -> Result<Day, Malformed> {
    text.parse()
}

#[test]
fn an_account_is_opened_once() -> Tested {
    let on = day("1993-01-04")?;
    let open = || Open { account: ACCOUNT, on, overdraft: Overdraft::Refused };
    Account::given(())
        .when(open())
        .then(Opened { on, overdraft: Overdraft::Refused })
        .when(open())
        .then_exists();
    Ok(())
}

#[test]
fn what_was_never_opened_takes_nothing() -> Tested {
    let on = day("1993-01-04")?;
    let (account, amount, kind) = (ACCOUNT, Czk::crowns(1), Debit::Vydaj);
    Account::given(()).when(Deposit { account, on, amount }).then_missing();
    Account::given(()).when(Withdraw { account, on, amount, kind }).then_missing();
    Account::given(()).when(Decline { account, on, amount, kind }).then_missing();
    Ok(())
}

#[test]
fn a_withdrawal_needs_cover() -> Tested {
    let on = day("1993-01-04")?;
    let (account, kind) = (ACCOUNT, Debit::Vyber);
    let withdraw = |amount| Withdraw { account, on, amount, kind };
    Account::given((Opened { on, overdraft: Overdraft::Refused }, Deposited { on, amount: Czk::crowns(10) }))
        .when(withdraw("10.01".parse()?))
        .then_error(AccountError::Overdraft { balance: Czk::crowns(10), amount: "10.01".parse()? })
        .when(withdraw(Czk::crowns(10)))
        .then(Withdrawn { on, amount: Czk::crowns(10), kind })
        .when(withdraw("0.01".parse()?))
        .then_error_text("a balance of 0.00 CZK does not cover 0.01 CZK");
    Ok(())
}

#[test]
fn an_overdraft_may_be_agreed() -> Tested {
    let on = day("1993-01-04")?;
    let (account, amount, kind) = (ACCOUNT, Czk::crowns(1), Debit::Vydaj);
    Account::given(Opened { on, overdraft: Overdraft::Allowed })
        .when(Withdraw { account, on, amount, kind })
        .then(Withdrawn { on, amount, kind });
    Ok(())
}

#[test]
fn what_was_declined_changes_no_balance() -> Tested {
    let on = day("1993-01-04")?;
    let (account, amount, kind) = (ACCOUNT, Czk::crowns(5), Debit::Vydaj);
    Account::given((Opened { on, overdraft: Overdraft::Refused }, Deposited { on, amount }))
        .when(Decline { account, on, amount, kind })
        .then(Declined { on, amount, kind })
        .when(Withdraw { account, on, amount, kind })
        .then(Withdrawn { on, amount, kind });
    Ok(())
}

/// Events as the first release stored them.
#[test]
fn what_was_stored_stays_readable() -> Tested {
    let on = day("1993-01-04")?;
    let (account, kind) = (ACCOUNT, Debit::Vydaj);
    let last = Czk::crowns(1);
    Account::given_stored("Opened", 1, r#"{"on":"1993-01-01","overdraft":"Refused"}"#)
        .and_given_stored("Deposited", 1, r#"{"on":"1993-01-02","amount":"10.50"}"#)
        .and_given_stored("Withdrawn", 1, r#"{"on":"1993-01-03","amount":"9.50","kind":"VYBER"}"#)
        .and_given_stored("Declined", 1, r#"{"on":"1993-01-03","amount":"2.00","kind":"VYDAJ"}"#)
        .when(Withdraw { account, on, amount: last, kind })
        .then(Withdrawn { on, amount: last, kind });
    Ok(())
}

#[test]
fn a_summary_remembers_the_lowest_balance() -> Tested {
    let on = day("1993-01-04")?;
    let paid = |crowns| Withdrawn { on, amount: Czk::crowns(crowns), kind: Debit::Vydaj };
    let got = |crowns| Deposited { on, amount: Czk::crowns(crowns) };
    let opened = Opened { on, overdraft: Overdraft::Allowed };
    let summary = |balance, lowest, postings| Summary {
        balance: Czk::crowns(balance),
        lowest: Czk::crowns(lowest),
        postings,
    };
    Summary::given(Account::history(ACCOUNT, (opened, got(10), paid(4))))
        .then_document(ACCOUNT, summary(6, 0, 2))
        .and_given(Account::history(ACCOUNT, (paid(9), got(100))))
        .then_document(ACCOUNT, summary(97, -3, 4))
        .when(Account::history(ACCOUNT, Declined { on, amount: Czk::crowns(1), kind: Debit::Vydaj }))
        .then_unchanged();
    Ok(())
}

#[test]
fn totals_are_kept_over_all_accounts() -> Tested {
    let (january, february) = (day("1993-01-31")?, day("1993-02-01")?);
    let (one, two) = (Czk::crowns(1), Czk::crowns(2));
    let opened = |on| Opened { on, overdraft: Overdraft::Refused };
    let happened = || {
        (
            Account::history(AccountId(7), (opened(january), Deposited { on: january, amount: one })),
            Account::history(AccountId(8), (opened(february), Deposited { on: february, amount: two })),
            Account::history(AccountId(7), Withdrawn { on: february, amount: one, kind: Debit::Vyber }),
            Account::history(AccountId(7), Declined { on: february, amount: two, kind: Debit::Vyber }),
        )
    };
    let deposits = TypeTotals { count: 2, czk: Czk::crowns(3), ..TypeTotals::default() };
    let cash = TypeTotals { count: 1, czk: one, declined: 1, declined_czk: two };
    TypeTotals::given(happened())
        .then_documents([("PRIJEM".to_owned(), deposits), ("VYBER".to_owned(), cash)]);

    let first = MonthTotals { postings: 1, credits_czk: one, debits_czk: Czk::ZERO, opened: 1 };
    let second = MonthTotals { postings: 2, credits_czk: two, debits_czk: one, opened: 1 };
    MonthTotals::given(happened()).then_documents([(january.month(), first), (february.month(), second)]);
    Ok(())
}
