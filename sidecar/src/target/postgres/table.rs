//! A table that is being written to: how it fits the relation, and its prepared statements.

use std::collections::HashMap;
use std::sync::Arc;

use rsrepl_wire::Relation;
use tokio_postgres::{Client, Statement};

use super::catalog::TargetTable;
use super::sql::Shape;

/// Prepared statements kept for one table. A table with more kinds of updates than that (by which of
/// its columns they leave unchanged) prepares some again.
const STATEMENTS_MAX: usize = 128;

/// Rows of a staging table, dead ones included, before it is truncated.
const DEAD_ROWS_MAX: usize = 2_000;

/// A target's table, as long as the stream describes it in the same way.
pub struct Table {
    pub relation: Arc<Relation>,
    pub fit: Arc<TargetTable>,
    /// Name of the staging table, which [`Table::stage`] creates.
    staging: String,
    staged: bool,
    /// Rows put into it since it was truncated.
    dead_rows: usize,
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
    Copy,
    StageInserts,
    InsertStaged,
    StageDeletes,
    DeleteStaged,
    StageUpdates(Shape),
    UpdateStaged(Shape),
}

impl Table {
    /// `number` tells its staging table from others of the session.
    pub fn new(relation: Arc<Relation>, fit: TargetTable, number: usize) -> Table {
        Table {
            relation,
            fit: Arc::new(fit),
            staging: format!("pg_temp.rsrepl_staging_{number}"),
            staged: false,
            dead_rows: 0,
            statements: HashMap::new(),
        }
    }

    /// Whether this is still how the stream describes the table.
    pub fn describes(&self, relation: &Arc<Relation>) -> bool {
        Arc::ptr_eq(&self.relation, relation) || self.relation == *relation
    }

    /// Creates the staging table at its first use. Not within a savepoint that may be rolled back.
    pub async fn stage(&mut self, client: &Client) -> Result<(), tokio_postgres::Error> {
        if !self.staged {
            client.batch_execute(&self.fit.create_staging(&self.staging)).await?;
            self.staged = true;
        }
        Ok(())
    }

    /// Empties the staging table, into which `rows` are to go. A DELETE is several times cheaper than
    /// a TRUNCATE as long as few dead rows have gathered. Neither can be left out for an empty one: a
    /// rollback to the savepoint brings back what was there before.
    pub async fn clear_staging(
        &mut self,
        client: &Client,
        rows: usize,
    ) -> Result<(), tokio_postgres::Error> {
        let statement =
            if self.dead_rows + rows > DEAD_ROWS_MAX { "TRUNCATE" } else { "DELETE FROM" };
        client.batch_execute(&format!("{statement} {}", self.staging)).await?;
        self.dead_rows = if statement == "TRUNCATE" { rows } else { self.dead_rows + rows };
        Ok(())
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
        let (fit, staging) = (&self.fit, &self.staging);
        match key {
            StatementKey::InsertRow => fit.insert_row(),
            StatementKey::DeleteRow => fit.delete_row(),
            StatementKey::UpdateRow(shape) => fit.update_row(shape),
            StatementKey::DeleteImage(known) => fit.delete_image(known),
            StatementKey::UpdateImage(known, shape) => fit.update_image(known, shape),
            StatementKey::Copy => fit.copy(),
            StatementKey::StageInserts => fit.stage_inserts(staging),
            StatementKey::InsertStaged => fit.insert_staged(staging),
            StatementKey::StageDeletes => fit.stage_deletes(staging),
            StatementKey::DeleteStaged => fit.delete_staged(staging),
            StatementKey::StageUpdates(shape) => fit.stage_updates(staging, shape),
            StatementKey::UpdateStaged(shape) => fit.update_staged(staging, shape),
        }
    }
}
