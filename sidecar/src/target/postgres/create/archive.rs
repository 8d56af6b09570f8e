//! What `pg_restore --verbose` writes of an archive, entry by entry, and which of them tables need. Pure.
//!
//! ```text
//! --
//! -- TOC entry 215 (class 1259 OID 16408)
//! -- Dependencies: 6 842
//! -- Name: orders; Type: TABLE; Schema: shop; Owner: -
//! --
//! ```

use std::collections::{HashMap, HashSet};

/// `pg_class`, as an entry's `class`.
const PG_CLASS: u32 = 1259;

/// What is a part of the table that it depends on. (So do views and functions, which come with no table.)
const PARTS: &[&str] = &[
    "DEFAULT",
    "SEQUENCE",
    "SEQUENCE OWNED BY",
    "TABLE ATTACH",
    "CONSTRAINT",
    "CHECK CONSTRAINT",
    "FK CONSTRAINT",
    "INDEX",
    "INDEX ATTACH",
    "STATISTICS",
    "TRIGGER",
    "RULE",
    "ROW SECURITY",
    "POLICY",
    "COMMENT",
];

/// Of what stands before the data, what rows do not need.
const NOT_FOR_ROWS: &[&str] = &["SEQUENCE OWNED BY", "COMMENT"];

/// An entry of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its number in the archive.
    pub id: u32,
    /// Catalog and oid of what it is on the source.
    pub object: (u32, u32),
    /// Numbers of those that must be there before it; some may not be in the archive.
    pub needs: Vec<u32>,
    /// `TABLE`, `INDEX`, `FK CONSTRAINT`, …
    pub kind: String,
    /// Schema and name, for people.
    pub name: String,
    pub statements: String,
}

impl Entry {
    /// One of these of the source.
    pub fn is_table(&self, oids: &HashSet<u32>) -> bool {
        self.kind == "TABLE" && self.object.0 == PG_CLASS && oids.contains(&self.object.1)
    }

    /// It tells rows apart.
    fn is_key(&self) -> bool {
        self.kind == "CONSTRAINT"
            || self.kind == "INDEX"
                && self.statements.lines().any(|line| line.starts_with("CREATE UNIQUE INDEX "))
    }
}

/// What is made when.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Before rows come, in this order.
    pub first: Vec<Entry>,
    /// Behind them, in this order; whether it tells rows apart, or is needed by what does.
    pub later: Vec<(Entry, bool)>,
}

/// What the tables with these oids need of an archive's two sections.
pub fn select(pre_data: Vec<Entry>, post_data: Vec<Entry>, tables: &HashSet<u32>) -> Selection {
    let before: HashSet<u32> = pre_data.iter().map(|entry| entry.id).collect();
    let all: Vec<Entry> = pre_data.into_iter().chain(post_data).collect();
    let ours = parts(&all, tables);
    let for_rows = |entry: &&Entry| {
        ours.contains(&entry.id)
            && before.contains(&entry.id)
            && !NOT_FOR_ROWS.contains(&entry.kind.as_str())
    };
    let first = closure(&all, all.iter().filter(for_rows).map(|entry| entry.id));
    let keys = all.iter().filter(|entry| ours.contains(&entry.id) && entry.is_key());
    let keys = closure(&all, keys.map(|entry| entry.id));
    let wanted = closure(&all, ours);
    let mut selection = Selection::default();
    for entry in all {
        let key = keys.contains(&entry.id);
        match (first.contains(&entry.id), wanted.contains(&entry.id)) {
            (true, _) => selection.first.push(entry),
            (false, true) => selection.later.push((entry, key)),
            (false, false) => {}
        }
    }
    selection
}

/// The tables and their parts, and parts of parts.
fn parts(all: &[Entry], tables: &HashSet<u32>) -> HashSet<u32> {
    let tables = all.iter().filter(|entry| entry.is_table(tables));
    let mut ours: HashSet<u32> = tables.map(|entry| entry.id).collect();
    loop {
        let known = ours.len();
        for entry in all.iter().filter(|entry| PARTS.contains(&entry.kind.as_str())) {
            if entry.needs.iter().any(|need| ours.contains(need)) {
                ours.insert(entry.id);
            }
        }
        if ours.len() == known {
            return ours;
        }
    }
}

/// They and all that they need.
fn closure(all: &[Entry], of: impl IntoIterator<Item = u32>) -> HashSet<u32> {
    let needs: HashMap<u32, &[u32]> = all.iter().map(|e| (e.id, e.needs.as_slice())).collect();
    let mut found = HashSet::new();
    let mut open: Vec<u32> = of.into_iter().collect();
    while let Some(id) = open.pop() {
        if let Some(needs) = needs.get(&id)
            && found.insert(id)
        {
            open.extend(*needs);
        }
    }
    found
}

