//! The `rsrepl` process under test.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use crate::config::Config;
use crate::process::{Process, Signal, guarded};
use crate::scratch::Scratch;
use crate::{build, wait};

/// With the tools of the PostgreSQL under test before all others.
fn path() -> OsString {
    let ours = std::iter::once(build::postgres_bindir());
    let inherited = env::var_os("PATH").unwrap_or_default();
    env::join_paths(ours.chain(env::split_paths(&inherited))).expect("folders without a colon")
}

/// The library that gives a process another clock, of the package faketime.
fn faketime() -> PathBuf {
    let folders = fs::read_dir("/usr/lib").expect("/usr/lib").flatten().map(|entry| entry.path());
    let mut found =
        folders.map(|folder| folder.join("faketime/libfaketime.so.1")).filter(|path| path.exists());
    found.next().expect("libfaketime: run scripts/setup.sh")
}

/// How long the sidecar may take to end after SIGTERM, draining included.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// How long a request to its telemetry address may take.
const HTTP_LIMIT: Duration = Duration::from_secs(5);

/// A configured sidecar and, unless it is stopped, its process.
pub struct Sidecar {
    config: PathBuf,
    /// Where it keeps files of its own.
    state: PathBuf,
    log: PathBuf,
    telemetry_port: u16,
    /// Says what time it is; the real one without.
    clock: Option<PathBuf>,
    process: Option<Process>,
    peak_memory: u64,
    agent: ureq::Agent,
}

impl Sidecar {
    /// Writes the configuration; starts nothing.
    pub fn new(scratch: &Scratch, config: &Config) -> Sidecar {
        let agent = ureq::Agent::config_builder()
            .timeout_global(Some(HTTP_LIMIT))
            .http_status_as_error(false)
            .build()
            .new_agent();
        let path = scratch.join("rsrepl.toml");
        fs::write(&path, config.render()).expect("write the configuration");
        Sidecar {
            config: path,
            state: scratch.join("state"),
            log: scratch.join("rsrepl.log"),
            telemetry_port: config.telemetry_port,
            clock: None,
            process: None,
            peak_memory: 0,
            agent,
        }
    }

    /// Starts `rsrepl run`.
    pub fn launch(&mut self) {
        assert!(self.process.is_none(), "the sidecar is running");
        let mut command = guarded(&build::sidecar(), "KILL", None);
        command.args(["run", "-c"]).arg(&self.config);
        // its files are ours to remove
        command.env("STATE_DIRECTORY", &self.state).env("PATH", path());
        if let Some(clock) = &self.clock {
            command.env("LD_PRELOAD", faketime()).env("FAKETIME_TIMESTAMP_FILE", clock);
            // elapsed time is that of a clock that nobody sets
            command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("FAKETIME_CACHE_DURATION", "1");
        }
        self.process = Some(Process::spawn("rsrepl", &self.log, command));
    }

    /// Lets [`set_clock`](Self::set_clock) set the clock of what is launched from here on.
    pub fn fake_clock(&mut self) {
        let clock = self.config.with_file_name("clock");
        fs::write(&clock, "+0").expect("set the clock");
        self.clock = Some(clock);
    }

    /// Sets the clock so many seconds before or behind the real one, within a second.
    pub fn set_clock(&self, seconds: i64) {
        let clock = self.clock.as_ref().expect("a clock that can be set");
        // as a whole, or nothing is read for a moment
        let next = clock.with_extension("next");
        fs::write(&next, format!("{seconds:+}")).expect("set the clock");
        fs::rename(&next, clock).expect("set the clock");
    }

    /// Where it keeps files of its own.
    pub fn state(&self) -> PathBuf {
        self.state.clone()
    }

    /// The folder of its spool on disk.
    pub fn spool(&self) -> PathBuf {
        self.state.join("log")
    }

