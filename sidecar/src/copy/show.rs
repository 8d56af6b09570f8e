//! Shows how far the copy is: rates from what [`Progress`] counts, lines in the log, and what is reported.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use serde_json::{Value, json};
use tracing::info;

use super::{Progress, TableProgress, bars};
use crate::logging;

/// Over how long a rate is taken; that of something large that comes rarely would jump otherwise.
const WINDOW: Duration = Duration::from_secs(30);
/// Between two looks that are kept.
const STEP: Duration = Duration::from_secs(1);
/// Between two lines in the log.
const LOG_INTERVAL: Duration = Duration::from_secs(10);
/// Tables that a line each is for; large ones come first.
const LOGGED_MAX: usize = 10;
/// Tables in one report.
const REPORTED_MAX: usize = 10_000;

/// A table, and how fast it goes.
#[derive(Clone, Debug, PartialEq)]
pub struct TableShown {
    pub progress: TableProgress,
    pub bytes_per_second: f64,
    pub chunks_per_second: f64,
    /// At the rate of its own chunks; `None` while there is none.
    pub seconds_left: Option<f64>,
}

/// What was seen lately.
#[derive(Debug, Default)]
pub struct Rates(VecDeque<(Instant, Vec<TableProgress>)>);

impl Rates {
    /// Rates from the oldest look in the window to this one.
    #[expect(clippy::cast_precision_loss, reason = "rates for people")]
    pub fn look(&mut self, tables: Vec<TableProgress>, now: Instant) -> Vec<TableShown> {
        let samples = &mut self.0;
        while samples.len() > 1 && samples.front().is_some_and(|(at, _)| now - *at > WINDOW) {
            samples.pop_front();
        }
        let shown = {
            let oldest = samples.front();
            let before: HashMap<&str, &TableProgress> = oldest
                .iter()
                .flat_map(|(_, tables)| tables.iter().map(|table| (table.name.as_str(), table)))
                .collect();
            let seconds = oldest.map_or(0.0, |(at, _)| now.duration_since(*at).as_secs_f64());
            let rate = |now: u64, then: u64| match seconds > 0.0 {
                true => now.saturating_sub(then) as f64 / seconds,
                false => 0.0,
            };
            let show = |table: &TableProgress| {
                let then = before.get(table.name.as_str());
                let chunks_per_second = rate(table.chunks, then.map_or(0, |then| then.chunks));
                let left = (table.left > 0 && chunks_per_second > 0.0)
                    .then(|| table.left as f64 / chunks_per_second);
                TableShown {
                    progress: table.clone(),
                    bytes_per_second: rate(table.bytes, then.map_or(0, |then| then.bytes)),
                    chunks_per_second,
                    seconds_left: if table.left == 0 { Some(0.0) } else { left },
                }
            };
            tables.iter().map(show).collect()
        };
        if samples.back().is_none_or(|(at, _)| now.saturating_duration_since(*at) >= STEP) {
            samples.push_back((now, tables));
        }
        shown
    }
}

/// Shows what is under way, for ever: bars where somebody looks, else lines in the log.
pub async fn follow(progress: Progress) {
    match logging::terminal() {
        Some(terminal) => bars::draw(progress, terminal).await,
        None => log(progress).await,
    }
}

async fn log(progress: Progress) {
    let mut rates = Rates::default();
    let mut next = Instant::now() + LOG_INTERVAL;
    loop {
        tokio::time::sleep(STEP).await;
        let mut shown = rates.look(progress.tables(), Instant::now());
        if Instant::now() < next {
            continue;
        }
        next = Instant::now() + LOG_INTERVAL;
        shown.retain(|table| table.progress.left > 0);
        let (tables, waiting) =
            (shown.len(), shown.iter().filter(|t| t.progress.chunks == 0).count());
        shown.retain(|table| table.progress.chunks > 0);
        shown.sort_by_key(|table| std::cmp::Reverse(table.progress.left));
        for table in shown.iter().take(LOGGED_MAX) {
            info!(
                table = table.progress.name,
                rows = table.progress.rows,
                bytes = %ByteSize(table.progress.bytes),
                per_second = %size(table.bytes_per_second),
                chunks_left = table.progress.left,
                time_left = table.seconds_left.map_or_else(|| "unknown".to_owned(), seconds),
                "copying"
            );
        }
        if tables > 0 {
            let per_second: f64 = shown.iter().map(|table| table.bytes_per_second).sum();
            info!(tables, waiting, per_second = %size(per_second), "the initial copy goes on");
        }
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate for people")]
pub(super) fn size(bytes: f64) -> ByteSize {
    ByteSize(bytes as u64)
}

pub(super) fn seconds(seconds: f64) -> String {
    let whole = Duration::try_from_secs_f64(seconds.ceil()).unwrap_or(Duration::MAX);
    humantime::format_duration(whole).to_string()
}

/// The `copies` of a report (`docs/sql-api.md`).
pub fn reported(shown: &[TableShown]) -> Value {
    let table = |table: &TableShown| {
        let progress = &table.progress;
        json!({
            "table": progress.name,
            "chunks": progress.chunks,
            "chunks_left": progress.left,
            "rows": progress.rows,
            "bytes": progress.bytes,
            "bytes_per_second": table.bytes_per_second,
            "seconds_left": table.seconds_left,
        })
    };
    shown.iter().take(REPORTED_MAX).map(table).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_of_the_window() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let table = |chunks: u64, left: u64| {
            let name = "public.t".to_owned();
            vec![TableProgress { name, left, chunks, rows: chunks, bytes: chunks * 100 }]
        };
        let mut rates = Rates::default();
        let shown = rates.look(table(0, 10), at(0));
        assert_eq!((shown[0].bytes_per_second, shown[0].seconds_left), (0.0, None));
        let shown = rates.look(table(4, 6), at(2));
        assert_eq!((shown[0].bytes_per_second, shown[0].seconds_left), (200.0, Some(3.0)));
        // what was fast long ago says nothing
        let shown = rates.look(table(4, 6), at(40));
        assert_eq!((shown[0].bytes_per_second, shown[0].seconds_left), (0.0, None));
        let shown = rates.look(table(10, 0), at(42));
        assert_eq!(shown[0].seconds_left, Some(0.0));
        assert_eq!(reported(&shown)[0]["chunks_left"], 0);
    }
}
