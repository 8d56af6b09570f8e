//! Makes the server's table follow the source's: when everything before the change is stored, and before
//! anything behind it is written.

use std::sync::Arc;

use rsrepl_wire::{Lsn, Relation};

use super::alter::{self, Actual, Change, Planned};
use super::ddl::{self, literal, qualified};
use super::failure::{self, Attempt};
use super::plan::OWN_PREFIX;
use super::records::{self, Record};
use super::session::Session;
use super::setup;
use super::types::ColumnType;
use super::version::Version;
use crate::batch::Position;
use crate::config::Mode;
use crate::error::{Error, Kind, Result};
use crate::schema::{self, Column, Operation, Table, Verdict, What, built_in};

/// How a table was changed, and where in the stream.
#[derive(Clone, Debug)]
pub(super) struct Turn {
    pub(super) how: How,
    pub(super) version: Version,
    pub(super) lsn: Lsn,
    /// The end of the last transaction before its own.
    pub(super) whole: Lsn,
    /// Its own, if it is known.
    pub(super) transaction: Position,
}

#[derive(Clone, Debug)]
pub(super) enum How {
    /// As the source's event trigger says.
    Told(Arc<schema::Message>),
    /// As the description before its next row shows.
    Shown(Arc<Relation>),
}

impl How {
    pub(super) fn oid(&self) -> u32 {
        match self {
            How::Told(message) => message.table().oid,
            How::Shown(relation) => relation.oid,
        }
    }
}

/// A table of the server and what it is for.
struct Place {
    actual: Actual,
    /// The table that rows are written to; the view of a log has another name.
    storage: String,
    log: bool,
}

impl Session {
    /// Does what a change of a table comes to. What has been done before is not done again.
    pub(super) async fn follow(&mut self, turn: &Turn) -> Result<()> {
        let followed = self.turn(turn).await;
        self.forget(turn.how.oid());
        followed.map_err(|error| error.at(turn.lsn).of(turn.transaction))
    }

    async fn turn(&mut self, turn: &Turn) -> Result<()> {
        let known = self.records.get(&turn.how.oid()).cloned();
        if known.as_ref().is_some_and(|r| (r.version, r.done) >= (turn.version, true)) {
            return Ok(());
        }
        let record = known.filter(|record| !record.dropped || !record.done);
        match &turn.how {
            How::Told(message) => match &message.what {
                What::Is(table) => {
                    let command = Some(message.command.as_str());
                    self.change(record, table.clone(), command, message.rewrite, turn).await
                }
                What::Dropped(_) => self.drop_table(record, turn).await,
            },
            How::Shown(relation) => {
                let shown = Table::of_relation(relation);
                let to = match &record {
                    Some(record) => shown.completed_by(&record.with_later()),
                    None => shown,
                };
                self.change(record, to, None, false, turn).await
            }
        }
    }

    async fn change(
        &mut self,
        record: Option<Record>,
        to: Table,
        command: Option<&str>,
        rewrite: bool,
        turn: &Turn,
    ) -> Result<()> {
        let Some(record) = record else { return self.first(to, rewrite, command, turn).await };
        // from here on, what is older is not written again
        self.begin(&record, turn).await?;
        let moved = self.move_table(&record.table, &to).await?;
        let name = self.target_table(if moved { &to } else { &record.table });
        let (mut kept, mut later) = (record.kept.clone(), record.later.clone());
        if let Some(mut place) = self.place(&name).await? {
            if rewrite && self.options().mode == Mode::Mirror {
                self.alter(&to, vec![format!("TRUNCATE TABLE {}", place.actual.name)]).await?;
                place.actual.is_empty = true;
            }
            let planned = self.plan(&record, &to, command, turn, &place.actual);
            if !planned.asks.is_empty() {
                return Err(self.ask(&to, planned.asks));
            }
            (kept, later) = (planned.kept, planned.later);
            self.alter(&to, planned.statements).await?;
            self.renew_view(&name, &place, &to).await?;
        }
        let mut table = to;
        for column in &later {
            // as if nothing had been told of it; the next row shows the rest
            let before = record.table.column(column.number).cloned();
            let at = table.columns.iter().position(|c| c.number == column.number);
            match (at.and_then(|at| table.columns.get_mut(at)), before) {
                (Some(now), Some(before)) => now.type_name = before.type_name,
                _ => table.columns.retain(|c| c.number != column.number),
            }
        }
        self.end(Record { table, later, kept, dropped: false, ..record }, turn).await
    }

