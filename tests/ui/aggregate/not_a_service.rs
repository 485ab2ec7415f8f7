struct Rates;

fn asks<S: cqrs::Service>() {}

fn main() {
    asks::<Rates>();
}
