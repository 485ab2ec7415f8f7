//! What a URL, or a connection string in the form `key=value`, says about the server and the store.
//!
//! No message has a part of the text itself: a password that is not percent-encoded may be anywhere in it. What
//! is shown comes from the configuration, once that is understood.

use std::path::PathBuf;
use std::str::FromStr as _;

use cqrs_core::error::StoreErrorKind;
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};

use crate::error::Fault;

/// A URL, taken apart.
#[derive(Default)]
pub(crate) struct Asked {
    pub(crate) config: Config,
    /// Whether the URL says how far TLS is used, and what.
    pub(crate) ssl: Option<SslMode>,
    pub(crate) files: Files,
    pub(crate) passfile: Option<PathBuf>,
    pub(crate) schema: Option<String>,
    pub(crate) partitions: Option<u16>,
    pub(crate) bouncer: bool,
}

/// The files of TLS, in PEM.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Files {
    /// The authorities that are trusted.
    pub(crate) roots: Option<PathBuf>,
    /// The certificate of this client.
    pub(crate) certificate: Option<PathBuf>,
    /// Its private key.
    pub(crate) key: Option<PathBuf>,
}

/// What the driver takes as it is.
const DRIVERS: [&str; 13] = [
    "application_name",
    "channel_binding",
    "connect_timeout",
    "dbname",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_retries",
    "load_balance_hosts",
    "options",
    "sslnegotiation",
    "tcp_user_timeout",
    "target_session_attrs",
];

/// Takes a URL or a connection string apart.
pub(crate) fn parse(text: &str) -> Result<Asked, Fault> {
    let parts = match ["postgres://", "postgresql://"].iter().find_map(|scheme| without(scheme, text)) {
        Some(rest) => of_url(rest)?,
        None if text.contains("://") || text.starts_with("postgres") => {
            return Err(invalid("it does not begin with `postgres://` or `postgresql://`"));
        }
        None => of_pairs(text)?,
    };
    let asked = understand(parts)?;
    check(&asked.config)?;
    Ok(asked)
}

/// Returns the text after a scheme, which may be in capitals.
fn without<'t>(scheme: &str, text: &'t str) -> Option<&'t str> {
    let (start, rest) = text.split_at_checked(scheme.len())?;
    start.eq_ignore_ascii_case(scheme).then_some(rest)
}

/// The parts of either form.
#[derive(Default)]
struct Parts {
    user: Option<String>,
    password: Option<Vec<u8>>,
    hosts: Vec<String>,
    hostaddrs: Vec<String>,
    ports: Vec<String>,
    /// All others, by their names.
    options: Vec<(String, String)>,
    /// Whether what is not understood may be a piece of a password.
    is_secret: bool,
}

impl Parts {
    fn add(&mut self, name: String, value: Vec<u8>) -> Result<(), Fault> {
        if name == "password" {
            self.password = Some(value);
            self.is_secret = true;
            return Ok(());
        }
        let value = text(value)?;
        match name.as_str() {
            "user" => self.user = Some(value),
            "host" => self.hosts.extend(list(&value)),
            "hostaddr" => self.hostaddrs.extend(list(&value)),
            "port" => self.ports.extend(value.split(',').map(str::to_owned)),
            _ => self.options.push((name, value)),
        }
        Ok(())
    }
}

fn list(value: &str) -> impl Iterator<Item = String> {
    value.split(',').filter(|one| !one.is_empty()).map(str::to_owned)
}

const ENCODE: &str =
    "percent-encode it: `%` is `%25`, `?` is `%3F`, `/` is `%2F`, `@` is `%40`, `#` is `%23`, `&` is `%26`";

/// What stands behind `postgres://`.
fn of_url(rest: &str) -> Result<Parts, Fault> {
    let mut parts = Parts::default();
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let place = match rest.match_indices('@').collect::<Vec<_>>()[..] {
        [] => {
            // Nothing says where a password ends, if there is one and the `@` behind it was forgotten.
            parts.is_secret = rest[..end].contains(':');
            rest
        }
        [(at, _)] if at < end => {
            let (user, password) = match rest[..at].split_once(':') {
                Some((user, password)) => (user, Some(password)),
                None => (&rest[..at], None),
            };
            if !user.is_empty() {
                parts.user = Some(text(decode(user)?)?);
            }
            parts.password = password.map(decode).transpose()?;
            &rest[at + 1..]
        }
        _ => {
            return Err(invalid(format!(
                "an `@` stands where none can be; if the user name, the password or an option has a special character, {ENCODE}"
            )));
        }
    };
    let (place, options) = place.split_once('?').unwrap_or((place, ""));
    let (hosts, database) = place.split_once('/').unwrap_or((place, ""));
    for host in hosts.split(',').filter(|host| !host.is_empty()) {
        let (host, port) = match host.strip_prefix('[').map(|host| host.split_once(']')) {
            Some(Some((host, port))) => (host, port.strip_prefix(':')),
            Some(None) => return Err(invalid("an IPv6 address has no `]` at its end")),
            None => host.split_once(':').map_or((host, None), |(host, port)| (host, Some(port))),
        };
        parts.hosts.push(text(decode(host)?)?);
        parts.ports.push(text(decode(port.unwrap_or("5432"))?)?);
    }
    if !database.is_empty() {
        parts.options.push(("dbname".to_owned(), text(decode(database)?)?));
    }
    for option in options.split('&').filter(|option| !option.is_empty()) {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        parts.add(text(decode(name)?)?, decode(value)?)?;
    }
    Ok(parts)
}

