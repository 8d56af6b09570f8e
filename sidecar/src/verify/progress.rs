//! What `rsrepl verify` tells while it runs, on standard error.

use std::time::{Duration, Instant};

/// Between two lines.
const INTERVAL: Duration = Duration::from_secs(5);

/// The table that is being read.
pub(crate) struct Progress {
    table: String,
    estimated: u64,
    rows: u64,
    began: Instant,
    told: Instant,
}

impl Progress {
    pub(crate) fn new() -> Progress {
        let now = Instant::now();
        Progress { table: String::new(), estimated: 0, rows: 0, began: now, told: now }
    }

    pub(crate) fn table(&mut self, name: String, estimated: u64) {
        (self.table, self.estimated, self.rows) = (name, estimated, 0);
        self.began = Instant::now();
    }

    /// `waiting`: keys that are still to be looked at.
    pub(crate) fn rows(&mut self, rows: u64, waiting: usize) {
        self.rows += rows;
        if self.told.elapsed() < INTERVAL {
            return;
        }
        self.told = Instant::now();
        let rate = self.rows as f64 / self.began.elapsed().as_secs_f64().max(0.001);
        eprintln!(
            "{}: {} of about {} rows, {rate:.0} rows/s, {waiting} keys to look at",
            self.table,
            self.rows,
            self.estimated.max(self.rows)
        );
    }

    pub(crate) fn settling(&mut self, waiting: usize) {
        if waiting > 0 {
            eprintln!("looking at {waiting} keys that differed");
        }
    }
}
