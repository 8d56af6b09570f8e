//! The task that writes: batches go into open INSERTs as they come, and a *group* of them is stored
//! together, rows first and then the position behind them.
//!
//! ```text
//! batch, batch, … ─► encode ─► open INSERTs ─┐ the group is due
//!                                            └─► end INSERTs ─► position ─► told
//!                       batch, … ─► encode ─► open INSERTs of the next group …
//! ```
//!
//! One group is filled while the one before is being stored; the server parses rows while more come.
//! What waits is in the source's or the server's memory, never twice in ours.

use std::time::{Duration, Instant};

use rsrepl_wire::Lsn;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

use super::evolve::Turn;
use super::insertion::{Inlet, Insertion};
use super::position;
use super::session::{Changes, Session};
use super::write::{Before, Context, Step, Writer};
use crate::batch::{Batch, Position};
use crate::error::{Error, Kind, Result};
use crate::guard::guarded;
use crate::target::Event;

/// Tables that are written at the same time.
const CONCURRENT_TABLES: usize = 4;

/// When a group is stored.
#[derive(Clone, Copy, Debug)]
pub struct GroupLimits {
    /// Changes of one group.
    pub rows: usize,
    /// Bytes of frames of one group, which the spool keeps until it is stored.
    pub bytes: usize,
    /// From one group to the next, unless they are full.
    pub interval: Duration,
}

/// What the worker is told.
pub(super) enum Command {
    Write(Batch),
    /// Store what there is, now.
    Hurry,
}

/// What it tells: events of the target, and that it can take one more batch.
pub(super) type Told = Result<Event>;

/// See the module's documentation.
pub(super) struct Worker {
    session: Session,
    limits: GroupLimits,
    told: mpsc::UnboundedSender<Told>,
    /// By a table's place in the session.
    inlets: Vec<Inlet>,
    group: Group,
    /// The group before, while it is being stored.
    storing: Option<AbortOnDropHandle<()>>,
    before: Before,
    /// When the last group was.
    last: Option<Instant>,
    hurry: bool,
    /// The end of what was given to groups that are stored or being stored.
    reached: Lsn,
    /// Up to here each batch is a group: something among them has failed before, and what is good of
    /// them is to be stored all the same.
    alone_until: Lsn,
}

/// Batches that are stored together.
#[derive(Default)]
struct Group {
    /// Of each batch.
    commits: Vec<Option<Position>>,
    rows: usize,
    bytes: usize,
    since: Option<Instant>,
}

impl Worker {
    /// `reached`: the position; for `alone_until` see its field.
    pub(super) fn new(
        session: Session,
        limits: GroupLimits,
        told: mpsc::UnboundedSender<Told>,
        reached: Lsn,
        alone_until: Lsn,
    ) -> Self {
        Worker {
            session,
            limits,
            told,
            inlets: Vec::new(),
            group: Group::default(),
            storing: None,
            before: Before(watch::channel(true).1),
            last: None,
            hurry: false,
            reached,
            alone_until,
        }
    }

    /// Runs until it is told nothing more, or something fails.
    pub(super) async fn run(mut self, mut commands: mpsc::UnboundedReceiver<Command>) {
        if let Err(error) = guarded(self.serve(&mut commands)).await {
            self.inlets.clear();
            // the group before is not to blame
            if let Some(storing) = self.storing.take() {
                let _ = storing.await;
            }
            let _ = self.told.send(Err(error));
        }
    }

    async fn serve(&mut self, commands: &mut mpsc::UnboundedReceiver<Command>) -> Result<()> {
        loop {
            let due = self.due();
            if self.storing.is_none() && due.is_some_and(|due| due <= Instant::now()) {
                self.store();
                continue;
            }
            tokio::select! {
                biased;
                () = ended(&mut self.storing) => self.storing = None,
                command = commands.recv(), if !self.is_full() => match command {
                    Some(Command::Write(batch)) => self.write(batch).await?,
                    Some(Command::Hurry) => self.hurry = !self.group.commits.is_empty(),
                    None => return Ok(()),
                },
                () = sleep_until(due), if self.storing.is_none() => {}
            }
        }
    }

    fn is_full(&self) -> bool {
        let alone = self.reached < self.alone_until && !self.group.commits.is_empty();
        alone || self.group.rows >= self.limits.rows || self.group.bytes >= self.limits.bytes
    }

    /// When the group is to be stored; `None` while there is nothing to store. A first change waits for
    /// a little company, and groups are `interval` apart.
    fn due(&self) -> Option<Instant> {
        let since = self.group.since?;
        if self.hurry || self.is_full() || self.group.rows == 0 {
            return Some(since);
        }
        let company = since + self.limits.interval / 10;
        Some(self.last.map_or(company, |last| company.max(last + self.limits.interval)))
    }

    /// Encodes a batch and sends what fills a block. A change of a table waits until everything before it
    /// is stored.
    async fn write(&mut self, batch: Batch) -> Result<()> {
        self.group.since.get_or_insert_with(Instant::now);
        if !batch.anew.is_empty() {
            self.wait_until_stored().await?;
            self.store();
            self.wait_until_stored().await?;
            self.session.look_again(&batch.anew).await?;
            self.inlets.iter_mut().for_each(|inlet| *inlet = Inlet::default());
        }
        let rows = batch.changes.len();
        let mut changes = Changes::new(batch.changes, batch.ends);
        loop {
            let (steps, turn) = self.session.steps(&mut changes).await?;
            self.write_steps(steps).await?;
            let Some(turn) = turn else { break };
            self.store_before(&turn).await?;
            self.session.follow(&turn).await?;
        }
        let group = &mut self.group;
        group.since.get_or_insert_with(Instant::now);
        group.rows += rows;
        group.bytes += batch.bytes;
        group.commits.push(batch.commit);
        // there is room for the next
        let _ = self.told.send(Ok(Event::Room));
        Ok(())
    }

