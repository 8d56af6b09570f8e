//! Keeps tables of a ClickHouse database in step with the source.
//!
//! ```text
//! batches ─► steps of each table ─► encode (threads) ─► open INSERTs … FORMAT Native ─┐ a group is due
//!                                                   position ◄── all rows are there ◄─┘
//! ```
//!
//! | module | subject |
//! |---|---|
//! | `target` | what the pipeline sees |
//! | `copy`, `copy_chunks` | the rows that are there when the stream begins |
//! | `copies` | what is recorded of an unfinished copy |
//! | `syncs` | what is recorded of tables that are copied anew beside the stream |
//! | `worker` | groups of batches: when they are stored, the position behind the rows |
//! | `session` | batches to steps of tables |
//! | `tables` | what is known of each table, by oid and by name (pure) |
//! | `version` | which change a row comes from: the same on every replay (pure) |
//! | `write` | one table's steps in order: encode, send, truncate |
//! | `insertion` | the way into a table, and one INSERT while it is open |
//! | `encode` | changes to rows, tombstones, log entries (pure) |
//! | `history` | changes to rows of a history (pure) |
//! | `toast` | values that the stream does not hold, read back from the table |
//! | `lookup_limit` | how many rows are read back at a time (pure) |
//! | `recent` | rows that are on their way into the table (pure) |
//! | `plan` | the columns and layout that a source table gets (pure) |
//! | `choose` | the type of a column: the usual one, or the user's (pure) |
//! | `convert` | one value in ClickHouse's form, exactly or not at all (pure) |
//! | `numbers`, `json`, `labels` | what is known of these (pure) |
//! | `sink` | where values go: row by row, or column by column (pure) |
//! | `native` | blocks of columns (pure) |
//! | `types`, `type_names` | ClickHouse types, their values and names (pure) |
//! | `ddl` | statements, and what does not fit about a table (pure) |
//! | `evolve` | makes a table follow the source's |
//! | `alter` | the statements for that, and those left to its owner (pure) |
//! | `records` | what each table is, and since which change of the stream |
//! | `check` | the preflight: the same questions, and nothing changed |
//! | `mirror` | what `rsrepl verify` needs of it |
//! | `control` | what people ask of the target |
//! | `setup` | what must be true of the server before rows go to it |
//! | `position` | where the stream is on this server |
//! | `client` | HTTP: time-outs, settings, one INSERT is one block |
//! | `failure` | what an error code means |
//! | `refuse` | what is said of a row that cannot be written |
//! | `options` | what the target is told |
//! | `policy` | what the user says of columns: types, and what happens to a value that does not fit |
//!
//! The mapping of types is in `docs/type-mapping.md`.

mod alter;
mod check;
mod choose;
mod client;
mod control;
mod convert;
mod copies;
mod copy;
mod copy_chunks;
mod ddl;
mod encode;
mod evolve;
mod failure;
mod history;
mod insertion;
mod json;
mod labels;
mod lookup_limit;
mod mirror;
mod native;
mod numbers;
mod options;
mod plan;
mod policy;
mod position;
mod recent;
mod records;
mod refuse;
mod session;
mod setup;
mod sink;
mod syncs;
mod tables;
mod target;
mod toast;
mod type_names;
mod types;
mod version;
mod worker;
mod write;

pub use check::check;
pub use control::ClickHouseControl;
pub use copy::ClickHouseCopy;
pub(crate) use ddl::{literal, quoted};
pub(crate) use mirror::{ImageColumn, Mirror, Reader, version_at};
pub use options::ClickHouseOptions;
pub use policy::{ChosenType, ColumnOptions, Policies, Unrepresentable};
pub use syncs::ClickHouseSyncs;
pub use target::ClickHouseTarget;
pub(crate) use types::{ColumnType, Scalar};
pub use worker::GroupLimits;
