//! Takes the initial copy: chunks go in as COPY brings them, each with its record in one transaction.
//!
//! ```text
//! a chunk                     BEGIN ─► COPY table FROM STDIN ─► record ─► COMMIT
//! one that is there already   BEGIN ─► COPY pg_temp.staging ─► INSERT what is not there ─► record ─► COMMIT
//! ```

mod replacing;

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::SinkExt;
use rsrepl_wire::{Column, Lsn, OldRow, Row, TypeKind};
use tokio_postgres::Client;

use super::catalog::{self, TargetColumn, TargetTable, Unfit};
use super::create::{Creator, Which};
use super::table::Table;
use super::{PostgresOptions, copies, errors, origin, positions, session, sets};
use crate::batch::{Change, Operation};
use crate::config::MissingRows;
use crate::copy::{
    Chunk, ChunkRecord, ChunkWriter, ColumnForm, CopiedTable, CopyTarget, Form, Format, Promise,
    Rows, Snapshot, Standing, Written,
};
use crate::error::{Error, Kind, Result};
use crate::preflight::Finding;
use crate::target::SourceIdentity;

/// Oids below are the same in every database (`FirstNormalObjectId`).
const FIRST_NORMAL_OBJECT_ID: u32 = 16384;

/// A PostgreSQL target as the initial copy sees it.
pub struct PostgresCopy {
    options: PostgresOptions,
    open: Option<Open>,
    /// Of a sync, the slot of the stream that goes on beside it: tables of which nothing is copied yet are emptied, and
    /// made to fit.
    replaces: Option<String>,
}

struct Open {
    client: Client,
    slot: String,
    epoch: i64,
    /// Chunks were copied already when this was opened.
    begun: bool,
    /// By [`Relation::oid`](rsrepl_wire::Relation::oid).
    tables: Arc<HashMap<u32, Arc<TargetTable>>>,
}

impl PostgresCopy {
    /// No connection is made before [`open`](CopyTarget::open).
    pub fn new(options: PostgresOptions) -> Self {
        PostgresCopy { options, open: None, replaces: None }
    }

    /// What the tables have is replaced: none of it came with this slot.
    #[must_use]
    pub fn replacing(self, main: &str) -> Self {
        PostgresCopy { replaces: Some(main.to_owned()), ..self }
    }

