//! `rsrepl verify` says nothing that it does not know, and `--repair` does no harm.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rsrepl_tests::rig::{CLICKHOUSE, DATABASE, Rig, STANDBY};
use rsrepl_tests::variant::Variant;
use rsrepl_tests::{build, wait};

use crate::verify::{named, verify};

const LIMIT: Duration = Duration::from_secs(60);

fn found<const N: usize>(expected: [&str; N]) -> BTreeSet<String> {
    BTreeSet::from(expected.map(str::to_owned))
}

/// On the standby alone.
fn on_standby(rig: &Rig, table: &str, more: &[&str]) -> (Option<i32>, BTreeSet<String>, String) {
    let arguments: Vec<&str> =
        [table, "--target", STANDBY].into_iter().chain(more.iter().copied()).collect();
    let (code, said) = verify(rig, &arguments);
    (code, named(&said, STANDBY), said)
}

const KNOWN: &str = "
    CREATE TABLE archive (id int PRIMARY KEY, v text);
    CREATE TABLE twice (id int PRIMARY KEY, v text);
    CREATE TABLE nulls (id int PRIMARY KEY, v text);
    CREATE TABLE partly (id int PRIMARY KEY, a int, b int);
    CREATE TABLE unreadable (id int PRIMARY KEY, a int);";

#[test]
fn what_is_not_known_is_not_called_equal() {
    let mut rig = Rig::new("verify-known", KNOWN);
    rig.execute(
        "CREATE PUBLICATION all_of FOR TABLE rig_marker, twice, nulls, partly;
         CREATE PUBLICATION some_of FOR TABLE archive WITH (publish = 'insert, update');
         INSERT INTO unreadable VALUES (1, 0);
         CREATE PUBLICATION filtered FOR TABLE unreadable WHERE (10 / a > 0);",
    );
    rig.configure(|config| {
        config.source_options.push_str("\npublication = [\"all_of\", \"some_of\", \"filtered\"]");
    });
    rig.run();
    rig.execute(
        "INSERT INTO archive SELECT i, 'v' FROM generate_series(1, 10) AS i;
         INSERT INTO twice SELECT i, 'v' FROM generate_series(1, 20000) AS i;
         INSERT INTO nulls SELECT i, 'v' FROM generate_series(1, 20000) AS i;
         INSERT INTO partly VALUES (1, 1, 1);
         DELETE FROM archive WHERE id < 4",
    );
    rig.settle(LIMIT);

    // what the source purges stays where no DELETEs are published, and is no difference
    for arguments in [&["archive"][..], &["archive", "--repair", "--delete"]] {
        let (code, said) = verify(&rig, arguments);
        let is_told = said.matches("3 rows differ by operations that are not published").count();
        assert_eq!((code, is_told), (Some(0), 2), "{arguments:?}");
    }
    let kept = rig.standby.value(DATABASE, "SELECT count(*) FROM archive");
    assert_eq!(kept.as_deref(), Some("10"));
    rig.standby.execute(DATABASE, "DELETE FROM archive WHERE id = 5");
    let (code, differences, _) = on_standby(&rig, "archive", &[]);
    assert_eq!((code, differences), (Some(1), found(["archive: missing id=5"])));

    // keys that are there twice, or are NULL
    rig.standby.execute(
        DATABASE,
        "ALTER TABLE twice DROP CONSTRAINT twice_pkey; CREATE INDEX ON twice (id);
         INSERT INTO twice VALUES (7, 'v'), (15000, 'v');
         ALTER TABLE nulls DROP CONSTRAINT nulls_pkey, ALTER id DROP NOT NULL; CREATE INDEX ON nulls (id);
         INSERT INTO nulls VALUES (NULL, 'v')",
    );
    let expected = found(["twice: different id=7", "twice: different id=15000"]);
    let (code, differences, _) = on_standby(&rig, "twice", &[]);
    assert_eq!((code, differences), (Some(1), expected));
    assert_eq!(on_standby(&rig, "twice", &["--repair"]).0, Some(0));
    let (code, _, said) = on_standby(&rig, "nulls", &[]);
    assert_eq!((code, said.contains("1 rows there have a NULL in their key")), (Some(1), true));

    // a column that is not compared
    rig.standby.execute(DATABASE, "ALTER TABLE partly DROP COLUMN b");
    let (code, _, said) = on_standby(&rig, "partly", &[]);
    assert_eq!((code, said.contains("2 of 3")), (Some(2), true));
    assert_eq!(on_standby(&rig, "partly", &["--accept-left-out"]).0, Some(0));

    // a table that the source cannot read keeps nothing from being compared and told
    let (code, said) = verify(&rig, &["--target", STANDBY]);
    assert_eq!(code, Some(1));
    assert!(said.contains("unreadable: not compared") && said.contains("division by zero"));
    assert!(named(&said, STANDBY).contains("archive: missing id=5"));

    // who kills it waits for no statement of its own on the source
    let mut blocker = rig.source.client(DATABASE);
    let mut lock = blocker.transaction().expect("begin");
    lock.batch_execute("LOCK TABLE twice").expect("lock");
    let mut verifying = Command::new(build::sidecar())
        .args(["verify", "twice", "-c"])
        .arg(rig.sidecar.config())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("rsrepl verify");
    let waiting = "SELECT count(*) FROM pg_stat_activity
                   WHERE application_name = 'rsrepl verify' AND wait_event_type = 'Lock'";
    let waits = |count: &str| rig.source.value(DATABASE, waiting).as_deref() == Some(count);
    wait::until(LIMIT, "verify waits for the table", || waits("1"));
    verifying.kill().expect("kill");
    verifying.wait().expect("wait");
    // before lock_timeout would end it
    wait::until(Duration::from_secs(20), "the source has noticed", || waits("0"));
    drop(lock);

    // another source than the targets'
    rig.sidecar.terminate();
    rig.standby.execute(DATABASE, "UPDATE rsrepl.positions SET system_id = system_id + 1");
    rig.clickhouse.query(&format!(
        "INSERT INTO {DATABASE}._rsrepl_positions
         SELECT slot, system_id, timeline, 'staging', lsn + 1, commit_time, xid
         FROM {DATABASE}._rsrepl_positions FINAL"
    ));
    let (code, said) = verify(&rig, &["archive", "--repair", "--delete"]);
    assert_eq!((code, named(&said, STANDBY).len()), (Some(2), 0));
    for whose in ["belongs to database shop of system", "belongs to database staging"] {
        assert!(said.contains(whose), "{whose}");
    }
    rig.standby.execute(
        DATABASE,
        "UPDATE rsrepl.positions SET system_id = system_id - 1, applied_lsn = applied_lsn + 1000000000",
    );
    let (code, _, said) = on_standby(&rig, "archive", &[]);
    assert_eq!((code, said.contains("the source has only come to")), (Some(2), true));
}

