//! A child process that cannot outlive the test.
//!
//! Every process starts through `setpriv --pdeathsig`, so that the kernel ends it when the test
//! runner dies without unwinding. That signal comes when the *thread* that spawned it ends, hence
//! one thread that lives as long as the runner does all the spawning.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, OnceLock, mpsc};
use std::thread;
use std::time::Duration;

pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};

use crate::wait;

/// How many lines of each log a failed test prints.
const LOG_TAIL_LINES: usize = 40;

/// And how much of each line.
const LOG_LINE_CHARS: usize = 600;

/// A running process with its output in a log file.
pub struct Process {
    name: String,
    log: PathBuf,
    child: Child,
}

impl Process {
    /// Starts a command made by [`guarded`]; its output is appended to `log`.
    pub fn spawn(name: &str, log: &Path, mut command: Command) -> Process {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .unwrap_or_else(|e| panic!("open {}: {e}", log.display()));
        command
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("duplicate a descriptor"))
            .stderr(file);
        let child =
            spawn_on_lasting_thread(command).unwrap_or_else(|e| panic!("cannot start {name}: {e}"));
        Process { name: name.to_owned(), log: log.to_path_buf(), child }
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        // An error says that it is gone, which the wait that follows finds out as well.
        let _ = kill_process(Pid::from_child(&self.child), signal);
    }

    /// Sends a signal to it and to the processes that it has started: to itself first, so that it starts no more
    /// when it is stopped.
    pub fn signal_family(&self, signal: Signal) {
        self.signal(signal);
        for child in self.children() {
            let _ = kill_process(child, signal);
        }
    }

    /// Its status, if it has ended.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("wait for a child")
    }

    /// Waits for its end; panics when it takes longer than `limit`.
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let what = format!("the end of {}", self.name);
        wait::value(limit, &what, || self.child.try_wait().expect("wait"))
    }

    /// Ends it with SIGKILL.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// The greatest resident memory it has had, in bytes (VmHWM of `/proc/PID/status`).
    pub fn peak_memory(&self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).ok()?;
        let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().ok()?;
        Some(kib * 1024)
    }

    /// The processes that it started.
    pub fn children(&self) -> Vec<Pid> {
        let pid = self.pid();
        let path = format!("/proc/{pid}/task/{pid}/children");
        let list = fs::read_to_string(path).unwrap_or_default();
        let numbers = list.split_whitespace().filter_map(|n| n.parse().ok());
        numbers.filter_map(Pid::from_raw).collect()
    }

    /// What it has written so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("--- end of the log of {} ---", self.name);
            for line in &lines[lines.len().saturating_sub(LOG_TAIL_LINES)..] {
                eprintln!("{}", line.chars().take(LOG_LINE_CHARS).collect::<String>());
            }
        }
    }
}

/// A command that gets `on_orphaned` when the test runner dies, run as `user` if one is given.
pub fn guarded(program: &Path, on_orphaned: &str, user: Option<&str>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", on_orphaned]);
    if let Some(user) = user {
        command.args(["--reuid", user, "--regid", user, "--init-groups"]);
    }
    // The other user may not be allowed to stand where we are.
    command.arg("--").arg(program).current_dir("/");
    command
}

/// The user that PostgreSQL runs as: ourselves, unless we are root.
pub fn server_user() -> Option<&'static str> {
    rustix::process::geteuid().is_root().then_some("postgres")
}

type Request = (Command, mpsc::Sender<io::Result<Child>>);

fn spawn_on_lasting_thread(command: Command) -> io::Result<Child> {
    static SPAWNER: OnceLock<Mutex<mpsc::Sender<Request>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, requests) = mpsc::channel::<Request>();
        thread::spawn(move || {
            for (mut command, answer) in requests {
                let _ = answer.send(command.spawn());
            }
        });
        Mutex::new(sender)
    });
    let (answer, child) = mpsc::channel();
    let sender = spawner.lock().unwrap_or_else(|e| e.into_inner()).clone();
    sender.send((command, answer)).expect("the spawner lives");
    child.recv().expect("the spawner answers")
}
