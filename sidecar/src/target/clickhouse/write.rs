//! The way of one table's changes of a batch: encoded on a thread for it and sent, in stream order.

use std::sync::Arc;
use std::vec::IntoIter;

use rsrepl_wire::Lsn;
use tokio::sync::watch;

use super::client::Server;
use super::ddl::qualified;
use super::encode::{self, Item, encode};
use super::failure::Attempt;
use super::insertion::Insertion;
use super::plan::Plan;
use super::position;
use super::toast::{self, Known, Lookup, LookupLimit};
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
    Truncate { table: Arc<Table>, lsn: Lsn },
}

/// A plan and what follows from it.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) plan: Plan,
    /// The INSERT statement.
    pub(super) insert: String,
    /// The last TRUNCATE of the table that a predecessor began.
    pub(super) truncated: Lsn,
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
    /// What is under way.
    pub(super) insertion: Option<Insertion>,
}

impl Writer {
    /// Takes the steps one after the other. Rows may then still be under way.
    pub(super) async fn run(mut self, steps: Vec<Step>) -> Result<Option<Insertion>> {
        for step in steps {
            match step {
                Step::Rows { table, items } => self.rows(table, items).await?,
                Step::Truncate { table, lsn } => self.truncate(&table, lsn).await?,
            }
        }
        Ok(self.insertion)
    }

    /// Has everything so far in the table.
    async fn end(&mut self) -> Result<()> {
        self.before.stored().await?;
        match &mut self.insertion {
            Some(insertion) => insertion.end(&self.context.server).await,
            None => Ok(()),
        }
    }

    /// TRUNCATE leaves no tombstones, so it is written down first: `toast` must know why rows are gone
    /// when the changes before it are applied again. Applying it again is harmless, since every change
    /// after it is applied again too.
    async fn truncate(&mut self, table: &Table, lsn: Lsn) -> Result<()> {
        self.end().await?;
        let storage = table.plan.storage();
        let Context { server, database, slot } = &self.context;
        position::write_truncate(server, database, slot, &storage, lsn).await?;
        let sql = format!("TRUNCATE TABLE {}", qualified(database, &storage));
        server.execute(Attempt::Truncate(&storage), &sql).await.map_err(|error| error.at(lsn))
    }

    async fn rows(&mut self, table: Arc<Table>, items: Vec<Item>) -> Result<()> {
        let insertion = match self.insertion.take() {
            Some(insertion) if Arc::ptr_eq(&insertion.table, &table) => insertion,
            None => Insertion::new(table),
            // of the table as it was before it was altered
            Some(mut earlier) => {
                self.before.stored().await?;
                earlier.end(&self.context.server).await?;
                Insertion::new(table)
            }
        };
        let mut task = Task { insertion, items: items.into_iter(), left: 0, known: None };
        while !task.items.as_slice().is_empty() {
            let lookup;
            (task, lookup) = blocking(task, Task::plan_lookup).await?;
            task.known = match lookup {
                None => None,
                Some(lookup) => Some(self.look_up(&mut task.insertion, lookup).await?),
            };
            while task.left > 0 {
                (task, ()) = blocking(task, Task::encode).await?;
                if encode::is_full(&task.insertion.block) {
                    task.insertion.send(&self.context.server).await?;
                }
                if task.insertion.is_full() {
                    self.before.stored().await?;
                    task.insertion.end(&self.context.server).await?;
                }
            }
        }
        self.insertion = Some(task.insertion);
        Ok(())
    }

    /// Reads values back, once everything before is in the table.
    async fn look_up(&mut self, insertion: &mut Insertion, lookup: Lookup) -> Result<Known> {
        let Context { server, database, .. } = &self.context;
        self.before.stored().await?;
        insertion.end(server).await?;
        let Table { plan, truncated, lookup_limit, .. } = insertion.table.as_ref();
        toast::fetch(server, database, plan, lookup, *truncated, lookup_limit).await
    }
}

/// Changes on their way through the encoder.
struct Task {
    insertion: Insertion,
    items: IntoIter<Item>,
    /// Items that can be encoded with what is known.
    left: usize,
    known: Option<Known>,
}

impl Task {
    fn plan_lookup(&mut self) -> Result<Option<Lookup>> {
        let Table { plan, lookup_limit, .. } = self.insertion.table.as_ref();
        let (left, lookup) = toast::plan_lookup(plan, self.items.as_slice(), lookup_limit)?;
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
