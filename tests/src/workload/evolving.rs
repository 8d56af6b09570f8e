//! Tables whose schema changes in the middle of what is written to them.
//!
//! They live in [`SCHEMA`]. Nothing is known of them beforehand: a client locks a table, asks the catalog
//! what it looks like by then, and makes its next statement of that. So the statements are valid whatever the
//! other clients do; conflicts between them (deadlocks, names that are taken or gone) are rollbacks.

use std::sync::{Arc, Mutex};

use fastrand::Rng;
use postgres::{Client, Error};

use super::schema::Type;
use super::values::{literal, not_null};
use super::{End, Workload, give_up};

/// Where the tables are.
pub const SCHEMA: &str = "evolving";

/// What tables may be called.
pub const NAMES: [&str; 9] = ["e0", "e1", "e2", "e3", "e4", "e5", "e6", "e7", "e8"];

/// How many there are at least.
const FEWEST: usize = 4;

/// What their columns may be called, but for the key's.
const COLUMNS: [&str; 9] = ["c0", "c1", "c2", "c3", "c4", "c5", "Ce 6", "c7", "c8"];

/// Keys are numbered from 0 to here.
const ROWS: u64 = 60;

/// Of columns that come or change, and how `format_type` calls them.
const TYPES: &[(Type, &str)] = &[
    (Type::Int4, "integer"),
    (Type::Int8, "bigint"),
    (Type::Bool, "boolean"),
    (Type::Float8, "double precision"),
    (Type::Numeric, "numeric"),
    (Type::Decimal(12, 2), "numeric(12,2)"),
    (Type::Text, "text"),
    (Type::LongText, "text"),
    (Type::Varchar, "character varying(40)"),
    (Type::Bytea, "bytea"),
    (Type::Date, "date"),
    (Type::TimestampTz, "timestamp with time zone"),
    (Type::Interval, "interval"),
    (Type::Uuid, "uuid"),
    (Type::Jsonb, "jsonb"),
    (Type::Mood, "mood"),
    (Type::Array(&Type::Int4), "integer[]"),
    (Type::Array(&Type::Text), "text[]"),
];

/// Errors that come of what another client did.
const CONFLICTS: &[&str] = &[
    "40P01", "40001", "23505", // deadlocks, and rows that are there
    "42P01", "42P07", "42710", // tables that are gone, or there
];

/// What the clients sent, each transaction when it had ended.
#[derive(Clone, Default)]
pub struct History(Arc<Mutex<Vec<String>>>);

impl History {
    /// Adds an entry.
    pub fn note(&self, entry: String) {
        self.0.lock().expect("the history").push(entry);
    }

    /// All of it.
    pub fn text(&self) -> String {
        self.0.lock().expect("the history").join("\n\n")
    }
}

/// The schema and its first tables.
pub fn statements() -> String {
    let tables = NAMES[..FEWEST].iter().zip(KINDS).map(|(name, kind)| create(name, kind));
    format!("CREATE SCHEMA {SCHEMA}; {}", tables.collect::<Vec<_>>().join("; "))
}

/// A row of each: what a table looked like before anything of it came is known to nobody.
pub fn first_rows() -> String {
    let tables = NAMES[..FEWEST].iter().zip(KINDS);
    let row = |(name, kind): (&&str, &str)| match kind.contains("k1") {
        true => format!("INSERT INTO {SCHEMA}.{name} (k0, k1) VALUES (0, 'key 0')"),
        false => format!("INSERT INTO {SCHEMA}.{name} (k0) VALUES (0)"),
    };
    tables.map(row).collect::<Vec<_>>().join("; ")
}

/// Starts clients that commit `count` transactions.
pub fn start(seed: u64, count: u64, mut connections: Vec<Client>, history: &History) -> Workload {
    for connection in &mut connections {
        let path = format!("SET search_path = {SCHEMA}, public");
        connection.batch_execute(&path).expect("set the search path");
    }
    let history = history.clone();
    let send = move |rng: &mut Rng, client: &mut Client| Session::new(rng, client).run(&history);
    Workload::of(send, seed, count, connections)
}

/// The columns that a table begins with: what it is told apart by, and others.
const KINDS: [&str; FEWEST] = [
    "k0 integer PRIMARY KEY, c0 text, c1 integer DEFAULT 7",
    "k0 integer, k1 varchar(40), c0 numeric, c1 text, PRIMARY KEY (k0, k1)",
    "k0 bigint PRIMARY KEY, c0 text STORAGE EXTERNAL, c1 text, c2 mood",
    "k0 integer, c0 text, c1 double precision",
];

