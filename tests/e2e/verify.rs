//! `rsrepl verify`: what was planted is found, nothing else, and mended, while writes go on.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rsrepl_tests::postgres::Postgres;
use rsrepl_tests::rig::{CLICKHOUSE, DATABASE, Rig, STANDBY};

const LIMIT: Duration = Duration::from_secs(60);

/// More rows than a range has: `narrow` has several, and `by_uuid` is told apart by buckets on ClickHouse.
const ROWS: u32 = 60_000;

const SCHEMA: &str = "
    CREATE TABLE narrow (id bigint PRIMARY KEY, a int, b int NOT NULL, t timestamptz, filler text);
    CREATE TABLE by_uuid (id uuid PRIMARY KEY, v jsonb, n numeric(12, 2));
    CREATE TABLE by_two (a int, b text, v float8[], d date, PRIMARY KEY (a, b));
    CREATE TABLE keyless (v text, n int);
    CREATE TABLE empty (id int PRIMARY KEY);
    ALTER TABLE keyless REPLICA IDENTITY FULL;";

/// Keys are even; those that are multiples of ten are left alone by the workload.
const LOAD: &str = "
    INSERT INTO narrow SELECT 2 * i, i, i % 7, now() - i * interval '1 s', repeat('x', i % 50)
      FROM generate_series(1, 60000) AS i;
    INSERT INTO by_uuid SELECT md5(i::text)::uuid, jsonb_build_object('n', i), i / 7.0
      FROM generate_series(1, 30000) AS i;
    INSERT INTO by_two SELECT i / 10, 'k' || i, ARRAY[i, NULL, 'NaN'::float8], date '2000-01-01' + i
      FROM generate_series(1, 2000) AS i;
    INSERT INTO keyless SELECT 'v' || i % 10, i % 3 FROM generate_series(1, 100) AS i;";

/// What `rsrepl verify` said, and its exit status.
pub fn verify(rig: &Rig, arguments: &[&str]) -> (Option<i32>, String) {
    let output = rig.sidecar.command_with("verify", arguments);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    println!("{said}{}", String::from_utf8_lossy(&output.stderr));
    (output.status.code(), said)
}

/// The differences that it named on a target, without `public.`.
pub fn named(said: &str, target: &str) -> BTreeSet<String> {
    let of_target = said.split("target ").find(|part| part.starts_with(target)).unwrap_or_default();
    let lines = of_target.lines().filter_map(|line| line.trim().strip_prefix("public."));
    let kinds = ["missing", "surplus", "different", "rows on the source"];
    lines.filter(|line| kinds.iter().any(|kind| line.contains(kind))).map(str::to_owned).collect()
}

/// Changes what is not a multiple of ten, and rows behind all others, until it is told to stop.
fn work(source: &Postgres, stop: &AtomicBool) -> u32 {
    let mut client = source.client(DATABASE);
    let mut rounds = 0;
    while !stop.load(Ordering::Relaxed) {
        let id = fastrand::u32(1..ROWS) * 10 + [2, 4, 6, 8][fastrand::usize(0..4)];
        let statements = format!(
            "UPDATE narrow SET a = a + 1, t = now() WHERE id BETWEEN {id} AND {id} + 5 AND id % 10 <> 0;
             UPDATE narrow SET b = b + 1 WHERE id = 12;
             DELETE FROM narrow WHERE id = 14;
             INSERT INTO narrow VALUES (14, {rounds}, 0, now(), 'again');
             INSERT INTO narrow VALUES (1000000 + {rounds} * 2, 1, 1, now(), 'new');
             DELETE FROM narrow WHERE id = 1000000 + ({rounds} - 500) * 2;
             UPDATE by_uuid SET n = n + 1 WHERE id = md5('{}')::uuid",
            id % 20000 + 10001
        );
        client.batch_execute(&statements).expect("work");
        rounds += 1;
        // so much that something is always on its way, and not all that the machine can do
        thread::sleep(Duration::from_millis(3));
    }
    rounds
}

/// One of each kind, in the first, a middle and the last range, and under each key.
fn plant(rig: &Rig) {
    rig.standby.execute(
        DATABASE,
        "UPDATE narrow SET filler = filler || ' ' WHERE id IN (10, 60000);
         UPDATE narrow SET a = NULL WHERE id = 119990;
         DELETE FROM narrow WHERE id IN (20, 120000);
         INSERT INTO narrow VALUES (-1, 1, 1, now(), ''), (60001, 1, 1, now(), NULL), (99999999, 1, 1, now(), '');
         UPDATE by_uuid SET v = '{\"n\": 0}' WHERE id = md5('1')::uuid;
         DELETE FROM by_uuid WHERE id = md5('2')::uuid;
         INSERT INTO by_uuid VALUES (md5('x')::uuid, '1', NULL);
         UPDATE by_two SET v = v || '{1}' WHERE b = 'k7';
         DELETE FROM by_two WHERE b = 'k8';
         INSERT INTO by_two VALUES (0, 'it''s, \\ \u{fc}', NULL, NULL);
         DELETE FROM keyless WHERE ctid = (SELECT min(ctid) FROM keyless)",
    );
    let other = |table: &str, columns: &str, values: &str, condition: &str| {
        rig.clickhouse.query(&format!(
            "INSERT INTO {DATABASE}.{table} ({columns}, _rsrepl_version, _rsrepl_deleted)
             SELECT {values} FROM {DATABASE}.{table} FINAL WHERE {condition}"
        ));
    };
    let narrow = "id, a, b, t, filler";
    let next = "_rsrepl_version + 1";
    other("narrow", narrow, &format!("id, a, b, t + 1, filler, {next}, 0"), "id IN (30, 60010)");
    other("narrow", narrow, &format!("id, a, b, t, NULL, {next}, 0"), "id = 119980");
    other("narrow", narrow, &format!("id, a, b, t, filler, {next}, 1"), "id IN (40, 119960)");
    other(
        "narrow",
        narrow,
        "toInt64(arrayJoin([-3, 60003, 99999997])), a, b, t, filler, 1, 0",
        "id = 50",
    );
    let uuid = "id, v, n";
    let md5 = |text: &str| {
        format!(
            "id = toUUID('{}')",
            rig.source.value(DATABASE, &format!("SELECT md5('{text}')::uuid")).expect("a uuid")
        )
    };
    other("by_uuid", uuid, &format!("id, v, n + 0.01, {next}, 0"), &md5("3"));
    other("by_uuid", uuid, &format!("id, v, n, {next}, 1"), &md5("4"));
    other("by_uuid", uuid, "generateUUIDv4(), v, n, 1, 0", &md5("5"));
    let two = "a, b, v, d";
    other("by_two", two, &format!("a, b, v, d + 1, {next}, 0"), "b = 'k9'");
    other("by_two", two, &format!("a, b, v, d, {next}, 1"), "b = 'k10'");
    other("by_two", two, "a, 'it\\'s', v, d, 1, 0", "b = 'k11'");
}

