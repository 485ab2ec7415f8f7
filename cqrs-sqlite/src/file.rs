//! The open file: resolves its path, and detects when the path no longer leads to it.

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

/// Returns whether a path is a URL, such as one of another kind of store. A path that starts with `.` or `/` is none.
fn is_url(path: &Path) -> bool {
    let text = path.to_string_lossy();
    !text.starts_with(['.', '/']) && text.contains("://")
}

/// A path for messages. A URL may hold a password, and so may `USER:PASSWORD@HOST`.
pub(crate) fn shown(path: &Path) -> String {
    let text = path.to_string_lossy();
    let is_path = text.starts_with(['.', '/']) && !text.starts_with("//");
    let is_secret = text.split_once(':').is_some_and(|(_, rest)| rest.contains('@'));
    if is_path || !(is_secret || is_url(path)) {
        return path.display().to_string();
    }
    "a text with `:`, which is not shown because it may have a password".to_owned()
}

/// Resolves the path of a store to an absolute path without symbolic links, and rejects invalid ones.
///
/// SQLite would interpret some of the rejected paths: `file:…` as a URI with options, an empty path as a temporary
/// database. An absolute path is never a URI, and stays valid when the program changes its working directory.
pub(crate) fn resolve(path: &Path) -> Result<PathBuf, Fault> {
    let invalid = |message: String| Err(Fault::new(StoreErrorKind::Invalid, message));
    let name = path.as_os_str().as_encoded_bytes();
    if name.trim_ascii().is_empty() {
        return invalid("the path is empty; write `sqlite:PATH`".to_owned());
    }
    if name.eq_ignore_ascii_case(b":memory:") {
        return invalid("the SQLite store needs a file; for an in-memory store write `memory:`".to_owned());
    }
    if name.get(..5).is_some_and(|start| start.eq_ignore_ascii_case(b"file:")) {
        let message = "the path is a URI; write `sqlite:PATH` without options, and `./file:…` for a file whose name \
                       starts with `file:`";
        return invalid(message.to_owned());
    }
    if name.get(..7).is_some_and(|start| start.eq_ignore_ascii_case(b"sqlite:")) {
        let message = "the path starts with `sqlite:`, as URLs for `Engine::open` do; write the path alone, and \
                       `./sqlite:…` for a file whose name starts with `sqlite:`";
        return invalid(message.to_owned());
    }
    if is_url(path) {
        let message = "the path is a URL; open a URL with `Engine::open`, and write `./` before a path with `://` in it";
        return invalid(message.to_owned());
    }
    if name.contains(&0) {
        return invalid("the path contains U+0000".to_owned());
    }
    if let Some(end) = ["-wal", "-shm", "-journal"].into_iter().find(|end| name.ends_with(end.as_bytes())) {
        let message =
            format!("SQLite gives files that end in `{end}` to a database; name the database itself");
        return invalid(message);
    }
    let metadata = match path.metadata() {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => return resolve_new(path, name),
        Err(error) if error.kind() == ErrorKind::NotADirectory => {
            return invalid("a component of the path is a file, not a directory".to_owned());
        }
        Err(error) => return Err(unreadable(&error)),
    };
    if metadata.is_dir() {
        return invalid("the path is a directory; name a file".to_owned());
    }
    if !metadata.is_file() {
        return invalid("the path is not a regular file".to_owned());
    }
    if link_count(&metadata) > 1 {
        let message = format!(
            "the file has {} names (hard links), and SQLite would keep a separate WAL for each, which damages the \
             file; remove the other links, or copy the file",
            link_count(&metadata)
        );
        return invalid(message);
    }
    path.canonicalize().map_err(|error| unreadable(&error))
}

/// Resolves the path of a file that does not exist yet.
fn resolve_new(path: &Path, name: &[u8]) -> Result<PathBuf, Fault> {
    let invalid = |message: String| Err(Fault::new(StoreErrorKind::Invalid, message));
    if path.symlink_metadata().is_ok() {
        return invalid("the path is a symbolic link to a file that does not exist".to_owned());
    }
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !directory.is_dir() {
        return invalid(format!("the directory {} does not exist; create it first", shown(directory)));
    }
    match path.file_name() {
        Some(file) if !name.ends_with(b"/") => {
            let directory = directory.canonicalize().map_err(|error| unreadable(&error))?;
            Ok(directory.join(file))
        }
        _ => invalid("the path is a directory that does not exist; name a file".to_owned()),
    }
}

fn unreadable(error: &std::io::Error) -> Fault {
    Fault::new(StoreErrorKind::Failed, format!("the file cannot be opened ({error})"))
}

/// Returns the path of the file next to the database with this suffix.
pub(crate) fn sibling(database: &Path, end: impl AsRef<OsStr>) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(end);
    name.into()
}

/// Returns the length of a file in bytes, or 0 if it does not exist.
pub(crate) fn length(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |file| file.len())
}

#[cfg(unix)]
fn link_count(file: &Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::nlink(file)
}

#[cfg(not(unix))]
fn link_count(_: &Metadata) -> u64 {
    1
}

/// Identifies a file whatever its name: device and inode.
type FileId = (u64, u64);

/// Changes when the file is written: size, modification time, and change time.
type Fingerprint = (u64, i64, i64, i64, i64);

#[cfg(unix)]
fn file_id(file: &Metadata) -> FileId {
    use std::os::unix::fs::MetadataExt as _;
    (file.dev(), file.ino())
}

#[cfg(unix)]
fn fingerprint(file: &Metadata) -> Fingerprint {
    use std::os::unix::fs::MetadataExt as _;
    (file.size(), file.mtime(), file.mtime_nsec(), file.ctime(), file.ctime_nsec())
}

