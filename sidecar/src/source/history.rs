//! The history of a timeline, as `TIMELINE_HISTORY` shows it: a file with a line for each timeline before it.

use super::client::ReplicationClient;
use super::framing::violation;
use crate::error::{Kind, Result};
use crate::target::Ancestor;

impl ReplicationClient {
    /// The timelines that `timeline` grew out of. The first has none, and no file that says so.
    ///
    /// # Errors
    /// [`Kind::Connection`], also for a history that cannot be read.
    pub async fn ancestors(&mut self, timeline: u32) -> Result<Vec<Ancestor>> {
        if timeline <= 1 {
            return Ok(Vec::new());
        }
        let sql = format!("TIMELINE_HISTORY {timeline}");
        let rows = match self.query("reading the timeline's history failed", &sql).await {
            // what was reached on this timeline needs no history
            Err(error) if error.kind() == Kind::Setup => {
                tracing::warn!(%error, "the source cannot show what its timeline grew out of: positions of older ones are refused");
                return Ok(Vec::new());
            }
            rows => rows?,
        };
        // name of the file, content
        let text = rows.first().and_then(|row| row.get(1)).and_then(Option::as_deref);
        parse(text.ok_or_else(|| violation("TIMELINE_HISTORY returned nothing"))?)
    }
}

/// Lines of `timeline <tab> switch point <tab> reason`; PostgreSQL's `readTimeLineHistory` skips empty ones and
/// comments, and wants the numbers to rise.
fn parse(text: &str) -> Result<Vec<Ancestor>> {
    let mut ancestors: Vec<Ancestor> = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if line.starts_with('#') {
            continue;
        }
        let mut words = line.split_whitespace();
        let timeline = words.next().and_then(|word| word.parse().ok());
        let left_at = words.next().and_then(|word| word.parse().ok());
        let found = timeline.zip(left_at).map(|(timeline, left_at)| Ancestor { timeline, left_at });
        let last = ancestors.last().map_or(0, |last| last.timeline);
        let rises = |next: &Ancestor| next.timeline > last;
        ancestors.push(
            found
                .filter(rises)
                .ok_or_else(|| violation("the history of the source's timeline cannot be read"))?,
        );
    }
    Ok(ancestors)
}

#[cfg(test)]
mod tests {
    use rsrepl_wire::Lsn;

    use super::*;

    #[test]
    fn a_history_file() {
        let text = "1\t0/3000148\tno recovery target specified\n\n# by hand\n\
                    3\t2/A0\tbefore 2026-01-01 00:00:00+00\n";
        let expected = [(1, 0x300_0148), (3, 0x2_0000_00A0)];
        let expected = expected.map(|(timeline, at)| Ancestor { timeline, left_at: Lsn(at) });
        assert_eq!(parse(text).unwrap(), expected);
        assert_eq!(parse("").unwrap(), []);
    }

    #[test]
    fn no_text_panics() {
        for wrong in [
            "1",
            "x\t0/1\tr",
            "1\t0-1\tr",
            "-1\t0/1",
            "4294967296\t0/1",
            "1\t0/123456789ABCDEF01",
            "2\t0/5\n1\t0/6",
            "2\t0/5\n2\t0/6",
            "\u{fffd}\u{fffd}",
        ] {
            assert_eq!(parse(wrong).unwrap_err().kind(), Kind::Connection, "{wrong:?}");
        }
    }
}
