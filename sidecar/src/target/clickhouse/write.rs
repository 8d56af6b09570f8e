//! The way of one table's changes of a batch: encoded on a thread for it and sent, in stream order.

use std::collections::HashMap;
use std::sync::Arc;
use std::vec::IntoIter;

use rsrepl_wire::Lsn;
use tokio::sync::watch;

use super::client::Server;
use super::ddl::qualified;
use super::encode::{self, Item, encode};
use super::failure::Attempt;
use super::insertion::{Inlet, Insertion};
use super::lookup_limit::LookupLimit;
use super::plan::Plan;
use super::position;
use super::recent::Needs;
use super::toast::{self, Known, Lookup};
use super::version::Version;
use crate::error::{Error, Kind, Result};

/// What every table's writer needs.
#[derive(Clone)]
pub(super) struct Context {
    pub(super) server: Server,
    pub(super) database: Arc<str>,
    pub(super) slot: Arc<str>,
}

/// A part of a table's changes, in order.
#[derive(Debug)]
pub(super) enum Step {
    Rows { table: Arc<Table>, items: Vec<Item> },
    Truncate { table: Arc<Table>, lsn: Lsn, version: Version },
}

/// A plan and what follows from it.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) plan: Plan,
    /// The INSERT statement.
    pub(super) insert: String,
    /// The last TRUNCATE of the table that a predecessor began.
    pub(super) truncated: Version,
    pub(super) lookup_limit: LookupLimit,
}

/// Whether what is being stored before this has been: the rows of a table are inserted in stream order.
#[derive(Clone)]
pub(super) struct Before(pub(super) watch::Receiver<bool>);

impl Before {
    /// Waits for it.
    pub(super) async fn stored(&mut self) -> Result<()> {
        match self.0.wait_for(|stored| *stored).await {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::new(Kind::Internal, "what comes before was not stored")),
        }
    }
}

/// Writes to one table. When it fails, some of it is applied: the stream must be applied again from the
/// last position.
pub(super) struct Writer {
    pub(super) context: Context,
    pub(super) before: Before,
    pub(super) inlet: Inlet,
}

impl Writer {
    /// Takes the steps one after the other. Rows may then still be under way.
    pub(super) async fn run(mut self, steps: Vec<Step>) -> Result<Inlet> {
        for step in steps {
            match step {
                Step::Rows { table, items } => self.rows(table, items).await?,
                Step::Truncate { table, lsn, version } => {
                    self.truncate(&table, lsn, version).await?;
                }
            }
        }
        self.inlet.known.settle();
        Ok(self.inlet)
    }

    /// Has everything so far in the table.
    async fn end(&mut self) -> Result<()> {
        self.before.stored().await?;
        if let Some(insertion) = &mut self.inlet.insertion {
            insertion.end(&self.context.server).await?;
        }
        self.inlet.known.everything_is_stored();
        Ok(())
    }

    /// TRUNCATE leaves no tombstones, so it is written down first: `toast` must know why rows are gone
    /// when the changes before it are applied again. Applying it again is harmless, since every change
    /// after it is applied again too.
    async fn truncate(&mut self, table: &Table, lsn: Lsn, version: Version) -> Result<()> {
        self.end().await?;
        let storage = table.plan.storage();
        let Context { server, database, slot } = &self.context;
        position::write_truncate(server, database, slot, &storage, version).await?;
        let sql = format!("TRUNCATE TABLE {}", qualified(database, &storage));
        server.execute(Attempt::Truncate(&storage), &sql).await.map_err(|error| error.at(lsn))
    }

    async fn rows(&mut self, table: Arc<Table>, items: Vec<Item>) -> Result<()> {
        if self.inlet.table.as_ref().is_some_and(|before| !Arc::ptr_eq(before, &table)) {
            // rows of the table as it was before it was altered
            self.end().await?;
            self.inlet = Inlet::default();
        }
        self.inlet.table = Some(Arc::clone(&table));
        let mut items = items.into_iter();
        while !items.as_slice().is_empty() {
            items = self.stretch(&table, items).await?;
        }
        Ok(())
    }

