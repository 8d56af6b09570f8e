//! The state of one decoding session, and what each callback does with it.

mod schema_change;

use std::ffi::CStr;

use pg_sys::ReorderBufferChangeType as Kind;
use pgrx::PgMemoryContexts;
use pgrx::pg_sys;
use rsrepl_wire::{FrameWriter, Lsn};

use super::memory::Within;
use super::options::Options;
use super::output::Output;
use super::publications::{Opened, Publications};
use super::relations::{Catalog, Entry, Relations};
use super::schema::Rewrites;
use super::stream::{Stream, origin_name};
use super::streaming::Streaming;
use super::text::{self, ServerText};
use super::{change, invalidation, memory, report};
use crate::{compat, seal};

/// Changes that are not wanted, before we look after everything else: as many as `pgoutput` lets pass
/// between two reports of progress.
const SKIPPED_MAX: u32 = 100;

/// One per decoding context; see the module's documentation for how it is freed.
pub(super) struct Session {
    /// Wants logical messages.
    messages: bool,
    /// Wants the rows of rewritten tables.
    wants_rewrites: bool,
    rewrites: Rewrites,
    /// A message with our prefix that is not ours was told of.
    warned_of_message: bool,
    catalog: Catalog,
    relations: Relations,
    stream: Stream,
    streaming: Streaming,
    /// Changes that were skipped since progress was last reported.
    skipped: u32,
    /// What one callback allocates in PostgreSQL's memory; emptied at the next one.
    scratch: pg_sys::MemoryContext,
}

impl Session {
    /// Reads the options and hangs a new session on the decoding context. `is_init`: the slot is
    /// being created, and nothing will be decoded.
    ///
    /// # Safety
    /// `ctx` is the context of the startup callback.
    pub(super) unsafe fn start(ctx: *mut pg_sys::LogicalDecodingContext, is_init: bool) {
        // SAFETY: the context is valid, and so are its options
        let (memory, options) =
            unsafe { ((*ctx).context, Options::parse((*ctx).output_plugin_options)) };
        if !is_init {
            text::check_client_encoding();
        }
        invalidation::register();
        // SAFETY: `memory` lives as long as the session
        let scratch = unsafe {
            pg_sys::AllocSetContextCreateExtended(
                memory,
                c"rsrepl change".as_ptr(),
                pg_sys::ALLOCSET_DEFAULT_MINSIZE as usize,
                pg_sys::ALLOCSET_DEFAULT_INITSIZE as usize,
                pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
            )
        };
        let session = Session {
            messages: options.messages,
            wants_rewrites: options.rewrites,
            rewrites: Rewrites::default(),
            warned_of_message: false,
            catalog: Catalog {
                publications: Publications::new(options.publications),
                text: ServerText::new(options.encoding, options.invalid_text),
                memory,
            },
            relations: Relations::default(),
            stream: Stream::default(),
            streaming: Streaming::default(),
            skipped: 0,
            scratch,
        };
        let session = PgMemoryContexts::For(memory).leak_and_drop_on_delete(session);
        // SAFETY: the context is valid; the session lives as long as it does
        unsafe {
            (*ctx).output_plugin_private = session.cast();
            (*ctx).streaming &= options.streaming;
            if !options.local_only {
                // it would be called for every record, to say no
                (*ctx).callbacks.filter_by_origin_cb = None;
            }
            if options.combine && !is_init {
                (*session).stream.backlog().watch(ctx);
            }
        }
    }

    /// The session of a decoding context.
    ///
    /// # Safety
    /// [`Self::start`] was called for it; callbacks do not nest, so there is one borrow at a time.
    pub(super) unsafe fn of<'a>(ctx: *mut pg_sys::LogicalDecodingContext) -> &'a mut Session {
        // SAFETY: as promised by the caller
        unsafe { &mut *(*ctx).output_plugin_private.cast() }
    }

    pub(super) fn stream(&mut self) -> &mut Stream {
        &mut self.stream
    }

    pub(super) fn wants_rewrites(&self) -> bool {
        self.wants_rewrites
    }

    pub(super) fn begin(&mut self) {
        self.stream.begin();
    }

    /// The memory context goes right after this; an ERROR skips this callback.
    ///
    /// # Safety
    /// `ctx` is that of [`Self::start`].
    pub(super) unsafe fn shut_down(&mut self, ctx: *mut pg_sys::LogicalDecodingContext) {
        // SAFETY: as promised by the caller
        unsafe { self.stream.backlog().leave(ctx) };
        self.relations.clear();
    }

    /// # Safety
    /// All are PostgreSQL's arguments of the change callback.
    pub(super) unsafe fn change(
        &mut self,
        out: &Output,
        txn: &pg_sys::ReorderBufferTXN,
        relation: pg_sys::Relation,
        change: &pg_sys::ReorderBufferChange,
    ) {
        let _scratch = self.enter();
        // SAFETY: `relation` is open
        let rewritten = unsafe { (*(*relation).rd_rel).relrewrite };
        if rewritten == pg_sys::InvalidOid {
            // SAFETY: as promised by the caller
            return unsafe { self.row(out, txn, relation, relation, change) };
        }
        // SAFETY: there is a snapshot for catalogs, in which the table has its new columns already
        match unsafe { Opened::find(rewritten) } {
            // SAFETY: the tuples of the transient table are those that the table will have
            Some(table) => unsafe { self.row(out, txn, table.0, relation, change) },
            None => self.skip(out),
        }
    }

