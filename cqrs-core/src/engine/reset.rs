//! Building a projection again from the start of the log.

use std::fmt;

use super::Engine;
use crate::error::StoreError;

/// Why a projection was not reset.
#[derive(Debug)]
#[non_exhaustive]
pub enum ResetError {
    /// The engine keeps no projection with this name.
    Unknown {
        /// The name.
        projection: String,
        /// The projections that the engine keeps.
        known: Vec<&'static str>,
    },
    /// The projection keeps its data in tables of its own, which the engine cannot clear.
    OwnTables {
        /// The projection.
        projection: &'static str,
        /// The database.
        database: &'static str,
    },
    /// The store failed. With [`Unknown`](crate::error::StoreErrorKind::Unknown) the reset may have taken place; it
    /// may be repeated.
    Store(StoreError),
}

impl fmt::Display for ResetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { projection, known } if known.is_empty() => {
                write!(f, "there is no projection `{projection}` to reset: this engine keeps none")
            }
            Self::Unknown { projection, known } => {
                write!(
                    f,
                    "there is no projection `{projection}` to reset: this engine keeps `{}`",
                    known.join("`, `")
                )
            }
            Self::OwnTables { projection, database } => write!(
                f,
                "the projection `{projection}` keeps its data in tables of its own on {database}, which a reset cannot clear; give it another `name` and other tables, so that it is built from the start of the log"
            ),
            Self::Store(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ResetError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Store(error) => error.source(),
            Self::Unknown { .. } | Self::OwnTables { .. } => None,
        }
    }
}

impl From<StoreError> for ResetError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Engine {
    /// Builds a projection again from the start of the log. In one commit, its store removes the projection's
    /// documents, checkpoints, and recorded event names, and fences the program that moves it. Then this program
    /// records what it reads, and the projection continues from the start, in the background or by the next
    /// [`catch_up`](Self::catch_up).
    ///
    /// Use it after the log was rewound by a failover or a restore ([`ConsumerFault::Rewound`]), after it was
    /// replaced ([`ConsumerFault::OtherLog`]), or after you have changed how the projection folds its events. Until
    /// the projection has caught up, reads without a receipt return what is folded so far.
    ///
    /// A projection with [tables of its own](crate::projection::SqlProjection) is rejected, because only your code
    /// knows its tables.
    ///
    /// [`ConsumerFault::Rewound`]: super::ConsumerFault::Rewound
    /// [`ConsumerFault::OtherLog`]: super::ConsumerFault::OtherLog
    ///
    /// # Errors
    /// [`ResetError`] if the engine keeps no such projection, it has tables of its own, or its store fails or cannot
    /// reset one.
    pub async fn reset(&self, projection: &str) -> Result<(), ResetError> {
        let inner = &self.0.inner;
        let Some(follower) = inner.followers.get(projection) else {
            let known = inner.followers.keys().copied().collect();
            return Err(ResetError::Unknown { projection: projection.to_owned(), known });
        };
        if let Some(database) = follower.consumer().database() {
            return Err(ResetError::OwnTables { projection: follower.name(), database });
        }
        follower.reset(inner).await?;
        tracing::info!(projection, "a projection was reset: it is built again from the start of the log");
        Ok(())
    }
}
