//! `rsrepl resync`: asks the running sidecar to copy tables anew, or to give that up, and follows how that goes on.

use std::collections::HashMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use super::{FAILURE, USAGE};
use crate::config::{Config, Mode, TargetOptions};
use crate::control::{ControlTarget, Record, RecordKind};
use crate::error::{Error, Kind, Result};
use crate::logging;
use crate::pipeline::{control_of, records_of};
use crate::preflight::{self, Scope};
use crate::source::{self, ReplicationClient};
use crate::sync::{Stage, SyncTarget, Table};

/// Between two looks at what goes on.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// How long something may keep it from going on before that is its end here; the sidecar goes on trying.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a request may lie there before somebody should look at the sidecar.
const TAKE_UP: Duration = Duration::from_secs(30);

/// Rows and bytes of tables that are copied, if the source has the extension.
const PROGRESS: &str = "\
SELECT c.table_name::text, c.rows::bigint, c.chunks_left::bigint FROM rsrepl.copies AS c WHERE c.slot = $1";

/// What is asked for.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub tables: Vec<String>,
    pub target: Option<String>,
    pub no_wait: bool,
    pub cancel: bool,
}

/// A target, and the tables that it is to get.
struct Site {
    name: String,
    records: Box<dyn SyncTarget>,
    /// It has an `apply_delay`.
    delayed: bool,
    control: Box<dyn ControlTarget>,
    waiting: Vec<Table>,
    /// Since when nobody has taken up the request.
    lies: Instant,
    /// Some of them came to an end that is not what was asked for.
    missed: bool,
}

impl Site {
    fn new(
        config: &Config,
        index: usize,
        records: Box<dyn SyncTarget>,
        waiting: Vec<Table>,
    ) -> Result<Site> {
        let target = config.targets.get(index);
        Ok(Site {
            name: target.map(|target| target.name.clone()).unwrap_or_default(),
            records,
            delayed: target.is_some_and(|target| !target.apply_delay.is_zero()),
            control: control_of(config, index)?,
            waiting,
            lies: Instant::now(),
            missed: false,
        })
    }

    /// Its stream may be long behind the place where the tables become part of it.
    async fn is_late_on_purpose(&mut self) -> bool {
        let asked = async {
            self.control.open().await?;
            self.control.read().await
        };
        // when that cannot be read, it is waited for
        let is_pause = |record: &Record| record.kind == RecordKind::Pause;
        self.delayed || asked.await.is_ok_and(|asked| asked.iter().any(is_pause))
    }
}

/// See the module's documentation.
pub(super) async fn resync(config: &Config, asked: &Asked) -> ExitCode {
    let mask = config.mask();
    logging::init(&config.logging, mask.clone());
    match ask(config, asked).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("rsrepl: {}", mask.apply(&error.to_string()));
            let usage = error.kind() == Kind::Config;
            ExitCode::from(if usage { USAGE } else { FAILURE })
        }
    }
}

