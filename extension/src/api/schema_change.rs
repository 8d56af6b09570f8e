//! `rsrepl.seal_schema_change(bytea)`: what the event triggers of `sql/schema_changes.sql` write.

use pgrx::pg_sys;
use pgrx::prelude::*;

use crate::seal;

/// A description as the plugin will believe it, in this transaction only. Not for everybody: who can call
/// it can have targets altered.
#[pg_extern(strict, volatile, parallel_unsafe)]
pub(super) fn seal_schema_change(description: &[u8]) -> Vec<u8> {
    // SAFETY: in a transaction, which gets its ids here if it has none; the message gets the same
    let (top, writer) =
        unsafe { (pg_sys::GetTopTransactionId(), pg_sys::GetCurrentTransactionId()) };
    seal::seal(top, writer, description)
}
