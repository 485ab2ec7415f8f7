use cqrs::prelude::*;

use super::vault::{Locked, Vault};

#[aggregate(id = u64)]
impl Vault {
    #[apply]
    fn locked(_: &Locked) -> Self {
        Vault
    }
}
