//! A standby PostgreSQL, written exactly once.
//!
//! ```text
//! BEGIN; lock the position ─► truncates ─► per table: net effect ─► sets, or row by row
//!                                                 ─► move the position; COMMIT
//! ```
//!
//! | module | subject |
//! |---|---|
//! | `session` | settings of a session, the right to replicate, the replication origin |
//! | `positions` | `rsrepl.positions`: what makes it exactly once |
//! | `catalog` | the target's table for a relation, and how its columns fit |
//! | `table` | a table being written to, with its prepared statements |
//! | `sql` | the text of every statement |
//! | `codec` | values of the wire in PostgreSQL's binary form |
//! | `copy` | COPY BINARY |
//! | `array` | many rows as one parameter |
//! | `pipeline` | statements sent without waiting for each answer |
//! | `rows` | one row as one statement |
//! | `sets` | many changes at once |
//! | `in_order` | changes one by one; finds the row that is refused |
//! | `errors` | what SQLSTATEs mean |
//! | `check` | the preflight of a target |

mod array;
mod catalog;
mod check;
mod codec;
mod copy;
mod errors;
mod in_order;
mod pipeline;
mod positions;
mod rows;
mod session;
mod sets;
mod sql;
mod table;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use rsrepl_wire::{Lsn, Relation};
use tokio_postgres::Client;

pub use self::check::check;

use self::catalog::Unfit;
use self::positions::Positions;
use self::table::Table;
use super::{SourceIdentity, Writer};
use crate::batch::Batch;
use crate::error::{Error, Kind, Result};
use crate::plan::{Plan, TableChanges, Truncation};
use crate::tls::PgConnect;

/// How long a target may take to roll back when it is closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Where a target is, and how it is called.
#[derive(Clone, Debug)]
pub struct PostgresOptions {
    /// As configured; in messages and reports.
    pub name: String,
    pub connection: PgConnect,
}

/// The target; see [`Writer`] for what its methods promise.
pub struct PostgresTarget {
    options: PostgresOptions,
    session: Option<Session>,
}

/// An open session and what it knows.
struct Session {
    target: String,
    client: Client,
    positions: Positions,
    /// The position as it is stored.
    applied: Lsn,
    /// A transaction of the target is open: part of a large one of the source.
    in_transaction: bool,
    /// By [`Relation::oid`].
    tables: HashMap<u32, Table>,
    /// Tables looked up so far; names row types.
    resolved: usize,
}

impl PostgresTarget {
    /// No connection is made before [`open`](Writer::open).
    pub fn new(options: PostgresOptions) -> Self {
        PostgresTarget { options, session: None }
    }
}

impl Writer for PostgresTarget {
    async fn open(&mut self, source: &SourceIdentity) -> Result<Lsn> {
        // ends an old session first: its open transaction would hold the lock on the position
        self.session = None;
        let session = Session::open(&self.options, source).await?;
        let applied = session.applied;
        self.session = Some(session);
        Ok(applied)
    }

    async fn apply(&mut self, batch: Batch) -> Result<()> {
        let Some(session) = &mut self.session else {
            let name = &self.options.name;
            return Err(Error::new(Kind::Internal, format!("target {name} is not open")));
        };
        let applied = session.apply(batch).await;
        if applied.is_err() {
            self.session = None; // the server rolls back what was open
        }
        applied
    }

    async fn close(&mut self) {
        if let Some(session) = self.session.take()
            && session.in_transaction
        {
            // whatever comes of it: a session that ends takes its transaction back
            let rollback = session.client.batch_execute("ROLLBACK");
            let _ = tokio::time::timeout(CLOSE_TIMEOUT, rollback).await;
        }
    }
}

impl Session {
    async fn open(options: &PostgresOptions, source: &SourceIdentity) -> Result<Session> {
        let target = options.name.as_str();
        let mut client = session::open(target, &options.connection).await?;
        positions::create(target, options.connection.user(), &client).await?;
        let applied = positions::load(target, &mut client, source).await?;
        let origin = session::set_up_origin(target, &client, &source.slot).await?;
        let positions = Positions::prepare(target, &client, &source.slot, origin).await?;
        Ok(Session {
            target: target.to_owned(),
            client,
            positions,
            applied,
            in_transaction: false,
            tables: HashMap::new(),
            resolved: 0,
        })
    }

    async fn apply(&mut self, batch: Batch) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        if !self.in_transaction {
            self.positions.begin(&self.client, self.applied).await?;
            self.in_transaction = true;
        }
        let mut plan = Plan::new(batch.changes);
        // a source that is a target itself has positions of its own, which are not ours
        plan.tables.retain(|table| !positions::is_positions(&table.relation));
        for truncation in &mut plan.truncates {
            truncation.relations.retain(|relation| !positions::is_positions(relation));
        }
        plan.truncates.retain(|truncation| !truncation.relations.is_empty());
        for truncation in &plan.truncates {
            self.truncate(truncation).await?;
        }
        for table in &plan.tables {
            self.write(table).await?;
        }
        if let Some(position) = batch.commit {
            if position.lsn < self.applied {
                let (target, applied) = (&self.target, self.applied);
                return Err(Error::new(
                    Kind::Internal,
                    format!("target {target}: a batch ends before the position {applied}"),
                )
                .at(position.lsn));
            }
            self.positions.commit(&self.client, position).await?;
            self.applied = position.lsn;
            self.in_transaction = false;
        }
        Ok(())
    }

    async fn write(&mut self, changes: &TableChanges) -> Result<()> {
        self.resolve(&changes.relation).await?;
        let Some(table) = self.tables.get_mut(&changes.relation.oid) else { return Ok(()) };
        sets::apply(&self.target, &self.client, table, &changes.changes).await
    }

    async fn truncate(&mut self, truncation: &Truncation) -> Result<()> {
        for relation in &truncation.relations {
            self.resolve(relation).await?;
        }
        let tables: Vec<_> = truncation
            .relations
            .iter()
            .filter_map(|relation| self.tables.get(&relation.oid))
            .map(|table| &*table.fit)
            .collect();
        let statement = catalog::TargetTable::truncate(&tables, truncation.restart_identity);
        self.client.batch_execute(&statement).await.map_err(|error| {
            let names: Vec<_> = truncation.relations.iter().map(ToString::to_string).collect();
            let what = format!("truncate of {}", names.join(", "));
            errors::of_server(&self.target, &what, error).at(truncation.lsn)
        })
    }

    /// Makes sure that `tables` has the target's table for this description of the relation.
    async fn resolve(&mut self, relation: &Arc<Relation>) -> Result<()> {
        if self.tables.get(&relation.oid).is_some_and(|table| table.describes(relation)) {
            return Ok(());
        }
        let fit = catalog::resolve(&self.client, relation).await.map_err(|unfit| match unfit {
            Unfit::Server(error) => errors::of_server(&self.target, "reading its catalog", error),
            Unfit::Findings(findings) => {
                let what: Vec<_> = findings.iter().map(|f| f.what.as_str()).collect();
                let mend: Vec<_> = findings.iter().map(|f| f.mend.as_str()).collect();
                Error::new(Kind::Setup, format!("target {}: {}", self.target, what.join("; ")))
                    .hint(format!("on the target: {}", mend.join("; ")))
            }
        })?;
        self.resolved += 1;
        let table = Table::new(Arc::clone(relation), fit, self.resolved);
        self.tables.insert(relation.oid, table);
        Ok(())
    }
}
