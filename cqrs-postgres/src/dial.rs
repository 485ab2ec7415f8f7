//! Reaching the server: each host in turn, with the password that holds now, and with TLS where it has to be.

use std::time::Duration;

use cqrs_core::error::StoreErrorKind;
use tokio_postgres::config::{Host, LoadBalanceHosts, SslMode};
use tokio_postgres::error::SqlState;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{Client, Config, Connection, Socket};
use uuid::Uuid;

use crate::credentials::{Found, Passwords};
use crate::error::Fault;
use crate::limit::until;
use crate::tls;
use crate::url::{self, Asked};

/// A connection that nobody serves yet.
pub(crate) type Wire = Connection<Socket, <tls::Connector as MakeTlsConnect<Socket>>::Stream>;

/// How the server is reached.
pub(crate) struct Dialer {
    passwords: Passwords,
    /// For each host.
    modes: Vec<SslMode>,
    tls: tls::Connector,
}

impl Dialer {
    /// Refuses a remote host that would be reached without TLS.
    pub(crate) fn new(asked: &Asked, passwords: Passwords) -> Result<Self, Fault> {
        let (config, files) = (&asked.config, &asked.files);
        let secured = files.roots.is_some() || files.certificate.is_some();
        let modes: Vec<SslMode> = (0..count(config))
            .map(|number| match asked.ssl {
                Some(SslMode::Disable) => SslMode::Disable,
                Some(SslMode::Require) => SslMode::Require,
                _ if secured || !is_local(config, number) => SslMode::Require,
                _ => SslMode::Prefer,
            })
            .collect();
        let required = modes.iter().position(|mode| *mode == SslMode::Require);
        let hosts = url::hosts(config);
        let required = required.and_then(|number| hosts.get(number)).map(String::as_str);
        let tls = tls::connector(files, required, modes.iter().all(|mode| *mode == SslMode::Disable))?;
        Ok(Self { passwords, modes, tls })
    }

    /// Connects to the first host that will do. The configuration is that of the URL, with what a connection is
    /// for added.
    pub(crate) async fn connect(&self, config: &Config) -> Result<(Client, Wire), Fault> {
        let mut numbers: Vec<usize> = (0..count(config)).collect();
        if config.get_load_balance_hosts() == LoadBalanceHosts::Random {
            numbers.sort_by_cached_key(|_| Uuid::new_v4());
        }
        let names = url::hosts(config);
        let mut faults: Vec<(String, Fault)> = Vec::new();
        for number in numbers {
            let mut one = only(config, number);
            one.ssl_mode(self.modes.get(number).copied().unwrap_or(SslMode::Require));
            let name = names.get(number).cloned().unwrap_or_default();
            match self.connect_one(one).await {
                Ok(done) => return Ok(done),
                Err(fault) => faults.push((name, fault)),
            }
        }
        Err(all(faults))
    }

    async fn connect_one(&self, mut config: Config) -> Result<(Client, Wire), Fault> {
        let Found { user, password, note } = self.passwords.find(&config).await?;
        if let Some(user) = user {
            config.user(user);
        }
        if let Some(password) = password {
            config.password(password);
        }
        let limit = limit(&config);
        let connecting = config.connect(tls::Connector::clone(&self.tls));
        let Some(connected) = until(limit, connecting).await else {
            let words = format!("the server did not answer within {} s", limit.as_secs());
            return Err(Fault::new(StoreErrorKind::Unavailable, words));
        };
        match connected {
            Ok(done) => Ok(done),
            Err(error) if is_missing(&error) => {
                let words = "the server asks for a password, and there is none: write it into the URL, or provide `PGPASSWORD`, a password file, or `PostgresBuilder::credentials`";
                Err(Fault::new(StoreErrorKind::Failed, words).with(note.as_deref()))
            }
            Err(error) => {
                let fault = Fault::from(error);
                let rejected = fault.is(&SqlState::INVALID_PASSWORD)
                    || fault.is(&SqlState::INVALID_AUTHORIZATION_SPECIFICATION);
                Err(if rejected { fault.with(note.as_deref()) } else { fault })
            }
        }
    }
}

