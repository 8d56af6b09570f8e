//! Timelines: what two servers that were once one still have in common. Pure, but for asking.

use rsrepl_wire::Lsn;

use super::client::ReplicationClient;
use super::framing::violation;
use crate::error::Result;

/// A server's timeline, and how it came to be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Branch {
    pub timeline: u32,
    /// The timelines before, oldest first, each with the position at which it was left.
    pub history: Vec<(u32, Lsn)>,
}

impl Branch {
    /// Up to where the WAL of both is the same; `None`: all of it.
    pub fn parting(&self, other: &Branch) -> Option<Lsn> {
        let mut common = Lsn::INVALID;
        for (ours, theirs) in self.stretches().zip(other.stretches()) {
            if ours == theirs {
                common = ours.1?;
                continue;
            }
            if ours.0 != theirs.0 {
                return Some(common);
            }
            return ours.1.into_iter().chain(theirs.1).min();
        }
        // the last stretch of each is the only one without an end: so they differed before
        Some(common)
    }

    fn stretches(&self) -> impl Iterator<Item = (u32, Option<Lsn>)> {
        let past = self.history.iter().map(|(timeline, end)| (*timeline, Some(*end)));
        past.chain([(self.timeline, None)])
    }

    /// From a timeline history file: lines of timeline, position, reason.
    fn read(timeline: u32, text: &str) -> Result<Branch> {
        let mut history = Vec::new();
        for line in text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
            let mut words = line.split_whitespace();
            let before = words.next().and_then(|word| word.parse().ok());
            let end = words.next().and_then(|word| word.parse().ok());
            let entry = before.zip(end);
            history.push(entry.ok_or_else(|| violation("a timeline history cannot be read"))?);
        }
        Ok(Branch { timeline, history })
    }
}

impl ReplicationClient {
    /// How the source came to be on `timeline`, its current one.
    pub async fn branch(&mut self, timeline: u32) -> Result<Branch> {
        if timeline <= 1 {
            return Ok(Branch { timeline, history: Vec::new() });
        }
        let sql = format!("TIMELINE_HISTORY {timeline}");
        let rows = self.query("reading the timeline's history failed", &sql).await?;
        // filename, content
        let content = rows.first().and_then(|row| row.get(1)?.as_deref());
        Branch::read(timeline, content.ok_or_else(|| violation("a timeline without a history"))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn branch(timeline: u32, history: &[(u32, u64)]) -> Branch {
        Branch { timeline, history: history.iter().map(|(t, end)| (*t, Lsn(*end))).collect() }
    }

    #[test]
    fn servers_part_where_the_first_of_them_left() {
        let first = branch(1, &[]);
        let promoted = branch(2, &[(1, 100)]);
        let again = branch(3, &[(1, 100), (2, 200)]);
        let cases = [
            (&first, &first, None),
            (&again, &again, None),
            (&first, &promoted, Some(100)),
            (&first, &again, Some(100)),
            (&promoted, &again, Some(200)),
            // two standbys of the same primary were promoted, and have the same number
            (&promoted, &branch(2, &[(1, 90)]), Some(90)),
            // the second of them skipped a number
            (&promoted, &branch(3, &[(1, 100)]), Some(100)),
            (&first, &branch(2, &[]), Some(0)),
        ];
        for (a, b, parting) in cases {
            assert_eq!(a.parting(b), parting.map(Lsn), "{a:?} {b:?}");
            assert_eq!(b.parting(a), parting.map(Lsn), "{b:?} {a:?}");
        }
    }

    #[test]
    fn a_history_file() {
        let text =
            "1\t0/3000060\tno recovery target specified\n\n# x\n2\t1/A0\tbefore 2000-01-01\n";
        let read = Branch::read(3, text).unwrap();
        assert_eq!(read, branch(3, &[(1, 0x300_0060), (2, 0x1_0000_00A0)]));
        assert!(Branch::read(3, "x\t0/1").is_err());
    }
}
