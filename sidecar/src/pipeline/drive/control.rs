//! What people ask of a target, where its task comes to it: see [`crate::control`].

use std::time::{Duration, Instant, SystemTime};

use tracing::{error, warn};

use super::Drive;
use super::session::Session;
use crate::batch::Position;
use crate::control::Wait;
use crate::control::letters::Letter;
use crate::error::{Decision, Error, Result};
use crate::pipeline::source_time;
use crate::status::TargetState;
use crate::target::Target;

/// How long a look at the clock is good for: it may be set meanwhile.
const CLOCK_INTERVAL: Duration = Duration::from_secs(1);

impl<T: Target> Drive<T> {
    /// Waits until it is known what is asked of the target. `false`: shutdown came first.
    pub(super) async fn control_known(&mut self) -> Result<bool> {
        tokio::select! {
            known = self.control.look() => known.map(|()| true),
            () = self.shared.shutdown.cancelled() => Ok(false),
        }
    }

    /// Keeps to what is asked of the target by now.
    pub(super) fn obey(&mut self, session: &mut Session) {
        if self.control.is_changed() && self.control.adopt() {
            session.turns |= session.assembler.has_any() || session.held_back.is_some();
        }
    }

    /// What is to be done with what the assembler has taken, but for giving it out.
    pub(super) fn taken_in(&mut self, session: &mut Session) -> Result<()> {
        let letters = session.assembler.take_letters();
        self.letters.write(&letters)?;
        for letter in letters {
            if let Letter::End { transaction, changes } = letter {
                let Position { lsn, xid, .. } = transaction;
                self.control.skipped(lsn);
                if self.letters.has(&transaction) {
                    // it comes again, as what is behind it has failed
                    continue;
                }
                warn!(target_name = self.name, %lsn, xid, changes, dead_letters = %self.letters.path().display(), "a transaction is skipped");
                self.shared.status.update_target(self.index, |status| status.skipped += 1);
            }
        }
        if session.assembler.skips() {
            self.reader.skip();
        }
        if session.assembler.has_whole() && session.waiting_since.is_none() {
            session.waiting_since = Some(Instant::now());
        }
        Ok(())
    }

    /// Tells of a transaction that waits; gives the time at which it is to be looked at again.
    pub(super) fn note_wait(&mut self, session: &mut Session) -> Option<Instant> {
        let now = Instant::now();
        let (mut wake, mut due_at) = (None, None);
        let held = session.assembler.held().filter(|_| !session.turns);
        let said = match held {
            Some((held, Wait::Delayed { due })) => {
                let due = source_time(due);
                let left = due.duration_since(SystemTime::now()).unwrap_or_default();
                (wake, due_at) = (Some(now + left.min(CLOCK_INTERVAL)), Some(due));
                Some((TargetState::Delayed, Some(held)))
            }
            Some((held, Wait::Paused)) => Some((TargetState::Paused, Some(held))),
            None if self.control.is_paused() => Some((TargetState::Paused, None)),
            None => None,
        };
        // what was given out before is got through with first
        let said = said.filter(|_| !session.under_way.is_writing());
        if said != session.said {
            session.said = said;
            self.shared.status.update_target(self.index, |status| match said {
                Some((state, held)) => {
                    (status.state, status.held, status.next_attempt) = (state, held, due_at);
                }
                None if status.state.waits() => {
                    (status.state, status.held, status.next_attempt) =
                        (TargetState::Running, None, None);
                }
                None => status.held = None,
            });
        }
        wake
    }

    /// How to go on without the transaction that stops the target. Not of a sync's stream: a skip would keep the
    /// transaction out of the tables of all others, and not out of those that are copied anew.
    pub(super) fn way_out(&self, failure: &Error, state: TargetState) -> String {
        // not of what passes by itself, or is no fault of the transaction, and was tried in vain for long enough
        let its_own = failure.decision() == Decision::Stop;
        let helps = its_own && state == TargetState::Stopped && self.control.is_asked();
        let transaction = failure.transaction().filter(|_| helps);
        let Some(Position { lsn, .. }) = transaction else { return String::new() };
        let text = format!(
            "; to leave the transaction out: rsrepl skip --target {} --lsn {lsn}",
            self.name
        );
        error!(target_name = self.name, "{}", text.trim_start_matches("; "));
        text
    }
}
