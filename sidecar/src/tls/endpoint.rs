//! The hosts of a connection string, one by one.
//!
//! tokio-postgres goes through the list itself, but its `connect_timeout` ends with the TCP
//! handshake: a host that accepts and then says nothing would keep it from the next.

use std::fmt;
use std::net::IpAddr;

use rand::seq::SliceRandom;
use tokio_postgres::Config;
use tokio_postgres::config::{Host, LoadBalanceHosts, SslMode as PgSslMode};

/// PostgreSQL's.
const DEFAULT_PORT: u16 = 5432;

/// One entry of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) host: Host,
    /// The address to connect to, instead of what the DNS has for `host`.
    pub(crate) address: Option<IpAddr>,
    pub(crate) port: u16,
}

impl Endpoint {
    /// All of them, in the order they are to be tried.
    pub(super) fn all(config: &Config) -> Vec<Endpoint> {
        let ports = config.get_ports();
        let endpoint = |(i, host): (usize, &Host)| Endpoint {
            host: host.clone(),
            address: config.get_hostaddrs().get(i).copied(),
            port: ports.get(i).or_else(|| ports.first()).copied().unwrap_or(DEFAULT_PORT),
        };
        let mut all: Vec<_> = config.get_hosts().iter().enumerate().map(endpoint).collect();
        if config.get_load_balance_hosts() == LoadBalanceHosts::Random {
            all.shuffle(&mut rand::rng());
        }
        all
    }

    /// `config` with this host only.
    pub(super) fn only(&self, config: &Config) -> Config {
        let mut only = Config::new();
        match &self.host {
            Host::Tcp(name) => only.host(name).ssl_mode(config.get_ssl_mode()),
            Host::Unix(path) => only.host_path(path).ssl_mode(PgSslMode::Disable),
        };
        if let Some(address) = self.address {
            only.hostaddr(address);
        }
        only.port(self.port)
            .ssl_negotiation(config.get_ssl_negotiation())
            .channel_binding(config.get_channel_binding())
            .target_session_attrs(config.get_target_session_attrs())
            .keepalives(config.get_keepalives())
            .keepalives_idle(config.get_keepalives_idle());
        // setters take no Option
        config.get_user().map(|value| only.user(value));
        config.get_password().map(|value| only.password(value));
        config.get_dbname().map(|value| only.dbname(value));
        config.get_options().map(|value| only.options(value));
        config.get_application_name().map(|value| only.application_name(value));
        config.get_connect_timeout().map(|value| only.connect_timeout(*value));
        config.get_tcp_user_timeout().map(|value| only.tcp_user_timeout(*value));
        config.get_keepalives_interval().map(|value| only.keepalives_interval(value));
        config.get_keepalives_retries().map(|value| only.keepalives_retries(value));
        only
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Tcp(name) => write!(f, "{name}:{}", self.port),
            Host::Unix(path) => write!(f, "{}:{}", path.display(), self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::parse;

    #[test]
    fn one_host_keeps_all_that_was_asked_for() {
        let rest = "user=u password=p dbname=d options='-c x=y' application_name=a sslmode=require \
                    sslnegotiation=direct channel_binding=require target_session_attrs=read-write \
                    connect_timeout=3 tcp_user_timeout=4 keepalives=0 keepalives_idle=5 \
                    keepalives_interval=6 keepalives_retries=7";
        let one = |i| format!("host=h{i} hostaddr=127.0.0.{i} port={i} {rest}");
        let both = parse(&format!("host=h1,h2 hostaddr=127.0.0.1,127.0.0.2 port=1,2 {rest}"));
        let both = both.unwrap();
        let all = Endpoint::all(both.config());
        assert_eq!(all.len(), 2);
        for (endpoint, i) in all.iter().zip(1..) {
            assert_eq!(&endpoint.only(both.config()), parse(&one(i)).unwrap().config());
        }
    }

    #[test]
    fn a_port_is_for_all_hosts_and_a_unix_socket_has_no_tls() {
        let connect = parse("host=h,/run/pg port=99 user=u sslmode=require").unwrap();
        let all = Endpoint::all(connect.config());
        assert_eq!(all.iter().map(ToString::to_string).collect::<Vec<_>>(), ["h:99", "/run/pg:99"]);
        let modes = all.iter().map(|endpoint| endpoint.only(connect.config()).get_ssl_mode());
        assert_eq!(modes.collect::<Vec<_>>(), [PgSslMode::Require, PgSslMode::Disable]);
    }
}
