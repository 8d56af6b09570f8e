//! How a sync ends: its tables become the main stream's again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rsrepl_wire::Lsn;
use tokio::sync::watch;
use tracing::{info, warn};

use super::manager::{LOOK_INTERVAL, Manager, gone, names, oids, slot_of};
use super::share::hand_over_at;
use super::{Share, Stage, Table, source};
use crate::error::{Error, Kind, Result};
use crate::pipeline::TableSync;
use crate::status::Status;

/// A sync that brings what was received that lately is near enough: the main stream may have to wait for as long.
const NEAR: Duration = Duration::from_millis(500);

/// How often it is told that it is not near.
const TELL_INTERVAL: Duration = Duration::from_secs(60);

/// How long something may keep the sync from getting to where it ends: the main stream may be waiting for it, and
/// the other way out is another copy.
const HAND_OVER_PATIENCE: Duration = Duration::from_secs(60);

/// How long that may take, whatever the reason is.
const HAND_OVER_LIMIT: Duration = Duration::from_secs(300);

impl Manager {
    /// Follows the tables until the main stream can go on with them; to where it does if that is recorded.
    pub(super) async fn follow(&mut self, mut tables: Vec<Table>) -> Result<()> {
        let slot = slot_of(&tables);
        let sync = TableSync::new(&self.config, self.index, &slot, oids(&tables))?;
        let recorded = tables.first().map(|table| table.hand_over).filter(|at| *at > Lsn::INVALID);
        let own = Arc::new(watch::channel(Share::sync(oids(&tables), recorded)).0);
        let stop = self.shutdown.child_token();
        let _ends = stop.clone().drop_guard();
        let status = sync.status.clone();
        let following = sync.follow(Arc::clone(&own), stop.clone());
        let mut following = std::pin::pin!(following);
        let handed_over = tokio::select! {
            ended = &mut following => return ended,
            done = self.until_handed_over(&mut tables, recorded, &own, &status) => done?,
        };
        // its sessions end before anything of it is taken away
        stop.cancel();
        following.await?;
        if !handed_over {
            warn!(
                target_name = self.name(),
                slot,
                tables = names(&tables),
                "a sync does not get to where it is to end, and the stream waits for it: its tables are copied once more"
            );
            // without it, the sync begins anew
            source::drop(&self.config.source, &slot).await?;
            for table in &mut tables {
                (table.stage, table.hand_over) = (Stage::Copying, Lsn::INVALID);
            }
            return self.target.write(&tables).await;
        }
        tables.iter_mut().for_each(|table| {
            table.stage = Stage::HandedOver;
            table.error.clear();
        });
        self.target.hand_over(&slot, &tables).await
    }

    /// Until the sync has brought all that is its own. `false`: something keeps it from that.
    async fn until_handed_over(
        &mut self,
        tables: &mut [Table],
        recorded: Option<Lsn>,
        own: &watch::Sender<Share>,
        status: &Status,
    ) -> Result<bool> {
        let at = match recorded {
            Some(at) => at,
            None => {
                self.near(tables, own, status).await?;
                let oids: Vec<u32> = tables.iter().map(|table| table.oid).collect();
                let mut at = self.view.received();
                own.send_modify(|own| {
                    self.share.send_modify(|main| at = hand_over_at(main, own, &oids, at));
                });
                for table in tables.iter_mut() {
                    (table.stage, table.hand_over) = (Stage::HandingOver, at);
                }
                self.target.write(tables).await?;
                own.send_modify(|own| own.end_at(at));
                at
            }
        };
        let mut shares = own.subscribe();
        let stored = shares.wait_for(|own| own.stored >= at);
        self.watching(tables, status, stored, Some((HAND_OVER_PATIENCE, HAND_OVER_LIMIT))).await
    }

