//! `rsrepl pause`, `rsrepl resume` and `rsrepl skip`: record on a target what is asked of it. A running sidecar does so
//! within a second or two; one that is started later does so from its start.

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use rsrepl_wire::Lsn;
use tokio::time::Instant;

use super::{FAILURE, USAGE};
use crate::config::Config;
use crate::control::letters::time_text;
use crate::control::rules::stream_time;
use crate::control::{ControlTarget, Record, RecordKind, Until};
use crate::error::{Error, Kind, Result};
use crate::logging;
use crate::pipeline::control_of;

/// How long `skip` waits for the transaction to be skipped.
const PATIENCE: Duration = Duration::from_secs(10);

/// Between two looks at that.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Pause,
    /// Up to a place, to pause there again.
    Resume(Option<Until>),
    Skip {
        what: Skipped,
        cancel: bool,
        wait: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Skipped {
    One(Lsn),
    All(Until),
}

impl Skipped {
    fn record(self) -> Record {
        match self {
            Skipped::One(lsn) => Record::new(RecordKind::Skip, Some(Until::Lsn(lsn))),
            Skipped::All(until) => Record::new(RecordKind::SkipUntil, Some(until)),
        }
    }
}

/// A place given by its LSN or its time; clap sees to it that it is not both.
pub(super) fn place(lsn: Option<Lsn>, time: Option<i64>) -> Option<Until> {
    lsn.map(Until::Lsn).or(time.map(Until::Time))
}

/// An LSN that means something.
pub(super) fn parse_lsn(text: &str) -> Result<Lsn, String> {
    match text.parse() {
        Ok(Lsn::INVALID) => Err("0/0 is no position".to_owned()),
        Ok(lsn) => Ok(lsn),
        Err(_) => Err("expected an LSN such as 0/16B3748".to_owned()),
    }
}

/// A time in UTC, with its zone: as RFC 3339 has it, or as PostgreSQL shows it. Microseconds since 2000-01-01.
pub(super) fn parse_time(text: &str) -> Result<i64, String> {
    let expected = || "expected a time in UTC, and with its zone, such as \"2026-01-31 12:00:00Z\"";
    // without, it would be taken for one of another zone by as many as take it for one of theirs
    let utc = ["Z", "z", "+00:00", "+00", " UTC"].iter().find_map(|zone| text.strip_suffix(zone));
    let bare = utc.ok_or_else(|| expected().to_owned())?.trim();
    humantime::parse_rfc3339_weak(bare).map(stream_time).map_err(|_| expected().to_owned())
}

/// See the module's documentation.
pub(super) async fn control(config: &Config, name: &str, asked: Asked) -> ExitCode {
    let mask = config.mask();
    logging::init(&config.logging, mask.clone());
    match ask(config, name, asked).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("rsrepl: {}", mask.apply(&error.to_string()));
            let usage = error.kind() == Kind::Config;
            ExitCode::from(if usage { USAGE } else { FAILURE })
        }
    }
}

