//! The walsender alone: `pg_recvlogical` drains the slot into /dev/null, the same for every plugin.
//!
//! The clock stops when `pg_recvlogical` has seen the end of the backlog and exits. CPU is the
//! walsender's; the consumer's, which is not the plugin's doing, is left out.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rsrepl_tests::postgres::Postgres;
use rsrepl_tests::process::{Process, guarded};
use rsrepl_tests::{SECRET, build, wait};
use rsrepl_wire::limits::FORMAT_VERSION;

use crate::Plan;
use crate::measure::{Contender, Measure, Outcome, POLL, Reading, interleave, sessions_cpu};
use crate::servers::{
    Backlog, DATABASE, PUBLICATION, Servers, await_active, connect, copy_slot, drop_slot, execute,
};
use crate::workload::Workload;

/// The plugin that writes nothing.
const FLOOR: &str = "rsrepl_bench_floor";

/// How long one run may take.
const RUN_LIMIT: Duration = Duration::from_secs(600);

/// How long the walsender may outlive its connection.
const EXIT_LIMIT: Duration = Duration::from_secs(10);

/// Name, plugin and its options.
type Decoder = (&'static str, &'static str, Vec<(&'static str, String)>);

/// Runs the case.
pub fn run(servers: &Servers, workload: &Workload, plan: &Plan) -> Result<Outcome, String> {
    let floor = install_floor(servers);
    let backlog = servers.prepare(workload)?;
    let pgoutput = |binary| {
        options(&[("proto_version", "1"), ("publication_names", PUBLICATION), ("binary", binary)])
    };
    let version = FORMAT_VERSION.to_string();
    // as the sidecar asks for them
    let ours = options(&[
        ("format_version", &version),
        ("publications", PUBLICATION),
        ("combine", "true"),
    ]);
    let decoders: [Decoder; 5] = [
        ("rsrepl", "rsrepl", ours),
        ("writes nothing", FLOOR, Vec::new()),
        ("pgoutput binary", "pgoutput", pgoutput("true")),
        ("pgoutput text", "pgoutput", pgoutput("false")),
        ("wal2json", "wal2json", options(&[("format-version", "2")])),
    ];
    let (backlog, floor) = (&backlog, &floor);
    let contenders = decoders.into_iter().map(|decoder| {
        let (name, plugin) = (decoder.0, decoder.1);
        let measure: Measure = Box::new(move |run| {
            if plugin == FLOOR {
                floor.clone()?;
            }
            let (wall, cpu) = drain(servers, backlog, &decoder, run)?;
            let cpu = vec![("walsender", cpu)];
            Ok(Reading::replayed(workload.rate, workload.amount, wall, cpu))
        });
        match plugin {
            "rsrepl" => Contender::ours(name, measure),
            FLOOR => Contender::limit(name, measure),
            _ => Contender::peer(name, measure),
        }
    });
    Ok(Outcome::against_peers(interleave(plan.runs, contenders.collect())?))
}

fn options(list: &[(&'static str, &str)]) -> Vec<(&'static str, String)> {
    list.iter().map(|&(name, value)| (name, value.to_owned())).collect()
}

/// Drains one copy of the slot: wall and CPU seconds.
fn drain(
    servers: &Servers,
    backlog: &Backlog,
    decoder: &Decoder,
    run: u32,
) -> Result<(f64, f64), String> {
    let source = &servers.source;
    let postmaster = source.process().pid();
    let mut client = connect(source, DATABASE)?;
    let databases = [DATABASE.to_owned()];
    let slot = format!("decode_{run}");
    copy_slot(&mut client, &slot, decoder.1)?;
    let log = servers.scratch.join(&format!("{slot}.log"));
    let mut receiver =
        Process::spawn("pg_recvlogical", &log, receive(source, backlog, decoder, &slot));
    let walsender =
        await_active(&mut client, &slot).map_err(|e| format!("{e}\n{}", receiver.log()))?;
    let start = Instant::now();
    let before = sessions_cpu(&mut client, postmaster, &databases)?;
    let status = loop {
        if let Some(status) = receiver.exited() {
            break status;
        }
        if start.elapsed() > RUN_LIMIT {
            return Err(format!("not done after {RUN_LIMIT:?}"));
        }
        thread::sleep(POLL);
    };
    let wall = start.elapsed().as_secs_f64();
    if !status.success() {
        return Err(receiver.log());
    }
    // Once reaped, its CPU time is the postmaster's children's.
    let entry = format!("/proc/{walsender}");
    wait::until(EXIT_LIMIT, "the walsender ends", || !Path::new(&entry).exists());
    let cpu = sessions_cpu(&mut client, postmaster, &databases)? - before;
    drop_slot(&mut client, &slot)?;
    Ok((wall, cpu))
}

fn receive(source: &Postgres, backlog: &Backlog, decoder: &Decoder, slot: &str) -> Command {
    let mut command = guarded(&build::postgres_bindir().join("pg_recvlogical"), "KILL", None);
    command.env("PGPASSWORD", SECRET).args(["-h", "127.0.0.1", "-p", &source.port().to_string()]);
    command.args(["-U", "postgres", "-d", DATABASE, "--slot", slot, "--start", "--no-loop"]);
    command.args(["--file", "/dev/null", "--endpos", &backlog.end]);
    for (name, value) in &decoder.2 {
        command.args(["--option", &format!("{name}={value}")]);
    }
    command
}

/// Compiles the plugin that writes nothing into the scratch folder and lets the source load it.
fn install_floor(servers: &Servers) -> Result<(), String> {
    let dir = servers.scratch.join("plugins");
    fs::create_dir_all(&dir).map_err(|e| e.to_string())?;
    let bindir = build::postgres_bindir();
    let headers = Command::new(bindir.join("pg_config")).arg("--includedir-server").output();
    let headers = headers.map_err(|e| format!("pg_config: {e}"))?.stdout;
    let library = dir.join(format!("{FLOOR}.so"));
    let output = Command::new("cc")
        .args(["-shared", "-fPIC", "-O2", "-I", String::from_utf8_lossy(&headers).trim(), "-o"])
        .arg(&library)
        .arg(build::workspace().join(format!("bench/floor/{FLOOR}.c")))
        .output()
        .map_err(|e| format!("cc: {e}"))?;
    if !output.status.success() {
        return Err(format!("cc: {}", String::from_utf8_lossy(&output.stderr)));
    }
    for path in [&dir, &library] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).map_err(|e| e.to_string())?;
    }
    let mut admin = servers.source.client("postgres");
    let path = format!("ALTER SYSTEM SET dynamic_library_path = '$libdir:{}'", dir.display());
    execute(&mut admin, &path)?;
    let known = "SELECT FROM pg_settings WHERE name = 'output_plugin_libraries'";
    if !admin.query(known, &[]).map_err(|e| e.to_string())?.is_empty() {
        let list = format!("pgoutput, test_decoding, rsrepl, wal2json, {FLOOR}");
        execute(&mut admin, &format!("ALTER SYSTEM SET output_plugin_libraries = {list}"))?;
    }
    // A new connection gets its settings from the postmaster, which reads them a moment later.
    execute(&mut admin, "SELECT pg_reload_conf()")?;
    wait::until(EXIT_LIMIT, "the settings are read", || {
        let value = servers.source.value("postgres", "current_setting('dynamic_library_path')");
        value.is_some_and(|v| v.ends_with("plugins"))
    });
    Ok(())
}
