//! Tables that are copied anew: what the target has of them goes first.

use std::sync::Arc;

use rsrepl_wire::Lsn;

use super::super::evolve::{Evolution, Follows};
use super::super::schemas::Step;
use super::super::{copies, records, syncs};
use super::{Open, PostgresCopy};
use crate::copy::CopiedTable;
use crate::error::Result;
use crate::schema::{Message, What};

impl PostgresCopy {
    fn follows(&self, open: &Open, at: Lsn) -> Follows {
        Follows {
            slot: open.slot.clone(),
            policy: self.options.schema_changes,
            main: self.replaces.clone().map(|main| (main, at)),
        }
    }

    /// In a transaction of this copy.
    async fn in_one<T>(&self, what: &str, work: impl AsyncFnOnce(&Open) -> Result<T>) -> Result<T> {
        let open = self.opened()?;
        open.begin(&self.options.name).await?;
        let done = work(open).await;
        let end = if done.is_ok() { "COMMIT" } else { "ROLLBACK" };
        open.client.batch_execute(end).await.map_err(self.server(what))?;
        done
    }

    /// Empties tables of which nothing is copied, and makes them what they are on the source at `at`.
    pub(super) async fn replace(&self, tables: &[Arc<CopiedTable>], at: Lsn) -> Result<()> {
        let (target, open) = (self.options.name.as_str(), self.opened()?);
        records::create(target, self.options.connection.user(), &open.client).await?;
        let follows = self.follows(open, at);
        for table in tables {
            self.in_one("emptying a table", async |open| {
                let copied = copies::has_chunks(&open.client, &open.slot, table.relation.oid).await;
                match copied.map_err(self.server("looking for chunks"))? {
                    true => Ok(()),
                    false => syncs::prepare(target, &open.client, &follows, table).await,
                }
            })
            .await?;
        }
        Ok(())
    }

    /// The source has dropped a table that is to be copied anew, and no stream says so: the main one leaves it out, and
    /// that of the sync begins later. Does what `schema_changes` says.
    pub(super) async fn drop_table(&mut self, oid: u32, at: Lsn) -> Result<()> {
        let (target, open) = (self.options.name.as_str(), self.opened()?);
        records::create(target, self.options.connection.user(), &open.client).await?;
        let follows = self.follows(open, at);
        self.in_one("dropping a table", async |open| {
            let known = records::read(&open.client, &open.slot, oid).await;
            let known = known.map_err(self.server("reading rsrepl.tables"))?;
            let Some(record) = known.filter(|record| !record.dropped) else { return Ok(()) };
            tracing::info!(target_name = target, table = %record.table, "the source has dropped a table that was to be copied anew");
            let what = What::Dropped(record.table);
            let message = Message { command: "DROP TABLE".to_owned(), what, rewrite: false };
            let evolution = Evolution { target, client: &open.client, follows: &follows };
            evolution.follow(&Step::Told { message: Arc::new(message), lsn: at, end_lsn: at }).await
        })
        .await
    }
}
