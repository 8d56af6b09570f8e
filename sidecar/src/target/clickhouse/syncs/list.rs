//! `_rsrepl_complete`: the list of tables that are complete, as JSON.

use bytes::Bytes;

use super::super::ddl::{literal, qualified, quoted};
use super::super::failure::Attempt;
use super::super::setup;
use super::super::types::put_string;
use super::{ClickHouseSyncs, Open, micros};
use crate::error::{Error, Kind, Result};
use crate::sync::Complete;

pub(in super::super) const COMPLETE: &str = "_rsrepl_complete";

pub(in super::super) fn create_statement(database: &str) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS {} (slot String, system_id UInt64, sequence UInt64, list String) \
         ENGINE = ReplacingMergeTree(sequence) ORDER BY (slot, system_id) \
         SETTINGS fsync_after_insert = 1, fsync_part_directory = 1",
        qualified(database, COMPLETE)
    )
}

impl ClickHouseSyncs {
    pub(super) async fn list(&self) -> Result<Option<Complete>> {
        let Open { server, source, .. } = self.opened()?;
        let database = &self.options.database;
        if setup::describe(server, database, COMPLETE).await?.is_none() {
            return Ok(None);
        }
        let sql = format!(
            "SELECT list FROM {} FINAL WHERE slot = {} AND system_id = {}",
            qualified(database, COMPLETE),
            literal(&source.slot),
            source.system_id
        );
        let rows = server.strings::<1>(Attempt::ReadPosition, &sql).await?;
        let Some([text]) = rows.into_iter().next() else { return Ok(None) };
        serde_json::from_str(&text).map(Some).map_err(|_| {
            let what = format!("target {}: {COMPLETE} cannot be read", self.options.name);
            Error::new(Kind::Setup, what)
                .hint("it was written by a later version of rsrepl: use that one")
        })
    }

    pub(super) async fn set_list(&self, list: &Complete) -> Result<()> {
        let Open { server, source, .. } = self.opened()?;
        let database = &self.options.database;
        if self.options.create_tables && !setup::has_database(server, database).await? {
            let sql = format!("CREATE DATABASE IF NOT EXISTS {}", quoted(database));
            server.execute(Attempt::Prepare, &sql).await?;
        }
        if setup::describe(server, database, COMPLETE).await?.is_none() {
            let sql = create_statement(database);
            server.execute(Attempt::Prepare, &sql).await.map_err(|error| {
                Error::new(error.kind(), error.what()).hint(format!("run it by hand: {sql}"))
            })?;
        }
        let mut row = Vec::with_capacity(4096);
        put_string(&mut row, source.slot.as_bytes());
        row.extend_from_slice(&source.system_id.to_le_bytes());
        row.extend_from_slice(&micros().to_le_bytes());
        put_string(&mut row, serde_json::to_string(list).unwrap_or_default().as_bytes());
        let sql = format!(
            "INSERT INTO {} (slot, system_id, sequence, list) FORMAT RowBinary",
            qualified(database, COMPLETE)
        );
        server.insert(Attempt::WritePosition, &sql, Bytes::from(row)).await
    }
}