    /// A change of `table`, with tuples of `rows`: itself, or the transient table of a rewrite.
    ///
    /// # Safety
    /// As [`Self::change`]; both are open.
    #[inline]
    unsafe fn row(
        &mut self,
        out: &Output,
        txn: &pg_sys::ReorderBufferTXN,
        table: pg_sys::Relation,
        rows: pg_sys::Relation,
        change: &pg_sys::ReorderBufferChange,
    ) {
        // SAFETY: `table` is open, with the catalogs as they were at the change
        let entry = unsafe { self.relations.entry(table, &mut self.catalog) };
        let wanted = match change.action {
            Kind::REORDER_BUFFER_CHANGE_INSERT => entry.table.wanted.insert,
            Kind::REORDER_BUFFER_CHANGE_UPDATE => entry.table.wanted.update,
            Kind::REORDER_BUFFER_CHANGE_DELETE => entry.table.wanted.delete,
            action => report::internal(format!("unknown kind of change {action}")),
        };
        let expected = std::ptr::eq(table, rows)
            || self.rewrites.is_announced(txn.xid, entry.table.relation.oid);
        if !wanted || !expected {
            return self.skip(out);
        }
        // SAFETY: the tuples are those of the table as it was at the change
        let Some(selected) = (unsafe { change::select(&entry.table, rows, change) }) else {
            return self.skip(out);
        };
        let lsn = Lsn(change.lsn);
        let text = self.catalog.text;
        let part = self.streaming.part();
        // SAFETY: `change` is of `txn` or of one of its subtransactions
        let frame =
            unsafe { frame(&mut self.stream, &mut self.streaming, txn, change.txn, lsn, text) };
        announce(frame, entry, part);
        // SAFETY: as above
        let identified = unsafe { selected.write(frame, &entry.table, lsn, text) };
        if !identified && !entry.warned {
            entry.warned = true;
            change::warn_unidentified(&entry.table, change.action);
        }
        self.send_if_full(out);
    }

    /// # Safety
    /// All are PostgreSQL's arguments of the truncate callback.
    pub(super) unsafe fn truncate(
        &mut self,
        out: &Output,
        txn: &pg_sys::ReorderBufferTXN,
        relations: &[pg_sys::Relation],
        change: &pg_sys::ReorderBufferChange,
    ) {
        let _scratch = self.enter();
        let lsn = Lsn(change.lsn);
        let part = self.streaming.part();
        let mut truncated = Vec::with_capacity(relations.len());
        for &relation in relations {
            // SAFETY: the tables are open, with the catalogs as they were at the change
            let entry = unsafe { self.relations.entry(relation, &mut self.catalog) };
            // a partition that comes under another's name is emptied with that, or not at all
            if entry.table.wanted.truncate && entry.is_shown_as_itself() {
                // SAFETY: `change` is of `txn` or of one of its subtransactions
                let frame = unsafe {
                    let text = self.catalog.text;
                    frame(&mut self.stream, &mut self.streaming, txn, change.txn, lsn, text)
                };
                announce(frame, entry, part);
                truncated.push(entry.table.relation.oid);
            }
        }
        if truncated.is_empty() {
            return self.skip(out);
        }
        // SAFETY: of this kind of change `truncate` is the member of the union that is set
        let how = unsafe { &change.data.truncate };
        let frame = self.frame(txn, lsn);
        frame.truncate(lsn, how.cascade, how.restart_seqs, &truncated);
        self.send_if_full(out);
    }

    /// `txn`: none when the message is not part of a transaction.
    pub(super) fn message(
        &mut self,
        out: &Output,
        txn: Option<&pg_sys::ReorderBufferTXN>,
        lsn: pg_sys::XLogRecPtr,
        prefix: &CStr,
        content: &[u8],
    ) {
        let _scratch = self.enter();
        if prefix == seal::PREFIX {
            return self.schema_change(out, txn, Lsn(lsn), content);
        }
        if !self.messages {
            return self.skip(out);
        }
        #[cfg(any(test, feature = "pg_test"))]
        super::faults::provoke(prefix);
        let lsn = Lsn(lsn);
        let text = self.catalog.text;
        let prefix = text.string(prefix);
        match txn {
            Some(txn) => {
                let frame = self.frame(txn, lsn);
                memory::make_room(content.len(), |len| frame.try_reserve(len));
                frame.logical(lsn, true, &prefix, content);
                self.send_if_full(out);
            }
            None => {
                // a frame of its own: one of transactions may be waiting
                let mut frame = FrameWriter::new();
                frame.start(lsn, 0);
                memory::make_room(content.len(), |len| frame.try_reserve(len));
                frame.logical(lsn, false, &prefix, content);
                self.stream.send_held(out);
                out.write(frame.finish());
            }
        }
    }

