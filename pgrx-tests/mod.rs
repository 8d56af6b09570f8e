//! What must be tested inside a server: the decoding that the plugin does, one file per topic.
//!
//! A `#[pg_test]` runs in a transaction that is rolled back, and decoding sees committed transactions
//! only. So each test works through connections of its own ([`harness`]), in a database of its own,
//! and reads the frames with the decoder of `wire`.

mod api_stream;
mod columns;
mod ddl;
mod encodings;
mod faults;
mod harness;
mod identity;
mod lifecycle;
mod memory;
mod messages;
mod options;
mod origin;
mod partitions;
mod pgoutput;
mod progress;
mod publications;
mod receiver;
mod rewrites;
#[path = "../tests/src/scenario.rs"]
mod scenario;
mod schema_changes;
mod schema_random;
mod statements;
mod streaming;
mod subtransactions;
mod toast;
mod truncate;
mod types;
