//! `rsrepl verify`: proves that tables are equal on source and targets, while writes go on.
//!
//! ```text
//! tables ─► scan: sums of parts, at the same time on all sides ─► lists of those that differ ─► keys
//!                                                                                                 │
//!          report ◄── differences ◄── looks: the source's row, wait for its LSN, the target's ◄──┘
//!                         └─► repair ─► looks
//! ```
//!
//! Hashes are computed inside the servers, of one canonical text everywhere; only sums leave them, and lists of
//! keys and hashes of the parts that differ. What may differ is what has not arrived yet, so nothing is called
//! different before it has been looked at by itself.
//!
//! | module | subject |
//! |---|---|
//! | `form` | the canonical text of a value, in PostgreSQL and in ClickHouse (pure) |
//! | `key` | keys as texts, ranges as conditions, why ranges miss nothing (pure) |
//! | `tables` | what is compared, column by column, and what is not |
//! | `target` | sessions with a target, and how far the stream is there |
//! | `view`, `postgres`, `clickhouse` | a table on one system: sums, lists, single rows |
//! | `scan` | from tables to keys that may differ |
//! | `looks` | from these to keys that do |
//! | `differences` | what was found |
//! | `repair` | sends rows again |
//! | `report`, `progress` | what is told |

mod clickhouse;
mod differences;
mod form;
mod key;
mod looks;
mod postgres;
mod progress;
mod repair;
mod report;
mod scan;
mod tables;
mod target;
mod view;

use futures_util::future::join_all;

use self::differences::{Desk, Difference, Tally};
use self::progress::Progress;
pub use self::report::{Outcome, Report};
use self::report::{TableReport, TargetReport};
use self::scan::{Pace, Scan, Source};
use self::tables::Table;
use self::target::Target;
use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::preflight;

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// `schema.table`, or `table` in `public`; none: all.
    pub tables: Vec<String>,
    /// The one target that is meant.
    pub target: Option<String>,
    pub repair: bool,
    /// Rows a second on the source.
    pub rate: Option<u64>,
}

/// Compares, and repairs if that is asked for.
///
/// # Errors
/// The source cannot be read, or there is nothing that could be compared.
pub async fn verify(config: &Config, options: &Options) -> Result<Report> {
    let source = open_source(config).await?;
    let wanted = |name: &str| options.target.as_ref().is_none_or(|only| only == name);
    let configured = config.targets.iter().filter(|target| wanted(&target.name));
    let slot = &config.source.slot_name;
    let targets = join_all(configured.map(|target| Target::open(target, slot))).await;
    if targets.is_empty() {
        let name = options.target.as_deref().unwrap_or_default();
        return Err(Error::new(Kind::Config, format!("there is no target {name}")));
    }
    let mut run = Run { source, desks: desks(targets.len()), targets, tables: Vec::new() };
    run.prepare(config, options).await?;
    run.compare(options).await?;
    if options.repair {
        run.repair().await;
    }
    Ok(run.report())
}

async fn open_source(config: &Config) -> Result<Source> {
    let connection = &config.source.connection;
    let ((scan, utf8), (look, _)) = tokio::try_join!(
        postgres::open("the source", connection),
        postgres::open("the source", connection)
    )?;
    for client in [&scan, &look] {
        let read_only = client.batch_execute("SET default_transaction_read_only = on").await;
        read_only.map_err(|error| postgres::failed("the source", error))?;
    }
    Ok(Source { scan, look, utf8 })
}

fn desks(count: usize) -> Vec<Desk> {
    (0..count).map(|target| Desk { target, ..Desk::default() }).collect()
}

/// One run of it.
struct Run {
    source: Source,
    targets: Vec<Target>,
    /// One for each target.
    desks: Vec<Desk>,
    tables: Vec<Table>,
}

