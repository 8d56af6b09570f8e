//! A ClickHouse server of our own: the engine of the chdb-core wheel, listening on loopback.

use std::path::PathBuf;
use std::time::Duration;

use crate::process::{Process, Signal, guarded};
use crate::scratch::{Scratch, free_port};
use crate::{SECRET, build, wait};

/// How long a start may take.
const START_LIMIT: Duration = Duration::from_secs(60);

/// How long one query of the harness may take.
const QUERY_LIMIT: Duration = Duration::from_secs(120);

/// The account that tests and sidecar use.
pub const USER: &str = "rsrepl";

/// A ClickHouse server and its folder.
pub struct ClickHouse {
    dir: PathBuf,
    log: PathBuf,
    http_port: u16,
    tcp_port: u16,
    profile: String,
    process: Option<Process>,
    agent: ureq::Agent,
}

impl ClickHouse {
    /// Starts a server on an empty folder.
    pub fn start(scratch: &Scratch) -> ClickHouse {
        Self::start_with(scratch, "")
    }

    /// The same with settings of everybody, as XML.
    pub fn start_with(scratch: &Scratch, profile: &str) -> ClickHouse {
        let agent = ureq::Agent::config_builder()
            .timeout_global(Some(QUERY_LIMIT))
            .http_status_as_error(false)
            .build()
            .new_agent();
        let mut clickhouse = ClickHouse {
            dir: scratch.join("clickhouse"),
            log: scratch.join("clickhouse.log"),
            http_port: free_port(),
            tcp_port: free_port(),
            profile: profile.to_owned(),
            process: None,
            agent,
        };
        clickhouse.launch();
        clickhouse
    }

    /// Starts the server again after [`ClickHouse::stop`] or [`ClickHouse::kill`].
    pub fn launch(&mut self) {
        assert!(self.process.is_none(), "ClickHouse is running");
        let mut command = guarded(&build::clickhouse_python(), "KILL", None);
        command
            .arg(build::workspace().join("scripts/clickhouse-server.py"))
            .arg(&self.dir)
            .args([self.http_port.to_string(), self.tcp_port.to_string()])
            .args([USER, SECRET])
            .env("CLICKHOUSE_PROFILE", &self.profile);
        self.process = Some(Process::spawn("clickhouse", &self.log, command));
        wait::until(START_LIMIT, "ClickHouse answers", || {
            let exited = self.process.as_mut().and_then(Process::exited);
            assert!(exited.is_none(), "ClickHouse ended: {exited:?}");
            self.try_query("SELECT 1").is_ok()
        });
    }

    /// Ends the server with SIGTERM.
    pub fn stop(&mut self) {
        let mut process = self.process.take().expect("a running server");
        process.signal(Signal::TERM);
        process.wait(START_LIMIT);
    }

    /// Ends the server with SIGKILL.
    pub fn kill(&mut self) {
        self.process.take().expect("a running server").kill();
    }

    /// Whether the server was started and not stopped.
    pub fn is_running(&self) -> bool {
        self.process.is_some()
    }

    /// The server's process.
    pub fn process(&self) -> &Process {
        self.process.as_ref().expect("a running server")
    }

    /// The port of the HTTP interface on 127.0.0.1.
    pub fn http_port(&self) -> u16 {
        self.http_port
    }

    /// A connection string for the sidecar, password included.
    pub fn url(&self, database: &str) -> String {
        self.url_through(self.http_port, database)
    }

    /// The same through another port of this machine, a proxy's.
    pub fn url_through(&self, port: u16, database: &str) -> String {
        format!("http://{USER}:{SECRET}@127.0.0.1:{port}/{database}")
    }

    /// Runs a query and returns its output (TabSeparated unless it has a FORMAT).
    pub fn query(&self, query: &str) -> String {
        self.try_query(query).unwrap_or_else(|e| panic!("ClickHouse: {query}: {e}"))
    }

    /// The same; the error is ClickHouse's message or why it was not reached.
    pub fn try_query(&self, query: &str) -> Result<String, String> {
        let url = format!("http://127.0.0.1:{}/?wait_end_of_query=1", self.http_port);
        let mut response = self
            .agent
            .post(&url)
            .header("X-ClickHouse-User", USER)
            .header("X-ClickHouse-Key", SECRET)
            .send(query)
            .map_err(|e| e.to_string())?;
        let body = response
            .body_mut()
            .with_config()
            .limit(u64::MAX)
            .read_to_string()
            .map_err(|e| e.to_string())?;
        if response.status() == 200 { Ok(body) } else { Err(body) }
    }
}
