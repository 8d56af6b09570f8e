//! The source's task: keeps one replication connection, puts what comes into the spool, and tells the
//! slot how far the targets are.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rsrepl_wire::{Frame, Lsn};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::LinkState;
use super::feedback::{FEEDBACK_DELAY, Feedback, answerable, names, spooled};
use super::options::plugin_options;
use super::patience::Patience;
use crate::config::{Config, Retry, Streaming};
use crate::error::{Decision, Error, Kind, Result};
use crate::guard::guarded;
use crate::ledger::Ledger;
use crate::retry::{Backoff, STOPPED_RETRY};
use crate::source::{self, Event, ReplicationClient, ReplicationStream, SourceInfo, StatusUpdate};
use crate::spool::{Spool, Streamed, Streams};
use crate::status::Status;

/// The source is tried again for ever.
const SOURCE_RETRY: Retry = Retry {
    max_attempts: None,
    backoff: Duration::from_millis(200),
    max_backoff: Duration::from_secs(5),
};

/// How long a spool on disk may take at the end to make durable what was received; the rest comes again.
const SYNC_LIMIT: Duration = Duration::from_secs(10);

/// After a failure to keep a transaction in progress on disk, the source keeps them itself for so long at
/// least. The time doubles with each failure, up to a limit: each costs a new connection, and the source
/// the decoding of all that has not ended.
const STREAMING_REST: (Duration, Duration) =
    (Duration::from_secs(600), Duration::from_secs(6 * 3600));

/// Why a connection was given up without a fault.
enum Leave {
    Shutdown,
    /// The spool is full.
    Full,
    /// A target needs what the spool no longer has.
    Rewind,
    /// Transactions in progress can be kept here again.
    Stream,
}

/// What comes from the source for the spool.
enum Entry {
    Frame(Frame),
    Streamed(Arc<Streamed>),
}

/// Transactions in progress could not be kept here.
pub(super) struct Refusal {
    at: Instant,
    rest: Duration,
    /// To those who look at the status.
    said: String,
}

impl Refusal {
    fn is_over(&self) -> bool {
        self.at.elapsed() >= self.rest
    }
}

pub(super) struct Receiver {
    pub config: Arc<Config>,
    pub spool: Spool,
    /// Transactions in progress.
    pub streams: Streams,
    /// The last time that one could not be kept.
    pub refusal: Option<Refusal>,
    pub ledger: watch::Receiver<Ledger>,
    pub link: watch::Sender<Option<LinkState>>,
    pub status: Status,
    /// Stop receiving; go on confirming.
    pub shutdown: CancellationToken,
    /// The targets are done: confirm the last positions and leave.
    pub drained: CancellationToken,
    pub patience: Patience,
    /// The source was seen without what had been received from it. It may have as much WAL again the next time, with
    /// something else in it: only who has been told can say that all is well, by a new start.
    pub gone_back: Option<String>,
}

impl Receiver {
    /// Runs until shutdown; closes the spool.
    ///
    /// # Errors
    /// What keeps the spool on disk from being written to: only another process can begin with it.
    pub(super) async fn run(mut self) -> Result<()> {
        let mut backoff = Backoff::new(SOURCE_RETRY);
        let (broken, shutdown) = (self.spool.broken(), self.shutdown.clone());
        // at shutdown nothing waits for it, and what can be confirmed still is
        let failed = || async {
            broken.cancelled().await;
            if shutdown.is_cancelled() {
                std::future::pending().await
            }
        };
        while !self.shutdown.is_cancelled() {
            let before = self.spool.end();
            // also while nothing comes: commits that wait for the spool would wait for ever
            let result = tokio::select! {
                biased;
                () = failed() => Ok(Leave::Shutdown),
                result = guarded(self.connection()) => result,
            };
            if self.spool.end() > before {
                // not for a connection alone: what breaks it may be the next thing that is sent
                backoff.reset();
            }
            self.spool.cut();
            self.streams.clear();
            self.status.update_source(|source| {
                source.connected = false;
                source.open_streams = 0;
            });
            if let Some(failure) = self.spool.failure() {
                self.status.update_source(|source| source.last_error = Some(failure.to_string()));
                // what may not be on the disk is taken away there
                self.spool.end_writing();
                return Err(failure);
            }
            match result {
                Ok(Leave::Shutdown) => break,
                Ok(Leave::Rewind) => {
                    info!("asking the source to send again from the slot's position");
                    if let Some(error) = self.spool.unreadable() {
                        self.refuse_streaming(&error);
                    }
                }
                Ok(Leave::Stream) => {
                    info!("transactions in progress are received again as they come")
                }
                Ok(Leave::Full) => {
                    warn!(
                        "the spool is full: not receiving until the slowest target has caught up"
                    );
                    self.patience.gave_up(self.spool.end());
                    tokio::select! {
                        () = self.wait_for_room() => {}
                        () = failed() => {}
                    }
                }
                Err(_) if self.shutdown.is_cancelled() => break,
                Err(error) if error.kind() == Kind::Disk => self.refuse_streaming(&error),
                Err(error) => tokio::select! {
                    () = self.wait_after(&error, &mut backoff) => {}
                    () = failed() => {}
                },
            }
            self.status.update_source(|source| source.reconnects += 1);
        }
        self.spool.close();
        let _ = timeout(SYNC_LIMIT, self.spool.synced()).await;
        self.spool.end_writing();
        Ok(())
    }