/// Number, and catalog and oid, of each entry in what `pg_restore --list` writes.
pub fn listed(list: &str) -> HashSet<(u32, (u32, u32))> {
    let entry = |line: &str| {
        let (id, rest) = line.split_once("; ")?;
        let mut numbers = rest.split(' ').map(|number| number.parse().ok());
        Some((id.parse().ok()?, (numbers.next()??, numbers.next()??)))
    };
    list.lines().filter_map(entry).collect()
}

/// The entries of a script, which are those of its archive's list: whoever may comment on something can write
/// what looks like one more.
///
/// # Errors
/// The name of an entry that is there twice: one of them is not pg_restore's.
pub fn entries(script: &str, listed: &HashSet<(u32, (u32, u32))>) -> Result<Vec<Entry>, String> {
    let lines: Vec<&str> = script.split_inclusive('\n').collect();
    let mut entries: Vec<Entry> = Vec::new();
    let mut known = HashSet::new();
    let mut at = 0;
    while let Some(line) = lines.get(at) {
        let found = lines.get(at..).and_then(header);
        match found.filter(|(entry, _)| listed.contains(&(entry.id, entry.object))) {
            Some((entry, _)) if !known.insert(entry.id) => return Err(entry.name),
            Some((entry, length)) => {
                entries.push(entry);
                at += length;
            }
            None => {
                if let Some(entry) = entries.last_mut() {
                    entry.statements.push_str(line);
                }
                at += 1;
            }
        }
    }
    if let Some(last) = entries.last_mut() {
        last.statements = without_end(&last.statements);
    }
    Ok(entries)
}

/// An entry without its statements, if the lines begin with one, and how many lines that takes.
fn header(lines: &[&str]) -> Option<(Entry, usize)> {
    let line = |at: usize| lines.get(at).map(|line| line.trim_end_matches('\n'));
    if line(0) != Some("--") {
        return None;
    }
    let (id, class) = line(1)?.strip_prefix("-- TOC entry ")?.split_once(" (class ")?;
    let (class, oid) = class.strip_suffix(')')?.split_once(" OID ")?;
    let needs = line(2)?.strip_prefix("-- Dependencies:");
    let name_at = if needs.is_some() { 3 } else { 2 };
    let needs = needs.unwrap_or_default().split_whitespace();
    let (name, rest) = line(name_at)?.strip_prefix("-- Name: ")?.split_once("; Type: ")?;
    let (kind, rest) = rest.split_once("; Schema: ")?;
    let (schema, _) = rest.rsplit_once("; Owner: ")?;
    // such as where its data is
    let more = lines.iter().skip(name_at + 1).take_while(|line| line.starts_with("-- ")).count();
    let end = name_at + 1 + more;
    if line(end) != Some("--") {
        return None;
    }
    let entry = Entry {
        id: id.parse().ok()?,
        object: (class.parse().ok()?, oid.parse().ok()?),
        needs: needs.map(|need| need.parse().ok()).collect::<Option<_>>()?,
        kind: kind.to_owned(),
        name: if schema == "-" { name.to_owned() } else { format!("{schema}.{name}") },
        statements: String::new(),
    };
    Some((entry, end + 1))
}

