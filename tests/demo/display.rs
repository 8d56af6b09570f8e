//! What the demo shows.

use std::io::{IsTerminal, Write, stdout};
use std::time::Duration;

use postgres::{Client, SimpleQueryMessage};
use rsrepl_tests::rig::{CLICKHOUSE, DATABASE, Rig, STANDBY};
use rsrepl_tests::sidecar::Sidecar;

/// Without a terminal a line is printed this often instead of being rewritten.
const PLAIN_INTERVAL: Duration = Duration::from_secs(2);

/// What was counted at the last look.
#[derive(Clone, Copy, Default)]
struct Look {
    at: Duration,
    transactions: u64,
    events: [f64; 2],
}

/// The line that says how things go.
pub struct Live {
    last: Option<Look>,
    terminal: bool,
    printed: Option<Duration>,
}

impl Live {
    pub fn new() -> Live {
        Live { last: None, terminal: stdout().is_terminal(), printed: None }
    }

    /// Announces what is about to happen.
    pub fn event(&mut self, what: &str) {
        self.clear();
        println!("        * {what}");
    }

    /// Shows rates since the last look, and lags.
    pub fn show(&mut self, at: Duration, transactions: u64, sidecar: &Sidecar) {
        let first = self.last.is_none();
        let last = self.last.unwrap_or_default();
        let seconds = (at - last.at).as_secs_f64().max(0.001);
        let rate = transactions.saturating_sub(last.transactions) as f64 / seconds;
        let mut look = Look { at, transactions, events: last.events };
        let mut line = format!("{:>5.1} s  source {rate:>6.0} tx/s", at.as_secs_f64());
        for (index, name) in [STANDBY, CLICKHOUSE].into_iter().enumerate() {
            let metric = |metric| sidecar.metric(metric, &[("target", name)]);
            let Some(events) = metric("rsrepl_events_processed_total") else {
                line += &format!(" | {name:<10} not there{:>21}", "");
                look.events[index] = 0.0;
                continue;
            };
            let rows = (events - last.events[index]).max(0.0) / seconds;
            let kib = metric("rsrepl_lag_bytes").unwrap_or(0.0) / 1024.0;
            let lag = metric("rsrepl_lag_seconds").unwrap_or(0.0);
            line += &format!(" | {name:<10} {rows:>6.0} rows/s lag {kib:>5.0} KiB {lag:>4.1} s");
            look.events[index] = events;
        }
        if first {
            // nothing to take a difference from
        } else if self.terminal {
            print!("\r{line}");
            let _ = stdout().flush();
        } else if self.printed.is_none_or(|then| at - then >= PLAIN_INTERVAL) {
            println!("{line}");
            self.printed = Some(at);
        } else {
            // rates are of the printed interval
            return;
        }
        self.last = Some(look);
    }

    pub fn end(&mut self) {
        self.clear();
    }

    fn clear(&self) {
        if self.terminal {
            print!("\r\x1b[K");
        }
    }
}

/// Prints what `rsrepl.health()` says.
pub fn health(client: &mut Client) {
    println!("\nrsrepl.health() on the source:");
    let rows = client.simple_query("SELECT * FROM rsrepl.health()").expect("ask for health");
    for row in rows {
        if let SimpleQueryMessage::Row(row) = row {
            let fields: Vec<&str> = (0..row.len()).map(|i| row.get(i).unwrap_or("")).collect();
            println!("  {}", fields.join(" | "));
        }
    }
}

/// Prints where to look around.
pub fn addresses(rig: &Rig) {
    println!();
    for (name, server) in [("source", &rig.source), ("standby", &rig.standby)] {
        println!("{name:<11} psql '{}'", server.conninfo(DATABASE));
    }
    println!("ClickHouse  {}", rig.clickhouse.url(DATABASE));
    println!("sidecar     {}/metrics", rig.sidecar.telemetry());
    println!("folder      {}", rig.scratch.path().display());
}
