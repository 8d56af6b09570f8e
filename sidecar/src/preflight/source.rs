//! The source: server settings, role, extension, output plugin, slot.

use rsrepl_wire::Relation;
use tokio_postgres::Client;

use super::slot::{self, Slot};
use super::{Finding, encoding, publications, readable, tables};
use crate::config::{Source, Streaming};
use crate::error::{Error, Kind, Result};
use crate::quote::{identifier, literal};
use crate::source::{PLUGIN, ReplicationClient};

/// The oldest extension whose report function and frames this sidecar knows.
const EXTENSION_MIN: [u32; 3] = [0, 1, 0];

/// Whether the setting `output_plugin_libraries` exists, by `server_version_num`.
fn lists_plugins(version: i32) -> bool {
    match version / 10_000 {
        15 => version >= 150_019,
        16 => version >= 160_015,
        17 => version >= 170_011,
        18 => version >= 180_006,
        major => major > 18,
    }
}

/// All that is wrong with the source, and the tables that it will send. `copies`: what new targets begin with is
/// read from it.
pub(super) async fn check(config: &Source, copies: bool) -> (Vec<Finding>, Vec<Relation>) {
    let mut findings = Vec::new();
    let connection = config.connection.clone().application_name("rsrepl check");
    let checked = async {
        let client = connection.connect().await?;
        let tables = look(config, &client, &mut findings).await?;
        // where there is a slot already, targets may have everything
        if copies && Slot::read(&client, &config.slot_name).await?.is_none() {
            findings.extend(readable::check(&client, &tables).await?);
        }
        Ok(tables)
    };
    match checked.await {
        Ok(tables) => (findings, tables),
        Err(error) => {
            findings.push(Finding::from(&error));
            (findings, Vec::new())
        }
    }
}

/// A query of ours was refused.
pub(super) fn failed(error: tokio_postgres::Error) -> Error {
    let kind = if error.is_closed() { Kind::Connection } else { Kind::Server };
    Error::new(kind, "the source cannot be examined").because(error)
}

async fn look(
    config: &Source,
    client: &Client,
    findings: &mut Vec<Finding>,
) -> Result<Vec<Relation>> {
    let server = Server::read(client).await?;
    let slot = Slot::read(client, &config.slot_name).await?;
    findings.extend(server.check(config, slot.as_ref()));
    let extension = Extension::read(client).await?;
    findings.extend(extension.check(&server.role));
    findings.extend(check_plugin_list(client, &server, &extension).await?);
    findings.extend(encoding::check(client, config).await?);
    match &slot {
        Some(slot) => findings.extend(slot.check(config, config.connection.database())),
        None => findings.extend(slot::check_missing(config)),
    }
    if server.may_replicate && server.walsenders < server.walsenders_max {
        // pg_hba.conf may let this session in and not that one
        match ReplicationClient::connect(&config.connection).await {
            Ok(client) => client.close().await,
            Err(error) => findings.push(Finding::from(&error)),
        }
    }
    let published = publications::check(client, config, server.version, findings).await?;
    tables::describe(client, &published, findings).await
}

struct Server {
    version: i32,
    wal_level: String,
    slots: i64,
    slots_max: i64,
    walsenders: i64,
    walsenders_max: i64,
    role: String,
    may_replicate: bool,
    in_recovery: bool,
}

impl Server {
    async fn read(client: &Client) -> Result<Self> {
        let sql = "SELECT current_setting('server_version_num')::int, current_setting('wal_level'),
                   (SELECT count(*) FROM pg_catalog.pg_replication_slots),
                   current_setting('max_replication_slots')::bigint,
                   (SELECT count(*) FROM pg_catalog.pg_stat_replication),
                   current_setting('max_wal_senders')::bigint,
                   rolname::text, rolsuper OR rolreplication, pg_is_in_recovery()
                   FROM pg_catalog.pg_roles WHERE rolname = current_user";
        let row = client.query_one(sql, &[]).await.map_err(failed)?;
        Ok(Server {
            version: row.get(0),
            wal_level: row.get(1),
            slots: row.get(2),
            slots_max: row.get(3),
            walsenders: row.get(4),
            walsenders_max: row.get(5),
            role: row.get(6),
            may_replicate: row.get(7),
            in_recovery: row.get(8),
        })
    }

