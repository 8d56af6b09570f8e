//! What a session does with the messages of event triggers.

use pgrx::PgSqlErrorCode as Code;
use pgrx::pg_sys;
use rsrepl_wire::Lsn;

use super::{Session, frame};
use crate::plugin::memory;
use crate::plugin::output::Output;
use crate::plugin::publications::Opened;
use crate::plugin::report;
use crate::plugin::schema::{self, SchemaChange, Sent, Subject};
use crate::seal;

impl Session {
    /// A message with the prefix of schema changes: goes out whatever is wanted of other messages.
    pub(super) fn schema_change(
        &mut self,
        out: &Output,
        txn: Option<&pg_sys::ReorderBufferTXN>,
        lsn: Lsn,
        content: &[u8],
    ) {
        let read = txn.and_then(|txn| Some((txn, SchemaChange::read(txn.xid, content)?)));
        let Some((txn, mut change)) = read else {
            // nothing: what our own are followed by
            if !content.is_empty() && !std::mem::replace(&mut self.warned_of_message, true) {
                schema::warn_foreign();
            }
            return self.skip(out);
        };
        if !self.is_told(txn, &mut change) {
            return self.skip(out);
        }
        // SAFETY: `txn` is a transaction of PostgreSQL's, and so is what wrote the message
        let frame = unsafe {
            let writer = match self.streaming.part() {
                Some(_) => schema::writer_of(txn, change.writer),
                None => std::ptr::from_ref(txn).cast_mut(),
            };
            let text = self.catalog.text;
            frame(&mut self.stream, &mut self.streaming, txn, writer, lsn, text)
        };
        let content = change.to_bytes();
        memory::make_room(content.len(), |len| frame.try_reserve(len));
        frame.logical(lsn, true, &seal::PREFIX.to_string_lossy(), &content);
        self.send_if_full(out);
    }

    /// Whether the targets are told of a schema change, which then shows what they may see.
    fn is_told(&mut self, txn: &pg_sys::ReorderBufferTXN, change: &mut SchemaChange) -> bool {
        if !self.catalog.publications.are_there() {
            return false; // nothing is sent until they are
        }
        let oid = match change.subject() {
            None => return false,
            Some(Subject::Dropped) => return true, // nothing says any more whether it was published
            Some(Subject::Table(oid)) => oid,
        };
        // SAFETY: in a callback there is a snapshot for catalogs
        let Some(sent) = (unsafe { self.sent_of(oid.into()) }) else { return false };
        let rewrite = change.is_rewrite() && self.wants_rewrites && sent.complete;
        if rewrite {
            self.rewrites.announce(txn.xid, oid);
        } else {
            self.rewrites.end(txn.xid, oid); // the command is done; the next one speaks for itself
        }
        change.restrict(&sent, rewrite);
        true
    }

    /// What is sent of a table, if anything is.
    ///
    /// # Safety
    /// There is a snapshot for catalogs.
    unsafe fn sent_of(&mut self, oid: pg_sys::Oid) -> Option<Sent> {
        // SAFETY: as promised by the caller
        unsafe {
            let Some(relation) = Opened::find(oid) else {
                report::warn(
                    Code::ERRCODE_UNDEFINED_TABLE,
                    format!("cannot describe table {} at a change of its schema", oid.to_u32()),
                    "Targets see new columns at the next change of the table, but not rewritten rows.",
                );
                return None;
            };
            if !self.catalog.publications.agree(relation.0) {
                return None; // an ERROR where there is a row, which may never come
            }
            let entry = self.relations.entry(relation.0, &mut self.catalog);
            let wanted = entry.table.wanted;
            if wanted.any() && !entry.is_shown_as_itself() {
                return None; // it is the table above it that changes
            }
            if wanted.any() {
                let numbers = entry.table.relation.columns.iter().map(|column| column.number);
                let columns = Some(numbers.collect());
                return Some(Sent { rows: true, complete: wanted.every_row(), columns });
            }
            // rows come under the names of its partitions
            let wanted = self.catalog.publications.of_partitions(relation.0);
            wanted.any().then(|| Sent { rows: false, complete: wanted.every_row(), columns: None })
        }
    }
}
