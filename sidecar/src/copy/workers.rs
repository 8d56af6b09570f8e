//! The workers of a pass: each has one session with the source and one with each target, and takes chunk after
//! chunk.

use std::collections::{HashMap, VecDeque};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future;
use tokio::task::JoinSet;
use tracing::debug;

use super::plan::Work;
use super::progress::Progress;
use super::reader::{Reader, Unread};
use super::site::Shared;
use super::{Chunk, ChunkWriter, CopiedTable, Form, Room, Rows, Snapshot};
use crate::config::Source;
use crate::error::{Error, Kind, Result};
use crate::guard::guarded;
use crate::status::Status;

/// Nothing was read or written by any worker for so long: a server does not answer, and meanwhile the source keeps a
/// snapshot. A chunk that is looked through, or stored, does not take as long.
const STILL: Duration = Duration::from_secs(600);

/// What is done under one snapshot by all workers together.
pub(super) struct Pass {
    pub(super) source: Source,
    pub(super) workers: usize,
    pub(super) snapshot: Snapshot,
    /// Of the exported one.
    pub(super) snapshot_name: String,
    pub(super) tables: Vec<Arc<CopiedTable>>,
    pub(super) works: Vec<Work>,
    /// Place in the configuration, name, target.
    pub(super) sites: Vec<(usize, String, Shared)>,
    /// By site and table.
    pub(super) forms: Vec<Vec<Form>>,
    /// Chunks that were never copied are not begun behind it.
    pub(super) until: Instant,
    pub(super) room: Room,
    pub(super) status: Status,
    pub(super) progress: Progress,
}

/// How a pass ended.
pub(super) enum Ended {
    /// Everything was done.
    Done,
    /// The snapshot has become too old.
    Aged,
    /// A table is no longer what it is in the snapshot.
    Moved(Error),
    Failed(Error),
}

/// Why a worker stopped, or did not.
enum Stopped {
    NothingLeft,
    Aged,
    Moved(Error),
    Failed(Error),
}

struct Queue {
    works: Mutex<VecDeque<Work>>,
    pass: Pass,
}

impl Queue {
    /// The next work; `None` at the end, or when the snapshot is too old for what comes next. What was copied
    /// before is brought up whatever its age, and so are tables without a key: another round would have to do it
    /// again.
    fn next(&self) -> Result<Option<Work>, Stopped> {
        let mut works = self.works.lock().unwrap_or_else(PoisonError::into_inner);
        match works.front() {
            None => Ok(None),
            Some(work) if self.may_wait(work) && Instant::now() >= self.pass.until => {
                Err(Stopped::Aged)
            }
            Some(_) => Ok(works.pop_front()),
        }
    }

    fn may_wait(&self, work: &Work) -> bool {
        let keyed = self.pass.tables.get(work.table).is_some_and(|table| table.is_keyed());
        keyed && work.need.since.is_none()
    }

