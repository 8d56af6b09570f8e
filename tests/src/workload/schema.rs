//! The tables: every type, every replica identity.

use std::fmt::Write;

/// The types of the columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    Bool,
    Int2,
    Int4,
    Int8,
    Float4,
    Float8,
    Numeric,
    /// Precision and scale.
    Decimal(u32, u32),
    Text,
    /// Text that is mostly too long for its row: stored out of line, or compressed.
    LongText,
    Varchar,
    Char,
    Name,
    Bytea,
    Date,
    Time,
    TimeTz,
    Timestamp,
    TimestampTz,
    Interval,
    Uuid,
    Json,
    Jsonb,
    Mood,
    Inet,
    Cidr,
    MacAddr,
    Bit,
    VarBit,
    Point,
    Range,
    Pair,
    Domain,
    Array(&'static Type),
}

impl Type {
    /// As in CREATE TABLE.
    pub fn sql(self) -> String {
        match self {
            Type::Decimal(precision, scale) => format!("numeric({precision},{scale})"),
            Type::Array(element) => format!("{}[]", element.sql()),
            other => other.simple_name().to_owned(),
        }
    }

    fn simple_name(self) -> &'static str {
        match self {
            Type::Bool => "boolean",
            Type::Int2 => "smallint",
            Type::Int4 => "integer",
            Type::Int8 => "bigint",
            Type::Float4 => "real",
            Type::Float8 => "double precision",
            Type::Numeric | Type::Decimal(..) | Type::Array(_) => "numeric",
            Type::Text | Type::LongText => "text",
            Type::Varchar => "varchar(40)",
            Type::Char => "char(10)",
            Type::Name => "name",
            Type::Bytea => "bytea",
            Type::Date => "date",
            Type::Time => "time",
            Type::TimeTz => "timetz",
            Type::Timestamp => "timestamp",
            Type::TimestampTz => "timestamptz",
            Type::Interval => "interval",
            Type::Uuid => "uuid",
            Type::Json => "json",
            Type::Jsonb => "jsonb",
            Type::Mood => "mood",
            Type::Inet => "inet",
            Type::Cidr => "cidr",
            Type::MacAddr => "macaddr",
            Type::Bit => "bit(12)",
            Type::VarBit => "varbit(40)",
            Type::Point => "point",
            Type::Range => "int4range",
            Type::Pair => "pair",
            Type::Domain => "positive",
        }
    }
}

/// How a table's rows are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// The first column, an integer or made of one, is the primary key.
    Primary,
    /// The first two columns are the primary key.
    Composite,
    /// The first column has a unique index that is the replica identity, and there is no other key.
    Index,
    /// A primary key, and REPLICA IDENTITY FULL.
    PrimaryFull,
    /// No key, REPLICA IDENTITY FULL, duplicate rows.
    None,
    /// REPLICA IDENTITY NOTHING: rows come, and go with a TRUNCATE only.
    Nothing,
}

impl Key {
    /// No two rows have the same one.
    pub fn is_unique(self) -> bool {
        !matches!(self, Key::None | Key::Nothing)
    }
}

/// A table of the workload.
pub struct Table {
    /// Its name in schema public.
    pub name: &'static str,
    /// How its rows are found.
    pub key: Key,
    /// Rows are numbered from 0 to here.
    pub rows: u64,
    /// Key columns first.
    pub columns: &'static [(&'static str, Type)],
}

const fn table(
    name: &'static str,
    key: Key,
    rows: u64,
    columns: &'static [(&'static str, Type)],
) -> Table {
    Table { name, key, rows, columns }
}

use Type::*;