    fn check(&self, config: &Source, slot: Option<&Slot>) -> Vec<Finding> {
        let mut findings = Vec::new();
        if self.in_recovery {
            findings.push(Finding::transient(
                "the source is in recovery: a standby, or not promoted yet",
                "connect to the primary, or promote this one",
            ));
        }
        if config.streaming == Streaming::On && self.version >= 160_000 {
            findings.push(Finding::warning(
                "this version of PostgreSQL may leave out rows of transactions in progress, behind a savepoint \
                 that changed a table and was rolled back",
                "leave source.streaming out: then they come whole, after their commit",
            ));
        }
        if self.wal_level != "logical" {
            findings.push(Finding::error(
                format!("wal_level is {}, and must be logical", self.wal_level),
                "ALTER SYSTEM SET wal_level = logical; then restart the server",
            ));
        }
        if !self.may_replicate {
            findings.push(Finding::error(
                format!("the role {} lacks REPLICATION", self.role),
                format!("ALTER ROLE {} REPLICATION", identifier(&self.role)),
            ));
        }
        if slot.is_none() && config.create_slot && self.slots >= self.slots_max {
            findings.push(Finding::error(
                format!("no replication slot is free: all {} are in use", self.slots_max),
                format!(
                    "drop one that nobody needs (SELECT pg_drop_replication_slot('…')), or ALTER \
                     SYSTEM SET max_replication_slots = {}; then restart the server",
                    self.slots_max + 10
                ),
            ));
        }
        let active = slot.is_some_and(|slot| slot.active_pid.is_some());
        if !active && self.walsenders >= self.walsenders_max {
            findings.push(Finding::transient(
                format!("no walsender is free: all {} are in use", self.walsenders_max),
                format!(
                    "ALTER SYSTEM SET max_wal_senders = {}; then restart the server",
                    self.walsenders_max + 10
                ),
            ));
        }
        findings
    }
}

/// The extension, as far as the role can see it.
struct Extension {
    /// Version of the SQL in this database.
    installed: Option<String>,
    /// Version of the library that the server loads; `None`: this role may not ask.
    library: Option<String>,
    /// What the server's files would give.
    available: Option<String>,
    /// EXECUTE on `rsrepl.report` and what belongs to it, and USAGE on the schema.
    granted: bool,
}

impl Extension {
    async fn read(client: &Client) -> Result<Self> {
        let sql =
            "SELECT (SELECT extversion FROM pg_catalog.pg_extension WHERE extname = 'rsrepl'),
                   (SELECT default_version FROM pg_catalog.pg_available_extensions
                    WHERE name = 'rsrepl'),
                   coalesce((SELECT bool_and(has_function_privilege(p.oid, 'EXECUTE')
                                             AND has_schema_privilege(n.oid, 'USAGE'))
                    FROM pg_catalog.pg_proc AS p JOIN pg_catalog.pg_namespace AS n
                      ON n.oid = p.pronamespace
                    WHERE n.nspname = 'rsrepl'
                      AND p.proname IN ('report', 'version', 'output_plugin_libraries')), false)";
        let row = client.query_one(sql, &[]).await.map_err(failed)?;
        let mut found = Extension {
            installed: row.get(0),
            library: None,
            available: row.get(1),
            granted: row.get(2),
        };
        if found.installed.is_some() && found.granted {
            let row = client.query_one("SELECT rsrepl.version()", &[]).await.map_err(failed)?;
            found.library = row.get(0);
        }
        Ok(found)
    }

    fn check(&self, role: &str) -> Option<Finding> {
        let Some(installed) = &self.installed else {
            return Some(match self.available {
                Some(_) => Finding::error(
                    "the extension rsrepl is missing in this database",
                    "CREATE EXTENSION rsrepl",
                ),
                None => Finding::error(
                    "the extension rsrepl is not installed on this server",
                    "make install PG_CONFIG=… on the server; then CREATE EXTENSION rsrepl",
                ),
            });
        };
        let [major, minor, patch] = EXTENSION_MIN;
        let needed = format!("this sidecar needs {major}.{minor}.{patch}");
        if let Some(library) = self.library.as_ref().filter(|it| version(it) < EXTENSION_MIN) {
            return Some(Finding::error(
                format!("the library rsrepl on the server is {library}; {needed}"),
                "make install PG_CONFIG=… on the server; then ALTER EXTENSION rsrepl UPDATE",
            ));
        }
        if version(installed) < EXTENSION_MIN {
            return Some(Finding::error(
                format!("the extension rsrepl in this database is {installed}; {needed}"),
                "ALTER EXTENSION rsrepl UPDATE",
            ));
        }
        (!self.granted).then(|| {
            Finding::warning(
                format!("the role {role} may not report to rsrepl.targets and rsrepl.health()"),
                format!("CALL rsrepl.grant_sidecar({})", literal(role)),
            )
        })
    }
}

