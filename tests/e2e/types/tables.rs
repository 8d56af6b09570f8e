//! A table for each type, with an array of it, and domains over both.

use postgres::Client;
use rsrepl_tests::compare::Column;
use rsrepl_tests::rig::{DATABASE, Rig};

use super::catalog::{self, Type};
use super::edges::{Book, Edges, MODIFIED};

/// Composite types of a table.
const COMPOSITES: usize = 30;

/// A table of the walk; its first column `id` is the key.
pub struct Table {
    pub name: String,
    pub columns: Vec<Walked>,
    /// A table of the same rows without a key, and `id` for its numbers.
    pub bare: bool,
}

/// A column of a type that is walked.
#[derive(Clone)]
pub struct Walked {
    /// With the type under all domains.
    pub column: Column,
    /// `typtype` of that.
    pub kind: char,
    /// Of arrays: what they are of.
    pub is_array: bool,
    /// Shows all bits of a value, where there is such a function and its result is the same everywhere.
    pub send: Option<String>,
}

impl Table {
    /// Statements that change rows of the table in every way, and leave one of each value.
    pub fn changes(&self) -> String {
        let name = &self.name;
        let keyless = format!(
            "UPDATE bare_{name} SET id = id + 100000 WHERE id % 2 = 0;
             DELETE FROM bare_{name} WHERE id % 3 = 0;"
        );
        format!(
            "UPDATE {name} SET id = id + 100000 WHERE id % 2 = 0;
             DELETE FROM {name} WHERE id >= {SECOND}; {}",
            if self.bare { keyless.as_str() } else { "" }
        )
    }

    /// The columns of the table without a key.
    pub fn bare_columns(&self) -> Vec<Walked> {
        let both = |walked: &&Walked| matches!(walked.column.name.as_str(), "v" | "a");
        self.columns.iter().filter(both).cloned().collect()
    }
}

/// Rows from this number on are there to be deleted.
const SECOND: u32 = 500_000;

/// Makes the tables on source and standby, and the statements that fill them on the source.
pub fn make(rig: &Rig, types: &[Type], book: &Book) -> (Vec<Table>, String) {
    let mut source = rig.source.client(DATABASE);
    let mut tables = Vec::new();
    let mut script = String::new();
    let mut rows = String::new();
    let lacks_xml = source.simple_query("SELECT '<a/>'::xml").is_err();
    for ty in types.iter().filter(|ty| !matches!(ty.kind, 'c' | 'p')) {
        match book.of(ty.oid, &ty.name) {
            Edges::Values(_) if ty.name == "xml" && lacks_xml => {
                eprintln!("SKIPPED: the server was built without XML; of xml there is only NULL");
                tables.push(without_input(ty, &mut script, &mut rows));
            }
            Edges::Values(values) => {
                let table = scalar(ty, &format!("w{}", ty.oid), &mut script);
                fill(&table, ty, &values, &book.arrays(ty.array), &mut rows);
                tables.push(table);
            }
            Edges::WithoutInput => {
                assert_takes_nothing(&mut source, ty);
                tables.push(without_input(ty, &mut script, &mut rows));
            }
        }
    }
    for (number, (name, values)) in MODIFIED.iter().enumerate() {
        let ty = Type { name: (*name).to_owned(), base: (*name).to_owned(), ..known(types, name) };
        let values: Vec<String> = values.iter().map(|value| (*value).to_owned()).collect();
        let table = scalar(&ty, &format!("m{number}"), &mut script);
        fill(&table, &ty, &values, &[], &mut rows);
        tables.push(table);
    }
    let composites = types.iter().filter(|ty| matches!(ty.kind, 'c' | 'p'));
    let (bad, good): (Vec<&Type>, Vec<&Type>) =
        composites.partition(|ty| catalog::is_pseudo(&mut source, ty.oid, ty.kind));
    for (number, group) in good.chunks(COMPOSITES).enumerate() {
        tables.push(composite(number, group, types, book, &mut source, &mut script, &mut rows));
    }
    for ty in bad {
        assert_no_column(&mut source, ty);
    }
    rig.standby.execute(DATABASE, &script);
    rig.execute(&script);
    let settings = "SET timezone = 'UTC'; SET datestyle = 'ISO, YMD'; SET lc_monetary = 'C'; \
                    SET xmloption = content";
    (tables, format!("{settings}; {rows}"))
}

