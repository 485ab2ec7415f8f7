//! A temporary PostgreSQL cluster for tests and benchmarks: made on a free port of this machine, and
//! gone with the process that asked for it, however that ends.
//!
//! The server's programs are looked for beside `initdb` in the `PATH`, by `pg_config --bindir`, and
//! where Debian puts them. PostgreSQL refuses to run as root; then it runs as the user `postgres`, or
//! `nobody` if there is none.

#![forbid(unsafe_code)]
#![allow(clippy::panic, reason = "a test that cannot have its server stops")]
#![cfg(unix)]

mod proxy;

use std::ffi::OsStr;
use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

pub use self::proxy::{Counts, Proxy};

/// The superuser of each cluster. Over TCP it needs [`PASSWORD`], over the socket none.
pub const USER: &str = "postgres";
/// The password of [`USER`].
pub const PASSWORD: &str = "secret";

/// The server that all tests of one binary share, or `None` where there is none and this is not a CI run:
/// then the test is [skipped](skip) visibly.
///
/// `CQRS_POSTGRES_URL` names a server to use instead, by a user who may create databases: a database is made
/// there, and dropped with this process. What needs a server of its own takes [`made`] or [`own`].
///
/// # Panics
/// If a server is there but does not start, or if none is there and the variable `CI` is set: where
/// all has to hold, nothing is left out silently.
pub fn shared() -> Option<&'static Cluster> {
    static SHARED: OnceLock<Option<Cluster>> = OnceLock::new();
    let Ok(url) = std::env::var("CQRS_POSTGRES_URL") else { return made() };
    SHARED.get_or_init(|| Some(elsewhere(&url))).as_ref()
}

/// A server that all tests of one binary share and that was made here, whatever `CQRS_POSTGRES_URL` names:
/// it can be stopped, and knows its users. Else as [`shared`].
///
/// # Panics
/// As [`shared`].
pub fn made() -> Option<&'static Cluster> {
    static MADE: OnceLock<Option<Cluster>> = OnceLock::new();
    if programs().is_none() {
        // Each test says so for itself.
        return own(&[]).and(None);
    }
    MADE.get_or_init(|| own(&[])).as_ref()
}

/// Says that the test that calls this is skipped, and why, where it is seen: on the standard error itself, which the
/// harness does not capture as it does what `println!` and `eprintln!` write. The test is to return then.
///
/// # Panics
/// Where the variable `CI` is set, unless to `false`: there nothing may be left out.
pub fn skip(reason: &str) {
    let is_ci = std::env::var_os("CI").is_some_and(|ci| !ci.is_empty() && ci != "false");
    assert!(!is_ci, "skipped, and this is CI: {reason}");
    report_skip(reason);
}

/// As [`skip`], for a test that needs a data set that is not part of the repository: it may be missing in CI too.
pub fn skip_without_data(reason: &str) {
    report_skip(reason);
}

