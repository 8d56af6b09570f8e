//! A ClickHouse target as `rsrepl verify` sees it: what a table became there, queries, and rows that mend
//! it. Nothing of it is known to the stream.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use rsrepl_wire::{Lsn, Relation};

use super::client::Server;
use super::convert::DateRange;
use super::ddl::{literal, qualified};
use super::failure::Attempt;
use super::options::ClickHouseOptions;
use super::plan::OWN_PREFIX;
use super::policy::Unrepresentable;
use super::syncs::{ENDED, SYNCS};
use super::types::{ColumnType, take_varint};
use super::{position, setup};
use crate::error::{Error, Kind, Result};
use crate::target::SourceIdentity;

/// See the module's documentation.
#[derive(Clone)]
pub(crate) struct Mirror {
    server: Server,
    options: ClickHouseOptions,
    source: SourceIdentity,
    dates: DateRange,
}

/// What a table of the source is there.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    /// With its database, quoted; a view when there is no key.
    pub(crate) name: String,
    /// By name; without our own.
    pub(crate) columns: BTreeMap<String, ImageColumn>,
}

#[derive(Clone, Debug)]
pub(crate) struct ImageColumn {
    /// `None`: not one that the target makes.
    pub(crate) ty: Option<ColumnType>,
    /// As the server calls it.
    pub(crate) type_name: String,
    /// What it cannot hold is NULL there.
    pub(crate) nulls: bool,
    /// The user has chosen the type.
    pub(crate) chosen: bool,
    /// The server knows fewer years than the source.
    pub(crate) narrow_dates: bool,
}

impl Mirror {
    pub(crate) async fn open(options: ClickHouseOptions, source: &SourceIdentity) -> Result<Self> {
        let server = Server::new(&options, format!("rsrepl-verify:{}:", options.name))?;
        let dates = setup::date_range(&server).await?;
        Ok(Mirror { server, options, source: source.clone(), dates })
    }

    /// How far the stream is there; `None`: it has not begun.
    ///
    /// # Errors
    /// [`Kind::Identity`]: it is another source's.
    pub(crate) async fn position(&self) -> Result<Option<Lsn>> {
        let position = position::read(&self.server, &self.options.database, &self.source).await?;
        Ok(Some(position).filter(|position| *position != Lsn::INVALID))
    }

    /// The last TRUNCATE of a table that was begun there, if any.
    pub(crate) async fn truncated(&self, relation: &Relation) -> Result<Option<u128>> {
        let ClickHouseOptions { database, .. } = &self.options;
        let all = position::read_truncates(&self.server, database, &self.source.slot).await?;
        let name = self.options.target_table(&relation.schema, &relation.name);
        Ok(all.get(&name).map(|version| version.0))
    }

    /// Another stream than the main one has the table.
    pub(crate) async fn is_synced(&self, relation: &Relation) -> Result<bool> {
        let ClickHouseOptions { database, .. } = &self.options;
        if setup::describe(&self.server, database, SYNCS).await?.is_none() {
            return Ok(false);
        }
        let sql = format!(
            "SELECT toString(count()) FROM {} FINAL WHERE slot = {} AND system_id = {} AND source_oid = {} \
             AND (sync_slot != '' OR stage IN ('given up', 'requested again')) AND stage != {}",
            qualified(database, SYNCS),
            literal(&self.source.slot),
            self.source.system_id,
            relation.oid,
            literal(ENDED)
        );
        let rows = self.server.strings::<1>(Attempt::ReadPosition, &sql).await?;
        Ok(rows.first().is_some_and(|[count]| count != "0"))
    }

    /// `None`: there is no such table; the target makes it with its first row.
    pub(crate) async fn image(&self, relation: &Relation) -> Result<Option<Image>> {
        let database = &self.options.database;
        let name = self.options.target_table(&relation.schema, &relation.name);
        let existing = setup::describe(&self.server, database, &name).await?;
        let name = qualified(database, &name);
        let Some(existing) = existing else { return Ok(None) };
        let column = |(column, type_name): (String, String)| {
            let policies = &self.options.policies;
            let (policy, chosen) = policies.of(&relation.schema, &relation.name, &column);
            let described = ImageColumn {
                ty: ColumnType::parse(&type_name),
                type_name,
                nulls: policy == Unrepresentable::Null,
                chosen: chosen.is_some(),
                narrow_dates: self.dates != DateRange::WIDE,
            };
            (column, described)
        };
        let theirs = existing.columns.into_iter();
        let theirs = theirs.filter(|(column, _)| !column.starts_with(OWN_PREFIX));
        Ok(Some(Image { name, columns: theirs.map(column).collect() }))
    }

    /// The rows of a query in `RowBinary`.
    pub(crate) async fn rows(&self, table: &str, sql: &str, limit: Duration) -> Result<Reader> {
        // a statement ends with who asks
        let sql = format!("{sql} SETTINGS cancel_http_readonly_queries_on_client_close = 1");
        let rows = self.server.rows_within(Attempt::ReadBack(table), &sql, limit).await?;
        Ok(Reader { rest: rows, target: self.options.name.clone() })
    }

    /// Runs a statement.
    pub(crate) async fn execute(&self, table: &str, sql: &str) -> Result<()> {
        self.server.execute(Attempt::Insert(table), sql).await
    }
}

/// An answer in `RowBinary`.
pub(crate) struct Reader {
    rest: Bytes,
    target: String,
}

impl Reader {
    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn text(&mut self) -> Result<String> {
        let mut rest = self.rest.as_ref();
        let end = take_varint(&mut rest).and_then(|len| {
            let start = self.rest.len() - rest.len();
            let end = start.checked_add(usize::try_from(len).ok()?)?;
            (end <= self.rest.len()).then_some((start, end))
        });
        let (start, end) = end.ok_or_else(|| self.unreadable())?;
        let text = self.rest.split_to(end).split_off(start);
        // another key than it is would be looked for, and found nowhere
        String::from_utf8(text.into()).map_err(|_| {
            let what = format!("target {}: a key is not valid UTF-8", self.target);
            Error::new(Kind::Server, what)
        })
    }

    pub(crate) fn nullable_text(&mut self) -> Result<Option<String>> {
        let is_null = *self.rest.first().ok_or_else(|| self.unreadable())? != 0;
        let _ = self.rest.split_to(1);
        if is_null { Ok(None) } else { self.text().map(Some) }
    }

    pub(crate) fn int64(&mut self) -> Result<i64> {
        let bytes = self.rest.first_chunk::<8>().ok_or_else(|| self.unreadable())?;
        let value = i64::from_le_bytes(*bytes);
        let _ = self.rest.split_to(8);
        Ok(value)
    }

    pub(crate) fn int128(&mut self) -> Result<i128> {
        let bytes = self.rest.first_chunk::<16>().ok_or_else(|| self.unreadable())?;
        let value = i128::from_le_bytes(*bytes);
        let _ = self.rest.split_to(16);
        Ok(value)
    }

    fn unreadable(&self) -> Error {
        Error::new(
            Kind::Server,
            format!("target {}: cannot read the answer of ClickHouse", self.target),
        )
    }
}

/// What a row gets that mends one: newer than everything that the stream has brought up to `lsn`, older
/// than everything behind it.
pub(crate) fn version_at(lsn: Lsn) -> u128 {
    u128::from(lsn.0) << 64 | u128::from(u64::MAX)
}
