//! Replication slots: looking at one, creating it, the commands that name it.

use std::time::Duration;

use rsrepl_wire::Lsn;

use super::client::{ReplicationClient, Row, major};
use super::framing::violation;
use crate::error::Result;
use crate::quote::identifier;

/// An exported snapshot is a transaction that is open and idle; and it must not outlive the host that it is for by
/// the hours that TCP has by default. Names that the version does not know are left out.
const IDLE_FOR_LONG: &str = "\
SELECT pg_catalog.set_config(s.name, v.value, false)
  FROM (VALUES ('idle_in_transaction_session_timeout', '0'), ('idle_session_timeout', '0'), ('transaction_timeout', '0'),
               ('tcp_keepalives_idle', '20'), ('tcp_keepalives_interval', '10'), ('tcp_keepalives_count', '3')) AS v (name, value)
  JOIN pg_catalog.pg_settings AS s ON s.name OPERATOR(pg_catalog.=) v.name";

/// Of advisory locks of ours, the first number: "rsrp".
const COPY_LOCK: i32 = 0x7273_7270;

/// How often it is tried, and the pause between: a predecessor's session may be about to end.
const LOCK_ATTEMPTS: u32 = 30;
const LOCK_RETRY: Duration = Duration::from_millis(100);

/// A row of `pg_replication_slots`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotInfo {
    pub name: String,
    /// `None` for a physical slot.
    pub plugin: Option<String>,
    /// `None` for a physical slot.
    pub database: Option<String>,
    /// The walsender that uses it now.
    pub active_pid: Option<i32>,
    /// The oldest WAL it needs; `None` when it was invalidated.
    pub restart_lsn: Option<Lsn>,
    /// Transactions that end at or below it are not sent again, whatever is asked for.
    pub confirmed_flush_lsn: Option<Lsn>,
    /// `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: Option<String>,
    pub two_phase: bool,
}

impl ReplicationClient {
    /// The slot of this name, if there is one.
    pub async fn slot(&mut self, name: &str) -> Result<Option<SlotInfo>> {
        let sql = format!(
            "SELECT plugin, database, active_pid, restart_lsn, confirmed_flush_lsn, wal_status, \
             two_phase FROM pg_catalog.pg_replication_slots WHERE slot_name OPERATOR(pg_catalog.=) {}",
            literal(name)
        );
        let rows = self.query("looking at the slot failed", &sql).await?;
        rows.first().map(|row| read_slot(name, row)).transpose()
    }

    /// Names of this database's logical slots that no session uses.
    pub async fn idle_slots(&mut self) -> Result<Vec<String>> {
        const SQL: &str = "SELECT slot_name FROM pg_catalog.pg_replication_slots WHERE active_pid IS NULL \
             AND NOT temporary AND database OPERATOR(pg_catalog.=) pg_catalog.current_database()";
        let rows = self.query("looking at the slots failed", SQL).await?;
        Ok(rows.into_iter().filter_map(|row| row.into_iter().next().flatten()).collect())
    }

    /// Creates a logical slot and returns its consistent point, where its stream begins. Waits for
    /// the transactions that are running now to end, however long they take. From PostgreSQL 17 on physical
    /// standbys can keep it (`failover`), unless it is one itself that is asked.
    pub async fn create_slot(&mut self, name: &str, plugin: &str) -> Result<Lsn> {
        let sql = format!(
            "CREATE_REPLICATION_SLOT {} LOGICAL {} (SNAPSHOT 'nothing'{})",
            identifier(name),
            identifier(plugin),
            self.failover().await?
        );
        let rows = self.query_unbounded("creating the slot failed", &sql).await?;
        // slot_name, consistent_point, snapshot_name, output_plugin
        lsn(rows.first().and_then(|row| row.get(1)))?
            .ok_or_else(|| violation("CREATE_REPLICATION_SLOT returned no position"))
    }