    /// Has everything stored that was written, and what was before in the stream not sent again.
    async fn store_before(&mut self, turn: &Turn) -> Result<()> {
        self.wait_until_stored().await?;
        self.store();
        self.wait_until_stored().await?;
        if turn.whole > self.reached {
            let Context { server, database, .. } = &self.session.context;
            let position = Position { lsn: turn.whole, ..Position::default() };
            position::write(server, database, &self.session.source, position).await?;
            self.reached = turn.whole;
        }
        // what a table was written to by is of the table as it was
        self.inlets.iter_mut().for_each(|inlet| *inlet = Inlet::default());
        Ok(())
    }

    async fn wait_until_stored(&mut self) -> Result<()> {
        if let Some(storing) = self.storing.take() {
            let _ = storing.await; // what came of it is told
        }
        self.before.stored().await
    }

    async fn write_steps(&mut self, steps: Vec<Vec<Step>>) -> Result<()> {
        if self.inlets.len() < steps.len() {
            self.inlets.resize_with(steps.len(), Inlet::default);
        }
        let mut running = JoinSet::new();
        for (index, steps) in steps.into_iter().enumerate() {
            if steps.is_empty() {
                continue;
            }
            if running.len() >= CONCURRENT_TABLES {
                put_back(&mut self.inlets, running.join_next().await)?;
            }
            let (context, before) = (self.session.context.clone(), self.before.clone());
            let inlet = self.inlets.get_mut(index).map(std::mem::take).unwrap_or_default();
            let writer = Writer { context, before, inlet };
            let in_flight = self.session.context.server.in_flight();
            running.spawn(
                in_flight.track_future(async move {
                    writer.run(steps).await.map(|inlet| (index, inlet))
                }),
            );
        }
        while !running.is_empty() {
            put_back(&mut self.inlets, running.join_next().await)?;
        }
        Ok(())
    }

    /// Ends the group: a task stores it while the next one is filled.
    fn store(&mut self) {
        let group = std::mem::take(&mut self.group);
        let insertions: Vec<Insertion> =
            self.inlets.iter_mut().filter_map(Inlet::next_group).collect();
        (self.last, self.hurry) = (Some(Instant::now()), false);
        let (stored, before) = watch::channel(false);
        let before = std::mem::replace(&mut self.before, Before(before));
        let commit = group.commits.iter().copied().flatten().last();
        self.reached = commit.map_or(self.reached, |commit| commit.lsn);
        let (context, source) = (self.session.context.clone(), self.session.source.clone());
        let told = self.told.clone();
        let in_flight = context.server.in_flight().clone();
        let task = in_flight.track_future(async move {
            let work = async {
                end_all(&context, before, insertions).await?;
                if let Some(commit) = commit {
                    let Context { server, database, .. } = &context;
                    position::write(server, database, &source, commit).await?;
                }
                Ok(())
            };
            if let Err(error) = guarded(work).await {
                let _ = told.send(Err(error));
                return;
            }
            // each with its own position, or all but the last would seem to be applied and not durable
            for commit in group.commits {
                let _ = told.send(Ok(Event::Applied));
                if let Some(commit) = commit {
                    let _ = told.send(Ok(Event::Durable(commit.lsn)));
                }
            }
            stored.send_replace(true);
        });
        self.storing = Some(AbortOnDropHandle::new(tokio::spawn(task)));
    }
}

/// What a table's writer ends with: the table's place in the session, and the way into it.
type Ended = Option<std::result::Result<Result<(usize, Inlet)>, tokio::task::JoinError>>;

fn put_back(inlets: &mut [Inlet], ended: Ended) -> Result<()> {
    let Some(ended) = ended else { return Ok(()) };
    let (index, inlet) = ended.map_err(lost)??;
    if let Some(place) = inlets.get_mut(index) {
        *place = inlet;
    }
    Ok(())
}

/// Tables side by side, a few at a time.
async fn end_all(context: &Context, mut before: Before, insertions: Vec<Insertion>) -> Result<()> {
    before.stored().await?;
    let mut running: JoinSet<Result<()>> = JoinSet::new();
    for mut insertion in insertions {
        if running.len() >= CONCURRENT_TABLES
            && let Some(ended) = running.join_next().await
        {
            ended.map_err(lost)??;
        }
        let server = context.server.clone();
        let in_flight = server.in_flight().clone();
        running.spawn(in_flight.track_future(async move { insertion.end(&server).await }));
    }
    while let Some(ended) = running.join_next().await {
        ended.map_err(lost)??;
    }
    Ok(())
}

#[cold]
fn lost(error: tokio::task::JoinError) -> Error {
    Error::new(Kind::Internal, "a table's writer failed").because(error)
}

async fn ended(task: &mut Option<AbortOnDropHandle<()>>) {
    match task {
        Some(task) => drop(task.await),
        None => std::future::pending().await,
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
