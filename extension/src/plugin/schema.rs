//! Schema changes that the event triggers of `sql/schema_changes.sql` wrote into the stream, and the rows of
//! tables that are rewritten.
//!
//! A change goes out as a logical message of its own prefix, when rows of its table do, and with the columns
//! that they have. What cannot be read is left out, which the log says once: targets then see what the next
//! RELATION says.
//!
//! # Rewrites
//!
//! ALTER TABLE … TYPE and the like write all rows anew, into a *transient* table that takes the place of the
//! old one. PostgreSQL shows these rows to whoever asks for them. They are of use only to a target that knows
//! that it has to forget the rows it has: behind a message that says so, in the same transaction.

use pgrx::PgSqlErrorCode as Code;
use pgrx::pg_sys;
use serde_json::{Value, json};

use super::report;
use crate::seal;

/// The rewrites of transactions that have not ended: of each the xid, and the oid of a table whose rows come
/// again. As many as there are tables locked by their ALTER TABLE.
#[derive(Default)]
pub(super) struct Rewrites(Vec<(pg_sys::TransactionId, u32)>);

impl Rewrites {
    /// The message of `xid` that says so is sent.
    pub(super) fn announce(&mut self, xid: pg_sys::TransactionId, table: u32) {
        if !self.is_announced(xid, table) {
            self.0.push((xid, table));
        }
    }

    /// The table's rows have come.
    pub(super) fn end(&mut self, xid: pg_sys::TransactionId, table: u32) {
        self.0.retain(|announced| *announced != (xid, table));
    }

    pub(super) fn is_announced(&self, xid: pg_sys::TransactionId, table: u32) -> bool {
        self.0.contains(&(xid, table))
    }

    /// The transaction has ended.
    pub(super) fn forget(&mut self, xid: pg_sys::TransactionId) {
        self.0.retain(|(of, _)| *of != xid);
    }
}

/// Says once that somebody uses our prefix.
pub(super) fn warn_foreign() {
    report::warn(
        Code::ERRCODE_DATA_CORRUPTED,
        "a message with the prefix of schema changes is not of rsrepl, and left out".into(),
        "Applications may use any other prefix in pg_logical_emit_message.",
    );
}

/// The message of an event trigger.
pub(super) struct SchemaChange {
    /// The transaction or subtransaction that wrote it.
    pub(super) writer: pg_sys::TransactionId,
    change: Value,
}

/// What a change is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Subject {
    /// A table as it is now.
    Table(u32),
    Dropped,
}

/// What of a table goes to the targets.
pub(super) struct Sent {
    /// Rows come under its name.
    pub(super) rows: bool,
    /// All that can happen to its rows is sent.
    pub(super) complete: bool,
    /// The attribute numbers of a row's columns; none without rows.
    pub(super) columns: Option<Vec<u16>>,
}

impl SchemaChange {
    /// `None` for what no event trigger of ours wrote in transaction `top`.
    pub(super) fn read(top: pg_sys::TransactionId, content: &[u8]) -> Option<Self> {
        let (writer, json) = seal::open(top, content)?;
        Some(SchemaChange { writer: writer.into(), change: serde_json::from_slice(json).ok()? })
    }

    pub(super) fn subject(&self) -> Option<Subject> {
        if let Some(table) = self.change.get("table") {
            let oid = table.get("oid").and_then(Value::as_u64)?;
            return u32::try_from(oid).ok().map(Subject::Table);
        }
        self.change.get("dropped").map(|_| Subject::Dropped)
    }

    /// The rows of the table come behind it.
    pub(super) fn is_rewrite(&self) -> bool {
        self.change.get("rewrite").and_then(Value::as_bool) == Some(true)
    }

    /// Its content on the wire.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        self.change.to_string().into_bytes()
    }

    /// Shows of a table what is sent of it.
    pub(super) fn restrict(&mut self, sent: &Sent, rewrite: bool) {
        let Some(change) = self.change.as_object_mut() else { return };
        change.insert("rewrite".into(), json!(rewrite));
        let Some(Value::Object(table)) = change.get_mut("table") else { return };
        table.insert("rows".into(), json!(sent.rows));
        let Some(numbers) = &sent.columns else { return };
        let mut left_out = Vec::new();
        if let Some(Value::Array(columns)) = table.get_mut("columns") {
            left_out = leave_out(columns, numbers);
        }
        if let Some(Value::Array(key)) = table.get_mut("primary_key")
            && key.iter().any(|name| left_out.contains(name))
        {
            key.clear(); // a part of it identifies nothing
        }
    }
}

/// Leaves out the columns that are not in `numbers`, and gives their names. Virtual generated ones, which are
/// never in a row, stay unless there are others that go.
fn leave_out(columns: &mut Vec<Value>, numbers: &[u16]) -> Vec<Value> {
    let in_rows = |column: &Value| {
        let number = column.get("number").and_then(Value::as_u64);
        number.is_some_and(|number| numbers.iter().any(|n| u64::from(*n) == number))
    };
    let is_virtual = |column: &Value| column.get("generated").and_then(Value::as_str) == Some("v");
    let all = columns.iter().all(|column| in_rows(column) || is_virtual(column));
    let (stay, go): (Vec<_>, Vec<_>) = std::mem::take(columns)
        .into_iter()
        .partition(|column| in_rows(column) || all && is_virtual(column));
    *columns = stay;
    go.into_iter().filter_map(|mut column| column.get_mut("name").map(Value::take)).collect()
}

/// The transaction `xid` among `txn` and its subtransactions; `txn` itself if there is none.
///
/// # Safety
/// `txn` is a top-level transaction of PostgreSQL's.
pub(super) unsafe fn writer_of(
    txn: &pg_sys::ReorderBufferTXN,
    xid: pg_sys::TransactionId,
) -> *mut pg_sys::ReorderBufferTXN {
    let top = std::ptr::from_ref(txn).cast_mut();
    let offset = std::mem::offset_of!(pg_sys::ReorderBufferTXN, node);
    let end = &raw const txn.subtxns.head;
    let mut node = txn.subtxns.head.next.cast_const();
    // SAFETY: a circular list through the `node` of each subtransaction; a list that was never used has no
    // next
    unsafe {
        while !node.is_null() && !std::ptr::eq(node, end) {
            let subtransaction = node.byte_sub(offset).cast::<pg_sys::ReorderBufferTXN>();
            if (*subtransaction).xid == xid {
                return subtransaction.cast_mut();
            }
            node = (*node).next;
        }
    }
    top
}
