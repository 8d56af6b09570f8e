//! Checks a sidecar's report before `rsrepl.report` (`sql/reports.sql`) stores it.
//!
//! The shape is in `docs/sql-api.md`. A field that is missing or wrong is an error that names it;
//! fields that this version does not know are ignored, so that a newer sidecar can report too.

use std::fmt;

use pgrx::prelude::*;
use rsrepl_wire::Lsn;
use serde_json::{Map, Value, json};

use super::json::to_ascii;

/// Targets in one report.
const TARGETS_MAX: usize = 1000;
/// Tables of a copy in one report.
const COPIES_MAX: usize = 10_000;
/// Characters of a slot's name: PostgreSQL's `NAMEDATALEN` without its NUL.
const SLOT_CHARS_MAX: usize = 63;
/// Characters of the other names: target, kind, version, host.
const NAME_CHARS_MAX: usize = 255;
/// Characters of `last_error` that are kept; the rest is cut off.
const ERROR_CHARS_MAX: usize = 4096;

/// The path of the report itself in an error.
const WHOLE: &str = "(whole)";

/// What a target can be said to do; `sidecar/src/status.rs` has their meaning.
const STATES: [&str; 7] =
    ["starting", "catching_up", "running", "retrying", "stopped", "paused", "delayed"];
/// Characters of `detail` that are kept.
const DETAIL_CHARS_MAX: usize = 1000;

/// The report (JSON, UTF-8) with every known field, each of its right type; LSN 0/0 becomes null.
#[pg_extern(immutable, strict, parallel_safe)]
pub(super) fn checked_report(report: &[u8]) -> String {
    match check(report) {
        Ok(checked) => to_ascii(&checked),
        Err(error) => {
            ereport!(
                ERROR,
                PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
                format!("rsrepl.report: {error}")
            );
        }
    }
}

#[derive(Debug)]
struct FieldError {
    path: String,
    problem: String,
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "field {}: {}", self.path, self.problem)
    }
}

/// An object of the report, and where it stands in it.
struct Fields<'a> {
    object: &'a Map<String, Value>,
    prefix: String,
}

impl<'a> Fields<'a> {
    fn of(value: &'a Value, path: &str) -> Result<Self, FieldError> {
        let prefix = if path == WHOLE { String::new() } else { format!("{path}.") };
        match value {
            Value::Object(object) => Ok(Fields { object, prefix }),
            other => Err(FieldError { path: path.into(), problem: unexpected("an object", other) }),
        }
    }

    fn error(&self, name: &str, problem: impl Into<String>) -> FieldError {
        FieldError { path: format!("{}{name}", self.prefix), problem: problem.into() }
    }

    fn get(&self, name: &str) -> Result<&'a Value, FieldError> {
        self.object.get(name).ok_or_else(|| self.error(name, "missing"))
    }

    /// Missing and null are the same where null is allowed.
    fn optional(&self, name: &str) -> Option<&'a Value> {
        self.object.get(name).filter(|value| !value.is_null())
    }

    fn string(&self, name: &str, value: &'a Value) -> Result<&'a str, FieldError> {
        value.as_str().ok_or_else(|| self.error(name, unexpected("a string", value)))
    }

    fn text(&self, name: &str, chars_max: usize) -> Result<&'a str, FieldError> {
        let text = self.string(name, self.get(name)?)?;
        match text.chars().count() {
            0 => Err(self.error(name, "empty")),
            count if count > chars_max => {
                Err(self
                    .error(name, format!("{count} characters, at most {chars_max} are allowed")))
            }
            _ => Ok(text),
        }
    }

    /// A count: 0 to `max`.
    fn count(&self, name: &str, max: i64) -> Result<i64, FieldError> {
        let value = self.get(name)?;
        match value.as_i64() {
            Some(count) if (0..=max).contains(&count) => Ok(count),
            _ => Err(self.error(name, unexpected(&format!("an integer from 0 to {max}"), value))),
        }
    }

    fn number(&self, name: &str) -> Result<f64, FieldError> {
        let value = self.get(name)?;
        match value.as_f64() {
            Some(number) if number >= 0.0 => Ok(number),
            _ => Err(self.error(name, unexpected("a number of at least 0", value))),
        }
    }

    fn lsn(&self, name: &str) -> Result<Option<String>, FieldError> {
        let Some(value) = self.optional(name) else { return Ok(None) };
        match self.string(name, value)?.parse::<Lsn>() {
            Ok(Lsn::INVALID) => Ok(None),
            Ok(lsn) => Ok(Some(lsn.to_string())),
            Err(error) => Err(self.error(name, error.to_string())),
        }
    }

    fn time(&self, name: &str) -> Result<Option<&'a str>, FieldError> {
        let Some(value) = self.optional(name) else { return Ok(None) };
        let text = self.string(name, value)?;
        if is_rfc3339(text.as_bytes()) {
            return Ok(Some(text));
        }
        Err(self.error(name, unexpected("a time like 2026-01-31T12:00:00Z", value)))
    }
}