/// The type that a name with a modifier is of.
fn known(types: &[Type], modified: &str) -> Type {
    let plain: String = match (modified.find('('), modified.find(')')) {
        (Some(from), Some(to)) => format!("{}{}", &modified[..from], &modified[to + 1..]),
        _ => modified.to_owned(),
    };
    let name = match plain.as_str() {
        "character" => "bpchar",
        "bit" => "\"bit\"",
        "interval day to second" => "interval",
        plain => plain,
    };
    let found = types.iter().find(|ty| ty.name == name);
    found.unwrap_or_else(|| panic!("no type {name}")).clone()
}

fn walked(name: &str, ty: &Type, is_array: bool) -> Walked {
    let type_name = if is_array { format!("{}[]", ty.base) } else { ty.base.clone() };
    let send = match is_array {
        // a domain's array says the domain's oid
        true => ty.send.as_ref().filter(|_| name != "b").map(|_| "array_send".to_owned()),
        false => ty.send.clone(),
    };
    Walked {
        column: Column { name: name.to_owned(), type_name, kind: ty.kind },
        kind: ty.kind,
        is_array,
        send,
    }
}

fn scalar(ty: &Type, table: &str, script: &mut String) -> Table {
    let name = &ty.name;
    let mut columns = vec![walked("v", ty, false), walked("d", ty, false)];
    let mut definitions = format!("v {name}, d {table}_d");
    *script += &format!("CREATE DOMAIN {table}_d AS {name};\n");
    if ty.array != 0 {
        *script += &format!("CREATE DOMAIN {table}_e AS {name}[];\n");
        definitions += &format!(", a {name}[], b {table}_d[], e {table}_e");
        columns.extend(["a", "b", "e"].map(|column| walked(column, ty, true)));
    }
    *script += &format!(
        "CREATE TABLE {table} (id int PRIMARY KEY, {definitions});
         CREATE TABLE bare_{table} (id int, v {name}{});
         ALTER TABLE bare_{table} REPLICA IDENTITY FULL;\n",
        if ty.array == 0 { String::new() } else { format!(", a {name}[]") }
    );
    Table { name: table.to_owned(), columns, bare: true }
}

/// A row for each value; with arrays of every shape.
fn fill(table: &Table, ty: &Type, values: &[String], arrays: &[String], rows: &mut String) {
    let name = &table.name;
    let mut listed = Vec::new();
    let mut row = |value: Option<&String>, array: Option<String>| {
        let quoted = |value: Option<&str>| value.map_or("NULL".to_owned(), quote);
        let (value, array) = (quoted(value.map(String::as_str)), quoted(array.as_deref()));
        let arrays = if ty.array == 0 { String::new() } else { format!(", {array}").repeat(3) };
        listed.push(format!("({}, {value}, {value}{arrays})", listed.len()));
    };
    row(None, None);
    row(None, Some("{}".to_owned()));
    let delimiter = if ty.name == "box" { ';' } else { ',' };
    let elements: Vec<String> = values.iter().map(|value| element(value)).collect();
    row(None, Some(format!("{{{}}}", elements.join(&delimiter.to_string()))));
    arrays.iter().for_each(|array| row(None, Some(array.clone())));
    for (i, value) in values.iter().enumerate() {
        let (this, next) = (&elements[i], &elements[(i + 1) % elements.len()]);
        let array = match i % 5 {
            0 => format!("{{{this},NULL,{next}}}"),
            1 => format!("[0:1]={{{this},{next}}}"),
            2 => format!("{{{{{this},NULL}},{{{next},{this}}}}}"),
            3 => format!(
                "[-1:-1][1:2][5:6][1:1]={{{{{{{{{this}}},{{NULL}}}},{{{{{next}}},{{{this}}}}}}}}}"
            ),
            _ => format!("{{{this}}}"),
        };
        let array = match delimiter {
            ';' => array.replace("\",", "\";").replace("NULL,", "NULL;").replace("},{", "};{"),
            _ => array,
        };
        row(Some(value), Some(array));
    }
    let columns: Vec<&str> = table.columns.iter().map(|c| c.column.name.as_str()).collect();
    *rows += &format!(
        "INSERT INTO {name} VALUES {};
         INSERT INTO {name} SELECT id + {SECOND}, {} FROM {name} LIMIT 5;
         INSERT INTO bare_{name} SELECT id, v{} FROM {name};\n",
        listed.join(", "),
        columns.join(", "),
        if ty.array == 0 { "" } else { ", a" }
    );
}