/// A text of pairs such as `host=db user=ada password='a b'`.
fn of_pairs(all: &str) -> Result<Parts, Fault> {
    let broken = || {
        invalid(
            "it is neither a URL that begins with `postgres://` nor a list of `key=value`; a value with spaces stands in '…', with `\\'` for a quote",
        )
    };
    let mut parts = Parts::default();
    let mut rest = all.trim_start();
    while !rest.is_empty() {
        let (name, value) = rest.split_once('=').ok_or_else(broken)?;
        let name = name.trim();
        if name.is_empty() || name.contains(char::is_whitespace) {
            return Err(broken());
        }
        let value = value.trim_start();
        let (quoted, value) = value.strip_prefix('\'').map_or((false, value), |value| (true, value));
        let (mut taken, mut end) = (String::new(), None);
        let mut letters = value.char_indices();
        while let Some((at, letter)) = letters.next() {
            match letter {
                '\\' => taken.extend(letters.next().map(|(_, escaped)| escaped)),
                '\'' if quoted => {
                    end = Some(at + 1);
                    break;
                }
                space if !quoted && space.is_whitespace() => {
                    end = Some(at);
                    break;
                }
                other => taken.push(other),
            }
        }
        if quoted && end.is_none() {
            return Err(broken());
        }
        rest = end.map_or("", |end| value.get(end..).unwrap_or_default()).trim_start();
        parts.add(name.to_owned(), taken.into_bytes())?;
    }
    Ok(parts)
}

fn understand(parts: Parts) -> Result<Asked, Fault> {
    let Parts { user, password, hosts, hostaddrs, ports, options, is_secret } = parts;
    let plain = |one: char| one.is_alphanumeric() || ".-_:%".contains(one);
    if hosts.iter().any(|host| !host.starts_with('/') && !host.chars().all(plain)) {
        return Err(invalid(format!(
            "a host has a character that none can have; if the password has a special character, {ENCODE}"
        )));
    }
    if ports.iter().any(|port| !port.is_empty() && port.parse::<u16>().is_err()) {
        return Err(invalid(format!(
            "a port is not a number; if this is a password, `@HOST` has to follow it, and if it has a special character, {ENCODE}"
        )));
    }
    let mut asked = Asked::default();
    let mut drivers = Vec::new();
    for (number, (name, value)) in options.into_iter().enumerate() {
        match name.as_str() {
            "schema" => asked.schema = Some(value),
            "partitions" => asked.partitions = Some(number_of_partitions(&value)?),
            "pgbouncer" => asked.bouncer = truth(&name, &value)?,
            "sslrootcert" => asked.files.roots = Some(PathBuf::from(value)),
            "sslcert" => asked.files.certificate = Some(PathBuf::from(value)),
            "sslkey" => asked.files.key = Some(PathBuf::from(value)),
            "passfile" => asked.passfile = Some(PathBuf::from(value)),
            // A certificate is always checked, and so is the name in it.
            "sslmode" => {
                asked.ssl = Some(match value.as_str() {
                    "disable" => SslMode::Disable,
                    "allow" | "prefer" => SslMode::Prefer,
                    "require" | "verify-ca" | "verify-full" => SslMode::Require,
                    _ => return Err(invalid("`sslmode` has a value that is not known")),
                });
            }
            name if DRIVERS.contains(&name) => drivers.push((name.to_owned(), value)),
            name => {
                let is_name =
                    name.len() <= 40 && name.chars().all(|one| one.is_ascii_alphanumeric() || one == '_');
                let shown = match is_name && !is_secret {
                    true => format!("`{name}`"),
                    false => format!("number {}", number + 1),
                };
                return Err(invalid(format!(
                    "the option {shown} is not known; if a value has a special character, {ENCODE}"
                )));
            }
        }
    }
    if asked.files.certificate.is_some() != asked.files.key.is_some() {
        return Err(invalid("`sslcert` and `sslkey` belong together, and one of them is missing"));
    }
    let lists = [("host", hosts), ("hostaddr", hostaddrs), ("port", ports)];
    let lists = lists.into_iter().filter(|(_, all)| !all.is_empty());
    drivers.extend(lists.map(|(name, all)| (name.to_owned(), all.join(","))));
    drivers.extend(user.map(|user| ("user".to_owned(), user)));
    let quoted = |text: &str| text.replace('\\', "\\\\").replace('\'', "\\'");
    let pairs: String = drivers.iter().map(|(name, value)| format!("{name}='{}' ", quoted(value))).collect();
    // What the driver says has the name of an option that has a wrong value, and never the value.
    asked.config = Config::from_str(&pairs).map_err(|error| {
        let cause = std::error::Error::source(&error).map_or_else(String::new, ToString::to_string);
        match cause.starts_with("invalid value for option") {
            true => invalid(cause),
            false => invalid("an option has a value that cannot be understood".to_owned()),
        }
    })?;
    if let Some(password) = password {
        asked.config.password(password);
    }
    Ok(asked)
}