fn unexpected(expected: &str, found: &Value) -> String {
    let found = match found {
        Value::Array(_) => "an array".to_owned(),
        Value::Object(_) => "an object".to_owned(),
        other => other.to_string().chars().take(100).collect(),
    };
    format!("expected {expected}, found {found}")
}

/// `YYYY-MM-DDTHH:MM:SS[.fraction](Z|±HH:MM)`, a subset of what `timestamptz` reads in every DateStyle.
fn is_rfc3339(text: &[u8]) -> bool {
    fn pattern(text: &[u8], pattern: &[u8]) -> bool {
        text.len() == pattern.len()
            && text.iter().zip(pattern).all(|(byte, wanted)| match wanted {
                b'0' => byte.is_ascii_digit(),
                _ => byte == wanted,
            })
    }
    let number = |from: usize| {
        let digit = |at: usize| text.get(at).map_or(0, |byte| u32::from(byte.wrapping_sub(b'0')));
        digit(from) * 10 + digit(from + 1)
    };
    let Some((head, tail)) = text.split_at_checked(19) else { return false };
    if !pattern(head, b"0000-00-00T00:00:00") {
        return false;
    }
    let (year, month, day) = (number(0) * 100 + number(2), number(5), number(8));
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        1..=12 => 31,
        _ => 0,
    };
    let zone = match tail.split_first() {
        Some((b'.', rest)) => {
            let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
            match rest.split_at_checked(digits) {
                Some((fraction, zone)) if (1..=9).contains(&fraction.len()) => zone,
                _ => return false,
            }
        }
        _ => tail,
    };
    let zone_hours = zone.get(1).zip(zone.get(2)).is_none_or(|(a, b)| (*a, *b) < (b'1', b'5'));
    let zone_minutes = zone.get(4).is_none_or(|minutes| *minutes < b'6');
    year > 0
        && (1..=days).contains(&day)
        && number(11) < 24
        && number(14) < 60
        && number(17) < 60
        && (zone == b"Z" || pattern(zone, b"+00:00") || pattern(zone, b"-00:00"))
        && zone_hours
        && zone_minutes
}

fn check(report: &[u8]) -> Result<Value, FieldError> {
    let report: Value = serde_json::from_slice(report)
        .map_err(|error| FieldError { path: WHOLE.into(), problem: error.to_string() })?;
    let fields = Fields::of(&report, WHOLE)?;
    let slot = fields.text("slot", SLOT_CHARS_MAX)?;
    if !slot.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_')) {
        let problem = "a slot name has lower case letters, digits and underscores only";
        return Err(fields.error("slot", problem));
    }
    Ok(json!({
        "slot": slot,
        "version": fields.text("version", NAME_CHARS_MAX)?,
        "pid": fields.count("pid", i64::from(i32::MAX))?,
        "host": fields.text("host", NAME_CHARS_MAX)?,
        "received_lsn": fields.lsn("received_lsn")?,
        "spooled_lsn": fields.lsn("spooled_lsn")?,
        "confirmed_lsn": fields.lsn("confirmed_lsn")?,
        "spool_bytes": fields.count("spool_bytes", i64::MAX)?,
        "reconnects": fields.count("reconnects", i64::MAX)?,
        "targets": check_targets(&fields)?,
        "copies": check_copies(&fields)?,
    }))
}

