//! Targets that are late on purpose, that are paused, and that something is kept out of.

use std::process::Output;
use std::time::{Duration, Instant};

use rsrepl_tests::rig::{CLICKHOUSE, DATABASE, Rig, STANDBY};
use rsrepl_tests::wait;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(90);

/// How long something that must not happen is waited for.
const NEVER: Duration = Duration::from_secs(3);

const SCHEMA: &str = "CREATE TABLE t (id int PRIMARY KEY, v text, at timestamptz)";

fn on_standby(rig: &Rig) -> String {
    let query = "SELECT coalesce(string_agg(id::text, ' ' ORDER BY id), 'nothing') FROM t";
    rig.standby.try_client(DATABASE).map_or_else(
        |_| "no answer".to_owned(),
        |mut client| client.query_one(query, &[]).map_or_else(|e| e.to_string(), |row| row.get(0)),
    )
}

fn on_clickhouse(rig: &Rig) -> String {
    let query = format!(
        "SELECT arrayStringConcat(arraySort(groupArray(id)), ' ') FROM \
         (SELECT id FROM {DATABASE}.t FINAL)"
    );
    // before the first row there is no table
    let rows = rig.clickhouse.try_query(&query).unwrap_or_default().trim().to_owned();
    if rows.is_empty() { "nothing".to_owned() } else { rows }
}

fn report(rig: &Rig, target: &str) -> Value {
    serde_json::from_str(&rig.reported(target)).unwrap_or_default()
}

fn wait_for_state(rig: &Rig, target: &str, state: &str) {
    wait::until(LIMIT, &format!("{target} is reported as {state}"), || {
        report(rig, target)["state"] == state
    });
}

fn rsrepl(rig: &Rig, command: &str, target: &str, more: &[&str]) -> Output {
    let arguments: Vec<&str> = ["--target", target].iter().chain(more).copied().collect();
    rig.sidecar.command_with(command, &arguments)
}

fn said(output: &Output) -> String {
    let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    format!("{out}{err}")
}

fn succeed(rig: &Rig, command: &str, target: &str, more: &[&str]) -> String {
    let output = rsrepl(rig, command, target, more);
    assert!(output.status.success(), "{command}: {}", said(&output));
    said(&output)
}

/// What was skipped on a target, one value for each line.
fn dead_letters(rig: &Rig, target: &str) -> Vec<Value> {
    use std::os::unix::fs::PermissionsExt;
    let path = rig.scratch.join("state/dead-letters").join(format!("rsrepl.{target}.jsonl"));
    let mode = std::fs::metadata(&path).expect("dead letters").permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "others may read {}", path.display());
    let text = std::fs::read_to_string(&path).expect("readable");
    text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

fn operations(letters: &[Value]) -> Vec<&str> {
    letters.iter().map(|line| line["operation"].as_str().unwrap_or("none")).collect()
}

/// The word behind another one.
fn behind(text: &str, words: &str) -> String {
    let rest = text.split(words).nth(1).unwrap_or_else(|| panic!("no {words:?} in {text}"));
    let word = rest.split([' ', ';', '"', ')']).find(|word| !word.is_empty());
    word.unwrap_or_default().to_owned()
}

fn nothing_is_recorded(rig: &Rig) {
    wait::until(LIMIT, "nothing is recorded any more", || {
        let count = "SELECT count(*) FROM rsrepl.control";
        rig.standby.value(DATABASE, count).as_deref() == Some("0")
    });
}