// Windows does not allow removing or replacing an open file, so there is nothing to compare.
#[cfg(not(unix))]
fn file_id(_: &Metadata) -> FileId {
    (0, 0)
}

#[cfg(not(unix))]
fn fingerprint(_: &Metadata) -> Fingerprint {
    (0, 0, 0, 0, 0)
}

/// The open file of a store, and what is known about it.
///
/// SQLite keeps using the file that it opened. If that file is deleted, moved, or replaced, SQLite writes to a
/// file without a name, or mixes the pages of two databases. Every append and every read therefore compares the
/// file at the path with the opened one: two calls of `stat`, about 2 µs.
#[derive(Debug)]
pub(crate) struct OpenFile {
    path: PathBuf,
    wal: PathBuf,
    state: Mutex<State>,
    /// The first problem found. Every later call fails with it.
    broken: OnceLock<Fault>,
}

#[derive(Debug, Default)]
struct State {
    main: Option<FileId>,
    wal: Option<FileId>,
    fingerprint: Option<Fingerprint>,
    /// The content of the main file at the last check.
    content: Option<Content>,
}

/// The identity of the log in the main file, read without its WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) log: LogId,
    pub(crate) generation: i64,
}

/// Pause before the main file is read again, in case another process is writing to it.
const REREAD_PAUSE: Duration = Duration::from_millis(10);

impl OpenFile {
    pub(crate) fn new(path: PathBuf) -> Self {
        let wal = sibling(&path, "-wal");
        Self { path, wal, state: Mutex::default(), broken: OnceLock::new() }
    }

    /// Records the file at the path as the open one. Call it after the first connection is opened.
    pub(crate) fn opened(&self) -> Result<(), Fault> {
        let main = std::fs::metadata(&self.path).map_err(|error| unreadable(&error))?;
        let mut state = self.lock();
        match state.main {
            Some(known) if known != file_id(&main) => Err(self.fail(replaced())),
            _ => {
                state.main = Some(file_id(&main));
                Ok(())
            }
        }
    }

    /// Records that the last connection is closed. SQLite then removes the WAL.
    pub(crate) fn closed(&self) {
        self.lock().wal = None;
    }

    /// Fails if the path leads to another file than the opened one, or if the content was replaced.
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
        if state.main.is_some_and(|known| known != file_id(&main)) {
            return Err(self.fail(replaced()));
        }
        match (std::fs::metadata(&self.wal).map(|wal| file_id(&wal)), state.wal) {
            (Ok(wal), None) => state.wal = Some(wal),
            (Ok(wal), Some(known)) if wal == known => {}
            (Ok(_), Some(_)) => return Err(self.fail(wal_lost(&self.wal, "replaced"))),
            (Err(error), Some(_)) if error.kind() == ErrorKind::NotFound => {
                return Err(self.fail(wal_lost(&self.wal, "deleted or moved")));
            }
            (Err(_), _) => {}
        }
        if state.fingerprint != Some(fingerprint(&main)) {
            state.content = self.examine(state.content)?;
            state.fingerprint = Some(fingerprint(&main));
        }
        Ok(())
    }

    /// Reads the main file again after a write, which was a checkpoint or a replacement of its content.
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
                // Every SQLite database starts with the same bytes.
                (Err(fault), _) if fault.is(ErrorCode::NotADatabase) => overwritten(),
                // After an unfinished checkpoint the main file alone may be damaged; the WAL has those pages.
                (Err(fault), _) if fault.kind() == StoreErrorKind::Corrupt => return Ok(before),
                (Err(fault), _) => return Err(fault),
            };
            if attempts == 0 {
                return Err(self.fail(fault));
            }
            std::thread::sleep(REREAD_PAUSE);
        }
    }

    /// Logs the first problem, and makes it permanent.
    fn fail(&self, fault: Fault) -> Fault {
        let reported = || {
            tracing::error!(file = %self.path.display(), %fault, "the file at the path is not the one that was opened");
            fault
        };
        self.broken.get_or_init(reported).clone()
    }

    // A panic cannot leave the state half-changed.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const RECOVERY: &str = "stop all programs that use it, restore the file, and restart them";

fn deleted() -> Fault {
    Fault::corrupt(format!("the file was deleted or moved while it was open; {RECOVERY}"))
}

fn replaced() -> Fault {
    Fault::corrupt(format!("the file was replaced while it was open; {RECOVERY}"))
}

fn overwritten() -> Fault {
    Fault::corrupt(format!(
        "the file was overwritten with other or older content while it was open; {RECOVERY}"
    ))
}

fn wal_lost(wal: &Path, how: &str) -> Fault {
    Fault::corrupt(format!("the WAL {} was {how} while it was open; {RECOVERY}", wal.display()))
}

/// The number of connections that this process has to each file.
///
/// POSIX releases all locks of a process on a file when the process closes any descriptor of it. Code outside of
/// SQLite must therefore not read a file that a store of this process has open.
static CONNECTIONS: Mutex<Option<HashMap<PathBuf, usize>>> = Mutex::new(None);

// A panic cannot leave the map half-changed.
fn connections() -> MutexGuard<'static, Option<HashMap<PathBuf, usize>>> {
    CONNECTIONS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a check that opens and closes the file, unless this process has connections to the file.
pub(crate) fn if_closed(path: &Path, check: impl FnOnce() -> Result<(), Fault>) -> Result<(), Fault> {
    let connections = connections();
    match connections.as_ref().is_some_and(|all| all.contains_key(path)) {
        true => Ok(()),
        false => check(),
    }
}

/// A connection that is counted while it is open.
#[derive(Debug)]
pub(crate) struct Conn {
    // Dropped before the counter.
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
