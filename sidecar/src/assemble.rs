//! From spool entries to batches: groups frames into transactions, resolves relations, and skips
//! what the target already has. Pure; the pipeline feeds it.
//!
//! A batch holds whole transactions. Only when one transaction alone passes the batch limit is it
//! given out in parts (see [`Batch::commit`]).

use std::collections::HashMap;
use std::sync::Arc;

use rsrepl_wire::{Begin, Commit, Frame, Lsn, Message, Relation, ReplicaIdentity};

use crate::batch::{Batch, Change, Operation, Position};
use crate::described::Described;
use crate::error::{Error, Kind, Result};
use crate::schema;
use crate::spool::Item;

type Relations = Arc<HashMap<u32, Arc<Relation>>>;

/// Where a target can go on after a failure: everything before is durable on it.
///
/// The default is that of a reader at the start of a stream, where the source describes every table
/// anew.
#[derive(Clone, Debug, Default)]
pub struct Checkpoint {
    /// Sequence number of the first spool entry after it.
    pub sequence: u64,
    /// End of the last transaction assembled; what ends at or below it is skipped.
    pub position: Lsn,
    /// The tables as they were described up to here.
    relations: Relations,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Assembler {
    relations: Relations,
    described: Described,
    position: Lsn,
    /// The transaction under way.
    open: Option<Open>,
    batch: Batch,
    /// The end of the last whole transaction in `batch`; complete after each frame.
    whole: Option<Whole>,
    /// The last transaction of the current frame that is not skipped.
    ended: Option<Position>,
    /// A part of the transaction under way was given out by [`Assembler::take`].
    given_out: bool,
    /// The source has nothing more for us up to here.
    progress: Option<Progress>,
}

#[derive(Debug)]
struct Open {
    begin: Begin,
    skip: bool,
    /// The tables as its own streamed frames describe them; nobody else's changes are read by these.
    tables: HashMap<u32, Arc<Relation>>,
    described: Described,
}

#[derive(Debug)]
struct Whole {
    changes: usize,
    bytes: usize,
    commit: Position,
    checkpoint: Checkpoint,
}

/// See [`Assembler::progress`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    pub lsn: Lsn,
    /// The source waits for it to be confirmed.
    pub urgent: bool,
    /// Sequence number of the first spool entry after it.
    pub sequence: u64,
}

/// What an entry meant for the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// Gathered (or skipped).
    Gathered,
    /// The transaction under way was cut off and forgotten, and a part of it had been given out: the
    /// target must take that part back.
    TakeBack,
}

impl Assembler {
    /// Goes on from a checkpoint with a target whose own position is `applied`, which may be later.
    pub fn resume(checkpoint: &Checkpoint, applied: Lsn) -> Self {
        Assembler {
            relations: checkpoint.relations.clone(),
            described: Described::of(checkpoint.relations.values().map(|table| &**table)),
            position: checkpoint.position.max(applied),
            ..Assembler::default()
        }
    }

    /// Takes one spool entry.
    ///
    /// # Errors
    /// [`Kind::Frame`]: the entry cannot be decoded or does not fit what came before.
    pub fn push(&mut self, sequence: u64, item: Item) -> Result<Pushed> {
        match item {
            Item::Frame(frame) => {
                self.batch.bytes += frame.len();
                for message in frame.messages() {
                    let message = message.map_err(|error| Error::from(error).at(frame.base()))?;
                    self.message(message, &frame).map_err(|error| error.at(frame.base()))?;
                }
                if frame.commits() {
                    self.between_transactions(sequence + 1);
                }
                Ok(Pushed::Gathered)
            }
            Item::Unreadable(error) => {
                let message = "a transaction in the spool cannot be read";
                // what the spool has lost for good stays what it is; anything else may be over the next time
                let kind = match error.kind() {
                    Kind::Identity => Kind::Identity,
                    _ => Kind::Frame,
                };
                Err(Error::new(kind, message).because(error))
            }
            Item::Streamed(_) => Err(disorder("a streamed transaction that was not read")),
            Item::Progress { lsn, urgent } => {
                self.progress = Some(Progress { lsn, urgent, sequence: sequence + 1 });
                Ok(Pushed::Gathered)
            }
            Item::Cut => Ok(self.cut()),
        }
    }

