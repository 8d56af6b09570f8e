//! What is told to the source: how far we are, and that we are there.

use std::time::{Duration, Instant};

use rsrepl_wire::Lsn;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::LinkState;
use crate::error::{Error, Kind, Result};
use crate::ledger::Ledger;
use crate::source::{ReplicationStream, StatusUpdate};
use crate::status::Status;

/// A status goes to the source at least this often, so that `wal_sender_timeout` never strikes.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// A risen position is confirmed within this time.
pub(super) const FEEDBACK_DELAY: Duration = Duration::from_millis(50);

/// A source that shuts down asks, after each of our replies, whether everything is confirmed. After so
/// many questions for the same LSN that a failing target keeps us from answering with yes, the
/// connection is given up, so that the shutdown is not held up (invariant 11).
const SHUTDOWN_PINGS: u32 = 4;

/// What has been told to the source on this connection.
pub(super) struct Feedback {
    pub(super) stream: ReplicationStream,
    pub(super) ledger: watch::Receiver<Ledger>,
    pub(super) status: Status,
    pub(super) link: watch::Sender<Option<LinkState>>,
    pub(super) confirmed: Lsn,
    pub(super) said: StatusUpdate,
    pub(super) sent_at: Instant,
    /// The source wants to hear that this is confirmed.
    pub(super) asked: Option<Lsn>,
    pub(super) pings: u32,
}

impl Feedback {
    fn confirmable(&self) -> Lsn {
        self.ledger.borrow().confirmable().unwrap_or(Lsn::INVALID).max(self.confirmed)
    }

    /// Tells the source how far we are: `received` is written, what the ledger allows is flushed and
    /// applied.
    pub(super) async fn send(&mut self, received: Lsn) -> Result<()> {
        self.send_asking(received, false).await
    }

    /// The same, and has the source show that it is there.
    pub(super) async fn ping(&mut self, received: Lsn) -> Result<()> {
        self.send_asking(received, true).await
    }

    /// With a spool on disk, what a standby says with these three: in its operating system's hands, on its disk, and
    /// on the targets' disks and to be seen there.
    pub(super) fn update(&self, received: Lsn) -> StatusUpdate {
        let confirmed = self.confirmable();
        let ledger = self.ledger.borrow();
        let written = ledger.written_of(received).max(confirmed);
        let applied = match ledger.is_of_spool() {
            true => ledger.applied_everywhere().unwrap_or(Lsn::INVALID).min(confirmed),
            false => confirmed,
        };
        StatusUpdate { written, flushed: confirmed, applied }
    }

    async fn send_asking(&mut self, received: Lsn, reply: bool) -> Result<()> {
        let update = self.update(received);
        let confirmed = update.flushed;
        if confirmed != self.confirmed {
            // before it is sent: a target that opens meanwhile must be held to it
            self.link.send_modify(|link| {
                if let Some(link) = link {
                    link.confirmed = confirmed;
                }
            });
        }
        self.stream.send_status(update, reply).await?;
        self.said = update;
        self.sent_at = Instant::now();
        self.confirmed = confirmed;
        self.status.update_source(|source| source.confirmed = confirmed);
        if self.asked.is_some_and(|asked| asked <= confirmed) {
            self.asked = None;
            self.pings = 0;
        }
        Ok(())
    }

    pub(super) async fn tick(&mut self, received: Lsn) -> Result<()> {
        if self.confirmable() != self.confirmed || self.sent_at.elapsed() >= HEARTBEAT {
            self.send(received).await?;
        }
        Ok(())
    }

    /// The source wants a reply: at once when `lsn` is confirmed, else as soon as it is, or with the
    /// next heartbeat.
    pub(super) async fn asked_for(&mut self, lsn: Lsn, received: Lsn) -> Result<()> {
        if self.confirmable() >= lsn {
            return self.send(received).await;
        }
        self.pings = if self.asked == Some(lsn) { self.pings + 1 } else { 1 };
        self.asked = Some(lsn);
        if self.pings >= SHUTDOWN_PINGS {
            let message = format!(
                "the source waits, probably to shut down, for {lsn} to be confirmed, which a target keeps back at {}",
                self.confirmable()
            );
            return Err(Error::new(Kind::Connection, message));
        }
        Ok(())
    }

    /// After the last frame: confirms what the targets still apply, and says good bye.
    pub(super) async fn until(&mut self, drained: &CancellationToken, received: Lsn) -> Result<()> {
        let mut ticks = tokio::time::interval(FEEDBACK_DELAY);
        loop {
            tokio::select! {
                _ = ticks.tick() => self.tick(received).await?,
                () = drained.cancelled() => return self.send(received).await,
            }
        }
    }
}

/// Ready when what the source asked for can be confirmed.
pub(super) async fn answerable(ledger: &mut watch::Receiver<Ledger>, asked: Option<Lsn>) {
    let Some(asked) = asked else { return std::future::pending().await };
    let reached = |ledger: &Ledger| ledger.confirmable() >= Some(asked);
    // the targets' tasks hold the sender; without them nothing becomes confirmable any more
    if ledger.wait_for(reached).await.is_err() {
        std::future::pending().await
    }
}

/// Ready when a spool on disk has more than the source was told: commits may wait for it. Without one the
/// next tick is soon enough.
pub(super) async fn spooled(ledger: &mut watch::Receiver<Ledger>, said: StatusUpdate) {
    if !ledger.borrow().is_of_spool() {
        return std::future::pending().await;
    }
    let more = |ledger: &Ledger| {
        ledger.confirmable() > Some(said.flushed)
            || ledger.written_of(Lsn::INVALID) > said.written
            || ledger.applied_everywhere().min(ledger.confirmable()) > Some(said.applied)
    };
    if ledger.wait_for(more).await.is_err() {
        std::future::pending().await
    }
}

/// Whether `synchronous_standby_names` names us, or may.
pub(super) fn names(standbys: &str, name: &str) -> bool {
    let mut words = standbys.split([' ', ',', '(', ')', '"', '\t', '\n']);
    words.any(|word| word == "*" || !name.is_empty() && word.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_named_as_a_standby() {
        for standbys in ["sidecar", "ANY 1 (a, Sidecar)", "2 (\"sidecar\", b)", "*", "FIRST 1 (*)"]
        {
            assert!(names(standbys, "sidecar"), "{standbys}");
        }
        for standbys in ["", "a, b", "sidecar2", "ANY 1 (a)"] {
            assert!(!names(standbys, "sidecar") && !names(standbys, ""), "{standbys}");
        }
    }
}