fn create(name: &str, kind: &str) -> String {
    let table = format!("CREATE TABLE {SCHEMA}.{name} ({})", kind.replace(" STORAGE EXTERNAL", ""));
    let full = format!("ALTER TABLE {SCHEMA}.{name} REPLICA IDENTITY FULL");
    match kind {
        _ if !kind.contains("PRIMARY KEY") => format!("{table}; {full}"),
        _ if kind.contains("EXTERNAL") => {
            format!("{table}; ALTER TABLE {SCHEMA}.{name} ALTER c0 SET STORAGE EXTERNAL")
        }
        _ => table,
    }
}

struct Column {
    name: String,
    type_: Type,
    not_null: bool,
}

impl Column {
    fn value(&self, rng: &mut Rng) -> String {
        if self.not_null { not_null(rng, self.type_) } else { literal(rng, self.type_) }
    }

    fn quoted(&self) -> String {
        format!("{:?}", self.name)
    }
}

/// A table as it is now, locked.
struct Table {
    name: String,
    has_key: bool,
    keys: Vec<Column>,
    others: Vec<Column>,
}

impl Table {
    /// The literals of row `number`'s key.
    fn key(&self, number: u64) -> Vec<String> {
        let literal = |key: &Column| match key.type_ {
            Type::Varchar => format!("'key {}'", number % 7),
            _ => number.to_string(),
        };
        self.keys.iter().map(literal).collect()
    }

    /// Finds one row.
    fn condition(&self, number: u64) -> String {
        let equal = |(key, value): (&Column, String)| format!("{} = {value}", key.quoted());
        let found: Vec<_> = self.keys.iter().zip(self.key(number)).map(equal).collect();
        let found = found.join(" AND ");
        match self.has_key {
            true => found,
            false => format!("ctid = (SELECT ctid FROM {} WHERE {found} LIMIT 1)", self.name),
        }
    }
}

/// A client in a transaction.
struct Session<'a> {
    rng: &'a mut Rng,
    client: &'a mut Client,
    sent: Vec<String>,
}

impl<'a> Session<'a> {
    fn new(rng: &'a mut Rng, client: &'a mut Client) -> Self {
        Session { rng, client, sent: Vec::new() }
    }

    /// One transaction.
    fn run(mut self, history: &History) -> End {
        let commits = self.rng.u32(0..15) != 0;
        let last = if commits { "COMMIT" } else { "ROLLBACK" };
        let done = self.send("BEGIN").and_then(|()| self.work()).and_then(|()| self.send(last));
        let end = match done {
            Ok(()) if commits => End::Committed,
            Ok(()) => End::RolledBack,
            Err(error) => {
                give_up(self.client, &error, CONFLICTS, &self.sent.join(";\n"));
                return End::RolledBack;
            }
        };
        history.note(self.sent.join(";\n"));
        end
    }

    fn send(&mut self, statement: impl Into<String>) -> Result<(), Error> {
        let statement = statement.into();
        let done = self.client.batch_execute(&statement);
        self.sent.push(statement);
        done
    }

    fn work(&mut self) -> Result<(), Error> {
        for _ in 0..self.rng.u32(1..6) {
            if self.rng.u32(0..8) > 0 {
                self.step()?;
                continue;
            }
            self.send("SAVEPOINT s")?;
            self.step()?;
            self.step()?;
            let end = if self.rng.bool() { "ROLLBACK TO" } else { "RELEASE" };
            self.send(format!("{end} SAVEPOINT s"))?;
        }
        Ok(())
    }

    fn step(&mut self) -> Result<(), Error> {
        match self.rng.u32(0..100) {
            0..7 => self.alter(),
            7..9 => self.tables_come_and_go(),
            _ => self.write(),
        }
    }

    fn names(&mut self) -> Result<Vec<String>, Error> {
        let query = format!(
            "SELECT relname::text FROM pg_class WHERE relnamespace = '{SCHEMA}'::regnamespace AND relkind = 'r'
             ORDER BY 1"
        );
        Ok(self.client.query(&query, &[])?.iter().map(|row| row.get(0)).collect())
    }