/// A value as an element in an array's text.
pub fn element(value: &str) -> String {
    format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
}

fn without_input(ty: &Type, script: &mut String, rows: &mut String) -> Table {
    let name = format!("w{}", ty.oid);
    *script += &format!("CREATE TABLE {name} (id int PRIMARY KEY, v {});\n", ty.name);
    *rows += &format!("INSERT INTO {name} VALUES (1, NULL);\n");
    let send = None;
    let column = Walked { send, ..walked("v", ty, false) };
    Table { name, columns: vec![column], bare: false }
}

fn composite(
    number: usize,
    group: &[&Type],
    types: &[Type],
    book: &Book,
    source: &mut Client,
    script: &mut String,
    rows: &mut String,
) -> Table {
    let name = format!("c{number}");
    let mut columns = Vec::new();
    let mut definitions = Vec::new();
    let mut some: [Vec<String>; 3] = Default::default();
    for ty in group {
        let (oid, ty_name) = (ty.oid, &ty.name);
        *script += &format!(
            "CREATE DOMAIN {name}_d{oid} AS {ty_name}; CREATE DOMAIN {name}_e{oid} AS {ty_name}[];\n"
        );
        definitions.push(format!("v{oid} {ty_name}, d{oid} {name}_d{oid}, a{oid} {ty_name}[]"));
        definitions.push(format!("b{oid} {name}_d{oid}[], e{oid} {name}_e{oid}"));
        for (column, is_array) in
            [("v", false), ("d", false), ("a", true), ("b", true), ("e", true)]
        {
            let walked = walked(&format!("{column}{oid}"), ty, is_array);
            columns.push(Walked { send: None, ..walked });
        }
        let attributes = catalog::attributes(source, oid);
        for (way, some) in some.iter_mut().enumerate() {
            let fields: Vec<String> =
                attributes.iter().map(|a| field(a, types, book, way)).collect();
            let row = format!("ROW({})::{ty_name}", fields.join(", "));
            let array = format!("ARRAY[{row}, NULL]");
            some.push(format!(
                "{row}, {row}, {array}, {array}::{name}_d{oid}[], array_fill({row}, ARRAY[1, 2])"
            ));
        }
    }
    *script += &format!("CREATE TABLE {name} (id int PRIMARY KEY, {});\n", definitions.join(", "));
    *rows += &format!("INSERT INTO {name} (id) VALUES (0);\n");
    for (way, some) in some.iter().enumerate() {
        *rows += &format!("INSERT INTO {name} VALUES ({}, {});\n", way + 1, some.join(", "));
    }
    Table { name, columns, bare: false }
}

/// NULL, the first or the last edge of an attribute's type.
fn field(attribute: &catalog::Attribute, types: &[Type], book: &Book, way: usize) -> String {
    let name = &attribute.name;
    let is_known = types.iter().any(|ty| ty.oid == attribute.oid && ty.kind != 'c');
    let values = match is_known.then(|| book.of(attribute.oid, name)) {
        Some(Edges::Values(values)) => values,
        _ => return "NULL".to_owned(),
    };
    let value = match way {
        0 => return "NULL".to_owned(),
        1 => format!("{}::{name}", quote(&values[0])),
        _ => format!("{}::{name}", quote(&values[values.len() - 1])),
    };
    if attribute.is_array { format!("ARRAY[{value}, NULL]") } else { value }
}

fn assert_takes_nothing(source: &mut Client, ty: &Type) {
    for text in ["", "1", "x"] {
        let made = source.simple_query(&format!("SELECT {}::{}", quote(text), ty.name));
        let error = made.expect_err(&ty.name);
        assert_eq!(error.code().map(|code| code.code()), Some("0A000"), "{error:?}");
    }
}

/// A pseudo-type, or a composite type with one in it, can be no column: there is nothing to replicate.
fn assert_no_column(source: &mut Client, ty: &Type) {
    let made = source.batch_execute(&format!("CREATE TABLE no (v {})", ty.name));
    let error = made.expect_err(&ty.name);
    assert_eq!(error.code().map(|code| code.code()), Some("42P16"), "{}: {error:?}", ty.name);
}

pub fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
