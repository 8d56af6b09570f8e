//! The command line, and its commands.
//!
//! Exit status: 0 all well; 1 problems were found or something failed; 2 the command line or the
//! configuration cannot be used. `verify` says 2, too, of what could not be compared.

mod control;
mod resync;
mod run;
mod status;
mod sync_sequences;
mod verify;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use rsrepl_wire::Lsn;

use self::control::{Asked, Skipped};
use self::run::Work;
use crate::config::{self, Config};
use crate::preflight;

/// Problems were found, or something failed.
const FAILURE: u8 = 1;
/// The command line or the configuration cannot be used; clap uses the same.
const USAGE: u8 = 2;

/// Replicates a PostgreSQL database to standby PostgreSQL and ClickHouse servers.
#[derive(Debug, Parser)]
#[command(
    name = "rsrepl",
    version,
    after_help = "Exit status: 0 all well, 1 problems were found or something failed, 2 the command \
                  line or the configuration cannot be used.\n\nEvery key of the configuration: \
                  docs/configuration.md"
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Replicate until SIGTERM or SIGINT
    Run(ConfigFile),
    /// Copy to new targets what the source has, and end; `run` does the same before it replicates
    Copy(ConfigFile),
    /// List everything that stands in the way of replication, each with what mends it
    Check(ConfigFile),
    /// Show how slot and targets are doing, as the source knows it
    Status {
        #[command(flatten)]
        config: ConfigFile,
        /// Print JSON instead of tables
        #[arg(long)]
        json: bool,
    },
    /// Bring the sequences of PostgreSQL targets to where the source's are, before a standby takes over
    SyncSequences {
        #[command(flatten)]
        config: ConfigFile,
        /// Of this target alone
        #[arg(long, value_name = "NAME")]
        target: Option<String>,
    },
    /// Have tables copied anew, while the stream goes on for all others
    #[command(
        after_help = "Exit status: 0 all are copied, 1 something keeps it from that (the request stays, and the \
                      sidecar goes on by itself), 2 a table or target is not known. With --cancel: 0 all are given up or \
                      were not asked for, 1 not yet."
    )]
    Resync {
        #[command(flatten)]
        config: ConfigFile,
        /// As schema.table, or table in the schema public
        #[arg(value_name = "TABLE", required = true)]
        tables: Vec<String>,
        /// To this target alone
        #[arg(long, value_name = "NAME")]
        target: Option<String>,
        /// Do not wait until they are
        #[arg(long)]
        no_wait: bool,
        /// Give it up: what is half copied gets no changes until it is asked for again
        #[arg(long)]
        cancel: bool,
    },
    /// Hand nothing more over to a target, until it is resumed; all others go on
    Pause {
        #[command(flatten)]
        config: ConfigFile,
        #[arg(long, value_name = "NAME")]
        target: String,
    },
    /// Let a paused target go on, for good or up to a place
    Resume {
        #[command(flatten)]
        config: ConfigFile,
        #[arg(long, value_name = "NAME")]
        target: String,
        /// Apply what ends up to there, and pause again
        #[arg(long, value_name = "LSN", value_parser = control::parse_lsn, conflicts_with = "until_time")]
        until_lsn: Option<Lsn>,
        /// Apply what committed up to then (UTC), and pause again
        #[arg(long, value_name = "TIME", value_parser = control::parse_time)]
        until_time: Option<i64>,
    },
    /// Leave out a transaction, or all up to a place, on one target; what is skipped goes to the dead letters
    #[command(group = clap::ArgGroup::new("place").required(true))]
    Skip {
        #[command(flatten)]
        config: ConfigFile,
        #[arg(long, value_name = "NAME")]
        target: String,
        /// The end of the transaction, as errors and `rsrepl.targets` show it
        #[arg(long, value_name = "LSN", value_parser = control::parse_lsn, group = "place")]
        lsn: Option<Lsn>,
        /// Everything that ends up to there and is not applied yet
        #[arg(long, value_name = "LSN", value_parser = control::parse_lsn, group = "place")]
        until_lsn: Option<Lsn>,
        /// Everything that committed up to then (UTC) and is not applied yet
        #[arg(long, value_name = "TIME", value_parser = control::parse_time, group = "place")]
        until_time: Option<i64>,
        /// Take such a wish back
        #[arg(long)]
        cancel: bool,
        /// Do not wait until it is done
        #[arg(long)]
        no_wait: bool,
    },
    /// Prove that tables are equal on source and targets, while writes go on
    #[command(
        after_help = "Exit status: 0 all are equal, 1 some differ, 2 some could not be compared."
    )]
    Verify {
        #[command(flatten)]
        config: ConfigFile,
        /// As schema.table, or table in the schema public; none: all that are published
        #[arg(value_name = "TABLE")]
        tables: Vec<String>,
        /// On this target alone
        #[arg(long, value_name = "NAME")]
        target: Option<String>,
        /// Send the rows that differ again, and compare them once more
        #[arg(long)]
        repair: bool,
        /// With --repair: also delete rows that the source does not have
        #[arg(long, requires = "repair")]
        delete: bool,
        /// Columns that are not compared do not count for the exit status
        #[arg(long)]
        accept_left_out: bool,
        /// Rows a second that are read on the source, at most
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        rate: Option<u64>,
    },
}

