//! What is to be copied: the published tables as they are in the snapshot, and where their rows are.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;

use ring::digest;
use rsrepl_wire::Lsn;
use tokio_postgres::Client;

use super::reader::{Reader, failed};
use super::{Attribute, CopiedTable, Leaf, Snapshot};
use crate::config::{InvalidText, Source};
use crate::error::{Error, Kind, Result};
use crate::preflight::{self, Shown};
use crate::quote::identifier;

/// Tables that a message names.
const NAMED_MAX: usize = 5;

/// The file as the snapshot has it and as it is now: between the two, the table may have been rewritten.
const LEAVES: &str = "\
SELECT c.oid, n.nspname::text, c.relname::text, c.relfilenode, pg_catalog.pg_relation_filenode(c.oid),
       COALESCE(pg_catalog.pg_relation_size(c.oid), 0) / pg_catalog.current_setting('block_size')::bigint,
       COALESCE(pg_catalog.pg_table_size(c.oid), 0), pg_catalog.has_table_privilege(c.oid, 'SELECT')
  FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
 WHERE c.oid = ANY ($1)";

const XMIN: &str = "\
SELECT pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot())::text::bigint,
       pg_catalog.getdatabaseencoding()::text";

const ATTRIBUTES: &str = "\
SELECT a.attrelid, a.attname::text, a.attnum
  FROM pg_catalog.pg_attribute AS a
 WHERE a.attrelid = ANY ($1) AND a.attnum > 0 AND NOT a.attisdropped";

/// What makes a leaf's rows those of the table, and of the publications: each row of it is another one when a
/// partition was detached and attached again, or a table taken out of a publication, or of a schema that is
/// published, and put back. Between the two its changes do not come.
const TIES: &str = "\
SELECT l.oid, pg_catalog.concat_ws(' ',
       (SELECT pg_catalog.string_agg(i.inhparent || ':' || i.xmin, ',' ORDER BY i.inhrelid)
          FROM pg_catalog.pg_inherits AS i WHERE i.inhrelid = ANY (a.oids)),
       (SELECT pg_catalog.string_agg(p.oid || ':' || p.xmin, ',' ORDER BY p.oid)
          FROM pg_catalog.pg_publication AS p WHERE p.pubname = ANY ($2)),
       (SELECT pg_catalog.string_agg(r.oid || ':' || r.xmin, ',' ORDER BY r.oid)
          FROM pg_catalog.pg_publication_rel AS r JOIN pg_catalog.pg_publication AS p ON p.oid = r.prpubid
         WHERE p.pubname = ANY ($2) AND r.prrelid = ANY (a.oids)),
       (SELECT pg_catalog.string_agg(n.oid || ':' || n.xmin, ',' ORDER BY n.oid)
          FROM pg_catalog.pg_publication_namespace AS n JOIN pg_catalog.pg_publication AS p ON p.oid = n.pnpubid
         WHERE p.pubname = ANY ($2)
           AND n.pnnspid IN (SELECT c.relnamespace FROM pg_catalog.pg_class AS c WHERE c.oid = ANY (a.oids))),
       (SELECT pg_catalog.string_agg(d.refobjid || ':' || d.xmin, ',' ORDER BY d.objid, d.refobjid)
          FROM pg_catalog.pg_depend AS d
         WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = ANY (a.oids) AND d.objsubid = 0
           AND d.refclassid = 'pg_catalog.pg_namespace'::pg_catalog.regclass))
  FROM pg_catalog.unnest($1::oid[]) AS l (oid),
       LATERAL (SELECT pg_catalog.array_append(pg_catalog.array_agg(t.relid::oid), l.oid) AS oids
                  FROM pg_catalog.pg_partition_ancestors(l.oid) AS t) AS a";

const GONE: &str = "\
SELECT o.oid FROM pg_catalog.unnest($1::oid[]) AS o (oid)
 WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_class AS c WHERE c.oid = o.oid)";

/// The source as one snapshot shows it.
pub(super) struct Catalog {
    pub(super) snapshot: Snapshot,
    pub(super) tables: Vec<Arc<CopiedTable>>,
}

/// Reads the catalogs under the snapshot `name`, which shows what commits before `lsn`.
pub(super) async fn read(
    reader: &Reader,
    source: &Source,
    name: &str,
    lsn: Lsn,
) -> Result<Catalog> {
    let client = reader.client();
    reader.begin(name).await?;
    let server = |error| failed("reading the catalogs", error);
    let row = client.query_one(XMIN, &[]).await.map_err(server)?;
    let (xmin, encoding): (i64, String) = (row.get(0), row.get(1));
    if encoding == "SQL_ASCII"
        && (source.encoding.is_some() || source.invalid_text == InvalidText::Replace)
    {
        return Err(Error::new(
            Kind::Setup,
            "the rows of an SQL_ASCII database with source.encoding or invalid_text = \"replace\" cannot be \
             copied: their texts would arrive as they are",
        )
        .hint("load the targets by hand from the slot's snapshot (docs/operations.md), and set copy.data = false"));
    }
    let shown = preflight::shown(client, &source.publications).await?;
    let mut leaves = leaves(client, &shown, &source.publications).await?;
    reader.end().await?;
    let table = |shown: Shown| {
        let leaves = shown.leaves.iter().filter_map(|oid| leaves.remove(oid));
        let leaves: Vec<(Leaf, bool)> = leaves.map(|found| found.of(&shown)).collect();
        let whole = !leaves.is_empty() && leaves.iter().all(|(_, whole)| *whole);
        let leaves = leaves.into_iter().map(|(leaf, _)| leaf).collect();
        let Shown { relation, filter, changes, .. } = shown;
        Arc::new(CopiedTable { relation: Arc::new(relation), leaves, filter, whole, changes })
    };
    Ok(Catalog {
        snapshot: Snapshot { lsn, xmin: xmin.cast_unsigned() },
        tables: shown.into_iter().map(table).collect(),
    })
}

