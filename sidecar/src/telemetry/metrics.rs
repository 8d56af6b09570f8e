//! What `/metrics` tells. Counters and gauges come from [`Status`](crate::status::Status) when asked;
//! only the two histograms have to be observed where batches are applied.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

/// Upper bounds of `rsrepl_batch_size`: 1 row to 262,144 rows.
const BATCH_SIZE_BUCKETS: u16 = 10;
/// Upper bounds of `rsrepl_sink_latency_seconds`: 0.5 ms to 65 s.
const LATENCY_BUCKETS: u16 = 18;

/// Where the pipeline tells of each batch; cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<[TargetHistograms]>);

#[derive(Debug)]
pub(super) struct TargetHistograms {
    pub(super) batch_size: Histogram,
    pub(super) latency: Histogram,
}

impl Metrics {
    /// For so many targets, by their index in the configuration.
    pub fn new(targets: usize) -> Self {
        let histograms = || TargetHistograms {
            batch_size: Histogram::new(exponential_buckets(1.0, 4.0, BATCH_SIZE_BUCKETS)),
            latency: Histogram::new(exponential_buckets(0.0005, 2.0, LATENCY_BUCKETS)),
        };
        Metrics((0..targets).map(|_| histograms()).collect())
    }

    /// A target has made a batch durable: `rows` row changes, `latency` from handing it over to `Ok`.
    #[expect(clippy::cast_precision_loss, reason = "rows of one batch are far below 2^52")]
    pub fn observe_batch(&self, target: usize, rows: usize, latency: Duration) {
        if let Some(histograms) = self.0.get(target) {
            histograms.batch_size.observe(rows as f64);
            histograms.latency.observe(latency.as_secs_f64());
        }
    }
}
