//! The harness of the end-to-end tests and of the demo: real servers, the built binary, no mocks.
//!
//! | module | subject |
//! |---|---|
//! | [`build`] | where the built sidecar, PostgreSQL and ClickHouse are |
//! | [`scratch`] | a folder that goes away with the test, and free ports |
//! | [`process`] | a server process: log file, signals, memory, certain death |
//! | [`certificates`] | authorities and certificates |
//! | [`postgres`] | a PostgreSQL cluster of our own |
//! | [`clickhouse`] | a ClickHouse server of our own |
//! | [`config`] | the sidecar's configuration file |
//! | [`scenario`] | scenarios of publications that several tests go through |
//! | [`sidecar`] | the `rsrepl` process, its health and metrics |
//! | [`proxy`] | a TCP proxy that can cut, stall, half-close and slow down |
//! | [`chaos`] | faults under load, and what must hold all the while |
//! | [`rig`] | all of them put together, and "everything has arrived" |
//! | [`variant`] | the configuration that a test runs in |
//! | [`compare`] | are the tables of two systems equal, row by row |
//! | [`mapping`] | how a value and its image in ClickHouse are made comparable |
//! | [`wait`] | until something is so |
//! | [`workload`] | random transactions over every type and identity |
//!
//! What goes wrong in here is a failed test, so functions panic with a message instead of returning
//! errors; a panic prints the ends of the servers' logs.

pub mod build;
pub mod certificates;
pub mod chaos;
pub mod clickhouse;
pub mod compare;
pub mod config;
pub mod mapping;
pub mod postgres;
pub mod process;
pub mod proxy;
pub mod rig;
pub mod scenario;
pub mod scratch;
pub mod sidecar;
pub mod variant;
pub mod wait;
pub mod workload;

/// The password of every account that the harness makes. Tests search logs and metrics for it.
pub const SECRET: &str = "s3cret-hunter2-never-shown";
