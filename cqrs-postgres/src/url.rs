//! What a URL says about the store beyond where the server is.

use std::path::PathBuf;
use std::str::FromStr;

use cqrs_core::error::StoreErrorKind;
use tokio_postgres::Config;

use crate::error::Fault;

/// A URL, taken apart.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    pub(crate) config: Config,
    pub(crate) schema: Option<String>,
    pub(crate) partitions: Option<u16>,
    pub(crate) bouncer: bool,
    pub(crate) roots: Option<PathBuf>,
}

/// Takes out what is meant for the store, and leaves the rest to the driver, which refuses what it does
/// not know by name.
pub(crate) fn parse(url: &str) -> Result<Asked, Fault> {
    let (place, options) = url.split_once('?').unwrap_or((url, ""));
    let mut asked = Asked::default();
    let mut rest = Vec::new();
    for option in options.split('&').filter(|option| !option.is_empty()) {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        match name {
            "schema" => asked.schema = Some(value.to_owned()),
            "partitions" => asked.partitions = Some(number(value)?),
            "pgbouncer" => asked.bouncer = truth(name, value)?,
            "sslrootcert" => asked.roots = Some(PathBuf::from(value)),
            // A certificate is always checked, and so is the name in it.
            "sslmode" if ["verify-ca", "verify-full"].contains(&value) => {
                rest.push("sslmode=require".to_owned());
            }
            _ => rest.push(option.to_owned()),
        }
    }
    // Whoever names an authority is not given a connection that is not secured.
    if asked.roots.is_some() && !rest.iter().any(|option| option.starts_with("sslmode=")) {
        rest.push("sslmode=require".to_owned());
    }
    let mut plain = place.to_owned();
    if !rest.is_empty() {
        plain = plain + "?" + &rest.join("&");
    }
    asked.config = Config::from_str(&plain).map_err(Fault::from)?;
    Ok(asked)
}

fn number(value: &str) -> Result<u16, Fault> {
    let number = value.parse().ok().filter(|number| *number > 0);
    number.ok_or_else(|| invalid(format!("`partitions={value}` is not a number from 1 to 65535")))
}

fn truth(name: &str, value: &str) -> Result<bool, Fault> {
    match value {
        "true" => Ok(true),
        "false" => Ok(false),
        other => Err(invalid(format!("`{name}={other}` is neither true nor false"))),
    }
}

fn invalid(words: String) -> Fault {
    Fault::new(StoreErrorKind::Invalid, words)
}

/// The URL as it may be shown: without the password.
pub(crate) fn shown(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let (rest, _) = rest.split_once('?').unwrap_or((rest, ""));
    match rest.rsplit_once('@') {
        None => format!("{scheme}://{rest}"),
        Some((who, place)) => format!("{scheme}://{}@{place}", who.split(':').next().unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ours_is_taken_out_and_the_rest_is_the_drivers() {
        let url = "postgres://ada:pw@db:5433/bank?schema=ledger&connect_timeout=3&partitions=4&pgbouncer=true&sslmode=verify-full";
        let asked = parse(url).unwrap_or_default();
        assert_eq!(asked.schema.as_deref(), Some("ledger"));
        assert_eq!((asked.partitions, asked.bouncer), (Some(4), true));
        assert_eq!(asked.config.get_dbname(), Some("bank"));
        assert_eq!(asked.config.get_connect_timeout().map(std::time::Duration::as_secs), Some(3));
        assert_eq!(asked.config.get_ssl_mode(), tokio_postgres::config::SslMode::Require);
    }

    #[test]
    fn an_authority_that_is_named_is_asked_for() {
        use tokio_postgres::config::SslMode;
        let mode =
            |options| parse(&format!("postgres://db/bank?{options}")).map(|it| it.config.get_ssl_mode());
        assert_eq!(mode("schema=ledger").ok(), Some(SslMode::Prefer));
        assert_eq!(mode("sslrootcert=file.pem").ok(), Some(SslMode::Require));
        assert_eq!(mode("sslrootcert=file.pem&sslmode=disable").ok(), Some(SslMode::Disable));
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        let told = |url| parse(url).map_or_else(|fault| fault.told("open").to_string(), |_| String::new());
        assert!(told("postgres://db/bank?partitions=0").contains("`partitions=0`"));
        assert!(told("postgres://db/bank?pgbouncer=maybe").contains("`pgbouncer=maybe`"));
        assert!(
            told("postgres://db/bank?shema=x").contains("shema"),
            "{}",
            told("postgres://db/bank?shema=x")
        );
    }

    #[test]
    fn a_password_is_not_shown() {
        assert_eq!(shown("postgres://ada:p@w@db/bank?password=x"), "postgres://ada@db/bank");
        assert_eq!(shown("postgres://db/bank"), "postgres://db/bank");
    }
}
