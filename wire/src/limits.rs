//! Bounds of the format. A decoder refuses what passes them before it allocates.

/// The format version that this crate writes and reads; those before it were never released.
pub const FORMAT_VERSION: u8 = 3;

/// Bytes at which the plugin sends a frame, wherever it is.
pub const FRAME_TARGET: usize = 64 * 1024;

/// Bytes of the largest frame: PostgreSQL's `MaxAllocSize` bounds what a walsender can send.
pub const FRAME_MAX: usize = 0x3FFF_FFFF;

/// Columns of a relation, and the largest number of one: PostgreSQL's `MaxHeapAttributeNumber`.
pub const COLUMNS_MAX: usize = 1600;

/// Bytes of a name (relation, schema, column, type, origin, message prefix). PostgreSQL's names are
/// under 64 bytes, origins and prefixes are free text.
pub const NAME_MAX: usize = 64 * 1024;

/// Relations in one TRUNCATE message.
pub const TRUNCATE_RELATIONS_MAX: usize = 64 * 1024;

/// Bytes of the text form of a value: PostgreSQL's own limit, which a few bytes of nested numerics
/// could pass.
pub const TEXT_MAX: usize = FRAME_MAX;

/// Containers of a `jsonb` value inside of each other. PostgreSQL's own limit is its stack, which ends
/// at some thousands.
pub const JSONB_DEPTH_MAX: usize = 64 * 1024;
