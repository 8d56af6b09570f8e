//! The rows that the source has when the stream begins: [`CopyTarget`] for ClickHouse.
//!
//! A copied row has a version that is higher than that of every transaction in its snapshot and lower than
//! that of every one behind it ([`Version::copied`]), and a table of ours keeps the highest. So a chunk may be
//! written again; what [`CopyTarget::catch_up`] deletes is ended by a tombstone of the change itself, which
//! ends what was copied before, and not what a later snapshot shows.
//!
//! Where each row has to stay apart from all others (a log of a table without a key, a history), its version
//! also holds its place in the table: written again under the same snapshot, it is the same row. Under another
//! one a table without a key starts over, and what a history has copied of a key is looked up.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rsrepl_wire::{Lsn, OldRow, OldRowKind, Relation};
use tokio::sync::watch;

use super::client::Server;
use super::convert::DateRange;
use super::copies::{Copies, Found};
use super::copy_chunks::Chunks;
use super::ddl::{self, qualified};
use super::encode::Item;
use super::failure::Attempt;
use super::insertion::Inlet;
use super::options::ClickHouseOptions;
use super::plan::Plan;
use super::records::{self, Record};
use super::session::Session;
use super::version::Version;
use super::write::{Before, Context, Step, Table, Writer};
use super::{position, setup};
use crate::batch::{Change, Operation, Position};
use crate::copy::columns::Copied;
use crate::copy::{
    ChunkWriter, CopiedTable, CopyTarget, Form, Promise, Records, Snapshot, Standing,
};
use crate::error::{Error, Kind, Result};
use crate::schema;
use crate::target::SourceIdentity;

/// How long requests that are on their way may take to come to their end.
const IN_FLIGHT_LIMIT: Duration = Duration::from_secs(10);

/// See the module's documentation.
pub struct ClickHouseCopy {
    options: ClickHouseOptions,
    opened: Option<Opened>,
    /// What was accepted, for rows of a COPY, by oid.
    tables: Arc<HashMap<u32, Arc<Table>>>,
    /// The same tables as the stream has described them.
    streamed: HashMap<u32, Arc<Table>>,
    /// When the last snapshot was taken, for histories: microseconds since 2000-01-01.
    at: i64,
    /// Of a sync, the slot of the stream that goes on beside it: tables of which nothing is copied yet are emptied, and
    /// made to fit.
    replaces: Option<String>,
}

/// What is known from one `open` to the next.
struct Opened {
    context: Context,
    source: SourceIdentity,
    dates: DateRange,
    copies: Copies,
    found: Found,
}

impl ClickHouseCopy {
    pub fn new(options: ClickHouseOptions) -> Self {
        let (tables, streamed) = (Arc::default(), HashMap::new());
        ClickHouseCopy { options, opened: None, tables, streamed, at: now(), replaces: None }
    }

    /// What the tables have is replaced: none of it came with this slot.
    #[must_use]
    pub fn replacing(self, main: &str) -> Self {
        ClickHouseCopy { replaces: Some(main.to_owned()), ..self }
    }

    fn opened(&self) -> Result<&Opened> {
        self.opened.as_ref().ok_or_else(|| Error::new(Kind::Internal, "it is not open"))
    }

    fn opened_mut(&mut self) -> Result<&mut Opened> {
        self.opened.as_mut().ok_or_else(|| Error::new(Kind::Internal, "it is not open"))
    }

    async fn open(&mut self, source: &SourceIdentity) -> Result<Standing> {
        if let Some(before) = self.opened.take() {
            let in_flight = before.context.server.in_flight().clone();
            drop(before);
            in_flight.close();
            tokio::time::timeout(IN_FLIGHT_LIMIT, in_flight.wait()).await.map_err(|_| {
                let message = "earlier requests are still on their way";
                Error::new(Kind::Connection, format!("target {}: {message}", self.options.name))
            })?;
        }
        let options = &self.options;
        let server = Server::new(options, setup::query_prefix(options, source))?;
        let dates = setup::prepare(&server, options).await?;
        setup::fence(&server).await?;
        let lsn = position::read(&server, &options.database, source).await?;
        // it has never had a copy, and need not be able to
        if lsn != Lsn::INVALID && !super::copies::are_kept(&server, &options.database).await? {
            return Ok(Standing::Positioned(lsn));
        }
        let (copies, found) = Copies::open(&server, &options.database, source).await?;
        let standing = match found.caught_up {
            _ if lsn != Lsn::INVALID => {
                copies.end(&found).await?;
                Standing::Positioned(lsn)
            }
            None => Standing::New,
            Some(caught_up) => Standing::Unfinished(Records { caught_up, chunks: found.usable() }),
        };
        let context = Context {
            server,
            database: options.database.as_str().into(),
            slot: source.slot.as_str().into(),
        };
        self.opened = Some(Opened { context, source: source.clone(), dates, copies, found });
        Ok(standing)
    }

