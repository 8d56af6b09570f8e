//! The source's tables as the stream will describe them, read from the catalogs, so that a target can
//! say beforehand what will not fit.

use std::collections::HashMap;

use rsrepl_wire::{
    Column, Element, ElementEncoding, Encoding, Relation, ReplicaIdentity, TypeKind, text,
};
use tokio_postgres::Client;

use super::Finding;
use super::published::Published;
use super::source::failed;
use crate::error::Result;
use crate::quote::identifier;

/// Domains over domains: more than anybody nests.
const DOMAIN_DEPTH_MAX: usize = 64;

/// Reads the tables, and tells of those whose rows cannot be identified.
pub(super) async fn describe(
    client: &Client,
    published: &[Published],
    findings: &mut Vec<Finding>,
) -> Result<Vec<Relation>> {
    let oids: Vec<u32> = published.iter().map(|table| table.oid).collect();
    let types = Types::read(client, &oids).await?;
    let mut columns = read_columns(client, &oids, &types).await?;
    let sql = "SELECT c.oid, n.nspname::text, c.relname::text, c.relreplident::text
               FROM pg_catalog.pg_class AS c
               JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
               WHERE c.oid = ANY ($1) ORDER BY 2, 3";
    let rows = client.query(sql, &[&oids]).await.map_err(failed)?;
    let published: HashMap<u32, &Published> = published.iter().map(|t| (t.oid, t)).collect();
    let mut relations = Vec::with_capacity(rows.len());
    for row in rows {
        let identity: String = row.get(3);
        let oid: u32 = row.get(0);
        let mut columns = columns.remove(&oid).unwrap_or_default();
        let table = published.get(&oid);
        if let Some(list) = table.and_then(|table| table.columns()) {
            columns.retain(|column| {
                list.iter().any(|number| i32::from(*number) == i32::from(column.number))
            });
        }
        let relation = Relation {
            oid,
            schema: row.get(1),
            name: row.get(2),
            replica_identity: identity
                .bytes()
                .next()
                .and_then(ReplicaIdentity::from_byte)
                .unwrap_or(ReplicaIdentity::Default),
            columns,
        };
        findings.extend(check_own(&relation));
        if table.is_some_and(|table| table.operations.identify()) {
            findings.extend(check_identity(&relation));
        }
        relations.push(relation);
    }
    Ok(relations)
}

/// A target's positions are its own business: replicated further, they would overwrite those of the next
/// target.
fn check_own(relation: &Relation) -> Option<Finding> {
    (relation.schema == "rsrepl").then(|| {
        Finding::error(
            format!(
                "{}.{} of this database, which is a target itself, would be replicated too",
                relation.schema, relation.name
            ),
            "CREATE PUBLICATION … FOR TABLES IN SCHEMA … (without rsrepl), and name it in \
             source.publication",
        )
    })
}

fn check_identity(relation: &Relation) -> Option<Finding> {
    let usable = match relation.replica_identity {
        ReplicaIdentity::Full => true,
        ReplicaIdentity::Nothing => false,
        ReplicaIdentity::Default | ReplicaIdentity::Index => {
            relation.columns.iter().any(|column| column.key)
        }
    };
    (!usable).then(|| {
        let table = format!("{}.{}", identifier(&relation.schema), identifier(&relation.name));
        Finding::warning(
            format!(
                "table {}.{} has no usable replica identity: its INSERTs are replicated, an UPDATE or \
                 DELETE will be refused",
                relation.schema, relation.name
            ),
            format!(
                "ALTER TABLE {table} ADD PRIMARY KEY (…), or ALTER TABLE {table} REPLICA IDENTITY FULL"
            ),
        )
    })
}

async fn read_columns(
    client: &Client,
    oids: &[u32],
    types: &Types,
) -> Result<HashMap<u32, Vec<Column>>> {
    let sql = "SELECT a.attrelid, a.attname::text, a.attnotnull, a.attgenerated <> '',
                 a.atttypid, a.atttypmod,
                 EXISTS (SELECT FROM pg_catalog.pg_index AS i
                   WHERE i.indrelid = c.oid AND i.indisvalid AND i.indimmediate
                     AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])
                     AND CASE c.relreplident WHEN 'i' THEN i.indisreplident WHEN 'n' THEN false
                         ELSE i.indisprimary END), a.attnum
               FROM pg_catalog.pg_attribute AS a
               JOIN pg_catalog.pg_class AS c ON c.oid = a.attrelid
               WHERE a.attrelid = ANY ($1) AND a.attnum > 0 AND NOT a.attisdropped
                 AND a.attgenerated <> 'v'
               ORDER BY a.attrelid, a.attnum";
    let rows = client.query(sql, &[&oids]).await.map_err(failed)?;
    let mut columns: HashMap<u32, Vec<Column>> = HashMap::new();
    for row in rows {
        let column = types.column(
            Column {
                name: row.get(1),
                number: row.get::<_, i16>(7).unsigned_abs(),
                key: row.get(6),
                not_null: row.get(2),
                generated: row.get(3),
                ..blank()
            },
            row.get(4),
            row.get(5),
        );
        columns.entry(row.get(0)).or_default().push(column);
    }
    Ok(columns)
}