fn is_missing(error: &tokio_postgres::Error) -> bool {
    std::error::Error::source(error).is_some_and(|cause| cause.to_string() == "password missing")
}

/// What came of all hosts: the fault of the one that says most, and a list if there are several.
fn all(mut faults: Vec<(String, Fault)>) -> Fault {
    let list: Vec<String> = faults.iter().map(|(name, fault)| format!("{name}: {}", fault.words())).collect();
    let telling = faults.iter().position(|(_, fault)| fault.kind() != StoreErrorKind::Unavailable);
    let last = faults.len().saturating_sub(1);
    if faults.is_empty() {
        return Fault::new(StoreErrorKind::Invalid, "the URL names no host");
    }
    let (_, fault) = faults.swap_remove(telling.unwrap_or(last));
    match list.len() {
        1 => fault,
        count => fault.saying(format!("none of the {count} hosts will do ({})", list.join("; "))),
    }
}

fn count(config: &Config) -> usize {
    config.get_hosts().len().max(config.get_hostaddrs().len())
}

/// How long one host may take, with the resolution of its name and all that comes before its first answer. The
/// driver's own limit is about the socket alone.
fn limit(config: &Config) -> Duration {
    config.get_connect_timeout().copied().unwrap_or(Duration::from_secs(10)).saturating_mul(2)
}

/// Whether what is sent to a host does not leave this machine.
fn is_local(config: &Config, number: usize) -> bool {
    if let Some(address) = config.get_hostaddrs().get(number) {
        return address.is_loopback();
    }
    match config.get_hosts().get(number) {
        Some(Host::Tcp(name)) => match name.parse::<std::net::IpAddr>() {
            Ok(address) => address.is_loopback(),
            Err(_) => {
                let name = name.to_ascii_lowercase();
                name == "localhost" || name.ends_with(".localhost")
            }
        },
        #[cfg(unix)]
        Some(Host::Unix(_)) => true,
        None => false,
    }
}

/// The same configuration with one of its hosts.
fn only(config: &Config, number: usize) -> Config {
    let mut one = Config::new();
    if let Some(host) = config.get_hosts().get(number) {
        match host {
            Host::Tcp(name) => one.host(name),
            #[cfg(unix)]
            Host::Unix(path) => one.host_path(path),
        };
    }
    if let Some(address) = config.get_hostaddrs().get(number) {
        one.hostaddr(*address);
    }
    if let Some(port) = config.get_ports().get(number).or_else(|| config.get_ports().first()) {
        one.port(*port);
    }
    config.get_user().map(|user| one.user(user));
    config.get_password().map(|password| one.password(password));
    config.get_dbname().map(|name| one.dbname(name));
    config.get_options().map(|options| one.options(options));
    config.get_application_name().map(|name| one.application_name(name));
    config.get_connect_timeout().map(|timeout| one.connect_timeout(*timeout));
    config.get_tcp_user_timeout().map(|timeout| one.tcp_user_timeout(*timeout));
    one.keepalives(config.get_keepalives()).keepalives_idle(config.get_keepalives_idle());
    config.get_keepalives_interval().map(|interval| one.keepalives_interval(interval));
    config.get_keepalives_retries().map(|retries| one.keepalives_retries(retries));
    one.ssl_mode(config.get_ssl_mode()).ssl_negotiation(config.get_ssl_negotiation());
    one.target_session_attrs(config.get_target_session_attrs());
    one.channel_binding(config.get_channel_binding());
    one.load_balance_hosts(config.get_load_balance_hosts());
    one
}

