//! Room on the disk: what nobody needs any more goes, and a disk that is full is waited for.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{error, info, warn};

use super::super::state::{Shared, State};
use super::{Failing, Files, Segment, segment};
use crate::error::{Error, Kind, Result};

/// Between two attempts to write to a disk that is full.
const RETRY: Duration = Duration::from_millis(500);

/// Between two attempts to remove a file.
const REMOVE_AGAIN: Duration = Duration::from_secs(60);

/// The folder of a spool, as its thread has it.
pub(super) struct Room {
    pub(super) shared: Arc<Shared>,
    pub(super) dir: PathBuf,
    pub(super) failing: Failing,
}

impl Room {
    /// A new segment; see [`segment::create`].
    pub(super) fn create(&self, first: u64, head: &[u8]) -> io::Result<File> {
        self.failing.room(head.len())?;
        segment::create(&self.dir, first, head)
    }

    /// Until it succeeds, or nobody waits for it any more.
    pub(super) fn retry<T>(&self, mut work: impl FnMut() -> io::Result<T>) -> Result<T> {
        let mut told = false;
        loop {
            let failure = match work() {
                Ok(done) => {
                    if told {
                        info!("the spool is written to again");
                        self.shared.lock().tell_stuck(None);
                    }
                    return Ok(done);
                }
                Err(error) => Error::new(
                    Kind::Disk,
                    format!("the spool cannot be written to in {}", self.dir.display()),
                )
                .because(error)
                .hint("see to room there; nothing is lost: the source keeps what is not here"),
            };
            if !told {
                error!(error = %failure, "nothing is received until the spool can be written to");
            }
            told = true;
            let mut state = self.shared.lock();
            state.tell_stuck(Some(failure.to_string()));
            if state.closed {
                return Err(failure);
            }
            let since = Instant::now();
            while since.elapsed() < RETRY && !state.closed {
                if let Some(segment) = passed(&mut state) {
                    // which makes room
                    drop(state);
                    self.remove(segment);
                    state = self.shared.lock();
                    break;
                }
                state = self.shared.wait(state, RETRY);
            }
        }
    }

    /// The oldest segment, which nobody needs any more. One that cannot be removed keeps its place, and with it those
    /// behind it: what is left has no gaps, or it would be taken for damaged at the next start.
    pub(super) fn remove(&self, segment: Segment) {
        let path = segment::path(&self.dir, segment.first);
        let removed = match self.failing.remove(&path) {
            // the last time, its name alone was not gone for good
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        };
        if let Err(error) = removed.and_then(|()| segment::sync_names(&self.dir)) {
            warn!(%error, file = %path.display(), again_in = ?REMOVE_AGAIN, "a file of the spool cannot be removed: until it can be, it takes room, and so do those behind it");
            if let Some(files) = &mut self.shared.lock().files {
                files.segments.push_front(segment);
                files.kept_until = Some(Instant::now() + REMOVE_AGAIN);
            }
        }
        self.shared.moved();
    }

    /// Nothing is written any more, and nothing read that may not be there; `synced`: what is left of the last segment.
    pub(super) fn give_up(&self, failure: Error, synced: Option<Segment>) {
        error!(error = %failure, "the spool has ended");
        {
            let mut state = self.shared.lock();
            if let Some(files) = &mut state.files {
                files.failed = Some(Arc::new(failure));
                files.cuts += 1;
            }
            if let Some(segment) = synced {
                state.resized(segment);
            }
        }
        self.shared.broken.cancel();
        self.shared.moved();
    }
}

/// Takes the oldest segment when every target is durably behind it; never the one that is written to.
pub(super) fn passed(state: &mut State) -> Option<Segment> {
    let needed = state.needed();
    let files: &mut Files = state.files.as_mut()?;
    let second = files.segments.get(1)?;
    if second.first > needed || files.kept_until.is_some_and(|until| Instant::now() < until) {
        return None;
    }
    files.segments.pop_front()
}
