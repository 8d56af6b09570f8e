//! A PostgreSQL cluster of our own, on a loopback port.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use postgres::{Client, NoTls};
use rustix::process::kill_process;

use crate::process::{Process, Signal, guarded, server_user};
use crate::scratch::{Scratch, free_port};
use crate::{SECRET, build, wait};

/// How long a start, crash recovery included, may take.
const START_LIMIT: Duration = Duration::from_secs(60);

/// How long a stop may take before it counts as held up.
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// Settings of every cluster. Without fsync a killed *process* loses nothing, only a killed machine
/// would: the tests do the former. A replication origin keeps its place (one of max_replication_slots, see
/// [`origins`]) until it is dropped, and a server that many tests share has one for each session that ever
/// wrote.
const SETTINGS: &str = "
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
wal_level = logical
max_wal_senders = 10
max_replication_slots = 1000
max_connections = 100
shared_buffers = 64MB
fsync = off
full_page_writes = off
log_line_prefix = '%m [%p] %q%u@%d '
";

/// Places for replication origins have a setting of their own from 18 on.
fn origins() -> &'static str {
    if build::postgres_major() >= 18 { "max_active_replication_origins = 1000\n" } else { "" }
}

/// A cluster and, unless it is stopped, its server.
pub struct Postgres {
    name: String,
    data: PathBuf,
    log: PathBuf,
    port: u16,
    process: Option<Process>,
}

impl Postgres {
    /// Makes a cluster and starts it. `settings` are further lines of postgresql.conf.
    pub fn start(scratch: &Scratch, name: &str, settings: &str) -> Postgres {
        let mut postgres = Postgres::new(scratch, name);
        initdb(&scratch.join(name), &postgres.data);
        postgres.configure(&format!("{SETTINGS}{}{settings}", origins()));
        postgres.launch();
        postgres.allow_plugin();
        postgres
    }

    /// Makes a physical standby of a running cluster and starts it. From 17 on it keeps the slots of the primary that are made
    /// for that.
    pub fn follow(scratch: &Scratch, name: &str, primary: &Postgres, database: &str) -> Postgres {
        let mut postgres = Postgres::new(scratch, name);
        let output = server_command(&build::postgres_bindir().join("pg_basebackup"))
            .args(["--write-recovery-conf", "--checkpoint=fast", "--create-slot", "--slot", name])
            .args(["--dbname", &primary.conninfo(database), "--pgdata"])
            .arg(&postgres.data)
            .output()
            .expect("run pg_basebackup");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let keeps = build::postgres_major() >= 17;
        let keeps = if keeps { "sync_replication_slots = on" } else { "" };
        postgres.configure(&format!("hot_standby_feedback = on\n{keeps}"));
        postgres.launch();
        postgres
    }

    /// A folder and a port.
    fn new(scratch: &Scratch, name: &str) -> Postgres {
        let home = scratch.join(name);
        fs::create_dir(&home).expect("make the cluster's folder");
        give_to_server(&home);
        Postgres {
            name: name.to_owned(),
            data: home.join("data"),
            log: scratch.join(&format!("{name}.log")),
            port: free_port(),
            process: None,
        }
    }

    /// Adds lines to postgresql.conf.
    fn configure(&self, settings: &str) {
        let conf = self.data.join("postgresql.conf");
        let mut conf = OpenOptions::new().append(true).open(conf).expect("open postgresql.conf");
        write!(conf, "\nport = {}\n{settings}\n", self.port).expect("write postgresql.conf");
    }

    /// Ends the recovery of a standby: from then on it is a primary.
    pub fn promote(&self) {
        let promoted = self.value("postgres", "SELECT pg_promote(true, 60)");
        assert_eq!(promoted.as_deref(), Some("true"), "{}", self.name);
    }

