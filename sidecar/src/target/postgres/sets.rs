//! Many changes of one table at once: the net effect per key as deletes, updates and inserts of sets.
//!
//! Each set is tried under a savepoint, and its row counts are checked. What the target refuses, or
//! counts differently, is rolled back and applied again in order: either the sets could not say it (a
//! unique value went from one row to another), or the way in order finds the row that is wrong.

use std::collections::BTreeMap;

use bytes::BytesMut;
use rsrepl_wire::{Relation, Row};
use tokio_postgres::Client;

use super::copy::{CopyError, Tuple, copy};
use super::errors;
use super::in_order;
use super::pipeline::Pipeline;
use super::rows::{self, Prepared, Unusable};
use super::sql::Shape;
use super::table::{StatementKey, Table};
use crate::batch::{Change, Operation};
use crate::error::{Error, Kind, Result};
use crate::plan::{self, Effect, Image, Net, NetUpdate};

/// Inserts from which on a COPY is cheaper than single statements.
const COPY_MIN: usize = 16;

/// Rows from which on a set by way of the staging table is cheaper than single statements.
const STAGE_MIN: usize = 64;

/// Applies the changes of one table in the way that fits them.
pub async fn apply(
    target: &str,
    client: &Client,
    table: &mut Table,
    changes: &[Change],
) -> Result<()> {
    if changes.len() < COPY_MIN {
        return in_order::apply(target, client, table, changes).await;
    }
    let at = changes.first().map(|change| change.lsn).unwrap_or_default();
    match plan::net(&table.relation, changes).map_err(|error| Error::from(error).at(at))? {
        Effect::Sets(net) if is_worth_it(table, &net) && is_provable(table, &net) => {
            attempt(target, client, table, changes, &net).await
        }
        Effect::InOrder if !table.fit.keyed => runs(target, client, table, changes).await,
        Effect::Sets(_) | Effect::InOrder => in_order::apply(target, client, table, changes).await,
    }
}

/// Whether one of the sets is large enough.
fn is_worth_it(table: &Table, net: &Net) -> bool {
    net.inserts.len() >= insert_min(table) || needs_staging(table, net)
}

/// From how many rows on inserts go as a set. A table without columns to write has no COPY.
fn insert_min(table: &Table) -> usize {
    match (table.fit.written().next(), table.fit.takes_copy()) {
        (None, _) => usize::MAX,
        (Some(_), true) => COPY_MIN,
        (Some(_), false) => STAGE_MIN,
    }
}

fn needs_staging(table: &Table, net: &Net) -> bool {
    net.deletes.len() >= STAGE_MIN
        || net.updates.len() >= STAGE_MIN
        || (net.inserts.len() >= insert_min(table) && !table.fit.takes_copy())
}

/// Counting rows proves that each key hit its row only when no key can hit two.
fn is_provable(table: &Table, net: &Net) -> bool {
    table.fit.unique_key || (net.updates.is_empty() && net.deletes.is_empty())
}

/// A table without a key: long runs of inserts as sets, everything else in order.
async fn runs(target: &str, client: &Client, table: &mut Table, changes: &[Change]) -> Result<()> {
    let is_insert = |change: &Change| matches!(change.operation, Operation::Insert { .. });
    for run in changes.chunk_by(|a, b| is_insert(a) == is_insert(b)) {
        if !run.iter().all(is_insert) || run.len() < insert_min(table) {
            in_order::apply(target, client, table, run).await?;
        } else if let Effect::Sets(net) = plan::net(&table.relation, run)? {
            attempt(target, client, table, run, &net).await?;
        }
    }
    Ok(())
}

/// How an attempt under the savepoint failed.
enum Failure {
    /// In a way that the order of single rows may mend, or explain.
    Refused(String),
    Fatal(Error),
}

async fn attempt(
    target: &str,
    client: &Client,
    table: &mut Table,
    changes: &[Change],
    net: &Net,
) -> Result<()> {
    let server = |what| move |error| errors::of_server(target, what, error);
    if needs_staging(table, net) {
        // before the savepoint, or a rollback would take it away
        table.stage(client).await.map_err(server("creating a staging table"))?;
    }
    client.batch_execute("SAVEPOINT rsrepl_set").await.map_err(server("setting a savepoint"))?;
    match (Sets { target, client, table }).apply(net).await {
        Ok(()) => client
            .batch_execute("RELEASE SAVEPOINT rsrepl_set")
            .await
            .map_err(server("releasing a savepoint")),
        Err(Failure::Fatal(error)) => Err(error),
        Err(Failure::Refused(reason)) => {
            tracing::debug!(target_name = target, table = %table.relation, reason, "a set is applied in order");
            client
                .batch_execute("ROLLBACK TO SAVEPOINT rsrepl_set; RELEASE SAVEPOINT rsrepl_set")
                .await
                .map_err(server("rolling back to a savepoint"))?;
            in_order::apply(target, client, table, changes).await
        }
    }
}