fn report_skip(reason: &str) {
    let thread = std::thread::current();
    let line = format!("\nSKIPPED {}: {reason}\n", thread.name().unwrap_or("a test"));
    // Nobody is told if the standard error is closed.
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// A server of the caller's own, with settings such as `("fsync", "on")`. Else as [`made`].
///
/// # Panics
/// As [`shared`].
#[must_use]
pub fn own(settings: &[(&str, &str)]) -> Option<Cluster> {
    let Some(programs) = programs() else {
        skip("no PostgreSQL server is installed here");
        return None;
    };
    match Server::start(programs, settings) {
        Ok(server) => Some(Cluster { url: server.url(USER, PASSWORD, "postgres"), home: Home::Made(server) }),
        Err(words) => panic!("no cluster can be made: {words}"),
    }
}

/// A database of this process on a server that was named.
fn elsewhere(url: &str) -> Cluster {
    match Database::create(url) {
        Ok(database) => Cluster { url: database.url.clone(), home: Home::Named(database) },
        Err(words) => panic!("CQRS_POSTGRES_URL: no database can be made there: {words}"),
    }
}

/// Where tests work.
#[derive(Debug)]
pub struct Cluster {
    url: String,
    home: Home,
}

#[derive(Debug)]
enum Home {
    Made(Server),
    Named(Database),
}

impl Cluster {
    /// The URL of the superuser, or of the user who was named.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Returns the URL of a schema of its own, whose name begins with `prefix`. Statements without a schema, such as
    /// those of projections with tables of their own, use it too.
    #[must_use]
    pub fn schema_url(&self, prefix: &str) -> String {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let schema = format!("{prefix}_{}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        format!("{}?schema={schema}&options=-csearch_path%3D{schema}", self.url())
    }

    /// What only a server that was made here can do.
    ///
    /// # Panics
    /// If it was named by the environment: whoever asks for this takes [`made`] or [`own`].
    #[must_use]
    pub fn server(&self) -> &Server {
        match &self.home {
            Home::Made(server) => server,
            Home::Named(database) => panic!("{} was not made here", database.name),
        }
    }
}

/// A database that is dropped with this process, however that ends.
#[derive(Debug)]
struct Database {
    url: String,
    name: String,
    watchdog: Child,
}

impl Database {
    fn create(server: &str) -> Result<Self, String> {
        let name = unique("cqrs-tests").replace('-', "_");
        let url = with_database(server, &name).ok_or("it is not a URL with a host")?;
        let psql = programs().map(|dir| dir.join("psql")).filter(|psql| psql.is_file());
        let psql = psql.unwrap_or_else(|| PathBuf::from("psql"));
        let run = |sql: &str| {
            let mut command = Command::new(&psql);
            command.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", server, "-c", sql]);
            command
        };
        finish(&mut run(&format!("CREATE DATABASE {name}")))?;
        let mut shell = Command::new("/bin/sh");
        let script = r#"trap '' INT TERM HUP
            cat >/dev/null
            "$0" -X -q -d "$1" -c "DROP DATABASE $2 WITH (FORCE)" >/dev/null 2>&1"#;
        shell.arg("-c").arg(script).arg(&psql).args([server, &name]);
        Ok(Self { url, name, watchdog: spawn_watchdog(shell)? })
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        drop(self.watchdog.stdin.take());
        let _ = self.watchdog.wait();
    }
}

/// The URL with another database.
fn with_database(url: &str, name: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let (place, options) =
        rest.split_once('?').map_or((rest, None), |(place, options)| (place, Some(options)));
    let host = place.split('/').next()?;
    let options = options.map_or_else(String::new, |options| format!("?{options}"));
    Some(format!("{scheme}://{host}/{name}{options}"))
}

/// A server that this process has made.
#[derive(Debug)]
pub struct Server {
    programs: PathBuf,
    dir: PathBuf,
    port: u16,
    user: Option<(u32, u32)>,
    watchdog: Child,
}

impl Server {
    fn start(programs: PathBuf, settings: &[(&str, &str)]) -> Result<Self, String> {
        let user = unprivileged()?;
        let dir = directory(user)?;
        let watchdog = watchdog(&programs, &dir, user)?;
        let server = Self { programs, dir, port: free_port()?, user, watchdog };
        server.init(settings)?;
        server.go()?;
        Ok(server)
    }

    fn init(&self, settings: &[(&str, &str)]) -> Result<(), String> {
        let password = self.dir.join("password");
        std::fs::write(&password, PASSWORD).map_err(|error| error.to_string())?;
        // The password goes as it is: in a build without optimization, proving it without showing it takes
        // most of the time that a connection takes.
        let mut initdb = self.program("initdb");
        initdb.arg("-D").arg(self.data()).arg(format!("--pwfile={}", password.display()));
        initdb.args(["-U", USER, "-E", "UTF8", "--locale=C", "--no-sync"]);
        initdb.args(["--auth-local=trust", "--auth-host=password"]);
        finish(&mut initdb).map(drop)?;
        let fixed = [
            ("listen_addresses", "127.0.0.1"),
            ("unix_socket_directories", &self.dir.display().to_string()),
            ("port", &self.port.to_string()),
            ("max_connections", "300"),
            // What tests hold and stop; none of them pulls the plug of the machine.
            ("fsync", "off"),
            ("max_prepared_transactions", "20"),
            ("shared_buffers", "256MB"),
        ];
        let all = fixed.iter().chain(settings);
        let lines: String =
            all.map(|(name, value)| format!("{name} = '{}'\n", value.replace('\'', "''"))).collect();
        let file = self.data().join("postgresql.conf");
        let text = std::fs::read_to_string(&file).map_err(|error| error.to_string())?;
        std::fs::write(&file, text + &lines).map_err(|error| error.to_string())
    }

    /// Starts the server once more, after [`stop`](Self::stop); waits until it answers.
    ///
    /// # Errors
    /// What `pg_ctl` says.
    pub fn go(&self) -> Result<(), String> {
        let log = self.dir.join("log");
        let mut start = self.program("pg_ctl");
        start.arg("-D").arg(self.data()).arg("-l").arg(&log).args(["-w", "-t", "180", "start"]);
        let started = finish(&mut start).map(drop);
        started.map_err(|words| words + "\n" + &std::fs::read_to_string(log).unwrap_or_default())
    }

    /// Stops the server, in one of `pg_ctl`'s modes: `smart`, `fast` or `immediate`, which is a crash.
    ///
    /// # Errors
    /// What `pg_ctl` says.
    pub fn stop(&self, mode: &str) -> Result<(), String> {
        finish(
            self.program("pg_ctl").arg("-D").arg(self.data()).args(["-m", mode, "-w", "-t", "180", "stop"]),
        )
        .map(drop)
    }

    /// Has the server read its files once more.
    ///
    /// # Errors
    /// What `pg_ctl` says.
    pub fn reload(&self) -> Result<(), String> {
        finish(self.program("pg_ctl").arg("-D").arg(self.data()).arg("reload")).map(drop)
    }

    /// A URL of this server.
    #[must_use]
    pub fn url(&self, user: &str, password: &str, database: &str) -> String {
        format!("postgres://{user}:{password}@127.0.0.1:{}/{database}", self.port)
    }

    /// The port that it listens on, at 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where it keeps its data.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// A directory that its user may write to and that is removed with it: its log, its socket, and
    /// room for a standby.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// One of PostgreSQL's programs, run as the server's user.
    #[must_use]
    pub fn program(&self, name: &str) -> Command {
        as_user(self.programs.join(name), self.user, &self.dir)
    }

    /// Another program, run as the server's user.
    #[must_use]
    pub fn as_its_user(&self, program: impl AsRef<Path>) -> Command {
        as_user(program.as_ref().to_owned(), self.user, &self.dir)
    }

    /// Runs statements as the superuser on a database, and gives what they print, unadorned.
    ///
    /// # Errors
    /// What `psql` says.
    pub fn psql(&self, database: &str, sql: &str) -> Result<String, String> {
        let mut psql = self.program("psql");
        psql.args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-h"]).arg(&self.dir);
        psql.args(["-p", &self.port.to_string(), "-U", USER, "-d", database, "-c", sql]);
        finish(&mut psql)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The watchdog stops the server when its standard input ends, and leaves when it is done.
        drop(self.watchdog.stdin.take());
        let _ = self.watchdog.wait();
    }
}

/// Stops the server and removes its files as soon as this process is gone.
fn watchdog(programs: &Path, dir: &Path, user: Option<(u32, u32)>) -> Result<Child, String> {
    let script = r#"trap '' INT TERM HUP
        cat >/dev/null
        "$0/pg_ctl" -D "$1/data" -m immediate -w stop >/dev/null 2>&1
        rm -rf "$1""#;
    let mut shell = as_user(PathBuf::from("/bin/sh"), user, Path::new("/"));
    shell.arg("-c").arg(script).arg(programs).arg(dir);
    spawn_watchdog(shell)
}

fn spawn_watchdog(mut shell: Command) -> Result<Child, String> {
    // In a group of its own, so that what ends the tests does not end it.
    shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    shell.spawn().map_err(|error| format!("no shell can be started: {error}"))
}

fn as_user(program: PathBuf, user: Option<(u32, u32)>, dir: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(dir).env("LC_ALL", "C").env_remove("PGDATA").env_remove("PGHOST");
    if let Some((uid, gid)) = user {
        command.uid(uid).gid(gid);
    }
    command
}

/// Waits for the program's end, and gives what it printed.
fn finish(command: &mut Command) -> Result<String, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    // A file and not a pipe: the server inherits it, and a pipe would not end before the server does.
    let (path, file) = scratch().map_err(|error| error.to_string())?;
    let errors = file.try_clone().map_err(|error| error.to_string())?;
    let status = command.stdin(Stdio::null()).stdout(file).stderr(errors).status();
    let printed = std::fs::read_to_string(&path).unwrap_or_default();
    let _ = std::fs::remove_file(path);
    match status {
        Ok(status) if status.success() => Ok(printed.trim_end().to_owned()),
        Ok(status) => Err(format!("{name}: {status}\n{printed}")),
        Err(error) => Err(format!("{name}: {error}")),
    }
}

fn scratch() -> std::io::Result<(PathBuf, std::fs::File)> {
    let path = std::env::temp_dir().join(unique("pg-cluster-out"));
    let file = std::fs::OpenOptions::new().read(true).append(true).create_new(true).open(&path)?;
    Ok((path, file))
}

fn unique(prefix: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos());
    format!("{prefix}-{}-{}-{time:x}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

fn directory(user: Option<(u32, u32)>) -> Result<PathBuf, String> {
    let dir = std::env::temp_dir().join(unique("pg-cluster"));
    let made = std::fs::create_dir(&dir)
        .and_then(|()| std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755)))
        .and_then(|()| user.map_or(Ok(()), |(uid, gid)| chown(&dir, Some(uid), Some(gid))));
    made.map(|()| dir).map_err(|error| format!("no directory can be made: {error}"))
}

