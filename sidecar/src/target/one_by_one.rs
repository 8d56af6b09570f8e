//! A target that writes one batch at a time, in a task of its own while the next batch gathers: the
//! simplest there can be, for tests of those who drive one.

use std::collections::VecDeque;
use std::pin::Pin;

use rsrepl_wire::Lsn;
use tokio_util::task::AbortOnDropHandle;

use super::{Event, SourceIdentity, Target};
use crate::batch::Batch;
use crate::error::{Error, Kind, Result};
use crate::guard::guarded;

/// What writes; [`OneByOne`] makes a [`Target`] of it.
pub trait Writer: Send + 'static {
    /// As [`Target::open`].
    fn open(&mut self, source: &SourceIdentity) -> impl Future<Output = Result<Lsn>> + Send;

    /// Applies one batch. With `Ok` for a batch with a `commit`, all of it and of the partial ones
    /// before it is durable, and so is the position.
    fn apply(&mut self, batch: Batch) -> impl Future<Output = Result<()>> + Send;

    /// As [`Target::close`].
    fn close(&mut self) -> impl Future<Output = ()> + Send;
}

/// See the module's documentation.
pub struct OneByOne<W> {
    /// `None` while a batch is being written.
    writer: Option<W>,
    writing: Option<Writing<W>>,
    /// To be told.
    events: VecDeque<Event>,
}

struct Writing<W> {
    /// Ends with its owner: what nobody waits for any more is not to be written.
    task: AbortOnDropHandle<(W, Result<()>)>,
    /// The position that the batch ends at.
    commit: Option<Lsn>,
}

impl<W: Writer> OneByOne<W> {
    pub fn new(writer: W) -> Self {
        OneByOne { writer: Some(writer), writing: None, events: VecDeque::new() }
    }

    /// The writer, once nothing is under way.
    async fn idle(&mut self) -> Result<&mut W> {
        while self.writing.is_some() {
            // whatever came of it, the writer is back, and it is opened or closed next
            let _ = self.written().await;
        }
        self.events.clear();
        self.writer.as_mut().ok_or_else(lost)
    }

    /// Waits for the batch under way. Cancel-safe.
    async fn written(&mut self) -> Result<()> {
        let Some(writing) = &mut self.writing else { return std::future::pending().await };
        let ended = Pin::new(&mut writing.task).await;
        let commit = self.writing.take().and_then(|writing| writing.commit);
        let (writer, result) = ended.map_err(|error| lost().because(error))?;
        self.writer = Some(writer);
        result?;
        self.events.push_back(Event::Applied);
        self.events.extend(commit.map(Event::Durable));
        Ok(())
    }
}

#[cold]
fn lost() -> Error {
    Error::new(Kind::Internal, "the writer of a target is gone")
}

impl<W: Writer> Target for OneByOne<W> {
    async fn open(&mut self, source: &SourceIdentity) -> Result<Lsn> {
        self.idle().await?.open(source).await
    }

    fn has_room(&self, _: bool) -> bool {
        self.writing.is_none()
    }

    fn submit(&mut self, batch: Batch) {
        let Some(mut writer) = self.writer.take() else { return };
        let commit = batch.commit.map(|position| position.lsn);
        let task = tokio::spawn(async move {
            let result = guarded(writer.apply(batch)).await;
            (writer, result)
        });
        self.writing = Some(Writing { task: AbortOnDropHandle::new(task), commit });
    }

    async fn next(&mut self) -> Result<Event> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(event);
            }
            self.written().await?;
        }
    }

    fn hurry(&mut self) {}

    async fn close(&mut self) {
        if let Ok(writer) = self.idle().await {
            writer.close().await;
        }
    }
}