const REPAIRED: &str = "
    CREATE TABLE names (id int PRIMARY KEY, name text UNIQUE, v int);
    CREATE TABLE numbers (n numeric PRIMARY KEY, always int GENERATED ALWAYS AS IDENTITY, v int);
    CREATE TABLE extra (id int PRIMARY KEY, v int);
    CREATE TABLE slow (id int PRIMARY KEY, v int);
    CREATE TABLE flags (id int PRIMARY KEY, flag bool, at timestamptz);
    CREATE TABLE times (at timestamp PRIMARY KEY, v int);";

#[test]
fn rows_are_repaired_whatever_they_are_to_each_other() {
    let mut rig = Rig::new("verify-repaired", REPAIRED);
    rig.run();
    rig.execute(
        "INSERT INTO names SELECT i, 'n' || i, i FROM generate_series(1, 200) AS i;
         INSERT INTO numbers (n, v) VALUES (1.0, 1), (2, 2);
         INSERT INTO extra SELECT i, i FROM generate_series(1, 5) AS i;
         INSERT INTO slow VALUES (1, 1);
         INSERT INTO flags VALUES (1, NULL, now()), (2, false, NULL), (3, true, now());
         INSERT INTO times VALUES ('2024-01-01', 1), ('1950-02-03 04:05:06.789', 2)",
    );
    rig.settle(LIMIT);
    // a swap far apart, a row that has another's name, one that may not be written, and what only is there
    rig.standby.execute(
        DATABASE,
        "UPDATE names SET name = 'x' WHERE id = 1; UPDATE names SET name = 'n1' WHERE id = 200;
         UPDATE names SET name = 'n200' WHERE id = 1;
         DELETE FROM names WHERE id = 50; INSERT INTO names VALUES (1000, 'n50', 0);
         UPDATE names SET v = 0 WHERE id IN (60, 70);
         ALTER TABLE names ADD CHECK (id <> 60 OR v = 0);
         UPDATE numbers SET n = 1.00 WHERE n = 1;
         UPDATE numbers SET always = DEFAULT WHERE n = 2;
         ALTER TABLE extra ADD COLUMN mine text DEFAULT 'kept';
         UPDATE extra SET v = 0, mine = 'written' WHERE id = 3",
    );
    let (code, differences, said) = on_standby(&rig, "names", &["--repair"]);
    let left =
        ["missing id=50", "different id=60", "surplus id=1000"].map(|l| format!("names: {l}"));
    assert_eq!((code, differences), (Some(1), BTreeSet::from(left)));
    for why in ["1 rows that the source does not have", "60: new row", "50: duplicate key"] {
        assert!(said.contains(why), "{why}");
    }
    let (_, differences, _) = on_standby(&rig, "names", &["--repair", "--delete"]);
    assert_eq!(differences, found(["names: different id=60"]));
    for table in ["numbers", "extra"] {
        assert_eq!(on_standby(&rig, table, &[]).0, Some(1), "{table}");
        assert_eq!(on_standby(&rig, table, &["--repair"]).0, Some(0), "{table}");
    }
    let own = "SELECT string_agg(mine, ' ' ORDER BY id) FROM extra";
    assert_eq!(rig.standby.value(DATABASE, own).as_deref(), Some("kept kept written kept kept"));

    // a row that takes long to write does not hold up the stream as long
    rig.standby.execute(
        DATABASE,
        "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS
           'BEGIN PERFORM pg_catalog.pg_sleep(100); RETURN NEW; END';
         UPDATE slow SET v = 0;
         CREATE TRIGGER wait BEFORE INSERT OR UPDATE ON slow FOR EACH ROW EXECUTE FUNCTION wait();
         ALTER TABLE slow ENABLE ALWAYS TRIGGER wait",
    );
    let began = Instant::now();
    let (code, differences, said) = on_standby(&rig, "slow", &["--repair"]);
    assert_eq!((code, differences), (Some(1), found(["slow: different id=1"])));
    assert!(said.contains("statement timeout") && began.elapsed() < Duration::from_secs(60));

    // keys and NULLs have one text on all systems, and rows are sent again as they are
    let (code, said) = verify(&rig, &["flags", "times", "--target", CLICKHOUSE]);
    assert_eq!((code, named(&said, CLICKHOUSE).len()), (Some(0), 0));
    let planted = |table: &str, columns: &str, values: &str, condition: &str| {
        rig.clickhouse.query(&format!(
            "INSERT INTO {DATABASE}.{table} ({columns}, _rsrepl_version, _rsrepl_deleted)
             SELECT {values}, _rsrepl_version + 1, 0 FROM {DATABASE}.{table} FINAL WHERE {condition}"
        ));
    };
    planted("flags", "id, flag, at", "id, false, at", "id = 1");
    planted("flags", "id, flag, at", "id, NULL, at", "id = 2");
    planted("times", "at, v", "at, 0", "v = 2");
    let (_, said) = verify(&rig, &["flags", "times", "--target", CLICKHOUSE]);
    let expected = [
        "flags: different id=1",
        "flags: different id=2",
        "times: different at=1950-02-03 04:05:06.789000",
    ];
    assert_eq!(named(&said, CLICKHOUSE), found(expected));
    let (code, _) = verify(&rig, &["flags", "times", "--target", CLICKHOUSE, "--repair"]);
    assert_eq!(code, Some(0));
}