    /// The segments of its spool on disk, oldest first.
    pub fn segments(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.spool()).expect("a spool");
        let paths = entries.map(|entry| entry.expect("an entry").path());
        let mut found: Vec<_> =
            paths.filter(|path| path.extension().is_some_and(|e| e == "segment")).collect();
        found.sort();
        found
    }

    /// Runs another of its commands to the end: `check`, `status`.
    pub fn command(&self, name: &str) -> Output {
        self.command_with(name, &[])
    }

    /// The same with arguments behind the configuration.
    pub fn command_with(&self, name: &str, arguments: &[&str]) -> Output {
        Command::new(build::sidecar())
            .args([name, "-c"])
            .arg(&self.config)
            .args(arguments)
            .env("PATH", path())
            .stdin(Stdio::null())
            .output()
            .expect("run the sidecar")
    }

    /// The same on a terminal, which is what the output's standard output shows.
    pub fn command_on_terminal(&self, name: &str) -> Output {
        let command =
            format!("'{}' {name} -c '{}'", build::sidecar().display(), self.config.display());
        Command::new("script")
            .args(["--quiet", "--return", "--command", &command, "/dev/null"])
            .env("TERM", "xterm")
            .stdin(Stdio::null())
            .output()
            .expect("run the sidecar in script(1)")
    }

    /// SIGTERM, and the wait for the end.
    pub fn terminate(&mut self) -> ExitStatus {
        self.note_memory();
        let mut process = self.process.take().expect("a running sidecar");
        process.signal(Signal::TERM);
        process.wait(STOP_LIMIT)
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.note_memory();
        self.process.take().expect("a running sidecar").kill();
    }

    /// The running process.
    pub fn process(&self) -> &Process {
        self.process.as_ref().expect("a running sidecar")
    }

    /// Whether it was started and neither stopped by us nor ended by itself.
    pub fn is_running(&mut self) -> bool {
        self.process.as_mut().is_some_and(|p| p.exited().is_none())
    }

    /// Waits for it to end by itself.
    pub fn wait_exit(&mut self, limit: Duration) -> ExitStatus {
        self.process.take().expect("a started sidecar").wait(limit)
    }

    /// The greatest resident memory of all its lives so far, in bytes.
    pub fn peak_memory(&mut self) -> u64 {
        self.note_memory();
        self.peak_memory
    }

    fn note_memory(&mut self) {
        let now = self.process.as_ref().and_then(Process::peak_memory);
        self.peak_memory = self.peak_memory.max(now.unwrap_or(0));
    }

    /// Where `/metrics`, `/healthz` and `/readyz` are.
    pub fn telemetry(&self) -> String {
        format!("http://127.0.0.1:{}", self.telemetry_port)
    }

    /// Status and body of a GET; `None` when nobody answers.
    pub fn get(&self, path: &str) -> Option<(u16, String)> {
        let mut response = self.agent.get(format!("{}{path}", self.telemetry())).call().ok()?;
        let body = response.body_mut().read_to_string().ok()?;
        Some((response.status().as_u16(), body))
    }

    /// Whether `/readyz` says 200.
    pub fn ready(&self) -> bool {
        self.get("/readyz").is_some_and(|(status, _)| status == 200)
    }

    /// Waits until [`Sidecar::ready`]; panics when the process ends instead.
    pub fn wait_ready(&mut self, limit: Duration) {
        wait::until(limit, "the sidecar is ready", || {
            assert!(self.is_running(), "the sidecar ended:\n{}", self.log());
            self.ready()
        });
    }

    /// A sample of `/metrics`: the first of that name whose labels contain all of `labels`.
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let (_, body) = self.get("/metrics")?;
        let line = body.lines().find(|line| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']))
                && labels.iter().all(|(key, value)| line.contains(&format!("{key}=\"{value}\"")))
        })?;
        line.rsplit(' ').next()?.parse().ok()
    }

    /// Everything that it has logged, of all its lives.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The configuration file.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// Replaces the configuration; the next launch reads it.
    pub fn reconfigure(&mut self, config: &Config) {
        fs::write(&self.config, config.render()).expect("write the configuration");
        self.telemetry_port = config.telemetry_port;
    }
}
