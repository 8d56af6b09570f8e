//! Many changes of one table at once: the net effect per key as deletes, updates and inserts of sets.
//!
//! | set | statement | rows |
//! |---|---|---|
//! | deletes | `DELETE … WHERE key = ANY ($1)`, or by ranges of integers | an array for each key column |
//! | updates | `UPDATE … FROM unnest($1)`, one for each shape | an array of rows |
//! | inserts | `COPY`, or `INSERT … SELECT … FROM unnest($1)` for a few | COPY's stream, or an array of rows |
//!
//! Everything is sent without waiting for answers, which are looked at together at the end. The sets are
//! tried under a savepoint, and their row counts are checked. What the target refuses, or counts
//! differently, is rolled back and applied again in order: either the sets could not say it (a unique
//! value went from one row to another), or the way in order finds the row that is wrong.

mod deletes;
mod updates;

use std::sync::Arc;

use bytes::BytesMut;
use futures_util::future::join;
use rsrepl_wire::{DecodeError, Relation, Row};
use tokio_postgres::Client;

use super::array::{Array, RowType};
use super::copy::{CopyError, Tuple, copy};
use super::errors;
use super::in_order;
use super::pipeline::{Answered, Param, Pipeline};
use super::rows::{self, Prepared, Unusable};
use super::table::{StatementKey, Table};
use crate::batch::{Change, Operation};
use crate::error::{Error, Kind, Result};
use crate::plan::{self, Effect, Image, Net};

/// Rows from which on one statement for all is cheaper than one for each.
const SET_MIN: usize = 8;

/// Inserts from which on a COPY, which has to be waited for, is cheaper than a set.
const COPY_MIN: usize = 64;

/// Bytes of rows in one statement; the server keeps them in memory, more than once. A larger row goes
/// alone, as a statement of its own.
const SET_BYTES: usize = 1 << 20;

/// Applies the changes of one table in the way that fits them.
pub async fn apply(
    target: &str,
    client: &Client,
    table: &mut Table,
    changes: &[Change],
) -> Result<()> {
    if changes.len() < SET_MIN {
        return in_order::apply(target, client, table, changes).await;
    }
    let at = changes.first().map(|change| change.lsn).unwrap_or_default();
    let relation = Arc::clone(&table.relation);
    match plan::net(&relation, changes).map_err(|error| Error::from(error).at(at))? {
        Effect::Sets(net) if is_worth_it(&net, changes) && is_provable(table, &net) => {
            attempt(target, client, table, changes, &net).await
        }
        Effect::InOrder if !table.fit.keyed => runs(target, client, table, changes).await,
        Effect::Sets(_) | Effect::InOrder => in_order::apply(target, client, table, changes).await,
    }
}

/// Deletes the rows of these keys, of those that are there; a key may be there more than once.
pub async fn delete_leniently(
    target: &str,
    client: &Client,
    table: &mut Table,
    rows: &[&Row],
) -> Result<()> {
    let relation = Arc::clone(&table.relation);
    let pipeline = Pipeline::new(client);
    let mut sets = Sets {
        target,
        client,
        table,
        relation: &relation,
        row_type: None,
        lenient: true,
        pipeline,
    };
    let deleted = async {
        sets.delete(rows).await?;
        while let Some(answered) = sets.pipeline.next().await {
            sets.judge(Some(answered))?;
        }
        Ok(())
    };
    deleted.await.map_err(|failure| match failure {
        Failure::Fatal(error) => error,
        Failure::Refused(reason) => {
            Error::new(Kind::Server, format!("target {target}: deleting from {relation}: {reason}"))
        }
    })
}

/// Whether one of the sets is large enough, or much of what happened cancels out.
fn is_worth_it(net: &Net<'_>, changes: &[Change]) -> bool {
    let largest = net.inserts.len().max(net.updates.len()).max(net.deletes.len());
    largest >= SET_MIN || net.rows() <= changes.len() / 2
}

/// Counting rows proves that each key hit its row only when no key can hit two.
fn is_provable(table: &Table, net: &Net<'_>) -> bool {
    table.fit.unique_key || (net.updates.is_empty() && net.deletes.is_empty())
}

/// A table without a key: long runs of inserts as sets, everything else in order.
async fn runs(target: &str, client: &Client, table: &mut Table, changes: &[Change]) -> Result<()> {
    let relation = Arc::clone(&table.relation);
    let is_insert = |change: &Change| matches!(change.operation, Operation::Insert { .. });
    for run in changes.chunk_by(|a, b| is_insert(a) == is_insert(b)) {
        if !run.iter().all(is_insert) || run.len() < SET_MIN {
            in_order::apply(target, client, table, run).await?;
        } else if let Effect::Sets(net) = plan::net(&relation, run)? {
            attempt(target, client, table, run, &net).await?;
        }
    }
    Ok(())
}

/// How many rows are inserted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Inserts {
    Singly,
    AsSet,
    ByCopy,
}