    /// Of a table that has no record: as its rows, if any came, showed it.
    async fn first(
        &mut self,
        to: Table,
        rewrite: bool,
        command: Option<&str>,
        turn: &Turn,
    ) -> Result<()> {
        let Some(place) = self.place(&self.target_table(&to)).await? else {
            // made when its first row comes; but one that is altered may have had another name
            return Ok(());
        };
        // what it was before is not known; the columns that are here were there
        let has = |column: &&Column| place.actual.columns.contains_key(&column.name);
        let columns = to.columns.iter().filter(has).cloned().collect();
        let had_rows = Some(!place.actual.is_empty);
        let record =
            Record { table: Table { columns, ..to.clone() }, had_rows, ..Record::default() };
        let own = |name: &&String| {
            !name.starts_with(OWN_PREFIX) && !to.columns.iter().any(|column| column.name == **name)
        };
        let adds = record.table.columns.len() < to.columns.len();
        let alters = command.is_some_and(|command| command.starts_with("ALTER "));
        if alters && adds && place.actual.columns.keys().any(|name| own(&name)) {
            let planned = self.plan(&record, &to, command, turn, &place.actual);
            let mut asks = planned.asks;
            asks.extend(planned.statements.into_iter().map(|statement| {
                ("a column was added, if it had no other name before".to_owned(), statement)
            }));
            return Err(self.ask(&to, asks));
        }
        Box::pin(self.change(Some(record), to, command, rewrite, turn)).await
    }

    fn plan(
        &self,
        record: &Record,
        to: &Table,
        command: Option<&str>,
        turn: &Turn,
        actual: &Actual,
    ) -> Planned {
        let type_of = |column: &Column| self.type_of(to, column, &turn.how);
        Change {
            from: &record.table,
            to,
            kept: &record.kept,
            command,
            policy: self.options().schema_changes,
            type_of: &type_of,
        }
        .plan(actual)
    }

    /// The type that a column gets; `None` when its name does not say it.
    fn type_of(&self, table: &Table, column: &Column, how: &How) -> Option<ColumnType> {
        let described = match how {
            How::Shown(relation) => {
                relation.columns.iter().find(|found| found.number == column.number).cloned()
            }
            How::Told(_) => built_in(&column.type_name),
        };
        let relation = Relation {
            oid: table.oid,
            schema: table.schema.clone(),
            name: table.name.clone(),
            replica_identity: rsrepl_wire::ReplicaIdentity::Default,
            columns: vec![rsrepl_wire::Column {
                name: column.name.clone(),
                number: column.number,
                not_null: column.not_null,
                ..described?
            }],
        };
        let plan = self.options().plan(&Arc::new(relation), self.target_table(table), self.dates());
        plan.ok()?.columns.first().map(|column| column.ty.clone())
    }

    /// Gives the table its new name, when it has another one here too. False: it is under the old one, or
    /// under none.
    async fn move_table(&mut self, from: &Table, to: &Table) -> Result<bool> {
        let (old, new) = (self.target_table(from), self.target_table(to));
        if old == new {
            return Ok(true);
        }
        // a name that is another table's by now is not the old one of this
        let taken = self.is_of_another(&old, to.oid);
        let before = if taken { None } else { self.place(&old).await? };
        let Some(before) = before else {
            self.release(&new).await?;
            return Ok(true);
        };
        let operation = Operation::MoveTable { schema: to.schema.clone(), name: to.name.clone() };
        let mut statements = Vec::new();
        let database = self.options().database.clone();
        if before.log {
            statements.push(format!("DROP VIEW IF EXISTS {}", qualified(&database, &old)));
        }
        let storage = if before.log { format!("{OWN_PREFIX}log_{new}") } else { new.clone() };
        statements.push(alter::move_table(&database, &before.storage, &storage));
        if self.options().schema_changes.verdict(&operation) != Verdict::Apply {
            let what = format!("it is called {to} now");
            return Err(self.ask(to, vec![(what, statements.join("; "))]));
        }
        if self.place(&new).await?.is_some() {
            let table = qualified(&database, &new);
            let what = format!("it is called {to} now, and there is another table of that name");
            return Err(self.ask(
                to,
                vec![(what, format!("RENAME TABLE {table} TO …, or DROP TABLE {table}"))],
            ));
        }
        self.release(&new).await?;
        self.alter(to, statements).await?;
        Ok(true)
    }