async fn ask(config: &Config, asked: &Asked) -> Result<ExitCode> {
    let indexes = targets(config, asked.target.as_deref())?;
    let connection = config.source.connection.clone().application_name("rsrepl");
    let client = connection.connect().await?;
    let tables = tables(preflight::scopes(&client, &config.source).await?, &asked.tables)?;
    let (slot, source) = (&config.source.slot_name, &config.source.connection);
    let mut replication = ReplicationClient::connect(source).await?;
    let identity = source::identify(&mut replication, slot).await?.identity;
    let used = replication.slot(slot).await?;
    replication.close().await;
    let Some(used) = used else {
        let what = format!("slot {slot} does not exist: nothing was replicated yet");
        return Err(Error::new(Kind::Setup, what).hint("`rsrepl run` copies all tables first"));
    };
    let mut sites = Vec::new();
    for index in indexes {
        let name = config.targets.get(index).map(|target| target.name.clone()).unwrap_or_default();
        let mut records = records_of(config, index)?;
        records.open(&identity).await?;
        if asked.cancel {
            records.cancel(&tables).await?;
            sites.push(Site::new(config, index, records, tables.clone())?);
            continue;
        }
        let known = records.read().await?;
        let goes_on = |known: &&Table| match known.stage {
            Stage::ToDecide => false,
            Stage::GivenUp => !known.slot.is_empty(),
            _ => true,
        };
        let is_known =
            |table: &&Table| known.iter().filter(goes_on).any(|known| known.oid == table.oid);
        let (already, new): (Vec<_>, Vec<_>) = tables.iter().partition(is_known);
        for table in already {
            println!("{name}: {} is being copied anew already", table.name);
        }
        let new: Vec<Table> = new.into_iter().cloned().collect();
        records.request(&new).await?;
        for table in new {
            println!("{name}: {} is to be copied anew", table.name);
        }
        let waiting = tables.iter().map(|table| {
            let known = known.iter().filter(goes_on).find(|known| known.oid == table.oid);
            known.unwrap_or(table).clone()
        });
        let waiting = waiting.collect();
        sites.push(Site::new(config, index, records, waiting)?);
    }
    let done = asked.cancel && !asked.no_wait && give_up(&mut sites).await?;
    if done {
        return Ok(ExitCode::SUCCESS);
    }
    if used.active_pid.is_none() {
        eprintln!("rsrepl: no sidecar uses slot {slot} now: the request waits until one does");
        return Ok(ExitCode::from(FAILURE));
    }
    if asked.no_wait {
        return Ok(ExitCode::SUCCESS);
    }
    println!("Ctrl-C ends this command, and not what the sidecar does");
    if asked.cancel {
        let began = Instant::now();
        while !give_up(&mut sites).await? {
            if began.elapsed() > TAKE_UP {
                eprintln!(
                    "rsrepl: the sidecar has not done that yet: its log may say why; the request stays"
                );
                return Ok(ExitCode::from(FAILURE));
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        return Ok(ExitCode::SUCCESS);
    }
    follow(&client, slot, sites).await
}

/// Places of the targets that are meant.
fn targets(config: &Config, only: Option<&str>) -> Result<Vec<usize>> {
    let is_history = |options: &TargetOptions| match options {
        TargetOptions::ClickHouse(options) => options.mode == Mode::History,
        TargetOptions::Postgres(_) => false,
    };
    let meant: Vec<_> = config.targets.iter().enumerate().collect();
    let meant: Vec<_> = meant
        .into_iter()
        .filter(|(_, target)| only.is_none_or(|only| only == target.name))
        .collect();
    let (histories, others): (Vec<_>, Vec<_>) =
        meant.into_iter().partition(|(_, target)| is_history(&target.options));
    if !others.is_empty() {
        for (_, history) in histories {
            println!("{}: a history is left as it is", history.name);
        }
        return Ok(others.into_iter().map(|(index, _)| index).collect());
    }
    let what = match (histories.first(), only) {
        (Some((_, target)), _) => {
            format!("target {} keeps a history, which a new copy would take away", target.name)
        }
        (None, only) => format!("there is no target {}", only.unwrap_or_default()),
    };
    Err(Error::new(Kind::Config, what))
}

/// The tables of these names, as they are recorded at first.
fn tables(scopes: Vec<Scope>, names: &[String]) -> Result<Vec<Table>> {
    let mut tables: Vec<Table> = Vec::new();
    for name in names {
        let name = match name.contains('.') {
            true => name.clone(),
            false => format!("public.{name}"),
        };
        let Some(scope) = scopes.iter().find(|scope| scope.relation.to_string() == name) else {
            let what = format!("table {name} is not there, or is not published");
            return Err(Error::new(Kind::Config, what).hint(
                "a partitioned table whose publication has publish_via_partition_root = false is known by its partitions",
            ));
        };
        if !tables.iter().any(|table| table.oid == scope.relation.oid) {
            tables.push(Table { oid: scope.relation.oid, name, ..Table::default() });
        }
    }
    Ok(tables)
}

async fn follow(
    client: &tokio_postgres::Client,
    slot: &str,
    mut sites: Vec<Site>,
) -> Result<ExitCode> {
    let mut failing: HashMap<String, Instant> = HashMap::new();
    let mut shown: HashMap<String, i64> = HashMap::new();
    while sites.iter().any(|site| !site.waiting.is_empty()) {
        tokio::time::sleep(LOOK_INTERVAL).await;
        for site in &mut sites {
            if look(site).await? {
                let since = failing.entry(site.name.clone()).or_insert_with(Instant::now);
                if since.elapsed() > PATIENCE {
                    eprintln!(
                        "rsrepl: {}: it does not get on; the sidecar tries again, and goes on by itself once that is mended",
                        site.name
                    );
                    return Ok(ExitCode::from(FAILURE));
                }
            } else {
                failing.remove(&site.name);
            }
            if !site.waiting.is_empty() && site.lies.elapsed() > TAKE_UP {
                eprintln!(
                    "rsrepl: {}: the sidecar that uses slot {slot} has not taken it up: its log says why, if it cannot read \
                     what is recorded there; the request stays",
                    site.name
                );
                return Ok(ExitCode::from(FAILURE));
            }
        }
        let copying = |site: &Site| site.waiting.iter().any(|table| table.stage == Stage::Copying);
        // without the extension there is nothing to show
        if sites.iter().any(copying)
            && let Ok(rows) = client.query(PROGRESS, &[&slot]).await
        {
            for row in rows {
                let (table, rows, left): (String, i64, i64) = (row.get(0), row.get(1), row.get(2));
                let is_ours =
                    sites.iter().any(|site| site.waiting.iter().any(|asked| asked.name == table));
                if is_ours && left > 0 && shown.insert(table.clone(), rows) != Some(rows) {
                    println!("{table}: {rows} rows are copied, {left} chunks are left");
                }
            }
        }
    }
    let missed = sites.iter().any(|site| site.missed);
    Ok(if missed { ExitCode::from(FAILURE) } else { ExitCode::SUCCESS })
}

/// Whether nothing of the syncs is left that are to be given up; asks again for those that have begun since.
async fn give_up(sites: &mut [Site]) -> Result<bool> {
    for site in sites.iter_mut() {
        let now = site.records.read().await?;
        let mut left = Vec::new();
        for table in site.waiting.drain(..) {
            let name = format!("{}: {}", site.name, table.name);
            match now.iter().find(|now| now.oid == table.oid) {
                None => println!("{name} is not being copied anew"),
                Some(now) if now.stage == Stage::GivenUp && now.slot.is_empty() => {
                    println!(
                        "{name} is given up: it gets no changes until `rsrepl resync {}` copies it anew",
                        table.name
                    );
                }
                Some(now) if now.stage == Stage::HandedOver => {
                    println!("{name} is copied already, and part of the stream again");
                }
                Some(_) => left.push(table),
            }
        }
        site.waiting = left;
        site.records.cancel(&site.waiting).await?;
    }
    Ok(sites.iter().all(|site| site.waiting.is_empty()))
}

/// Tells what has changed on a target. `true`: something keeps it from getting on.
async fn look(site: &mut Site) -> Result<bool> {
    let now = site.records.read().await?;
    let is_asked = |now: &&Table| site.waiting.iter().any(|table| table.oid == now.oid);
    let handed_over = now.iter().filter(is_asked).any(|now| now.stage == Stage::HandedOver);
    let late = handed_over && site.is_late_on_purpose().await;
    let mut failing = false;
    // one sync at a time: it waits for another one
    if now.iter().any(|table| !table.slot.is_empty()) {
        site.lies = Instant::now();
    }
    for table in &site.waiting {
        if now.iter().any(|now| now.oid == table.oid) {
            continue;
        }
        let name = format!("{}: {}", site.name, table.name);
        let is_there = table.stage == Stage::HandedOver;
        if is_there || site.records.was_handed_over(table.oid).await? {
            println!("{name} is copied, and part of the stream again");
        } else {
            eprintln!(
                "{name} was not copied: it was dropped on the source, or somebody has withdrawn the request"
            );
            site.missed = true;
        }
    }
    site.waiting.retain_mut(|table| {
        let name = format!("{}: {}", site.name, table.name);
        let Some(now) = now.iter().find(|now| now.oid == table.oid) else { return false };
        if now.stage == Stage::GivenUp {
            eprintln!("{name}: {}", now.error);
            site.missed = true;
            return false;
        }
        if now.stage == Stage::HandedOver && late {
            println!(
                "{name} is copied; it is part of the stream again when that, which is late on purpose, is past {}",
                now.hand_over
            );
            return false;
        }
        if now.stage != table.stage {
            println!("{name}: {}", now.stage.as_str());
        }
        if now.error != table.error && !now.error.is_empty() {
            eprintln!("{name}: {}", now.error);
        }
        failing |= !now.error.is_empty();
        *table = now.clone();
        true
    });
    Ok(failing)
}
