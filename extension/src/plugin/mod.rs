//! The logical-decoding output plugin `rsrepl`.
//!
//! | module | subject |
//! |---|---|
//! | `options` | what START_REPLICATION or the SQL functions ask for |
//! | `session` | the state of one decoding session, and what each callback does with it |
//! | `stream` | when a frame is begun, filled, held and sent |
//! | `backlog` | whether the walsender is behind, so that a frame may be held |
//! | `streaming` | the same of large transactions that are sent while they run |
//! | `output` | PostgreSQL's side of writing: sending a frame, reporting progress |
//! | `relations` | the cache of tables, bounded, rebuilt after invalidations |
//! | `describe` | a table as the wire shows it, and how its tuples are read |
//! | `types` | how the values of a type are written |
//! | `tuple` | a heap tuple into a row: the hot path |
//! | `publications` | which operations of which tables are wanted, and under which name |
//! | `column_lists` | which of their columns |
//! | `row_filter` | which of their rows |
//! | `conversion` | a partition's tuples in the form of the partitioned table |
//! | `change` | one change of a row: what of it is sent, and how |
//! | `schema` | schema changes that event triggers told of, and rewritten tables |
//! | `invalidation` | marks left by PostgreSQL's cache callbacks |
//! | `text` | texts of the server's encoding as UTF-8 |
//! | `memory` | memory of one callback and of one table, and room for large values |
//! | `report` | errors and warnings with a way out |
//!
//! ```text
//! change ─► absorb invalidations ─► table known and wanted? ─► as the root has it ─► row wanted? ─┐
//!                                                                                                 │
//!    ┌── row ◄── RELATION once ◄── BEGIN once ◄───────────────────────────────────────────────────┘
//!    └─► frame full, or COMMIT with nothing behind it, or end of the WAL ─► OutputPluginWrite
//! ```
//!
//! # Safety of the source
//!
//! Everything hangs on the memory context of the decoding session: the [`session::Session`] is freed
//! by a reset callback on it, because an ERROR skips the shutdown callback. A Rust panic becomes an
//! ERROR by `#[pg_guard]`, and an ERROR of PostgreSQL unwinds through Rust as a panic, so destructors
//! run. After either the session is dropped whole, but for one case: PostgreSQL catches the ERROR of a
//! transaction that aborts while it is streamed, and goes on. Then what was half written is cut off, and
//! every other state is as it was before the callback. No half-written message is ever sent.

mod backlog;
mod change;
mod column_lists;
mod conversion;
mod describe;
#[cfg(any(test, feature = "pg_test"))]
mod faults;
mod invalidation;
mod memory;
mod options;
mod output;
mod publications;
mod relations;
mod report;
mod row_filter;
mod schema;
mod session;
mod stream;
mod streaming;
mod text;
mod tuple;
mod types;

use std::ffi::{CStr, c_char, c_int};

use pgrx::pg_guard;
use pgrx::pg_sys;
use rsrepl_wire::Lsn;

use output::Output;
use session::Session;

/// PostgreSQL looks this symbol up when a slot of this plugin is used.
///
/// # Safety
/// `callbacks` points to a table that PostgreSQL wants filled.
#[unsafe(no_mangle)]
#[pg_guard]
pub unsafe extern "C-unwind" fn _PG_output_plugin_init(
    callbacks: *mut pg_sys::OutputPluginCallbacks,
) {
    // SAFETY: as promised by PostgreSQL
    let callbacks = unsafe { &mut *callbacks };
    callbacks.startup_cb = Some(startup);
    callbacks.begin_cb = Some(begin);
    callbacks.change_cb = Some(change);
    callbacks.truncate_cb = Some(truncate);
    callbacks.message_cb = Some(message);
    callbacks.commit_cb = Some(commit);
    callbacks.filter_by_origin_cb = Some(filter_by_origin);
    callbacks.shutdown_cb = Some(shutdown);
    callbacks.stream_start_cb = Some(stream_start);
    callbacks.stream_stop_cb = Some(stream_stop);
    callbacks.stream_abort_cb = Some(stream_abort);
    callbacks.stream_commit_cb = Some(stream_commit);
    callbacks.stream_change_cb = Some(change);
    callbacks.stream_message_cb = Some(message);
    callbacks.stream_truncate_cb = Some(truncate);
}