    /// Writes as many of the items as one look-up does for.
    async fn stretch(
        &mut self,
        table: &Arc<Table>,
        items: IntoIter<Item>,
    ) -> Result<IntoIter<Item>> {
        let Inlet { insertion, known, .. } = &mut self.inlet;
        let insertion = insertion.take().unwrap_or_else(|| Insertion::new(Arc::clone(table)));
        let task = Task { insertion, items, left: 0, known: std::mem::take(known) };
        let (given, columns) = (task.items.len(), task.known.recent.columns().len());
        let (mut task, lookup) = blocking(task, Task::plan_lookup).await?;
        let forgot = self.look_up(&mut task, lookup).await?
            // nor is a column remembered that is left out for the first time
            || task.known.recent.columns().len() > columns;
        while task.left > 0 {
            (task, ()) = blocking(task, Task::encode).await?;
            if encode::is_full(&task.insertion.block) {
                task.insertion.send(&self.context.server).await?;
            }
            if task.insertion.is_full() {
                self.store(&mut task).await?;
            }
        }
        let Task { insertion, items, known, .. } = task;
        if items.len() == given && !forgot {
            return Err(Error::new(Kind::Internal, "a row that was looked up is not known"));
        }
        (self.inlet.insertion, self.inlet.known) = (Some(insertion), known);
        Ok(items)
    }

    /// Has everything so far in the table.
    async fn store(&mut self, task: &mut Task) -> Result<()> {
        self.before.stored().await?;
        task.insertion.end(&self.context.server).await?;
        task.known.everything_is_stored();
        Ok(())
    }

    /// Reads values back, once what may hold them is in the table. True: what was remembered of those
    /// rows is forgotten, so other values may have to be looked up too.
    async fn look_up(&mut self, task: &mut Task, lookup: Option<Lookup>) -> Result<bool> {
        let table = Arc::clone(&task.insertion.table);
        let Table { plan, truncated, lookup_limit, .. } = table.as_ref();
        let Some(lookup) = lookup else {
            task.known.begin(HashMap::new(), *truncated);
            return Ok(false);
        };
        let needs = lookup.needs(&task.known.recent);
        match needs {
            Needs::Everything => self.store(task).await?,
            Needs::Before => {
                self.before.stored().await?;
                task.known.recent.before_is_stored();
            }
            Needs::Nothing => {}
        }
        let Context { server, database, .. } = &self.context;
        let columns = task.known.recent.columns();
        let found = toast::fetch(server, database, plan, lookup, columns, lookup_limit).await?;
        task.known.begin(found, *truncated);
        Ok(needs != Needs::Nothing)
    }
}

/// Changes on their way through the encoder.
struct Task {
    insertion: Insertion,
    items: IntoIter<Item>,
    /// Items that can be encoded with what is known.
    left: usize,
    known: Known,
}

impl Task {
    fn plan_lookup(&mut self) -> Result<Option<Lookup>> {
        let Table { plan, lookup_limit, .. } = self.insertion.table.as_ref();
        let recent = &mut self.known.recent;
        let (left, lookup) = toast::plan_lookup(plan, self.items.as_slice(), lookup_limit, recent)?;
        self.left = left;
        Ok(lookup)
    }

    fn encode(&mut self) -> Result<()> {
        let Insertion { table, block, .. } = &mut self.insertion;
        encode(&table.plan, &mut self.known, &mut self.items, &mut self.left, block)
    }
}

/// Runs CPU-bound work beside the tasks of tokio.
async fn blocking<T: Send + 'static>(
    mut task: Task,
    work: impl FnOnce(&mut Task) -> Result<T> + Send + 'static,
) -> Result<(Task, T)> {
    let done = tokio::task::spawn_blocking(move || work(&mut task).map(|result| (task, result)));
    done.await.map_err(|error| Error::new(Kind::Internal, "the encoder failed").because(error))?
}