    fn cut(&mut self) -> Pushed {
        self.open = None;
        match &self.whole {
            Some(whole) => {
                self.batch.changes.truncate(whole.changes);
                self.batch.ends.retain(|end| end.lsn <= whole.commit.lsn);
                self.batch.bytes = whole.bytes;
            }
            None => self.batch = Batch::default(),
        }
        // with a whole transaction at hand, what was given out has its commit
        if self.whole.is_none() && std::mem::take(&mut self.given_out) {
            return Pushed::TakeBack;
        }
        Pushed::Gathered
    }

    fn message(&mut self, message: Message, frame: &Frame) -> Result<()> {
        match message {
            Message::Begin(begin) => return self.begin(begin),
            Message::Commit(commit) => return self.commit(commit),
            Message::Relation(relation) => {
                return self.describe(relation, frame.streams());
            }
            // no target takes those of others
            Message::Logical(m) if !m.transactional || m.prefix != schema::PREFIX => return Ok(()),
            Message::StreamCommit(_) | Message::StreamAbort(_) => {
                return Err(disorder("the end of a streamed transaction inside of it"));
            }
            _ => {}
        }
        let Some(open) = self.open.as_ref().filter(|_| frame.xid() != 0) else {
            return Err(disorder("a change outside of a transaction"));
        };
        if open.skip {
            return Ok(());
        }
        let streamed = frame.streams();
        let (lsn, oid, operation) = match message {
            Message::Insert(m) => (m.lsn, m.relation, Operation::Insert { new: m.new }),
            Message::Update(m) => (m.lsn, m.relation, Operation::Update { old: m.old, new: m.new }),
            Message::Delete(m) => (m.lsn, m.relation, Operation::Delete { old: m.old }),
            Message::Truncate(m) => {
                let restart_identity = m.restart_identity;
                for oid in m.relations {
                    self.change(m.lsn, oid, Operation::Truncate { restart_identity }, streamed)?;
                }
                return Ok(());
            }
            Message::Logical(m) => return self.schema(m.lsn, &m.content),
            _ => return Ok(()),
        };
        self.change(lsn, oid, operation, streamed)
    }

    /// A message of the source's event trigger.
    fn schema(&mut self, lsn: Lsn, content: &[u8]) -> Result<()> {
        let Some(open) = &self.open else { return Ok(()) };
        let message = schema::Message::parse(content).map_err(|error| error.at(lsn))?;
        let table = message.table();
        let relation = Arc::new(Relation {
            oid: table.oid,
            schema: table.schema.clone(),
            name: table.name.clone(),
            replica_identity: ReplicaIdentity::Default,
            columns: Vec::new(),
        });
        let (end_lsn, operation) = (open.begin.end_lsn, Operation::Schema(Arc::new(message)));
        self.batch.changes.push(Change { lsn, end_lsn, relation, operation });
        Ok(())
    }

    fn change(&mut self, lsn: Lsn, oid: u32, operation: Operation, streamed: bool) -> Result<()> {
        let Some(open) = &self.open else {
            return Err(disorder("a change outside of a transaction"));
        };
        let tables: &HashMap<_, _> = if streamed { &open.tables } else { &self.relations };
        let Some(relation) = tables.get(&oid).cloned() else {
            return Err(disorder(&format!("a change of relation {oid}, which was not described")));
        };
        let Begin { xid, end_lsn, commit_time, .. } = open.begin;
        if self.batch.ends.last().is_none_or(|last| last.lsn != end_lsn) {
            self.batch.ends.push(Position { lsn: end_lsn, commit_time, xid });
        }
        self.batch.changes.push(Change { lsn, end_lsn, relation, operation });
        Ok(())
    }

    fn begin(&mut self, begin: Begin) -> Result<()> {
        if self.open.is_some() {
            return Err(disorder("a transaction begins inside another"));
        }
        let skip = begin.end_lsn <= self.position;
        self.open =
            Some(Open { begin, skip, tables: HashMap::new(), described: Described::default() });
        self.progress = None;
        Ok(())
    }

