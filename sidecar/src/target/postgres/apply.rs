//! What a session writes: the rows of a planned batch, then the position, in one transaction.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join;
use rsrepl_wire::{Lsn, Relation};
use tokio_postgres::Client;

use super::catalog::{self, Unfit};
use super::durability::Wal;
use super::evolve::{Evolution, Follows};
use super::order::Work;
use super::positions::{Begin, Positions};
use super::records;
use super::table::Table;
use super::{errors, parted, sets};
use crate::batch::Position;
use crate::config::MissingRows;
use crate::error::{Error, Kind, Result};
use crate::plan::{Plan, TableChanges, Truncation};

/// How long a target may take to roll back when it is closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Tables that a session knows at a time, with their statements and row types: of those that come and go,
/// partitions above all, it forgets.
const TABLES_MAX: usize = 1000;

/// An open session and what it knows.
pub struct Session {
    target: String,
    missing_rows: MissingRows,
    /// The work is written beside others, of which not all that it depends on may be there.
    in_company: bool,
    client: Arc<Client>,
    positions: Arc<Positions>,
    follows: Follows,
    /// Of the work before: see [`Work::epoch`].
    epoch: u64,
    /// A transaction of the target is open: part of a large one of the source.
    in_transaction: bool,
    /// It has moved the position.
    moved: bool,
    lost: bool,
    /// By [`Relation::oid`].
    tables: HashMap<u32, Table>,
}

impl Session {
    pub fn new(
        target: &str,
        client: Client,
        positions: Positions,
        missing_rows: MissingRows,
        follows: Follows,
    ) -> Session {
        Session {
            target: target.to_owned(),
            missing_rows,
            in_company: false,
            client: Arc::new(client),
            positions: Arc::new(positions),
            follows,
            epoch: 0,
            in_transaction: false,
            moved: false,
            lost: false,
            tables: HashMap::new(),
        }
    }

    /// Writes the rows within a transaction, which it begins if none is open.
    pub async fn write_rows(&mut self, work: &Work, alone: bool) -> Result<()> {
        let written = self.write_work_within(work, alone).await;
        written.map_err(|error| error.among(&work.transactions))
    }

    async fn write_work_within(&mut self, work: &Work, alone: bool) -> Result<()> {
        if work.epoch != self.epoch {
            self.forget_tables();
            self.epoch = work.epoch;
        }
        if self.in_transaction {
            return self.write_work(work).await;
        }
        let begin = match (alone, work.commit) {
            (true, Some(to)) => Begin::Moved { from: work.from, to },
            (true, None) => Begin::Locked { at: work.from },
            (false, _) => Begin::Beside,
        };
        self.in_transaction = true;
        self.in_company = !alone;
        self.moved = matches!(begin, Begin::Moved { .. });
        let (client, positions) = (Arc::clone(&self.client), Arc::clone(&self.positions));
        let begun = positions.begin(&client, begin).await;
        // side by side: see `pipeline`
        let (begun, written) = join(begun.answer(), self.write_work(work)).await;
        // first: what follows from a transaction that did not begin well explains nothing
        begun?;
        written
    }

    async fn write_work(&mut self, work: &Work) -> Result<()> {
        let evolution =
            Evolution { target: &self.target, client: &self.client, follows: &self.follows };
        for relation in &work.seeds {
            evolution.seed(relation).await?;
        }
        if let Some(step) = &work.schema {
            evolution.follow(step).await?;
        }
        self.write_plan(&work.plan).await
    }

    async fn write_plan(&mut self, plan: &Plan) -> Result<()> {
        if self.tables.len() >= TABLES_MAX {
            self.forget_tables();
        }
        for truncation in &plan.truncates {
            self.truncate(truncation).await?;
        }
        for table in &plan.tables {
            self.write_table(table).await?;
        }
        Ok(())
    }

    /// Moves the position from where it should be, and commits; `durable`: waits for the disk.
    pub async fn commit(&mut self, from: Lsn, to: Position, durable: bool) -> Result<Wal> {
        if to.lsn < from {
            let message =
                format!("target {}: a batch ends before the position {from}", self.target);
            return Err(Error::new(Kind::Internal, message).at(to.lsn));
        }
        let to_move = (!self.moved).then_some((from, to));
        let wal = self.positions.commit(&self.client, to_move, durable).await?;
        self.in_transaction = false;
        Ok(wal)
    }

    pub async fn roll_back(&mut self) -> Result<()> {
        // a row type that this transaction made goes with it
        self.forget_tables();
        self.in_transaction = false;
        let rolled_back = self.client.batch_execute("ROLLBACK").await;
        rolled_back.map_err(|error| errors::of_server(&self.target, "rolling back", error))
    }

    fn forget_tables(&mut self) {
        self.tables.clear();
        self.client.clear_type_cache();
    }

    pub async fn look(&self) -> Result<Wal> {
        self.positions.look(&self.client).await
    }

    pub async fn flush(&self) -> Result<Wal> {
        self.positions.flush(&self.client).await
    }

    pub async fn close(self) {
        if self.in_transaction {
            // whatever comes of it: a session that ends takes its transaction back
            let rollback = self.client.batch_execute("ROLLBACK");
            let _ = tokio::time::timeout(CLOSE_TIMEOUT, rollback).await;
        }
    }

    async fn write_table(&mut self, changes: &TableChanges) -> Result<()> {
        self.resolve(&changes.relation).await?;
        let Some(table) = self.tables.get_mut(&changes.relation.oid) else { return Ok(()) };
        // a row that is not there in company may be once the batch before is committed
        table.missing_rows = if self.in_company { MissingRows::Error } else { self.missing_rows };
        let applied = sets::apply(&self.target, &self.client, table, &changes.changes).await;
        self.lost |= table.lost_its_session;
        applied
    }

    /// See [`Table::lost_its_session`].
    pub fn is_lost(&self) -> bool {
        self.lost
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
        let emptied = match truncation.parted {
            true => parted::empty(&self.client, &tables, truncation.restart_identity).await,
            false => {
                let statement =
                    catalog::TargetTable::truncate(&tables, truncation.restart_identity);
                self.client.batch_execute(&statement).await
            }
        };
        emptied.map_err(|error| {
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
        let server = |error| errors::of_server(&self.target, "reading rsrepl.tables", error);
        let record = records::read(&self.client, &self.follows.slot, relation.oid).await;
        let record = record.map_err(server)?;
        let fit = catalog::resolve(&self.client, relation, record.as_ref()).await;
        let fit = fit.map_err(|unfit| match unfit {
            Unfit::Server(error) => errors::of_server(&self.target, "reading its catalog", error),
            Unfit::Findings(findings) => {
                let what: Vec<_> = findings.iter().map(|f| f.what.as_str()).collect();
                let mend: Vec<_> = findings.iter().map(|f| f.mend.as_str()).collect();
                Error::new(Kind::Setup, format!("target {}: {}", self.target, what.join("; ")))
                    .hint(format!("on the target: {}", mend.join("; ")))
            }
        })?;
        // the number of a table that is known no more is free again, and its row type makes way for the
        // next of that name: there are no more of them than tables known at a time
        let number = self.tables.get(&relation.oid).map(Table::number);
        if number.is_some() {
            self.client.clear_type_cache();
        }
        let number = number.unwrap_or(self.tables.len());
        let table = Table::new(Arc::clone(relation), fit, number, self.missing_rows);
        self.tables.insert(relation.oid, table);
        Ok(())
    }
}
