//! Rows a second on the source, and where the time of a range goes.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::Instant;

/// Rows of a range on the source: what is listed when one of them differs.
pub(super) const RANGE_ROWS: u64 = 8_000;

/// See [`Pace::keep`].
pub(crate) struct Pace {
    rate: Option<u64>,
    next: Cell<Instant>,
}

impl Pace {
    pub(crate) fn new(rate: Option<u64>) -> Pace {
        Pace { rate, next: Cell::new(Instant::now()) }
    }

    pub(super) fn range_rows(&self) -> u64 {
        // half a second's at most
        self.rate.map_or(RANGE_ROWS, |rate| (rate / 2).clamp(100, RANGE_ROWS))
    }

    /// Waits as long as rows that were read may have taken, whichever way they were read.
    pub(super) async fn keep(&self, rows: u64) {
        if let Some(due) = self.due(rows, Instant::now()) {
            tokio::time::sleep_until(due).await;
        }
    }

    fn due(&self, rows: u64, now: Instant) -> Option<Instant> {
        let takes = Duration::from_secs_f64(rows as f64 / self.rate?.max(1) as f64);
        // the time that reading them took counts
        let due = self.next.get().max(now.checked_sub(takes).unwrap_or(now)) + takes;
        self.next.set(due);
        Some(due)
    }
}

/// The time that something takes.
pub(super) async fn timed<T>(work: impl Future<Output = T>) -> (T, Duration) {
    let began = Instant::now();
    (work.await, began.elapsed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_rows_together_keep_the_rate() {
        let pace = Pace::new(Some(1000));
        assert_eq!(pace.range_rows(), 500);
        let began = pace.next.get();
        let after = |seconds| Some(began + Duration::from_secs(seconds));
        // two lanes, and a list
        let dues = [500, 500, 1000].map(|rows| pace.due(rows, began));
        assert_eq!(dues, [Some(began + Duration::from_millis(500)), after(1), after(2)]);
        assert_eq!(
            pace.due(1000, began + Duration::from_secs(9)),
            after(9),
            "it was slower anyway"
        );
        assert_eq!(Pace::new(None).due(1000, began), None);
    }
}
