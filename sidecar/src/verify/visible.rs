//! What the source shows later than its targets do.
//!
//! PostgreSQL shows a transaction after its commit is in the WAL, and with synchronous replication it waits in
//! between for a standby, however long that takes. The stream waits for neither. So a target may have what no look
//! at the source shows yet. A look shows all that a target had when nothing is left under way that had begun
//! before the target was read: that is what [`horizon`] and [`Visibility::reaches`] are for.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::Client;

use super::postgres::failed;
use crate::error::Result;

/// How long transactions are waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// The same while the stream is held up.
const PATIENCE_LOCKED: Duration = Duration::from_millis(200);
/// Between two looks at what is under way.
const INTERVAL: Duration = Duration::from_millis(10);

/// Transactions of the source that are waited for.
pub(crate) struct Visibility {
    /// Commits wait for standbys.
    synchronous: bool,
    /// What began before it and is still under way takes longer than [`PATIENCE`].
    given_up: Cell<u64>,
}

/// The transaction that begins next; all that a target has by now have begun before.
pub(crate) async fn horizon(source: &Client) -> Result<u64> {
    // a snapshot ends behind the last transaction that has ended; age counts from the next that begins
    let sql = "SELECT pg_snapshot_xmax(s)::text::bigint + age(pg_snapshot_xmax(s)::xid)
               FROM pg_current_snapshot() AS s";
    let row = source.query_one(sql, &[]).await.map_err(|error| failed("the source", error))?;
    Ok(row.get::<_, i64>(0).unsigned_abs())
}

/// Transactions that are under way.
struct UnderWay {
    these: Vec<u64>,
    /// And any from here on that has begun.
    from: u64,
}

impl UnderWay {
    async fn read(source: &Client) -> Result<UnderWay> {
        let sql = "SELECT pg_snapshot_xmax(s)::text::bigint,
                     ARRAY(SELECT x::text::bigint FROM pg_snapshot_xip(s) AS x)
                   FROM pg_current_snapshot() AS s";
        let row = source.query_one(sql, &[]).await.map_err(|error| failed("the source", error))?;
        let these = row.get::<_, Vec<i64>>(1).into_iter().map(i64::unsigned_abs).collect();
        Ok(UnderWay { these, from: row.get::<_, i64>(0).unsigned_abs() })
    }

    /// Whether one is among those that begin at `first` and end before `end`.
    fn has(&self, first: u64, end: u64) -> bool {
        let within = |x: &u64| (first..end).contains(x);
        self.these.iter().any(within) || self.from.max(first) < end
    }
}

impl Visibility {
    pub(crate) async fn read(source: &Client) -> Result<Visibility> {
        let sql = "SELECT current_setting('synchronous_standby_names') <> ''";
        let row = source.query_one(sql, &[]).await.map_err(|error| failed("the source", error))?;
        Ok(Visibility { synchronous: row.get(0), given_up: Cell::new(0) })
    }

    /// Waits until whatever is read of the source shows all that was committed of what had begun before
    /// `horizon`; `false`: that cannot be had now.
    ///
    /// What takes very long is at work and not between its commit and being shown, unless commits wait for
    /// standbys.
    pub(crate) async fn reaches(&self, source: &Client, horizon: u64) -> Result<bool> {
        self.reaches_within(source, horizon, PATIENCE).await
    }

    /// The same with the little patience that there is while the stream is held up.
    pub(crate) async fn reaches_at_once(&self, source: &Client, horizon: u64) -> Result<bool> {
        self.reaches_within(source, horizon, PATIENCE_LOCKED).await
    }

    async fn reaches_within(
        &self,
        source: &Client,
        horizon: u64,
        patience: Duration,
    ) -> Result<bool> {
        if horizon == 0 {
            return Ok(true);
        }
        let began = Instant::now();
        loop {
            let under_way = UnderWay::read(source).await?;
            let given_up = self.given_up.get();
            if !under_way.has(given_up, horizon) {
                return Ok(!self.synchronous || !under_way.has(0, given_up.min(horizon)));
            }
            if began.elapsed() > patience {
                if patience >= PATIENCE {
                    self.given_up.set(given_up.max(horizon));
                }
                return Ok(!self.synchronous);
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_assigned_and_has_not_ended_is_under_way() {
        let under_way = UnderWay { these: vec![5, 8], from: 10 };
        for (first, end, expected) in [
            (0, 5, false),
            (0, 6, true),
            (6, 8, false),
            (6, 9, true),
            (9, 10, false),
            // 10 has begun, or the horizon would not be behind it
            (9, 11, true),
            (11, 11, false),
            (12, 11, false),
        ] {
            assert_eq!(under_way.has(first, end), expected, "{first}..{end}");
        }
    }
}
