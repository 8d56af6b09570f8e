//! Metrics and probes over HTTP: `/metrics`, `/healthz`, `/readyz`.

mod metrics;

pub use metrics::Metrics;
