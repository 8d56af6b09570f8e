//! The replication slot: whose it is, and whether it can be read now.

use tokio_postgres::Client;

use super::Finding;
use super::source::failed;
use crate::config::Source;
use crate::error::Result;
use crate::quote::literal;
use crate::source::PLUGIN;

/// What matters of a row of `pg_replication_slots`.
#[derive(Default)]
pub(super) struct Slot {
    plugin: Option<String>,
    database: Option<String>,
    pub(super) active_pid: Option<i32>,
    /// Of the session that uses it, as far as the role may see that.
    user: String,
    temporary: bool,
    lost: bool,
}

impl Slot {
    pub(super) async fn read(client: &Client, name: &str) -> Result<Option<Self>> {
        let sql = "SELECT s.plugin::text, s.database::text, s.active_pid,
                   coalesce(nullif(concat_ws(' from ', nullif(a.application_name, ''),
                                             host(a.client_addr)), ''), 'unknown'),
                   s.temporary, s.wal_status = 'lost' OR s.restart_lsn IS NULL
                   FROM pg_catalog.pg_replication_slots AS s
                   LEFT JOIN pg_catalog.pg_stat_activity AS a ON a.pid = s.active_pid
                   WHERE s.slot_name = $1::text::name";
        let row = client.query_opt(sql, &[&name]).await.map_err(failed)?;
        Ok(row.map(|row| Slot {
            plugin: row.get(0),
            database: row.get(1),
            active_pid: row.get(2),
            user: row.get(3),
            temporary: row.get(4),
            lost: row.get::<_, Option<bool>>(5).unwrap_or(false),
        }))
    }

    pub(super) fn check(&self, config: &Source, ours: &str) -> Option<Finding> {
        let name = &config.slot_name;
        let other = "choose another source.slot_name";
        let (Some(plugin), Some(database)) = (&self.plugin, &self.database) else {
            return Some(Finding::error(format!("the slot {name} is a physical slot"), other));
        };
        if plugin != PLUGIN {
            let what = format!("the slot {name} belongs to the output plugin {plugin}");
            return Some(Finding::error(what, other));
        }
        if database != ours {
            return Some(Finding::error(
                format!("the slot {name} belongs to the database {database}, not to {ours}"),
                format!("{other}, or connect to {database}"),
            ));
        }
        if self.temporary {
            let what = format!("the slot {name} is temporary and ends with its session");
            return Some(Finding::error(what, other));
        }
        if let Some(pid) = self.active_pid {
            return Some(Finding::transient(
                format!("the slot {name} is in use by PID {pid} ({})", self.user),
                format!(
                    "nothing, if that is this sidecar at work; else stop that reader: SELECT \
                     pg_terminate_backend({pid})"
                ),
            ));
        }
        self.lost.then(|| {
            Finding::error(
                format!("the slot {name} was invalidated: WAL that it needs is gone"),
                format!(
                    "SELECT pg_drop_replication_slot({}), remove the targets' positions and load \
                     them anew (docs/operations.md, \"slot lost\")",
                    literal(name)
                ),
            )
        })
    }
}

/// There is none, and none is to be made.
pub(super) fn check_missing(config: &Source) -> Option<Finding> {
    let name = &config.slot_name;
    (!config.create_slot).then(|| {
        Finding::error(
            format!("there is no slot {name}, and create_slot is false"),
            format!("SELECT pg_create_logical_replication_slot({}, 'rsrepl')", literal(name)),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{InvalidText, Streaming};
    use crate::preflight::Severity;

    #[test]
    fn a_slot_that_is_held_may_become_free() {
        let config = Source {
            connection: crate::tls::parse("host=h user=u dbname=d").expect("valid"),
            slot_name: "s".into(),
            publications: Vec::new(),
            create_slot: true,
            streaming: Streaming::Auto,
            encoding: None,
            invalid_text: InvalidText::Error,
        };
        let slot = || Slot {
            plugin: Some(PLUGIN.into()),
            database: Some("d".into()),
            user: "rsrepl from ::1".into(),
            ..Slot::default()
        };
        assert_eq!(slot().check(&config, "d"), None);
        let held = Slot { active_pid: Some(7), ..slot() }.check(&config, "d").expect("held");
        assert_eq!(held.severity, Severity::Transient);
        assert_eq!(held.what, "the slot s is in use by PID 7 (rsrepl from ::1)");
        for bad in [
            Slot { database: Some("other".into()), ..slot() },
            Slot { temporary: true, ..slot() },
            Slot { lost: true, ..slot() },
            Slot { plugin: Some("pgoutput".into()), active_pid: Some(7), ..slot() },
        ] {
            let finding = bad.check(&config, "d").expect("not ours to use");
            assert_eq!(finding.severity, Severity::Error, "{finding}");
        }
    }
}
