//! `pg_dump` and `pg_restore`, as processes. Neither connects to the target, and the archive goes from one to the
//! other through our memory: there is no file.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::process::Stdio;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio_postgres::config::{ChannelBinding, Host, TargetSessionAttrs};

use super::archive::{self, Entry};
use crate::error::{Error, Kind, Result};
use crate::quote::identifier;
use crate::tls::{PgConnect, SslMode};

/// Characters of what a tool says that are shown.
const SHOWN: usize = 2000;

/// What is never made: it is nobody's or somebody else's on the target. Both tools have these options from
/// PostgreSQL 15 on.
const LEFT_OUT: [&str; 7] = [
    "--no-owner",
    "--no-privileges",
    "--no-publications",
    "--no-subscriptions",
    "--no-security-labels",
    "--no-tablespaces",
    "--no-table-access-method",
];

/// The entries before the data and those behind it, of everything on the source but for the tables `without`,
/// as the exported snapshot shows it.
pub async fn dump(
    source: &PgConnect,
    snapshot: &str,
    without: &[(String, String)],
) -> Result<(Vec<Entry>, Vec<Entry>)> {
    let mut command = command("pg_dump");
    command
        .args(["--format=custom", "--schema-only", "--encoding=UTF8", "--no-password"])
        .args(LEFT_OUT);
    command.arg(format!("--snapshot={snapshot}"));
    // it has locks of its own meanwhile, and the snapshot
    command.arg("--lock-wait-timeout=60s");
    // between quotes, a pattern is a name
    let pattern =
        |(schema, name): &(String, String)| format!("{}.{}", identifier(schema), identifier(name));
    command.args(without.iter().map(|table| format!("--exclude-table={}", pattern(table))));
    command.envs(environment(source));
    let archive = output("pg_dump", command, &[]).await?;
    Ok((section(&archive, "pre-data").await?, section(&archive, "post-data").await?))
}

async fn section(archive: &[u8], section: &str) -> Result<Vec<Entry>> {
    // its comments say which entry is which, and what it needs
    let script = restore(archive, section, &["--verbose", "--file=-"]).await?;
    let list = restore(archive, section, &["--list"]).await?;
    archive::entries(&script, &archive::listed(&list)).map_err(|name| {
        let what = format!("what pg_restore wrote has {name} twice");
        Error::new(Kind::Setup, what).hint(
            "something on the source, such as a comment, holds a line that begins with \"-- TOC entry\": remove it; \
             or make the tables yourself and set create_tables = false",
        )
    })
}

async fn restore(archive: &[u8], section: &str, how: &[&str]) -> Result<String> {
    let mut command = command("pg_restore");
    command.args(how).args(LEFT_OUT).arg(format!("--section={section}"));
    let written = output("pg_restore", command, archive).await?;
    String::from_utf8(written)
        .map_err(|error| Error::new(Kind::Server, "pg_restore wrote no UTF-8").because(error))
}

/// That both tools can be run, and read a server of this version (`server_version_num`).
///
/// # Errors
/// [`Kind::Setup`] otherwise.
pub async fn check(server: i32) -> Result<()> {
    let major = server / 10_000;
    for tool in ["pg_dump", "pg_restore"] {
        let mut command = command(tool);
        command.arg("--version");
        let said = output(tool, command, &[]).await?;
        let said = String::from_utf8_lossy(&said);
        if version(&said).is_none_or(|version| version < major) {
            let what = format!("{} is too old for a source of PostgreSQL {major}", said.trim());
            return Err(Error::new(Kind::Setup, what).hint(way_out(tool)));
        }
    }
    Ok(())
}

/// The major version in `pg_dump (PostgreSQL) 15.20 (Debian 15.20-1)`.
fn version(said: &str) -> Option<i32> {
    let number = said.split_once(") ")?.1;
    number.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn way_out(tool: &str) -> String {
    format!(
        "install PostgreSQL's client tools, of the source's version or a later one, so that {tool} of that version is \
         the first in the sidecar's PATH; or make the tables yourself and set create_tables = false"
    )
}

/// Nothing of the sidecar's own environment tells libpq anything.
fn command(tool: &str) -> Command {
    let mut command = Command::new(tool);
    for (name, _) in
        std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"PG"))
    {
        command.env_remove(name);
    }
    command
}