    /// What is on the disk of the source alone is lost nowhere.
    fn refuse_streaming(&mut self, failure: &Error) {
        let (least, most) = STREAMING_REST;
        let rest = self.refusal.as_ref().map_or(least, |refusal| (refusal.rest * 2).min(most));
        error!(error = %failure, ?rest, "transactions in progress cannot be kept here: the source has to, and sends them when they have committed");
        let said = format!("streaming is off: {failure}");
        self.refusal = Some(Refusal { at: Instant::now(), rest, said });
        self.status.update_source(|source| source.streaming_refused = true);
    }

    /// Transactions in progress are wanted of this source, now.
    fn streams_from(&self, source: &SourceInfo) -> bool {
        let wanted = match self.config.source.streaming {
            Streaming::Auto => source.streams_whole(),
            Streaming::On => true,
            Streaming::Off => false,
        };
        wanted && self.refused().is_none()
    }

    /// The refusal that holds.
    fn refused(&self) -> Option<&Refusal> {
        self.refusal.as_ref().filter(|refusal| !refusal.is_over())
    }

    /// This connection was made without streaming, and the next need not be. Not in the middle of a
    /// transaction, which would come again from its beginning.
    fn may_stream_again(&self, streaming: bool) -> bool {
        let link = self.link.borrow();
        let off = !streaming && link.as_ref().is_some_and(|link| self.streams_from(&link.source));
        off && self.streams.has_room() && !self.spool.is_open()
    }