    /// Others need not begin anything.
    fn clear(&self) {
        self.works.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// Runs the workers. They end together: after an error, chunks under way are broken off.
pub(super) async fn run(mut pass: Pass) -> Ended {
    let works = VecDeque::from(std::mem::take(&mut pass.works));
    let count = pass.workers.min(works.len()).max(1);
    let queue = Arc::new(Queue { works: Mutex::new(works), pass });
    let mut workers = JoinSet::new();
    for number in 0..count {
        let queue = Arc::clone(&queue);
        workers.spawn(async move {
            let mut worker = Worker { number, queue, reader: None, writers: HashMap::new() };
            match guarded(async { Ok(worker.run().await) }).await {
                Ok(stopped) => stopped,
                Err(panic) => Stopped::Failed(panic),
            }
        });
    }
    let mut ended = Ended::Done;
    let (room, progress) = (queue.pass.room.clone(), queue.pass.progress.clone());
    let mut still = pin!(stands_still(|| (room.taken(), progress.chunks())));
    loop {
        let joined = tokio::select! {
            joined = workers.join_next() => joined,
            () = &mut still, if matches!(ended, Ended::Done | Ended::Aged | Ended::Moved(_)) => {
                queue.clear();
                workers.abort_all();
                ended = Ended::Failed(no_answer(&queue.pass));
                continue;
            }
        };
        let Some(joined) = joined else { break };
        let stopped = joined.unwrap_or_else(|error| {
            Stopped::Failed(Error::new(Kind::Internal, "a worker of the copy ended").because(error))
        });
        ended = match (stopped, ended) {
            (Stopped::NothingLeft, ended) => ended,
            (Stopped::Aged, Ended::Done) => Ended::Aged,
            (Stopped::Aged, ended) => ended,
            (Stopped::Moved(error), Ended::Done | Ended::Aged) => {
                queue.clear();
                Ended::Moved(error)
            }
            (Stopped::Failed(error), Ended::Done | Ended::Aged | Ended::Moved(_)) => {
                queue.clear();
                workers.abort_all();
                Ended::Failed(error)
            }
            // what followed from the first
            (Stopped::Moved(error) | Stopped::Failed(error), ended) => {
                debug!(%error, "another worker of the copy failed too");
                ended
            }
        };
    }
    ended
}

/// Ends when nothing has moved for [`STILL`].
async fn stands_still<T: PartialEq>(moved: impl Fn() -> T) {
    let (mut seen, mut since) = (moved(), tokio::time::Instant::now());
    while since.elapsed() < STILL {
        tokio::time::sleep(STILL / 60).await;
        let now = moved();
        if now != seen {
            (seen, since) = (now, tokio::time::Instant::now());
        }
    }
}

#[cold]
fn no_answer(pass: &Pass) -> Error {
    let names: Vec<&str> = pass.sites.iter().map(|(_, name, _)| name.as_str()).collect();
    let message = format!("no worker of the copy to {} has got on for {STILL:?}", names.join(", "));
    Error::new(Kind::Connection, message).hint(
        "look for sessions that wait there: for a lock, for a synchronous standby, for a disk",
    )
}

struct Worker {
    number: usize,
    queue: Arc<Queue>,
    reader: Option<Reader>,
    /// By site.
    writers: HashMap<usize, Box<dyn ChunkWriter>>,
}

impl Worker {
    async fn run(&mut self) -> Stopped {
        loop {
            let work = match self.queue.next() {
                Ok(Some(work)) => work,
                Ok(None) => return Stopped::NothingLeft,
                Err(stopped) => return stopped,
            };
            if let Err(stopped) = self.copy(&work).await {
                return stopped;
            }
        }
    }

    async fn copy(&mut self, work: &Work) -> Result<(), Stopped> {
        let queue = Arc::clone(&self.queue);
        let pass = &queue.pass;
        let Some(chunk) = chunk(pass, work) else {
            let message = "a chunk of a table that is not there";
            return Err(Stopped::Failed(Error::new(Kind::Internal, message)));
        };
        self.connect(pass, work).await.map_err(Stopped::Failed)?;
        let Some(reader) = &self.reader else { return Ok(()) };
        let mut sinks = Vec::new();
        let mut writing = Vec::new();
        for (site, writer) in
            self.writers.iter_mut().filter(|(site, _)| work.targets.contains(site))
        {
            let (sender, rows) = Rows::channel();
            sinks.push(sender);
            let chunk = &chunk;
            writing.push(async move { (*site, writer.write(chunk, rows).await) });
        }
        let (read, written) = tokio::join!(
            reader.read(&pass.snapshot_name, &chunk, &pass.room, sinks),
            future::join_all(writing)
        );
        // a target that takes no more rows is the cause of what the reader says then
        let mut first = None;
        for (site, outcome) in written {
            match outcome {
                Ok(written) => {
                    if let Some((index, ..)) = pass.sites.get(site) {
                        pass.status.update_target(*index, |target| {
                            target.copied_rows += written.rows;
                            target.copied_bytes += written.bytes;
                        });
                        pass.progress.written(&chunk, written);
                        // what kept it from that is over
                        pass.status.update_source(|source| source.last_error = None);
                    }
                }
                Err(error) => first = first.or(Some(error)),
            }
        }
        match (read, first) {
            (Ok(()), None) => {
                let what = format!("{}, {}", chunk.leaf.name, chunk.pages);
                match chunk.since {
                    None => debug!(worker = self.number, chunk = what, "copied a chunk"),
                    Some(_) => {
                        debug!(worker = self.number, chunk = what, "brought a chunk up to date")
                    }
                }
                Ok(())
            }
            (Err(Unread::Moved(error)), _) => Err(Stopped::Moved(error)),
            // a connection that broke is the other side's doing as often as not
            (Err(Unread::Failed(error)), None) => Err(Stopped::Failed(error)),
            (Err(Unread::Failed(read)), Some(written)) => {
                let source_first =
                    written.kind() == Kind::Connection && read.kind() != Kind::Connection;
                Err(Stopped::Failed(if source_first { read } else { written }))
            }
            (Ok(()), Some(error)) => Err(Stopped::Failed(error)),
        }
    }

    /// Sessions that this work needs and that are not there yet.
    async fn connect(&mut self, pass: &Pass, work: &Work) -> Result<()> {
        if self.reader.is_none() {
            self.reader = Some(Reader::connect(&pass.source).await?);
        }
        for site in &work.targets {
            if !self.writers.contains_key(site)
                && let Some((_, _, target)) = pass.sites.get(*site)
            {
                let target = target.lock().await;
                let writer = target.writer(self.number).await?;
                self.writers.insert(*site, writer);
            }
        }
        Ok(())
    }
}

fn chunk(pass: &Pass, work: &Work) -> Option<Chunk> {
    let table = Arc::clone(pass.tables.get(work.table)?);
    let form = pass.forms.get(*work.targets.first()?)?.get(work.table)?.clone();
    Some(Chunk {
        leaf: table.leaves.get(work.leaf)?.clone(),
        table,
        pages: work.need.pages,
        snapshot: pass.snapshot,
        since: work.need.since,
        form,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_moves_is_waited_for() {
        let (moved, began) = (AtomicU64::new(0), tokio::time::Instant::now());
        let moving = async {
            for _ in 0..5 {
                tokio::time::sleep(STILL * 9 / 10).await;
                moved.fetch_add(1, Ordering::Relaxed);
            }
            std::future::pending().await
        };
        tokio::select! {
            () = stands_still(|| moved.load(Ordering::Relaxed)) => {}
            () = moving => {}
        }
        let took = began.elapsed();
        assert!(took >= STILL * 55 / 10 && took < STILL * 57 / 10, "{took:?}");
    }
}