    fn commit(&mut self, commit: Commit) -> Result<()> {
        let Some(open) = self.open.take() else {
            return Err(disorder("a commit without a begin"));
        };
        if open.begin.end_lsn != commit.end_lsn {
            return Err(disorder("a commit that is not of its begin"));
        }
        if !open.skip {
            let (lsn, commit_time) = (commit.end_lsn, commit.commit_time);
            self.position = lsn;
            self.batch.transactions += 1;
            self.ended = Some(Position { lsn, commit_time, xid: open.begin.xid });
        }
        Ok(())
    }

    /// A frame has ended with a commit, and the next entry has this number.
    fn between_transactions(&mut self, sequence: u64) {
        let last = self.whole.as_ref().map(|whole| whole.commit);
        let Some(commit) = self.ended.take().or(last) else {
            // all was skipped, and nothing else is in the batch; the place in the spool still moves on
            self.progress = Some(Progress { lsn: self.position, urgent: false, sequence });
            self.batch.bytes = 0;
            return;
        };
        self.whole = Some(Whole {
            changes: self.batch.changes.len(),
            bytes: self.batch.bytes,
            commit,
            checkpoint: Checkpoint {
                sequence,
                position: self.position,
                relations: self.relations.clone(),
            },
        });
    }

    fn describe(&mut self, relation: Relation, streamed: bool) -> Result<()> {
        // the same description keeps its Arc, so that what a target derived from it stays valid
        let same = |known: &&Arc<Relation>| ***known == relation;
        let known = self.relations.get(&relation.oid).filter(same);
        if streamed {
            let Some(open) = &mut self.open else {
                return Err(disorder("a part of a transaction without a begin"));
            };
            let known = known.or_else(|| open.tables.get(&relation.oid).filter(same)).cloned();
            open.described.add(&relation)?;
            open.tables.insert(relation.oid, known.unwrap_or_else(|| Arc::new(relation)));
        } else if known.is_none() {
            self.described.add(&relation)?;
            Arc::make_mut(&mut self.relations).insert(relation.oid, Arc::new(relation));
        }
        Ok(())
    }

    /// The target already has the transaction under way.
    pub fn skips(&self) -> bool {
        self.open.as_ref().is_some_and(|open| open.skip)
    }

    /// Changes gathered.
    pub fn rows(&self) -> usize {
        self.batch.changes.len()
    }

    /// Bytes of the frames gathered.
    pub fn bytes(&self) -> usize {
        self.batch.bytes
    }

    /// A whole transaction has been gathered.
    pub fn has_whole(&self) -> bool {
        self.whole.is_some()
    }

    /// With nothing gathered and no transaction under way: how far the source has nothing more for
    /// this target. Storing it on the target lets the slot move on.
    pub fn progress(&self) -> Option<Progress> {
        let idle = self.open.is_none() && self.whole.is_none() && self.batch.changes.is_empty();
        self.progress.filter(|_| idle)
    }

    /// The progress of [`Self::progress`] is stored.
    pub fn progress_stored(&mut self, progress: Progress) -> Checkpoint {
        self.position = self.position.max(progress.lsn);
        if self.progress == Some(progress) {
            self.progress = None;
        }
        Checkpoint {
            sequence: progress.sequence,
            position: self.position,
            relations: self.relations.clone(),
        }
    }

    /// Gives out the whole transactions gathered and the checkpoint that holds once they are applied;
    /// or, when there is none, the part of the one under way, without a checkpoint.
    pub fn take(&mut self) -> (Batch, Option<Checkpoint>) {
        let Some(whole) = self.whole.take() else {
            self.given_out = self.open.as_ref().is_some_and(|open| !open.skip);
            return (std::mem::take(&mut self.batch), None);
        };
        let ends = self.batch.ends.partition_point(|end| end.lsn <= whole.commit.lsn);
        let rest = Batch {
            changes: self.batch.changes.split_off(whole.changes),
            ends: self.batch.ends.split_off(ends),
            bytes: self.batch.bytes - whole.bytes,
            ..Batch::default()
        };
        let mut batch = std::mem::replace(&mut self.batch, rest);
        batch.bytes = whole.bytes;
        batch.commit = Some(whole.commit);
        self.given_out = false;
        (batch, Some(whole.checkpoint))
    }
}

#[cold]
fn disorder(what: &str) -> Error {
    Error::new(Kind::Frame, format!("the change stream is out of order: {what}"))
}

#[cfg(test)]
#[path = "assemble_tests.rs"]
pub(crate) mod tests;