/// A table without columns to write has nothing that a set could be made of.
fn inserts(table: &Table, rows: usize) -> Inserts {
    let fit = &table.fit;
    if rows >= COPY_MIN && fit.takes_copy() && fit.written().next().is_some() {
        Inserts::ByCopy
    } else if rows >= SET_MIN && table.takes_sets() && fit.written().next().is_some() {
        Inserts::AsSet
    } else {
        Inserts::Singly
    }
}

fn needs_row_type(table: &Table, net: &Net<'_>) -> bool {
    (net.updates.len() >= SET_MIN && table.takes_sets())
        || inserts(table, net.inserts.len()) == Inserts::AsSet
}

/// How an attempt under the savepoint failed.
enum Failure {
    /// In a way that the order of single rows may mend, or explain.
    Refused(String),
    Fatal(Error),
}

impl From<DecodeError> for Failure {
    fn from(error: DecodeError) -> Self {
        Failure::Fatal(error.into())
    }
}

async fn attempt(
    target: &str,
    client: &Client,
    table: &mut Table,
    changes: &[Change],
    net: &Net<'_>,
) -> Result<()> {
    let server = |what| move |error| errors::of_server(target, what, error);
    let mut row_type = None;
    if needs_row_type(table, net) {
        // before the savepoint, or a rollback would take it away
        let oid = table.row_type(client).await.map_err(server("creating a row type"))?;
        row_type = Some(Arc::new(RowType::new(oid, &table.fit)));
    }
    let relation = Arc::clone(&table.relation);
    let pipeline = Pipeline::new(client);
    let mut sets =
        Sets { target, client, table, relation: &relation, row_type, lenient: false, pipeline };
    match sets.apply(net).await {
        Ok(()) => {
            // not waited for: it fails only with the connection, and so does what follows
            sets.pipeline.send_text("RELEASE SAVEPOINT rsrepl_set").await;
            Ok(())
        }
        Err(Failure::Fatal(error)) => Err(error),
        Err(Failure::Refused(reason)) => {
            tracing::debug!(target_name = target, table = %relation, reason, "a set is applied in order");
            drop(sets);
            client
                .batch_execute("ROLLBACK TO SAVEPOINT rsrepl_set; RELEASE SAVEPOINT rsrepl_set")
                .await
                .map_err(server("rolling back to a savepoint"))?;
            in_order::apply(target, client, table, changes).await
        }
    }
}

/// One attempt. Statements in the pipeline are numbered by the rows that they must hit.
struct Sets<'a> {
    target: &'a str,
    client: &'a Client,
    table: &'a mut Table,
    relation: &'a Relation,
    /// When there are sets that need one.
    row_type: Option<Arc<RowType>>,
    /// Rows that are not there are as good as deleted.
    lenient: bool,
    pipeline: Pipeline<'a>,
}

