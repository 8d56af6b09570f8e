//! The seal of a schema change.
//!
//! Everybody may call `pg_logical_emit_message`, with any prefix. What the event triggers write is acted upon
//! with the rights of the targets' roles, so the plugin has to know it from what anybody writes. The key is
//! the secret that every cluster has in its control file (for SCRAM, against guessing of roles): no SQL shows
//! it, and copies of the cluster that decode the same WAL have it too. A seal holds for one transaction of one
//! database, so that one that was seen is worth nothing.
//!
//! ```text
//!  0  [u8; 32]  HMAC-SHA256 of database oid, top-level xid, and what follows
//! 32  u32       xid of the writer: the subtransaction, or the transaction itself
//! 36            the description, JSON in UTF-8
//! ```

use std::ffi::CStr;

use hmac::{Hmac, KeyInit, Mac};
use pgrx::pg_sys;
use sha2::Sha256;

/// Prefix of the logical messages, here and on the wire.
pub(crate) const PREFIX: &CStr = c"rsrepl.schema";

const SEAL: usize = 32;

/// The longest description, bytes: a table of 1,600 columns with short defaults fits, and what the plugin
/// takes apart in memory is bounded. As in `sql/schema_changes.sql`.
const CONTENT_MAX: usize = 1 << 20;

/// `MOCK_AUTH_NONCE_LEN` of `catalog/pg_control.h`.
const KEY: usize = 32;

/// The content of a message of `writer`, which is `top` or a subtransaction of it.
pub(crate) fn seal(
    top: pg_sys::TransactionId,
    writer: pg_sys::TransactionId,
    description: &[u8],
) -> Vec<u8> {
    let mut content = vec![0; SEAL];
    content.extend_from_slice(&u32::from(writer).to_le_bytes());
    content.extend_from_slice(description);
    let tag = mac(top, content.get(SEAL..).unwrap_or_default()).finalize().into_bytes();
    if let Some(seal) = content.get_mut(..SEAL) {
        seal.copy_from_slice(&tag);
    }
    content
}

/// The writer and the description, if the seal is of this cluster, database and transaction.
pub(crate) fn open(top: pg_sys::TransactionId, content: &[u8]) -> Option<(u32, &[u8])> {
    if content.len() > SEAL + size_of::<u32>() + CONTENT_MAX {
        return None;
    }
    let (tag, sealed) = content.split_at_checked(SEAL)?;
    mac(top, sealed).verify_slice(tag).ok()?;
    let (writer, description) = sealed.split_first_chunk()?;
    Some((u32::from_le_bytes(*writer), description))
}

fn mac(top: pg_sys::TransactionId, sealed: &[u8]) -> Hmac<Sha256> {
    // SAFETY: the control file is in shared memory as long as the server runs, and the secret in it never
    // changes; the database of a backend is set before anything runs in it
    let (key, database) = unsafe {
        let nonce = pg_sys::GetMockAuthenticationNonce().cast::<u8>().cast_const();
        (std::slice::from_raw_parts(nonce, KEY), pg_sys::MyDatabaseId)
    };
    // a key of any length will do
    let mut mac = match Hmac::<Sha256>::new_from_slice(key) {
        Ok(mac) => mac,
        Err(_) => unreachable!("HMAC takes keys of any length"),
    };
    mac.update(PREFIX.to_bytes());
    mac.update(&database.to_u32().to_le_bytes());
    mac.update(&u32::from(top).to_le_bytes());
    mac.update(sealed);
    mac
}
