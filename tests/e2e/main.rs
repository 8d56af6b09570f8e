//! End-to-end tests: the built binary against real servers.
//!
//! | module | subject |
//! |---|---|
//! | `harness` | that the harness itself does what the others rely on |
//! | `workload` | that the random workload is valid |

mod harness;
mod workload;
