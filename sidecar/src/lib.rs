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
//! | [`batch`] | what a target is given: changes of whole transactions, or a part of a large one |
//! | [`error`] | one error type; the one function that tells a retry from a stop |
//! | [`status`] | what the pipeline knows of itself; read by metrics, reports and probes |
//! | [`target`] | the contract of a target |

pub mod batch;
pub mod error;
pub mod status;
pub mod target;
