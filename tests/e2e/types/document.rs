//! The table of `docs/type-mapping.md`, which says what each type becomes.

use std::collections::BTreeMap;

const DOCUMENT: &str = include_str!("../../../docs/type-mapping.md");

/// What the values of a type become, and what its arrays become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    pub value: String,
    /// Without `Array(Nullable(…))`: the elements' type; `String` in quotes of its own when the whole array
    /// is one String.
    pub array: Array,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Array {
    Of(String),
    OneString,
}

/// By what is in backquotes in the first column.
pub struct Document(BTreeMap<String, Said>);

impl Document {
    pub fn read() -> Document {
        let mut said = BTreeMap::new();
        let rows =
            DOCUMENT.lines().skip_while(|line| !line.starts_with("| PostgreSQL | ClickHouse |"));
        for line in rows.skip(2).take_while(|line| line.starts_with('|')) {
            let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
            let [types, value, array, _] = cells[..] else { panic!("{line}") };
            let value = code(value).next().unwrap_or_else(|| panic!("no type in {line}"));
            let array = match array {
                "the same" => Array::Of(value.to_owned()),
                "one `String`" => Array::OneString,
                _ => Array::Of(code(array).next().unwrap_or_else(|| panic!("{line}")).to_owned()),
            };
            for name in code(types) {
                let twice = said.insert(
                    name.to_owned(),
                    Said { value: value.to_owned(), array: array.clone() },
                );
                assert!(twice.is_none(), "docs/type-mapping.md has {name} twice");
            }
        }
        Document(said)
    }

    /// What is said of a type of the server; panics when nothing is.
    pub fn of(&self, name: &str, kind: char) -> Said {
        let listed = match kind {
            'c' => "a composite type",
            'e' => "an enum",
            _ => short(name),
        };
        let said = self.0.get(listed);
        said.unwrap_or_else(|| panic!("docs/type-mapping.md says nothing of {listed}")).clone()
    }
}

/// What is in backquotes.
fn code(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

/// The names that the document has for those of `format_type`.
pub fn short(name: &str) -> &str {
    let plain = name.trim_matches('"');
    match plain {
        "char" if plain != name => "\"char\"",
        "bpchar" => "char(n)",
        "character varying" => "varchar",
        "timestamp without time zone" => "timestamp",
        "timestamp with time zone" => "timestamptz",
        "time without time zone" => "time",
        "time with time zone" => "timetz",
        "bit varying" => "varbit",
        _ => plain,
    }
}