/// The tables that random transactions change.
pub const TABLES: &[Table] = &[
    table(
        "numbers",
        Key::Primary,
        300,
        &[
            ("id", Int8),
            ("b", Bool),
            ("i2", Int2),
            ("i4", Int4),
            ("i8", Int8),
            ("f4", Float4),
            ("f8", Float8),
        ],
    ),
    table(
        "numerics",
        Key::Primary,
        300,
        &[
            ("id", Int4),
            ("n", Numeric),
            ("money", Decimal(12, 2)),
            ("wide", Decimal(60, 20)),
            ("whole", Decimal(30, 0)),
        ],
    ),
    table(
        "texts",
        Key::Primary,
        300,
        &[("id", Int4), ("t", Text), ("v", Varchar), ("c", Char), ("n", Name), ("bin", Bytea)],
    ),
    table(
        "times",
        Key::Primary,
        300,
        &[
            ("id", Int4),
            ("d", Date),
            ("t", Time),
            ("tz", TimeTz),
            ("ts", Timestamp),
            ("tstz", TimestampTz),
            ("iv", Interval),
        ],
    ),
    table(
        "others",
        Key::Primary,
        300,
        &[
            ("id", Uuid),
            ("j", Json),
            ("jb", Jsonb),
            ("m", Mood),
            ("ip", Inet),
            ("net", Cidr),
            ("mac", MacAddr),
            ("bits", Bit),
            ("vb", VarBit),
            ("p", Point),
            ("r", Range),
            ("pr", Pair),
            ("pos", Domain),
        ],
    ),
    table(
        "arrays",
        Key::Primary,
        200,
        &[
            ("id", Int4),
            ("ab", Array(&Bool)),
            ("ai2", Array(&Int2)),
            ("ai4", Array(&Int4)),
            ("ai8", Array(&Int8)),
            ("af4", Array(&Float4)),
            ("af8", Array(&Float8)),
            ("an", Array(&Numeric)),
            ("am", Array(&Decimal(12, 2))),
            ("at", Array(&Text)),
            ("av", Array(&Varchar)),
            ("ac", Array(&Char)),
            ("abin", Array(&Bytea)),
        ],
    ),
    table(
        "more_arrays",
        Key::Primary,
        200,
        &[
            ("id", Int4),
            ("ad", Array(&Date)),
            ("att", Array(&Time)),
            ("atz", Array(&TimeTz)),
            ("ats", Array(&Timestamp)),
            ("atstz", Array(&TimestampTz)),
            ("aiv", Array(&Interval)),
            ("au", Array(&Uuid)),
            ("aj", Array(&Json)),
            ("ajb", Array(&Jsonb)),
            ("amo", Array(&Mood)),
            ("aip", Array(&Inet)),
            ("amac", Array(&MacAddr)),
            ("abit", Array(&Bit)),
        ],
    ),
    table("pairs", Key::Composite, 400, &[("a", Int4), ("b", Varchar), ("v", Text), ("n", Int8)]),
    table(
        "longs",
        Key::Primary,
        80,
        &[("id", Int4), ("one", LongText), ("two", LongText), ("n", Int4), ("bin", Bytea)],
    ),
    table(
        "indexed",
        Key::Index,
        200,
        &[("code", Varchar), ("v", Text), ("n", Int4), ("long", LongText)],
    ),
    table(
        "full_keyed",
        Key::PrimaryFull,
        120,
        &[("id", Int4), ("long", LongText), ("n", Numeric), ("f", Float8), ("at", Array(&Text))],
    ),
    table(
        "keyless",
        Key::None,
        60,
        &[("a", Int4), ("b", Text), ("f", Float8), ("n", Numeric), ("ts", Timestamp)],
    ),
    // keys whose equal values need not look the same, and those that are made of others
    table("by_numeric", Key::Primary, 60, &[("k", Numeric), ("v", Text), ("long", LongText)]),
    table("by_array", Key::Primary, 60, &[("k", Array(&Int4)), ("v", Text), ("n", Numeric)]),
    table("by_range", Key::Primary, 60, &[("k", Range), ("v", Text), ("n", Int8)]),
    table("by_pair", Key::Primary, 60, &[("k", Pair), ("v", Text), ("long", LongText)]),
    table("by_label", Key::Composite, 60, &[("m", Mood), ("p", Domain), ("v", Text), ("n", Int8)]),
    table("by_char", Key::Index, 60, &[("k", Char), ("v", Text), ("iv", Interval)]),
    table("nothing", Key::Nothing, 60, &[("a", Int4), ("v", Text), ("n", Numeric)]),
    table("parted", Key::Primary, 200, &[("id", Int4), ("v", Text), ("at", TimestampTz)]),
];