#[test]
fn what_is_planted_is_found_and_mended() {
    let mut rig = Rig::new("verify", SCHEMA);
    rig.run();
    rig.execute(LOAD);
    rig.settle(LIMIT);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let worker = scope.spawn(|| work(&rig.source, &stop));
        // whatever fails, the workload ends
        let tested = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| test(&rig)));
        stop.store(true, Ordering::Relaxed);
        let rounds = worker.join().expect("the workload");
        assert!(tested.is_err() || rounds > 100, "{rounds} rounds of work");
        if let Err(panic) = tested {
            std::panic::resume_unwind(panic);
        }
    });
    rig.execute("INSERT INTO empty VALUES (1)");
    // nobody writes: also what has no key can be compared, by who knows nothing of verify
    rig.settle(LIMIT);
    rig.standby.execute(DATABASE, "DELETE FROM keyless");
    assert_eq!(verify(&rig, &["keyless", "--target", STANDBY]).0, Some(1));
    rig.standby.execute(
        DATABASE,
        "INSERT INTO keyless SELECT 'v' || i % 10, i % 3 FROM generate_series(1, 100) AS i",
    );
    rig.assert_equal();
}

fn test(rig: &Rig) {
    let (code, said) = verify(rig, &[]);
    assert_eq!(
        (code, named(&said, STANDBY).len(), named(&said, CLICKHOUSE).len()),
        (Some(0), 0, 0)
    );

    plant(rig);
    let (code, said) = verify(rig, &[]);
    assert_eq!(code, Some(1));
    let uuid = |text: &str| {
        rig.source.value(DATABASE, &format!("SELECT md5('{text}')::uuid")).expect("a uuid")
    };
    let expected = BTreeSet::from(
        [
            "narrow: different id=10",
            "narrow: different id=60000",
            "narrow: different id=119990",
            "narrow: missing id=20",
            "narrow: missing id=120000",
            "narrow: surplus id=-1",
            "narrow: surplus id=60001",
            "narrow: surplus id=99999999",
            &format!("by_uuid: different id={}", uuid("1")),
            &format!("by_uuid: missing id={}", uuid("2")),
            &format!("by_uuid: surplus id={}", uuid("x")),
            "by_two: different a=0 b=k7",
            "by_two: missing a=0 b=k8",
            "by_two: surplus a=0 b=it's, \\ \u{fc}",
            "keyless: 100 rows on the source, 99 there, not the same ones; it has no key",
        ]
        .map(str::to_owned),
    );
    assert_eq!(named(&said, STANDBY), expected);
    let found = named(&said, CLICKHOUSE);
    let mut expected = BTreeSet::from(
        [
            "narrow: different id=30",
            "narrow: different id=60010",
            "narrow: different id=119980",
            "narrow: missing id=40",
            "narrow: missing id=119960",
            "narrow: surplus id=-3",
            "narrow: surplus id=60003",
            "narrow: surplus id=99999997",
            &format!("by_uuid: different id={}", uuid("3")),
            &format!("by_uuid: missing id={}", uuid("4")),
            "by_two: different a=0 b=k9",
            "by_two: missing a=1 b=k10",
            "by_two: surplus a=1 b=it's",
        ]
        .map(str::to_owned),
    );
    expected.extend(found.iter().filter(|line| line.starts_with("by_uuid: surplus")).cloned());
    assert_eq!((found.len(), &found), (14, &expected));

    // one table, one target, slowly
    let only = ["narrow", "--target", CLICKHOUSE, "--rate", "40000"];
    let (code, said) = verify(rig, &only);
    assert_eq!((code, named(&said, CLICKHOUSE).len(), said.contains(STANDBY)), (Some(1), 8, false));
    assert_eq!(verify(rig, &["nowhere"]).0, Some(2));

    let (code, said) = verify(rig, &["--repair", "--delete"]);
    let keyless = "keyless: 100 rows on the source, 99 there, not the same ones; it has no key";
    assert_eq!((code, named(&said, CLICKHOUSE).len()), (Some(1), 0));
    assert_eq!(named(&said, STANDBY), BTreeSet::from([keyless.to_owned()]), "it is not repaired");
    rig.standby.execute(
        DATABASE,
        "DELETE FROM keyless; INSERT INTO keyless SELECT 'v' || i % 10, i % 3 FROM generate_series(1, 100) AS i",
    );
    let (code, _) = verify(rig, &[]);
    assert_eq!(code, Some(0));
}
