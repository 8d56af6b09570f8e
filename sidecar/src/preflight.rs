//! What must be right before replication can begin, told all at once, each with its mend.
//!
//! | module | subject |
//! |---|---|
//! | `source` | server, role, extension, plugin |
//! | `encoding` | whether the source's texts have a UTF-8 form |
//! | `slot` | whose the slot is, and whether it is free |
//! | `publications` | the publications, and what of them will not work |
//! | `published` | what they publish, and as what: the plugin's decision, from the catalogs |
//! | `tables` | the tables that will come, as the stream will describe them |
//! | `readable` | whether the initial copy may read them |
//! | `scope` | the same with their row filters, for who reads the tables themselves |
//!
//! Targets check themselves, against those tables; see [`target`](crate::target).

mod encoding;
mod publications;
mod published;
mod readable;
mod scope;
mod slot;
mod source;
mod tables;

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use bytesize::ByteSize;
use rsrepl_wire::Relation;

use crate::config::{self, Config, Target, TargetOptions};
use crate::error::{Error, Kind, Result};
use crate::redact::Mask;
use crate::spool;
use crate::target::clickhouse::{self, ClickHouseOptions};
use crate::target::postgres::{self, PostgresOptions};
use crate::tls::PgConnect;

pub use published::Operations;
pub use scope::{Scope, scopes};

/// How long one part may take to check.
const PART_TIMEOUT: Duration = Duration::from_secs(45);

/// One thing that is wrong, or that will go wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What is wrong, with the names and values that tell where: one line, no full stop.
    pub what: String,
    /// The statement, setting or step that mends it; empty when there is none.
    pub mend: String,
    pub severity: Severity,
}

/// What a finding means for `check` and for `run`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Works, but not for ever or not for everything.
    Warning,
    /// Does not work now and may pass by itself: a server that is down, a slot still held by a
    /// predecessor. `run` waits or retries.
    Transient,
    /// Does not work until its owner mends it. On the source, `run` does not start; on a target, that
    /// target keeps trying and the others go on.
    Error,
}

impl Severity {
    /// Lower case, as printed by `check`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Severity::Warning => "warning",
            Severity::Transient => "unavailable",
            Severity::Error => "error",
        }
    }
}

impl Finding {
    pub fn error(what: impl Into<String>, mend: impl Into<String>) -> Self {
        Finding { what: what.into(), mend: mend.into(), severity: Severity::Error }
    }

    pub fn transient(what: impl Into<String>, mend: impl Into<String>) -> Self {
        Finding { what: what.into(), mend: mend.into(), severity: Severity::Transient }
    }

    pub fn warning(what: impl Into<String>, mend: impl Into<String>) -> Self {
        Finding { what: what.into(), mend: mend.into(), severity: Severity::Warning }
    }
}

impl From<&Error> for Finding {
    /// What is not known to need somebody may pass by itself.
    fn from(error: &Error) -> Self {
        let severity = match error.kind() {
            Kind::Config | Kind::Setup | Kind::Identity | Kind::Row => Severity::Error,
            Kind::Connection | Kind::Server | Kind::Frame | Kind::Internal => Severity::Transient,
            // without it, large transactions come whole
            Kind::Disk => Severity::Warning,
        };
        let mend = error.advice().unwrap_or_default().to_owned();
        Finding { what: error.what(), mend, severity }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.severity.as_str(), self.what)?;
        if !self.mend.is_empty() {
            write!(f, "\n    mend: {}", self.mend)?;
        }
        Ok(())
    }
}

/// All that was found, part by part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub source: PartReport,
    /// In the order of the configuration.
    pub targets: Vec<PartReport>,
}

/// What was found about the source or one target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartReport {
    /// Such as `target standby (postgres)`.
    pub name: String,
    pub findings: Vec<Finding>,
}