    /// A table that the source has dropped is called so no more: it is gone, and another one takes the name.
    async fn release(&mut self, name: &str) -> Result<()> {
        while let Some(old) = self.dropped(name) {
            let table = Table { name: String::new(), ..old.table };
            self.write(Record { table, ..old }).await?;
        }
        Ok(())
    }

    /// What the source dropped and has that name here.
    fn dropped(&self, name: &str) -> Option<Record> {
        let is_it = |record: &&Record| {
            let table = &record.table;
            record.dropped && !table.name.is_empty() && self.target_table(table) == name
        };
        self.records.values().find(is_it).cloned()
    }

    async fn drop_table(&mut self, record: Option<Record>, turn: &Turn) -> Result<()> {
        let Some(record) = record else { return Ok(()) };
        self.begin(&record, turn).await?;
        let name = self.target_table(&record.table);
        let apply = self.options().schema_changes.verdict(&Operation::DropTable) == Verdict::Apply;
        // a history outlives its table
        let apply = apply && self.options().mode == Mode::Mirror;
        let mine = !self.is_of_another(&name, record.table.oid);
        if apply
            && mine
            && let Some(place) = self.place(&name).await?
        {
            let database = self.options().database.clone();
            let mut statements = Vec::new();
            if place.log {
                statements.push(format!("DROP VIEW IF EXISTS {}", qualified(&database, &name)));
            }
            statements.push(format!("DROP TABLE IF EXISTS {}", place.actual.name));
            self.alter(&record.table.clone(), statements).await?;
        }
        self.end(Record { dropped: true, ..record }, turn).await
    }

    /// The table of the source that a table here was made for is not this one.
    fn is_of_another(&self, name: &str, oid: u32) -> bool {
        self.records.values().any(|record| {
            record.table.oid != oid && !record.dropped && self.target_table(&record.table) == name
        })
    }

    /// Refuses a table that would go on with the rows of one that the source has dropped.
    pub(super) async fn check_heir(&mut self, relation: &Relation, name: &str) -> Result<()> {
        if self.dropped(name).is_none_or(|old| old.table.oid == relation.oid) {
            return Ok(());
        }
        if let Some(place) = self.place(name).await? {
            let what =
                "it is a new table, and the one that the source dropped is still here".to_owned();
            let table = place.actual.name;
            let statement = format!("DROP TABLE {table}, or RENAME TABLE {table} TO …");
            return Err(self.ask(&Table::of_relation(relation), vec![(what, statement)]));
        }
        self.release(name).await
    }

    async fn begin(&mut self, record: &Record, turn: &Turn) -> Result<()> {
        let oid = turn.how.oid();
        let table = Table { oid, ..record.table.clone() };
        self.write(Record { table, version: turn.version, done: false, ..record.clone() }).await
    }

    async fn end(&mut self, record: Record, turn: &Turn) -> Result<()> {
        self.write(Record { version: turn.version, done: true, ..record }).await
    }

    /// Records a table that is described for the first time.
    pub(super) async fn seed(&mut self, relation: &Relation, version: Version) -> Result<()> {
        let known = self.records.get(&relation.oid);
        if known.is_some_and(|record| !record.dropped) {
            return Ok(());
        }
        let table = Table::of_relation(relation);
        let place = self.place(&self.target_table(&table)).await?;
        let had_rows = Some(place.is_some_and(|place| !place.actual.is_empty));
        self.write(Record { table, version, done: true, had_rows, ..Record::default() }).await
    }

    async fn write(&mut self, record: Record) -> Result<()> {
        let (server, database) = (&self.context.server, &self.options().database);
        records::write(server, database, &self.source, &record).await?;
        self.records.insert(record.table.oid, record);
        Ok(())
    }