impl std::fmt::Debug for Dialer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Dialer({:?})", self.modes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn modes(text: &str) -> Result<Vec<SslMode>, String> {
        let asked = url::parse(text).map_err(|fault| fault.told("open").to_string())?;
        let dialer = Dialer::new(&asked, Passwords::default());
        dialer.map(|dialer| dialer.modes).map_err(|fault| fault.told("open").to_string())
    }

    #[test]
    fn what_stays_on_this_machine_is_local() {
        let cases = [
            ("postgres://localhost/b", true),
            ("postgres://LOCALHOST/b", true),
            ("postgres://127.0.0.1/b", true),
            ("postgres://127.9.9.9/b", true),
            ("postgres://[::1]/b", true),
            ("postgres://db.localhost/b", true),
            ("postgres://%2Ftmp/b", true),
            ("host=db.example hostaddr=127.0.0.1", true),
            ("postgres://db.example/b", false),
            ("postgres://10.0.0.1/b", false),
            ("postgres://0.0.0.0/b", false),
            ("postgres://localhost.example/b", false),
            ("postgres://[2001:db8::1]/b", false),
            ("host=localhost hostaddr=192.0.2.1", false),
        ];
        for (text, local) in cases {
            let config = url::parse(text).unwrap_or_default().config;
            assert_eq!((count(&config), is_local(&config, 0)), (1, local), "{text}");
        }
    }

    #[test]
    fn a_local_host_may_be_reached_without_tls() {
        assert_eq!(modes("postgres://localhost/b"), Ok(vec![SslMode::Prefer]));
        assert_eq!(modes("postgres://localhost/b?sslmode=disable"), Ok(vec![SslMode::Disable]));
        let disabled = Ok(vec![SslMode::Disable, SslMode::Disable]);
        assert_eq!(modes("postgres://db.example,localhost/b?sslmode=disable"), disabled);
    }

    #[cfg(feature = "tls")]
    #[test]
    fn a_remote_host_is_reached_with_tls_unless_that_is_disabled() {
        for options in ["", "?sslmode=prefer", "?sslmode=allow", "?sslmode=require", "?sslmode=verify-full"] {
            let text = format!("postgres://db.example/b{options}");
            assert_eq!(modes(&text), Ok(vec![SslMode::Require]), "{text}");
        }
        let mixed = Ok(vec![SslMode::Prefer, SslMode::Require]);
        assert_eq!(modes("postgres://localhost,db.example/b"), mixed);
    }

    #[cfg(not(feature = "tls"))]
    #[test]
    fn a_remote_host_is_refused_by_a_program_without_tls() {
        for options in ["", "?sslmode=prefer", "?sslmode=allow"] {
            for hosts in ["db.example", "localhost,db.example:7"] {
                let told = modes(&format!("postgres://ada:pw@{hosts}/b{options}")).err().unwrap_or_default();
                for words in ["db.example:", "`postgres-tls`", "`sslmode=disable`"] {
                    assert!(told.contains(words), "{told}");
                }
            }
        }
        assert!(
            modes("postgres://localhost/b?sslmode=require")
                .is_err_and(|told| told.contains("`postgres-tls`"))
        );
    }

    #[test]
    fn one_host_has_all_that_the_others_have() {
        let text = "postgres://a:p@x:1,y:2/d?options=-c&application_name=n&connect_timeout=3&tcp_user_timeout=4&keepalives=0&keepalives_idle=5&keepalives_interval=6&keepalives_retries=7&target_session_attrs=read-write&channel_binding=require&load_balance_hosts=random&sslnegotiation=direct";
        let config = url::parse(text).unwrap_or_default().config;
        let alone = url::parse(&text.replace("x:1,", "")).unwrap_or_default().config;
        assert_eq!(only(&config, 1), alone);
    }

    #[test]
    fn the_fault_that_says_most_is_told_with_all_hosts() {
        let fault = |kind, words: &str| Fault::new(kind, words);
        let told = all(vec![
            ("a:1".to_owned(), fault(StoreErrorKind::Failed, "not let in")),
            ("b:2".to_owned(), fault(StoreErrorKind::Unavailable, "gone")),
        ]);
        assert_eq!(told.kind(), StoreErrorKind::Failed);
        let words = told.told("open").to_string();
        assert!(words.contains("a:1: not let in; b:2: gone"), "{words}");
    }
}