    /// What a table becomes; made if it may be.
    async fn table(&self, relation: &Arc<Relation>) -> Result<Arc<Table>> {
        let Opened { context, dates, .. } = self.opened()?;
        let options = &self.options;
        let name = options.target_table(&relation.schema, &relation.name);
        let mut plan = options.plan(relation, name, *dates)?;
        setup::ensure_table(&context.server, options, &mut plan).await?;
        Ok(Arc::new(Table {
            insert: ddl::insert(&options.database, &plan),
            lookup_limit: Default::default(),
            truncated: Version::default(),
            plan,
        }))
    }

    /// The same for rows of a COPY, which have to become what those of the stream do.
    async fn copied(&self, table: &CopiedTable) -> Result<Arc<Table>> {
        let copied = self.table(&Arc::new(Copied::of(&table.relation).relation)).await?;
        let streamed = self.table(&table.relation).await?;
        let mut columns = copied.plan.columns.iter().zip(&streamed.plan.columns);
        if let Some((copied, streamed)) =
            columns.find(|(copied, streamed)| copied.ty != streamed.ty)
        {
            let (name, relation) = (&self.options.name, &table.relation);
            return Err(Error::new(
                Kind::Setup,
                format!(
                    "target {name}: column {} of table {relation} would be copied as {} and streamed as {}",
                    copied.name, copied.ty, streamed.ty
                ),
            )
            .hint("choose a type for it with columns = { … } (docs/type-mapping.md)"));
        }
        Ok(copied)
    }

    /// A table that has rows when nothing of it was copied has others than the source's.
    async fn check_empty(&self, plan: &Plan) -> Result<()> {
        let server = &self.opened()?.context.server;
        let storage = plan.storage();
        let table = qualified(&self.options.database, &storage);
        let sql = format!("SELECT toString(count()) FROM (SELECT 1 FROM {table} LIMIT 1)");
        let rows = server.strings::<1>(Attempt::Describe(&storage), &sql).await?;
        if rows.first().is_none_or(|[count]| count == "0") {
            return Ok(());
        }
        Err(Error::new(
            Kind::Setup,
            format!("target {}: table {table} has rows, and is to be copied", self.options.name),
        )
        .hint(format!("TRUNCATE TABLE {table}, or set copy.data = false")))
    }

    /// Empties a table, and makes it what the source's has become since rows were written to it.
    async fn replace(&self, table: &CopiedTable, at: Lsn) -> Result<()> {
        let Opened { context, source, dates, .. } = self.opened()?;
        let (options, relation) = (&self.options, &table.relation);
        let database = &options.database;
        let main =
            SourceIdentity { slot: self.replaces.clone().unwrap_or_default(), ..source.clone() };
        let mut known = HashMap::new();
        if setup::describe(&context.server, database, records::TABLES).await?.is_some() {
            known = records::read(&context.server, database, &main).await?;
        }
        let name_of = |table: &schema::Table| options.target_table(&table.schema, &table.name);
        let now = options.target_table(&relation.schema, &relation.name);
        // what it is called on the server, as long as a RENAME of the source has not come here
        let own = match known.is_empty() {
            true => HashMap::new(),
            false => records::read(&context.server, database, source).await?,
        };
        let was = |records: &HashMap<u32, Record>| {
            let record = records.get(&relation.oid).filter(|record| !record.dropped);
            record.map(|record| name_of(&record.table))
        };
        let since = known.get(&relation.oid).map_or(Version::default(), |record| record.version);
        // of two that the stream knows under one name, the later one has it
        let other = |name: &String| {
            known.values().find(|record| {
                let table = &record.table;
                let later = record.version > since || was(&known).as_ref() != Some(name);
                table.oid != relation.oid && !record.dropped && later && name_of(table) == *name
            })
        };
        let mut names: Vec<String> = [was(&own), was(&known)].into_iter().flatten().collect();
        // by its new name alone it is only known when no other is
        if names.is_empty() {
            names.push(now.clone());
        }
        names.dedup();
        // behind this, what the stream makes of the others is made
        if position::read(&context.server, database, &main).await? < at
            && let Some((name, other)) =
                names.iter().chain([&now]).find_map(|name| Some((name, other(name)?)))
        {
            return Err(self.is_still(relation, name, &other.table));
        }
        for name in names.into_iter().filter(|name| other(name).is_none()) {
            let storage = options.plan(relation, name, *dates)?.storage();
            let sql = format!("TRUNCATE TABLE IF EXISTS {}", qualified(database, &storage));
            context.server.execute(Attempt::Truncate(&storage), &sql).await?;
        }
        let to = (relation, table.whole);
        Session::follow_shape(options, context, source, *dates, to, at).await
    }

