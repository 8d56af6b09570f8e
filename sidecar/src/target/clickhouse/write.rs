//! The way of one table's changes of a batch: encode on a thread for it, insert, in stream order.

use std::sync::Arc;
use std::vec::IntoIter;

use bytes::Bytes;
use rsrepl_wire::Lsn;

use super::client::Server;
use super::ddl::qualified;
use super::encode::{Chunk, Item, encode};
use super::failure::Attempt;
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

/// Applies the steps one after the other. When it fails, some are applied: the stream must be applied
/// again from the last position.
pub(super) async fn run(context: Context, steps: Vec<Step>) -> Result<()> {
    for step in steps {
        match step {
            Step::Rows { table, items } => rows(&context, table, items).await?,
            Step::Truncate { table, lsn } => truncate(&context, &table, lsn).await?,
        }
    }
    Ok(())
}

/// TRUNCATE leaves no tombstones, so it is written down first: `toast` must know why rows are gone
/// when the changes before it are applied again. Applying it again is harmless, since every change
/// after it is applied again too.
async fn truncate(context: &Context, table: &Table, lsn: Lsn) -> Result<()> {
    let storage = table.plan.storage();
    let Context { server, database, slot } = context;
    position::write_truncate(server, database, slot, &storage, lsn).await?;
    let sql = format!("TRUNCATE TABLE {}", qualified(database, &storage));
    server.execute(Attempt::Truncate(&storage), &sql).await.map_err(|error| error.at(lsn))
}

/// Changes on their way through the encoder.
struct Task {
    table: Arc<Table>,
    items: IntoIter<Item>,
    /// Items that can be encoded with what is known.
    left: usize,
    known: Option<Known>,
}

impl Task {
    fn plan_lookup(&mut self) -> Result<Option<Lookup>> {
        let Table { plan, lookup_limit, .. } = self.table.as_ref();
        let (left, lookup) = toast::plan_lookup(plan, self.items.as_slice(), lookup_limit)?;
        self.left = left;
        Ok(lookup)
    }

    fn encode(&mut self) -> Result<Chunk> {
        encode(&self.table.plan, &mut self.known, &mut self.items, &mut self.left)
    }
}

async fn rows(context: &Context, table: Arc<Table>, items: Vec<Item>) -> Result<()> {
    let mut task = Task { table, items: items.into_iter(), left: 0, known: None };
    while !task.items.as_slice().is_empty() {
        let lookup;
        (task, lookup) = blocking(task, Task::plan_lookup).await?;
        task.known = match lookup {
            None => None,
            Some(lookup) => {
                let Table { plan, truncated, lookup_limit, .. } = task.table.as_ref();
                let Context { server, database, .. } = context;
                Some(toast::fetch(server, database, plan, lookup, *truncated, lookup_limit).await?)
            }
        };
        task = stretch(context, task).await?;
    }
    Ok(())
}

/// Encodes and inserts the items that `task.known` is good for; the next chunk is encoded while the
/// last one is on its way. All is inserted at the end, so that the next look-up sees it.
async fn stretch(context: &Context, mut task: Task) -> Result<Task> {
    let mut ready = Chunk::default();
    while task.left > 0 {
        let table = Arc::clone(&task.table);
        let sent = insert(context, &table, ready);
        let encoded = blocking(task, Task::encode);
        let (sent, encoded) = tokio::join!(sent, encoded);
        sent?;
        (task, ready) = encoded?;
    }
    insert(context, &task.table, ready).await?;
    Ok(task)
}

async fn insert(context: &Context, table: &Table, chunk: Chunk) -> Result<()> {
    if chunk.rows == 0 {
        return Ok(());
    }
    let attempt = Attempt::Insert(&table.plan.name);
    context.server.insert(attempt, &table.insert, Bytes::from(chunk.bytes)).await
}

/// Runs CPU-bound work beside the tasks of tokio.
async fn blocking<T: Send + 'static>(
    mut task: Task,
    work: impl FnOnce(&mut Task) -> Result<T> + Send + 'static,
) -> Result<(Task, T)> {
    let done = tokio::task::spawn_blocking(move || work(&mut task).map(|result| (task, result)));
    done.await.map_err(|error| Error::new(Kind::Internal, "the encoder failed").because(error))?
}