#[test]
fn an_accidental_delete_stays_out_of_a_delayed_target() {
    let mut rig = Rig::new("delayed", SCHEMA);
    rig.configure(|config| config.postgres[0].options.push_str("\napply_delay = \"1h\""));
    rig.run();
    rig.execute("INSERT INTO t SELECT i, 'v' FROM generate_series(1, 10) i");
    rig.execute("UPDATE t SET v = v || id");
    let before = rig.source.value(DATABASE, "SELECT pg_current_wal_lsn()").expect("a position");
    rig.execute("DELETE FROM t WHERE id <= 5");
    rig.execute("INSERT INTO t VALUES (11, 'after')");
    wait::until(LIMIT, "ClickHouse is not delayed", || on_clickhouse(&rig) == "6 7 8 9 10 11");
    wait_for_state(&rig, STANDBY, "delayed");
    assert_eq!(on_standby(&rig), "nothing");
    assert!(report(&rig, STANDBY)["next_attempt"].is_string(), "it does not say when");
    wait::until(LIMIT, "late on purpose is in step", || rig.sidecar.ready());

    succeed(&rig, "pause", STANDBY, &[]);
    wait_for_state(&rig, STANDBY, "paused");
    // without the delay, and after the death of everything, the pause alone keeps it out
    rig.sidecar.kill();
    rig.standby.kill();
    rig.standby.launch();
    rig.configure(|config| {
        let options = &mut config.postgres[0].options;
        *options = options.replace("apply_delay = \"1h\"", "");
    });
    rig.sidecar.launch();
    wait::until(LIMIT, "the new sidecar reports the pause", || {
        let report = report(&rig, STANDBY);
        report["state"] == "paused" && report["sidecar_pid"] == rig.sidecar.process().pid()
    });
    assert_eq!(on_standby(&rig), "nothing");

    let detail = |rig: &Rig| report(rig, STANDBY)["detail"].as_str().map(str::to_owned);
    let first = wait::value(LIMIT, "the next transaction is named", || detail(&rig));
    let output = succeed(&rig, "resume", STANDBY, &["--until-lsn", &before]);
    assert!(output.contains(&before), "{output}");
    wait::until(LIMIT, "what was before is there", || on_standby(&rig) == "1 2 3 4 5 6 7 8 9 10");
    let next = wait::value(LIMIT, "the one after those is named", || {
        detail(&rig).filter(|detail| *detail != first)
    });
    assert_eq!(report(&rig, STANDBY)["state"], "paused");
    let end = behind(&next, "ends at ");
    let output = succeed(&rig, "skip", STANDBY, &["--lsn", &end]);
    assert!(output.contains("pending: the target is paused"), "{output}");
    succeed(&rig, "resume", STANDBY, &[]);
    rig.settle(LIMIT);
    assert_eq!(on_standby(&rig), "1 2 3 4 5 6 7 8 9 10 11");
    assert_eq!(
        rig.standby.value(DATABASE, "SELECT string_agg(v, ' ' ORDER BY id) FROM t WHERE id < 3"),
        Some("v1 v2".to_owned()),
        "the UPDATE before it is there"
    );
    assert_eq!(on_clickhouse(&rig), "6 7 8 9 10 11", "the other target has the source's rows");
    let letters = dead_letters(&rig, STANDBY);
    assert_eq!(operations(&letters), ["delete", "delete", "delete", "delete", "delete", "commit"]);
    assert_eq!(letters[4]["key"]["id"], "5");
    assert_eq!(letters[4]["lsn"], end.as_str());
    nothing_is_recorded(&rig);
    assert_eq!(
        rig.sidecar.metric("rsrepl_transactions_skipped_total", &[("target", STANDBY)]),
        Some(1.0)
    );
}

#[test]
fn a_delayed_transaction_comes_when_it_is_due() {
    const DELAY: Duration = Duration::from_secs(4);
    let mut rig = Rig::new("due", SCHEMA);
    rig.configure(|config| config.postgres[0].options.push_str("\napply_delay = \"4s\""));
    rig.run();
    for id in 1..=3 {
        // the earliest moment at which it can have committed
        let start = Instant::now();
        rig.execute(&format!("INSERT INTO t VALUES ({id})"));
        let all: Vec<String> = (1..=id).map(|id| id.to_string()).collect();
        wait::until(LIMIT, "it comes", || on_standby(&rig) == all.join(" "));
        assert!(start.elapsed() >= DELAY, "{id} came after {:?}", start.elapsed());
    }
}

#[test]
fn a_pause_survives_everything_and_keeps_a_truncate_out_of_clickhouse() {
    let mut rig = Rig::new("paused", SCHEMA);
    rig.run();
    rig.execute("INSERT INTO t VALUES (1), (2)");
    rig.settle(LIMIT);
    // nobody has to be there to be asked
    assert!(rig.sidecar.terminate().success());
    succeed(&rig, "pause", CLICKHOUSE, &[]);
    rig.sidecar.launch();
    rig.execute("INSERT INTO t VALUES (3)");
    rig.execute("TRUNCATE t");
    rig.execute("INSERT INTO t VALUES (4)");
    wait::until(LIMIT, "the standby goes on", || on_standby(&rig) == "4");
    wait_for_state(&rig, CLICKHOUSE, "paused");
    rig.sidecar.kill();
    rig.clickhouse.kill();
    rig.clickhouse.launch();
    rig.sidecar.launch();
    rig.settle_standby(LIMIT);
    wait::stays(NEVER, "ClickHouse stays as it was", || on_clickhouse(&rig) == "1 2");
    let healthy = |rig: &Rig| rig.sidecar.get("/healthz").is_some_and(|(status, _)| status == 200);
    assert!(healthy(&rig) && !rig.sidecar.ready(), "a pause is no fault, and not in step");

    let place = rig.source.value(DATABASE, "SELECT pg_current_wal_lsn()").expect("a position");
    succeed(&rig, "skip", CLICKHOUSE, &["--until-lsn", &place]);
    rig.execute("INSERT INTO t VALUES (5)");
    succeed(&rig, "resume", CLICKHOUSE, &[]);
    wait::until(LIMIT, "ClickHouse has what is behind", || on_clickhouse(&rig) == "1 2 5");
    let letters = dead_letters(&rig, CLICKHOUSE);
    let of_t = letters.iter().filter(|line| line["table"] == "t").cloned().collect::<Vec<_>>();
    assert_eq!(operations(&of_t), ["insert", "truncate", "insert"]);
    assert_eq!(on_standby(&rig), "4 5");
}