impl PartReport {
    fn new(name: String, mut findings: Vec<Finding>, mask: &Mask) -> Self {
        for finding in &mut findings {
            finding.what = mask.apply(&finding.what).into_owned();
            finding.mend = mask.apply(&finding.mend).into_owned();
        }
        // the worst first, otherwise in the order of the checks
        findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
        PartReport { name, findings }
    }

    /// The gravest severity; `None` when nothing was found.
    pub fn worst(&self) -> Option<Severity> {
        self.findings.iter().map(|finding| finding.severity).max()
    }
}

impl Report {
    /// Source and targets.
    pub fn parts(&self) -> impl Iterator<Item = &PartReport> {
        std::iter::once(&self.source).chain(&self.targets)
    }

    /// Nothing worse than warnings.
    pub fn is_good(&self) -> bool {
        self.parts().all(|part| part.worst() <= Some(Severity::Warning))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in self.parts() {
            let ok = if part.findings.is_empty() { ": ok" } else { "" };
            writeln!(f, "{}{ok}", part.name)?;
            for finding in &part.findings {
                for line in finding.to_string().lines() {
                    writeln!(f, "  {line}")?;
                }
            }
        }
        Ok(())
    }
}

/// Checks everything, all targets at the same time.
pub async fn check(config: &Config, mask: &Mask) -> Report {
    let (source, tables) = check_source(config, mask).await;
    Report { source, targets: check_targets(config, &tables, mask).await }
}

/// Checks the source, and where its transactions in progress go; returns its tables too.
pub async fn check_source(config: &Config, mask: &Mask) -> (PartReport, Vec<Relation>) {
    let name = format!("source {}", config.source.connection.endpoint());
    let checked =
        tokio::time::timeout(PART_TIMEOUT, source::check(&config.source, config.copy.data)).await;
    let (mut findings, tables) = checked.unwrap_or_else(|_| (vec![no_answer()], Vec::new()));
    if config.source.streaming != config::Streaming::Off {
        findings.extend(check_spool(&config.spool));
    }
    (PartReport::new(name, findings, mask), tables)
}

fn check_spool(spool: &config::Spool) -> Option<Finding> {
    let (dir, max_disk) = (spool.dir.display(), ByteSize(spool.max_disk));
    match spool::check_dir(&spool.dir) {
        Err(error) => Some(Finding::from(&error)),
        Ok(Some(medium)) if medium.in_memory => Some(Finding::warning(
            format!(
                "spool.dir {dir} is not on a disk but in memory: transactions in progress may take {max_disk} of it"
            ),
            "name a folder on a disk as spool.dir, or lower spool.max_disk",
        )),
        Ok(Some(medium)) if medium.free < spool.max_disk => Some(Finding::warning(
            format!(
                "where spool.dir {dir} is, {} are free: transactions in progress may take {max_disk}, and fill it",
                ByteSize(medium.free)
            ),
            "make room there, or lower spool.max_disk",
        )),
        Ok(_) => None,
    }
}

/// Checks each target against the source's `tables`.
pub async fn check_targets(config: &Config, tables: &[Relation], mask: &Mask) -> Vec<PartReport> {
    let slot = &config.source.slot_name;
    let creates = config.copy.data.then_some(&config.source.connection);
    let checks =
        config.targets.iter().map(|target| check_target(target, slot, creates, tables, mask));
    futures_util::future::join_all(checks).await
}

