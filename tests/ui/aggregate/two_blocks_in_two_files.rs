#[path = "two_files/mod.rs"]
mod two_files;

fn main() {}
