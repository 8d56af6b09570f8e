//! What of the stream is this task's, while tables are copied anew beside it: see [`crate::sync`].

use tokio::sync::watch;
use tracing::warn;

use super::Drive;
use super::session::Session;
use crate::assemble::Checkpoint;
use crate::batch::Batch;
use crate::sync::Share;
use crate::target::Target;

impl<T: Target> Drive<T> {
    /// Waits until it is known what is held of this stream. `false`: shutdown came first.
    pub(super) async fn shares_known(&self, shares: &mut watch::Receiver<Share>) -> bool {
        tokio::select! {
            known = shares.wait_for(|share| share.known) => known.is_ok(),
            () = self.shared.shutdown.cancelled() => false,
        }
    }

    /// Gives what is this stream's of a batch; `false`: it has to wait.
    pub(super) fn give_share(
        &mut self,
        session: &mut Session,
        mut batch: Batch,
        checkpoint: Option<Checkpoint>,
    ) -> bool {
        let (mut taken, mut clash) = (false, None);
        // no news for who looks at it
        self.share.send_if_modified(|share| {
            taken = share.take(&mut batch);
            clash = share.clash().map(str::to_owned);
            false
        });
        if session.clash != clash {
            session.clash = clash;
            if let Some(why) = self.waits_because(session) {
                warn!(target_name = self.name, "{why}");
            }
            self.works(session);
        }
        match taken {
            true => self.give(session, batch, checkpoint),
            false => session.held_back = Some((batch, checkpoint)),
        }
        taken
    }

    /// Why nothing more is written, although nothing has failed.
    pub(super) fn waits_because(&self, session: &Session) -> Option<String> {
        session.clash.as_ref().map(|table| {
            format!(
                "target {}: {table} on the source is another table now than the one that is being copied anew: nothing more \
                 is written to this target until that has ended",
                self.name
            )
        })
    }

    /// Tells who looks after syncs how far this is.
    pub(super) fn note_share(&mut self, session: &mut Session) {
        let (generation, until, watched) = {
            let share = self.share.borrow();
            (share.generation(), share.until(), share.is_watched())
        };
        // what is behind a part of a transaction belongs to it
        let new = session.settling.is_none_or(|(seen, _)| seen < generation);
        if new && !session.under_way.is_open() {
            session.settling = Some((generation, session.given));
        }
        let settled = session.settling.filter(|(_, given)| session.applied >= *given);
        let (reached, stored) = (session.reached(), session.stored);
        self.share.send_if_modified(|share| {
            let settled = settled.is_some_and(|(generation, _)| {
                let before = share.is_settled();
                share.settle(generation);
                share.is_settled() != before
            });
            let moved = (share.reached, share.stored) != (reached, stored);
            (share.reached, share.stored) = (reached, stored);
            settled || moved && watched
        });
        let waited_for =
            until.is_some_and(|until| session.stored < until && session.given >= until);
        if waited_for && session.hurried < session.given {
            session.hurried = session.given;
            self.target.hurry();
        }
    }
}