    /// The option that lets physical standbys keep a slot, where there is one.
    async fn failover(&mut self) -> Result<&'static str> {
        let known = major(self.server_version()).is_some_and(|major| major >= 17);
        let is_primary = known && self.show("in_hot_standby").await? == "off";
        Ok(if is_primary { ", FAILOVER" } else { "" })
    }

    /// The same with a snapshot in which exactly what commits before the consistent point is visible, and its
    /// name: it lasts until the next command of this session. A temporary slot lasts as long as the session.
    pub async fn create_slot_and_export(
        &mut self,
        name: &str,
        plugin: &str,
        temporary: bool,
    ) -> Result<(Lsn, String)> {
        self.query("preparing the session failed", IDLE_FOR_LONG).await?;
        // a temporary one cannot
        let (temporary, failover) =
            if temporary { (" TEMPORARY", "") } else { ("", self.failover().await?) };
        let sql = format!(
            "CREATE_REPLICATION_SLOT {}{temporary} LOGICAL {} (SNAPSHOT 'export'{failover})",
            identifier(name),
            identifier(plugin)
        );
        let rows = self.query_unbounded("creating the slot failed", &sql).await?;
        let point = lsn(rows.first().and_then(|row| row.get(1)))?;
        let snapshot = rows.first().and_then(|row| row.get(2).cloned().flatten());
        point.zip(snapshot).ok_or_else(|| violation("CREATE_REPLICATION_SLOT returned no snapshot"))
    }

    /// Keeps all other sessions that ask from copying for this slot, as long as this one lasts. `false`: another
    /// one does, for longer than a session takes to end.
    pub async fn lock_copy(&mut self, slot: &str) -> Result<bool> {
        self.query("preparing the session failed", IDLE_FOR_LONG).await?;
        let sql = format!(
            "SELECT pg_catalog.pg_try_advisory_lock({COPY_LOCK}, pg_catalog.hashtext({}))",
            literal(slot)
        );
        for attempt in 0..LOCK_ATTEMPTS {
            if attempt > 0 {
                tokio::time::sleep(LOCK_RETRY).await;
            }
            let rows = self.query("locking the copy failed", &sql).await?;
            if rows.first().and_then(|row| row.first()?.as_deref()) == Some("t") {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Drops a slot, once the session that has used it is gone.
    pub async fn drop_slot_when_free(&mut self, name: &str) -> Result<()> {
        let sql = format!("DROP_REPLICATION_SLOT {} WAIT", identifier(name));
        self.query("dropping the slot failed", &sql).await.map(drop)
    }

    /// Drops a slot that nobody uses.
    pub async fn drop_slot(&mut self, name: &str) -> Result<()> {
        let sql = format!("DROP_REPLICATION_SLOT {}", identifier(name));
        self.query("dropping the slot failed", &sql).await.map(drop)
    }
}

fn read_slot(name: &str, row: &Row) -> Result<SlotInfo> {
    let text = |i: usize| row.get(i).cloned().flatten();
    Ok(SlotInfo {
        name: name.to_owned(),
        plugin: text(0),
        database: text(1),
        active_pid: text(2).and_then(|pid| pid.parse().ok()),
        restart_lsn: lsn(row.get(3))?,
        confirmed_flush_lsn: lsn(row.get(4))?,
        wal_status: text(5),
        two_phase: text(6).as_deref() == Some("t"),
    })
}

/// A column with an LSN, which may be null.
pub(super) fn lsn(column: Option<&Option<String>>) -> Result<Option<Lsn>> {
    let parse = |text: &String| text.parse().map_err(|_| violation("a column holds no LSN"));
    column.and_then(Option::as_ref).map(parse).transpose()
}

/// `START_REPLICATION SLOT … LOGICAL …`; `options` go to the plugin.
pub(super) fn start_command(slot: &str, start: Lsn, options: &[(String, String)]) -> String {
    let mut sql = format!("START_REPLICATION SLOT {} LOGICAL {start}", identifier(slot));
    if !options.is_empty() {
        let options: Vec<String> = options
            .iter()
            .map(|(name, value)| format!("{} {}", identifier(name), literal(value)))
            .collect();
        sql.push_str(&format!(" ({})", options.join(", ")));
    }
    sql
}

/// Quoted as both SQL (with `standard_conforming_strings`, which the startup packet sets) and the
/// replication grammar read it: a backslash is a backslash.
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values_are_quoted() {
        let options = [("publications".to_owned(), "a,\"it's\"".to_owned())];
        assert_eq!(
            start_command("s\"x", Lsn(0x1_0000_00AB), &options),
            r#"START_REPLICATION SLOT "s""x" LOGICAL 1/AB ("publications" 'a,"it''s"')"#
        );
        assert_eq!(start_command("s", Lsn(0), &[]), "START_REPLICATION SLOT \"s\" LOGICAL 0/0");
    }

    #[test]
    fn a_row_of_pg_replication_slots() {
        let row = |columns: [Option<&str>; 7]| columns.map(|c| c.map(str::to_owned)).to_vec();
        let columns = [
            Some("rsrepl"),
            Some("d"),
            Some("12"),
            Some("0/1"),
            Some("1/2"),
            Some("reserved"),
            Some("f"),
        ];
        let slot = read_slot("s", &row(columns)).unwrap();
        assert_eq!(slot.active_pid, Some(12));
        assert_eq!(slot.confirmed_flush_lsn, Some(Lsn(0x1_0000_0002)));
        assert!(!slot.two_phase);
        let empty = read_slot("s", &row([None; 7])).unwrap();
        assert_eq!(empty, SlotInfo { name: "s".into(), ..SlotInfo::default() });
        assert!(read_slot("s", &row([None, None, None, Some("x"), None, None, None])).is_err());
        assert_eq!(read_slot("s", &Vec::new()).unwrap(), empty);
    }
}
