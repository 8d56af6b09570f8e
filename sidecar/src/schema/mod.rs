//! What a source table looks like, and what it takes to make one description into the next.
//!
//! The stream brings descriptions, never statements: a message of the source's event trigger at the place
//! of the change, or else the RELATION message before the first row of the new shape. A target compares
//! with what it has recorded of the table, and derives its own operations. Pure code, no I/O.
//!
//! | module | subject |
//! |---|---|
//! | `table` | the description of a table, from a RELATION message and in JSON |
//! | `message` | the message of the event trigger |
//! | `types` | names of types as `format_type` writes them |
//! | `diff` | the operations between two descriptions |
//! | `policy` | which of them a target applies by itself |

mod diff;
mod message;
mod policy;
mod table;
#[cfg(test)]
mod tests;
mod types;

pub use diff::{Operation, diff, sequence};
pub use message::{Message, PREFIX, What};
pub use policy::{Policy, Verdict};
pub use table::{Column, Generated, Identity, Table};
pub use types::{built_in, widens};
