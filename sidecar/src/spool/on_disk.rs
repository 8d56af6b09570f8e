//! What the one writer of a spool does when it is on disk: finds out whether it is this source's, begins to write,
//! and waits until everything is durable.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use rsrepl_wire::Lsn;
use tokio::sync::watch;
use tracing::info;

use super::Spool;
use super::file::wait_for_disk;
use super::log::{Failing, Meta, Recovered, Writer};
use crate::error::{Error, Kind, Result};
use crate::ledger::Ledger;
use crate::source::{Branch, SourceInfo};

/// The writer's part of a spool on disk.
#[derive(Debug)]
pub(super) struct Log {
    dir: PathBuf,
    meta: Option<Meta>,
    ledger: Arc<watch::Sender<Ledger>>,
    /// Until the source is known.
    recovered: Option<Recovered>,
    thread: Option<JoinHandle<()>>,
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

    /// Of a spool on disk: sees whether it goes on with this source, and begins to write when it does. `confirmed`
    /// is where the slot stands; a new spool begins there.
    ///
    /// # Errors
    /// [`Kind::Identity`]: it is of another source, or something is missing between it and the slot.
    /// [`Kind::Setup`], [`Kind::Disk`]: it cannot be written to.
    pub fn belongs_to(
        &mut self,
        source: &SourceInfo,
        branch: &Branch,
        confirmed: Lsn,
    ) -> Result<()> {
        let end = self.end();
        let Some(log) = &mut self.log else { return Ok(()) };
        if let Some(meta) = &log.meta {
            meta.verify(&log.dir, end, source, branch)?;
            if confirmed > end {
                return Err(behind(&log.dir, end, confirmed, &source.identity.slot));
            }
        }
        let accepted = log.meta.as_ref().is_some_and(|meta| meta.accepted);
        let meta = Meta::new(&source.identity, branch, accepted);
        if let Some(recovered) = log.recovered.take() {
            let end = if log.meta.is_some() { end } else { confirmed };
            if log.meta.is_none() {
                info!(dir = %log.dir.display(), from = %confirmed, "a new spool begins");
            }
            {
                let mut state = self.shared.lock();
                (state.end, state.received) = (end, end);
            }
            let (shared, ledger) = (self.shared.clone(), log.ledger.clone());
            let (system, failing) = (source.identity.system_id, log.failing.clone());
            let start = || Writer::start(recovered, system, end, shared, ledger, failing);
            let thread = wait_for_disk(start).map_err(|error| {
                // nothing can be appended without it
                let failed = Arc::new(error);
                if let Some(files) = &mut self.shared.lock().files {
                    files.failed = Some(failed.clone());
                }
                Error::new(Kind::Disk, "the spool cannot begin").because(failed)
            })?;
            log.thread = Some(thread);
            if accepted {
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
        if let Some(thread) = thread {
            // it has told what was wrong
            let _ = wait_for_disk(|| thread.join());
        }
    }
}

impl Log {
    fn write(&mut self, meta: Meta) -> Result<()> {
        wait_for_disk(|| meta.write(&self.dir)).map_err(|error| {
            let what = format!("the spool cannot write to {}", self.dir.display());
            // not what is kept of transactions in progress: it is tried again, in a while
            Error::new(Kind::Setup, what).because(error).hint("see to room and rights there")
        })?;
        self.meta = Some(meta);
        Ok(())
    }
}

#[cold]
fn behind(dir: &std::path::Path, end: Lsn, confirmed: Lsn, slot: &str) -> Error {
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
