//! What `/metrics` tells. Counters and gauges are read from [`Status`] when asked; only the two
//! histograms have to be observed where batches are applied. `docs/operations.md` lists them all.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeGaugeValue, EncodeMetric, MetricEncoder, NoLabelSet,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::copy::TableProgress;
use crate::spool::OnDisk;
use crate::status::{Snapshot, SourceStatus, Status, TargetState, TargetStatus};

/// Upper bounds of `rsrepl_batch_size`: 1 row to 262,144 rows.
const BATCH_SIZE_BUCKETS: u16 = 10;
/// Upper bounds of `rsrepl_sink_latency_seconds`: 0.5 ms to 65 s.
const LATENCY_BUCKETS: u16 = 18;

/// Where the pipeline tells of each batch; cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<[TargetHistograms]>);

#[derive(Debug)]
struct TargetHistograms {
    batch_size: Histogram,
    latency: Histogram,
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

    /// A target has applied a batch: `rows` row changes, `latency` from handing it over.
    #[expect(clippy::cast_precision_loss, reason = "rows of one batch are far below 2^52")]
    pub fn observe_batch(&self, target: usize, rows: usize, latency: Duration) {
        if let Some(histograms) = self.0.get(target) {
            histograms.batch_size.observe(rows as f64);
            histograms.latency.observe(latency.as_secs_f64());
        }
    }

    /// A registry that reads `status` each time it is encoded.
    pub(super) fn registry(&self, status: Status) -> Registry {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(StatusCollector { status, metrics: self.clone() }));
        registry
    }
}

#[derive(Debug)]
struct StatusCollector {
    status: Status,
    metrics: Metrics,
}

type Labels<'a> = [(&'static str, &'a str); 2];

fn labels(target: &TargetStatus) -> Labels<'_> {
    [("target", target.name.as_str()), ("kind", target.kind.as_str())]
}

impl Collector for StatusCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let Snapshot { source, targets } = self.status.snapshot();
        let mut encoder = Families(&mut encoder);
        encoder.build()?;
        encoder.source(&source)?;
        encoder.copy(&self.status.copy().tables())?;
        encoder.counters(&targets)?;
        encoder.gauges(&targets, SystemTime::now())?;
        encoder.histograms(&targets, &self.metrics)
    }
}

/// Writes one family after the other: name, help, samples.
struct Families<'e, 'd>(&'e mut DescriptorEncoder<'d>);