/// Somebody to run the server as, if this process runs as root.
fn unprivileged() -> Result<Option<(u32, u32)>, String> {
    let id = |arguments: &[&str]| {
        let done = Command::new("id").args(arguments).output().ok().filter(|done| done.status.success())?;
        String::from_utf8_lossy(&done.stdout).trim().parse::<u32>().ok()
    };
    if id(&["-u"]) != Some(0) {
        return Ok(None);
    }
    let one = |name| Some((id(&["-u", name])?, id(&["-g", name])?));
    let user = one("postgres").or_else(|| one("nobody"));
    user.map(Some).ok_or_else(|| "there is no user to run the server as".to_owned())
}

/// A port of 127.0.0.1 that nobody listens on. It is none of those that connections are given, or one that
/// looks for a server that is stopped could be given its port, and keep it.
///
/// # Errors
/// If none is found.
pub fn free_port() -> Result<u16, String> {
    let from = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.subsec_nanos());
    let from = from.wrapping_add(std::process::id().wrapping_mul(7_919));
    let ports = (0..200).map(|step: u32| 12_000 + (from.wrapping_add(step * 8_191) % 20_000) as u16);
    let mut free = ports.filter(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok());
    free.next().ok_or_else(|| "no port is free".to_owned())
}

/// Where the server's programs are.
fn programs() -> Option<PathBuf> {
    let complete = |dir: &Path| ["initdb", "pg_ctl", "postgres"].iter().all(|name| dir.join(name).is_file());
    in_path().or_else(by_config).or_else(debian).filter(|dir| complete(dir))
}