#[pg_guard]
unsafe extern "C-unwind" fn startup(
    ctx: *mut pg_sys::LogicalDecodingContext,
    options: *mut pg_sys::OutputPluginOptions,
    is_init: bool,
) {
    // SAFETY: PostgreSQL's own structures, valid during the call
    unsafe {
        (*options).output_type = pg_sys::OutputPluginOutputType::OUTPUT_PLUGIN_BINARY_OUTPUT;
        Session::start(ctx, is_init);
        (*options).receive_rewrites = !is_init && Session::of(ctx).wants_rewrites();
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn begin(
    ctx: *mut pg_sys::LogicalDecodingContext,
    _txn: *mut pg_sys::ReorderBufferTXN,
) {
    // SAFETY: startup has set the session
    unsafe { Session::of(ctx) }.begin();
}

#[pg_guard]
unsafe extern "C-unwind" fn change(
    ctx: *mut pg_sys::LogicalDecodingContext,
    txn: *mut pg_sys::ReorderBufferTXN,
    relation: pg_sys::Relation,
    change: *mut pg_sys::ReorderBufferChange,
) {
    // SAFETY: startup has set the session; the rest is PostgreSQL's and valid during the call
    unsafe { Session::of(ctx).change(&Output(ctx), &*txn, relation, &*change) }
}

#[pg_guard]
unsafe extern "C-unwind" fn truncate(
    ctx: *mut pg_sys::LogicalDecodingContext,
    txn: *mut pg_sys::ReorderBufferTXN,
    count: c_int,
    relations: *mut pg_sys::Relation,
    change: *mut pg_sys::ReorderBufferChange,
) {
    // SAFETY: startup has set the session; the rest is PostgreSQL's and valid during the call
    unsafe {
        let relations = std::slice::from_raw_parts(relations, count as usize);
        Session::of(ctx).truncate(&Output(ctx), &*txn, relations, &*change);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn message(
    ctx: *mut pg_sys::LogicalDecodingContext,
    txn: *mut pg_sys::ReorderBufferTXN,
    lsn: pg_sys::XLogRecPtr,
    transactional: bool,
    prefix: *const c_char,
    size: pg_sys::Size,
    content: *const c_char,
) {
    // SAFETY: startup has set the session; the rest is PostgreSQL's and valid during the call; `txn`
    // is null outside of a transaction
    unsafe {
        let txn = if transactional { txn.as_ref() } else { None };
        let content = std::slice::from_raw_parts(content.cast::<u8>(), size);
        Session::of(ctx).message(&Output(ctx), txn, lsn, CStr::from_ptr(prefix), content);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn commit(
    ctx: *mut pg_sys::LogicalDecodingContext,
    txn: *mut pg_sys::ReorderBufferTXN,
    _commit_lsn: pg_sys::XLogRecPtr,
) {
    // SAFETY: startup has set the session; `txn` is valid during the call
    unsafe { Session::of(ctx).commit(&Output(ctx), &*txn) }
}

/// What came from another server is left out; a session that wants it takes this callback away.
#[pg_guard]
unsafe extern "C-unwind" fn filter_by_origin(
    _ctx: *mut pg_sys::LogicalDecodingContext,
    origin: pg_sys::RepOriginId,
) -> bool {
    origin != pg_sys::InvalidRepOriginId as pg_sys::RepOriginId
}

#[pg_guard]
unsafe extern "C-unwind" fn shutdown(ctx: *mut pg_sys::LogicalDecodingContext) {
    // SAFETY: startup has set the session of this context
    unsafe { Session::of(ctx).shut_down(ctx) };
}

#[pg_guard]
unsafe extern "C-unwind" fn stream_start(
    ctx: *mut pg_sys::LogicalDecodingContext,
    txn: *mut pg_sys::ReorderBufferTXN,
) {
    // SAFETY: startup has set the session; `txn` is valid during the call
    unsafe { Session::of(ctx).stream_start(txn) }
}

#[pg_guard]
unsafe extern "C-unwind" fn stream_stop(
    ctx: *mut pg_sys::LogicalDecodingContext,
    txn: *mut pg_sys::ReorderBufferTXN,
) {
    // SAFETY: startup has set the session; `txn` is valid during the call
    unsafe { Session::of(ctx).stream_stop(&Output(ctx), txn) }
}

#[pg_guard]
unsafe extern "C-unwind" fn stream_abort(
    ctx: *mut pg_sys::LogicalDecodingContext,
    txn: *mut pg_sys::ReorderBufferTXN,
    lsn: pg_sys::XLogRecPtr,
) {
    // SAFETY: startup has set the session; `txn` is valid during the call
    unsafe { Session::of(ctx).stream_abort(&Output(ctx), txn, Lsn(lsn)) }
}

#[pg_guard]
unsafe extern "C-unwind" fn stream_commit(
    ctx: *mut pg_sys::LogicalDecodingContext,
    txn: *mut pg_sys::ReorderBufferTXN,
    _commit_lsn: pg_sys::XLogRecPtr,
) {
    // SAFETY: startup has set the session; `txn` is valid during the call
    unsafe { Session::of(ctx).stream_commit(&Output(ctx), txn) }
}