/// Those of these tables that the source does not have any more.
pub(super) async fn gone(reader: &Reader, oids: Vec<u32>) -> Result<Vec<u32>> {
    if oids.is_empty() {
        return Ok(oids);
    }
    let rows = reader.client().query(GONE, &[&oids]).await;
    let rows = rows.map_err(|error| failed("reading the catalogs", error))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// A leaf with all of its columns, and its ties.
struct Found {
    leaf: Leaf,
    ties: String,
}

impl Found {
    /// As a leaf of this table, with the columns that are shown of it; and whether these are all.
    fn of(self, shown: &Shown) -> (Leaf, bool) {
        let Found { mut leaf, ties } = self;
        let all = leaf.attributes.len();
        let column = |name: &str| shown.relation.columns.iter().find(|column| column.name == name);
        leaf.attributes.retain_mut(|attribute| {
            let column = column(&attribute.name);
            attribute.type_oid = column.map_or(0, |column| column.base_oid);
            column.is_some()
        });
        leaf.shape = shape(shown, &leaf.attributes, &ties);
        let whole = leaf.attributes.len() == all;
        (leaf, whole)
    }
}

async fn leaves(
    client: &Client,
    shown: &[Shown],
    publications: &[String],
) -> Result<HashMap<u32, Found>> {
    let oids: Vec<u32> = shown.iter().flat_map(|table| table.leaves.iter().copied()).collect();
    let server = |error| failed("reading the catalogs", error);
    let rows = client.query(LEAVES, &[&oids]).await.map_err(server)?;
    let mut found = HashMap::new();
    let mut refused = Vec::new();
    for row in rows {
        let (then, now): (u32, Option<u32>) = (row.get(3), row.get(4));
        let (schema, name): (String, String) = (row.get(1), row.get(2));
        if now != Some(then) {
            let what = format!("{schema}.{name} was truncated, rewritten or dropped meanwhile");
            return Err(Error::new(Kind::Server, what));
        }
        if !row.get::<_, bool>(7) {
            refused.push(format!("{}.{}", identifier(&schema), identifier(&name)));
        }
        let pages = u32::try_from(row.get::<_, i64>(5)).unwrap_or(u32::MAX);
        let bytes = row.get::<_, i64>(6).cast_unsigned();
        let (oid, attributes, shape) = (row.get(0), Vec::new(), String::new());
        let leaf = Leaf { oid, schema, name, filenode: then, pages, bytes, attributes, shape };
        found.insert(oid, Found { leaf, ties: String::new() });
    }
    if refused.is_empty() {
        for row in client.query(ATTRIBUTES, &[&oids]).await.map_err(server)? {
            let (name, number, type_oid) = (row.get(1), row.get(2), 0);
            if let Some(of) = found.get_mut(&row.get(0)) {
                of.leaf.attributes.push(Attribute { name, number, type_oid });
            }
        }
        for row in client.query(TIES, &[&oids, &publications]).await.map_err(server)? {
            if let Some(of) = found.get_mut(&row.get(0)) {
                of.ties = row.get(1);
            }
        }
        return Ok(found);
    }
    let more = if refused.len() > NAMED_MAX { ", …" } else { "" };
    let named = refused.get(..NAMED_MAX).unwrap_or(&refused).join(", ");
    Err(Error::new(
        Kind::Setup,
        format!("the sidecar's role may not read {named}{more} on the source"),
    )
    .hint(format!("GRANT SELECT ON {} TO …; or set copy.data = false", refused.join(", "))))
}

/// Another one for other columns, types, keys or rows.
fn shape(shown: &Shown, attributes: &[Attribute], ties: &str) -> String {
    // with the name, as the target's table is found by it
    let (schema, name) = (&shown.relation.schema, &shown.relation.name);
    let mut text = format!("{schema:?} {name:?} {:?} {attributes:?} {ties}", shown.filter);
    for column in &shown.relation.columns {
        let _ = write!(
            text,
            "|{:?} {} {} {} {} {}",
            column.name,
            column.number,
            column.type_oid,
            column.typmod,
            column.key,
            column.generated
        );
    }
    let hash = digest::digest(&digest::SHA256, text.as_bytes());
    hash.as_ref().iter().take(16).fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}