#[derive(Debug, clap::Args)]
struct ConfigFile {
    /// TOML, or YAML when it ends in .yaml or .yml
    #[arg(short = 'c', long = "config", value_name = "FILE")]
    file: PathBuf,
}

impl Cli {
    /// Does what it says.
    pub fn execute(self) -> ExitCode {
        let (Command::Run(ConfigFile { file })
        | Command::Copy(ConfigFile { file })
        | Command::Check(ConfigFile { file })
        | Command::Status { config: ConfigFile { file }, .. }
        | Command::SyncSequences { config: ConfigFile { file }, .. }
        | Command::Resync { config: ConfigFile { file }, .. }
        | Command::Pause { config: ConfigFile { file }, .. }
        | Command::Resume { config: ConfigFile { file }, .. }
        | Command::Skip { config: ConfigFile { file }, .. }
        | Command::Verify { config: ConfigFile { file }, .. }) = &self.command;
        let config = match Config::load(file, &config::environment()) {
            Ok(config) => config,
            Err(problems) => return refuse(file, &problems),
        };
        // conversion of values is what threads are for; sockets need next to nothing
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(config.pipeline.worker_count)
            .enable_all()
            .build();
        let runtime = match runtime {
            Ok(runtime) => runtime,
            Err(error) => {
                eprintln!("rsrepl: cannot start threads: {error}");
                return ExitCode::from(FAILURE);
            }
        };
        let code = match self.command {
            Command::Run(_) => runtime.block_on(run::run(config, Work::Replicate)),
            Command::Copy(_) => runtime.block_on(run::run(config, Work::Copy)),
            Command::Check(_) => runtime.block_on(check(&config)),
            Command::Status { json, .. } => runtime.block_on(status::status(&config, json)),
            Command::SyncSequences { target, .. } => {
                runtime.block_on(sync_sequences::sync_sequences(&config, target.as_deref()))
            }
            Command::Resync { tables, target, no_wait, cancel, .. } => {
                let asked = resync::Asked { tables, target, no_wait, cancel };
                runtime.block_on(resync::resync(&config, &asked))
            }
            Command::Pause { target, .. } => {
                runtime.block_on(control::control(&config, &target, Asked::Pause))
            }
            Command::Resume { target, until_lsn, until_time, .. } => {
                let asked = Asked::Resume(control::place(until_lsn, until_time));
                runtime.block_on(control::control(&config, &target, asked))
            }
            Command::Skip { target, lsn, until_lsn, until_time, cancel, no_wait, .. } => {
                // clap asks for one of the three
                let all = control::place(until_lsn, until_time).map(Skipped::All);
                let Some(what) = lsn.map(Skipped::One).or(all) else {
                    return ExitCode::from(USAGE);
                };
                let asked = Asked::Skip { what, cancel, wait: !no_wait };
                runtime.block_on(control::control(&config, &target, asked))
            }
            Command::Verify { tables, target, repair, delete, accept_left_out, rate, .. } => {
                let options = crate::verify::Options {
                    tables,
                    target,
                    repair,
                    delete,
                    accept_left_out,
                    rate,
                };
                runtime.block_on(verify::verify(&config, &options))
            }
        };
        // a lookup of a name that hangs must not hold up the end
        runtime.shutdown_background();
        code
    }
}

fn refuse(file: &Path, problems: &config::Problems) -> ExitCode {
    eprintln!("rsrepl: {} cannot be used:", file.display());
    for line in problems.lines() {
        eprintln!("  {line}");
    }
    ExitCode::from(USAGE)
}

async fn check(config: &Config) -> ExitCode {
    let report = preflight::check(config, &config.mask()).await;
    print!("{report}");
    if report.is_good() { ExitCode::SUCCESS } else { ExitCode::from(FAILURE) }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
        let cli =
            Cli::try_parse_from(["rsrepl", "status", "-c", "x.toml", "--json"]).expect("valid");
        assert!(matches!(cli.command, Command::Status { json: true, .. }));
        let error = Cli::try_parse_from(["rsrepl", "run"]).expect_err("-c is missing");
        assert_eq!(error.exit_code(), i32::from(USAGE));
    }

    #[test]
    fn a_skip_has_one_place() {
        let parse = |places: &[&str]| {
            let words = ["rsrepl", "skip", "-c", "x.toml", "--target", "a"];
            Cli::try_parse_from(words.iter().chain(places)).map(drop)
        };
        for place in
            [["--lsn", "0/10"], ["--until-lsn", "0/10"], ["--until-time", "2026-01-31 12:00:00Z"]]
        {
            parse(&place).expect("valid");
        }
        parse(&[]).expect_err("no place");
        parse(&["--lsn", "0/10", "--until-lsn", "0/20"]).expect_err("two places");
        parse(&["--lsn", "0/0"]).expect_err("no position");
    }
}
