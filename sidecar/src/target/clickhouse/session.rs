//! What is known of the tables, from one `open` to the next; and the changes of a batch as steps of each.

use std::collections::HashMap;
use std::sync::Arc;

use rsrepl_wire::{Lsn, Relation};

use super::client::Server;
use super::convert::DateRange;
use super::encode::Item;
use super::evolve::{How, Turn};
use super::options::ClickHouseOptions;
use super::plan::Layout;
use super::records::{self, Record};
use super::tables::Tables;
use super::version::Version;
use super::write::{Context, Step, Table};
use super::{copies, ddl, position, setup};
use crate::batch::{Change, Operation, Position};
use crate::error::{Error, Kind, Result};
use crate::schema::{self, Table as Described};
use crate::target::SourceIdentity;

/// See the module's documentation.
pub(super) struct Session {
    options: ClickHouseOptions,
    pub(super) context: Context,
    pub(super) source: SourceIdentity,
    dates: DateRange,
    /// Of the last change.
    version: Version,
    /// The end of its transaction, and of the one before.
    ends_at: Lsn,
    whole: Lsn,
    tables: Tables<TableState>,
    /// The last TRUNCATE that a predecessor began, by table.
    truncates: HashMap<String, Version>,
    /// By the table's oid on the source.
    pub(super) records: HashMap<u32, Record>,
}

/// The changes of a batch, in order.
pub(super) struct Changes {
    rest: std::vec::IntoIter<Change>,
    first: Option<Change>,
    /// Their transactions, from that of the next change on.
    transactions: std::vec::IntoIter<Position>,
}

impl Changes {
    pub(super) fn new(changes: Vec<Change>, transactions: Vec<Position>) -> Changes {
        let (rest, transactions) = (changes.into_iter(), transactions.into_iter());
        Changes { rest, first: None, transactions }
    }

    /// The transaction that ends there, if it is known; later ones may be asked for afterwards.
    fn transaction(&mut self, end: Lsn) -> Position {
        while self.transactions.as_slice().first().is_some_and(|first| first.lsn < end) {
            self.transactions.next();
        }
        let first = self.transactions.as_slice().first().copied();
        first.filter(|first| first.lsn == end).unwrap_or_default()
    }

    fn next(&mut self) -> Option<Change> {
        self.first.take().or_else(|| self.rest.next())
    }

    fn put_back(&mut self, change: Change) {
        self.first = Some(change);
    }
}

struct TableState {
    table: Arc<Table>,
    /// As it was last described; the plan's own may be an older one that says the same.
    relation: Arc<Relation>,
    /// See [`Session::since`].
    since: Version,
}

impl Session {
    /// Connects, sees to it that nothing of a predecessor is under way, and reads the position.
    pub(super) async fn open(
        options: &ClickHouseOptions,
        source: &SourceIdentity,
    ) -> Result<(Session, Lsn)> {
        let server = Server::new(options, setup::query_prefix(options, source))?;
        let dates = setup::prepare(&server, options).await?;
        setup::fence(&server).await?;
        let lsn = position::read(&server, &options.database, source).await?;
        if lsn == Lsn::INVALID {
            copies::check_none(&server, &options.database, source).await?;
        }
        let truncates = position::read_truncates(&server, &options.database, &source.slot).await?;
        let records = match lsn {
            // records belong to a position
            Lsn::INVALID => HashMap::new(),
            _ => records::read(&server, &options.database, source).await?,
        };
        let context = Context {
            server,
            database: options.database.as_str().into(),
            slot: source.slot.as_str().into(),
        };
        let session = Session {
            options: options.clone(),
            context,
            source: source.clone(),
            dates,
            // a position is between two transactions
            version: Version::default(),
            ends_at: lsn,
            whole: lsn,
            tables: Tables::default(),
            truncates,
            records,
        };
        Ok((session, lsn))
    }

