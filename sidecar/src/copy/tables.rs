//! What is to be copied: the published tables as they are in the snapshot, and where their rows are.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;

use ring::digest;
use rsrepl_wire::Lsn;
use tokio_postgres::Client;

use super::reader::{Reader, failed};
use super::{CopiedTable, Leaf, Snapshot};
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
       pg_catalog.has_table_privilege(c.oid, 'SELECT')
  FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
 WHERE c.oid = ANY ($1)";

const XMIN: &str = "\
SELECT pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot())::text::bigint,
       pg_catalog.getdatabaseencoding()::text, pg_catalog.current_setting('block_size')::bigint";

/// The source as one snapshot shows it.
pub(super) struct Catalog {
    pub(super) snapshot: Snapshot,
    pub(super) tables: Vec<Arc<CopiedTable>>,
    /// Bytes of a page.
    pub(super) block: u64,
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
    let (xmin, encoding, block): (i64, String, i64) = (row.get(0), row.get(1), row.get(2));
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
    let mut leaves = leaves(client, &shown).await?;
    reader.end().await?;
    let table = |shown: Shown| {
        let shape = shape(&shown);
        let Shown { relation, leaves: oids, filter } = shown;
        let leaves = oids.iter().filter_map(|oid| leaves.remove(oid)).collect();
        Arc::new(CopiedTable { relation: Arc::new(relation), shape, leaves, filter })
    };
    Ok(Catalog {
        snapshot: Snapshot { lsn, xmin: xmin.cast_unsigned() },
        tables: shown.into_iter().map(table).collect(),
        block: u64::try_from(block).unwrap_or(8192),
    })
}

async fn leaves(client: &Client, shown: &[Shown]) -> Result<HashMap<u32, Leaf>> {
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
        if !row.get::<_, bool>(6) {
            refused.push(format!("{}.{}", identifier(&schema), identifier(&name)));
        }
        let pages = u32::try_from(row.get::<_, i64>(5)).unwrap_or(u32::MAX);
        let oid = row.get(0);
        found.insert(oid, Leaf { oid, schema, name, filenode: then, pages });
    }
    if refused.is_empty() {
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
fn shape(shown: &Shown) -> String {
    let mut text = format!("{:?}", shown.filter);
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