    /// Starts the server of a cluster that was stopped or killed.
    pub fn launch(&mut self) {
        assert!(self.process.is_none(), "{} is running", self.name);
        // A killed server's children let go of the shared memory a moment later; until then a new
        // one refuses to start.
        wait::until(START_LIMIT, &format!("{} accepts connections", self.name), || {
            let mut process = self.spawn();
            loop {
                if self.try_client("postgres").is_ok() {
                    self.process = Some(process);
                    return true;
                }
                if process.exited().is_some() {
                    return false;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        });
    }

    fn spawn(&self) -> Process {
        let postgres = build::postgres_bindir().join("postgres");
        let mut command = guarded(&postgres, "QUIT", server_user());
        command.arg("-D").arg(&self.data);
        Process::spawn(&self.name, &self.log, command)
    }

    /// Recent minors load only the output plugins of a list.
    fn allow_plugin(&self) {
        let mut client = self.client("postgres");
        let known = client
            .query("SELECT 1 FROM pg_settings WHERE name = 'output_plugin_libraries'", &[])
            .expect("read pg_settings");
        if !known.is_empty() {
            // ALTER SYSTEM refuses to share a string with another statement.
            for statement in [
                "ALTER SYSTEM SET output_plugin_libraries = pgoutput, test_decoding, rsrepl",
                "SELECT pg_reload_conf()",
            ] {
                client.batch_execute(statement).expect("allow the plugin");
            }
        }
    }

    /// `pg_ctl stop -m fast`: what it does is one SIGINT. Returns how long the server took.
    pub fn stop_fast(&mut self) -> Duration {
        let mut process = self.process.take().expect("a running server");
        let start = Instant::now();
        process.signal(Signal::INT);
        process.wait(STOP_LIMIT);
        start.elapsed()
    }

    /// Copies the folder of a stopped cluster.
    pub fn back_up(&self) {
        assert!(self.process.is_none(), "{} is running", self.name);
        copy_folder(&self.data, &self.data.with_extension("backup"));
    }

    /// Puts the copy of [`back_up`](Self::back_up) in the cluster's place. It starts as if nothing had happened.
    pub fn restore(&self) {
        assert!(self.process.is_none(), "{} is running", self.name);
        fs::remove_dir_all(&self.data).expect("remove the cluster");
        copy_folder(&self.data.with_extension("backup"), &self.data);
    }

    /// Starts a stopped cluster with recovery of all the WAL that it has, and waits until it goes on on a new timeline.
    pub fn launch_on_new_timeline(&mut self) {
        let signal = self.data.join("recovery.signal");
        fs::write(&signal, "").expect("write recovery.signal");
        give_to_server(&signal);
        self.configure("restore_command = 'false'");
        self.launch();
        wait::until(START_LIMIT, &format!("{} has recovered", self.name), || {
            self.value("postgres", "SELECT pg_is_in_recovery()").as_deref() == Some("false")
        });
    }

    /// SIGKILL to the postmaster and to every backend at once.
    pub fn kill(&mut self) {
        let mut process = self.process.take().expect("a running server");
        let children = process.children();
        process.kill();
        for child in children {
            let _ = kill_process(child, Signal::KILL);
        }
    }

    /// Whether the server was started and not stopped.
    pub fn is_running(&self) -> bool {
        self.process.is_some()
    }

    /// The server's process.
    pub fn process(&self) -> &Process {
        self.process.as_ref().expect("a running server")
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A connection string for the superuser, password included.
    pub fn conninfo(&self, database: &str) -> String {
        self.conninfo_through(self.port, database)
    }

    /// The same through another port of this machine, a proxy's.
    pub fn conninfo_through(&self, port: u16, database: &str) -> String {
        format!("host=127.0.0.1 port={port} user=postgres password={SECRET} dbname={database}")
    }

    /// A connection.
    pub fn client(&self, database: &str) -> Client {
        self.try_client(database)
            .unwrap_or_else(|e| panic!("connect to {}/{database}: {e}", self.name))
    }

    /// A connection, if the server is there.
    pub fn try_client(&self, database: &str) -> Result<Client, postgres::Error> {
        Client::connect(&self.conninfo(database), NoTls)
    }

    /// Runs statements on a connection of their own.
    pub fn execute(&self, database: &str, statements: &str) {
        self.client(database)
            .batch_execute(statements)
            .unwrap_or_else(|e| panic!("{}: {statements}: {e:?}", self.name));
    }

    /// The one value of the one row of a query, as text; `None` for NULL or no row.
    pub fn value(&self, database: &str, query: &str) -> Option<String> {
        let mut client = self.client(database);
        let rows = client
            .query(&format!("SELECT ({query})::text"), &[])
            .unwrap_or_else(|e| panic!("{}: {query}: {e:?}", self.name));
        rows.first().and_then(|row| row.get(0))
    }

    /// What the server has logged.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }
}

fn initdb(home: &Path, data: &Path) {
    let password = home.join("password");
    fs::write(&password, SECRET).expect("write the password file");
    let output = server_command(&build::postgres_bindir().join("initdb"))
        .arg("--pgdata")
        .arg(data)
        .args(["--username=postgres", "--auth=scram-sha-256", "--pwfile"])
        .arg(&password)
        .args(["--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"])
        .stdin(Stdio::null())
        .output()
        .expect("run initdb");
    assert!(output.status.success(), "initdb: {}", String::from_utf8_lossy(&output.stderr));
}

fn server_command(program: &Path) -> Command {
    guarded(program, "KILL", server_user())
}

/// With owners and modes.
fn copy_folder(from: &Path, to: &Path) {
    let output = Command::new("cp").arg("-a").args([from, to]).output().expect("run cp");
    assert!(output.status.success(), "cp: {}", String::from_utf8_lossy(&output.stderr));
}

/// Makes the server's user own a file or folder.
fn give_to_server(path: &Path) {
    if let Some(user) = server_user() {
        let status = Command::new("chown").arg(user).arg(path).status();
        assert!(status.is_ok_and(|s| s.success()), "chown {user} {}", path.display());
    }
}