    async fn wait_for_room(&mut self) {
        let shutdown = self.shutdown.clone();
        while !self.spool.has_room() && !self.spool.rewind_wanted() {
            tokio::select! {
                () = self.spool.moved() => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    async fn wait_after(&self, failure: &Error, backoff: &mut Backoff) {
        let wait = match failure.decision() {
            Decision::Retry => backoff.failed().unwrap_or(STOPPED_RETRY),
            Decision::Stop => STOPPED_RETRY,
        };
        if failure.decision() == Decision::Stop {
            error!(error = %failure, look_again_in = ?wait, "replication is stopped");
        } else {
            warn!(error = %failure, retry_in = ?wait, "no stream from the source");
        }
        self.status.update_source(|source| source.last_error = Some(failure.to_string()));
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = self.shutdown.cancelled() => {}
        }
    }

    /// One connection, from its start to its end.
    async fn connection(&mut self) -> Result<Leave> {
        let shutdown = self.shutdown.clone();
        let (stream, confirmed, streaming) = tokio::select! {
            started = self.start() => started?,
            () = shutdown.cancelled() => return Ok(Leave::Shutdown),
        };
        self.status.update_source(|source| {
            source.connected = true;
            source.confirmed = confirmed;
            source.last_message = Some(Instant::now());
            source.streaming_refused = self.refused().is_some();
            source.last_error = self.refused().map(|refusal| refusal.said.clone());
        });
        let mut feedback = Feedback {
            stream,
            ledger: self.ledger.clone(),
            status: self.status.clone(),
            link: self.link.clone(),
            confirmed,
            said: StatusUpdate::default(),
            sent_at: Instant::now(),
            asked: None,
            pings: 0,
        };
        let leave = self.receive(&mut feedback, streaming).await?;
        if matches!(leave, Leave::Shutdown) {
            self.spool.cut();
            self.streams.clear();
            self.spool.close();
            // a spool on disk: what is there is confirmed
            let _ = timeout(SYNC_LIMIT, self.spool.synced()).await;
            feedback.until(&self.drained, self.spool.end()).await?;
        }
        let last = feedback.update(self.spool.end());
        match feedback.stream.close(last).await {
            // the reason to leave is still there, however the connection ended
            Err(error) if !matches!(leave, Leave::Shutdown) => {
                debug!(%error, "the stream was not ended in good order");
                Ok(leave)
            }
            closed => closed.map(|()| leave),
        }
    }

    /// Connects, checks that this is the right source (invariant 10) and starts the stream behind what
    /// the spool already has.
    /// The last of the result: transactions in progress come as they run.
    async fn start(&mut self) -> Result<(ReplicationStream, Lsn, bool)> {
        let config = Arc::clone(&self.config);
        let source = &config.source;
        let mut client = ReplicationClient::connect(&source.connection).await?;
        let slot = client.slot(&source.slot_name).await?;
        // behind the look at the slot: whoever had it before us has received nothing since
        let info = source::identify(&mut client, &source.slot_name).await?;
        let known = self.link.borrow().as_ref().map(|link| link.source.identity.clone());
        if let Some(known) = &known {
            known.check_successor(&info.identity, self.reached())?;
        }
        self.spool.verify(&info.identity)?;
        let confirmed = match slot {
            Some(slot) => {
                let confirmed = source::verify_slot(&info, &slot, source::PLUGIN)?;
                self.check_present(&mut client, info.wal_end).await?;
                confirmed
            }
            // a slot that was there and is gone has taken changes with it: it is not made anew silently
            None if source.create_slot && known.is_none() && !self.spool.is_used() => {
                info!(slot = source.slot_name, "creating the slot");
                client.create_slot(&source.slot_name, source::PLUGIN).await?
            }
            None => {
                let was_there = known.is_some() || self.spool.is_used();
                return Err(no_slot(&source.slot_name, was_there));
            }
        };
        if self.spool.is_on_disk() {
            self.spool.belongs_to(&info.identity, confirmed)?;
            let standbys = client.show("synchronous_standby_names").await?;
            let name = source.connection.config().get_application_name().unwrap_or_default();
            self.spool.hurry_progress(names(&standbys, name));
        }
        if self.spool.rewind_wanted() {
            self.spool.rewind();
        }
        let from = self.spool.end();
        let ours = self.link.borrow().as_ref().map_or(Lsn::INVALID, |link| link.confirmed);
        source::verify_resume(&source.slot_name, from, confirmed, ours)?;
        let streaming = self.streams_from(&info);
        let options = plugin_options(source, streaming);
        let stream = client.start(&source.slot_name, from, &options).await?;
        self.spool.starts_behind(confirmed);
        info!(slot = source.slot_name, from = %from.max(confirmed), "receiving");
        self.link.send_replace(Some(LinkState { source: info, confirmed }));
        Ok((stream, confirmed, streaming))
    }

    /// What this process knows to have come from the source; also what targets, and a spool on disk, had before it
    /// began.
    fn reached(&self) -> Lsn {
        self.spool.received().max(self.ledger.borrow().highest())
    }

    /// Whether the source has all that came from it (invariant 10).
    async fn check_present(&mut self, client: &mut ReplicationClient, wal_end: Lsn) -> Result<()> {
        if let Some(said) = &self.gone_back {
            let message = format!("the source was seen to have gone back: {said}");
            return Err(Error::new(Kind::Identity, message).hint(
                "its WAL reaches as far again, but nothing says that it is the same. When the targets have been loaded \
                 anew, or it was another server that answered, restart the sidecar",
            ));
        }
        let reached = self.reached();
        if reached > wal_end {
            let standby = client.show("in_hot_standby").await? == "on";
            source::verify_present(reached, wal_end, standby).inspect_err(|error| {
                self.gone_back = (error.kind() == Kind::Identity).then(|| error.what());
            })?;
        }
        Ok(())
    }

    async fn receive(&mut self, feedback: &mut Feedback, streaming: bool) -> Result<Leave> {
        let mut ticks = tokio::time::interval(FEEDBACK_DELAY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut ledger = self.ledger.clone();
        loop {
            if self.spool.rewind_wanted() {
                return Ok(Leave::Rewind);
            }
            let event = tokio::select! {
                event = feedback.stream.next() => event?,
                _ = ticks.tick() => {
                    if self.may_stream_again(streaming) {
                        return Ok(Leave::Stream);
                    }
                    self.spool.accept()?;
                    feedback.tick(self.spool.end()).await?;
                    continue;
                }
                () = answerable(&mut self.ledger, feedback.asked) => {
                    feedback.send(self.spool.end()).await?;
                    continue;
                }
                () = spooled(&mut ledger, feedback.said) => {
                    feedback.send(self.spool.end()).await?;
                    continue;
                }
                () = self.shutdown.cancelled() => return Ok(Leave::Shutdown),
            };
            self.status.update_source(|source| source.last_message = Some(Instant::now()));
            if let Event::Frame { frame, .. } = &event {
                // frames of any kind count; nothing else is looked at before this one is in the spool
                self.spool.expect_more(frame.more());
            }
            match event {
                Event::Frame { frame, .. } if frame.streams() && !streaming => {
                    let what = "the source sent a part of a transaction in progress, which it was not asked for";
                    return Err(Error::new(Kind::Connection, what).at(frame.base()));
                }
                Event::Frame { frame, .. } if frame.streams() => {
                    if let Some(streamed) = self.streams.take(&frame)? {
                        let entry = Entry::Streamed(Arc::new(streamed));
                        if let ControlFlow::Break(leave) =
                            self.append(&entry, feedback, &mut ticks).await?
                        {
                            return Ok(leave);
                        }
                    }
                    let open = self.streams.open() as u64;
                    self.status.update_source(|source| source.open_streams = open);
                }
                Event::Frame { frame, .. } => {
                    if let ControlFlow::Break(leave) =
                        self.append(&Entry::Frame(frame), feedback, &mut ticks).await?
                    {
                        return Ok(leave);
                    }
                }
                Event::Silence => feedback.ping(self.spool.end()).await?,
                Event::End => {
                    return Err(Error::new(Kind::Connection, "the source ended the stream"));
                }
                Event::Keepalive { wal_end, reply_requested, .. } => {
                    self.spool.progress(wal_end, reply_requested);
                    self.status.update_source(|source| {
                        source.server_wal_end = source.server_wal_end.max(wal_end);
                    });
                    if reply_requested && self.spool.more_expected() {
                        // it wants to know that we are there; this position is not for us to confirm
                        feedback.send(self.spool.end()).await?;
                    } else if reply_requested {
                        feedback.asked_for(wal_end, self.spool.end()).await?;
                    }
                }
            }
        }
    }

    /// Puts an entry into the spool; while it waits for room, the source goes on hearing from us.
    async fn append(
        &mut self,
        entry: &Entry,
        feedback: &mut Feedback,
        ticks: &mut tokio::time::Interval,
    ) -> Result<ControlFlow<Leave>> {
        let patience = Instant::now() + self.patience.wait();
        let end = self.spool.end();
        loop {
            let spool = &mut self.spool;
            let append = async {
                match entry {
                    Entry::Frame(frame) => spool.append(frame).await,
                    Entry::Streamed(streamed) => spool.append_streamed(streamed).await,
                }
            };
            tokio::select! {
                biased;
                appended = append => return appended.map(ControlFlow::Continue),
                _ = ticks.tick() => {
                    self.spool.accept()?;
                    feedback.tick(end).await?;
                }
                () = spooled(&mut self.ledger, feedback.said) => feedback.send(end).await?,
                () = self.shutdown.cancelled() => return Ok(ControlFlow::Break(Leave::Shutdown)),
            }
            if Instant::now() >= patience {
                return Ok(ControlFlow::Break(Leave::Full));
            }
        }
    }
}

fn no_slot(name: &str, was_there: bool) -> Error {
    let error = Error::new(Kind::Identity, format!("slot {name} does not exist"));
    if was_there {
        error.hint("it was dropped while in use: load the targets anew, then restart the sidecar")
    } else {
        error.hint(format!(
            "set create_slot = true, or run: SELECT pg_create_logical_replication_slot('{name}', 'rsrepl')"
        ))
    }
}

#[cfg(test)]
#[path = "receive_tests.rs"]
mod tests;
