//! `_rsrepl_syncs` on the server: which tables are copied anew beside the stream, and how far that is.
//!
//! What is recorded under the name of a sync's slot is not looked at any more once it has ended: such a name is
//! used once. It is deleted where the user may do so.

mod list;

use std::collections::{HashMap, HashSet};
use std::time::SystemTime;

use bytes::Bytes;
use rsrepl_wire::Lsn;

pub(super) use self::list::{COMPLETE, create_statement as create_list};
use super::client::Server;
use super::copies::Copies;
use super::ddl::{literal, qualified};
use super::failure::Attempt;
use super::options::ClickHouseOptions;
use super::position::{self, number};
use super::types::put_string;
use super::{copies, records, setup};
use crate::copy::Promise;
use crate::error::{Error, Kind, Result};
use crate::sync::{CANCEL, Complete, Stage, SyncTarget, Table};
use crate::target::SourceIdentity;

pub(super) const SYNCS: &str = "_rsrepl_syncs";

/// The stage of a table that is synced no more.
pub(super) const ENDED: &str = "ended";

/// Tables with something by slot.
const OF_SLOT: [&str; 5] =
    ["_rsrepl_positions", "_rsrepl_truncates", "_rsrepl_tables", "_rsrepl_copies", SYNCS];

/// See the module's documentation.
pub struct ClickHouseSyncs {
    options: ClickHouseOptions,
    open: Option<Open>,
}

struct Open {
    server: Server,
    /// Of the main stream.
    source: SourceIdentity,
    /// Of the last record: of those of one table the last one counts.
    sequence: u64,
    /// Of the last record of each table, when they were read.
    sequences: HashMap<u32, u64>,
    /// Of which something has begun and is not at its end, as they were read.
    begun: HashSet<u32>,
    /// Which the main stream leaves out until somebody asks for them again.
    given_up: HashSet<u32>,
}

pub(super) fn create_statement(database: &str) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS {} (slot String, system_id UInt64, source_oid UInt32, sequence UInt64, \
         `table` String, stage String, sync_slot String, hand_over UInt64, error String) \
         ENGINE = ReplacingMergeTree(sequence) ORDER BY (slot, system_id, source_oid) \
         SETTINGS fsync_after_insert = 1, fsync_part_directory = 1",
        qualified(database, SYNCS)
    )
}

impl ClickHouseSyncs {
    pub fn new(options: ClickHouseOptions) -> Self {
        ClickHouseSyncs { options, open: None }
    }

    fn opened(&self) -> Result<&Open> {
        self.open.as_ref().ok_or_else(|| Error::new(Kind::Internal, "it is not open"))
    }

    fn opened_mut(&mut self) -> Result<&mut Open> {
        self.open.as_mut().ok_or_else(|| Error::new(Kind::Internal, "it is not open"))
    }

    /// The same stream under another slot's name.
    fn named(&self, slot: &str) -> Result<SourceIdentity> {
        Ok(SourceIdentity { slot: slot.to_owned(), ..self.opened()?.source.clone() })
    }

    fn connect(&mut self, source: &SourceIdentity) -> Result<()> {
        let server = Server::new(&self.options, format!("rsrepl-sync:{}:", self.options.name))?;
        self.open = Some(Open {
            server,
            source: source.clone(),
            sequence: 0,
            sequences: HashMap::new(),
            begun: HashSet::new(),
            given_up: HashSet::new(),
        });
        Ok(())
    }

    async fn all(&mut self) -> Result<Vec<Table>> {
        let Open { server, source, .. } = self.opened()?;
        let database = &self.options.database;
        if setup::describe(server, database, SYNCS).await?.is_none() {
            return Ok(Vec::new());
        }
        let sql = format!(
            "SELECT toString(source_oid), toString(sequence), `table`, stage, sync_slot, toString(hand_over), error \
             FROM {} FINAL WHERE slot = {} AND system_id = {} ORDER BY source_oid",
            qualified(database, SYNCS),
            literal(&source.slot),
            source.system_id
        );
        let rows = server.strings::<7>(Attempt::ReadPosition, &sql).await?;
        let (mut tables, mut last) = (Vec::new(), 0);
        let (mut sequences, mut begun) = (HashMap::new(), HashSet::new());
        let mut given_up = HashSet::new();
        for [oid, sequence, name, stage, slot, hand_over, error] in rows {
            let (of, sequence) = (number(server, &oid)?, number(server, &sequence)?);
            last = last.max(sequence);
            sequences.insert(of, sequence);
            if stage == ENDED {
                continue;
            }
            let known = Stage::parse(&stage).ok_or_else(|| {
                let name = &self.options.name;
                let what = format!("target {name}: {SYNCS} says {stage:?}, which is not known");
                Error::new(Kind::Setup, what)
                    .hint("it was written by a later version of rsrepl: use that one")
            })?;
            if !slot.is_empty() {
                begun.insert(of);
            } else if matches!(known, Stage::GivenUp | Stage::RequestedAgain) {
                given_up.insert(of);
            }
            let hand_over = Lsn(number(server, &hand_over)?);
            tables.push(Table { oid: of, name, stage: known, slot, hand_over, error });
        }
        let open = self.opened_mut()?;
        (open.sequence, open.sequences) = (last, sequences);
        (open.begun, open.given_up) = (begun, given_up);
        Ok(tables)
    }

