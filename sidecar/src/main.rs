//! The binary `rsrepl`; everything is in the library.

use std::process::ExitCode;

use clap::Parser;
use rsrepl_sidecar::cli::Cli;

fn main() -> ExitCode {
    Cli::parse().execute()
}
