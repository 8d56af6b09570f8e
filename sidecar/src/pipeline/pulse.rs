//! Keeps what changes by itself in the status: lag grows while nothing is applied.

use std::time::{Duration, SystemTime};

use tokio_util::sync::CancellationToken;

use super::source_time;
use crate::spool::{Pending, StreamsView, View};
use crate::status::Status;

/// How stale lag and spool size may be.
const PULSE: Duration = Duration::from_millis(250);

/// Runs until `done`.
pub(super) async fn run(
    view: View,
    streams: StreamsView,
    status: Status,
    targets: usize,
    done: CancellationToken,
) {
    let mut ticks = tokio::time::interval(PULSE);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = done.cancelled() => return,
        }
        let received = view.received();
        status.update_source(|source| {
            source.received = received;
            source.spool_bytes = view.bytes() as u64;
            source.streamed_bytes = streams.bytes();
            source.spooled = received;
            if let Some(on_disk) = view.on_disk() {
                source.spooled = on_disk.durable;
                if let Some(why) = &on_disk.stuck {
                    source.last_error = Some(why.clone());
                } else if source.spool.as_ref().is_some_and(|before| before.stuck.is_some()) {
                    source.last_error = None;
                }
                source.spool = Some(on_disk);
            }
        });
        for index in 0..targets {
            let pending = view.first_pending(index);
            status.update_target(index, |target| {
                target.pending_since = match pending {
                    Pending::Nothing => None,
                    Pending::Evicted => target.pending_since.or_else(|| Some(SystemTime::now())),
                    Pending::Since(commit_time) => Some(source_time(commit_time)),
                    Pending::Frame(frame) => match frame.begin() {
                        Ok(Some(begin)) => Some(source_time(begin.commit_time)),
                        // its own task reports what is wrong with it
                        _ => target.pending_since.or_else(|| Some(SystemTime::now())),
                    },
                };
                // the one that waits is the oldest; the first of its frame may be behind it already
                if let Some(held) = target.held.filter(|_| target.state.waits()) {
                    target.pending_since = Some(source_time(held.commit_time));
                }
                target.note_lag(SystemTime::now());
                target.lag_bytes = match target.pending_since {
                    Some(_) => received.0.saturating_sub(target.applied.0),
                    None => 0,
                };
            });
        }
    }
}
