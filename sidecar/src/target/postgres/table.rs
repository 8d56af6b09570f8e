//! A table that is being written to: how it fits the relation, and its prepared statements.

use std::collections::HashMap;
use std::sync::Arc;

use rsrepl_wire::Relation;
use tokio_postgres::{Client, SimpleQueryMessage, Statement};

use super::catalog::TargetTable;
use super::sql::Shape;
use crate::config::MissingRows;

/// Prepared statements kept for one table. A table with more kinds of updates than that (by which of
/// its columns they leave unchanged) prepares some again.
const STATEMENTS_MAX: usize = 128;

/// Fields that a row type may have (`MaxHeapAttributeNumber`).
const ROW_TYPE_FIELDS_MAX: usize = 1600;

/// A target's table, as long as the stream describes it in the same way.
pub struct Table {
    pub relation: Arc<Relation>,
    pub fit: Arc<TargetTable>,
    pub missing_rows: MissingRows,
    number: usize,
    /// Name of the type that sets of rows arrive in, which [`Table::row_type`] creates.
    row_type: String,
    row_type_oid: Option<u32>,
    /// A COPY was refused before it began. tokio-postgres then sends the end of it all the same, and takes
    /// each answer from there on for that of another request: the session is of no use any more.
    pub lost_its_session: bool,
    statements: HashMap<StatementKey, Statement>,
}

/// What a prepared statement of a table does.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum StatementKey {
    InsertRow,
    DeleteRow,
    UpdateRow(Shape),
    /// The known columns.
    DeleteImage(Vec<bool>),
    UpdateImage(Vec<bool>, Shape),
    ReplaceImage(Vec<bool>, Shape),
    Copy,
    InsertSet,
    DeleteSet,
    DeleteRanges,
    UpdateSet(Shape),
}

impl Table {
    /// `number` tells its row type from those of other tables of the session.
    pub fn new(
        relation: Arc<Relation>,
        fit: TargetTable,
        number: usize,
        missing_rows: MissingRows,
    ) -> Table {
        Table {
            relation,
            fit: Arc::new(fit),
            missing_rows,
            number,
            row_type: format!("pg_temp.rsrepl_row_{number}"),
            row_type_oid: None,
            lost_its_session: false,
            statements: HashMap::new(),
        }
    }

    pub fn number(&self) -> usize {
        self.number
    }

    /// Whether this is still how the stream describes the table.
    pub fn describes(&self, relation: &Arc<Relation>) -> bool {
        Arc::ptr_eq(&self.relation, relation) || self.relation == *relation
    }

    /// Whether rows can arrive as a set: a few tables have more columns than a type has fields.
    pub fn takes_sets(&self) -> bool {
        self.fit.row_type_fields() <= ROW_TYPE_FIELDS_MAX
    }

    /// The oid of the row type, which is created at its first use, in the place of an older one. Not within a savepoint that may be
    /// rolled back.
    pub async fn row_type(&mut self, client: &Client) -> Result<u32, tokio_postgres::Error> {
        if let Some(oid) = self.row_type_oid {
            return Ok(oid);
        }
        let answer = client.simple_query(&self.fit.create_row_type(&self.row_type)).await?;
        let oid = answer.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0)?.parse().ok(),
            _ => None,
        });
        self.row_type_oid = oid;
        Ok(oid.unwrap_or_default()) // a server that does not say it refuses what comes next
    }

    /// The statement, prepared at its first use.
    pub async fn statement(
        &mut self,
        client: &Client,
        key: StatementKey,
    ) -> Result<Statement, tokio_postgres::Error> {
        if let Some(statement) = self.statements.get(&key) {
            return Ok(statement.clone());
        }
        let statement = client.prepare(&self.text(&key)).await?;
        if self.statements.len() >= STATEMENTS_MAX {
            self.statements.clear();
        }
        self.statements.insert(key, statement.clone());
        Ok(statement)
    }

    fn text(&self, key: &StatementKey) -> String {
        let (fit, row_type) = (&self.fit, &self.row_type);
        match key {
            StatementKey::InsertRow => fit.insert_row(),
            StatementKey::DeleteRow => fit.delete_row(),
            StatementKey::UpdateRow(shape) => fit.update_row(shape),
            StatementKey::DeleteImage(known) => fit.delete_image(known),
            StatementKey::UpdateImage(known, shape) => fit.update_image(known, shape),
            StatementKey::ReplaceImage(known, shape) => fit.replace_image(known, shape),
            StatementKey::Copy => fit.copy(),
            StatementKey::InsertSet => fit.insert_set(row_type),
            StatementKey::DeleteSet => fit.delete_set(),
            StatementKey::DeleteRanges => fit.delete_ranges(),
            StatementKey::UpdateSet(shape) => fit.update_set(row_type, shape),
        }
    }
}
