//! The three addresses: `/metrics`, `/healthz`, `/readyz`.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::health::{self, Health, Progress};
use super::metrics::Metrics;
use crate::error::{Error, Kind, Result};
use crate::redact::Mask;
use crate::status::{Snapshot, Status};

/// How often progress is looked at between requests.
const OBSERVE_INTERVAL: Duration = Duration::from_secs(1);

/// The type of the text that [`text::encode`] writes.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A bound address, not yet served.
pub struct Endpoint {
    listener: TcpListener,
}

struct Shared {
    status: Status,
    registry: Registry,
    progress: Mutex<Progress>,
    mask: Mask,
}

impl Shared {
    /// The state now, entered into the progress so far.
    fn observe(&self) -> (Snapshot, Progress, Instant) {
        let (snapshot, now) = (self.status.snapshot(), Instant::now());
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        progress.observe(&snapshot, now);
        (snapshot, progress.clone(), now)
    }
}

impl Endpoint {
    /// Takes the address, so that a second sidecar's start fails before it does anything.
    ///
    /// # Errors
    /// [`Kind::Config`] when it cannot be had.
    pub async fn bind(address: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(address).await.map_err(|error| {
            Error::new(Kind::Config, format!("cannot listen on {address} (telemetry.address)"))
                .because(error)
                .hint("choose another address, or \"off\"")
        })?;
        Ok(Endpoint { listener })
    }

    /// Where it listens, with the port that the system chose for port 0.
    pub fn address(&self) -> Option<SocketAddr> {
        self.listener.local_addr().ok()
    }

    /// Answers until `stop`.
    pub async fn serve(
        self,
        status: Status,
        metrics: Metrics,
        mask: Mask,
        stop: CancellationToken,
    ) {
        let targets = status.snapshot().targets.len();
        let shared = Arc::new(Shared {
            registry: metrics.registry(status.clone()),
            status,
            mask,
            progress: Mutex::new(Progress::new(targets, Instant::now())),
        });
        let router = Router::new()
            .route("/metrics", get(metrics_text))
            .route("/healthz", get(healthz))
            .route("/readyz", get(readyz))
            .with_state(Arc::clone(&shared));
        let observe = async {
            let mut ticks = tokio::time::interval(OBSERVE_INTERVAL);
            loop {
                ticks.tick().await;
                shared.observe();
            }
        };
        let serve = axum::serve(self.listener, router).into_future();
        tokio::select! {
            () = stop.cancelled() => {}
            () = observe => {}
            served = serve => {
                if let Err(error) = served {
                    tracing::error!(%error, "the telemetry endpoint ended");
                }
            }
        }
    }
}

async fn metrics_text(State(shared): State<Arc<Shared>>) -> Response {
    let mut body = String::new();
    match text::encode(&mut body, &shared.registry) {
        Ok(()) => ([(header::CONTENT_TYPE, OPENMETRICS)], body).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn healthz(State(shared): State<Arc<Shared>>) -> Response {
    let (snapshot, progress, now) = shared.observe();
    answer(&health::healthy(&snapshot, &progress, now), &shared.mask)
}

async fn readyz(State(shared): State<Arc<Shared>>) -> Response {
    answer(&health::ready(&shared.status.snapshot(), SystemTime::now()), &shared.mask)
}

fn answer(health: &Health, mask: &Mask) -> Response {
    let code = if health.ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = serde_json::to_string(health).unwrap_or_default();
    let body = mask.apply(&body).into_owned();
    (code, [(header::CONTENT_TYPE, "application/json")], body + "\n").into_response()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;
    use crate::status::{TargetKind, TargetState, TargetStatus};

    async fn request(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.expect("connects");
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("writes");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("reads");
        answer
    }

    #[tokio::test]
    async fn probes_follow_the_status() {
        let status = Status::new(vec![TargetStatus::new("a", TargetKind::Postgres)]);
        let endpoint = Endpoint::bind(([127, 0, 0, 1], 0).into()).await.expect("binds");
        let address = endpoint.address().expect("bound");
        assert!(Endpoint::bind(address).await.is_err(), "taken twice");
        let stop = CancellationToken::new();
        let served = tokio::spawn(endpoint.serve(
            status.clone(),
            Metrics::new(1),
            Mask::default(),
            stop.clone(),
        ));

        assert!(request(address, "/readyz").await.starts_with("HTTP/1.1 503"));
        assert!(request(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        status.update_source(|source| source.connected = true);
        status.update_target(0, |target| target.state = TargetState::Running);
        let ready = request(address, "/readyz").await;
        assert!(ready.starts_with("HTTP/1.1 200"), "{ready}");
        assert!(ready.contains(r#"{"name":"a","ok":true,"detail":"running, 0.0 s"#), "{ready}");
        status.update_target(0, |target| target.state = TargetState::Stopped);
        assert!(request(address, "/healthz").await.starts_with("HTTP/1.1 503"));
        let metrics = request(address, "/metrics").await;
        assert!(metrics.contains("rsrepl_lag_bytes{target=\"a\",kind=\"postgres\"} 0"));
        assert!(metrics.contains(OPENMETRICS));
        assert!(request(address, "/").await.starts_with("HTTP/1.1 404"));

        stop.cancel();
        served.await.expect("ends");
    }
}