async fn ask(config: &Config, name: &str, asked: Asked) -> Result<ExitCode> {
    let Some(index) = config.targets.iter().position(|target| target.name == name) else {
        let names: Vec<&str> = config.targets.iter().map(|target| target.name.as_str()).collect();
        let what = format!("there is no target {name}");
        return Err(Error::new(Kind::Config, what).hint(format!("there are {}", names.join(", "))));
    };
    let mut records = control_of(config, index)?;
    records.open().await?;
    let known = records.read().await?;
    let is_pause = |record: &&Record| record.kind == RecordKind::Pause;
    let pauses: Vec<Record> = known.iter().filter(is_pause).cloned().collect();
    match asked {
        Asked::Pause => {
            let pause = Record::new(RecordKind::Pause, None);
            records.change(&pauses, &[pause]).await?;
            println!(
                "{name}: paused, as soon as its sidecar has read that (`rsrepl status` says so); \
                 `rsrepl resume --target {name}` lets it go on"
            );
        }
        Asked::Resume(None) => match pauses.is_empty() {
            true => println!("{name}: it was not paused"),
            false => {
                records.change(&pauses, &[]).await?;
                println!("{name}: goes on");
            }
        },
        Asked::Resume(Some(until)) => {
            if let Until::Lsn(lsn) = until {
                ahead(name, records.as_mut(), lsn).await?;
            }
            records.change(&pauses, &[Record::new(RecordKind::Pause, Some(until))]).await?;
            println!("{name}: goes on up to {}, and pauses there", shown(until));
        }
        Asked::Skip { what, cancel: true, .. } => {
            let record = what.record();
            if !known.iter().any(|known| known.is_same(&record)) {
                let what = format!("target {name}: this is not recorded, or is done already");
                return Err(Error::new(Kind::Setup, what));
            }
            records.change(&[record], &[]).await?;
            println!("{name}: nothing is skipped for that any more");
        }
        Asked::Skip { what, wait, .. } => {
            if let Skipped::All(Until::Time(time)) = what
                && time > stream_time(SystemTime::now())
            {
                let what = format!(
                    "{} is in the future: everything until then would be lost",
                    time_text(time)
                );
                return Err(Error::new(Kind::Config, what));
            }
            if let Skipped::One(lsn) | Skipped::All(Until::Lsn(lsn)) = what {
                ahead(name, records.as_mut(), lsn).await?;
            }
            records.change(&[], &[what.record()]).await?;
            let letters = config.targets.get(index).map(|target| config.dead_letters(target));
            let dir = letters.map(|dir| dir.display().to_string()).unwrap_or_default();
            match what {
                Skipped::One(lsn) => {
                    println!(
                        "{name}: the transaction that ends at {lsn} is skipped; its rows go to {dir}"
                    );
                }
                Skipped::All(until) => {
                    println!(
                        "{name}: everything up to {} is skipped; it goes to {dir}",
                        shown(until)
                    );
                }
            }
            if wait {
                return follow(name, records.as_mut(), &what.record(), !pauses.is_empty()).await;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn shown(until: Until) -> String {
    match until {
        Until::Lsn(lsn) => lsn.to_string(),
        Until::Time(time) => time_text(time),
    }
}

/// Refuses what the target has already.
async fn ahead(name: &str, records: &mut dyn ControlTarget, lsn: Lsn) -> Result<()> {
    match records.position().await? {
        None => {
            let what = format!("target {name} has no position yet: nothing was replicated to it");
            Err(Error::new(Kind::Setup, what).hint("start `rsrepl run` first"))
        }
        Some(position) if lsn <= position => {
            let what = format!("target {name} is at {position}, and has everything up to {lsn}");
            Err(Error::new(Kind::Setup, what).hint(
                "what it has applied is taken back by hand; `rsrepl verify` shows where it differs from the source",
            ))
        }
        Some(_) => Ok(()),
    }
}

/// Waits a while for the sidecar to skip it.
async fn follow(
    name: &str,
    records: &mut dyn ControlTarget,
    record: &Record,
    paused: bool,
) -> Result<ExitCode> {
    let end = Instant::now() + PATIENCE;
    while !paused && Instant::now() < end {
        tokio::time::sleep(LOOK_INTERVAL).await;
        let known = records.read().await?;
        match known.iter().find(|known| known.is_same(record)) {
            None => {
                println!("{name}: done");
                return Ok(ExitCode::SUCCESS);
            }
            Some(known) if !known.note.is_empty() => {
                records.change(std::slice::from_ref(known), &[]).await?;
                eprintln!("rsrepl: {name}: {}", known.note);
                return Ok(ExitCode::from(FAILURE));
            }
            Some(_) => {}
        }
    }
    let why = match (paused, record.kind) {
        (true, _) => "the target is paused".to_owned(),
        (_, RecordKind::Skip) => format!(
            "no transaction that ends at {} has come to its turn (a delay, a sidecar that does not run, or another \
             LSN than the one meant)",
            record.lsn
        ),
        _ => "the target has not got there".to_owned(),
    };
    println!(
        "{name}: pending: {why}. It stays recorded; the same command with --cancel takes it back"
    );
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_they_are_shown() {
        for text in
            ["2026-01-31 12:00:00.25Z", "2026-01-31T12:00:00.250Z", "2026-01-31 12:00:00.25+00"]
        {
            let time = parse_time(text).expect(text);
            assert_eq!(time_text(time), "2026-01-31 12:00:00.25+00");
        }
        assert!(parse_time("2026-01-31 12:00:00+02").is_err(), "another zone is no UTC");
        assert!(parse_time("2026-01-31 12:00:00").is_err(), "of which zone?");
        assert!(parse_time("yesterday").is_err());
    }

    #[test]
    fn an_lsn_is_a_position() {
        assert_eq!(parse_lsn("1/AB"), Ok(Lsn(0x1_0000_00AB)));
        assert!(parse_lsn("0/0").is_err() && parse_lsn("17").is_err());
    }
}