fn blank() -> Column {
    Column {
        name: String::new(),
        number: 0,
        key: false,
        not_null: false,
        generated: false,
        type_oid: 0,
        base_oid: 0,
        typmod: -1,
        kind: TypeKind::Base,
        element_oid: 0,
        element_kind: TypeKind::Base,
        type_schema: String::new(),
        type_name: String::new(),
        encoding: Encoding::Text,
    }
}

/// A row of `pg_type`.
struct Type {
    schema: String,
    name: String,
    kind: TypeKind,
    /// Under a domain: the next type and its modifier.
    base: Option<(u32, i32)>,
    element: u32,
    varlena: bool,
    width: i16,
    /// What a value is aligned to, in bytes.
    align: u8,
    /// Name of the send function, if there is one.
    send: Option<String>,
}

/// All types that the columns have, and those below them.
struct Types {
    all: HashMap<u32, Type>,
    /// The database is UTF-8.
    utf8: bool,
}

impl Types {
    async fn read(client: &Client, tables: &[u32]) -> Result<Self> {
        let sql = "WITH RECURSIVE used (oid) AS (
                     SELECT DISTINCT atttypid FROM pg_catalog.pg_attribute
                     WHERE attrelid = ANY ($1) AND attnum > 0 AND NOT attisdropped
                     UNION
                     SELECT below.oid FROM used JOIN pg_catalog.pg_type AS t ON t.oid = used.oid,
                       LATERAL (VALUES (t.typbasetype), (t.typelem)) AS below (oid)
                     WHERE below.oid <> 0)
                   SELECT t.oid, n.nspname::text, t.typname::text, t.typtype::text, t.typbasetype,
                     t.typtypmod,
                     -- a true array: get_element_type()
                     CASE WHEN t.typlen = -1 AND EXISTS (SELECT FROM pg_catalog.pg_type AS e
                       WHERE e.oid = t.typelem AND e.typarray = t.oid) THEN t.typelem ELSE 0 END,
                     t.typlen,
                     -- an internal function has any name: citext's are those of text
                     CASE l.lanname WHEN 'internal' THEN f.prosrc ELSE f.proname END::text,
                     CASE t.typalign WHEN 'd' THEN 8 WHEN 'i' THEN 4 WHEN 's' THEN 2 ELSE 1 END::int2
                   FROM used JOIN pg_catalog.pg_type AS t ON t.oid = used.oid
                   JOIN pg_catalog.pg_namespace AS n ON n.oid = t.typnamespace
                   LEFT JOIN pg_catalog.pg_proc AS f ON f.oid = t.typsend
                   LEFT JOIN pg_catalog.pg_language AS l ON l.oid = f.prolang";
        let rows = client.query(sql, &[&tables]).await.map_err(failed)?;
        let read = |row: &tokio_postgres::Row| {
            let (typtype, below, element): (String, u32, u32) =
                (row.get(3), row.get(4), row.get(6));
            let (width, align): (i16, i16) = (row.get(7), row.get(9));
            let kind = match typtype.bytes().next().and_then(TypeKind::from_byte) {
                _ if element != 0 => TypeKind::Array,
                kind => kind.unwrap_or(TypeKind::Base),
            };
            let found = Type {
                schema: row.get(1),
                name: row.get(2),
                kind,
                base: (below != 0).then(|| (below, row.get(5))),
                element,
                varlena: width == -1,
                width,
                align: u8::try_from(align).unwrap_or(1),
                send: row.get(8),
            };
            (row.get(0), found)
        };
        let sql = "SELECT getdatabaseencoding() = 'UTF8'";
        let utf8 = client.query_one(sql, &[]).await.map_err(failed)?.get(0);
        Ok(Types { all: rows.iter().map(read).collect(), utf8 })
    }

    /// The type under all domains, and the last modifier on the way down.
    fn base(&self, oid: u32, typmod: i32) -> (u32, i32) {
        let (mut oid, mut typmod) = (oid, typmod);
        for _ in 0..DOMAIN_DEPTH_MAX {
            let Some((below, modifier)) = self.all.get(&oid).and_then(|found| found.base) else {
                break;
            };
            oid = below;
            typmod = if modifier == -1 { typmod } else { modifier };
        }
        (oid, typmod)
    }

    /// Completes a column as the plugin would.
    fn column(&self, column: Column, oid: u32, typmod: i32) -> Column {
        let (base_oid, typmod) = self.base(oid, typmod);
        let (Some(declared), Some(base)) = (self.all.get(&oid), self.all.get(&base_oid)) else {
            return Column { type_oid: oid, base_oid, typmod, ..column };
        };
        let element = (base.element != 0).then(|| self.base(base.element, -1));
        let element_typmod = element.map_or(-1, |(_, typmod)| typmod);
        let typmod = if typmod == -1 { element_typmod } else { typmod };
        let element = element.map(|(oid, _)| oid);
        let found = element.and_then(|oid| self.all.get(&oid).map(|found| (oid, found)));
        let element_kind = found.map(|(_, found)| found.kind);
        let encoding = match found {
            Some((oid, element)) => array_encoding(base, oid, element),
            None => encoding(base_oid, base),
        };
        let (oid_within, within) = found.unwrap_or((base_oid, base));
        let encoding = match self.utf8 {
            true => encoding,
            false => converted(encoding, oid_within, within),
        };
        Column {
            type_oid: oid,
            base_oid,
            typmod,
            kind: base.kind,
            element_oid: element.unwrap_or(0),
            element_kind: element_kind.unwrap_or(TypeKind::Base),
            type_schema: declared.schema.clone(),
            type_name: declared.name.clone(),
            encoding,
            ..column
        }
    }
}