    pub(super) fn commit(&mut self, out: &Output, txn: &pg_sys::ReorderBufferTXN) {
        let _scratch = self.enter();
        self.rewrites.forget(txn.xid);
        self.skipped = 0;
        out.progress(!self.stream.has_begun());
        if self.stream.has_begun() {
            self.stream.commit(out, txn, self.catalog.text);
        }
    }

    /// A part of a transaction in progress begins.
    ///
    /// # Safety
    /// `txn` is the callback's.
    pub(super) unsafe fn stream_start(&mut self, txn: *mut pg_sys::ReorderBufferTXN) {
        let _scratch = self.enter();
        let text = self.catalog.text;
        // SAFETY: as promised by the caller
        unsafe {
            let id = (*txn).origin_id;
            self.streaming.start(txn, || origin_name(id, text));
        }
    }

    /// The part ends; after an ERROR outside of a PostgreSQL transaction.
    ///
    /// # Safety
    /// `txn` is the callback's.
    pub(super) unsafe fn stream_stop(&mut self, out: &Output, txn: *mut pg_sys::ReorderBufferTXN) {
        // SAFETY: as promised by the caller
        unsafe { self.streaming.stop(out, txn, &mut self.stream) };
    }

    /// # Safety
    /// `txn` is the callback's.
    pub(super) unsafe fn stream_abort(
        &mut self,
        out: &Output,
        txn: *mut pg_sys::ReorderBufferTXN,
        lsn: Lsn,
    ) {
        // SAFETY: as promised by the caller; only a top-level transaction has rewrites
        unsafe {
            self.rewrites.forget((*txn).xid);
            self.streaming.abort(out, txn, lsn, &mut self.stream);
        }
    }

    /// # Safety
    /// `txn` is the callback's.
    pub(super) unsafe fn stream_commit(
        &mut self,
        out: &Output,
        txn: *mut pg_sys::ReorderBufferTXN,
    ) {
        self.skipped = 0;
        // SAFETY: as promised by the caller
        let sent = unsafe {
            self.rewrites.forget((*txn).xid);
            self.streaming.commit(out, txn, &mut self.stream)
        };
        out.progress(!sent);
    }

    /// The frame for the next message of a transaction.
    fn frame(&mut self, txn: &pg_sys::ReorderBufferTXN, lsn: Lsn) -> &mut FrameWriter {
        match self.streaming.part() {
            None => self.stream.frame(txn, lsn, self.catalog.text),
            Some(_) => self.streaming.frame(txn, lsn),
        }
    }

    #[inline]
    fn send_if_full(&mut self, out: &Output) {
        match self.streaming.part() {
            None => self.stream.send_if_full(out),
            Some(_) => self.streaming.send_if_full(out, &mut self.stream),
        }
    }

    /// Nothing of a change is written; now and then the walsender has to be let to its keepalives, and
    /// what is held to the receiver.
    fn skip(&mut self, out: &Output) {
        self.skipped += 1;
        if self.skipped >= SKIPPED_MAX {
            self.skipped = 0;
            self.stream.send_if_overdue(out);
            if !compat::CORE_REPORTS_PROGRESS {
                out.progress(false);
            }
        }
    }

    /// What every callback that writes does first: looks at what has become invalid, and switches to
    /// an empty memory context until the result is dropped.
    fn enter(&mut self) -> Within {
        if let Some(marks) = invalidation::take() {
            if marks.publications || marks.all {
                self.catalog.publications.forget();
            }
            self.relations.invalidate(&marks);
        }
        // SAFETY: a context of the session; nothing of the callback before is still used
        unsafe { Within::emptied(self.scratch) }
    }
}

/// The frame for the next change of `txn`, which `writer` made: itself or a subtransaction.
///
/// # Safety
/// `writer` is valid.
#[inline]
unsafe fn frame<'a>(
    stream: &'a mut Stream,
    streaming: &'a mut Streaming,
    txn: &pg_sys::ReorderBufferTXN,
    writer: *mut pg_sys::ReorderBufferTXN,
    lsn: Lsn,
    text: ServerText,
) -> &'a mut FrameWriter {
    match streaming.part() {
        None => stream.frame(txn, lsn, text),
        // SAFETY: as promised by the caller
        Some(_) => unsafe { streaming.frame_of(txn, writer, lsn) },
    }
}

/// Sends the description of a table unless the stream already has this very one, or `part` of a
/// transaction in progress. What a part has is for that part alone: it may be taken back.
#[inline]
fn announce(frame: &mut FrameWriter, entry: &mut Entry, part: Option<u64>) {
    let sent = match part {
        None => entry.sent,
        Some(_) => entry.sent_in_part == part,
    };
    if sent {
        return;
    }
    frame.relation(&entry.table.relation);
    match part {
        None => entry.sent = true,
        Some(_) => entry.sent_in_part = part,
    }
}
