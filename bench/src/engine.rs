//! Who applies into PostgreSQL: the sidecar, or a native subscription.

use std::thread;
use std::time::Instant;

use postgres::Client;
use rsrepl_tests::config::{Config, NO_COPY, Target};
use rsrepl_tests::scratch::free_port;
use rsrepl_tests::sidecar::Sidecar;

use crate::measure::{CpuSeconds, POLL, cpu_of, sessions_cpu};
use crate::servers::{
    DATABASE, PUBLICATION, SLOT_LIMIT, Servers, active_pid, copy_slot, drop_slot, execute,
    fingerprint, message,
};

/// The subscription of the peer.
const SUBSCRIPTION: &str = "bench";

/// The `application_name` of the replication connection; a subscription's is its name.
pub const READER: &str = SUBSCRIPTION;

/// How much of the sidecar's log an error shows.
const LOG_LINES: usize = 12;

/// Who applies.
#[derive(Clone, Copy)]
pub enum Engine {
    /// rsrepl, with further lines of `[source]` and of each target; the spool on disk or in memory.
    Rsrepl { source: &'static str, target: &'static str, spooled: bool },
    /// A native subscription, binary, and its `synchronous_commit`.
    Native { commit: &'static str },
}

/// A native subscription at its defaults, but binary.
pub const NATIVE: Engine = Engine::Native { commit: "off" };

/// rsrepl with its configuration at its defaults.
pub const RSREPL: Engine = Engine::Rsrepl { source: "", target: "", spooled: false };

/// The same with `confirm = "spooled"`.
pub const SPOOLED: Engine = Engine::Rsrepl { source: "", target: "", spooled: true };

impl Engine {
    fn plugin(self) -> &'static str {
        match self {
            Engine::Rsrepl { .. } => "rsrepl",
            Engine::Native { .. } => "pgoutput",
        }
    }
}

/// Where a run goes from and to.
pub struct Route {
    /// The run's slot.
    pub slot: String,
    /// Target databases; a native subscription fills the first.
    pub databases: Vec<String>,
    /// The bench's connection to the source's database.
    pub source: Client,
    /// And to each of the targets'.
    pub targets: Vec<Client>,
}

impl Route {
    /// Compares the first target with the source as it is now, and removes slot and target databases.
    pub fn end(mut self, servers: &Servers, tables: &[&str]) -> Result<(), String> {
        let [expected, found] =
            [&mut self.source, &mut self.targets[0]].map(|client| fingerprint(client, tables));
        let (expected, found) = (expected?, found?);
        if found != expected {
            return Err(format!("the rows differ: {found}, not {expected}"));
        }
        drop_slot(&mut self.source, &self.slot)?;
        let Route { databases, targets, .. } = self;
        drop(targets);
        databases.iter().try_for_each(|database| servers.drop_target(database))
    }
}

/// A started engine.
pub struct Running<'a> {
    servers: &'a Servers,
    route: &'a mut Route,
    /// None is a native subscription.
    sidecar: Option<Box<Sidecar>>,
    /// The process id of the slot's walsender.
    walsender: u32,
}

/// Starts one side on a copy of the template slot, or on a slot that begins here, and waits until the
/// slot is active.
pub fn start<'a>(
    servers: &'a Servers,
    engine: Engine,
    route: &'a mut Route,
    copied: bool,
) -> Result<Running<'a>, String> {
    let slot = &route.slot;
    if copied {
        copy_slot(&mut route.source, slot, engine.plugin())?;
    } else {
        let plugin = engine.plugin();
        let create = format!("SELECT pg_create_logical_replication_slot('{slot}', '{plugin}')");
        execute(&mut route.source, &create)?;
    }
    let sidecar = match engine {
        Engine::Rsrepl { source, target, spooled } => {
            Some(Box::new(launch(servers, route, (source, target), spooled)))
        }
        Engine::Native { commit } => {
            subscribe(servers, route, commit)?;
            None
        }
    };
    let mut running = Running { servers, route, sidecar, walsender: 0 };
    match running.await_active() {
        Ok(()) => Ok(running),
        Err(error) => {
            // Or a subscription would go on.
            let _ = running.stop();
            Err(error)
        }
    }
}

