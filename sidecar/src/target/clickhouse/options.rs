//! What a ClickHouse target is told, resolved once from the configuration.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use rsrepl_wire::Relation;

use crate::config::{self, Compression, Mode};
use crate::error::{Error, Kind, Result};
use crate::quote;
use crate::redact::Secret;
use crate::schema::Policy;

use super::convert::DateRange;
use super::plan::Plan;
use super::policy::Policies;

/// Port of ClickHouse's HTTP interface when the connection string names none.
const DEFAULT_HTTP_PORT: u16 = 8123;
/// The same over TLS.
const DEFAULT_HTTPS_PORT: u16 = 8443;

/// See the keys of `[[targets.clickhouse]]` in `docs/configuration.md`.
#[derive(Clone, Debug)]
pub struct ClickHouseOptions {
    pub name: String,
    /// `http://host:port` or `https://host:port`; no credentials.
    pub url: String,
    /// With `https`: PEM file of the authorities that the server's certificate must come from; `None` means the
    /// system's.
    pub root_cert: Option<PathBuf>,
    pub database: String,
    pub user: String,
    /// Not printable.
    pub password: Secret,
    pub mode: Mode,
    /// With `{schema}` and `{table}`.
    pub table_name: String,
    pub create_tables: bool,
    /// Which changes of tables it makes by itself.
    pub schema_changes: Policy,
    pub compression: Compression,
    pub policies: Policies,
}

impl ClickHouseOptions {
    /// What a source table becomes.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub(super) fn plan(
        &self,
        relation: &Arc<Relation>,
        name: String,
        dates: DateRange,
    ) -> Result<Plan> {
        let plan = Plan::new(&self.name, relation, name, &self.policies, dates)?;
        Ok(match self.mode {
            Mode::Mirror => plan,
            Mode::History => plan.into_history(),
        })
    }

    /// # Errors
    /// [`Kind::Config`]: the connection string or the table name template cannot be used. No message
    /// holds a part of the connection string.
    pub fn from_config(name: &str, config: &config::ClickHouse) -> Result<Self> {
        let place = parse_connection_string(config.connection_string.expose())
            .map_err(|problem| bad(name, format!("connection_string {problem}")))?;
        if !config.table_name.contains("{table}") {
            return Err(bad(name, "table_name needs {table} in it".to_owned()));
        }
        Ok(ClickHouseOptions {
            name: name.to_owned(),
            url: place.url,
            root_cert: place.root_cert,
            database: place.database,
            user: place.user,
            password: Secret::new(place.password),
            mode: config.mode,
            table_name: config.table_name.clone(),
            create_tables: config.create_tables,
            schema_changes: config.schema_changes,
            compression: config.compression,
            policies: config.policies.clone(),
        })
    }

    /// Whether the server is on this machine, as far as its address tells.
    pub fn is_local(&self) -> bool {
        let host = self.url.split_once("://").map_or("", |(_, host)| host);
        let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }

    /// The name of the target table of a source table.
    pub fn target_table(&self, schema: &str, table: &str) -> String {
        // the schema first: a table's name may hold "{schema}"
        let mut parts = self.table_name.split("{table}");
        let first = parts.next().unwrap_or_default().replace("{schema}", schema);
        parts.fold(first, |name, part| name + table + &part.replace("{schema}", schema))
    }
}

fn bad(name: &str, problem: String) -> Error {
    Error::new(Kind::Config, format!("target {name}: {problem}"))
        .hint("the form is http://user:password@host:8123/database, table_name like \"{table}\"")
}

struct Place {
    url: String,
    root_cert: Option<PathBuf>,
    database: String,
    user: String,
    password: String,
}

/// `scheme://[user[:password]@]host[:port]/database[?sslrootcert=FILE]`, percent-encoded where needed.
fn parse_connection_string(text: &str) -> Result<Place, &'static str> {
    let (scheme, rest) = text.split_once("://").ok_or("is not a URL")?;
    let port = match scheme {
        "http" => DEFAULT_HTTP_PORT,
        "https" => DEFAULT_HTTPS_PORT,
        _ => return Err("must start with http:// or https://"),
    };
    let (rest, parameters) = rest.split_once('?').unwrap_or((rest, ""));
    if rest.contains('#') || parameters.contains('#') {
        return Err("takes no fragment: a # is written as %23");
    }
    let root_cert = root_cert(parameters)?;
    if root_cert.is_some() && scheme != "https" {
        return Err("has sslrootcert, which needs https://");
    }
    let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
    let (credentials, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
    if host.is_empty() {
        return Err("names no host");
    }
    if database.is_empty() || database.contains('/') {
        return Err("must end with /database");
    }
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'));
    if has_port && host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_err()) {
        return Err("has a port that is not a number");
    }
    let host = if has_port { host.to_owned() } else { format!("{host}:{port}") };
    let user = percent_decode(user)?;
    Ok(Place {
        url: format!("{scheme}://{host}"),
        root_cert,
        database: percent_decode(database)?,
        user: if user.is_empty() { "default".to_owned() } else { user },
        password: percent_decode(password)?,
    })
}