/// How the plugin will write values that are no arrays; close enough to tell what will fit.
fn encoding(oid: u32, base: &Type) -> Encoding {
    /// Of the types in `FIXED` of the plugin.
    const FIXED: [u32; 22] = [
        16, 18, 21, 23, 20, 700, 701, 790, 1082, 1083, 1266, 1114, 1184, 1186, 2950, 829, 774,
        3220, 26, 28, 29, 5069,
    ];
    const NUMERIC: u32 = 1700;
    const JSONB: u32 = 3802;
    const NAME: u32 = 19;
    const XML: u32 = 142;
    let send = base.send.as_deref().unwrap_or_default();
    let payload = ["textsend", "varcharsend", "bpcharsend", "json_send", "byteasend"];
    match (oid, base.kind) {
        (NUMERIC, _) => Encoding::Numeric,
        (JSONB, _) => Encoding::Jsonb,
        (NAME, _) => Encoding::Varlena,
        (XML, _) => Encoding::Text,
        _ if FIXED.contains(&oid) => Encoding::Fixed(u8::try_from(base.width).unwrap_or(u8::MAX)),
        _ if base.varlena && payload.contains(&send) => Encoding::Varlena,
        _ if send.is_empty() || send.starts_with("reg") => Encoding::Text,
        _ => {
            sent(text::Type { oid, kind: base.kind, element_oid: 0, element_kind: TypeKind::Base })
        }
    }
}

/// What we could not make text of comes as text.
fn sent(ty: text::Type) -> Encoding {
    match text::is_supported_as(Encoding::Send, &ty) {
        true => Encoding::Send,
        false => Encoding::Text,
    }
}

/// The same in a database that is not UTF-8: arrays of texts as they are sent, what else may hold text as text.
/// `oid`: of the elements, or of the type itself.
fn converted(encoding: Encoding, oid: u32, of: &Type) -> Encoding {
    /// name, jsonb, jsonpath, tsvector, tsquery.
    const HOLD_TEXT: [u32; 5] = [19, 3802, 4072, 3614, 3615];
    const FIRST_NORMAL: u32 = 16_384;
    match encoding {
        Encoding::Array(Element { encoding: ElementEncoding::Varlena, .. })
            if of.send.as_deref() != Some("byteasend") =>
        {
            Encoding::Send
        }
        Encoding::Varlena => encoding,
        _ if HOLD_TEXT.contains(&oid) || of.kind == TypeKind::Enum => Encoding::Text,
        _ if oid >= FIRST_NORMAL && of.kind == TypeKind::Base => Encoding::Text,
        _ => encoding,
    }
}

/// The same for an array with elements of the type `oid`.
fn array_encoding(array: &Type, oid: u32, element: &Type) -> Encoding {
    let send = array.send.as_deref().unwrap_or_default();
    let align = element.align;
    let of_element = match element.kind {
        TypeKind::Array | TypeKind::Composite => None,
        // a name is of fixed width in an array
        _ if send != "array_send" || !element.varlena && element.width > 16 => None,
        _ => ElementEncoding::from_encoding(encoding(oid, element)),
    };
    match of_element {
        Some(encoding) => Encoding::Array(Element { encoding, align }),
        None => sent(text::Type {
            oid: 0,
            kind: TypeKind::Array,
            element_oid: oid,
            element_kind: element.kind,
        }),
    }
}
