//! A transaction that waits for its turn, and the rest of the frame that it begins in.

use rsrepl_wire::{Begin, Frame, Message, Messages};

use super::Assembler;
use crate::batch::Position;
use crate::control::{Verdict, Wait};
use crate::error::{Error, Result};

/// A frame of which only what is before a transaction that waits was taken.
#[derive(Debug)]
pub(super) struct Held {
    sequence: u64,
    frame: Frame,
    begin: Begin,
    /// Behind the begin.
    rest: Messages,
    wait: Wait,
}

impl Assembler {
    /// The transaction that waits, and why, as it was last judged. Nothing may be pushed before it goes on.
    pub fn held(&self) -> Option<(Position, Wait)> {
        self.held.as_ref().map(|held| (position(&held.begin), held.wait))
    }

    /// Judges the transaction that waits once more, and takes the rest of its frame. `false`: it still waits, or the next
    /// one does.
    ///
    /// # Errors
    /// As [`Self::push_judged`].
    pub fn go_on(&mut self, mut judge: impl FnMut(&Begin) -> Verdict) -> Result<bool> {
        let Some(mut held) = self.held.take() else { return Ok(true) };
        match judge(&held.begin) {
            Verdict::Wait(wait) => {
                held.wait = wait;
                self.held = Some(held);
                return Ok(false);
            }
            verdict => self.begin(held.begin, verdict)?,
        }
        self.take_in(held.sequence, held.frame, held.rest, judge)?;
        Ok(self.held.is_none())
    }

    /// Takes messages of a frame, up to a transaction that waits.
    pub(super) fn take_in(
        &mut self,
        sequence: u64,
        frame: Frame,
        mut messages: Messages,
        mut judge: impl FnMut(&Begin) -> Verdict,
    ) -> Result<()> {
        if frame.begins() {
            self.began = sequence;
        }
        while let Some(message) = messages.next() {
            let message = message.map_err(|error| Error::from(error).at(frame.base()))?;
            let Message::Begin(begin) = message else {
                self.message(message, &frame).map_err(|error| error.at(frame.base()))?;
                continue;
            };
            let known = begin.end_lsn <= self.position;
            let verdict = if known { Verdict::Apply } else { judge(&begin) };
            if let Verdict::Wait(wait) = verdict {
                // what is before it in the frame can be given out; what it begins with is to be read again
                if self.ended.is_some() {
                    self.between_transactions(self.began);
                }
                self.held = Some(Held { sequence, frame, begin, rest: messages, wait });
                return Ok(());
            }
            self.begin(begin, verdict).map_err(|error| error.at(frame.base()))?;
        }
        if frame.commits() {
            self.between_transactions(sequence + 1);
        }
        Ok(())
    }
}

pub(super) fn position(begin: &Begin) -> Position {
    Position { lsn: begin.end_lsn, commit_time: begin.commit_time, xid: begin.xid }
}