/// Runs a tool to its end; returns what it writes.
async fn output(tool: &str, mut command: Command, input: &[u8]) -> Result<Vec<u8>> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.env("LC_ALL", "C").kill_on_drop(true);
    let cannot = |error: std::io::Error| {
        // each table that is not to be made is an argument
        let way_out = match error.kind() {
            std::io::ErrorKind::ArgumentListTooLong => {
                "too many tables are there already: make the missing ones yourself and set create_tables = false".into()
            }
            _ => way_out(tool),
        };
        let what = format!("create_tables = true needs {tool}, which cannot be run");
        Error::new(Kind::Setup, what).because(error).hint(way_out)
    };
    let mut child = command.spawn().map_err(cannot)?;
    let stdin = child.stdin.take();
    let feed = async {
        if let Some(mut stdin) = stdin {
            // a tool that does not read to the end says why itself
            let _ = stdin.write_all(input).await;
            let _ = stdin.shutdown().await;
        }
    };
    let ((), output) = tokio::join!(feed, child.wait_with_output());
    let output = output.map_err(cannot)?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said: Vec<char> = said.trim().chars().collect();
    // the last of it is the error
    let said: String = said.iter().skip(said.len().saturating_sub(SHOWN)).collect();
    Err(Error::new(Kind::Setup, format!("{tool} failed: {}", said.replace('\n', " ")))
        .hint("mend what it says; or make the tables yourself and set create_tables = false"))
}

/// How libpq is told where to connect and how: no argument of a process holds any of it.
fn environment(source: &PgConnect) -> Vec<(OsString, OsString)> {
    let (config, tls) = (source.config(), source.tls());
    let host = |host: &Host| match host {
        Host::Tcp(name) => name.clone(),
        Host::Unix(path) => path.to_string_lossy().into_owned(),
    };
    let list =
        |all: Vec<String>| Some(all.join(",")).filter(|list| !list.is_empty()).map(OsString::from);
    let mode = match tls.mode {
        SslMode::Disable => "disable",
        SslMode::Prefer => "prefer",
        SslMode::Require => "require",
        SslMode::VerifyCa => "verify-ca",
        SslMode::VerifyFull => "verify-full",
    };
    let by_system = (tls.mode == SslMode::VerifyFull).then(|| "system".into());
    let password = config.get_password().map(|bytes| OsString::from_vec(bytes.to_vec()));
    let binding =
        (config.get_channel_binding() == ChannelBinding::Require).then(|| "require".into());
    let attributes = match config.get_target_session_attrs() {
        TargetSessionAttrs::ReadWrite => Some("read-write".into()),
        TargetSessionAttrs::ReadOnly => Some("read-only".into()),
        _ => None,
    };
    let (cert, key) = tls.client_cert.clone().unzip();
    let settings: [(&str, Option<OsString>); 15] = [
        ("PGHOST", list(config.get_hosts().iter().map(host).collect())),
        ("PGHOSTADDR", list(config.get_hostaddrs().iter().map(ToString::to_string).collect())),
        ("PGPORT", list(config.get_ports().iter().map(u16::to_string).collect())),
        ("PGUSER", Some(source.user().into())),
        ("PGDATABASE", Some(source.database().into())),
        ("PGPASSWORD", password),
        ("PGOPTIONS", config.get_options().map(OsString::from)),
        ("PGAPPNAME", Some("rsrepl create".into())),
        ("PGCONNECT_TIMEOUT", Some(source.connect_timeout().as_secs().max(2).to_string().into())),
        ("PGCHANNELBINDING", binding),
        ("PGTARGETSESSIONATTRS", attributes),
        ("PGSSLMODE", Some(mode.into())),
        ("PGSSLROOTCERT", tls.root_cert.clone().map(OsString::from).or(by_system)),
        ("PGSSLCERT", cert.map(OsString::from)),
        ("PGSSLKEY", key.map(OsString::from)),
    ];
    settings.into_iter().filter_map(|(name, value)| Some((name.into(), value?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls;

    #[test]
    fn versions_are_read() {
        for (said, expected) in [
            ("pg_dump (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)\n", Some(15)),
            ("pg_restore (PostgreSQL) 18beta1", Some(18)),
            ("pg_dump", None),
        ] {
            assert_eq!(version(said), expected, "{said}");
        }
    }

    #[test]
    fn everything_of_a_connection_string_goes_on() {
        let source = "host=a,b port=1,2 user=u password='p w' dbname=d sslmode=require channel_binding=require";
        let source = tls::parse(source).unwrap();
        let all = environment(&source);
        let of = |name: &str| {
            all.iter().find(|(key, _)| key == name).and_then(|(_, value)| value.to_str())
        };
        for (name, expected) in [
            ("PGHOST", Some("a,b")),
            ("PGPORT", Some("1,2")),
            ("PGUSER", Some("u")),
            ("PGPASSWORD", Some("p w")),
            ("PGDATABASE", Some("d")),
            ("PGSSLMODE", Some("require")),
            ("PGCHANNELBINDING", Some("require")),
            ("PGHOSTADDR", None),
            ("PGSSLROOTCERT", None),
        ] {
            assert_eq!(of(name), expected, "{name}");
        }
    }
}
