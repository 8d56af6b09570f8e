//! The source's task: keeps one replication connection, puts what comes into the spool, and tells the
//! slot how far the targets are.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rsrepl_wire::limits::FORMAT_VERSION;
use rsrepl_wire::{Frame, Lsn};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::LinkState;
use super::patience::Patience;
use crate::config::{Config, InvalidText, Retry, Source, Streaming};
use crate::error::{Decision, Error, Kind, Result};
use crate::guard::guarded;
use crate::ledger::Ledger;
use crate::quote::identifier;
use crate::retry::{Backoff, STOPPED_RETRY};
use crate::source::{self, Event, ReplicationClient, ReplicationStream, SourceInfo, StatusUpdate};
use crate::spool::{Spool, Streams};
use crate::status::Status;

/// The source is tried again for ever.
const SOURCE_RETRY: Retry = Retry {
    max_attempts: None,
    backoff: Duration::from_millis(200),
    max_backoff: Duration::from_secs(5),
};

/// A status goes to the source at least this often, so that `wal_sender_timeout` never strikes.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// A risen position is confirmed within this time.
const FEEDBACK_DELAY: Duration = Duration::from_millis(50);

/// A source that shuts down asks, after each of our replies, whether everything is confirmed. After so
/// many questions for the same LSN that a failing target keeps us from answering with yes, the
/// connection is given up, so that the shutdown is not held up (invariant 11).
const SHUTDOWN_PINGS: u32 = 4;

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

/// What has been told to the source on this connection.
struct Feedback {
    stream: ReplicationStream,
    ledger: watch::Receiver<Ledger>,
    status: Status,
    link: watch::Sender<Option<LinkState>>,
    confirmed: Lsn,
    sent_at: Instant,
    /// The source wants to hear that this is confirmed.
    asked: Option<Lsn>,
    pings: u32,
}