    /// Before the rows of a table are copied anew: makes it follow from what it is known to have been.
    pub(super) async fn follow_shape(
        options: &ClickHouseOptions,
        context: &Context,
        source: &SourceIdentity,
        dates: DateRange,
        (relation, whole): (&Arc<Relation>, bool),
        lsn: Lsn,
    ) -> Result<()> {
        let records = records::read(&context.server, &options.database, source).await?;
        let mut session = Session::beside(options, context, source, dates, records, lsn);
        let version = Version::copied(lsn, 0);
        if !session.is_changed(relation, version) {
            return Ok(());
        }
        let transaction = Position::default();
        let turn = |how, version| Turn { how, version, lsn, whole: lsn, transaction };
        session.follow(&turn(How::Shown(Arc::clone(relation)), version)).await?;
        let Some(record) = session.records.get(&relation.oid).filter(|_| whole) else {
            return Ok(());
        };
        // a description by itself does not say that a column is gone
        let table = Described::of_relation(relation).completed_by(&record.table);
        let (command, what) = ("ALTER TABLE".to_owned(), schema::What::Is(table));
        let message = Arc::new(schema::Message { command, what, rewrite: false });
        session.follow(&turn(How::Told(message), Version::copied(lsn, 1))).await
    }

    /// Does what `schema_changes` says of a table that the source has dropped by `lsn`, as it is recorded.
    pub(super) async fn follow_drop(
        options: &ClickHouseOptions,
        context: &Context,
        source: &SourceIdentity,
        dates: DateRange,
        (oid, records): (u32, HashMap<u32, Record>),
        lsn: Lsn,
    ) -> Result<()> {
        let Some(table) = records.get(&oid).map(|record| record.table.clone()) else {
            return Ok(());
        };
        let mut session = Session::beside(options, context, source, dates, records, lsn);
        let (command, what) = ("DROP TABLE".to_owned(), schema::What::Dropped(table));
        let how = How::Told(Arc::new(schema::Message { command, what, rewrite: false }));
        let version = Version::copied(lsn, 0);
        let transaction = Position { lsn, ..Position::default() };
        session.follow(&Turn { how, version, lsn, whole: lsn, transaction }).await
    }

    /// Of a stream that has nothing under way.
    fn beside(
        options: &ClickHouseOptions,
        context: &Context,
        source: &SourceIdentity,
        dates: DateRange,
        records: HashMap<u32, Record>,
        lsn: Lsn,
    ) -> Session {
        Session {
            options: options.clone(),
            context: context.clone(),
            source: source.clone(),
            dates,
            version: Version::default(),
            ends_at: lsn,
            whole: lsn,
            tables: Tables::default(),
            truncates: HashMap::new(),
            records,
        }
    }

    /// Sorts the changes by table, each table's in stream order; a table's place stays the same. Ends before
    /// the next change of a table itself, which is given back.
    pub(super) async fn steps(
        &mut self,
        changes: &mut Changes,
    ) -> Result<(Vec<Vec<Step>>, Option<Turn>)> {
        let mut steps: Vec<Vec<Step>> = Vec::new();
        while let Some(change) = changes.next() {
            let version = self.version.next(&change);
            if change.end_lsn > self.ends_at {
                (self.whole, self.ends_at) = (self.ends_at, change.end_lsn);
            }
            let whole = self.whole;
            let transaction = changes.transaction(change.end_lsn);
            let turn = |how| Turn { how, version, lsn: change.lsn, whole, transaction };
            if let Operation::Schema(message) = &change.operation {
                self.version = version;
                return Ok((steps, Some(turn(How::Told(Arc::clone(message))))));
            }
            let known = self.known(&change.relation);
            if version < self.since(known, change.relation.oid) {
                self.version = version;
                continue;
            }
            let index = match known {
                Some(index) => index,
                None if self.is_changed(&change.relation, version) => {
                    let turn = turn(How::Shown(Arc::clone(&change.relation)));
                    changes.put_back(change);
                    return Ok((steps, Some(turn)));
                }
                None => self.describe(&change.relation, version).await?,
            };
            self.version = version;
            if steps.len() < self.tables.len() {
                steps.resize_with(self.tables.len(), Vec::new);
            }
            if let (Some(steps), Some(state)) = (steps.get_mut(index), self.tables.at(index)) {
                add(steps, state, version, transaction, change);
            }
        }
        Ok((steps, None))
    }