struct Sets<'a> {
    target: &'a str,
    client: &'a Client,
    table: &'a mut Table,
}

impl Sets<'_> {
    async fn apply(&mut self, net: &Net) -> Result<(), Failure> {
        if !net.deletes.is_empty() {
            self.delete(&net.deletes).await?;
        }
        if !net.updates.is_empty() {
            for (shape, updates) in self.by_shape(&net.updates)? {
                self.update(&shape, &updates).await?;
            }
        }
        if !net.inserts.is_empty() {
            self.insert(&net.inserts).await?;
        }
        Ok(())
    }

    async fn delete(&mut self, deletes: &[Row]) -> Result<(), Failure> {
        if deletes.len() < STAGE_MIN {
            return self.singly(deletes, rows::of_delete).await;
        }
        let relation = self.table.relation.clone();
        let fields = self.table.fit.keys().count();
        let codecs: Vec<_> = self.table.fit.columns.iter().map(|c| (c.key, c.codec)).collect();
        let put = |row: &&Row, out: &mut BytesMut| {
            let mut tuple = Tuple::start(out, field_count(fields));
            for (value, (key, codec)) in row.values(&relation)?.zip(&codecs) {
                let value = value?;
                if *key {
                    tuple.put(value, *codec)?;
                }
            }
            Ok(())
        };
        self.staged(StatementKey::StageDeletes, StatementKey::DeleteStaged, deletes, put).await
    }

    /// All updates of one shape are one statement. Updates that leave different columns unchanged
    /// never share one: nothing is overwritten that did not come.
    fn by_shape<'n>(
        &self,
        updates: &'n [NetUpdate],
    ) -> Result<BTreeMap<Shape, Vec<&'n NetUpdate>>, Failure> {
        let mut shapes = BTreeMap::<Shape, Vec<&NetUpdate>>::new();
        let mut shape = Shape { present: Vec::new(), key_changed: false };
        for update in updates {
            shape.key_changed = update.key_changed;
            shape.present.clear();
            update
                .image
                .for_each(&self.table.relation, |_, value| {
                    shape.present.push(value != rsrepl_wire::Value::Unchanged);
                    Ok::<(), rsrepl_wire::DecodeError>(())
                })
                .map_err(|error| Failure::Fatal(error.into()))?;
            match shapes.get_mut(&shape) {
                Some(updates) => updates.push(update),
                None => {
                    shapes.insert(shape.clone(), vec![update]);
                }
            }
        }
        Ok(shapes)
    }

    async fn update(&mut self, shape: &Shape, updates: &[&NetUpdate]) -> Result<(), Failure> {
        if updates.len() < STAGE_MIN || shape.replaces(&self.table.fit) {
            return self.singly(updates, |table, update| rows::of_update(table, update)).await;
        }
        if shape.set(&self.table.fit).next().is_none() {
            return Ok(());
        }
        let relation = self.table.relation.clone();
        let codecs: Vec<_> = self.table.fit.columns.iter().map(|c| (c.key, c.codec)).collect();
        let mut staged = vec![false; codecs.len()];
        let mut fields = self.table.fit.keys().count();
        for (i, _) in shape.staged(&self.table.fit) {
            if let Some(staged) = staged.get_mut(i) {
                *staged = true;
                fields += 1;
            }
        }
        let put = |update: &&&NetUpdate, out: &mut BytesMut| {
            let mut tuple = Tuple::start(out, field_count(fields));
            for (value, (key, codec)) in update.locator.values(&relation)?.zip(&codecs) {
                let value = value?;
                if *key {
                    tuple.put(value, *codec)?;
                }
            }
            update.image.for_each(&relation, |i, value| match (staged.get(i), codecs.get(i)) {
                (Some(true), Some((_, codec))) => Ok(tuple.put(value, *codec)?),
                _ => Ok::<(), CopyError>(()),
            })
        };
        let stage = StatementKey::StageUpdates(shape.clone());
        self.staged(stage, StatementKey::UpdateStaged(shape.clone()), updates, put).await
    }

    async fn insert(&mut self, inserts: &[Image]) -> Result<(), Failure> {
        if inserts.len() < insert_min(self.table) {
            return self.singly(inserts, rows::of_insert).await;
        }
        let relation = self.table.relation.clone();
        let fields = self.table.fit.written().count();
        let codecs: Vec<_> =
            self.table.fit.columns.iter().map(|c| (!c.generated, c.codec)).collect();
        let put =
            |image: &&Image, out: &mut BytesMut| put_image(&relation, &codecs, fields, image, out);
        if !self.table.fit.takes_copy() {
            let (stage, insert) = (StatementKey::StageInserts, StatementKey::InsertStaged);
            return self.staged(stage, insert, inserts, put).await;
        }
        let statement = self.statement(StatementKey::Copy).await?;
        let copied = copy(self.client, &statement, inserts, put).await;
        self.counted(copied, inserts.len())
    }

    /// A set too small to be worth a COPY: a statement for each row.
    async fn singly<T>(
        &mut self,
        set: &[T],
        prepare: impl Fn(&Table, &T) -> Result<Prepared, Unusable>,
    ) -> Result<(), Failure> {
        let client = self.client;
        let mut pipeline = Pipeline::new(client);
        for (number, row) in set.iter().enumerate() {
            let prepared = match prepare(self.table, row) {
                Ok(prepared) => prepared,
                Err(Unusable::Decode(error)) => return Err(Failure::Fatal(error.into())),
                Err(Unusable::Because(why)) => return Err(Failure::Refused(why.into())),
            };
            let Some((key, params)) = prepared else { continue };
            let statement = match self.table.statement(client, key).await {
                Ok(statement) => statement,
                Err(error) => {
                    // an earlier statement may have failed, and this is what followed from it
                    self.answers(&mut pipeline).await?;
                    return Err(self.failure(error));
                }
            };
            if let Some((_, answer)) = pipeline.send(number, statement, params).await {
                self.counted(answer.map_err(CopyError::Server), 1)?;
            }
        }
        self.answers(&mut pipeline).await
    }

    async fn answers(&self, pipeline: &mut Pipeline<'_>) -> Result<(), Failure> {
        while let Some((_, answer)) = pipeline.next().await {
            self.counted(answer.map_err(CopyError::Server), 1)?;
        }
        Ok(())
    }

    /// Copies rows into the staging table, and lets one statement do them all.
    async fn staged<'r, T: Sync>(
        &mut self,
        stage: StatementKey,
        apply: StatementKey,
        rows: &'r [T],
        put: impl Fn(&&'r T, &mut BytesMut) -> Result<(), CopyError> + Send,
    ) -> Result<(), Failure> {
        let cleared = self.table.clear_staging(self.client, rows.len()).await;
        cleared.map_err(|error| self.failure(error))?;
        let stage = self.statement(stage).await?;
        let copied = copy(self.client, &stage, rows, put).await;
        self.counted(copied, rows.len())?;
        let apply = self.statement(apply).await?;
        let applied = self.client.execute(&apply, &[]).await;
        self.counted(applied.map_err(CopyError::Server), rows.len())
    }

    async fn statement(&mut self, key: StatementKey) -> Result<tokio_postgres::Statement, Failure> {
        let prepared = self.table.statement(self.client, key).await;
        prepared.map_err(|error| self.failure(error))
    }

    /// Every row must have hit exactly one.
    fn counted(&self, count: Result<u64, CopyError>, expected: usize) -> Result<(), Failure> {
        match count {
            Ok(count) if count == expected as u64 => Ok(()),
            Ok(count) => Err(Failure::Refused(format!("{count} rows instead of {expected}"))),
            Err(CopyError::Server(error)) => Err(self.failure(error)),
            Err(CopyError::Codec(error)) => {
                let what = format!("writing {}", self.table.relation);
                Err(Failure::Fatal(errors::of_codec(self.target, &what, error)))
            }
            Err(CopyError::Decode(error)) => Err(Failure::Fatal(error.into())),
        }
    }

    fn failure(&self, error: tokio_postgres::Error) -> Failure {
        match error.as_db_error() {
            Some(db) if errors::kind_of_code(db.code().code()) == Kind::Row => {
                Failure::Refused(errors::describe(db))
            }
            _ => {
                let what = format!("writing {}", self.table.relation);
                Failure::Fatal(errors::of_server(self.target, &what, error))
            }
        }
    }
}

fn put_image(
    relation: &Relation,
    codecs: &[(bool, super::codec::Codec)],
    fields: usize,
    image: &Image,
    out: &mut BytesMut,
) -> Result<(), CopyError> {
    let mut tuple = Tuple::start(out, field_count(fields));
    image.for_each(relation, |i, value| match codecs.get(i) {
        Some((true, codec)) => Ok(tuple.put(value, *codec)?),
        _ => Ok(()),
    })
}

/// COPY's field count; a relation has at most [`rsrepl_wire::limits::COLUMNS_MAX`] columns and a key
/// no more.
fn field_count(fields: usize) -> i16 {
    i16::try_from(fields).unwrap_or(i16::MAX)
}