impl Receiver {
    /// Runs until shutdown; closes the spool.
    pub(super) async fn run(mut self) {
        let mut backoff = Backoff::new(SOURCE_RETRY);
        while !self.shutdown.is_cancelled() {
            let before = self.spool.end();
            let result = guarded(self.connection()).await;
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
                    self.wait_for_room().await;
                }
                Err(_) if self.shutdown.is_cancelled() => break,
                Err(error) if error.kind() == Kind::Disk => self.refuse_streaming(&error),
                Err(error) => self.wait_after(&error, &mut backoff).await,
            }
            self.status.update_source(|source| source.reconnects += 1);
        }
        self.spool.close();
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
            sent_at: Instant::now(),
            asked: None,
            pings: 0,
        };
        let leave = self.receive(&mut feedback, streaming).await?;
        if matches!(leave, Leave::Shutdown) {
            self.spool.cut();
            self.streams.clear();
            self.spool.close();
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
        let confirmed = match slot {
            Some(slot) => {
                let confirmed = source::verify_slot(&info, &slot, source::PLUGIN)?;
                if known.is_some() {
                    self.check_present(&mut client, info.wal_end).await?;
                }
                confirmed
            }
            // a slot that was there and is gone has taken changes with it: it is not made anew silently
            None if source.create_slot && known.is_none() => {
                info!(slot = source.slot_name, "creating the slot");
                client.create_slot(&source.slot_name, source::PLUGIN).await?
            }
            None => return Err(no_slot(&source.slot_name, known.is_some())),
        };
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

    /// What this process knows to have come from the source; also what targets had before it began.
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
                    feedback.tick(self.spool.end()).await?;
                    continue;
                }
                () = answerable(&mut self.ledger, feedback.asked) => {
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
                Event::Frame { frame, .. } if frame.streams() => {
                    if let Some(streamed) = self.streams.take(&frame)? {
                        self.spool.append_streamed(streamed)?;
                    }
                    let open = self.streams.open() as u64;
                    self.status.update_source(|source| source.open_streams = open);
                }
                Event::Frame { frame, .. } => {
                    if let ControlFlow::Break(leave) =
                        self.append(&frame, feedback, &mut ticks).await?
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

    /// Puts a frame into the spool; while it waits for room, the source goes on hearing from us.
    async fn append(
        &mut self,
        frame: &Frame,
        feedback: &mut Feedback,
        ticks: &mut tokio::time::Interval,
    ) -> Result<ControlFlow<Leave>> {
        let patience = Instant::now() + self.patience.wait();
        let end = self.spool.end();
        loop {
            tokio::select! {
                biased;
                appended = self.spool.append(frame) => return appended.map(ControlFlow::Continue),
                _ = ticks.tick() => feedback.tick(end).await?,
                () = self.shutdown.cancelled() => return Ok(ControlFlow::Break(Leave::Shutdown)),
            }
            if Instant::now() >= patience {
                return Ok(ControlFlow::Break(Leave::Full));
            }
        }
    }
}

/// Options of the plugin; publications as a list of quoted identifiers, none for all tables.
pub(crate) fn plugin_options(source: &Source, streaming: bool) -> Vec<(String, String)> {
    let mut options = vec![
        ("format_version".to_owned(), FORMAT_VERSION.to_string()),
        ("combine".to_owned(), "on".to_owned()),
        ("rewrites".to_owned(), "on".to_owned()),
    ];
    if streaming {
        options.push(("streaming".to_owned(), "on".to_owned()));
    }
    if let Some(encoding) = &source.encoding {
        options.push(("encoding".to_owned(), encoding.clone()));
    }
    if source.invalid_text == InvalidText::Replace {
        options.push(("invalid_text".to_owned(), "replace".to_owned()));
    }
    if !source.publications.is_empty() {
        let quoted = source.publications.iter().map(|name| identifier(name));
        options.push(("publications".to_owned(), quoted.collect::<Vec<_>>().join(",")));
    }
    options
}

/// Ready when what the source asked for can be confirmed.
async fn answerable(ledger: &mut watch::Receiver<Ledger>, asked: Option<Lsn>) {
    let Some(asked) = asked else { return std::future::pending().await };
    let reached = |ledger: &Ledger| ledger.confirmable() >= Some(asked);
    // the targets' tasks hold the sender; without them nothing becomes confirmable any more
    if ledger.wait_for(reached).await.is_err() {
        std::future::pending().await
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

impl Feedback {
    fn confirmable(&self) -> Lsn {
        self.ledger.borrow().confirmable().unwrap_or(Lsn::INVALID).max(self.confirmed)
    }

    /// Tells the source how far we are: `received` is written, what the ledger allows is flushed and
    /// applied.
    async fn send(&mut self, received: Lsn) -> Result<()> {
        self.send_asking(received, false).await
    }

    /// The same, and has the source show that it is there.
    async fn ping(&mut self, received: Lsn) -> Result<()> {
        self.send_asking(received, true).await
    }

    fn update(&self, received: Lsn) -> StatusUpdate {
        let confirmed = self.confirmable();
        StatusUpdate { written: received.max(confirmed), flushed: confirmed, applied: confirmed }
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
        self.sent_at = Instant::now();
        self.confirmed = confirmed;
        self.status.update_source(|source| source.confirmed = confirmed);
        if self.asked.is_some_and(|asked| asked <= confirmed) {
            self.asked = None;
            self.pings = 0;
        }
        Ok(())
    }

    async fn tick(&mut self, received: Lsn) -> Result<()> {
        if self.confirmable() != self.confirmed || self.sent_at.elapsed() >= HEARTBEAT {
            self.send(received).await?;
        }
        Ok(())
    }

    /// The source wants a reply: at once when `lsn` is confirmed, else as soon as it is, or with the
    /// next heartbeat.
    async fn asked_for(&mut self, lsn: Lsn, received: Lsn) -> Result<()> {
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
    async fn until(&mut self, drained: &CancellationToken, received: Lsn) -> Result<()> {
        let mut ticks = tokio::time::interval(FEEDBACK_DELAY);
        loop {
            tokio::select! {
                _ = ticks.tick() => self.tick(received).await?,
                () = drained.cancelled() => return self.send(received).await,
            }
        }
    }
}