    /// What makes missing tables, if they are to be made.
    fn creator(&self) -> Result<Option<Creator<'_>>> {
        let Some(source) = &self.options.creates else { return Ok(None) };
        let open = self.opened()?;
        Ok(Some(Creator {
            target: &self.options.name,
            connection: &self.options.connection,
            source,
            slot: &open.slot,
            epoch: open.epoch,
        }))
    }

    fn opened(&self) -> Result<&Open> {
        self.open.as_ref().ok_or_else(|| not_open(&self.options.name))
    }

    fn server(&self, what: &str) -> impl Fn(tokio_postgres::Error) -> Error + use<> {
        let (target, what) = (self.options.name.clone(), what.to_owned());
        move |error| errors::of_server(&target, &what, error)
    }

    async fn standing(&mut self, source: &SourceIdentity) -> Result<Standing> {
        // a pass is over, and the tables are those of the round; its session has the origin
        let tables = self.open.take().map(|open| open.tables).unwrap_or_default();
        let (target, user) = (self.options.name.as_str(), self.options.connection.user());
        let mut client = session::open(target, &self.options.connection).await?;
        positions::create(target, user, &client).await?;
        let applied = positions::load(target, &mut client, source).await?;
        if applied != Lsn::INVALID {
            return Ok(Standing::Positioned(applied));
        }
        copies::create(target, user, &client).await?;
        let slot = source.slot.clone();
        // what is deleted is no change of the target's own; and one session has an origin: no second sidecar
        // copies here, or streams
        origin::set_up(target, &client, &slot, 0).await?;
        let (epoch, records) = copies::open(target, &client, &slot).await?;
        let begun = records.as_ref().is_some_and(|records| !records.chunks.is_empty());
        self.open = Some(Open { client, slot, epoch, begun, tables });
        Ok(records.map_or(Standing::New, Standing::Unfinished))
    }

    async fn fit(
        &mut self,
        tables: &[Arc<CopiedTable>],
        exported: &str,
        at: Lsn,
    ) -> Result<Vec<Form>> {
        if let Some(creator) = self.creator()? {
            creator.tables(exported, tables).await?;
            // by them rows are found that another snapshot does not have, or has already
            if self.opened()?.begun {
                creator.rest(Which::Keys).await?;
            }
        }
        if self.replaces.is_some() {
            self.replace(tables, at).await?;
        }
        let server = self.server("looking at its tables");
        let target = self.options.name.clone();
        let open = self.open.as_mut().ok_or_else(|| not_open(&target))?;
        let (mut fits, mut forms, mut findings) = (HashMap::new(), Vec::new(), Vec::new());
        for table in tables {
            match catalog::resolve(&open.client, &table.relation, None).await {
                Ok(fit) => {
                    if open.is_strange(&fit, table.relation.oid).await.map_err(&server)? {
                        findings.push(strange(&fit));
                    }
                    forms.push(form(table, &fit));
                    fits.insert(table.relation.oid, Arc::new(fit));
                }
                Err(Unfit::Server(error)) => return Err(server(error)),
                Err(Unfit::Findings(unfit)) => findings.extend(unfit),
            }
        }
        if findings.is_empty() {
            open.tables = Arc::new(fits);
            return Ok(forms);
        }
        let what: Vec<_> = findings.iter().map(|finding| finding.what.as_str()).collect();
        let mend: Vec<_> = findings.iter().map(|finding| finding.mend.as_str()).collect();
        Err(Error::new(Kind::Setup, format!("target {target}: {}", what.join("; ")))
            .hint(format!("on the target: {}", mend.join("; "))))
    }

    async fn empty(&mut self, oid: u32) -> Result<()> {
        let server = self.server("emptying a table that is copied again");
        let open = self.opened()?;
        open.begin(&self.options.name).await?;
        if let Some(fit) = open.tables.get(&oid) {
            // not TRUNCATE, which foreign keys of other tables refuse
            let only = if fit.partitioned { "" } else { "ONLY " };
            let delete = format!("DELETE FROM {only}{}", fit.name);
            open.client.batch_execute(&delete).await.map_err(&server)?;
        }
        copies::forget(&open.client, &open.slot, oid).await.map_err(&server)?;
        open.client.batch_execute("COMMIT").await.map_err(&server)
    }

    async fn forget(&mut self, oid: u32) -> Result<()> {
        let server = self.server("forgetting a table");
        let open = self.opened()?;
        open.begin(&self.options.name).await?;
        copies::forget(&open.client, &open.slot, oid).await.map_err(&server)?;
        open.client.batch_execute("COMMIT").await.map_err(server)
    }

    async fn take_away(&mut self, changes: Vec<Change>) -> Result<()> {
        let open = self.opened()?;
        let target = self.options.name.as_str();
        open.begin(target).await?;
        let mut by_table: HashMap<u32, Vec<&Change>> = HashMap::new();
        for change in &changes {
            by_table.entry(change.relation.oid).or_default().push(change);
        }
        for (oid, changes) in by_table {
            let Some(first) = changes.first() else { continue };
            let rows: Vec<&Row> = changes.iter().filter_map(|change| old_row(change)).collect();
            // anew each time: schemas change between rounds, and rounds are few
            let fit = catalog::resolve(&open.client, &first.relation, None).await;
            let fit = fit.map_err(|unfit| match unfit {
                Unfit::Server(error) => self.server("looking at its tables")(error),
                Unfit::Findings(findings) => {
                    let what = findings.first().map(|f| f.what.clone()).unwrap_or_default();
                    Error::new(Kind::Setup, format!("target {target}: {what}"))
                }
            })?;
            let relation = Arc::clone(&first.relation);
            let mut table = Table::new(relation, fit, oid as usize, MissingRows::Skip);
            sets::delete_leniently(target, &open.client, &mut table, &rows).await?;
        }
        open.client.batch_execute("COMMIT").await.map_err(self.server("deleting rows"))
    }

    async fn completed(&mut self, position: Lsn) -> Result<()> {
        if let Some(creator) = self.creator()? {
            creator.rest(Which::All).await?;
        }
        let server = self.server("finishing the copy");
        let open = self.opened()?;
        open.begin(&self.options.name).await?;
        if !copies::finish(&open.client, &open.slot, position).await.map_err(&server)? {
            let message =
                format!("target {}: another sidecar copies to it, or streams", self.options.name);
            return Err(Error::new(Kind::Server, message).hint("run one sidecar per slot"));
        }
        open.client.batch_execute("COMMIT").await.map_err(&server)
    }

    async fn session(&self, number: usize) -> Result<Box<dyn ChunkWriter>> {
        let open = self.opened()?;
        let target = self.options.name.clone();
        let client = session::open(&target, &self.options.connection).await?;
        // the first is the main session's
        origin::set_up(&target, &client, &open.slot, number + 1).await?;
        let (slot, epoch, tables) = (open.slot.clone(), open.epoch, Arc::clone(&open.tables));
        Ok(Box::new(Writer { target, client, slot, epoch, tables }))
    }
}

