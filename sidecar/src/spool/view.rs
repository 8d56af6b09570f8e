//! A look at the spool for those who tell of it.

use std::sync::Arc;
use std::time::Duration;

use rsrepl_wire::{Frame, Lsn};

use super::Item;
use super::state::Shared;

/// Reads how full the spool is and who lags; moves nothing.
#[derive(Clone, Debug)]
pub struct View {
    pub(super) shared: Arc<Shared>,
}

/// A spool on disk.
#[derive(Clone, Debug, Default)]
pub struct OnDisk {
    pub bytes: u64,
    /// Everything that ends behind it is there.
    pub begin: Lsn,
    /// The end of what is there for good.
    pub durable: Lsn,
    /// Calls of `fdatasync`.
    pub syncs: u64,
    /// How long they took in all.
    pub sync_time: Duration,
    /// Why it cannot be written to for now.
    pub stuck: Option<String>,
}

impl View {
    /// Bytes in the spool.
    pub fn bytes(&self) -> usize {
        self.shared.lock().bytes
    }

    /// End of the last complete transaction or progress received.
    pub fn received(&self) -> Lsn {
        self.shared.lock().received
    }

    /// What is on disk, if that is where the spool is.
    pub fn on_disk(&self) -> Option<OnDisk> {
        let state = self.shared.lock();
        let files = state.files.as_ref()?;
        Some(OnDisk {
            bytes: files.bytes(),
            begin: files.segments.front().map_or(state.end, |segment| segment.start),
            durable: files.durable,
            syncs: files.syncs,
            sync_time: files.sync_time,
            stuck: files.stuck.clone(),
        })
    }

    /// What target `index` has yet to apply.
    pub fn first_pending(&self, index: usize) -> Pending {
        let state = self.shared.lock();
        let Some(cursor) = state.cursors.get(index) else { return Pending::Nothing };
        if cursor.waits_for_rewind {
            return Pending::Evicted;
        }
        let in_files = state.files.is_some() && cursor.applied < state.base;
        match cursor.since {
            Some((sequence, commit_time)) if in_files && cursor.applied <= sequence => {
                return Pending::Since(commit_time);
            }
            // all that it has read from files is applied
            _ if in_files && cursor.next >= state.base => {}
            _ if cursor.applied < state.base => return Pending::Evicted,
            _ => {}
        }
        let skip = cursor.applied.saturating_sub(state.base);
        let skip = usize::try_from(skip).unwrap_or(usize::MAX);
        let mut pending = state.items.iter().skip(skip);
        let first = pending.find_map(|item| match item {
            Item::Frame(frame) if frame.begins() => Some(Pending::Frame(frame.clone())),
            Item::Streamed(streamed) => Some(Pending::Since(streamed.begin.commit_time)),
            _ => None,
        });
        first.unwrap_or(Pending::Nothing)
    }
}

/// What a target has yet to apply; see [`View::first_pending`].
#[derive(Debug)]
pub enum Pending {
    Nothing,
    /// The first frame of the oldest transaction not yet applied.
    Frame(Frame),
    /// A streamed transaction, which committed then: microseconds since 2000-01-01.
    Since(i64),
    /// There is something, but it is no longer here.
    Evicted,
}
