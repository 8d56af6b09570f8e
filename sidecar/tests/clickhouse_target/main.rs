//! The ClickHouse target against a real server.
//!
//! | module | subject |
//! |---|---|
//! | `mirror` | inserts, updates, deletes, truncates, and all of them again |
//! | `toast` | values that the stream does not hold |
//! | `history` | each change as a row |
//! | `keyless` | duplicate rows of a table without a key |
//! | `copy` | the rows that are there when the stream begins |
//! | `evolve` | tables that change, and replays over it |
//! | `faults` | killed servers, cut-off batches, a random stream against a model |
//! | `groups` | batches that are stored together |
//! | `types` | every value that PostgreSQL wrote into the golden file |
//! | `tls` | whose certificate is believed |
//! | `setup` | tables and sources that do not fit |

mod copy;
mod evolve;
mod faults;
mod feed;
mod groups;
mod history;
mod keyless;
mod mirror;
mod rig;
mod setup;
mod tls;
mod toast;
mod types;
