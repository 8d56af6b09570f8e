//! A sync that is given up, as it cannot go on or is not wanted any more: what is left of it goes, and its table is left
//! out by the main stream until somebody asks for it again. It is half copied: with the changes from some moment on it
//! would be wrong, and nobody would be told.

use rsrepl_wire::Lsn;
use tracing::{debug, warn};

use super::manager::{Manager, names, slot_of, within};
use super::{Stage, Table, source};
use crate::error::Result;

impl Manager {
    /// Whether somebody wants one of the tables of a sync given up. Nothing that goes on ends because that cannot be
    /// looked up.
    pub(super) async fn is_cancelled(&mut self, tables: &[Table]) -> bool {
        match within(self.target.cancelled(&slot_of(tables))).await {
            Ok(cancelled) => {
                tables.iter().any(|table| table.stage.may_end() && cancelled.contains(&table.oid))
            }
            Err(error) => {
                debug!(target_name = self.name(), %error, "no look at what is to be given up");
                let link = self.link.borrow().clone();
                if let Some(link) = link {
                    let _ = within(self.target.open(&link.source.identity)).await;
                }
                false
            }
        }
    }

    /// The same tables, if none of them is to be given up. Else that is recorded: from there on it cannot go back.
    pub(super) async fn without_cancelled(
        &mut self,
        mut tables: Vec<Table>,
    ) -> Result<Option<Vec<Table>>> {
        let slot = slot_of(&tables);
        if slot.is_empty() {
            return Ok(Some(tables));
        }
        let cancelled = self.target.cancelled(&slot).await?;
        let is_it = |table: &Table| table.stage.may_end() && cancelled.contains(&table.oid);
        if !tables.iter().any(is_it) {
            return Ok(Some(tables));
        }
        let name = self.name().to_owned();
        for table in tables.iter_mut().filter(|table| is_it(table)) {
            (table.stage, table.hand_over) = (Stage::GivenUp, Lsn::INVALID);
            table.error = format!(
                "{} was given up half copied: it gets no changes until `rsrepl resync {} --target {name}` copies it anew",
                table.name, table.name
            );
        }
        self.target.give_up(&slot, &tables).await?;
        Ok(None)
    }

    /// Slot and records of a sync go of which a table is given up; what was with it is copied anew under another slot's
    /// name. Killed anywhere, it is done again.
    pub(super) async fn clear_up(&mut self, mut tables: Vec<Table>) -> Result<()> {
        let slot = slot_of(&tables);
        let anew = source::name(&self.config.source.slot_name, self.index);
        let others: Vec<Table> =
            tables.iter().filter(|table| table.stage != Stage::GivenUp).cloned().collect();
        self.target.rename(&slot, &anew, &others).await?;
        source::drop(&self.config.source, &slot).await?;
        self.target.end(&slot, &[]).await?;
        for table in &mut tables {
            if table.stage == Stage::GivenUp {
                table.slot.clear();
            } else {
                table.slot.clone_from(&anew);
                (table.stage, table.hand_over) = (Stage::Copying, Lsn::INVALID);
            }
        }
        self.target.write(&tables).await?;
        warn!(
            target_name = self.name(),
            slot,
            others = names(&others),
            "a sync was given up, as somebody asked for; the others of its tables are copied once more"
        );
        Ok(())
    }
}
