//! What is compared: each published table, and what it is on each target.

use std::collections::HashMap;

use tokio_postgres::Client;

use super::clickhouse::{self, ImageValues};
use super::form::Form;
use super::key::{ImageKey, KeyColumn};
use super::postgres::{self, failed};
use super::target::{Session, Target};
use crate::error::{Error, Kind, Result};
use crate::preflight::Scope;
use crate::quote::identifier;
use crate::target::clickhouse::quoted;

/// Quoted columns and their forms: what a hash is made of.
pub type Profile = Vec<(String, Form)>;

/// A table of the source.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) scope: Scope,
    /// Hashes one of each profile.
    pub(crate) source: postgres::Table,
    /// In the order of the targets; an error: why it cannot be compared there.
    pub(crate) there: Vec<std::result::Result<There, String>>,
}

/// The same table on a target.
#[derive(Debug)]
pub(crate) struct There {
    pub(crate) table: TargetTable,
    pub(crate) profile: usize,
    /// Columns that are not compared, and why.
    pub(crate) left_out: Vec<String>,
    pub(crate) notes: Vec<String>,
}

#[derive(Debug)]
pub(crate) enum TargetTable {
    Postgres(postgres::Table),
    ClickHouse(clickhouse::Table),
    /// Not made yet, and the source has no rows of it.
    Empty,
}

impl Table {
    /// `schema.table`
    pub(crate) fn name(&self) -> String {
        self.scope.relation.to_string()
    }

    /// Of the key's columns, as they are.
    pub(crate) fn key_names(&self) -> Vec<String> {
        let name = |name: &str| {
            let inner = name.strip_prefix('"').and_then(|name| name.strip_suffix('"'));
            inner.unwrap_or(name).replace("\"\"", "\"")
        };
        self.source.key.iter().map(|column| name(&column.name)).collect()
    }

    pub(crate) fn on(&self, target: usize) -> Option<&There> {
        self.there.get(target)?.as_ref().ok()
    }

    /// A table that cannot be compared anywhere.
    pub(crate) fn unknown(scope: Scope, targets: usize, why: &str) -> Table {
        let who = format!("the source, table {}", scope.relation);
        let source = postgres::Table::new(who, String::new(), None, Vec::new(), &[], true);
        let there = (0..targets).map(|_| Err(why.to_owned())).collect();
        Table { source, there, scope }
    }

    /// Ranges of the key are the same rows everywhere.
    pub(crate) fn has_one_order(&self) -> bool {
        self.source.key.iter().all(|column| column.has_one_order)
    }

    /// Looks at one table everywhere.
    pub(crate) async fn prepare(
        source: &Client,
        utf8: bool,
        scope: &Scope,
        targets: &[Target],
    ) -> Result<Table> {
        let relation = &scope.relation;
        let key = read_key(source, scope).await?;
        let name = format!("{}.{}", identifier(&relation.schema), identifier(&relation.name));
        let mut preparing = Preparing { scope, name, key, profiles: Vec::new() };
        let mut there = Vec::with_capacity(targets.len());
        for target in targets {
            let found = match &target.session {
                Ok(Session::Postgres(session)) => {
                    preparing.postgres(&target.name, &session.look, session.utf8).await
                }
                Ok(Session::ClickHouse(mirror)) => {
                    preparing.clickhouse(source, &target.name, mirror).await
                }
                Err(why) => Err(Error::new(Kind::Connection, why.clone())),
            };
            there.push(found.map_err(|error| error.to_string()));
        }
        let Preparing { name, key, profiles, .. } = preparing;
        let only = if scope.is_partitioned { "" } else { "ONLY " };
        let source = postgres::Table::new(
            format!("the source, table {relation}"),
            format!("{only}{name}"),
            scope.filter.clone(),
            key.clone(),
            &profiles,
            utf8,
        );
        // all targets have been met by now, and keys look the same everywhere
        for found in there.iter_mut().flatten() {
            found.settle(scope, &key);
        }
        Ok(Table { source, there, scope: scope.clone() })
    }
}

