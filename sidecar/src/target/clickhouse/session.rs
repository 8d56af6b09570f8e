//! What is known of the tables, from one `open` to the next; and the changes of a batch as steps of each.

use std::collections::HashMap;
use std::sync::Arc;

use rsrepl_wire::{Lsn, Relation};

use super::client::Server;
use super::convert::DateRange;
use super::encode::Item;
use super::options::ClickHouseOptions;
use super::plan::Plan;
use super::version::Version;
use super::write::{Context, Step, Table};
use super::{ddl, position, setup};
use crate::batch::{Change, Operation};
use crate::error::{Error, Kind, Result};
use crate::target::SourceIdentity;

/// See the module's documentation.
pub(super) struct Session {
    options: ClickHouseOptions,
    pub(super) context: Context,
    pub(super) source: SourceIdentity,
    dates: DateRange,
    /// Of the last change.
    version: Version,
    tables: Vec<TableState>,
    by_oid: HashMap<u32, usize>,
    by_name: HashMap<String, usize>,
    /// The last TRUNCATE that a predecessor began, by table.
    truncates: HashMap<String, Version>,
}

struct TableState {
    table: Arc<Table>,
    /// As it was last described; the plan's own may be an older one that says the same.
    relation: Arc<Relation>,
}

impl Session {
    /// Connects, sees to it that nothing of a predecessor is under way, and reads the position.
    pub(super) async fn open(
        options: &ClickHouseOptions,
        source: &SourceIdentity,
    ) -> Result<(Session, Lsn)> {
        let server = Server::new(options, setup::query_prefix(options, source))?;
        let dates = setup::prepare(&server, options).await?;
        setup::fence(&server).await?;
        let lsn = position::read(&server, &options.database, source).await?;
        let truncates = position::read_truncates(&server, &options.database, &source.slot).await?;
        let context = Context {
            server,
            database: options.database.as_str().into(),
            slot: source.slot.as_str().into(),
        };
        let session = Session {
            options: options.clone(),
            context,
            source: source.clone(),
            dates,
            // a position is between two transactions
            version: Version::default(),
            tables: Vec::new(),
            by_oid: HashMap::new(),
            by_name: HashMap::new(),
            truncates,
        };
        Ok((session, lsn))
    }

    /// Sorts the changes by table, each table's in stream order; a table's place stays the same.
    pub(super) async fn steps(&mut self, changes: Vec<Change>) -> Result<Vec<Vec<Step>>> {
        let mut steps: Vec<Vec<Step>> = Vec::new();
        for change in changes {
            let index = match self.known(&change.relation) {
                Some(index) => index,
                None => self.describe(&change.relation).await?,
            };
            if steps.len() < self.tables.len() {
                steps.resize_with(self.tables.len(), Vec::new);
            }
            if let (Some(steps), Some(state)) = (steps.get_mut(index), self.tables.get(index)) {
                self.version = self.version.next(&change);
                add(steps, state, self.version, change);
            }
        }
        Ok(steps)
    }

    /// The table of a relation that has been described before.
    fn known(&mut self, relation: &Arc<Relation>) -> Option<usize> {
        let index = *self.by_oid.get(&relation.oid)?;
        let state = self.tables.get_mut(index)?;
        if !Arc::ptr_eq(&state.relation, relation) {
            if *state.relation != **relation {
                return None;
            }
            state.relation = Arc::clone(relation);
        }
        Some(index)
    }

    /// Plans a table that is new or has changed, and sees to it that the server has it so.
    async fn describe(&mut self, relation: &Arc<Relation>) -> Result<usize> {
        let options = &self.options;
        let name = options.target_table(&relation.schema, &relation.name);
        if let Some(other) = self.by_name.get(&name).and_then(|index| self.tables.get(*index))
            && (&other.relation.schema, &other.relation.name) != (&relation.schema, &relation.name)
        {
            return Err(Error::new(
                Kind::Config,
                format!(
                    "target {}: tables {} and {relation} would both become {name}",
                    options.name, other.relation
                ),
            )
            .hint("set table_name = \"{schema}_{table}\""));
        }
        let mut plan =
            Plan::new(&options.name, relation, name.clone(), &options.policies, self.dates)?;
        setup::ensure_table(&self.context.server, options, &mut plan).await?;
        let table = Arc::new(Table {
            insert: ddl::insert(&options.database, &plan),
            lookup_limit: Default::default(),
            truncated: self.truncates.get(&plan.storage()).copied().unwrap_or_default(),
            plan,
        });
        let relation = Arc::clone(relation);
        let index = match self.by_name.get(&name) {
            Some(index) => *index,
            None => self.tables.len(),
        };
        self.by_oid.insert(relation.oid, index);
        self.by_name.insert(name, index);
        match self.tables.get_mut(index) {
            Some(state) => (state.table, state.relation) = (table, relation),
            None => self.tables.push(TableState { table, relation }),
        }
        Ok(index)
    }
}

/// Adds a change to the last step of its table, or as a new step.
fn add(steps: &mut Vec<Step>, state: &TableState, version: Version, change: Change) {
    let Change { lsn, operation, .. } = change;
    if let Operation::Truncate { .. } = operation {
        steps.push(Step::Truncate { table: Arc::clone(&state.table), lsn, version });
        return;
    }
    let item = Item { lsn, version, operation };
    if let Some(Step::Rows { table, items }) = steps.last_mut()
        && Arc::ptr_eq(table, &state.table)
    {
        items.push(item);
        return;
    }
    steps.push(Step::Rows { table: Arc::clone(&state.table), items: vec![item] });
}