impl Sets<'_> {
    async fn apply(&mut self, net: &Net<'_>) -> Result<(), Failure> {
        let answered = self.pipeline.send_text("SAVEPOINT rsrepl_set").await;
        self.judge(answered)?;
        if !net.deletes.is_empty() {
            self.delete(&net.deletes).await?;
        }
        self.update(&net.updates).await?;
        if !net.inserts.is_empty() {
            self.insert(&net.inserts).await?;
        }
        let unexpected = unexpected(&mut self.pipeline).await;
        self.judge(unexpected)
    }

    async fn insert(&mut self, images: &[Image<'_>]) -> Result<(), Failure> {
        let fit = Arc::clone(&self.table.fit);
        let written = flags(fit.columns.len(), fit.written().map(|(index, _)| index));
        let row_type = match (inserts(self.table, images.len()), &self.row_type) {
            (Inserts::ByCopy, _) => return self.copy(images, &written).await,
            (Inserts::AsSet, Some(row_type)) => Arc::clone(row_type),
            _ => return self.singly(images, |table, image| rows::of_insert(table, image)).await,
        };
        let mut array = [row_type.array()];
        for image in images {
            if image.size() > SET_BYTES {
                self.singly(&[image], |table, image| rows::of_insert(table, image)).await?;
                continue;
            }
            let [rows] = &mut array;
            row_type
                .put(rows, self.relation, None, image, &written)
                .map_err(|error| self.unsent(error))?;
            if rows.size() >= SET_BYTES {
                self.send(StatementKey::InsertSet, &mut array).await?;
            }
        }
        self.send(StatementKey::InsertSet, &mut array).await
    }

    /// By COPY. A COPY that is refused before it begins costs the session, as it would be after a statement
    /// that failed: all are waited for, but the savepoint, which fails with the session.
    async fn copy(&mut self, images: &[Image<'_>], written: &[bool]) -> Result<(), Failure> {
        let fields = i16::try_from(self.table.fit.written().count()).unwrap_or(i16::MAX);
        let codecs: Vec<_> = self.table.fit.columns.iter().map(|c| c.codec).zip(written).collect();
        let relation = self.relation;
        let put = |image: &&Image<'_>, out: &mut BytesMut| {
            let mut tuple = Tuple::start(out, fields);
            image.for_each(relation, |index, value| match codecs.get(index) {
                Some((codec, true)) => Ok(tuple.put(value, *codec)?),
                _ => Ok::<(), CopyError>(()),
            })
        };
        let statement = self.statement(StatementKey::Copy).await?;
        if self.pipeline.outstanding() > 1 {
            let unexpected = unexpected(&mut self.pipeline).await;
            self.judge(unexpected)?;
        }
        let copied = copy(self.client, &statement, images, put);
        let (earlier, copied) = join(unexpected(&mut self.pipeline), copied).await;
        self.judge(earlier)?;
        match copied {
            Ok(rows) => self.judge(Some((images.len(), Ok(rows)))),
            Err(CopyError::Refused(error)) => {
                self.table.lost_its_session = true;
                Err(Failure::Fatal(errors::of_server(self.target, &self.what(), error)))
            }
            Err(error) => Err(self.unsent(error)),
        }
    }

    /// A statement for each row.
    async fn singly<T>(
        &mut self,
        set: &[T],
        prepare: impl Fn(&Table, &T) -> Result<Prepared, Unusable>,
    ) -> Result<(), Failure> {
        for row in set {
            let prepared = match prepare(self.table, row) {
                Ok(prepared) => prepared,
                Err(Unusable::Decode(error)) => return Err(error.into()),
                Err(Unusable::Because(why)) => return Err(Failure::Refused(why.into())),
            };
            let Some((key, params)) = prepared else { continue };
            let statement = self.statement(key).await?;
            let answered = self.pipeline.send(1, statement, params).await;
            self.judge(answered)?;
        }
        Ok(())
    }

    /// Sends what has been gathered, with one statement for all of it.
    async fn send(&mut self, key: StatementKey, arrays: &mut [Array]) -> Result<(), Failure> {
        match arrays.first().map_or(0, Array::count) {
            0 => Ok(()),
            rows => self.send_for(rows, key, arrays).await,
        }
    }

    /// The same for a statement that hits so many rows.
    async fn send_for(
        &mut self,
        rows: usize,
        key: StatementKey,
        arrays: &mut [Array],
    ) -> Result<(), Failure> {
        let params = arrays.iter_mut().map(|array| Param::encoded(array.take())).collect();
        let statement = self.statement(key).await?;
        let answered = self.pipeline.send(rows, statement, params).await;
        self.judge(answered)
    }

    async fn statement(&mut self, key: StatementKey) -> Result<tokio_postgres::Statement, Failure> {
        match self.pipeline.beside(self.table.statement(self.client, key)).await {
            Ok(statement) => Ok(statement),
            Err(error) => {
                // an earlier statement may have failed, and this is what followed from it
                let earlier = unexpected(&mut self.pipeline).await;
                self.judge(earlier)?;
                Err(self.failure(error))
            }
        }
    }

    /// Every row must have hit exactly one.
    fn judge(&self, answered: Option<Answered>) -> Result<(), Failure> {
        match answered {
            None => Ok(()),
            Some((expected, Ok(rows))) if rows == expected as u64 || self.lenient => Ok(()),
            Some((expected, Ok(rows))) => {
                Err(Failure::Refused(format!("{rows} rows instead of {expected}")))
            }
            Some((_, Err(error))) => Err(self.failure(error)),
        }
    }

    /// Rows that could not be written, or a COPY that failed.
    fn unsent(&self, error: CopyError) -> Failure {
        match error {
            CopyError::Refused(error) | CopyError::Server(error) => self.failure(error),
            CopyError::Codec(error) => {
                Failure::Fatal(errors::of_codec(self.target, &self.what(), error))
            }
            CopyError::Decode(error) => error.into(),
        }
    }

    fn failure(&self, error: tokio_postgres::Error) -> Failure {
        match error.as_db_error() {
            Some(db) if errors::kind_of_code(db.code().code()) == Kind::Row => {
                Failure::Refused(errors::describe(db))
            }
            _ => Failure::Fatal(errors::of_server(self.target, &self.what(), error)),
        }
    }

    fn what(&self) -> String {
        format!("writing {}", self.relation)
    }
}

/// The first answer that is not as it must be, once all have come.
async fn unexpected(pipeline: &mut Pipeline<'_>) -> Option<Answered> {
    while let Some((expected, answer)) = pipeline.next().await {
        if !matches!(answer, Ok(rows) if rows == expected as u64) {
            return Some((expected, answer));
        }
    }
    None
}

fn flags(columns: usize, set: impl Iterator<Item = usize>) -> Vec<bool> {
    let mut flags = vec![false; columns];
    for index in set {
        if let Some(flag) = flags.get_mut(index) {
            *flag = true;
        }
    }
    flags
}
