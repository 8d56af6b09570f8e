//! What the figures are to be. Ratios, unless the figure has no peer or the goal says so.

use serde_json::Value;

/// A bound of one figure.
pub struct Goal {
    case: &'static str,
    quantity: &'static str,
    /// Of ours; empty is any.
    ours: &'static str,
    peer: &'static str,
    bound: Bound,
}

#[derive(Clone, Copy)]
enum Bound {
    /// The ratio to the peer is at least this.
    AtLeast(f64),
    /// At most this.
    AtMost(f64),
    /// Our value is at most this, whatever the peer's.
    Value(f64),
}

use Bound::{AtLeast, AtMost, Value as AtMostValue};

const NATIVE: &str = "native subscription";

const fn goal(
    case: &'static str,
    quantity: &'static str,
    ours: &'static str,
    peer: &'static str,
    bound: Bound,
) -> Goal {
    Goal { case, quantity, ours, peer, bound }
}

/// The goals of issues 3, 5 and 6.
const GOALS: [Goal; 28] = [
    goal("decode", "CPU", "rsrepl", "writes nothing", AtMost(1.15)),
    goal("decode", "CPU", "rsrepl", "pgoutput binary", AtMost(1.0 / 3.0)),
    goal("pg-bulk", "rate", "rsrepl", NATIVE, AtLeast(2.5)),
    goal("pg-bulk", "rate", "rsrepl parallel", NATIVE, AtLeast(3.0)),
    goal("pg-bulk", "CPU", "", NATIVE, AtMost(0.5)),
    goal("pg-tiny", "rate", "", NATIVE, AtLeast(2.0)),
    goal("pg-tpcb", "rate", "", NATIVE, AtLeast(2.0)),
    goal("pg-update", "rate", "", NATIVE, AtLeast(1.6)),
    goal("pg-update", "CPU", "", NATIVE, AtMost(0.5)),
    goal("pg-update-single", "rate", "", NATIVE, AtLeast(1.6)),
    goal("pg-update-single", "CPU", "", NATIVE, AtMost(0.5)),
    goal("pg-delete", "rate", "", NATIVE, AtLeast(1.6)),
    goal("pg-delete", "CPU", "", NATIVE, AtMost(0.5)),
    goal("ch-bulk", "rate", "", "MaterializedPostgreSQL", AtLeast(5.0)),
    goal("ch-bulk", "rate", "", "file over HTTP", AtLeast(1.0 / 3.0)),
    goal("huge", "rate", "", NATIVE, AtLeast(2.0)),
    goal("huge", "sidecar's peak memory", "", "", AtMostValue(128.0)),
    goal("huge", "spilled on the source", "", NATIVE, AtMostValue(0.0)),
    goal("spool", "rate", "spooled", "applied", AtLeast(0.9)),
    goal("fan-out", "walsender CPU", "2 targets", "1 target", AtMost(1.05)),
    goal("fan-out", "walsender CPU", "3 targets", "1 target", AtMost(1.05)),
    goal("latency-500", "latency p50", "", NATIVE, AtMost(1.5)),
    goal("latency-500", "latency p99", "", NATIVE, AtMost(2.0)),
    goal("latency-5000", "latency p99", "", NATIVE, AtMostValue(50.0)),
    goal("copy", "rate", "rsrepl", "native table sync", AtLeast(1.3)),
    goal("copy", "rate", "rsrepl", "psql COPY", AtLeast(0.7)),
    goal("copy", "rate", "rsrepl, 50 tables", "native table sync, 50 tables", AtLeast(1.3)),
    goal("copy", "rate", "rsrepl, 50 tables", "psql COPY, 50 tables", AtLeast(0.7)),
];

/// The goal of a figure of `results.json`.
pub fn of(figure: &Value) -> Option<&'static Goal> {
    GOALS.iter().find(|goal| {
        figure["case"] == goal.case
            && figure["quantity"] == goal.quantity
            && figure["peer_name"] == goal.peer
            && (goal.ours.is_empty() || figure["ours_name"] == goal.ours)
    })
}

impl Goal {
    /// In a table.
    pub fn text(&self, unit: &str) -> String {
        match self.bound {
            AtLeast(bound) => format!("≥ {bound:.2}×"),
            AtMost(bound) => format!("≤ {bound:.2}×"),
            AtMostValue(bound) => format!("≤ {bound:.0} {unit}"),
        }
    }

    /// Whether the figure is as it is to be; `None` when it was not measured.
    pub fn is_met(&self, figure: &Value) -> Option<bool> {
        Some(match self.bound {
            AtLeast(bound) => figure["ratio"].as_f64()? >= bound,
            AtMost(bound) => figure["ratio"].as_f64()? <= bound,
            AtMostValue(bound) => figure["ours"].as_f64()? <= bound,
        })
    }
}