    /// Some table, as it is from now on until the transaction ends.
    fn table(&mut self, lock: &str) -> Result<Table, Error> {
        let names = self.names()?;
        let name = names[self.rng.usize(0..names.len())].clone();
        self.send(format!("LOCK TABLE {name} IN {lock} MODE"))?;
        let query = "SELECT a.attname::text, format_type(a.atttypid, a.atttypmod), a.attnotnull,
                EXISTS (SELECT FROM pg_index WHERE indrelid = attrelid AND indisprimary)
            FROM pg_attribute AS a WHERE a.attrelid = $1::text::regclass AND a.attnum > 0 AND NOT a.attisdropped
            ORDER BY a.attnum";
        let mut table = Table { name, has_key: false, keys: Vec::new(), others: Vec::new() };
        for row in self.client.query(query, &[&table.name])? {
            let (name, type_name): (String, String) = (row.get(0), row.get(1));
            let found: Vec<_> = TYPES.iter().filter(|(_, name)| *name == type_name).collect();
            assert!(!found.is_empty(), "type {type_name} is not one of the workload's");
            let type_ = found[self.rng.usize(0..found.len())].0;
            table.has_key = row.get(3);
            let column = Column { name, type_, not_null: row.get(2) };
            if column.name.starts_with('k') {
                table.keys.push(column);
            } else {
                table.others.push(column);
            }
        }
        Ok(table)
    }

    fn write(&mut self) -> Result<(), Error> {
        if self.rng.u32(0..150) == 0 {
            return self.truncate();
        }
        let table = self.table("ROW EXCLUSIVE")?;
        let number = self.rng.u64(0..ROWS);
        let condition = table.condition(number);
        let name = &table.name;
        let statement = match self.rng.u32(0..100) {
            0..50 => self.insert(&table),
            50..56 => {
                let set: Vec<_> = table.keys.iter().map(Column::quoted).collect();
                let key = table.key(self.rng.u64(0..ROWS)).join(", ");
                let set = set.join(", ");
                let taken = format!("SELECT FROM {name} WHERE ({set}) = ({key})");
                format!(
                    "UPDATE {name} SET ({set}) = ROW({key}) WHERE {condition} AND NOT EXISTS ({taken})"
                )
            }
            56..82 if !table.others.is_empty() => {
                let set = self.assignments(&table);
                format!("UPDATE {name} SET {set} WHERE {condition}")
            }
            82..86 if !table.others.is_empty() => {
                let set = self.assignments(&table);
                format!("UPDATE {name} SET {set} WHERE k0 % 5 = {}", number % 5)
            }
            _ => format!("DELETE FROM {name} WHERE {condition}"),
        };
        self.send(statement)
    }

    fn truncate(&mut self) -> Result<(), Error> {
        let mut names = self.names()?;
        self.rng.shuffle(&mut names);
        names.truncate(self.rng.usize(1..3));
        self.send(format!("TRUNCATE {}", names.join(", ")))
    }

    fn insert(&mut self, table: &Table) -> String {
        // what is left out has its default
        let given: Vec<_> =
            table.others.iter().filter(|c| c.not_null || self.rng.u32(0..5) > 0).collect();
        let names = table.keys.iter().chain(given.iter().copied()).map(Column::quoted);
        let names = names.collect::<Vec<_>>().join(", ");
        let first = self.rng.u64(0..ROWS);
        let rows: Vec<_> = (0..[1, 1, 5][self.rng.usize(0..3)])
            .map(|i| {
                let values = given.iter().map(|column| column.value(self.rng));
                let row: Vec<_> = table.key((first + i) % ROWS).into_iter().chain(values).collect();
                format!("({})", row.join(", "))
            })
            .collect();
        let conflict = if table.has_key { " ON CONFLICT DO NOTHING" } else { "" };
        format!("INSERT INTO {} ({names}) VALUES {}{conflict}", table.name, rows.join(", "))
    }

    fn assignments(&mut self, table: &Table) -> String {
        let mut columns: Vec<_> = table.others.iter().collect();
        self.rng.shuffle(&mut columns);
        columns.truncate(self.rng.usize(1..3));
        let set = columns.iter().map(|c| format!("{} = {}", c.quoted(), c.value(self.rng)));
        set.collect::<Vec<_>>().join(", ")
    }

    fn tables_come_and_go(&mut self) -> Result<(), Error> {
        let names = self.names()?;
        let free: Vec<_> = NAMES.iter().filter(|name| !names.iter().any(|n| n == *name)).collect();
        let some = &names[self.rng.usize(0..names.len())];
        let new = free.get(self.rng.usize(0..free.len().max(1)));
        match (new, self.rng.u32(0..3)) {
            (Some(new), 0) => {
                let kind = KINDS[self.rng.usize(0..KINDS.len())];
                self.send(create(new, kind))
            }
            (_, 1) if names.len() > FEWEST => self.send(format!("DROP TABLE {some}")),
            (Some(new), _) => self.send(format!("ALTER TABLE {some} RENAME TO {new}")),
            (None, _) => Ok(()),
        }
    }