/// What no connection could come of.
fn check(config: &Config) -> Result<(), Fault> {
    let (hosts, hostaddrs, ports) = (config.get_hosts(), config.get_hostaddrs(), config.get_ports());
    let count = hosts.len().max(hostaddrs.len());
    if count == 0 {
        return Err(invalid("it names no host; write `postgres://USER@HOST/DATABASE`"));
    }
    if !hosts.is_empty() && !hostaddrs.is_empty() && hosts.len() != hostaddrs.len() {
        return Err(invalid("it has as many values of `host` as of `hostaddr`, or only one of the two"));
    }
    if ports.len() > 1 && ports.len() != count {
        return Err(invalid("it names one port for all hosts, or one for each"));
    }
    for (name, value) in [("a user", config.get_user()), ("a database", config.get_dbname())] {
        if value.is_some_and(str::is_empty) {
            return Err(invalid(format!("it names {name} with an empty name")));
        }
    }
    if config.get_target_session_attrs() == TargetSessionAttrs::ReadOnly {
        return Err(invalid(
            "`target_session_attrs=read-only` asks for a standby, and the store works on the primary",
        ));
    }
    Ok(())
}

/// Takes percent-encoding away, and refuses a `%` that is not part of one.
fn decode(text: &str) -> Result<Vec<u8>, Fault> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let mut digit = || char::from(bytes.next()?).to_digit(16);
        let (Some(high), Some(low)) = (digit(), digit()) else {
            return Err(invalid(format!(
                "a `%` is not followed by two hexadecimal digits; if the password has one, {ENCODE}"
            )));
        };
        decoded.extend(u8::try_from(high * 16 + low));
    }
    Ok(decoded)
}

fn text(bytes: Vec<u8>) -> Result<String, Fault> {
    let text = String::from_utf8(bytes).ok().filter(|text| !text.contains('\0'));
    text.ok_or_else(|| invalid("a part of it is not text in UTF-8, or has the character U+0000"))
}

fn number_of_partitions(value: &str) -> Result<u16, Fault> {
    let number = value.parse().ok().filter(|number| *number > 0);
    number.ok_or_else(|| invalid("`partitions` is not a number from 1 to 65535"))
}

fn truth(name: &str, value: &str) -> Result<bool, Fault> {
    match value {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(invalid(format!("`{name}` is neither true nor false"))),
    }
}

fn invalid(words: impl Into<String>) -> Fault {
    Fault::new(StoreErrorKind::Invalid, "the URL cannot be understood: ".to_owned() + &words.into())
}

/// The hosts of a configuration, each with its port.
pub(crate) fn hosts(config: &Config) -> Vec<String> {
    let (hosts, hostaddrs, ports) = (config.get_hosts(), config.get_hostaddrs(), config.get_ports());
    let count = hosts.len().max(hostaddrs.len());
    let shown = |number: usize| {
        let host = match hosts.get(number) {
            Some(Host::Tcp(host)) if host.contains(':') => format!("[{host}]"),
            Some(Host::Tcp(host)) => host.clone(),
            #[cfg(unix)]
            Some(Host::Unix(path)) => path.display().to_string(),
            None => hostaddrs.get(number).map_or_else(String::new, ToString::to_string),
        };
        let port = ports.get(number).or_else(|| ports.first()).copied().unwrap_or(5432);
        format!("{host}:{port}")
    };
    (0..count).map(shown).collect()
}

/// A configuration as it may be shown: user, hosts, ports and database.
pub(crate) fn shown(config: &Config) -> String {
    let user = config.get_user().map_or_else(String::new, |user| format!("{user}@"));
    let database = config.get_dbname().map_or_else(String::new, |name| format!("/{name}"));
    format!("postgres://{user}{}{database}", hosts(config).join(","))
}