    /// The stream beside the sync has yet to bring what became of another table.
    fn is_still(&self, relation: &Relation, name: &str, other: &schema::Table) -> Error {
        let (target, table) = (&self.options.name, qualified(&self.options.database, name));
        Error::new(
            Kind::Server,
            format!(
                "target {target}: {relation} (oid {}) is to be copied anew, and {table} is still that of {other} (oid {})",
                relation.oid, other.oid
            ),
        )
        .hint("it goes on when the stream has brought what became of that one")
    }

    async fn accept(&mut self, tables: &[Arc<CopiedTable>], at: Lsn) -> Result<Vec<Form>> {
        let (mut accepted, mut wrong) = (HashMap::new(), Vec::new());
        let mut names: HashMap<String, &CopiedTable> = HashMap::new();
        for table in tables {
            let planned = async {
                if self.replaces.is_some() && self.opened()?.found.of(table.relation.oid).is_empty()
                {
                    self.replace(table, at).await?;
                }
                let planned = self.copied(table).await?;
                if self.opened()?.found.of(table.relation.oid).is_empty() {
                    self.check_empty(&planned.plan).await?;
                }
                Ok::<_, Error>(planned)
            };
            let planned = match planned.await {
                Ok(planned) => planned,
                // what somebody has to mend is told of all tables at once
                Err(error) if matches!(error.kind(), Kind::Setup | Kind::Config) => {
                    wrong.push(error);
                    continue;
                }
                Err(error) => return Err(error),
            };
            if let Some(other) = names.insert(planned.plan.name.clone(), table) {
                wrong.push(self.same_name(&other.relation, table));
            }
            accepted.insert(table.relation.oid, planned);
        }
        if !wrong.is_empty() {
            let (what, hints): (Vec<_>, Vec<_>) = wrong
                .iter()
                .map(|error| (error.what(), error.advice().unwrap_or_default()))
                .unzip();
            return Err(Error::new(Kind::Setup, what.join("; ")).hint(hints.join("; ")));
        }
        (self.tables, self.streamed) = (Arc::new(accepted), HashMap::new());
        Ok(tables.iter().map(|table| Copied::of(&table.relation).form).collect())
    }

    fn same_name(&self, other: &Relation, table: &CopiedTable) -> Error {
        let (name, relation) = (&self.options.name, &table.relation);
        let both = self.options.target_table(&relation.schema, &relation.name);
        Error::new(
            Kind::Config,
            format!("target {name}: tables {other} and {relation} would both become {both}"),
        )
        .hint("set table_name = \"{schema}_{table}\"")
    }

    async fn start_over(&mut self, oid: u32, table: Option<&CopiedTable>) -> Result<()> {
        let opened = self.opened()?;
        let chunks = opened.found.of(oid);
        if let Some(table) = table {
            let accepted = match self.tables.get(&oid) {
                Some(accepted) => Arc::clone(accepted),
                None => self.copied(table).await?,
            };
            let storage = accepted.plan.storage();
            // should it end here: it starts over again
            opened.copies.emptied(&chunks).await?;
            let sql = format!("TRUNCATE TABLE {}", qualified(&self.options.database, &storage));
            opened.context.server.execute(Attempt::Truncate(&storage), &sql).await?;
        }
        opened.copies.forget(&chunks).await?;
        self.opened_mut()?.found.chunks.retain(|(_, chunk)| chunk.table != oid);
        Ok(())
    }

    /// The source has dropped a table that is to be copied anew, and no stream says so.
    async fn dropped(&self, oid: u32, at: Lsn) -> Result<()> {
        let Opened { context, source, dates, .. } = self.opened()?;
        let database = &self.options.database;
        if setup::describe(&context.server, database, records::TABLES).await?.is_none() {
            return Ok(());
        }
        let main =
            SourceIdentity { slot: self.replaces.clone().unwrap_or_default(), ..source.clone() };
        let mut known = records::read(&context.server, database, source).await?;
        let Some(record) = known.remove(&oid).filter(|record| !record.dropped) else {
            return Ok(());
        };
        tracing::info!(target_name = self.options.name, table = %record.table, "the source has dropped a table that was to be copied anew");
        // it may be another one's by now, as the main stream knows them
        let mut all = records::read(&context.server, database, &main).await?;
        all.insert(oid, record);
        Session::follow_drop(&self.options, context, source, *dates, (oid, all), at).await
    }

