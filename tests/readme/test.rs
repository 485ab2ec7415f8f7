#[cfg(test)]
mod tests {
    use super::*;
    use cqrs_testkit::prelude::*;

    #[test]
    fn nobody_takes_what_is_not_there() {
        Account::given([Opened { owner: "Ada".into() }])
            .when(Withdraw { account: 7, cents: 1 })
            .then_error(AccountError::Overdraft { balance: 0 });
        Account::given(()).when(Deposit { account: 7, cents: 1 }).then_missing();
    }
}