    async fn record(&mut self, tables: &[Table], stage: Option<&str>) -> Result<()> {
        let now = micros();
        let open = self.opened_mut()?;
        open.sequence = now.max(open.sequence + 1);
        let sequence = open.sequence;
        let Open { source, .. } = self.opened()?;
        self.record_as(&source.slot, tables, stage, |_| sequence).await
    }

    async fn record_as(
        &self,
        of: &str,
        tables: &[Table],
        stage: Option<&str>,
        sequence: impl Fn(u32) -> u64,
    ) -> Result<()> {
        if tables.is_empty() {
            return Ok(());
        }
        let Open { server, source, .. } = self.opened()?;
        let mut rows = Vec::with_capacity(256 * tables.len());
        for table in tables {
            put_string(&mut rows, of.as_bytes());
            rows.extend_from_slice(&source.system_id.to_le_bytes());
            rows.extend_from_slice(&table.oid.to_le_bytes());
            rows.extend_from_slice(&sequence(table.oid).to_le_bytes());
            put_string(&mut rows, table.name.as_bytes());
            put_string(&mut rows, stage.unwrap_or(table.stage.as_str()).as_bytes());
            put_string(&mut rows, table.slot.as_bytes());
            rows.extend_from_slice(&table.hand_over.0.to_le_bytes());
            put_string(&mut rows, table.error.as_bytes());
        }
        let sql = format!(
            "INSERT INTO {} (slot, system_id, source_oid, sequence, `table`, stage, sync_slot, hand_over, error) \
             FORMAT RowBinary",
            qualified(&self.options.database, SYNCS)
        );
        server.insert(Attempt::WritePosition, &sql, Bytes::from(rows)).await
    }

    /// What has begun since they were read has a higher sequence than what is recorded here: that of a time.
    async fn ask(&mut self, tables: &[Table]) -> Result<()> {
        self.all().await?;
        self.create().await?;
        let Open { source, sequences, begun, given_up, .. } = self.opened()?;
        let next = |oid: u32| sequences.get(&oid).map_or(1, |last| last + 1);
        let stage = |table: &Table| match (table.stage, given_up.contains(&table.oid)) {
            (Stage::Requested, true) => Some(Stage::RequestedAgain),
            (_, true) => None,
            (stage, false) => Some(stage),
        };
        let not_begun = tables.iter().filter(|table| !begun.contains(&table.oid));
        let asked: Vec<Table> = not_begun
            .filter_map(|table| Some(Table { stage: stage(table)?, ..table.clone() }))
            .collect();
        self.record_as(&source.slot, &asked, None, next).await
    }

    async fn take_back(&mut self, tables: &[Table]) -> Result<()> {
        self.all().await?;
        let Open { source, sequences, begun, given_up, .. } = self.opened()?;
        let next = |oid: u32| sequences.get(&oid).map_or(1, |last| last + 1);
        let asked = |table: &&Table| !(begun.contains(&table.oid) || given_up.contains(&table.oid));
        let asked: Vec<Table> = tables.iter().filter(asked).cloned().collect();
        self.record_as(&source.slot, &asked, Some(ENDED), next).await
    }

