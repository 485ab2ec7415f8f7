//! Which file is open: its name, and whether that name still leads to it.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::Metadata;
use std::io::ErrorKind;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use cqrs_core::error::StoreErrorKind;
use cqrs_core::store::LogId;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::error::Fault;
use crate::open;

/// Turns the name of a store's file into an absolute path without links, and refuses what cannot be one.
///
/// SQLite would open some of the refused names in another way: `file:…` as a URI with options, an empty name
/// as a temporary database. An absolute path is never a URI, and stays the same when the program changes its
/// working directory.
pub(crate) fn resolve(path: &Path) -> Result<PathBuf, Fault> {
    let invalid = |words: String| Err(Fault::new(StoreErrorKind::Invalid, words));
    let name = path.as_os_str().as_encoded_bytes();
    if name.is_empty() {
        return invalid("the name of the file is empty; write `sqlite:PATH`".to_owned());
    }
    if name == b":memory:" {
        return invalid("this store lives in a file; for a store in memory write `memory:`".to_owned());
    }
    if name.get(..5).is_some_and(|start| start.eq_ignore_ascii_case(b"file:")) {
        let words = "this is a URI, and this store takes only paths: write `sqlite:PATH`, without options. A file \
                     whose name begins with `file:` is `./file:…`";
        return invalid(words.to_owned());
    }
    if name.contains(&0) {
        return invalid("the path contains U+0000".to_owned());
    }
    let metadata = match path.metadata() {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => return resolve_new(path, name),
        Err(error) if error.kind() == ErrorKind::NotADirectory => {
            return invalid("a part of the path is a file, not a directory".to_owned());
        }
        Err(error) => return Err(unreadable(&error)),
    };
    if metadata.is_dir() {
        return invalid("it is a directory".to_owned());
    }
    if !metadata.is_file() {
        return invalid("it is not a regular file".to_owned());
    }
    if names(&metadata) > 1 {
        let words = format!(
            "the file has {} names (hard links), and SQLite keeps a WAL for each of them, which damages the file: \
             remove the other names, or copy the file",
            names(&metadata)
        );
        return invalid(words);
    }
    path.canonicalize().map_err(|error| unreadable(&error))
}

/// The path of a file that does not exist yet.
fn resolve_new(path: &Path, name: &[u8]) -> Result<PathBuf, Fault> {
    let invalid = |words: String| Err(Fault::new(StoreErrorKind::Invalid, words));
    if path.symlink_metadata().is_ok() {
        return invalid("it is a symbolic link to a file that does not exist".to_owned());
    }
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !directory.is_dir() {
        return invalid(format!("the directory {} does not exist; create it first", directory.display()));
    }
    match path.file_name() {
        Some(file) if !name.ends_with(b"/") => {
            let directory = directory.canonicalize().map_err(|error| unreadable(&error))?;
            Ok(directory.join(file))
        }
        _ => invalid("it is a directory that does not exist; name a file".to_owned()),
    }
}

fn unreadable(error: &std::io::Error) -> Fault {
    Fault::new(StoreErrorKind::Failed, format!("the file cannot be opened ({error})"))
}

/// The file next to the database whose name ends like this.
pub(crate) fn beside(database: &Path, end: impl AsRef<OsStr>) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(end);
    name.into()
}

/// How long a file is; 0 if it is not there.
pub(crate) fn length(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |file| file.len())
}

#[cfg(unix)]
fn names(file: &Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::nlink(file)
}

#[cfg(not(unix))]
fn names(_: &Metadata) -> u64 {
    1
}

/// What tells one file from another, whatever its name: device and inode.
type Id = (u64, u64);

/// What changes when a file is written to.
type Stamp = (u64, i64, i64, i64, i64);

#[cfg(unix)]
fn id(file: &Metadata) -> Id {
    use std::os::unix::fs::MetadataExt as _;
    (file.dev(), file.ino())
}

#[cfg(unix)]
fn stamp(file: &Metadata) -> Stamp {
    use std::os::unix::fs::MetadataExt as _;
    (file.size(), file.mtime(), file.mtime_nsec(), file.ctime(), file.ctime_nsec())
}

// Windows refuses to remove or replace a file that is open, so there is nothing to tell apart.
#[cfg(not(unix))]
fn id(_: &Metadata) -> Id {
    (0, 0)
}

#[cfg(not(unix))]
fn stamp(_: &Metadata) -> Stamp {
    (0, 0, 0, 0, 0)
}

/// The file behind a store's path, and what is known of it while it is open.
///
/// SQLite holds on to the file that it has opened. If that is deleted, moved or replaced, SQLite continues to
/// write to what no name leads to any more, or mixes the pages of two databases. So every append and every
/// read compares the file with what was opened: two calls of `stat`, about 2 µs.
#[derive(Debug)]
pub(crate) struct OpenFile {
    path: PathBuf,
    wal: PathBuf,
    state: Mutex<State>,
    /// What was found wrong. From then on every call fails with it.
    broken: OnceLock<Fault>,
}

#[derive(Debug, Default)]
struct State {
    main: Option<Id>,
    wal: Option<Id>,
    stamp: Option<Stamp>,
    /// What the main file said last.
    content: Option<Content>,
}

/// What the main file says of itself, without its WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) log: LogId,
    pub(crate) generation: i64,
}

/// Looks at the content again after so long, if another process may be writing it.
const AGAIN: Duration = Duration::from_millis(10);

impl OpenFile {
    pub(crate) fn new(path: PathBuf) -> Self {
        let wal = beside(&path, "-wal");
        Self { path, wal, state: Mutex::default(), broken: OnceLock::new() }
    }

