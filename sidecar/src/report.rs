//! Tells the source, through `rsrepl.report(jsonb)`, how slot and targets are doing. Best effort on a
//! session of its own: whatever goes wrong here, the pipeline does not notice.

use std::time::{Duration, Instant, SystemTime};

use futures_util::TryStreamExt;
use rsrepl_wire::Lsn;
use serde_json::{Value, json};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;
use tokio_util::sync::CancellationToken;

use crate::copy::{Progress, show};
use crate::error::{Error, Kind, Result};
use crate::redact::Mask;
use crate::status::{Snapshot, Status, TargetState, TargetStatus};
use crate::tls::PgConnect;

/// Time between two reports while nothing special happens.
const INTERVAL: Duration = Duration::from_secs(1);

/// How soon a changed state or error is noticed.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// How long one report may take.
const REPORT_TIMEOUT: Duration = Duration::from_secs(5);

/// Between attempts after a failure; doubles up to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// What every report says of the sender.
#[derive(Clone, Debug)]
pub struct Sender {
    pub slot: String,
    pub version: &'static str,
    pub pid: u32,
    pub host: String,
}

impl Sender {
    /// This process, reading `slot`.
    pub fn new(slot: &str) -> Self {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let host = match host.trim() {
            "" => "unknown".to_owned(),
            name => name.to_owned(),
        };
        let version = env!("CARGO_PKG_VERSION");
        Sender { slot: slot.to_owned(), version, pid: std::process::id(), host }
    }
}

/// Sends reports until told to stop.
pub struct Reporter {
    connect: PgConnect,
    sender: Sender,
    status: Status,
    mask: Mask,
    session: Option<Client>,
    rates: Rates,
    copy: Copy,
    /// The last failure that was logged; the same one is not logged again before a success.
    told: Option<String>,
}

impl Reporter {
    pub fn new(connect: &PgConnect, slot: &str, status: Status, mask: Mask) -> Self {
        Reporter {
            connect: connect.clone().application_name("rsrepl report"),
            sender: Sender::new(slot),
            status,
            mask,
            session: None,
            rates: Rates::default(),
            copy: Copy::default(),
            told: None,
        }
    }

    /// Reports every second and on changes of state, and once more at `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut backoff = BACKOFF.0;
        let mut next = Instant::now();
        let mut shown = Vec::new();
        loop {
            let stopping = tokio::select! {
                () = stop.cancelled() => true,
                () = tokio::time::sleep(LOOK_INTERVAL) => false,
            };
            let snapshot = self.status.snapshot();
            let states = states(&snapshot);
            let changed = states != shown && self.session.is_some();
            if !(stopping && self.session.is_some() || changed || Instant::now() >= next) {
                if stopping {
                    return;
                }
                continue;
            }
            match self.report(&snapshot).await {
                Ok(()) => {
                    (backoff, shown) = (BACKOFF.0, states);
                    next = Instant::now() + INTERVAL;
                    if self.told.take().is_some() {
                        tracing::info!("reports reach the source again");
                    }
                }
                Err(error) => {
                    self.session = None;
                    self.tell(&error);
                    next = Instant::now() + backoff;
                    backoff = (backoff * 2).min(BACKOFF.1);
                }
            }
            if stopping {
                return;
            }
        }
    }

    async fn report(&mut self, snapshot: &Snapshot) -> Result<()> {
        let rates = self.rates.since_last(snapshot, Instant::now());
        let mut report = payload(&self.sender, snapshot, &rates, &self.mask);
        let copies = self.copy.changed(self.status.copy(), Instant::now());
        if let Some(copies) = &copies {
            report["copies"] = copies.clone();
        }
        let report = report.to_string();
        let session = self.session.take();
        let sent = tokio::time::timeout(REPORT_TIMEOUT, send(&self.connect, session, report)).await;
        self.session = Some(sent.map_err(|_| Error::new(Kind::Connection, "no answer in time"))??);
        self.copy.sent = copies.or(self.copy.sent.take());
        Ok(())
    }

    /// A source that is away is the pipeline's to tell; what an administrator must mend is told once.
    fn tell(&mut self, error: &Error) {
        let text = error.to_string();
        if error.kind() == Kind::Connection {
            tracing::debug!(error = text, "no report to the source");
        } else if self.told.as_ref() != Some(&text) {
            tracing::warn!(error = text, "reports do not reach the source; replication goes on");
            self.told = Some(text);
        }
    }
}

/// Sends over `session`, or over a new one, and gives it back.
async fn send(connect: &PgConnect, session: Option<Client>, report: String) -> Result<Client> {
    let client = match session {
        Some(client) => client,
        None => connect.connect().await?,
    };
    let sql = "SELECT rsrepl.report($1::text::jsonb)";
    let rows = client.query_typed_raw(sql, [(report, Type::TEXT)]).await.map_err(refused)?;
    rows.try_for_each(|_| std::future::ready(Ok(()))).await.map_err(refused)?;
    Ok(client)
}

fn refused(error: tokio_postgres::Error) -> Error {
    let kind = if error.is_closed() { Kind::Connection } else { Kind::Server };
    let hint = match error.code() {
        Some(&SqlState::UNDEFINED_FUNCTION | &SqlState::INVALID_SCHEMA_NAME) => {
            "on the source: CREATE EXTENSION rsrepl"
        }
        Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
            "on the source: CALL rsrepl.grant_sidecar('ROLE') with the sidecar's role"
        }
        Some(code) if code.code().starts_with("57P") => {
            return Error::new(Kind::Connection, "the source ended the session").because(error);
        }
        _ => return Error::new(kind, "rsrepl.report failed").because(error),
    };
    Error::new(kind, "rsrepl.report cannot be called").because(error).hint(hint)
}