fn not_open(target: &str) -> Error {
    Error::new(Kind::Internal, format!("target {target} is not open"))
}

impl Open {
    async fn begin(&self, target: &str) -> Result<()> {
        copies::begin(target, &self.client, &self.slot, self.epoch).await
    }

    /// There are rows, and no record says that they are of this copy.
    async fn is_strange(&self, fit: &TargetTable, oid: u32) -> Result<bool, tokio_postgres::Error> {
        let only = if fit.partitioned { "" } else { "ONLY " };
        let query = format!(
            "SELECT EXISTS (SELECT FROM {only}{}) AND NOT EXISTS (SELECT FROM rsrepl.copied_chunks \
               WHERE slot = $1 AND source_table = $2)",
            fit.name
        );
        self.client.query_one(&query, &[&self.slot, &i64::from(oid)]).await?.try_get(0)
    }
}

fn strange(fit: &TargetTable) -> Finding {
    Finding::error(
        format!("{} has rows already, and the initial copy would double them", fit.name),
        format!(
            "TRUNCATE {}; or, if they are what the stream is to begin with, set copy.data = false",
            fit.name
        ),
    )
}

/// The row whose key is taken away; of an UPDATE that leaves the key as it is the new one has it.
fn old_row(change: &Change) -> Option<&Row> {
    match &change.operation {
        Operation::Update { old: Some(OldRow { row, .. }), .. } => Some(row),
        Operation::Update { old: None, new } => Some(new),
        Operation::Delete { old } => Some(&old.row),
        _ => None,
    }
}

/// The binary form when it is the same on both sides; else text, which the column's own type reads.
fn form(table: &CopiedTable, fit: &TargetTable) -> Form {
    let columns = || table.relation.columns.iter().zip(&fit.columns);
    let binary = columns().all(|(column, target)| target.generated || is_binary(column, target));
    Form {
        format: if binary { Format::Binary } else { Format::Text },
        columns: columns()
            .map(|(_, target)| if target.generated { ColumnForm::Omit } else { ColumnForm::Native })
            .collect(),
    }
}

/// Oids within a value are those of the source: of elements that users made, and of what `reg` types name, which
/// arrive by way of text in the stream too.
fn is_binary(column: &Column, target: &TargetColumn) -> bool {
    let built_in = column.base_oid < FIRST_NORMAL_OBJECT_ID
        && column.element_oid < FIRST_NORMAL_OBJECT_ID
        && !matches!(column.kind, TypeKind::Composite | TypeKind::Pseudo);
    target.via.is_none() && (built_in || column.kind == TypeKind::Enum)
}

impl CopyTarget for PostgresCopy {
    fn name(&self) -> &str {
        &self.options.name
    }

    fn open<'a>(&'a mut self, source: &'a SourceIdentity) -> Promise<'a, Standing> {
        Box::pin(self.standing(source))
    }

    fn accept<'a>(
        &'a mut self,
        tables: &'a [Arc<CopiedTable>],
        (exported, at): (&'a str, Lsn),
    ) -> Promise<'a, Vec<Form>> {
        Box::pin(self.fit(tables, exported, at))
    }

    fn start_over<'a>(&'a mut self, oid: u32, table: Option<&'a CopiedTable>) -> Promise<'a, ()> {
        match table {
            Some(_) => Box::pin(self.empty(oid)),
            None => Box::pin(self.forget(oid)),
        }
    }

    fn dropped(&mut self, oid: u32, at: Lsn) -> Promise<'_, ()> {
        Box::pin(self.drop_table(oid, at))
    }

    fn catch_up(&mut self, changes: Vec<Change>) -> Promise<'_, ()> {
        Box::pin(self.take_away(changes))
    }

    fn caught_up(&mut self, snapshot: Snapshot) -> Promise<'_, ()> {
        Box::pin(async move {
            let server = self.server("writing rsrepl.copies");
            let open = self.opened()?;
            open.begin(&self.options.name).await?;
            copies::caught_up(&open.client, &open.slot, snapshot).await.map_err(&server)?;
            open.client.batch_execute("COMMIT").await.map_err(server)
        })
    }

    fn writer(&self, number: usize) -> Promise<'_, Box<dyn ChunkWriter>> {
        Box::pin(self.session(number))
    }

    fn finish(&mut self, position: Lsn) -> Promise<'_, ()> {
        Box::pin(self.completed(position))
    }
}