    /// One ALTER TABLE, of one to three columns.
    fn alter(&mut self) -> Result<(), Error> {
        let mut table = self.table("ACCESS EXCLUSIVE")?;
        if table.has_key && self.rng.u32(0..10) == 0 {
            let identity = if self.rng.bool() { "FULL" } else { "DEFAULT" };
            return self.send(format!("ALTER TABLE {} REPLICA IDENTITY {identity}", table.name));
        }
        let used = |name: &str| table.others.iter().any(|column| column.name == name);
        let mut free: Vec<_> = COLUMNS.into_iter().filter(|name| !used(name)).collect();
        self.rng.shuffle(&mut free);
        self.rng.shuffle(&mut table.others);
        if self.rng.u32(0..4) == 0
            && let (Some(column), Some(new)) = (table.others.first(), free.first())
        {
            // never together with anything else
            let old = column.quoted();
            return self.send(format!("ALTER TABLE {} RENAME {old} TO {new:?}", table.name));
        }
        let mut actions = Vec::new();
        for _ in 0..[1, 1, 1, 2, 3][self.rng.usize(0..5)] {
            let adds = table.others.len() < 2 || self.rng.u32(0..5) < 2;
            match (adds, free.pop(), table.others.pop()) {
                (true, Some(new), _) => actions.push(self.add(new)),
                (_, _, Some(column)) => self.change(&table.name, &column, &mut actions)?,
                _ => {}
            }
        }
        if actions.is_empty() {
            return Ok(());
        }
        self.send(format!("ALTER TABLE {} {}", table.name, actions.join(", ")))
    }

    fn some_type(&mut self) -> Type {
        TYPES[self.rng.usize(0..TYPES.len())].0
    }

    /// A value that a DEFAULT may have.
    fn default(&mut self, type_: Type) -> String {
        loop {
            let value = not_null(self.rng, type_);
            if !value.contains("SELECT") && value.len() < 10_000 {
                return value;
            }
        }
    }

    fn add(&mut self, name: &str) -> String {
        let type_ = self.some_type();
        let sql = type_.sql();
        match self.rng.u32(0..10) {
            0..4 => format!("ADD COLUMN {name:?} {sql}"),
            4..7 => format!("ADD COLUMN {name:?} {sql} DEFAULT {}", self.default(type_)),
            7 => format!("ADD COLUMN {name:?} {sql} NOT NULL DEFAULT {}", self.default(type_)),
            8 => format!("ADD COLUMN {name:?} timestamptz DEFAULT now()"),
            // the table is rewritten
            _ => format!("ADD COLUMN {name:?} float8 DEFAULT random()"),
        }
    }

    fn change(
        &mut self,
        table: &str,
        column: &Column,
        actions: &mut Vec<String>,
    ) -> Result<(), Error> {
        let name = column.quoted();
        match self.rng.u32(0..10) {
            0..3 => actions.push(format!("DROP COLUMN {name}")),
            3..7 => {
                actions.push(format!("ALTER {name} DROP DEFAULT"));
                actions.push(self.retype(&name));
            }
            7 => {
                let default = self.default(column.type_);
                actions.push(format!("ALTER {name} SET DEFAULT {default}"));
            }
            8 => actions.push(format!("ALTER {name} DROP NOT NULL")),
            _ => {
                let value = not_null(self.rng, column.type_);
                self.send(format!("UPDATE {table} SET {name} = {value} WHERE {name} IS NULL"))?;
                actions.push(format!("ALTER {name} SET NOT NULL"));
            }
        }
        Ok(())
    }

    /// Into another type, by way of the text that the values have.
    fn retype(&mut self, name: &str) -> String {
        let (type_, using) = match self.rng.u32(0..6) {
            0 => (Type::Int4, format!("length({name}::text)")),
            1 => (Type::Int8, format!("length({name}::text) * 10000000000")),
            2 => (Type::Numeric, format!("length({name}::text) / 8.0")),
            3 => (Type::Varchar, format!("left({name}::text, 40)")),
            4 => (
                Type::Mood,
                format!("CASE WHEN length({name}::text) > 5 THEN 'sad' ELSE 'ok' END::mood"),
            ),
            _ => (Type::Text, format!("{name}::text")),
        };
        format!("ALTER {name} TYPE {} USING {using}", type_.sql())
    }
}
