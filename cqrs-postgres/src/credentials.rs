//! User name and password of each new connection.
//!
//! In this order: what the program's own source returns, the URL, `PGPASSWORD`, a password file. All but the URL
//! are asked for each connection, so that a password can be changed while the program runs.

use std::error::Error;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cqrs_core::error::StoreErrorKind;
use cqrs_core::store::BoxFuture;
use tokio_postgres::Config;
use tokio_postgres::config::Host;

use crate::error::Fault;
use crate::limit::until;

/// The user name and the password of a connection, from a source such as
/// [`PostgresBuilder::credentials`](crate::PostgresBuilder::credentials).
#[derive(Clone)]
pub struct Credentials {
    user: Option<String>,
    password: String,
}

impl Credentials {
    /// Creates credentials with a password, or a token, for the user that the URL names.
    #[must_use]
    pub fn password(password: impl Into<String>) -> Self {
        Self { user: None, password: password.into() }
    }

    /// Sets the user name, which replaces the one in the URL.
    #[must_use]
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.user = Some(user.into());
        self
    }
}

impl fmt::Debug for Credentials {
    // Without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}

/// What a source returns.
pub(crate) type Answer = Result<Credentials, Box<dyn Error + Send + Sync>>;

/// A source of credentials.
pub(crate) type Ask = dyn Fn() -> BoxFuture<'static, Answer> + Send + Sync;

/// How long a source may take.
const LIMIT: Duration = Duration::from_secs(10);

/// Where passwords come from.
#[derive(Clone, Default)]
pub(crate) struct Passwords {
    pub(crate) source: Option<Arc<Ask>>,
    /// The password file that the URL names.
    pub(crate) file: Option<PathBuf>,
}

/// What a connection is made with. The configuration has the rest.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) user: Option<String>,
    pub(crate) password: Option<String>,
    /// What was wrong with a password file, for the case that the server does not let the user in.
    pub(crate) note: Option<String>,
}

impl Passwords {
    /// Finds the password for a configuration with one host.
    pub(crate) async fn find(&self, config: &Config) -> Result<Found, Fault> {
        if let Some(source) = &self.source {
            let failed = |kind, words: String| Err(Fault::new(kind, words));
            return match until(LIMIT, source()).await {
                Some(Ok(Credentials { user, password })) => {
                    Ok(Found { user, password: Some(password), note: None })
                }
                Some(Err(error)) => failed(
                    StoreErrorKind::Unavailable,
                    format!(
                        "the source of credentials failed ({error}); it is asked again for the next connection"
                    ),
                ),
                None => failed(
                    StoreErrorKind::Unavailable,
                    format!("the source of credentials did not answer within {} s", LIMIT.as_secs()),
                ),
            };
        }
        if config.get_password().is_some() {
            return Ok(Found::default());
        }
        Ok(self.outside(config, |name| std::env::var_os(name)))
    }

    /// What stands in the environment, or in a file.
    fn outside(&self, config: &Config, variable: impl Fn(&str) -> Option<OsString>) -> Found {
        let set = |name| variable(name).filter(|value| !value.is_empty());
        if let Some(password) = set("PGPASSWORD").and_then(|password| password.into_string().ok()) {
            return Found { password: Some(password), ..Found::default() };
        }
        let named = self.file.clone().or_else(|| set("PGPASSFILE").map(PathBuf::from));
        let is_named = named.is_some();
        let usual = || match cfg!(windows) {
            true => set("APPDATA").map(|home| Path::new(&home).join("postgresql").join("pgpass.conf")),
            false => set("HOME").map(|home| Path::new(&home).join(".pgpass")),
        };
        let Some(path) = named.or_else(usual) else { return Found::default() };
        match read(&path) {
            Ok(text) => {
                let user = config.get_user().map(OsString::from);
                let user = user.or_else(|| set("USER")).and_then(|user| user.into_string().ok());
                let wanted = wanted(config, user.unwrap_or_default());
                Found { password: look_up(&text, &wanted), ..Found::default() }
            }
            // The usual file need not be there.
            Err(None) if !is_named => Found::default(),
            Err(why) => {
                let why = why.unwrap_or_else(|| "it does not exist".to_owned());
                let note = format!("the password file {} was not used: {why}", path.display());
                Found { note: Some(note), ..Found::default() }
            }
        }
    }
}

/// The text of a password file; or why it is not used, and nothing if it is not there.
fn read(path: &Path) -> Result<String, Option<String>> {
    let data = match std::fs::metadata(path) {
        Ok(data) => data,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(None),
        Err(error) => return Err(Some(error.to_string())),
    };
    if !data.is_file() {
        return Err(Some("it is not a file".to_owned()));
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        if data.permissions().mode() & 0o077 != 0 {
            return Err(Some("its group or others have access to it; change its mode to 0600".to_owned()));
        }
    }
    std::fs::read_to_string(path).map_err(|error| Some(error.to_string()))
}

