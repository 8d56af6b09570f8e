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
//! | `sides`, `lists` | a part of it on all of them, and which keys may differ |
//! | `arriving` | which of them are only on their way (pure) |
//! | `scan`: `ranges`, `buckets`, `whole` | a table, part by part |
//! | `looks`, `judge` | from keys that may differ to those that do; why none is called different that is not (pure) |
//! | `visible` | what the source shows later than its targets |
//! | `differences` | what was found |
//! | `repair` | sends rows again |
//! | `report`, `progress`, `pace` | what is told, how fast it may be |

mod arriving;
mod buckets;
mod clickhouse;
mod differences;
mod form;
mod judge;
mod key;
mod lists;
mod looks;
mod pace;
mod postgres;
mod progress;
mod ranges;
mod repair;
mod report;
mod scan;
mod sides;
mod tables;
mod target;
mod view;
mod visible;
mod whole;

use std::time::Duration;

use futures_util::future::join_all;

use self::arriving::Marks;
use self::differences::{Desk, Tally};
use self::pace::Pace;
use self::progress::Progress;
pub use self::report::{Outcome, Report};
use self::report::{TableReport, TargetReport};
use self::scan::Scan;
use self::sides::{LANES, Sides, Source};
use self::tables::Table;
use self::target::Target;
use self::visible::Visibility;
use crate::config::{self, Config, Mode, TargetOptions};
use crate::error::{Error, Kind, Result};
use crate::pipeline::records_of;
use crate::preflight::{self, Scope};
use crate::sync::Stage;
use crate::target::SourceIdentity;

/// How long a target may take to tell what is recorded of syncs.
const RECORDS_LIMIT: Duration = Duration::from_secs(60);

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// `schema.table`, or `table` in `public`; none: all.
    pub tables: Vec<String>,
    /// The one target that is meant.
    pub target: Option<String>,
    pub repair: bool,
    /// With `repair`: also deletes what the source has not.
    pub delete: bool,
    /// Columns that are not compared do not count.
    pub accept_left_out: bool,
    /// Rows a second on the source.
    pub rate: Option<u64>,
}

/// Compares, and repairs if that is asked for.
///
/// # Errors
/// The source cannot be read, or there is nothing that could be compared.
pub async fn verify(config: &Config, options: &Options) -> Result<Report> {
    let (histories, configured) = chosen(config, options)?;
    let source = Source::open(config).await?;
    let identity = postgres::identify(&source.look, &config.source.slot_name).await?;
    let end = async || postgres::wal_end(&source.look).await;
    let targets = join_all(configured.iter().map(|target| Target::open(target, &identity, end)));
    let targets = targets.await;
    let synced =
        async || join_all(configured.iter().map(|target| synced(config, target, &identity))).await;
    let desks = Desk::all(targets.len());
    let mut run = Run { desks, targets, tables: Vec::new(), source };
    run.prepare(config, options).await?;
    run.leave_out(&synced().await);
    run.compare(options).await;
    // what came to be copied anew meanwhile was looked at while it was not there
    run.leave_out(&synced().await);
    if options.repair {
        run.repair(options.delete).await;
        run.leave_out(&synced().await);
    }
    Ok(run.report(histories, options.accept_left_out))
}

/// Tables of a target that are being copied anew, or will be soon, by oid; or why that is not known.
async fn synced(
    config: &Config,
    target: &config::Target,
    source: &SourceIdentity,
) -> std::result::Result<Vec<u32>, String> {
    let index = config.targets.iter().position(|known| known.name == target.name);
    let read = async {
        let mut records = records_of(config, index.unwrap_or(usize::MAX))?;
        records.open(source).await?;
        records.read().await
    };
    let read = tokio::time::timeout(RECORDS_LIMIT, read).await;
    let read = read.unwrap_or_else(|_| Err(Error::new(Kind::Connection, "no answer")));
    let tables = read.map_err(|error| {
        format!("it is not known which of its tables are being copied anew: {error}")
    })?;
    let synced = tables.iter().filter(|table| table.stage != Stage::ToDecide);
    Ok(synced.map(|table| table.oid).collect())
}

/// The names of histories, which are not meant to equal the source, and the targets that are.
fn chosen<'a>(
    config: &'a Config,
    options: &Options,
) -> Result<(Vec<String>, Vec<&'a config::Target>)> {
    let wanted = |name: &str| options.target.as_ref().is_none_or(|only| only == name);
    let configured = config.targets.iter().filter(|target| wanted(&target.name));
    let is_history = |target: &&config::Target| match &target.options {
        TargetOptions::ClickHouse(options) => options.mode == Mode::History,
        TargetOptions::Postgres(_) => false,
    };
    let (histories, targets): (Vec<_>, Vec<_>) = configured.partition(is_history);
    let histories: Vec<String> = histories.iter().map(|target| target.name.clone()).collect();
    let what = match (targets.is_empty(), histories.first()) {
        (false, _) => return Ok((histories, targets)),
        (true, Some(name)) => format!("target {name}: a history does not equal the source"),
        (true, None) => {
            format!("there is no target {}", options.target.as_deref().unwrap_or_default())
        }
    };
    Err(Error::new(Kind::Config, what))
}