    /// The last change of a table: what is older of it was stored before that.
    fn since(&self, known: Option<usize>, oid: u32) -> Version {
        match known.and_then(|index| self.tables.at(index)) {
            Some(state) => state.since,
            None => self.records.get(&oid).map(|record| record.version).unwrap_or_default(),
        }
    }

    /// Whether a description says something new of the table.
    fn is_changed(&self, relation: &Relation, version: Version) -> bool {
        let Some(record) = self.records.get(&relation.oid) else { return false };
        if record.dropped && record.done {
            return false;
        }
        let shown = Described::of_relation(relation).completed_by(&record.table);
        let same = (&record.table.schema, &record.table.name, &record.table.columns)
            == (&shown.schema, &shown.name, &shown.columns);
        // one that has begun is to be ended
        !same || !record.done && record.version == version
    }

    /// Looks up what is recorded of tables that somebody else has written to and altered.
    pub(super) async fn look_again(&mut self, oids: &[u32]) -> Result<()> {
        let Context { server, database, .. } = &self.context;
        let mut recorded = records::read(server, database, &self.source).await?;
        for oid in oids {
            match recorded.remove(oid) {
                Some(record) => self.records.insert(*oid, record),
                None => self.records.remove(oid),
            };
            self.forget(*oid);
        }
        Ok(())
    }

    /// Forgets how a table is written to: it is another one from here on.
    pub(super) fn forget(&mut self, oid: u32) {
        self.tables.forget(oid);
    }

    pub(super) fn options(&self) -> &ClickHouseOptions {
        &self.options
    }

    pub(super) fn dates(&self) -> DateRange {
        self.dates
    }

    /// The table of a relation that has been described before.
    fn known(&mut self, relation: &Arc<Relation>) -> Option<usize> {
        let (index, state) = self.tables.of(relation.oid)?;
        if !Arc::ptr_eq(&state.relation, relation) {
            if *state.relation != **relation {
                return None;
            }
            state.relation = Arc::clone(relation);
        }
        Some(index)
    }

    /// Plans a table that is new or has changed, and sees to it that the server has it so.
    async fn describe(&mut self, relation: &Arc<Relation>, version: Version) -> Result<usize> {
        let name = self.options.target_table(&relation.schema, &relation.name);
        self.check_heir(relation, &name).await?;
        self.seed(relation, version).await?;
        let options = &self.options;
        if let Some(other) = self.tables.named(&name)
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
        let mut plan = options.plan(relation, name.clone(), self.dates)?;
        setup::ensure_table(&self.context.server, options, &mut plan).await?;
        let table = Arc::new(Table {
            insert: ddl::insert(&options.database, &plan),
            lookup_limit: Default::default(),
            truncated: self.truncates.get(&plan.storage()).copied().unwrap_or_default(),
            plan,
        });
        let since = self.since(None, relation.oid);
        let relation = Arc::clone(relation);
        Ok(self.tables.put(relation.oid, name, TableState { table, relation, since }))
    }
}

/// Adds a change to the last step of its table, or as a new step.
fn add(
    steps: &mut Vec<Step>,
    state: &TableState,
    version: Version,
    transaction: Position,
    change: Change,
) {
    let Change { lsn, operation, .. } = change;
    let history = state.table.plan.layout == Layout::History;
    if let Operation::Truncate { .. } = operation
        && !history
    {
        steps.push(Step::Truncate { table: Arc::clone(&state.table), lsn, version });
        return;
    }
    let item = Item { lsn, version, transaction, operation };
    if let Some(Step::Rows { table, items }) = steps.last_mut()
        && Arc::ptr_eq(table, &state.table)
    {
        items.push(item);
        return;
    }
    steps.push(Step::Rows { table: Arc::clone(&state.table), items: vec![item] });
}
