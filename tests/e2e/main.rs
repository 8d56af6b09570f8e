//! End-to-end tests: the built binary against real servers.
//!
//! | module | subject |
//! |---|---|
//! | `harness` | that the harness itself does what the others rely on |
//! | `workload` | that the random workload is valid |
//! | `chaos` | faults one after the other, under load (`make chaos`) |
//! | `control` | a delay, a pause, and transactions that are skipped |
//! | `copy` | the rows that are there when replication begins |
//! | `columns` | policies and types of single columns in ClickHouse |
//! | `differential` | a random workload, random kills, and equality at the end |
//! | `evolving` | the same with publications, and tables that change meanwhile |
//! | `copy_clickhouse` | rows that are there before, into ClickHouse and PostgreSQL at once |
//! | `copy_large` | `make copy-large`: ten million rows, under load |
//! | `copy_meanwhile` | tables that change, and others that copy, in the middle of it |
//! | `backlog` | tiny transactions by the thousand, and what may happen to them |
//! | `create_tables` | tables that a standby lacks are made for the first copy |
//! | `ddl` | tables and columns that come and go meanwhile |
//! | `encodings` | sources in LATIN1 and SQL_ASCII |
//! | `sequences` | a standby's sequences, so that it can take over |
//! | `publications` | the same rows as a native subscription |
//! | `schema_changes` | each kind of schema change under each policy |
//! | `identities` | replica identities that change, and TRUNCATE |
//! | `history` | a ClickHouse target that keeps every change |
//! | `slot` | the slot advances while nothing of interest happens |
//! | `spooled` | the spool on disk, and commits that wait for it |
//! | `streaming` | transactions that are sent while they run |
//! | `shutdown` | fast stop of the source, SIGTERM of the sidecar |
//! | `faults` | cuts, outages, rows that a target refuses |
//! | `resync` | tables that are copied anew while the stream goes on |
//! | `restored` | a source that was restored from a backup, or promoted |
//! | `roles` | what docs/operations.md grants is enough |
//! | `types` | every type that there is, and those that users make |
//! | `verify` | differences that are planted are found, no others, and mended |
//! | `verify_careful` | what is not known is not called equal, repair does no harm |
//! | `verify_large` | ten million rows under load, in what time (`make verify-large`) |
//! | `truth` | probes, metrics, reports and the preflight |

mod backlog;
mod chaos;
mod columns;
mod control;
mod copy;
mod copy_clickhouse;
mod copy_large;
mod copy_meanwhile;
mod create_tables;
mod ddl;
mod differential;
mod encodings;
mod evolving;
mod failover;
mod faults;
mod harness;
mod history;
mod identities;
mod publications;
mod restored;
mod resync;
mod roles;
mod schema_changes;
mod sequences;
mod shutdown;
mod slot;
mod spooled;
mod streaming;
mod truth;
mod types;
mod verify;
mod verify_careful;
mod verify_large;
mod workload;