/// Host, port, database and user, as a line of a password file names them.
fn wanted(config: &Config, user: String) -> [String; 4] {
    let host = match (config.get_hosts().first(), config.get_hostaddrs().first()) {
        (Some(Host::Tcp(name)), _) => name.clone(),
        // As `libpq` has it: the usual directory of the socket is named like this machine.
        #[cfg(unix)]
        (Some(Host::Unix(path)), _)
            if [Path::new("/tmp"), Path::new("/var/run/postgresql")].contains(&path.as_path()) =>
        {
            "localhost".to_owned()
        }
        #[cfg(unix)]
        (Some(Host::Unix(path)), _) => path.display().to_string(),
        (None, Some(address)) => address.to_string(),
        (None, None) => String::new(),
    };
    let port = config.get_ports().first().copied().unwrap_or(5432).to_string();
    let database = config.get_dbname().unwrap_or(&user).to_owned();
    [host, port, database, user]
}

/// The password of the first line that fits.
fn look_up(text: &str, wanted: &[String; 4]) -> Option<String> {
    let lines = text.lines().map(|line| line.strip_suffix('\r').unwrap_or(line));
    let mut fitting = lines.filter(|line| !line.starts_with('#')).filter_map(|line| {
        let mut rest = line;
        for value in wanted {
            let (field, after) = field(rest)?;
            let after = after?;
            if field.as_deref().is_some_and(|field| field != value) {
                return None;
            }
            rest = after;
        }
        // What is left is the password, up to a colon that is not escaped.
        let mut password = String::new();
        let mut letters = rest.chars();
        while let Some(letter) = letters.next() {
            match letter {
                '\\' => password.extend(letters.next()),
                ':' => break,
                other => password.push(other),
            }
        }
        Some(password)
    });
    fitting.next()
}

/// The field at the beginning of a line, `None` for `*`, and what stands behind its colon.
fn field(line: &str) -> Option<(Option<String>, Option<&str>)> {
    if let Some(after) = line.strip_prefix("*:") {
        return Some((None, Some(after)));
    }
    let mut taken = String::new();
    let mut letters = line.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '\\' => taken.extend(letters.next().map(|(_, escaped)| escaped)),
            ':' => return Some((Some(taken), line.get(at + 1..))),
            other => taken.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(text: &str, [host, port, database, user]: [&str; 4]) -> Option<String> {
        look_up(text, &[host, port, database, user].map(str::to_owned))
    }

    #[test]
    fn a_password_file_is_read_as_libpq_reads_it() {
        let text = r"# host:port:database:user:password
db:5432:bank:ada:one
db:*:*:ada:two
*:*:other:*:a\:b\\c
[:1]:x
\:\:1:5432:bank:ada:six
*:*:*:bob:last:and more
";
        let cases = [
            (["db", "5432", "bank", "ada"], Some("one")),
            (["db", "5433", "bank", "ada"], Some("two")),
            (["x", "1", "other", "eve"], Some(r"a:b\c")),
            (["::1", "5432", "bank", "ada"], Some("six")),
            (["x", "1", "bank", "bob"], Some("last")),
            (["x", "1", "bank", "eve"], None),
            (["# host", "port", "database", "user"], None),
        ];
        for (wanted, password) in cases {
            assert_eq!(look(text, wanted).as_deref(), password, "{wanted:?}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_password_file_that_others_can_read_is_not_used() -> std::io::Result<()> {
        use std::os::unix::fs::PermissionsExt as _;
        let path = std::env::temp_dir().join(format!("cqrs-pgpass-{}", std::process::id()));
        std::fs::write(&path, "*:*:*:*:secret\n")?;
        let config = crate::url::parse("postgres://ada@db/bank").unwrap_or_default().config;
        let passwords = Passwords { source: None, file: Some(path.clone()) };
        let found = |mode| {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode))?;
            Ok::<_, std::io::Error>(passwords.outside(&config, |_| None))
        };
        assert_eq!(found(0o600)?.password.as_deref(), Some("secret"));
        for mode in [0o640, 0o604, 0o660] {
            let Found { password, note, .. } = found(mode)?;
            assert_eq!(password, None, "{mode:o}");
            assert!(note.is_some_and(|note| note.contains("0600")));
        }
        // What the environment says comes first, and a file that is named has to be there.
        let variable = |name: &str| (name == "PGPASSWORD").then(|| "other".into());
        assert_eq!(passwords.outside(&config, variable).password.as_deref(), Some("other"));
        std::fs::remove_file(&path)?;
        assert!(passwords.outside(&config, |_| None).note.is_some());
        let variable = |name: &str| (name == "HOME").then(|| "/nowhere".into());
        assert_eq!(Passwords::default().outside(&config, variable), Found::default());
        Ok(())
    }

    #[test]
    fn credentials_do_not_show_their_password() {
        let credentials = Credentials::password("secret").user("ada");
        assert_eq!(format!("{credentials:?}"), "Credentials { user: Some(\"ada\"), .. }");
    }
}
