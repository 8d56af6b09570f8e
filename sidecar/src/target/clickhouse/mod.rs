//! Keeps tables of a ClickHouse database in step with the source.
//!
//! ```text
//! batch ─► steps of each table ─► encode (threads) ─► INSERT … FORMAT RowBinary ─► position
//! ```
//!
//! | module | subject |
//! |---|---|
//! | `target` | batches to steps, the version of a row, the position behind the rows |
//! | `write` | one table's steps in order: encode, insert, truncate |
//! | `encode` | changes to rows, tombstones, log entries (pure) |
//! | `toast` | values that the stream does not hold, read back from the table |
//! | `plan` | the columns and layout that a source table gets (pure) |
//! | `convert` | one value to `RowBinary`, exactly or not at all (pure) |
//! | `types` | ClickHouse types and their `RowBinary` (pure) |
//! | `ddl` | statements, and what does not fit about a table (pure) |
//! | `check` | the preflight: the same questions, and nothing changed |
//! | `setup` | what must be true of the server before rows go to it |
//! | `position` | where the stream is on this server |
//! | `client` | HTTP: time-outs, settings, one INSERT is one block |
//! | `failure` | what an error code means |
//! | `refuse` | what is said of a row that cannot be written |
//! | `options` | what the target is told |
//! | `policy` | what happens to a value that ClickHouse cannot hold |
//!
//! The mapping of types is in `docs/type-mapping.md`.

mod check;
mod client;
mod convert;
mod ddl;
mod encode;
mod failure;
mod options;
mod plan;
mod policy;
mod position;
mod refuse;
mod setup;
mod target;
mod toast;
mod types;
mod write;

pub use check::check;
pub use options::ClickHouseOptions;
pub use policy::{Policies, Unrepresentable};
pub use target::ClickHouseTarget;