    async fn stop(&mut self, tables: &[Table]) -> Result<()> {
        let known = self.all().await?;
        let known: Vec<Table> = known
            .into_iter()
            .filter(|known| tables.iter().any(|table| table.oid == known.oid))
            .collect();
        self.take_back(&known).await?;
        let Open { source, sequences, .. } = self.opened()?;
        let next = |oid: u32| sequences.get(&oid).map_or(1, |last| last + 1);
        let again = |table: &&Table| table.stage == Stage::RequestedAgain;
        let again: Vec<Table> = known.iter().filter(again).cloned().collect();
        let given_up = Some(Stage::GivenUp.as_str());
        self.record_as(&source.slot, &again, given_up, next).await?;
        // under the name of the sync's slot, where nobody else writes
        for table in known.into_iter().filter(|table| table.stage.may_end()) {
            let of = table.slot.clone();
            self.record_as(&of, &[table], Some(CANCEL), |_| 1).await?;
        }
        Ok(())
    }

    async fn stopped(&self, slot: &str) -> Result<Vec<u32>> {
        let Open { server, source, .. } = self.opened()?;
        let sql = format!(
            "SELECT toString(source_oid) FROM {} FINAL WHERE slot = {} AND system_id = {} AND stage = {}",
            qualified(&self.options.database, SYNCS),
            literal(slot),
            source.system_id,
            literal(CANCEL)
        );
        let rows = server.strings::<1>(Attempt::ReadPosition, &sql).await?;
        rows.iter().map(|[oid]| number(server, oid)).collect()
    }

    /// What was withdrawn has no place where the main stream goes on; nor has what is asked for.
    async fn handed_over(&self, oid: u32) -> Result<bool> {
        let Open { server, source, .. } = self.opened()?;
        let sql = format!(
            "SELECT toString(count()) FROM {} FINAL WHERE slot = {} AND system_id = {} AND source_oid = {oid} \
             AND stage = {} AND hand_over > 0",
            qualified(&self.options.database, SYNCS),
            literal(&source.slot),
            source.system_id,
            literal(ENDED)
        );
        let rows = server.strings::<1>(Attempt::ReadPosition, &sql).await?;
        Ok(rows.first().is_some_and(|[count]| count != "0"))
    }

    async fn find_strange(&self, tables: &[Table]) -> Result<Vec<u32>> {
        let Open { server, source, .. } = self.opened()?;
        let database = &self.options.database;
        let known = match setup::describe(server, database, records::TABLES).await? {
            Some(_) => records::read(server, database, source).await?,
            None => HashMap::new(),
        };
        let mut strange = Vec::new();
        for table in tables {
            let record = known.get(&table.oid).filter(|record| !record.dropped);
            let had_rows = match record.and_then(|record| record.had_rows) {
                Some(had_rows) => had_rows,
                None => {
                    let (schema, name) = table.name.split_once('.').unwrap_or(("", &table.name));
                    self.has_rows(&self.options.target_table(schema, name)).await?
                }
            };
            if had_rows {
                strange.push(table.oid);
            }
        }
        Ok(strange)
    }

    /// Whether there is a row in a table; a log's is behind a view.
    async fn has_rows(&self, table: &str) -> Result<bool> {
        let Open { server, .. } = self.opened()?;
        let database = &self.options.database;
        if setup::describe(server, database, table).await?.is_none() {
            return Ok(false);
        }
        let name = qualified(database, table);
        let sql = format!("SELECT toString(count()) FROM (SELECT 1 FROM {name} LIMIT 1)");
        let rows = server.strings::<1>(Attempt::Describe(table), &sql).await?;
        Ok(rows.first().is_some_and(|[count]| count != "0"))
    }

    async fn write_all(&mut self, tables: &[Table]) -> Result<()> {
        self.create().await?;
        self.record(tables, None).await
    }

    async fn create(&self) -> Result<()> {
        let sql = create_statement(&self.options.database);
        let Open { server, .. } = self.opened()?;
        if setup::describe(server, &self.options.database, SYNCS).await?.is_none() {
            server.execute(Attempt::Prepare, &sql).await.map_err(|error| {
                let hint = format!("run it by hand: {sql}");
                Error::new(error.kind(), error.what()).hint(hint)
            })?;
        }
        Ok(())
    }

    async fn begun(&self, slot: &str) -> Result<bool> {
        let Open { server, .. } = self.opened()?;
        let (database, source) = (&self.options.database, self.named(slot)?);
        if position::read(server, database, &source).await? != Lsn::INVALID {
            return Ok(true);
        }
        if !copies::are_kept(server, database).await? {
            return Ok(false);
        }
        let (_, found) = Copies::open(server, database, &source).await?;
        Ok(found.caught_up.is_some())
    }