/// Recent tools keep psql from obeying what is in a script, with a command of psql's at its end.
fn without_end(statements: &str) -> String {
    match statements.rfind("\n\\unrestrict ") {
        Some(at) => statements.get(..=at).unwrap_or_default().to_owned(),
        None => statements.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "\
;
; Archive created at 2026-11-22 03:40:00 UTC
;     TOC Entries: 2
;
215; 1259 16408 TABLE s a; b postgres
7; 2615 2200 SCHEMA - s postgres
";

    const SCRIPT: &str = "\
--
-- PostgreSQL database dump
--

\\restrict abc

SET statement_timeout = 0;

--
-- TOC entry 215 (class 1259 OID 16408)
-- Dependencies: 6 842
-- Name: a; b; Type: TABLE; Schema: s; Owner: -
-- Data Pos: 0
--

CREATE TABLE s.\"a; b\" (
    id integer
);


--
-- TOC entry 7 (class 2615 OID 2200)
-- Name: s; Type: SCHEMA; Schema: -; Owner: -
--

CREATE SCHEMA s;


-- Completed on 2026-11-22

--
-- PostgreSQL database dump complete
--

\\unrestrict abc

";

    #[test]
    fn a_script_is_taken_apart() {
        let listed = listed(LIST);
        assert_eq!(listed, HashSet::from([(215, (1259, 16408)), (7, (2615, 2200))]));
        let found = entries(SCRIPT, &listed).unwrap();
        let [table, schema] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!((table.id, table.object, &table.needs[..]), (215, (1259, 16408), &[6, 842][..]));
        assert_eq!((table.kind.as_str(), table.name.as_str()), ("TABLE", "s.a; b"));
        assert!(table.statements.contains("CREATE TABLE s.\"a; b\" (\n    id integer\n);"));
        assert!(!table.statements.contains("SCHEMA"), "{}", table.statements);
        assert_eq!((schema.name.as_str(), schema.needs.len()), ("s", 0));
        assert!(schema.statements.contains("CREATE SCHEMA s;"));
        assert!(!schema.statements.contains("restrict"), "{}", schema.statements);
        assert_eq!(entries("", &listed), Ok(Vec::new()));
    }

    #[test]
    fn what_somebody_has_written_into_a_comment_is_no_entry() {
        let forged = |id: u32| {
            format!(
                "COMMENT ON SCHEMA s IS '\n--\n-- TOC entry {id} (class 1259 OID 16408)\n\
                 -- Name: a; Type: TABLE; Schema: s; Owner: -\n--\nDROP TABLE x;\n';\n"
            )
        };
        let script = |id| SCRIPT.replace("CREATE SCHEMA s;\n", &forged(id));
        let found = entries(&script(9), &listed(LIST)).unwrap();
        assert_eq!(found.iter().map(|entry| entry.id).collect::<Vec<_>>(), [215, 7]);
        assert!(found[1].statements.contains("DROP TABLE x"), "it stays what it is: {found:?}");
        assert_eq!(entries(&script(215), &listed(LIST)), Err("s.a".to_owned()));
    }

    fn entry(id: u32, kind: &str, needs: &[u32]) -> Entry {
        let statements = match kind {
            "UNIQUE" => "CREATE UNIQUE INDEX i ON t USING btree (a);\n",
            _ => "",
        };
        let kind = if kind == "UNIQUE" { "INDEX" } else { kind };
        Entry {
            id,
            object: (PG_CLASS, id + 1000),
            needs: needs.to_vec(),
            kind: kind.to_owned(),
            name: String::new(),
            statements: statements.to_owned(),
        }
    }

    #[test]
    fn a_table_comes_with_what_it_needs_and_its_parts_and_nothing_else() {
        let pre_data = vec![
            entry(1, "SCHEMA", &[]),
            entry(2, "TYPE", &[1]),
            entry(3, "TYPE", &[1]),             // of nobody
            entry(4, "FUNCTION", &[1]),         // of a default
            entry(5, "FUNCTION", &[1]),         // of a trigger
            entry(6, "FUNCTION", &[1]),         // of a unique index
            entry(7, "TABLE", &[1, 2, 4, 999]), // 999 is not in the archive
            entry(8, "SEQUENCE", &[7]),
            entry(9, "SEQUENCE OWNED BY", &[8]),
            entry(10, "DEFAULT", &[7, 8]),
            entry(11, "VIEW", &[7]),
            entry(12, "SEQUENCE", &[1]), // of nobody
            entry(13, "COMMENT", &[7]),
            entry(14, "COMMENT", &[4]),
        ];
        let post_data = vec![
            entry(20, "CONSTRAINT", &[7]),
            entry(21, "INDEX", &[7]),
            entry(22, "UNIQUE", &[7, 6]),
            entry(23, "TRIGGER", &[7, 5]),
            entry(24, "FK CONSTRAINT", &[20, 7]),
            entry(25, "COMMENT", &[21]),
            entry(26, "TRIGGER", &[11]),
            entry(27, "PUBLICATION TABLE", &[7]),
        ];
        let selection = select(pre_data, post_data, &HashSet::from([1007]));
        let first: Vec<u32> = selection.first.iter().map(|entry| entry.id).collect();
        assert_eq!(first, [1, 2, 4, 7, 8, 10]);
        let later: Vec<u32> = selection.later.iter().map(|(entry, _)| entry.id).collect();
        assert_eq!(later, [5, 6, 9, 13, 20, 21, 22, 23, 24, 25]);
        let keys = selection.later.iter().filter(|(_, key)| *key);
        assert_eq!(keys.map(|(entry, _)| entry.id).collect::<Vec<_>>(), [6, 20, 22]);
    }
}
