//! The target's side of a relation: the table of the same name, and how its columns fit.

use rsrepl_wire::{Column, Encoding, Relation, TypeKind};
use tokio_postgres::Client;

use super::codec::Codec;
use super::records::Record;
use super::sql;
use crate::preflight::Finding;

/// Oids below are the same in every database (`FirstNormalObjectId`).
const FIRST_NORMAL_OBJECT_ID: u32 = 16384;

const XML_OID: u32 = 142;

/// What text goes in as that the server is to give to a type's input function: a cast from `text` or
/// `varchar` may be a function of its own, which reads another language (`regclass` does not know `-`, and
/// users may make such casts).
const STRING: (&str, u32) = ("bpchar", 1042);

/// A table of the target that fits a relation of the source.
#[derive(Debug)]
pub struct TargetTable {
    /// `"schema"."name"`.
    pub name: String,
    /// `ONLY` keeps statements on a plain table off its inheritance children; a partitioned table is
    /// nothing but its partitions.
    pub partitioned: bool,
    /// One for each column of the relation, in its order.
    pub columns: Vec<TargetColumn>,
    /// Columns of the target alone that have values of their own, quoted.
    pub others: Vec<String>,
    /// The relation has key columns.
    pub keyed: bool,
    /// A unique index guarantees that a key names at most one row, so that a set of keys can be
    /// checked by counting rows.
    pub unique_key: bool,
}

/// A column of the target.
#[derive(Debug)]
pub struct TargetColumn {
    /// Quoted.
    pub ident: String,
    /// The type under all domains, without modifier: a cast to it never cuts anything off.
    pub sql_type: String,
    /// The declared type is a domain.
    pub domain: bool,
    /// The type that the value arrives in, when the server is to cast it to `sql_type`: a string, or a
    /// narrower type of the source.
    pub via: Option<String>,
    /// `pg_type.oid` on the target of the type that the value arrives in.
    pub arrives_oid: u32,
    pub codec: Codec,
    /// Not written: the target computes it (a stored generated column).
    pub generated: bool,
    /// `GENERATED ALWAYS AS IDENTITY`: an UPDATE may not set it.
    pub always_identity: bool,
    /// Part of the key that names a row.
    pub key: bool,
    /// The equality operator of the type, for WHERE.
    pub equals: String,
}

/// A column as the target's catalog describes it.
struct CatalogColumn {
    number: i16,
    name: String,
    not_null: bool,
    generated: bool,
    identity: Option<Identity>,
    has_default: bool,
    declared: (String, String),
    base_oid: u32,
    base: (String, String),
    typmod: i32,
    element_oid: u32,
    sql_type: String,
}

#[derive(PartialEq, Eq)]
enum Identity {
    Always,
    ByDefault,
}

impl CatalogColumn {
    fn is_domain(&self) -> bool {
        self.declared != self.base
    }
}

const TABLE_QUERY: &str = "\
SELECT c.oid, c.relkind::text, n.nspname, c.relname
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.oid = $3 OR n.nspname = $1 AND c.relname = $2
 ORDER BY n.nspname = $1 AND c.relname = $2 DESC";

/// Follows domains down to their base type and its modifier.
const COLUMNS_QUERY: &str = "\
WITH RECURSIVE base (attnum, oid, typmod) AS (
  SELECT attnum, atttypid, atttypmod FROM pg_catalog.pg_attribute
   WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped
  UNION ALL
  SELECT b.attnum, t.typbasetype, t.typtypmod
    FROM base b JOIN pg_catalog.pg_type t ON t.oid = b.oid WHERE t.typtype = 'd')
SELECT a.attname, a.attnotnull, a.attgenerated::text, a.attidentity::text, a.atthasdef,
       dn.nspname, dt.typname, b.oid, bn.nspname, bt.typname, b.typmod, bt.typelem,
       pg_catalog.format_type(b.oid, -1), a.attnum
  FROM pg_catalog.pg_attribute a
  JOIN base b ON b.attnum = a.attnum
  JOIN pg_catalog.pg_type bt ON bt.oid = b.oid AND bt.typtype <> 'd'
  JOIN pg_catalog.pg_namespace bn ON bn.oid = bt.typnamespace
  JOIN pg_catalog.pg_type dt ON dt.oid = a.atttypid
  JOIN pg_catalog.pg_namespace dn ON dn.oid = dt.typnamespace
 WHERE a.attrelid = $1
 ORDER BY a.attnum";