impl Run {
    async fn prepare(&mut self, config: &Config, options: &Options) -> Result<()> {
        let mut scopes = preflight::scopes(&self.source.look, &config.source).await?;
        if !options.tables.is_empty() {
            let names: Vec<String> = scopes.iter().map(|s| s.relation.to_string()).collect();
            let asked = |asked: &String| match asked.contains('.') {
                true => asked.clone(),
                false => format!("public.{asked}"),
            };
            let asked: Vec<String> = options.tables.iter().map(asked).collect();
            if let Some(unknown) = asked.iter().find(|name| !names.contains(name)) {
                return Err(Error::new(
                    Kind::Config,
                    format!("table {unknown} is not there, or is not published"),
                ));
            }
            scopes.retain(|scope| asked.contains(&scope.relation.to_string()));
        }
        for scope in scopes {
            let (client, utf8) = (&self.source.look, self.source.utf8);
            let table = Table::prepare(client, utf8, scope, &self.targets).await?;
            self.tables.push(table);
        }
        for desk in &mut self.desks {
            desk.tallies = self.tables.iter().map(|_| Tally::default()).collect();
        }
        Ok(())
    }

    async fn compare(&mut self, options: &Options) -> Result<()> {
        let (mut pace, mut progress) = (Pace::new(options.rate), Progress::new());
        for number in 0..self.tables.len() {
            let Some(table) = self.tables.get(number) else { break };
            progress.table(table.name(), table.scope.rows_estimated);
            let scan = Scan {
                source: &self.source,
                targets: &self.targets,
                desks: &mut self.desks,
                tables: &self.tables,
                number,
                table,
                pace: &mut pace,
                progress: &mut progress,
            };
            scan.run().await?;
        }
        self.settle(&mut progress).await;
        Ok(())
    }

    fn waiting(&self) -> usize {
        self.desks.iter().map(|desk| desk.suspects.len()).sum()
    }

    async fn settle(&mut self, progress: &mut Progress) {
        progress.settling(self.waiting());
        scan::settle(&self.source, &self.tables, &self.targets, &mut self.desks).await;
    }

    /// Repairs all that differs, and looks at it again.
    async fn repair(&mut self) {
        let (source, tables) = (&self.source.look, &self.tables);
        let of = self.targets.iter().zip(&mut self.desks);
        let before = join_all(of.map(|(target, desk)| repair_target(source, tables, target, desk)));
        let before = before.await;
        self.settle(&mut Progress::new()).await;
        for (desk, before) in self.desks.iter_mut().zip(before) {
            for (tally, before) in desk.tallies.iter_mut().zip(before) {
                tally.repaired = before.saturating_sub(tally.differences.len() as u64);
            }
        }
    }

    fn report(self) -> Report {
        let Run { targets, desks, tables, .. } = self;
        let of_target = |(target, desk): (Target, Desk)| {
            let tables = tables.iter().zip(desk.tallies).map(|(table, tally)| TableReport {
                name: table.name(),
                key: table.key_names(),
                notes: table.notes(desk.target),
                tally,
            });
            TargetReport { name: target.name, kind: target.kind, tables: tables.collect() }
        };
        Report { targets: targets.into_iter().zip(desks).map(of_target).collect() }
    }
}

/// The differences there were, by table; they are suspects again.
async fn repair_target(
    source: &tokio_postgres::Client,
    tables: &[Table],
    target: &Target,
    desk: &mut Desk,
) -> Vec<u64> {
    let mut before = Vec::with_capacity(tables.len());
    for (number, table) in tables.iter().enumerate() {
        let Some(tally) = desk.tallies.get_mut(number) else { continue };
        let differences: Vec<Difference> = std::mem::take(&mut tally.differences);
        before.push(differences.len() as u64);
        if differences.is_empty() {
            continue;
        }
        let repaired = repair::repair(source, table, target, desk.target, &differences).await;
        if let Err(error) = repaired {
            eprintln!("target {}: {error}", target.name);
        }
        let keys = differences.into_iter().map(|difference| difference.key).collect();
        desk.suspect(number, keys);
    }
    before
}
