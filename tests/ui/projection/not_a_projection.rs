struct Summary;

fn asks<P: cqrs::Projection>() {}

fn main() {
    asks::<Summary>();
}
