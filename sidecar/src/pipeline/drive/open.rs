//! How a session begins: the target is opened, its position is held against the source's and the spool's, and the
//! spool is read from there.

use rsrepl_wire::Lsn;
use tracing::{info, warn};

use super::super::LinkState;
use super::Drive;
use super::session::Session;
use crate::assemble::{Assembler, Checkpoint};
use crate::batch::Batch;
use crate::error::{Error, Kind, Result};
use crate::source::verify_position;
use crate::target::{Event, Target};

impl<T: Target> Drive<T> {
    /// What the source task knows of the source, once it has been connected; `None` at shutdown.
    pub(super) async fn link_state(&mut self) -> Option<LinkState> {
        let shutdown = self.shared.shutdown.clone();
        tokio::select! {
            link = self.shared.link.wait_for(Option::is_some) => link.ok()?.clone(),
            () = shutdown.cancelled() => None,
        }
    }

    pub(super) async fn open(&mut self, link: LinkState) -> Result<Session> {
        let mut stored = self.target.open(&link.source.identity).await?;
        // what was confirmed may have risen while the target was being opened
        let confirmed = self.shared.link.borrow().as_ref().map_or(link.confirmed, |l| l.confirmed);
        // What was received since is no measure: a source that was restored from a backup sends other changes under
        // the LSNs of those that this target has.
        let wal_end = match self.refused {
            Some((position, wal_end)) if position == stored => wal_end,
            _ => link.source.wal_end.max(self.reached),
        };
        let slot = &link.source.identity.slot;
        // what is not in a spool on disk the source may not have any more, and the other way round
        let least = self.reader.begin();
        verify_position(slot, &self.name, stored, least.unwrap_or(confirmed), wal_end)
            .inspect_err(|_| self.refused = (stored > wal_end).then_some((stored, wal_end)))?;
        if stored == Lsn::INVALID && self.copied {
            return Err(new_target(&self.name));
        }
        if stored == Lsn::INVALID {
            let from = confirmed.max(least.unwrap_or(Lsn::INVALID));
            info!(target_name = self.name, %from, "new target: it gets what is committed from here on, not the rows that are already there");
            self.store_first(from).await?;
            stored = from;
        }
        let went_back = stored < self.checkpoint.position;
        if let Some(begin) = least
            && (went_back || self.checkpoint.position == Lsn::INVALID)
        {
            if went_back {
                warn!(target_name = self.name, %stored, expected = %self.checkpoint.position, "target went back");
            }
            self.checkpoint = Checkpoint::default();
            if !self.reader.seek(stored) {
                // it has just been given up, as this target had seemed to need it no more
                let begin = self.reader.begin().unwrap_or(begin);
                verify_position(slot, &self.name, stored, begin, wal_end)?;
            }
        } else if went_back {
            // it has lost what it had stored, but the slot can still send it again
            warn!(target_name = self.name, stored = %stored, expected = %self.checkpoint.position, "target went back");
            self.checkpoint = Checkpoint::default();
            self.reader.ask_for_rewind();
        } else if self.reader.restart().is_err() {
            info!(
                target_name = self.name,
                "goes on in a transaction that the spool no longer holds whole: the source sends it again"
            );
            self.checkpoint = Checkpoint::default();
        }
        self.shared.ledger.send_modify(|ledger| ledger.opened(self.index, stored));
        self.control.stored(stored);
        self.share.send_modify(|share| share.opened(stored));
        self.shared.status.update_target(self.index, |status| status.applied = stored);
        let assembler = Assembler::resume(&self.checkpoint, stored);
        Ok(Session::new(link.source.identity.timeline, assembler, stored))
    }

    /// The position of a new target.
    async fn store_first(&mut self, lsn: Lsn) -> Result<()> {
        self.target.submit(Batch::progress(lsn));
        self.target.hurry();
        while self.target.next().await? != Event::Durable(lsn) {}
        Ok(())
    }

    /// What comes from a source that was promoted is stored with its new timeline: under the old one, the position would
    /// lie behind the point where that was left. The receiver tells of a source before it passes on what that sends.
    pub(super) fn check_timeline(&self, session: &Session) -> Result<()> {
        let now = self.shared.link.borrow().as_ref().map(|link| link.source.identity.timeline);
        match now {
            Some(now) if now != session.timeline => {
                let message = format!(
                    "the source has gone on from timeline {} to {now}: target {} is opened anew for it",
                    session.timeline, self.name
                );
                Err(Error::new(Kind::Connection, message))
            }
            _ => Ok(()),
        }
    }
}

/// The others stream, and a copy would hold them up.
fn new_target(name: &str) -> Error {
    let what = format!(
        "target {name} has no position and no rows yet, and an initial copy is only made by itself when all targets are new"
    );
    Error::new(Kind::Setup, what).hint(
        "stop the sidecar and run `rsrepl copy -c FILE` (the other targets wait meanwhile, and nothing is lost); \
         or load its tables by hand and set copy.data = false",
    )
}
