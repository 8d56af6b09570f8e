//! The change format that the `rsrepl` output plugin emits and its sidecar reads.
//!
//! | module | subject |
//! |---|---|
//! | [`frame`] | the unit of `OutputPluginWrite`: header, checksum, messages |
//! | [`message`] | every message, its encoder beside its decoder |
//! | [`relation`] | the description of a table: columns, types, encodings |
//! | [`streamed`] | transactions that are sent while they run |
//! | [`row`] | bitmaps and values of one row |
//! | [`text`] | the text form of values, as PostgreSQL writes it |
//! | [`lsn`] | a position in the WAL |
//! | [`limits`] | named bounds of everything above |
//! | [`error`] | what a decoder says of bytes it does not accept, with the offset |
//!
//! Byte offsets and an annotated dump are in `docs/wire-format.md`. This crate knows nothing of
//! pgrx, tokio or sockets, and no input makes it panic.

#![forbid(unsafe_code)]

pub mod error;
pub mod frame;
pub mod limits;
pub mod lsn;
pub mod message;
mod reader;
pub mod relation;
pub mod row;
pub mod streamed;
pub mod text;
mod varint;

pub use error::{DecodeError, DecodeErrorKind};
pub use frame::{Frame, FrameWriter, Messages, RowShape};
pub use lsn::Lsn;
pub use message::{
    Begin, Commit, Delete, Insert, LogicalMessage, Message, OldRow, OldRowKind, Truncate, Update,
};
pub use relation::{
    Column, Element, ElementEncoding, Encoding, Relation, ReplicaIdentity, TypeKind,
};
pub use row::{Row, RowWriter, Value, Values};
pub use streamed::{STREAM_FRAME_OVERHEAD, StreamAbort, StreamCommit, StreamEnd, StreamPlace};
