//! Edge values of the types of a fresh database, as literals: from `wire/tests/data/text-forms.tsv`, and
//! below for the types that are not in it.

use std::collections::BTreeMap;

/// Values of types that the file lacks, by name; of domains, which check their values, too.
const MORE: &[(&str, &[&str])] = &[
    ("int2vector", &["", "1", "1 -32768 32767"]),
    ("oidvector", &["", "0", "1 4294967295"]),
    ("regproc", &["-", "now", "pg_catalog.int4in"]),
    ("regprocedure", &["-", "pg_catalog.int4in(cstring)", "abs(integer)"]),
    ("regoper", &["0", "pg_catalog.||/"]),
    ("regoperator", &["0", "+(integer,integer)", "!!(NONE,tsquery)"]),
    ("regclass", &["-", "pg_class", "information_schema.tables", "rig_marker"]),
    ("regtype", &["-", "integer", "timestamp with time zone", "text[]"]),
    ("regconfig", &["-", "english", "simple"]),
    ("regdictionary", &["-", "simple", "english_stem"]),
    ("regnamespace", &["-", "pg_catalog", "public"]),
    ("regrole", &["-", "postgres", "pg_monitor"]),
    ("regcollation", &["-", "\"C\"", "\"default\""]),
    ("aclitem", &["postgres=r/postgres", "=arwdDxt/postgres", "pg_monitor=U*C*/postgres"]),
    ("refcursor", &["", "a cursor", "<unnamed portal 1>"]),
    ("txid_snapshot", &["1:1:", "10:20:10,14,15", "1:9223372036854775807:3"]),
    ("pg_snapshot", &["1:1:", "10:20:10,14,15", "1:9223372036854775807:3"]),
    ("tsquery", &["", "'a'", "'a' & !'b' | 'it''s':*AB", "'fat' <3> ( 'rat' | 'cat' )"]),
    ("information_schema.cardinal_number", &["0", "2147483647"]),
    ("information_schema.character_data", &["", "some text \\ 'é'"]),
    ("information_schema.sql_identifier", &["", "a name"]),
    ("information_schema.time_stamp", &["2026-11-21 12:34:56.78+00", "1900-01-01 00:00:00+00"]),
    ("information_schema.yes_or_no", &["YES", "NO"]),
];

/// Types whose input functions take nothing: only the server itself makes their values, so that no target
/// can be given one. A test holds this against the server.
const WITHOUT_INPUT: &[&str] = &[
    "pg_node_tree",
    "pg_ndistinct",
    "pg_dependencies",
    "pg_mcv_list",
    "pg_brin_bloom_summary",
    "pg_brin_minmax_multi_summary",
    "gtsvector",
];

/// Types with modifiers, which are not in `pg_type`: name and values.
pub const MODIFIED: &[(&str, &[&str])] = &[
    (
        "numeric(76,20)",
        &["NaN", "0", "-1.5", "12345678901234567890123456789012345678901234567890.1"],
    ),
    ("numeric(10,2)", &["NaN", "-99999999.99", "99999999.99", "0.10"]),
    ("numeric(3,-2)", &["NaN", "12300", "-99900"]),
    ("numeric(2,5)", &["0.00099", "-0.00001"]),
    ("numeric(1000,0)", &["NaN", "123456789012345678901234567890"]),
    ("character(5)", &["", "a b", "é"]),
    ("character varying(3)", &["", " ", "éü"]),
    ("bit(3)", &["101"]),
    ("bit varying(3)", &["", "10"]),
    ("timestamp(0) without time zone", &["infinity", "2026-11-21 12:00:00"]),
    ("timestamp(3) with time zone", &["-infinity", "0001-01-01 00:00:00.125+00"]),
    ("time(0) without time zone", &["24:00:00"]),
    ("interval day to second(2)", &["3 days 04:05:06.78"]),
];

/// What there is for a type.
pub enum Edges {
    Values(Vec<String>),
    /// There are only NULLs of it.
    WithoutInput,
}

/// Values by the oid of their type in the file.
pub struct Book(BTreeMap<u32, Vec<String>>);

impl Book {
    pub fn read() -> Book {
        let file = include_str!("../../../wire/tests/data/text-forms.tsv");
        let mut values = BTreeMap::<u32, Vec<String>>::new();
        for line in file.lines() {
            let fields: Vec<&str> = line.split('\t').collect();
            let [_, oid, _, _, _, _, _, text, _] = fields[..] else { panic!("{line}") };
            values.entry(oid.parse().expect("an oid")).or_default().push(unescape(text));
        }
        Book(values)
    }

    /// Panics when there is nothing for a type: somebody has to think of its edges.
    pub fn of(&self, oid: u32, name: &str) -> Edges {
        if WITHOUT_INPUT.contains(&name) {
            return Edges::WithoutInput;
        }
        let more = MORE.iter().find(|(known, _)| *known == name).map(|(_, values)| *values);
        let mut values = self.arrays(oid);
        values.extend(more.unwrap_or_default().iter().map(|value| (*value).to_owned()));
        assert!(
            !values.is_empty(),
            "there are no edge values of {name} in tests/e2e/types/edges.rs"
        );
        Edges::Values(values)
    }

    /// Those of an array type that are in the file.
    pub fn arrays(&self, oid: u32) -> Vec<String> {
        self.0.get(&oid).cloned().unwrap_or_default()
    }
}

/// The escapes of COPY that the file has.
fn unescape(field: &str) -> String {
    let mut text = String::new();
    let mut chars = field.chars();
    while let Some(char) = chars.next() {
        text.push(match (char, char == '\\') {
            (_, false) => char,
            (_, true) => match chars.next().expect("an escape") {
                't' => '\t',
                'n' => '\n',
                'r' => '\r',
                'v' => '\u{b}',
                'f' => '\u{c}',
                other => other,
            },
        });
    }
    text
}
