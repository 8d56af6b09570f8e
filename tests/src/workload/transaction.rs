//! Random transactions.

use fastrand::Rng;

use super::schema::{Key, TABLES, Table, Type};
use super::values::{key, literal};

/// One transaction, to be sent as one string.
pub struct Transaction {
    /// From BEGIN to its end.
    pub statements: String,
    /// Whether that is COMMIT.
    pub commits: bool,
}

/// Makes one.
pub fn transaction(rng: &mut Rng) -> Transaction {
    let mut parts = vec!["BEGIN".to_owned()];
    for _ in 0..rng.u32(1..6) {
        if rng.u32(0..12) == 0 {
            savepoint(rng, &mut parts);
        } else {
            parts.push(change(rng));
        }
    }
    let commits = rng.u32(0..20) != 0;
    parts.push(if commits { "COMMIT" } else { "ROLLBACK" }.to_owned());
    Transaction { statements: parts.join(";\n"), commits }
}

/// Changes below a savepoint, which is rolled back or released; sometimes with one inside.
fn savepoint(rng: &mut Rng, parts: &mut Vec<String>) {
    parts.push("SAVEPOINT outside".to_owned());
    parts.push(change(rng));
    if rng.bool() {
        parts.push("SAVEPOINT inside".to_owned());
        parts.push(change(rng));
        parts.push(end_of(rng, "inside"));
    }
    parts.push(change(rng));
    parts.push(end_of(rng, "outside"));
}

fn end_of(rng: &mut Rng, savepoint: &str) -> String {
    let word = if rng.bool() { "ROLLBACK TO" } else { "RELEASE" };
    format!("{word} SAVEPOINT {savepoint}")
}

fn change(rng: &mut Rng) -> String {
    if rng.u32(0..30) == 0 {
        return swap(rng);
    }
    if rng.u32(0..30) == 0 {
        return family(rng);
    }
    let table = &TABLES[rng.usize(0..TABLES.len())];
    match rng.u32(0..1000) {
        0..2 => format!("TRUNCATE {}", table.name),
        2 => format!("TRUNCATE {}, {}", table.name, other(rng, table)),
        _ if table.key == Key::Nothing => insert(rng, table),
        3..400 => insert(rng, table),
        400..430 => insert_many(rng, table),
        430..760 => update(rng, table),
        760..790 => update_many(rng, table),
        790..870 => change_key(rng, table),
        _ => delete(rng, table),
    }
}

/// Another table's name.
fn other(rng: &mut Rng, table: &Table) -> &'static str {
    let others: Vec<_> = TABLES.iter().filter(|other| other.name != table.name).collect();
    others[rng.usize(0..others.len())].name
}

/// Rows with foreign keys between them, which follow each other on the source.
fn family(rng: &mut Rng) -> String {
    let id = rng.u32(0..20);
    match rng.u32(0..100) {
        0..30 => format!("INSERT INTO parents VALUES ({id}, 'p') ON CONFLICT DO NOTHING"),
        30..60 => format!(
            "INSERT INTO children (v, parent) SELECT 'c' || i, id FROM parents, generate_series(1, 3) i
             WHERE id <= {id}"
        ),
        60..70 => "INSERT INTO grandchildren SELECT id, v FROM children LIMIT 10".to_owned(),
        70..85 => format!("DELETE FROM parents WHERE id = {id}"),
        85..94 => format!(
            "UPDATE parents SET id = {id} + 100 WHERE id = {id}
             AND NOT EXISTS (SELECT FROM parents WHERE id = {id} + 100)"
        ),
        94..96 => "TRUNCATE parents CASCADE".to_owned(),
        96..98 => "TRUNCATE children, grandchildren, numbers RESTART IDENTITY".to_owned(),
        _ => "TRUNCATE parents RESTART IDENTITY CASCADE".to_owned(),
    }
}

/// Two rows exchange a unique value: in one statement where the constraint can wait for its end,
/// through a third value where it cannot.
fn swap(rng: &mut Rng) -> String {
    let first = rng.u32(0..99);
    let second = rng.u32(first + 1..100);
    if rng.bool() {
        return format!(
            "UPDATE swaps s SET place = o.place FROM swaps o
             WHERE s.id IN ({first}, {second}) AND o.id IN ({first}, {second}) AND s.id <> o.id"
        );
    }
    format!(
        "DO $$ DECLARE a int; b int; BEGIN
             SELECT place INTO a FROM strict_swaps WHERE id = {first} FOR UPDATE;
             SELECT place INTO b FROM strict_swaps WHERE id = {second} FOR UPDATE;
             UPDATE strict_swaps SET place = -1 - {first} WHERE id = {first};
             UPDATE strict_swaps SET place = a WHERE id = {second};
             UPDATE strict_swaps SET place = b WHERE id = {first};
         END $$"
    )
}

