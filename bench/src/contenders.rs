//! Who takes part.

use crate::contender::{About, Contender};

/// What a contender stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Ours,
    Limit,
    Peer,
}

macro_rules! contenders {
    ($($kind:ident $contender:ty;)*) => {
        /// What all contenders say about themselves.
        pub fn all() -> Vec<About> {
            vec![$(<$contender as Contender>::about()),*]
        }

        /// What each contender stands for, in the order of [`all`].
        pub fn kinds() -> Vec<Kind> {
            vec![$(Kind::$kind),*]
        }
    };
}

contenders! {
    Ours crate::ours::Memory;
    Ours crate::ours::Sqlite;
    Ours crate::ours::Postgres;
    Peer crate::peers::cqrs_es::CqrsEs;
    Peer crate::peers::disintegrate::Disintegrate;
    Peer crate::peers::esrs::Esrs;
    Peer crate::peers::evento::Evento;
    Peer crate::peers::eventually::Eventually;
    Peer crate::peers::fmodel::Fmodel;
}
