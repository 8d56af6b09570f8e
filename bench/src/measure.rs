//! The clock, CPU seconds, interleaved runs and medians.

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use postgres::Client;

use crate::servers::{APPLICATION, message};

/// The pause between two looks at what a clock waits for.
pub const POLL: Duration = Duration::from_millis(5);

/// CPU seconds (user and system) by process.
pub type CpuSeconds = Vec<(&'static str, f64)>;

/// What a figure is of.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Quantity {
    /// In the figure's name.
    pub name: &'static str,
    /// Of its values.
    pub unit: &'static str,
    /// Otherwise less is.
    pub more_is_better: bool,
}

impl Quantity {
    const fn less(name: &'static str, unit: &'static str) -> Quantity {
        Quantity { name, unit, more_is_better: false }
    }
}

/// Row changes over wall time.
pub const RATE: Quantity = Quantity { name: "rate", unit: "rows/s", more_is_better: true };
/// Transactions over wall time.
pub const TRANSACTIONS: Quantity = Quantity { name: "rate", unit: "tps", more_is_better: true };
/// CPU seconds of all processes.
pub const CPU: Quantity = Quantity::less("CPU", "s");
/// CPU seconds of the walsender alone.
pub const WALSENDER: Quantity = Quantity::less("walsender CPU", "s");
/// The sidecar's greatest resident memory.
pub const MEMORY: Quantity = Quantity::less("sidecar's peak memory", "MiB");
/// What the source's reorder buffer wrote to disk.
pub const SPILLED: Quantity = Quantity::less("spilled on the source", "MiB");
/// Half of the commits were visible sooner.
pub const P50: Quantity = Quantity::less("latency p50", "ms");
/// 99 of 100 were.
pub const P99: Quantity = Quantity::less("latency p99", "ms");

/// What the writer got to.
pub const PACE: Quantity = Quantity { name: "pace", unit: "tps", more_is_better: true };

/// One counted run.
pub struct Reading {
    /// What was measured, the most important first.
    pub values: Vec<(Quantity, f64)>,
    /// What it cost.
    pub cpu: CpuSeconds,
}

impl Reading {
    /// So many rows (or transactions) in `wall` seconds.
    pub fn replayed(rate: Quantity, amount: u64, wall: f64, cpu: CpuSeconds) -> Reading {
        Reading { values: vec![(rate, amount as f64 / wall)], cpu }.with_total_cpu()
    }

    /// Latencies in seconds, of transactions that came at `pace`.
    pub fn latencies(mut seconds: Vec<f64>, pace: f64, cpu: CpuSeconds) -> Reading {
        seconds.sort_by(f64::total_cmp);
        let at = |part: f64| {
            let place = (seconds.len().saturating_sub(1) as f64 * part).round() as usize;
            seconds.get(place).copied().unwrap_or(f64::NAN) * 1000.0
        };
        let values = vec![(P50, at(0.5)), (P99, at(0.99)), (PACE, pace)];
        Reading { values, cpu }.with_total_cpu()
    }

    /// Adds the CPU seconds of all processes.
    pub fn with_total_cpu(self) -> Reading {
        let total = self.cpu.iter().map(|(_, seconds)| seconds).sum();
        self.with(CPU, total)
    }

    /// Adds a quantity.
    pub fn with(mut self, quantity: Quantity, value: f64) -> Reading {
        self.values.push((quantity, value));
        self
    }

    /// Adds the sidecar's greatest memory, if there was one.
    pub fn with_memory(self, bytes: Option<u64>) -> Reading {
        match bytes {
            Some(bytes) => self.with(MEMORY, mib(bytes)),
            None => self,
        }
    }

    fn value(&self, quantity: Quantity) -> Option<f64> {
        self.values.iter().find(|(q, _)| *q == quantity).map(|(_, value)| *value)
    }
}

