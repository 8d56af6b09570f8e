//! The rsrepl sidecar: one slot in, any number of targets out.
//!
//! ```text
//! source ─► spool ─┬─► target A: assemble ─► plan ─► convert ─► write ─► progress A
//!    ▲             └─► target B: assemble ─► plan ─► convert ─► write ─► progress B
//!    └── standby status ◄── ledger (the lowest position that is safe) ◄──┘
//! ```
//!
//! | module | subject |
//! |---|---|
//! | [`assemble`] | from frames to batches of whole transactions (pure) |
//! | [`batch`] | what a target is given: changes of whole transactions, or a part of a large one |
//! | [`cli`] | the command line and its commands |
//! | [`config`] | the configuration, resolved and validated once |
//! | [`copy`] | the rows that the source has when the stream begins |
//! | `described` | how much memory the tables take that the source has described |
//! | [`error`] | one error type; the one function that tells a retry from a stop |
//! | `guard` | a panic as an error of the session it happened in |
//! | [`ledger`] | how far each target is, and so how far the slot may go (pure) |
//! | [`logging`] | plain or JSON logs, secrets masked |
//! | [`plan`] | what a batch comes to: the net effect per key; pure |
//! | [`pipeline`] | the tasks: one receives, one per target applies, one keeps the status |
//! | [`preflight`] | what must be right before replication can begin |
//! | [`quote`] | names and texts in SQL |
//! | [`redact`] | keeps passwords out of everything that is shown |
//! | [`report`] | tells the source, once a second, how things are |
//! | [`retry`] | exponential backoff with jitter |
//! | [`sequences`] | brings the sequences of PostgreSQL targets to where the source's are |
//! | [`schema`] | what a source table looks like, and how it became so (pure) |
//! | [`spool`] | what was received and not yet applied everywhere |
//! | [`source`] | the replication connection with the source |
//! | [`status`] | what the pipeline knows of itself; read by metrics, reports and probes |
//! | [`target`] | the contract of a target |
//! | [`telemetry`] | metrics and probes over HTTP |
//! | [`tls`] | connection strings, TLS, and sessions with PostgreSQL |
//! | [`verify`] | proves that tables are equal on source and targets |

pub mod assemble;
pub mod batch;
pub mod cli;
pub mod config;
pub mod copy;
mod described;
pub mod error;
mod guard;
pub mod ledger;
pub mod logging;
pub mod pipeline;
pub mod plan;
pub mod preflight;
pub mod quote;
pub mod redact;
pub mod report;
pub mod retry;
pub mod schema;
pub mod sequences;
pub mod source;
pub mod spool;
pub mod status;
pub mod target;
pub mod telemetry;
pub mod tls;
pub mod verify;
