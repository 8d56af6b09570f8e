//! What people ask of a target: a delay, a pause, a transaction that is to be left out.
//!
//! ```text
//! rsrepl pause|resume|skip ─► record on the target ─► keeper (every second) ─► rules ─► the target's task:
//!                                                                                      apply │ wait │ dead letters
//! ```
//!
//! A pause or a skip is a [`Record`] on the target itself (`rsrepl.control`, or `_rsrepl_control` in ClickHouse), so it
//! holds whether or not a sidecar runs and outlives all of them. Before a target that was opened is given
//! anything, its records are read; from then on they are read every second. The target's task asks [`Rules`] about
//! each transaction where that begins, in commit order; one that has to wait holds up everything behind it. What had
//! been gathered before the rules changed is gathered anew.
//!
//! A transaction that is skipped goes to a file of *dead letters* first ([`letters`]), which is on disk before the
//! target's position passes it.
//!
//! | module | subject |
//! |---|---|
//! | `rules` | what is due, what waits, what is skipped (pure) |
//! | `records` | what is recorded on a target |
//! | `keeper` | the task that reads the records, and removes those that are done with |
//! | `letters` | the file of what was skipped |

mod keeper;
pub mod letters;
mod records;
pub mod rules;

pub(crate) use keeper::{Control, channel};
pub use letters::Letters;
pub use records::{ControlTarget, Record, RecordKind};
pub use rules::{Rules, Until, Verdict, Wait};
