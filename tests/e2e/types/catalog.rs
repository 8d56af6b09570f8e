//! The types of a database, asked of the server: none is left out by hand.

use postgres::Client;

/// A type that columns can have, and that is not just the array of another.
#[derive(Clone, Debug)]
pub struct Type {
    pub oid: u32,
    /// As in CREATE TABLE.
    pub name: String,
    /// Of the type under all domains.
    pub base: String,
    /// `typtype`.
    pub kind: char,
    /// `pg_type.oid` of the array of it; 0: there is none.
    pub array: u32,
    /// Its send function, if it has one of its own.
    pub send: Option<String>,
}

const TYPES: &str = "
WITH RECURSIVE base (declared, oid) AS (
  SELECT oid, oid FROM pg_type
  UNION ALL
  SELECT b.declared, t.typbasetype FROM base b JOIN pg_type t ON t.oid = b.oid WHERE typtype = 'd')
SELECT t.oid, format_type(t.oid, -1), format_type(u.oid, -1), t.typtype, t.typarray,
       CASE WHEN a.oid IN (u.oid, 'anyenum'::regtype, 'anyrange'::regtype, 'anymultirange'::regtype)
            THEN f.oid::regproc::text END
  FROM pg_type t
  LEFT JOIN pg_proc f ON f.oid = t.typsend
  LEFT JOIN pg_type a ON a.oid = f.proargtypes[0]
  JOIN base b ON b.declared = t.oid
  JOIN pg_type u ON u.oid = b.oid AND u.typtype <> 'd'
 WHERE NOT EXISTS (SELECT FROM pg_type e WHERE e.typarray = t.oid)
 ORDER BY t.oid";

/// Every type that is not just the array of another, pseudo-types too.
pub fn types(client: &mut Client) -> Vec<Type> {
    let rows = client.query(TYPES, &[]).expect("read pg_type");
    let read = |row: &postgres::Row| Type {
        oid: row.get(0),
        name: row.get(1),
        base: row.get(2),
        kind: char::from(row.get::<_, i8>(3) as u8),
        array: row.get(4),
        send: row.get(5),
    };
    rows.iter().map(read).collect()
}

/// A column of a composite type, or of its element when it is an array.
pub struct Attribute {
    pub oid: u32,
    pub name: String,
    pub is_array: bool,
    /// `typtype`.
    pub kind: char,
}

/// Whether a type is a pseudo-type, or has one in it.
pub fn is_pseudo(client: &mut Client, oid: u32, kind: char) -> bool {
    kind == 'p'
        || kind == 'c' && {
            let attributes = attributes(client, oid);
            attributes.into_iter().any(|attribute| is_pseudo(client, attribute.oid, attribute.kind))
        }
}

/// The columns of a composite type.
pub fn attributes(client: &mut Client, composite: u32) -> Vec<Attribute> {
    let query = "
SELECT coalesce(e.oid, t.oid), format_type(coalesce(e.oid, t.oid), -1), e.oid IS NOT NULL,
       coalesce(e.typtype, t.typtype)
  FROM pg_type c JOIN pg_attribute a ON a.attrelid = c.typrelid AND attnum > 0 AND NOT attisdropped
  JOIN pg_type t ON t.oid = a.atttypid
  LEFT JOIN pg_type e ON e.typarray = t.oid
 WHERE c.oid = $1 ORDER BY attnum";
    let rows = client.query(query, &[&composite]).expect("read pg_attribute");
    let read = |row: &postgres::Row| Attribute {
        oid: row.get(0),
        name: row.get(1),
        is_array: row.get(2),
        kind: char::from(row.get::<_, i8>(3) as u8),
    };
    rows.iter().map(read).collect()
}
