//! Single-row transactions at a pace, by `pgbench --rate`: open loop, a commit that is late does not delay the next.
//! pgbench's log tells to the microsecond when each COMMIT had returned to the client, and how long that took.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::thread;

use rsrepl_tests::process::Process;

use crate::engine::Running;
use crate::measure::POLL;
use crate::servers::{DATABASE, Servers, pgbench};

/// A writer that does not get to this part of the pace measures something else; what it got to is a figure.
const REACHED: f64 = 0.5;

/// Rows of a client begin at its number times this.
pub const CLIENT_ROWS: i64 = 1_000_000_000;

/// What each client does. Its rows are numbered in the order of its commits.
const SCRIPT: &str = "\\set n :n + 1
INSERT INTO narrow VALUES (:client_id::bigint * 1000000000 + :n::bigint, :n::bigint % 1000,
    :n::bigint * 7 % 100000, now(),
    'filler-0123456789abcdef0123456789abcdef');
";

/// A pace, and the clients that reach it.
#[derive(Clone, Copy)]
pub struct Pace {
    /// Transactions a second.
    pub tps: u64,
    /// Sessions.
    pub clients: u64,
}

/// A commit that has returned.
pub struct Commit {
    client: u64,
    /// When, in seconds since 1970.
    pub at: f64,
    /// Seconds since the transaction was due.
    pub took: f64,
}

/// What the writer did.
pub struct Written {
    /// Of each client in the order of its commits.
    pub commits: Vec<Commit>,
    /// Commits a second.
    pub rate: f64,
}

impl Written {
    /// When the commits of the first client had returned, by the numbers of their rows.
    pub fn first_client(&self) -> BTreeMap<i64, f64> {
        (1..).zip(self.commits.iter().filter(|c| c.client == 0).map(|c| c.at)).collect()
    }
}

/// Runs the writer for so many seconds. `wait`: its `synchronous_commit`.
pub fn write(
    servers: &Servers,
    running: &mut Running,
    pace: Pace,
    seconds: u64,
    (run, wait): (u32, &str),
) -> Result<Written, String> {
    let folder = servers.scratch.join(&format!("pgbench_{run}"));
    fs::create_dir(&folder).map_err(|e| e.to_string())?;
    let script = folder.join("script.sql");
    fs::write(&script, SCRIPT).map_err(|e| e.to_string())?;
    let mut command = pgbench(&servers.source, DATABASE);
    command.args(["--no-vacuum", "--protocol=prepared", "--jobs=1", "--define=n=0", "--log"]);
    command.arg(format!("--log-prefix={}", folder.join("log").display()));
    command.arg(format!("--rate={}", pace.tps)).arg(format!("--client={}", pace.clients));
    command.arg(format!("--time={seconds}")).arg("--random-seed=1");
    command.arg(format!("--file={}", script.display()));
    command.env("PGOPTIONS", format!("-c synchronous_commit={wait}"));
    let mut writer = Process::spawn("pgbench", &folder.join("output"), command);
    let status = loop {
        if let Some(status) = writer.exited() {
            break status;
        }
        running.check()?;
        thread::sleep(POLL);
    };
    if !status.success() {
        return Err(writer.log());
    }
    let commits = read_log(&folder)?;
    let rate = commits.len() as f64 / seconds as f64;
    if rate < REACHED * pace.tps as f64 {
        return Err(format!("the writer got to {rate:.0} tps only"));
    }
    fs::remove_dir_all(&folder).map_err(|e| e.to_string())?;
    Ok(Written { commits, rate })
}

fn read_log(folder: &Path) -> Result<Vec<Commit>, String> {
    let mut commits = Vec::new();
    for entry in fs::read_dir(folder).map_err(|e| e.to_string())?.flatten() {
        if !entry.file_name().to_string_lossy().starts_with("log.") {
            continue;
        }
        let log = fs::read_to_string(entry.path()).map_err(|e| e.to_string())?;
        for line in log.lines() {
            commits.push(commit(line).ok_or_else(|| format!("pgbench has logged {line:?}"))?);
        }
    }
    Ok(commits)
}

/// Of a line of pgbench's log: client, transaction, duration, script, seconds, microseconds, lag. With a rate, the
/// duration counts from when the transaction was due.
fn commit(line: &str) -> Option<Commit> {
    let fields: Vec<&str> = line.split(' ').collect();
    let [client, _, took, _, seconds, micros, ..] = fields[..] else { return None };
    let number = |text: &str| text.parse::<f64>().ok();
    Some(Commit {
        client: client.parse().ok()?,
        at: number(seconds)? + number(micros)? / 1e6,
        took: number(took)? / 1e6,
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_line_of_the_log() {
        let commit = super::commit("3 199 2241 0 1175850568 995598 12").unwrap();
        assert_eq!((commit.client, commit.took), (3, 0.002241));
        assert!((commit.at - 1_175_850_568.995_598).abs() < 1e-6);
        assert!(super::commit("3 199 skipped 0 1175850568 995598 12").is_none());
    }
}
