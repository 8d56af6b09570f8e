//! Metrics and probes over HTTP: `/metrics`, `/healthz`, `/readyz`.
//!
//! | module | subject |
//! |---|---|
//! | `metrics` | what Prometheus is told |
//! | `health` | whether replication is alive, and whether it is in step: pure decisions |
//! | `server` | the three addresses |

mod health;
mod metrics;
mod server;

pub use health::{Health, Part, Progress, healthy, ready};
pub use metrics::Metrics;
pub use server::Endpoint;