/// The columns of every index that lets a set of columns name at most one row, now and not deferred.
const UNIQUE_QUERY: &str = "\
SELECT ARRAY(SELECT a.attname FROM pg_catalog.unnest(i.indkey[:i.indnkeyatts - 1]) AS k (attnum)
               JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum)
  FROM pg_catalog.pg_index i
 WHERE i.indrelid = $1 AND i.indisunique AND i.indisvalid AND i.indimmediate
   AND i.indpred IS NULL AND i.indexprs IS NULL";

/// Why a relation has no table to go to.
#[derive(Debug)]
pub enum Unfit {
    /// The target did not answer.
    Server(tokio_postgres::Error),
    /// What its owner must mend, all at once.
    Findings(Vec<Finding>),
}

impl From<tokio_postgres::Error> for Unfit {
    fn from(error: tokio_postgres::Error) -> Self {
        Unfit::Server(error)
    }
}

/// Looks up the table of the same schema and name, or else the recorded one, and fits the relation's columns
/// to it by their recorded numbers, or else by name: by hand, they may have got the names that the stream
/// will bring.
pub async fn resolve(
    client: &Client,
    relation: &Relation,
    record: Option<&Record>,
) -> Result<TargetTable, Unfit> {
    let recorded = record.map_or(0, |record| record.target_oid);
    let found = client.query(TABLE_QUERY, &[&relation.schema, &relation.name, &recorded]).await?;
    let Some(row) = found.first() else {
        return Err(Unfit::Findings(vec![missing(relation)]));
    };
    let (oid, kind): (u32, String) = (row.try_get(0)?, row.try_get(1)?);
    let name = sql::qualified(row.try_get(2)?, row.try_get(3)?);
    if kind != "r" && kind != "p" {
        return Err(Unfit::Findings(vec![Finding::error(
            format!("{relation} is not a table on the target (relkind {kind})"),
            "rename it, and create a table of that name",
        )]));
    }
    let rows = client.query(COLUMNS_QUERY, &[&oid]).await?;
    let catalog = rows.iter().map(catalog_column).collect::<Result<Vec<_>, _>>()?;
    let mut unique = Vec::new();
    for row in client.query(UNIQUE_QUERY, &[&oid]).await? {
        unique.push(row.try_get::<_, Vec<String>>(0)?);
    }
    let place = |column: &Column| {
        let place = record.filter(|r| r.target_oid == oid)?.places.get(&column.number)?;
        catalog.iter().find(|candidate| candidate.number == *place)
    };
    let found = |column: &Column| {
        place(column).or_else(|| catalog.iter().find(|candidate| candidate.name == column.name))
    };
    let found: Vec<_> = relation.columns.iter().map(found).collect();
    let table = Found { name, columns: &found, catalog: &catalog, unique: &unique };
    fit(relation, &table, kind == "p").map_err(Unfit::Findings)
}

/// What the catalog has for a relation.
struct Found<'a> {
    /// `"schema"."name"`.
    name: String,
    /// One for each column of the relation.
    columns: &'a [Option<&'a CatalogColumn>],
    catalog: &'a [CatalogColumn],
    unique: &'a [Vec<String>],
}

impl Found<'_> {
    fn is_known(&self, column: &CatalogColumn) -> bool {
        self.columns.iter().flatten().any(|known| known.number == column.number)
    }
}

/// That there is no table.
pub fn missing(relation: &Relation) -> Finding {
    let name = sql::qualified(&relation.schema, &relation.name);
    Finding::error(
        format!("table {relation} is missing on the target"),
        format!("pg_dump --schema-only --table='{name}' SOURCE | psql TARGET"),
    )
}

fn catalog_column(row: &tokio_postgres::Row) -> Result<CatalogColumn, tokio_postgres::Error> {
    let identity: String = row.try_get(3)?;
    Ok(CatalogColumn {
        name: row.try_get(0)?,
        not_null: row.try_get(1)?,
        generated: !row.try_get::<_, String>(2)?.is_empty(),
        identity: match identity.as_str() {
            "a" => Some(Identity::Always),
            "d" => Some(Identity::ByDefault),
            _ => None,
        },
        has_default: row.try_get(4)?,
        declared: (row.try_get(5)?, row.try_get(6)?),
        base_oid: row.try_get(7)?,
        base: (row.try_get(8)?, row.try_get(9)?),
        typmod: row.try_get(10)?,
        element_oid: row.try_get(11)?,
        sql_type: row.try_get(12)?,
        number: row.try_get(13)?,
    })
}