#[test]
fn a_row_that_cannot_be_applied_is_skipped_and_kept() {
    let mut rig = Rig::new("poison", SCHEMA);
    rig.standby.execute(DATABASE, "ALTER TABLE t ALTER v SET NOT NULL");
    rig.run();
    rig.execute("INSERT INTO t VALUES (1, 'fine')");
    rig.settle(LIMIT);
    rig.execute(
        "BEGIN; INSERT INTO t VALUES (41, 'good'); INSERT INTO t VALUES (42, NULL); COMMIT",
    );
    rig.execute("INSERT INTO t VALUES (43, 'after')");
    rig.execute("INSERT INTO t VALUES (44, 'x', 'infinity')");
    rig.execute("INSERT INTO t VALUES (45, 'last', now())");
    for (target, kept) in [(STANDBY, ["41", "42"].as_slice()), (CLICKHOUSE, &["44"])] {
        wait_for_state(&rig, target, "stopped");
        let report = report(&rig, target);
        let error = report["last_error"].as_str().expect("an error");
        assert!(error.contains("xid") && error.contains("committed 2"), "{error}");
        assert!(report["next_attempt"].is_string(), "it does not say when it is looked at");
        let end = behind(error, "--lsn ");
        assert!(rig.sidecar.log().contains(&format!("--target {target} --lsn {end}")));
        succeed(&rig, "skip", target, &["--lsn", &end]);
        wait_for_state(&rig, target, "running");
        let letters = dead_letters(&rig, target);
        let ids: Vec<_> = letters.iter().filter_map(|line| line["new"]["id"].as_str()).collect();
        assert_eq!(ids, kept);
        assert!(letters.iter().all(|line| line["lsn"] == end.as_str()), "{letters:?}");
    }
    rig.settle(LIMIT);
    assert_eq!(on_standby(&rig), "1 43 44 45");
    assert_eq!(on_clickhouse(&rig), "1 41 42 43 45");
    assert_eq!(dead_letters(&rig, STANDBY)[1]["new"]["v"], Value::Null);
    nothing_is_recorded(&rig);
    wait::until(LIMIT, "it is in step", || rig.sidecar.ready());
}

#[test]
fn what_cannot_be_skipped_is_refused() {
    let mut rig = Rig::new("unskippable", SCHEMA);
    let refused = |rig: &Rig, target: &str, lsn: &str, why: &str| {
        let output = rsrepl(rig, "skip", target, &["--lsn", lsn]);
        assert!(!output.status.success() && said(&output).contains(why), "{}", said(&output));
    };
    refused(&rig, STANDBY, "0/10", "has no position yet");
    refused(&rig, "nobody", "0/10", "there is no target nobody");
    rig.run();
    rig.execute("INSERT INTO t VALUES (1)");
    rig.settle(LIMIT);
    for target in [STANDBY, CLICKHOUSE] {
        refused(&rig, target, "0/10", "has everything up to 0/10");
    }
    // inside of what comes next, and so no transaction's end
    let inside = rig.source.value(DATABASE, "SELECT pg_current_wal_lsn() + 100").expect("an LSN");
    succeed(&rig, "skip", STANDBY, &["--lsn", &inside, "--no-wait"]);
    let large = "INSERT INTO t SELECT i, repeat('x', 100) FROM generate_series(2, 100) i";
    rig.execute(large);
    rig.settle(LIMIT);
    wait::until(LIMIT, "it is told", || rig.sidecar.log().contains("none ended there"));
    let elsewhere = ["--lsn", "FFFFFFFF/0", "--no-wait"];
    succeed(&rig, "skip", STANDBY, &elsewhere);
    succeed(&rig, "skip", STANDBY, &["--lsn", "FFFFFFFF/0", "--cancel"]);
    rig.assert_equal();
}
