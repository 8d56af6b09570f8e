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
    /// Targets that are not meant to equal the source.
    pub histories: Vec<String>,
    /// Columns that are not compared do not count.
    pub accept_left_out: bool,
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
    /// How many the source has.
    pub columns: usize,
    /// Those that are not compared, and why.
    pub left_out: Vec<String>,
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
        let outcome = |table: &TableReport| table.outcome(self.accept_left_out);
        tables.map(outcome).max().unwrap_or(Outcome::Unknown)
    }
}

impl TableReport {
    fn outcome(&self, accept_left_out: bool) -> Outcome {
        let Tally { failed, unsettled, unsure, .. } = &self.tally;
        let lacks = !accept_left_out && !self.left_out.is_empty();
        match self.tally.total() {
            0 if failed.is_some() || unsettled + unsure > 0 || lacks => Outcome::Unknown,
            0 => Outcome::Equal,
            _ => Outcome::Different,
        }
    }

    fn cells(&self) -> [String; 6] {
        let Tally { rows, parts, looked, .. } = &self.tally;
        let differences = match (&self.tally.failed, self.tally.total()) {
            (Some(_), 0) => "not compared".to_owned(),
            (Some(_), n) => format!("at least {n}"),
            (None, n) => n.to_string(),
        };
        let columns = match self.left_out.len() {
            0 => self.columns.to_string(),
            out => format!("{} of {}", self.columns.saturating_sub(out), self.columns),
        };
        let [rows, parts, looked] = [rows, parts, looked].map(u64::to_string);
        [self.name.clone(), columns, rows, parts, looked, differences]
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
        let more = tally.differences.len().saturating_sub(SHOWN_MAX);
        if more > 0 {
            writeln!(f, "  {name}: and {more} more")?;
        }
        for (rows, what) in [
            (tally.nulls, "rows there have a NULL in their key, and the source has none"),
            (tally.meant, "rows differ by operations that are not published"),
            (tally.repaired, "rows repaired"),
            (tally.unsettled, "rows changed at each look and were not compared"),
            (
                tally.unsure,
                "rows seem to differ, but a transaction that the source does not show yet may be on the \
                 target: run it again when no commit waits for a standby",
            ),
        ] {
            if rows > 0 {
                writeln!(f, "  {name}: {rows} {what}")?;
            }
        }
        for why in &tally.left {
            writeln!(f, "  {name}: not repaired: {}", printable(why))?;
        }
        if let Some(why) = &tally.failed {
            writeln!(f, "  {name}: not compared: {}", printable(why))?;
        }
        for note in self.left_out.iter().chain(&self.notes) {
            writeln!(f, "  {name}: note: {}", printable(note))?;
        }
        Ok(())
    }
}

fn shown(names: &[String], key: &Key) -> String {
    let values = names.iter().zip(key).map(|(name, value)| format!("{name}={value}"));
    let text = printable(&values.collect::<Vec<_>>().join(" "));
    match text.char_indices().nth(KEY_MAX) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text,
    }
}

/// Nothing that a terminal would act upon.
fn printable(text: &str) -> String {
    text.replace(|c: char| c.is_control(), " ")
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const TITLES: [&str; 6] =
            ["table", "columns", "rows", "parts", "keys looked at", "differences"];
        for name in &self.histories {
            writeln!(f, "target {name}: a history, which is not compared")?;
        }
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
    use super::super::judge::Look;
    use super::*;

    fn table(name: &str, tally: Tally) -> TableReport {
        TableReport {
            name: name.into(),
            key: vec!["id".into()],
            columns: 2,
            left_out: Vec::new(),
            notes: Vec::new(),
            tally,
        }
    }

    #[test]
    fn a_report_says_what_differs_and_what_is_not_known() {
        let difference = Difference {
            key: vec!["7\u{1b}[2J".into()],
            kind: Kind::Surplus,
            look: Look { source: None, target: None },
        };
        let different =
            Tally { rows: 9, parts: 1, differences: vec![difference], ..Tally::default() };
        let failed = Tally { failed: Some("no such table".into()), ..Tally::default() };
        let report = |tables| Report {
            targets: vec![TargetReport { name: "a".into(), kind: "postgres", tables }],
            histories: vec!["h".into()],
            accept_left_out: false,
        };
        assert_eq!(report(vec![table("x", Tally::default())]).outcome(), Outcome::Equal);
        let unknown = vec![table("x", Tally::default()), table("y", failed.clone())];
        assert_eq!(report(unknown).outcome(), Outcome::Unknown);
        assert_eq!(report(Vec::new()).outcome(), Outcome::Unknown);
        let partly = || TableReport {
            left_out: vec!["column b is not there".into()],
            ..table("x", Tally::default())
        };
        assert_eq!(report(vec![partly()]).outcome(), Outcome::Unknown);
        let accepted = Report { accept_left_out: true, ..report(vec![partly()]) };
        assert_eq!(accepted.outcome(), Outcome::Equal);
        assert!(accepted.to_string().contains("1 of 2"), "{accepted}");
        let meant = Tally { meant: 3, ..Tally::default() };
        assert_eq!(report(vec![table("x", meant)]).outcome(), Outcome::Equal);
        for unknown in
            [Tally { unsure: 1, ..Tally::default() }, Tally { unsettled: 1, ..Tally::default() }]
        {
            assert_eq!(report(vec![table("x", unknown)]).outcome(), Outcome::Unknown);
        }
        let nulls = Tally { nulls: 1, ..Tally::default() };
        assert_eq!(report(vec![table("x", nulls)]).outcome(), Outcome::Different);
        let all = report(vec![table("x", different), table("y", failed)]);
        assert_eq!(all.outcome(), Outcome::Different);
        let text = all.to_string();
        assert!(text.contains("x: surplus id=7 [2J\n"), "{text}");
        assert!(text.contains("y: not compared: no such table\n"), "{text}");
    }
}
