//! The other end of a [session](crate::session): a contender's process, as who measures sees it.

use std::fs::File;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use crate::session::ANSWER;

/// A contender's process.
#[derive(Debug)]
pub struct Remote {
    child: Child,
    asks: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Remote {
    /// Starts this program once more, as `role` of the contender with this name. What it complains about goes
    /// to a file.
    pub fn start(role: &str, name: &str, complaints: &Path) -> Result<Self, String> {
        let log = File::options().create(true).append(true).open(complaints);
        let log = log.map_err(|error| format!("{}: {error}", complaints.display()))?;
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut command = Command::new(program);
        command.args([role, name]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
        let mut child = command.kill_on_drop(true).spawn().map_err(|error| error.to_string())?;
        let (asks, answers) = (child.stdin.take(), child.stdout.take());
        let (Some(asks), Some(answers)) = (asks, answers) else { return Err("no pipes".to_owned()) };
        Ok(Self { child, asks, answers: BufReader::new(answers).lines() })
    }

    /// Asks, and waits for the answer. After an error the process is of no use any more.
    pub async fn ask<T: DeserializeOwned>(
        &mut self,
        ask: &impl Serialize,
        deadline: Duration,
    ) -> Result<T, String> {
        let line = serde_json::to_string(ask).map_err(|error| error.to_string())? + "\n";
        let asked = async {
            self.asks.write_all(line.as_bytes()).await.map_err(|error| error.to_string())?;
            self.answer().await
        };
        let answered = timeout(deadline, asked).await;
        let answered = answered.unwrap_or_else(|_| Err(format!("no answer within {deadline:?}")));
        if answered.is_err() {
            // What goes on inside is not to disturb those who come after.
            drop(self.child.start_kill());
            drop(self.child.wait().await);
        }
        serde_json::from_value(answered?).map_err(|error| error.to_string())
    }

    async fn answer(&mut self) -> Result<Value, String> {
        while let Some(line) = self.answers.next_line().await.map_err(|error| error.to_string())? {
            if let Some(answered) = line.strip_prefix(ANSWER) {
                return serde_json::from_str(answered).map_err(|error| error.to_string())?;
            }
        }
        let status = self.child.wait().await.map_err(|error| error.to_string())?;
        Err(format!("its process ended: {status}"))
    }
}
