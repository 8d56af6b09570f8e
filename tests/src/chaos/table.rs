//! What happened how often, and how long recovery took.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::plan::{Kind, Who};

/// Times from the end of each fault until the targets had what was committed then.
#[derive(Default)]
pub struct Table(BTreeMap<(Kind, Who), Vec<Duration>>);

impl Table {
    /// A fault was recovered from.
    pub fn add(&mut self, kind: Kind, who: Who, took: Duration) {
        self.0.entry((kind, who)).or_default().push(took);
    }

    /// All faults.
    pub fn count(&self) -> usize {
        self.0.values().map(Vec::len).sum()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = |f: &mut fmt::Formatter<'_>, name: &str, mut times: Vec<Duration>| {
            times.sort();
            let median = times.get(times.len() / 2).copied().unwrap_or_default();
            let most = times.last().copied().unwrap_or_default();
            let (count, median, most) = (times.len(), median.as_secs_f64(), most.as_secs_f64());
            writeln!(f, "| {name:<28} | {count:>6} | {median:>9.2} s | {most:>9.2} s |")
        };
        writeln!(f, "| {:<28} | faults | recovery, median | max |", "fault")?;
        writeln!(f, "|---|---|---|---|")?;
        for ((kind, who), times) in &self.0 {
            line(f, &format!("{kind:?} {who:?}"), times.clone())?;
        }
        line(f, "all", self.0.values().flatten().copied().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_maxima() {
        let mut table = Table::default();
        for seconds in [5, 1, 3] {
            table.add(Kind::Kill, Who::Source, Duration::from_secs(seconds));
        }
        table.add(Kind::Cut, Who::Standby, Duration::from_secs(9));
        let text = table.to_string();
        let row = |name: &str| {
            let line = text.lines().find(|line| line.contains(name)).expect("a row");
            line.split('|')
                .map(str::trim)
                .filter(|cell| !cell.is_empty())
                .skip(1)
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(row("Kill Source"), "3 3.00 s 5.00 s");
        assert_eq!(row("all"), "4 5.00 s 9.00 s");
        assert_eq!(table.count(), 4);
    }
}
