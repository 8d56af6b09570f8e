//! A standby PostgreSQL, written exactly once.
//!
//! ```text
//!                 ┌─ BEGIN ─► truncates ─► per table: net effect ─► sets, or row by row ─┐
//! batches ─► order┤                                                                      ├► in turn: move the
//!                 └─ the same, of a batch that depends on none of those before it ───────┘  position; COMMIT
//! ```
//!
//! A batch that is written alone moves the position first.
//!
//! Sessions commit without waiting for the disk; a batch counts as durable once the target's WAL is
//! flushed past its commit.
//!
//! | module | subject |
//! |---|---|
//! | `order` | which batch is written when, and beside which others (pure) |
//! | `writer` | a session's task |
//! | `apply` | what a session writes |
//! | `parted` | a TRUNCATE of which another stream has a part |
//! | `durability` | when what was committed is on disk (pure) |
//! | `session` | settings of a session, the right to replicate |
//! | `origin` | the replication origin of a session |
//! | `positions` | `rsrepl.positions`: what makes it exactly once |
//! | `flight` | statements that have been sent and are answered later |
//! | `schemas` | where in a batch a table becomes another one (pure) |
//! | `evolve` | makes the target's table follow |
//! | `alter` | the statements for that, and those left to its owner (pure) |
//! | `ddl` | their text |
//! | `records` | `rsrepl.tables`: what the target's tables are |
//! | `catalog` | the target's table for a relation, and how its columns fit |
//! | `table` | a table being written to, with its prepared statements |
//! | `sql` | the text of every statement |
//! | `codec` | values of the wire in PostgreSQL's binary form |
//! | `copy` | COPY BINARY |
//! | `array` | many rows as one parameter |
//! | `pipeline` | statements sent without waiting for each answer |
//! | `rows` | one row as one statement |
//! | `sets` | many changes at once |
//! | `in_order` | changes one by one; finds the row that is refused |
//! | `loading` | takes the initial copy |
//! | `copies` | `rsrepl.copies`: what of it is there |
//! | `create` | tables that the target lacks |
//! | `syncs` | `rsrepl.syncs`: tables that are copied anew beside the stream |
//! | `control` | `rsrepl.control`: what people ask of the target |
//! | `errors` | what SQLSTATEs mean |
//! | `check` | the preflight of a target |

mod alter;
mod apply;
mod array;
mod catalog;
mod check;
mod codec;
mod control;
mod copies;
mod copy;
mod create;
mod ddl;
mod durability;
mod errors;
mod evolve;
mod flight;
mod in_order;
mod loading;
mod order;
mod origin;
mod parted;
mod pipeline;
mod positions;
mod records;
mod rows;
mod schemas;
mod session;
mod sets;
mod sql;
mod syncs;
mod table;
mod writer;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rsrepl_wire::Lsn;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_postgres::Client;

pub use self::check::check;
pub use self::control::PostgresControl;
pub use self::loading::PostgresCopy;
pub(crate) use self::positions::look_up as look_up_position;
pub use self::syncs::PostgresSyncs;

use self::durability::Durability;
use self::order::{Order, Step};
use self::schemas::Schemas;
use self::writer::{Job, Outcome, Report, Writer};
use super::{Event, SourceIdentity, Target};
use crate::batch::Batch;
use crate::config::MissingRows;
use crate::error::{Error, Kind, Result};
use crate::schema::Policy;
use crate::tls::PgConnect;

/// Behind the sessions that write the stream: see [`origin`].
const REPAIR_SESSION: usize = 16;

/// A session that writes as the stream's do, beside them, for `rsrepl verify --repair`.
pub(crate) async fn open_to_repair(target: &str, at: &PgConnect, slot: &str) -> Result<Client> {
    let client = session::open(target, at).await?;
    origin::set_up(target, &client, slot, REPAIR_SESSION).await?;
    Ok(client)
}

/// How often a session that has nothing else to do looks whether the last commits are on disk.
const LOOK_INTERVAL: Duration = Duration::from_millis(25);

