//! Ending an engine, and what it could not wait for.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::{Engine, Inner, Running, Timeouts};
use crate::id::StreamId;
use crate::timer;

/// What [`Engine::shutdown`] gave up waiting for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Shutdown {
    /// Commands that did not end in time, by stream. One whose append was on its way may take effect; the others
    /// append nothing any more.
    pub commands: Vec<AbandonedCommand>,
    /// The number of further commands that were still in their first poll on another thread, such as a handler that
    /// blocks its thread. The engine learns the name of a command when it first waits. One whose append was on its way
    /// may take effect; the others append nothing any more.
    pub unnamed_commands: usize,
    /// The number of snapshots that were still being made.
    pub snapshots: usize,
    /// Projections whose batch did not end in time, by name. They continue from their checkpoints when the store is
    /// opened again.
    pub projections: Vec<&'static str>,
}

impl Shutdown {
    /// Whether everything ended in time.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.commands.is_empty()
            && self.unnamed_commands == 0
            && self.snapshots == 0
            && self.projections.is_empty()
    }
}

/// A command that [`Engine::shutdown`] gave up waiting for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AbandonedCommand {
    /// The command's name.
    pub command: &'static str,
    /// Its stream.
    pub stream: StreamId,
}

impl fmt::Display for Shutdown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_complete() {
            return f.write_str("everything ended in time");
        }
        f.write_str("abandoned")?;
        let mut separator = " ";
        for AbandonedCommand { command, stream } in &self.commands {
            write!(f, "{separator}the command `{command}` on {stream}")?;
            separator = ", ";
        }
        match self.unnamed_commands {
            0 => {}
            1 => write!(f, "{separator}1 command in its first poll, which blocks its thread")?,
            many => write!(f, "{separator}{many} commands in their first poll, which block their threads")?,
        }
        if self.unnamed_commands > 0 {
            separator = ", ";
        }
        for projection in &self.projections {
            write!(f, "{separator}a batch of the projection `{projection}`")?;
            separator = ", ";
        }
        match self.snapshots {
            0 => Ok(()),
            snapshots => write!(f, "{separator}{snapshots} snapshots"),
        }
    }
}

impl Engine {
    /// Rejects new commands and waits for those that were accepted, for the snapshots that are being made, and for
    /// the batches of projections. Then it closes the stores, so that an SQLite file can be copied. Reads continue to
    /// work, and open again what they need.
    ///
    /// It waits for at most [`Timeouts::shutdown`](super::Timeouts::shutdown). What has not ended by then is
    /// abandoned, and the result names it, such as a handler whose service does not answer. If only commands are left
    /// that are not polled, it abandons them after one and a half times [`Timeouts::turn`](super::Timeouts::turn).
    pub async fn shutdown(&self) -> Shutdown {
        let inner = &self.0.inner;
        let Timeouts { shutdown: limit, turn, .. } = inner.timeouts;
        let since = Instant::now();
        let left = || limit.saturating_sub(since.elapsed());
        let mut abandoned = Shutdown::default();
        if !inner.gate.close(limit, turn).await {
            let named = |(command, stream)| AbandonedCommand { command, stream };
            let (commands, unnamed) = inner.gate.abandon();
            abandoned.commands = commands.into_iter().map(named).collect();
            abandoned.unnamed_commands = unnamed;
        }
        if timer::timeout(left(), inner.saves.finish()).await.is_none() {
            abandoned.snapshots = inner.saves.abandon();
        }
        self.0.stop.send_replace(true);
        // Nothing is held meanwhile: this future may be dropped or not polled, and another call waits as well.
        let tasks = lock(&self.0.running).clone();
        for Running { projection, task, mut ended } in tasks {
            // Nothing is ever sent: the wait ends with the task, also if it has panicked.
            if timer::timeout(left(), ended.changed()).await.is_none() {
                task.abort();
                abandoned.projections.push(projection);
            }
            lock(&self.0.running).retain(|running| running.projection != projection);
        }
        inner.close_stores().await;
        abandoned.projections.sort_unstable();
        if !abandoned.is_complete() {
            tracing::warn!(?limit, %abandoned, "the engine was shut down before everything had ended");
        }
        abandoned
    }
}

fn lock(running: &Mutex<Vec<Running>>) -> MutexGuard<'_, Vec<Running>> {
    running.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inner {
    /// Has both stores write back what they keep elsewhere, within [`Timeouts::store`](super::Timeouts::store).
    async fn close_stores(&self) {
        for (store, closed) in
            [("log", self.log.close().await), ("read models", self.documents.close().await)]
        {
            if let Err(error) = closed {
                tracing::warn!(store, %error, "the store was not closed cleanly");
            }
        }
    }
}