/// The key's literals of a random row.
fn some_key(rng: &mut Rng, table: &Table) -> Vec<String> {
    let number = rng.u64(0..table.rows);
    let columns = if table.key == Key::Composite { 2 } else { 1 };
    // The two halves of a composite key do not say the same.
    let half = |index: u64| if columns == 2 { number / (1 + 19 * index) % 20 } else { number };
    (0..columns).map(|i| key(rng, table.columns[i as usize].1, half(i))).collect()
}

/// A condition that finds one row.
fn condition(rng: &mut Rng, table: &Table) -> String {
    let keys = some_key(rng, table);
    let equal =
        |(index, literal): (usize, &String)| format!("{} = {literal}", table.columns[index].0);
    let found = keys.iter().enumerate().map(equal).collect::<Vec<_>>().join(" AND ");
    if !table.key.is_unique() {
        // one of the duplicates
        format!("ctid = (SELECT ctid FROM {} WHERE {found} LIMIT 1)", table.name)
    } else {
        found
    }
}

/// Literals of the columns that are not of the key.
fn rest(rng: &mut Rng, table: &Table) -> String {
    let keys = if table.key == Key::Composite { 2 } else { 1 };
    table.columns[keys..].iter().map(|(_, type_)| format!(", {}", literal(rng, *type_))).collect()
}

fn insert(rng: &mut Rng, table: &Table) -> String {
    let row = format!("({}{})", some_key(rng, table).join(", "), rest(rng, table));
    // Without a key, the same row several times over.
    let copies = if !table.key.is_unique() { rng.usize(1..4) } else { 1 };
    insert_rows(table, &vec![row; copies])
}

fn insert_many(rng: &mut Rng, table: &Table) -> String {
    let tail = rest(rng, table);
    let row = |_| format!("({}{tail})", some_key(rng, table).join(", "));
    let rows: Vec<String> = (0..20).map(row).collect();
    insert_rows(table, &rows)
}

fn insert_rows(table: &Table, rows: &[String]) -> String {
    let conflict = if !table.key.is_unique() { "" } else { " ON CONFLICT DO NOTHING" };
    format!("INSERT INTO {} VALUES {}{conflict}", table.name, rows.join(", "))
}

/// Assignments to one to three columns that are not of the key; the others stay, long ones too.
fn assignments(rng: &mut Rng, table: &Table) -> String {
    let keys = if table.key == Key::Composite { 2 } else { 1 };
    let mut columns: Vec<_> = table.columns[keys..].iter().collect();
    rng.shuffle(&mut columns);
    columns.truncate(rng.usize(1..4));
    let assign = |(name, type_): &&(&str, Type)| format!("{name} = {}", literal(rng, *type_));
    columns.iter().map(assign).collect::<Vec<_>>().join(", ")
}

fn update(rng: &mut Rng, table: &Table) -> String {
    format!("UPDATE {} SET {} WHERE {}", table.name, assignments(rng, table), condition(rng, table))
}

fn update_many(rng: &mut Rng, table: &Table) -> String {
    let (first, type_) = table.columns[0];
    let keys: Vec<String> = (0..15)
        .map(|_| {
            let number = rng.u64(0..table.rows);
            key(rng, type_, number)
        })
        .collect();
    let assignments = assignments(rng, table);
    format!("UPDATE {} SET {assignments} WHERE {first} IN ({})", table.name, keys.join(", "))
}

/// A row gets another key, one that is free; sometimes other columns change with it.
fn change_key(rng: &mut Rng, table: &Table) -> String {
    let mut set = Vec::new();
    let mut taken = Vec::new();
    for (index, literal) in some_key(rng, table).iter().enumerate() {
        let name = table.columns[index].0;
        set.push(format!("{name} = {literal}"));
        taken.push(format!("o.{name} = {literal}"));
    }
    let free = format!("NOT EXISTS (SELECT FROM {} o WHERE {})", table.name, taken.join(" AND "));
    if rng.bool() {
        set.push(assignments(rng, table));
    }
    let mut found = condition(rng, table);
    if table.key.is_unique() {
        found = format!("{found} AND {free}");
    }
    format!("UPDATE {} SET {} WHERE {found}", table.name, set.join(", "))
}

fn delete(rng: &mut Rng, table: &Table) -> String {
    format!("DELETE FROM {} WHERE {}", table.name, condition(rng, table))
}