/// One session.
struct Writer {
    target: String,
    client: Client,
    slot: String,
    epoch: i64,
    tables: Arc<HashMap<u32, Arc<TargetTable>>>,
}

impl ChunkWriter for Writer {
    fn write<'a>(&'a mut self, chunk: &'a Chunk, rows: Rows) -> Promise<'a, Written> {
        Box::pin(self.chunk(chunk, rows))
    }
}

impl Writer {
    async fn chunk(&self, chunk: &Chunk, rows: Rows) -> Result<Written> {
        let relation = &chunk.table.relation;
        let what = format!("copying {relation} ({} of {})", chunk.pages, chunk.leaf.name);
        let server = |error| errors::of_server(&self.target, &what, error);
        let Some(fit) = self.tables.get(&relation.oid) else {
            let message = format!("target {}: {what}: a table that was not accepted", self.target);
            return Err(Error::new(Kind::Internal, message));
        };
        copies::begin(&self.target, &self.client, &self.slot, self.epoch).await?;
        let into = match chunk.since {
            None => fit.name.clone(),
            Some(_) => {
                self.client.batch_execute(&fit.create_staging()).await.map_err(server)?;
                STAGING.to_owned()
            }
        };
        let (mut written, bytes) =
            self.copy(&fit.copy_into(&into, &chunk.form), rows, &what).await?;
        if chunk.since.is_some() {
            // nobody knows how many they are
            self.client.batch_execute(ANALYZE).await.map_err(server)?;
            written = self.client.execute(&fit.take_staging(), &[]).await.map_err(server)?;
        }
        let written = Written { rows: written, bytes };
        let record = ChunkRecord::of(chunk);
        let again = chunk.since.is_some();
        let recorded = copies::write(&self.client, &self.slot, &record, written, again).await;
        if !recorded.map_err(server)? {
            let message = format!("target {}: {what}: it is recorded already", self.target);
            return Err(Error::new(Kind::Server, message));
        }
        self.client.batch_execute("COMMIT").await.map_err(server)?;
        Ok(written)
    }

    /// Rows and bytes.
    async fn copy(&self, statement: &str, mut rows: Rows, what: &str) -> Result<(u64, u64)> {
        let server = |error| errors::of_server(&self.target, what, error);
        let sink = self.client.copy_in::<_, Bytes>(statement).await.map_err(server)?;
        let mut sink = pin!(sink);
        let mut bytes = 0;
        // dropping the sink before its end fails the COPY on the server
        while let Some(piece) = rows.next().await? {
            bytes += piece.len() as u64;
            sink.send(piece).await.map_err(server)?;
        }
        Ok((sink.finish().await.map_err(server)?, bytes))
    }
}

/// Rows of a chunk that may be there already.
const STAGING: &str = "pg_temp.rsrepl_staging";

const ANALYZE: &str = "ANALYZE pg_temp.rsrepl_staging";

impl TargetTable {
    fn columns_of_copy(&self) -> String {
        let columns: Vec<_> = self.written().map(|(_, column)| column.ident.as_str()).collect();
        columns.join(", ")
    }

    /// COPY of the written columns as the form has them. (A list of no columns is none.)
    fn copy_into(&self, table: &str, form: &Form) -> String {
        let columns = match self.columns_of_copy() {
            columns if columns.is_empty() => String::new(),
            columns => format!(" ({columns})"),
        };
        let format = match form.format {
            Format::Binary => "binary",
            Format::Text => "text",
        };
        format!("COPY {table}{columns} FROM STDIN (FORMAT {format})")
    }

    /// With the same types; without constraints or what computes values.
    fn create_staging(&self) -> String {
        format!(
            "CREATE TEMPORARY TABLE rsrepl_staging ON COMMIT DROP AS SELECT {} FROM {} WITH NO DATA",
            self.columns_of_copy(),
            self.name
        )
    }

    /// Inserts what is not there. Any other row with its key would be an error of ours, and shows as one of
    /// the target's unique index.
    fn take_staging(&self) -> String {
        let columns = self.columns_of_copy();
        let staged: Vec<_> = self.written().map(|(_, c)| format!("s.{}", c.ident)).collect();
        let same: Vec<_> =
            self.keys().map(|(_, c)| format!("t.{0} {1} s.{0}", c.ident, c.equals)).collect();
        format!(
            "INSERT INTO {0} ({columns}) OVERRIDING SYSTEM VALUE SELECT {1} FROM {STAGING} AS s \
             WHERE NOT EXISTS (SELECT FROM {3} AS t WHERE {2})",
            self.name,
            staged.join(", "),
            same.join(" AND "),
            // a table that inherits from it may have the same keys
            self.only()
        )
    }
}
