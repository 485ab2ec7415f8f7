use cqrs::prelude::*;

#[derive(Event, Serialize, Deserialize)]
pub struct Locked;

#[derive(Command)]
pub struct Lock {
    #[id]
    vault: u64,
}

pub struct Vault;

#[aggregate(id = u64)]
impl Vault {
    #[handle]
    fn lock(_: Lock) -> Locked {
        Locked
    }
}