/// A table while targets are looked at.
struct Preparing<'a> {
    scope: &'a Scope,
    /// Quoted, on the source and on PostgreSQL targets.
    name: String,
    key: Vec<KeyColumn>,
    profiles: Vec<Profile>,
}

impl Preparing<'_> {
    fn profile(&mut self, profile: Profile) -> usize {
        let known = self.profiles.iter().position(|known| *known == profile);
        known.unwrap_or_else(|| {
            self.profiles.push(profile);
            self.profiles.len() - 1
        })
    }

    async fn postgres(&mut self, target: &str, client: &Client, utf8: bool) -> Result<There> {
        let who = format!("target {target}, table {}", self.scope.relation);
        let sql = "SELECT c.relkind = 'p', a.attname::text, a.attnotnull
                   FROM pg_catalog.pg_class AS c
                   LEFT JOIN pg_catalog.pg_attribute AS a
                     ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
                   WHERE c.oid = pg_catalog.to_regclass($1)";
        let rows = client.query(sql, &[&self.name]).await.map_err(|error| failed(&who, error))?;
        let Some(first) = rows.first() else {
            return Err(Error::new(Kind::Setup, format!("{who} is not there")));
        };
        let only = if first.get(0) { "" } else { "ONLY " };
        // by name: whether it may be NULL
        let there: HashMap<Option<String>, Option<bool>> = rows
            .iter()
            .map(|row| (row.get(1), row.get::<_, Option<bool>>(2).map(|n| !n)))
            .collect();
        let (mut profile, mut left_out, mut nulls) = (Profile::new(), Vec::new(), Vec::new());
        for column in &self.scope.relation.columns {
            let name = identifier(&column.name);
            match there.get(&Some(column.name.clone())) {
                Some(is_nullable) => {
                    let is_key = self.key.iter().any(|key| key.name == name);
                    if is_key && *is_nullable == Some(true) {
                        nulls.push(format!("{name} IS NULL"));
                    }
                    profile.push((name, Form::exact(column)));
                }
                None => left_out.push(format!("column {} is not there", column.name)),
            }
        }
        let from = format!("{only}{}", self.name);
        let profiles = [profile.clone()];
        let mut table = postgres::Table::new(who, from, None, self.key.clone(), &profiles, utf8);
        table.nulls = (!nulls.is_empty()).then(|| format!("({})", nulls.join(" OR ")));
        let profile = self.profile(profile);
        let table = TargetTable::Postgres(table);
        Ok(There { table, profile, left_out, notes: Vec::new() })
    }

    async fn has_rows(&self, source: &Client) -> Result<bool> {
        let only = if self.scope.is_partitioned { "" } else { "ONLY " };
        let filter = self.scope.filter.as_deref().unwrap_or("true");
        let sql = format!("SELECT EXISTS (SELECT FROM {only}{} WHERE {filter})", self.name);
        let row = source.query_one(&sql, &[]).await;
        let who = format!("the source, table {}", self.scope.relation);
        Ok(row.map_err(|error| failed(&who, error))?.get(0))
    }

    async fn clickhouse(
        &mut self,
        source: &Client,
        target: &str,
        mirror: &clickhouse::Mirror,
    ) -> Result<There> {
        let relation = &self.scope.relation;
        let refuse = |why: String| {
            Error::new(Kind::Setup, format!("target {target}, table {relation}: {why}"))
        };
        let Some(image) = mirror.image(relation).await? else {
            if self.has_rows(source).await? {
                return Err(refuse("it is not there".to_owned()));
            }
            let notes = vec!["it is made with its first row".to_owned()];
            return Ok(There {
                table: TargetTable::Empty,
                profile: 0,
                left_out: Vec::new(),
                notes,
            });
        };
        let (mut profile, mut columns) = (Profile::new(), Vec::new());
        let (mut keys, mut left_out) = (Vec::new(), Vec::new());
        for column in &relation.columns {
            let Some(found) = image.columns.get(&column.name) else {
                left_out.push(format!("column {} is not there", column.name));
                continue;
            };
            if column.key {
                let ty = found.ty.as_ref();
                let ty = ty.ok_or_else(|| refuse(format!("{} is no key", found.type_name)))?;
                let name = identifier(&column.name);
                if let Some(key) = self.key.iter_mut().find(|key| key.name == name) {
                    key.meet(column, ty).map_err(refuse)?;
                    keys.push(ImageKey::new(column, key, ty));
                }
            }
            match (Form::of_image(column, found), &found.ty) {
                (Ok(form), Some(ty)) => {
                    let (source, name) = (identifier(&column.name), quoted(&column.name));
                    profile.push((source.clone(), form.clone()));
                    columns.push(ImageValues { source, name, form, ty: ty.clone() });
                }
                (Err(why), _) => {
                    left_out.push(format!("column {} is not compared: {why}", column.name));
                }
                (Ok(_), None) => {}
            }
        }
        if keys.len() != self.key.len() {
            return Err(refuse("columns of the key are not there".to_owned()));
        }
        let table = clickhouse::Table::new(image.name, keys, columns);
        let profile = self.profile(profile);
        let table = TargetTable::ClickHouse(table);
        Ok(There { table, profile, left_out, notes: Vec::new() })
    }
}

