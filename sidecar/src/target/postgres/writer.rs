//! One session and the task that writes with it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{mpsc, oneshot};
use tokio_util::task::AbortOnDropHandle;

use super::apply::Session;
use super::durability::Wal;
use super::order::Work;
use crate::error::Result;
use crate::guard::guarded;

/// What a writer is to do.
pub enum Job {
    /// To write a batch, and to commit it in its turn; to roll it back when the turn's sender is dropped.
    Write { work: Arc<Work>, alone: bool, turn: oneshot::Receiver<()> },
    /// To tell how far the WAL is flushed.
    Look,
    /// To have it flushed.
    Flush,
}

/// What became of a batch.
#[derive(Debug)]
pub enum Outcome {
    /// A part of a large transaction: nothing shows yet.
    Written(Wal),
    Committed(Wal),
    TakenBack,
}

/// What a writer tells.
#[derive(Debug)]
pub enum Report {
    /// What became of a batch. `lost`: the session cannot go on after the error.
    Batch { writer: usize, result: Result<Outcome>, lost: bool },
    /// How far the WAL is flushed. An error says nothing of any batch.
    Wal(Result<Wal>),
}

/// The target's end of a writer's task.
pub struct Writer {
    jobs: mpsc::UnboundedSender<Job>,
    task: AbortOnDropHandle<()>,
    /// Dropped to have the batch that waits for it rolled back.
    turn: Option<oneshot::Sender<()>>,
}

impl Writer {
    /// Starts the task of writer `number`. It ends with its session when this is dropped. While `hurry` is
    /// set, commits wait for the disk.
    pub fn start(
        number: usize,
        session: Session,
        reports: mpsc::UnboundedSender<Report>,
        hurry: Arc<AtomicBool>,
    ) -> Writer {
        // holds one job: the next is given when the one before has been reported
        let (jobs, receiver) = mpsc::unbounded_channel();
        let task = tokio::spawn(run(number, session, receiver, reports, hurry));
        Writer { jobs, task: AbortOnDropHandle::new(task), turn: None }
    }

    pub fn write(&mut self, work: Arc<Work>, alone: bool) {
        let (sender, turn) = oneshot::channel();
        self.turn = Some(sender);
        self.give(Job::Write { work, alone, turn });
    }

    pub fn turn(&mut self) {
        if let Some(turn) = self.turn.take() {
            let _ = turn.send(());
        }
    }

    pub fn take_back(&mut self) {
        self.turn = None;
    }

    pub fn give(&self, job: Job) {
        // a task that has ended has said why
        let _ = self.jobs.send(job);
    }

    /// Lets the task end in good order, and waits for it.
    pub async fn close(self) {
        let Writer { jobs, task, turn } = self;
        drop((jobs, turn));
        let _ = task.await;
    }
}

async fn run(
    number: usize,
    mut session: Session,
    mut jobs: mpsc::UnboundedReceiver<Job>,
    reports: mpsc::UnboundedSender<Report>,
    hurry: Arc<AtomicBool>,
) {
    while let Some(job) = jobs.recv().await {
        let report = match job {
            Job::Write { work, alone, turn } => {
                let result = guarded(session.write(&work, alone, turn, &hurry)).await;
                Report::Batch { writer: number, result, lost: session.is_lost() }
            }
            Job::Look => Report::Wal(guarded(session.look()).await),
            Job::Flush => Report::Wal(guarded(session.flush()).await),
        };
        if reports.send(report).is_err() {
            break;
        }
    }
    session.close().await;
}

impl Session {
    async fn write(
        &mut self,
        work: &Work,
        alone: bool,
        turn: oneshot::Receiver<()>,
        hurry: &AtomicBool,
    ) -> Result<Outcome> {
        let written = self.write_rows(work, alone).await;
        let result = match (written, work.commit) {
            // the transaction may be long: what was committed before it is not to wait for its end
            (Ok(()), None) => self.look().await.map(Outcome::Written),
            (Ok(()), Some(position)) => match turn.await {
                Ok(()) => {
                    let durable = hurry.load(Ordering::Relaxed);
                    self.commit(work.from, position, durable).await.map(Outcome::Committed)
                }
                Err(_) => {
                    self.roll_back().await?;
                    return Ok(Outcome::TakenBack);
                }
            },
            (Err(error), _) => Err(error),
        };
        if result.is_err() && !alone && !self.is_lost() {
            // the error may come from the company; alone, it will come again
            self.roll_back().await?;
        }
        result
    }
}