    /// What is known of the shapes under one slot's name is known under another's.
    async fn move_shapes(&self, from: &str, to: &str, tables: &[Table]) -> Result<()> {
        let Open { server, .. } = self.opened()?;
        let database = &self.options.database;
        if setup::describe(server, database, records::TABLES).await?.is_none() {
            return Ok(());
        }
        let (from, to) = (self.named(from)?, self.named(to)?);
        let found = records::read(server, database, &from).await?;
        for record in tables.iter().filter_map(|table| found.get(&table.oid)) {
            records::write(server, database, &to, record).await?;
        }
        Ok(())
    }

    async fn finish(&mut self, slot: &str, tables: &[Table]) -> Result<()> {
        // rows of the sync that are on their way yet would come into what is written next
        let prefix = setup::query_prefix(&self.options, &self.named(slot)?);
        setup::fence(&Server::new(&self.options, prefix)?).await?;
        self.record(tables, Some(ENDED)).await?;
        let Open { server, .. } = self.opened()?;
        for table in OF_SLOT {
            let table = qualified(&self.options.database, table);
            let sql = format!("ALTER TABLE {table} DELETE WHERE slot = {}", literal(slot));
            if let Err(error) = server.execute(Attempt::Prepare, &sql).await {
                tracing::debug!(target_name = self.options.name, %error, "records of a sync are left");
            }
        }
        Ok(())
    }
}

fn micros() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or(0)
}

impl SyncTarget for ClickHouseSyncs {
    fn open<'a>(&'a mut self, source: &'a SourceIdentity) -> Promise<'a, ()> {
        Box::pin(async move { self.connect(source) })
    }

    fn read(&mut self) -> Promise<'_, Vec<Table>> {
        Box::pin(self.all())
    }

    fn write<'a>(&'a mut self, tables: &'a [Table]) -> Promise<'a, ()> {
        Box::pin(self.write_all(tables))
    }

    fn request<'a>(&'a mut self, tables: &'a [Table]) -> Promise<'a, ()> {
        Box::pin(self.ask(tables))
    }

    fn withdraw<'a>(&'a mut self, tables: &'a [Table]) -> Promise<'a, ()> {
        Box::pin(self.take_back(tables))
    }

    fn cancel<'a>(&'a mut self, tables: &'a [Table]) -> Promise<'a, ()> {
        Box::pin(self.stop(tables))
    }

    fn cancelled<'a>(&'a mut self, slot: &'a str) -> Promise<'a, Vec<u32>> {
        Box::pin(self.stopped(slot))
    }

    fn strange<'a>(&'a mut self, tables: &'a [Table]) -> Promise<'a, Vec<u32>> {
        Box::pin(self.find_strange(tables))
    }

    fn has_begun<'a>(&'a mut self, slot: &'a str) -> Promise<'a, bool> {
        Box::pin(self.begun(slot))
    }

    fn begin<'a>(&'a mut self, slot: &'a str, tables: &'a [Table]) -> Promise<'a, ()> {
        Box::pin(async move {
            let main = self.opened()?.source.slot.clone();
            self.move_shapes(&main, slot, tables).await
        })
    }

    fn hand_over<'a>(&'a mut self, slot: &'a str, tables: &'a [Table]) -> Promise<'a, ()> {
        Box::pin(async move {
            let main = self.opened()?.source.slot.clone();
            self.move_shapes(slot, &main, tables).await?;
            self.record(tables, None).await
        })
    }

    fn give_up<'a>(&'a mut self, slot: &'a str, tables: &'a [Table]) -> Promise<'a, ()> {
        self.hand_over(slot, tables)
    }

    /// They are told by their names here, which the sync may have changed.
    fn rename<'a>(
        &'a mut self,
        slot: &'a str,
        anew: &'a str,
        tables: &'a [Table],
    ) -> Promise<'a, ()> {
        Box::pin(self.move_shapes(slot, anew, tables))
    }

    fn was_handed_over(&mut self, oid: u32) -> Promise<'_, bool> {
        Box::pin(self.handed_over(oid))
    }

    fn end<'a>(&'a mut self, slot: &'a str, tables: &'a [Table]) -> Promise<'a, ()> {
        Box::pin(self.finish(slot, tables))
    }

    fn complete(&mut self) -> Promise<'_, Option<Complete>> {
        Box::pin(self.list())
    }

    fn set_complete<'a>(&'a mut self, list: &'a Complete) -> Promise<'a, ()> {
        Box::pin(self.set_list(list))
    }
}