/// Bytes in MiB.
pub fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Runs the workload once; the argument is the run's number, never used twice.
pub type Measure<'a> = Box<dyn FnMut(u32) -> Result<Reading, String> + 'a>;

/// What part a contender takes.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Role {
    /// rsrepl, in some configuration.
    Ours,
    /// Somebody who does the same work.
    Peer,
    /// Somebody who does less: what the machine could do at best.
    Limit,
}

/// Who takes part.
pub struct Contender<'a> {
    /// Its name.
    pub name: String,
    /// Its part.
    pub role: Role,
    /// Its run.
    pub measure: Measure<'a>,
}

impl<'a> Contender<'a> {
    /// rsrepl, in some configuration.
    pub fn ours(name: &str, measure: Measure<'a>) -> Contender<'a> {
        Contender { name: name.to_owned(), role: Role::Ours, measure }
    }

    /// Somebody who does the same work.
    pub fn peer(name: &str, measure: Measure<'a>) -> Contender<'a> {
        Contender { name: name.to_owned(), role: Role::Peer, measure }
    }

    /// Somebody who does less.
    pub fn limit(name: &str, measure: Measure<'a>) -> Contender<'a> {
        Contender { name: name.to_owned(), role: Role::Limit, measure }
    }
}

/// All runs of one contender.
pub struct Track {
    /// Its name.
    pub name: String,
    /// Its part.
    pub role: Role,
    /// Its counted runs.
    pub readings: Vec<Reading>,
    /// Why it could not be measured.
    pub absent: Option<String>,
}

/// A measured case.
pub struct Outcome {
    /// Everybody, the first one measured for certain.
    pub tracks: Vec<Track>,
    /// Which is compared with which.
    pub pairs: Vec<(usize, usize)>,
}

impl Outcome {
    /// Each of ours against each of the others.
    pub fn against_peers(tracks: Vec<Track>) -> Outcome {
        let (ours, others): (Vec<usize>, Vec<usize>) =
            (0..tracks.len()).partition(|&place| tracks[place].role == Role::Ours);
        let pairs = ours.iter().flat_map(|&o| others.iter().map(move |&p| (o, p))).collect();
        Outcome { tracks, pairs }
    }

    /// Each of the others against the first.
    pub fn against_first(tracks: Vec<Track>) -> Outcome {
        let pairs = (1..tracks.len()).map(|place| (place, 0)).collect();
        Outcome { tracks, pairs }
    }
}

/// Lets the contenders take turns, there and back again (A B, B A, A B): what one leaves behind in caches
/// falls on each of them. The first one must work; another that fails is out of the race.
pub fn interleave(runs: u64, mut contenders: Vec<Contender>) -> Result<Vec<Track>, String> {
    let track = |c: &Contender| Track {
        name: c.name.clone(),
        role: c.role,
        readings: Vec::new(),
        absent: None,
    };
    let mut tracks: Vec<Track> = contenders.iter().map(track).collect();
    static RUN: AtomicU32 = AtomicU32::new(1);
    for round in 1..=runs {
        let places = 0..contenders.len();
        let order: Vec<usize> =
            if round % 2 == 1 { places.collect() } else { places.rev().collect() };
        for place in order {
            let (contender, track) = (&mut contenders[place], &mut tracks[place]);
            if track.absent.is_some() {
                continue;
            }
            let name = &contender.name;
            match (contender.measure)(RUN.fetch_add(1, Ordering::Relaxed)) {
                Ok(reading) => {
                    println!("  {round}/{runs} {name}: {}", reading_text(&reading));
                    track.readings.push(reading);
                }
                Err(error) if place == 0 => return Err(format!("{name}: {error}")),
                Err(error) => {
                    println!("  {round}/{runs} {name}: could not be measured: {error}");
                    track.readings.clear();
                    track.absent = Some(error);
                }
            }
        }
    }
    Ok(tracks)
}

fn reading_text(reading: &Reading) -> String {
    let value = |(q, value): &(Quantity, f64)| format!("{} {} {}", q.name, digits(*value), q.unit);
    let values: Vec<String> = reading.values.iter().map(value).collect();
    let cpu = reading.cpu.iter().map(|(name, s)| format!("{name} {s:.2}"));
    format!("{} ({})", values.join(", "), cpu.collect::<Vec<_>>().join(", "))
}

/// Three significant digits, or whole numbers.
pub fn digits(value: f64) -> String {
    match value {
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

/// Median, and the range over the median.
#[derive(Clone, Copy)]
pub struct Summary {
    /// The median.
    pub median: f64,
    /// (greatest − least) / median.
    pub spread: f64,
}

impl Track {
    /// Median and spread of one quantity; `None` without runs.
    pub fn summary(&self, quantity: Quantity) -> Option<Summary> {
        summary(self.readings.iter().filter_map(|r| r.value(quantity)).collect())
    }

    /// What was measured of it.
    pub fn quantities(&self) -> Vec<Quantity> {
        let first = self.readings.first().map(|r| &r.values[..]).unwrap_or_default();
        first.iter().map(|(quantity, _)| *quantity).collect()
    }

    /// Median CPU seconds by process.
    pub fn cpu(&self) -> BTreeMap<&'static str, f64> {
        let names = self.readings.first().map(|r| &r.cpu[..]).unwrap_or_default();
        let of = |name| {
            let seconds = |r: &Reading| r.cpu.iter().find(|c| c.0 == name).map(|c| c.1);
            summary(self.readings.iter().filter_map(seconds).collect()).map_or(0.0, |s| s.median)
        };
        names.iter().map(|&(name, _)| (name, of(name))).collect()
    }
}

fn summary(mut values: Vec<f64>) -> Option<Summary> {
    values.sort_by(f64::total_cmp);
    let (least, greatest) = (*values.first()?, *values.last()?);
    let middle = values.len() / 2;
    let median = match values.len() % 2 {
        0 => (values[middle - 1] + values[middle]) / 2.0,
        _ => values[middle],
    };
    // Nothing spilled in any run is no spread.
    let spread = if greatest > least { (greatest - least) / median } else { 0.0 };
    Some(Summary { median, spread })
}

/// CPU seconds of a process, its ended threads included; `None` when it is gone.
pub fn cpu_of(pid: u32) -> Option<f64> {
    // utime and stime: fields 14 and 15 of proc(5).
    Some(stat_ticks(pid, 14)? + stat_ticks(pid, 15)?)
}

/// CPU seconds so far of the sessions of some databases, the bench's own excepted: of those that live,
/// and of all that the postmaster has seen end.
pub fn sessions_cpu(
    client: &mut Client,
    postmaster: u32,
    databases: &[String],
) -> Result<f64, String> {
    let query = format!(
        "SELECT pid FROM pg_stat_activity
         WHERE datname::text = ANY ($1) AND application_name <> '{APPLICATION}'"
    );
    let rows = client.query(&query, &[&databases]).map_err(|e| message(&e))?;
    let pids = rows.iter().map(|row| row.get::<_, i32>(0).unsigned_abs());
    let living: f64 = pids.filter_map(cpu_of).sum();
    // cutime and cstime: fields 16 and 17.
    let ended = [16, 17].map(|field| stat_ticks(postmaster, field).unwrap_or(0.0));
    Ok(living + ended[0] + ended[1])
}

/// CPU seconds of those of our own children that have ended.
pub fn children_cpu() -> f64 {
    [16, 17].iter().filter_map(|field| stat_ticks(std::process::id(), *field)).sum()
}

/// A field of `/proc/PID/stat`, counted from 1 as in proc(5), as seconds.
fn stat_ticks(pid: u32, field: usize) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field, the name, may have blanks and parentheses inside; the third follows it.
    let rest = stat.rsplit_once(')')?.1;
    let ticks: u64 = rest.split_whitespace().nth(field - 3)?.parse().ok()?;
    Some(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}
