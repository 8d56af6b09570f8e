//! What a decoder says of bytes it does not accept.

/// A frame, message or row that cannot be read. Nothing of it may be applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind} (at byte {offset} of the {what})")]
pub struct DecodeError {
    /// What is wrong.
    pub kind: DecodeErrorKind,
    /// What was being read: `frame`, or `row`.
    pub what: &'static str,
    /// Byte offset in it.
    pub offset: usize,
}

/// The kinds of [`DecodeError`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeErrorKind {
    /// Sender and reader are of different releases.
    #[error(
        "frame has format version {found}, this reader knows {known}: upgrade the older of plugin \
         and sidecar"
    )]
    Version { found: u8, known: u8 },
    /// The bytes changed on their way.
    #[error("frame checksum is {found:#010x}, its content has {computed:#010x}")]
    Checksum { found: u32, computed: u32 },
    /// The bytes end before the field does.
    #[error("truncated: {field} needs {needed} more bytes")]
    Truncated { field: &'static str, needed: usize },
    /// Bytes are left where none should be.
    #[error("{count} bytes left over after {field}")]
    Trailing { field: &'static str, count: usize },
    /// A tag, flag or enumerated value that this reader does not know.
    #[error("unknown {field} {value:#04x}")]
    Unknown { field: &'static str, value: u64 },
    /// A field that contradicts another one.
    #[error("{field} is {found}, expected {expected}")]
    Mismatch { field: &'static str, found: u64, expected: u64 },
    /// A field that breaks a limit of [`crate::limits`].
    #[error("{field} is {value}, the limit is {limit}")]
    Limit { field: &'static str, value: u64, limit: u64 },
    /// A string that is not UTF-8.
    #[error("{field} is not UTF-8")]
    Utf8 { field: &'static str },
}