/// `1.2.3` or `1.2`; what is no number counts as 0.
fn version(text: &str) -> [u32; 3] {
    let mut parts = text.split('.').map(|part| part.parse().unwrap_or(0));
    std::array::from_fn(|_| parts.next().unwrap_or(0))
}

async fn check_plugin_list(
    client: &Client,
    server: &Server,
    extension: &Extension,
) -> Result<Option<Finding>> {
    if !lists_plugins(server.version) {
        return Ok(None);
    }
    // ordinary roles do not see the setting; the extension's function shows it to them
    let sql = match extension.installed.is_some() && extension.granted {
        true => "SELECT rsrepl.output_plugin_libraries()",
        false => {
            "SELECT setting FROM pg_catalog.pg_settings WHERE name = 'output_plugin_libraries'"
        }
    };
    let row = client.query_opt(sql, &[]).await.map_err(failed)?;
    Ok(judge_plugin_list(row.and_then(|row| row.get(0))))
}

/// `listed` is the setting; `None`: this role cannot see it.
fn judge_plugin_list(listed: Option<String>) -> Option<Finding> {
    let Some(listed) = listed else {
        return Some(Finding::warning(
            "this role cannot see whether output_plugin_libraries lists rsrepl",
            "look as a superuser: SHOW output_plugin_libraries; the default is mended by ALTER SYSTEM SET \
             output_plugin_libraries = pgoutput, test_decoding, rsrepl; SELECT pg_reload_conf()",
        ));
    };
    let mut names: Vec<&str> = listed
        .split(',')
        .map(|name| name.trim_matches([' ', '"']))
        .filter(|n| !n.is_empty())
        .collect();
    if names.contains(&PLUGIN) {
        return None;
    }
    names.push(PLUGIN);
    Some(Finding::error(
        format!("output_plugin_libraries is {listed}, without rsrepl"),
        format!(
            "ALTER SYSTEM SET output_plugin_libraries = {}; SELECT pg_reload_conf()",
            names.join(", ")
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preflight::Severity;

    #[test]
    fn the_list_of_plugins_keeps_what_it_had() {
        assert_eq!(judge_plugin_list(Some("pgoutput, rsrepl".into())), None);
        assert_eq!(judge_plugin_list(Some("\"rsrepl\"".into())), None);
        let finding =
            judge_plugin_list(Some("pgoutput, test_decoding".into())).expect("not listed");
        assert_eq!(
            finding.mend,
            "ALTER SYSTEM SET output_plugin_libraries = pgoutput, test_decoding, rsrepl; \
             SELECT pg_reload_conf()"
        );
        let finding = judge_plugin_list(Some(String::new())).expect("not listed");
        assert!(finding.mend.contains("= rsrepl;"));
        let unseen = judge_plugin_list(None).expect("a warning");
        assert_eq!(unseen.severity, Severity::Warning);
        assert!(lists_plugins(150_020) && lists_plugins(190_000));
        assert!(!lists_plugins(150_018) && !lists_plugins(180_004) && !lists_plugins(140_030));
    }

    #[test]
    fn the_extension_must_be_there_and_not_too_old() {
        let extension = |installed: Option<&str>, library: Option<&str>| Extension {
            installed: installed.map(str::to_owned),
            library: library.map(str::to_owned),
            available: Some("9.9.9".into()),
            granted: library.is_some(),
        };
        let mend = |extension: Extension| extension.check("app").map(|finding| finding.mend);
        assert_eq!(mend(extension(Some("0.1.0"), Some("0.1.0"))), None);
        assert_eq!(mend(extension(None, None)), Some("CREATE EXTENSION rsrepl".into()));
        let sql_is_old = mend(extension(Some("0.0.9"), Some("0.1.0")));
        assert_eq!(sql_is_old, Some("ALTER EXTENSION rsrepl UPDATE".into()));
        let library_is_old = mend(extension(Some("0.1.0"), Some("0.0.9")));
        assert!(library_is_old.is_some_and(|mend| mend.starts_with("make install")));
        let not_granted = mend(extension(Some("0.1.0"), None));
        assert_eq!(not_granted, Some("CALL rsrepl.grant_sidecar('app')".into()));
    }

    #[test]
    fn versions_compare_by_number() {
        assert!(version("0.10.0") > version("0.9.9"));
        assert_eq!(version("1.2"), [1, 2, 0]);
        assert_eq!(version("0.2.0-dev"), [0, 2, 0]);
    }
}