/// Everything that CREATE TABLE and its kin make, on source and standby alike.
pub fn statements() -> String {
    let mut sql = String::from(
        "CREATE TYPE mood AS ENUM ('sad', 'ok', 'it''s \"odd\" \\ really');
         CREATE TYPE pair AS (x integer, y text);
         CREATE DOMAIN positive AS integer CHECK (VALUE > 0);
         CREATE TABLE swaps (id int PRIMARY KEY, place int UNIQUE DEFERRABLE);
         CREATE TABLE strict_swaps (id int PRIMARY KEY, place int UNIQUE);
         CREATE TABLE bulk (id bigint PRIMARY KEY, v text, n int);
         CREATE TABLE parents (id int PRIMARY KEY, v text);
         CREATE TABLE children (
             id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text, at int GENERATED BY DEFAULT AS IDENTITY,
             parent int REFERENCES parents ON UPDATE CASCADE ON DELETE CASCADE);
         CREATE TABLE grandchildren (child bigint REFERENCES children ON DELETE SET NULL, v text);
         ALTER TABLE grandchildren REPLICA IDENTITY FULL;\n",
    );
    for table in TABLES {
        let columns: Vec<String> =
            table.columns.iter().map(|(name, type_)| format!("{name} {}", type_.sql())).collect();
        let first = table.columns[0].0;
        let (columns, name) = (columns.join(", "), table.name);
        let _ = match table.key {
            Key::Primary if name == "parted" => writeln!(
                sql,
                "CREATE TABLE {name} ({columns}, PRIMARY KEY ({first})) PARTITION BY HASH ({first});
                 CREATE TABLE parted_0 PARTITION OF {name} FOR VALUES WITH (MODULUS 2, REMAINDER 0);
                 CREATE TABLE parted_1 PARTITION OF {name} FOR VALUES WITH (MODULUS 2, REMAINDER 1);"
            ),
            Key::Primary => writeln!(sql, "CREATE TABLE {name} ({columns}, PRIMARY KEY ({first}));"),
            Key::Composite => writeln!(
                sql,
                "CREATE TABLE {name} ({columns}, PRIMARY KEY ({first}, {}));",
                table.columns[1].0
            ),
            Key::Index => writeln!(
                sql,
                "CREATE TABLE {name} ({columns}); ALTER TABLE {name} ALTER {first} SET NOT NULL;
                 CREATE UNIQUE INDEX {name}_{first} ON {name} ({first});
                 ALTER TABLE {name} REPLICA IDENTITY USING INDEX {name}_{first};"
            ),
            Key::PrimaryFull => writeln!(
                sql,
                "CREATE TABLE {name} ({columns}, PRIMARY KEY ({first})); ALTER TABLE {name} REPLICA IDENTITY FULL;"
            ),
            Key::None => writeln!(
                sql,
                "CREATE TABLE {name} ({columns}); ALTER TABLE {name} REPLICA IDENTITY FULL;"
            ),
            Key::Nothing => writeln!(
                sql,
                "CREATE TABLE {name} ({columns}); ALTER TABLE {name} REPLICA IDENTITY NOTHING;"
            ),
        };
    }
    // Generated and identity columns; a column that is gone, with one after it.
    sql.push_str(
        "ALTER TABLE indexed ADD COLUMN number bigint GENERATED ALWAYS AS IDENTITY;
         ALTER TABLE numerics ADD COLUMN twice numeric GENERATED ALWAYS AS (money * 2) STORED;
         ALTER TABLE texts ADD COLUMN computed text GENERATED ALWAYS AS (upper(v)) STORED;
         ALTER TABLE pairs ADD COLUMN gone int; ALTER TABLE pairs DROP COLUMN gone;
         ALTER TABLE pairs ADD COLUMN late int DEFAULT 7;\n",
    );
    // One column that is never compressed, so that it is always out of line.
    sql.push_str("ALTER TABLE longs ALTER two SET STORAGE EXTERNAL;\n");
    sql
}

/// Rows that the workload expects to be there.
pub const FIRST_ROWS: &str = "INSERT INTO swaps SELECT i, i FROM generate_series(0, 99) i;
    INSERT INTO strict_swaps SELECT i, i FROM generate_series(0, 99) i;";