    /// Until the sync brings what is received without delay: before that, the main stream would have to wait for it, and
    /// meanwhile nobody waits.
    async fn near(
        &mut self,
        tables: &mut [Table],
        own: &watch::Sender<Share>,
        status: &Status,
    ) -> Result<()> {
        let mut told = Instant::now();
        loop {
            let (mark, since) = (self.view.received(), Instant::now());
            let mut shares = own.subscribe();
            let reached = shares.wait_for(|own| own.reached >= mark);
            self.watching(tables, status, reached, None).await?;
            if since.elapsed() <= NEAR {
                if self.status.snapshot().source.connected {
                    return Ok(());
                }
                // what this process has received says nothing while another may have the slot
                tokio::time::sleep(LOOK_INTERVAL).await;
            }
            if told.elapsed() >= TELL_INTERVAL {
                told = Instant::now();
                warn!(
                    target_name = self.name(),
                    tables = names(tables),
                    behind = ?since.elapsed(),
                    "a sync does not come near enough to the stream to end: it goes on trying, beside the stream"
                );
            }
        }
    }

    /// Waits for the sync to get somewhere, and records what keeps it from that. `limits`: how long
    /// something may, and how long it may take at all; `false` when that is over.
    async fn watching<T>(
        &mut self,
        tables: &mut [Table],
        status: &Status,
        reached: impl Future<Output = Result<T, watch::error::RecvError>>,
        limits: Option<(Duration, Duration)>,
    ) -> Result<bool> {
        let began = Instant::now();
        let mut reached = std::pin::pin!(reached);
        let slot = slot_of(tables);
        let mut failing: Option<Instant> = None;
        loop {
            tokio::select! {
                reached = &mut reached => return reached.map(|_| true).map_err(|_| gone()),
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
            }
            let now = status.snapshot();
            let of_target = now.targets.first().and_then(|target| target.last_error.clone());
            // that the source keeps a transaction until it has committed, keeps nothing back
            let of_source = now.source.last_error.filter(|_| !now.source.streaming_refused);
            let error = of_target.or(of_source);
            let failed = error.is_some();
            self.tell(tables, error).await?;
            if self.is_cancelled(tables).await {
                return Err(Error::new(
                    Kind::Server,
                    "the sync is given up, as somebody asked for",
                ));
            }
            failing = failed.then(|| failing.unwrap_or_else(Instant::now));
            if limits.is_some_and(|(patience, limit)| {
                began.elapsed() >= limit || failing.is_some_and(|since| since.elapsed() >= patience)
            }) {
                return Ok(false);
            }
            // a slot that is gone does not come back
            if failed && source::found(&self.config.source, &slot).await? != source::Found::Usable {
                let what = format!("slot {slot}, of a sync, is gone, or what it needs");
                for table in tables.iter_mut() {
                    (table.stage, table.hand_over) = (Stage::Copying, Lsn::INVALID);
                }
                self.target.write(tables).await?;
                return Err(Error::new(Kind::Server, what));
            }
        }
    }

    /// The sync has brought everything that is its own, and needs its slot no more, which keeps WAL. Once the main stream is
    /// behind the place where it goes on with the tables, which takes its time when it is paused or delayed, no record is
    /// left either.
    pub(super) async fn finish(&mut self, tables: Vec<Table>) -> Result<()> {
        let slot = slot_of(&tables);
        if self.is_of_another_past(&slot).await? {
            // the place is one on a timeline that the source has left before it
            return self.begin_anew(tables).await;
        }
        source::drop(&self.config.source, &slot).await?;
        let at = tables.iter().map(|table| table.hand_over).max().unwrap_or(Lsn::INVALID);
        let mut share = self.share.subscribe();
        share.wait_for(|main| main.stored >= at).await.map(drop).map_err(|_| gone())?;
        self.target.end(&slot, &tables).await?;
        info!(
            target_name = self.name(),
            tables = names(&tables),
            "tables are copied, and part of the stream again"
        );
        Ok(())
    }
}
