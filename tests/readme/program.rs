use cqrs::prelude::*;

#[derive(Event, Serialize, Deserialize)]
struct Opened { owner: String }
#[derive(Event, Serialize, Deserialize)]
struct Deposited { cents: u64 }
#[derive(Event, Serialize, Deserialize)]
struct Withdrawn { cents: u64 }

#[derive(Command)]
struct Open { #[id] account: u64, owner: String }
#[derive(Command)]
struct Deposit { #[id] account: u64, cents: u64 }
#[derive(Command)]
struct Withdraw { #[id] account: u64, cents: u64 }

#[derive(Debug, PartialEq, thiserror::Error)]
enum AccountError {
    #[error("a balance of {balance} does not cover that")]
    Overdraft { balance: u64 },
}

struct Account { balance: u64 }

#[aggregate(id = u64, error = AccountError)]
impl Account {
    #[handle]                        // no `self`: this creates, so a second `Open` is refused
    fn open(cmd: Open) -> Opened { Opened { owner: cmd.owner } }
    #[handle]                        // `&self`: the account must exist
    fn deposit(&self, cmd: Deposit) -> Deposited { Deposited { cents: cmd.cents } }
    #[handle]
    fn withdraw(&self, cmd: Withdraw) -> Result<Withdrawn, AccountError> {
        if cmd.cents > self.balance { return Err(AccountError::Overdraft { balance: self.balance }); }
        Ok(Withdrawn { cents: cmd.cents })
    }

    #[apply] fn opened(_: &Opened) -> Self { Account { balance: 0 } }
    #[apply] fn deposited(&mut self, e: &Deposited) { self.balance += e.cents }
    #[apply] fn withdrawn(&mut self, e: &Withdrawn) { self.balance -= e.cents }
}

/// A read model: one document per account, kept by the engine.
#[derive(Serialize, Deserialize)]
struct Summary { owner: String, balance: u64, postings: u32 }

#[projection(name = "account-summary", key = u64)]
impl Summary {
    #[on] fn opened(e: &Opened) -> Self { Summary { owner: e.owner.clone(), balance: 0, postings: 0 } }
    #[on] fn deposited(&mut self, e: &Deposited) { self.balance += e.cents; self.postings += 1 }
    #[on] fn withdrawn(&mut self, e: &Withdrawn) { self.balance -= e.cents; self.postings += 1 }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let bank = Engine::open("memory:").await?;
    let account = 7;
    bank.execute(Open { account, owner: "Ada".into() }).await?;
    let receipt = bank.execute(Deposit { account, cents: 500 }).await?;

    let summary = bank.get::<Summary>(&account).after(&receipt).await?.expect("it was opened");
    println!("{} has {} cents after {} posting", summary.owner, summary.balance, summary.postings);

    match bank.execute(Withdraw { account, cents: 501 }).await {
        Err(no) if no.is_refusal() => println!("refused: {no}"),
        other => panic!("the balance does not cover that, but: {other:?}"),
    }
    Ok(())
}