/// Where a target is, how it is called, and how it is written to.
#[derive(Clone, Debug)]
pub struct PostgresOptions {
    /// As configured; in messages and reports.
    pub name: String,
    pub connection: PgConnect,
    /// Which changes of tables it makes by itself.
    pub schema_changes: Policy,
    /// Sessions that write, at least 1.
    pub workers: usize,
    /// Batches under way at most, at least 1.
    pub batches: usize,
    pub missing_rows: MissingRows,
    /// The source, if tables that are missing before a copy are made as they are there.
    pub creates: Option<PgConnect>,
}

/// The target; see [`Target`] for what its methods promise.
pub struct PostgresTarget {
    options: PostgresOptions,
    open: Option<Open>,
    /// Sessions were lost by an error in company: see [`Order::be_cautious`].
    cautious: bool,
}

struct Open {
    writers: Vec<Writer>,
    reports: mpsc::UnboundedReceiver<Report>,
    order: Order,
    schemas: Schemas,
    /// The end of what was handed over.
    given: Lsn,
    durability: Durability,
    /// Commits are to wait for the disk: what `durability` said last.
    hurry: Arc<AtomicBool>,
    /// When the WAL is looked at next.
    look_at: Instant,
    /// A session was sent to look.
    looking: bool,
    /// A session was lost by an error in company.
    lost: bool,
    /// To be told.
    events: VecDeque<Event>,
}

impl PostgresTarget {
    /// No connection is made before [`open`](Target::open).
    pub fn new(options: PostgresOptions) -> Self {
        PostgresTarget { options, open: None, cautious: false }
    }

    fn not_open(&self) -> Error {
        Error::new(Kind::Internal, format!("target {} is not open", self.options.name))
    }
}

impl Target for PostgresTarget {
    async fn open(&mut self, source: &SourceIdentity) -> Result<Lsn> {
        // ends the old sessions first: an open transaction would hold the lock on the position
        self.open = None;
        let (sessions, applied, recorded) = session::open_all(&self.options, source).await?;
        let (sender, reports) = mpsc::unbounded_channel();
        let hurry = Arc::new(AtomicBool::new(false));
        let writers = sessions.into_iter().enumerate().map(|(number, session)| {
            Writer::start(number, session, sender.clone(), Arc::clone(&hurry))
        });
        let mut order = Order::new(self.options.workers);
        if std::mem::take(&mut self.cautious) {
            order.be_cautious();
        }
        self.open = Some(Open {
            writers: writers.collect(),
            reports,
            order,
            schemas: Schemas::new(recorded),
            given: applied,
            durability: Durability::new(applied),
            hurry,
            look_at: Instant::now(),
            looking: false,
            lost: false,
            events: VecDeque::new(),
        });
        Ok(applied)
    }

    fn has_room(&self, full: bool) -> bool {
        let under_way = self.open.as_ref().map_or(0, |open| open.order.len());
        // one more than can be written: it is planned, and begins as soon as a session is free
        let most = self.options.batches.min(self.options.workers + 1);
        under_way == 0 || (full && under_way < most)
    }

    fn submit(&mut self, batch: Batch) {
        let Some(open) = &mut self.open else { return };
        let end = batch.commit.map_or(open.given, |commit| commit.lsn);
        for work in open.schemas.works(batch, open.given) {
            open.order.push(work);
        }
        open.given = end;
        open.proceed();
    }

    async fn next(&mut self) -> Result<Event> {
        let Some(open) = &mut self.open else { return Err(self.not_open()) };
        let event = open.next().await;
        if event.is_err() {
            self.cautious = open.lost;
            self.open = None; // the server rolls back what was open
        }
        event
    }

    fn hurry(&mut self) {
        if let Some(open) = &mut self.open {
            open.durability.want(open.given);
            open.look_at = Instant::now();
            open.note_urgency();
        }
    }

    async fn close(&mut self) {
        for writer in self.open.take().into_iter().flat_map(|open| open.writers) {
            writer.close().await;
        }
    }
}

impl Open {
    /// Does what can be done before something happens.
    fn proceed(&mut self) {
        while let Some(step) = self.order.next() {
            let (Step::Start { writer, .. } | Step::Turn { writer } | Step::TakeBack { writer }) =
                &step;
            let Some(writer) = self.writers.get_mut(*writer) else { return };
            match step {
                Step::Start { work, alone, .. } => writer.write(work, alone),
                Step::Turn { .. } => writer.turn(),
                Step::TakeBack { .. } => writer.take_back(),
            }
        }
    }