    /// Takes the file that is there now for the one that is open. Called when the first connection is.
    pub(crate) fn opened(&self) -> Result<(), Fault> {
        let main = std::fs::metadata(&self.path).map_err(|error| unreadable(&error))?;
        let mut state = self.lock();
        match state.main {
            Some(known) if known != id(&main) => Err(self.fail(replaced())),
            _ => {
                state.main = Some(id(&main));
                Ok(())
            }
        }
    }

    /// Called when the last connection is closed: SQLite then removes the WAL.
    pub(crate) fn closed(&self) {
        self.lock().wal = None;
    }

    /// Refuses if the path leads to another file than the one that was opened, or its content was replaced.
    pub(crate) fn check(&self) -> Result<(), Fault> {
        if let Some(fault) = self.broken.get() {
            return Err(fault.clone());
        }
        let main = match std::fs::metadata(&self.path) {
            Ok(main) => main,
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(self.fail(deleted())),
            Err(error) => return Err(unreadable(&error)),
        };
        let mut state = self.lock();
        if state.main.is_some_and(|known| known != id(&main)) {
            return Err(self.fail(replaced()));
        }
        match (std::fs::metadata(&self.wal).map(|wal| id(&wal)), state.wal) {
            (Ok(wal), None) => state.wal = Some(wal),
            (Ok(wal), Some(known)) if wal == known => {}
            (Ok(_), Some(_)) => return Err(self.fail(wal_gone(&self.wal, "replaced"))),
            (Err(error), Some(_)) if error.kind() == ErrorKind::NotFound => {
                return Err(self.fail(wal_gone(&self.wal, "deleted or moved")));
            }
            (Err(_), _) => {}
        }
        if state.stamp != Some(stamp(&main)) {
            state.content = self.examine(state.content)?;
            state.stamp = Some(stamp(&main));
        }
        Ok(())
    }

    /// Reads what the main file says after it was written to: by a checkpoint, or by what overwrote it.
    fn examine(&self, before: Option<Content>) -> Result<Option<Content>, Fault> {
        let mut attempts = 5;
        loop {
            attempts -= 1;
            let fault = match (open::content(&self.path), before) {
                (Ok(now), Some(before))
                    if now.is_none_or(|now| now.log != before.log || now.generation < before.generation) =>
                {
                    overwritten()
                }
                (Ok(now), _) => return Ok(now),
                // Every database begins with the same bytes.
                (Err(fault), _) if fault.is(ErrorCode::NotADatabase) => overwritten(),
                // The main file alone may be damaged where a checkpoint was not finished: the WAL has those pages.
                (Err(fault), _) if fault.kind() == StoreErrorKind::Corrupt => return Ok(before),
                (Err(fault), _) => return Err(fault),
            };
            if attempts == 0 {
                return Err(self.fail(fault));
            }
            std::thread::sleep(AGAIN);
        }
    }

    /// Reports a fault, which stays.
    fn fail(&self, fault: Fault) -> Fault {
        let reported = || {
            tracing::error!(file = %self.path.display(), %fault, "the file is not the one that was opened");
            fault
        };
        self.broken.get_or_init(reported).clone()
    }

    // Nothing in here can be left half-changed by a panic.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const THEN: &str = "Stop all programs that use it, put the file back, and start them again";

fn deleted() -> Fault {
    Fault::corrupt(format!("the file was deleted or moved while it was open. {THEN}"))
}

fn replaced() -> Fault {
    Fault::corrupt(format!("the file was replaced by another one while it was open. {THEN}"))
}

fn overwritten() -> Fault {
    Fault::corrupt(format!("the file was overwritten with an older or another one while it was open. {THEN}"))
}

fn wal_gone(wal: &Path, how: &str) -> Fault {
    Fault::corrupt(format!("its WAL {} was {how} while it was open. {THEN}", wal.display()))
}

/// How many connections this process has to each file.
///
/// POSIX drops all locks that a process has on a file as soon as the process closes any descriptor of it. So
/// nothing here may read a file past SQLite that a store of this process has open.
static CONNECTIONS: Mutex<Option<HashMap<PathBuf, usize>>> = Mutex::new(None);

// Nothing in here can be left half-changed by a panic.
fn connections() -> MutexGuard<'static, Option<HashMap<PathBuf, usize>>> {
    CONNECTIONS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a check that opens and closes the file, unless this process has connections to it.
pub(crate) fn if_closed(path: &Path, check: impl FnOnce() -> Result<(), Fault>) -> Result<(), Fault> {
    let connections = connections();
    match connections.as_ref().is_some_and(|all| all.contains_key(path)) {
        true => Ok(()),
        false => check(),
    }
}

/// A connection that is counted as long as it is open.
#[derive(Debug)]
pub(crate) struct Conn {
    // Dropped first.
    conn: Connection,
    _counted: Counted,
}

impl Conn {
    /// Opens a connection to a file.
    pub(crate) fn open(path: &Path, flags: OpenFlags) -> Result<Self, Fault> {
        *connections().get_or_insert_default().entry(path.to_owned()).or_default() += 1;
        let counted = Counted(path.to_owned());
        Ok(Self { conn: Connection::open_with_flags(path, flags)?, _counted: counted })
    }
}

impl Deref for Conn {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.conn
    }
}

impl DerefMut for Conn {
    fn deref_mut(&mut self) -> &mut Connection {
        &mut self.conn
    }
}

#[derive(Debug)]
struct Counted(PathBuf);

impl Drop for Counted {
    fn drop(&mut self) {
        let mut connections = connections();
        let Some(all) = connections.as_mut() else { return };
        if let Some(count) = all.get_mut(&self.0) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.0);
            }
        }
    }
}
