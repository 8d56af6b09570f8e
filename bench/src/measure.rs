//! The clock, CPU seconds, interleaved runs and medians.

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use postgres::Client;

/// The pause between two looks at what a clock waits for.
pub const POLL: Duration = Duration::from_millis(5);

/// CPU seconds (user and system) by process.
pub type CpuSeconds = Vec<(&'static str, f64)>;

/// One counted run.
pub struct Reading {
    /// Wall time, in seconds.
    pub wall: f64,
    /// What it cost.
    pub cpu: CpuSeconds,
    /// The sidecar's greatest resident memory, in bytes.
    pub peak_memory: Option<u64>,
}

impl Reading {
    /// CPU seconds of all processes.
    pub fn total_cpu(&self) -> f64 {
        self.cpu.iter().map(|(_, seconds)| seconds).sum()
    }
}

/// Replays the backlog once; the argument is the run's number, never used twice.
pub type Measure<'a> = Box<dyn FnMut(u32) -> Result<Reading, String> + 'a>;

/// All runs of one contender.
pub struct Track {
    /// Its name.
    pub name: String,
    /// Its counted runs.
    pub readings: Vec<Reading>,
    /// Why it could not be measured.
    pub absent: Option<String>,
}

/// A measured case: ours is the first track.
pub struct Outcome {
    /// rsrepl.
    pub ours: Track,
    /// All others.
    pub peers: Vec<Track>,
}

/// Lets the contenders take turns. The first one must work; another that fails is out of the race.
pub fn interleave(runs: u64, mut contenders: Vec<(String, Measure)>) -> Result<Outcome, String> {
    let mut tracks: Vec<Track> = contenders
        .iter()
        .map(|(name, _)| Track { name: name.clone(), readings: Vec::new(), absent: None })
        .collect();
    static RUN: AtomicU32 = AtomicU32::new(1);
    for _ in 0..runs {
        for (place, ((name, measure), track)) in contenders.iter_mut().zip(&mut tracks).enumerate()
        {
            if track.absent.is_some() {
                continue;
            }
            match measure(RUN.fetch_add(1, Ordering::Relaxed)) {
                Ok(reading) => {
                    println!("  {name}: {:.2} s, {}", reading.wall, cpu_text(&reading.cpu));
                    track.readings.push(reading);
                }
                Err(error) if place == 0 => return Err(format!("{name}: {error}")),
                Err(error) => {
                    println!("  {name}: could not be measured: {error}");
                    track.readings.clear();
                    track.absent = Some(error);
                }
            }
        }
    }
    let peers = tracks.split_off(1);
    let ours = tracks.pop().ok_or("no contender")?;
    Ok(Outcome { ours, peers })
}

fn cpu_text(cpu: &[(&str, f64)]) -> String {
    let parts: Vec<String> = cpu.iter().map(|(name, s)| format!("{name} {s:.2}")).collect();
    format!("CPU s: {}", parts.join(", "))
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
    pub fn summary(&self, quantity: impl Fn(&Reading) -> f64) -> Option<Summary> {
        let mut values: Vec<f64> = self.readings.iter().map(quantity).collect();
        values.sort_by(f64::total_cmp);
        let (least, greatest) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = match values.len() % 2 {
            0 => (values[middle - 1] + values[middle]) / 2.0,
            _ => values[middle],
        };
        Some(Summary { median, spread: (greatest - least) / median })
    }

    /// Median CPU seconds by process.
    pub fn cpu(&self) -> BTreeMap<&'static str, f64> {
        let names = self.readings.first().map(|r| &r.cpu[..]).unwrap_or_default();
        let of = |name| move |r: &Reading| r.cpu.iter().find(|c| c.0 == name).map_or(0.0, |c| c.1);
        let median = |name| self.summary(of(name)).map_or(0.0, |s| s.median);
        names.iter().map(|&(name, _)| (name, median(name))).collect()
    }
}

/// CPU seconds of a process, its ended threads included; `None` when it is gone.
pub fn cpu_of(pid: u32) -> Option<f64> {
    // utime and stime: fields 14 and 15 of proc(5).
    Some(stat_ticks(pid, 14)? + stat_ticks(pid, 15)?)
}

/// CPU seconds so far of the sessions of the client's database, itself excepted: of those that live,
/// and of all that the postmaster has seen end.
pub fn sessions_cpu(client: &mut Client, postmaster: u32) -> Result<f64, String> {
    let query = "SELECT pid FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid()";
    let rows = client.query(query, &[]).map_err(|e| e.to_string())?;
    let pids = rows.iter().map(|row| row.get::<_, i32>(0).unsigned_abs());
    let living: f64 = pids.filter_map(cpu_of).sum();
    // cutime and cstime: fields 16 and 17.
    let ended = [16, 17].map(|field| stat_ticks(postmaster, field).unwrap_or(0.0));
    Ok(living + ended[0] + ended[1])
}

/// A field of `/proc/PID/stat`, counted from 1 as in proc(5), as seconds.
fn stat_ticks(pid: u32, field: usize) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field, the name, may have blanks and parentheses inside; the third follows it.
    let rest = stat.rsplit_once(')')?.1;
    let ticks: u64 = rest.split_whitespace().nth(field - 3)?.parse().ok()?;
    Some(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}
