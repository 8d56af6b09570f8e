//! Keeps tables of a ClickHouse database in step with the source.
//!
//! | module | subject |
//! |---|---|
//! | `options` | what the target is told |
//! | `policy` | what happens to a value that ClickHouse cannot hold |

mod options;
mod policy;

pub use options::ClickHouseOptions;
pub use policy::{Policies, Unrepresentable};