fn launch(
    servers: &Servers,
    route: &Route,
    (source, target): (&str, &str),
    spooled: bool,
) -> Sidecar {
    let targets = route.databases.iter().enumerate().map(|(place, database)| Target {
        options: target.to_owned(),
        ..Target::new(&format!("standby-{place}"), servers.target.conninfo(database))
    });
    // on disk it is of one slot
    let spool = servers.scratch.join(&format!("spool_{}", route.slot));
    let sections = match spooled {
        true => format!("[spool]\nconfirm = \"spooled\"\ndir = \"{}\"\n", spool.display()),
        false => String::new(),
    };
    let mut sidecar = Sidecar::new(
        &servers.scratch,
        &Config {
            source: format!("{} application_name={READER}", servers.source.conninfo(DATABASE)),
            source_options: format!("publication = \"{PUBLICATION}\"\n{source}"),
            slot: route.slot.clone(),
            postgres: targets.collect(),
            clickhouse: Vec::new(),
            telemetry_port: free_port(),
            copy: NO_COPY.to_owned(),
            sections,
        },
    );
    sidecar.launch();
    sidecar
}

fn subscribe(servers: &Servers, route: &mut Route, commit: &str) -> Result<(), String> {
    let create = format!(
        "CREATE SUBSCRIPTION {SUBSCRIPTION} CONNECTION '{}' PUBLICATION {PUBLICATION} WITH
         (create_slot = false, slot_name = '{}', copy_data = false, binary = true, synchronous_commit = {commit})",
        servers.source.conninfo(DATABASE),
        route.slot
    );
    execute(&mut route.targets[0], &create)
}

impl Running<'_> {
    /// Waits for the slot's walsender.
    fn await_active(&mut self) -> Result<(), String> {
        let start = Instant::now();
        loop {
            let pid = active_pid(&mut self.route.source, &self.route.slot)?;
            if let Some(pid) = pid {
                self.walsender = pid;
                return Ok(());
            }
            self.check()?;
            if start.elapsed() > SLOT_LIMIT {
                return Err(format!("nobody reads from the slot after {SLOT_LIMIT:?}"));
            }
            thread::sleep(POLL);
        }
    }

    /// Whether the row after the backlog shows on every target. An error when nobody applies.
    pub fn mark_shows(&mut self) -> Result<bool, String> {
        for target in &mut self.route.targets {
            let found = target.query("SELECT FROM bench_mark WHERE id = 1", &[]);
            if found.map_err(|e| message(&e))?.is_empty() {
                return self.check().map(|()| false);
            }
        }
        Ok(true)
    }

    /// An error when the sidecar has ended.
    pub fn check(&mut self) -> Result<(), String> {
        if let Some(sidecar) = &mut self.sidecar
            && !sidecar.is_running()
        {
            return Err(format!("the sidecar ended:\n{}", end(&sidecar.log())));
        }
        Ok(())
    }

    /// CPU seconds so far, by process: all sessions on the source's database (the walsender and, on
    /// our side, the sidecar's control connection), the sidecar, all sessions on the targets.
    pub fn cpu(&mut self) -> Result<CpuSeconds, String> {
        let (source, target) = (&self.servers.source, &self.servers.target);
        let Route { databases, source: client, targets, .. } = &mut *self.route;
        let mut cpu =
            vec![("source", sessions_cpu(client, source.process().pid(), &[DATABASE.to_owned()])?)];
        if let Some(sidecar) = &self.sidecar {
            cpu.push(("sidecar", cpu_of(sidecar.process().pid()).ok_or("the sidecar is gone")?));
        }
        let target = sessions_cpu(&mut targets[0], target.process().pid(), databases)?;
        cpu.push(("target", target));
        Ok(cpu)
    }

    /// CPU seconds of the walsender alone.
    pub fn walsender_cpu(&self) -> Result<f64, String> {
        cpu_of(self.walsender).ok_or_else(|| "the walsender is gone".to_owned())
    }

    /// The connection to the first target.
    pub fn target(&mut self) -> &mut Client {
        &mut self.route.targets[0]
    }

    /// Ends it; the sidecar's greatest memory, if it was that.
    pub fn stop(self) -> Result<Option<u64>, String> {
        if let Some(mut sidecar) = self.sidecar {
            if !sidecar.is_running() {
                return Ok(None);
            }
            let peak = sidecar.peak_memory();
            let status = sidecar.terminate();
            if !status.success() {
                return Err(format!("the sidecar ended with {status}:\n{}", end(&sidecar.log())));
            }
            return Ok(Some(peak));
        }
        let target = &mut self.route.targets[0];
        execute(target, &format!("ALTER SUBSCRIPTION {SUBSCRIPTION} DISABLE"))?;
        execute(target, &format!("ALTER SUBSCRIPTION {SUBSCRIPTION} SET (slot_name = NONE)"))?;
        execute(target, &format!("DROP SUBSCRIPTION {SUBSCRIPTION}"))?;
        Ok(None)
    }
}

/// The last lines of a log.
fn end(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}
