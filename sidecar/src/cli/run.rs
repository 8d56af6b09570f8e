//! `rsrepl run`: preflight, then replication with reports and telemetry beside it, until a signal. `rsrepl copy`:
//! the same, and instead of replication the initial copy alone.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use rsrepl_wire::Relation;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{FAILURE, sync_sequences};
use crate::config::{Config, Target};
use crate::copy::When;
use crate::error::Result;
use crate::logging;
use crate::pipeline;
use crate::preflight::{self, Finding, PartReport, Severity};
use crate::redact::Mask;
use crate::report::Reporter;
use crate::status::{Status, TargetStatus};
use crate::telemetry::{Endpoint, Metrics};

/// Between two looks at a source that is not ready yet: the first, and the longest.
const WAIT: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// What the shell says of a process that a second SIGINT ended.
const INTERRUPTED: i32 = 130;

/// What is done once the source is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    Replicate,
    Copy,
}

/// See the module's documentation.
pub(super) async fn run(config: Config, work: Work) -> ExitCode {
    let mask = config.mask();
    logging::init(&config.logging, mask.clone());
    info!(version = env!("CARGO_PKG_VERSION"), slot = config.source.slot_name, "rsrepl starts");
    match start(&Arc::new(config), &mask, work).await {
        Ok(code) => code,
        Err(error) => {
            error!("{error}");
            ExitCode::from(FAILURE)
        }
    }
}

async fn start(config: &Arc<Config>, mask: &Mask, work: Work) -> Result<ExitCode> {
    let describe = |target: &Target| {
        TargetStatus::new(target.name.as_str(), target.kind()).delayed_by(target.apply_delay)
    };
    let status = Status::new(config.targets.iter().map(describe).collect());
    let metrics = Metrics::new(config.targets.len());
    let endpoint = match config.telemetry.address {
        Some(address) => Some(Endpoint::bind(address).await?),
        None => None,
    };
    let shutdown = CancellationToken::new();
    watch_signals(shutdown.clone());

    // reports and probes go on until replication has ended, and tell its last state
    let ended = CancellationToken::new();
    // not while another sidecar has the slot: that one reports
    let begun = CancellationToken::new();
    let replicate = async {
        let code = match work {
            Work::Replicate => replicate(config, &status, &metrics, mask, &begun, shutdown).await,
            Work::Copy => copy(config, &status, mask, &begun, shutdown).await,
        };
        ended.cancel();
        code
    };
    let serve = async {
        if let Some(endpoint) = endpoint {
            if let Some(address) = endpoint.address() {
                info!(%address, "serving /metrics, /healthz and /readyz");
            }
            endpoint.serve(status.clone(), metrics.clone(), mask.clone(), ended.clone()).await;
        }
    };
    let (connection, slot) = (&config.source.connection, &config.source.slot_name);
    let reporter = Reporter::new(connection, slot, status.clone(), mask.clone());
    let report = async {
        tokio::select! {
            () = begun.cancelled() => reporter.run(ended.clone()).await,
            () = ended.cancelled() => {}
        }
    };
    let (code, (), ()) = tokio::join!(replicate, serve, report);
    info!("rsrepl ends");
    Ok(code)
}

async fn replicate(
    config: &Arc<Config>,
    status: &Status,
    metrics: &Metrics,
    mask: &Mask,
    begun: &CancellationToken,
    shutdown: CancellationToken,
) -> ExitCode {
    let Some(tables) = source_ready(config, status, mask, &shutdown).await else {
        let asked_to_end = shutdown.is_cancelled();
        return if asked_to_end { ExitCode::SUCCESS } else { ExitCode::from(FAILURE) };
    };
    begun.cancel();
    // beside the pipeline: a target that does not answer must not delay the others
    let over = shutdown.child_token();
    let look_at_targets = async {
        tokio::select! {
            found = preflight::check_targets(config, &tables, mask) => found.iter().for_each(tell),
            () = over.cancelled() => {}
        }
    };
    let pipeline = async {
        let (status, metrics) = (status.clone(), metrics.clone());
        let result = pipeline::run(config.clone(), status, metrics, shutdown.clone()).await;
        over.cancel();
        result
    };
    match tokio::join!(pipeline, look_at_targets).0 {
        Ok(()) => {
            sync_sequences::at_shutdown(config, &status.snapshot()).await;
            ExitCode::SUCCESS
        }
        Err(error) => {
            error!("replication has ended: {error}");
            ExitCode::from(FAILURE)
        }
    }
}

async fn copy(
    config: &Arc<Config>,
    status: &Status,
    mask: &Mask,
    begun: &CancellationToken,
    shutdown: CancellationToken,
) -> ExitCode {
    if !config.copy.data {
        error!("copy.data is false: nothing is to be copied; set it to true");
        return ExitCode::from(FAILURE);
    }
    if source_ready(config, status, mask, &shutdown).await.is_none() {
        return ExitCode::from(FAILURE);
    }
    begun.cancel();
    match pipeline::copy(config, status, &shutdown, When::AnyIsNew).await {
        true => {
            info!("every target has what it is to begin with");
            ExitCode::SUCCESS
        }
        false => ExitCode::from(FAILURE),
    }
}

/// SIGTERM or SIGINT asks for a clean end; the second one does not wait for it.
fn watch_signals(shutdown: CancellationToken) {
    let (mut terminate, mut interrupt) =
        match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
            (Ok(terminate), Ok(interrupt)) => (terminate, interrupt),
            (Err(error), _) | (_, Err(error)) => {
                warn!(%error, "signals cannot be caught: they will end the process at once");
                return;
            }
        };
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if shutdown.is_cancelled() {
                warn!("second signal: ending at once; what was not applied comes again");
                std::process::exit(INTERRUPTED);
            }
            info!("shutting down");
            shutdown.cancel();
        }
    });
}

/// Waits until the source can be read, and returns its tables. `None`: it cannot before somebody
/// mends it, or `shutdown`.
async fn source_ready(
    config: &Config,
    status: &Status,
    mask: &Mask,
    shutdown: &CancellationToken,
) -> Option<Vec<Relation>> {
    let mut wait = WAIT.0;
    let mut told = None;
    loop {
        let looked = tokio::select! {
            looked = preflight::check_source(config, mask) => looked,
            () = shutdown.cancelled() => return None,
        };
        let (source, tables) = looked;
        if told.as_ref() != Some(&source) {
            tell(&source);
        }
        match source.worst() {
            Some(Severity::Error) => {
                error!("replication cannot begin before this is mended on the source");
                return None;
            }
            Some(Severity::Transient) => {
                let first = source.findings.first().map(|finding| finding.what.clone());
                status.update_source(|status| status.last_error = first);
            }
            Some(Severity::Warning) | None => {
                status.update_source(|status| status.last_error = None);
                return Some(tables);
            }
        }
        told = Some(source);
        tokio::select! {
            () = tokio::time::sleep(wait) => wait = (wait * 2).min(WAIT.1),
            () = shutdown.cancelled() => return None,
        }
    }
}

fn tell(part: &PartReport) {
    for Finding { what, mend, severity } in &part.findings {
        match severity {
            Severity::Error => error!(part = part.name, mend, "{what}"),
            Severity::Transient => warn!(part = part.name, mend, "{what}"),
            Severity::Warning => warn!(part = part.name, mend, "{what}"),
        }
    }
}
