//! A benchmark of this framework against peers and against what is possible without a framework.

mod contender;
mod contenders;
mod limits;
mod ours;
mod peers;
mod retries;

pub use retries::retried;

fn main() -> anyhow::Result<()> {
    for about in contenders::all() {
        println!("{} on {}", about.name, about.store);
    }
    Ok(())
}