/// `source`: where tables that are missing may be made from.
async fn check_target(
    target: &Target,
    slot: &str,
    source: Option<&PgConnect>,
    tables: &[Relation],
    mask: &Mask,
) -> PartReport {
    let name = format!("target {} ({})", target.name, target.kind().as_str());
    let check = async {
        match &target.options {
            TargetOptions::Postgres(options) => {
                let (name, connection) = (target.name.clone(), options.connection.clone());
                let options = PostgresOptions {
                    name,
                    connection,
                    schema_changes: options.schema_changes,
                    workers: options.workers,
                    batches: 1,
                    missing_rows: options.missing_rows,
                    creates: source.filter(|_| options.create_tables).cloned(),
                };
                postgres::check(&options, slot, tables).await
            }
            TargetOptions::ClickHouse(options) => {
                match ClickHouseOptions::from_config(&target.name, options) {
                    Ok(options) => clickhouse::check(&options, tables).await,
                    Err(error) => vec![Finding::from(&error)],
                }
            }
        }
    };
    let findings = tokio::time::timeout(PART_TIMEOUT, check).await;
    let mut findings = findings.unwrap_or_else(|_| vec![no_answer()]);
    // errors of targets name theirs; here it stands above them
    let prefix = format!("target {}: ", target.name);
    for Finding { what, .. } in &mut findings {
        if let Some(rest) = what.strip_prefix(&prefix) {
            *what = rest.to_owned();
        }
    }
    PartReport::new(name, findings, mask)
}

/// A table that is published, with what is copied of it.
pub(crate) struct Shown {
    /// As the stream describes it.
    pub relation: Relation,
    /// Those that have its rows, by `pg_class.oid`.
    pub leaves: Vec<u32>,
    /// The row filter of its publications, an SQL condition.
    pub filter: Option<String>,
    /// UPDATEs and DELETEs of all of its leaves are published.
    pub changes: bool,
}

/// What `publications` publish, or all tables, in the snapshot that `client` has; our own tables are none of
/// them.
pub(crate) async fn shown(
    client: &tokio_postgres::Client,
    publications: &[String],
) -> Result<Vec<Shown>> {
    let leaves = publications::leaves(client, publications).await?;
    let mut tables: Vec<published::Published> = Vec::new();
    let mut rows_of: HashMap<u32, (Vec<u32>, bool)> = HashMap::new();
    for (leaf, table) in leaves {
        let (leaves, changes) = rows_of.entry(table.oid).or_insert((Vec::new(), true));
        leaves.push(leaf);
        *changes &= table.operations.update && table.operations.delete;
        if !tables.iter().any(|known| known.oid == table.oid) {
            tables.push(table);
        }
    }
    let relations = tables::describe(client, &tables, &mut Vec::new()).await?;
    let shown = |relation: Relation| {
        let (leaves, changes) = rows_of.remove(&relation.oid).unwrap_or_default();
        let published = tables.iter().find(|table| table.oid == relation.oid);
        let filter = published.and_then(|table| table.condition());
        Shown { relation, leaves, filter, changes }
    };
    Ok(relations.into_iter().filter(|relation| relation.schema != "rsrepl").map(shown).collect())
}

fn no_answer() -> Finding {
    let seconds = PART_TIMEOUT.as_secs();
    Finding::transient(format!("no answer within {seconds} s"), "see what the server is busy with")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_shows_the_worst_first_and_no_secret() {
        let mask = Mask::new(["hunter2".to_owned()]);
        let findings = vec![
            Finding::warning("a table has no key", "ALTER TABLE …"),
            Finding::error("hunter2 is wrong", "say hunter3"),
            Finding::transient("down", ""),
        ];
        let report = Report {
            source: PartReport::new("source db".into(), findings, &mask),
            targets: vec![PartReport::new("target a (postgres)".into(), Vec::new(), &mask)],
        };
        assert_eq!(
            report.to_string(),
            "source db\n  error: *** is wrong\n      mend: say hunter3\n  unavailable: down\n  \
             warning: a table has no key\n      mend: ALTER TABLE …\ntarget a (postgres): ok\n"
        );
        assert_eq!(report.source.worst(), Some(Severity::Error));
        assert!(!report.is_good());
        assert!(Report::default().is_good());
    }

    #[test]
    fn what_needs_somebody_is_an_error() {
        let error = Error::new(Kind::Setup, "no such role").because(std::io::Error::other("x"));
        let finding = Finding::from(&error.hint("create it"));
        assert_eq!(finding, Finding::error("no such role: x", "create it"));
        let finding = Finding::from(&Error::new(Kind::Connection, "refused"));
        assert_eq!(finding.severity, Severity::Transient);
    }
}
