//! A target that a copy is made to, and what is left to be done for all of them.

use std::sync::Arc;

use tokio::sync::Mutex;
use tracing::warn;

use super::tables::Catalog;
use super::{CopiedTable, CopyTarget, Form, Records, Standing, plan};
use crate::error::{Error, Kind, Result};
use crate::source::SourceInfo;

/// A target that several workers open sessions of.
pub(super) type Shared = Arc<Mutex<Box<dyn CopyTarget>>>;

/// A target that a copy is made to.
pub(super) struct Site {
    /// Its place in the configuration.
    pub(super) index: usize,
    pub(super) name: String,
    pub(super) target: Shared,
    pub(super) records: Records,
    /// How it wants each table, in their order.
    pub(super) forms: Vec<Form>,
}

impl Site {
    /// `emptied`: by `accept`, which is yet to be asked.
    pub(super) async fn start_over(
        &mut self,
        oid: u32,
        table: Option<&CopiedTable>,
        why: &str,
        emptied: bool,
    ) -> Result<()> {
        match table {
            Some(table) => {
                warn!(target_name = self.name, table = %table.relation, "the copy of this table starts over: {why}");
            }
            None => warn!(
                target_name = self.name,
                oid, "a table that was copied is published no more; its rows stay"
            ),
        }
        let table = table.filter(|_| !emptied);
        self.target.lock().await.start_over(oid, table).await?;
        self.records.chunks.retain(|record| record.table != oid);
        Ok(())
    }

    pub(super) async fn reopen(&mut self, source: &SourceInfo) -> Result<()> {
        match self.target.lock().await.open(&source.identity).await? {
            Standing::Unfinished(records) => {
                self.records = records;
                Ok(())
            }
            _ => {
                let message =
                    format!("target {}: what was recorded of the copy is gone", self.name);
                Err(Error::new(Kind::Server, message))
            }
        }
    }

    /// What cannot be gone on with under this catalog. `emptied`: by `accept`, which is yet to be asked.
    pub(super) async fn start_over_changed(
        &mut self,
        catalog: &Catalog,
        emptied: bool,
    ) -> Result<()> {
        let mut recorded: Vec<u32> =
            self.records.chunks.iter().map(|record| record.table).collect();
        recorded.sort_unstable();
        recorded.dedup();
        for oid in recorded {
            let table = catalog.tables.iter().find(|table| table.relation.oid == oid);
            let of_table = self.records.chunks.iter().filter(|record| record.table == oid);
            let why = match table {
                Some(table) => {
                    plan::starts_over(table, &of_table.collect::<Vec<_>>(), catalog.snapshot)
                }
                None => Some("it is published no more"),
            };
            if let Some(why) = why {
                self.start_over(oid, table.map(|table| &**table), why, emptied).await?;
            }
        }
        Ok(())
    }
}

/// All that the targets need; what several need in the same form is one work.
pub(super) fn works(sites: &[Site], catalog: &Catalog, chunk: u64) -> Vec<plan::Work> {
    let mut works: Vec<plan::Work> = Vec::new();
    for (table, copied) in catalog.tables.iter().enumerate() {
        for (leaf, of) in copied.leaves.iter().enumerate() {
            let first = works.len();
            for (place, site) in sites.iter().enumerate() {
                for need in plan::needs(of, &site.records, catalog.snapshot, chunk) {
                    let same = |work: &&mut plan::Work| {
                        let form = |place: usize| sites.get(place).and_then(|s| s.forms.get(table));
                        let other = work.targets.first().copied().unwrap_or(place);
                        work.need == need && form(other) == form(place)
                    };
                    let known = works.get_mut(first..).and_then(|new| new.iter_mut().find(same));
                    match known {
                        Some(work) => work.targets.push(place),
                        None => works.push(plan::Work { table, leaf, need, targets: vec![place] }),
                    }
                }
            }
        }
    }
    plan::sort(&mut works, &catalog.tables);
    works
}