impl Families<'_, '_> {
    fn family(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        samples: impl FnOnce(MetricEncoder<'_>) -> fmt::Result,
    ) -> fmt::Result {
        samples(self.0.encode_descriptor(name, help, None, kind)?)
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.family(name, help, MetricType::Gauge, |mut metric| metric.encode_gauge(&value))
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.family(name, help, MetricType::Counter, |mut metric| {
            metric.encode_counter::<NoLabelSet, _, u64>(&value, None)
        })
    }

    fn build(&mut self) -> fmt::Result {
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        self.family("rsrepl_build", "The running sidecar", MetricType::Info, |mut metric| {
            metric.encode_info(&version)
        })
    }

    fn source(&mut self, source: &SourceStatus) -> fmt::Result {
        let connected = u64::from(source.connected);
        self.gauge("rsrepl_source_connected", "1 while the stream is connected", connected)?;
        self.counter("rsrepl_source_reconnects", "Connections after the first", source.reconnects)?;
        self.gauge(
            "rsrepl_received_lsn",
            "End of the last transaction or keepalive received, as a byte position",
            source.received.0,
        )?;
        self.gauge(
            "rsrepl_server_wal_end_lsn",
            "The server's WAL end as it last said, as a byte position",
            source.server_wal_end.0,
        )?;
        self.gauge(
            "rsrepl_confirmed_lsn",
            "Last position confirmed to the slot, as a byte position",
            source.confirmed.0,
        )?;
        self.gauge(
            "rsrepl_spool_bytes",
            "Bytes of frames held for the targets",
            source.spool_bytes,
        )?;
        if let Some(spool) = &source.spool {
            self.spool(source, spool)?;
        }
        self.gauge(
            "rsrepl_streamed_bytes",
            "Bytes on disk of transactions that were streamed and are not applied everywhere",
            source.streamed_bytes,
        )?;
        self.gauge("rsrepl_open_streams", "Transactions in progress", source.open_streams)?;
        self.gauge(
            "rsrepl_streaming_refused",
            "1 while large transactions come whole because they cannot be kept here in progress",
            u64::from(source.streaming_refused),
        )
    }

    /// On disk.
    fn spool(&mut self, source: &SourceStatus, spool: &OnDisk) -> fmt::Result {
        self.gauge("rsrepl_spool_disk_bytes", "Bytes of the spool on disk", spool.bytes)?;
        self.gauge(
            "rsrepl_spooled_lsn",
            "End of what is durable in the spool, as a byte position",
            source.spooled.0,
        )?;
        self.gauge(
            "rsrepl_spool_begin_lsn",
            "Begin of the spool, as a byte position",
            spool.begin.0,
        )?;
        self.gauge(
            "rsrepl_spool_stuck",
            "1 while the spool cannot be written to",
            u64::from(spool.stuck.is_some()),
        )?;
        self.counter("rsrepl_spool_syncs", "Calls of fdatasync for the spool", spool.syncs)?;
        let name = "rsrepl_spool_sync_seconds";
        self.family(name, "Time spent in them", MetricType::Counter, |mut metric| {
            metric.encode_counter::<NoLabelSet, _, u64>(&spool.sync_time.as_secs_f64(), None)
        })
    }

    fn copy(&mut self, tables: &[TableProgress]) -> fmt::Result {
        let unfinished = tables.iter().filter(|table| table.left > 0).count();
        self.gauge(
            "rsrepl_copy_tables_left",
            "Tables of the initial copy that are not on every target",
            u64::try_from(unfinished).unwrap_or(u64::MAX),
        )?;
        self.gauge(
            "rsrepl_copy_chunks_left",
            "Chunks of the initial copy that are to be written, each once for each target",
            tables.iter().map(|table| table.left).sum(),
        )
    }

    fn counters(&mut self, targets: &[TargetStatus]) -> fmt::Result {
        type Value = fn(&TargetStatus) -> u64;
        let families: [(&str, &str, Value); 7] = [
            ("rsrepl_copied_rows", "Rows of the initial copy", |t| t.copied_rows),
            ("rsrepl_copied_bytes", "Bytes of the initial copy", |t| t.copied_bytes),
            ("rsrepl_events_processed", "Row changes applied", |t| t.events),
            ("rsrepl_transactions_processed", "Transactions applied", |t| t.transactions),
            ("rsrepl_transactions_skipped", "Transactions that went to the dead letters", |t| {
                t.skipped
            }),
            ("rsrepl_batches_processed", "Batches applied", |t| t.batches),
            ("rsrepl_retries", "Attempts after an error", |t| t.retries),
        ];
        for (name, help, value) in families {
            self.family(name, help, MetricType::Counter, |mut metric| {
                for target in targets {
                    let labels = labels(target);
                    let mut sample = metric.encode_family(&labels)?;
                    sample.encode_counter::<NoLabelSet, _, u64>(&value(target), None)?;
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    fn per_target<V: EncodeGaugeValue>(
        &mut self,
        targets: &[TargetStatus],
        name: &str,
        help: &str,
        value: impl Fn(&TargetStatus) -> V,
    ) -> fmt::Result {
        self.family(name, help, MetricType::Gauge, |mut metric| {
            for target in targets {
                metric.encode_family(&labels(target))?.encode_gauge(&value(target))?;
            }
            Ok(())
        })
    }

    fn gauges(&mut self, targets: &[TargetStatus], now: SystemTime) -> fmt::Result {
        self.per_target(
            targets,
            "rsrepl_lag_bytes",
            "Bytes of WAL received and not yet applied; 0 when idle",
            |t| t.lag_bytes,
        )?;
        self.per_target(
            targets,
            "rsrepl_lag_seconds",
            "Age of the oldest transaction not yet applied; 0 when idle",
            |t| t.lag(now).as_secs_f64(),
        )?;
        self.per_target(
            targets,
            "rsrepl_applied_lsn",
            "End of the last transaction that the target shows, as a byte position",
            |t| t.applied.0,
        )?;
        self.per_target(
            targets,
            "rsrepl_apply_delay_seconds",
            "How late the target is to be",
            |t| t.delay.as_secs_f64(),
        )?;
        self.family(
            "rsrepl_target_state",
            "1 for the state that the target is in",
            MetricType::Gauge,
            |mut metric| {
                for target in targets {
                    for state in TargetState::ALL {
                        let [name, kind] = labels(target);
                        let labels = [name, kind, ("state", state.as_str())];
                        metric
                            .encode_family(&labels)?
                            .encode_gauge(&u64::from(target.state == state))?;
                    }
                }
                Ok(())
            },
        )
    }

    fn histograms(&mut self, targets: &[TargetStatus], metrics: &Metrics) -> fmt::Result {
        type Value = fn(&TargetHistograms) -> &Histogram;
        let families: [(&str, &str, Value); 2] = [
            ("rsrepl_batch_size", "Row changes of one batch", |h| &h.batch_size),
            ("rsrepl_sink_latency_seconds", "Time until a batch was applied", |h| &h.latency),
        ];
        for (name, help, value) in families {
            self.family(name, help, MetricType::Histogram, |mut metric| {
                for (target, histograms) in targets.iter().zip(metrics.0.iter()) {
                    value(histograms).encode(metric.encode_family(&labels(target))?)?;
                }
                Ok(())
            })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::status::TargetKind;

    /// Names of metrics in a text, without the endings that samples get.
    fn names(text: &str) -> BTreeSet<String> {
        text.split(|c: char| !c.is_ascii_lowercase() && c != '_')
            .filter(|word| word.starts_with("rsrepl_"))
            .map(|word| {
                let endings = ["_total", "_bucket", "_count", "_sum", "_info"];
                let end = endings.iter().find_map(|ending| word.strip_suffix(ending));
                end.unwrap_or(word).to_owned()
            })
            .collect()
    }

    #[test]
    fn every_metric_is_documented() {
        let status = Status::new(vec![TargetStatus::new("a", TargetKind::Postgres)]);
        status.update_source(|source| source.spool = Some(OnDisk::default()));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &Metrics::new(1).registry(status))
            .expect("encodes");
        let document = include_str!("../../../docs/operations.md");
        let section =
            document.split("### Metrics").nth(1).and_then(|rest| rest.split("###").next());
        assert_eq!(names(&text), names(section.expect("a section on metrics")));
    }

    #[test]
    fn every_family_is_there_with_its_labels() {
        let status = Status::new(vec![
            TargetStatus::new("standby", TargetKind::Postgres),
            TargetStatus::new("olap", TargetKind::ClickHouse),
        ]);
        status.update_target(1, |target| {
            target.events = 7;
            target.state = TargetState::Retrying;
            target.lag_bytes = 4096;
            target.last_error = Some("marker".into());
        });
        status.update_source(|source| source.connected = true);
        let metrics = Metrics::new(2);
        metrics.observe_batch(1, 100, Duration::from_millis(3));
        metrics.observe_batch(9, 1, Duration::ZERO);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &metrics.registry(status))
            .expect("encodes");
        for line in [
            "rsrepl_events_processed_total{target=\"olap\",kind=\"clickhouse\"} 7",
            "rsrepl_events_processed_total{target=\"standby\",kind=\"postgres\"} 0",
            "rsrepl_lag_bytes{target=\"olap\",kind=\"clickhouse\"} 4096",
            "rsrepl_lag_seconds{target=\"standby\",kind=\"postgres\"} 0.0",
            "rsrepl_batch_size_sum{target=\"olap\",kind=\"clickhouse\"} 100.0",
            "rsrepl_batch_size_bucket{le=\"64.0\",target=\"olap\",kind=\"clickhouse\"} 0",
            "rsrepl_batch_size_bucket{le=\"256.0\",target=\"olap\",kind=\"clickhouse\"} 1",
            "rsrepl_sink_latency_seconds_count{target=\"olap\",kind=\"clickhouse\"} 1",
            "rsrepl_target_state{target=\"olap\",kind=\"clickhouse\",state=\"retrying\"} 1",
            "rsrepl_target_state{target=\"olap\",kind=\"clickhouse\",state=\"running\"} 0",
            "rsrepl_source_connected 1",
            "rsrepl_source_reconnects_total 0",
            concat!("rsrepl_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
        ] {
            assert!(text.lines().any(|found| found == line), "no {line} in\n{text}");
        }
        assert!(!text.contains("marker") && text.ends_with("# EOF\n"));
    }
}