/// Null: nothing is said of them.
fn check_copies(fields: &Fields<'_>) -> Result<Option<Vec<Value>>, FieldError> {
    let Some(value) = fields.optional("copies") else { return Ok(None) };
    let Value::Array(copies) = value else {
        return Err(fields.error("copies", unexpected("an array", value)));
    };
    if copies.len() > COPIES_MAX {
        let problem = format!("{} tables, at most {COPIES_MAX} are allowed", copies.len());
        return Err(fields.error("copies", problem));
    }
    let mut names = std::collections::HashSet::new();
    let mut checked = Vec::with_capacity(copies.len());
    for (index, copy) in copies.iter().enumerate() {
        let copy = Fields::of(copy, &format!("copies[{index}]"))?;
        let name = copy.text("table", NAME_CHARS_MAX)?;
        if !names.insert(name) {
            return Err(copy.error("table", format!("{name:?} is there twice")));
        }
        checked.push(json!({
            "table": name,
            "chunks": copy.count("chunks", i64::MAX)?,
            "chunks_left": copy.count("chunks_left", i64::MAX)?,
            "rows": copy.count("rows", i64::MAX)?,
            "bytes": copy.count("bytes", i64::MAX)?,
            "bytes_per_second": copy.number("bytes_per_second")?,
            "seconds_left": match copy.optional("seconds_left") {
                Some(_) => Some(copy.number("seconds_left")?),
                None => None,
            },
        }));
    }
    Ok(Some(checked))
}

fn check_targets(fields: &Fields<'_>) -> Result<Vec<Value>, FieldError> {
    let value = fields.get("targets")?;
    let Value::Array(targets) = value else {
        return Err(fields.error("targets", unexpected("an array", value)));
    };
    if targets.len() > TARGETS_MAX {
        let problem = format!("{} targets, at most {TARGETS_MAX} are allowed", targets.len());
        return Err(fields.error("targets", problem));
    }
    let mut names = std::collections::HashSet::new();
    let mut checked = Vec::with_capacity(targets.len());
    for (index, target) in targets.iter().enumerate() {
        let target = Fields::of(target, &format!("targets[{index}]"))?;
        let name = target.text("name", NAME_CHARS_MAX)?;
        if !names.insert(name) {
            return Err(target.error("name", format!("{name:?} is there twice")));
        }
        checked.push(check_target(&target, name)?);
    }
    Ok(checked)
}

fn check_target(target: &Fields<'_>, name: &str) -> Result<Value, FieldError> {
    let known = |name: &str| {
        let state = target.text(name, NAME_CHARS_MAX)?;
        if STATES.contains(&state) {
            return Ok(state);
        }
        let problem = format!("expected one of {}, found {state:?}", STATES.join(", "));
        Err(target.error(name, problem))
    };
    // a sidecar says in `state` what older versions of this take, and in `condition` what it is
    let state = known("state")?;
    let state = if target.optional("condition").is_some() { known("condition")? } else { state };
    let shortened = |name: &str, chars_max: usize| -> Result<Option<String>, FieldError> {
        let Some(value) = target.optional(name) else { return Ok(None) };
        Ok(Some(target.string(name, value)?.chars().take(chars_max).collect()))
    };
    // not of sidecars that are older than this
    let skipped = match target.optional("skipped") {
        Some(_) => target.count("skipped", i64::MAX)?,
        None => 0,
    };
    let delay_seconds = match target.optional("delay_seconds") {
        Some(_) => target.number("delay_seconds")?,
        None => 0.0,
    };
    Ok(json!({
        "name": name,
        "kind": target.text("kind", NAME_CHARS_MAX)?,
        "state": state,
        "detail": shortened("detail", DETAIL_CHARS_MAX)?,
        "skipped": skipped,
        "delay_seconds": delay_seconds,
        "applied_lsn": target.lsn("applied_lsn")?,
        "lag_bytes": target.count("lag_bytes", i64::MAX)?,
        "lag_seconds": target.number("lag_seconds")?,
        "events": target.count("events", i64::MAX)?,
        "events_per_second": target.number("events_per_second")?,
        "batches": target.count("batches", i64::MAX)?,
        "transactions": target.count("transactions", i64::MAX)?,
        "retries": target.count("retries", i64::MAX)?,
        "next_attempt": target.time("next_attempt")?,
        "last_error": shortened("last_error", ERROR_CHARS_MAX)?,
    }))
}