/// Behind the links: what lies beside the program itself is complete.
fn in_path() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let found = std::env::split_paths(&path).map(|dir| dir.join("initdb")).find(|file| file.is_file())?;
    Some(std::fs::canonicalize(found).ok()?.parent()?.to_owned())
}

fn by_config() -> Option<PathBuf> {
    let done = Command::new("pg_config").arg("--bindir").output().ok()?;
    let dir = PathBuf::from(String::from_utf8(done.stdout).ok()?.trim());
    dir.join("initdb").is_file().then_some(dir)
}

/// The newest of `/usr/lib/postgresql/*/bin`.
fn debian() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?.flatten().map(|entry| entry.path());
    let number = |path: &Path| path.file_name().and_then(OsStr::to_str)?.parse::<u32>().ok();
    let newest = versions.filter_map(|path| Some((number(&path)?, path))).max()?;
    Some(newest.1.join("bin")).filter(|dir| dir.join("initdb").is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the test below in a process of its own, and gives whether it passed and what is seen of it.
    fn seen(variables: &[(&str, &str)]) -> (bool, String) {
        let mut test = Command::new(std::env::current_exe().unwrap_or_default());
        test.args(["--exact", "tests::a_test_that_skips", "--ignored"]).env_remove("CI");
        let done = test.envs(variables.iter().copied()).output();
        done.map_or_else(
            |error| (false, error.to_string()),
            |done| (done.status.success(), String::from_utf8_lossy(&done.stderr).into_owned()),
        )
    }

    #[test]
    #[ignore = "run by the next one"]
    fn a_test_that_skips() {
        skip("there is no moon");
    }

    #[test]
    fn what_is_skipped_is_seen_and_fails_in_ci() {
        let (passed, seen_of_it) = seen(&[]);
        assert!(
            passed && seen_of_it.contains("SKIPPED tests::a_test_that_skips: there is no moon"),
            "{seen_of_it}"
        );
        assert!(!seen(&[("CI", "true")]).0);
        assert!(seen(&[("CI", "false")]).0);
    }

    #[test]
    fn a_cluster_answers_and_is_gone_with_its_owner() {
        let Some(cluster) = own(&[("work_mem", "7MB")]) else { return };
        let server = cluster.server();
        assert_eq!(server.psql("postgres", "SHOW work_mem"), Ok("7MB".to_owned()));
        assert_eq!(server.stop("immediate"), Ok(()));
        assert!(server.psql("postgres", "SELECT 1").is_err());
        assert!(server.go().is_ok());
        assert_eq!(server.psql("postgres", "SELECT 1"), Ok("1".to_owned()));
        let dir = server.dir().to_owned();
        drop(cluster);
        assert!(!dir.exists());
    }

    #[test]
    fn a_database_on_a_server_that_is_named_is_gone_with_its_owner() {
        let Some(cluster) = own(&[]) else { return };
        let server = cluster.server();
        let count = || server.psql("postgres", "SELECT count(*) FROM pg_database WHERE datname LIKE 'cqrs%'");
        let named = elsewhere(&format!("{}?application_name=x", cluster.url()));
        assert!(named.url().ends_with("?application_name=x") && named.url().contains("/cqrs_tests_"));
        assert_eq!(count(), Ok("1".to_owned()));
        drop(named);
        assert_eq!(count(), Ok("0".to_owned()));
    }
}
