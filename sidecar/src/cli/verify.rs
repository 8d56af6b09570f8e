//! `rsrepl verify`: whether tables are equal on source and targets.

use std::process::ExitCode;

use super::{FAILURE, USAGE};
use crate::config::Config;
use crate::logging;
use crate::verify::{self, Options, Outcome};

/// Something could not be compared.
const UNKNOWN: u8 = USAGE;

/// See the module's documentation.
pub(super) async fn verify(config: &Config, options: &Options) -> ExitCode {
    let mask = config.mask();
    logging::init(&config.logging, mask.clone());
    match verify::verify(config, options).await {
        Ok(report) => {
            print!("{}", mask.apply(&report.to_string()));
            match report.outcome() {
                Outcome::Equal => ExitCode::SUCCESS,
                Outcome::Different => ExitCode::from(FAILURE),
                Outcome::Unknown => ExitCode::from(UNKNOWN),
            }
        }
        Err(error) => {
            eprintln!("rsrepl: {}", mask.apply(&error.to_string()));
            ExitCode::from(UNKNOWN)
        }
    }
}