fn fit(
    relation: &Relation,
    table: &Found<'_>,
    partitioned: bool,
) -> Result<TargetTable, Vec<Finding>> {
    let mut findings = Vec::new();
    let mut columns = Vec::with_capacity(relation.columns.len());
    for (column, found) in relation.columns.iter().zip(table.columns) {
        match found {
            None => findings.push(Finding::error(
                format!("column {} of {relation} is missing on the target", column.name),
                format!(
                    "ALTER TABLE {} ADD COLUMN {} {}",
                    sql::qualified(&relation.schema, &relation.name),
                    sql::ident(&column.name),
                    sql::qualified(&column.type_schema, &column.type_name)
                ),
            )),
            Some(found) => match fit_column(relation, column, found) {
                Ok(column) => columns.push(column),
                Err(finding) => findings.push(finding),
            },
        }
    }
    let alone = || table.catalog.iter().filter(|column| !table.is_known(column));
    findings.extend(alone().filter(|c| needs_a_value(c)).map(|c| extra(relation, &c.name)));
    if !findings.is_empty() {
        return Err(findings);
    }
    let is_key = |name: &String| {
        let of_key = |ident: &String| columns.iter().any(|c| c.key && c.ident == *ident);
        of_key(&sql::ident(name))
    };
    let unique_key = table.unique.iter().any(|index| index.iter().all(is_key));
    Ok(TargetTable {
        name: table.name.clone(),
        partitioned,
        keyed: columns.iter().any(|column| column.key),
        columns,
        others: alone().filter(|c| !c.generated).map(|c| sql::ident(&c.name)).collect(),
        unique_key,
    })
}

/// A column of the target alone, which an insert without it would fail on.
fn needs_a_value(column: &CatalogColumn) -> bool {
    column.not_null && !column.has_default && !column.generated && column.identity.is_none()
}

fn extra(relation: &Relation, name: &str) -> Finding {
    Finding::error(
        format!("column {name} of {relation} is NOT NULL on the target, and the source has none"),
        format!(
            "ALTER TABLE {} ALTER COLUMN {} DROP NOT NULL (or SET DEFAULT …)",
            sql::qualified(&relation.schema, &relation.name),
            sql::ident(name)
        ),
    )
}

fn fit_column(
    relation: &Relation,
    column: &Column,
    found: &CatalogColumn,
) -> Result<TargetColumn, Finding> {
    let alter = |to: &str| {
        format!(
            "ALTER TABLE {} ALTER COLUMN {} {to}",
            sql::qualified(&relation.schema, &relation.name),
            sql::ident(&column.name)
        )
    };
    let source_type = || format!("{}.{}", column.type_schema, column.type_name);
    let Some(via) = arrival(column, found) else {
        return Err(Finding::error(
            format!(
                "column {} of {relation} is {} on the source and {}.{} on the target",
                column.name,
                source_type(),
                found.declared.0,
                found.declared.1
            ),
            alter(&format!("TYPE {}", sql::qualified(&column.type_schema, &column.type_name))),
        ));
    };
    if !modifier_fits(found.base_oid, column.typmod, found.typmod) {
        return Err(Finding::error(
            format!(
                "column {} of {relation} has a narrower length or precision on the target \
                 (type modifier {}, source {})",
                column.name, found.typmod, column.typmod
            ),
            alter("TYPE … with the length or precision of the source"),
        ));
    }
    if found.generated && !column.generated {
        return Err(Finding::error(
            format!("column {} of {relation} is generated on the target only", column.name),
            alter("DROP EXPRESSION"),
        ));
    }
    let Some(codec) = Codec::new(column, found.element_oid) else {
        return Err(Finding::error(
            format!(
                "column {} of {relation} has type {}, whose binary form this sidecar does not know",
                column.name,
                source_type()
            ),
            "upgrade the sidecar",
        ));
    };
    Ok(TargetColumn {
        ident: sql::ident(&found.name),
        sql_type: found.sql_type.clone(),
        domain: found.is_domain(),
        arrives_oid: match via.as_deref() {
            None => found.base_oid,
            Some(via) if via == STRING.0 => STRING.1,
            Some(_) => column.base_oid, // a narrower built-in type
        },
        via,
        codec,
        generated: found.generated,
        always_identity: found.identity == Some(Identity::Always),
        key: column.key,
        equals: equality(column, found),
    })
}