impl There {
    fn settle(&mut self, scope: &Scope, key: &[KeyColumn]) {
        match &mut self.table {
            TargetTable::Empty => {}
            TargetTable::Postgres(table) => table.key = key.to_vec(),
            TargetTable::ClickHouse(table) => {
                for image in &mut table.key {
                    let column = |key: &&KeyColumn| quoted_as(&key.name) == image.name;
                    if let Some(key) = key.iter().find(column) {
                        image.settle(key);
                    }
                }
            }
        }
        if scope.is_partial() {
            self.notes.push(
                "not all of its operations are published: it may differ by others".to_owned(),
            );
        }
    }
}

/// From `"name"` to `` `name` ``.
fn quoted_as(name: &str) -> String {
    let inner = name.strip_prefix('"').and_then(|name| name.strip_suffix('"'));
    quoted(&inner.unwrap_or(name).replace("\"\"", "\""))
}

/// The columns of the key: those of the replica identity, in the order of its index, so that it is used.
async fn read_key(source: &Client, scope: &Scope) -> Result<Vec<KeyColumn>> {
    let relation = &scope.relation;
    let sql = "SELECT a.attname::text, pg_catalog.format_type(a.atttypid, a.atttypmod),
                 coalesce(CASE WHEN a.attcollation = 100
                   THEN (SELECT d.datcollate IN ('C', 'POSIX') AND d.datlocprovider = 'c'
                     FROM pg_catalog.pg_database AS d
                     WHERE d.datname = pg_catalog.current_database())
                   ELSE (SELECT c.collcollate IN ('C', 'POSIX') AND c.collprovider = 'c'
                     FROM pg_catalog.pg_collation AS c WHERE c.oid = a.attcollation) END, false)
               FROM pg_catalog.pg_class AS t
               JOIN pg_catalog.pg_index AS i ON i.indrelid = t.oid AND i.indisvalid
                 AND CASE t.relreplident WHEN 'i' THEN i.indisreplident WHEN 'n' THEN false
                     ELSE i.indisprimary END,
               LATERAL pg_catalog.unnest(i.indkey) WITH ORDINALITY AS k (attnum, n)
               JOIN pg_catalog.pg_attribute AS a ON a.attnum = k.attnum
               WHERE t.oid = $1 AND a.attrelid = t.oid AND k.n <= i.indnkeyatts ORDER BY k.n";
    let rows = source.query(sql, &[&relation.oid]).await;
    let rows = rows.map_err(|error| failed(&format!("the source, table {relation}"), error))?;
    let columns: HashMap<&str, _> =
        relation.columns.iter().map(|column| (column.name.as_str(), column)).collect();
    let mut key = Vec::new();
    for row in &rows {
        let name: String = row.get(0);
        // one that is not published: rows cannot be told apart on the targets
        let Some(column) = columns.get(name.as_str()) else { return Ok(Vec::new()) };
        key.push(KeyColumn::new(column, row.get(1), row.get(2)));
    }
    Ok(key)
}
