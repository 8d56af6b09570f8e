//! Sequences: what a standby needs beside its rows to take over.
//!
//! Logical decoding does not bring sequences, so a standby's stand where they were made, and an INSERT there
//! would take numbers that the source has given out. [`sync`] brings every PostgreSQL target's sequences to
//! where the source's are now. They are told apart by schema and name. All of the source's are looked at, but
//! for those that belong to a table that is not replicated (`serial`, identity, `OWNED BY`).
//!
//! | module | subject |
//! |---|---|
//! | `advance` | what is to be done with one sequence; pure |
//! | `read` | the sequences of a database |

mod advance;
mod read;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use futures_util::future::join_all;

use advance::Step;
use read::Sequence;

use crate::config::{Config, Postgres, Source, TargetOptions};
use crate::error::{Error, Kind, Result};
use crate::tls::PgConnect;

/// Names of one kind that are shown.
const SHOWN_MAX: usize = 20;

/// What was done with the sequences of one target.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Brought forward.
    pub set: usize,
    /// At or beyond the source's already.
    pub kept: usize,
    /// Name, and why it was not set.
    pub failed: Vec<(String, String)>,
    /// Replicated ones that the target does not have.
    pub only_on_source: Vec<String>,
    pub only_on_target: Vec<String>,
}

impl Outcome {
    /// Every sequence that is on both sides is where it has to be.
    pub fn is_good(&self) -> bool {
        self.failed.is_empty()
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} sequences set, {} were there already", self.set, self.kept)?;
        for (what, names) in [
            ("only on the source", &self.only_on_source),
            ("only on the target", &self.only_on_target),
        ] {
            if !names.is_empty() {
                write!(f, "; {what}: {}", shown(names))?;
            }
        }
        if !self.failed.is_empty() {
            let failed: Vec<String> =
                self.failed.iter().map(|(name, why)| format!("{name} ({why})")).collect();
            write!(f, "; not set: {}", shown(&failed))?;
        }
        Ok(())
    }
}

fn shown(names: &[String]) -> String {
    let first = names.get(..SHOWN_MAX).unwrap_or(names).join(", ");
    match names.len().saturating_sub(SHOWN_MAX) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}

/// The configuration's PostgreSQL targets that `wanted` picks, by name.
pub fn targets(
    config: &Config,
    wanted: impl Fn(&str, &Postgres) -> bool,
) -> Vec<(&str, &PgConnect)> {
    let postgres = config.targets.iter().filter_map(|target| match &target.options {
        TargetOptions::Postgres(options) => {
            wanted(&target.name, options).then_some((target.name.as_str(), &options.connection))
        }
        TargetOptions::ClickHouse(_) => None,
    });
    postgres.collect()
}

/// Brings the sequences of all `targets` to where the source's are; of one more than `limit` nothing is
/// waited for. In the order of the targets; a fault of one is its own.
pub async fn sync(
    source: &Source,
    targets: &[(&str, &PgConnect)],
    limit: Duration,
) -> Vec<Result<Outcome>> {
    let deadline = tokio::time::Instant::now() + limit;
    let late = |_| Error::new(Kind::Connection, format!("not done within {limit:?}"));
    let reading = read_source(source);
    let found = tokio::time::timeout_at(deadline, reading).await.map_err(late).flatten();
    let sequences = match found {
        Ok(sequences) => sequences,
        Err(error) => {
            let why = || Error::new(error.kind(), format!("the source's sequences: {error}"));
            return targets.iter().map(|_| Err(why())).collect();
        }
    };
    let each = targets.iter().map(|(_, connection)| {
        let sequences = &sequences;
        async move {
            let setting = sync_target(sequences, connection);
            tokio::time::timeout_at(deadline, setting).await.map_err(late).flatten()
        }
    });
    join_all(each).await
}

async fn read_source(source: &Source) -> Result<Vec<Sequence>> {
    let connection = source.connection.clone().application_name("rsrepl sequences");
    let client = connection.connect().await?;
    read::all(&client, &source.publications).await
}

async fn sync_target(source: &[Sequence], connection: &PgConnect) -> Result<Outcome> {
    let client = connection.clone().application_name("rsrepl sequences").connect().await?;
    let mut there: BTreeMap<String, Sequence> = BTreeMap::new();
    for sequence in read::all(&client, &[]).await? {
        there.insert(sequence.name.clone(), sequence);
    }
    let mut outcome = Outcome::default();
    for sequence in source {
        let name = &sequence.name;
        let Some(target) = there.remove(name) else {
            if sequence.replicated {
                outcome.only_on_source.push(name.clone());
            }
            continue;
        };
        if !sequence.replicated {
            continue;
        }
        match advance::step(sequence, &target) {
            Step::Keep => outcome.kept += 1,
            Step::Refuse(why) => outcome.failed.push((name.clone(), why)),
            Step::Set(state) => match read::set(&client, &target, state).await {
                Ok(()) => outcome.set += 1,
                Err(error) if error.kind() == Kind::Connection => return Err(error),
                Err(error) => outcome.failed.push((name.clone(), error.to_string())),
            },
        }
    }
    outcome.only_on_target = there.into_keys().collect();
    Ok(outcome)
}