/// The type that values go in, if not the column's own: [`TargetColumn::via`]. `None`: the types do
/// not fit.
fn arrival(column: &Column, found: &CatalogColumn) -> Option<Option<String>> {
    if type_fits(column, found) {
        // xml's receive function would obey an encoding declaration inside of the value
        let as_text = column.encoding == Encoding::Text || column.base_oid == XML_OID;
        return Some(as_text.then(|| STRING.0.to_owned()));
    }
    widened_from(column.base_oid, found.base_oid).map(|narrow| Some(narrow.to_owned()))
}

/// The name of the source's type when the target's holds each of its values exactly: what a column is
/// altered to while narrower values are still in the stream.
fn widened_from(source: u32, target: u32) -> Option<&'static str> {
    const WIDER: &[(u32, &str, &[u32])] = &[
        (21, "int2", &[23, 20, 1700]),
        (23, "int4", &[20, 1700]),
        (20, "int8", &[1700]),
        (700, "float4", &[701]),
        (1043, "varchar", &[25]),
        (25, "text", &[1043]),
    ];
    WIDER
        .iter()
        .find(|(oid, _, wider)| *oid == source && wider.contains(&target))
        .map(|(_, name, _)| *name)
}

/// Built-in types by oid; others by the name that both sides gave them.
fn type_fits(column: &Column, found: &CatalogColumn) -> bool {
    let declared =
        |name: &(String, String)| name.0 == column.type_schema && name.1 == column.type_name;
    if column.base_oid < FIRST_NORMAL_OBJECT_ID {
        found.base_oid == column.base_oid
    } else if column.type_oid == column.base_oid {
        declared(&found.base)
    } else {
        // a domain over a user's type: its base type's name is not on the wire
        declared(&found.declared)
    }
}

/// Whether every value under the source's type modifier is one under the target's, unchanged.
fn modifier_fits(base_oid: u32, source: i32, target: i32) -> bool {
    if target < 0 || target == source {
        return true;
    }
    if source < 0 {
        return false;
    }
    match base_oid {
        // varchar, varbit, time, timestamp, timestamptz, timetz (and arrays of varchar)
        1043 | 1015 | 1562 | 1083 | 1114 | 1184 | 1266 => target >= source,
        // numeric: (precision << 16 | scale) + 4; the same scale, more digits before the point
        1700 | 1231 => {
            let parts = |typmod: i32| ((typmod - 4) >> 16, (typmod - 4) & 0x7FF);
            let ((source_digits, source_scale), (target_digits, target_scale)) =
                (parts(source), parts(target));
            source_scale == target_scale && target_digits >= source_digits
        }
        _ => false,
    }
}

/// An extension's type has its operators where it lives itself; all others are built in.
fn equality(column: &Column, found: &CatalogColumn) -> String {
    let schema = match column.kind {
        TypeKind::Base => found.base.0.as_str(),
        _ => "pg_catalog",
    };
    format!("OPERATOR({}.=)", sql::ident(schema))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_modifier_that_would_change_a_value_does_not_fit() {
        let numeric = |precision: i32, scale: i32| ((precision << 16) | scale) + 4;
        for (oid, source, target, fits) in [
            (1700, -1, -1, true),
            (1700, numeric(10, 2), -1, true),
            (1700, -1, numeric(10, 2), false),
            (1700, numeric(10, 4), numeric(12, 2), false),
            (1700, numeric(10, 2), numeric(12, 2), true),
            (1700, numeric(12, 2), numeric(10, 2), false),
            (1043, 14, 24, true),
            (1043, 24, 14, false),
            (1042, 9, 14, false), // char(n) pads
            (1042, 9, 9, true),
            (1114, -1, 0, false),
            (1114, 0, 3, true),
        ] {
            assert_eq!(modifier_fits(oid, source, target), fits, "{oid} {source} {target}");
        }
    }
}