    async fn catch_up(&mut self, changes: Vec<Change>) -> Result<()> {
        let (mut steps, mut version) = (HashMap::<u32, Step>::new(), Version::default());
        for change in changes {
            version = version.next(&change);
            let relation = change.relation;
            let Some(old) = ended_by(change.operation) else { continue };
            if !self.tables.contains_key(&relation.oid) {
                continue;
            }
            // nobody tells of which transaction it is
            let transaction = Position { lsn: change.end_lsn, commit_time: self.at, xid: 0 };
            let operation = Operation::Delete { old };
            let item = Item { lsn: change.lsn, version, transaction, operation };
            match steps.entry(relation.oid) {
                Entry::Occupied(mut entry) => {
                    if let Step::Rows { items, .. } = entry.get_mut() {
                        items.push(item);
                    }
                }
                Entry::Vacant(entry) => {
                    let table = self.streamed(&relation).await?;
                    entry.insert(Step::Rows { table, items: vec![item] });
                }
            }
        }
        let context = &self.opened()?.context;
        for step in steps.into_values() {
            let before = Before(watch::channel(true).1);
            let writer = Writer { context: context.clone(), before, inlet: Inlet::default() };
            if let Some(mut insertion) = writer.run(vec![step]).await?.insertion {
                insertion.end(&context.server).await?;
            }
        }
        Ok(())
    }

    /// A table as the stream describes it: what was accepted was only near to it.
    async fn streamed(&mut self, relation: &Arc<Relation>) -> Result<Arc<Table>> {
        if let Some(known) = self.streamed.get(&relation.oid)
            && *known.plan.relation == **relation
        {
            return Ok(Arc::clone(known));
        }
        let table = self.table(relation).await?;
        self.streamed.insert(relation.oid, Arc::clone(&table));
        Ok(table)
    }

    async fn caught_up(&mut self, snapshot: Snapshot) -> Result<()> {
        let opened = self.opened_mut()?;
        opened.copies.caught_up(snapshot).await?;
        opened.found.caught_up = Some(snapshot);
        self.at = now();
        Ok(())
    }

    fn writer(&self) -> Result<Chunks> {
        let Opened { context, copies, .. } = self.opened()?;
        Ok(Chunks {
            context: context.clone(),
            copies: copies.clone(),
            tables: Arc::clone(&self.tables),
            at: self.at,
        })
    }

    async fn finish(&mut self, lsn: Lsn) -> Result<()> {
        let Opened { context, source, .. } = self.opened()?;
        let (copies, found) = Copies::open(&context.server, &context.database, source).await?;
        if !found.is_whole(lsn) {
            let name = &self.options.name;
            let what = format!("target {name}: somebody else has copied to it meanwhile");
            return Err(Error::new(Kind::Server, what).hint("run one sidecar per slot"));
        }
        let position = Position { lsn, ..Position::default() };
        position::write(&context.server, &context.database, source, position).await?;
        // the position says it all: what is left of these is forgotten by the next `open`
        copies.end(&found).await
    }
}

/// The row that a change takes away, as far as its key.
fn ended_by(operation: Operation) -> Option<OldRow> {
    match operation {
        Operation::Update { old: Some(old), .. } | Operation::Delete { old } => Some(old),
        // the key is as it was
        Operation::Update { old: None, new } => Some(OldRow { kind: OldRowKind::Key, row: new }),
        Operation::Insert { .. } | Operation::Truncate { .. } | Operation::Schema(_) => None,
    }
}

/// Microseconds since 2000-01-01.
fn now() -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let micros = i64::try_from(now.as_micros()).unwrap_or(i64::MAX);
    micros.saturating_sub(position::EPOCH_MICROS)
}

impl CopyTarget for ClickHouseCopy {
    fn name(&self) -> &str {
        &self.options.name
    }

    fn open<'a>(&'a mut self, source: &'a SourceIdentity) -> Promise<'a, Standing> {
        Box::pin(self.open(source))
    }

    fn accept<'a>(
        &'a mut self,
        tables: &'a [Arc<CopiedTable>],
        (_, at): (&'a str, Lsn),
    ) -> Promise<'a, Vec<Form>> {
        Box::pin(self.accept(tables, at))
    }

    fn start_over<'a>(&'a mut self, oid: u32, table: Option<&'a CopiedTable>) -> Promise<'a, ()> {
        Box::pin(self.start_over(oid, table))
    }

    fn dropped(&mut self, oid: u32, at: Lsn) -> Promise<'_, ()> {
        Box::pin(Self::dropped(self, oid, at))
    }

    fn catch_up(&mut self, changes: Vec<Change>) -> Promise<'_, ()> {
        Box::pin(self.catch_up(changes))
    }

    fn caught_up(&mut self, snapshot: Snapshot) -> Promise<'_, ()> {
        Box::pin(self.caught_up(snapshot))
    }

    fn writer(&self, _: usize) -> Promise<'_, Box<dyn ChunkWriter>> {
        Box::pin(async { Ok(Box::new(self.writer()?) as Box<dyn ChunkWriter>) })
    }

    fn finish(&mut self, position: Lsn) -> Promise<'_, ()> {
        Box::pin(self.finish(position))
    }
}
