//! The target: what is handed over goes to a task that writes it, see `worker`.

use std::time::Duration;

use rsrepl_wire::Lsn;
use tokio::sync::mpsc;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use super::options::ClickHouseOptions;
use super::session::Session;
use super::worker::{Command, GroupLimits, Told, Worker};
use crate::batch::Batch;
use crate::error::{Error, Kind, Result};
use crate::target::{Event, SourceIdentity, Target};

/// Batches that wait for the worker, or are being encoded by it.
const WAITING_MAX: usize = 2;

/// How long requests that are on their way may take to come to their end.
const IN_FLIGHT_LIMIT: Duration = Duration::from_secs(10);

/// See [`Target`] and the module's documentation.
pub struct ClickHouseTarget {
    options: ClickHouseOptions,
    limits: GroupLimits,
    running: Option<Running>,
    /// What the last worker has left behind, as long as it is not known to have ended.
    leaving: Option<TaskTracker>,
    /// The end of all batches that were ever handed over.
    given: Lsn,
    /// See `worker`.
    alone_until: Lsn,
}

/// The worker, and the ways to it and back.
struct Running {
    commands: mpsc::UnboundedSender<Command>,
    told: mpsc::UnboundedReceiver<Told>,
    waiting: usize,
    /// Ends with its owner, and with it what is being sent.
    task: AbortOnDropHandle<()>,
    /// It, what it has begun, and the requests that go on to their end all the same.
    in_flight: TaskTracker,
}

impl ClickHouseTarget {
    /// # Errors
    /// [`Kind::Config`]: a mode that this version does not have.
    pub fn new(options: ClickHouseOptions, limits: GroupLimits) -> Result<Self> {
        Ok(ClickHouseTarget {
            options,
            limits,
            running: None,
            leaving: None,
            given: Lsn::INVALID,
            alone_until: Lsn::INVALID,
        })
    }

    /// Ends the worker; what it had begun is as if it had not been, or is there.
    async fn stop(&mut self) {
        if let Some(Running { task, in_flight, .. }) = self.running.take() {
            task.abort();
            in_flight.close();
            self.leaving = Some(in_flight);
        }
        let Some(leaving) = &self.leaving else { return };
        if tokio::time::timeout(IN_FLIGHT_LIMIT, leaving.wait()).await.is_ok() {
            self.leaving = None;
        }
    }
}

impl Target for ClickHouseTarget {
    async fn open(&mut self, source: &SourceIdentity) -> Result<Lsn> {
        self.stop().await;
        let (session, lsn) = Session::open(&self.options, source).await?;
        if self.leaving.is_some() {
            // what was on the server has been ended there; what was not may still come to it, and change
            // what was read
            return Err(Error::new(
                Kind::Connection,
                format!("target {}: earlier requests are still on their way", self.options.name),
            ));
        }
        let (commands, orders) = mpsc::unbounded_channel();
        let (tell, told) = mpsc::unbounded_channel();
        let in_flight = session.context.server.in_flight().clone();
        let worker = Worker::new(session, self.limits, tell, lsn, self.alone_until);
        let task = tokio::spawn(in_flight.track_future(worker.run(orders)));
        let task = AbortOnDropHandle::new(task);
        self.running = Some(Running { commands, told, waiting: 0, task, in_flight });
        Ok(lsn)
    }

    fn has_room(&self, _: bool) -> bool {
        self.running.as_ref().is_some_and(|running| running.waiting < WAITING_MAX)
    }

    fn submit(&mut self, batch: Batch) {
        if let Some(running) = &mut self.running {
            running.waiting += 1;
            self.given = batch.commit.map_or(self.given, |commit| commit.lsn.max(self.given));
            // when it has ended, `next` says why
            let _ = running.commands.send(Command::Write(batch));
        }
    }

    async fn next(&mut self) -> Result<Event> {
        let Some(running) = &mut self.running else { return std::future::pending().await };
        let told = running.told.recv().await;
        let told = told.unwrap_or_else(|| Err(Error::new(Kind::Internal, "the writer is gone")));
        match &told {
            Ok(Event::Room) => running.waiting = running.waiting.saturating_sub(1),
            Ok(_) => {}
            // the only way on is to open it
            Err(_) => {
                running.task.abort();
                // and it may have been in a transaction whose end was not given yet
                self.alone_until = Lsn(self.given.0.saturating_add(1));
            }
        }
        told
    }

    fn hurry(&mut self) {
        if let Some(running) = &self.running {
            let _ = running.commands.send(Command::Hurry);
        }
    }

    async fn close(&mut self) {
        self.stop().await;
    }
}
