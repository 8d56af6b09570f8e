//! What `rsrepl verify` prints.

use std::fmt;

use super::differences::{Difference, Kind, Tally};
use super::key::Key;

/// Differing keys that are shown of a table.
const SHOWN_MAX: usize = 20;
/// Characters of a key that are shown.
const KEY_MAX: usize = 200;

/// Of all targets.
#[derive(Debug)]
pub struct Report {
    pub targets: Vec<TargetReport>,
}

#[derive(Debug)]
pub struct TargetReport {
    pub name: String,
    pub kind: &'static str,
    pub tables: Vec<TableReport>,
}

#[derive(Debug)]
pub struct TableReport {
    pub name: String,
    /// Unquoted names of the key's columns.
    pub key: Vec<String>,
    pub notes: Vec<String>,
    pub tally: Tally,
}

/// What it comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    Equal,
    /// Something could not be compared.
    Unknown,
    Different,
}

impl Report {
    pub fn outcome(&self) -> Outcome {
        let tables = self.targets.iter().flat_map(|target| &target.tables);
        tables.map(TableReport::outcome).max().unwrap_or(Outcome::Unknown)
    }
}

impl TableReport {
    fn outcome(&self) -> Outcome {
        let Tally { failed, unsettled, .. } = &self.tally;
        match self.tally.total() {
            0 if failed.is_some() || *unsettled > 0 => Outcome::Unknown,
            0 => Outcome::Equal,
            _ => Outcome::Different,
        }
    }

    fn cells(&self) -> [String; 5] {
        let Tally { rows, parts, looked, .. } = &self.tally;
        let differences = match (&self.tally.failed, self.tally.total()) {
            (Some(_), 0) => "not compared".to_owned(),
            (Some(_), n) => format!("at least {n}"),
            (None, n) => n.to_string(),
        };
        [self.name.clone(), rows.to_string(), parts.to_string(), looked.to_string(), differences]
    }

    fn details(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tally = &self.tally;
        let name = &self.name;
        if let Some((here, there)) = tally.unequal {
            writeln!(
                f,
                "  {name}: {here} rows on the source, {there} there, not the same ones; it has no key"
            )?;
        }
        for Difference { key, kind, .. } in tally.differences.iter().take(SHOWN_MAX) {
            let kind = match kind {
                Kind::Missing => "missing",
                Kind::Surplus => "surplus",
                Kind::Changed => "different",
            };
            writeln!(f, "  {name}: {kind} {}", shown(&self.key, key))?;
        }
        let more = tally.differences.len().saturating_sub(SHOWN_MAX) as u64 + tally.more;
        if more > 0 {
            writeln!(f, "  {name}: and {more} more")?;
        }
        if tally.repaired > 0 {
            writeln!(f, "  {name}: {} rows repaired", tally.repaired)?;
        }
        if tally.unsettled > 0 {
            writeln!(
                f,
                "  {name}: {} rows changed at each look and were not compared",
                tally.unsettled
            )?;
        }
        if let Some(why) = &tally.failed {
            writeln!(f, "  {name}: not compared: {why}")?;
        }
        for note in &self.notes {
            writeln!(f, "  {name}: note: {note}")?;
        }
        Ok(())
    }
}

fn shown(names: &[String], key: &Key) -> String {
    let values = names.iter().zip(key).map(|(name, value)| format!("{name}={value}"));
    let text = values.collect::<Vec<_>>().join(" ").replace(['\n', '\r', '\t'], " ");
    match text.char_indices().nth(KEY_MAX) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text,
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const TITLES: [&str; 5] = ["table", "rows", "parts", "keys looked at", "differences"];
        for target in &self.targets {
            writeln!(f, "target {} ({})", target.name, target.kind)?;
            let mut rows = vec![TITLES.map(str::to_owned)];
            rows.extend(target.tables.iter().map(TableReport::cells));
            let widths: Vec<usize> = (0..TITLES.len())
                .map(|n| {
                    let cells = rows.iter().filter_map(|row| row.get(n));
                    cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
                })
                .collect();
            for row in &rows {
                let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
                writeln!(f, "  {}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
            }
            for table in &target.tables {
                table.details(f)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::looks::Look;
    use super::*;

    fn table(name: &str, tally: Tally) -> TableReport {
        TableReport { name: name.into(), key: vec!["id".into()], notes: Vec::new(), tally }
    }

    #[test]
    fn a_report_says_what_differs_and_what_is_not_known() {
        let difference = Difference {
            key: vec!["7".into()],
            kind: Kind::Surplus,
            look: Look { source: None, target: None },
        };
        let different =
            Tally { rows: 9, parts: 1, differences: vec![difference], ..Tally::default() };
        let failed = Tally { failed: Some("no such table".into()), ..Tally::default() };
        let report = |tables| Report {
            targets: vec![TargetReport { name: "a".into(), kind: "postgres", tables }],
        };
        assert_eq!(report(vec![table("x", Tally::default())]).outcome(), Outcome::Equal);
        let unknown = vec![table("x", Tally::default()), table("y", failed.clone())];
        assert_eq!(report(unknown).outcome(), Outcome::Unknown);
        assert_eq!(report(Vec::new()).outcome(), Outcome::Unknown);
        let all = report(vec![table("x", different), table("y", failed)]);
        assert_eq!(all.outcome(), Outcome::Different);
        let text = all.to_string();
        assert!(text.contains("x: surplus id=7\n"), "{text}");
        assert!(text.contains("y: not compared: no such table\n"), "{text}");
    }
}