    async fn alter(&self, table: &Table, statements: Vec<String>) -> Result<()> {
        for statement in statements {
            tracing::info!(target_name = self.options().name, table = %table, statement, "the schema changes");
            let attempt = Attempt::Alter(&table.name);
            let mut done = self.context.server.execute(attempt, &statement).await;
            // no other error: a mutation of a table whose columns have changed already has to end, or rows lose
            // what it has not come to
            let is_behind = done.as_ref().is_err_and(failure::is_behind_a_mutation);
            if is_behind && self.clear_remains(attempt, &statement).await {
                done = self.context.server.execute(attempt, &statement).await;
            }
            done.map_err(|error| {
                Error::new(Kind::Setup, error.what()).hint(format!(
                    "mend what it says{}; the statement was {statement}",
                    error.advice().map(|hint| format!(" ({hint})")).unwrap_or_default()
                ))
            })?;
        }
        Ok(())
    }

    /// Removes what a statement left behind during which the server died: it writes the mutation down first,
    /// and the table's columns afterwards. Without them a RENAME COLUMN can neither be done nor come again.
    async fn clear_remains(&self, attempt: Attempt<'_>, statement: &str) -> bool {
        let server = &self.context.server;
        let condition = format!(
            "NOT is_done AND latest_fail_reason != '' AND formatQuerySingleLine({}) =
             formatQuerySingleLineOrNull(concat('ALTER TABLE `', database, '`.`', `table`, '` ', command))",
            literal(statement)
        );
        let sql = format!("SELECT mutation_id FROM system.mutations WHERE {condition}");
        let found = server.strings::<1>(attempt, &sql).await;
        if !found.is_ok_and(|found| !found.is_empty()) {
            return false;
        }
        tracing::warn!(
            target_name = self.options().name,
            statement,
            "the server was killed during it; it is made again"
        );
        server.execute(attempt, &format!("KILL MUTATION WHERE {condition}")).await.is_ok()
    }

    /// The view of a log has the columns that the source has.
    async fn renew_view(&self, name: &str, place: &Place, to: &Table) -> Result<()> {
        if !place.log || !self.options().create_tables {
            return Ok(());
        }
        let Some(now) = self.place(name).await? else { return Ok(()) };
        let there = to.columns.iter().map(|column| column.name.as_str());
        let columns: Vec<_> = there.filter(|name| now.actual.columns.contains_key(*name)).collect();
        let database = &self.options().database;
        match ddl::create_view_of(database, name, &now.storage, &columns) {
            Some(statement) => self.alter(to, vec![statement]).await,
            None => Ok(()),
        }
    }

    /// What is there under a table's name.
    async fn place(&self, name: &str) -> Result<Option<Place>> {
        let (server, database) = (&self.context.server, &self.options().database);
        let log = format!("{OWN_PREFIX}log_{name}");
        for (storage, log) in [(log, true), (name.to_owned(), false)] {
            let Some(found) = setup::describe(server, database, &storage).await? else { continue };
            if found.kind == "View" {
                continue;
            }
            let table = qualified(database, &storage);
            let sql = format!("SELECT name FROM (SELECT 'x' AS name FROM {table} LIMIT 1)");
            let rows = server.strings::<1>(Attempt::Describe(&storage), &sql).await?;
            return Ok(Some(Place {
                actual: Actual {
                    name: table,
                    columns: found.columns,
                    keys: found.sorting_key.into_iter().collect(),
                    is_empty: rows.is_empty(),
                },
                storage,
                log,
            }));
        }
        Ok(None)
    }

    fn ask(&self, table: &Table, asks: Vec<(String, String)>) -> Error {
        let (what, run): (Vec<_>, Vec<_>) = asks.into_iter().unzip();
        let (name, policy) = (&self.options().name, self.options().schema_changes);
        Error::new(
            Kind::Setup,
            format!(
                "target {name}: {table} was changed on the source ({}), which schema_changes = \"{policy}\" \
                 leaves to you",
                what.join("; ")
            ),
        )
        .hint(format!("on the target: {}", run.join("; ")))
    }

    fn target_table(&self, table: &Table) -> String {
        self.options().target_table(&table.schema, &table.name)
    }
}

impl Record {
    /// With what was told of and not done yet.
    fn with_later(&self) -> Table {
        let mut table = self.table.clone();
        for column in &self.later {
            table.columns.retain(|known| known.number != column.number);
            table.columns.push(column.clone());
        }
        table
    }
}