/// A commit that waits for a standby is on the targets, and not to be seen on the source.
#[test]
fn what_waits_for_a_standby_is_not_called_different() {
    let table = "CREATE TABLE waits (id int PRIMARY KEY, v int)";
    let mut rig = Rig::with("verify-waits", table, Variant::PLAIN);
    rig.run();
    rig.execute("INSERT INTO waits SELECT i, 0 FROM generate_series(1, 10) AS i");
    rig.settle(LIMIT);
    rig.standby.execute(DATABASE, "UPDATE waits SET v = 7 WHERE id = 9");
    let set = |names: &str| {
        rig.execute(&format!("ALTER SYSTEM SET synchronous_standby_names = '{names}'"));
        rig.execute("SELECT pg_reload_conf()");
        let shown = "SELECT current_setting('synchronous_standby_names')";
        wait::until(LIMIT, "the setting", || {
            rig.source.value(DATABASE, shown).as_deref() == Some(names)
        });
    };
    set("nobody");
    std::thread::scope(|scope| {
        for statement in [
            "UPDATE waits SET v = 1 WHERE id = 1",
            "DELETE FROM waits WHERE id = 2",
            "INSERT INTO waits VALUES (11, 1)",
        ] {
            let source = &rig.source;
            scope.spawn(move || source.execute(DATABASE, statement));
        }
        let there = "SELECT string_agg(id || ':' || v, ' ' ORDER BY id) FROM waits
                     WHERE id IN (1, 2, 11)";
        wait::until(LIMIT, "they are on the standby", || {
            rig.standby.value(DATABASE, there).as_deref() == Some("1:1 11:1")
        });
        let waiting = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let (code, differences, said) = on_standby(&rig, "waits", &["--repair", "--delete"]);
            assert_eq!((code, differences.len()), (Some(2), 0), "{said}");
            assert!(said.contains("4 rows seem to differ"), "{said}");
        }));
        set("");
        if let Err(panic) = waiting {
            std::panic::resume_unwind(panic);
        }
    });
    rig.settle(LIMIT);
    let (code, said) = verify(&rig, &[]);
    assert_eq!((code, named(&said, STANDBY)), (Some(1), found(["waits: different id=9"])));
    assert_eq!(verify(&rig, &["--repair"]).0, Some(0));
}