/// A URL or a connection string as it may be shown.
pub(crate) fn shown_text(text: &str) -> String {
    parse(text).map_or_else(|_| "a PostgreSQL store".to_owned(), |asked| shown(&asked.config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ours_is_taken_out_and_the_rest_is_the_drivers() {
        let url = "postgres://ada:pw@db:5433/bank?schema=ledger&connect_timeout=3&partitions=4&pgbouncer=true&sslmode=verify-full";
        let pairs = "host=db port = 5433 user=ada password=pw dbname='bank' schema=ledger connect_timeout=3 partitions=4 pgbouncer=true sslmode=verify-full";
        let (longer, capitals) =
            (url.replacen("postgres", "postgresql", 1), url.replacen("postgres", "PostgreSQL", 1));
        for text in [url, &longer, &capitals, pairs] {
            let asked = parse(text).unwrap_or_default();
            assert_eq!(asked.schema.as_deref(), Some("ledger"), "{text}");
            assert_eq!((asked.partitions, asked.bouncer), (Some(4), true));
            assert_eq!(asked.config.get_dbname(), Some("bank"));
            assert_eq!(asked.config.get_password(), Some(&b"pw"[..]));
            assert_eq!(asked.config.get_connect_timeout().map(std::time::Duration::as_secs), Some(3));
            assert_eq!(asked.ssl, Some(SslMode::Require));
            assert_eq!(shown(&asked.config), "postgres://ada@db:5433/bank");
        }
    }

    #[test]
    fn values_are_decoded_and_quoted() {
        let config = |text| parse(text).unwrap_or_default().config;
        let url =
            config("postgres://a%40b:p%3Fw%2F%40%25%27%20%5C@%2Fvar%2Frun/my%20db?options=-c%20x%3D'1'");
        assert_eq!(url.get_user(), Some("a@b"));
        assert_eq!(url.get_password(), Some(&b"p?w/@%' \\"[..]));
        assert_eq!((url.get_dbname(), url.get_options()), (Some("my db"), Some("-c x='1'")));
        assert_eq!(shown(&url), "postgres://a@b@/var/run:5432/my db");
        let pairs = config(r"host=/tmp,db password='it\'s a \\' user=a\ b port=1,");
        assert_eq!(pairs.get_password(), Some(&br"it's a \"[..]));
        assert_eq!(shown(&pairs), "postgres://a b@/tmp:1,db:5432");
        // A password that is no text is one all the same.
        assert_eq!(config("postgres://a:%FF@db").get_password(), Some(&b"\xff"[..]));
        assert_eq!(config("postgres://a:x#y:z@db").get_password(), Some(&b"x#y:z"[..]));
    }

    #[test]
    fn several_hosts_are_shown_with_their_ports() {
        let shown = |text| shown(&parse(text).unwrap_or_default().config);
        assert_eq!(shown("postgres://a,b:1,[::1]:2/bank"), "postgres://a:5432,b:1,[::1]:2/bank");
        assert_eq!(shown("postgresql:///bank?host=/tmp&user=ada"), "postgres://ada@/tmp:5432/bank");
        assert_eq!(shown("hostaddr=127.0.0.1,::1 port=7"), "postgres://127.0.0.1:7,::1:7");
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        let told = |url| parse(url).map_or_else(|fault| fault.told("open").to_string(), |_| String::new());
        let cases = [
            ("postgres://db/bank?partitions=0", "`partitions` is not"),
            ("postgres://db/bank?pgbouncer=maybe", "`pgbouncer` is neither"),
            ("postgres://db/bank?shema=x", "the option `shema` is not known"),
            ("postgres://ada:pw@db/bank?shema=x", "the option `shema` is not known"),
            ("postgres://db/bank?sslmode=on", "`sslmode` has a value"),
            ("postgres://db/bank?connect_timeout=x", "invalid value for option `connect_timeout`"),
            ("postgres://db/bank?target_session_attrs=read-only", "asks for a standby"),
            ("postgres://db/bank?sslcert=a.pem", "`sslkey` belong together"),
            ("postgres:///bank", "names no host"),
            ("postgres://a,b/bank?port=1,2,3,4,5", "one port for all"),
            ("postgres:db/bank", "does not begin with `postgres://`"),
            ("mysql://db/bank", "does not begin with `postgres://`"),
            ("bank", "neither a URL"),
            ("host=db user='", "neither a URL"),
            ("host=db user=''", "a user with an empty name"),
            ("postgres://ada:100%@db", "`%25`"),
            ("postgres://ada:a@b@db", "`%40`"),
            ("postgres://ada:a/b@db", "`%2F`"),
            ("postgres://ada:a?b@db", "`%3F`"),
        ];
        for (url, words) in cases {
            assert!(told(url).contains(words), "{url}: {}", told(url));
        }
    }
}