    /// Cancel-safe: what it waits for is kept outside of it.
    async fn next(&mut self) -> Result<Event> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(event);
            }
            let looks = self.durability.is_waiting() && !self.looking;
            let free = self.order.free().filter(|_| looks);
            tokio::select! {
                Some(report) = self.reports.recv() => self.reported(report)?,
                () = tokio::time::sleep_until(self.look_at), if free.is_some() => self.look(free),
            }
        }
    }

    /// Has a session see how far the WAL is flushed, or flush it if that is urgent and nothing is under way
    /// that will.
    fn look(&mut self, writer: Option<usize>) {
        let Some(writer) = writer.and_then(|writer| self.writers.get(writer)) else { return };
        self.looking = true;
        let flush = self.order.is_idle() && self.durability.is_urgent(Instant::now());
        writer.give(if flush { Job::Flush } else { Job::Look });
    }

    fn reported(&mut self, report: Report) -> Result<()> {
        match report {
            Report::Batch { writer, result, lost } => {
                self.lost = lost && self.order.is_beside(writer);
                self.ended(writer, result, lost)?;
            }
            Report::Wal(wal) => {
                self.looking = false;
                self.look_at = Instant::now() + LOOK_INTERVAL;
                // whatever was open on that session may be gone: nothing goes on after an error
                let durable = self.durability.seen(wal?);
                self.events.extend(durable.map(Event::Durable));
            }
        }
        self.note_urgency();
        self.proceed();
        Ok(())
    }

    /// What a session did with its batch.
    fn ended(&mut self, writer: usize, result: Result<Outcome>, lost: bool) -> Result<()> {
        match result {
            Ok(Outcome::Written(wal)) => {
                let applied = self.order.head_ends_batch().then_some(Event::Applied);
                self.order.finished(writer);
                self.events.extend(applied);
                let durable = self.durability.seen(wal);
                self.events.extend(durable.map(Event::Durable));
            }
            Ok(Outcome::Committed(wal)) => {
                let applied = self.order.head_ends_batch().then_some(Event::Applied);
                let position = self.order.finished(writer);
                self.events.extend(applied);
                let now = Instant::now();
                self.look_at = now + LOOK_INTERVAL;
                let durable = position.and_then(|at| self.durability.committed(at.lsn, wal, now));
                self.events.extend(durable.map(Event::Durable));
            }
            Ok(Outcome::TakenBack) => self.order.taken_back(writer),
            Err(error) => {
                // what company cannot have caused, or did not
                let by_company = matches!(error.kind(), Kind::Server | Kind::Row | Kind::Setup);
                if lost || !by_company || !self.order.failed(writer) {
                    return Err(error);
                }
                tracing::debug!(%error, "failed beside other batches; they are written again one by one");
            }
        }
        Ok(())
    }

    fn note_urgency(&self) {
        self.hurry.store(self.durability.is_urgent(Instant::now()), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::order::Work;
    use super::*;
    use crate::batch::Position;

    #[test]
    fn a_look_that_fails_is_no_failure_of_a_batch() {
        let mut open = Open {
            writers: Vec::new(),
            reports: mpsc::unbounded_channel().1,
            order: Order::new(2),
            schemas: Schemas::new([]),
            given: Lsn::INVALID,
            durability: Durability::new(Lsn::INVALID),
            hurry: Arc::default(),
            look_at: Instant::now(),
            looking: true,
            lost: false,
            events: VecDeque::new(),
        };
        for _ in 0..2 {
            open.order.push(Work {
                commit: Some(Position::default()),
                full: true,
                ..Work::default()
            });
        }
        while open.order.next().is_some() {}
        let refused = Error::new(Kind::Server, "made for a test");
        open.reported(Report::Wal(Err(refused))).expect_err("it is told");
        assert_eq!(open.order.next().map(|step| format!("{step:?}")), None, "both go on");
        assert!(!open.looking);
    }
}
