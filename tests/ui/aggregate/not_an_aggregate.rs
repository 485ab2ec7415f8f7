struct Account;

fn asks<A: cqrs::Aggregate>() {}

fn main() {
    asks::<Account>();
}