impl Source {
    async fn open(config: &Config) -> Result<Source> {
        let connection = config.source.connection.clone();
        let open = async || {
            let (client, utf8) = postgres::open("the source", &connection).await?;
            let read_only = client.batch_execute("SET default_transaction_read_only = on").await;
            read_only.map_err(|error| postgres::failed("the source", error))?;
            Ok::<_, Error>((client, utf8))
        };
        let (look, utf8) = open().await?;
        let mut lanes = Vec::with_capacity(LANES);
        for _ in 0..LANES {
            lanes.push(open().await?.0);
        }
        let visibility = Visibility::read(&look).await?;
        Ok(Source { connection, lanes, look, utf8, visibility })
    }
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
        let scopes = preflight::scopes(&self.source.look, &config.source).await?;
        for scope in asked(scopes, &options.tables)? {
            let (client, utf8) = (&self.source.look, self.source.utf8);
            let table = match Table::prepare(client, utf8, &scope, &self.targets).await {
                Err(error) if error.kind() == Kind::Connection => return Err(error),
                Err(error) => Table::unknown(scope, self.targets.len(), &error.to_string()),
                Ok(table) => table,
            };
            self.tables.push(table);
        }
        for desk in &mut self.desks {
            desk.tallies = self.tables.iter().map(|_| Tally::default()).collect();
        }
        Ok(())
    }

    /// What is being copied anew is not compared on that target, and what was seen of it means nothing.
    fn leave_out(&mut self, synced: &[std::result::Result<Vec<u32>, String>]) {
        for (number, table) in self.tables.iter_mut().enumerate() {
            let oid = table.scope.relation.oid;
            let of = table.there.iter_mut().zip(&mut self.desks).zip(synced);
            for ((there, desk), synced) in of {
                let why = match synced {
                    Ok(synced) if !synced.contains(&oid) => continue,
                    Ok(_) => {
                        "it is being copied anew, or was given up half copied: verify it when that has ended"
                    }
                    Err(why) => why,
                };
                if there.is_ok() {
                    *there = Err(why.to_owned());
                    desk.tally(number, |tally| tally.differences.clear());
                    desk.suspects.retain(|suspect| suspect.table != number);
                    desk.fail(number, why.to_owned());
                }
            }
        }
    }

    /// A table that the source does not let be read is one of which nothing is known; when the source is
    /// gone, that holds for all that are left.
    async fn compare(&mut self, options: &Options) {
        let (pace, mut progress) = (Pace::new(options.rate), Progress::new());
        let marks = Marks::default();
        let mut gone: Option<String> = None;
        for (number, table) in self.tables.iter().enumerate() {
            progress.table(table.name(), table.scope.rows_estimated);
            let scan = Scan {
                sides: Sides {
                    source: &self.source,
                    targets: &self.targets,
                    table,
                    pace: &pace,
                    marks: &marks,
                    lane: 0,
                },
                desks: &mut self.desks,
                tables: &self.tables,
                number,
                progress: &mut progress,
            };
            let why = match &gone {
                Some(why) => why.clone(),
                None => match scan.run().await {
                    Ok(()) => continue,
                    Err(error) => {
                        let why = error.to_string();
                        gone = (error.kind() == Kind::Connection).then(|| why.clone());
                        why
                    }
                },
            };
            self.desks.iter_mut().for_each(|desk| desk.fail(number, why.clone()));
        }
        self.settle(&mut progress).await;
    }

    async fn settle(&mut self, progress: &mut Progress) {
        progress.settling(self.desks.iter().map(|desk| desk.suspects.len()).sum());
        scan::settle(&self.source, &self.tables, &self.targets, &mut self.desks).await;
    }

    /// Repairs all that differs, and looks at it again.
    async fn repair(&mut self, delete: bool) {
        let work = repair::Work { source: &self.source, tables: &self.tables, delete };
        let of = self.targets.iter().zip(&mut self.desks);
        let before = join_all(of.map(|(target, desk)| work.repair(target, desk))).await;
        self.settle(&mut Progress::new()).await;
        for (desk, before) in self.desks.iter_mut().zip(before) {
            for (tally, before) in desk.tallies.iter_mut().zip(before) {
                tally.repaired = before.saturating_sub(tally.differences.len() as u64);
            }
        }
    }

    fn report(self, histories: Vec<String>, accept_left_out: bool) -> Report {
        let Run { targets, desks, tables, .. } = self;
        let of_target = |(target, desk): (Target, Desk)| {
            let number = desk.target;
            let tables = tables.iter().zip(desk.tallies).map(|(table, tally)| {
                let there = table.on(number);
                TableReport {
                    name: table.name(),
                    key: table.key_names(),
                    columns: table.scope.relation.columns.len(),
                    left_out: there.map(|there| there.left_out.clone()).unwrap_or_default(),
                    notes: there.map(|there| there.notes.clone()).unwrap_or_default(),
                    tally,
                }
            });
            TargetReport { name: target.name, kind: target.kind, tables: tables.collect() }
        };
        let targets = targets.into_iter().zip(desks).map(of_target).collect();
        Report { targets, histories, accept_left_out }
    }
}

/// Of the tables that are replicated those that are asked for; none: all.
fn asked(mut scopes: Vec<Scope>, names: &[String]) -> Result<Vec<Scope>> {
    if names.is_empty() {
        return Ok(scopes);
    }
    let with_schema = |name: &String| match name.contains('.') {
        true => name.clone(),
        false => format!("public.{name}"),
    };
    let names: Vec<String> = names.iter().map(with_schema).collect();
    let is = |scope: &Scope, name: &String| scope.relation.to_string() == *name;
    if let Some(name) = names.iter().find(|name| !scopes.iter().any(|scope| is(scope, name))) {
        let what = format!("table {name} is not there, or is not published");
        return Err(Error::new(Kind::Config, what));
    }
    scopes.retain(|scope| names.iter().any(|name| is(scope, name)));
    Ok(scopes)
}
