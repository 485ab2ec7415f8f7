//! Other processes: this test binary once more, in which one test plays the child.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;

use cqrs::Engine;
use cqrs::engine::Stores;
use cqrs::sqlite::SqliteStore;

use crate::check::Told;
use crate::domain::{Answer, Request};

pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(2).enable_all().build().unwrap().block_on(future)
}

pub async fn open(file: &Path) -> Stores {
    Arc::new(SqliteStore::open(file).await.unwrap()).into()
}

/// A child's part and its file; `None` in the test run itself.
pub fn part() -> Option<(String, PathBuf)> {
    let part = std::env::var("CQRS_DURABLE_PART").ok()?;
    Some((part, std::env::var_os("CQRS_DURABLE_FILE").unwrap().into()))
}

/// A running child, and what it prints.
pub struct Process {
    pub child: Child,
    out: BufReader<ChildStdout>,
}

impl Process {
    pub fn start(test: &str, part: &str, file: &Path) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args([test, "--exact", "--nocapture", "--test-threads=1"]);
        command.env("CQRS_DURABLE_PART", part).env("CQRS_DURABLE_FILE", file);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Self { child, out }
    }

    /// What it says next; `None` when it has ended. The first may share its line with what the test
    /// runner prints, and the last may be cut off.
    pub fn hear(&mut self) -> Option<String> {
        let mut line = String::new();
        while self.out.read_line(&mut line).unwrap() > 0 {
            if line.ends_with('\n')
                && let Some(at) = line.find("> ")
            {
                return Some(line[at + 2..].trim_end().to_owned());
            }
            line.clear();
        }
        None
    }

    /// Hears it out, and whether it has ended well.
    pub fn hear_out(&mut self, told: &mut Told) -> bool {
        while let Some(line) = self.hear() {
            note(told, &line);
        }
        self.child.wait().unwrap().success()
    }
}

impl Drop for Process {
    /// None is left behind, not even a stopped one, when a test stops at a fault.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a child prints for its parent, before the next thing happens.
pub fn tell(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "> {line}").unwrap();
    out.flush().unwrap();
}

/// Keeps what a child has said of its requests.
pub fn note(told: &mut Told, line: &str) {
    let Some((word, request)) = line.split_once(' ') else { return };
    let Ok(request) = request.parse::<Request>() else { return };
    match word {
        "sent" => told.sent(request),
        "accepted" => told.answered(request, Answer::Accepted),
        "refused" => told.answered(request, Answer::Refused),
        _ => panic!("{line}"),
    }
}

/// Sends a request, and says so before and after.
pub async fn send(bank: &Engine, request: Request) {
    tell(&format!("sent {request}"));
    match request.send(bank).await {
        Ok(Answer::Accepted) => tell(&format!("accepted {request}")),
        Ok(Answer::Refused) => tell(&format!("refused {request}")),
        // As when it is not answered.
        Err(cqrs::ExecuteError::Conflict(_)) => {}
        Err(error) => panic!("{request}: {error:?}"),
    }
}
