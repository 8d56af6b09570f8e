//! `rsrepl sync-sequences`: a standby's sequences go on where the source's are; and the same at a clean shutdown.

use std::process::ExitCode;
use std::time::Duration;

use rsrepl_wire::Lsn;
use tracing::{info, warn};

use super::{FAILURE, USAGE};
use crate::config::{Config, Postgres};
use crate::sequences;
use crate::status::Snapshot;

/// How long all targets together may take; many thousands of sequences, or servers that are far away.
const LIMIT: Duration = Duration::from_secs(300);

/// The same at a shutdown, which must not be held up.
const LIMIT_AT_SHUTDOWN: Duration = Duration::from_secs(5);

/// See the module's documentation. `only`: the name of the one target that is meant.
pub(super) async fn sync_sequences(config: &Config, only: Option<&str>) -> ExitCode {
    let wanted = |name: &str, _: &Postgres| only.is_none_or(|only| only == name);
    let targets = sequences::targets(config, wanted);
    if targets.is_empty() {
        match only {
            Some(only) => eprintln!("rsrepl: there is no PostgreSQL target {only}"),
            None => eprintln!("rsrepl: there is no PostgreSQL target"),
        }
        return ExitCode::from(USAGE);
    }
    let mask = config.mask();
    let mut good = true;
    let outcomes = sequences::sync(&config.source, &targets, LIMIT).await;
    for ((name, _), outcome) in targets.iter().zip(outcomes) {
        match outcome {
            Ok(outcome) => {
                good &= outcome.is_good();
                println!("{name}: {}", mask.apply(&outcome.to_string()));
            }
            Err(error) => {
                good = false;
                eprintln!("{name}: {}", mask.apply(&error.to_string()));
            }
        }
    }
    if good { ExitCode::SUCCESS } else { ExitCode::from(FAILURE) }
}

/// After replication has ended as it should, of targets that were opened, which only those of the right source
/// are. What fails is told, and holds up nothing.
pub(super) async fn at_shutdown(config: &Config, status: &Snapshot) {
    let was_open = |name: &str| {
        status.targets.iter().any(|target| target.name == name && target.applied > Lsn::INVALID)
    };
    let wanted = |name: &str, options: &Postgres| options.sync_sequences && was_open(name);
    let targets = sequences::targets(config, wanted);
    if targets.is_empty() {
        return;
    }
    let outcomes = sequences::sync(&config.source, &targets, LIMIT_AT_SHUTDOWN).await;
    for ((target_name, _), outcome) in targets.iter().zip(outcomes) {
        match outcome {
            Ok(outcome) if outcome.is_good() => info!(target_name, "{outcome}"),
            Ok(outcome) => warn!(target_name, "{outcome}"),
            Err(error) => warn!(target_name, "sequences were not set: {error}"),
        }
    }
}
