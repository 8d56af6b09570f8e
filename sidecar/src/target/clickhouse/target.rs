//! The target: from batches to steps of each table, and the position behind them.
//!
//! # Why a replay ends in the same rows (invariant 3)
//!
//! `_rsrepl_version` is the LSN of the change, or the highest one before it in the stream when that is
//! higher. The LSN alone does not rise per key in commit order: a transaction may write its heap tuple,
//! then wait in the unique index for one that deletes the same key and commits first, so that the
//! INSERT that comes later in the stream has the lower LSN. The stream's running maximum never falls.
//!
//! It starts at the position, which lies above every LSN of what was applied before. So a version that
//! is given again after a failure is never lower than the first time, and when the whole stream has
//! been applied again, the last change of each key has the highest version; among equal ones the last
//! that was inserted wins, and the rows of a table are inserted in stream order.

use std::collections::HashMap;
use std::sync::Arc;

use rsrepl_wire::{Lsn, Relation};
use tokio::task::JoinSet;

use super::client::Server;
use super::convert::DateRange;
use super::encode::Item;
use super::options::ClickHouseOptions;
use super::plan::Plan;
use super::write::{Context, Step, Table, run};
use super::{ddl, position, setup};
use crate::batch::{Batch, Change, Operation};
use crate::config::Mode;
use crate::error::{Error, Kind, Result};
use crate::target::{SourceIdentity, Writer};

/// Tables that are written at the same time.
const CONCURRENT_TABLES: usize = 4;

/// See [`Writer`] and the module's documentation.
pub struct ClickHouseTarget {
    options: ClickHouseOptions,
    session: Option<Session>,
}

/// What holds from one `open` to the next.
struct Session {
    context: Context,
    source: SourceIdentity,
    dates: DateRange,
    /// The highest version so far.
    version: u64,
    tables: Vec<TableState>,
    by_oid: HashMap<u32, usize>,
    by_name: HashMap<String, usize>,
    /// The last TRUNCATE that a predecessor began, by table.
    truncates: HashMap<String, Lsn>,
}

struct TableState {
    table: Arc<Table>,
    /// As it was last described; the plan's own may be an older one that says the same.
    relation: Arc<Relation>,
    /// The LSN of the last change, and how many had it.
    last: (Lsn, u32),
}

impl TableState {
    /// Counts the changes that have the same LSN (the rows of one COPY): the same on every replay,
    /// as a replay starts between transactions.
    fn ordinal(&mut self, lsn: Lsn) -> u32 {
        self.last = if self.last.0 == lsn { (lsn, self.last.1 + 1) } else { (lsn, 0) };
        self.last.1
    }
}

impl ClickHouseTarget {
    /// # Errors
    /// [`Kind::Config`]: a mode that this version does not have.
    pub fn new(options: ClickHouseOptions) -> Result<Self> {
        match options.mode {
            Mode::Mirror => Ok(ClickHouseTarget { options, session: None }),
            Mode::History => Err(Error::new(
                Kind::Config,
                format!("target {}: mode \"history\" comes with a later version", options.name),
            )
            .hint("set mode = \"mirror\"")),
        }
    }
}

impl Writer for ClickHouseTarget {
    async fn open(&mut self, source: &SourceIdentity) -> Result<Lsn> {
        self.session = None;
        let options = &self.options;
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
        self.session = Some(Session {
            context,
            source: source.clone(),
            dates,
            version: lsn.0,
            tables: Vec::new(),
            by_oid: HashMap::new(),
            by_name: HashMap::new(),
            truncates,
        });
        Ok(lsn)
    }

    async fn apply(&mut self, batch: Batch) -> Result<()> {
        // comes back only when all went well: after an error, or when the caller gives up on this
        // future, nobody knows what is in the tables
        let Some(mut session) = self.session.take() else {
            return Err(Error::new(Kind::Internal, "apply before open"));
        };
        session.apply(&self.options, batch).await?;
        self.session = Some(session);
        Ok(())
    }

    async fn close(&mut self) {
        self.session = None;
    }
}

impl Session {
    async fn apply(&mut self, options: &ClickHouseOptions, batch: Batch) -> Result<()> {
        let steps = self.steps(options, batch.changes).await?;
        self.run(steps).await?;
        if let Some(commit) = batch.commit {
            let Context { server, database, .. } = &self.context;
            position::write(server, database, &self.source, commit).await?;
        }
        Ok(())
    }

    /// Sorts the changes by table, each table's in stream order.
    async fn steps(
        &mut self,
        options: &ClickHouseOptions,
        changes: Vec<Change>,
    ) -> Result<Vec<Vec<Step>>> {
        let mut steps: Vec<Vec<Step>> = Vec::new();
        for change in changes {
            let index = match self.known(&change.relation) {
                Some(index) => index,
                None => self.describe(options, &change.relation).await?,
            };
            if steps.len() < self.tables.len() {
                steps.resize_with(self.tables.len(), Vec::new);
            }
            if let (Some(steps), Some(state)) = (steps.get_mut(index), self.tables.get_mut(index)) {
                self.version = self.version.max(change.lsn.0);
                add(steps, state, self.version, change);
            }
        }
        steps.retain(|steps| !steps.is_empty());
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
    async fn describe(
        &mut self,
        options: &ClickHouseOptions,
        relation: &Arc<Relation>,
    ) -> Result<usize> {
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
            None => self.tables.push(TableState { table, relation, last: Default::default() }),
        }
        Ok(index)
    }

    /// Tables side by side, a few at a time.
    async fn run(&self, steps: Vec<Vec<Step>>) -> Result<()> {
        let mut running = JoinSet::new();
        for steps in steps {
            if running.len() >= CONCURRENT_TABLES {
                joined(running.join_next().await)?;
            }
            running.spawn(run(self.context.clone(), steps));
        }
        while !running.is_empty() {
            joined(running.join_next().await)?;
        }
        Ok(())
    }
}

fn joined(result: Option<Result<Result<()>, tokio::task::JoinError>>) -> Result<()> {
    match result {
        None => Ok(()),
        Some(Ok(result)) => result,
        Some(Err(error)) => {
            Err(Error::new(Kind::Internal, "a table's writer failed").because(error))
        }
    }
}

/// Adds a change to the last step of its table, or as a new step.
fn add(steps: &mut Vec<Step>, state: &mut TableState, version: u64, change: Change) {
    let lsn = change.lsn;
    if let Operation::Truncate { .. } = change.operation {
        steps.push(Step::Truncate { table: Arc::clone(&state.table), lsn });
        return;
    }
    let ordinal = state.ordinal(lsn);
    let item = Item { lsn, version, ordinal, operation: change.operation };
    if let Some(Step::Rows { table, items }) = steps.last_mut()
        && Arc::ptr_eq(table, &state.table)
    {
        items.push(item);
        return;
    }
    steps.push(Step::Rows { table: Arc::clone(&state.table), items: vec![item] });
}