/// `sslrootcert` means what it does in a connection string of PostgreSQL with `sslmode=verify-full`.
fn root_cert(parameters: &str) -> Result<Option<PathBuf>, &'static str> {
    let mut found = None;
    for pair in parameters.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("sslrootcert", "")) => return Err("has an empty sslrootcert: name a file"),
            // the default, by libpq's name
            Some(("sslrootcert", "system")) => found = None,
            Some(("sslrootcert", path)) => found = Some(PathBuf::from(percent_decode(path)?)),
            _ => return Err("has a parameter other than sslrootcert, the only one that there is"),
        }
    }
    Ok(found)
}

fn percent_decode(text: &str) -> Result<String, &'static str> {
    quote::percent_decode(text).ok_or("has a % that is not followed by two hex digits of UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_strings() {
        let place = parse_connection_string("http://me:p%40ss:w@db.example:9000/shop").unwrap();
        assert_eq!(place.url, "http://db.example:9000");
        assert_eq!((place.user.as_str(), place.password.as_str()), ("me", "p@ss:w"));
        assert_eq!(place.database, "shop");
        let place = parse_connection_string("https://[::1]/a%20b").unwrap();
        assert_eq!((place.url.as_str(), place.user.as_str()), ("https://[::1]:8443", "default"));
        assert_eq!(place.database, "a b");
        let place = parse_connection_string("https://h/d?sslrootcert=/etc/my%20ca.pem").unwrap();
        assert_eq!(place.root_cert, Some(PathBuf::from("/etc/my ca.pem")));
        assert_eq!(place.database, "d");
        for text in ["https://h/d", "https://h/d?", "https://h/d?sslrootcert=system", "http://h/d"]
        {
            assert_eq!(parse_connection_string(text).unwrap().root_cert, None, "{text}");
        }
        let told = |text: &str| parse_connection_string(text).err().unwrap_or_default();
        assert!(told("http://h/d?sslrootcert=/ca").contains("needs https"));
        assert!(told("https://h/d?sslrootcert=").contains("name a file"));
        for text in ["https://h/d?sslmode=verify-full", "https://h/d?x", "https://h/d?sslrootcert"]
        {
            assert!(told(text).contains("other than sslrootcert"), "{text}");
        }
        assert!(told("https://h/d?sslrootcert=/a#b").contains("%23"));
        for bad in ["db/x", "tcp://h/x", "http://h", "http://h/", "http:///x", "http://h:x/d"] {
            assert!(parse_connection_string(bad).is_err(), "{bad}");
        }
    }

    fn options() -> ClickHouseOptions {
        ClickHouseOptions {
            name: String::new(),
            url: String::new(),
            root_cert: None,
            database: String::new(),
            user: String::new(),
            password: Secret::default(),
            mode: Mode::Mirror,
            table_name: "{schema}_{table}".to_owned(),
            create_tables: true,
            schema_changes: Policy::default(),
            compression: Compression::None,
            policies: Policies::default(),
        }
    }

    #[test]
    fn servers_on_this_machine() {
        let is_local =
            |url: &str| ClickHouseOptions { url: url.to_owned(), ..options() }.is_local();
        for url in ["http://127.0.0.1:8123", "http://localhost:9", "https://[::1]:8443"] {
            assert!(is_local(url), "{url}");
        }
        for url in ["http://10.0.0.1:8123", "http://localhost.example:1", "http://[fe80::1]:2"] {
            assert!(!is_local(url), "{url}");
        }
    }

    #[test]
    fn table_names() {
        let mut options = options();
        assert_eq!(options.target_table("shop", "a{schema}"), "shop_a{schema}");
        options.table_name = "pg_{table}".to_owned();
        assert_eq!(options.target_table("shop", "orders"), "pg_orders");
    }
}
