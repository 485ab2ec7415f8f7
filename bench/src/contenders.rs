//! Who takes part.

use serde::{Deserialize, Serialize};

use crate::contender::{About, Contender};
use crate::growth::{ByCommands, Log};
use crate::session;

/// What a contender stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    Ours,
    Limit,
    Peer,
}

macro_rules! contenders {
    ($($kind:ident $contender:ty;)*) => {
        /// All who are measured by the bank's commands.
        pub fn all() -> Vec<(Kind, About)> {
            vec![$((Kind::$kind, <$contender as Contender>::about())),*]
        }

        /// Serves as the contender with this name.
        pub async fn serve(name: &str) -> anyhow::Result<()> {
            $(if name == <$contender as Contender>::about().name {
                return session::serve::<$contender>().await;
            })*
            anyhow::bail!("no contender is called {name:?}")
        }
    };
}

macro_rules! logs {
    ($($kind:ident $log:ty;)*) => {
        /// All whose appends can be guarded by a query of tags.
        pub fn logs() -> Vec<(Kind, About)> {
            vec![$((Kind::$kind, <$log as Log>::about())),*]
        }

        /// Serves as the log with this name.
        pub async fn serve_log(name: &str) -> anyhow::Result<()> {
            $(if name == <$log as Log>::about().name {
                return session::serve_log::<$log>().await;
            })*
            anyhow::bail!("no log is called {name:?}")
        }
    };
}

contenders! {
    Ours crate::ours::Memory;
    Ours crate::ours::Sqlite;
    Ours crate::ours::Postgres;
    Limit crate::limits::memory::Memory<false>;
    Limit crate::limits::memory::Memory<true>;
    Limit crate::limits::sqlite::Sqlite<false>;
    Limit crate::limits::sqlite::Sqlite<true>;
    Limit crate::limits::postgres::Postgres<false>;
    Limit crate::limits::postgres::Postgres<true>;
    Peer crate::peers::cqrs_es::CqrsEs;
    Peer crate::peers::disintegrate::Disintegrate;
    Peer crate::peers::esrs::Esrs;
    Peer crate::peers::evento::Evento;
    Peer crate::peers::eventually::Eventually;
    Peer crate::peers::fmodel::Fmodel;
}

logs! {
    Ours crate::ours::log::Sqlite;
    Ours crate::ours::log::Postgres;
    Limit crate::limits::logs::Sqlite;
    Limit crate::limits::logs::Postgres<false>;
    Limit crate::limits::logs::Postgres<true>;
    Peer ByCommands<crate::peers::disintegrate::Disintegrate>;
}