/// What is worth a report of its own when it changes.
fn states(snapshot: &Snapshot) -> Vec<(TargetState, Option<String>)> {
    snapshot.targets.iter().map(|target| (target.state, target.last_error.clone())).collect()
}

/// What is said of an initial copy.
#[derive(Debug, Default)]
struct Copy {
    rates: show::Rates,
    /// The last that the source was told.
    sent: Option<Value>,
}

impl Copy {
    /// `None`: the source knows it already, or there is none.
    fn changed(&mut self, progress: &Progress, now: Instant) -> Option<Value> {
        let tables = progress.tables();
        if tables.is_empty() {
            return None;
        }
        let copies = show::reported(&self.rates.look(tables, now));
        (self.sent.as_ref() != Some(&copies)).then_some(copies)
    }
}

/// Row changes per second of each target, from one report to the next.
#[derive(Debug, Default)]
struct Rates {
    last: Option<(Instant, Vec<u64>)>,
}

impl Rates {
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    fn since_last(&mut self, snapshot: &Snapshot, now: Instant) -> Vec<f64> {
        let events: Vec<u64> = snapshot.targets.iter().map(|target| target.events).collect();
        let rates = match &self.last {
            Some((then, before)) if now > *then => {
                let seconds = now.duration_since(*then).as_secs_f64();
                let rate =
                    |(now, before): (&u64, &u64)| now.saturating_sub(*before) as f64 / seconds;
                events.iter().zip(before).map(rate).collect()
            }
            _ => vec![0.0; events.len()],
        };
        self.last = Some((now, events));
        rates
    }
}

/// The argument of `rsrepl.report`; its shape is in `docs/sql-api.md`.
fn payload(sender: &Sender, snapshot: &Snapshot, rates: &[f64], mask: &Mask) -> Value {
    let source = &snapshot.source;
    let now = SystemTime::now();
    let target = |(target, rate): (&TargetStatus, &f64)| {
        json!({
            "name": target.name,
            "kind": target.kind.as_str(),
            // an extension that knows four states takes this, and does not look at the other two
            "state": target.state.basic().as_str(),
            "condition": target.state.as_str(),
            "detail": target.detail(),
            "applied_lsn": lsn(target.applied),
            "lag_bytes": target.lag_bytes,
            "lag_seconds": target.lag(now).as_secs_f64(),
            "delay_seconds": target.delay.as_secs_f64(),
            "events": target.events,
            "events_per_second": rate,
            "batches": target.batches,
            "transactions": target.transactions,
            "skipped": target.skipped,
            "retries": target.retries,
            "next_attempt": target.next_attempt.map(|at| humantime::format_rfc3339_millis(at).to_string()),
            // NUL cannot be stored in a jsonb
            "last_error": target.last_error.as_ref().map(|error| mask.apply(error).replace('\0', " ")),
        })
    };
    json!({
        "slot": sender.slot,
        "version": sender.version,
        "pid": sender.pid,
        "host": sender.host,
        "received_lsn": lsn(source.received),
        "spooled_lsn": lsn(source.spooled),
        "confirmed_lsn": lsn(source.confirmed),
        "spool_bytes": source.spool.as_ref().map_or(source.spool_bytes, |spool| spool.bytes),
        "reconnects": source.reconnects,
        "targets": snapshot.targets.iter().zip(rates).map(target).collect::<Vec<_>>(),
    })
}

fn lsn(lsn: Lsn) -> Option<String> {
    (lsn != Lsn::INVALID).then(|| lsn.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::TargetKind;

    #[test]
    fn a_report_has_the_shape_that_the_extension_takes() {
        let mut target = TargetStatus::new("a", TargetKind::ClickHouse);
        target.state = TargetState::Retrying;
        target.applied = Lsn(0x1_0000_00AB);
        target.next_attempt = Some(SystemTime::UNIX_EPOCH);
        target.last_error = Some("no hunter2\0".into());
        let mut snapshot = Snapshot { targets: vec![target], ..Snapshot::default() };
        (snapshot.source.received, snapshot.source.spooled) = (Lsn(0x10), Lsn(0x10));
        let sender = Sender { slot: "s".into(), version: "0.1.0", pid: 7, host: "h".into() };
        let report = payload(&sender, &snapshot, &[2.5], &Mask::new(["hunter2".to_owned()]));
        let expected = json!({
            "slot": "s", "version": "0.1.0", "pid": 7, "host": "h",
            "received_lsn": "0/10", "spooled_lsn": "0/10", "confirmed_lsn": null,
            "spool_bytes": 0, "reconnects": 0,
            "targets": [{
                "name": "a", "kind": "clickhouse", "state": "retrying",
                "condition": "retrying", "detail": null, "applied_lsn": "1/AB",
                "lag_bytes": 0, "lag_seconds": 0.0, "delay_seconds": 0.0, "events": 0, "events_per_second": 2.5,
                "batches": 0, "transactions": 0, "skipped": 0, "retries": 0,
                "next_attempt": "1970-01-01T00:00:00.000Z", "last_error": "no *** ",
            }],
        });
        assert_eq!(report, expected);
    }

    #[test]
    fn rates_are_between_two_reports() {
        let mut rates = Rates::default();
        let start = Instant::now();
        let mut snapshot = Snapshot {
            targets: vec![TargetStatus::new("a", TargetKind::Postgres)],
            ..Snapshot::default()
        };
        assert_eq!(rates.since_last(&snapshot, start), [0.0]);
        snapshot.targets[0].events = 500;
        assert_eq!(rates.since_last(&snapshot, start + Duration::from_secs(2)), [250.0]);
        assert_eq!(rates.since_last(&snapshot, start + Duration::from_secs(3)), [0.0]);
    }
}
