//! `rsrepl status`: what the source knows of slot and targets, and whether a sidecar answers here.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::FAILURE;
use crate::config::Config;
use crate::error::{Error, Kind, Result};

/// How long the sidecar's endpoint may take to answer.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the source may take.
const QUERY_TIMEOUT: Duration = Duration::from_secs(30);

/// The largest answer of a probe that is read, in bytes.
const PROBE_MAX: u64 = 1 << 20;

/// Columns of the two tables, as the views call them.
const SLOT_COLUMNS: [&str; 7] = [
    "slot_name",
    "database",
    "active",
    "confirmed_flush_lsn",
    "lag_bytes",
    "retained_bytes",
    "wal_status",
];
const TARGET_COLUMNS: [&str; 11] = [
    "target",
    "kind",
    "state",
    "applied_lsn",
    "lag_bytes",
    "lag_seconds",
    "events_per_second",
    "retries",
    "next_attempt",
    "detail",
    "last_error",
];

/// See the module's documentation. Fails when the source cannot be asked, or when there is no slot.
pub(super) async fn status(config: &Config, json: bool) -> ExitCode {
    let (asked, sidecar) = tokio::join!(ask(config), probe(config.telemetry.address));
    let mask = config.mask();
    let (slots, targets, failure) = match asked {
        Ok((slots, targets)) => (slots, targets, None),
        Err(error) => (Vec::new(), Vec::new(), Some(mask.apply(&error.to_string()).into_owned())),
    };
    if json {
        let all = json!({
            "slots": slots, "targets": targets, "sidecar": sidecar, "error": failure,
        });
        println!("{all:#}");
    } else {
        if !slots.is_empty() {
            println!("{}", table(&SLOT_COLUMNS, &slots));
        }
        if !targets.is_empty() {
            println!("{}", table(&TARGET_COLUMNS, &targets));
        }
        println!("{}", describe(sidecar.as_ref()));
        if let Some(failure) = &failure {
            eprintln!("rsrepl: {failure}");
        } else if slots.is_empty() {
            eprintln!("rsrepl: there is no slot {}", config.source.slot_name);
        }
    }
    if failure.is_some() || slots.is_empty() { ExitCode::from(FAILURE) } else { ExitCode::SUCCESS }
}

/// The rows of `rsrepl.slots` and `rsrepl.targets` that belong to the configured slot.
async fn ask(config: &Config) -> Result<(Vec<Value>, Vec<Value>)> {
    let rows = async {
        let connection = config.source.connection.clone().application_name("rsrepl status");
        let client = connection.connect().await?;
        let failed = |error: tokio_postgres::Error| {
            Error::new(Kind::Server, "the source does not tell its status")
                .because(error)
                .hint("CREATE EXTENSION rsrepl; CALL rsrepl.grant_sidecar('ROLE')")
        };
        let slot = &config.source.slot_name;
        let mut answers = Vec::new();
        for sql in [
            "SELECT to_jsonb(s)::text FROM rsrepl.slots AS s WHERE slot_name = $1::text::name",
            "SELECT to_jsonb(t)::text FROM rsrepl.targets AS t WHERE slot = $1::text::name
             ORDER BY target",
        ] {
            let rows = client.query(sql, &[slot]).await.map_err(failed)?;
            let values = rows.iter().filter_map(|row| serde_json::from_str(row.get(0)).ok());
            answers.push(values.collect::<Vec<Value>>());
        }
        let targets = answers.pop().unwrap_or_default();
        Ok((answers.pop().unwrap_or_default(), targets))
    };
    tokio::time::timeout(QUERY_TIMEOUT, rows)
        .await
        .map_err(|_| Error::new(Kind::Connection, "the source does not answer"))?
}

/// The answer of `/readyz`, if a sidecar serves the configured address.
async fn probe(address: Option<SocketAddr>) -> Option<Value> {
    let ask = async {
        let mut stream = TcpStream::connect(address?).await.ok()?;
        let request = b"GET /readyz HTTP/1.0\r\nHost: rsrepl\r\n\r\n";
        stream.write_all(request).await.ok()?;
        let mut answer = String::new();
        stream.take(PROBE_MAX).read_to_string(&mut answer).await.ok()?;
        let (_, body) = answer.split_once("\r\n\r\n")?;
        serde_json::from_str::<Value>(body).ok().filter(|body| body.get("ok").is_some())
    };
    tokio::time::timeout(PROBE_TIMEOUT, ask).await.ok().flatten()
}

fn describe(sidecar: Option<&Value>) -> String {
    let Some(answer) = sidecar else {
        return "sidecar: no answer at telemetry.address on this machine".into();
    };
    if answer["ok"] == Value::Bool(true) {
        return "sidecar: ready".into();
    }
    let targets = answer["targets"].as_array().map(Vec::as_slice).unwrap_or_default();
    let unwell = std::iter::once(&answer["source"])
        .chain(targets)
        .filter(|part| part["ok"] != Value::Bool(true))
        .map(|part| format!("\n  {}: {}", cell(&part["name"]), cell(&part["detail"])));
    format!("sidecar: not ready{}", unwell.collect::<String>())
}

/// Rows under their headings, numbers to the right.
fn table(columns: &[&str], rows: &[Value]) -> String {
    let cells: Vec<Vec<String>> =
        rows.iter().map(|row| columns.iter().map(|column| cell(&row[*column])).collect()).collect();
    let width = |(index, column): (usize, &&str)| {
        let widest = cells.iter().filter_map(|row| row.get(index)).map(|cell| cell.chars().count());
        widest.max().unwrap_or(0).max(column.len())
    };
    let widths: Vec<usize> = columns.iter().enumerate().map(width).collect();
    let mut out = String::new();
    let mut line = |cells: Vec<(&str, bool)>| {
        let padded: Vec<String> = cells
            .iter()
            .zip(&widths)
            .map(|((text, right), width)| match right {
                true => format!("{text:>width$}"),
                false => format!("{text:<width$}"),
            })
            .collect();
        out.push_str(padded.join("  ").trim_end());
        out.push('\n');
    };
    let numeric: Vec<bool> =
        columns.iter().map(|column| rows.iter().any(|row| row[*column].is_number())).collect();
    line(columns.iter().copied().zip(numeric.iter().copied()).collect());
    for row in &cells {
        line(row.iter().map(String::as_str).zip(numeric.iter().copied()).collect());
    }
    out
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) => text.replace('\n', " "),
        Value::Number(number) if number.is_f64() => {
            format!("{:.1}", number.as_f64().unwrap_or_default())
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let rows = [
            json!({"target": "a", "lag_bytes": 7, "lag_seconds": 0.25, "last_error": null}),
            json!({"target": "longer", "lag_bytes": 12345, "lag_seconds": 0, "last_error": "x\ny"}),
        ];
        let text = table(&["target", "lag_bytes", "lag_seconds", "last_error"], &rows);
        assert_eq!(
            text,
            "target  lag_bytes  lag_seconds  last_error\n\
             a               7          0.2  -\n\
             longer      12345            0  x y\n"
        );
    }

    #[test]
    fn an_unready_sidecar_says_why() {
        let answer = json!({"ok": false, "source": {"name": "source", "ok": true, "detail": "connected"},
            "targets": [{"name": "a", "ok": false, "detail": "stopped: no table"}]});
        assert_eq!(describe(Some(&answer)), "sidecar: not ready\n  a: stopped: no table");
        assert_eq!(describe(Some(&json!({"ok": true}))), "sidecar: ready");
        assert!(describe(None).contains("no answer"));
    }
}
