//! What the one writer of a spool does when it is on disk: finds out whether it is this source's, begins to write,
//! and waits until everything is durable.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rsrepl_wire::Lsn;
use tokio::sync::watch;
use tracing::{info, warn};

use super::Spool;
use super::file::wait_for_disk;
use super::log::{Failing, Meta, Recovered, Running, Writer};
use crate::error::{Error, Kind, Result};
use crate::ledger::Ledger;
use crate::target::SourceIdentity;

/// How long its thread may take to end; what it has not made durable then comes again.
const END_LIMIT: Duration = Duration::from_secs(10);

/// The writer's part of a spool on disk.
#[derive(Debug)]
pub(super) struct Log {
    dir: PathBuf,
    meta: Option<Meta>,
    ledger: Arc<watch::Sender<Ledger>>,
    /// Until the source is known.
    recovered: Option<Recovered>,
    thread: Option<Running>,
    pub(super) failing: Failing,
}

impl Log {
    pub(super) fn new(recovered: Recovered, ledger: Arc<watch::Sender<Ledger>>) -> Log {
        let (dir, meta) = (recovered.dir().to_owned(), recovered.meta().cloned());
        let failing = Failing::default();
        Log { dir, meta, ledger, recovered: Some(recovered), thread: None, failing }
    }
}

impl Spool {
    /// Whether there is a spool on disk that has been used before: it belongs to a slot.
    pub fn is_used(&self) -> bool {
        self.log.as_ref().is_some_and(|log| log.meta.is_some())
    }

    /// Of a spool on disk: whether it is of this source.
    ///
    /// # Errors
    /// [`Kind::Identity`].
    pub fn verify(&self, source: &SourceIdentity) -> Result<()> {
        match &self.log {
            Some(Log { meta: Some(meta), dir, .. }) => meta.verify(dir, self.end(), source),
            _ => Ok(()),
        }
    }

    /// Of a spool on disk: sees whether it goes on with this source, and begins to write when it does. `confirmed`
    /// is where the slot stands; a new spool begins there.
    ///
    /// # Errors
    /// [`Kind::Identity`]: it is of another source, or something is missing between it and the slot.
    /// [`Kind::Setup`]: it cannot be written to.
    pub fn belongs_to(&mut self, source: &SourceIdentity, confirmed: Lsn) -> Result<()> {
        self.verify(source)?;
        let end = self.end();
        let Some(log) = &mut self.log else { return Ok(()) };
        if log.meta.is_some() && confirmed > end {
            return Err(behind(&log.dir, end, confirmed, &source.slot));
        }
        let meta = Meta::new(source, log.meta.as_ref());
        let start = if log.meta.is_some() { end } else { confirmed };
        // nothing is there yet that targets could be served from; it is begun again with the next connection
        let file = match &log.recovered {
            Some(recovered) if recovered.is_empty() => {
                let begin = || recovered.begin(source.system_id, start, &log.failing);
                Some(wait_for_disk(begin).map_err(|error| cannot_write(&log.dir, error))?)
            }
            _ => None,
        };
        if let Some(recovered) = log.recovered.take() {
            if log.meta.is_none() {
                info!(dir = %log.dir.display(), from = %confirmed, "a new spool begins");
            }
            {
                let mut state = self.shared.lock();
                (state.end, state.received) = (start, start);
            }
            let (shared, ledger) = (self.shared.clone(), log.ledger.clone());
            let (begin, failing) = ((source.system_id, start), log.failing.clone());
            let thread = Writer::start(recovered, file, begin, shared, ledger, failing);
            log.thread = Some(thread.map_err(|error| {
                // nothing can be appended without it
                let failed = Arc::new(error);
                if let Some(files) = &mut self.shared.lock().files {
                    files.failed = Some(failed.clone());
                }
                self.shared.broken.cancel();
                Error::new(Kind::Disk, "the spool cannot begin").because(failed)
            })?);
            if meta.accepted {
                log.ledger.send_modify(Ledger::accept);
            }
        }
        if log.meta.as_ref() != Some(&meta) {
            log.write(meta)?;
        }
        Ok(())
    }

    /// Of a spool on disk: remembers that all targets have been seen to miss nothing that is before it. From
    /// then on the slot may pass targets that are away.
    ///
    /// # Errors
    /// [`Kind::Setup`]: it cannot be written to.
    pub fn accept(&mut self) -> Result<()> {
        let Some(log) = &mut self.log else { return Ok(()) };
        match &log.meta {
            Some(meta) if !meta.accepted && log.ledger.borrow().all_opened() => {
                let meta = meta.accepted();
                log.write(meta)?;
                log.ledger.send_modify(Ledger::accept);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Progress is to be made durable at once: commits wait for it.
    pub fn hurry_progress(&mut self, hurry: bool) {
        if let Some(files) = &mut self.shared.lock().files {
            files.prompt = hurry;
        }
        self.shared.appended();
    }

    /// Why nothing can be appended any more.
    pub fn failure(&self) -> Option<Error> {
        self.shared.lock().files.as_ref()?.failure()
    }

    /// Waits until everything that was appended is durable, or cannot become so.
    pub async fn synced(&mut self) {
        loop {
            self.room.mark_unchanged();
            {
                let state = self.shared.lock();
                let Some(files) = &state.files else { return };
                let runs = self.log.as_ref().is_some_and(|log| log.thread.is_some());
                if !runs || files.failed.is_some() || files.synced >= state.end_sequence() {
                    return;
                }
            }
            let _ = self.room.changed().await;
        }
    }

    /// Ends it; what is on disk is nobody's then.
    pub fn end_writing(mut self) {
        let thread = self.log.as_mut().and_then(|log| log.thread.take());
        drop(self);
        // it has told what was wrong
        if thread.is_some_and(|thread| !wait_for_disk(|| thread.wait(END_LIMIT))) {
            warn!(limit = ?END_LIMIT, "the spool's disk does not answer: what is not on it comes again");
        }
    }

    /// The next `fdatasync` fails.
    #[cfg(test)]
    pub fn fail_next_sync(&self) {
        let failing = &self.log.as_ref().unwrap().failing;
        failing.0.sync.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}

impl Log {
    fn write(&mut self, meta: Meta) -> Result<()> {
        wait_for_disk(|| meta.write(&self.dir)).map_err(|error| cannot_write(&self.dir, error))?;
        self.meta = Some(meta);
        Ok(())
    }
}

#[cold]
fn cannot_write(dir: &Path, error: io::Error) -> Error {
    let what = format!("the spool cannot write to {}", dir.display());
    // not what is kept of transactions in progress: it is tried again, in a while
    Error::new(Kind::Setup, what).because(error).hint("see to room and rights there")
}

#[cold]
fn behind(dir: &Path, end: Lsn, confirmed: Lsn, slot: &str) -> Error {
    let what = format!(
        "the spool in {} ends at {end}, and slot {slot} gives nothing below {confirmed}: changes between them are missing",
        dir.display()
    );
    Error::new(Kind::Identity, what).hint(
        "this is an older copy of the spool, or its end was damaged, or somebody else moved the slot: put the right folder \
         in its place; if there is none, remove it and load those targets anew that are behind the slot",
    )
}

#[cfg(test)]
#[path = "on_disk_tests.rs"]
mod tests;
